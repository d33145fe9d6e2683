//! The SSH server: sshd_config(5), and authorized keys as sshd's `StrictModes` reads them.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use memchr::memmem;

use super::accounts::{Account, accounts};
use super::files::{ConfigFile, drop_ins};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::accounts::Accounts;
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

pub(super) static SSHD: Lint = Lint {
    name: "config/sshd",
    severity: Severity::Error,
    summary: "sshd rejects its configuration",
    why: "sshd ends at once with \"Bad configuration option\" and the machine cannot be reached \
          with SSH. A keyword is unknown if the image's own sshd does not contain it.",
    fix: "correct the line; `sshd -t` prints the errors of the whole configuration",
};

pub(super) static SSH_KEYS: Lint = Lint {
    name: "config/authorized-keys",
    severity: Severity::Error,
    summary: "sshd ignores authorized keys",
    why: "sshd reads a user's keys only if the file, its directories and the home directory belong \
          to the user or root and no one else can write to them (StrictModes), and only as that \
          user. Lines that are not keys are skipped. The login then fails, or asks for a password.",
    fix: "in the home directory: `chown -R USER: .ssh; chmod go-w . .ssh .ssh/authorized_keys`",
};

/// Where sshd may be, with the program of its sessions, which reads the same configuration.
const SERVERS: [&str; 3] =
    ["usr/sbin/sshd", "usr/lib/openssh/sshd-session", "usr/libexec/openssh/sshd-session"];
/// Maximum bytes that are read of a server.
const MAX_SERVER_BYTES: usize = 8 << 20;
const MAIN_FILE: &str = "etc/ssh/sshd_config";

/// Keywords whose values are `yes` and `no`.
const FLAGS: [&str; 13] = [
    "allowagentforwarding",
    "disableforwarding",
    "kbdinteractiveauthentication",
    "passwordauthentication",
    "permitemptypasswords",
    "permittty",
    "printlastlog",
    "printmotd",
    "pubkeyauthentication",
    "strictmodes",
    "usedns",
    "usepam",
    "x11forwarding",
];
const ROOT_LOGINS: [&str; 5] =
    ["yes", "no", "prohibit-password", "without-password", "forced-commands-only"];
/// Criteria of `Match` (OpenSSH 10).
const CRITERIA: [&str; 10] = [
    "all",
    "user",
    "group",
    "host",
    "address",
    "localaddress",
    "localport",
    "rdomain",
    "version",
    "invalid-user",
];

/// A line of the configuration.
struct Setting<'a> {
    file: &'a ConfigFile,
    line: usize,
    /// In lower case.
    keyword: String,
    value: &'a str,
    /// Whether a `Match` block contains it.
    conditional: bool,
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(main) = ConfigFile::read(view, MAIN_FILE)? else { return Ok(()) };
    let mut servers = Vec::new();
    for path in SERVERS {
        if let Some(server) = resolve(view, path.as_bytes())?.filter(ViewNode::is_file) {
            servers.push(view.head(&server, MAX_SERVER_BYTES)?);
        }
    }
    if servers.is_empty() {
        return Ok(());
    }
    let included = match main.text.contains("/etc/ssh/sshd_config.d/") {
        true => drop_ins(view, &["etc/ssh/sshd_config.d"], ".conf")?,
        false => Vec::new(),
    };
    // The first value counts, and Debian includes the directory at the top.
    let files: Vec<&ConfigFile> = included.iter().chain([&main]).collect();
    let settings: Vec<Setting<'_>> = files.iter().flat_map(|file| settings(file)).collect();
    for setting in &settings {
        if let Some(message) = problem(setting, &servers) {
            faults.push(Fault::new(&SSHD, &setting.file.node, message).line(setting.line));
        }
    }
    missing_programs(view, &settings, faults)?;
    closed(view, &settings, faults)?;
    keys(view, &settings, faults)
}

fn settings(file: &ConfigFile) -> Vec<Setting<'_>> {
    let mut conditional = false;
    let mut settings = Vec::new();
    for (line, text) in file.entries(&['#']) {
        let end = text.find(|c: char| c.is_whitespace() || c == '=').unwrap_or(text.len());
        let (keyword, value) = text.split_at(end);
        let keyword = keyword.trim_matches('"').to_ascii_lowercase();
        let value = value.trim_start_matches(|c: char| c.is_whitespace() || c == '=').trim_end();
        conditional |= keyword == "match";
        settings.push(Setting { file, line, keyword, value, conditional });
    }
    settings
}

/// Returns the first value of a keyword outside of `Match` blocks.
fn value<'a>(settings: &[Setting<'a>], keyword: &str) -> Option<&'a str> {
    let mut found = settings.iter().filter(|s| s.keyword == keyword && !s.conditional);
    found.next().map(|setting| setting.value)
}

/// Describes why sshd rejects a line.
fn problem(setting: &Setting<'_>, servers: &[Vec<u8>]) -> Option<String> {
    let Setting { keyword, value, .. } = setting;
    let name = escape(keyword.as_bytes());
    // Keywords are strings of the program, which end with NUL.
    let text = format!("{keyword}\0");
    let finder = memmem::Finder::new(text.as_bytes());
    if servers.iter().all(|server| finder.find(server).is_none()) {
        return Some(format!("unknown keyword {name}"));
    }
    let word = value.split_whitespace().next().unwrap_or_default().trim_matches('"');
    if word.is_empty() || word.starts_with('#') {
        return Some(format!("{name} has no value"));
    }
    let values: &[&str] = match &**keyword {
        "permitrootlogin" => &ROOT_LOGINS,
        keyword if FLAGS.contains(&keyword) => &["yes", "no"],
        "match" => {
            let criterion = word.split('=').next().unwrap_or_default().to_ascii_lowercase();
            return (!CRITERIA.contains(&&*criterion))
                .then(|| format!("Match has no criterion {}", escape(criterion.as_bytes())));
        }
        "port" => {
            let valid = word.parse::<u16>().is_ok_and(|port| port > 0);
            return (!valid).then(|| format!("{} is not a port", escape(word.as_bytes())));
        }
        _ => return None,
    };
    (!values.contains(&&*word.to_ascii_lowercase()))
        .then(|| format!("{name} cannot be {}: use {}", escape(word.as_bytes()), values.join(", ")))
}

/// Finds programs that the configuration names and that do not exist.
fn missing_programs(
    view: &StackView,
    settings: &[Setting<'_>],
    faults: &mut SurveyFaults,
) -> Result<(), PassError> {
    for setting in settings {
        let mut words = setting.value.split_whitespace().map(|word| word.trim_matches('"'));
        let program = match &*setting.keyword {
            "subsystem" => words.nth(1),
            "authorizedkeyscommand" | "authorizedprincipalscommand" => words.next(),
            _ => None,
        };
        let Some(program) = program.filter(|program| program.starts_with('/')) else { continue };
        if resolve(view, program.as_bytes())?.is_none() {
            let message = format!("{} does not exist", escape(program.as_bytes()));
            let fault = Fault::new(&SSHD, &setting.file.node, message).line(setting.line);
            faults.push(fault.severity(Severity::Warning).cause(program.as_bytes()));
        }
    }
    Ok(())
}

/// Finds configurations that let no user in.
fn closed(
    view: &StackView,
    settings: &[Setting<'_>],
    faults: &mut SurveyFaults,
) -> Result<(), PassError> {
    let is_off = |keyword| value(settings, keyword).is_some_and(|v| v.eq_ignore_ascii_case("no"));
    let conditional = settings.iter().any(|setting| setting.keyword == "match");
    let other_methods = ["gssapiauthentication", "hostbasedauthentication"];
    let uses_other = settings
        .iter()
        .any(|s| other_methods.contains(&&*s.keyword) && s.value.eq_ignore_ascii_case("yes"));
    let interactive = is_off("kbdinteractiveauthentication")
        || is_off("challengeresponseauthentication")
        || is_off("usepam");
    if is_off("pubkeyauthentication") && is_off("passwordauthentication") && interactive {
        let setting = settings.iter().find(|setting| setting.keyword == "pubkeyauthentication");
        if let Some(setting) = setting.filter(|_| !conditional && !uses_other) {
            let message = "keys and passwords are off, so no one can log in";
            faults.push(Fault::new(&SSHD, &setting.file.node, message).line(setting.line));
        }
    }
    let accounts = Accounts::read(view)?;
    for (keyword, names, kind) in
        [("allowusers", accounts.users(), "user"), ("allowgroups", accounts.groups(), "group")]
    {
        let allowed: Vec<&Setting<'_>> =
            settings.iter().filter(|setting| setting.keyword == keyword).collect();
        let is_known = |word: &str| {
            let name = word.split('@').next().unwrap_or_default();
            // Patterns, and names of a domain, cannot be judged.
            name.contains(['*', '?', '!', '\\', '%']) || names.contains_key(name)
        };
        let all_unknown =
            !allowed.iter().flat_map(|setting| setting.value.split_whitespace()).any(is_known);
        if let Some(first) = allowed.first().filter(|_| all_unknown && !conditional) {
            let message = format!("no {kind} that may log in has an account");
            let fault = Fault::new(&SSHD, &first.file.node, message).line(first.line);
            faults.push(fault.severity(Severity::Warning).cause(b"etc/passwd"));
        }
    }
    Ok(())
}

/// Finds authorized keys that sshd ignores.
fn keys(
    view: &StackView,
    settings: &[Setting<'_>],
    faults: &mut SurveyFaults,
) -> Result<(), PassError> {
    let Some(passwd) = ConfigFile::read(view, "etc/passwd")? else { return Ok(()) };
    let strict = !value(settings, "strictmodes").is_some_and(|v| v.eq_ignore_ascii_case("no"));
    let patterns = value(settings, "authorizedkeysfile")
        .unwrap_or(".ssh/authorized_keys .ssh/authorized_keys2");
    let mut checked = BTreeSet::new();
    for account in accounts(&passwd).0 {
        for pattern in patterns.split_whitespace().filter(|pattern| *pattern != "none") {
            let path = expand(pattern, &account);
            let Some(file) = resolve(view, path.as_bytes())?.filter(ViewNode::is_file) else {
                continue;
            };
            let user = escape(account.name.as_bytes()).into_owned();
            if let Some(why) = unreadable(view, &file, &account, strict)? {
                let message = format!("sshd ignores the keys of {user}: {why}");
                faults.push(Fault::new(&SSH_KEYS, &file, message));
            }
            if checked.insert(file.path.clone()) {
                invalid_keys(view, &path, faults)?;
            }
        }
    }
    Ok(())
}

/// Replaces the tokens of `AuthorizedKeysFile`.
fn expand(pattern: &str, account: &Account) -> String {
    let mut path = String::new();
    let mut chars = pattern.trim_matches('"').chars();
    while let Some(c) = chars.next() {
        match (c, c == '%') {
            (_, true) => match chars.next() {
                Some('h') => path.push_str(&account.home),
                Some('u') => path.push_str(&account.name),
                Some('U') => path.push_str(&account.uid.to_string()),
                other => path.extend(other),
            },
            (c, false) => path.push(c),
        }
    }
    match path.starts_with('/') {
        true => path,
        false => format!("{}/{path}", account.home),
    }
}

/// Describes why sshd does not read a file of keys (`safe_path` of OpenSSH).
fn unreadable(
    view: &StackView,
    file: &ViewNode,
    account: &Account,
    strict: bool,
) -> Result<Option<String>, LookError> {
    let shown = |path: &[u8]| format!("/{}", escape(path));
    let readable = match file.attr.uid == account.uid {
        true => 0o400,
        false if file.attr.gid == account.gid => 0o040,
        false => 0o004,
    };
    if account.uid != 0 && file.attr.mode & readable == 0 {
        return Ok(Some(format!("the user cannot read {}", shown(&file.path))));
    }
    if !strict {
        return Ok(None);
    }
    let home = resolve(view, account.home.as_bytes())?.map(|home| home.path);
    let mut path = &file.path[..];
    loop {
        let Some(node) = view.find_following(path)? else { return Ok(None) };
        if node.attr.uid != 0 && node.attr.uid != account.uid {
            return Ok(Some(format!("{} belongs to user id {}", shown(path), node.attr.uid)));
        }
        // Debian's sshd accepts a private group of the user.
        let group = node.attr.mode & 0o020 != 0 && node.attr.gid != account.gid;
        if group || node.attr.mode & 0o002 != 0 {
            return Ok(Some(format!(
                "others can write to {} (mode {:04o})",
                shown(path),
                node.attr.mode
            )));
        }
        if Some(path) == home.as_deref() || path.is_empty() {
            return Ok(None);
        }
        path = path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash]);
    }
}

/// Finds lines that are not keys.
fn invalid_keys(view: &StackView, path: &str, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(file) = ConfigFile::read(view, path)? else { return Ok(()) };
    for (line, text) in file.entries(&['#']) {
        if !is_key(text) {
            let message = "the line is not a key in the format of OpenSSH, and is ignored";
            let fault = Fault::new(&SSH_KEYS, &file.node, message).line(line);
            let fix = "write each key into one line: options, type, key, comment";
            faults.push(fault.severity(Severity::Warning).fix(fix));
        }
    }
    Ok(())
}

/// Returns whether a line is a key, perhaps with options: words of which one is the type and the
/// next one the key, which begins with the type (RFC 4253, section 6.6).
fn is_key(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    words.windows(2).any(|pair| {
        // A last group of digits may lack its padding.
        let digits = pair[1].trim_end_matches('=');
        let whole = digits.len() / 4 * 4;
        let Some(bytes) = digits.get(..whole).and_then(|d| BASE64.decode(d.as_bytes()).ok()) else {
            return false;
        };
        let name = pair[0].as_bytes();
        let length = bytes.first_chunk().map(|length| u32::from_be_bytes(*length) as usize);
        length == Some(name.len()) && bytes.get(4..).is_some_and(|rest| rest.starts_with(name))
    })
}
