//! Shared by several test binaries: sandboxes on the lab's base, and tests at both privileges.
#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_debug_implementations,
    reason = "each test binary uses a part of it"
)]

pub mod browser;
pub mod lab;
pub mod listing;
pub mod newc;
pub mod processes;
pub mod served_tree;
pub mod stage;
pub mod terminal;
pub mod tmux;
pub mod tools;

use std::ffi::OsString;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overcoat::fuse::Serving;
use overcoat::root::lay_mount_points;
use overcoat::root::supervise::SupervisedTree;
use overcoat::sandbox::{CommandSpec, ExitStatus, Plan, Privilege, Sandbox, Stdio, Supervisor};

pub use lab::USER;
pub use processes::eventually;
pub use served_tree::ServedTree;

/// Keeps other tests that hold this guard from running: some inspect all processes below this one.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs `test`, a closure in the test function itself, with the rights of this process. If this
/// process is root, also runs the test function as the unprivileged user, by executing this test
/// binary again for that test.
pub fn at_both_privileges<F: FnOnce()>(test: F) {
    let _alone = alone();
    // `binary::module::test::{{closure}}`; the harness calls it `module::test`.
    let path = std::any::type_name::<F>().trim_end_matches("::{{closure}}");
    let (_, name) = path.split_once("::").expect("the test is in a crate");
    let root = nix::unistd::geteuid().is_root();
    if root {
        // On some machines only root may open the device.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        std::fs::set_permissions("/dev/fuse", open).expect("/dev/fuse exists");
        as_user(name);
    } else {
        println!("{name}: not root, so only as the current user");
    }
    test();
}

/// Runs the test `name` of this binary as the unprivileged user.
pub fn as_user(name: &str) {
    let output = user_command()
        .args(["--include-ignored", "--exact", name, "--nocapture", "--test-threads=1"])
        .output()
        .expect("setpriv starts");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "as {USER}:\n{text}");
    assert!(text.contains("1 passed"), "{name} is not the test's name:\n{text}");
    print!("as {USER}: {text}");
}

/// Returns a command that runs this test binary as the unprivileged user.
pub fn user_command() -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--init-groups", "--"])
        .arg(std::env::current_exe().unwrap())
        .current_dir("/");
    command
}

/// A sandbox on the lab's base, with the tree that it serves.
pub struct Lab {
    pub sandbox: Sandbox,
    pub tree: ServedTree,
    serving: Serving,
    supervisor: Supervisor,
}

/// Returns the plan that most tests use.
pub fn plan() -> Plan {
    Plan::new(Privilege::detect().unwrap())
}

impl Lab {
    pub fn new(plan: Plan) -> Self {
        let tree = ServedTree::base(plan.privilege.max_uid());
        lay_mount_points(&tree.mounted_tree, &plan).unwrap();
        Lab::with(plan, tree)
    }

    /// Like [`Lab::new`], with a tree that has the mount points already.
    pub fn with(plan: Plan, tree: ServedTree) -> Self {
        let mut starting = Sandbox::fork(plan).unwrap();
        let serving = tree.serve(starting.fuse_fd());
        let mut sandbox = starting.enter().unwrap();
        let supervised = Arc::new(
            SupervisedTree::new(tree.mounted_tree.clone()).with_owners(serving.owners().clone()),
        );
        let supervisor = Supervisor::start(&mut sandbox, supervised).unwrap();
        Lab { sandbox, tree, serving, supervisor }
    }

    /// Runs a command; returns its status and its output on both streams.
    pub fn run_spec(&self, mut spec: CommandSpec) -> (ExitStatus, String) {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let writer = OwnedFd::from(writer);
        if matches!(spec.stdin, Stdio::Inherit) {
            spec.stdin = Stdio::Null;
        }
        spec.stdout = Stdio::Fd(writer.try_clone().unwrap());
        spec.stderr = Stdio::Fd(writer);
        let mut child = self.sandbox.spawn(&spec).unwrap();
        drop(spec);
        let mut output = Vec::new();
        reader.read_to_end(&mut output).unwrap();
        (child.wait().unwrap(), String::from_utf8_lossy(&output).into_owned())
    }

    /// Runs a shell script.
    pub fn run(&self, script: &str) -> (ExitStatus, String) {
        self.run_spec(shell(script))
    }

    /// Runs a shell script that must succeed; returns its output.
    pub fn ok(&self, script: &str) -> String {
        let (status, output) = self.run(script);
        assert!(status.success(), "{script}\n{status}\n{output}");
        output
    }

    /// Ends the sandbox, and waits until its file system has ended.
    pub fn end(self) {
        self.sandbox.shutdown();
        self.supervisor.join();
        self.serving.wait().unwrap();
    }
}

/// Returns a command that runs a shell script in the usual environment.
pub fn shell(script: &str) -> CommandSpec {
    let mut spec = CommandSpec::new(["sh", "-c", script]);
    spec.env = environment();
    spec
}

/// Returns the usual environment.
pub fn environment() -> Vec<(OsString, OsString)> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [("PATH", path), ("HOME", "/root"), ("LANG", "C.UTF-8")]
        .map(|(name, value)| (name.into(), value.into()))
        .to_vec()
}

/// Resets the signals that the parent of the tests may ignore, as `nohup` and a shell's `&` do:
/// overcoat keeps ignoring inherited ignored signals.
pub fn hear_signals(command: &mut std::process::Command) {
    use nix::sys::signal::{SigHandler, Signal, signal};
    use std::os::unix::process::CommandExt;
    // SAFETY: only four system calls between fork and exec; no handler is installed.
    unsafe {
        command.pre_exec(|| {
            for one in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
                signal(one, SigHandler::SigDfl)?;
            }
            Ok(())
        });
    }
}
