//! Marks around the lines that are lent, by which copies of them are found and removed.
//!
//! A program may copy a lent file by its content (`cp`, `sed -i`, `resolvconf`'s backup). The copy
//! belongs to the image, the lent lines do not: they differ from host to host. So each lent file
//! has its lines between two marks, which are comments in its format, and in copies the lines are
//! replaced by those that the image's own file had there. The marks are numbered, so that
//! each copy gets the lines that the file had when it was lent.
//!
//! A program may also edit a copy. Then only lines between the marks are removed, and lines that it
//! moved elsewhere. A line that the image's own file had stays.

use std::collections::HashMap;

use memchr::memmem;

const BEGIN: &str = "overcoat: the following lines are shown during the build only";
const END: &str = "overcoat: the lines above are shown during the build only";
/// The end of a lent line of `resolv.conf`, `hosts` and `apt.conf`: readers ignore the blanks, and
/// no program or user writes as many. By it, lines are recognised as lent without the marks around
/// them, and are not taken for lines of the image with the same text.
pub(super) const LINE_END: &str = "       \n";
/// The text that both marks contain.
const COMMON: &[u8] = b" shown during the build only (";

/// Lines that are lent, with their marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LentBlock {
    /// The number in the marks.
    number: usize,
    /// The lines in the lent file, with their marks.
    pub(super) shown: Vec<u8>,
    /// The lines between the marks.
    lines: Vec<u8>,
    /// The content of the image's own file that they replace.
    pub(super) replaced: Vec<u8>,
    /// The content of the image's own file, if it has one.
    own: Option<Vec<u8>>,
}

impl LentBlock {
    /// Creates the block of `lines`. Its marks are comments that begin with `comment`. The lent
    /// file covers one of the image with the content `own`, if there is one.
    pub(super) fn new(comment: &str, number: usize, lines: &[u8], own: Option<&[u8]>) -> Self {
        let mut shown = format!("{comment} {BEGIN} ({number})\n").into_bytes();
        shown.extend_from_slice(lines);
        if !lines.is_empty() && !lines.ends_with(b"\n") {
            shown.push(b'\n');
        }
        shown.extend_from_slice(format!("{comment} {END} ({number})\n").as_bytes());
        let (lines, own) = (lines.to_vec(), own.map(<[u8]>::to_vec));
        LentBlock { number, shown, lines, replaced: Vec::new(), own }
    }

    /// Returns the number of times that the image's own file has `line`.
    fn own_count(&self, line: &[u8]) -> usize {
        let own = self.own.as_deref().unwrap_or_default();
        own.split(|&c| c == b'\n').filter(|own| own.trim_ascii() == line).count()
    }
}

/// Length of the part that all marks have in common, in bytes.
pub(super) const MARK_BYTES: usize = COMMON.len();

/// Whether there may be a mark in `content`.
pub(super) fn is_marked(content: &[u8]) -> bool {
    memmem::find(content, COMMON).is_some()
}

/// The result of removing lent lines from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cleaned {
    /// It has no lent lines.
    Untouched,
    /// The content without them.
    Text(Vec<u8>),
    /// Nothing is left, and the image does not have the copied file.
    Nothing,
    /// The content without them; a program had edited them.
    Edited(Vec<u8>),
    /// They cannot be removed: the file is not text, such as an archive, or a mark is in the middle
    /// of a line.
    Unclear,
}

/// Removes the lines of `blocks` from `content`.
pub(super) fn clean(content: &[u8], blocks: &[LentBlock]) -> Cleaned {
    if !is_marked(content) {
        return Cleaned::Untouched;
    }
    // Zeros at the end do not make a file binary: a program had extended it.
    let end = content.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    let (content, zeros) = content.split_at(end);
    if content.contains(&0) {
        return if has_mark_of(content, blocks) { Cleaned::Unclear } else { Cleaned::Untouched };
    }
    let with_zeros = |mut text: Vec<u8>| {
        text.extend_from_slice(zeros);
        text
    };
    let mut text = content.to_vec();
    let mut is_of_image = false;
    for block in blocks {
        let mut from = 0;
        while let Some(at) = memmem::find(&text[from..], &block.shown) {
            let at = from + at;
            text.splice(at..at + block.shown.len(), block.replaced.iter().copied());
            from = at + block.replaced.len();
            is_of_image |= block.own.is_some();
        }
    }
    if !has_mark_of(&text, blocks) {
        return match (text == content, text.is_empty() && zeros.is_empty() && !is_of_image) {
            (true, _) => Cleaned::Untouched,
            (_, true) => Cleaned::Nothing,
            _ => Cleaned::Text(with_zeros(text)),
        };
    }
    let text = without_edited(&text, blocks).map(with_zeros);
    text.map_or(Cleaned::Unclear, Cleaned::Edited)
}

/// Returns the lent lines of all `blocks` that [are recognised](recognizable) without their marks,
/// each once.
pub(super) fn unmarked_lines(blocks: &[LentBlock]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = blocks.iter().flat_map(|b| recognizable(&b.lines)).collect();
    lines.sort_unstable();
    lines.dedup();
    lines
}

/// Returns those of the lent `lines` that are recognised without their marks: by their
/// [end](LINE_END).
fn recognizable(lines: &[u8]) -> Vec<&[u8]> {
    let lines = lines.split_inclusive(|&c| c == b'\n');
    lines.filter(|line| line.ends_with(LINE_END.as_bytes())).collect()
}

/// Removes [`recognizable`] lent lines from text in which a program removed the comments, and the
/// marks with them. Returns `None` if it has no such lines.
pub(super) fn without_unmarked(content: &[u8], lent: &[&[u8]]) -> Option<Vec<u8>> {
    let is_copy = |line: &&[u8]| memmem::find(content, line).is_some();
    // Few files have such a line.
    if memmem::find(content, LINE_END.as_bytes()).is_none()
        || !lent.iter().any(is_copy)
        || content.contains(&0)
    {
        return None;
    }
    let lines: Vec<&[u8]> = content.split_inclusive(|&c| c == b'\n').collect();
    let rest = lines.iter().filter(|line| !lent.contains(line));
    let rest: Vec<u8> = rest.flat_map(|line| line.iter().copied()).collect();
    (rest.len() < content.len()).then_some(rest)
}

/// Whether a mark of `blocks` is in `content`, alone in a line or not.
fn has_mark_of(content: &[u8], blocks: &[LentBlock]) -> bool {
    is_marked(content)
        && blocks.iter().any(|block| {
            [BEGIN, END].iter().any(|mark| {
                memmem::find(content, format!("{mark} ({})", block.number).as_bytes()).is_some()
            })
        })
}

/// A mark that is alone in its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    is_begin: bool,
    number: usize,
}

impl Mark {
    fn parse(line: &[u8]) -> Option<Self> {
        let line = std::str::from_utf8(line).ok()?.trim();
        let line = line.trim_start_matches(['#', '/']).trim_start();
        let (is_begin, rest) = match (line.strip_prefix(BEGIN), line.strip_prefix(END)) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => return None,
        };
        let number = rest.strip_prefix(" (")?.strip_suffix(')')?.parse().ok()?;
        Some(Mark { is_begin, number })
    }
}

/// Removes the marks and the lent lines that a program edited: those between the marks, and as many
/// elsewhere as the image's own file did not have. Returns `None` if a mark is in a line with other
/// text.
fn without_edited(text: &[u8], blocks: &[LentBlock]) -> Option<Vec<u8>> {
    let lines: Vec<&[u8]> = text.split_inclusive(|&c| c == b'\n').collect();
    let marks: Vec<Option<Mark>> = lines.iter().map(|line| Mark::parse(line)).collect();
    let mut taken: Vec<bool> = marks.iter().map(Option::is_some).collect();
    if lines.iter().zip(&marks).any(|(line, mark)| mark.is_none() && has_mark_of(line, blocks)) {
        return None;
    }
    let mut places: HashMap<&[u8], Vec<usize>> = HashMap::new();
    for (at, line) in lines.iter().enumerate() {
        places.entry(line.trim_ascii()).or_default().push(at);
    }
    for block in blocks {
        let find = |is_begin, from: usize| {
            let wanted = Some(Mark { is_begin, number: block.number });
            marks.iter().skip(from).position(|mark| *mark == wanted).map(|at| from + at)
        };
        let (begin, end) = (find(true, 0), find(false, 0));
        if begin.is_none() && end.is_none() {
            continue;
        }
        let inside = begin.and_then(|begin| Some(begin..find(false, begin)?));
        let inside = inside.unwrap_or_default();
        let mut left: HashMap<&[u8], usize> = HashMap::new();
        for line in block.lines.split(|&c| c == b'\n') {
            *left.entry(line.trim_ascii()).or_default() += 1;
        }
        left.remove(&b""[..]);
        for at in inside {
            if let Some(count) = left.get_mut(lines[at].trim_ascii()).filter(|count| **count > 0)
                && !taken[at]
            {
                *count -= 1;
                taken[at] = true;
            }
        }
        for (line, count) in left {
            let there = places.get(line).into_iter().flatten().copied();
            let mut there: Vec<usize> = there.filter(|&at| !taken[at]).collect();
            if there.is_empty() {
                continue;
            }
            there.sort_by_key(|&at| !lines[at].ends_with(LINE_END.as_bytes()));
            let surplus = there.len().saturating_sub(block.own_count(line)).min(count);
            there[..surplus].iter().for_each(|&at| taken[at] = true);
        }
    }
    let rest = lines.iter().zip(&taken).filter(|(_, taken)| !**taken);
    Some(rest.flat_map(|(line, _)| line.iter().copied()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &[u8] = b"nameserver 10.0.0.1\nnameserver 192.0.2.1\n";

    fn lines() -> String {
        format!("nameserver 192.0.2.1{LINE_END}nameserver 192.0.2.2{LINE_END}")
    }

    fn blocks() -> [LentBlock; 2] {
        [
            LentBlock::new("#", 0, lines().as_bytes(), Some(OWN)),
            LentBlock::new("#", 1, b"127.0.1.1\tnode", None),
        ]
    }

    fn cleaned(content: &[u8]) -> Cleaned {
        clean(content, &blocks())
    }

    #[test]
    fn a_copy_becomes_a_copy_of_the_images_own_file() {
        let [resolv, hosts] = blocks();
        assert_eq!(cleaned(&[&resolv.shown, OWN].concat()), Cleaned::Text(OWN.to_vec()));
        let edited = [b"search lab\n", &resolv.shown[..], b"options edns0\n"].concat();
        assert_eq!(cleaned(&edited), Cleaned::Text(b"search lab\noptions edns0\n".to_vec()));
        assert_eq!(cleaned(&hosts.shown), Cleaned::Nothing);
        let twice = [&hosts.shown[..], b"192.0.2.5 nfs\n", &hosts.shown].concat();
        assert_eq!(cleaned(&twice), Cleaned::Text(b"192.0.2.5 nfs\n".to_vec()));
        let over = LentBlock { replaced: b"exit 0\n".to_vec(), ..resolv };
        assert_eq!(
            clean(&over.shown, std::slice::from_ref(&over)),
            Cleaned::Text(b"exit 0\n".to_vec())
        );
    }

    #[test]
    fn lines_that_a_program_adds_between_the_lent_ones_stay() {
        let [resolv, _] = blocks();
        let file = String::from_utf8([&resolv.shown, OWN].concat()).unwrap();
        let edited = file.replacen(LINE_END, &format!("{LINE_END}nameserver 192.0.2.53\n"), 1);
        let wanted = [b"nameserver 192.0.2.53\n", OWN].concat();
        assert_eq!(cleaned(edited.as_bytes()), Cleaned::Edited(wanted));
    }

    #[test]
    fn zeros_at_the_end_stay() {
        let [resolv, hosts] = blocks();
        let extended = |block: &LentBlock, rest: &[u8]| cleaned(&[&block.shown, rest].concat());
        assert_eq!(extended(&resolv, b"own\n\0\0"), Cleaned::Text(b"own\n\0\0".to_vec()));
        assert_eq!(extended(&hosts, b"\0"), Cleaned::Text(b"\0".to_vec()));
    }

    #[test]
    fn lines_of_the_own_file_stay_however_a_program_sorts_them() {
        let [resolv, _] = blocks();
        let file = String::from_utf8([&resolv.shown, OWN].concat()).unwrap();
        let mut lines: Vec<&str> = file.lines().map(str::trim_end).collect();
        lines.sort_unstable();
        let sorted = OWN.to_vec();
        assert_eq!(cleaned((lines.join("\n") + "\n").as_bytes()), Cleaned::Edited(sorted.clone()));
        // A line that is in both is left once (`sort -u`).
        lines.dedup();
        assert_eq!(cleaned((lines.join("\n") + "\n").as_bytes()), Cleaned::Edited(sorted));
    }

    #[test]
    fn lent_lines_with_other_blanks_are_taken_out() {
        let [resolv, _] = blocks();
        let file = String::from_utf8([&resolv.shown, OWN].concat()).unwrap();
        let indented: String = file.lines().map(|line| format!("  {line}\r\n")).collect();
        let own = "  nameserver 10.0.0.1\r\n  nameserver 192.0.2.1\r\n";
        assert_eq!(cleaned(indented.as_bytes()), Cleaned::Edited(own.into()));
    }

    #[test]
    fn lent_lines_are_removed_without_their_marks() {
        let lines = lines();
        let lent = recognizable(lines.as_bytes());
        let copy = [lent[0], OWN].concat();
        assert_eq!(without_unmarked(&copy, &lent), Some(OWN.to_vec()));
        assert_eq!(without_unmarked(&[b"x ", lent[0]].concat(), &lent), None);
        for own in ["nameserver 192.0.2.1\n", "nameserver 192.0.2.1 \n", "nameserver 192.0.2.1\t\n"]
        {
            assert_eq!(without_unmarked(own.as_bytes(), &lent), None, "{own:?}");
        }
    }

    #[test]
    fn a_mark_in_the_middle_of_a_line_is_unclear() {
        let [resolv, _] = blocks();
        let joined = String::from_utf8([&resolv.shown, OWN].concat()).unwrap().replace('\n', " ");
        assert_eq!(cleaned(joined.as_bytes()), Cleaned::Unclear);
        let archive = [b"ustar\0", &resolv.shown[..]].concat();
        assert_eq!(cleaned(&archive), Cleaned::Unclear);
    }

    #[test]
    fn other_files_stay_as_they_are() {
        for text in [
            "nameserver 192.0.2.1\n",
            "# this banner is shown during the build only (see below)\nnameserver 192.0.2.2\n",
            "# overcoat: the following lines are shown during the build only (7)\n",
        ] {
            assert_eq!(cleaned(text.as_bytes()), Cleaned::Untouched, "{text}");
        }
    }
}
