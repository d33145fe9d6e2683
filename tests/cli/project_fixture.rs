//! A small project that is built in seconds.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::support::stage::{BOTH_USERS, EPOCH, Finished, Stage, Who, finish};

/// A small project: a base made of a directory with a static busybox, two overlays, and an initrd
/// image that yields files.
pub(crate) struct Site {
    pub(crate) stage: Stage,
}

impl Site {
    pub(crate) fn new() -> Self {
        let stage = Stage::new();
        stage.sh("mkdir -p tree/bin tree/etc tree/srv tree/boot tree/usr/sbin
             cp $(command -v busybox) tree/bin/busybox
             for a in sh cat mkdir rm touch sleep ls chmod; do ln -s busybox tree/bin/$a; done
             echo 'root:x:0:0::/:/bin/sh' >tree/etc/passwd; echo one >tree/etc/conf
             echo gone >tree/etc/gone");
        let site = Site { stage };
        site.provisioner("base", "variables: {name: x}\nfiles: files\n");
        site.write("base/files/etc/name.j2", "{{ name }}\n");
        site.provisioner("one", "variables: {greeting: hi}\nfiles: files\nscripts: [do]\n");
        site.write("one/files/etc/greeting.j2", "{{ greeting }}\n");
        site.write("one/do", "echo more >>/etc/conf; rm /etc/gone\n");
        site.provisioner("two", "files: files\n");
        site.write("two/files/srv/two", "two\n");
        site.provisioner("kernel", "scripts: [do]\n");
        site.write(
            "kernel/do",
            "echo kernel >/boot/vmlinuz-6.1; echo initrd >/boot/initrd.img-6.1\n",
        );
        site.project(
            "  base: {kind: base, from: ../tree, provisioner: base}
  one: {base: base, provisioner: one}
  two: {base: base, overlays: [one], provisioner: two, format: [cpio.gz, cpio.zst]}
  boot: {kind: initrd, base: base, provisioner: kernel}\n",
        );
        site
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        self.stage.write(format!("project/{name}"), content)
    }

    pub(crate) fn provisioner(&self, name: &str, content: &str) {
        self.write(&format!("{name}/provisioner.yml"), content);
    }

    /// Writes the project file, with these images.
    pub(crate) fn project(&self, images: &str) {
        self.settings("", images);
    }

    pub(crate) fn settings(&self, settings: &str, images: &str) {
        for who in BOTH_USERS {
            let text = format!(
                "output: {}\nnetwork: none\nsource_date_epoch: {EPOCH}\n{settings}images:\n{images}",
                self.out(who).display()
            );
            self.write(&format!("{who:?}.yml"), &text);
        }
    }

    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let path = self.stage.path(format!("project/{name}"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    }

    /// Changes the project files of both users.
    pub(crate) fn edit_project(&self, from: &str, to: &str) {
        BOTH_USERS.iter().for_each(|who| self.edit(&format!("{who:?}.yml"), from, to));
    }

    pub(crate) fn out(&self, who: Who) -> PathBuf {
        self.stage.out(who).join("artifacts")
    }

    pub(crate) fn command(&self, who: Who, arguments: &[&str]) -> Command {
        let mut command = self.stage.overcoat(who);
        command.arg("build").arg("--project").arg(self.file(who)).args(arguments);
        command
    }

    /// Returns a command of `who` that runs a subcommand with the project file.
    pub(crate) fn subcommand(&self, who: Who, name: &str, arguments: &[&str]) -> Command {
        let mut command = self.stage.overcoat(who);
        command.arg(name).arg("--project").arg(self.file(who)).args(arguments);
        command
    }

    /// Runs a subcommand with the project file.
    pub(crate) fn finish(&self, who: Who, name: &str, arguments: &[&str]) -> Finished {
        finish(&mut self.subcommand(who, name, arguments))
    }

    /// Runs a subcommand with the project file and `--json`, and returns its output.
    pub(crate) fn json(&self, who: Who, name: &str, arguments: &[&str]) -> Value {
        let finished = self.finish(who, name, &[arguments, &["--json"]].concat()).ok();
        serde_json::from_slice(&finished.stdout).unwrap()
    }

    /// Returns the project file of `who`.
    pub(crate) fn file(&self, who: Who) -> PathBuf {
        self.stage.path(format!("project/{who:?}.yml"))
    }

    pub(crate) fn run(&self, who: Who, arguments: &[&str]) -> Finished {
        finish(&mut self.command(who, arguments))
    }

    /// Builds, and returns the name and state of each image in order.
    pub(crate) fn states(&self, who: Who, arguments: &[&str]) -> Vec<(String, String)> {
        self.reported_states(self.run(who, &[arguments, &["--json"]].concat()).ok())
    }

    /// Returns the name and state of each image in a JSON report.
    pub(crate) fn reported_states(&self, finished: Finished) -> Vec<(String, String)> {
        let report = self.report(finished);
        report.iter().map(|image| (text(image, "name"), text(image, "state"))).collect()
    }

    pub(crate) fn report(&self, finished: Finished) -> Vec<Value> {
        let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
        assert_eq!(report["schema"], 2);
        report["images"].as_array().unwrap().clone()
    }

    /// Builds, and returns the names of the images that were built.
    pub(crate) fn built(&self, who: Who, arguments: &[&str]) -> Vec<String> {
        let states = self.states(who, arguments);
        states.into_iter().filter(|(_, state)| state == "built").map(|(name, _)| name).collect()
    }

    pub(crate) fn files(&self, who: Who) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.out(who))
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name != ".overcoat")
            .collect();
        names.sort();
        names
    }
}

/// Returns a command that runs `command` with a program such as `timeout` or `strace`.
pub(crate) fn wrapped(program: &str, arguments: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(program);
    wrapped.args(arguments).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    wrapped
}

pub(crate) fn owned((name, state): (&str, &str)) -> (String, String) {
    (name.to_owned(), state.to_owned())
}

pub(crate) fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}
