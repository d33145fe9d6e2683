//! The configuration of a sandbox, decided before anything is forked.

use std::path::{Path, PathBuf};

use super::error::SandboxError;
use super::privilege::Privilege;

/// The network that commands see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The host's network.
    #[default]
    Host,
    /// Only a loopback interface.
    None,
}

/// A directory or file of the host that is shown inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host; symbolic links are followed.
    pub host: PathBuf,
    /// The absolute path inside.
    pub inside: PathBuf,
    /// Whether the bind and all mounts below it are read-only. This guards against accidents: root
    /// inside can mount, and so can make it writable again.
    pub read_only: bool,
}

/// The configuration for [`Sandbox::fork`](super::Sandbox::fork).
#[derive(Debug, Clone)]
pub struct Plan {
    /// The privilege to use.
    pub privilege: Privilege,
    /// The network that the commands see.
    pub network: Network,
    /// The host's files shown inside, in mount order: a later bind may be inside an earlier one.
    pub binds: Vec<Bind>,
    /// The host name inside.
    pub hostname: String,
    /// Whether the root is mounted read-only.
    pub read_only_root: bool,
    /// Maximum bytes in each of the sandbox's own file systems in memory (`/run`, `/tmp`,
    /// `/dev/shm`), instead of half of the machine's memory.
    pub memory_files: Option<u64>,
}

/// The type of a mount point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MountPointKind {
    /// A directory.
    Directory,
    /// An ordinary file, empty as a rule.
    File,
    /// An empty directory whose content is in no delta.
    Scratch,
}

/// A path in the root where the sandbox mounts something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountPoint {
    /// The path from the root, without a leading slash and without `.` and `..`.
    pub path: PathBuf,
    /// The type it must have.
    pub kind: MountPointKind,
}

impl Plan {
    /// Creates a plan without binds, with the host's network and a writable root.
    pub fn new(privilege: Privilege) -> Self {
        Plan {
            privilege,
            network: Network::Host,
            binds: Vec::new(),
            hostname: "overcoat".to_owned(),
            read_only_root: false,
            memory_files: None,
        }
    }

    /// Returns the paths that must exist in the root, with their parents, when
    /// [`Starting::enter`](super::Starting::enter) is called. The owner of the tree creates them as
    /// scratch entries. Paths that another mount hides are not listed: the sandbox creates those in
    /// its own `/dev`, `/run` and `/tmp`, and those in an earlier bind must exist there.
    ///
    /// # Errors
    /// Fails for a bind whose host path is missing, or whose inside path is not absolute, is the
    /// root, or contains `..`.
    pub fn mount_points(&self) -> Result<Vec<MountPoint>, SandboxError> {
        let point = |kind| move |path: &&str| MountPoint { path: path.into(), kind };
        let mut points: Vec<MountPoint> =
            SYSTEM_MOUNTS.iter().map(point(MountPointKind::Directory)).collect();
        if self.privilege == Privilege::None {
            points.extend([TREE_RUN, TREE_TMP].iter().map(point(MountPointKind::Scratch)));
        }
        let mut taken: Vec<PathBuf> = SYSTEM_MOUNTS.iter().map(PathBuf::from).collect();
        for bind in &self.binds {
            let path = inside_path(&bind.inside)?;
            let kind = bind_kind(&bind.host)?;
            if taken.contains(&path) {
                return Err(SandboxError::Invalid(format!(
                    "cannot show {} at /{}: something else is mounted there",
                    bind.host.display(),
                    path.display()
                )));
            }
            if !taken.iter().any(|earlier| path.starts_with(earlier)) {
                points.push(MountPoint { path: path.clone(), kind });
            }
            taken.push(path);
        }
        Ok(points)
    }

    /// Returns the mount points in the root, as paths without a leading slash.
    pub fn mounts(&self) -> Vec<PathBuf> {
        let binds = self.binds.iter().filter_map(|bind| inside_path(&bind.inside).ok());
        SYSTEM_MOUNTS.iter().map(PathBuf::from).chain(binds).collect()
    }
}

/// Directories that always have their own mount.
pub(super) const SYSTEM_MOUNTS: [&str; 5] = ["dev", "proc", "sys", "run", "tmp"];

/// Directories of the tree that are shown as `/run` and `/tmp` where the sandbox has no file
/// systems in memory for these. `/dev` is mounted over them.
pub(super) const TREE_RUN: &str = "dev/.overcoat/run";
pub(super) const TREE_TMP: &str = "dev/.overcoat/tmp";

/// Returns an inside path as a clean relative path.
pub(super) fn inside_path(inside: &Path) -> Result<PathBuf, SandboxError> {
    use std::path::Component;
    let mut clean = PathBuf::new();
    let mut components = inside.components();
    let mut good = components.next() == Some(Component::RootDir);
    for component in components {
        match component {
            Component::Normal(name) => clean.push(name),
            _ => good = false,
        }
    }
    if !good || clean.as_os_str().is_empty() {
        return Err(SandboxError::Invalid(format!(
            "cannot show a file at {}: the path must be absolute, below the root and without `..`",
            inside.display()
        )));
    }
    Ok(clean)
}

fn bind_kind(host: &Path) -> Result<MountPointKind, SandboxError> {
    match std::fs::metadata(host) {
        Ok(metadata) if metadata.is_dir() => Ok(MountPointKind::Directory),
        Ok(_) => Ok(MountPointKind::File),
        Err(source) => Err(SandboxError::Bind { path: host.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inside_paths_are_absolute_and_clean() {
        assert_eq!(inside_path(Path::new("/a//b/./c/")).unwrap(), Path::new("a/b/c"));
        for bad in ["a", "/", "/../a", "/a/../b", ""] {
            assert!(inside_path(Path::new(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn mount_points_have_the_type_of_the_host_path() {
        let mut plan = Plan::new(Privilege::Root);
        for (host, inside) in [("/etc", "/srv/etc"), ("/etc/passwd", "/srv/passwd")] {
            plan.binds.push(Bind { host: host.into(), inside: inside.into(), read_only: true });
        }
        let points = plan.mount_points().unwrap();
        assert_eq!(points[0].path, Path::new("dev"));
        assert_eq!(points[5].kind, MountPointKind::Directory);
        assert_eq!(points[6].kind, MountPointKind::File);
        for inside in ["/srv/etc/apt", "/run/etc"] {
            plan.binds.push(Bind { host: "/etc".into(), inside: inside.into(), read_only: true });
        }
        assert_eq!(plan.mount_points().unwrap(), points, "hidden mount points are not listed");
        plan.binds.push(plan.binds[0].clone());
        assert!(plan.mount_points().unwrap_err().to_string().contains("something else"));
        plan.binds.pop();
        plan.binds[0].host = "/does/not/exist".into();
        assert!(plan.mount_points().unwrap_err().to_string().contains("/does/not/exist"));
    }
}
