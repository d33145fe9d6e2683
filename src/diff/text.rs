//! What changed in a text file, line by line.

use std::time::Duration;

use similar::TextDiff;

use crate::look::{LookError, Node, View};
use crate::seal::path::escape;

/// The most of a file that is compared by lines, in bytes.
pub const MOST: u64 = 1 << 20;
/// How far a NUL is looked for, which no text has: what git takes too.
const HEAD: usize = 8000;
/// After this the rest is told coarsely, as lines that went and lines that came: still right, but
/// not the least. Only files that nobody wrote by hand take as long.
const PATIENCE: Duration = Duration::from_secs(2);

/// The difference of two files as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// In the unified format (POSIX `diff -u`), with `a/PATH` and `b/PATH`, or `/dev/null` for what
    /// is not there; empty when the contents are the same.
    Unified(Vec<u8>),
    /// One of them is no text.
    Binary,
    /// One of them is larger than [`MOST`].
    Large,
}

/// Compares the contents of two files, of which one may not be there; what is no regular file is
/// not there.
///
/// # Errors
/// A damaged layer.
pub fn unified(
    old: Option<(&View, &Node)>,
    new: Option<(&View, &Node)>,
) -> Result<Text, LookError> {
    let sides = [old, new].map(|side| side.filter(|(_, node)| node.is_file()));
    if sides.iter().flatten().any(|(_, node)| node.attr.size > MOST) {
        return Ok(Text::Large);
    }
    let mut contents = [Vec::new(), Vec::new()];
    for (side, content) in sides.iter().zip(&mut contents) {
        if let Some((view, node)) = side {
            *content = view.head(node, MOST as usize)?;
        }
    }
    if contents.iter().any(|content| content[..content.len().min(HEAD)].contains(&0)) {
        return Ok(Text::Binary);
    }
    let name = |side: &Option<(&View, &Node)>, prefix: &str| match side {
        Some((_, node)) => format!("{prefix}/{}", escape(&node.path)),
        None => "/dev/null".to_owned(),
    };
    let mut text = Vec::new();
    let diff = TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(contents[0].as_slice(), contents[1].as_slice());
    // Writing to memory does not fail.
    let _ = diff
        .unified_diff()
        .header(&name(&sides[0], "a"), &name(&sides[1], "b"))
        .to_writer(&mut text);
    Ok(Text::Unified(text))
}
