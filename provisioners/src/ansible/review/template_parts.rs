//! Splits a template into its expressions and statements.

/// A part of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TemplatePart<'t> {
    /// `{{ expression }}`
    Print(&'t str),
    /// `{% if expression %}`
    If(&'t str),
    /// `{% elif expression %}`
    ElseIf(&'t str),
    /// `{% else %}`
    Else,
    /// `{% endif %}`
    EndIf,
    /// `{% for names in expression %}`, or only for some of the elements.
    For { names: Vec<&'t str>, list: &'t str, is_filtered: bool },
    /// `{% endfor %}`
    EndFor,
    /// `{% set names = expression %}`, which may be undefined.
    Set(Vec<&'t str>),
    /// Another statement.
    Other,
}

/// Splits a template. Each part has its line, from 0. Returns the line as an error if an
/// expression, a statement or a comment has no end.
pub(super) fn template_parts(text: &str) -> Result<Vec<(usize, TemplatePart<'_>)>, usize> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) =
        rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min()
    {
        let line = text[..text.len() - rest.len() + at].matches('\n').count();
        let (mark, inner) = rest[at..].split_at(2);
        if mark == "{#" {
            let end = inner.find("#}").ok_or(line)?;
            rest = &inner[end + 2..];
            continue;
        }
        let end = end_of(inner, if mark == "{{" { "}}" } else { "%}" }).ok_or(line)?;
        rest = &inner[end + 2..];
        let inner = inner[..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        if mark == "{{" {
            parts.push((line, TemplatePart::Print(inner)));
            continue;
        }
        let part = statement(inner);
        if inner == "raw" {
            let end = rest.find("endraw").ok_or(line)?;
            rest = &rest[end + rest[end..].find("%}").ok_or(line)? + 2..];
            continue;
        }
        parts.push((line, part));
    }
    Ok(parts)
}

/// Returns the position of the end mark that is not in quotes.
fn end_of(text: &str, mark: &str) -> Option<usize> {
    let mut quote = None;
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if c == '\\' => is_escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if matches!(c, '"' | '\'') => quote = Some(c),
            None if text[at..].starts_with(mark) => return Some(at),
            None => {}
        }
    }
    None
}

fn statement(text: &str) -> TemplatePart<'_> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match word {
        "if" => TemplatePart::If(rest),
        "elif" => TemplatePart::ElseIf(rest),
        "else" => TemplatePart::Else,
        "endif" => TemplatePart::EndIf,
        "endfor" => TemplatePart::EndFor,
        "for" => match rest.split_once(" in ").map(|(names, list)| (names_of(names), list)) {
            Some((Some(names), list)) => {
                let filtered = list.split_once(" if ").map(|(list, _)| list);
                let list = filtered.unwrap_or(list).trim();
                let list = list.strip_suffix(" recursive").unwrap_or(list);
                TemplatePart::For { names, list, is_filtered: filtered.is_some() }
            }
            _ => TemplatePart::Other,
        },
        "set" => match rest.split_once('=').and_then(|(names, _)| names_of(names)) {
            Some(names) => TemplatePart::Set(names),
            None => TemplatePart::Other,
        },
        _ => TemplatePart::Other,
    }
}

/// Returns the names of `a, b`.
fn names_of(text: &str) -> Option<Vec<&str>> {
    let names = text.split(',').map(str::trim);
    let is_name = |name: &&str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty()
    };
    names.map(|name| Some(name).filter(is_name)).collect()
}
