//! Access to `/dev/kvm`, and the change that gives it to this user.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, getgroups};

use crate::sandbox::{find_program, group, user_name};

/// The device of KVM.
pub(crate) const DEVICE: &str = "/dev/kvm";
/// The bits of a mode with which the group may use the device.
const GROUP_ACCESS: u32 = 0o060;

/// Opens the device as QEMU does.
///
/// # Errors
/// Fails if it does not exist or this user may not use it.
pub(crate) fn open() -> io::Result<File> {
    File::options().read(true).write(true).open(DEVICE)
}

/// The change that lets this user open the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KvmRemedy {
    /// A command for root.
    pub command: Option<String>,
    /// Other advice.
    pub advice: Option<&'static str>,
}

/// Returns the change that gives access after [`open`] failed with `error`; `None` if permissions
/// are not the cause.
///
/// A group is only advised if it owns the device and its members may use it: the group is not
/// called `kvm` everywhere, and in a container the device can belong to root alone.
pub(crate) fn remedy(error: &io::Error) -> Option<KvmRemedy> {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return None;
    }
    if error.raw_os_error() == Some(Errno::EPERM as i32) {
        let advice = "the device cgroup denies it: start the container with --device /dev/kvm";
        return Some(KvmRemedy { command: None, advice: Some(advice) });
    }
    let user = user_name(Uid::current());
    let group = std::fs::metadata(Path::new(DEVICE)).ok().and_then(|meta| {
        let gid = Gid::from_raw(meta.gid());
        let is_useful = meta.mode() & GROUP_ACCESS == GROUP_ACCESS && gid.as_raw() != 0;
        let is_member = gid == Gid::effective() || getgroups().is_ok_and(|all| all.contains(&gid));
        // Membership that does not help: an access control list decides.
        let group = group(gid)?;
        (is_useful && !is_member).then_some(group)
    });
    let name = user.unwrap_or_else(|| Uid::current().to_string());
    Some(match group {
        Some(group) if group.members.contains(&name) => KvmRemedy {
            command: None,
            advice: Some("log in again: this session began before the user joined the group"),
        },
        Some(group) => KvmRemedy {
            command: Some(format!("usermod --append --groups {} {name}", group.name)),
            advice: Some("log in again afterwards"),
        },
        None if find_program("setfacl").is_some() => KvmRemedy {
            command: Some(format!("setfacl --modify u:{name}:rw {DEVICE}")),
            advice: Some("udev restores the permissions at the next boot"),
        },
        None => KvmRemedy {
            command: Some(format!("chmod 666 {DEVICE}")),
            advice: Some("udev restores the permissions at the next boot"),
        },
    })
}
