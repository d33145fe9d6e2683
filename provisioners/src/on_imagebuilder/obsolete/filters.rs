//! Tests that were filters: `result|failed` is `result is failed` since Ansible 2.9.

use super::syntax::task_lines;
use super::{Obsolete, scalars};
use crate::ansible::tasks::tasks;
use crate::config::{YamlDocument, YamlNode, YamlValue};
use crate::on_imagebuilder::line_edit::LineEdit;

/// Removed filters, and the tests that replace them.
const REMOVED_FILTERS: [(&str, &str); 19] = [
    ("match", "match"),
    ("search", "search"),
    ("success", "success"),
    ("succeeded", "success"),
    ("failed", "failed"),
    ("changed", "changed"),
    ("skipped", "skipped"),
    ("started", "started"),
    ("finished", "finished"),
    ("version_compare", "version"),
    ("exists", "exists"),
    ("is_abs", "abs"),
    ("is_dir", "directory"),
    ("is_file", "file"),
    ("is_link", "link"),
    ("is_mount", "mount"),
    ("is_same_file", "same_file"),
    ("issubset", "subset"),
    ("issuperset", "superset"),
];

/// Keys of tasks with conditions, which are expressions without braces.
const CONDITIONS: [&str; 4] = ["when", "changed_when", "failed_when", "until"];

/// The beginnings and ends of the parts of a template that are expressions.
const DELIMITERS: [(&str, &str); 2] = [("{{", "}}"), ("{%", "%}")];

/// Searches the tasks of a role.
pub(super) fn search_tasks(document: &YamlDocument, text: &str, found: &mut Vec<Obsolete>) {
    for task in tasks(&document.root) {
        for (key, value) in task.entries() {
            match (key.name.as_str(), &value.value) {
                ("block" | "rescue" | "always", _) => {}
                (name, _) if CONDITIONS.contains(&name) => search_conditions(value, text, found),
                (name, YamlValue::Map(arguments)) if is_assert(name) => {
                    for (argument, value) in arguments {
                        match argument.name.as_str() {
                            "that" => search_conditions(value, text, found),
                            _ => search_templates(value, text, found),
                        }
                    }
                }
                (name, YamlValue::Scalar { .. }) if is_assert(name) => {
                    let module = task.module();
                    let that = module.as_ref().and_then(|module| module.text("that"));
                    search_expression(that.unwrap_or_default(), value, text, found);
                }
                _ => search_templates(value, text, found),
            }
        }
    }
}

/// Searches a template, which may be of any format.
pub(super) fn search_template(text: &str, found: &mut Vec<Obsolete>) {
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        for filter in expressions(line).into_iter().flat_map(filters) {
            let edit = LineEdit::replace(text, number..=number, filter.old, &filter.replacement());
            found.push(Obsolete::new(number, filter.problem(), edit));
        }
    }
}

fn is_assert(key: &str) -> bool {
    key.rsplit('.').next() == Some("assert")
}

/// Searches conditions, which are a text or a list of texts.
fn search_conditions(conditions: &YamlNode, text: &str, found: &mut Vec<Obsolete>) {
    for condition in conditions.list().unwrap_or_default() {
        if let YamlValue::Scalar { text: expression, .. } = &condition.value {
            search_expression(expression, condition, text, found);
        }
    }
}

/// Searches the templates in all texts of a value.
fn search_templates(value: &YamlNode, text: &str, found: &mut Vec<Obsolete>) {
    for node in scalars(value) {
        let YamlValue::Scalar { text: template, .. } = &node.value else { continue };
        for expression in expressions(template) {
            search_expression(expression, node, text, found);
        }
    }
}

/// Searches an expression in the text of a node.
fn search_expression(expression: &str, node: &YamlNode, text: &str, found: &mut Vec<Obsolete>) {
    let line = node.span.line;
    for filter in filters(expression) {
        let (old, new) = (filter.old, filter.replacement());
        // A text of several lines begins after the line of its key.
        let edit = LineEdit::replace_from(text, (line, node.span.column), old, &new)
            .or_else(|| LineEdit::replace(text, task_lines(text, line), old, &new));
        let line = edit.as_ref().map_or(line, LineEdit::line);
        found.push(Obsolete::new(line, filter.problem(), edit));
    }
}

/// Returns the expressions of a template.
fn expressions(template: &str) -> Vec<&str> {
    let mut found = Vec::new();
    for (begin, end) in DELIMITERS {
        let mut rest = template;
        while let Some((_, after)) = rest.split_once(begin) {
            let Some((expression, after)) = after.split_once(end) else { break };
            found.push(expression);
            rest = after;
        }
    }
    found
}

/// A removed filter in an expression: `x | failed`.
struct Filter<'a> {
    /// The expression and its filter.
    old: &'a str,
    /// The expression before the filter.
    before: &'a str,
    /// The test that replaces the filter.
    test: &'static str,
}

impl Filter<'_> {
    fn replacement(&self) -> String {
        format!("{} is {}", self.before, self.test)
    }

    fn problem(&self) -> String {
        format!("the filter `{}` was removed: write `{}`", self.old, self.replacement())
    }
}

/// Finds the removed filters in an expression.
fn filters(text: &str) -> Vec<Filter<'_>> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices('|') {
        let (before, name) = (&text[..at], text[at + 1..].trim_start());
        // A bar in quotes is text.
        let is_quoted = ['"', '\''].iter().any(|quote| before.matches(*quote).count() % 2 == 1);
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let length = name.find(|c| !part(c)).unwrap_or(name.len());
        let removed = REMOVED_FILTERS.iter().find(|(old, _)| *old == &name[..length]);
        let Some((_, test)) = removed.filter(|_| !is_quoted) else { continue };
        let end = text.len() - name.len() + length;
        let trimmed = before.trim_end();
        let expression = trimmed.rsplit([' ', '(']).next().filter(|name| !name.is_empty());
        let Some(expression) = expression else { continue };
        let start = trimmed.len() - expression.len();
        found.push(Filter { old: &text[start..end], before: expression, test });
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::on_imagebuilder::line_edit::apply;

    fn fixed(text: &str) -> (Vec<usize>, String) {
        let mut found = Vec::new();
        let document = YamlDocument::parse(Path::new("main.yml"), text.to_owned()).unwrap();
        search_tasks(&document, text, &mut found);
        let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
        (found.iter().map(|found| found.line).collect(), apply(text, &edits))
    }

    #[test]
    fn filters_are_replaced_in_conditions_and_templates() {
        let text = "- block:
    - command: true
      when: [result|failed and other|changed or x|search('y')]
  when: not p|exists and (a|issubset(b) or '/x'|is_file)
- {name: is it installed, command: x, when: r|failed}
- debug: msg={{ r|success }} var='x|failed'
- debug:
    msg: >
      first
      {% if r | skipped %}x{% endif %} {{ v|version_compare('1', '>') }}
- assert:
    that: [r|success, \"q is defined\"]
    msg: a|failed {{ r|failed }}
- assert: that=\"r|success\"
- shell: ls | search && echo {{ x | lower }}
  register: changed
";
        let wanted = "- block:
    - command: true
      when: [result is failed and other is changed or x is search('y')]
  when: not p is exists and (a is subset(b) or '/x' is file)
- {name: is it installed, command: x, when: r is failed}
- debug: msg={{ r is success }} var='x|failed'
- debug:
    msg: >
      first
      {% if r is skipped %}x{% endif %} {{ v is version('1', '>') }}
- assert:
    that: [r is success, \"q is defined\"]
    msg: a|failed {{ r is failed }}
- assert: that=\"r is success\"
- shell: ls | search && echo {{ x | lower }}
  register: changed
";
        let (lines, text) = fixed(text);
        assert_eq!(text, wanted);
        assert_eq!(lines, [4, 4, 4, 3, 3, 3, 5, 6, 10, 10, 12, 13, 14]);
        assert_eq!(fixed(wanted).0, [] as [usize; 0]);
    }

    #[test]
    fn filters_are_replaced_in_templates_of_roles() {
        let text = "x|failed\n{% if r|changed %}\n{{ a | issubset(b) }} | search\n";
        let mut found = Vec::new();
        search_template(text, &mut found);
        let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
        let wanted = "x|failed\n{% if r is changed %}\n{{ a is subset(b) }} | search\n";
        assert_eq!(apply(text, &edits), wanted);
    }
}
