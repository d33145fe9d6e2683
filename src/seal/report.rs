//! JSON reports about written files.

use std::path::Path;

use serde_json::{Value, json};

use super::Summary;
use crate::text::digest::{hex, sha256_hex};

/// Returns the JSON report about an archive. `warnings` are those about the files that it was made
/// of.
pub(crate) fn archive_report(path: &Path, summary: &Summary, warnings: &[String]) -> Value {
    let losses = summary.warnings.iter().map(ToString::to_string);
    let warnings: Vec<String> = warnings.iter().cloned().chain(losses).collect();
    json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": summary.size,
        "sha256": hex(&summary.sha256),
        "entries": summary.entries,
        "counts": summary.counts,
        "content": summary.content,
        "warnings": warnings,
    })
}

/// Returns the JSON report about a file copied out of a root, with the warnings about it.
pub(crate) fn file_report(path: &Path, content: &[u8], warnings: &[String]) -> Value {
    json!({
        "schema": 1,
        "output": path.to_string_lossy(),
        "size": content.len(),
        "sha256": sha256_hex(content),
        "warnings": warnings,
    })
}
