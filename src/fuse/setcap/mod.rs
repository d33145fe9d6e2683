//! Decides whether to refuse a capability that the output cannot hold.
//!
//! Setting a capability usually succeeds, and its loss is reported when the root is sealed, so that
//! rpm and package scripts that require it do not fail the build. But some scripts make a file
//! setuid when `setcap` fails, and the file then works on the machine. For such a script `setcap`
//! has to fail, so the script of the shell that runs `setcap` is searched for this fallback
//! ([`script`]). Without a readable script, or for a program other than `setcap`, the capability is
//! accepted.

mod script;

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use fs_model::{Ino, Tree};

/// The attribute with a file's capabilities.
pub(crate) const CAPABILITY: &[u8] = b"security.capability";
const SHELLS: [&str; 7] = ["sh", "dash", "bash", "ash", "busybox", "ksh", "zsh"];

/// Whether the process `pid`, which sets capabilities, was started by a script with a fallback.
pub(super) fn has_fallback(tree: &Tree, pid: u32) -> bool {
    if name(pid).as_deref() != Some("setcap") {
        return false;
    }
    let Some(shell) = parent(pid) else { return false };
    if !is_shell(shell) {
        return false;
    }
    let (Some(argv), Some(shell_argv)) = (arguments(pid), arguments(shell)) else { return false };
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let script = match command_source(&shell_argv) {
        CommandSource::Text(text) => Some(text.to_owned()),
        CommandSource::File(path) => script_file(tree, shell, Some(path)),
        CommandSource::Input => script_file(tree, shell, None),
    };
    script.is_some_and(|script| script::has_fallback(&script, &argv))
}

fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// Whether the process runs a shell. (The process name is the name of the script.)
fn is_shell(pid: u32) -> bool {
    let Ok(program) = fs::read_link(format!("/proc/{pid}/exe")) else { return false };
    let name = program.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| SHELLS.contains(&name))
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

fn arguments(pid: u32) -> Option<Vec<String>> {
    let mut text = Vec::new();
    let file = File::open(format!("/proc/{pid}/cmdline")).ok()?;
    file.take(script::MAX_SCRIPT_BYTES as u64).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    Some(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

/// The source of a shell's commands.
#[derive(Debug, PartialEq, Eq)]
enum CommandSource<'a> {
    Text(&'a str),
    File(&'a str),
    Input,
}

/// Returns the source of the commands of a shell with these arguments.
fn command_source(argv: &[String]) -> CommandSource<'_> {
    let mut arguments = argv.iter().skip(1).map(String::as_str);
    let mut is_text = false;
    // `busybox sh …`
    if argv.first().is_some_and(|program| program.ends_with("busybox")) {
        arguments.next();
    }
    while let Some(argument) = arguments.next() {
        match argument.strip_prefix(['-', '+']) {
            Some("" | "-") => break,
            Some(long) if long.starts_with('-') => {}
            Some(letters) => {
                is_text |= letters.contains('c');
                if letters.ends_with(['o', 'O']) {
                    arguments.next();
                }
                if letters.contains('s') {
                    return CommandSource::Input;
                }
            }
            None if is_text => return CommandSource::Text(argument),
            None => return CommandSource::File(argument),
        }
    }
    match arguments.next() {
        Some(argument) if is_text => CommandSource::Text(argument),
        Some(argument) => CommandSource::File(argument),
        None => CommandSource::Input,
    }
}

/// Returns the script that a shell has open: the file with this name, or its standard input.
///
/// A file in the root is read from the tree. Opening it by a path would be a request of this
/// process to itself.
fn script_file(tree: &Tree, shell: u32, path: Option<&str>) -> Option<String> {
    let descriptors = match path {
        None => vec!["0".to_owned()],
        Some(path) => {
            let wanted = Path::new(path).file_name()?;
            let entries = fs::read_dir(format!("/proc/{shell}/fd")).ok()?;
            let open = entries.filter_map(|entry| {
                let entry = entry.ok()?;
                let target = fs::read_link(entry.path()).ok()?;
                (target.file_name() == Some(wanted))
                    .then(|| entry.file_name().into_string().ok())?
            });
            open.collect()
        }
    };
    // Shells keep their script open at a high descriptor number.
    let fd = descriptors.iter().filter_map(|fd| fd.parse::<u32>().ok()).max()?;
    let info = fs::read_to_string(format!("/proc/{shell}/fdinfo/{fd}")).ok()?;
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let mounts = fs::read(format!("/proc/{shell}/mountinfo")).ok()?;
    let mount: u64 = field("mnt_id:")?.parse().ok()?;
    let mut text = Vec::new();
    if is_fuse(&mounts, mount)? {
        text.resize(script::MAX_SCRIPT_BYTES, 0);
        let length = tree.read(Ino(field("ino:")?.parse().ok()?), 0, &mut text).ok()?;
        text.truncate(length);
    } else {
        let path = format!("/proc/{shell}/fd/{fd}");
        // Reading a pipe would consume the shell's input.
        if !fs::metadata(&path).ok()?.is_file() {
            return None;
        }
        let file = File::open(path).ok()?;
        file.take(script::MAX_SCRIPT_BYTES as u64).read_to_end(&mut text).ok()?;
    }
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Whether a mount of a process is a FUSE mount, and so the root.
fn is_fuse(mountinfo: &[u8], mount: u64) -> Option<bool> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let line = lines
        .filter_map(|line| std::str::from_utf8(line).ok())
        .find(|line| line.split(' ').next().is_some_and(|id| id.parse() == Ok(mount)))?;
    let (_, kind) = line.split_once(" - ")?;
    Some(kind.starts_with("fuse"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn script_is_found_in_a_shells_arguments() {
        let describe = |argv: &[&str]| {
            let argv: Vec<String> = argv.iter().map(|&argument| argument.to_owned()).collect();
            match command_source(&argv) {
                CommandSource::Text(text) => format!("text {text}"),
                CommandSource::File(path) => format!("file {path}"),
                CommandSource::Input => "input".to_owned(),
            }
        };
        assert_eq!(
            describe(&["/bin/sh", "/var/lib/dpkg/info/x.postinst", "configure"]),
            "file /var/lib/dpkg/info/x.postinst"
        );
        assert_eq!(describe(&["sh", "-c", "a || b", "name"]), "text a || b");
        assert_eq!(describe(&["bash", "-o", "pipefail", "-ec", "a"]), "text a");
        assert_eq!(describe(&["sh", "-eux", "./script"]), "file ./script");
        assert_eq!(describe(&["bash", "--norc", "-e", "--", "-c"]), "file -c");
        assert_eq!(describe(&["busybox", "sh", "-c", "a"]), "text a");
        assert_eq!(describe(&["sh", "-s", "a"]), "input");
        assert_eq!(describe(&["-bash"]), "input");
    }

    #[test]
    fn mount_is_found_by_its_id() {
        let info = b"30 1 0:50 / / rw shared:1 - fuse overcoat rw\n\
                     31 30 8:1 / /step ro - ext4 /dev/sda1 rw\n";
        assert_eq!(is_fuse(info, 30), Some(true));
        assert_eq!(is_fuse(info, 31), Some(false));
        assert_eq!(is_fuse(info, 3), None);
    }
}
