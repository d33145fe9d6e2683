//! Lints for data that must differ between machines, for settings of the build host, and for access
//! rules.

use std::collections::BTreeMap;

use super::lints::{
    AUTHORIZED_KEYS, MACHINE_ID, PAM, PASSWORD, PROXY, RANDOM_SEED, RESOLV_CONF, SUDOERS,
};
use crate::check::context::{CheckContext, OverlayEntry, read_text, resolve};
use crate::check::{Finding, Findings, PassError, Severity};
use crate::image::view::packages::{DpkgDatabase, DpkgPackage};
use crate::image::view::{LookError, StackView};

/// Maximum bytes that are read of a configuration file.
const MAX_CONFIG: usize = 1 << 20;

/// Files and directories of privilege rules.
const SUDO: [&[u8]; 6] = [
    b"etc/sudoers",
    b"etc/sudoers.d/",
    b"etc/doas.conf",
    b"etc/polkit-1/rules.d/",
    b"etc/polkit-1/localauthority/",
    b"usr/share/polkit-1/rules.d/",
];

pub(super) fn identity(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let (view, lower) = (&roots.view, roots.lower.as_ref());
    for entry in &context.difference()?.overlaid {
        let node = &entry.node;
        let (layer, path) = (context.layer_name(node), &node.path[..]);
        if !node.is_file() || node.attr.size == 0 || !is_of_interest(path) {
            continue;
        }
        if entry.same_content(roots)? {
            continue;
        }
        let content = view.head(node, MAX_CONFIG)?;
        let lines = || content.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let find = |is: fn(&[u8]) -> bool| lines().find(|line| is(line)).map(<[u8]>::to_vec);
        let shown = |line: &[u8]| String::from_utf8_lossy(&line[..line.len().min(80)]).into_owned();
        let found = match path {
            b"etc/machine-id" | b"var/lib/dbus/machine-id" => {
                let id = content.trim_ascii();
                (id != b"uninitialized" && !id.is_empty())
                    .then(|| (&MACHINE_ID, "a machine id, the same on every machine".to_owned()))
            }
            b"etc/iscsi/initiatorname.iscsi" => {
                // `GenerateName=yes` instead generates a name on each machine.
                find(|line| line.starts_with(b"InitiatorName=")).map(|_| {
                    (&MACHINE_ID, "an iSCSI initiator name, the same on every machine".into())
                })
            }
            b"etc/nvme/hostnqn" | b"etc/nvme/hostid" => find(is_rule)
                .map(|_| (&MACHINE_ID, "an NVMe host name, the same on every machine".into())),
            b"etc/resolv.conf" => find(is_name_server).map(|line| (&RESOLV_CONF, shown(&line))),
            b"var/lib/systemd/random-seed" | b"var/lib/urandom/random-seed" => {
                Some((&RANDOM_SEED, "the same on every machine".to_owned()))
            }
            // pam-auth-update generates these files from the packages' profiles.
            _ if path.starts_with(b"etc/pam.d/common-") => {
                let message = change(entry) + ", a file that pam-auth-update generates";
                let finding = Finding::new(&PAM, layer, Some(path), message);
                findings.push(match lower {
                    Some(_) => finding,
                    None => finding.severity(Severity::Note),
                });
                None
            }
            _ if is_pam(path) => Some((&PAM, change(entry))),
            _ if SUDO.iter().any(|place| path.starts_with(place)) => {
                let free = find(|line| line.windows(8).any(|w| w == b"NOPASSWD"));
                let free = free.map(|line| format!(": {}", shown(&line))).unwrap_or_default();
                find(is_rule).map(|_| (&SUDOERS, change(entry) + &free))
            }
            _ if path.ends_with(b"/.ssh/authorized_keys")
                || path.ends_with(b"/.ssh/authorized_keys2")
                || path.starts_with(b"etc/ssh/authorized_keys") =>
            {
                let count = lines().filter(|line| is_rule(line)).count();
                let keys = if count == 1 { "key" } else { "keys" };
                (count > 0).then(|| (&AUTHORIZED_KEYS, format!("{count} {keys}")))
            }
            // Program code and data that mention a proxy do not configure one.
            _ if path.starts_with(b"var/") || path.ends_with(b".py") => None,
            _ => find(is_proxy).map(|line| (&PROXY, shown(&without_password(&line)))),
        };
        match found {
            Some((lint, message)) if lint.name == PAM.name || lint.name == SUDOERS.name => {
                context.add_unless_packaged(lint, node, message, findings)?;
            }
            Some((lint, message)) => findings.add(lint, layer, path, message),
            None => {}
        }
    }
    removed_rules(context, findings)?;
    passwords(context, findings)
}

/// Finds PAM and sudo rules that were deleted, except those of packages that were removed as well.
fn removed_rules(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    let Some(lower) = &roots.lower else { return Ok(()) };
    let is_at = |path: &[u8], place: &[u8]| {
        path.starts_with(place) || Some(path) == place.strip_suffix(b"/")
    };
    let lint = |path: &[u8]| {
        if is_pam(path) || is_at(path, b"etc/pam.d/") {
            Some(&PAM)
        } else {
            SUDO.iter().any(|place| is_at(path, place)).then_some(&SUDOERS)
        }
    };
    let removed = context.difference()?.removed.iter();
    let removed: Vec<_> =
        removed.filter_map(|node| Some((&node.path, lint(&node.path)?))).collect();
    if removed.is_empty() {
        return Ok(());
    }
    let (before, now) = (DpkgDatabase::read(lower)?, DpkgDatabase::read(&roots.view)?);
    for (path, lint) in removed {
        let with_package = before.iter().any(|(name, package)| {
            package.conffiles.iter().any(|(conffile, _)| conffile == path)
                && !now.get(name).is_some_and(DpkgPackage::is_installed)
        });
        if !with_package {
            let finding = Finding::new(lint, "", Some(path), "deleted");
            findings.push(
                finding.attributed_to(context.responsible_layers(std::slice::from_ref(path))?),
            );
        }
    }
    Ok(())
}

/// Returns whether a lint of this pass applies to the path.
fn is_of_interest(path: &[u8]) -> bool {
    let named = [&b"etc/"[..], b"root/", b"home/", b"var/lib/", b"usr/share/polkit-1/"];
    named.iter().any(|dir| path.starts_with(dir)) || path.windows(6).any(|w| w == b"/.ssh/")
}

fn change(entry: &OverlayEntry) -> String {
    match entry.lower {
        Some(_) => "changed".to_owned(),
        None => "new".to_owned(),
    }
}

fn is_name_server(line: &[u8]) -> bool {
    // A local stub resolver is valid on every machine.
    let address = line.strip_prefix(b"nameserver").map(<[u8]>::trim_ascii);
    address.is_some_and(|address| !address.starts_with(b"127.") && address != b"::1")
}

fn is_rule(line: &[u8]) -> bool {
    !line.is_empty() && !line.starts_with(b"#") && !line.starts_with(b"//")
}

fn is_pam(path: &[u8]) -> bool {
    path.starts_with(b"etc/pam.d/") || path == b"etc/pam.conf" || path.starts_with(b"etc/security/")
}

/// Returns whether a line sets a proxy, in the syntax of apt, the environment, wget, curl, or
/// systemd, which has several variables on one line.
fn is_proxy(line: &[u8]) -> bool {
    let keys = [&b"Environment="[..], b"DefaultEnvironment=", b"ManagerEnvironment="];
    match keys.iter().find_map(|key| line.strip_prefix(*key)) {
        Some(rest) => {
            let quotes = |byte: &u8| byte.is_ascii_whitespace() || b"\"'".contains(byte);
            rest.split(quotes).any(is_proxy_variable)
        }
        None => is_proxy_variable(line),
    }
}

fn is_proxy_variable(line: &[u8]) -> bool {
    let line = line.to_ascii_lowercase();
    let Ok(line) = std::str::from_utf8(&line) else { return false };
    if line.starts_with(['#', '/', ';']) {
        return false;
    }
    let line = line.trim_start_matches("export ").trim_start();
    let value = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "proxy"]
        .iter()
        .filter_map(|key| line.strip_prefix(key))
        .find_map(|rest| rest.trim_start().strip_prefix(['=', ':']));
    let set = value.is_some_and(|value| {
        // The value must begin with a URL: an expression may contain one without setting a proxy.
        let value = value.trim_start().trim_start_matches(['"', '\'']);
        value.split_once("://").is_some_and(|(scheme, _)| {
            !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        })
    });
    let apt = line.starts_with("acquire::") && line.contains("proxy") && line.contains("://");
    set || apt
}

/// Removes the user name and password of a URL, so that reports do not contain them.
fn without_password(line: &[u8]) -> Vec<u8> {
    let at = line.iter().rposition(|&byte| byte == b'@');
    match (memchr::memmem::find(line, b"://"), at) {
        (Some(scheme), Some(at)) if scheme < at => {
            [&line[..scheme + 3], "…".as_bytes(), &line[at..]].concat()
        }
        _ => line.to_vec(),
    }
}

/// Finds accounts with a password or an empty password (shadow(5), passwd(5)).
fn passwords(context: &CheckContext<'_>, findings: &mut Findings<'_>) -> Result<(), PassError> {
    let roots = context.roots()?;
    for path in ["etc/shadow", "etc/passwd"] {
        let Some(file) = resolve(&roots.view, path.as_bytes())? else { continue };
        if file.layer() < context.first_checked() {
            continue;
        }
        let fields = |view: &StackView| -> Result<BTreeMap<String, String>, LookError> {
            let text = read_text(view, path)?;
            let account = |line: &str| {
                let mut fields = line.split(':');
                Some((fields.next()?.to_owned(), fields.next()?.to_owned()))
            };
            Ok(text.lines().filter_map(account).collect())
        };
        let before = roots.lower.as_ref().map(fields).transpose()?.unwrap_or_default();
        for (name, password) in fields(&roots.view)? {
            if before.get(&name) == Some(&password) {
                continue;
            }
            let layer = context.layer_name(&file);
            if password.is_empty() {
                let message =
                    format!("{name} has an empty password: everyone can log in as {name}");
                findings.add(&PASSWORD, layer, path.as_bytes(), message);
            } else if password.starts_with('$')
                || password.len() == 13 && !password.contains(['!', '*'])
            {
                let message = format!("{name} has a password, the same on every machine");
                let finding = Finding::new(&PASSWORD, layer, Some(path.as_bytes()), message);
                findings.push(finding.severity(Severity::Warning));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_settings_are_recognised() {
        for line in [
            "Acquire::http::Proxy \"http://proxy:3142\";",
            "http_proxy=http://proxy:3128",
            "export HTTPS_PROXY=\"https://u:p@proxy:3128/\"",
            "https_proxy = http://proxy:8080/",
            "proxy = \"http://proxy:8080\"",
            "Environment=\"A=b c\" 'https_proxy=http://proxy:8080'",
            "DefaultEnvironment=http_proxy=http://proxy:8080",
        ] {
            assert!(is_proxy(line.as_bytes()), "{line}");
        }
        for line in [
            "#http_proxy=http://x",
            "Acquire::http::Proxy \"DIRECT\";",
            "proxy=none",
            "Environment=http_proxy=",
            "Environment=no_proxy=http://example.org",
            "",
            "proxy_pass http://backend:8080;",
            "ProxyPass / http://backend/",
            "proxy_url = \"http://x\"",
            "proxy: see http://example.org",
        ] {
            assert!(!is_proxy(line.as_bytes()), "{line}");
        }
        assert_eq!(without_password(b"a=http://u:p@host:1/"), "a=http://…@host:1/".as_bytes());
    }
}
