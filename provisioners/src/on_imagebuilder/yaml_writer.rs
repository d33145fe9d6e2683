//! Writes variables as YAML.
//!
//! The variables were written for Ansible, which reads YAML 1.1. They are converted to words with
//! the same meaning in YAML 1.2: `yes` becomes `true`, `0644` becomes 420, and `1:30` becomes 90.

use crate::config::yaml_1_1::float_text;
use crate::config::{YamlNode, YamlValue};
use crate::variables::Variable;

/// Returns the lines of `name: value`, indented by `indent` spaces.
pub(super) fn entry(name: &str, value: &YamlNode, indent: usize) -> String {
    let margin = " ".repeat(indent);
    let name = key(name);
    match &value.value {
        YamlValue::Scalar { .. } => format!("{margin}{name}: {}\n", scalar(value)),
        YamlValue::List(nodes) if nodes.is_empty() => format!("{margin}{name}: []\n"),
        YamlValue::Map(entries) if entries.is_empty() => format!("{margin}{name}: {{}}\n"),
        YamlValue::List(nodes) => {
            let items: String = nodes.iter().map(|node| item(node, indent + 2)).collect();
            format!("{margin}{name}:\n{items}")
        }
        YamlValue::Map(entries) => {
            let lines: String =
                entries.iter().map(|(key, node)| entry(&key.name, node, indent + 2)).collect();
            format!("{margin}{name}:\n{lines}")
        }
    }
}

fn item(value: &YamlNode, indent: usize) -> String {
    let margin = " ".repeat(indent);
    match &value.value {
        YamlValue::Scalar { .. } => format!("{margin}- {}\n", scalar(value)),
        YamlValue::List(nodes) if nodes.is_empty() => format!("{margin}- []\n"),
        YamlValue::Map(entries) if entries.is_empty() => format!("{margin}- {{}}\n"),
        YamlValue::List(_) | YamlValue::Map(_) => {
            let lines: String = match &value.value {
                YamlValue::List(nodes) => nodes.iter().map(|node| item(node, indent + 2)).collect(),
                YamlValue::Map(entries) => {
                    entries.iter().map(|(key, node)| entry(&key.name, node, indent + 2)).collect()
                }
                YamlValue::Scalar { .. } => String::new(),
            };
            // The first line follows the dash.
            format!("{margin}- {}", lines.trim_start_matches(' '))
        }
    }
}

fn key(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if begins && name.chars().all(plain) { name.to_owned() } else { quoted(name) }
}

fn scalar(node: &YamlNode) -> String {
    let YamlValue::Scalar { text, plain } = &node.value else { return String::new() };
    if node.is_null() {
        return "null".to_owned();
    }
    if !plain || text.is_empty() || text.contains('\n') {
        return quoted(text);
    }
    match Variable::parse(node) {
        Ok(_) => text.clone(),
        Err(_) => flow_value(&Variable::parse_yaml_1_1(node)),
    }
}

/// Returns a value in one line.
pub(super) fn flow_value(value: &Variable) -> String {
    match value {
        Variable::Null => "null".to_owned(),
        Variable::Bool(value) => value.to_string(),
        Variable::Integer(number) => number.to_string(),
        Variable::Float(number) if number.is_finite() => float_text(*number),
        // A project has no infinite numbers.
        Variable::Float(number) => quoted(&number.to_string().to_lowercase()),
        Variable::Text(text) => quoted(text),
        Variable::List(items) => {
            let items: Vec<String> = items.iter().map(flow_value).collect();
            format!("[{}]", items.join(", "))
        }
        Variable::Map(entries) => {
            let entries = entries.iter();
            let entries: Vec<String> = entries
                .map(|(name, value)| format!("{}: {}", quoted(name), flow_value(value)))
                .collect();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// Returns text in double quotes.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                quoted.push('\\');
                quoted.push(c);
            }
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// Returns text as a value, with quotes only where they are needed.
pub(super) fn plain_or_quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:+~".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphabetic() || "./".contains(c));
    let other = ["true", "false", "null", "yes", "no", "on", "off"];
    let is_word = begins && text.chars().all(plain) && !text.ends_with(':');
    if is_word && !other.contains(&text.to_lowercase().as_str()) {
        text.to_owned()
    } else {
        quoted(text)
    }
}

/// Returns whether a text contains a word, not only as part of longer words.
pub(super) fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.match_indices(word)
        .any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

/// Returns whether a variable can have a name.
pub(super) fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Returns a list in flow style.
pub(super) fn flow(words: &[String]) -> String {
    format!("[{}]", words.iter().map(|w| plain_or_quoted(w)).collect::<Vec<_>>().join(", "))
}

/// Returns a path or pattern as a value. A pattern needs no quotes unless it begins with `*`, and
/// these begin with `/`.
pub(super) fn glob(path: &str) -> String {
    if path.contains('*') { path.to_owned() } else { plain_or_quoted(path) }
}

/// Wraps a text into lines of at most `width` characters, except for longer words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.len() - 1;
        let line = &mut lines[line];
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= width {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::YamlDocument;

    #[test]
    fn converts_yaml_1_1_to_equal_yaml_1_2() {
        let text = r#"
words: [yes, Off, "yes", 0644, 08, -010, 1:30, 7e4, 0o22, 1_000, 1:30.5, .inf, 1.0e+16, 1.5, ~, "1", 'it''s', "a\tb\\"]
deep:
  - {a: [], b: {}, c: [[1, 2], {x: y}]}
  - - nested
"odd key": "{{ a }}: b # no comment"
folded: one
  two
"#;
        let parse = |text: &str| YamlDocument::parse(Path::new("x.yml"), text.to_owned()).unwrap();
        let written = |document: &YamlDocument| match &document.root.value {
            YamlValue::Map(entries) => entries.iter().map(|(k, v)| entry(&k.name, v, 0)).collect(),
            _ => String::new(),
        };
        let once: String = written(&parse(text));
        assert_eq!(
            once,
            r#"words:
  - true
  - false
  - "yes"
  - 420
  - "08"
  - -8
  - 90
  - "7e4"
  - "0o22"
  - 1000
  - 90.5
  - "inf"
  - 1.0e+16
  - 1.5
  - null
  - "1"
  - "it's"
  - "a\tb\\"
deep:
  - a: []
    b: {}
    c:
      - - 1
        - 2
      - x: y
  - - nested
"odd key": "{{ a }}: b # no comment"
folded: one two
"#
        );
        // Converting the result again does not change it.
        assert_eq!(written(&parse(&once)), once);
    }

    #[test]
    fn text_is_quoted_where_needed() {
        for plain in ["bookworm", "http://cache:3142/debian", "/tmp/on-imagebuilder/builds", "a.b"]
        {
            assert_eq!(plain_or_quoted(plain), plain);
        }
        for other in ["yes", "1.5", "a b", "a: b", "{{ x }}", "", "x:", "#x"] {
            assert_eq!(plain_or_quoted(other), quoted(other));
        }
    }
}
