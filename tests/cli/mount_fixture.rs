//! Helpers for tests that mount a root where the host sees it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::unistd::Pid;

use crate::support::processes::eventually;
use crate::support::stage::{Finished, Stage, Who, finish};

/// The empty folder `mnt` of a user, to mount on, and the mounts that existed before.
pub(crate) struct MountPoint<'a> {
    stage: &'a Stage,
    who: Who,
    pub(crate) dir: PathBuf,
    mounts: String,
}

impl<'a> MountPoint<'a> {
    pub(crate) fn new(stage: &'a Stage, who: Who) -> Self {
        let dir = stage.out(who).join("mnt");
        fs::create_dir(&dir).unwrap();
        stage.give(&dir, who);
        MountPoint { stage, who, dir, mounts: Stage::mounts() }
    }

    /// Runs `overcoat mount` with these options and layers.
    pub(crate) fn mount(&self, options: &[&str], layers: &[&Path]) -> Finished {
        self.mount_at(options, layers, &self.dir)
    }

    /// Runs `overcoat mount` on another path.
    pub(crate) fn mount_at(&self, options: &[&str], layers: &[&Path], dir: &Path) -> Finished {
        let mut command = self.stage.overcoat(self.who);
        finish(command.arg("mount").args(options).args(layers).arg(dir))
    }

    pub(crate) fn umount(&self) -> Finished {
        finish(self.stage.overcoat(self.who).arg("umount").arg(&self.dir))
    }

    /// Runs `overcoat seal mnt` with these arguments.
    pub(crate) fn seal(&self, arguments: &[&str]) -> Finished {
        finish(self.stage.overcoat(self.who).args(["seal", "mnt"]).args(arguments))
    }

    /// Runs a shell script on the host, in the folder that contains `mnt`.
    pub(crate) fn sh(&self, script: &str) -> Finished {
        finish(self.stage.command(self.who, "sh").args(["-euc", script]))
    }

    /// Returns the processes that serve the mount.
    pub(crate) fn servers(&self) -> Vec<Pid> {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        let serves = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<_> = line.split(|byte| *byte == 0).collect();
            words.contains(&b"mount".as_slice())
                && words.contains(&self.dir.as_os_str().as_encoded_bytes())
                && words[0].ends_with(b"/overcoat")
        };
        pids.filter(serves).map(Pid::from_raw).collect()
    }

    /// Checks that no server, no mount and no file remains.
    #[track_caller]
    pub(crate) fn assert_unmounted(&self) {
        eventually("the server has ended", || self.servers().is_empty());
        self.assert_mounts_unchanged();
        assert_eq!(fs::read_dir(&self.dir).unwrap().count(), 0);
    }

    #[track_caller]
    pub(crate) fn assert_mounts_unchanged(&self) {
        assert_eq!(Stage::mounts(), self.mounts);
    }

    /// Returns whether the host has the mounts from before.
    pub(crate) fn mounts_are_unchanged(&self) -> bool {
        Stage::mounts() == self.mounts
    }

    /// Unmounts and checks that nothing remains.
    #[track_caller]
    pub(crate) fn end(&self) {
        self.umount().ok();
        self.assert_unmounted();
    }
}

/// Writes a base folder with one file.
pub(crate) fn folder_base(stage: &Stage) -> PathBuf {
    stage.write("base/file", "of the base").parent().unwrap().to_owned()
}
