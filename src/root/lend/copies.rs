//! Copies of lent files, and values of the host, in the files of an image.

use std::collections::HashSet;

use fs_model::delta::Change;
use fs_model::tree::SetAttr;
use fs_model::{FileType, FsError, Ino, Tree};
use memchr::memmem;

use super::lent_block::{self, Cleaned};
use super::traces::TraceSearch;
use super::{Loans, at, compressed, content, traces};
use crate::root::compression::Compression;
use crate::root::mounted_tree::{MountedTree, MountedTreeError};
use crate::text::escape::escape;

/// Maximum size of a file that is cleaned of lent lines, in bytes.
const MAX_COPY_BYTES: u64 = 32 << 20;
/// Bytes of a large file that are searched at a time.
const SEARCH_BYTES: usize = 256 << 10;

/// The result of cleaning a file.
enum CleanedFile {
    /// It has no lent lines.
    Unchanged,
    /// Its content without lent lines.
    Content(Vec<u8>),
    /// It has only lent lines, and the image does not have the file that they were lent over.
    Nothing,
}

/// Removes lent lines from files, and searches them for values of the host.
struct CopyCleaner<'a> {
    loans: &'a Loans,
    search: TraceSearch<'a>,
    /// Lent lines that are recognised without their marks.
    unmarked: Vec<&'a [u8]>,
    warnings: Vec<String>,
}

impl<'a> CopyCleaner<'a> {
    fn new(
        loans: &'a Loans,
        mounted_tree: &'a MountedTree,
        is_input: &'a dyn Fn(&str) -> bool,
    ) -> Self {
        CopyCleaner {
            loans,
            search: loans.traces.search(mounted_tree, is_input),
            unmarked: lent_block::unmarked_lines(&loans.blocks),
            warnings: Vec::new(),
        }
    }

    /// Removes lent lines from the content of the file at `path`, which has no leading slash.
    fn clean(&mut self, path: &[u8], content: &[u8]) -> CleanedFile {
        let decoded = match compressed::is_searched(path, content) {
            true => compressed::decode(content),
            false => Vec::new(),
        };
        if !decoded.is_empty() {
            match lent_block::is_marked(&decoded) {
                true => self.warnings.push(copy_warning(path)),
                false => self.search.in_content(path, &decoded, &mut self.warnings),
            }
            return CleanedFile::Unchanged;
        }
        let text = match lent_block::clean(content, &self.loans.blocks) {
            Cleaned::Untouched => match lent_block::without_unmarked(content, &self.unmarked) {
                Some(text) => text,
                None => {
                    self.search.in_content(path, content, &mut self.warnings);
                    return CleanedFile::Unchanged;
                }
            },
            Cleaned::Nothing => {
                if memmem::find(content, content::PEM_BEGIN.as_bytes()).is_some() {
                    self.warnings.push(format!(
                        "/{}: it is not in the image: it contains only certificates of this host",
                        escape(path)
                    ));
                }
                return CleanedFile::Nothing;
            }
            Cleaned::Text(text) => text,
            Cleaned::Edited(text) => {
                self.warnings.push(edited_warning(path));
                text
            }
            Cleaned::Unclear => {
                self.warnings.push(copy_warning(path));
                return CleanedFile::Unchanged;
            }
        };
        // The file may also have lent lines of an earlier step, without marks.
        let text = lent_block::without_unmarked(&text, &self.unmarked).unwrap_or(text);
        self.search.in_content(path, &text, &mut self.warnings);
        CleanedFile::Content(text)
    }

    /// Returns the warnings, each once.
    fn finish(mut self) -> Vec<String> {
        let mut seen = HashSet::new();
        self.warnings.retain(|warning| seen.insert(warning.clone()));
        self.warnings
    }
}

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
        let mut cleaner = CopyCleaner::new(self, mounted_tree, is_input);
        cleaner.warnings.clone_from(&self.edited);
        let tree = mounted_tree.tree();
        let delta = tree.delta().map_err(|e| at(b"/", e))?;
        // One buffer for all files: fresh memory for each would cost more than the search.
        let mut buffer: Vec<u8> = Vec::new();
        for entry in &delta.entries {
            let Some(object) = entry.object else { continue };
            let size = object.attr.size;
            let fail = |e: FsError| at(&entry.path, e);
            cleaner.search.in_name(&entry.path, &mut cleaner.warnings);
            if object.attr.kind == FileType::Symlink {
                let target = tree.read_link(object.ino).map_err(fail)?;
                cleaner.search.in_target(&entry.path, &target, &mut cleaner.warnings);
            }
            if object.attr.kind != FileType::Regular
                || size == 0
                || !may_have_traces(tree, &entry.path, object.ino, size).map_err(fail)?
            {
                continue;
            }
            if size > MAX_COPY_BYTES {
                cleaner.warnings.push(copy_warning(&entry.path));
                continue;
            }
            buffer.resize(buffer.len().max(size as usize), 0);
            let len = tree.read(object.ino, 0, &mut buffer[..size as usize]).map_err(fail)?;
            let text = match cleaner.clean(&entry.path, &buffer[..len]) {
                CleanedFile::Unchanged => continue,
                CleanedFile::Nothing if entry.change == Change::Added && object.attr.nlink == 1 => {
                    mounted_tree.remove(&[b"/", &*entry.path].concat())?;
                    continue;
                }
                CleanedFile::Nothing => Vec::new(),
                CleanedFile::Content(text) => text,
            };
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
        Ok(cleaner.finish())
    }

    /// Removes the lent lines from the contents of files that are taken out of the root, each with
    /// its path. Returns warnings as [`Loans::clean_copies`] does.
    pub fn clean_contents(
        &self,
        mounted_tree: &MountedTree,
        is_input: &dyn Fn(&str) -> bool,
        contents: &mut [(Vec<u8>, Vec<u8>)],
    ) -> Vec<String> {
        let mut cleaner = CopyCleaner::new(self, mounted_tree, is_input);
        for (path, content) in contents {
            let path = path.strip_prefix(b"/").unwrap_or(path);
            match cleaner.clean(path, content) {
                CleanedFile::Unchanged => {}
                CleanedFile::Nothing => content.clear(),
                CleanedFile::Content(text) => *content = text,
            }
        }
        cleaner.finish()
    }
}

/// Whether a file may contain lent lines or values of the host: it is small, compressed, or has a
/// mark. Most large files are not read.
fn may_have_traces(tree: &Tree, path: &[u8], ino: Ino, size: u64) -> Result<bool, FsError> {
    if size <= traces::MAX_TEXT_BYTES {
        return Ok(true);
    }
    let mut head = [0; Compression::HEAD_BYTES];
    let len = tree.read(ino, 0, &mut head)?;
    if compressed::is_searched(path, &head[..len]) {
        return Ok(size <= MAX_COPY_BYTES);
    }
    has_mark(tree, ino, size)
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
