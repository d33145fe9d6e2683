//! What the screens show, and what keys do to it. Nothing here knows of a terminal.

use std::sync::Arc;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::gather::{Changes, Job, News, Subject, Sums, names};
use super::tree::{Entry, Sort, Tree};
use crate::check::{Finding, Report, Severity};
use crate::diff::Kind;
use crate::inspect::shown;
use crate::look::LookError;
use crate::look::packages::Owners;

/// What is to be done after a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Quit,
    Suspend,
    Redraw,
}

/// Which names the tree has: all of them, or those of which one of these is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) added: bool,
    pub(super) changed: bool,
    pub(super) deleted: bool,
    pub(super) big: bool,
}

impl Filter {
    pub(super) fn is_none(self) -> bool {
        self == Filter::default()
    }

    fn takes(self, kind: Kind) -> bool {
        match kind {
            Kind::Added => self.added,
            Kind::Changed => self.changed,
            Kind::Deleted => self.deleted,
        }
    }

    /// In words.
    pub(super) fn words(self) -> String {
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

/// What is on the screen, above the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Tree,
    /// All that is known of a path.
    Details(Vec<u8>),
    /// Lines of a file, or of a difference; none yet.
    Text(Vec<u8>, Option<Vec<String>>),
    Findings,
    Help,
}

/// The whole state.
#[derive(Debug)]
pub(super) struct App {
    pub(super) subject: Arc<Subject>,
    pub(super) sums: Arc<Sums>,
    pub(super) tree: Tree,
    pub(super) filter: Filter,
    pub(super) sort: Sort,
    pub(super) page: Page,
    /// How far a page of lines is scrolled, and how many lines it and the tree have on the screen.
    pub(super) scroll: usize,
    pub(super) height: usize,
    /// The first row of the tree on the screen.
    pub(super) offset: usize,
    pub(super) finding: usize,
    pub(super) changes: Option<Changes>,
    pub(super) owners: Option<Owners>,
    pub(super) report: Option<Report>,
    /// Whether a check goes on or has been; else there is none.
    pub(super) checks: bool,
    pub(super) big: Option<Vec<Vec<u8>>>,
    /// What is being typed to search for.
    pub(super) prompt: Option<String>,
    pub(super) needle: String,
    found: Option<Vec<Vec<u8>>>,
    pub(super) digest: Option<(Vec<u8>, String)>,
    pub(super) message: Option<String>,
    /// What is to be started.
    pub(super) jobs: Vec<Job>,
}

impl App {
    pub(super) fn new(subject: Arc<Subject>, checks: bool) -> Result<App, LookError> {
        let tree = Tree::new(&subject, None)?;
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
            jobs: super::gather::first(checks),
        })
    }

    /// Takes in what was found out.
    pub(super) fn hear(&mut self, news: News) {
        let done = self.take(news);
        self.tell(done);
    }

    fn take(&mut self, news: News) -> Result<(), LookError> {
        match news {
            News::Changes(changes) => {
                self.changes = Some(changes);
                self.rebuild()?;
            }
            News::Counting => {}
            News::Counted(big) => {
                self.big = Some(big);
                if self.filter.big {
                    self.rebuild()?;
                } else {
                    self.resort_if_by_size();
                }
            }
            News::Owners(owners) => self.owners = Some(owners),
            News::Checked(report) => self.report = Some(*report),
            News::Found(needle, found) => {
                // Of an earlier search nobody wants to know any more.
                if needle == self.needle {
                    self.message = None;
                    self.found = Some(found);
                    self.go_to_found(true, true)?;
                }
            }
            News::Text(path, lines) => {
                if matches!(&self.page, Page::Text(of, _) if *of == path) {
                    self.page = Page::Text(path, Some(lines));
                }
            }
            News::Digest(path, digest) => self.digest = Some((path, digest)),
            News::Failed(why) => self.message = Some(why),
        }
        Ok(())
    }

    /// What failed is told in the last line.
    fn tell(&mut self, done: Result<(), LookError>) {
        if let Err(error) = done {
            self.message = Some(crate::inspect::plain(&error.to_string()).into_owned());
        }
    }

    /// Makes the tree anew: with other changes, or for another filter.
    fn rebuild(&mut self) -> Result<(), LookError> {
        let place = self.tree.place();
        let (subject, changes) = (&*self.subject, self.changes.as_ref());
        if self.filter.is_none() {
            self.tree = Tree::new(subject, changes)?;
            self.tree.restore(&place, subject, changes)?;
        } else {
            let mut paths: Vec<&Vec<u8>> = Vec::new();
            if let Some(changes) = changes {
                let takes = |path: &&Vec<u8>| {
                    changes.by_path.get(*path).is_some_and(|change| self.filter.takes(change.kind))
                };
                paths.extend(changes.order.iter().filter(takes));
            }
            if self.filter.big {
                paths.extend(self.big.iter().flatten());
                paths.sort_by(|a, b| names(a).cmp(names(b)));
                paths.dedup();
            }
            self.tree = Tree::only(subject, changes, paths.into_iter())?;
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

    /// Bytes of an entry with all beneath, as far as they are counted.
    pub(super) fn size(&self, entry: &Entry) -> Option<u64> {
        size_of(&self.sums, self.changes.as_ref(), entry)
    }

    /// The letter that tells how an entry differs, and its kind.
    pub(super) fn mark(&self, entry: &Entry) -> (char, Option<Kind>) {
        let Some(changes) = &self.changes else { return (' ', None) };
        match changes.by_path.get(&entry.node.path).map(|change| change.kind) {
            Some(Kind::Added) => ('A', Some(Kind::Added)),
            Some(Kind::Changed) => ('M', Some(Kind::Changed)),
            Some(Kind::Deleted) => ('D', Some(Kind::Deleted)),
            None if changes.beneath.contains_key(&entry.node.path) => ('*', None),
            None => (' ', None),
        }
    }

    /// The layer of an entry: where it comes from, or what deletes it.
    pub(super) fn layer(&self, entry: &Entry) -> usize {
        let change =
            self.changes.as_ref().and_then(|changes| changes.by_path.get(&entry.node.path));
        match change {
            Some(change) if entry.gone => change.layer.unwrap_or(0),
            _ => entry.node.layer(),
        }
    }

    /// What a check found, the worst first.
    pub(super) fn findings(&self) -> &[Finding] {
        self.report.as_ref().map_or(&[], |report| &report.findings)
    }

    /// How many findings of each severity there are, in words.
    pub(super) fn findings_words(&self) -> String {
        let Some(report) = &self.report else { return String::new() };
        let word = |severity: Severity| match report.count(severity) {
            0 => None,
            1 => Some(format!("1 {}", severity.word())),
            count => Some(format!("{count} {}s", severity.word())),
        };
        let words: Vec<String> = Severity::ALL.into_iter().filter_map(word).collect();
        if words.is_empty() { "no findings".to_owned() } else { words.join(", ") }
    }

    /// Which of the matches of a search the cursor is at, from 1 on, and how many there are.
    pub(super) fn match_number(&self) -> Option<(usize, usize)> {
        let found = self.found.as_ref()?;
        let path = &self.tree.current().node.path;
        Some((found.iter().position(|one| one == path).map_or(0, |at| at + 1), found.len()))
    }

    /// Does what a key asks for.
    pub(super) fn key(&mut self, key: KeyEvent) -> Next {
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if control => return Next::Quit,
            KeyCode::Char('z') if control => return Next::Suspend,
            KeyCode::Char('l') if control => return Next::Redraw,
            _ if control || key.modifiers.contains(KeyModifiers::ALT) => return Next::Go,
            _ => {}
        }
        if self.prompt.is_some() {
            self.type_in(key.code);
            return Next::Go;
        }
        self.message = None;
        match (&self.page, key.code) {
            (Page::Tree, KeyCode::Char('q')) => return Next::Quit,
            (Page::Tree, code) => {
                let done = self.tree_key(code);
                self.tell(done);
            }
            (_, KeyCode::Char('q') | KeyCode::Esc | KeyCode::Left | KeyCode::Backspace) => {
                self.turn(Page::Tree);
            }
            (_, KeyCode::Char('?')) => self.turn(Page::Help),
            (Page::Findings, code) => {
                let done = self.findings_key(code);
                self.tell(done);
            }
            (Page::Details(path), KeyCode::Char('x')) => self.jobs.push(Job::Digest(path.clone())),
            (Page::Details(path), KeyCode::Char('v') | KeyCode::Enter) => {
                let path = path.clone();
                self.read(path);
            }
            (_, code) => self.scroll = moved(self.scroll, code, self.height, usize::MAX),
        }
        Next::Go
    }

    fn turn(&mut self, page: Page) {
        self.page = page;
        self.scroll = 0;
    }

    fn read(&mut self, path: Vec<u8>) {
        self.jobs.push(Job::Text(path.clone()));
        self.turn(Page::Text(path, None));
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
                    (false, false) => self.turn(Page::Details(path)),
                }
            }
            KeyCode::Left | KeyCode::Char('h') | KeyCode::Backspace => self.tree.close(),
            KeyCode::Char('i') => self.turn(Page::Details(path)),
            KeyCode::Char('v') => self.read(path),
            KeyCode::Char('x') => {
                self.jobs.push(Job::Digest(path.clone()));
                self.turn(Page::Details(path));
            }
            KeyCode::Char('c') => {
                self.finding = self.finding.min(self.findings().len().saturating_sub(1));
                self.turn(Page::Findings);
            }
            KeyCode::Char('?') => self.turn(Page::Help),
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
                let row = moved(self.tree.cursor(), code, self.height, self.tree.len());
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
            self.finding = moved(self.finding, code, self.height / 3, self.findings().len());
            return Ok(());
        }
        let Some(path) = finding.path.clone() else { return Ok(()) };
        self.turn(Page::Tree);
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
                    self.jobs.push(Job::Find(needle));
                }
            }
            _ => {}
        }
    }

    /// Goes to the next match, or the one before; `here` counts too when the search is new.
    fn go_to_found(&mut self, forward: bool, here: bool) -> Result<(), LookError> {
        let Some(found) = self.found.take() else { return Ok(()) };
        let done = self.go_among(&found, forward, here);
        self.found = Some(found);
        done
    }

    fn go_among(&mut self, found: &[Vec<u8>], forward: bool, here: bool) -> Result<(), LookError> {
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
        let among = if self.filter.is_none() { "" } else { " among what is filtered" };
        self.message = Some(format!("there is no {}{among}", self.needle));
        self.tree.reveal(&from, &self.subject, self.changes.as_ref()).map(|_| ())
    }

    /// Goes to a path; `false` if the tree has it not.
    fn reveal(&mut self, path: &[u8]) -> Result<bool, LookError> {
        let found = self.tree.reveal(path, &self.subject, self.changes.as_ref())?;
        self.resort_if_by_size();
        Ok(found)
    }

    /// What the page is of.
    pub(super) fn title(&self) -> String {
        match &self.page {
            Page::Details(path) | Page::Text(path, _) => format!("/{}", shown(path)),
            Page::Findings => "What check finds".to_owned(),
            Page::Help => "Keys".to_owned(),
            Page::Tree => String::new(),
        }
    }
}

fn size_of(sums: &Sums, changes: Option<&Changes>, entry: &Entry) -> Option<u64> {
    let path = &entry.node.path;
    match entry.node.is_dir() {
        true if entry.gone => Some(changes?.by_path.get(path)?.beneath.bytes),
        true => sums.of(path).map(|sum| sum.bytes),
        false if entry.node.is_file() => Some(entry.node.attr.size),
        false => Some(0),
    }
}

/// Where a key moves to, among so many, of which so many can be seen.
fn moved(at: usize, code: KeyCode, page: usize, count: usize) -> usize {
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
