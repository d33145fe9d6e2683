//! Files that a running container leaves in its root file system and that a machine must not have.

use std::collections::BTreeSet;

use fs_model::tree::SetAttr;
use fs_model::{FileType, Ino, Tree};

use super::{RootImportError, at};

/// A path that only a container has, or by which programs detect one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The path, without a leading slash.
    path: &'static str,
    /// Why programs detect a container.
    pub meaning: &'static str,
}

/// The known marks; most are checked by systemd's `detect_container` (src/basic/virt.c) and
/// virt-what.
const MARKS: [Mark; 13] = [
    Mark { path: ".dockerenv", meaning: "programs detect Docker by it" },
    Mark { path: ".dockerinit", meaning: "programs detect Docker by it" },
    Mark { path: "run/.containerenv", meaning: "programs detect Podman by it" },
    Mark { path: "run/.toolboxenv", meaning: "programs detect Toolbx by it" },
    Mark { path: "run/systemd/container", meaning: "systemd writes it in containers" },
    Mark { path: "run/systemd/nspawn", meaning: "systemd-nspawn creates it in containers" },
    Mark { path: "run/host", meaning: "container managers mount files of the host here" },
    Mark { path: "run/secrets", meaning: "container managers mount secrets here" },
    Mark { path: "run/container_type", meaning: "programs detect LXC by it" },
    Mark { path: "dev/.lxc", meaning: "LXC creates it in containers" },
    Mark { path: "dev/.lxc-boot-id", meaning: "LXC creates it in containers" },
    Mark { path: "dev/lxc", meaning: "LXC creates it in containers" },
    Mark { path: ".singularity.d", meaning: "programs detect Apptainer by it" },
];

/// Directories whose content exists only on a running system.
const VOLATILE_DIRS: [&[u8]; 2] = [b"proc", b"sys"];
/// The target prefix of links that Apptainer makes in the root.
const SINGULARITY_PREFIX: &[u8] = b".singularity.d/";

/// Returns the mark at a path.
pub(crate) fn mark(path: &[u8]) -> Option<&'static Mark> {
    MARKS.iter().find(|mark| mark.path.as_bytes() == path)
}

/// Removes the files that only a running container or system has from an imported tree: the marks,
/// sockets (no process listens on them), and the content of /proc and /sys. Returns the removed
/// paths in order, a directory without its content.
///
/// # Errors
/// Fails if the tree rejects a change.
pub(crate) fn remove(tree: &Tree) -> Result<Vec<Vec<u8>>, RootImportError> {
    let mut sweep = Sweep { tree, removed: BTreeSet::new() };
    sweep.directory(&mut Vec::new(), Ino::ROOT, false)?;
    Ok(sweep.removed.into_iter().collect())
}

struct Sweep<'a> {
    tree: &'a Tree,
    removed: BTreeSet<Vec<u8>>,
}

impl Sweep<'_> {
    /// Removes the entries of a directory: `all` of them, or those that only a running system has.
    fn directory(
        &mut self,
        path: &mut Vec<u8>,
        dir: Ino,
        all: bool,
    ) -> Result<(), RootImportError> {
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
            // Removing an entry has changed the directory's time.
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
    ) -> Result<(), RootImportError> {
        let is_volatile = path
            .iter()
            .rposition(|&byte| byte == b'/')
            .is_some_and(|slash| VOLATILE_DIRS.contains(&&path[..slash]));
        let is_link = kind == FileType::Symlink
            && dir == Ino::ROOT
            && self.tree.read_link(ino).map_err(at(path))?.starts_with(SINGULARITY_PREFIX);
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
