//! Jobs of cron: crontab(5), cron(8) of Debian and cronie, run-parts(8).

use super::accounts::{Account, accounts};
use super::files::{ConfigFile, files_in};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

pub(super) static CRON: Lint = Lint {
    name: "config/cron",
    severity: Severity::Error,
    summary: "a job that cron does not run",
    why: "cron ignores a whole file with an error in one line, with an unknown user, without a \
          newline at its end, with a wrong owner, or writable by others than its owner. cron and \
          run-parts ignore files whose names contain a dot (a warning), and run-parts files that \
          are not executable. The only sign is a line in the log.",
    fix: "correct the file: root's, mode 644, a name of letters, digits, - and _, a newline at the \
          end; scripts of cron.daily and its like have mode 755",
};

const SCRIPT_DIRS: [&str; 4] =
    ["etc/cron.hourly", "etc/cron.daily", "etc/cron.weekly", "etc/cron.monthly"];
const SPECIAL_TIMES: [&str; 8] =
    ["@reboot", "@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
/// The fields of a time: name, lowest and highest value, and the names of values.
const FIELDS: [(&str, u32, u32, &[&str]); 5] = [
    ("minute", 0, 59, &[]),
    ("hour", 0, 23, &[]),
    ("day of the month", 1, 31, &[]),
    (
        "month",
        1,
        12,
        &["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"],
    ),
    ("day of the week", 0, 7, &["sun", "mon", "tue", "wed", "thu", "fri", "sat"]),
];

/// The users of a root; empty if it has none, so that none can be missing.
struct Users(Vec<Account>);

impl Users {
    fn lacks(&self, name: &str) -> bool {
        !self.0.is_empty() && !self.0.iter().any(|account| account.name == name)
    }
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let is_program = |path: &str| -> Result<bool, LookError> {
        Ok(resolve(view, path.as_bytes())?.is_some_and(|node| node.is_file()))
    };
    let debian = is_program("usr/sbin/cron")?;
    if !debian && !is_program("usr/sbin/crond")? {
        return Ok(());
    }
    let users = match ConfigFile::read(view, "etc/passwd")? {
        Some(file) => Users(accounts(&file).0),
        None => Users(Vec::new()),
    };
    if let Some(file) = ConfigFile::read(view, "etc/crontab")? {
        table(view, &file, debian, Some(&users), faults)?;
    }
    for (name, node) in files_in(view, "etc/cron.d")? {
        if is_leftover(&name) {
            continue;
        }
        if debian && !is_plain_name(&name) {
            faults.push(ignored_name(&node, "cron"));
            continue;
        }
        if let Some(file) = ConfigFile::read(view, &format!("etc/cron.d/{name}"))? {
            table(view, &file, debian, Some(&users), faults)?;
        }
    }
    for (name, node) in files_in(view, "var/spool/cron/crontabs")? {
        let owner = users.0.iter().find(|account| account.name == name);
        let Some(owner) = owner else {
            if users.lacks(&name) {
                let message = "no account has the name of this file";
                faults.push(Fault::new(&CRON, &node, message).cause(b"etc/passwd"));
            }
            continue;
        };
        if node.attr.uid != owner.uid {
            let message = format!("it does not belong to {}", escape(name.as_bytes()));
            faults.push(Fault::new(&CRON, &node, message));
        }
        if let Some(file) = ConfigFile::read(view, &format!("var/spool/cron/crontabs/{name}"))? {
            table(view, &file, debian, None, faults)?;
        }
    }
    if debian {
        scripts(view, faults)?;
    }
    Ok(())
}

/// Finds scripts that run-parts ignores.
fn scripts(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    for dir in SCRIPT_DIRS {
        for (name, node) in files_in(view, dir)? {
            if is_leftover(&name) {
                continue;
            }
            if !is_plain_name(&name) {
                faults.push(ignored_name(&node, "run-parts"));
            } else if node.attr.mode & 0o111 == 0 {
                let message = "it is not executable, so run-parts ignores it";
                let fault = Fault::new(&CRON, &node, message).severity(Severity::Warning);
                faults.push(fault.fix("make it executable: `chmod 755`"));
            }
        }
    }
    Ok(())
}

fn ignored_name(node: &ViewNode, program: &str) -> Fault {
    let message = format!("{program} ignores names with other characters than A-Z a-z 0-9 _ -");
    let fault = Fault::new(&CRON, node, message).severity(Severity::Warning);
    fault.fix("give the file a name without a dot")
}

/// Returns whether a name is that of a placeholder, or of a file that a package manager or an
/// editor left.
fn is_leftover(name: &str) -> bool {
    name.starts_with('.')
        || name.ends_with('~')
        || [".dpkg-", ".ucf-", ".rpm", ".swp", ".bak", ".orig", ".disabled"]
            .iter()
            .any(|part| name.contains(part))
}

fn is_plain_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
}

/// Checks a table of jobs. System tables have a field for the user.
fn table(
    view: &StackView,
    file: &ConfigFile,
    debian: bool,
    users: Option<&Users>,
    faults: &mut SurveyFaults,
) -> Result<(), PassError> {
    let attr = &file.node.attr;
    if users.is_some() && attr.uid != 0 {
        let message = format!("it belongs to user id {}, not to root", attr.uid);
        faults.push(Fault::new(&CRON, &file.node, message));
    }
    if attr.mode & 0o022 != 0 {
        let message = format!("others than its owner can write to it (mode {:04o})", attr.mode);
        faults.push(Fault::new(&CRON, &file.node, message));
    }
    let jobs: Vec<_> = file.entries(&['#']).filter(|(_, line)| !is_variable(line)).collect();
    if debian && !jobs.is_empty() && !file.text.ends_with('\n') {
        let message = "the last line has no newline, so cron ignores the file";
        faults.push(Fault::new(&CRON, &file.node, message).line(file.text.lines().count()));
    }
    for (line, job) in jobs {
        let mut add = |fault: Fault| faults.push(fault.line(line));
        match parse(job, users.is_some()) {
            Err(message) => add(Fault::new(&CRON, &file.node, message)),
            Ok((user, command)) => {
                if let (Some(users), Some(user)) = (users, user)
                    && users.lacks(user)
                {
                    let message = format!("unknown user {}", escape(user.as_bytes()));
                    add(Fault::new(&CRON, &file.node, message).cause(b"etc/passwd"));
                }
                let program = command.split_whitespace().next().unwrap_or_default();
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._+-".contains(&byte);
                // A longer command may test the program first.
                let is_checkable = program.starts_with('/')
                    && program.bytes().all(plain)
                    && !super::files::is_volatile(program);
                if is_checkable && resolve(view, program.as_bytes())?.is_none() {
                    let message = format!("{program} does not exist");
                    let fault = Fault::new(&CRON, &file.node, message);
                    add(fault.severity(Severity::Warning).cause(program.as_bytes()));
                }
            }
        }
    }
    Ok(())
}

/// Returns whether a line sets a variable: `NAME = value`.
fn is_variable(line: &str) -> bool {
    let Some((name, _)) = line.split_once('=') else { return false };
    let name = name.trim().trim_matches(['"', '\'']);
    !name.is_empty() && !name.starts_with(['@', '*']) && !name.contains(char::is_whitespace)
}

/// Returns the user, if there is a field for it, and the command of a job.
fn parse(job: &str, has_user: bool) -> Result<(Option<&str>, &str), String> {
    let mut rest = job;
    let mut next = || {
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        let (field, after) = rest.split_at(end);
        rest = after.trim_start();
        field
    };
    let first = next();
    match first.starts_with('@') {
        true if SPECIAL_TIMES.contains(&first) => {}
        true => return Err(format!("unknown time {}", escape(first.as_bytes()))),
        false => {
            let mut field = first;
            for (index, (name, low, high, names)) in FIELDS.iter().enumerate() {
                if index > 0 {
                    field = next();
                }
                if !is_time(field, *low, *high, names) {
                    let field = escape(field.as_bytes());
                    return Err(format!("invalid {name}: `{field}`"));
                }
            }
        }
    }
    let user = has_user.then(&mut next);
    if user.is_some_and(str::is_empty) || rest.is_empty() {
        let user = if has_user { "the user or " } else { "" };
        return Err(format!("{user}the command is missing"));
    }
    Ok((user, rest))
}

/// Returns whether a field is a list of ranges with optional steps.
fn is_time(field: &str, low: u32, high: u32, names: &[&str]) -> bool {
    let number = |text: &str| {
        let name = names.iter().position(|name| text.eq_ignore_ascii_case(name));
        match name {
            // Both lists of names begin at the lowest value.
            Some(position) => u32::try_from(position).ok().map(|position| position + low),
            None => text.parse().ok(),
        }
        .filter(|value| (low..=high).contains(value))
    };
    !field.is_empty()
        && field.split(',').all(|part| {
            let (range, step) = match part.split_once('/') {
                Some((range, step)) => (range, Some(step)),
                None => (part, None),
            };
            let valid_step = step.is_none_or(|step| step.parse::<u32>().is_ok_and(|step| step > 0));
            // `~` is a random value of cronie.
            let ends = range.split_once(['-', '~']);
            let valid_range = match ends {
                _ if range == "*" || range.contains('~') => true,
                Some((first, last)) => {
                    number(first).zip(number(last)).is_some_and(|(first, last)| first <= last)
                }
                None => number(range).is_some(),
            };
            valid_step && valid_range
        })
}
