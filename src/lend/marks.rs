//! Marks around lent lines, used to find and remove copies of the lines.
//!
//! A program may copy the content of a lent file (`cp`, `sed -i`, `resolvconf`'s backup). The copy
//! belongs to the image, but the lent lines do not: they differ between hosts. So the lines of each
//! lent file are between two marks, which are comments in its format, and in copies they are
//! replaced by those that the image's own file had there. The marks are numbered, so that each copy
//! gets the lines that the file had when it was lent.

use memchr::memmem;

const BEGIN: &str = "overcoat: the following lines are shown during the build only";
const END: &str = "overcoat: the lines above are shown during the build only";
/// The text that both marks contain.
const MARK: &[u8] = b"shown during the build only";

/// Lent lines with their marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LentBlock {
    /// The lines in the lent file, with their marks.
    pub(super) shown: Vec<u8>,
    /// The lines between the marks.
    pub(super) lines: Vec<u8>,
    /// The content of the image's own file that they replace.
    pub(super) own: Vec<u8>,
    /// Whether the image has its own file.
    pub(super) is_over_file: bool,
}

impl LentBlock {
    /// Creates a block of `lines` with marks that are comments beginning with `comment`.
    pub(super) fn new(comment: &str, number: usize, lines: &[u8], is_over_file: bool) -> Self {
        let mut shown = format!("{comment} {BEGIN} ({number})\n").into_bytes();
        shown.extend_from_slice(lines);
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            shown.push(b'\n');
        }
        shown.extend_from_slice(format!("{comment} {END} ({number})\n").as_bytes());
        LentBlock { shown, lines: lines.to_vec(), own: Vec::new(), is_over_file }
    }
}

/// Length of the text that all marks contain, in bytes.
pub(super) const MARK_BYTES: usize = MARK.len();

/// Whether `content` contains a mark.
pub(super) fn is_marked(content: &[u8]) -> bool {
    memmem::find(content, MARK).is_some()
}

/// The result of removing lent lines from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// The file has no lent lines.
    Untouched,
    /// The content without the lent lines.
    Text(Vec<u8>),
    /// Nothing is left, and the image does not have the copied file.
    Nothing,
    /// The content without the lent lines, which a program had changed.
    Edited(Vec<u8>),
    /// The file is not text, such as an archive: nothing can be removed.
    Binary,
}

/// Removes the lines of `blocks` from `content`.
pub(super) fn clean(content: &[u8], blocks: &[LentBlock]) -> Cleaned {
    if !is_marked(content) {
        return Cleaned::Untouched;
    }
    if content.contains(&0) {
        return Cleaned::Binary;
    }
    let mut text = content.to_vec();
    let mut is_of_image = false;
    for block in blocks {
        let mut from = 0;
        while let Some(at) = memmem::find(&text[from..], &block.shown) {
            let at = from + at;
            text.splice(at..at + block.shown.len(), block.own.iter().copied());
            from = at + block.own.len();
            is_of_image |= block.is_over_file;
        }
    }
    if !is_marked(&text) {
        return if text.is_empty() && !is_of_image {
            Cleaned::Nothing
        } else {
            Cleaned::Text(text)
        };
    }
    let is_lent = |line: &[u8]| {
        is_marked(line)
            || !line.is_empty()
                && blocks.iter().any(|b| b.shown.split(|&c| c == b'\n').any(|l| l == line))
    };
    let mut rest = Vec::with_capacity(text.len());
    for line in text.split_inclusive(|&c| c == b'\n') {
        if !is_lent(line.strip_suffix(b"\n").unwrap_or(line)) {
            rest.extend_from_slice(line);
        }
    }
    Cleaned::Edited(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks() -> [LentBlock; 2] {
        let own = b"nameserver 10.0.0.1\n".to_vec();
        [
            LentBlock { own, ..LentBlock::new("#", 0, b"nameserver 192.0.2.1\n", true) },
            LentBlock::new("#", 1, b"127.0.1.1\tnode", false),
        ]
    }

    #[test]
    fn copy_becomes_a_copy_of_the_images_own_file() {
        let [resolv, hosts] = blocks();
        assert_eq!(clean(&resolv.shown, &blocks()), Cleaned::Text(resolv.own.clone()));
        let edited = [b"search lab\n", &resolv.shown[..], b"options edns0\n"].concat();
        let wanted = b"search lab\nnameserver 10.0.0.1\noptions edns0\n".to_vec();
        assert_eq!(clean(&edited, &blocks()), Cleaned::Text(wanted));
        assert_eq!(clean(&hosts.shown, &blocks()), Cleaned::Nothing);
        let twice = [&hosts.shown[..], b"192.0.2.5 nfs\n", &hosts.shown].concat();
        assert_eq!(clean(&twice, &blocks()), Cleaned::Text(b"192.0.2.5 nfs\n".to_vec()));
    }

    #[test]
    fn changed_blocks_leave_no_lent_line() {
        let [resolv, _] = blocks();
        let text = String::from_utf8(resolv.shown).unwrap();
        let edited = text.replace("\n#", "\nnameserver 192.0.2.53\n#");
        let wanted = b"nameserver 192.0.2.53\n".to_vec();
        assert_eq!(clean(edited.as_bytes(), &blocks()), Cleaned::Edited(wanted));
    }

    #[test]
    fn other_files_are_not_changed() {
        assert_eq!(clean(b"nameserver 192.0.2.1\n", &blocks()), Cleaned::Untouched);
        let archive = [b"ustar\0", &blocks()[0].shown[..]].concat();
        assert_eq!(clean(&archive, &blocks()), Cleaned::Binary);
    }
}
