//! Status lines and warnings on standard error.

use std::io::Write;
use std::sync::OnceLock;

/// Name of the image that this child process builds; the prefix of its status lines.
static CHILD_IMAGE: OnceLock<String> = OnceLock::new();

/// Begins each status line with the name of the image that this process builds for its parent.
pub(super) fn set_child_image(image: &str) {
    // Called once, so the cell is empty.
    let _ = CHILD_IMAGE.set(image.to_owned());
}

/// Prints a status line to standard error. Write errors are ignored.
pub(crate) fn eprint_status(text: &str) {
    let _ = match CHILD_IMAGE.get() {
        Some(image) => writeln!(std::io::stderr(), "overcoat: {image}: {text}"),
        None => writeln!(std::io::stderr(), "overcoat: {text}"),
    };
}

/// Prints a line to standard error without a prefix. Write errors are ignored.
pub(crate) fn eprint_line(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

pub(crate) fn eprint_warnings(warnings: &[String]) {
    for warning in warnings {
        eprint_status(&format!("warning: {warning}"));
    }
}
