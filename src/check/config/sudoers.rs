//! sudo's policy: sudoers(5), with the grammar of sudo 1.9.
//!
//! A line is accepted if in doubt: regular expressions and digests are not examined.

use std::collections::{BTreeMap, BTreeSet};

use super::files::{ConfigFile, files_in};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode};
use crate::text::escape::escape;

pub(super) static SUDOERS: Lint = Lint {
    name: "config/sudoers",
    severity: Severity::Error,
    summary: "sudo rejects or ignores its policy",
    why: "sudo 1.9.3 and later ignore the rest of a line with an error; earlier versions refuse \
          every command. A file that does not belong to root, or that others can write to, is \
          rejected. Files of /etc/sudoers.d whose names contain a dot or end in ~ are ignored.",
    fix: "correct the file; `visudo -c` prints the errors",
};

/// Options of a command, before its tags.
const OPTIONS: [&str; 10] = [
    "ROLE",
    "TYPE",
    "PRIVS",
    "LIMITPRIVS",
    "APPARMOR_PROFILE",
    "NOTBEFORE",
    "NOTAFTER",
    "TIMEOUT",
    "CWD",
    "CHROOT",
];
const TAGS: [&str; 16] = [
    "EXEC",
    "NOEXEC",
    "FOLLOW",
    "NOFOLLOW",
    "LOG_INPUT",
    "NOLOG_INPUT",
    "LOG_OUTPUT",
    "NOLOG_OUTPUT",
    "MAIL",
    "NOMAIL",
    "INTERCEPT",
    "NOINTERCEPT",
    "PASSWD",
    "NOPASSWD",
    "SETENV",
    "NOSETENV",
];
const ALIASES: [&str; 5] = ["User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "Cmd_Alias"];
/// Maximum files that includes lead to, as a bound for loops.
const MAX_FILES: usize = 128;

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    if resolve(view, b"usr/bin/sudo")?.is_none() {
        return Ok(());
    }
    let mut policy = Policy::default();
    let mut pending = vec!["etc/sudoers".to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(path) = pending.pop() {
        let Some(file) = ConfigFile::read(view, &path)? else { continue };
        if seen.len() >= MAX_FILES || !seen.insert(file.node.path.clone()) {
            continue;
        }
        if let Some(message) = rejected_file(&file.node) {
            let fix = format!("`chown root:root FILE; chmod 440 FILE` of /{path}");
            faults.push(Fault::new(&SUDOERS, &file.node, message).fix(fix));
        }
        for (line, text) in logical_lines(&file.text) {
            match include(&text) {
                Some((true, dir)) => {
                    for (name, node) in files_in(view, &dir)? {
                        let path = format!("{dir}/{name}");
                        match name.contains('.') || name.ends_with('~') {
                            false => pending.push(path),
                            true if name.contains(".dpkg-") => {}
                            true => {
                                let message = "sudo ignores files whose name contains a dot or \
                                               ends in ~";
                                let fault = Fault::new(&SUDOERS, &node, message);
                                let fault = fault.severity(Severity::Warning);
                                faults.push(fault.fix("give the file a name without a dot"));
                            }
                        }
                    }
                }
                Some((false, path)) => pending.push(path),
                None => {
                    if let Err(message) = policy.entry(&text) {
                        faults.push(Fault::new(&SUDOERS, &file.node, message).line(line));
                    }
                    policy.remember_uses(&file.node, line);
                }
            }
        }
    }
    for (name, (node, line)) in &policy.uses {
        if !policy.defined.contains(name) {
            let name = escape(name.as_bytes());
            let message = format!("the alias {name} is used and not defined");
            let fault = Fault::new(&SUDOERS, node, message).line(*line);
            faults.push(fault.severity(Severity::Warning).cause(b"etc/sudoers.d"));
        }
    }
    Ok(())
}

/// Describes why sudo rejects a file as a whole.
fn rejected_file(node: &ViewNode) -> Option<String> {
    let attr = &node.attr;
    Some(match () {
        () if attr.uid != 0 => format!("it belongs to user id {}, not to root", attr.uid),
        () if attr.mode & 0o002 != 0 => {
            format!("all users can write to it (mode {:04o})", attr.mode)
        }
        () if attr.mode & 0o020 != 0 && attr.gid != 0 => {
            format!("group id {} can write to it (mode {:04o})", attr.gid, attr.mode)
        }
        () => return None,
    })
}

/// Returns the lines without comments; a backslash joins lines.
fn logical_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (index, line) in text.lines().enumerate() {
        let is_include = ["#include", "#includedir"].iter().any(|word| {
            line.strip_prefix(word).is_some_and(|rest| rest.starts_with([' ', '\t', 'd']))
        });
        let (line, more) = match is_include {
            true => (line, false),
            false => {
                let line = without_comment(line);
                line.strip_suffix('\\').map_or((line, false), |line| (line, true))
            }
        };
        match lines.last_mut() {
            Some((_, before)) if continues => before.push_str(line),
            _ => lines.push((index + 1, line.to_owned())),
        }
        continues = more;
    }
    lines.retain(|(_, line)| !line.trim().is_empty());
    lines
}

/// Removes a comment. `#` before a digit is an id.
fn without_comment(line: &str) -> &str {
    let bytes = line.as_bytes();
    let (mut quoted, mut escaped) = (false, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => quoted = !quoted,
            b'#' if !quoted => {
                let is_id =
                    bytes.get(at + 1).is_some_and(|&next| next.is_ascii_digit() || next == b'-');
                let before = at.checked_sub(1).map(|before| bytes[before]);
                let starts = matches!(
                    before,
                    None | Some(
                        b' ' | b'\t' | b',' | b'!' | b'(' | b':' | b'%' | b'=' | b'@' | b'>'
                    )
                );
                if !(is_id && starts) {
                    return &line[..at];
                }
            }
            _ => {}
        }
    }
    line
}

/// Returns the path of an include, and whether it is a directory.
fn include(line: &str) -> Option<(bool, String)> {
    let rest = line.trim_start().strip_prefix(['@', '#'])?;
    let (is_dir, path) = match rest.strip_prefix("includedir") {
        Some(path) => (true, path),
        None => (false, rest.strip_prefix("include")?),
    };
    if !path.starts_with([' ', '\t']) {
        return None;
    }
    let path = path.trim().trim_matches('"').replace("\\ ", " ");
    let path = path.split('#').next().unwrap_or_default().trim();
    Some((
        is_dir,
        match path.strip_prefix('/') {
            Some(path) => path.trim_end_matches('/').to_owned(),
            None => format!("etc/{path}"),
        },
    ))
}

/// The aliases of the policy.
#[derive(Default)]
struct Policy {
    defined: BTreeSet<String>,
    /// The first line that uses an alias.
    uses: BTreeMap<String, (ViewNode, usize)>,
    /// Aliases that the current line uses.
    line_uses: Vec<String>,
}

type Parsed = Result<(), String>;

impl Policy {
    fn remember_uses(&mut self, node: &ViewNode, line: usize) {
        for name in self.line_uses.drain(..) {
            self.uses.entry(name).or_insert_with(|| (node.clone(), line));
        }
    }

    /// Parses an entry.
    fn entry(&mut self, line: &str) -> Parsed {
        let line = line.trim();
        let word = line.split_whitespace().next().unwrap_or_default();
        if word == "Defaults"
            || ["Defaults@", "Defaults:", "Defaults!", "Defaults>"]
                .iter()
                .any(|d| word.starts_with(d))
        {
            return Ok(());
        }
        match ALIASES.contains(&word) {
            true => self.aliases(&line[word.len()..], word.starts_with("Cm")),
            false => self.rule(line),
        }
    }

    /// Parses `NAME = members : NAME = members`.
    fn aliases(&mut self, text: &str, of_commands: bool) -> Parsed {
        let mut cursor = Cursor { rest: text };
        loop {
            let name = cursor.word();
            if !is_alias(name) {
                let name = escape(name.as_bytes());
                return Err(format!(
                    "`{name}` cannot be the name of an alias: use capital letters"
                ));
            }
            cursor.expect_equals()?;
            match of_commands {
                true => self.commands(&mut cursor, false)?,
                false => self.use_aliases(&cursor.list()?),
            }
            if !self.defined.insert(name.to_owned()) {
                return Err(format!("the alias {} is already defined", escape(name.as_bytes())));
            }
            if cursor.at_end() {
                return Ok(());
            }
            cursor.expect_colon()?;
        }
    }

    /// Parses `users hosts = commands : hosts = commands`.
    fn rule(&mut self, line: &str) -> Parsed {
        let mut cursor = Cursor { rest: line };
        let users = cursor.list()?;
        self.use_aliases(&users);
        loop {
            let hosts = cursor.list()?;
            self.use_aliases(&hosts);
            cursor.expect_equals()?;
            self.commands(&mut cursor, true)?;
            if cursor.at_end() {
                return Ok(());
            }
            cursor.expect_colon()?;
        }
    }

    fn use_aliases(&mut self, members: &[&str]) {
        let aliases = members.iter().filter(|name| is_alias(name) && **name != "ALL");
        self.line_uses.extend(aliases.map(|name| (*name).to_owned()));
    }

    /// Parses a list of commands; in rules, with target users, options and tags.
    fn commands(&mut self, cursor: &mut Cursor<'_>, in_rule: bool) -> Parsed {
        loop {
            if in_rule {
                cursor.runas()?;
                cursor.options_and_tags()?;
            }
            cursor.skip_negations();
            let command = cursor.command();
            let word = command.split_whitespace().next().unwrap_or_default();
            match word {
                "" => return Err("a command is missing".to_owned()),
                "ALL" if command != "ALL" => return Err("arguments follow ALL".to_owned()),
                "ALL" | "sudoedit" | "list" => {}
                _ if word.starts_with(['/', '^', '"']) || word.starts_with("\\/") => {}
                _ if is_digest(word) => {}
                _ if is_alias(word) && word == command => self.line_uses.push(word.to_owned()),
                _ => {
                    let word = escape(word.as_bytes());
                    return Err(format!("the command {word} is not an absolute path"));
                }
            }
            if !cursor.take(',') {
                return Ok(());
            }
        }
    }
}

fn is_alias(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

fn is_digest(word: &str) -> bool {
    ["sha224:", "sha256:", "sha384:", "sha512:"].iter().any(|name| word.starts_with(name))
}

/// The rest of an entry.
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn at_end(&mut self) -> bool {
        self.skip_blanks();
        self.rest.is_empty()
    }

    /// Skips a character, if it is the next one after blanks.
    fn take(&mut self, c: char) -> bool {
        self.skip_blanks();
        let after = self.rest.strip_prefix(c);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn expect_equals(&mut self) -> Parsed {
        match self.take('=') {
            true => Ok(()),
            false => Err(format!("`=` is missing before `{}`", self.next_text())),
        }
    }

    fn expect_colon(&mut self) -> Parsed {
        match self.take(':') {
            true => Ok(()),
            false => Err(format!("unexpected `{}`", self.next_text())),
        }
    }

    /// Returns the next word for messages.
    fn next_text(&self) -> String {
        let word = self.rest.split_whitespace().next().unwrap_or("the end of the line");
        escape(word.as_bytes()).into_owned()
    }

    fn skip_negations(&mut self) {
        while self.take('!') {}
    }

    /// Returns a word of a list: a name, an id, an address, or a quoted string.
    fn word(&mut self) -> &'a str {
        self.skip_blanks();
        let bytes = self.rest.as_bytes();
        let mut end = 0;
        let prefix = bytes.iter().take_while(|byte| b"%+".contains(byte)).count();
        if bytes.get(prefix) == Some(&b'"') {
            let close = bytes[prefix + 1..].iter().position(|&byte| byte == b'"');
            end = close.map_or(bytes.len(), |close| prefix + close + 2);
        } else {
            while let Some(&byte) = bytes.get(end) {
                let is_address = bytes[..end].iter().all(|b| b.is_ascii_hexdigit() || *b == b':')
                    && bytes
                        .get(end + 1)
                        .is_some_and(|b| b.is_ascii_hexdigit() || b":/".contains(b));
                match byte {
                    b'\\' => end += 1,
                    b':' if bytes[..end] == *b"%" || (is_address && end > 0) => {}
                    b'#' if end == 0 || bytes[..end].iter().all(|b| b"%:".contains(b)) => {}
                    b' ' | b'\t' | b',' | b'=' | b':' | b'(' | b')' | b'!' | b'"' | b'#' | b'>' => {
                        break;
                    }
                    _ => {}
                }
                end += 1;
            }
        }
        let end = end.min(bytes.len());
        let (word, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, ""));
        self.rest = rest;
        word
    }

    /// Parses members that are separated by commas.
    fn list(&mut self) -> Result<Vec<&'a str>, String> {
        let mut members = Vec::new();
        loop {
            self.skip_negations();
            match self.word() {
                "" => return Err(format!("unexpected `{}` in a list", self.next_text())),
                word => members.push(word),
            }
            if !self.take(',') {
                return Ok(members);
            }
        }
    }

    /// Skips `(users : groups)`.
    fn runas(&mut self) -> Parsed {
        if !self.take('(') {
            return Ok(());
        }
        for _ in 0..2 {
            if !self.rest.trim_start().starts_with([')', ':']) {
                self.list()?;
            }
            if self.take(')') {
                return Ok(());
            }
            if !self.take(':') {
                break;
            }
        }
        match self.take(')') {
            true => Ok(()),
            false => Err("a list of target users has no closing bracket".to_owned()),
        }
    }

    fn options_and_tags(&mut self) -> Parsed {
        loop {
            self.skip_blanks();
            let is_end = |c: char| !c.is_ascii_alphanumeric() && c != '_';
            let (word, after) =
                self.rest.split_at(self.rest.find(is_end).unwrap_or(self.rest.len()));
            let after = after.trim_start();
            if let Some(value) = after.strip_prefix('=')
                && OPTIONS.contains(&word)
            {
                let value = value.trim_start();
                self.rest = value.trim_start_matches(|c: char| !c.is_whitespace() && c != ',');
            } else if let Some(after) = after.strip_prefix(':')
                && TAGS.contains(&word)
            {
                self.rest = after;
            } else if after.starts_with(':') && is_alias(word) {
                return Err(format!("unknown tag {}", escape(word.as_bytes())));
            } else {
                return Ok(());
            }
        }
    }

    /// Returns a command with its arguments, which end at a comma or colon. An argument that begins
    /// with `^` is a regular expression that ends with `$`.
    fn command(&mut self) -> &'a str {
        self.skip_blanks();
        let (mut escaped, mut regex, mut before) = (false, false, ' ');
        let mut end = self.rest.len();
        for (at, c) in self.rest.char_indices() {
            match c {
                _ if escaped => escaped = false,
                '\\' => escaped = true,
                '^' if before.is_whitespace() => regex = true,
                '$' if regex => regex = false,
                // A colon after a digest's name.
                ':' if is_digest(&self.rest[..=at]) && at == 6 => {}
                ',' | ':' if !regex => {
                    end = at;
                    break;
                }
                _ => {}
            }
            before = c;
        }
        let (command, rest) = self.rest.split_at(end);
        self.rest = rest;
        command.trim_end()
    }
}
