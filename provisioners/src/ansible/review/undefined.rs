//! Finds variables that are certainly used and that nothing defines.

use std::collections::BTreeSet;

use minijinja::Environment;

use super::evaluator::{Binding, Evaluator, MAX_EXPRESSION_BYTES, Outcome, Scope, is_template};
use super::template_parts::{TemplatePart, template_parts};
use crate::config::{YamlNode, YamlTag, YamlValue};
use crate::variables::Variable;

/// Maximum depth of variables whose values use other variables.
const MAX_DEPTH: usize = 5;

/// Words of an expression whose evaluation may not use all of its names.
const CONTROL_WORDS: [&str; 10] =
    ["if", "else", "and", "or", "is", "default", "d", "defined", "undefined", "omit"];

/// Filters that accept undefined values, and that minijinja lacks or treats otherwise.
const LENIENT_FILTERS: [&str; 3] = ["items", "ternary", "type_debug"];

/// A certain problem of a text with templates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TemplateProblem {
    /// The line in the text, from 0.
    pub(super) line: usize,
    pub(super) kind: TemplateProblemKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TemplateProblemKind {
    /// A variable is not defined. It is used in the value of another, if that has a name.
    Undefined { name: String, value_of: Option<String> },
    /// An expression or a statement has no end.
    NoEnd,
    /// The file that `lookup('file', 'name')` reads.
    Lookup(String),
}

/// Whether a part of a template is rendered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Branch {
    Certain,
    Possible,
    /// The branch of an `if` after one that is rendered, or with a false condition.
    Dead,
}

/// Returns the problems of all texts in a value.
pub(super) fn problems_of_node(
    node: &YamlNode,
    scope: &Scope,
    evaluator: &Evaluator<'_>,
) -> Vec<(usize, TemplateProblemKind)> {
    if node.tag != YamlTag::Other {
        return Vec::new();
    }
    let below = |node: &YamlNode| problems_of_node(node, scope, evaluator);
    match &node.value {
        YamlValue::Scalar { text, .. } => {
            let problems = problems_of_text(text, scope, evaluator).into_iter();
            problems.map(|problem| (node.span.line, problem.kind)).collect()
        }
        YamlValue::List(nodes) => nodes.iter().flat_map(below).collect(),
        YamlValue::Map(entries) => entries.iter().flat_map(|(_, node)| below(node)).collect(),
    }
}

/// Returns the problems of a text with templates.
pub(super) fn problems_of_text(
    text: &str,
    scope: &Scope,
    evaluator: &Evaluator<'_>,
) -> Vec<TemplateProblem> {
    problems_within(text, scope, evaluator, 0)
}

fn problems_within(
    text: &str,
    scope: &Scope,
    evaluator: &Evaluator<'_>,
    depth: usize,
) -> Vec<TemplateProblem> {
    let mut found = Vec::new();
    let parts = match is_template(text).then(|| template_parts(text)) {
        None => return found,
        Some(Ok(parts)) => parts,
        Some(Err(line)) => {
            return vec![TemplateProblem { line, kind: TemplateProblemKind::NoEnd }];
        }
    };
    let mut scope = scope.clone();
    let mut branches = vec![Branch::Certain];
    for (line, part) in parts {
        let branch = branches.last().copied().unwrap_or(Branch::Possible);
        let outer = branches.len().checked_sub(2).and_then(|at| branches.get(at)).copied();
        let expression = match part {
            TemplatePart::Print(expression)
            | TemplatePart::If(expression)
            | TemplatePart::For { list: expression, .. } => {
                Some(expression).filter(|_| branch == Branch::Certain)
            }
            // Evaluated if the branch before it is not rendered.
            TemplatePart::ElseIf(expression) => Some(expression)
                .filter(|_| branch == Branch::Dead && outer == Some(Branch::Certain)),
            _ => None,
        };
        if let Some(expression) = expression {
            let problems = undefined_in(expression, &scope, evaluator, depth);
            let lookup =
                looked_up(expression).map(|name| TemplateProblemKind::Lookup(name.to_owned()));
            let problems = problems
                .into_iter()
                .map(|(name, value_of)| TemplateProblemKind::Undefined { name, value_of });
            found.extend(problems.chain(lookup).map(|kind| TemplateProblem { line, kind }));
        }
        let inner = |value: Option<bool>, outer: Branch| match (outer, value) {
            (Branch::Certain, Some(true)) => Branch::Certain,
            (Branch::Dead, _) | (_, Some(false)) => Branch::Dead,
            _ => Branch::Possible,
        };
        let is_true = |expression| match evaluator.evaluate(expression, &scope) {
            Outcome::Value(value) => Some(value.is_true()),
            _ => None,
        };
        match part {
            TemplatePart::Print(_) => {}
            TemplatePart::If(expression) => branches.push(inner(is_true(expression), branch)),
            TemplatePart::For { names, list, is_filtered } => {
                let length = match evaluator.evaluate(list, &scope) {
                    Outcome::Value(value) => value.len(),
                    _ => None,
                };
                let is_filled = length.map(|length| length > 0);
                branches.push(inner(is_filled.filter(|filled| !filled || !is_filtered), branch));
                for name in names.into_iter().chain(["loop"]) {
                    scope.set(name, Binding::Unknown);
                }
            }
            TemplatePart::Set(names) => {
                names.into_iter().for_each(|name| scope.set(name, Binding::Unknown));
            }
            TemplatePart::ElseIf(_) | TemplatePart::Else => {
                let value = match part {
                    TemplatePart::ElseIf(expression) => is_true(expression),
                    _ => Some(true),
                };
                let next = match branch {
                    Branch::Certain => Branch::Possible,
                    Branch::Dead => inner(value, outer.unwrap_or(Branch::Possible)),
                    Branch::Possible => Branch::Possible,
                };
                branches.pop();
                branches.push(next);
            }
            TemplatePart::EndIf | TemplatePart::EndFor if branches.len() > 1 => {
                branches.pop();
            }
            // What follows may be in a macro, or depend on another template.
            _ => return found,
        }
    }
    found
}

/// Returns the variables that an expression certainly uses and that are not defined, each with the
/// variable whose value uses it.
pub(super) fn undefined_in(
    expression: &str,
    scope: &Scope,
    evaluator: &Evaluator<'_>,
    depth: usize,
) -> Vec<(String, Option<String>)> {
    if expression.len() > MAX_EXPRESSION_BYTES || depth > MAX_DEPTH || !evaluator.count_evaluation()
    {
        return Vec::new();
    }
    let Some(used) = certainly_used(expression) else {
        return match evaluator.evaluate(expression, scope) {
            Outcome::Undefined(name) if !evaluator.is_optional(&name) => vec![(name, None)],
            _ => Vec::new(),
        };
    };
    let mut found = Vec::new();
    for name in used {
        match evaluator.binding(&name, scope) {
            None if evaluator.is_optional(&name) || name == "role_path" => {}
            None => found.push((name, None)),
            Some(Binding::Raw(variable)) => {
                let mut texts = Vec::new();
                // Only what is used of a list or a mapping may be rendered.
                add_texts(variable, expression.trim() == name, &mut texts);
                let problems = texts
                    .into_iter()
                    .flat_map(|text| problems_within(text, scope, evaluator, depth + 1));
                found.extend(problems.filter_map(|problem| match problem.kind {
                    TemplateProblemKind::Undefined { name: inner, .. } => {
                        Some((inner, Some(name.clone())))
                    }
                    _ => None,
                }));
            }
            Some(_) => {}
        }
    }
    found
}

/// Adds the texts of a value, and with `whole` those in lists and mappings.
fn add_texts<'v>(value: &'v Variable, whole: bool, texts: &mut Vec<&'v str>) {
    match value {
        Variable::Text(text) => texts.push(text),
        Variable::List(values) if whole => {
            values.iter().for_each(|value| add_texts(value, whole, texts));
        }
        Variable::Map(values) if whole => {
            values.values().for_each(|value| add_texts(value, whole, texts));
        }
        _ => {}
    }
}

/// Returns the file of an expression that begins with `lookup('file', 'name')`.
fn looked_up(expression: &str) -> Option<&str> {
    let rest = expression.strip_prefix("lookup(")?.trim_start();
    let rest = ["'file'", "\"file\""].iter().find_map(|file| rest.strip_prefix(file))?;
    let rest = rest.trim_start().strip_prefix(',')?.trim_start();
    let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c))?;
    let (name, after) = rest[1..].split_once(quote)?;
    let after = after.trim_start().strip_prefix(')')?;
    let is_plain = !name.is_empty() && !name.contains(['{', '\\']) && !name.starts_with('~');
    // The value before `if` may not be evaluated.
    (is_plain && !after.contains(" if ")).then_some(name)
}

/// Returns the variables outside of brackets, if the evaluation of the expression uses all of them.
fn certainly_used(expression: &str) -> Option<BTreeSet<String>> {
    let environment = Environment::new();
    let names = environment.compile_expression(expression).ok()?.undeclared_variables(false);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    let mut is_certain = true;
    let (mut quote, mut depth, mut before) = (None, 0_usize, ' ');
    let mut rest = expression;
    while let Some(c) = rest.chars().next() {
        if quote.is_none() && is_part(c) {
            let word = &rest[..rest.find(|c| !is_part(c)).unwrap_or(rest.len())];
            if CONTROL_WORDS.contains(&word) {
                is_certain = false;
            }
            if word == "in" {
                // An empty list does not use the value that is searched in it.
                found.clear();
            }
            if before == '|' && LENIENT_FILTERS.contains(&word) {
                return Some(BTreeSet::new());
            }
            // After a dot is an attribute, and after a bar a filter.
            if depth == 0 && !['.', '|'].contains(&before) && names.contains(word) {
                found.insert(word.to_owned());
            }
            before = 'x';
            rest = &rest[word.len()..];
            continue;
        }
        match c {
            '\\' => return None,
            '"' | '\'' if quote == Some(c) => quote = None,
            '"' | '\'' if quote.is_none() => quote = Some(c),
            '(' | '[' | '{' if quote.is_none() => depth += 1,
            ')' | ']' | '}' if quote.is_none() => depth = depth.saturating_sub(1),
            _ => {}
        }
        if !c.is_whitespace() {
            before = c;
        }
        rest = &rest[c.len_utf8()..];
    }
    is_certain.then_some(found)
}
