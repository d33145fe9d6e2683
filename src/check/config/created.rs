//! Files and accounts that are created at boot: tmpfiles.d(5), sysusers.d(5).

use super::files::drop_in_nodes;
use super::inspector::{Inspector, shown};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::known_accounts::{KnownAccounts, SYSUSERS_DIRS};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::StackView;

pub(super) static TMPFILES: Lint = Lint {
    name: "config/tmpfiles",
    severity: Severity::Error,
    summary: "a line of tmpfiles.d that systemd-tmpfiles ignores",
    why: "systemd-tmpfiles skips a line that it cannot parse or whose user or group is unknown, \
          and its service fails. A service that needs the directory, such as one below /run, does \
          not start.",
    fix: "correct the line: type, path, mode, user, group, age, argument; \
          `systemd-tmpfiles --create --root=DIR` prints details",
};

pub(super) static SYSUSERS: Lint = Lint {
    name: "config/sysusers",
    severity: Severity::Error,
    summary: "a line of sysusers.d that systemd-sysusers rejects",
    why: "systemd-sysusers does not create the account of an invalid line. Units and files that \
          name the account do not work.",
    fix: "correct the line: type, name, id, \"description\", home, shell; \
          `systemd-sysusers --dry-run` prints details",
};

/// Types of tmpfiles.d.
const TYPES: &str = "fFwdDeqQvpLcbCxXrRzZtThHaA";
/// Types that need an argument.
const WITH_ARGUMENT: &str = "wcbtThHaA";
/// Modifiers of a type; each may occur once.
const MODIFIERS: &str = "!+-=~^$?";

/// Finds faults of tmpfiles.d.
pub(super) fn tmpfiles(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    const DIRS: [&str; 3] = ["etc/tmpfiles.d", "usr/local/lib/tmpfiles.d", "usr/lib/tmpfiles.d"];
    let mut inspector = Inspector::new(view, faults);
    let accounts = inspector.accounts()?;
    for node in drop_in_nodes(view, &DIRS, ".conf")? {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#']) {
            if let Some(message) = tmpfiles_fault(text, &accounts) {
                let fault = Fault::new(&TMPFILES, &file.node, message).line(line);
                inspector.add(fault.cause(b"etc/passwd").cause(b"etc/group"));
            }
        }
    }
    Ok(())
}

/// Describes the fault of a line of tmpfiles.d.
fn tmpfiles_fault(text: &str, accounts: &KnownAccounts) -> Option<String> {
    let Some((words, argument)) = words(text, 6) else {
        return Some("a quote is not closed".to_owned());
    };
    let word = |index: usize| {
        words.get(index).map(String::as_str).filter(|word| !word.is_empty() && *word != "-")
    };
    let (Some(action), Some(path)) = (words.first(), words.get(1)) else {
        return Some("it has no path".to_owned());
    };
    let mut characters = action.chars();
    let kind = characters.next()?;
    if !TYPES.contains(kind) {
        return Some(format!("unknown type {}", shown(action)));
    }
    let mut seen = String::new();
    for modifier in characters {
        if !MODIFIERS.contains(modifier) || seen.contains(modifier) {
            return Some(format!("invalid modifier {modifier} of the type {}", shown(action)));
        }
        seen.push(modifier);
    }
    if !path.starts_with(['/', '%']) {
        return Some(format!("the path {} is not absolute", shown(path)));
    }
    if let Some(mode) = word(2) {
        let digits = mode.trim_start_matches(['~', ':']);
        if u32::from_str_radix(digits, 8).map_or(true, |mode| mode > 0o7777) {
            return Some(format!("invalid mode {}", shown(mode)));
        }
    }
    // A specifier is expanded at boot.
    let account = |index: usize| {
        let name = word(index).map(|name| name.strip_prefix(':').unwrap_or(name));
        name.filter(|name| !name.contains('%'))
    };
    if let Some(user) = account(3).filter(|user| accounts.lacks_user(user)) {
        return Some(format!("unknown user {}", shown(user)));
    }
    if let Some(group) = account(4).filter(|group| accounts.lacks_group(group)) {
        return Some(format!("unknown group {}", shown(group)));
    }
    if WITH_ARGUMENT.contains(kind) && (argument.is_empty() || argument == "-") {
        return Some(format!("the type {} needs an argument", shown(action)));
    }
    None
}

/// Finds faults of sysusers.d.
pub(super) fn sysusers(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    for node in drop_in_nodes(view, &SYSUSERS_DIRS, ".conf")? {
        let file = inspector.open(node)?;
        for (line, text) in file.entries(&['#']) {
            if let Some(message) = sysusers_fault(text) {
                inspector.add(Fault::new(&SYSUSERS, &file.node, message).line(line));
            }
        }
    }
    Ok(())
}

/// Describes the fault of a line of sysusers.d.
fn sysusers_fault(text: &str) -> Option<String> {
    let Some((words, rest)) = words(text, 6) else {
        return Some("a quote is not closed".to_owned());
    };
    let word = |index: usize| {
        words.get(index).map(String::as_str).filter(|word| !word.is_empty() && *word != "-")
    };
    if words.len() < 2 {
        return Some("it has no name".to_owned());
    }
    if !rest.is_empty() {
        return Some(format!("it has more than six fields: {}", shown(rest)));
    }
    let kind = words[0].as_str();
    if !["u", "u!", "g", "m", "r"].contains(&kind) {
        return Some(format!("unknown type {}", shown(kind)));
    }
    let (name, id) = (word(1), word(2));
    if let Some(name) = name.filter(|name| !is_name(name)) {
        return Some(format!("invalid name {}", shown(name)));
    }
    match (kind, name, id) {
        ("r", Some(_), _) => return Some("a line of type r has no name, but -".to_owned()),
        ("r", None, id) => {
            let number = |text: &str| text.parse::<u32>().is_ok();
            let is_range = id.is_some_and(|id| match id.split_once('-') {
                Some((first, last)) => number(first) && number(last),
                None => number(id),
            });
            if !is_range && id.is_none_or(|id| !id.contains('%')) {
                return Some("a line of type r needs a range of ids".to_owned());
            }
        }
        (_, None, _) => return Some("it has no name".to_owned()),
        ("m", Some(_), None) => return Some("a line of type m needs a group".to_owned()),
        ("m", Some(_), Some(group)) if !is_name(group) => {
            return Some(format!("invalid group {}", shown(group)));
        }
        ("u" | "u!" | "g", Some(_), Some(id)) if !is_id(kind, id) => {
            return Some(format!("invalid id {}", shown(id)));
        }
        _ => {}
    }
    if !kind.starts_with('u') && (3..6).any(|index| word(index).is_some()) {
        return Some(format!("a line of type {kind} has only a name and an id"));
    }
    let paths = [("home directory", word(4)), ("shell", word(5))];
    paths.into_iter().find_map(|(what, path)| {
        let path = path.filter(|path| !path.starts_with(['/', '%']))?;
        Some(format!("the {what} {} is not absolute", shown(path)))
    })
}

/// Returns whether systemd accepts the name of an account (`valid_user_group_name`), or whether it
/// has a specifier.
fn is_name(name: &str) -> bool {
    let invalid = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | '/');
    name.contains('%')
        || !name.starts_with('-')
            && !name.contains(invalid)
            && !name.bytes().all(|byte| byte.is_ascii_digit())
            && name != "."
            && name != ".."
}

/// Returns whether an id is a number, a path of a file with the id, or `UID:GROUP`.
fn is_id(kind: &str, id: &str) -> bool {
    let number = |text: &str| text.parse::<u32>().is_ok_and(|id| id < 0xffff_ffff);
    if id.starts_with('/') || id.contains('%') || number(id) {
        return true;
    }
    let pair = id.split_once(':').filter(|_| kind != "g");
    pair.is_some_and(|(uid, gid)| (uid == "-" || number(uid)) && (number(gid) || is_name(gid)))
}

/// Returns the first words of a line and the rest; `None` if a quote is not closed. Quotes and
/// backslashes are those of `extract_first_word` in systemd.
fn words(text: &str, most: usize) -> Option<(Vec<String>, &str)> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while words.len() < most && !rest.is_empty() {
        let mut word = String::new();
        let mut quote = None;
        let mut end = rest.len();
        let mut characters = rest.char_indices();
        while let Some((at, character)) = characters.next() {
            match (quote, character) {
                (_, '\\') => word.extend(characters.next().map(|(_, next)| next)),
                (Some(open), character) if open == character => quote = None,
                (None, '"' | '\'') => quote = Some(character),
                (None, character) if character.is_ascii_whitespace() => {
                    end = at;
                    break;
                }
                (_, character) => word.push(character),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    Some((words, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_have_quotes_and_escapes() {
        let (found, rest) = words("d \"/a b\" '' \\'c x y z", 5).unwrap();
        assert_eq!(
            (found, rest),
            (["d", "/a b", "", "'c", "x"].map(str::to_owned).to_vec(), "y z")
        );
        assert_eq!(words("d \"/a", 5), None);
        assert_eq!(words("  ", 5), Some((Vec::new(), "")));
    }
}
