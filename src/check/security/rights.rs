//! Rights that modes, capabilities and devices give.

use fs_model::{Attr, FileType};

use super::lints::{CAPABILITY, DEVICE, SETUID, WORLD_WRITABLE};
use crate::check::context::{OverlayEntry, CheckContext, Roots};
use crate::check::{Finding, Findings, Lint, Severity, PassError};
use crate::look::packages::Package;
use crate::look::{LookError, Node, View};

/// What modes, capabilities and devices give to whom.
pub(super) fn rights(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let (layer, path, attr) = (context.layer_name(node), &node.path[..], &node.attr);
        if attr.kind == FileType::Regular {
            setuid(context, brought, findings)?;
            capability(context, brought, findings)?;
        }
        if entry.same_attributes() {
            continue;
        }
        let writable = attr.mode & 0o002 != 0;
        match attr.kind {
            FileType::Directory if writable && attr.mode & 0o1000 == 0 => {
                let message = format!(
                    "everybody may delete and replace what is in it (mode {:04o})",
                    attr.mode
                );
                findings.add(&WORLD_WRITABLE, layer, path, message);
            }
            FileType::Regular if writable => {
                let message = format!("everybody may change it (mode {:04o})", attr.mode);
                findings.add(&WORLD_WRITABLE, layer, path, message);
            }
            // A base has some for the moment before devtmpfs is mounted.
            FileType::CharDevice | FileType::BlockDevice
                if node.layer() > 0 || !path.starts_with(b"dev/") =>
            {
                let what = if attr.kind == FileType::BlockDevice { "block" } else { "character" };
                let message = format!("the {what} device {}:{}", attr.rdev.major, attr.rdev.minor);
                findings.add(&DEVICE, layer, path, message);
            }
            _ => {}
        }
    }
    Ok(())
}

/// The setuid bit, and the setgid bit, which without execution is a lock and not a right.
fn rights_of(mode: u16) -> u16 {
    (mode & 0o4000) | if mode & 0o010 != 0 { mode & 0o2000 } else { 0 }
}

fn setuid(
    context: &CheckContext<'_>,
    brought: &OverlayEntry,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let attr = &entry.node.attr;
    if rights_of(attr.mode) == 0 {
        return Ok(());
    }
    let accounts = context.accounts()?;
    let (whose, id, name) = match rights_of(attr.mode) & 0o4000 {
        0 => ("group", attr.gid, accounts.group(attr.gid)),
        _ => ("user", attr.uid, accounts.user(attr.uid)),
    };
    let id = name.map_or_else(|| id.to_string(), str::to_owned);
    let message = match &entry.lower {
        Some(before) if rights_of(before.attr.mode) == rights_of(attr.mode) => {
            if (before.attr.uid, before.attr.gid) == (attr.uid, attr.gid)
                && entry.same_content(context.roots()?)?
            {
                return Ok(());
            }
            format!("it replaces the base's, and runs as {whose} {id} too (mode {:04o})", attr.mode)
        }
        _ => format!("it runs as {whose} {id}, whoever runs it (mode {:04o})", attr.mode),
    };
    let owner = |attr: &Attr| (attr.uid, attr.gid);
    let had = match &entry.lower {
        Some(before) if rights_of(before.attr.mode) != rights_of(attr.mode) => Had::No,
        Some(before) if owner(&before.attr) != owner(attr) => Had::No,
        Some(_) => Had::Yes,
        None if is_known(&entry.node) => Had::Yes,
        None => Had::Unknown,
    };
    let finding = of_rights(context, &SETUID, &entry.node, had, message)?;
    findings.push(finding);
    Ok(())
}

/// Whether a file of a package's is known to have had rights that it has now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Had {
    Yes,
    No,
    Unknown,
}

/// A finding of rights, less of it where they are a package's own doing. dpkg keeps sums of contents
/// and nothing of modes, so of a file that is just what a package brought, somebody else may have
/// made more: it is the package's doing where the file had these rights beneath, where packages of
/// Debian are known to bring it so, or where the package's postinst gives rights to it.
fn of_rights(
    context: &CheckContext<'_>,
    lint: &'static Lint,
    node: &Node,
    had: Had,
    message: String,
) -> Result<Finding, PassError> {
    let view = &context.roots()?.view;
    let finding = |message| Finding::new(lint, context.layer_name(node), Some(&node.path), message);
    let Some(package) = context.owning_package(&node.path)? else { return Ok(finding(message)) };
    if !package.brought(view, node)? || had == Had::No && context.lower_has_package(package)? {
        return Ok(finding(message));
    }
    let name = &package.name;
    Ok(if had == Had::Yes {
        finding(format!("{message}; the package {name} has it so")).severity(Severity::Note)
    } else if postinst_names(view, package, &node.path)? {
        let message = format!(
            "{message}; it is of the package {name}, whose postinst names it and sets rights"
        );
        finding(message).severity(Severity::Note)
    } else {
        let message =
            format!("{message}; it is of the package {name}, which may not have made it so");
        finding(message)
    })
}

/// Whether what a package does when it is installed has the path in it, and gives rights.
fn postinst_names(view: &View, package: &Package, path: &[u8]) -> Result<bool, LookError> {
    const MOST: usize = 1 << 20;
    let Some(script) = package.info(view, "postinst")?.filter(Node::is_file) else {
        return Ok(false);
    };
    let script = view.head(&script, MOST)?;
    let has = |what: &[u8]| memchr::memmem::find(&script, what).is_some();
    let gives = ["chmod", "dpkg-statoverride", "setcap"].iter().any(|what| has(what.as_bytes()));
    Ok(gives && has(&[b"/", without_usr(path)].concat()))
}

/// Whether packages of Debian are known to bring this file with the rights that it has.
fn is_known(node: &Node) -> bool {
    let is_of =
        |known: &[&str]| known.iter().any(|path| path.as_bytes() == without_usr(&node.path));
    let rights = rights_of(node.attr.mode);
    (rights & 0o4000 == 0 || node.attr.uid == 0 && is_of(&SETUID_ROOT))
        && (rights & 0o2000 == 0 || is_of(&SETGID))
}

/// A path as in a root without merged /usr, and as packages and scripts may name it there.
fn without_usr(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"usr/").unwrap_or(path)
}

/// What packages of Debian 12 and 13 bring as setuid root in themselves, without /usr.
const SETUID_ROOT: [&str; 24] = [
    "bin/chfn",
    "bin/chsh",
    "bin/doas",
    "bin/fusermount",
    "bin/fusermount3",
    "bin/gpasswd",
    "bin/mount",
    "bin/newgidmap",
    "bin/newgrp",
    "bin/newuidmap",
    "bin/ntfs-3g",
    "bin/passwd",
    "bin/pkexec",
    "bin/su",
    "bin/sudo",
    "bin/umount",
    "lib/chromium/chrome-sandbox",
    "lib/openssh/ssh-keysign",
    "lib/polkit-1/polkit-agent-helper-1",
    "lib/xorg/Xorg.wrap",
    "sbin/exim4",
    "sbin/mount.cifs",
    "sbin/mount.nfs",
    "sbin/pppd",
];
/// What they bring as setgid.
const SETGID: [&str; 13] = [
    "bin/bsd-write",
    "bin/chage",
    "bin/crontab",
    "bin/dotlockfile",
    "bin/expiry",
    "bin/screen",
    "bin/ssh-agent",
    "bin/wall",
    "bin/write.ul",
    "lib/aarch64-linux-gnu/utempter/utempter",
    "lib/x86_64-linux-gnu/utempter/utempter",
    "lib/xorg/Xorg.wrap",
    "sbin/unix_chkpwd",
];

fn capability(
    context: &CheckContext<'_>,
    brought: &OverlayEntry,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Roots { view, below } = context.roots()?;
    const NAME: &[u8] = b"security.capability";
    let of = |xattrs: Vec<fs_model::layer::Xattr>| {
        xattrs.into_iter().find(|(name, _)| &name[..] == NAME).map(|(_, value)| value)
    };
    let Some(value) = of(view.xattrs(&entry.node)?) else { return Ok(()) };
    if let (Some(before), Some(below)) = (&entry.lower, below)
        && of(below.xattrs(before)?).as_ref() == Some(&value)
    {
        return Ok(());
    }
    let message = format!("it has capabilities: {}", capabilities(&value));
    let had = if entry.lower.is_some() { Had::No } else { Had::Unknown };
    let finding = of_rights(context, &CAPABILITY, &entry.node, had, message)?;
    findings.push(finding);
    Ok(())
}

/// The permitted capabilities (`vfs_cap_data` in linux/capability.h), as numbers in a mask.
fn capabilities(value: &[u8]) -> String {
    let word = |at: usize| {
        let bytes = value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let mask = u64::from(word(4)) | u64::from(word(12)) << 32;
    let names = (0..NAMES.len()).filter(|bit| mask & 1 << bit != 0).map(|bit| NAMES[bit]);
    match names.collect::<Vec<_>>().join(", ") {
        names if names.is_empty() => format!("{mask:#x}"),
        names => names,
    }
}

/// By their numbers (capabilities(7)).
const NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];
