//! The discovery overlay, built from packages of the lab.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::stage::{REPOSITORY, Stage, Who};

/// Writes an image file that builds the discovery overlay without a network, followed by `more`
/// provisioners (folders of the stage) and `settings`.
pub(crate) fn image(stage: &Stage, more: &[&str], settings: &str) -> PathBuf {
    stage.write("sources/provisioner.yml", "files: files\n");
    let sources = REPOSITORY;
    stage.write("sources/files/etc/apt/sources.list", sources);
    let provisioners = [&["sources", "library:discovery"], more].concat().join(", ");
    let base = stage.debian();
    let text = format!(
        "base: {}\nprovisioner: [{provisioners}]\nvariables: {{lldp_interval: 10}}\n\
         network: none\n{settings}\n",
        base.display()
    );
    stage.write("discovery.yml", text)
}

/// Returns a command that builds `image` as `output`.
pub(crate) fn build(stage: &Stage, who: Who, image: &Path, output: &Path) -> Command {
    let mut command = stage.overcoat(who);
    let repository = stage.bind_repository();
    command.arg("build").arg(image).arg("-o").arg(output).args(["--bind", &repository]);
    command
}
