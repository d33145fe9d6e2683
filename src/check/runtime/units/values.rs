//! Validates values of keys with a fixed set of words, command lines and calendar events:
//! systemd.service(5), systemd.kill(5), systemd.time(7).

/// Sections, keys, and their possible values.
const WORDS: [(&str, &str, &[&str]); 3] = [
    (
        "Service",
        "Type",
        &["simple", "exec", "forking", "oneshot", "dbus", "notify", "notify-reload", "idle"],
    ),
    (
        "Service",
        "Restart",
        &["no", "always", "on-success", "on-failure", "on-abnormal", "on-watchdog", "on-abort"],
    ),
    ("*", "KillMode", &["control-group", "mixed", "process", "none"]),
];

/// Keys with a command line.
const COMMAND_KEYS: [&str; 7] = [
    "ExecCondition",
    "ExecReload",
    "ExecStart",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "ExecStopPost",
];

/// Returns false if systemd rejects a value. The values of most keys are not checked.
pub(super) fn is_possible(section: &str, key: &str, value: &str) -> bool {
    if COMMAND_KEYS.contains(&key) {
        return is_closed(value);
    }
    if value.is_empty() || value.contains('%') {
        return true;
    }
    if (section, key) == ("Timer", "OnCalendar") {
        return is_calendar(value);
    }
    let of_key = |(in_section, of, _): &&(&str, &str, _)| {
        *of == key && (*in_section == section || *in_section == "*")
    };
    WORDS.iter().find(of_key).is_none_or(|(_, _, words)| words.contains(&value))
}

/// Returns whether each quote of a command line is closed (`src/basic/extract-word.c`). A quote may
/// open inside a word.
fn is_closed(command: &str) -> bool {
    let mut open = None;
    let mut characters = command.chars();
    while let Some(character) = characters.next() {
        match open {
            _ if character == '\\' => drop(characters.next()),
            Some(quote) if character == quote => open = None,
            Some(_) => {}
            None if matches!(character, '"' | '\'') => open = Some(character),
            None => {}
        }
    }
    open.is_none()
}

/// Returns whether the text may be a calendar event: a keyword, or days of the week, a date and a
/// time, and a time zone. Numbers are not checked.
fn is_calendar(event: &str) -> bool {
    const EVENTS: [&str; 13] = [
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "quarterly",
        "semiannually",
        "semi-annually",
        "biannually",
        "bi-annually",
        "annually",
        "anually",
        "yearly",
    ];
    const DAYS: [&str; 7] =
        ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
    let numbers = |word: &str| word.bytes().all(|b| b.is_ascii_digit() || b"*-/,.:~@".contains(&b));
    let days = |word: &str| {
        let mut names = word.split(['.', ',', '-']).filter(|name| !name.is_empty()).peekable();
        let is_day = |name: &str| {
            let name = name.to_ascii_lowercase();
            DAYS.iter().any(|day| *day == name || day[..3] == *name)
        };
        names.peek().is_some() && names.all(is_day)
    };
    let zone = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_uppercase())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_+-".contains(&b))
    };
    let words: Vec<&str> = event.split_whitespace().collect();
    let known = |(index, word): (usize, &&str)| {
        let first = index == 0;
        let last = !first && index + 1 == words.len();
        let event = EVENTS.contains(&word.to_ascii_lowercase().as_str());
        numbers(word) || days(word) || first && event || last && zone(word)
    };
    !words.is_empty() && words.iter().enumerate().all(known)
}

/// Returns the unit name of a path, without the kind (`systemd-escape --path`).
pub(super) fn path_as_name(path: &str) -> String {
    let names: Vec<&str> =
        path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    if names.is_empty() {
        return "-".to_owned();
    }
    let mut name = String::new();
    for (index, byte) in names.join("/").bytes().enumerate() {
        match byte {
            b'/' => name.push('-'),
            b'.' if index == 0 => name.push_str("\\x2e"),
            b':' | b'_' | b'.' => name.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => name.push(char::from(byte)),
            byte => name.push_str(&format!("\\x{byte:02x}")),
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_events_follow_the_manual() {
        for event in [
            "daily",
            "Mon..Fri 10:00",
            "Sat,Sun *-*-* 01:00:00",
            "*-*-1,15 03:30 Europe/Berlin",
            "2026-01-01 00:00:00 UTC",
            "*:0/15",
            "monday",
            "*-02~03 5..7:00:30.5",
            "hourly UTC",
            "semi-annually",
            "biannually",
            "bi-annually",
        ] {
            assert!(is_calendar(event), "{event}");
        }
        for event in ["nonsense", "every day", "10:00 daily", "Mon nonsense 10:00", ""] {
            assert!(!is_calendar(event), "{event}");
        }
    }

    #[test]
    fn mount_unit_is_named_after_its_path() {
        assert_eq!(path_as_name("/mnt/data-disk/"), "mnt-data\\x2ddisk");
        assert_eq!(path_as_name("/"), "-");
        assert_eq!(path_as_name("/.a/b.c"), "\\x2ea-b.c");
    }
}
