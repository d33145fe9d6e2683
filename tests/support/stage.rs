//! Where the program is run: a place of its own for each test, in a mount namespace of its own.
//!
//! Everything that a test mounts is gone with the test's thread, whatever the test does; other
//! tests see nothing of it. The program and the lab are bound to places that the unprivileged user
//! can reach, wherever the checkout is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::User;

use super::{USER, lab};

/// Who runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    Unprivileged,
}

/// Both.
pub const EVERYBODY: [Who; 2] = [Who::Root, Who::Unprivileged];

/// The time of reproducible builds in the tests.
pub const EPOCH: &str = "1700000000";

/// A test's own place. It lies in memory, and is gone with the test.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// A new place, holding the program as `overcoat`.
    ///
    /// # Panics
    /// When this process is not root.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the tests of the whole program run as root: they mount what it made, and drop their \
             rights where they test without (make test)"
        );
        assert!(User::from_name(USER).unwrap().is_some(), "no user {USER}: run tests/set-up.sh");
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let folder = tempfile::Builder::new().prefix("overcoat-test.").tempdir().unwrap().keep();
        let data = Some("mode=755,size=90%");
        mount(Some("stage"), &folder, Some("tmpfs"), MsFlags::empty(), data).unwrap();
        let stage = Stage { folder };
        let program = Path::new(env!("CARGO_BIN_EXE_overcoat"));
        fs::write(stage.path("overcoat"), "").unwrap();
        bind(program, &stage.path("overcoat"));
        for who in EVERYBODY {
            fs::create_dir_all(stage.out(who)).unwrap();
            fs::create_dir_all(stage.temporary(who)).unwrap();
            stage.give(&stage.out(who), who);
            stage.give(&stage.temporary(who), who);
        }
        stage
    }

    /// A path in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder that belongs to `who`, for outputs.
    pub fn out(&self, who: Who) -> PathBuf {
        self.path(match who {
            Who::Root => "root",
            Who::Unprivileged => "user",
        })
    }

    /// The folder for temporary files that programs run by `who` are told.
    pub fn temporary(&self, who: Who) -> PathBuf {
        self.path(match who {
            Who::Root => "root.tmp",
            Who::Unprivileged => "user.tmp",
        })
    }

    /// Makes `path` belong to `who`.
    pub fn give(&self, path: &Path, who: Who) {
        if who == Who::Unprivileged {
            let user = User::from_name(USER).unwrap().unwrap();
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }

    /// The lab, where everybody can read it.
    pub fn lab(&self) -> PathBuf {
        let inside = self.path("lab");
        if !inside.exists() {
            fs::create_dir(&inside).unwrap();
            lab::file("repo/Packages");
            lab::file("base.squashfs");
            bind(&lab::folder(), &inside);
        }
        inside
    }

    /// The Debian base.
    pub fn debian(&self) -> PathBuf {
        self.lab().join("base.squashfs")
    }

    /// A program run by `who`, with nothing of the environment that could matter.
    pub fn command(&self, who: Who, program: impl AsRef<OsStr>) -> Command {
        let mut command = match who {
            Who::Root => Command::new(program),
            Who::Unprivileged => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--"]);
                command.arg(program);
                command
            }
        };
        command
            .current_dir(self.out(who))
            .stdin(Stdio::null())
            .env("TMPDIR", self.temporary(who))
            .env("LC_ALL", "C")
            .env("NO_COLOR", "1")
            .env_remove("SOURCE_DATE_EPOCH");
        super::hear_signals(&mut command);
        command
    }

    /// The program, run by `who`.
    pub fn overcoat(&self, who: Who) -> Command {
        self.command(who, self.path("overcoat"))
    }

    /// A shell script of the host, run as root here; it must succeed. What it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = super::tools::sh(&self.folder, script);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The names in the folder of `who`, and in that for temporary files.
    pub fn files(&self, who: Who) -> Vec<PathBuf> {
        let mut names: Vec<_> = [self.out(who), self.temporary(who)]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path().strip_prefix(&self.folder).unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Writes a file in it that everybody can read.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// What is mounted.
    pub fn mounts() -> String {
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What fails here is gone with the namespace, but for an empty folder.
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Shows `from` at `to`.
pub fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

/// Runs a command to its end; its exit code (128 and the signal's number), stdout and stderr.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished::of(command, output)
}

/// How a command ended.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn of(command: &Command, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let command = format!("{command:?}");
        assert!(!stderr.contains("panicked"), "{command}\n{stderr}");
        Finished {
            command,
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: output.stdout,
            stderr,
        }
    }

    /// What it printed, when it ended with this code.
    pub fn code(self, code: i32) -> Self {
        let Finished { command, stderr, .. } = &self;
        let stdout = || String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(10_000)]);
        assert_eq!(self.code, code, "{command}\n{stderr}\n{}", stdout());
        self
    }

    /// What it printed, when it succeeded.
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks that standard error holds all `parts`.
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            let Finished { command, stderr, .. } = &self;
            assert!(stderr.contains(part), "no {part:?}\n{command}\n{stderr}");
        }
        self
    }
}
