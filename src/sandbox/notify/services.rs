//! Which executions would start, stop or restart a service.
//!
//! Services do not run during a build: a daemon would hold ports of the host, write into the image
//! and keep the build waiting. Programs that ask systemd, or `policy-rc.d`, find out by themselves
//! that they cannot start any. This module recognises the other ways, by the executed program:
//!
//! - an init script with an action such as `start`, executed itself or read by a shell: by
//!   `service`, `invoke-rc.d --force`, `rc-service`, Ansible's or Puppet's own providers, or a
//!   script;
//! - `start-stop-daemon --start` and `supervise-daemon`, wherever they are called: a copy of an
//!   init script, or one that another script sources, ends up there;
//! - `systemctl enable --now`: before version 253 systemctl knows in a chroot what to do with
//!   everything but `--now`, which fails after the links are made. It is executed without.
//!
//! Actions that leave a service alone (`status`, `configtest`, `initdb`) run. So does a daemon's
//! own program: a script that executes it wants it.
//!
//! Nothing here looks into the tree. Whether a path leads to an init script is for the caller to
//! find out.

use std::borrow::Cow;

/// Where init scripts are; the second one is Red Hat's.
pub(super) const INIT_SCRIPTS: [&[u8]; 2] = [b"/etc/init.d", b"/etc/rc.d/init.d"];

/// How many arguments of an execution are read, the name of the program among them, if it is a
/// program that is not known here. An init script has its action among them.
const FIRST_ARGUMENTS: usize = 5;
/// The same for a shell, and for a message.
pub(super) const SHELL_ARGUMENTS: usize = 64;
/// The same for a program whose options may follow any number of names. `xargs` passes fewer.
const MAX_ARGUMENTS: usize = 64 << 10;

/// Programs that take an init script as their first argument.
const SHELLS: [&[u8]; 12] = [
    b"sh",
    b"bash",
    b"dash",
    b"ash",
    b"ksh",
    b"mksh",
    b"zsh",
    b"rbash",
    b"openrc-run",
    b"openrc-run.sh",
    b"runscript",
    b"init-d-script",
];

/// Programs whose purpose is to start a daemon.
const STARTERS: [&[u8]; 2] = [b"start-stop-daemon", b"supervise-daemon"];

/// Options of `start-stop-daemon` with a value, in a cluster of short ones.
const SHORT_WITH_VALUE: &[u8] = b"acdegiknprsuwxINPR";

/// Longest description of an execution, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 200;

/// The option of `systemctl` that starts or stops units as well, and an option of the same length
/// that changes nothing (`--full`, several times).
pub(super) const NOW: &[u8] = b"--now";
pub(super) const NOT_NOW: &[u8] = b"-llll";

/// An execution that would change the state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// By a program that starts daemons.
    Starter,
    /// By `systemctl` with the option [`NOW`].
    Now,
    /// By the script at this path, if the path leads to an init script.
    Script(Vec<u8>),
}

/// What the execution of `path` would do to a service. `argv` returns its first arguments, as many
/// as it is asked for.
pub(super) fn change(path: &[u8], argv: impl Fn(usize) -> Vec<Vec<u8>>) -> Option<Change> {
    let name = base_name(path);
    let known = STARTERS.contains(&name) || SHELLS.contains(&name);
    if !known && name != b"busybox" && name != b"systemctl" {
        let argv = argv(FIRST_ARGUMENTS);
        let action = argv.iter().skip(1).any(|word| is_action(word));
        return action.then(|| Change::Script(path.to_vec()));
    }
    let argv = argv(if SHELLS.contains(&name) { SHELL_ARGUMENTS } else { MAX_ARGUMENTS });
    let (called, arguments) = argv.split_first()?;
    if name == b"systemctl" {
        return arguments.iter().any(|word| word == NOW).then_some(Change::Now);
    }
    // busybox is the program that its first argument names, if it is called by its own name.
    let (name, arguments) = match (name, base_name(called)) {
        (b"busybox", b"busybox") => {
            let (applet, rest) = arguments.split_first()?;
            (applet.as_slice(), rest)
        }
        (b"busybox", called) => (called, arguments),
        (name, _) => (name, arguments),
    };
    if STARTERS.contains(&name) {
        return is_start(arguments).then_some(Change::Starter);
    }
    if !SHELLS.contains(&name) {
        return None;
    }
    let (script, rest) = script(arguments)?;
    rest.iter().any(|word| is_action(word)).then(|| Change::Script(script.to_vec()))
}

/// Whether a path without symbolic links names an init script by the usual names of directories:
/// `/etc/init.d`, `/etc/rc2.d`, `/etc/rc.d/init.d` and `/etc/rc.d/rc2.d`, below any directory.
///
/// This is for a path that leads out of the tree.
pub(super) fn names_init_script(path: &[u8]) -> bool {
    let mut names = path.rsplit(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let (Some(_), Some(directory), Some(parent)) = (names.next(), names.next(), names.next())
    else {
        return false;
    };
    let of_scripts = directory == b"init.d" || matches!(directory, [b'r', b'c', _, b'.', b'd']);
    of_scripts && (parent == b"etc" || parent == b"rc.d" && names.next() == Some(b"etc"))
}

/// The command line as text for a message.
pub(super) fn description(path: &[u8], argv: &[Vec<u8>]) -> String {
    let words = argv.get(1..).unwrap_or_default().iter().map(Vec::as_slice);
    let mut text = String::new();
    for word in std::iter::once(path).chain(words) {
        let word: Cow<'_, str> = String::from_utf8_lossy(word);
        if !text.is_empty() {
            text.push(' ');
        }
        text.extend(word.chars().map(|c| if c.is_control() { '?' } else { c }));
        if text.len() > MAX_DESCRIPTION_BYTES {
            text.truncate(text.floor_char_boundary(MAX_DESCRIPTION_BYTES));
            text.push('…');
            break;
        }
    }
    text
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or(path)
}

/// Whether an init script changes the state of its service when it is called with this word.
fn is_action(word: &[u8]) -> bool {
    let contains = |part: &[u8]| word.windows(part.len()).any(|w| w == part);
    let option = word.first().is_none_or(|&first| first == b'-' || first == b'/');
    let known: [&[u8]; 4] = [b"graceful", b"bootstrap", b"up", b"down"];
    !option
        && (contains(b"start") || contains(b"stop") || contains(b"reload") || known.contains(&word))
}

/// Whether `start-stop-daemon` starts something with these arguments.
fn is_start(arguments: &[Vec<u8>]) -> bool {
    let (mut start, mut test) = (false, false);
    for argument in arguments.iter().take_while(|argument| *argument != b"--") {
        match argument.as_slice() {
            b"--start" => start = true,
            b"--test" => test = true,
            [b'-', b'-', ..] => {}
            [b'-', cluster @ ..] => {
                let flags = cluster.iter().take_while(|flag| !SHORT_WITH_VALUE.contains(flag));
                for flag in flags {
                    start |= *flag == b'S';
                    test |= *flag == b't';
                }
            }
            _ => {}
        }
    }
    start && !test
}

/// The script that a shell with these arguments reads, and the script's own arguments.
fn script(arguments: &[Vec<u8>]) -> Option<(&[u8], &[Vec<u8>])> {
    let mut rest = arguments;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first.as_slice() {
            b"--" | b"-" => break,
            b"--rcfile" | b"--init-file" => rest = rest.get(1..)?,
            [b'-', b'-', ..] => {}
            [sign @ (b'-' | b'+'), cluster @ ..] => {
                // With -n a shell checks the syntax and runs nothing.
                if cluster.contains(&b'c') || *sign == b'-' && cluster.contains(&b'n') {
                    return None;
                }
                if matches!(cluster.last(), Some(b'o' | b'O')) {
                    if *sign == b'-' && rest.first().is_some_and(|option| option == b"noexec") {
                        return None;
                    }
                    rest = rest.get(1..)?;
                }
            }
            script => return Some((script, rest)),
        }
    }
    rest.split_first().map(|(script, rest)| (script.as_slice(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, words: &[&str]) -> Option<Change> {
        let argv: Vec<Vec<u8>> =
            std::iter::once(&path).chain(words).map(|word| word.as_bytes().to_vec()).collect();
        change(path.as_bytes(), |limit| argv[..argv.len().min(limit)].to_vec())
    }

    fn script_at(path: &str) -> Option<Change> {
        Some(Change::Script(path.into()))
    }

    #[test]
    fn init_scripts_are_recognised_by_path_and_action() {
        for action in ["start", "stop", "restart", "force-reload", "try-restart", "graceful"] {
            assert_eq!(of("/etc/init.d/ssh", &[action]), script_at("/etc/init.d/ssh"), "{action}");
        }
        for action in ["status", "configtest", "initdb", "", "--start", "/start"] {
            assert_eq!(of("/etc/init.d/ssh", &[action]), None, "{action}");
        }
        assert_eq!(of("/etc/rc2.d/S01ssh", &["start"]), script_at("/etc/rc2.d/S01ssh"));
        let openrc = ["--lockfd", "5", "start"];
        assert_eq!(of("/etc/init.d/sshd", &openrc), script_at("/etc/init.d/sshd"));
        assert_eq!(of("./ssh", &["start"]), script_at("./ssh"));
        assert_eq!(of("/usr/bin/systemctl", &["start", "ssh"]), None);
    }

    #[test]
    fn scripts_that_a_shell_reads_are_recognised() {
        let ssh = "/etc/init.d/ssh";
        for (shell, words) in [
            ("/bin/sh", &[ssh, "start"][..]),
            ("/usr/bin/bash", &["-x", ssh, "start"]),
            ("/bin/sh", &["-e", "--", ssh, "start"]),
            ("/bin/bash", &["-o", "pipefail", "-eu", ssh, "start"]),
            ("/bin/bash", &["--norc", "+o", "posix", ssh, "start"]),
            ("/bin/bash", &["+n", "+o", "noexec", ssh, "start"]),
            ("/bin/busybox", &["sh", ssh, "start"]),
            ("/sbin/openrc-run", &[ssh, "start"]),
            ("/lib/init/init-d-script", &[ssh, "start"]),
        ] {
            assert_eq!(of(shell, words), script_at(ssh), "{shell} {words:?}");
        }
        for (shell, words) in [
            ("/bin/sh", &["-c", "/etc/init.d/ssh start"][..]),
            ("/bin/bash", &["-ec", ssh, "start"]),
            ("/bin/sh", &["-n", ssh, "start"]),
            ("/bin/bash", &["-en", ssh, "start"]),
            ("/bin/bash", &["-o", "noexec", ssh, "start"]),
            ("/bin/sh", &[]),
            ("/bin/bash", &["-o"]),
            ("/bin/busybox", &[]),
            ("/bin/busybox", &["cat", ssh, "start"]),
        ] {
            assert_eq!(of(shell, words), None, "{shell} {words:?}");
        }
    }

    #[test]
    fn programs_that_start_daemons_are_recognised() {
        let daemon = "/sbin/start-stop-daemon";
        let sshd = "/usr/sbin/sshd";
        for words in [
            &["--start", "--exec", sshd, "--", "--test"][..],
            &["-Sbx", sshd],
            &["-q", "-S", "-x", sshd],
        ] {
            assert_eq!(of(daemon, words), Some(Change::Starter), "{words:?}");
        }
        for words in [
            &["--stop", "--exec", sshd][..],
            &["--start", "--test", "--exec", sshd],
            &["-K", "-xS"],
            &["--status", "--", "--start"],
            &["--help"],
        ] {
            assert_eq!(of(daemon, words), None, "{words:?}");
        }
        assert_eq!(of("/bin/busybox", &["start-stop-daemon", "-S"]), Some(Change::Starter));
        let by_link = [b"start-stop-daemon".to_vec(), b"-S".to_vec()];
        let found = change(b"/bin/busybox", |_| by_link.to_vec());
        assert_eq!(found, Some(Change::Starter));
        assert_eq!(of("/sbin/supervise-daemon", &["x", "--start"]), Some(Change::Starter));
    }

    #[test]
    fn units_that_are_enabled_and_started_are_recognised() {
        let systemctl = "/usr/bin/systemctl";
        for words in [&["enable", "--now", "cron"][..], &["--now", "mask", "cron"]] {
            assert_eq!(of(systemctl, words), Some(Change::Now), "{words:?}");
        }
        let many: Vec<String> = (0..20_000).map(|n| format!("u{n}")).collect();
        let mut words: Vec<&str> = many.iter().map(String::as_str).collect();
        words.insert(0, "enable");
        words.push("--now");
        assert_eq!(of(systemctl, &words), Some(Change::Now));
        assert_eq!(of(systemctl, &["enable", "cron"]), None);
        assert_eq!(of("/bin/echo", &["enable", "--now"]), None);
        assert_eq!(NOW.len(), NOT_NOW.len());
    }

    #[test]
    fn init_scripts_are_recognised_by_the_names_of_their_directories() {
        for path in [
            "/etc/init.d/ssh",
            "/tmp/jail/etc/init.d/ssh",
            "/etc/rc2.d/S01ssh",
            "/etc/rcS.d/S01ssh",
            "/etc/rc.d/init.d/sshd",
            "/jail/etc/rc.d/rc3.d/S55sshd",
        ] {
            assert!(names_init_script(path.as_bytes()), "{path}");
        }
        for path in [
            "/etc/init.d",
            "/etc/init.d/",
            "/init.d/ssh",
            "/srv/init.d/ssh",
            "/etc/init.d/deeper/ssh",
            "/etc/rc.local",
            "/etc/rc.d/ssh",
            "/srv/rc.d/init.d/ssh",
            "/",
            "",
        ] {
            assert!(!names_init_script(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn descriptions_are_short_lines() {
        let words = [b"x".to_vec(), b"a\nb".to_vec(), "ä".repeat(300).into_bytes()];
        let text = description(b"/etc/init.d/ssh", &words);
        assert!(text.starts_with("/etc/init.d/ssh a?b ää"), "{text}");
        assert!(text.len() < 210 && text.ends_with('…'), "{text}");
    }
}
