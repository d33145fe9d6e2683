//! What the documents say of the lints.

use std::path::Path;

use serde_json::Value;

/// The list of lints in docs/CHECK.md is what `check --list` says.
#[test]
fn the_list_of_lints_in_the_documents_is_that_of_the_program() {
    let said = super::run(Path::new("/"), &["--list", "--json"]);
    let list: Value = serde_json::from_str(&said.stdout).unwrap();
    let text = |lint: &Value, key: &str| lint[key].as_str().unwrap().replace('|', "\\|");
    let row = |lint: &Value| {
        let [name, severity, summary, mend] =
            ["name", "severity", "summary", "mend"].map(|key| text(lint, key));
        format!("| `{name}` | {severity} | {summary} | {mend} |\n")
    };
    let rows: String = list["lints"].as_array().unwrap().iter().map(row).collect();
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/CHECK.md");
    let document = std::fs::read_to_string(document).unwrap();
    let begin = document.find("| `archive/").unwrap();
    let end = document[begin..].find("\n\n").map_or(document.len(), |end| begin + end + 1);
    assert!(document[begin..end] == rows, "docs/CHECK.md is to have this list:\n{rows}");
}
