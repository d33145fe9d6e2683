//! Answers executions: those that would start a service do nothing, and those of set-id programs
//! change the credentials.

use super::caller::{Caller, Location, path_in_file_system};
use super::calls::{self, PathStart};
use super::credentials::CredentialTable;
use super::listener::{AnswerResult, CallAnswer, PassedCall, leave_to_kernel};
use super::paths::{PathFinder, proc_link_name};
use super::resolve::{SupervisedAttributes, Walked};
use super::services::{self, ServiceChange};
use super::trace::Intervention;

/// Answers an execution: continues it, or changes it if it would start a service.
pub(super) fn answer(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    table: Option<&CredentialTable>,
    from: PathStart,
    first: usize,
) -> AnswerResult {
    let (caller, data) = (passed.caller, passed.data);
    let start = passed.start(from);
    let mut path = caller.read_path(data.args[first - 1]).map_err(leave_to_kernel)?;
    let is_descriptor = path.is_empty();
    if is_descriptor {
        // execveat(2) with AT_EMPTY_PATH: the descriptor is the program.
        path = caller.link(&format!("fd/{start}")).map_err(leave_to_kernel)?;
    }
    let arguments = |limit| {
        let wide = calls::has_wide_pointers(data.arch, data.nr);
        caller.read_arguments(data.args[first], wide, limit).unwrap_or_default()
    };
    let change = services::find_change(&path, &arguments);
    let intervention = match change {
        Some(ServiceChange::Now) => {
            Intervention::Replace { from: services::NOW, to: services::NOT_NOW }
        }
        Some(ServiceChange::Policy(_)) => Intervention::Exit(services::FORBIDDEN),
        _ => Intervention::Exit(0),
    };
    let intervenes = match change {
        None => false,
        Some(ServiceChange::Starter | ServiceChange::Now) => finder.is_inside(caller),
        Some(ServiceChange::Policy(path)) => {
            let path = absolute(caller, start, &path).map_err(leave_to_kernel)?;
            finder.is_inside(caller) && is_policy(&path)
        }
        Some(ServiceChange::Script(script)) => {
            // A shell opens its script relative to the working directory.
            let start = if script == path { start } else { libc::AT_FDCWD };
            is_init_script(finder, caller, start, &script)?
        }
    };
    if intervenes {
        passed.still_waits()?;
        let execution = services::description(&path, &arguments(services::SHELL_ARGUMENTS));
        return Ok(CallAnswer::Intervene(intervention, execution));
    }
    match table {
        Some(table) => {
            let path = if is_descriptor { None } else { Some(path.as_slice()) };
            answer_set_id(passed, finder, table, start, path)
        }
        None => Ok(CallAnswer::Continue),
    }
}

/// Continues an execution with the credentials that the new program has. Without a `path` the
/// program is the descriptor `start`.
fn answer_set_id(
    passed: &PassedCall<'_>,
    finder: &PathFinder,
    table: &CredentialTable,
    start: i32,
    path: Option<&[u8]>,
) -> AnswerResult {
    let caller = passed.caller;
    let before = table.of(caller.tid).map_err(leave_to_kernel)?;
    let object = match path {
        Some(path) => finder.object(caller, start, path, true, None),
        None => finder.descriptor(caller, start),
    };
    // Programs in other file systems belong to root, without set-id bits.
    let owner = match object {
        Ok(Location { ino, .. }) => {
            let attributes = finder.tree.attributes(ino).map_err(leave_to_kernel)?;
            set_id_owner(&attributes, || finder.tree.is_script(ino))
        }
        Err(_) => (None, None),
    };
    let is_bound = || caller.has_no_new_privileges().unwrap_or(true);
    let (user, group) = if owner != (None, None) && is_bound() { (None, None) } else { owner };
    let after = before.after_execution(user, group);
    if after == *before {
        return Ok(CallAnswer::Continue);
    }
    passed.still_waits()?;
    Ok(CallAnswer::Adopt(after))
}

/// Returns the owner and the group of a program, as far as it has their set-id bits.
fn set_id_owner(
    attributes: &SupervisedAttributes,
    is_script: impl FnOnce() -> bool,
) -> (Option<u32>, Option<u32>) {
    let has = |bits: u32| attributes.mode & bits == bits;
    // Without the right to execute, the bit is one for mandatory locks.
    let (user, group) = (has(libc::S_ISUID), has(libc::S_ISGID | libc::S_IXGRP));
    if !(user || group) || is_script() {
        return (None, None);
    }
    (user.then_some(attributes.uid), group.then_some(attributes.gid))
}

/// Whether an absolute path is that of [`services::POLICY`], also with the link `/sbin`.
fn is_policy(path: &[u8]) -> bool {
    let path = without_dots(path);
    path == services::POLICY || Some(&*path) == services::POLICY.strip_prefix(b"/usr")
}

/// Whether the path of a program or script leads to an init script.
fn is_init_script(
    finder: &PathFinder,
    caller: Caller,
    start: i32,
    path: &[u8],
) -> Result<bool, CallAnswer> {
    // From the root: a relative path may begin in another file system.
    let target = absolute(caller, start, path).map_err(leave_to_kernel)?;
    let mut dirs = Vec::new();
    let found = finder.walk(caller, start, &target, None, |view, root, _| {
        dirs.extend(services::INIT_SCRIPTS.iter().filter_map(|dir| {
            match view.object(root, dir, true) {
                Ok(Walked::Found(place)) => Some(place.inode.ino),
                _ => None,
            }
        }));
        view.leads_into(root, &target, &dirs)
    });
    // By a hard link, or a link of a process in /proc, the path does not name the directory.
    if let Ok(object) = finder.object(caller, start, path, true, None)
        && dirs.iter().any(|dir| finder.tree.has_entry(*dir, object.ino))
    {
        return Ok(true);
    }
    Ok(match found {
        Ok(Walked::Found(true)) => true,
        Ok(Walked::Found(false)) if !is_below_a_mount(finder, caller, start, &target) => false,
        // The kernel fails calls whose path cannot be resolved.
        Err(CallAnswer::Return(_)) => false,
        _ => finder.is_inside(caller) && is_named_as_init_script(finder, caller, &target)?,
    })
}

/// Whether a path leads through a mount point below the caller's root.
fn is_below_a_mount(finder: &PathFinder, caller: Caller, start: i32, path: &[u8]) -> bool {
    let root = caller.place("root").ok().flatten();
    let found = finder.object(caller, start, path, true, None);
    matches!((root, found), (Some(root), Ok(found)) if root.mount != found.mount)
}

/// Whether a path from the caller's root, in a file system other than the tree, has the name of an
/// init script, there or in the mounted directory.
fn is_named_as_init_script(
    finder: &PathFinder,
    caller: Caller,
    path: &[u8],
) -> Result<bool, CallAnswer> {
    let path = without_dots(path);
    if services::names_init_script(&path) {
        return Ok(true);
    }
    let namespace = caller.namespace("mnt").map_err(leave_to_kernel)?;
    let path = match namespace == finder.identity.mount_namespace {
        true => from_root(&caller.link("root").map_err(leave_to_kernel)?, &path),
        // The caller's own mountinfo begins at its root.
        false => path,
    };
    let path = path_in_file_system(&finder.mountinfo(caller)?, &path);
    Ok(path.is_some_and(|path| services::names_init_script(&path)))
}

/// Makes `path` absolute, from the caller's root.
pub(super) fn absolute(caller: Caller, start: i32, path: &[u8]) -> std::io::Result<Vec<u8>> {
    if path.first() == Some(&b'/') {
        return Ok(path.to_vec());
    }
    let (root, directory) = (caller.link("root")?, caller.link(&proc_link_name(start))?);
    let root = root.strip_suffix(b"/").unwrap_or(&root);
    Ok(join_path(directory.strip_prefix(root).unwrap_or(&directory), path))
}

/// Joins `path` to `directory`, which has no symbolic links; leading `..` remove its components.
fn join_path(directory: &[u8], path: &[u8]) -> Vec<u8> {
    let mut directory = directory.strip_suffix(b"/").unwrap_or(directory);
    let mut path = path;
    loop {
        let (first, rest) = match path.iter().position(|&byte| byte == b'/') {
            Some(end) => (&path[..end], &path[end + 1..]),
            None => (path, &b""[..]),
        };
        match first {
            b"" | b"." if !path.is_empty() => {}
            b".." => {
                let end = directory.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
                directory = &directory[..end];
            }
            _ => return [directory, b"/", path].concat(),
        }
        path = rest;
    }
}

/// Removes the components `.` and `..` and repeated slashes from an absolute path.
fn without_dots(path: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    for name in path.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

/// Converts a path in a `chroot` to one from the sandbox's root.
pub(super) fn from_root(root: &[u8], path: &[u8]) -> Vec<u8> {
    [root.strip_suffix(b"/").unwrap_or(root), path].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_are_joined_to_their_directory() {
        for (directory, path, expected) in [
            ("/etc/init.d", "ssh", "/etc/init.d/ssh"),
            ("/etc/init.d", "./ssh", "/etc/init.d/ssh"),
            ("/", "etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/tmp/x", "../.././../etc/init.d/ssh", "/etc/init.d/ssh"),
            ("/etc", "init.d/../init.d/ssh", "/etc/init.d/../init.d/ssh"),
            ("/tmp", "..", "/"),
        ] {
            let joined = join_path(directory.as_bytes(), path.as_bytes());
            assert_eq!(String::from_utf8(joined).unwrap(), expected);
        }
        assert_eq!(without_dots(b"/a/.//b/../../../etc/init.d/ssh"), b"/etc/init.d/ssh");
        assert_eq!(without_dots(b"/.."), b"/");
        assert_eq!(from_root(b"/srv/jail", b"/dev/null"), b"/srv/jail/dev/null");
        assert_eq!(from_root(b"/", b"/dev/null"), b"/dev/null");
    }
}
