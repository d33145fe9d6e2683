//! Files of systemd-networkd and of udev's links: systemd.network(5), systemd.netdev(5),
//! systemd.link(5), parsed as `src/shared/conf-parser.c` does.

mod values;

use std::collections::{BTreeMap, BTreeSet};

use super::files::ConfigFile;
use super::inspector::{Inspector, KnownNames, shown};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::accounts::Accounts;
use crate::image::view::{LookError, StackView, ViewNode, join};
use crate::text::escape::escape;

pub(super) static NETWORK_FILE: Lint = Lint {
    name: "config/network-file",
    severity: Severity::Error,
    summary: "a file of systemd-networkd that is not used as written",
    why: "systemd-networkd runs as the user systemd-network: it does not see a file that this user \
          cannot read, and ignores one whose name has another suffix or whose [Match] is empty. \
          It ignores lines that it cannot parse. The interface then has another configuration, or \
          none. The journal of the machine has a line for each ignored line, not for an unread \
          file.",
    fix: "correct the line; systemd.network(5), systemd.netdev(5) and systemd.link(5) list \
          sections and keys",
};

/// `KIND SECTION.KEY` of the tables in systemd's sources, versions 252 to 257.
const KEYS: &str = include_str!("keys.txt");
/// Directories by precedence. /run is empty until boot.
const DIRS: [&str; 4] = [
    "etc/systemd/network",
    "usr/local/lib/systemd/network",
    "usr/lib/systemd/network",
    "lib/systemd/network",
];
const KINDS: [&str; 3] = ["network", "netdev", "link"];

/// The sections and keys of a kind of files.
struct Keys {
    kind: &'static str,
    sections: BTreeSet<&'static str>,
    /// The sections of each key.
    keys: BTreeMap<&'static str, Vec<&'static str>>,
    names: KnownNames<'static>,
    /// The values of Kind= in `[NetDev]`.
    kinds: KnownNames<'static>,
}

impl Keys {
    fn new(kind: &'static str) -> Keys {
        let of_kind =
            |line: &'static str| line.strip_prefix(kind)?.strip_prefix(' ')?.split_once('.');
        let (mut sections, mut keys) = (BTreeSet::new(), BTreeMap::<_, Vec<_>>::new());
        for (section, key) in KEYS.lines().filter_map(of_kind) {
            sections.insert(section);
            keys.entry(key).or_default().push(section);
        }
        let names = KnownNames::new(keys.keys().copied());
        Keys { kind, sections, keys, names, kinds: KnownNames::new(values::NETDEV_KINDS) }
    }

    /// Describes a key that systemd ignores.
    fn fault(&mut self, section: &str, key: &str) -> Option<String> {
        if key.starts_with("X-") {
            return None;
        }
        let Some(sections) = self.keys.get(key) else {
            let near = self.names.similar(key)?;
            return Some(format!("unknown key {}=; did you mean {near}=?", shown(key)));
        };
        let other = sections.first().filter(|_| !sections.contains(&section))?;
        Some(format!("the key {key}= is not valid in [{section}], but in [{other}]"))
    }
}

pub(in crate::check::config) fn survey(
    view: &StackView,
    faults: &mut SurveyFaults,
) -> Result<(), PassError> {
    let mut files: Vec<(usize, ViewNode)> = Vec::new();
    let mut inspector = Inspector::new(view, faults);
    let (mut seen, mut names) = (Vec::new(), BTreeSet::new());
    for dir in DIRS {
        let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else { continue };
        // /lib may be a link to /usr/lib.
        if seen.contains(&dir.path) {
            continue;
        }
        seen.push(dir.path.clone());
        list(&mut inspector, &dir, &mut names, &mut files)?;
    }
    let reader = Reader::of(view)?;
    let mut keys = KINDS.map(Keys::new);
    let mut networks = Vec::new();
    for (kind, node) in files {
        // systemd skips empty files: they mask those of other directories.
        if node.attr.size == 0 {
            continue;
        }
        let file = inspector.open(node)?;
        if KINDS[kind] != "link"
            && let Some(message) = reader.denied(view, &file.node)?
        {
            let fault = Fault::new(&NETWORK_FILE, &file.node, message);
            let fix = "make the file readable: `chmod 644 FILE`, or `chown root:systemd-network \
                       FILE` and `chmod 640 FILE` if it has keys";
            inspector.add(fault.fix(fix));
        }
        check(&mut inspector, &file, &mut keys[kind]);
        if KINDS[kind] == "network" && file.node.path.starts_with(b"etc/") {
            networks.push(file.node);
        }
    }
    if let Some(node) = networks.first()
        && let Some((message, cause)) = not_started(view)?
    {
        let fault = Fault::new(&NETWORK_FILE, node, message).severity(Severity::Warning);
        let fault = fault.fix("enable it: `systemctl enable systemd-networkd`");
        faults.push(fault.cause(cause));
    }
    Ok(())
}

/// Adds the files of a directory and of its drop-in directories, and reports unknown names. A file
/// or a link to /dev/null hides the files of its name in later directories.
fn list(
    inspector: &mut Inspector<'_>,
    dir: &ViewNode,
    names: &mut BTreeSet<String>,
    files: &mut Vec<(usize, ViewNode)>,
) -> Result<(), PassError> {
    let view = inspector.view;
    for child in view.children(dir)? {
        let name = String::from_utf8_lossy(child.name()).into_owned();
        let is_new = child.is_dir() || names.insert(name.clone());
        let Some(node) = resolve(view, &join(&dir.path, child.name()))?.filter(|_| is_new) else {
            continue;
        };
        let kind = |name: &str| {
            KINDS
                .iter()
                .position(|kind| name.strip_suffix(*kind).is_some_and(|stem| stem.ends_with('.')))
        };
        if node.is_dir() {
            if let Some(kind) = name.strip_suffix(".d").and_then(kind) {
                for drop_in in view.children(&node)? {
                    let drop_in_name = String::from_utf8_lossy(drop_in.name());
                    let is_new = names.insert(format!("{name}/{drop_in_name}"));
                    if is_new && drop_in_name.ends_with(".conf") {
                        let target = resolve(view, &join(&node.path, drop_in.name()))?;
                        files.extend(target.filter(ViewNode::is_file).map(|file| (kind, file)));
                    }
                }
            }
        } else if let Some(kind) = kind(&name) {
            files.extend(node.is_file().then_some((kind, node)));
        } else if dir.path.starts_with(b"etc/") && node.is_file() && looks_like_config(&name) {
            let message = "its name does not end in .network, .netdev or .link";
            let fault = Fault::new(&NETWORK_FILE, &node, message).severity(Severity::Warning);
            inspector.add(fault.fix("rename the file"));
        }
    }
    Ok(())
}

/// Returns whether a file with an unknown suffix may be meant as a configuration: backups, examples
/// and explanations are not.
fn looks_like_config(name: &str) -> bool {
    const OTHERS: [&str; 10] =
        ["~", ".bak", ".disabled", ".dpkg-", ".example", ".md", ".off", ".orig", ".sample", ".txt"];
    !name.starts_with('.')
        && !name.to_ascii_uppercase().starts_with("README")
        && !OTHERS.iter().any(|part| name.ends_with(part) || name.contains(".dpkg-"))
}

/// Reports the lines that systemd ignores.
fn check(inspector: &mut Inspector<'_>, file: &ConfigFile, keys: &mut Keys) {
    let mut section: Option<&str> = None;
    // In an ignored section, the keys are not checked.
    let mut ignored = false;
    let mut matches = false;
    let lines = joined(file);
    for (line, text) in &lines {
        let mut add = |message: String, severity| {
            let fault = Fault::new(&NETWORK_FILE, &file.node, message).line(*line);
            inspector.add(fault.severity(severity));
        };
        if let Some(header) = text.strip_prefix('[') {
            let Some(name) = header.strip_suffix(']') else {
                // systemd rejects the file.
                return add(format!("invalid section header {}", shown(text)), Severity::Error);
            };
            (section, ignored) = (Some(name), !keys.sections.contains(name));
            if ignored && !name.starts_with("X-") {
                add(format!("unknown section [{}]", shown(name)), Severity::Warning);
            }
            continue;
        }
        if ignored {
            continue;
        }
        let Some((key, value)) = text.split_once('=') else {
            add(format!("the line has no `=`: {}", shown(text)), Severity::Error);
            continue;
        };
        let (key, value) = (key.trim(), value.trim());
        let Some(section) = section else {
            add(format!("{}= is outside of any section", shown(key)), Severity::Error);
            continue;
        };
        matches |= section == "Match" && !value.is_empty();
        if key.is_empty() {
            add("the line has no key before `=`".to_owned(), Severity::Error);
        } else if let Some(message) = keys.fault(section, key) {
            add(message, Severity::Warning);
        } else if let Some(word) = values::invalid(section, key, value) {
            add(format!("invalid value {} of {key}=", shown(word)), Severity::Error);
        } else if (section, key) == ("NetDev", "Kind")
            && let Some(near) = keys.kinds.similar(value)
        {
            let message = format!("unknown kind {}; did you mean {near}?", shown(value));
            add(message, Severity::Error);
        }
    }
    let is_drop_in = file.node.name().ends_with(b".conf");
    if !matches && !is_drop_in && keys.kind != "netdev" {
        let all = if keys.kind == "link" { "OriginalName=*" } else { "Name=*" };
        let message = "it has no setting in [Match], so it is ignored";
        let fault = Fault::new(&NETWORK_FILE, &file.node, message);
        inspector.add(fault.fix(format!("add [Match] with the interfaces; {all} matches all")));
    }
    let keys_of_netdev = ["Kind", "Name"].map(|key| has_key(&lines, key));
    if keys.kind == "netdev" && !is_drop_in && keys_of_netdev.contains(&false) {
        let message = "it has no Kind= or no Name= in [NetDev], so it is ignored";
        inspector.add(Fault::new(&NETWORK_FILE, &file.node, message));
    }
}

/// Returns whether a line of `[NetDev]` sets a key.
fn has_key(lines: &[(usize, String)], key: &str) -> bool {
    let mut section = "";
    lines.iter().any(|(_, line)| {
        if line.starts_with('[') {
            section = line;
        }
        let value = line.split_once('=').filter(|(name, _)| name.trim() == key);
        section == "[NetDev]" && value.is_some_and(|(_, value)| !value.trim().is_empty())
    })
}

/// Returns the lines that are neither empty nor comments. A backslash at the end continues a line;
/// comments within it are skipped.
fn joined(file: &ConfigFile) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut continues = false;
    for (number, line) in file.lines() {
        let line = line.trim();
        if line.starts_with(['#', ';']) || (!continues && line.is_empty()) {
            continue;
        }
        let (part, more) = match line.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (line, false),
        };
        match lines.last_mut() {
            Some((_, before)) if continues => {
                before.push(' ');
                before.push_str(part);
            }
            _ => lines.push((number, part.to_owned())),
        }
        continues = more;
    }
    lines
}

/// The user that systemd-networkd runs as; without an account only the rights of all users count.
struct Reader {
    uid: Option<u32>,
    gid: Option<u32>,
}

impl Reader {
    fn of(view: &StackView) -> Result<Reader, LookError> {
        let accounts = Accounts::read(view)?;
        let id =
            |names: &std::collections::BTreeMap<String, u32>| names.get("systemd-network").copied();
        Ok(Reader { uid: id(accounts.users()), gid: id(accounts.groups()) })
    }

    fn has(&self, node: &ViewNode, right: u16) -> bool {
        let mode = node.attr.mode;
        let shift = if Some(node.attr.uid) == self.uid {
            6
        } else if Some(node.attr.gid) == self.gid {
            3
        } else {
            0
        };
        (mode >> shift) & right == right
    }

    /// Describes the rights that prevent reading a file.
    fn denied(&self, view: &StackView, file: &ViewNode) -> Result<Option<String>, LookError> {
        let mut path: &[u8] = &file.path;
        while let Some(slash) = path.iter().rposition(|&byte| byte == b'/') {
            path = &path[..slash];
            if let Some(dir) = resolve(view, path)?
                && !self.has(&dir, 0o1)
            {
                let (path, mode) = (escape(path), dir.attr.mode);
                let message =
                    format!("systemd-networkd cannot access its directory /{path} ({mode:04o})");
                return Ok(Some(message));
            }
        }
        let mode = file.attr.mode;
        Ok((!self.has(file, 0o4))
            .then(|| format!("the user systemd-network cannot read it (mode {mode:04o})")))
    }
}

/// Describes why systemd-networkd does not start, with the path that causes it.
fn not_started(view: &StackView) -> Result<Option<(&'static str, &'static [u8])>, LookError> {
    const SERVICE: &[u8] = b"usr/lib/systemd/system/systemd-networkd.service";
    const LINK: &[u8] = b"etc/systemd/system/multi-user.target.wants/systemd-networkd.service";
    // On a first boot, presets may enable it.
    let machine_id = resolve(view, b"etc/machine-id")?;
    if machine_id.is_none_or(|file| file.attr.size == 14) {
        return Ok(None);
    }
    if resolve(view, b"lib/systemd/system/systemd-networkd.service")?.is_none() {
        return Ok(Some(("systemd-networkd, which reads it, is not installed", SERVICE)));
    }
    for dir in ["etc/systemd/system", "usr/lib/systemd/system", "lib/systemd/system"] {
        let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else { continue };
        for child in view.children(&dir)? {
            let links = [".wants", ".requires", ".upholds"];
            if !links.iter().any(|end| child.name().ends_with(end.as_bytes())) {
                continue;
            }
            for unit in ["systemd-networkd.service", "systemd-networkd.socket"] {
                if view.child(&child, unit.as_bytes()).ok().flatten().is_some() {
                    return Ok(None);
                }
            }
        }
    }
    Ok(Some(("systemd-networkd, which reads it, is not enabled", LINK)))
}
