//! The lints in the documentation.

use std::path::Path;

use serde_json::Value;

/// docs/CHECK.md contains the output of `check --list`.
#[test]
fn documentation_lists_all_lints() {
    let output = super::run(Path::new("/"), &["--list", "--json"]);
    let list: Value = serde_json::from_str(&output.stdout).unwrap();
    let text = |lint: &Value, key: &str| lint[key].as_str().unwrap().replace('|', "\\|");
    let row = |lint: &Value| {
        let [name, severity, summary, fix] =
            ["name", "severity", "summary", "fix"].map(|key| text(lint, key));
        format!("| `{name}` | {severity} | {summary} | {fix} |\n")
    };
    let rows: String = list["lints"].as_array().unwrap().iter().map(row).collect();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CHECK.md");
    let document = std::fs::read_to_string(document).unwrap();
    let begin = document.find("| `archive/").unwrap();
    let end = document[begin..].find("\n\n").map_or(document.len(), |end| begin + end + 1);
    assert!(document[begin..end] == rows, "docs/CHECK.md must contain this table:\n{rows}");
}
