//! Line-by-line differences of text files.

use std::time::Duration;

use similar::TextDiff;

use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

/// Maximum size, in bytes, of files that are compared by lines.
pub(crate) const MAX_TEXT_SIZE: u64 = 1 << 20;
/// Number of leading bytes that are searched for NUL, which makes a file binary; the same as in
/// git.
const BINARY_CHECK_LENGTH: usize = 8000;
/// Time limit for an optimal difference. After it, the rest is correct but not minimal. Only
/// generated files take that long.
const DIFF_TIMEOUT: Duration = Duration::from_secs(2);

/// The result of comparing two files as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TextComparison {
    /// A unified diff (POSIX `diff -u`) with the names `a/PATH` and `b/PATH`, or `/dev/null` for a
    /// missing file. Empty if the contents are equal.
    Unified(Vec<u8>),
    /// At least one of the files is binary.
    Binary,
    /// At least one of the files is larger than [`MAX_TEXT_SIZE`].
    Large,
}

/// Compares the contents of two files. A side that is `None` or not a regular file counts as
/// missing.
///
/// # Errors
/// Fails if a layer is damaged.
pub(crate) fn unified(
    old: Option<(&StackView, &ViewNode)>,
    new: Option<(&StackView, &ViewNode)>,
) -> Result<TextComparison, LookError> {
    let sides = [old, new].map(|side| side.filter(|(_, node)| node.is_file()));
    if sides.iter().flatten().any(|(_, node)| node.attr.size > MAX_TEXT_SIZE) {
        return Ok(TextComparison::Large);
    }
    let mut contents = [Vec::new(), Vec::new()];
    for (side, content) in sides.iter().zip(&mut contents) {
        if let Some((view, node)) = side {
            *content = view.head(node, MAX_TEXT_SIZE as usize)?;
        }
    }
    if contents.iter().any(|content| content[..content.len().min(BINARY_CHECK_LENGTH)].contains(&0))
    {
        return Ok(TextComparison::Binary);
    }
    let name = |side: &Option<(&StackView, &ViewNode)>, prefix: &str| match side {
        Some((_, node)) => format!("{prefix}/{}", escape(&node.path)),
        None => "/dev/null".to_owned(),
    };
    let mut text = Vec::new();
    let diff = TextDiff::configure()
        .timeout(DIFF_TIMEOUT)
        .diff_lines(contents[0].as_slice(), contents[1].as_slice());
    // Writing to memory does not fail.
    let _ = diff
        .unified_diff()
        .header(&name(&sides[0], "a"), &name(&sides[1], "b"))
        .to_writer(&mut text);
    Ok(TextComparison::Unified(text))
}
