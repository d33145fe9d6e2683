//! Marks around the lines that are lent, by which copies of them are found and taken out.
//!
//! A program may copy a lent file by its content (`cp`, `sed -i`, `resolvconf`'s backup). The copy
//! belongs to the image, the lent lines do not: they differ from host to host. So each lent file
//! has its lines between two marks, which are comments in its format, and in copies the lines are
//! replaced by those that the image's own file had there. The marks are numbered, so that
//! each copy gets the lines that the file had when it was lent.

use memchr::memmem;

const BEGIN: &str = "overcoat: the following lines are shown during the build only";
const END: &str = "overcoat: the lines above are shown during the build only";
/// The text that both marks contain.
const MARK: &[u8] = b"shown during the build only";

/// Lines that are lent, with their marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// The lines in the lent file, with their marks.
    pub(super) shown: Vec<u8>,
    /// The lines between the marks.
    pub(super) lines: Vec<u8>,
    /// The content of the image's own file that they replace.
    pub(super) own: Vec<u8>,
    /// Whether the image has a file of its own.
    pub(super) is_over_file: bool,
}

impl Block {
    /// The block of `lines`, whose marks are comments that begin with `comment`.
    pub(super) fn new(comment: &str, number: usize, lines: &[u8], is_over_file: bool) -> Self {
        let mut shown = format!("{comment} {BEGIN} ({number})\n").into_bytes();
        shown.extend_from_slice(lines);
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            shown.push(b'\n');
        }
        shown.extend_from_slice(format!("{comment} {END} ({number})\n").as_bytes());
        Block { shown, lines: lines.to_vec(), own: Vec::new(), is_over_file }
    }
}

/// The length of the part that all marks have in common, in bytes.
pub(super) const LENGTH: usize = MARK.len();

/// Whether there is a mark in `content`.
pub(super) fn is_marked(content: &[u8]) -> bool {
    memmem::find(content, MARK).is_some()
}

/// The result of taking lent lines out of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// It has none.
    Untouched,
    /// It has this content without them.
    Text(Vec<u8>),
    /// Nothing is left, and the image does not have the copied file.
    Nothing,
    /// It has this content without them, but a program had changed them.
    Edited(Vec<u8>),
    /// It is not text, such as an archive: nothing can be taken out of it.
    Binary,
}

/// Takes the lines of `blocks` out of `content`.
pub(super) fn clean(content: &[u8], blocks: &[Block]) -> Cleaned {
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

    fn blocks() -> [Block; 2] {
        let own = b"nameserver 10.0.0.1\n".to_vec();
        [
            Block { own, ..Block::new("#", 0, b"nameserver 192.0.2.1\n", true) },
            Block::new("#", 1, b"127.0.1.1\tnode", false),
        ]
    }

    #[test]
    fn a_copy_becomes_a_copy_of_the_images_own_file() {
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
    fn lines_that_a_program_changed_leave_no_lent_line() {
        let [resolv, _] = blocks();
        let text = String::from_utf8(resolv.shown).unwrap();
        let edited = text.replace("\n#", "\nnameserver 192.0.2.53\n#");
        let wanted = b"nameserver 192.0.2.53\n".to_vec();
        assert_eq!(clean(edited.as_bytes(), &blocks()), Cleaned::Edited(wanted));
    }

    #[test]
    fn other_files_stay_as_they_are() {
        assert_eq!(clean(b"nameserver 192.0.2.1\n", &blocks()), Cleaned::Untouched);
        let archive = [b"ustar\0", &blocks()[0].shown[..]].concat();
        assert_eq!(clean(&archive, &blocks()), Cleaned::Binary);
    }
}
