//! What should be different on every machine, and what dates a build.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::walk::{entries, revert_all, revert_matching};
use crate::machine::{Kind, Machine, MachineError, Meta, Node};
use crate::run::Options;

const DAY: i64 = 86_400;

/// What tells open-iscsi to make a name.
const GENERATE: &[u8] = b"GenerateName=yes\n";

/// The third field of a line of /etc/shadow is the day of the last change of the password. Tools
/// that honour `SOURCE_DATE_EPOCH` write its day already; others write today's. Lines that the
/// layers have stay as they are.
pub(super) fn account_dates(
    machine: &mut dyn Machine,
    options: &Options,
) -> Result<(), MachineError> {
    let path = Path::new("/etc/shadow");
    let Some(epoch) = options.source_date_epoch else { return Ok(()) };
    let (Some(content), Some(stat)) = (machine.read(path)?, machine.stat(path)?) else {
        return Ok(());
    };
    let before = machine.read_below(path)?.unwrap_or_default();
    let clamped = clamp_dates(&content, &before, epoch.div_euclid(DAY));
    if clamped == content || stat.kind != Kind::File {
        return Ok(());
    }
    let meta =
        Meta { mode: Some(stat.mode), uid: stat.uid, gid: stat.gid, mtime: Some(stat.mtime) };
    machine.put(path, Node::File(&mut &clamped[..]), &meta)
}

/// Lines that are not in `before` get no later day than `day`.
fn clamp_dates(content: &[u8], before: &[u8], day: i64) -> Vec<u8> {
    let end = |line: &[u8]| line.strip_suffix(b"\n").unwrap_or(line).to_vec();
    let before: BTreeSet<_> = before.split_inclusive(|b| *b == b'\n').map(end).collect();
    let lines = content.split_inclusive(|b| *b == b'\n').map(|line| {
        if before.contains(&end(line)) {
            return line.to_vec();
        }
        let mut fields: Vec<&[u8]> = line.split(|b| *b == b':').collect();
        let changed: Option<i64> =
            fields.get(2).and_then(|f| std::str::from_utf8(f).ok()).and_then(|f| f.parse().ok());
        let text = day.to_string();
        if changed.is_some_and(|changed| changed > day) {
            fields[2] = text.as_bytes();
        }
        fields.join(&b':')
    });
    lines.collect::<Vec<_>>().concat()
}

/// An id that the build made is taken back. Where the base has none, an empty file stays, which
/// tells systemd to make one at start even if it can't write the file.
pub(super) fn machine_id(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    let path = Path::new("/etc/machine-id");
    if let Some(stat) = machine.stat(path)?
        && stat.kind == Kind::File
        && stat.size > 0
    {
        machine.revert(path)?;
        if machine.stat(path)?.is_none() {
            let meta = Meta { mode: Some(0o444), uid: 0, gid: 0, mtime: Some(stat.mtime) };
            machine.put(path, Node::File(&mut std::io::empty()), &meta)?;
        }
    }
    let dbus = Path::new("/var/lib/dbus/machine-id");
    match machine.stat(dbus)? {
        Some(stat) if stat.kind == Kind::File => machine.revert(dbus),
        _ => Ok(()),
    }
}

/// Ids by which a machine is known to its storage. nvme-cli does without (it derives one from the
/// firmware's UUID); open-iscsi wants its file, in which a word tells it to make one at its start.
pub(super) fn host_ids(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_all(machine, &["/etc/nvme/hostnqn", "/etc/nvme/hostid", "/etc/hostid"])?;
    let path = Path::new("/etc/iscsi/initiatorname.iscsi");
    let Some(stat) = machine.stat(path)?.filter(|stat| stat.kind == Kind::File) else {
        return Ok(());
    };
    if machine.read(path)?.as_deref() == Some(GENERATE) {
        return Ok(());
    }
    machine.revert(path)?;
    if machine.stat(path)?.is_some() {
        return Ok(());
    }
    let meta =
        Meta { mode: Some(stat.mode), uid: stat.uid, gid: stat.gid, mtime: Some(stat.mtime) };
    machine.put(path, Node::File(&mut &GENERATE[..]), &meta)
}

pub(super) fn random_seeds(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_all(
        machine,
        &[
            "/var/lib/systemd/random-seed",
            "/var/lib/systemd/credential.secret",
            "/var/lib/urandom/random-seed",
            "/var/lib/random-seed",
        ],
    )
}

pub(super) fn ssh_host_keys(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_matching(machine, "/etc/ssh", |entry| {
        let name = entry.name.as_bytes();
        name.starts_with(b"ssh_host_") && (name.ends_with(b"_key") || name.ends_with(b"_key.pub"))
    })?;
    revert_matching(machine, "/etc/dropbear", |entry| {
        let name = entry.name.as_bytes();
        name.starts_with(b"dropbear_") && name.ends_with(b"_host_key")
    })
}

/// The certificate has a second name, a link that is called by its hash.
pub(super) fn ssl_snakeoil(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    let certificates = Path::new("/etc/ssl/certs");
    let certificate = Path::new("/etc/ssl/certs/ssl-cert-snakeoil.pem");
    if machine.stat(certificate)?.is_some() {
        let content = machine.read(certificate)?;
        let mut links: Vec<PathBuf> = Vec::new();
        for entry in entries(machine, certificates)? {
            let name = entry.name.as_bytes();
            let is_hash = name.len() == 10
                && name.ends_with(b".0")
                && name[..8].iter().all(u8::is_ascii_hexdigit);
            let path = certificates.join(&entry.name);
            if is_hash && entry.kind == Kind::Symlink && machine.read(&path)? == content {
                links.push(path);
            }
        }
        for path in links {
            machine.revert(&path)?;
        }
    }
    revert_all(
        machine,
        &["/etc/ssl/certs/ssl-cert-snakeoil.pem", "/etc/ssl/private/ssl-cert-snakeoil.key"],
    )
}

#[cfg(test)]
mod tests {
    use super::clamp_dates;

    #[test]
    fn the_days_of_a_base_stay() {
        let base = b"root:*:20700:0:99999:7:::\nlldpd:!:20700::::::\n";
        let shadow = b"root:*:20700:0:99999:7:::\nlldpd:*:20800::::::\nnew:!:20800::::::\n";
        assert_eq!(
            String::from_utf8(clamp_dates(shadow, base, 19_675)).unwrap(),
            "root:*:20700:0:99999:7:::\nlldpd:*:19675::::::\nnew:!:19675::::::\n"
        );
    }

    #[test]
    fn only_days_after_the_epoch_are_changed() {
        let shadow =
            b"root:*:19000:0:99999:7:::\nlldpd:!:20779::::::\nx:!::::::\nno newline:!:20779";
        assert_eq!(
            String::from_utf8(clamp_dates(shadow, b"", 19_675)).unwrap(),
            "root:*:19000:0:99999:7:::\nlldpd:!:19675::::::\nx:!::::::\nno newline:!:19675"
        );
    }
}
