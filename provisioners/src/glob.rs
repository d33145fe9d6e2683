//! Glob patterns for paths inside a root.
//!
//! `*` matches any bytes except `/`, `?` one of them, `[a-z]` and `[!a-z]` one byte of a set,
//! `{a,b}` each of the alternatives, and `**` as a whole component any number of components,
//! including zero. All other bytes match themselves. A special character in a set, such as `[*]`,
//! matches itself.

use std::path::{Path, PathBuf};

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::machine::{Kind, Machine, MachineError};

/// A glob pattern for absolute paths.
#[derive(Debug, Clone)]
pub struct Pattern {
    components: Vec<String>,
    globs: GlobSet,
}

impl Pattern {
    /// Parses a pattern, which must begin with `/`.
    ///
    /// # Errors
    ///
    /// Returns the problem if the pattern does not begin with `/`, contains `..` or has an
    /// unclosed set.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix('/') else {
            return Err("a path inside the image must begin with `/`".to_owned());
        };
        let components: Vec<String> = rest
            .split('/')
            .filter(|component| !component.is_empty() && *component != ".")
            .map(str::to_owned)
            .collect();
        if components.iter().any(|component| component == "..") {
            return Err("`..` is not allowed here".to_owned());
        }
        let globs = globs(&components).map_err(|error| error.kind().to_string())?;
        Ok(Self { components, globs })
    }

    /// Returns the deepest directory that contains all matches, or the path itself if the pattern
    /// is literal.
    fn root(&self) -> PathBuf {
        let mut path = PathBuf::from("/");
        for component in self.components.iter().take_while(|c| !is_magic(c)) {
            path.push(component);
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
        (!magic.iter().any(|c| c.contains("**"))).then_some(magic.len())
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

    /// Returns whether `path`, absolute or relative to the root, matches.
    pub fn matches(&self, path: &Path) -> bool {
        self.globs.is_match(Path::new("/").join(path))
    }
}

/// Compiles a pattern. `**` at the end also matches the directory before it, for which globset
/// needs a pattern of its own.
fn globs(components: &[String]) -> Result<GlobSet, globset::Error> {
    let mut globs = GlobSetBuilder::new();
    let mut add = |components: &[String]| {
        let pattern = format!("/{}", components.join("/"));
        let glob =
            GlobBuilder::new(&pattern).literal_separator(true).backslash_escape(false).build()?;
        globs.add(glob);
        Ok(())
    };
    add(components)?;
    let before = components.iter().rposition(|c| c != "**").map_or(0, |last| last + 1);
    if before < components.len() {
        add(&components[..before])?;
    }
    globs.build()
}

fn is_magic(component: &str) -> bool {
    component.contains(['*', '?', '[', '{'])
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
        assert!(matches("/etc/*.conf", "etc/a.conf"));
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
        assert!(matches("/\\x", "/\\x"));
        assert!(matches("/??", "/\u{fc}"), "a letter of two bytes");
    }

    #[test]
    fn braces_contain_alternatives() {
        assert!(matches("/etc/{a,b*}/x", "/etc/bc/x"));
        assert!(!matches("/etc/{a,b*}/x", "/etc/c/x"));
        assert!(matches("/{etc,usr/lib}/x", "/usr/lib/x"));
        assert!(!Pattern::parse("/{etc,usr}").unwrap().is_literal());
    }

    #[test]
    fn sets_and_alternatives_must_be_closed() {
        for (pattern, problem) in [
            ("/a[b", "unclosed character class; missing ']'"),
            ("/{a,b", "unclosed alternate group; missing '}' (maybe escape '{' with '[{]'?)"),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap_err(), problem);
        }
    }

    #[test]
    fn many_double_stars_are_matched_without_backtracking() {
        let path = "/a".repeat(2000) + "/b";
        assert!(!matches(&("/**/a".repeat(50) + "/c"), &path));
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
