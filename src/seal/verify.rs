//! Reads a squashfs image back before it gets its name.
//!
//! Releases 4.5 to 4.7.4 of mksquashfs have races that write damaged images with exit status 0
//! (upstream's commits 94db791f, 04d3bc80 and c96f0ecd, and its issue 339). The reader of
//! `fs-model` is an independent implementation, so it finds them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use fs_model::LayerError;
use fs_model::attr::{Device, FileType};
use fs_model::layer::squashfs::{CacheOptions, SquashfsLayer};
use fs_model::layer::{Layer, LayerEntry, LayerIno};

use super::error::SealError;
use super::path_text;
use super::plan::{ArchiveItem, ArchivePlan};
use crate::sandbox::map_image;
use crate::text::digest::digest_read_at;

/// The content that was sent to mksquashfs.
pub(super) struct SentContent<'a> {
    pub(super) plan: &'a ArchivePlan<'a>,
    /// The digests of the regular files, by their items.
    pub(super) digests: &'a [Option<[u8; 32]>],
    /// The targets of the symbolic links, by their items.
    pub(super) targets: &'a BTreeMap<usize, Vec<u8>>,
}

impl SentContent<'_> {
    /// Compares the image with the content: types, hard links, targets, and the bytes of each file.
    ///
    /// # Errors
    /// Returns [`SealError::Damaged`] for the first difference.
    pub(super) fn compare(&self, image: &File, threads: usize) -> Result<(), SealError> {
        let unreadable = |source: Box<dyn std::error::Error + Send + Sync>| SealError::Damaged {
            path: String::new(),
            source: Some(source),
        };
        let path = PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd()));
        let map = map_image(&path).map_err(|error| unreadable(error.into()))?;
        let layer = SquashfsLayer::open("the image", Arc::new(map), CacheOptions::default())
            .map_err(|error| unreadable(error.into()))?;
        let files = self.compare_names(&layer)?;
        let next = Mutex::new(files.into_iter());
        let worker = || {
            loop {
                let file = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((index, ino)) = file else { return Ok(()) };
                self.compare_file(&layer, index, ino)?;
            }
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
            let own = worker();
            let others = workers.into_iter().map(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err(SealError::ReaderPanicked),
            });
            others.fold(own, Result::and)
        })
    }

    /// Compares all but the bytes of the regular files, which it returns.
    fn compare_names(&self, layer: &SquashfsLayer) -> Result<Vec<(usize, LayerIno)>, SealError> {
        let mut directories: HashMap<&[u8], LayerIno> = HashMap::new();
        let mut inos = vec![None; self.plan.items.len()];
        let mut files = Vec::new();
        for (index, item) in self.plan.items.iter().enumerate() {
            let damaged = |source: Option<LayerError>| damaged(item, source);
            let path = item.path();
            let found = match path.rsplitn(2, |&byte| byte == b'/').collect::<Vec<_>>()[..] {
                [b""] => Some(LayerEntry::Object { ino: layer.root(), kind: FileType::Directory }),
                [name] => layer.lookup(layer.root(), name).map_err(|e| damaged(Some(e)))?,
                [name, dir] => {
                    let dir = *directories.get(dir).ok_or_else(|| damaged(None))?;
                    layer.lookup(dir, name).map_err(|e| damaged(Some(e)))?
                }
                _ => None,
            };
            let sent = sent_kind(&self.plan.items[item.first.unwrap_or(index)]);
            let ino = match (found, sent) {
                (_, Some(FileType::Socket)) | (Some(LayerEntry::Whiteout), None) => continue,
                (Some(LayerEntry::Object { ino, kind }), Some(sent)) if kind == sent => ino,
                _ => return Err(damaged(None)),
            };
            inos[index] = Some(ino);
            match sent {
                Some(FileType::Directory) => {
                    directories.insert(path, ino);
                }
                Some(FileType::Regular) => match item.first {
                    Some(first) if inos[first] != Some(ino) => return Err(damaged(None)),
                    Some(_) => {}
                    None => files.push((index, ino)),
                },
                Some(FileType::Symlink) => {
                    let target = layer.read_link(ino).map_err(|e| damaged(Some(e)))?;
                    if self.targets.get(&item.first.unwrap_or(index)) != Some(&target) {
                        return Err(damaged(None));
                    }
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn compare_file(
        &self,
        layer: &SquashfsLayer,
        index: usize,
        ino: LayerIno,
    ) -> Result<(), SealError> {
        let item = &self.plan.items[index];
        let read = |offset, buffer: &mut [u8]| layer.read_at(ino, offset, buffer);
        let digest =
            digest_read_at(item.content(), read).map_err(|error| damaged(item, Some(error)))?;
        if self.digests[index] != Some(digest) {
            return Err(damaged(item, None));
        }
        Ok(())
    }
}

/// Returns the type of the object that was sent; `None` for a deletion, which is a device 0:0.
fn sent_kind(item: &ArchiveItem<'_>) -> Option<FileType> {
    let attr = &item.object()?.attr;
    let deletion = attr.kind == FileType::CharDevice && attr.rdev == Device { major: 0, minor: 0 };
    (!deletion).then_some(attr.kind)
}

fn damaged(item: &ArchiveItem<'_>, source: Option<LayerError>) -> SealError {
    SealError::Damaged { path: path_text(item), source: source.map(Into::into) }
}
