//! The end of a sandbox, by normal exit, Ctrl-C, SIGKILL or an error; nothing remains of it.
//!
//! The daemon of these tests is another process of this binary, which runs the test
//! `daemon_process`. An environment variable selects the scenario.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio as ProcessStdio};

use crate::support::processes::{self, alive, assert_nothing_is_left, family};
use crate::support::terminal::OnTerminal;
use crate::support::{
    Lab, ServedTree, alone, at_both_privileges, environment, eventually, hear_signals, plan, shell,
};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use overcoat::sandbox::{
    CommandSpec, Ended, PrivilegeChoice, Sandbox, SandboxError, SelectedPrivilege, Session,
    Signals, relay,
};

const SCENARIO: &str = "OVERCOAT_TEST_SCENARIO";

#[test]
#[ignore = "the daemon of the other tests"]
fn daemon_process() {
    let signals = Signals::take().unwrap();
    let lab = Lab::new(plan());
    let ended = match std::env::var(SCENARIO).unwrap().as_str() {
        // A command that starts a daemon in another session, and continues to run.
        "hold" => {
            let script = "setsid sh -c 'sleep 1000 & wait' & setsid -f sleep 1000; \
                          while :; do find / -xdev >/dev/null 2>&1; done";
            let mut child = lab.sandbox.spawn(&shell(script)).unwrap();
            lab.ok("until [ $(grep -l '^sleep' /proc/[0-9]*/comm | wc -l) = 2 ]; do :; done");
            println!("READY");
            signals.wait(&mut child).unwrap()
        }
        "run" => {
            let mut spec = shell("echo READY; exec sleep 1000");
            spec.session = Session::Inherited;
            let mut child = lab.sandbox.spawn(&spec).unwrap();
            signals.wait(&mut child).unwrap()
        }
        "shell" => {
            let mut spec = CommandSpec::new(["bash", "--norc", "-i"]);
            spec.env = environment();
            spec.env.push(("PS1".into(), "READY$ ".into()));
            spec.env.push(("TERM".into(), "dumb".into()));
            relay(&lab.sandbox, spec, &signals).unwrap()
        }
        other => panic!("no scenario {other}"),
    };
    lab.end();
    if let Ended::Interrupted(signal) = ended {
        println!("ended by signal {signal}");
    }
    std::process::exit(ended.shell_code());
}

fn daemon(scenario: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--ignored",
            "--exact",
            "lifecycle::daemon_process",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(SCENARIO, scenario);
    hear_signals(&mut command);
    // A real daemon blocks its signals before it starts threads; the test harness has some already.
    // SAFETY: only one system call between fork and exec.
    unsafe {
        command.pre_exec(|| Ok(SigSet::all().thread_block()?));
    }
    command
}

/// Waits until a daemon prints READY.
fn wait_until_ready(child: &mut Child) -> BufReader<impl Read + use<>> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.ends_with("READY\n") {
        let length = output.read_line(&mut seen).unwrap();
        assert!(length > 0, "the daemon ended early: {seen}");
    }
    output
}

#[test]
fn killed_daemon_leaves_nothing() {
    at_both_privileges(|| {
        let mut child = daemon("hold").stdout(ProcessStdio::piped()).spawn().unwrap();
        let _output = wait_until_ready(&mut child);
        let family = family(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_nothing_is_left(&family);
    });
}

#[test]
fn signals_end_a_daemon_cleanly() {
    at_both_privileges(|| {
        for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)]
        {
            let mut child = daemon("hold").stdout(ProcessStdio::piped()).spawn().unwrap();
            let mut output = wait_until_ready(&mut child);
            let family = family(child.id());
            kill(Pid::from_raw(child.id() as i32), signal).unwrap();
            let mut rest = String::new();
            output.read_to_string(&mut rest).unwrap();
            assert_eq!(child.wait().unwrap().code(), Some(code), "{rest}");
            assert_nothing_is_left(&family);
        }
    });
}

#[test]
fn killed_stage_or_pid_1_is_reported() {
    at_both_privileges(|| {
        for depth in [1, 2] {
            let lab = Lab::new(plan());
            let mut child = lab.sandbox.spawn(&shell("sleep 1000")).unwrap();
            let mut victim = vec![std::process::id()];
            let family: Vec<u32> = family(std::process::id())
                .into_iter()
                .filter(|pid| {
                    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    ["overcoat-stage", "init", "sleep"].contains(&comm.trim())
                })
                .collect();
            victim.extend(&family);
            kill(Pid::from_raw(victim[depth] as i32), Signal::SIGKILL).unwrap();
            let error = child.wait().unwrap_err();
            assert!(matches!(error, SandboxError::Ended(_)), "{error}");
            let another = lab.sandbox.spawn(&shell("true")).and_then(|mut child| child.wait());
            assert!(matches!(another, Err(SandboxError::Ended(_))), "{another:?}");
            lab.end();
            eventually("all processes have ended", || alive(&family).is_empty());
        }
    });
}

#[test]
fn dropping_a_partly_started_sandbox_leaves_nothing() {
    at_both_privileges(|| {
        let before = family(std::process::id());
        let new = || {
            let now = family(std::process::id());
            now.into_iter().filter(|pid| !before.contains(pid)).count()
        };
        // Mounted but not served.
        let starting = Sandbox::fork(plan()).unwrap();
        assert_eq!(new(), 1);
        drop(starting);
        // Served, but the mount points are missing.
        let plan = plan();
        let tree = ServedTree::base(plan.privilege.max_uid());
        tree.mounted_tree.remove(b"/sys").unwrap();
        let mut starting = Sandbox::fork(plan).unwrap();
        let serving = tree.serve(starting.fuse_fd());
        let error = overcoat::text::error::describe(&starting.enter().unwrap_err());
        assert!(error.contains("/sys") && error.contains("No such file"), "{error}");
        serving.wait().unwrap();
        assert_eq!(new(), 0);
    });
}

#[test]
fn ctrl_c_ends_everything() {
    at_both_privileges(|| {
        let mut terminal = OnTerminal::start(daemon("run"));
        terminal.until("READY\r\n");
        let family = family(terminal.child.id());
        terminal.type_in("\x03");
        // The command and the daemon both receive the signal, in any order.
        assert_eq!(terminal.end(), Some(130));
        assert_nothing_is_left(&family);
    });
}

#[test]
fn shell_on_a_terminal_has_job_control() {
    at_both_privileges(|| {
        let mut terminal = OnTerminal::start(daemon("shell"));
        let greeting = terminal.until("READY$ ");
        assert!(!greeting.contains("job control"), "{greeting}");
        let family = family(terminal.child.id());
        terminal.type_in("tty; stty size\n");
        let output = terminal.until("READY$ ");
        assert!(output.contains("/dev/pts/0\r\n"), "{output}");
        assert!(output.contains("33 77\r\n"), "{output}");
        terminal.type_in("sleep 100 & jobs\n");
        let output = terminal.until("READY$ ");
        assert!(output.contains("Running") && output.contains("sleep 100"), "{output}");
        terminal.type_in("sleep 1000; echo slept $?\n");
        terminal.until("\r\n");
        eventually("sleep is in the foreground", || {
            let comm = |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm"));
            let now = processes::family(terminal.child.id());
            now.iter().filter(|pid| comm(pid).is_ok_and(|comm| comm == "sleep\n")).count() == 2
        });
        terminal.type_in("\x03");
        terminal.until("READY$ ");
        terminal.type_in("echo still $((40 + 2))\n");
        terminal.until("still 42\r\n");
        terminal.until("READY$ ");
        // The terminal inside gets the new size.
        let size = libc::winsize { ws_row: 20, ws_col: 50, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, which `size` is.
        unsafe { libc::ioctl(terminal.master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        eventually("the size inside has changed", || {
            // Input before the prompt may be echoed twice.
            terminal.type_in("stty size\n");
            terminal.until("READY$ ").contains("20 50")
        });
        terminal.type_in("seq 1 100000 | tail -c 7; exit 7\n");
        terminal.until("100000\r\n");
        assert_eq!(terminal.end(), Some(7));
        assert_nothing_is_left(&family);
    });
}

#[test]
fn terminated_shell_restores_the_terminal() {
    at_both_privileges(|| {
        let mut terminal = OnTerminal::start(daemon("shell"));
        terminal.until("READY$ ");
        let family = family(terminal.child.id());
        kill(Pid::from_raw(terminal.child.id() as i32), Signal::SIGTERM).unwrap();
        assert_eq!(terminal.end(), Some(143));
        assert_nothing_is_left(&family);
    });
}

#[test]
fn missing_rights_are_reported_with_a_fix() {
    let _alone = alone();
    if !nix::unistd::geteuid().is_root() {
        println!("not root: cannot take rights away");
        return;
    }
    let detect = |setpriv: &[&str]| {
        let output = Command::new("setpriv")
            .args(setpriv)
            .arg(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "lifecycle::detect_privilege",
                "--nocapture",
                "--test-threads=1",
            ])
            .current_dir("/")
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let nobody = detect(&["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    assert!(nobody.contains("none: ") && nobody.contains("usermod --add-subuids"), "{nobody}");
    let without = detect(&["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    let parts = ["subordinate: ", "CAP_SYS_ADMIN"];
    assert!(parts.iter().all(|part| without.contains(part)), "{without}");
}

#[test]
#[ignore = "a part of missing_rights_are_reported_with_a_fix"]
fn detect_privilege() {
    match PrivilegeChoice::Auto.select() {
        Ok(SelectedPrivilege { privilege, declined }) => {
            let reason = declined.map_or(String::new(), |error| error.full_text());
            println!("{}: {reason}", privilege.name());
        }
        Err(error) => println!("{}", error.full_text()),
    }
}
