//! Lint of SSH servers without host keys: neither in the image nor generated at boot.

use super::lints::SSH_HOST_KEYS;
use super::units::started_units;
use crate::check::context::{CheckContext, resolve};
use crate::check::{Finding, Findings, PassError};
use crate::image::view::{StackView, ViewNode};

/// Unit names of the server in different distributions.
const UNITS: [&str; 4] = ["ssh.service", "sshd.service", "ssh.socket", "sshd.socket"];
/// Words in units and scripts that generate host keys.
const GENERATORS: [&[u8]; 5] =
    [b"ssh-keygen", b"sshd-keygen", b"ssh_host_", b"reconfigure openssh-server", b"cloud-init"];
/// Maximum bytes that are read of a script or configuration file.
const MAX_TEXT: usize = 256 << 10;
/// Maximum programs of units that are searched.
const MAX_PROGRAMS: usize = 1000;
/// Directories whose contents exist only on a running machine.
const RUNTIME_DIRS: [&str; 3] = ["/run/", "/var/run/", "/tmp/"];

pub(super) fn host_keys(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    let Some(unit) = keyless(&roots.view)? else { return Ok(()) };
    if let Some(lower) = &roots.lower
        && keyless(lower)?.is_some()
    {
        return Ok(());
    }
    let message = "it is started without host keys: there is no /etc/ssh/ssh_host_*_key, and no \
                   started unit generates one";
    let finding = Finding::new(&SSH_HOST_KEYS, "", Some(&unit), message);
    let paths = [unit.clone(), b"etc/ssh".to_vec()];
    findings.push(finding.attributed_to(context.responsible_layers(&paths)?));
    Ok(())
}

/// Returns the unit of a server that is started without host keys.
fn keyless(view: &StackView) -> Result<Option<Vec<u8>>, PassError> {
    if resolve(view, b"usr/sbin/sshd")?.is_none() {
        return Ok(None);
    }
    let started = started_units(view)?;
    let Some(server) = started.iter().find(|unit| UNITS.contains(&&*unit.name)) else {
        return Ok(None);
    };
    if has_keys(view)? {
        return Ok(None);
    }
    let mut programs = vec![b"etc/rc.local".to_vec()];
    for unit in &started {
        if unit.commands.iter().any(|command| generates_keys(command.as_bytes())) {
            return Ok(None);
        }
        programs.extend(unit.programs.iter().map(|path| path.trim_start_matches('/').into()));
    }
    if let Some(scripts) = resolve(view, b"etc/init.d")?.filter(ViewNode::is_dir) {
        // The server's own script generates no keys.
        let scripts = view.children(&scripts)?;
        programs.extend(scripts.into_iter().filter(|node| node.name() != b"ssh").map(|n| n.path));
    }
    programs.sort();
    programs.dedup();
    for path in programs.iter().take(MAX_PROGRAMS) {
        let Some(file) = resolve(view, path)?.filter(ViewNode::is_file) else { continue };
        if view.head(&file, 2)? == b"#!" && generates_keys(&view.head(&file, MAX_TEXT)?) {
            return Ok(None);
        }
    }
    Ok(Some(server.path.clone()))
}

fn generates_keys(text: &[u8]) -> bool {
    GENERATORS.iter().any(|word| memchr::memmem::find(text, word).is_some())
}

/// Returns whether the server finds a key: one that its configuration names, or else a default one.
/// Keys in /run may exist on a running machine.
fn has_keys(view: &StackView) -> Result<bool, PassError> {
    let mut files = vec![b"etc/ssh/sshd_config".to_vec()];
    if let Some(more) = resolve(view, b"etc/ssh/sshd_config.d")?.filter(ViewNode::is_dir) {
        files.extend(view.children(&more)?.into_iter().map(|node| node.path));
    }
    let mut named = Vec::new();
    for path in files {
        let Some(file) = resolve(view, &path)?.filter(ViewNode::is_file) else { continue };
        let content = view.head(&file, MAX_TEXT)?;
        for line in String::from_utf8_lossy(&content).lines() {
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            if words.next().is_some_and(|word| word.eq_ignore_ascii_case("HostKey")) {
                named.extend(words.next().map(|path| path.trim_matches('"').to_owned()));
            }
        }
    }
    for path in &named {
        if RUNTIME_DIRS.iter().any(|dir| path.starts_with(dir))
            || resolve(view, path.trim_start_matches('/').as_bytes())?.is_some()
        {
            return Ok(true);
        }
    }
    if !named.is_empty() {
        return Ok(false);
    }
    let Some(dir) = resolve(view, b"etc/ssh")?.filter(ViewNode::is_dir) else { return Ok(false) };
    let is_key =
        |node: &ViewNode| node.name().starts_with(b"ssh_host_") && node.name().ends_with(b"_key");
    Ok(view.children(&dir)?.iter().any(is_key))
}
