//! Presents a view, or parts of it, as a delta that can be written to an archive.

use std::collections::HashMap;

use fs_model::acl::Acl;
use fs_model::delta::{Change, Contents, Delta, DeltaEntry, Object};
use fs_model::layer::Xattr;
use fs_model::stack::LowerInode;
use fs_model::{FsError, Ino};

use super::ExtractSelection;
use crate::image::view::{LookError, StackView, WalkControl};

/// The selected nodes as a delta to an empty root, with access to their contents.
#[derive(Debug)]
pub(crate) struct ArchiveSource<'a> {
    /// The delta for [`crate::seal::seal`].
    pub delta: Delta,
    view: &'a StackView,
    /// The lower inodes, indexed by the inode numbers in `delta`.
    sources: Vec<LowerInode>,
}

impl<'a> ArchiveSource<'a> {
    /// Lists the selected nodes.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn new(
        view: &'a StackView,
        selection: &ExtractSelection,
    ) -> Result<ArchiveSource<'a>, LookError> {
        let mut archive = ArchiveSource { delta: Delta::default(), view, sources: Vec::new() };
        let mut numbers: HashMap<LowerInode, (usize, u32)> = HashMap::new();
        view.walk::<LookError>(&view.root()?, &mut |node| {
            if !selection.contains(&node.path) {
                return Ok(WalkControl::Past);
            }
            let source = node.found.source();
            let next = archive.sources.len();
            // Only inodes with several names can occur again.
            let number = match node.attr.nlink > 1 && !node.is_dir() {
                true => {
                    let (number, names) = numbers.entry(source).or_insert((next, 0));
                    *names += 1;
                    *number
                }
                false => next,
            };
            if number == next {
                archive.sources.push(source);
            }
            let object = Some(Object { ino: Ino(number as u64), attr: node.attr });
            let path = node.path.clone().into();
            archive.delta.entries.push(DeltaEntry { path, change: Change::Added, object });
            Ok(WalkControl::Into)
        })?;
        for object in archive.delta.entries.iter_mut().filter_map(|entry| entry.object.as_mut()) {
            if let Some(source) = archive.sources.get(object.ino.0 as usize)
                && let Some((_, names)) = numbers.get(source)
            {
                object.attr.nlink = *names;
            }
        }
        Ok(archive)
    }

    fn source(&self, ino: Ino) -> Result<LowerInode, FsError> {
        let index = usize::try_from(ino.0).map_err(|_| FsError::Stale)?;
        self.sources.get(index).copied().ok_or(FsError::Stale)
    }
}

impl Contents for ArchiveSource<'_> {
    fn read(&self, ino: Ino, offset: u64, buf: &mut [u8]) -> Result<usize, FsError> {
        Ok(self.view.stack().read_at(self.source(ino)?, offset, buf)?)
    }

    fn next_data(&self, ino: Ino, offset: u64) -> Result<Option<std::ops::Range<u64>>, FsError> {
        Ok(self.view.stack().next_data(self.source(ino)?, offset)?)
    }

    fn read_link(&self, ino: Ino) -> Result<Vec<u8>, FsError> {
        Ok(self.view.stack().read_link(self.source(ino)?)?)
    }

    fn xattrs(&self, ino: Ino) -> Result<Vec<Xattr>, FsError> {
        Ok(self.view.stack().xattrs(self.source(ino)?)?)
    }

    fn access_list(&self, ino: Ino) -> Result<Option<Acl>, FsError> {
        Ok(self.view.stack().access_list(self.source(ino)?)?)
    }
}
