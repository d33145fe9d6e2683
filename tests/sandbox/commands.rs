//! Commands in a sandbox: their environment, and their results.

use crate::support::{Lab, at_both_privileges, environment, plan, shell};
use overcoat::sandbox::{CommandSpec, ExitStatus, SandboxError, Stdio};

#[test]
fn exit_code_and_signal_are_returned() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        assert_eq!(lab.run("exit 0").0, ExitStatus::Code(0));
        assert_eq!(lab.run("exit 42").0, ExitStatus::Code(42));
        assert_eq!(lab.run("kill -KILL $$").0, ExitStatus::Signal(9));
        assert_eq!(lab.run("kill -TERM $$").0.shell_code(), 143);
        lab.end();
    });
}

#[test]
fn sandbox_has_its_own_ids_hostname_and_processes() {
    at_both_privileges(|| {
        let mut plan = plan();
        plan.hostname = "coat".to_owned();
        let lab = Lab::new(plan);
        assert_eq!(lab.ok("id -u; id -g; id -G; hostname; umask; pwd"), "0\n0\n0\ncoat\n0022\n/\n");
        assert!(lab.ok("echo $$").trim().parse::<u32>().unwrap() < 20);
        assert_eq!(lab.ok("cat /proc/1/comm"), "init\n");
        lab.end();
    });
}

#[test]
fn command_that_cannot_be_executed_reports_the_reason() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let error = |argv: &[&str]| {
            let mut spec = CommandSpec::new(argv.iter().copied());
            spec.env = environment();
            lab.sandbox.spawn(&spec).unwrap_err()
        };
        let missing = error(&["no-such-program", "x"]);
        assert!(matches!(missing, SandboxError::Command { .. }), "{missing:?}");
        assert!(missing.to_string().contains("no-such-program"), "{missing}");
        assert!(missing.hint().unwrap().contains("PATH inside"), "{missing}");
        assert!(error(&["/etc/passwd"]).hint().unwrap().contains("not executable"));
        let mut spec = shell("true");
        spec.cwd = "/no/such/dir".into();
        let error = lab.sandbox.spawn(&spec).unwrap_err().to_string();
        assert!(error.contains("/no/such/dir"), "{error}");
        assert!(lab.run("true").0.success());
        lab.end();
    });
}

#[test]
fn large_arguments_and_environments_are_passed() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let mut spec = shell("echo ${#BIG}; env | wc -l");
        spec.env.push(("BIG".into(), "x".repeat(120_000).into()));
        for number in 0..1000 {
            spec.env.push((format!("V{number}").into(), "y".repeat(500).into()));
        }
        let (status, output) = lab.run_spec(spec);
        assert!(status.success());
        assert!(output.starts_with("120000\n"), "{output}");
        lab.end();
    });
}

#[test]
fn nothing_is_inherited_but_the_given_environment() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let mut spec = CommandSpec::new(["/usr/bin/env"]);
        spec.env = vec![("A".into(), "b c".into())];
        assert_eq!(lab.run_spec(spec).1, "A=b c\n");
        assert_eq!(lab.ok("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ");
        assert_eq!(
            lab.ok("grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status | cut -f 2 | uniq"),
            "0000000000000000\n0\n"
        );
        lab.end();
    });
}

#[test]
fn standard_input_reaches_the_command() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut spec = shell("tr a-z A-Z");
        spec.stdin = Stdio::Fd(reader.into());
        std::io::Write::write_all(&mut writer, b"through\n").unwrap();
        drop(writer);
        assert_eq!(lab.run_spec(spec).1, "THROUGH\n");
        lab.end();
    });
}

#[test]
fn commands_run_concurrently_and_can_be_signalled() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let mut children: Vec<_> =
            (0..4).map(|_| lab.sandbox.spawn(&shell("sleep 100 & wait")).unwrap()).collect();
        let mut quick = lab.sandbox.spawn(&shell("exit 3")).unwrap();
        assert_eq!(quick.wait().unwrap(), ExitStatus::Code(3));
        for child in &mut children {
            child.signal(libc::SIGTERM).unwrap();
            assert_eq!(child.wait().unwrap(), ExitStatus::Signal(15));
            assert_eq!(child.wait().unwrap(), ExitStatus::Signal(15));
            child.signal(libc::SIGTERM).unwrap();
        }
        lab.end();
    });
}

#[test]
fn command_can_run_as_another_user() {
    at_both_privileges(|| {
        let lab = Lab::new(plan());
        let mut spec = shell("id -u; id -g; id -G");
        (spec.uid, spec.gid, spec.groups) = (1, 65534, vec![3, 4]);
        assert_eq!(lab.run_spec(spec).1, "1\n65534\n65534 3 4\n");
        lab.end();
    });
}
