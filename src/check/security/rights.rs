//! Lints of permissions: setuid bits, capabilities, world-writable files, devices.

use fs_model::{Attr, FileType};

use super::lints::{CAPABILITY, DEVICE, SETUID, WORLD_WRITABLE};
use crate::check::context::{CheckContext, OverlayEntry, Roots};
use crate::check::{Finding, Findings, Lint, PassError, Severity};
use crate::image::view::packages::DpkgPackage;
use crate::image::view::{LookError, StackView, ViewNode};

pub(super) fn rights(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let (layer, path, attr) = (context.layer_name(node), &node.path[..], &node.attr);
        if attr.kind == FileType::Regular {
            setuid(context, entry, findings)?;
            capability(context, entry, findings)?;
        }
        if entry.same_attributes() {
            continue;
        }
        let writable = attr.mode & 0o002 != 0;
        match attr.kind {
            FileType::Directory if writable && attr.mode & 0o1000 == 0 => {
                let message =
                    format!("every user may delete and replace its files (mode {:04o})", attr.mode);
                findings.add(&WORLD_WRITABLE, layer, path, message);
            }
            FileType::Regular if writable => {
                let message = format!("every user may change it (mode {:04o})", attr.mode);
                findings.add(&WORLD_WRITABLE, layer, path, message);
            }
            // A base needs device nodes in /dev until devtmpfs is mounted.
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

/// Returns the setuid bit, and the setgid bit if the group may execute the file; without that it
/// means mandatory locking.
fn setid_bits(mode: u16) -> u16 {
    (mode & 0o4000) | if mode & 0o010 != 0 { mode & 0o2000 } else { 0 }
}

fn setuid(
    context: &CheckContext<'_>,
    entry: &OverlayEntry,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let attr = &entry.node.attr;
    if setid_bits(attr.mode) == 0 {
        return Ok(());
    }
    let accounts = context.accounts()?;
    let (id_kind, id, name) = match setid_bits(attr.mode) & 0o4000 {
        0 => ("group", attr.gid, accounts.group(attr.gid)),
        _ => ("user", attr.uid, accounts.user(attr.uid)),
    };
    let id = name.map_or_else(|| id.to_string(), str::to_owned);
    let message = match &entry.lower {
        Some(before) if setid_bits(before.attr.mode) == setid_bits(attr.mode) => {
            if (before.attr.uid, before.attr.gid) == (attr.uid, attr.gid)
                && entry.same_content(context.roots()?)?
            {
                return Ok(());
            }
            format!(
                "a changed version of the base's, runs as {id_kind} {id} (mode {:04o})",
                attr.mode
            )
        }
        _ => format!("always runs as {id_kind} {id} (mode {:04o})", attr.mode),
    };
    let owner = |attr: &Attr| (attr.uid, attr.gid);
    let prior = match &entry.lower {
        Some(before) if setid_bits(before.attr.mode) != setid_bits(attr.mode) => PriorRights::No,
        Some(before) if owner(&before.attr) != owner(attr) => PriorRights::No,
        Some(_) => PriorRights::Yes,
        None if is_known(&entry.node) => PriorRights::Yes,
        None => PriorRights::Unknown,
    };
    let finding = permission_finding(context, &SETUID, &entry.node, prior, message)?;
    findings.push(finding);
    Ok(())
}

/// Whether a packaged file is known to have had its permissions before the provisioner ran.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PriorRights {
    Yes,
    No,
    Unknown,
}

/// Returns a finding about permissions; a note if the package set them. dpkg records checksums but
/// no modes, so a provisioner may have changed the mode of an unchanged file. The permissions are
/// considered to be the package's if the lower file has them, if Debian is known to ship the file
/// with them, or if the package's postinst sets permissions of the file.
fn permission_finding(
    context: &CheckContext<'_>,
    lint: &'static Lint,
    node: &ViewNode,
    prior: PriorRights,
    message: String,
) -> Result<Finding, PassError> {
    let view = &context.roots()?.view;
    let finding = |message| Finding::new(lint, context.layer_name(node), Some(&node.path), message);
    let Some(package) = context.owning_package(&node.path)? else { return Ok(finding(message)) };
    if !package.brought(view, node)?
        || prior == PriorRights::No && context.lower_has_package(package)?
    {
        return Ok(finding(message));
    }
    let name = &package.name;
    Ok(if prior == PriorRights::Yes {
        finding(format!("{message}; the package {name} ships it this way")).severity(Severity::Note)
    } else if postinst_sets_mode(view, package, &node.path)? {
        let message =
            format!("{message}; the postinst of its package {name} names it and sets permissions");
        finding(message).severity(Severity::Note)
    } else {
        let message =
            format!("{message}; its package {name} is not known to set these permissions");
        finding(message)
    })
}

/// Returns whether the postinst of a package contains the path and a command that sets permissions.
fn postinst_sets_mode(
    view: &StackView,
    package: &DpkgPackage,
    path: &[u8],
) -> Result<bool, LookError> {
    const MAX_SCRIPT: usize = 1 << 20;
    let Some(script) = package.info(view, "postinst")?.filter(ViewNode::is_file) else {
        return Ok(false);
    };
    let script = view.head(&script, MAX_SCRIPT)?;
    let has = |what: &[u8]| memchr::memmem::find(&script, what).is_some();
    let sets_mode =
        ["chmod", "dpkg-statoverride", "setcap"].iter().any(|what| has(what.as_bytes()));
    Ok(sets_mode && has(&[b"/", without_usr(path)].concat()))
}

/// Returns whether Debian is known to ship this file with its setuid and setgid bits.
fn is_known(node: &ViewNode) -> bool {
    let is_of =
        |known: &[&str]| known.iter().any(|path| path.as_bytes() == without_usr(&node.path));
    let bits = setid_bits(node.attr.mode);
    (bits & 0o4000 == 0 || node.attr.uid == 0 && is_of(&SETUID_ROOT))
        && (bits & 0o2000 == 0 || is_of(&SETGID))
}

/// Removes `usr/`: packages and scripts may name a path as in a root without merged /usr.
fn without_usr(path: &[u8]) -> &[u8] {
    path.strip_prefix(b"usr/").unwrap_or(path)
}

/// Files that packages of Debian 12 and 13 ship as setuid root, without `usr/`.
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
/// Files that they ship as setgid.
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
    entry: &OverlayEntry,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let Roots { view, lower } = context.roots()?;
    const NAME: &[u8] = b"security.capability";
    let capability_of = |xattrs: Vec<fs_model::layer::Xattr>| {
        xattrs.into_iter().find(|(name, _)| &name[..] == NAME).map(|(_, value)| value)
    };
    let Some(value) = capability_of(view.xattrs(&entry.node)?) else { return Ok(()) };
    if let (Some(before), Some(lower)) = (&entry.lower, lower)
        && capability_of(lower.xattrs(before)?).as_ref() == Some(&value)
    {
        return Ok(());
    }
    let message = format!("capabilities: {}", capabilities(&value));
    let prior = if entry.lower.is_some() { PriorRights::No } else { PriorRights::Unknown };
    let finding = permission_finding(context, &CAPABILITY, &entry.node, prior, message)?;
    findings.push(finding);
    Ok(())
}

/// Returns the names of the permitted capabilities (`vfs_cap_data` in linux/capability.h).
fn capabilities(value: &[u8]) -> String {
    let word = |at: usize| {
        let bytes = value.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_le_bytes)
    };
    let mask = u64::from(word(4)) | u64::from(word(12)) << 32;
    let bits = (0..CAPABILITY_NAMES.len()).filter(|bit| mask & 1 << bit != 0);
    let names = bits.map(|bit| CAPABILITY_NAMES[bit]);
    match names.collect::<Vec<_>>().join(", ") {
        names if names.is_empty() => format!("{mask:#x}"),
        names => names,
    }
}

/// Capability names by number (capabilities(7)).
const CAPABILITY_NAMES: [&str; 41] = [
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
