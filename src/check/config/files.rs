//! Configuration files of a root.

use std::collections::{BTreeMap, BTreeSet};

use memchr::memmem;

use crate::check::context::resolve;
use crate::image::view::{LookError, StackView, ViewNode, join};

/// Maximum bytes that are read of a configuration file.
const MAX_FILE_BYTES: usize = 1 << 20;

/// A text file.
pub(super) struct ConfigFile {
    pub(super) node: ViewNode,
    pub(super) text: String,
}

impl ConfigFile {
    /// Reads a file, following links; `None` if it does not exist.
    pub(super) fn read(view: &StackView, path: &str) -> Result<Option<ConfigFile>, LookError> {
        match resolve(view, path.as_bytes())?.filter(ViewNode::is_file) {
            Some(node) => ConfigFile::of(view, node).map(Some),
            None => Ok(None),
        }
    }

    /// Reads the text of a file.
    pub(super) fn of(view: &StackView, node: ViewNode) -> Result<ConfigFile, LookError> {
        let mut text = String::from_utf8_lossy(&view.head(&node, MAX_FILE_BYTES)?).into_owned();
        if node.attr.size > MAX_FILE_BYTES as u64 {
            // The last line is incomplete.
            text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        }
        Ok(ConfigFile { node, text })
    }

    /// Returns the lines with their numbers, which begin at 1.
    pub(super) fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(index, line)| (index + 1, line))
    }

    /// Returns the lines that are neither empty nor comments, without surrounding blanks.
    pub(super) fn entries(&self, comments: &[char]) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .map(|(number, line)| (number, line.trim()))
            .filter(move |(_, line)| !line.is_empty() && !line.starts_with(comments))
    }

    /// Returns lines in which a backslash at the end continues the line. The number is that of the
    /// first of the joined lines.
    pub(super) fn joined_lines(&self) -> Vec<(usize, String)> {
        let mut joined: Vec<(usize, String)> = Vec::new();
        let mut continues = false;
        for (number, line) in self.lines() {
            let (part, more) = match line.strip_suffix('\\') {
                Some(part) => (part, true),
                None => (line, false),
            };
            match joined.last_mut() {
                Some((_, before)) if continues => before.push_str(part),
                _ => joined.push((number, part.to_owned())),
            }
            continues = more;
        }
        joined
    }
}

/// Returns the regular files of a directory, following links, sorted by name; none if it does not
/// exist.
pub(super) fn files_in(view: &StackView, dir: &str) -> Result<Vec<(String, ViewNode)>, LookError> {
    let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for child in view.children(&dir)? {
        let name = String::from_utf8_lossy(child.name()).into_owned();
        let target = match child.is_link() {
            true => resolve(view, &join(&dir.path, child.name()))?,
            false => Some(child),
        };
        files.extend(target.filter(ViewNode::is_file).map(|node| (name, node)));
    }
    Ok(files)
}

/// Reads the files of several directories whose names end in `suffix`. A file hides those with the
/// same name in later directories, as systemd and its relatives read drop-ins; a link to
/// `/dev/null` hides them too.
pub(super) fn drop_ins(
    view: &StackView,
    dirs: &[&str],
    suffix: &str,
) -> Result<Vec<ConfigFile>, LookError> {
    let nodes = drop_in_nodes(view, dirs, suffix)?;
    nodes.into_iter().map(|node| ConfigFile::of(view, node)).collect()
}

/// Returns the files that [`drop_ins`] reads.
pub(super) fn drop_in_nodes(
    view: &StackView,
    dirs: &[&str],
    suffix: &str,
) -> Result<Vec<ViewNode>, LookError> {
    let mut names: BTreeMap<Vec<u8>, Option<ViewNode>> = BTreeMap::new();
    for dir in dirs {
        let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else { continue };
        for child in view.children(&dir)? {
            let name = child.name().to_vec();
            if !name.ends_with(suffix.as_bytes()) || names.contains_key(&name) {
                continue;
            }
            let target = match child.is_link() {
                true => resolve(view, &join(&dir.path, &name))?,
                false => Some(child),
            };
            names.insert(name, target.filter(ViewNode::is_file));
        }
    }
    Ok(names.into_values().flatten().collect())
}

/// Returns whether a directory exists only on a running machine, or may be mounted there.
pub(super) fn is_volatile(path: &str) -> bool {
    let path = path.trim_start_matches('/');
    ["dev", "home", "media", "mnt", "net", "proc", "run", "sys", "tmp", "var/run"].iter().any(
        |dir| path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
    )
}

/// Directories of libraries, which also have subdirectories for architectures.
const LIBRARY_DIRS: [&str; 6] = ["lib", "lib32", "lib64", "usr/lib", "usr/lib32", "usr/lib64"];

/// Returns the names of the installed libraries.
pub(super) fn library_names(view: &StackView) -> Result<BTreeSet<String>, LookError> {
    let mut names = BTreeSet::new();
    for dir in LIBRARY_DIRS {
        let Some(dir) = resolve(view, dir.as_bytes())?.filter(ViewNode::is_dir) else { continue };
        for child in view.children(&dir)? {
            if child.is_dir() && memmem::find(child.name(), b"-linux-").is_some() {
                let nested = view.children(&child)?;
                names.extend(nested.iter().map(name_text));
            }
            names.insert(name_text(&child));
        }
    }
    Ok(names)
}

fn name_text(node: &ViewNode) -> String {
    String::from_utf8_lossy(node.name()).into_owned()
}
