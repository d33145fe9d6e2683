//! Accounts: passwd(5), group(5), shadow(5), shells.

use std::collections::{BTreeMap, BTreeSet};

use super::files::ConfigFile;
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode};
use crate::text::escape::escape;

pub(super) static ACCOUNT_LINE: Lint = Lint {
    name: "config/account-line",
    severity: Severity::Error,
    summary: "an invalid line in passwd, group or shadow",
    why: "The C library skips lines that it cannot parse, so the account or group does not exist. \
          Of several lines with the same name only the first is used. Blank lines, and passwords \
          in a line that was cut, are typical of files that a script has appended to.",
    fix: "correct the line; `pwck -r` and `grpck -r` print details",
};

pub(super) static UID_ZERO: Lint = Lint {
    name: "config/uid-zero",
    severity: Severity::Warning,
    summary: "a second account with user id 0",
    why: "The account is root under another name: whoever logs in to it has all rights, and \
          programs that look up the name of user 0 may print it instead of root.",
    fix: "give the account an id of its own, or suppress the finding with the reason",
};

pub(super) static SHADOW: Lint = Lint {
    name: "config/shadow",
    severity: Severity::Warning,
    summary: "passwd and shadow do not match",
    why: "An account whose password is in /etc/shadow (`x` in passwd) and that has no line there \
          cannot log in: PAM refuses even logins with a key. A line of shadow without an account \
          has no effect. It happens when an overlay replaces one of the two files.",
    fix: "add the line with `pwconv` in the last step, or create accounts with useradd",
};

pub(super) static SHELL: Lint = Lint {
    name: "config/shell",
    severity: Severity::Error,
    summary: "a login shell that does not exist",
    why: "Logins to the account end at once: sshd refuses the user, login prints \"Cannot execute\".",
    fix: "install the shell, or set another one: `usermod -s /bin/bash NAME`",
};

/// An account of passwd.
pub(super) struct Account {
    pub(super) line: usize,
    pub(super) name: String,
    pub(super) password: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: String,
    pub(super) shell: String,
}

/// Returns the accounts of passwd, and describes the lines that have none.
pub(super) fn accounts(file: &ConfigFile) -> (Vec<Account>, Vec<(usize, String)>) {
    let (mut accounts, mut invalid) = (Vec::new(), Vec::new());
    for (line, text) in records(file) {
        let fields: Vec<&str> = text.split(':').collect();
        match (&fields[..], fields.get(2).map(|id| id.parse()), fields.get(3).map(|id| id.parse()))
        {
            ([name, password, _, _, _, home, shell], Some(Ok(uid)), Some(Ok(gid))) => {
                let [name, password, home, shell] =
                    [name, password, home, shell].map(|s| (*s).to_owned());
                accounts.push(Account { line, name, password, uid, gid, home, shell });
            }
            ([_, _, _, _, _, _, _], _, _) => {
                invalid.push((line, "its user or group id is not a number".to_owned()));
            }
            _ => invalid.push((line, format!("it has {} fields, not 7", fields.len()))),
        }
    }
    (accounts, invalid)
}

/// Returns the lines of an account file. Comments are an extension that the C library skips, and
/// lines with `+` or `-` belong to NIS.
fn records(file: &ConfigFile) -> impl Iterator<Item = (usize, &str)> {
    file.lines().filter(|(_, line)| !line.starts_with(['#', '+', '-']))
}

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(passwd) = ConfigFile::read(view, "etc/passwd")? else { return Ok(()) };
    let (accounts, invalid) = accounts(&passwd);
    let mut add_invalid = |file: &ConfigFile, invalid: Vec<(usize, String)>| {
        for (line, why) in invalid {
            faults.push(Fault::new(&ACCOUNT_LINE, &file.node, why).line(line));
        }
    };
    add_invalid(&passwd, invalid);
    let names = accounts.iter().map(|account| (account.line, account.name.as_str()));
    add_invalid(&passwd, repeated(names));

    let group = ConfigFile::read(view, "etc/group")?;
    let mut groups = BTreeMap::new();
    if let Some(group) = &group {
        let mut invalid = Vec::new();
        for (line, text) in records(group) {
            let fields: Vec<&str> = text.split(':').collect();
            match (&fields[..], fields.get(2).map(|id| id.parse::<u32>())) {
                ([name, _, _, _], Some(Ok(gid))) => {
                    groups.entry(gid).or_insert((line, *name));
                }
                ([_, _, _, _], _) => invalid.push((line, "its id is not a number".to_owned())),
                _ => invalid.push((line, format!("it has {} fields, not 4", fields.len()))),
            }
        }
        let names = records(group).filter_map(|(line, text)| Some((line, text.split(':').next()?)));
        invalid.extend(repeated(names));
        add_invalid(group, invalid);
    }

    let shadow = ConfigFile::read(view, "etc/shadow")?;
    let mut secrets = BTreeSet::new();
    if let Some(shadow) = &shadow {
        let mut invalid = Vec::new();
        for (line, text) in records(shadow) {
            let fields = text.split(':').count();
            match fields {
                9 => drop(secrets.insert(text.split(':').next().unwrap_or_default())),
                _ => invalid.push((line, format!("it has {fields} fields, not 9"))),
            }
        }
        add_invalid(shadow, invalid);
        let known: BTreeSet<&str> = accounts.iter().map(|account| account.name.as_str()).collect();
        for (line, text) in records(shadow) {
            let name = text.split(':').next().unwrap_or_default();
            if !known.contains(name) && secrets.contains(name) {
                let message = format!("{} has no line in /etc/passwd", escape(name.as_bytes()));
                let fault = Fault::new(&SHADOW, &shadow.node, message).severity(Severity::Note);
                faults.push(fault.line(line).cause(b"etc/passwd"));
            }
        }
        if shadow.node.attr.mode & 0o007 != 0 {
            let mode = format!("all users can access it (mode {:04o})", shadow.node.attr.mode);
            let fault = Fault::new(&SHADOW, &shadow.node, mode).severity(Severity::Error);
            faults.push(fault.fix("restore the permission: `chmod 640 /etc/shadow`"));
        }
    }

    for account in &accounts {
        let name = escape(account.name.as_bytes());
        let mut add = |fault: Fault| faults.push(fault.line(account.line));
        if account.uid == 0 && account.name != "root" {
            add(Fault::new(&UID_ZERO, &passwd.node, format!("{name} has user id 0")));
        }
        if account.password == "x" && !secrets.contains(account.name.as_str()) {
            let message = match shadow {
                Some(_) => format!("{name} has no line in /etc/shadow"),
                None => format!("the password of {name} is in /etc/shadow, which does not exist"),
            };
            add(Fault::new(&SHADOW, &passwd.node, message).cause(b"etc/shadow"));
        }
        if group.is_some() && !groups.contains_key(&account.gid) {
            let message = format!("{name} has the group id {}, which no group has", account.gid);
            let fault = Fault::new(&ACCOUNT_LINE, &passwd.node, message);
            add(fault.severity(Severity::Warning).cause(b"etc/group"));
        }
        if let Some(problem) = shell_problem(view, &account.shell)? {
            let message =
                format!("the shell of {name}, {}, {problem}", escape(account.shell.as_bytes()));
            // Only people and root log in to their accounts.
            let severity = match account.uid == 0 || (1000..60000).contains(&account.uid) {
                true => Severity::Error,
                false => Severity::Warning,
            };
            let fault = Fault::new(&SHELL, &passwd.node, message).severity(severity);
            add(fault.cause(account.shell.as_bytes()));
        }
    }
    Ok(())
}

/// Describes the lines whose name an earlier line has.
fn repeated<'a>(names: impl Iterator<Item = (usize, &'a str)>) -> Vec<(usize, String)> {
    let mut first = BTreeMap::new();
    let mut repeated = Vec::new();
    for (line, name) in names {
        match first.get(name) {
            Some(first) => {
                let name = escape(name.as_bytes());
                repeated.push((line, format!("{name} is also in line {first}, which is used")));
            }
            None => drop(first.insert(name, line)),
        }
    }
    repeated
}

/// Returns the problem of a login shell. An empty shell is /bin/sh. Shells that refuse logins may
/// be missing: then logins fail too.
fn shell_problem(view: &StackView, shell: &str) -> Result<Option<&'static str>, PassError> {
    if shell.is_empty() || shell.ends_with("/nologin") || shell.ends_with("/false") {
        return Ok(None);
    }
    Ok(match resolve(view, shell.as_bytes())?.filter(ViewNode::is_file) {
        None => Some("does not exist"),
        Some(node) if node.attr.mode & 0o111 == 0 => Some("is not executable"),
        Some(_) => None,
    })
}
