//! Names of machines: resolv.conf(5), hosts(5), hostname(5), as glibc and systemd read them.

use std::net::IpAddr;

use super::files::ConfigFile;
use super::inspector::{Inspector, KnownNames, shown};
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::StackView;

pub(super) static RESOLV_CONF: Lint = Lint {
    name: "config/resolv-conf",
    severity: Severity::Error,
    summary: "a line of resolv.conf that the resolver ignores",
    why: "The C library skips lines that it does not know, whose keyword does not begin the line, \
          or whose address is invalid, without a message. Of several name servers it uses the \
          first three. Names are then not resolved, or by another server.",
    fix: "correct the line; resolv.conf(5) lists the keywords",
};

pub(super) static HOSTS: Lint = Lint {
    name: "config/hosts",
    severity: Severity::Error,
    summary: "a line of hosts that the resolver ignores",
    why: "The C library skips a line without a valid address or without a name, without a message. \
          The names of the line are not resolved, or by DNS.",
    fix: "correct the line: an address, the name, further names",
};

pub(super) static HOSTNAME: Lint = Lint {
    name: "config/hostname",
    severity: Severity::Error,
    summary: "an invalid host name",
    why: "systemd removes invalid characters from the name and cuts it after 64 characters, or \
          uses another name. It reads only the first line. Programs that compare the name with \
          their configuration then do not find it.",
    fix: "write a name of letters, digits, dots and hyphens, with at most 64 characters, or remove \
          the file if the network sets the name",
};

/// Maximum number of name servers (`MAXNS` in resolv.h).
const MAX_SERVERS: usize = 3;
/// Maximum length of a host name (`HOST_NAME_MAX`).
const MAX_HOST_NAME: usize = 64;

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    if let Some(file) = inspector.file("etc/resolv.conf")? {
        resolv_conf(&mut inspector, &file);
    }
    if let Some(file) = inspector.file("etc/hosts")? {
        hosts(&mut inspector, &file);
    }
    if let Some(file) = inspector.file("etc/hostname")? {
        hostname(&mut inspector, &file);
    }
    Ok(())
}

fn resolv_conf(inspector: &mut Inspector<'_>, file: &ConfigFile) {
    let mut keywords =
        KnownNames::new(["nameserver", "domain", "search", "sortlist", "options", "lookup"]);
    let mut servers = 0;
    // str::lines removes CR, which is part of the last word here.
    for (index, line) in file.text.split('\n').enumerate() {
        let mut add = |message: String, severity| {
            let fault = Fault::new(&RESOLV_CONF, &file.node, message).line(index + 1);
            inspector.add(fault.severity(severity));
        };
        let mut words = line.split([' ', '\t']).filter(|word| !word.is_empty());
        let Some(keyword) = words.next() else { continue };
        if keyword.starts_with(['#', ';']) || keyword == "\r" {
            continue;
        }
        if !keywords.has(keyword) {
            let severity = Severity::Warning;
            match keywords.similar(keyword) {
                Some(near) => {
                    let word = shown(keyword);
                    add(format!("unknown keyword {word}; did you mean {near}?"), severity);
                }
                None => add(format!("unknown keyword {}", shown(keyword)), severity),
            }
        } else if line.starts_with([' ', '\t']) {
            add(format!("a blank precedes {keyword}"), Severity::Error);
        } else if keyword == "nameserver" {
            match words.next() {
                None => add("nameserver has no address".to_owned(), Severity::Error),
                Some(address) if address.ends_with('\r') => {
                    add(
                        "the line ends with CR, which is part of the address".to_owned(),
                        Severity::Error,
                    );
                }
                Some(address) if !is_address(address) => {
                    add(format!("invalid address {}", shown(address)), Severity::Error);
                }
                Some(_) => {
                    servers += 1;
                    if servers == MAX_SERVERS + 1 {
                        let message = "it has more than three name servers".to_owned();
                        add(message, Severity::Warning);
                    }
                }
            }
        }
    }
}

/// Returns whether the resolver accepts an address: that of IPv4 may be written in each form of
/// inet_aton(3), that of IPv6 may have a scope.
fn is_address(word: &str) -> bool {
    let parts: Vec<&str> = word.split('.').collect();
    let is_number = |part: &&str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'x')
    };
    let is_decimal = |part: &&str| part.parse::<u8>().is_ok();
    word.split('%').next().is_some_and(|address| address.parse::<IpAddr>().is_ok())
        || (parts.len() == 4 && parts.iter().all(is_decimal))
        || (parts.len() < 4 && word.starts_with(|c: char| c.is_ascii_digit()))
            && parts.iter().all(is_number)
}

fn hosts(inspector: &mut Inspector<'_>, file: &ConfigFile) {
    for (line, text) in file.lines() {
        let text = text.split('#').next().unwrap_or_default();
        let mut words = text.split_ascii_whitespace();
        let Some(address) = words.next() else { continue };
        let message = if address.split('%').next().is_none_or(|a| a.parse::<IpAddr>().is_err()) {
            format!("invalid address {}", shown(address))
        } else if words.next().is_none() {
            format!("{} has no name", shown(address))
        } else {
            continue;
        };
        inspector.add(Fault::new(&HOSTS, &file.node, message).line(line));
    }
}

fn hostname(inspector: &mut Inspector<'_>, file: &ConfigFile) {
    let mut names = file.entries(&['#']);
    // An empty file leaves the name to the network.
    let Some((line, name)) = names.next() else { return };
    let invalid = |byte: &u8| !byte.is_ascii_alphanumeric() && !b"-._".contains(byte);
    let message = if name.len() > MAX_HOST_NAME {
        format!("the name has {} characters, not at most {MAX_HOST_NAME}", name.len())
    } else if name.as_bytes().iter().any(invalid) {
        format!("the name {} has invalid characters", shown(name))
    } else if name
        .split('.')
        .any(|part| part.is_empty() || part.starts_with('-') || part.ends_with('-'))
    {
        format!("the name {} has an empty part, or one with a hyphen at its end", shown(name))
    } else if let Some((line, other)) = names.next() {
        let message = format!("the name {} is not in the first line", shown(other));
        let fault = Fault::new(&HOSTNAME, &file.node, message).severity(Severity::Warning);
        return inspector.add(fault.line(line));
    } else {
        return;
    };
    inspector.add(Fault::new(&HOSTNAME, &file.node, message).line(line));
}
