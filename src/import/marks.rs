//! Files that a running container leaves in its root file system, and that a machine must not have.

use std::collections::BTreeSet;

use fs_model::tree::SetAttr;
use fs_model::{FileType, Ino, Tree};

use super::{ImportError, at};

/// A path by which programs know a container, or which only one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Without a leading slash.
    path: &'static str,
    /// The reason why programs see a container.
    pub meaning: &'static str,
}

/// The marks; systemd's `detect_container` (src/basic/virt.c) and virt-what know most of them.
const MARKS: [Mark; 13] = [
    Mark { path: ".dockerenv", meaning: "by this file programs know a container of Docker" },
    Mark { path: ".dockerinit", meaning: "by this file programs know a container of Docker" },
    Mark { path: "run/.containerenv", meaning: "by this file programs know a container of Podman" },
    Mark { path: "run/.toolboxenv", meaning: "by this file programs know a container of Toolbx" },
    Mark { path: "run/systemd/container", meaning: "systemd writes it in containers" },
    Mark { path: "run/systemd/nspawn", meaning: "systemd-nspawn makes it in containers" },
    Mark { path: "run/host", meaning: "container managers show the host here" },
    Mark { path: "run/secrets", meaning: "container managers show secrets here" },
    Mark { path: "run/container_type", meaning: "by this file programs know a container of LXC" },
    Mark { path: "dev/.lxc", meaning: "LXC makes it in containers" },
    Mark { path: "dev/.lxc-boot-id", meaning: "LXC makes it in containers" },
    Mark { path: "dev/lxc", meaning: "LXC makes it in containers" },
    Mark { path: ".singularity.d", meaning: "by this folder programs know an Apptainer container" },
];

/// Directories in which only the running system has something.
const VOLATILE: [&[u8]; 2] = [b"proc", b"sys"];
/// The links at the root that Apptainer makes into its folder.
const SINGULARITY: &[u8] = b".singularity.d/";

/// The mark at a path, if there is one.
pub fn mark(path: &[u8]) -> Option<&'static Mark> {
    MARKS.iter().find(|mark| mark.path.as_bytes() == path)
}

/// Removes from an imported tree the files that only a running container or system has: the marks,
/// sockets (no process listens to them), and the content of /proc and /sys. Returns the removed
/// paths in order, a directory without its content.
///
/// # Errors
/// When the tree refuses a change.
pub fn remove(tree: &Tree) -> Result<Vec<Vec<u8>>, ImportError> {
    let mut sweep = Sweep { tree, removed: BTreeSet::new() };
    sweep.directory(&mut Vec::new(), Ino::ROOT, false)?;
    Ok(sweep.removed.into_iter().collect())
}

struct Sweep<'a> {
    tree: &'a Tree,
    removed: BTreeSet<Vec<u8>>,
}

impl Sweep<'_> {
    /// Removes entries of a directory: `all` of them, or those that only a running system has.
    fn directory(&mut self, path: &mut Vec<u8>, dir: Ino, all: bool) -> Result<(), ImportError> {
        let mut names = Vec::new();
        let listed = self.tree.read_dir(dir, 0, |item| {
            if item.name != b"." && item.name != b".." {
                names.push(item.name.to_vec());
            }
            true
        });
        listed.map_err(at(path))?;
        let (before, removed) = (self.tree.attr(dir).map_err(at(path))?, self.removed.len());
        for name in names {
            let length = path.len();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let entry = self.tree.lookup(dir, &name).map_err(at(path))?;
            let result = self.object(path, &name, dir, entry.ino, entry.attr.kind, all);
            self.tree.forget(entry.ino, 1);
            result?;
            path.truncate(length);
        }
        if self.removed.len() > removed {
            // Removing an entry has changed the time.
            let set = SetAttr { mtime: Some(before.mtime), ..SetAttr::default() };
            self.tree.set_attr(dir, &set).map_err(at(path))?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        path: &mut Vec<u8>,
        name: &[u8],
        dir: Ino,
        ino: Ino,
        kind: FileType,
        all: bool,
    ) -> Result<(), ImportError> {
        let is_volatile = path
            .iter()
            .rposition(|&byte| byte == b'/')
            .is_some_and(|slash| VOLATILE.contains(&&path[..slash]));
        let is_link = kind == FileType::Symlink
            && dir == Ino::ROOT
            && self.tree.read_link(ino).map_err(at(path))?.starts_with(SINGULARITY);
        let found = is_volatile || is_link || kind == FileType::Socket || mark(path).is_some();
        let remove = all || found;
        if kind == FileType::Directory {
            self.directory(path, ino, remove)?;
        }
        if remove {
            match kind {
                FileType::Directory => self.tree.rmdir(dir, name).map_err(at(path))?,
                _ => self.tree.unlink(dir, name).map_err(at(path))?,
            }
            if !all {
                self.removed.insert(path.clone());
            }
        }
        Ok(())
    }
}
