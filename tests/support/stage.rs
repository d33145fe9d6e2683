//! A folder and a mount namespace for each test that runs the program.
//!
//! The mounts of a test end with the test's thread and are invisible to other tests. The program
//! and the lab are bind-mounted where the unprivileged user can reach them, wherever the checkout
//! is.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::User;

use super::{USER, lab};

/// The user that runs the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    Root,
    Unprivileged,
    /// Also the unprivileged user, with the privilege `none`.
    SingleId,
}

/// Both users.
pub const BOTH_USERS: [Who; 2] = [Who::Root, Who::Unprivileged];

/// Both users, at each privilege.
pub const EACH_PRIVILEGE: [Who; 3] = [Who::Root, Who::Unprivileged, Who::SingleId];

/// `SOURCE_DATE_EPOCH` of reproducible builds in the tests.
pub const EPOCH: &str = "1700000000";

/// `sources.list` with the lab's repository, which builds must bind-mount at `/repo`.
pub const REPOSITORY: &str = "deb [trusted=yes] file:/repo ./\n";

/// The folder of a test, on a tmpfs that ends with the test.
pub struct Stage {
    folder: PathBuf,
}

impl Stage {
    /// Creates a stage that contains the program as `overcoat`.
    ///
    /// # Panics
    /// Panics if this process is not root.
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "the tests of the whole program must run as root: they mount its artifacts, and run it as \
             root and unprivileged (make test)"
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
        for who in EACH_PRIVILEGE {
            fs::create_dir_all(stage.out(who)).unwrap();
            fs::create_dir_all(stage.temporary(who)).unwrap();
            stage.give(&stage.out(who), who);
            stage.give(&stage.temporary(who), who);
        }
        stage
    }

    /// Returns a path in the stage.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.join(name)
    }

    /// Returns the output folder of `who`.
    pub fn out(&self, who: Who) -> PathBuf {
        self.path(match who {
            Who::Root => "root",
            Who::Unprivileged => "user",
            Who::SingleId => "single",
        })
    }

    /// Returns the folder that is `TMPDIR` for programs of `who`.
    pub fn temporary(&self, who: Who) -> PathBuf {
        self.path(match who {
            Who::Root => "root.tmp",
            Who::Unprivileged => "user.tmp",
            Who::SingleId => "single.tmp",
        })
    }

    /// Makes `who` the owner of `path`.
    pub fn give(&self, path: &Path, who: Who) {
        if who != Who::Root {
            let user = User::from_name(USER).unwrap().unwrap();
            chown(path, Some(user.uid.as_raw()), Some(user.gid.as_raw())).unwrap();
        }
    }

    /// Returns the lab, at a path that all users can read.
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

    /// Returns the Debian base.
    pub fn debian(&self) -> PathBuf {
        self.lab().join("base.squashfs")
    }

    /// Returns the value of `--bind` that shows the lab's repository at `/repo`; see
    /// [`REPOSITORY`].
    pub fn bind_repository(&self) -> String {
        format!("{}:/repo:ro", self.lab().join("repo").display())
    }

    /// Returns a command of `who`, without environment variables that affect the results.
    pub fn command(&self, who: Who, program: impl AsRef<OsStr>) -> Command {
        let mut command = match who {
            Who::Root => Command::new(program),
            Who::Unprivileged | Who::SingleId => {
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
        if who == Who::SingleId {
            command.env("OVERCOAT_PRIVILEGE", "none");
        }
        super::hear_signals(&mut command);
        command
    }

    /// Returns a command of `who` that runs overcoat.
    pub fn overcoat(&self, who: Who) -> Command {
        self.command(who, self.path("overcoat"))
    }

    /// Runs a shell script as root in the stage; it must succeed. Returns its output.
    pub fn sh(&self, script: &str) -> String {
        let output = super::tools::sh(&self.folder, script);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Returns the content of a file in a `cpio.gz` archive.
    pub fn archived_file(&self, archive: &Path, name: &str) -> String {
        let archive = archive.display();
        self.sh(&format!("gzip -dc '{archive}' | cpio -i --quiet --to-stdout '{name}'"))
    }

    /// Returns the names in a `cpio.gz` archive, one a line.
    pub fn archive_names(&self, archive: &Path) -> String {
        self.sh(&format!("gzip -dc '{}' | cpio -it --quiet", archive.display()))
    }

    /// Returns the entries of a `cpio.gz` archive with their attributes, one a line.
    pub fn archive_listing(&self, archive: &Path) -> String {
        self.sh(&format!("gzip -dc '{}' | cpio -itvn --quiet", archive.display()))
    }

    /// Returns the entries of the output and temporary folders of `who`.
    pub fn files(&self, who: Who) -> Vec<PathBuf> {
        let mut names: Vec<_> = [self.out(who), self.temporary(who)]
            .iter()
            .flat_map(|dir| fs::read_dir(dir).unwrap())
            .map(|entry| entry.unwrap().path().strip_prefix(&self.folder).unwrap().to_owned())
            .collect();
        names.sort();
        names
    }

    /// Writes a file that all users can read and execute.
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// Returns the mounts of this thread's namespace.
    pub fn mounts() -> String {
        fs::read_to_string("/proc/thread-self/mountinfo").unwrap()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // After a failure the mount ends with the namespace, and an empty folder remains.
        let _ = umount2(&self.folder, MntFlags::MNT_DETACH);
        let _ = fs::remove_dir(&self.folder);
    }
}

/// Bind-mounts `from` on `to`.
pub fn bind(from: &Path, to: &Path) {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)
        .unwrap_or_else(|e| panic!("{}: {e}", from.display()));
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Finished {
    let output = command.output().unwrap();
    Finished::new(command, output)
}

/// The result of a command.
#[derive(Debug)]
pub struct Finished {
    pub command: String,
    /// Exit code, or 128 plus the number of the signal.
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Finished {
    pub fn new(command: &Command, output: Output) -> Self {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let command = format!("{command:?}");
        assert!(!stderr.contains("panicked at "), "{command}\n{stderr}");
        Finished {
            command,
            code: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            stdout: output.stdout,
            stderr,
        }
    }

    /// Checks the exit code.
    pub fn code(self, code: i32) -> Self {
        let Finished { command, stderr, .. } = &self;
        let stdout = || String::from_utf8_lossy(&self.stdout[..self.stdout.len().min(10_000)]);
        assert_eq!(self.code, code, "{command}\n{stderr}\n{}", stdout());
        self
    }

    /// Checks that the command succeeded.
    pub fn ok(self) -> Self {
        self.code(0)
    }

    /// Returns standard output as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Checks that standard error contains all `parts`.
    pub fn stderr_has(self, parts: &[&str]) -> Self {
        for part in parts {
            let Finished { command, stderr, .. } = &self;
            assert!(stderr.contains(part), "no {part:?}\n{command}\n{stderr}");
        }
        self
    }
}
