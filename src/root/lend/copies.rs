//! Copies of lent files, and values of the host, in the files of an image.

use std::collections::HashSet;

use fs_model::delta::Change;
use fs_model::tree::SetAttr;
use fs_model::{FileType, FsError, Ino, Tree};
use memchr::memmem;

use super::lent_block::{self, Cleaned};
use super::{LentLines, Loans, at, compressed, content, traces};
use crate::root::mounted_tree::{MountedTree, MountedTreeError};
use crate::text::escape::escape;

/// Maximum size of a file that is cleaned of lent lines, in bytes.
const MAX_COPY_BYTES: u64 = 32 << 20;
/// Bytes of a large file that are searched at a time.
const SEARCH_BYTES: usize = 256 << 10;

impl Loans {
    /// Removes the lent lines from the files that programs copied them into. Returns warnings about
    /// files that it could not restore, and about files that contain a value of the host, such as
    /// the address of a name server, unless `is_input` finds the value in the user's own input.
    ///
    /// # Errors
    /// Fails if a layer cannot be read.
    pub fn clean_copies(
        &self,
        mounted_tree: &MountedTree,
        is_input: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>, MountedTreeError> {
        let mut warnings = self.edited.clone();
        let mut search = self.traces.search(mounted_tree, is_input);
        let resolver = self.files.iter().find_map(|file| match &file.lines {
            LentLines::Resolver(lines) => Some(lines.as_slice()),
            _ => None,
        });
        let unmarked = lent_block::recognizable(resolver.unwrap_or_default());
        let tree = mounted_tree.tree();
        let delta = tree.delta().map_err(|e| at(b"/", e))?;
        // One buffer for all files: fresh memory for each would cost more than the search.
        let mut buffer: Vec<u8> = Vec::new();
        for entry in &delta.entries {
            let Some(object) = entry.object else { continue };
            let size = object.attr.size;
            search.in_name(&entry.path, &mut warnings);
            if object.attr.kind == FileType::Symlink {
                let target = tree.read_link(object.ino).map_err(|e| at(&entry.path, e))?;
                search.in_target(&entry.path, &target, &mut warnings);
            }
            if object.attr.kind != FileType::Regular || size == 0 {
                continue;
            }
            let fail = |e: FsError| at(&entry.path, e);
            let mut head = [0; compressed::HEAD_BYTES];
            let head_len = tree.read(object.ino, 0, &mut head).map_err(fail)?;
            let is_compressed = compressed::is_searched(&entry.path, &head[..head_len]);
            if size > traces::MAX_TEXT_BYTES
                && !(is_compressed && size <= MAX_COPY_BYTES)
                && !has_mark(tree, object.ino, size).map_err(fail)?
            {
                continue;
            }
            if size > MAX_COPY_BYTES {
                warnings.push(copy_warning(&entry.path));
                continue;
            }
            buffer.resize(buffer.len().max(size as usize), 0);
            let len = tree.read(object.ino, 0, &mut buffer[..size as usize]).map_err(fail)?;
            let content = &buffer[..len];
            if is_compressed {
                let decoded = compressed::decode(content);
                match lent_block::is_marked(&decoded) {
                    true => warnings.push(copy_warning(&entry.path)),
                    false => search.in_content(&entry.path, &decoded, &mut warnings),
                }
                continue;
            }
            let text = match lent_block::clean(content, &self.blocks) {
                Cleaned::Untouched => match lent_block::without_unmarked(content, &unmarked) {
                    Some(text) => text,
                    None => {
                        search.in_content(&entry.path, content, &mut warnings);
                        continue;
                    }
                },
                Cleaned::Nothing if entry.change == Change::Added && object.attr.nlink == 1 => {
                    if memmem::find(content, content::PEM_BEGIN.as_bytes()).is_some() {
                        warnings.push(format!(
                            "/{}: it is not in the image: it contains only certificates of this \
                             host",
                            escape(&entry.path)
                        ));
                    }
                    mounted_tree.remove(&[b"/", &*entry.path].concat())?;
                    continue;
                }
                Cleaned::Nothing => Vec::new(),
                Cleaned::Text(text) => text,
                Cleaned::Edited(text) => {
                    warnings.push(edited_warning(&entry.path));
                    text
                }
                Cleaned::Unclear => {
                    warnings.push(copy_warning(&entry.path));
                    continue;
                }
            };
            search.in_content(&entry.path, &text, &mut warnings);
            let (mtime, atime) = (Some(object.attr.mtime), Some(object.attr.atime));
            let cut = SetAttr { size: Some(0), ..SetAttr::default() };
            tree.set_attr(object.ino, &cut).map_err(fail)?;
            let mut written = 0;
            while written < text.len() {
                written +=
                    tree.write(object.ino, written as u64, &text[written..]).map_err(fail)?;
            }
            let times = SetAttr { mtime, atime, ..SetAttr::default() };
            tree.set_attr(object.ino, &times).map_err(fail)?;
        }
        let mut seen = HashSet::new();
        warnings.retain(|warning| seen.insert(warning.clone()));
        Ok(warnings)
    }
}

/// Returns the warning about lent lines that a program edited.
pub(super) fn edited_warning(path: &[u8]) -> String {
    format!(
        "/{}: a program edited lines that are shown during the build only; they were removed: check \
         the rest of the file",
        escape(path)
    )
}

/// Returns the warning about a copy that cannot be cleaned.
fn copy_warning(path: &[u8]) -> String {
    format!(
        "/{}: it contains a copy of a file that is shown during the build only, with settings of \
         this host; remove it, or exclude /etc/resolv.conf, /etc/hosts, /etc/apt/apt.conf and the \
         bundle of certificates when creating it",
        escape(path)
    )
}

/// Whether a file contains a mark. Reads in pieces: most files are too large to be a copy.
fn has_mark(tree: &Tree, ino: Ino, size: u64) -> Result<bool, FsError> {
    let mut buffer = vec![0; SEARCH_BYTES];
    let mut offset = 0;
    // Holes may be much larger than the memory.
    while offset < size
        && let Some(data) = tree.next_data(ino, offset)?
    {
        offset = offset.max(data.start);
        let len = tree.read(ino, offset, &mut buffer)?;
        if lent_block::is_marked(&buffer[..len]) {
            return Ok(true);
        }
        if len <= lent_block::MARK_BYTES {
            break;
        }
        // A piece may end within a mark.
        offset += (len - lent_block::MARK_BYTES) as u64;
    }
    Ok(false)
}
