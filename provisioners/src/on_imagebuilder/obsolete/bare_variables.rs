//! Names of variables without braces, which current Ansible reads as text: in loops and in
//! `environment`, also as `$name` and `${name}`.
//!
//! Text that is not the name of a defined variable may be meant as text, and stays as it is.

use super::Obsolete;
use super::defined_names::DefinedNames;
use crate::ansible::tasks::tasks;
use crate::config::{YamlDocument, YamlKey, YamlNode, YamlValue};
use crate::on_imagebuilder::line_edit::{LineEdit, line_of};

/// Keys that loop over a single list or mapping, and whether text is an item of the loop. Otherwise
/// the task fails.
const LOOP_KEYS: [(&str, bool); 6] = [
    ("with_items", true),
    ("with_dict", false),
    ("with_list", false),
    ("with_flattened", true),
    ("with_indexed_items", true),
    ("with_random_choice", false),
];

/// Keys that loop over several lists, and how many of the first ones may be variables.
const LOOP_KEYS_OF_LISTS: [(&str, usize); 5] = [
    ("with_nested", usize::MAX),
    ("with_cartesian", usize::MAX),
    ("with_together", usize::MAX),
    (FLATTENED, usize::MAX),
    // The second element is the name of a key.
    ("with_subelements", 1),
];

/// A loop over lists and single items, which need no note.
const FLATTENED: &str = "with_flattened";

/// Values that are no names of variables.
const LITERALS: [&str; 12] = [
    "true", "True", "TRUE", "false", "False", "FALSE", "yes", "no", "none", "None", "null", "Null",
];

/// Searches the tasks of a role.
pub(super) fn search_tasks(
    document: &YamlDocument,
    text: &str,
    names: &DefinedNames,
    found: &mut Vec<Obsolete>,
) {
    for task in tasks(&document.root) {
        for (key, value) in task.entries() {
            search_key(key, value, text, names, found);
        }
    }
}

fn search_key(
    key: &YamlKey,
    value: &YamlNode,
    text: &str,
    names: &DefinedNames,
    found: &mut Vec<Obsolete>,
) {
    let name = key.name.as_str();
    let one_value = LOOP_KEYS.iter().find(|(key, _)| *key == name).map(|(_, is_item)| *is_item);
    let is_environment = name == "environment";
    if let YamlValue::Scalar { text: scalar, .. } = &value.value
        && (one_value.is_some() || is_environment)
        && let Some(bare) = Bare::find(scalar)
    {
        // Double quotes in the expression would end those around it.
        let quote = if bare.expression.contains('"') { '\'' } else { '"' };
        let instead = format!("{name}: {quote}{{{{ {} }}}}{quote}", bare.expression);
        let line = key.span.line;
        let shown = format!("`{name}: {scalar}`");
        let undefined = bare.variables.iter().find(|name| !names.contains(name));
        if undefined.is_none() {
            // A backslash has another meaning in double quotes.
            let old = key_and_value(text, key, value).filter(|_| !scalar.contains('\\'));
            let at = (line, key.span.column);
            let edit = old.and_then(|old| LineEdit::replace_from(text, at, &old, &instead));
            let problem = format!("{shown} is text and not a variable: write `{instead}`");
            found.push(Obsolete::new(line, problem, edit));
        } else {
            let reads = match one_value {
                Some(true) => "is one item".to_owned(),
                _ => format!(
                    "is text, and nothing in the tree defines `{}`",
                    undefined.copied().unwrap_or_default()
                ),
            };
            let problem =
                format!("{shown} {reads}; if it is meant as a variable, write `{instead}`");
            found.push(Obsolete::new(line, problem, None));
        }
    } else if let Some((_, count)) = LOOP_KEYS_OF_LISTS.iter().find(|(key, _)| *key == name)
        && let YamlValue::List(lists) = &value.value
    {
        for list in lists.iter().take(*count) {
            search_element(name, list, text, names, found);
        }
    }
}

/// Searches an element of a loop over several lists.
fn search_element(
    key: &str,
    element: &YamlNode,
    text: &str,
    names: &DefinedNames,
    found: &mut Vec<Obsolete>,
) {
    let YamlValue::Scalar { text: scalar, plain: true } = &element.value else { return };
    let Some(bare) = Bare::find(scalar).filter(|_| !scalar.contains(['\\', '"'])) else { return };
    let line = element.span.line;
    let instead = format!("\"{{{{ {} }}}}\"", bare.expression);
    if bare.variables.iter().all(|name| names.contains(name)) {
        let edit = LineEdit::replace_from(text, (line, element.span.column), scalar, &instead);
        let problem =
            format!("`{scalar}` in `{key}` is text and not a variable: write `{instead}`");
        found.push(Obsolete::new(line, problem, edit));
    } else if key != FLATTENED {
        let problem = format!(
            "`{scalar}` in `{key}` is one item; if it is meant as a variable, write `{instead}`"
        );
        found.push(Obsolete::new(line, problem, None));
    }
}

/// An expression without braces.
struct Bare<'a> {
    expression: &'a str,
    /// The variables that it begins with: several in a sum.
    variables: Vec<&'a str>,
}

impl<'a> Bare<'a> {
    /// Reads the name of a variable, or an expression that begins with one or with a sum of
    /// several.
    fn find(text: &'a str) -> Option<Self> {
        let expression = match text.strip_prefix('$') {
            Some(rest) => {
                rest.strip_prefix('{').map_or(Some(rest), |rest| rest.strip_suffix('}'))?
            }
            None => text,
        };
        if is_file_name(text) || LITERALS.contains(&text) {
            return None;
        }
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let expression_part = |c: char| part(c) || ".[]()'\"".contains(c);
        let first = expression.split('|').next().unwrap_or_default();
        let variable = |term: &'a str| {
            let term = term.trim();
            let begins = term.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
            let is_variable = begins && term.chars().all(expression_part);
            is_variable.then(|| term.split(|c| !part(c)).next()).flatten()
        };
        let variables = first.split(" + ").map(variable).collect::<Option<_>>()?;
        Some(Self { expression, variables })
    }
}

/// Returns whether a text with a dot is the name of a file, and not an attribute of a variable.
fn is_file_name(text: &str) -> bool {
    let endings =
        ["conf", "cfg", "deb", "ini", "j2", "list", "rules", "service", "sh", "txt", "yml"];
    text.rsplit_once('.').is_some_and(|(_, ending)| endings.contains(&ending))
}

/// Returns the text from a key to the end of its value, if both are on one line and the value has
/// no quotes.
fn key_and_value(text: &str, key: &YamlKey, value: &YamlNode) -> Option<String> {
    let is_plain = matches!(value.value, YamlValue::Scalar { plain: true, .. });
    let one_line = value.span.line == key.span.line && value.span.width < usize::MAX;
    let line = line_of(text, key.span.line).filter(|_| is_plain && one_line)?;
    let end = value.span.column - 1 + value.span.width;
    let from = line.chars().take(end).skip(key.span.column - 1).collect::<String>();
    Some(from.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::on_imagebuilder::line_edit::apply;

    /// Returns the problems of a file of tasks in a tree with the variables `pkgs`, `users` and
    /// `result`, and the text with all edits.
    fn search(text: &str) -> (Vec<String>, String) {
        let mut found = Vec::new();
        let document = YamlDocument::parse(Path::new("main.yml"), text.to_owned()).unwrap();
        let names = DefinedNames::from_iter(["pkgs", "users", "result"].map(str::to_owned));
        search_tasks(&document, text, &names, &mut found);
        let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
        let notes = found.iter().map(|found| format!("{}: {}", found.line, found.text));
        (notes.collect(), apply(text, &edits))
    }

    #[test]
    fn defined_variables_get_braces() {
        for (old, new) in [
            ("with_items: pkgs # all", "with_items: \"{{ pkgs }}\" # all"),
            ("with_items: $pkgs", "with_items: \"{{ pkgs }}\""),
            ("with_items: ${pkgs}", "with_items: \"{{ pkgs }}\""),
            ("with_dict: users.all", "with_dict: \"{{ users.all }}\""),
            (
                "with_items: result.results | map(attribute=\"x\")",
                "with_items: '{{ result.results | map(attribute=\"x\") }}'",
            ),
            ("with_items: pkgs + users", "with_items: \"{{ pkgs + users }}\""),
            ("with_items: users.keys()", "with_items: \"{{ users.keys() }}\""),
            ("with_items: ansible_mounts", "with_items: \"{{ ansible_mounts }}\""),
            ("with_nested: [users, [a, b]]", "with_nested: [\"{{ users }}\", [a, b]]"),
            ("with_subelements: [users, keys]", "with_subelements: [\"{{ users }}\", keys]"),
            ("with_flattened: [pkgs, curl]", "with_flattened: [\"{{ pkgs }}\", curl]"),
            ("with_together: [$pkgs, users]", "with_together: [\"{{ pkgs }}\", \"{{ users }}\"]"),
            ("environment: users", "environment: \"{{ users }}\""),
        ] {
            let (found, fixed) = search(&format!("- command: x\n  {old}\n"));
            assert!(found[0].contains("is text and not a variable: write `"), "{found:?}");
            assert_eq!(fixed, format!("- command: x\n  {new}\n"));
            assert_eq!(search(&fixed).0, [] as [&str; 0], "{fixed}");
        }
    }

    #[test]
    fn text_that_names_no_variable_is_kept() {
        let one = |loops: &str, variable: &str| {
            format!("2: `{loops}` is one item; if it is meant as a variable, write `{variable}`")
        };
        for (old, note) in [
            ("with_items: lshw", Some(one("with_items: lshw", "with_items: \"{{ lshw }}\""))),
            (
                "with_items: pkgs + lshw",
                Some(one("with_items: pkgs + lshw", "with_items: \"{{ pkgs + lshw }}\"")),
            ),
            ("with_items: $lshw", Some(one("with_items: $lshw", "with_items: \"{{ lshw }}\""))),
            (
                "with_dict: tools",
                Some(
                    "2: `with_dict: tools` is text, and nothing in the tree defines `tools`; if it \
                     is meant as a variable, write `with_dict: \"{{ tools }}\"`"
                        .to_owned(),
                ),
            ),
            (
                "with_nested: [lshw, [a, b]]",
                Some(
                    "2: `lshw` in `with_nested` is one item; if it is meant as a variable, write \
                     `\"{{ lshw }}\"`"
                        .to_owned(),
                ),
            ),
            ("with_items: true", None),
            ("with_items: None", None),
            ("with_items: nginx.conf", None),
            ("with_flattened: [lshw, curl]", None),
            ("with_items: [pkgs]", None),
            ("environment: {A: pkgs}", None),
        ] {
            let text = format!("- command: x\n  {old}\n");
            let (found, fixed) = search(&text);
            assert_eq!(found, note.into_iter().collect::<Vec<_>>());
            assert_eq!(fixed, text);
        }
        // A value on other lines, and an escape, need another edit than that of a line.
        for text in [
            "- with_items: >-\n    pkgs\n  command: x\n",
            "- with_items: pkgs | map('x', '\\1')\n  command: x\n",
        ] {
            let (found, fixed) = search(text);
            assert_eq!((found.len(), fixed.as_str()), (1, text));
        }
    }
}
