//! The name services: nsswitch.conf(5).

use std::collections::BTreeSet;

use super::files::{ConfigFile, library_names};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::StackView;
use crate::text::escape::escape;

pub(super) static NSSWITCH: Lint = Lint {
    name: "config/nsswitch",
    severity: Severity::Error,
    summary: "a name service that is missing or not installed",
    why: "/etc/nsswitch.conf selects where the C library finds accounts and addresses. Without \
          `files`, accounts of /etc/passwd do not exist for programs and no one can log in; \
          without `dns` or a similar service, host names do not resolve. A service whose module \
          is not installed is skipped (a warning).",
    fix: "add the service to the line, or install its module (libnss-NAME)",
};

/// Services of the C library itself, and those that Debian names for databases such as protocols
/// without their modules.
const IGNORED: [&str; 4] = ["files", "dns", "db", "nis"];
/// Services that read local account files.
const LOCAL: [&str; 5] = ["files", "compat", "db", "altfiles", "extrausers"];
/// Services that find the addresses of other hosts.
const RESOLVERS: [&str; 9] =
    ["dns", "resolve", "ldap", "nis", "nisplus", "sss", "winbind", "wins", "hesiod"];

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let Some(file) = ConfigFile::read(view, "etc/nsswitch.conf")? else { return Ok(()) };
    let installed = library_names(view)?;
    if !installed.contains("libc.so.6") {
        return Ok(());
    }
    let mut reported = BTreeSet::new();
    for (line, text) in file.entries(&['#']) {
        let text = text.split('#').next().unwrap_or_default();
        let mut add = |severity, message: String| {
            faults.push(Fault::new(&NSSWITCH, &file.node, message).line(line).severity(severity));
        };
        let Some((database, services)) = text.split_once(':') else {
            add(Severity::Warning, "the line has no colon, and is ignored".to_owned());
            continue;
        };
        // Actions such as [NOTFOUND=return] are between the services.
        let Some(names) = service_names(services) else {
            add(Severity::Error, "an action has no closing bracket".to_owned());
            continue;
        };
        let database = database.trim();
        let lacks = |some: &[&str]| !names.iter().any(|name| some.contains(name));
        match database {
            "passwd" | "group" | "shadow" if lacks(&LOCAL) => {
                add(Severity::Error, format!("{database} lacks `files`: no local entry is found"));
            }
            "hosts" if lacks(&["files"]) => {
                add(Severity::Warning, "hosts lacks `files`: /etc/hosts is not read".to_owned());
            }
            "hosts" if lacks(&RESOLVERS) => {
                let message = "hosts lacks `dns`: names of other machines do not resolve";
                add(Severity::Warning, message.to_owned());
            }
            _ => {}
        }
        for name in names.iter().filter(|name| !IGNORED.contains(name)) {
            let module = format!("libnss_{name}.so.2");
            if !installed.contains(&module) && reported.insert((*name).to_owned()) {
                let message = format!(
                    "{} is not installed, so {} is skipped",
                    escape(module.as_bytes()),
                    escape(name.as_bytes())
                );
                add(Severity::Warning, message);
            }
        }
    }
    Ok(())
}

/// Returns the services without the actions between them, such as `[NOTFOUND=return]`; `None` if a
/// bracket is not closed.
fn service_names(services: &str) -> Option<Vec<&str>> {
    let (mut names, mut rest) = (Vec::new(), services);
    while let Some((before, action)) = rest.split_once('[') {
        names.extend(before.split_whitespace());
        rest = action.split_once(']')?.1;
    }
    names.extend(rest.split_whitespace());
    Some(names)
}
