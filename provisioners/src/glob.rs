//! Glob patterns for paths inside a root.
//!
//! `*` matches any bytes except `/`, `?` one of them, `[a-z]` and `[!a-z]` one byte of a set, and
//! `**` as a whole component any number of components, including zero. All other bytes match
//! themselves.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::machine::{Kind, Machine, MachineError};

/// A glob pattern for absolute paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    components: Vec<Vec<u8>>,
}

impl Pattern {
    /// Parses a pattern, which must begin with `/`.
    ///
    /// # Errors
    ///
    /// Returns the problem if the pattern does not begin with `/` or contains `..`.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path inside the image must begin with `/`");
        };
        let components: Vec<Vec<u8>> = rest
            .split('/')
            .filter(|c| !c.is_empty() && *c != ".")
            .map(|c| c.as_bytes().to_vec())
            .collect();
        if components.iter().any(|c| c == b"..") {
            return Err("`..` is not allowed here");
        }
        Ok(Self { components })
    }

    /// Returns the deepest directory that contains all matches, or the path itself if the pattern
    /// is literal.
    fn root(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        for component in self.components.iter().take_while(|c| !is_magic(c)) {
            path.push(std::ffi::OsStr::from_bytes(component));
        }
        path
    }

    /// Returns whether the pattern is a path without wildcards.
    pub(crate) fn is_literal(&self) -> bool {
        !self.components.iter().any(|c| is_magic(c))
    }

    /// Returns the maximum depth of a match below [`root`](Self::root); `None` if it is unlimited.
    fn depth(&self) -> Option<usize> {
        let magic: Vec<_> = self.components.iter().skip_while(|c| !is_magic(c)).collect();
        (!magic.iter().any(|c| c.as_slice() == b"**")).then_some(magic.len())
    }

    /// Returns path and type of all matching objects in a root, ordered by name.
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
        // The starting directory may be a link, as /lib is. Links below it are not followed.
        let descend = kind == Kind::Directory || (depth == 0 && kind == Kind::Symlink);
        if descend && self.depth().is_none_or(|max| depth < max) {
            let mut entries = machine.list(path)?;
            entries.sort();
            for entry in entries {
                self.walk(machine, &path.join(&entry.name), entry.kind, depth + 1, found)?;
            }
        }
        Ok(())
    }

    /// Returns whether `path` matches.
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

/// Matches one component. On a mismatch, backtracks to the last `*` and extends it by one byte.
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
            Some(b'[') => matching_set_width(&pattern[p..], name[n]),
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

/// Returns the length of the set at the start of `pattern` if the set contains `byte`. A `[`
/// without `]` matches itself.
fn matching_set_width(pattern: &[u8], byte: u8) -> Option<usize> {
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
    fn only_double_stars_match_across_components() {
        assert!(matches("/etc/*.conf", "/etc/a.conf"));
        assert!(!matches("/etc/*.conf", "/etc/b/a.conf"));
        assert!(matches("/etc/**/*.conf", "/etc/b/c/a.conf"));
        assert!(matches("/etc/**/*.conf", "/etc/a.conf"));
        assert!(matches("/etc/discovery/**", "/etc/discovery/a/b"));
        assert!(matches("/etc/discovery/**", "/etc/discovery"));
        assert!(!matches("/etc/discovery/**", "/etc/discovery2/a"));
    }

    #[test]
    fn matches_single_bytes_sets_and_backtracks() {
        assert!(matches("/a?c", "/abc"));
        assert!(!matches("/a?c", "/ac"));
        assert!(matches("/[a-c]x", "/bx"));
        assert!(!matches("/[!a-c]x", "/bx"));
        assert!(matches("/[!a-c]x", "/zx"));
        assert!(matches("/*ab*ab", "/abxabab"));
        assert!(matches("/a[b", "/a[b"));
    }

    #[test]
    fn root_and_depth_limit_the_search() {
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
