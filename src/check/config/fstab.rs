//! File systems that the machine mounts at boot: fstab(5), crypttab(5), as
//! systemd-fstab-generator(8), systemd-cryptsetup-generator(8) and mount(8) read them.

use std::collections::BTreeMap;

use super::inspector::{Inspector, lines_with_cr, shown};
use crate::check::context::program;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{LookError, StackView};

pub(super) static FSTAB: Lint = Lint {
    name: "config/fstab",
    severity: Severity::Error,
    summary: "an invalid entry in fstab or crypttab",
    why: "mount(8) and systemd ignore an entry that they cannot parse, and the second of two \
          entries with the same mount point: the file system is not mounted. Without the helper of \
          its type, a mount fails; if it is a local file system without `nofail`, the boot ends in \
          emergency mode.",
    fix: "correct the entry; `findmnt --verify` prints details",
};

pub(super) static FSTAB_DEVICE: Lint = Lint {
    name: "config/fstab-device",
    severity: Severity::Error,
    summary: "an entry of fstab or crypttab for a disk that a machine may lack",
    why: "A machine that boots from the network may have no disk, or another one. systemd waits 90 \
          seconds for the device. If a local file system is then missing, the boot ends in \
          emergency mode; without swap, a network file system or an encrypted device, it \
          continues.",
    fix: "add the option `nofail` or `noauto`, or remove the entry",
};

pub(super) static FSTAB_ROOT: Lint = Lint {
    name: "config/fstab-root",
    severity: Severity::Warning,
    summary: "an entry of fstab for the root file system",
    why: "The root of a machine that boots from the network is not on this device. At boot, \
          systemd-remount-fs applies the options of the entry to the root; it fails if the options \
          are those of another type of file system.",
    fix: "remove the entry: the root needs none",
};

/// Sources that are disks or parts of them.
const DEVICES: [&str; 16] = [
    "/dev/sd",
    "/dev/hd",
    "/dev/vd",
    "/dev/xvd",
    "/dev/nvme",
    "/dev/mmcblk",
    "/dev/md",
    "/dev/dm-",
    "/dev/mapper/",
    "/dev/disk/",
    "/dev/cciss/",
    "UUID=",
    "LABEL=",
    "PARTUUID=",
    "PARTLABEL=",
    "ID=",
];
/// Types of network file systems, for whose mounts the boot does not wait.
const NETWORK_TYPES: [&str; 14] = [
    "afs",
    "ceph",
    "cifs",
    "davfs",
    "fuse.sshfs",
    "gfs",
    "gfs2",
    "glusterfs",
    "lustre",
    "ncpfs",
    "nfs",
    "nfs4",
    "smb3",
    "sshfs",
];
/// Types that need a program `mount.TYPE`, with the option without which it is needed.
const HELPERS: [(&str, Option<&str>); 12] = [
    ("cifs", Some("ip")),
    ("davfs", None),
    ("fuse.ceph", None),
    ("fuse.glusterfs", None),
    ("glusterfs", None),
    ("lustre", None),
    ("nfs", Some("addr")),
    ("nfs4", Some("addr")),
    ("ntfs-3g", None),
    ("ocfs2", None),
    ("smb3", Some("ip")),
    ("sshfs", None),
];

/// Options of an entry.
struct Options<'a>(&'a str);

impl Options<'_> {
    fn has(&self, name: &str) -> bool {
        self.0.split(',').any(|option| option == name)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.0.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns whether the last of two opposite options is `yes`.
    fn is(&self, yes: &str, no: &str) -> bool {
        self.0.split(',').rfind(|option| *option == yes || *option == no) == Some(yes)
    }

    /// Returns whether the boot does not need the device.
    fn is_optional(&self) -> bool {
        let automount = ["x-systemd.automount", "comment=systemd.automount"];
        self.is("nofail", "fail")
            || self.is("noauto", "auto")
            || automount.iter().any(|option| self.has(option))
            || self.value("x-systemd.wanted-by").is_some()
    }
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    fstab(&mut inspector)?;
    crypttab(&mut inspector)
}

fn fstab(inspector: &mut Inspector<'_>) -> Result<(), PassError> {
    let Some(file) = inspector.file("etc/fstab")? else { return Ok(()) };
    let with_cr = lines_with_cr(&file);
    let mut mount_points: BTreeMap<&str, usize> = BTreeMap::new();
    for (line, text) in file.entries(&['#']) {
        let fault = |lint, message| Fault::new(lint, &file.node, message).line(line);
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [source, target, kind, rest @ ..] = &fields[..] else {
            let message = format!("it has {} fields, not 3 to 6", fields.len());
            inspector.add(fault(&FSTAB, message));
            continue;
        };
        if *kind == "ignore" {
            continue;
        }
        let options = Options(rest.first().copied().unwrap_or_default());
        if rest.len() == 1 && with_cr.contains(&line) {
            let message = "the line ends with CR, which systemd reads as part of the options";
            inspector.add(fault(&FSTAB, message.to_owned()));
        }
        for (name, value) in ["dump", "pass"].iter().zip(rest.iter().skip(1)) {
            if value.parse::<i32>().is_err() {
                let message = format!("its {name} field `{}` is not a number", shown(value));
                inspector.add(fault(&FSTAB, message));
            }
        }
        for field in [source, target] {
            if let Some(escape) = invalid_escape(field) {
                let message = format!("invalid escape `{escape}`: a blank is written \\040");
                inspector.add(fault(&FSTAB, message));
            }
        }
        let source = source.replace('"', "");
        if *kind == "swap" {
            if is_disk(&source) && !options.is_optional() {
                let message = missing_device(&source);
                inspector.add(fault(&FSTAB_DEVICE, message).severity(Severity::Warning));
            }
            continue;
        }
        if !target.starts_with('/') {
            let message = format!("the mount point {} is not an absolute path", shown(target));
            inspector.add(fault(&FSTAB, message));
            continue;
        }
        let point = match target.trim_end_matches('/') {
            "" => "/",
            point => point,
        };
        match mount_points.get(point) {
            Some(first) => {
                let message =
                    format!("the mount point {} is also that of line {first}", shown(point));
                inspector.add(fault(&FSTAB, message));
                continue;
            }
            None => drop(mount_points.insert(point, line)),
        }
        if point == "/" {
            if is_disk(&source) {
                let message = format!("the root is not on {}", shown(&source));
                inspector.add(fault(&FSTAB_ROOT, message));
            }
            continue;
        }
        if is_disk(&source) && !options.is_optional() {
            let remote = NETWORK_TYPES.contains(kind) || options.has("_netdev");
            let severity = if remote { Severity::Warning } else { Severity::Error };
            inspector.add(fault(&FSTAB_DEVICE, missing_device(&source)).severity(severity));
        }
        if let Some((message, cause)) = missing_helper(inspector.view, kind, &options)? {
            let fault = fault(&FSTAB, message).cause(cause.as_bytes());
            let fix = format!("install the program of the type {}", shown(kind));
            inspector.add(fault.fix(fix));
        }
    }
    Ok(())
}

fn crypttab(inspector: &mut Inspector<'_>) -> Result<(), PassError> {
    let Some(file) = inspector.file("etc/crypttab")? else { return Ok(()) };
    for (line, text) in file.entries(&['#']) {
        let fields: Vec<&str> = text.split_ascii_whitespace().collect();
        let [_, device, rest @ ..] = &fields[..] else {
            let fault = Fault::new(&FSTAB, &file.node, "it has 1 field, not 2 to 4").line(line);
            inspector.add(fault);
            continue;
        };
        let options = Options(rest.get(1).copied().unwrap_or_default());
        let device = device.replace('"', "");
        if is_disk(&device) && !options.is_optional() {
            let fault = Fault::new(&FSTAB_DEVICE, &file.node, missing_device(&device)).line(line);
            inspector.add(fault.severity(Severity::Warning));
        }
    }
    Ok(())
}

fn is_disk(source: &str) -> bool {
    DEVICES.iter().any(|device| source.starts_with(device))
}

fn missing_device(source: &str) -> String {
    format!("a machine may lack {}, and the entry has neither nofail nor noauto", shown(source))
}

/// Returns a backslash that begins no escape, with the characters after it. libmount decodes three
/// octal digits; glibc also decodes a double backslash.
fn invalid_escape(field: &str) -> Option<&str> {
    let mut at = 0;
    while let Some(found) = field[at..].find('\\') {
        let start = at + found;
        let rest = &field[start + 1..];
        let digits = rest.bytes().take(3).filter(|byte| (b'0'..=b'7').contains(byte)).count();
        if rest.starts_with('\\') {
            at = start + 2;
        } else if digits == 3 {
            at = start + 4;
        } else {
            let end = rest.char_indices().nth(3).map_or(rest.len(), |(end, _)| end);
            return Some(&field[start..start + 1 + end]);
        }
    }
    None
}

/// Describes the missing program of a type of file system, with its path.
fn missing_helper(
    view: &StackView,
    kind: &str,
    options: &Options<'_>,
) -> Result<Option<(String, String)>, LookError> {
    let has = |name: &str| Ok::<_, LookError>(program(view, name.as_bytes())?.is_some());
    let helper = format!("mount.{kind}");
    if let Some((_, option)) = HELPERS.iter().find(|(name, _)| *name == kind) {
        let without = option.is_some_and(|option| options.value(option).is_some());
        if without || has(&helper)? {
            return Ok(None);
        }
        let message = format!("the type {kind} needs the program {helper}, which does not exist");
        return Ok(Some((message, format!("usr/sbin/{helper}"))));
    }
    let (fuse, of) = match kind.split_once('.') {
        Some((fuse @ ("fuse" | "fuse3"), of)) if !of.is_empty() && !of.contains('/') => (fuse, of),
        _ => return Ok(None),
    };
    if has(&helper)? {
        return Ok(None);
    }
    if !has(&format!("mount.{fuse}"))? {
        let message = format!(
            "the type {} needs the program mount.{fuse}, which does not exist",
            shown(kind)
        );
        return Ok(Some((message, format!("usr/sbin/mount.{fuse}"))));
    }
    if !has(of)? {
        let message = format!(
            "the type {} needs the program {}, which does not exist",
            shown(kind),
            shown(of)
        );
        return Ok(Some((message, format!("usr/bin/{of}"))));
    }
    Ok(None)
}
