//! Patterns for paths inside a root.
//!
//! `*` and `?` stand for any bytes but `/`, `[a-z]` and `[!a-z]` for one of a set, `**` as a whole
//! component for any number of components, none included. Everything else stands for itself.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::machine::{Kind, Machine, MachineError};

/// A pattern for absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<Vec<u8>>,
}

impl Pattern {
    /// Parses a pattern, which has to begin with `/`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path inside the image begins with `/`");
        };
        let components: Vec<Vec<u8>> = rest
            .split('/')
            .filter(|c| !c.is_empty() && *c != ".")
            .map(|c| c.as_bytes().to_vec())
            .collect();
        if components.iter().any(|c| c == b"..") {
            return Err("`..` is not taken here");
        }
        Ok(Self { components })
    }

    /// The longest folder above all that matches, or the path itself if the pattern is one.
    fn root(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        for component in self.components.iter().take_while(|c| !is_magic(c)) {
            path.push(std::ffi::OsStr::from_bytes(component));
        }
        path
    }

    /// Whether the pattern is a plain path.
    pub(crate) fn is_literal(&self) -> bool {
        !self.components.iter().any(|c| is_magic(c))
    }

    /// How deep below [`root`](Self::root) a match can be; `None` for any depth.
    fn depth(&self) -> Option<usize> {
        let magic: Vec<_> = self.components.iter().skip_while(|c| !is_magic(c)).collect();
        (!magic.iter().any(|c| c.as_slice() == b"**")).then_some(magic.len())
    }

    /// Everything in a root that matches, by name, and what it is.
    pub(crate) fn find(&self, machine: &dyn Machine) -> Result<Vec<(PathBuf, Kind)>, MachineError> {
        let root = self.root();
        let mut found = Vec::new();
        if let Some(stat) = machine.stat(&root)? {
            self.walk(machine, &root, stat.kind, 0, &mut found)?;
        }
        Ok(found)
    }

    fn walk(
        &self,
        machine: &dyn Machine,
        path: &Path,
        kind: Kind,
        depth: usize,
        found: &mut Vec<(PathBuf, Kind)>,
    ) -> Result<(), MachineError> {
        if self.matches(path) {
            found.push((path.to_owned(), kind));
        }
        // The folder above all matches may be a link, as /lib is; links below are not followed.
        let descend = kind == Kind::Directory || (depth == 0 && kind == Kind::Symlink);
        if descend && self.depth().is_none_or(|most| depth < most) {
            let mut entries = machine.list(path)?;
            entries.sort();
            for entry in entries {
                self.walk(machine, &path.join(&entry.name), entry.kind, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// Whether `path` matches.
    pub fn matches(&self, path: &Path) -> bool {
        let names: Vec<&[u8]> = path
            .components()
            .filter_map(|c| match c {
                Component::Normal(name) => Some(name.as_bytes()),
                _ => None,
            })
            .collect();
        matches_components(&self.components, &names)
    }
}

fn is_magic(component: &[u8]) -> bool {
    component.iter().any(|b| matches!(b, b'*' | b'?' | b'['))
}

fn matches_components(pattern: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match pattern.split_first() {
        None => names.is_empty(),
        Some((first, rest)) if first == b"**" => {
            (0..=names.len()).any(|skip| matches_components(rest, &names[skip..]))
        }
        Some((first, rest)) => match names.split_first() {
            Some((name, names)) => matches_name(first, name) && matches_components(rest, names),
            None => false,
        },
    }
}

/// Matches one component; on a mismatch goes back to the last `*` and lets it take one byte more.
fn matches_name(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut star = None;
    while n < name.len() {
        let step = match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
                continue;
            }
            Some(b'?') => Some(1),
            Some(b'[') => set(&pattern[p..], name[n]),
            Some(b) if *b == name[n] => Some(1),
            _ => None,
        };
        match (step, star) {
            (Some(width), _) => {
                p += width;
                n += 1;
            }
            (None, Some((at, taken))) => {
                star = Some((at, taken + 1));
                p = at + 1;
                n = taken + 1;
            }
            (None, None) => return false,
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// The width of the set at the front of `pattern` when it holds `byte`; a `[` without its `]`
/// stands for itself.
fn set(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = matches!(pattern.get(1), Some(b'!' | b'^'));
    let start = if negated { 2 } else { 1 };
    let Some(length) = pattern.iter().skip(start + 1).position(|b| *b == b']') else {
        return (byte == b'[').then_some(1);
    };
    let end = start + 1 + length;
    let members = &pattern[start..end];
    let mut found = false;
    let mut i = 0;
    while i < members.len() {
        if i + 2 < members.len() && members[i + 1] == b'-' {
            found |= (members[i]..=members[i + 2]).contains(&byte);
            i += 3;
        } else {
            found |= members[i] == byte;
            i += 1;
        }
    }
    (found != negated).then_some(end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, path: &str) -> bool {
        Pattern::parse(pattern).unwrap().matches(Path::new(path))
    }

    #[test]
    fn stars_stay_within_a_component_and_double_stars_do_not() {
        assert!(matches("/etc/*.conf", "/etc/a.conf"));
        assert!(!matches("/etc/*.conf", "/etc/b/a.conf"));
        assert!(matches("/etc/**/*.conf", "/etc/b/c/a.conf"));
        assert!(matches("/etc/**/*.conf", "/etc/a.conf"));
        assert!(matches("/etc/discovery/**", "/etc/discovery/a/b"));
        assert!(matches("/etc/discovery/**", "/etc/discovery"));
        assert!(!matches("/etc/discovery/**", "/etc/discovery2/a"));
    }

    #[test]
    fn single_bytes_sets_and_backtracking() {
        assert!(matches("/a?c", "/abc"));
        assert!(!matches("/a?c", "/ac"));
        assert!(matches("/[a-c]x", "/bx"));
        assert!(!matches("/[!a-c]x", "/bx"));
        assert!(matches("/[!a-c]x", "/zx"));
        assert!(matches("/*ab*ab", "/abxabab"));
        assert!(matches("/a[b", "/a[b"));
    }

    #[test]
    fn the_folder_above_all_matches() {
        let root = |p| Pattern::parse(p).unwrap().root();
        assert_eq!(root("/etc/a/*.conf"), Path::new("/etc/a"));
        assert_eq!(root("/etc/a"), Path::new("/etc/a"));
        assert_eq!(root("/**"), Path::new("/"));
        assert!(Pattern::parse("etc").is_err());
        assert!(Pattern::parse("/etc/../x").is_err());
        assert_eq!(Pattern::parse("/etc/*/b").unwrap().depth(), Some(2));
        assert_eq!(Pattern::parse("/etc/**").unwrap().depth(), None);
    }
}
