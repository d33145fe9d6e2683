//! Clean-up of ids and keys that must be unique to a machine, and of dates of the build.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::walk::{entries, revert_all, revert_matching};
use crate::machine::{Kind, Machine, MachineError, Meta, Node};
use crate::options::Options;

const SECONDS_PER_DAY: i64 = 86_400;

/// Content of initiatorname.iscsi with which open-iscsi generates a name at its start.
const GENERATE_NAME: &[u8] = b"GenerateName=yes\n";

/// Limits dates of password changes, the third field in /etc/shadow, to `SOURCE_DATE_EPOCH`. Some
/// tools honour `SOURCE_DATE_EPOCH`, others write the current day. Lines of the lower layers are
/// not changed.
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
    let clamped = clamp_dates(&content, &before, epoch.div_euclid(SECONDS_PER_DAY));
    if clamped == content || stat.kind != Kind::File {
        return Ok(());
    }
    let meta =
        Meta { mode: Some(stat.mode), uid: stat.uid, gid: stat.gid, mtime: Some(stat.mtime) };
    machine.put(path, Node::File(&mut &clamped[..]), &meta)
}

/// Replaces days after `day` by `day`, except in lines that are also in `before`.
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

/// Reverts a machine id that the build created. If the base has none, leaves an empty file: with
/// that, systemd generates an id at boot even if it cannot write the file.
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

/// Reverts the ids by which storage identifies a host. nvme-cli needs no file, since it derives an
/// id from the firmware's UUID. open-iscsi requires a file, so it gets one with `GenerateName`.
pub(super) fn host_ids(machine: &mut dyn Machine, _: &Options) -> Result<(), MachineError> {
    revert_all(machine, &["/etc/nvme/hostnqn", "/etc/nvme/hostid", "/etc/hostid"])?;
    let path = Path::new("/etc/iscsi/initiatorname.iscsi");
    let Some(stat) = machine.stat(path)?.filter(|stat| stat.kind == Kind::File) else {
        return Ok(());
    };
    if machine.read(path)?.as_deref() == Some(GENERATE_NAME) {
        return Ok(());
    }
    machine.revert(path)?;
    if machine.stat(path)?.is_some() {
        return Ok(());
    }
    let meta =
        Meta { mode: Some(stat.mode), uid: stat.uid, gid: stat.gid, mtime: Some(stat.mtime) };
    machine.put(path, Node::File(&mut &GENERATE_NAME[..]), &meta)
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

/// Reverts the certificate, its key, and the link to it that is named after its hash.
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
    fn lines_of_base_keep_their_days() {
        let base = b"root:*:20700:0:99999:7:::\nlldpd:!:20700::::::\n";
        let shadow = b"root:*:20700:0:99999:7:::\nlldpd:*:20800::::::\nnew:!:20800::::::\n";
        assert_eq!(
            String::from_utf8(clamp_dates(shadow, base, 19_675)).unwrap(),
            "root:*:20700:0:99999:7:::\nlldpd:*:19675::::::\nnew:!:19675::::::\n"
        );
    }

    #[test]
    fn only_days_after_epoch_are_changed() {
        let shadow =
            b"root:*:19000:0:99999:7:::\nlldpd:!:20779::::::\nx:!::::::\nno newline:!:20779";
        assert_eq!(
            String::from_utf8(clamp_dates(shadow, b"", 19_675)).unwrap(),
            "root:*:19000:0:99999:7:::\nlldpd:!:19675::::::\nx:!::::::\nno newline:!:19675"
        );
    }
}
