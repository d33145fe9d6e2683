//! Lint of units that systemd's presets enable or disable at a first boot.
//!
//! The rules are those of machine-id(5), "First Boot Semantics", and of systemd.preset(5). A
//! machine that boots an image from the network writes nothing back, so each of its boots is a
//! first boot if the image makes it one: systemd then applies the presets to all units. Debian's
//! systemd only enables units; Fedora and its relatives build systemd with
//! `first-boot-full-preset`, which also disables units.

use std::collections::{BTreeMap, BTreeSet};

use super::load::{Unit, Units};
use super::memory_budget::{FILE_OVERHEAD, LINE_OVERHEAD, UnitMemoryBudget};
use crate::check::context::{CheckContext, read_text, resolve};
use crate::check::runtime::lints::FIRST_BOOT;
use crate::check::{Finding, Findings, PassError};
use crate::image::view::{StackView, ViewNode, join};
use crate::text::escape::escape;
use crate::text::list;

const MACHINE_ID: &[u8] = b"etc/machine-id";
/// Directories of preset files; the first file of a name counts.
const DIRS: [&[u8]; 4] = [
    b"etc/systemd/system-preset",
    b"usr/local/lib/systemd/system-preset",
    b"usr/lib/systemd/system-preset",
    b"lib/systemd/system-preset",
];
/// Maximum bytes that are read of a preset file.
const MAX_FILE: usize = 1 << 20;
/// Maximum rules of a root: each is compared with the name of each unit.
const MAX_RULES: usize = 2000;
/// Maximum units that a finding names.
const MAX_NAMED_UNITS: usize = 8;

/// Units that a first boot enables or disables.
#[derive(Default)]
struct PresetChanges {
    /// Unit names, with the paths of the links that would enable the unit.
    enables: BTreeMap<String, Vec<Vec<u8>>>,
    disables: BTreeMap<String, Vec<Vec<u8>>>,
}

pub(in crate::check::runtime) fn first_boot(
    context: &CheckContext<'_>,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let roots = context.roots()?;
    // A root without systemd, which an overlay may add, is for a machine if it has a machine id.
    let has_id = |view: &StackView| resolve(view, MACHINE_ID).map(|id| id.is_some());
    let is_used = resolve(&roots.view, b"lib/systemd/systemd")?.is_some()
        || has_id(&roots.view)?
        || roots.lower.as_ref().map(has_id).transpose()?.unwrap_or(false);
    if !is_used {
        return Ok(());
    }
    let Some(cause) = cause(&roots.view)? else { return Ok(()) };
    let (now, mut before) = (PresetChanges::read(&roots.view)?, None);
    if let Some(lower) = &roots.lower
        && self::cause(lower)?.is_some()
    {
        before = Some(PresetChanges::read(lower)?);
    }
    let by_base = before.is_some();
    let before = before.unwrap_or_default();
    let new = |now: BTreeMap<String, _>, before: &BTreeMap<String, _>| -> BTreeMap<String, _> {
        now.into_iter().filter(|(name, _)| !before.contains_key(name)).collect()
    };
    let enables = new(now.enables, &before.enables);
    let disables = new(now.disables, &before.disables);
    let mut changes = Vec::new();
    for (what, units) in [("enable", &enables), ("disable", &disables)] {
        if !units.is_empty() {
            changes.push(format!("{what} {}", name_list(units.keys())));
        }
    }
    if changes.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{cause}, so each boot is a first boot: systemd's presets {}",
        changes.join(" and ")
    );
    let paths: Vec<Vec<u8>> = match by_base {
        true => enables.into_values().chain(disables.into_values()).flatten().collect(),
        false => vec![MACHINE_ID.to_vec()],
    };
    let finding = Finding::new(&FIRST_BOOT, "", Some(MACHINE_ID), message);
    findings.push(finding.attributed_to(context.responsible_layers(&paths)?));
    Ok(())
}

/// Returns the reason why systemd treats a boot of this root as a first boot, if it does. With an
/// empty file it does not.
fn cause(view: &StackView) -> Result<Option<&'static str>, PassError> {
    let Some(file) = resolve(view, MACHINE_ID)? else { return Ok(Some("it is missing")) };
    if !file.is_file() {
        return Ok(None);
    }
    let content = view.head(&file, 64)?;
    let line = content.split(|&byte| byte == b'\n').next().unwrap_or_default();
    Ok((line.trim_ascii() == b"uninitialized").then_some("it is `uninitialized`"))
}

/// Joins up to [`MAX_NAMED_UNITS`] names, and states how many more there are.
fn name_list<'a>(names: impl ExactSizeIterator<Item = &'a String>) -> String {
    list::joined(names.map(|name| escape(name.as_bytes()).into_owned()), MAX_NAMED_UNITS)
}

impl PresetChanges {
    fn read(view: &StackView) -> Result<Self, PassError> {
        let mut budget = UnitMemoryBudget::new();
        let units = Units::read(view, &mut budget)?;
        let rules = rules(view, &mut budget)?;
        let release = read_text(view, "etc/os-release")?;
        let is_full = release
            .lines()
            .filter(|line| line.starts_with("ID=") || line.starts_with("ID_LIKE="))
            .any(|line| ["fedora", "rhel", "centos"].iter().any(|name| line.contains(name)));
        // Directory and name of each link: `multi-user.target.wants/cron.service`.
        let enabled: BTreeSet<&[u8]> =
            units.wanted.iter().filter_map(|(link, _)| last_two(&link.path)).collect();
        let mut changes = PresetChanges::default();
        for unit in units.iter() {
            let Some(install) = InstallSection::parse(unit) else { continue };
            let is_enabled =
                install.paths.iter().filter_map(|path| last_two(path)).any(|l| enabled.contains(l))
                    || install.aliases.iter().any(|alias| units.has_file(alias));
            let policy = rules.iter().find(|rule| matches(&rule.pattern, &unit.name));
            match policy.map_or(PresetPolicy::Enable, |rule| rule.policy) {
                PresetPolicy::Enable if !is_enabled => {
                    changes.enables.insert(unit.name.clone(), install.paths);
                }
                PresetPolicy::Disable if is_enabled && is_full => {
                    changes.disables.insert(unit.name.clone(), install.paths);
                }
                _ => {}
            }
        }
        Ok(changes)
    }
}

/// Returns the last two components of a path.
fn last_two(path: &[u8]) -> Option<&[u8]> {
    let mut slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
    slashes.nth(1).map(|(at, _)| &path[at + 1..])
}

/// The links that enabling a unit creates.
struct InstallSection {
    paths: Vec<Vec<u8>>,
    aliases: Vec<String>,
}

impl InstallSection {
    /// Parses the section `[Install]`; `None` for a unit that cannot be enabled.
    fn parse(unit: &Unit) -> Option<InstallSection> {
        const DIR: &[u8] = b"etc/systemd/system";
        let words = |key| {
            let values = unit.values("Install", key);
            values.into_iter().flat_map(|(_, value)| value.split_whitespace()).collect::<Vec<_>>()
        };
        let name = match unit.name.split_once("@.") {
            // A template without a default instance is not started.
            Some((stem, kind)) => {
                words("DefaultInstance").last().map(|instance| format!("{stem}@{instance}.{kind}"))
            }
            None => Some(unit.name.clone()),
        };
        let mut paths = Vec::new();
        for (key, end) in
            [("WantedBy", "wants"), ("RequiredBy", "requires"), ("UpheldBy", "upholds")]
        {
            let Some(name) = &name else { continue };
            for by in words(key) {
                paths.push(join(&join(DIR, format!("{by}.{end}").as_bytes()), name.as_bytes()));
            }
        }
        let aliases: Vec<String> = words("Alias").into_iter().map(str::to_owned).collect();
        paths.extend(aliases.iter().map(|alias| join(DIR, alias.as_bytes())));
        (!paths.is_empty()).then_some(InstallSection { paths, aliases })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PresetPolicy {
    Enable,
    Disable,
    Ignore,
}

struct PresetRule {
    policy: PresetPolicy,
    pattern: String,
}

/// Reads the rules of a root in systemd's order; the first that matches counts.
fn rules(view: &StackView, budget: &mut UnitMemoryBudget) -> Result<Vec<PresetRule>, PassError> {
    let mut files: BTreeMap<Vec<u8>, ViewNode> = BTreeMap::new();
    for dir in DIRS {
        let Some(dir) = resolve(view, dir)?.filter(ViewNode::is_dir) else { continue };
        for node in view.children(&dir)? {
            budget.take(FILE_OVERHEAD)?;
            if node.name().ends_with(b".preset") {
                files.entry(node.name().to_vec()).or_insert(node);
            }
        }
    }
    let mut rules = Vec::new();
    for node in files.values() {
        // A link to /dev/null masks the file of that name.
        let Some(file) = resolve(view, &node.path)?.filter(ViewNode::is_file) else { continue };
        let content = view.head(&file, MAX_FILE)?;
        budget.take(content.len())?;
        for line in String::from_utf8_lossy(&content).lines() {
            let mut words = line.split_whitespace();
            let policy = match words.next() {
                Some("enable") => PresetPolicy::Enable,
                Some("disable") => PresetPolicy::Disable,
                Some("ignore") => PresetPolicy::Ignore,
                _ => continue,
            };
            let Some(pattern) = words.next() else { continue };
            budget.take(LINE_OVERHEAD)?;
            if rules.len() >= MAX_RULES {
                let message = format!("the root has more than {MAX_RULES} preset rules");
                return Err(PassError::CannotRun(message));
            }
            rules.push(PresetRule { policy, pattern: pattern.to_owned() });
        }
    }
    Ok(rules)
}

/// Returns whether a name matches a pattern of fnmatch(3): `*`, `?` and `[…]`.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut at, mut in_name) = (0, 0);
    // Where to continue after the last star if the rest does not match.
    let mut star: Option<(usize, usize)> = None;
    while in_name < name.len() {
        let one = match pattern.get(at) {
            Some(b'*') => {
                star = Some((at + 1, in_name));
                at += 1;
                continue;
            }
            Some(b'?') => Some(at + 1),
            Some(b'[') => match set(&pattern[at + 1..], name[in_name]) {
                Some((true, length)) => Some(at + 1 + length),
                Some((false, _)) => None,
                // An unclosed bracket matches itself.
                None => (name[in_name] == b'[').then_some(at + 1),
            },
            Some(&byte) => (byte == name[in_name]).then_some(at + 1),
            None => None,
        };
        match (one, star) {
            (Some(next), _) => (at, in_name) = (next, in_name + 1),
            (None, Some((after, from))) => {
                (at, in_name) = (after, from + 1);
                star = Some((after, from + 1));
            }
            (None, None) => return false,
        }
    }
    pattern[at..].iter().all(|&byte| byte == b'*')
}

/// Returns whether a byte is in the set that begins after a bracket, and the length of the set.
fn set(pattern: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.first(), Some(b'!' | b'^'));
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        match pattern.get(at..)? {
            [b']', ..] if at > first => return Some((found != negated, at + 1)),
            [low, b'-', high, ..] if *high != b']' => {
                found |= (*low..=*high).contains(&byte);
                at += 3;
            }
            [one, ..] => {
                found |= *one == byte;
                at += 1;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_like_fnmatch() {
        for (pattern, name) in [
            ("*", "a.service"),
            ("a*.service", "a.service"),
            ("*b*c", "abbbcbc"),
            ("systemd-journal-remote.*", "systemd-journal-remote.socket"),
            ("a?c", "abc"),
            ("[a-c]x[!d]", "bxe"),
            ("a[.]b", "a.b"),
            ("[]]", "]"),
            ("[x", "[x"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in
            [("", "a"), ("a", "ab"), ("a?", "a"), ("[!a]", "a"), ("*b", "abc"), ("[a-c]", "d")]
        {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
    }
}
