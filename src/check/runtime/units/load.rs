//! Reads the systemd units of a root: systemd.unit(5), systemd.syntax(7).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::memory_budget::{FILE_OVERHEAD, LINE_OVERHEAD, UnitMemoryBudget};
use crate::check::PassError;
use crate::check::context::resolve;
use crate::image::view::{StackView, ViewNode, join};

/// Directories of units by precedence. /run is empty until boot.
pub(super) const DIRS: [&[u8]; 4] = [
    b"etc/systemd/system",
    b"usr/local/lib/systemd/system",
    b"usr/lib/systemd/system",
    b"lib/systemd/system",
];
/// Maximum bytes that are read of a unit file.
const MAX_FILE: usize = 1 << 20;
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
/// Kinds of units that generators or the kernel create without a unit file.
const GENERATED_KINDS: [&str; 6] = ["device", "mount", "automount", "swap", "slice", "scope"];

/// The units of a root.
pub(super) struct Units {
    /// Units, aliases and masks by name.
    found: BTreeMap<String, UnitEntry>,
    /// Links in directories of dependencies, each with the name of the wanted unit.
    pub(super) wanted: Vec<(ViewNode, String)>,
    /// Names of init scripts, for which systemd generates units.
    scripts: BTreeSet<String>,
    /// Units that are started by links or other units, with the topmost layer that does so.
    started: HashMap<String, usize>,
    /// Sockets, timers and paths with their layers, by the name before the dot: by default they
    /// start the service of that name.
    activators: HashMap<String, Vec<(String, usize)>>,
}

/// An entry of a unit directory.
enum UnitEntry {
    Unit(Unit),
    Masked,
    /// An alias of another unit.
    Alias,
}

/// A unit with its drop-ins.
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) files: Vec<UnitFile>,
}

/// A unit file or a drop-in.
pub(super) struct UnitFile {
    pub(super) node: ViewNode,
    pub(super) lines: Vec<UnitLine>,
}

/// A line that is neither empty nor a comment.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum UnitLine {
    /// Name of a section, line number.
    Section(Arc<str>, usize),
    /// Section, key, value, line number.
    Entry(Option<Arc<str>>, String, String, usize),
    /// Line number of another line.
    Odd(usize),
}

impl Unit {
    /// Returns the kind, such as `service`.
    pub(super) fn kind(&self) -> &str {
        kind(&self.name)
    }

    /// Returns the values of a key in order; an empty value removes those before it.
    pub(super) fn values(&self, section: &str, key: &str) -> Vec<(&UnitFile, &str)> {
        let mut values = Vec::new();
        for file in &self.files {
            for line in &file.lines {
                match line {
                    UnitLine::Entry(Some(in_section), name, value, _)
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

    /// Returns the last value of a key.
    pub(super) fn value(&self, section: &str, key: &str) -> Option<&str> {
        self.values(section, key).last().map(|(_, value)| *value)
    }

    /// Returns whether a boolean key is true.
    pub(super) fn is_true(&self, section: &str, key: &str) -> bool {
        matches!(self.value(section, key), Some("yes" | "true" | "on" | "1" | "y" | "t"))
    }
}

impl Units {
    /// Reads the units of a root, within `budget`.
    pub(super) fn read(view: &StackView, budget: &mut UnitMemoryBudget) -> Result<Self, PassError> {
        let mut units = Units {
            found: BTreeMap::new(),
            wanted: Vec::new(),
            scripts: BTreeSet::new(),
            started: HashMap::new(),
            activators: HashMap::new(),
        };
        let mut drop_ins: BTreeMap<String, BTreeMap<Vec<u8>, ViewNode>> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for dir in DIRS {
            let Some(dir) = resolve(view, dir)?.filter(ViewNode::is_dir) else { continue };
            // /lib may be a link to /usr/lib.
            if !seen.insert(dir.path.clone()) {
                continue;
            }
            for node in view.children(&dir)? {
                let Ok(name) = std::str::from_utf8(node.name()) else { continue };
                let name = name.to_owned();
                let folder = || resolve(view, &node.path);
                if let Some(unit) = name.strip_suffix(".d") {
                    let Some(dir) = folder()?.filter(ViewNode::is_dir) else { continue };
                    for file in list(view, &dir, budget)? {
                        if file.name().ends_with(b".conf") {
                            let of_unit = drop_ins.entry(unit.to_owned()).or_default();
                            of_unit.entry(file.name().to_vec()).or_insert(file);
                        }
                    }
                } else if is_dependency_dir(&name) {
                    let Some(dir) = folder()?.filter(ViewNode::is_dir) else { continue };
                    for link in list(view, &dir, budget)? {
                        if let Ok(unit) = std::str::from_utf8(link.name())
                            && KINDS.contains(&kind(unit))
                        {
                            let unit = unit.to_owned();
                            units.wanted.push((link, unit));
                        }
                    }
                } else if KINDS.contains(&kind(&name))
                    && !units.found.contains_key(&name)
                    && let Some(found) = read_entry(view, &name, &node, budget)?
                {
                    units.found.insert(name, found);
                }
            }
        }
        for (name, found) in &mut units.found {
            if let UnitEntry::Unit(unit) = found {
                for of in drop_ins_of(name) {
                    for node in drop_ins.get(&of).into_iter().flat_map(BTreeMap::values) {
                        if let Some(file) = read_file(view, node, budget)? {
                            unit.files.push(file);
                        }
                    }
                }
            }
        }
        if let Some(dir) = resolve(view, b"etc/init.d")?.filter(ViewNode::is_dir) {
            let names = view.children(&dir)?;
            let names = names.iter().filter_map(|node| std::str::from_utf8(node.name()).ok());
            units.scripts = names.map(str::to_owned).collect();
        }
        units.note_started();
        Ok(units)
    }

    /// Returns all units that are not masked, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Unit> {
        self.found.values().filter_map(|found| match found {
            UnitEntry::Unit(unit) => Some(unit),
            UnitEntry::Masked | UnitEntry::Alias => None,
        })
    }

    /// Records the units that are started by links or by other units.
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
        // Names without a unit are not recorded: their number is unlimited.
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
                    if let UnitLine::Entry(_, key, value, _) = line
                        && KEYS.contains(&key.as_str())
                    {
                        value.split_whitespace().for_each(|name| start(name, file.node.layer()));
                    }
                }
            }
        }
        (self.started, self.activators) = (started, activators);
    }

    /// Returns the topmost layer with a link or unit that starts this unit, if there is one.
    pub(super) fn started(&self, unit: &Unit) -> Option<usize> {
        let stem = unit.name.rsplit_once('.').map_or("", |(stem, _)| stem);
        let activators = self.activators.get(stem).into_iter().flatten();
        let others = activators.filter(|(name, _)| *name != unit.name).map(|(_, layer)| layer);
        self.started.get(&unit.name).into_iter().chain(others).max().copied()
    }

    /// Returns whether a unit of this name is masked.
    pub(super) fn is_masked(&self, name: &str) -> bool {
        matches!(self.found.get(name), Some(UnitEntry::Masked))
    }

    /// Returns whether there is a unit file, an alias or a mask of this name.
    pub(super) fn has_file(&self, name: &str) -> bool {
        self.found.contains_key(name)
    }

    /// Returns whether a unit of this name exists, masked or not, or may be generated.
    pub(super) fn has(&self, name: &str) -> bool {
        let name = name.trim();
        if GENERATED_KINDS.contains(&kind(name)) || name.contains('%') {
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

/// Returns `getty@.service` for `getty@tty1.service`.
pub(super) fn template(name: &str) -> Option<String> {
    let (stem, kind) = name.rsplit_once('.')?;
    let (stem, _) = stem.split_once('@')?;
    Some(format!("{stem}@.{kind}"))
}

fn is_dependency_dir(name: &str) -> bool {
    [".wants", ".requires", ".upholds"].iter().any(|end| name.ends_with(end))
}

/// Returns the names of a unit's drop-in directories, without `.d`, the most general one first.
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

/// Lists a directory, within `budget`: many links may lead to one directory.
fn list(
    view: &StackView,
    dir: &ViewNode,
    budget: &mut UnitMemoryBudget,
) -> Result<Vec<ViewNode>, PassError> {
    let nodes = view.children(dir)?;
    budget.take(FILE_OVERHEAD.saturating_mul(nodes.len() + 1))?;
    Ok(nodes)
}

fn read_entry(
    view: &StackView,
    name: &str,
    node: &ViewNode,
    budget: &mut UnitMemoryBudget,
) -> Result<Option<UnitEntry>, PassError> {
    let unit = |file| UnitEntry::Unit(Unit { name: name.to_owned(), files: vec![file] });
    if node.is_link() {
        let target = view.link(node)?;
        if target.ends_with(b"/dev/null") {
            return Ok(Some(UnitEntry::Masked));
        }
        let Some(file) = resolve(view, &node.path)? else {
            // systemd continues with the next directory.
            return Ok(None);
        };
        let target_name = String::from_utf8_lossy(file.name()).into_owned();
        if target_name != name && KINDS.contains(&kind(&target_name)) {
            return Ok(Some(UnitEntry::Alias));
        }
        let file = ViewNode { path: node.path.clone(), ..file };
        return Ok(read_file(view, &file, budget)?.map(unit));
    }
    // An empty file also masks the unit.
    if node.is_file() && node.attr.size == 0 {
        return Ok(Some(UnitEntry::Masked));
    }
    Ok(read_file(view, node, budget)?.map(unit))
}

fn read_file(
    view: &StackView,
    node: &ViewNode,
    budget: &mut UnitMemoryBudget,
) -> Result<Option<UnitFile>, PassError> {
    budget.take(FILE_OVERHEAD)?;
    let target = match node.is_link() {
        true => resolve(view, &node.path)?,
        false => Some(node.clone()),
    };
    let Some(target) = target.filter(ViewNode::is_file) else { return Ok(None) };
    let bytes = view.head(&target, MAX_FILE)?;
    budget.take(bytes.len())?;
    let lines = parse(&String::from_utf8_lossy(&bytes));
    budget.take(LINE_OVERHEAD.saturating_mul(lines.len()))?;
    Ok(Some(UnitFile { node: node.clone(), lines }))
}

/// Parses the lines of a unit file.
fn parse(text: &str) -> Vec<UnitLine> {
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
                // A comment inside a continued line is skipped.
                Some((_, next)) if next.trim_start().starts_with(['#', ';']) => line.push('\\'),
                Some((_, next)) => line.push_str(next.trim()),
                None => break,
            }
        }
        let number = index + 1;
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let name: Arc<str> = name.into();
            section = Some(name.clone());
            lines.push(UnitLine::Section(name, number));
        } else if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().to_owned();
            lines.push(UnitLine::Entry(section.clone(), key.trim().to_owned(), value, number));
        } else {
            lines.push(UnitLine::Odd(number));
        }
    }
    lines
}

/// Returns whether a path is a link in a dependency directory, which enables a unit.
pub(in crate::check::runtime) fn is_dependency_link(path: &[u8]) -> bool {
    let is_in = DIRS
        .iter()
        .any(|dir| path.strip_prefix(*dir).is_some_and(|rest| rest.first() == Some(&b'/')));
    let dir = path.rsplit(|&byte| byte == b'/').nth(1).unwrap_or_default();
    is_in && std::str::from_utf8(dir).is_ok_and(is_dependency_dir)
}

/// Converts an absolute path in a unit to a path from the root.
pub(super) fn from_root(path: &str) -> Vec<u8> {
    join(b"", path.trim_start_matches('/').as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unit_file_syntax_follows_systemd() {
        let entry = |section: &str, key: &str, value: &str, line| {
            UnitLine::Entry(Some(section.into()), key.to_owned(), value.to_owned(), line)
        };
        let lines = parse(
            "stray=1\n[Unit]\n# no\nDescription = a \\\n  b\n[Service]\nExecStart=/bin/x \\\n\
             # within\n --y\nodd\n",
        );
        assert_eq!(
            lines,
            [
                UnitLine::Entry(None, "stray".into(), "1".into(), 1),
                UnitLine::Section("Unit".into(), 2),
                entry("Unit", "Description", "a  b", 4),
                UnitLine::Section("Service".into(), 6),
                entry("Service", "ExecStart", "/bin/x   --y", 7),
                UnitLine::Odd(10),
            ]
        );
    }

    #[test]
    fn drop_ins_come_from_kind_prefixes_template_and_unit() {
        assert_eq!(
            drop_ins_of("a-b@c.service"),
            ["service", "a-.service", "a-b@.service", "a-b@c.service"]
        );
    }
}
