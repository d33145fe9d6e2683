//! The systemd units of a root, as systemd finds and reads them: systemd.unit(5), systemd.syntax(7).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::allowance::{Allowance, FILE, LINE};
use crate::check::PassError;
use crate::check::context::resolve;
use crate::look::{Node, View, join};

/// Where units are, the first one winning; what is in /run is not there yet.
pub(super) const DIRS: [&[u8]; 4] = [
    b"etc/systemd/system",
    b"usr/local/lib/systemd/system",
    b"usr/lib/systemd/system",
    b"lib/systemd/system",
];
/// The most of a unit file that is read.
const MOST: usize = 1 << 20;
/// The kinds of units.
const KINDS: [&str; 11] = [
    "service",
    "socket",
    "target",
    "timer",
    "path",
    "mount",
    "automount",
    "swap",
    "slice",
    "scope",
    "device",
];
/// What others than unit files make units of.
const MADE: [&str; 6] = ["device", "mount", "automount", "swap", "slice", "scope"];

/// The units of a root.
pub(super) struct Units {
    /// By name, aliases too.
    found: BTreeMap<String, Found>,
    /// Links in directories of dependencies: their path, and the name of the unit that they stand
    /// for.
    pub(super) wanted: Vec<(Node, String)>,
    /// Names of scripts that units are made of.
    scripts: BTreeSet<String>,
    /// Units that units or links start, and the topmost layer in which one does.
    started: HashMap<String, usize>,
    /// Sockets, timers and paths by what stands before the dot, each with its layer: they start a unit
    /// that is called so.
    activators: HashMap<String, Vec<(String, usize)>>,
}

/// What stands under a name.
enum Found {
    Unit(Unit),
    Masked,
    /// Another unit, under its alias.
    Alias,
}

/// A unit, with its drop-ins.
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) files: Vec<File>,
}

/// A unit file or a drop-in.
pub(super) struct File {
    pub(super) node: Node,
    pub(super) lines: Vec<Line>,
}

/// A line that says something.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// The name of a section, and the number of the line.
    Section(Arc<str>, usize),
    /// In which section, key, value, number.
    Entry(Option<Arc<str>>, String, String, usize),
    /// Neither.
    Odd(usize),
}

impl Unit {
    /// The kind: `service`.
    pub(super) fn kind(&self) -> &str {
        kind(&self.name)
    }

    /// The values of a key, in order; an empty one takes back those before it.
    pub(super) fn values(&self, section: &str, key: &str) -> Vec<(&File, &str)> {
        let mut values = Vec::new();
        for file in &self.files {
            for line in &file.lines {
                match line {
                    Line::Entry(Some(in_section), name, value, _)
                        if **in_section == *section && name == key =>
                    {
                        if value.is_empty() {
                            values.clear();
                        } else {
                            values.push((file, value.as_str()));
                        }
                    }
                    _ => {}
                }
            }
        }
        values
    }

    /// The last value of a key.
    pub(super) fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().map(|(_, value)| *value)
    }

    /// Whether a key says yes.
    pub(super) fn says_yes(&self, section: &str, key: &str) -> bool {
        matches!(self.value(section, key), Some("yes" | "true" | "on" | "1" | "y" | "t"))
    }
}

impl Units {
    /// The units of a root, as far as they are `allowed`.
    pub(super) fn of(view: &View, allowed: &mut Allowance) -> Result<Self, PassError> {
        let mut units = Units {
            found: BTreeMap::new(),
            wanted: Vec::new(),
            scripts: BTreeSet::new(),
            started: HashMap::new(),
            activators: HashMap::new(),
        };
        let mut drop_ins: BTreeMap<String, BTreeMap<Vec<u8>, Node>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for dir in DIRS {
            let Some(dir) = resolve(view, dir)?.filter(Node::is_dir) else { continue };
            // /lib may be /usr/lib.
            if !seen.insert(dir.path.clone()) {
                continue;
            }
            for node in view.children(&dir)? {
                let Ok(name) = std::str::from_utf8(node.name()) else { continue };
                let name = name.to_owned();
                let folder = || resolve(view, &node.path);
                if let Some(unit) = name.strip_suffix(".d") {
                    let Some(dir) = folder()?.filter(Node::is_dir) else { continue };
                    for file in listed(view, &dir, allowed)? {
                        if file.name().ends_with(b".conf") {
                            let of_unit = drop_ins.entry(unit.to_owned()).or_default();
                            of_unit.entry(file.name().to_vec()).or_insert(file);
                        }
                    }
                } else if is_of_dependencies(&name) {
                    let Some(dir) = folder()?.filter(Node::is_dir) else { continue };
                    for link in listed(view, &dir, allowed)? {
                        if let Ok(unit) = std::str::from_utf8(link.name())
                            && KINDS.contains(&kind(unit))
                        {
                            let unit = unit.to_owned();
                            units.wanted.push((link, unit));
                        }
                    }
                } else if KINDS.contains(&kind(&name))
                    && !units.found.contains_key(&name)
                    && let Some(found) = found(view, &name, &node, allowed)?
                {
                    units.found.insert(name, found);
                }
            }
        }
        for (name, found) in &mut units.found {
            if let Found::Unit(unit) = found {
                for of in drop_ins_of(name) {
                    for node in drop_ins.get(&of).into_iter().flat_map(BTreeMap::values) {
                        if let Some(file) = read(view, node, allowed)? {
                            unit.files.push(file);
                        }
                    }
                }
            }
        }
        if let Some(dir) = resolve(view, b"etc/init.d")?.filter(Node::is_dir) {
            let names = view.children(&dir)?;
            let names = names.iter().filter_map(|node| std::str::from_utf8(node.name()).ok());
            units.scripts = names.map(str::to_owned).collect();
        }
        units.note_started();
        Ok(units)
    }

    /// All units that are not masked, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Unit> {
        self.found.values().filter_map(|found| match found {
            Found::Unit(unit) => Some(unit),
            Found::Masked | Found::Alias => None,
        })
    }

    /// Notes what is started by links that enable it and by other units.
    fn note_started(&mut self) {
        const KEYS: [&str; 9] = [
            "Requires",
            "Requisite",
            "BindsTo",
            "Wants",
            "Upholds",
            "OnFailure",
            "OnSuccess",
            "Unit",
            "Service",
        ];
        let mut started: HashMap<String, usize> = HashMap::new();
        let mut activators: HashMap<String, Vec<(String, usize)>> = HashMap::new();
        // Of names without a unit nobody will ask, and there may be any number of them.
        let mut start = |name: &str, layer: usize| {
            for name in [Some(name), template(name).as_deref()].into_iter().flatten() {
                if self.found.contains_key(name) {
                    let topmost = started.entry(name.to_owned()).or_insert(layer);
                    *topmost = layer.max(*topmost);
                }
            }
        };
        self.wanted.iter().for_each(|(link, name)| start(name, link.layer()));
        for unit in self.iter() {
            if let ("socket" | "timer" | "path", Some((stem, _)), Some(file)) =
                (unit.kind(), unit.name.rsplit_once('.'), unit.files.first())
            {
                let activator = (unit.name.clone(), file.node.layer());
                activators.entry(stem.to_owned()).or_default().push(activator);
            }
            for file in &unit.files {
                for line in &file.lines {
                    if let Line::Entry(_, key, value, _) = line
                        && KEYS.contains(&key.as_str())
                    {
                        value.split_whitespace().for_each(|name| start(name, file.node.layer()));
                    }
                }
            }
        }
        (self.started, self.activators) = (started, activators);
    }

    /// The topmost layer in which something starts this unit, if anything does: a link that enables
    /// it, or another unit.
    pub(super) fn started(&self, unit: &Unit) -> Option<usize> {
        let stem = unit.name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let activators = self.activators.get(stem).into_iter().flatten();
        let others = activators.filter(|(name, _)| *name != unit.name).map(|(_, layer)| layer);
        self.started.get(&unit.name).into_iter().chain(others).max().copied()
    }

    /// Whether a unit of this name is masked.
    pub(super) fn is_masked(&self, name: &str) -> bool {
        matches!(self.found.get(name), Some(Found::Masked))
    }

    /// Whether there is a unit file, an alias or a mask of this name.
    pub(super) fn has_file(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    /// Whether systemd finds a unit of this name, masked or not, or something makes one.
    pub(super) fn has(&self, name: &str) -> bool {
        let name = name.trim();
        if MADE.contains(&kind(name)) || name.contains('%') {
            return true;
        }
        if self.found.contains_key(name) {
            return true;
        }
        if let Some(template) = template(name)
            && self.found.contains_key(&template)
        {
            return true;
        }
        let script = name.strip_suffix(".service");
        script.is_some_and(|script| self.scripts.contains(script))
    }
}

pub(super) fn kind(name: &str) -> &str {
    name.rsplit_once('.').map_or("", |(_, kind)| kind)
}

/// `getty@.service` of `getty@tty1.service`.
pub(super) fn template(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (stem, _) = stem.split_once('@')?;
    Some(format!("{stem}@.{kind}"))
}

pub(super) fn is_of_dependencies(name: &str) -> bool {
    [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end))
}

/// The names of the directories of drop-ins of a unit, without `.d`, the most general one first.
fn drop_ins_of(name: &str) -> Vec<String> {
    let mut names = vec![kind(name).to_owned()];
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    for (at, _) in stem.match_indices('-') {
        names.push(format!("{}-.{}", &stem[..at], kind(name)));
    }
    names.extend(template(name).filter(|template| template != name));
    names.push(name.to_owned());
    names
}

/// What is in a directory that somebody may have linked to many times.
fn listed(view: &View, dir: &Node, allowed: &mut Allowance) -> Result<Vec<Node>, PassError> {
    let nodes = view.children(dir)?;
    allowed.take(FILE.saturating_mul(nodes.len() + 1))?;
    Ok(nodes)
}

fn found(
    view: &View,
    name: &str,
    node: &Node,
    allowed: &mut Allowance,
) -> Result<Option<Found>, PassError> {
    let unit = |file| Found::Unit(Unit { name: name.to_owned(), files: vec![file] });
    if node.is_link() {
        let target = view.link(node)?;
        if target.ends_with(b"/dev/null") {
            return Ok(Some(Found::Masked));
        }
        let Some(file) = resolve(view, &node.path)? else {
            // By its name alone it may still be found, in a directory further down.
            return Ok(None);
        };
        let of = String::from_utf8_lossy(file.name()).into_owned();
        if of != name && KINDS.contains(&kind(&of)) {
            return Ok(Some(Found::Alias));
        }
        let file = Node { path: node.path.clone(), ..file };
        return Ok(read(view, &file, allowed)?.map(unit));
    }
    // An empty file masks too.
    if node.is_file() && node.attr.size == 0 {
        return Ok(Some(Found::Masked));
    }
    Ok(read(view, node, allowed)?.map(unit))
}

fn read(view: &View, node: &Node, allowed: &mut Allowance) -> Result<Option<File>, PassError> {
    allowed.take(FILE)?;
    let target = match node.is_link() {
        true => resolve(view, &node.path)?,
        false => Some(node.clone()),
    };
    let Some(target) = target.filter(Node::is_file) else { return Ok(None) };
    let bytes = view.head(&target, MOST)?;
    allowed.take(bytes.len())?;
    let lines = parse(&String::from_utf8_lossy(&bytes));
    allowed.take(LINE.saturating_mul(lines.len()))?;
    Ok(Some(File { node: node.clone(), lines }))
}

/// The lines of a unit file.
fn parse(text: &str) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut section: Option<Arc<str>> = None;
    let mut numbered = text.lines().enumerate();
    while let Some((index, line)) = numbered.next() {
        let mut line = line.trim().to_owned();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        while line.ends_with('\\') {
            line.pop();
            line.push(' ');
            match numbered.next() {
                // A comment within is passed over.
                Some((_, next)) if next.trim_start().starts_with(['#', ';']) => line.push('\\'),
                Some((_, next)) => line.push_str(next.trim()),
                None => break,
            }
        }
        let number = index + 1;
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name: Arc<str> = name.into();
            section = Some(name.clone());
            lines.push(Line::Section(name, number));
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().to_owned();
            lines.push(Line::Entry(section.clone(), key.trim().to_owned(), value, number));
        } else {
            lines.push(Line::Odd(number));
        }
    }
    lines
}

/// Where units may stand that enable others: for what looks at links.
pub(in crate::check::runtime) fn is_dependency(path: &[u8]) -> bool {
    let is_in = DIRS
        .iter()
        .any(|dir| path.strip_prefix(*dir).is_some_and(|rest| rest.first() == Some(&b'/')));
    let dir = path.rsplit(|&byte| byte == b'/').nth(1).unwrap_or_default();
    is_in && std::str::from_utf8(dir).is_ok_and(is_of_dependencies)
}

/// A path of a unit's, from the root.
pub(super) fn from_root(path: &str) -> Vec<u8> {
    join(b"", path.trim_start_matches('/').as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_file_is_read_as_systemd_reads_it() {
        let entry = |section: &str, key: &str, value: &str, line| {
            Line::Entry(Some(section.into()), key.to_owned(), value.to_owned(), line)
        };
        let lines = parse(
            "stray=1\n[Unit]\n# no\nDescription = a \\\n  b\n[Service]\nExecStart=/bin/x \\\n\
             # within\n --y\nodd\n",
        );
        assert_eq!(
            lines,
            [
                Line::Entry(None, "stray".into(), "1".into(), 1),
                Line::Section("Unit".into(), 2),
                entry("Unit", "Description", "a  b", 4),
                Line::Section("Service".into(), 6),
                entry("Service", "ExecStart", "/bin/x   --y", 7),
                Line::Odd(10),
            ]
        );
    }

    #[test]
    fn drop_ins_are_those_of_kind_prefixes_template_and_unit() {
        assert_eq!(
            drop_ins_of("a-b@c.service"),
            ["service", "a-.service", "a-b@.service", "a-b@c.service"]
        );
    }
}
