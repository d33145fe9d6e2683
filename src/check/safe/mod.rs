//! Lints of what an overlay should not carry to every machine that boots it, or what deserves a
//! second look there.

mod identity;
mod lints;
mod secrets;

use fs_model::FileType;

use super::context::{Brought, Context, Roots};
use super::{Finding, Findings, Lint, Pass, Severity, Stopped};
use crate::look::Node;

use lints::*;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&SETUID, &CAPABILITY, &WORLD_WRITABLE, &DEVICE], run: rights },
    Pass {
        lints: &[&PRIVATE_KEY, &HOST_KEY, &TOKEN, &CREDENTIALS, &HISTORY],
        run: secrets::secrets,
    },
    Pass {
        lints: &[
            &MACHINE_ID,
            &RANDOM_SEED,
            &RESOLV_CONF,
            &PROXY,
            &SUDOERS,
            &PAM,
            &AUTHORIZED_KEYS,
            &PASSWORD,
        ],
        run: identity::identity,
    },
];

/// What modes, capabilities and devices give to whom.
fn rights(context: &Context<'_>, findings: &mut Findings<'_>) -> Result<(), Stopped> {
    for brought in &context.difference()?.brought {
        let node = &brought.node;
        let (layer, path, attr) = (context.layer(node), &node.path[..], &node.attr);
        if attr.kind == FileType::Regular {
            setuid(context, brought, findings)?;
            capability(context, brought, findings)?;
        }
        if brought.same_attributes() {
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

fn setuid(
    context: &Context<'_>,
    brought: &Brought,
    findings: &mut Findings<'_>,
) -> Result<(), Stopped> {
    const BITS: u16 = 0o6000;
    let attr = &brought.node.attr;
    // A setgid bit without execution is a lock, not a right.
    let rights = |mode: u16| (mode & 0o4000) | if mode & 0o010 != 0 { mode & 0o2000 } else { 0 };
    if rights(attr.mode) & BITS == 0 {
        return Ok(());
    }
    let accounts = context.accounts()?;
    let (whose, id, name) = match rights(attr.mode) & 0o4000 {
        0 => ("group", attr.gid, accounts.group(attr.gid)),
        _ => ("user", attr.uid, accounts.user(attr.uid)),
    };
    let id = name.map_or_else(|| id.to_string(), str::to_owned);
    let message = match &brought.before {
        Some(before) if rights(before.attr.mode) == rights(attr.mode) => {
            let Roots { view, below } = context.roots()?;
            if (before.attr.uid, before.attr.gid) == (attr.uid, attr.gid)
                && identity::same(brought, view, below.as_ref())?
            {
                return Ok(());
            }
            format!("it replaces the base's, and runs as {whose} {id} too (mode {:04o})", attr.mode)
        }
        _ => format!("it runs as {whose} {id}, whoever runs it (mode {:04o})", attr.mode),
    };
    let gains = brought.before.as_ref().is_some_and(|b| rights(b.attr.mode) != rights(attr.mode));
    of_package(context, &SETUID, &brought.node, gains, message, findings)
}

/// A finding that deserves a look, less of it where a package has brought what is found, just as it
/// is: then its maintainers have thought of it, and it is there because the package was asked for.
/// Rights that a file `gains` are none of a package's that was there before in this version.
pub(super) fn of_package(
    context: &Context<'_>,
    lint: &'static Lint,
    node: &Node,
    gains: bool,
    message: String,
    findings: &mut Findings<'_>,
) -> Result<(), Stopped> {
    let view = &context.roots()?.view;
    let finding = |message| Finding::new(lint, context.layer(node), Some(&node.path), message);
    findings.push(match context.package(&node.path)? {
        Some(package)
            if package.brought(view, node)? && !(gains && context.has_below(package)?) =>
        {
            let message = format!("{message}; the package {} brings it", package.name);
            finding(message).severity(Severity::Note)
        }
        _ => finding(message),
    });
    Ok(())
}

fn capability(
    context: &Context<'_>,
    brought: &Brought,
    findings: &mut Findings<'_>,
) -> Result<(), Stopped> {
    let Roots { view, below } = context.roots()?;
    const NAME: &[u8] = b"security.capability";
    let of = |xattrs: Vec<fs_model::layer::Xattr>| {
        xattrs.into_iter().find(|(name, _)| &name[..] == NAME).map(|(_, value)| value)
    };
    let Some(value) = of(view.xattrs(&brought.node)?) else { return Ok(()) };
    if let (Some(before), Some(below)) = (&brought.before, below)
        && of(below.xattrs(before)?).as_ref() == Some(&value)
    {
        return Ok(());
    }
    let message = format!("it has capabilities: {}", capabilities(&value));
    let gains = brought.before.is_some();
    of_package(context, &CAPABILITY, &brought.node, gains, message, findings)
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
