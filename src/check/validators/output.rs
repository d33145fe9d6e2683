//! Reads problems from the output of validators.

use super::Problem;
use super::table::{NEEDS_NETWORK, Reading, When};
use crate::check::Severity;

/// Maximum characters of a message.
const MAX_MESSAGE: usize = 400;
/// Maximum problems of one validator.
const MAX_PROBLEMS: usize = 1000;
/// Directories of packages whose files clean-up deletes, and caches.
pub(super) const DELETED_DIRS: [&str; 10] = [
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/info/",
    "/usr/share/locale/",
    "/usr/share/lintian/",
    "/usr/share/help/",
    "/usr/share/gnome/help/",
    "/var/cache/",
    "/var/lib/apt/lists/",
    "/var/log/",
];

/// Reads the problems from the output of a validator, or returns why it has no result.
pub(super) fn problems(
    reading: &Reading,
    severities: &[(&str, Severity)],
    success: bool,
    text: &str,
) -> Result<Vec<Problem>, String> {
    let (when, signs, noise) = match *reading {
        Reading::With(read) => {
            let mut problems = read(text);
            problems.truncate(MAX_PROBLEMS);
            return Ok(problems);
        }
        Reading::Lines { when, signs, noise } => (when, signs, noise),
    };
    if success && when == When::Failed {
        return Ok(Vec::new());
    }
    let has = |line: &str, parts: &[&str]| parts.iter().any(|part| contains(line, part));
    if let Some(line) = text.lines().find(|line| has(line, NEEDS_NETWORK)) {
        return Err(format!("it needs the network: {}", message(line)));
    }
    let mut found: Vec<Problem> = Vec::new();
    let mut known = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.starts_with([' ', '\t']) && !signs_at(line, signs) {
            continue;
        }
        if has(line, noise) {
            known = true;
            continue;
        }
        if !signs.is_empty() && !has(line, signs) {
            continue;
        }
        let mut problem = locate(line);
        // The cause is in the next line: "Syntax error on line 1 of FILE:".
        if line.trim_end().ends_with(':')
            && let Some(next) = lines.next_if(|next| !next.trim().is_empty())
        {
            let cause = message(next);
            problem.message = format!("{} {cause}", problem.message);
        }
        let severity = severities.iter().find(|(sign, _)| line.contains(sign));
        problem.severity = severity.map(|(_, severity)| *severity);
        if !found.contains(&problem) && found.len() < MAX_PROBLEMS {
            found.push(problem);
        }
    }
    if found.is_empty() && !known && !success && when == When::Failed {
        let last = text.lines().rfind(|line| !line.trim().is_empty());
        found.push(locate(last.unwrap_or("it fails without a message")));
    }
    Ok(found)
}

/// Returns whether a line contains `part`, or begins with it if `part` begins with `^`.
fn contains(line: &str, part: &str) -> bool {
    match part.strip_prefix('^') {
        Some(start) => line.starts_with(start),
        None => line.contains(part),
    }
}

/// Returns whether an indented line is a message, not an excerpt of a file.
fn signs_at(line: &str, signs: &[&str]) -> bool {
    signs.iter().any(|sign| sign.contains("rror") && line.contains(sign))
}

/// Returns a message without the time, the process and the name of the program in front of it.
fn message(line: &str) -> String {
    const PREFIXES: [&str; 21] = [
        ">>>",
        "[emerg]",
        "[ALERT]",
        "[ERROR]",
        "rsyslogd:",
        "mariadbd:",
        "ifquery:",
        "dnsmasq:",
        "unbound-checkconf:",
        "opendkim:",
        "depmod:",
        "findmnt:",
        "doveconf:",
        "postconf:",
        "/usr/sbin/postconf:",
        "ERROR:",
        "FATAL:",
        "Fatal:",
        "E:",
        "error:",
        "warning:",
    ];
    let markers = ["kmod_config_parse: ", "ERROR   ", "]: fatal: "];
    let marked = markers.iter().find_map(|marker| line.rsplit_once(marker));
    let line = marked.map_or(line, |(_, message)| message);
    let mut rest = line.trim();
    loop {
        let before = rest;
        let word = rest.split_whitespace().next().unwrap_or_default();
        let is_stamp = word.contains(|c: char| c.is_ascii_digit())
            && word.chars().all(|c| c.is_ascii_digit() || "/:.,-|#()[]+TZ".contains(c));
        if is_stamp || word == ":" {
            rest = rest[word.len()..].trim_start();
        }
        for prefix in PREFIXES {
            rest = rest.strip_prefix(prefix).map_or(rest, str::trim_start);
        }
        if rest == before || rest.is_empty() {
            break;
        }
    }
    shortened(if rest.is_empty() { line.trim() } else { rest })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MAX_MESSAGE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Finds the file and the line that a message names: `/etc/x:3: …`, `/etc/x line 3: …`,
/// `… on line 3 of /etc/x`, `… in /etc/x:3` and so on.
pub(super) fn locate(line: &str) -> Problem {
    let text = message(line);
    if let Some(problem) = locate_name(&text) {
        return problem;
    }
    let Some((path, after)) = find_path(&text) else {
        let number = line_word(&text);
        return Problem { line: number, ..Problem::new(text) };
    };
    let (number, rest) = match number_after(after) {
        (Some(number), rest) => (Some(number), rest),
        (None, _) => match line_after(after) {
            Some((number, rest)) => (Some(number), rest),
            None => (line_word(&text), after),
        },
    };
    // A message that begins with the place is shown without it.
    let begins = text.trim_start_matches(['"', '\'', '(', '[', '<']).starts_with(path);
    let rest = rest.trim_start_matches(|c: char| " \t:,;.)]>\"'-".contains(c)).trim();
    let shown = match begins && !rest.is_empty() {
        true => rest.to_owned(),
        false => text.clone(),
    };
    Problem { path: Some(path.to_owned()), line: number, ..Problem::new(shown) }
}

/// Reads a message that begins with the name of a file without its directory: `cron.service: …`,
/// `rsyslog:3 …`.
fn locate_name(text: &str) -> Option<Problem> {
    let (name, rest) = text.split_once(':')?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || "._-@\\".contains(c);
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let line = rest[..digits].parse().ok();
    let is_unit = name.contains('.') && !name.ends_with('.');
    if line.is_none() && !is_unit {
        return None;
    }
    let message = rest[digits..].trim_start_matches([':', ' ']).to_owned();
    (!message.is_empty()).then(|| Problem {
        path: Some(name.to_owned()),
        line,
        message,
        severity: None,
    })
}

/// Returns the first absolute path in a text, and the text after it.
fn find_path(text: &str) -> Option<(&str, &str)> {
    let starts = text.char_indices().filter(|(_, c)| *c == '/').map(|(at, _)| at);
    for start in starts {
        let before = text[..start].chars().next_back();
        if before.is_some_and(|c| !c.is_whitespace() && !"\"'([<=:`“‘".contains(c)) {
            continue;
        }
        let end = text[start..]
            .find(|c: char| c.is_whitespace() || "\"'()[]<>:,;`”’".contains(c))
            .map_or(text.len(), |length| start + length);
        let path = text[start..end].trim_end_matches('.');
        if path.len() > 1 && !path.starts_with("//") {
            return Some((path, &text[start + path.len()..]));
        }
    }
    None
}

/// Returns the number directly after a path, and the text after it and after a column.
fn number_after(after: &str) -> (Option<usize>, &str) {
    let Some(digits) = after.strip_prefix(['"', '\'']).unwrap_or(after).strip_prefix([':', '('])
    else {
        return (None, after);
    };
    let length = digits.len() - digits.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    // cron counts from 0.
    let Ok(number) = digits[..length].parse::<usize>().map(|number| number.max(1)) else {
        return (None, after);
    };
    let rest = &digits[length..];
    // A column, or a range of them: `:17:1-1:`.
    let column = rest
        .strip_prefix(':')
        .map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-'));
    (Some(number), column.filter(|rest| rest.starts_with(':')).unwrap_or(rest))
}

/// Returns the number of ` line 3`, `: line 3` or `: 3` directly after a path, and the text after
/// it.
fn line_after(after: &str) -> Option<(usize, &str)> {
    let rest = after.trim_start_matches(|c: char| " :,;\"')".contains(c));
    let has_word = ["line ", "Line ", "line: "].iter().find_map(|word| rest.strip_prefix(word));
    let digits = match has_word {
        Some(digits) => digits,
        None if after.starts_with(": ") => rest,
        None => return None,
    };
    let length = digits.len() - digits.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let number = digits[..length].parse().ok().filter(|number| *number > 0)?;
    let rest = &digits[length..];
    // `3 errors` is not a line.
    (has_word.is_some() || rest.starts_with(':')).then_some((number, rest))
}

/// Returns the number after the word `line` (or `entry`, of a list of sources).
fn line_word(text: &str) -> Option<usize> {
    let mut words = text.split(|c: char| c.is_whitespace() || "()[],:;".contains(c));
    while let Some(word) = words.next() {
        if ["line", "Line", "entry"].contains(&word) {
            let number = words.by_ref().find(|word| !word.is_empty())?;
            return number.trim_end_matches('.').parse().ok().filter(|number| *number > 0);
        }
    }
    None
}

/// Reads the problems of pwck and grpck: a message, and a question of what to do with the line. Of
/// the line only the name is shown, because other fields can be secrets.
pub(super) fn account_problems(text: &str) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let noise = ["no changes", "does not exist", "is not executable", "not found", "Usage"];
        if noise.iter().any(|noise| line.contains(noise)) {
            continue;
        }
        let question = ["delete line '", "add group '", "add user '", "delete member '"]
            .iter()
            .find_map(|question| line.strip_prefix(question));
        let Some(answer) = question else {
            problems.push(Problem::new(shortened(line)));
            continue;
        };
        let Some(last) = problems.last_mut() else { continue };
        let name = answer.split([':', '\'']).next().unwrap_or_default();
        if line.starts_with("delete member") {
            continue;
        }
        if !name.is_empty() {
            last.message = format!("{}: {}", last.message, shortened(name));
        }
        let file = [("shadow", "/etc/shadow"), ("gshadow", "/etc/gshadow")];
        let named = file.iter().rev().find(|(word, _)| last.message.contains(word));
        last.path = named.map(|(_, path)| (*path).to_owned());
    }
    problems
}

/// Reads the problems of `dpkg --audit`: a heading, and the packages that it is about.
pub(super) fn audit_problems(text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut heading = String::new();
    let mut in_list = false;
    for line in text.lines() {
        match line.strip_prefix(' ') {
            Some(package) => {
                in_list = true;
                let name = package.split_whitespace().next().unwrap_or_default();
                let state = heading.split(['.', ':', ',']).next().unwrap_or_default();
                let state = state.trim_start_matches("The following packages ");
                problems.push(Problem::new(format!("{name}: the packages {state}")));
            }
            None => {
                if in_list || line.is_empty() {
                    heading.clear();
                    in_list = false;
                }
                heading.push_str(line);
                heading.push(' ');
            }
        }
    }
    for problem in &mut problems {
        problem.message = shortened(&problem.message.replace("the packages are", "it is"));
    }
    problems
}

/// Reads the problems of `dpkg --verify`: `??5?????? c /path` or `missing   c /path`.
pub(super) fn verify_problems(text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for line in text.lines() {
        let Some(at) = line.find(" /") else { continue };
        let (state, path) = (line[..at].trim(), &line[at + 1..]);
        let path = path.strip_suffix(')').and_then(|p| p.split(" (").next()).unwrap_or(path);
        if state.ends_with(" c") || DELETED_DIRS.iter().any(|dir| path.starts_with(dir)) {
            continue;
        }
        let (message, severity) = match state.starts_with("missing") {
            true => ("the file of a package is missing", Severity::Note),
            false => ("its content is not that of its package", Severity::Warning),
        };
        problems.push(Problem {
            path: Some(path.to_owned()),
            severity: Some(severity),
            ..Problem::new(message)
        });
    }
    problems
}

/// Reads the problems of apt: error messages, and unmet dependencies.
pub(super) fn apt_problems(text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for line in text.lines() {
        if let Some(error) = line.strip_prefix("E: ") {
            let general = ["The list of sources could not be read", "Unmet dependencies"];
            if !general.iter().any(|general| error.starts_with(general)) {
                problems.push(locate(error));
            }
        } else if line.starts_with(' ') && (line.contains("Depends: ") || line.contains(": Breaks"))
        {
            problems.push(Problem::new(shortened(line.trim())));
        }
    }
    problems
}
