//! State of the screens, and its changes by keys. Independent of the terminal.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::gather::{InspectJob, InspectedStack, JobResult, StackChanges, UsageCounts, names};
use super::tree::{Sort, TreeEntry, TreeView};
use crate::check::{CheckReport, Finding, Severity};
use crate::image::diff::ChangeKind;
use crate::image::view::LookError;
use crate::image::view::packages::PackageOwners;
use crate::report::shown;

/// The action that the main loop takes after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyAction {
    Go,
    Quit,
    Suspend,
    Redraw,
}

/// Filter of the tree: shows the paths to which any of these applies, or all paths if none is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) added: bool,
    pub(crate) changed: bool,
    pub(crate) deleted: bool,
    pub(crate) big: bool,
}

impl Filter {
    pub(crate) fn is_none(self) -> bool {
        self == Filter::default()
    }

    fn accepts(self, kind: ChangeKind) -> bool {
        match kind {
            ChangeKind::Added => self.added,
            ChangeKind::Changed => self.changed,
            ChangeKind::Deleted => self.deleted,
        }
    }

    /// Describes the filter.
    pub(crate) fn words(self) -> String {
        let words = [
            (self.added, "added"),
            (self.changed, "changed"),
            (self.deleted, "deleted"),
            (self.big, "1 MB or more"),
        ];
        let words: Vec<_> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        words.join(" or ")
    }
}

/// The page on the screen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    Tree,
    /// Details of a path.
    Details(Vec<u8>),
    /// A file's path, and the lines of its content or difference; `None` while they are read.
    Text(Vec<u8>, Option<Vec<String>>),
    Findings,
    Help,
}

/// The state of the program.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) subject: Arc<InspectedStack>,
    pub(crate) sums: Arc<UsageCounts>,
    pub(crate) tree: TreeView,
    pub(crate) filter: Filter,
    pub(crate) sort: Sort,
    pub(crate) page: Page,
    /// First visible line of a page of lines.
    pub(crate) scroll: usize,
    /// Number of lines of the page or the tree that fit on the screen.
    pub(crate) height: usize,
    /// First visible row of the tree.
    pub(crate) offset: usize,
    /// Index of the selected finding.
    pub(crate) finding: usize,
    pub(crate) changes: Option<StackChanges>,
    pub(crate) owners: Option<PackageOwners>,
    pub(crate) report: Option<CheckReport>,
    /// Whether the stack is checked.
    pub(crate) checks: bool,
    /// Paths of big files, once they are counted.
    pub(crate) big: Option<Vec<Vec<u8>>>,
    /// Search text while it is typed.
    pub(crate) prompt: Option<String>,
    /// Text of the last search.
    pub(crate) needle: String,
    /// Paths that match the last search.
    found: Option<Vec<Vec<u8>>>,
    pub(crate) digest: Option<(Vec<u8>, String)>,
    pub(crate) message: Option<String>,
    /// Jobs for the main loop to start.
    pub(crate) jobs: Vec<InspectJob>,
}

impl App {
    pub(crate) fn new(subject: Arc<InspectedStack>, checks: bool) -> Result<App, LookError> {
        let tree = TreeView::new(&subject, None)?;
        Ok(App {
            subject,
            sums: Arc::default(),
            tree,
            filter: Filter::default(),
            sort: Sort::Name,
            page: Page::Tree,
            scroll: 0,
            height: 1,
            offset: 0,
            finding: 0,
            changes: None,
            owners: None,
            report: None,
            checks,
            big: None,
            prompt: None,
            needle: String::new(),
            found: None,
            digest: None,
            message: None,
            jobs: super::gather::initial_jobs(checks),
        })
    }

    /// Handles the result of a job.
    pub(crate) fn handle(&mut self, news: JobResult) {
        let result = self.apply(news);
        self.show_error(result);
    }

    fn apply(&mut self, news: JobResult) -> Result<(), LookError> {
        match news {
            JobResult::Changes(changes) => {
                self.changes = Some(changes);
                self.rebuild()?;
            }
            JobResult::Counting => {}
            JobResult::Counted(big) => {
                self.big = Some(big);
                if self.filter.big {
                    self.rebuild()?;
                } else {
                    self.resort_if_by_size();
                }
            }
            JobResult::PackageOwners(owners) => self.owners = Some(owners),
            JobResult::Checked(report) => self.report = Some(*report),
            JobResult::Found(needle, found) => {
                // Results of an earlier search are ignored.
                if needle == self.needle {
                    self.message = None;
                    self.found = Some(found);
                    self.go_to_found(true, true)?;
                }
            }
            JobResult::Text(path, lines) => {
                if matches!(&self.page, Page::Text(of, _) if *of == path) {
                    self.page = Page::Text(path, Some(lines));
                }
            }
            JobResult::Digest(path, digest) => self.digest = Some((path, digest)),
            JobResult::Failed(error) => self.message = Some(error),
        }
        Ok(())
    }

    /// Shows an error in the last line.
    fn show_error(&mut self, result: Result<(), LookError>) {
        if let Err(error) = result {
            self.message = Some(crate::report::plain(&error.to_string()).into_owned());
        }
    }

    /// Rebuilds the tree after the changes or the filter have changed.
    fn rebuild(&mut self) -> Result<(), LookError> {
        let place = self.tree.save();
        let (subject, changes) = (&*self.subject, self.changes.as_ref());
        if self.filter.is_none() {
            self.tree = TreeView::new(subject, changes)?;
            self.tree.restore(&place, subject, changes)?;
        } else {
            let mut paths: Vec<&Vec<u8>> = Vec::new();
            if let Some(changes) = changes {
                let accepts = |path: &&Vec<u8>| {
                    let change = changes.by_path.get(*path);
                    change.is_some_and(|change| self.filter.accepts(change.kind))
                };
                paths.extend(changes.order.iter().filter(accepts));
            }
            if self.filter.big {
                paths.extend(self.big.iter().flatten());
                paths.sort_by(|a, b| names(a).cmp(names(b)));
                paths.dedup();
            }
            self.tree = TreeView::from_paths(subject, changes, paths.into_iter())?;
            let (_, cursor) = place;
            let found = self.tree.reveal(&cursor, subject, changes)?;
            if !found {
                self.tree.go(0);
            }
        }
        self.resort();
        Ok(())
    }

    fn resort(&mut self) {
        let (sums, changes, sort) = (&self.sums, self.changes.as_ref(), self.sort);
        self.tree.sort(sort, &|entry| size_of(sums, changes, entry).unwrap_or(0));
    }

    /// Returns the size of an entry including its content, in bytes; `None` while it is counted.
    pub(crate) fn size(&self, entry: &TreeEntry) -> Option<u64> {
        size_of(&self.sums, self.changes.as_ref(), entry)
    }

    /// Returns the letter that marks an entry's change, and the kind of the change.
    pub(crate) fn mark(&self, entry: &TreeEntry) -> (char, Option<ChangeKind>) {
        let Some(changes) = &self.changes else { return (' ', None) };
        match changes.by_path.get(&entry.node.path).map(|change| change.kind) {
            Some(ChangeKind::Added) => ('A', Some(ChangeKind::Added)),
            Some(ChangeKind::Changed) => ('M', Some(ChangeKind::Changed)),
            Some(ChangeKind::Deleted) => ('D', Some(ChangeKind::Deleted)),
            None if changes.counts_below.contains_key(&entry.node.path) => ('*', None),
            None => (' ', None),
        }
    }

    /// Returns the layer that provides an entry, or that deletes it.
    pub(crate) fn layer(&self, entry: &TreeEntry) -> usize {
        let change =
            self.changes.as_ref().and_then(|changes| changes.by_path.get(&entry.node.path));
        match change {
            Some(change) if entry.gone => change.layer.unwrap_or(0),
            _ => entry.node.layer(),
        }
    }

    /// Returns the findings of the check, the most severe first.
    pub(crate) fn findings(&self) -> &[Finding] {
        self.report.as_ref().map_or(&[], |report| &report.findings)
    }

    /// Describes the number of findings by severity.
    pub(crate) fn findings_summary(&self) -> String {
        let Some(report) = &self.report else { return String::new() };
        let word = |severity: Severity| match report.count(severity) {
            0 => None,
            1 => Some(format!("1 {}", severity.word())),
            count => Some(format!("{count} {}s", severity.word())),
        };
        let words: Vec<String> = Severity::ALL.into_iter().filter_map(word).collect();
        if words.is_empty() { "no findings".to_owned() } else { words.join(", ") }
    }

    /// Returns the number of the match under the cursor, from 1 (0: none), and the number of all.
    pub(crate) fn match_number(&self) -> Option<(usize, usize)> {
        let found = self.found.as_ref()?;
        let path = &self.tree.current().node.path;
        Some((found.iter().position(|one| one == path).map_or(0, |at| at + 1), found.len()))
    }

    /// Handles a key.
    pub(crate) fn key(&mut self, key: KeyEvent) -> KeyAction {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return KeyAction::Quit,
            KeyCode::Char('z') if control => return KeyAction::Suspend,
            KeyCode::Char('l') if control => return KeyAction::Redraw,
            _ if control || key.modifiers.contains(KeyModifiers::ALT) => return KeyAction::Go,
            _ => {}
        }
        if self.prompt.is_some() {
            self.type_in(key.code);
            return KeyAction::Go;
        }
        self.message = None;
        match (&self.page, key.code) {
            (Page::Tree, KeyCode::Char('q')) => return KeyAction::Quit,
            (Page::Tree, code) => {
                let result = self.tree_key(code);
                self.show_error(result);
            }
            (_, KeyCode::Char('q') | KeyCode::Esc | KeyCode::Left | KeyCode::Backspace) => {
                self.open_page(Page::Tree);
            }
            (_, KeyCode::Char('?')) => self.open_page(Page::Help),
            (Page::Findings, code) => {
                let result = self.findings_key(code);
                self.show_error(result);
            }
            (Page::Details(path), KeyCode::Char('x')) => {
                self.jobs.push(InspectJob::Digest(path.clone()))
            }
            (Page::Details(path), KeyCode::Char('v') | KeyCode::Enter) => {
                let path = path.clone();
                self.read(path);
            }
            (_, code) => self.scroll = move_index(self.scroll, code, self.height, usize::MAX),
        }
        KeyAction::Go
    }

    fn open_page(&mut self, page: Page) {
        self.page = page;
        self.scroll = 0;
    }

    fn read(&mut self, path: Vec<u8>) {
        self.jobs.push(InspectJob::Text(path.clone()));
        self.open_page(Page::Text(path, None));
    }

    fn tree_key(&mut self, code: KeyCode) -> Result<(), LookError> {
        let path = self.tree.current().node.path.clone();
        let (subject, changes) = (self.subject.clone(), self.changes.as_ref());
        match code {
            KeyCode::Right | KeyCode::Char('l') => {
                if self.tree.open(&subject, changes)? {
                    self.resort_if_by_size();
                } else if self.tree.current().open {
                    self.tree.go(self.tree.cursor() + 1);
                }
            }
            KeyCode::Enter | KeyCode::Char(' ') => {
                let entry = self.tree.current();
                match (entry.open, self.tree.is_branch(entry, changes)) {
                    (true, _) => self.tree.close(),
                    (false, true) => {
                        self.tree.open(&subject, changes)?;
                        self.resort_if_by_size();
                    }
                    (false, false) => self.open_page(Page::Details(path)),
                }
            }
            KeyCode::Left | KeyCode::Char('h') | KeyCode::Backspace => self.tree.close(),
            KeyCode::Char('i') => self.open_page(Page::Details(path)),
            KeyCode::Char('v') => self.read(path),
            KeyCode::Char('x') => {
                self.jobs.push(InspectJob::Digest(path.clone()));
                self.open_page(Page::Details(path));
            }
            KeyCode::Char('c') => {
                self.finding = self.finding.min(self.findings().len().saturating_sub(1));
                self.open_page(Page::Findings);
            }
            KeyCode::Char('?') => self.open_page(Page::Help),
            KeyCode::Char('/') => self.prompt = Some(String::new()),
            KeyCode::Char('n') => return self.go_to_found(true, false),
            KeyCode::Char('N') => return self.go_to_found(false, false),
            KeyCode::Char('s') => {
                self.sort = if self.sort == Sort::Name { Sort::Size } else { Sort::Name };
                self.resort();
            }
            KeyCode::Char(letter @ ('a' | 'm' | 'd' | 'b')) => {
                let filter = &mut self.filter;
                let which = match letter {
                    'a' => &mut filter.added,
                    'm' => &mut filter.changed,
                    'd' => &mut filter.deleted,
                    _ => &mut filter.big,
                };
                *which = !*which;
                return self.rebuild();
            }
            KeyCode::Esc | KeyCode::Char('0') if !self.filter.is_none() => {
                self.filter = Filter::default();
                let path = self.tree.current().node.path.clone();
                self.rebuild()?;
                self.tree.reveal(&path, &subject, self.changes.as_ref())?;
            }
            code => {
                let row = move_index(self.tree.cursor(), code, self.height, self.tree.len());
                self.tree.go(row);
            }
        }
        Ok(())
    }

    fn resort_if_by_size(&mut self) {
        if self.sort == Sort::Size {
            self.resort();
        }
    }

    fn findings_key(&mut self, code: KeyCode) -> Result<(), LookError> {
        let Some(finding) = self.findings().get(self.finding) else { return Ok(()) };
        if code != KeyCode::Enter {
            self.finding = move_index(self.finding, code, self.height / 3, self.findings().len());
            return Ok(());
        }
        let Some(path) = finding.path.clone() else { return Ok(()) };
        self.open_page(Page::Tree);
        self.filter = Filter::default();
        self.rebuild()?;
        self.reveal(&path).map(|_| ())
    }

    fn type_in(&mut self, code: KeyCode) {
        let Some(prompt) = &mut self.prompt else { return };
        match code {
            KeyCode::Char(letter) => prompt.push(letter),
            KeyCode::Backspace if prompt.pop().is_none() => {
                self.prompt = None;
            }
            KeyCode::Esc => self.prompt = None,
            KeyCode::Enter => {
                let needle = self.prompt.take().unwrap_or_default();
                if !needle.is_empty() {
                    self.message = Some(format!("searching for {needle}…"));
                    self.found = None;
                    self.needle.clone_from(&needle);
                    self.jobs.push(InspectJob::Find(needle));
                }
            }
            _ => {}
        }
    }

    /// Moves the cursor to the next or previous match. `here` allows it to stay where it is, for a
    /// new search.
    fn go_to_found(&mut self, forward: bool, here: bool) -> Result<(), LookError> {
        let Some(found) = self.found.take() else { return Ok(()) };
        let result = self.go_to_match(&found, forward, here);
        self.found = Some(found);
        result
    }

    fn go_to_match(
        &mut self,
        found: &[Vec<u8>],
        forward: bool,
        here: bool,
    ) -> Result<(), LookError> {
        let from = self.tree.current().node.path.clone();
        let first = found.partition_point(|path| names(path).lt(names(&from)));
        let at_match = found.get(first) == Some(&from);
        let next = match (forward, at_match && !here) {
            (true, true) => first + 1,
            (true, false) => first,
            (false, _) => (first + found.len()).saturating_sub(1),
        };
        for step in 0..found.len() {
            let at = if forward { next + step } else { next + found.len() - step } % found.len();
            if self.reveal(&found[at])? {
                return Ok(());
            }
        }
        let scope = if self.filter.is_none() { "" } else { " in the filtered tree" };
        self.message = Some(format!("{} not found{scope}", self.needle));
        self.tree.reveal(&from, &self.subject, self.changes.as_ref()).map(|_| ())
    }

    /// Moves the cursor to a path. Returns `false` if the tree does not have it.
    fn reveal(&mut self, path: &[u8]) -> Result<bool, LookError> {
        let found = self.tree.reveal(path, &self.subject, self.changes.as_ref())?;
        self.resort_if_by_size();
        Ok(found)
    }

    /// Returns the title of the page.
    pub(crate) fn title(&self) -> String {
        match &self.page {
            Page::Details(path) | Page::Text(path, _) => format!("/{}", shown(path)),
            Page::Findings => "Findings".to_owned(),
            Page::Help => "Keys".to_owned(),
            Page::Tree => String::new(),
        }
    }
}

fn size_of(sums: &UsageCounts, changes: Option<&StackChanges>, entry: &TreeEntry) -> Option<u64> {
    let path = &entry.node.path;
    match entry.node.is_dir() {
        true if entry.gone => Some(changes?.by_path.get(path)?.removed.bytes),
        true => sums.get(path).map(|sum| sum.bytes),
        false if entry.node.is_file() => Some(entry.node.attr.size),
        false => Some(0),
    }
}

/// Moves an index into `count` items by a key; `page` is the number of visible items.
fn move_index(at: usize, code: KeyCode, page: usize, count: usize) -> usize {
    let page = page.saturating_sub(1).max(1);
    let to = match code {
        KeyCode::Down | KeyCode::Char('j') => at.saturating_add(1),
        KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
        KeyCode::PageDown => at.saturating_add(page),
        KeyCode::PageUp => at.saturating_sub(page),
        KeyCode::Home | KeyCode::Char('g') => 0,
        KeyCode::End | KeyCode::Char('G') => usize::MAX,
        _ => at,
    };
    to.min(count.saturating_sub(1))
}
