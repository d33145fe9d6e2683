//! The archives of packages: those that a base has, and those that roles add.

use super::releases::{DEFAULT_RELEASE, is_out_of_use};
use super::settings::{DebianArchive, ImportedSettings};
use super::tree::{self, ImagebuilderTree};
use super::yaml_writer::plain_or_quoted;
use super::{ImportError, Note};
use crate::config::{YamlNode, YamlValue};

/// Releases of Debian whose security archive is at `RELEASE/updates`.
const OLD_SECURITY_RELEASES: [&str; 4] = ["wheezy", "jessie", "stretch", "buster"];

/// Releases of Debian without a security archive.
const UNSTABLE_RELEASES: [&str; 3] = ["sid", "unstable", "experimental"];

/// Components of Ubuntu that Debian does not have.
const UBUNTU_COMPONENTS: [&str; 3] = ["universe", "multiverse", "restricted"];

/// The component of a base for which no variable sets components.
const MAIN: &str = "main";

/// Returns the URLs and suites of a release, its updates and its security updates.
fn suites(archive: &DebianArchive, release: &str) -> Vec<(String, String)> {
    let url = match archive {
        DebianArchive::Server(host) => format!("http://{host}/debian"),
        DebianArchive::Mirror(url) => url.clone(),
    };
    if UNSTABLE_RELEASES.contains(&release) {
        return vec![(url, release.to_owned())];
    }
    let security = if archive.is_ubuntu() {
        (url.clone(), format!("{release}-security"))
    } else {
        // Debian's own host and apt-cacher-ng have the security archive beside the other.
        let place = match url.strip_suffix("/debian") {
            Some(place) if place.ends_with("deb.debian.org") || place.ends_with(":3142") => place,
            _ => "http://security.debian.org",
        };
        let suite = match OLD_SECURITY_RELEASES.contains(&release) {
            true => format!("{release}/updates"),
            false => format!("{release}-security"),
        };
        (format!("{place}/debian-security"), suite)
    };
    vec![(url.clone(), release.to_owned()), (url, format!("{release}-updates")), security]
}

/// Returns the lines of a project file with the archives of a release.
pub(super) fn archive_lines(
    archive: &DebianArchive,
    release: &str,
    components: &[String],
) -> String {
    let components = match components {
        [] => MAIN.to_owned(),
        components => components.join(" "),
    };
    match suites(archive, release).as_slice() {
        [(url, _)] => format!("mirror: {}", plain_or_quoted(url)),
        suites => {
            let mut lines = "mirror:\n".to_owned();
            for (index, (url, suite)) in suites.iter().enumerate() {
                lines.push_str(&match index {
                    0 => format!("  - {}\n", plain_or_quoted(url)),
                    _ => format!("  - deb {url} {suite} {components}\n"),
                });
            }
            lines
        }
    }
}

/// What is wrong with archives that roles add.
#[derive(Debug, Default)]
struct ArchiveProblems {
    /// The suites that the base has already.
    repeated: Vec<String>,
    /// The components that Debian does not have.
    of_ubuntu: Vec<String>,
}

impl ArchiveProblems {
    /// Adds the problems of a text with `deb URL SUITE COMPONENT…`.
    fn add(&mut self, tree: &ImagebuilderTree, text: &str) {
        let scope = tree.settings_of(None);
        let settings = ImportedSettings::new(&scope);
        let Some(archive) = &settings.archive else { return };
        let release = settings.release.as_deref().unwrap_or(DEFAULT_RELEASE);
        let Some((url, suite, components)) = scope.render(text).as_deref().and_then(archive_in)
        else {
            return;
        };
        let has = |component: &String| match settings.components.as_slice() {
            [] => component == MAIN,
            own => own.contains(component),
        };
        let pair = (url, suite);
        if suites(archive, release).contains(&pair) && components.iter().all(has) {
            add_new(&mut self.repeated, pair.1);
        }
        if archive.is_ubuntu() && is_out_of_use(release) {
            for component in components {
                if UBUNTU_COMPONENTS.contains(&component.as_str()) {
                    add_new(&mut self.of_ubuntu, component);
                }
            }
        }
    }

    /// Returns what to write instead; `None` if there is no problem.
    fn advice(&self) -> Option<String> {
        let mut advice = Vec::new();
        if !self.repeated.is_empty() {
            advice.push(format!(
                "the base has {} already: delete the line, because apt warns of archives that are \
                 configured twice.",
                self.repeated.join(", ")
            ));
        }
        if !self.of_ubuntu.is_empty() {
            advice.push(format!(
                "For a release of Debian, write its components (main, contrib, non-free, \
                 non-free-firmware) instead of Ubuntu's {}.",
                self.of_ubuntu.join(", ")
            ));
        }
        (!advice.is_empty()).then(|| advice.join(" "))
    }
}

fn add_new(list: &mut Vec<String>, word: String) {
    if !list.contains(&word) {
        list.push(word);
    }
}

/// Returns the advice about the archives in the value of a variable.
pub(super) fn archive_advice(tree: &ImagebuilderTree, value: &YamlNode) -> Option<String> {
    let mut problems = ArchiveProblems::default();
    add_value(tree, value, &mut problems);
    problems.advice()
}

fn add_value(tree: &ImagebuilderTree, value: &YamlNode, problems: &mut ArchiveProblems) {
    match &value.value {
        YamlValue::Scalar { text, .. } => problems.add(tree, text),
        YamlValue::List(nodes) => nodes.iter().for_each(|node| add_value(tree, node, problems)),
        YamlValue::Map(entries) => {
            entries.iter().for_each(|(_, node)| add_value(tree, node, problems));
        }
    }
}

/// Adds a note about each line of a role or config file with an archive that the base has, or with
/// components of another distribution.
pub(super) fn add_notes(tree: &ImagebuilderTree, notes: &mut Vec<Note>) -> Result<(), ImportError> {
    let mut files = tree.files_of_roles()?;
    files.extend(tree.configs.iter().map(|config| config.file.clone()));
    for file in files {
        for (index, line) in tree::text(&tree.folder, &file)?.lines().enumerate() {
            if line.trim_start().starts_with('#') || !line.contains("deb ") {
                continue;
            }
            let mut problems = ArchiveProblems::default();
            problems.add(tree, line);
            if let Some(advice) = problems.advice() {
                notes.push(Note::at(&file, index + 1, advice));
            }
        }
    }
    Ok(())
}

/// Returns the URL, the suite and the components in a text with `deb [OPTIONS] URL SUITE …`.
fn archive_in(text: &str) -> Option<(String, String, Vec<String>)> {
    let starts = text.match_indices("deb ").map(|(at, _)| at);
    let is_word = |at: &usize| !text[..*at].ends_with(|c: char| c.is_alphanumeric() || c == '.');
    let mut words = text[starts.into_iter().find(is_word)?..].split_whitespace().skip(1).peekable();
    if words.peek().is_some_and(|word| word.starts_with('[')) {
        words.find(|word| word.ends_with(']'))?;
    }
    let url = words.next()?.trim_end_matches('/').to_owned();
    let suite = words.next()?.to_owned();
    let mut components = Vec::new();
    for word in words {
        // The text may go on after a quote or a brace.
        let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_');
        let component = &word[..end.unwrap_or(word.len())];
        if !component.is_empty() {
            components.push(component.to_owned());
        }
        if end.is_some() {
            break;
        }
    }
    (url.contains("://") && !components.is_empty()).then_some((url, suite, components))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_found_in_lines() {
        for (text, wanted) in [
            ("deb http://x/debian/ bookworm main", Some("http://x/debian bookworm main")),
            (
                "line=\"deb [trusted=yes arch=amd64] http://x bookworm main contrib\" create=yes",
                Some("http://x bookworm main,contrib"),
            ),
            ("{line: 'deb http://x s universe'}", Some("http://x s universe")),
            ("dpkg -i x.deb http://x s main", None),
            ("deb http://x ./", None),
            ("deb http://x/", None),
            ("a deb package of main", None),
        ] {
            let found = archive_in(text);
            let found = found.map(|(url, suite, all)| format!("{url} {suite} {}", all.join(",")));
            assert_eq!(found.as_deref(), wanted, "{text}");
        }
    }
}
