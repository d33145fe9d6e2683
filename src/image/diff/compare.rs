//! Compares two inodes.

use std::ops::Range;

use fs_model::{Attr, FileType};

use super::{Aspect, Aspects};
use crate::image::view::{LookError, StackView, ViewNode};

/// Bytes compared at a time.
const BUFFER_SIZE: usize = 256 << 10;

/// Returns the aspects in which the attributes differ.
pub(super) fn attributes(old: &Attr, new: &Attr, mtime: bool) -> Aspects {
    let mut what = Aspects::default();
    let mut check = |aspect, differs: bool| {
        if differs {
            what.insert(aspect);
        }
    };
    check(Aspect::Type, old.kind != new.kind);
    check(Aspect::Device, old.kind == new.kind && old.kind.is_device() && old.rdev != new.rdev);
    let modes = old.kind == new.kind && old.kind != FileType::Symlink;
    check(Aspect::Mode, modes && old.mode != new.mode);
    check(Aspect::Owner, old.uid != new.uid);
    check(Aspect::Group, old.gid != new.gid);
    check(Aspect::Mtime, mtime && old.mtime.secs != new.mtime.secs);
    what
}

/// Whether two files of the same size have the same content. Common holes are not read.
pub(crate) fn contents(
    old_view: &StackView,
    old: &ViewNode,
    new_view: &StackView,
    new: &ViewNode,
) -> Result<bool, LookError> {
    let mut old = ComparedFile { view: old_view, node: old, data: 0..0, ended: false };
    let mut new = ComparedFile { view: new_view, node: new, data: 0..0, ended: false };
    let size = old.node.attr.size;
    let buffer = BUFFER_SIZE.min(usize::try_from(size).unwrap_or(BUFFER_SIZE));
    let mut buffers = (vec![0; buffer], vec![0; buffer]);
    let mut offset = 0;
    while let Some(at) =
        [old.data_from(offset)?, new.data_from(offset)?].into_iter().flatten().min()
    {
        let length =
            usize::try_from(size.saturating_sub(at)).map_or(buffer, |left| left.min(buffer));
        let one = old.view.read_at(old.node, at, &mut buffers.0[..length])?;
        let other = new.view.read_at(new.node, at, &mut buffers.1[..length])?;
        if buffers.0[..one] != buffers.1[..other] {
            return Ok(false);
        }
        if one == 0 {
            break;
        }
        offset = at + one as u64;
    }
    Ok(true)
}

/// One of the compared files, and the next range of data in it.
struct ComparedFile<'a> {
    view: &'a StackView,
    node: &'a ViewNode,
    data: Range<u64>,
    ended: bool,
}

impl ComparedFile<'_> {
    /// Returns the offset of the next data at or after `offset`.
    fn data_from(&mut self, offset: u64) -> Result<Option<u64>, LookError> {
        if !self.ended && offset >= self.data.end {
            match self.view.next_data(self.node, offset)? {
                Some(data) => self.data = data,
                None => self.ended = true,
            }
        }
        Ok((!self.ended).then(|| self.data.start.max(offset)))
    }
}
