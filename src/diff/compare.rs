//! Whether two objects are equal.

use std::ops::Range;

use fs_model::{Attr, FileType};

use super::{Aspect, Aspects};
use crate::look::{LookError, Node, View};

/// Bytes that are compared at a time.
const BUFFER: usize = 256 << 10;

/// What differs between attributes.
pub(super) fn attributes(old: &Attr, new: &Attr, mtime: bool) -> Aspects {
    let mut what = Aspects::default();
    let mut tell = |aspect, differs: bool| {
        if differs {
            what.insert(aspect);
        }
    };
    tell(Aspect::Type, old.kind != new.kind);
    tell(Aspect::Device, old.kind == new.kind && old.kind.is_device() && old.rdev != new.rdev);
    let modes = old.kind == new.kind && old.kind != FileType::Symlink;
    tell(Aspect::Mode, modes && old.mode != new.mode);
    tell(Aspect::Owner, old.uid != new.uid);
    tell(Aspect::Group, old.gid != new.gid);
    tell(Aspect::Mtime, mtime && old.mtime.secs != new.mtime.secs);
    what
}

/// Whether two files of the same size have the same bytes. Where both have holes, nothing is read.
pub(crate) fn contents(
    old_view: &View,
    old: &Node,
    new_view: &View,
    new: &Node,
) -> Result<bool, LookError> {
    let mut old = Side { view: old_view, node: old, data: 0..0, ended: false };
    let mut new = Side { view: new_view, node: new, data: 0..0, ended: false };
    let size = old.node.attr.size;
    let buffer = BUFFER.min(usize::try_from(size).unwrap_or(BUFFER));
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

/// A file that is being compared, and the data of it that is known to lie ahead.
struct Side<'a> {
    view: &'a View,
    node: &'a Node,
    data: Range<u64>,
    ended: bool,
}

impl Side<'_> {
    /// Where the next data at or after `offset` is.
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
