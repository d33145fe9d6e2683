//! Clean-up of logs, backups, histories and temporary files of the build.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::walk::{revert_all, revert_content, revert_matching, walk};
use crate::machine::{Kind, Machine, MachineError, Meta, Node, Stat};
use crate::options::Options;

/// Logs of build tools. Unlike services, these tools create their logs themselves.
const BUILD_LOGS: &[&str] = &[
    "/var/log/alternatives.log",
    "/var/log/apt",
    "/var/log/bootstrap.log",
    "/var/log/dpkg.log",
    "/var/log/fontconfig.log",
];

pub(super) fn logs(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    for path in BUILD_LOGS {
        let path = Path::new(path);
        match machine.stat(path)?.map(|stat| stat.kind) {
            Some(Kind::Directory) => {
                for (path, _) in walk(machine, path, &|_| false)? {
                    machine.revert(&path)?;
                }
            }
            Some(_) => machine.revert(path)?,
            None => {}
        }
    }
    for (path, kind) in walk(machine, Path::new("/var/log"), &|_| true)? {
        let Some(stat) = machine.stat(&path)? else { continue };
        let rotated = [".gz", ".xz", ".1", ".old"]
            .iter()
            .any(|suffix| path.as_os_str().as_bytes().ends_with(suffix.as_bytes()));
        let journal = path.starts_with("/var/log/journal");
        match kind {
            Kind::File if rotated || journal => machine.revert(&path)?,
            Kind::File if stat.size > 0 => empty_log(machine, &path, &stat)?,
            Kind::Directory if journal => machine.revert(&path)?,
            _ => {}
        }
    }
    Ok(())
}

/// Reverts a log. A log that the base lacks becomes an empty file, since its service may not be
/// allowed to create it.
fn empty_log(machine: &mut dyn Machine, path: &Path, stat: &Stat) -> Result<(), MachineError> {
    machine.revert(path)?;
    if machine.stat(path)?.is_some() {
        return Ok(());
    }
    let meta =
        Meta { mode: Some(stat.mode), uid: stat.uid, gid: stat.gid, mtime: Some(stat.mtime) };
    machine.put(path, Node::File(&mut io::empty()), &meta)
}

pub(super) fn backups(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_all(
        machine,
        &[
            "/etc/passwd-",
            "/etc/group-",
            "/etc/shadow-",
            "/etc/gshadow-",
            "/etc/subuid-",
            "/etc/subgid-",
        ],
    )?;
    for dir in ["/var/lib/dpkg", "/var/cache/debconf"] {
        revert_matching(machine, dir, |e| e.name.as_bytes().ends_with(b"-old"))?;
    }
    revert_matching(machine, "/var/backups", |e| {
        e.kind == Kind::File && is_backup(e.name.as_bytes())
    })
}

/// Whether the daily jobs of dpkg, apt and passwd write a file of this name to /var/backups.
fn is_backup(name: &[u8]) -> bool {
    let of_job = [&b"alternatives.tar."[..], b"apt.extended_states.", b"dpkg."];
    let of_passwd = [&b"passwd.bak"[..], b"group.bak", b"shadow.bak", b"gshadow.bak"];
    of_job.iter().any(|prefix| name.starts_with(prefix)) || of_passwd.contains(&name)
}

pub(super) fn tmp(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_content(machine, "/tmp")?;
    revert_content(machine, "/var/tmp")
}

pub(super) fn root_home(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    // Roles and collections that ansible-galaxy installs are also in /root/.ansible.
    let ansible = Path::new("/root/.ansible");
    revert_all(machine, &["/root/.ansible/cp", "/root/.ansible/tmp"])?;
    if machine.stat(ansible)?.is_some_and(|stat| stat.kind == Kind::Directory)
        && machine.list(ansible)?.is_empty()
    {
        machine.revert(ansible)?;
    }
    revert_all(
        machine,
        &[
            "/root/.bash_history",
            "/root/.cache",
            "/root/.lesshst",
            "/root/.python_history",
            "/root/.viminfo",
            "/root/.wget-hsts",
        ],
    )
}
