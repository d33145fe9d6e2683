//! What the screens tell that takes time to find out: threads that look, and what they send.
//!
//! Each thread looks at the same [`Subject`], which never changes. It ends when nobody listens any
//! more, or with the process.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fs_model::stack::Source;
use fs_model::tree::Follow;

use crate::check::Report;
use crate::diff::text::{self, Text};
use crate::diff::{Change, Diff, Kind, Options};
use crate::inspect::{judge, plain, shown};
use crate::look::accounts::Accounts;
use crate::look::packages::{Owners, Packages};
use crate::look::{LookError, Node, View, Walk, join};
use crate::seal::manifest::hex;

/// From how many bytes on a file is a big one.
pub(super) const BIG: u64 = 1_000_000;
/// How often it is told how far the count has come.
const TICK: Duration = Duration::from_millis(100);
/// The most that a search finds.
const MOST_FOUND: usize = 10_000;
/// The most lines of a file that are shown.
const MOST_LINES: usize = 50_000;

/// What is looked at.
#[derive(Debug)]
pub(super) struct Subject {
    pub(super) view: View,
    /// Its lowest layer alone.
    pub(super) base: View,
    pub(super) images: Vec<PathBuf>,
    /// The images' file names, as text.
    pub(super) names: Vec<String>,
    pub(super) accounts: Accounts,
}

impl Subject {
    /// A node where the root, or the base alone, has one.
    pub(super) fn find(&self, path: &[u8], gone: bool) -> Option<Node> {
        let view = if gone { &self.base } else { &self.view };
        view.find(path, Follow::No).ok().flatten()
    }
}

/// How the root differs from the base.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) by_path: HashMap<Vec<u8>, Change>,
    /// The changed paths, as a walk meets them.
    pub(super) order: Vec<Vec<u8>>,
    /// What is deleted in each directory, by name.
    pub(super) gone: HashMap<Vec<u8>, Vec<Node>>,
    /// How many changes there are beneath each directory.
    pub(super) beneath: HashMap<Vec<u8>, u64>,
    /// Added, changed, deleted.
    pub(super) counts: [u64; 3],
}

/// What is in a directory and beneath.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    pub(super) files: u64,
}

/// What the count has come to so far.
#[derive(Debug, Default)]
pub(super) struct Sums {
    /// Of the directories that were counted to their end.
    done: Mutex<HashMap<Vec<u8>, Sum>>,
    pub(super) names: AtomicU64,
}

impl Sums {
    pub(super) fn of(&self, dir: &[u8]) -> Option<Sum> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).get(dir).copied()
    }
}

/// Something that is to be found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Changes,
    Sums,
    Owners,
    Check,
    /// All paths with this in their names.
    Find(String),
    /// The text of a file, or how it differs from the base's.
    Text(Vec<u8>),
    /// The digest of a file.
    Digest(Vec<u8>),
}

/// Something that was found out.
#[derive(Debug)]
pub(super) enum News {
    Changes(Changes),
    /// The count goes on.
    Counting,
    /// All is counted; the big files.
    Counted(Vec<Vec<u8>>),
    Owners(Owners),
    Checked(Box<Report>),
    /// What was searched for, and where it is.
    Found(String, Vec<Vec<u8>>),
    /// A path, and lines of its text.
    Text(Vec<u8>, Vec<String>),
    Digest(Vec<u8>, String),
    /// Something could not be found out.
    Failed(String),
}

impl Job {
    /// Does it.
    pub(super) fn run(&self, subject: &Subject, sums: &Sums, send: &dyn Fn(News)) {
        let failed = |what: &str, error: &dyn std::fmt::Display| {
            News::Failed(format!("{what}: {}", plain(&error.to_string())))
        };
        let news = match self {
            Job::Changes => changes(subject)
                .map_or_else(|error| failed("cannot compare", &error), News::Changes),
            Job::Sums => count(subject, sums, send)
                .map_or_else(|error| failed("cannot count", &error), News::Counted),
            Job::Owners => owners(subject)
                .map_or_else(|error| failed("cannot read the packages", &error), News::Owners),
            Job::Check => match judge(&subject.images) {
                Ok(report) => News::Checked(Box::new(report)),
                Err(error) => failed("cannot check", &error),
            },
            Job::Find(needle) => match find(subject, needle) {
                Ok(found) => News::Found(needle.clone(), found),
                Err(error) => failed("cannot search", &error),
            },
            Job::Text(path) => match read(subject, path) {
                Ok(lines) => News::Text(path.clone(), lines),
                Err(error) => failed("cannot read", &error),
            },
            Job::Digest(path) => {
                match subject.find(path, false).map(|node| subject.view.digest(&node)) {
                    Some(Ok(digest)) => News::Digest(path.clone(), hex(&digest)),
                    Some(Err(error)) => failed("cannot read", &error),
                    None => return,
                }
            }
        };
        send(news);
    }

    /// Does it in a thread of its own.
    pub(super) fn start(
        self,
        subject: &Arc<Subject>,
        sums: &Arc<Sums>,
        send: impl Fn(News) + Send + 'static,
    ) {
        let (subject, sums) = (subject.clone(), sums.clone());
        std::thread::spawn(move || self.run(&subject, &sums, &send));
    }
}

fn changes(subject: &Subject) -> Result<Changes, LookError> {
    let mut changes = Changes::default();
    if subject.names.len() == 1 {
        return Ok(changes);
    }
    let options = Options { within_deleted: true, ..Options::default() };
    Diff::new(&subject.base, &subject.view, options).changes(&mut |change| {
        let path = change.path().to_vec();
        let count = match change.kind {
            Kind::Added => 0,
            Kind::Changed => 1,
            Kind::Deleted => 2,
        };
        changes.counts[count] += 1;
        let mut above = path.as_slice();
        while !above.is_empty() {
            above = parent(above);
            *changes.beneath.entry(above.to_vec()).or_default() += 1;
        }
        if let (None, Some(old)) = (&change.new, &change.old) {
            changes.gone.entry(parent(&path).to_vec()).or_default().push(old.clone());
        }
        changes.order.push(path.clone());
        changes.by_path.insert(path, change.clone());
        Ok::<_, LookError>(Walk::Into)
    })?;
    Ok(changes)
}

/// The path of the directory that a path is in.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash])
}

/// Sums up all directories; the big files.
fn count(subject: &Subject, sums: &Sums, send: &dyn Fn(News)) -> Result<Vec<Vec<u8>>, LookError> {
    let mut big = Vec::new();
    let mut links: HashSet<Source> = HashSet::new();
    // The directories on the way, and what has been counted of them.
    let mut way: Vec<(Vec<u8>, Sum)> = Vec::new();
    let mut told = Instant::now();
    let close = |way: &mut Vec<(Vec<u8>, Sum)>| {
        let Some((path, sum)) = way.pop() else { return };
        if let Some((_, above)) = way.last_mut() {
            above.bytes = above.bytes.saturating_add(sum.bytes);
            above.files += sum.files;
        }
        sums.done.lock().unwrap_or_else(PoisonError::into_inner).insert(path, sum);
    };
    subject.view.walk(&subject.view.root()?, &mut |node| {
        let names = sums.names.fetch_add(1, Ordering::Relaxed);
        if names.is_multiple_of(256) && told.elapsed() > TICK {
            told = Instant::now();
            send(News::Counting);
        }
        while way.last().is_some_and(|(dir, _)| !dir.is_empty() && parent(&node.path) != dir) {
            close(&mut way);
        }
        if node.is_dir() {
            way.push((node.path.clone(), Sum::default()));
        } else if let Some((_, sum)) = way.last_mut() {
            sum.files += 1;
            if node.is_file() && (node.attr.nlink < 2 || links.insert(node.found.source())) {
                sum.bytes = sum.bytes.saturating_add(node.attr.size);
                if node.attr.size >= BIG {
                    big.push(node.path.clone());
                }
            }
        }
        Ok::<_, LookError>(Walk::Into)
    })?;
    while !way.is_empty() {
        close(&mut way);
    }
    Ok(big)
}

fn owners(subject: &Subject) -> Result<Owners, LookError> {
    Packages::read(&subject.view)?.owners(&subject.view)
}

fn find(subject: &Subject, needle: &str) -> Result<Vec<Vec<u8>>, LookError> {
    // As vi and less do it: capitals matter when one is typed.
    let exact = needle.chars().any(char::is_uppercase);
    let matches = |path: &[u8]| {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let text = if needle.contains('/') {
            format!("/{}", shown(path))
        } else {
            shown(name).into_owned()
        };
        if exact { text.contains(needle) } else { text.to_lowercase().contains(needle) }
    };
    let mut found = Vec::new();
    let mut look = |node: &Node| {
        if matches(&node.path) {
            found.push(node.path.clone());
        }
        Ok::<_, LookError>(if found.len() < MOST_FOUND { Walk::Into } else { Walk::Stop })
    };
    subject.view.walk(&subject.view.root()?, &mut look)?;
    if subject.names.len() > 1 {
        let options = Options { within_deleted: true, ..Options::default() };
        Diff::new(&subject.base, &subject.view, options).changes(
            &mut |change| match &change.new {
                None => change.old.as_ref().map_or(Ok(Walk::Into), &mut look),
                Some(_) => Ok(Walk::Into),
            },
        )?;
    }
    found.sort_by(|a, b| names(a).cmp(names(b)));
    Ok(found)
}

/// The names of a path, so that paths compare as a walk meets them.
pub(super) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
}

/// The text of a file, or of its difference to what the base has there.
fn read(subject: &Subject, path: &[u8]) -> Result<Vec<String>, LookError> {
    let old = subject.base.find(path, Follow::No)?.filter(Node::is_file);
    let new = subject.view.find(path, Follow::No)?.filter(Node::is_file);
    let (mut old, new) =
        (old.map(|node| (&subject.base, node)), new.map(|node| (&subject.view, node)));
    // The same: then it is all there is to show.
    let same = match (&old, &new) {
        (Some((_, old)), Some((_, new))) => old.found == new.found,
        (None, None) => return Ok(vec!["This is no file: there is nothing to read.".to_owned()]),
        _ => false,
    };
    if same {
        old = None;
    }
    let text = text::unified(
        old.as_ref().map(|(view, node)| (*view, node)),
        new.as_ref().map(|(view, node)| (*view, node)),
    )?;
    Ok(match text {
        Text::Unified(text) if text.is_empty() => vec!["The contents are the same.".to_owned()],
        Text::Unified(text) => {
            let lines = text.split(|&byte| byte == b'\n').map(line);
            // A file that is as it was has only itself: not as a difference to nothing.
            let lines: Vec<String> = match same {
                true => lines
                    .skip(3)
                    .filter(|line| !line.starts_with("\\ "))
                    .map(|line| line.get(1..).unwrap_or_default().to_owned())
                    .collect(),
                false => lines.collect(),
            };
            cut(lines)
        }
        Text::Binary => vec!["This is no text: it has bytes that no text has.".to_owned()],
        Text::Large => {
            vec![format!("It is too large to be shown: more than {} bytes.", text::MOST)]
        }
    })
}

fn cut(mut lines: Vec<String>) -> Vec<String> {
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    if lines.len() > MOST_LINES {
        let more = lines.len() - MOST_LINES;
        lines.truncate(MOST_LINES);
        lines.push(format!("…and {more} more lines"));
    }
    lines
}

/// A line of a file as a terminal may have it.
fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    plain(&text.replace('\t', "        ")).into_owned()
}

/// All that is to be found out from the beginning.
pub(super) fn first(check: bool) -> Vec<Job> {
    let mut jobs = vec![Job::Changes, Job::Sums, Job::Owners];
    if check {
        jobs.push(Job::Check);
    }
    jobs
}

/// The directories on the way to a path, the root first.
pub(super) fn way(path: &[u8]) -> Vec<Vec<u8>> {
    let mut way = vec![Vec::new()];
    for name in names(path).filter(|name| !name.is_empty()) {
        let last = way.last().map_or_else(Vec::new, |dir: &Vec<u8>| join(dir, name));
        way.push(last);
    }
    way.pop();
    way
}
