//! Mounts in the host's namespace, as root and with fusermount3.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{ServedTree, at_both_privileges};
use nix::unistd::{getegid, geteuid};
use overcoat::fuse::{Serving, View};
use overcoat::sandbox::{HostMount, MountOptions, unmount};

/// A directory to mount on; dropping it removes the mount and the directory.
struct MountDir(PathBuf);

impl MountDir {
    fn new(name: &str) -> Self {
        let uid = geteuid();
        let dir = std::env::temp_dir().join(format!("overcoat-mount {name}-{uid}"));
        let _ = unmount(&dir, true);
        let _ = fs::remove_dir(&dir);
        fs::create_dir(&dir).unwrap();
        MountDir(dir)
    }
}

impl Drop for MountDir {
    fn drop(&mut self) {
        let _ = unmount(&self.0, true);
        let _ = fs::remove_dir(&self.0);
    }
}

/// Mounts the base for the current user, as the program does.
fn mount(dir: &Path, read_only: bool) -> Serving {
    let mount =
        HostMount::new(dir, &MountOptions { read_only, ..MountOptions::default() }).unwrap();
    let (uid, gid) = (geteuid(), getegid());
    let owner = (!uid.is_root()).then(|| (uid.as_raw(), gid.as_raw()));
    ServedTree::with(View { max_id: u32::MAX, owner, unprivileged: owner.is_some() })
        .serve(mount.into_fuse_fd())
}

#[test]
fn mount_is_visible_on_the_host_until_unmounted() {
    at_both_privileges(|| {
        let dir = MountDir::new("seen");
        let serving = mount(&dir.0, false);
        let release = fs::read_to_string(dir.0.join("usr/lib/os-release")).unwrap();
        assert!(release.contains("Debian"), "{release}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mounts.lines().find(|line| line.contains("overcoat-mount\\040seen")).unwrap();
        assert!(line.contains(" - fuse.overcoat overcoat rw"), "{line}");

        let open = fs::File::open(dir.0.join("usr/lib/os-release")).unwrap();
        let busy = unmount(&dir.0, false).unwrap_err().to_string();
        assert!(busy.contains("in use"), "{busy}");
        drop(open);
        unmount(&dir.0, false).unwrap();
        serving.wait().unwrap();
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 0);
        let twice = unmount(&dir.0, false).unwrap_err().to_string();
        assert!(twice.contains("nothing mounted"), "{twice}");
    });
}

#[test]
fn read_only_mount_rejects_writes() {
    at_both_privileges(|| {
        let dir = MountDir::new("ro");
        let serving = mount(&dir.0, true);
        let error = fs::write(dir.0.join("new"), "").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        unmount(&dir.0, false).unwrap();
        serving.wait().unwrap();
    });
}

#[test]
fn mount_without_its_server_can_be_unmounted() {
    at_both_privileges(|| {
        let dir = MountDir::new("dead");
        drop(HostMount::new(&dir.0, &MountOptions::default()).unwrap());
        let error = HostMount::new(&dir.0, &MountOptions::default()).unwrap_err().full_text();
        assert!(error.contains("overcoat umount"), "{error}");
        unmount(&dir.0, false).unwrap();
    });
}

#[test]
fn invalid_mount_points_are_reported() {
    at_both_privileges(|| {
        let error = |dir: &str| {
            HostMount::new(Path::new(dir), &MountOptions::default()).unwrap_err().to_string()
        };
        let missing = error("/no/such/dir");
        assert!(missing.contains("/no/such/dir: No such file"), "{missing}");
        assert!(error("/etc/passwd").contains("not a directory"));
        if !geteuid().is_root() {
            let denied = error("/usr");
            assert!(denied.contains("/usr"), "{denied}");
        }
    });
}
