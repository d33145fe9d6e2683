//! Rotation of logs: logrotate(8).

use super::files::{ConfigFile, files_in};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::StackView;
use crate::image::view::accounts::Accounts;
use crate::text::escape::escape;

pub(super) static LOGROTATE: Lint = Lint {
    name: "config/logrotate",
    severity: Severity::Error,
    summary: "logrotate rejects its configuration",
    why: "logrotate skips a file that does not belong to root, that others can write to, or with \
          an error, and its logs grow until the memory of the machine is full. Lines with unknown \
          directives are ignored (a warning).",
    fix: "correct the file; `logrotate -d /etc/logrotate.conf` prints the errors",
};

/// Directives that begin a script, which `endscript` ends.
const SCRIPTS: [&str; 5] = ["prerotate", "postrotate", "preremove", "firstaction", "lastaction"];
/// All other directives (logrotate 3.22).
const DIRECTIVES: &str = "addextension allowhardlink compress compresscmd compressext \
    compressoptions copy copytruncate create createolddir daily dateext dateformat datehourago \
    dateyesterday delaycompress endscript error extension hourly ifempty ignoreduplicates include \
    mail mailfirst maillast maxage maxsize minage minsize missingok monthly noallowhardlink \
    nocompress nocopy nocopytruncate nocreate nocreateolddir nodateext nodelaycompress noerror \
    nomail nomissingok noolddir norenamecopy nosharedscripts noshred notifempty olddir renamecopy \
    rotate sharedscripts shred shredcycles size start su tabooext taboopat uncompresscmd weekly \
    yearly";
/// Suffixes of names that logrotate ignores.
const IGNORED: [&str; 7] = [",v", "~", ".bak", ".disabled", ".old", ".swp", ".orig"];

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    if resolve(view, b"usr/sbin/logrotate")?.is_none() {
        return Ok(());
    }
    let accounts = Accounts::read(view)?;
    let mut paths = vec!["etc/logrotate.conf".to_owned()];
    for (name, _) in files_in(view, "etc/logrotate.d")? {
        let is_ignored = IGNORED.iter().any(|suffix| name.ends_with(suffix))
            || [".dpkg-", ".rpm", ".ucf-", ".cfsaved"].iter().any(|part| name.contains(part))
            || name.starts_with('.');
        if !is_ignored {
            paths.push(format!("etc/logrotate.d/{name}"));
        }
    }
    for path in paths {
        let Some(file) = ConfigFile::read(view, &path)? else { continue };
        let attr = &file.node.attr;
        if attr.uid != 0 {
            let message = format!("it belongs to user id {}, not to root", attr.uid);
            faults.push(Fault::new(&LOGROTATE, &file.node, message));
        }
        if attr.mode & 0o022 != 0 {
            let message = format!("others than its owner can write to it (mode {:04o})", attr.mode);
            faults.push(Fault::new(&LOGROTATE, &file.node, message));
        }
        check(&file, &accounts, faults);
    }
    Ok(())
}

fn check(file: &ConfigFile, accounts: &Accounts, faults: &mut SurveyFaults) {
    let mut in_script = None;
    let mut block = None;
    for (line, text) in file.entries(&['#']) {
        let mut add = |severity, message: String| {
            faults.push(Fault::new(&LOGROTATE, &file.node, message).line(line).severity(severity));
        };
        if in_script.is_some() {
            if text.split_whitespace().next() == Some("endscript") {
                in_script = None;
            }
            continue;
        }
        if text.ends_with('{') {
            if block.is_some() {
                add(Severity::Error, "a block begins inside another one".to_owned());
            }
            block = Some(line);
            continue;
        }
        if text.starts_with('}') {
            if block.take().is_none() {
                add(Severity::Error, "`}` without a block".to_owned());
            }
            continue;
        }
        // Names of logs, which may be on several lines.
        if block.is_none() && text.starts_with(['/', '"', '\'', '~', '*']) || text.contains('{') {
            if text.contains('{') && !text.contains('}') {
                block = Some(line);
            }
            continue;
        }
        let mut words =
            text.split(|c: char| c.is_whitespace() || c == '=').filter(|w| !w.is_empty());
        let directive = words.next().unwrap_or_default();
        if SCRIPTS.contains(&directive) {
            in_script = Some((line, directive.to_owned()));
            continue;
        }
        if !DIRECTIVES.split_whitespace().any(|known| known == directive) {
            let directive = escape(directive.as_bytes());
            add(Severity::Warning, format!("unknown directive {directive}"));
            continue;
        }
        let names: Vec<&str> = match directive {
            "su" => words.collect(),
            "create" => {
                // The mode is optional.
                let is_mode = |word: &&str| word.bytes().all(|byte| byte.is_ascii_digit());
                words.filter(|word| !is_mode(word)).collect()
            }
            _ => continue,
        };
        let known = [("user", accounts.users()), ("group", accounts.groups())];
        for (name, (kind, known)) in names.iter().zip(known) {
            let is_id = name.bytes().all(|byte| byte.is_ascii_digit());
            if !is_id && !known.is_empty() && !known.contains_key(*name) {
                add(Severity::Error, format!("unknown {kind} {}", escape(name.as_bytes())));
            }
        }
    }
    let open = in_script.map(|(line, script)| (line, format!("{script} has no endscript")));
    let open = open.or_else(|| block.map(|line| (line, "the block has no `}`".to_owned())));
    if let Some((line, message)) = open {
        faults.push(Fault::new(&LOGROTATE, &file.node, message).line(line));
    }
}
