//! Recognises executions that would start, stop or restart a service.
//!
//! Services do not run during a build: a daemon would hold ports of the host, write into the image
//! and keep the build waiting. Programs that ask systemd or a lent `policy-rc.d` learn from them
//! that services cannot start. This module recognises the other ways, by the executed program:
//!
//! - the image's own `policy-rc.d`, which forbids every action instead of running;
//! - an init script with an action such as `start`, executed directly or read by a shell: by
//!   `service`, `invoke-rc.d --force`, `rc-service`, the service providers of Ansible or Puppet, or
//!   a script;
//! - `start-stop-daemon --start` and `supervise-daemon`, called from anywhere: also by a copy of an
//!   init script, or one that another script sources;
//! - `systemctl enable --now`: before version 253, systemctl in a chroot handles everything but
//!   `--now`, which fails after the links are made. It is executed without that option.
//!
//! Actions that do not change a service (`status`, `configtest`, `initdb`) run. So does a daemon's
//! own program, which is executed on purpose.
//!
//! Nothing here accesses the tree. The caller checks whether a path leads to an init script.

use std::borrow::Cow;

/// Directories of init scripts; the second one is Red Hat's.
pub(super) const INIT_SCRIPTS: [&[u8]; 2] = [b"/etc/init.d", b"/etc/rc.d/init.d"];

/// Arguments read of an execution of an unknown program, including its name. The action of an init
/// script is among them.
const FIRST_ARGUMENTS: usize = 5;
/// Arguments read of a shell, and for a message.
pub(super) const SHELL_ARGUMENTS: usize = 64;
/// Arguments read of a program whose options may follow any number of names. `xargs` passes fewer.
const MAX_ARGUMENTS: usize = 64 << 10;

/// Programs that read an init script given as their first argument.
const SHELLS: [&[u8]; 21] = [
    b"sh",
    b"bash",
    b"dash",
    b"ash",
    b"ksh",
    b"mksh",
    b"zsh",
    b"rbash",
    b"bash-static",
    b"ksh93",
    b"ksh93u+m",
    b"lksh",
    b"mksh-static",
    b"oksh",
    b"posh",
    b"yash",
    b"zsh5",
    b"openrc-run",
    b"openrc-run.sh",
    b"runscript",
    b"init-d-script",
];

/// Programs whose purpose is to start a daemon.
const STARTERS: [&[u8]; 2] = [b"start-stop-daemon", b"supervise-daemon"];

/// Short options of `start-stop-daemon` that have a value.
const SHORT_WITH_VALUE: &[u8] = b"acdegiknprsuwxINPR";

/// Longest description of an execution, in bytes.
const MAX_DESCRIPTION_BYTES: usize = 200;

/// The option of `systemctl` that also starts or stops units, and an option of the same length that
/// changes nothing (`--full`, several times).
pub(super) const NOW: &[u8] = b"--now";
pub(super) const NOT_NOW: &[u8] = b"-llll";

/// An execution that would change the state of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServiceChange {
    /// A program that starts daemons.
    Starter,
    /// `systemctl` with the option [`NOW`].
    Now,
    /// The script at this path, if the path leads to an init script.
    Script(Vec<u8>),
    /// The program at this path, if it is [`POLICY`].
    Policy(Vec<u8>),
}

/// The program that decides which services start (Debian's `policy-rc.d`), and the exit code with
/// which it forbids an action.
pub(super) const POLICY: &[u8] = b"/usr/sbin/policy-rc.d";
pub(super) const FORBIDDEN: i32 = 101;

/// Returns the change of a service that the execution of `path` would make. `argv(n)` returns the
/// first `n` arguments.
pub(super) fn find_change(
    path: &[u8],
    argv: &dyn Fn(usize) -> Vec<Vec<u8>>,
) -> Option<ServiceChange> {
    let name = base_name(path);
    if is_loader(name) {
        let argv = argv(SHELL_ARGUMENTS);
        let loaded = loaded(argv.get(1..)?)?;
        return find_change(loaded.first()?, &|limit| loaded.iter().take(limit).cloned().collect());
    }
    if name == base_name(POLICY) {
        return Some(ServiceChange::Policy(path.to_vec()));
    }
    let known = STARTERS.contains(&name) || SHELLS.contains(&name);
    if !known && name != b"busybox" && name != b"systemctl" {
        let argv = argv(FIRST_ARGUMENTS);
        let action = argv.iter().skip(1).any(|word| is_action(word));
        return action.then(|| ServiceChange::Script(path.to_vec()));
    }
    let argv = argv(if SHELLS.contains(&name) { SHELL_ARGUMENTS } else { MAX_ARGUMENTS });
    let (called, arguments) = argv.split_first()?;
    if name == b"systemctl" {
        return arguments.iter().any(|word| word == NOW).then_some(ServiceChange::Now);
    }
    // busybox runs the applet in its first argument, if it is called by its own name.
    let (name, arguments) = match (name, base_name(called)) {
        (b"busybox", b"busybox") => {
            let (applet, rest) = arguments.split_first()?;
            (applet.as_slice(), rest)
        }
        (b"busybox", called) => (called, arguments),
        (name, _) => (name, arguments),
    };
    if STARTERS.contains(&name) {
        return is_start(arguments).then_some(ServiceChange::Starter);
    }
    if !SHELLS.contains(&name) {
        return None;
    }
    let (script, rest) = shell_script(arguments)?;
    rest.iter().any(|word| is_action(word)).then(|| ServiceChange::Script(script.to_vec()))
}

/// Whether a path without symbolic links is that of an init script by the usual directory names:
/// `/etc/init.d`, `/etc/rc2.d`, `/etc/rc.d/init.d` and `/etc/rc.d/rc2.d`, below any directory.
///
/// For paths that lead out of the tree.
pub(super) fn names_init_script(path: &[u8]) -> bool {
    let mut names = path.rsplit(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let (Some(_), Some(directory), Some(parent)) = (names.next(), names.next(), names.next())
    else {
        return false;
    };
    let of_scripts = directory == b"init.d" || matches!(directory, [b'r', b'c', _, b'.', b'd']);
    of_scripts && (parent == b"etc" || parent == b"rc.d" && names.next() == Some(b"etc"))
}

/// Returns the command line as text for a message.
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

/// Whether this argument makes an init script change the state of its service.
fn is_action(word: &[u8]) -> bool {
    let contains = |part: &[u8]| word.windows(part.len()).any(|w| w == part);
    let option = word.first().is_none_or(|&first| first == b'-' || first == b'/');
    let known: [&[u8]; 7] = [b"graceful", b"bootstrap", b"up", b"down", b"boot", b"begin", b"run"];
    !option
        && (contains(b"start") || contains(b"stop") || contains(b"reload") || known.contains(&word))
}

/// Whether a program is the dynamic loader, which runs the program in its arguments.
fn is_loader(name: &[u8]) -> bool {
    [b"ld-linux".as_slice(), b"ld-musl", b"ld64.so", b"ld.so"].iter().any(|l| name.starts_with(l))
}

/// Returns the command line that the dynamic loader with these arguments runs (ld.so(8)).
fn loaded(arguments: &[Vec<u8>]) -> Option<&[Vec<u8>]> {
    const WITH_VALUE: [&[u8]; 5] =
        [b"--argv0", b"--audit", b"--inhibit-rpath", b"--library-path", b"--preload"];
    let mut at = 0;
    while arguments.get(at)?.starts_with(b"--") {
        at += if WITH_VALUE.contains(&arguments[at].as_slice()) { 2 } else { 1 };
    }
    arguments.get(at..)
}

/// Whether `start-stop-daemon` starts a daemon with these arguments.
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

/// Returns the script that a shell with these arguments reads, and the script's own arguments.
fn shell_script(arguments: &[Vec<u8>]) -> Option<(&[u8], &[Vec<u8>])> {
    let mut rest = arguments;
    while let Some((first, others)) = rest.split_first() {
        rest = others;
        match first.as_slice() {
            b"--" | b"-" => break,
            b"--rcfile" | b"--init-file" => rest = rest.get(1..)?,
            [b'-', b'-', ..] => {}
            [sign @ (b'-' | b'+'), cluster @ ..] => {
                // With -n a shell checks the syntax and executes nothing.
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

    fn change_by(path: &str, words: &[&str]) -> Option<ServiceChange> {
        let argv: Vec<Vec<u8>> =
            std::iter::once(&path).chain(words).map(|word| word.as_bytes().to_vec()).collect();
        find_change(path.as_bytes(), &|limit| argv[..argv.len().min(limit)].to_vec())
    }

    fn script_at(path: &str) -> Option<ServiceChange> {
        Some(ServiceChange::Script(path.into()))
    }

    #[test]
    fn init_scripts_are_recognised_by_path_and_action() {
        for action in ["start", "stop", "restart", "force-reload", "try-restart", "graceful"] {
            assert_eq!(
                change_by("/etc/init.d/ssh", &[action]),
                script_at("/etc/init.d/ssh"),
                "{action}"
            );
        }
        for action in ["status", "configtest", "initdb", "", "--start", "/start"] {
            assert_eq!(change_by("/etc/init.d/ssh", &[action]), None, "{action}");
        }
        assert_eq!(change_by("/etc/rc2.d/S01ssh", &["start"]), script_at("/etc/rc2.d/S01ssh"));
        let openrc = ["--lockfd", "5", "start"];
        assert_eq!(change_by("/etc/init.d/sshd", &openrc), script_at("/etc/init.d/sshd"));
        assert_eq!(change_by("./ssh", &["start"]), script_at("./ssh"));
        assert_eq!(change_by("/usr/bin/systemctl", &["start", "ssh"]), None);
        let policy = ServiceChange::Policy(b"./policy-rc.d".to_vec());
        assert_eq!(change_by("./policy-rc.d", &["ssh", "start"]), Some(policy));
    }

    #[test]
    fn init_scripts_read_by_a_shell_are_recognised() {
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
            ("/usr/bin/yash", &[ssh, "start"]),
            ("/lib64/ld-linux-x86-64.so.2", &["--preload", "x.so", "/bin/sh", ssh, "start"]),
        ] {
            assert_eq!(change_by(shell, words), script_at(ssh), "{shell} {words:?}");
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
            assert_eq!(change_by(shell, words), None, "{shell} {words:?}");
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
            assert_eq!(change_by(daemon, words), Some(ServiceChange::Starter), "{words:?}");
        }
        for words in [
            &["--stop", "--exec", sshd][..],
            &["--start", "--test", "--exec", sshd],
            &["-K", "-xS"],
            &["--status", "--", "--start"],
            &["--help"],
        ] {
            assert_eq!(change_by(daemon, words), None, "{words:?}");
        }
        assert_eq!(
            change_by("/bin/busybox", &["start-stop-daemon", "-S"]),
            Some(ServiceChange::Starter)
        );
        let by_link = [b"start-stop-daemon".to_vec(), b"-S".to_vec()];
        let found = find_change(b"/bin/busybox", &|_| by_link.to_vec());
        assert_eq!(found, Some(ServiceChange::Starter));
        assert_eq!(
            change_by("/sbin/supervise-daemon", &["x", "--start"]),
            Some(ServiceChange::Starter)
        );
    }

    #[test]
    fn units_that_are_enabled_and_started_are_recognised() {
        let systemctl = "/usr/bin/systemctl";
        for words in [&["enable", "--now", "cron"][..], &["--now", "mask", "cron"]] {
            assert_eq!(change_by(systemctl, words), Some(ServiceChange::Now), "{words:?}");
        }
        let many: Vec<String> = (0..20_000).map(|n| format!("u{n}")).collect();
        let mut words: Vec<&str> = many.iter().map(String::as_str).collect();
        words.insert(0, "enable");
        words.push("--now");
        assert_eq!(change_by(systemctl, &words), Some(ServiceChange::Now));
        assert_eq!(change_by(systemctl, &["enable", "cron"]), None);
        assert_eq!(change_by("/bin/echo", &["enable", "--now"]), None);
        assert_eq!(NOW.len(), NOT_NOW.len());
    }

    #[test]
    fn init_scripts_are_recognised_by_directory_name() {
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
