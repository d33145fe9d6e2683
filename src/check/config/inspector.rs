//! A survey's files and faults, within limits: the content of an image is not trusted.

use std::collections::{BTreeSet, HashMap};

use provisioners::nearest;

use super::files::{ConfigFile, drop_in_nodes};
use crate::check::PassError;
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::known_accounts::{KnownAccounts, SYSUSERS_DIRS};
use crate::image::view::accounts::Accounts;
use crate::image::view::{StackView, ViewNode};

/// Maximum bytes that a survey reads of one root.
const MAX_BYTES: usize = 32 << 20;
/// Maximum faults that are reported per file.
const MAX_FILE_FAULTS: usize = 100;
/// Maximum characters of a word of a file that a message shows.
const MAX_SHOWN: usize = 60;

/// The files and faults of a survey.
pub(super) struct Inspector<'a> {
    pub(super) view: &'a StackView,
    faults: &'a mut SurveyFaults,
    /// Bytes that may still be read.
    left: usize,
    /// Maximum length of `faults` at the end of the current file.
    most: usize,
}

impl<'a> Inspector<'a> {
    pub(super) fn new(view: &'a StackView, faults: &'a mut SurveyFaults) -> Self {
        let most = faults.len() + MAX_FILE_FAULTS;
        Inspector { view, faults, left: MAX_BYTES, most }
    }

    /// Reads a file, following links; `None` if it does not exist. The faults that are added after
    /// it count as its own.
    pub(super) fn file(&mut self, path: &str) -> Result<Option<ConfigFile>, PassError> {
        match resolve(self.view, path.as_bytes())?.filter(ViewNode::is_file) {
            Some(node) => self.open(node).map(Some),
            None => Ok(None),
        }
    }

    /// Like [`Inspector::file`], for a file that was found.
    pub(super) fn open(&mut self, node: ViewNode) -> Result<ConfigFile, PassError> {
        let file = ConfigFile::of(self.view, node)?;
        let Some(left) = self.left.checked_sub(file.text.len()) else {
            let message = format!("the files have more than {} MiB", MAX_BYTES >> 20);
            return Err(PassError::CannotRun(message));
        };
        self.left = left;
        self.most = self.faults.len() + MAX_FILE_FAULTS;
        Ok(file)
    }

    /// Returns the accounts of the root, and those that systemd-sysusers creates at boot.
    pub(super) fn accounts(&mut self) -> Result<KnownAccounts, PassError> {
        let mut known = KnownAccounts::new(&Accounts::read(self.view)?);
        for node in drop_in_nodes(self.view, &SYSUSERS_DIRS, ".conf")? {
            let file = self.open(node)?;
            file.entries(&['#']).for_each(|(_, line)| known.add_sysusers_line(line));
        }
        Ok(known)
    }

    /// Returns whether the current file has as many faults as are reported.
    pub(super) fn is_full(&self) -> bool {
        self.faults.len() >= self.most
    }

    /// Adds a fault of the current file, unless it has too many.
    pub(super) fn add(&mut self, fault: Fault) {
        if !self.is_full() {
            self.faults.push(fault);
        }
    }
}

/// Returns the lines that end with CR, which is part of their last word for some programs.
pub(super) fn lines_with_cr(file: &ConfigFile) -> BTreeSet<usize> {
    let lines = file.text.split('\n').enumerate();
    lines.filter(|(_, line)| line.ends_with('\r')).map(|(index, _)| index + 1).collect()
}

/// Returns a word of a file for a message, shortened if it is long.
pub(super) fn shown(word: &str) -> String {
    match word.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &word[..end]),
        None => word.to_owned(),
    }
}

/// Names that a program knows, and a cache of similar ones.
pub(super) struct KnownNames<'a> {
    names: Vec<&'a str>,
    unknown: HashMap<String, Option<&'a str>>,
}

impl<'a> KnownNames<'a> {
    /// Maximum number of unknown names for which a similar one is searched.
    const MAX_UNKNOWN: usize = 200;
    /// Maximum length of such a name.
    const MAX_LEN: usize = 64;

    pub(super) fn new(names: impl IntoIterator<Item = &'a str>) -> Self {
        KnownNames { names: names.into_iter().collect(), unknown: HashMap::new() }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains(&name)
    }

    /// Returns the known name that an unknown name is probably a misspelling of. Other unknown
    /// names are not reported: newer versions of a program have more names.
    pub(super) fn similar(&mut self, name: &str) -> Option<&'a str> {
        if name.len() > Self::MAX_LEN || self.has(name) {
            return None;
        }
        if let Some(similar) = self.unknown.get(name) {
            return *similar;
        }
        if self.unknown.len() >= Self::MAX_UNKNOWN {
            return None;
        }
        // The lengths differ by at most one, as after a typing error.
        let close = self.names.iter().copied().filter(|n| n.len().abs_diff(name.len()) <= 1);
        let similar = nearest(name, close);
        self.unknown.insert(name.to_owned(), similar);
        similar
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelled_names_are_recognised_and_long_words_shortened() {
        let mut names = KnownNames::new(["Address", "Gateway"]);
        assert_eq!(names.similar("Adress"), Some("Address"));
        assert_eq!([names.similar("Gateway"), names.similar("Other")], [None, None]);
        assert_eq!(names.similar("adress"), Some("Address"));
        assert_eq!(shown("a b"), "a b");
        assert_eq!(shown(&"ä".repeat(61)), format!("{}…", "ä".repeat(60)));
    }
}
