//! Templates: `*.j2` files that minijinja renders with the variables.
//!
//! An undefined variable is an error, reported with file and line. As in Ansible, the last newline
//! of a file is kept, the newline after a block (`{% endif %}`) is dropped, and nothing is escaped.

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, ErrorKind, UndefinedBehavior};

use crate::config::nearest;
use crate::variables::{LOOP_VARIABLE, Variables};

/// A template cannot be rendered.
#[derive(Debug, thiserror::Error)]
#[error("{file}{line}: {problem}{help}", file = file.display(),
    line = line.map(|l| format!(":{l}")).unwrap_or_default(),
    help = help.as_deref().map(|h| format!("\nhelp: {h}")).unwrap_or_default())]
pub struct TemplateError {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1.
    pub line: Option<usize>,
    /// The problem.
    pub problem: String,
    /// How to fix it.
    pub help: Option<String>,
}

/// Renders the text of the template at `file`.
pub(crate) fn render(
    file: &Path,
    text: &str,
    variables: &Variables,
) -> Result<String, TemplateError> {
    environment()
        .template_from_str(text)
        .and_then(|template| template.render(variables.context()))
        .map_err(|error| {
            let (problem, help) = explain(text, variables, &error);
            TemplateError { file: file.to_owned(), line: error.line(), problem, help }
        })
}

/// Returns the minijinja environment for templates in files and expressions in `provisioner.yml`.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).trim_blocks(true).build();
    environment.set_syntax(syntax.unwrap_or_default());
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_debug(true);
    environment
}

/// Returns the problem of the template or expression `text`, and how to fix it.
pub(crate) fn explain(
    text: &str,
    variables: &Variables,
    error: &minijinja::Error,
) -> (String, Option<String>) {
    let expression = error.range().and_then(|range| text.get(range)).map(str::trim);
    match (error.kind(), expression) {
        (ErrorKind::UndefinedError, Some(expression)) => undefined(expression, variables),
        _ => {
            let detail = error.detail().map(|d| format!(": {d}")).unwrap_or_default();
            (format!("{}{detail}", error.kind()), None)
        }
    }
}

/// Returns the problem of an expression with an undefined value, and how to fix it.
pub(crate) fn undefined(expression: &str, variables: &Variables) -> (String, Option<String>) {
    let word = expression
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .find(|word| !word.is_empty() && variables.get(word).is_none());
    let help = match word {
        Some(LOOP_VARIABLE) => format!("`{LOOP_VARIABLE}` is defined only in a step with a `loop`"),
        _ => match word.and_then(|word| nearest(word, variables.iter().map(|(name, _)| name))) {
            Some(name) => format!("did you mean `{name}`?"),
            None => "give the variable a default in provisioner.yml".to_owned(),
        },
    };
    (format!("`{expression}` is undefined"), Some(help))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variables::Variable;

    fn variables() -> Variables {
        let mut variables = Variables::default();
        variables.set("lldp_interval", Variable::Integer(30));
        variables.set(
            "servers",
            Variable::List(vec![Variable::Text("a".into()), Variable::Text("b".into())]),
        );
        variables
    }

    fn render(text: &str) -> Result<String, String> {
        super::render(Path::new("files/x.j2"), text, &variables()).map_err(|e| e.to_string())
    }

    #[test]
    fn renders_values_and_loops_and_keeps_the_last_newline() {
        let text = "tx {{ lldp_interval }}\n{% for s in servers %}\n{{ s }}\n{% endfor %}\nend\n";
        assert_eq!(render(text).unwrap(), "tx 30\na\nb\nend\n");
    }

    #[test]
    fn html_is_not_escaped() {
        assert_eq!(render("{{ '<&>' }}").unwrap(), "<&>");
    }

    #[test]
    fn undefined_variable_error_has_file_line_and_suggestion() {
        assert_eq!(
            render("one\n{{ lldp_intervall }}\n").unwrap_err(),
            "files/x.j2:2: `lldp_intervall` is undefined\nhelp: did you mean `lldp_interval`?"
        );
        assert_eq!(
            render("{% if colour %}x{% endif %}").unwrap_err(),
            "files/x.j2:1: `colour` is undefined\nhelp: give the variable a default in provisioner.yml"
        );
    }

    #[test]
    fn syntax_error_has_file_and_line() {
        let error = render("one\ntwo {{ lldp_interval }\n").unwrap_err();
        assert!(error.starts_with("files/x.j2:2: syntax error"), "{error}");
    }
}
