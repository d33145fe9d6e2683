//! The system calls in which processes make requests, read from `/proc/TID`.
//!
//! The kernel does not pass on how a program opens an existing file. A lent file may exist for
//! programs although the image lacks it. Then the daemon reads whether the program creates the file
//! (`O_CREAT`), and so which mode it asks for. If `/proc` does not show it, for example because the
//! call is one of io_uring, the file exists for the program.
//!
//! A process waits for the answer to its request, so its state does not change meanwhile.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};

use fs_model::{FileType, Ino, Tree};

/// Whether the thread `tid` opens a file that it wants to be created if it does not exist, and
/// nothing is mounted on a file called `name`.
pub(super) fn creates(tid: u32, name: &[u8]) -> bool {
    let Some(flags) = open_flags(tid) else { return false };
    flags & libc::O_CREAT as u64 != 0 && !has_mount_on(tid, name)
}

/// Returns the mode of a file that the thread `tid` replaces the content of, if it does so without
/// `O_CREAT`. `mode` is the mode that the program has seen.
///
/// Programs keep the mode of an existing file, except that a copy made by `cp` has the mode of the
/// copied file if it does not exist.
pub(super) fn mode_of_replaced(tree: &Tree, tid: u32, mode: u16) -> u16 {
    let mask = status(tid, "Umask:").and_then(|mask| u16::from_str_radix(&mask, 8).ok());
    let mask = mask.unwrap_or(0);
    let is_copy = fs::read_to_string(format!("/proc/{tid}/comm")).is_ok_and(|comm| comm == "cp\n");
    let copied = if is_copy { mode_of_source(tree, tid) } else { None };
    copied.unwrap_or(mode) & 0o777 & !mask
}

/// Returns the flags of the call that opens a file, if the thread waits in one.
fn open_flags(tid: u32) -> Option<u64> {
    let call = fs::read_to_string(format!("/proc/{tid}/syscall")).ok()?;
    let mut words = call.split_whitespace();
    let number: libc::c_long = words.next()?.parse().ok()?;
    let arguments: Vec<u64> =
        words.map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
    #[cfg(target_arch = "x86_64")]
    match number {
        libc::SYS_open => return arguments.get(1).copied(),
        libc::SYS_creat => return Some((libc::O_CREAT | libc::O_TRUNC) as u64),
        _ => {}
    }
    match number {
        libc::SYS_openat => arguments.get(2).copied(),
        // `struct open_how` begins with the flags.
        libc::SYS_openat2 => {
            let mut flags = [0; 8];
            let memory = File::open(format!("/proc/{tid}/mem")).ok()?;
            memory.read_exact_at(&mut flags, *arguments.get(2)?).ok()?;
            Some(u64::from_ne_bytes(flags))
        }
        _ => None,
    }
}

/// Whether a mount point of the thread is a file called `name`. A missing entry would end the
/// mount.
fn has_mount_on(tid: u32, name: &[u8]) -> bool {
    let Ok(mounts) = fs::read(format!("/proc/{tid}/mountinfo")) else { return true };
    mounts.split(|&byte| byte == b'\n').any(|line| {
        let point = line.split(|&byte| byte == b' ').nth(4).unwrap_or_default();
        point.rsplit(|&byte| byte == b'/').next() == Some(name)
    })
}

/// Returns the mode of the only regular file that the thread has open, if there is one.
///
/// A file in the root is found in the tree. A call for its path would be a request of this process
/// to itself.
fn mode_of_source(tree: &Tree, tid: u32) -> Option<u16> {
    let mounts = fs::read_to_string(format!("/proc/{tid}/mountinfo")).ok()?;
    let mut found = None;
    for entry in fs::read_dir(format!("/proc/{tid}/fd")).ok()?.flatten() {
        let descriptor = entry.file_name().into_string().ok()?;
        if matches!(descriptor.as_str(), "0" | "1" | "2") {
            continue;
        }
        let info = fs::read_to_string(format!("/proc/{tid}/fdinfo/{descriptor}")).ok()?;
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().to_owned();
        let line = mounts.lines().find(|line| line.split(' ').next() == Some(mount.as_str()));
        let Some((_, kind)) = line.and_then(|line| line.split_once(" - ")) else { continue };
        let mode = if kind.starts_with("fuse") {
            // Since Linux 5.14.
            let ino = info.lines().find_map(|line| line.strip_prefix("ino:"))?.trim().parse();
            let attr = tree.attr(Ino(ino.ok()?)).ok()?;
            (attr.kind == FileType::Regular).then_some(attr.mode)
        } else {
            let metadata = fs::metadata(entry.path()).ok()?;
            metadata.is_file().then(|| (metadata.mode() & 0o7777) as u16)
        };
        if let Some(mode) = mode
            && found.replace(mode).is_some()
        {
            return None;
        }
    }
    found
}

fn status(tid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    Some(value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thread_that_opens_no_file_creates_none() {
        let tid = std::process::id();
        assert!(!creates(tid, b"hosts"));
        assert!(has_mount_on(tid, b"proc"));
        assert!(!has_mount_on(tid, b"no such file"));
    }
}
