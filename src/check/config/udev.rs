//! Rules of udev: udev(7), parsed as `src/udev/udev-rules.c` does.

use std::collections::BTreeSet;

use super::files::{ConfigFile, drop_in_nodes, files_in};
use super::inspector::{Inspector, shown};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::known_accounts::KnownAccounts;
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};

pub(super) static UDEV_RULE: Lint = Lint {
    name: "config/udev-rule",
    severity: Severity::Error,
    summary: "a udev rule that does not work",
    why: "udev skips a whole line with an invalid key, operator or value. It ignores an unknown \
          user or group, and a rule does not match or runs nothing if its program is missing. \
          Devices then have other names, owners or modes, or nothing is started for them.",
    fix: "correct the rule; `udevadm test` and the journal print details",
};

/// Directories by precedence. /run is empty until boot.
const DIRS: [&str; 3] = ["etc/udev/rules.d", "usr/local/lib/udev/rules.d", "usr/lib/udev/rules.d"];
/// Directories of programs without a path.
const PROGRAM_DIRS: [&str; 3] = ["usr/lib/udev", "lib/udev", "etc/udev"];
/// Maximum length of a line (`UDEV_LINE_SIZE`).
const MAX_LINE: usize = 16 << 10;
/// Commands that udev itself contains.
const BUILTINS: [&str; 15] = [
    "blkid",
    "btrfs",
    "dissect_image",
    "factory_reset",
    "hwdb",
    "input_id",
    "keyboard",
    "kmod",
    "net_driver",
    "net_id",
    "net_setup_link",
    "path_id",
    "tpm2_id",
    "uaccess",
    "usb_id",
];
/// Properties that rules cannot set.
const FIXED_PROPERTIES: [&str; 11] = [
    "ACTION",
    "DEVLINKS",
    "DEVNAME",
    "DEVTYPE",
    "DRIVER",
    "IFINDEX",
    "MAJOR",
    "MINOR",
    "SEQNUM",
    "SUBSYSTEM",
    "TAGS",
];

/// `KEY{attribute} operator "value"`.
#[derive(Debug, PartialEq, Eq)]
struct Token<'a> {
    key: &'a str,
    attribute: Option<&'a str>,
    operator: &'a str,
    value: String,
}

impl Token<'_> {
    fn is_match(&self) -> bool {
        matches!(self.operator, "==" | "!=")
    }

    /// Returns the value if it contains no substitution.
    fn plain(&self) -> Option<&str> {
        Some(self.value.as_str()).filter(|value| !value.contains(['$', '%']))
    }
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    // Without udev, nothing reads the rules.
    let daemons = ["usr/lib/systemd/systemd-udevd", "usr/sbin/udevd"];
    let mut is_installed = false;
    for daemon in daemons {
        is_installed |= resolve(view, daemon.as_bytes())?.is_some();
    }
    if !is_installed {
        return Ok(());
    }
    let mut inspector = Inspector::new(view, faults);
    let accounts = inspector.accounts()?;
    for node in drop_in_nodes(view, &DIRS, ".rules")? {
        let file = inspector.open(node)?;
        check(&mut inspector, &file, &accounts)?;
    }
    for (name, node) in files_in(view, DIRS[0])? {
        let other = ["~", ".bak", ".disabled", ".example", ".md", ".off", ".orig", ".txt"];
        let is_other = other.iter().any(|end| name.ends_with(end))
            || name.contains(".dpkg-")
            || name.starts_with('.')
            || name.starts_with("README");
        if !name.ends_with(".rules") && !is_other {
            let fault = Fault::new(&UDEV_RULE, &node, "its name does not end in .rules");
            inspector.add(fault.severity(Severity::Warning).fix("rename the file"));
        }
    }
    Ok(())
}

fn check(
    inspector: &mut Inspector<'_>,
    file: &ConfigFile,
    accounts: &KnownAccounts,
) -> Result<(), PassError> {
    let lines = lines(file);
    // Packages do without programs that they only recommend.
    let is_packaged = file.node.path.starts_with(b"usr/lib/");
    let mut gotos = Vec::new();
    let mut labels: BTreeSet<(String, usize)> = BTreeSet::new();
    for (line, text) in &lines {
        let fault = |message: String| Fault::new(&UDEV_RULE, &file.node, message).line(*line);
        if text.len() >= MAX_LINE {
            inspector.add(fault("the line is too long".to_owned()));
            continue;
        }
        let tokens = match tokens(text) {
            Ok(tokens) => tokens,
            Err(rest) => {
                let message = format!("it is not KEY==\"value\" or KEY=\"value\": {}", shown(rest));
                inspector.add(fault(message));
                continue;
            }
        };
        if let Some(message) = tokens.iter().find_map(token_fault) {
            inspector.add(fault(message));
            continue;
        }
        for token in &tokens {
            if token.key == "OPTIONS"
                && let Some(message) = option_fault(&token.value)
            {
                // udev ignores only this value.
                inspector.add(fault(message).severity(Severity::Warning));
            }
            if let Some(message) = unknown_account(token, accounts) {
                let fault = fault(message);
                inspector.add(fault.cause(b"etc/passwd").cause(b"etc/group"));
            }
            match token.key {
                "GOTO" => gotos.push((token.value.clone(), *line)),
                "LABEL" => drop(labels.insert((token.value.clone(), *line))),
                _ => {}
            }
            if let Some((program, path)) = missing_program(inspector.view, token)? {
                let is_optional = is_packaged && program.starts_with('/')
                    || tokens.iter().any(|other| other.key == "TEST" && other.value == program);
                if !is_optional {
                    let message = format!("the program {} does not exist", shown(&program));
                    let fault = fault(message).cause(path.as_bytes());
                    inspector.add(fault.fix("install the program, or remove the rule"));
                }
            }
        }
        let is_condition =
            |token: &Token<'_>| token.is_match() && token.key != "PROGRAM" && token.key != "IMPORT";
        if !tokens.is_empty() && tokens.iter().all(is_condition) {
            let message = "it has conditions only, and no assignment".to_owned();
            inspector.add(fault(message).severity(Severity::Warning));
        }
    }
    for (label, line) in gotos {
        let after = labels.range((label.clone(), line + 1)..).next();
        if after.is_none_or(|(name, _)| *name != label) {
            let message = format!("GOTO=\"{0}\" has no LABEL=\"{0}\" after it", shown(&label));
            inspector.add(Fault::new(&UDEV_RULE, &file.node, message).line(line));
        }
    }
    Ok(())
}

/// Returns the rules. A backslash at the end continues a line; comments within it are skipped.
fn lines(file: &ConfigFile) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (number, line) in file.lines() {
        let line = line.trim_start();
        if line.starts_with('#') || (line.is_empty() && !continues) {
            continue;
        }
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, before)) if continues => before.push_str(part),
            _ => lines.push((number, part.to_owned())),
        }
        continues = more;
    }
    lines
}

/// Splits a rule; on an error, returns the part that is no token.
fn tokens(line: &str) -> Result<Vec<Token<'_>>, &str> {
    let is_blank = |c: char| c.is_ascii_whitespace();
    let mut tokens = Vec::new();
    let mut rest = line.trim_start_matches(|c| is_blank(c) || c == ',');
    while !rest.is_empty() {
        let start = rest;
        let key_end = rest.char_indices().find(|(at, c)| {
            is_blank(*c)
                || matches!(c, '=' | '{')
                || matches!(c, '+' | '-' | '!' | ':') && rest[at + 1..].starts_with('=')
        });
        let (key, mut after) = rest.split_at(key_end.ok_or(start)?.0);
        let mut attribute = None;
        if let Some(inner) = after.strip_prefix('{') {
            let (name, next) = inner.split_once('}').ok_or(start)?;
            (attribute, after) = (Some(name), next);
        }
        after = after.trim_start_matches(is_blank);
        let operators = ["==", "!=", "+=", "-=", ":=", "="];
        let operator = operators.into_iter().find(|op| after.starts_with(op)).ok_or(start)?;
        after = after[operator.len()..].trim_start_matches(is_blank);
        // The prefixes mean escapes and a comparison without case.
        let escapes =
            after.starts_with("e\"") || after.starts_with("ei\"") || after.starts_with("ie\"");
        let quoted = after.trim_start_matches(['e', 'i']);
        if after.len() - quoted.len() > 2 {
            return Err(start);
        }
        let text = quoted.strip_prefix('"').ok_or(start)?;
        let (value, next) = value(text, escapes).ok_or(start)?;
        tokens.push(Token { key, attribute, operator, value });
        rest = next.trim_start_matches(|c| is_blank(c) || c == ',');
    }
    Ok(tokens)
}

/// Returns a value, and the text after its closing quote.
fn value(text: &str, escapes: bool) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' if escapes || text[at + 1..].starts_with('"') => {
                value.push(characters.next()?.1);
            }
            character => value.push(character),
        }
    }
    None
}

/// Describes the reason why udev ignores the line of a token.
fn token_fault(token: &Token<'_>) -> Option<String> {
    let Token { key, attribute, operator, value } = token;
    // Whether the key takes an attribute, and the operators.
    const MATCH: &[&str] = &["==", "!="];
    const ASSIGN: &[&str] = &["=", "+=", ":="];
    const ALL: &[&str] = &["==", "!=", "=", "+=", "-=", ":="];
    const NO_REMOVAL: &[&str] = &["==", "!=", "=", "+=", ":="];
    let (takes, operators) = match *key {
        "ACTION" | "DEVPATH" | "KERNEL" | "SUBSYSTEM" | "DRIVER" | "KERNELS" | "SUBSYSTEMS"
        | "DRIVERS" | "TAGS" | "RESULT" => (Some(false), MATCH),
        "SYMLINK" | "TAG" => (Some(false), ALL),
        "NAME" | "PROGRAM" => (Some(false), NO_REMOVAL),
        "ENV" | "ATTR" | "SYSCTL" | "IMPORT" => (Some(true), NO_REMOVAL),
        "CONST" | "ATTRS" => (Some(true), MATCH),
        "TEST" => (None, MATCH),
        "OPTIONS" | "OWNER" | "GROUP" | "MODE" => (Some(false), ASSIGN),
        "SECLABEL" => (Some(true), ASSIGN),
        "RUN" => (None, ASSIGN),
        "GOTO" | "LABEL" => (Some(false), &["="][..]),
        _ => return Some(format!("unknown key {}", shown(key))),
    };
    let has = attribute.is_some_and(|name| !name.is_empty());
    if takes == Some(true) && !has {
        return Some(format!("{key} needs an attribute: {key}{{name}}"));
    }
    if takes == Some(false) && attribute.is_some() {
        return Some(format!("{key} takes no attribute"));
    }
    if !operators.contains(operator) {
        let hint = match (operators == MATCH, token.is_match()) {
            (true, _) => "; a condition is written with == or !=",
            (false, true) => "; an assignment is written with =",
            (false, false) => "",
        };
        return Some(format!("the operator {operator} is not valid for {key}{hint}"));
    }
    let builtin = || {
        let name = value.split_ascii_whitespace().next().unwrap_or_default();
        let known = BUILTINS.iter().any(|builtin| builtin.starts_with(name));
        (!known).then(|| format!("unknown builtin command {}", shown(name)))
    };
    match (*key, *attribute) {
        ("IMPORT" | "RUN", Some("builtin")) => builtin(),
        ("IMPORT", Some("file" | "program" | "db" | "cmdline" | "parent"))
        | ("RUN", None | Some("program")) => None,
        ("IMPORT" | "RUN", Some(other)) => {
            Some(format!("unknown attribute {key}{{{}}}", shown(other)))
        }
        ("TEST", Some(mode)) if !mode.is_empty() && !is_mode(mode) => {
            Some(format!("invalid mode {}", shown(mode)))
        }
        ("MODE", _) => token
            .plain()
            .filter(|mode| !is_mode(mode))
            .map(|m| format!("invalid mode {}", shown(m))),
        ("NAME", _) if !token.is_match() && (value.is_empty() || value == "%k") => {
            Some(format!("NAME=\"{value}\" has no effect"))
        }
        ("ENV", Some(name)) if !token.is_match() && FIXED_PROPERTIES.contains(&name) => {
            Some(format!("ENV{{{name}}} cannot be set"))
        }
        _ => None,
    }
}

/// Describes an owner that udev ignores.
fn unknown_account(token: &Token<'_>, accounts: &KnownAccounts) -> Option<String> {
    let name = token.plain()?;
    match token.key {
        "OWNER" if accounts.lacks_user(name) => Some(format!("unknown user {}", shown(name))),
        "GROUP" if accounts.lacks_group(name) => Some(format!("unknown group {}", shown(name))),
        _ => None,
    }
}

fn is_mode(mode: &str) -> bool {
    u32::from_str_radix(mode, 8).is_ok_and(|mode| mode <= 0o7777)
}

/// Describes a value of OPTIONS that udev ignores.
fn option_fault(value: &str) -> Option<String> {
    const WORDS: [&str; 5] =
        ["string_escape=none", "string_escape=replace", "db_persist", "watch", "nowatch"];
    let number = value.strip_prefix("link_priority=").map(|text| text.parse::<i32>().is_ok());
    let known = WORDS.contains(&value)
        || value.starts_with("static_node=")
        || value.starts_with("log_level=")
        || value.starts_with("dump")
        || number == Some(true);
    (!known).then(|| format!("unknown value {} of OPTIONS", shown(value)))
}

/// Returns the program of a token that does not exist, and its path.
fn missing_program(
    view: &StackView,
    token: &Token<'_>,
) -> Result<Option<(String, String)>, LookError> {
    let runs = match (token.key, token.attribute) {
        ("PROGRAM", _) | ("RUN", None | Some("program")) => true,
        ("IMPORT", Some("program")) => {
            // A builtin command replaces the program of its name.
            let name = token.value.split_ascii_whitespace().next().unwrap_or_default();
            !BUILTINS.iter().any(|builtin| builtin.starts_with(name))
        }
        _ => false,
    };
    let word = token.value.trim_start();
    let word = match word.strip_prefix(['\'', '"']) {
        Some(quoted) => quoted.split(['\'', '"']).next(),
        None => word.split_ascii_whitespace().next(),
    };
    let Some(program) = word.filter(|word| runs && !word.contains(['$', '%', '\\'])) else {
        return Ok(None);
    };
    let at_boot = ["/run/", "/tmp/", "/dev/", "/proc/", "/sys/", "/var/run/"];
    if program.is_empty() || at_boot.iter().any(|dir| program.starts_with(dir)) {
        return Ok(None);
    }
    let paths: Vec<String> = match program.starts_with('/') {
        true => vec![program.to_owned()],
        false => PROGRAM_DIRS.iter().map(|dir| format!("{dir}/{program}")).collect(),
    };
    for path in &paths {
        if resolve(view, path.as_bytes())?.is_some_and(|node: ViewNode| node.is_file()) {
            return Ok(None);
        }
    }
    Ok(paths.into_iter().next().map(|path| (program.to_owned(), path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_split_as_udev_splits_them() {
        let token = |key, attribute, operator, value: &str| Token {
            key,
            attribute,
            operator,
            value: value.to_owned(),
        };
        assert_eq!(
            tokens(
                " KERNEL==\"sd*\",ATTR{a b} != i\"x\" ENV{A}=e\"\\\"q\\\"\", RUN+=\"a \\\"b\\\"\", "
            ),
            Ok(vec![
                token("KERNEL", None, "==", "sd*"),
                token("ATTR", Some("a b"), "!=", "x"),
                token("ENV", Some("A"), "=", "\"q\""),
                token("RUN", None, "+=", "a \"b\""),
            ])
        );
        assert_eq!(tokens("KERNEL==sda"), Err("KERNEL==sda"));
        assert_eq!(tokens("A==\"b\" KERNEL"), Err("KERNEL"));
        assert_eq!(tokens("ENV{A==\"b\""), Err("ENV{A==\"b\""));
        assert_eq!(tokens("A=\"b"), Err("A=\"b"));
        assert_eq!(tokens(" ,"), Ok(Vec::new()));
    }
}
