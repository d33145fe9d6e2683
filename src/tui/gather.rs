//! Jobs that take time: threads that read the images and send results to the main loop.
//!
//! All threads share one [`InspectedStack`], which never changes. A thread runs until its job is
//! done or the process exits.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fs_model::stack::LowerInode;
use fs_model::tree::Follow;

use crate::check::{CheckReport, LintSelection};
use crate::image::diff::text::{self, TextComparison};
use crate::image::diff::{ChangeKind, Diff, DiffOptions, PathChange};
use crate::image::view::accounts::Accounts;
use crate::image::view::packages::{DpkgDatabase, PackageOwners};
use crate::image::view::{LookError, StackView, ViewNode, WalkControl, join};
use crate::report::{check_images, plain, shown};
use crate::text::digest::hex;
use crate::text::error::describe;
use crate::text::list;

/// Minimum size of a big file, in bytes.
const MIN_BIG_FILE_BYTES: u64 = 1_000_000;
/// Interval between progress messages of the count.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Maximum number of matches of a search.
const MAX_MATCHES: usize = 10_000;
/// Maximum number of lines shown of a file.
const MAX_LINES: usize = 50_000;

/// The inspected stack.
#[derive(Debug)]
pub(crate) struct InspectedStack {
    pub(crate) view: StackView,
    /// The lowest layer alone.
    pub(crate) base: StackView,
    pub(crate) images: Vec<PathBuf>,
    /// The images' file names, as text.
    pub(crate) names: Vec<String>,
    pub(crate) accounts: Accounts,
    /// The lints of the check, with the project's suppressions.
    pub(crate) selection: LintSelection,
}

impl InspectedStack {
    /// Finds a node in the merged root, or in the base alone if `gone`.
    pub(crate) fn find(&self, path: &[u8], gone: bool) -> Option<ViewNode> {
        let view = if gone { &self.base } else { &self.view };
        view.find(path, Follow::No).ok().flatten()
    }
}

/// Differences between the base and the merged root.
#[derive(Debug, Default)]
pub(crate) struct StackChanges {
    pub(crate) by_path: HashMap<Vec<u8>, PathChange>,
    /// The changed paths in tree order.
    pub(crate) order: Vec<Vec<u8>>,
    /// Deleted nodes by the path of their directory.
    pub(crate) gone: HashMap<Vec<u8>, Vec<ViewNode>>,
    /// Number of changes inside each directory, recursively.
    pub(crate) counts_below: HashMap<Vec<u8>, u64>,
    /// Numbers of added, changed and deleted paths.
    pub(crate) counts: [u64; 3],
}

/// Usage of a directory, recursively.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DirUsage {
    pub(crate) bytes: u64,
    pub(crate) files: u64,
}

/// Results of the count so far.
#[derive(Debug, Default)]
pub(crate) struct UsageCounts {
    /// Usage of the directories that are completely counted.
    done: Mutex<HashMap<Vec<u8>, DirUsage>>,
    /// Number of names counted.
    pub(crate) names: AtomicU64,
}

impl UsageCounts {
    pub(crate) fn get(&self, dir: &[u8]) -> Option<DirUsage> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner).get(dir).copied()
    }
}

/// A job for a background thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum InspectJob {
    Changes,
    Sums,
    PackageOwners,
    Check,
    /// Find all paths whose names contain this text.
    Find(String),
    /// Read a file, or compare it with the base's.
    Text(Vec<u8>),
    /// Compute the digest of a file.
    Digest(Vec<u8>),
}

/// The result of a job, or its progress.
#[derive(Debug)]
pub(crate) enum JobResult {
    Changes(StackChanges),
    /// Progress of the count.
    Counting,
    /// The count is complete; paths of the big files.
    Counted(Vec<Vec<u8>>),
    PackageOwners(PackageOwners),
    Checked(Box<CheckReport>),
    /// A search text, and the paths that match.
    Found(String, Vec<Vec<u8>>),
    /// A path, and its lines.
    Text(Vec<u8>, Vec<String>),
    Digest(Vec<u8>, String),
    /// Error message of a failed job.
    Failed(String),
}

impl InspectJob {
    /// Runs the job in this thread.
    pub(crate) fn run(
        &self,
        subject: &InspectedStack,
        sums: &UsageCounts,
        send: &dyn Fn(JobResult),
    ) {
        let failed = |action: &str, error: &dyn std::error::Error| {
            JobResult::Failed(format!("cannot {action}: {}", plain(&describe(error))))
        };
        let news = match self {
            InspectJob::Changes => {
                changes(subject).map_or_else(|error| failed("compare", &error), JobResult::Changes)
            }
            InspectJob::Sums => count(subject, sums, send)
                .map_or_else(|error| failed("count sizes", &error), JobResult::Counted),
            InspectJob::PackageOwners => owners(subject).map_or_else(
                |error| failed("read the package database", &error),
                JobResult::PackageOwners,
            ),
            InspectJob::Check => match check_images(&subject.images, &subject.selection) {
                Ok(report) => JobResult::Checked(Box::new(report)),
                Err(error) => failed("check", &error),
            },
            InspectJob::Find(needle) => match find(subject, needle) {
                Ok(found) => JobResult::Found(needle.clone(), found),
                Err(error) => failed("search", &error),
            },
            InspectJob::Text(path) => match read(subject, path) {
                Ok(lines) => JobResult::Text(path.clone(), lines),
                Err(error) => failed("read", &error),
            },
            InspectJob::Digest(path) => {
                match subject.find(path, false).map(|node| subject.view.digest(&node)) {
                    Some(Ok(digest)) => JobResult::Digest(path.clone(), hex(&digest)),
                    Some(Err(error)) => failed("read", &error),
                    None => return,
                }
            }
        };
        send(news);
    }

    /// Runs the job in a new thread.
    pub(crate) fn start(
        self,
        subject: &Arc<InspectedStack>,
        sums: &Arc<UsageCounts>,
        send: impl Fn(JobResult) + Send + 'static,
    ) {
        let (subject, sums) = (subject.clone(), sums.clone());
        std::thread::spawn(move || self.run(&subject, &sums, &send));
    }
}

fn changes(subject: &InspectedStack) -> Result<StackChanges, LookError> {
    let mut changes = StackChanges::default();
    if subject.names.len() == 1 {
        return Ok(changes);
    }
    let options = DiffOptions { within_deleted: true, ..DiffOptions::default() };
    Diff::new(&subject.base, &subject.view, options).changes(&mut |change| {
        let path = change.path().to_vec();
        let count = match change.kind {
            ChangeKind::Added => 0,
            ChangeKind::Changed => 1,
            ChangeKind::Deleted => 2,
        };
        changes.counts[count] += 1;
        let mut above = path.as_slice();
        while !above.is_empty() {
            above = parent(above);
            *changes.counts_below.entry(above.to_vec()).or_default() += 1;
        }
        if let (None, Some(old)) = (&change.new, &change.old) {
            changes.gone.entry(parent(&path).to_vec()).or_default().push(old.clone());
        }
        changes.order.push(path.clone());
        changes.by_path.insert(path, change.clone());
        Ok::<_, LookError>(WalkControl::Into)
    })?;
    Ok(changes)
}

/// Returns the parent of a path.
pub(crate) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |slash| &path[..slash])
}

/// Counts the usage of all directories into `sums`, and returns the paths of big files.
fn count(
    subject: &InspectedStack,
    sums: &UsageCounts,
    send: &dyn Fn(JobResult),
) -> Result<Vec<Vec<u8>>, LookError> {
    let mut big = Vec::new();
    let mut links: HashSet<LowerInode> = HashSet::new();
    // The current directory and its parents, with their usage so far.
    let mut open: Vec<(Vec<u8>, DirUsage)> = Vec::new();
    let mut last_progress = Instant::now();
    let close = |open: &mut Vec<(Vec<u8>, DirUsage)>| {
        let Some((path, sum)) = open.pop() else { return };
        if let Some((_, parent)) = open.last_mut() {
            parent.bytes = parent.bytes.saturating_add(sum.bytes);
            parent.files += sum.files;
        }
        sums.done.lock().unwrap_or_else(PoisonError::into_inner).insert(path, sum);
    };
    subject.view.walk(&subject.view.root()?, &mut |node| {
        let names = sums.names.fetch_add(1, Ordering::Relaxed);
        if names.is_multiple_of(256) && last_progress.elapsed() > PROGRESS_INTERVAL {
            last_progress = Instant::now();
            send(JobResult::Counting);
        }
        while open.last().is_some_and(|(dir, _)| !dir.is_empty() && parent(&node.path) != dir) {
            close(&mut open);
        }
        if node.is_dir() {
            open.push((node.path.clone(), DirUsage::default()));
        } else if let Some((_, sum)) = open.last_mut() {
            sum.files += 1;
            if node.is_file() && (node.attr.nlink < 2 || links.insert(node.found.source())) {
                sum.bytes = sum.bytes.saturating_add(node.attr.size);
                if node.attr.size >= MIN_BIG_FILE_BYTES {
                    big.push(node.path.clone());
                }
            }
        }
        Ok::<_, LookError>(WalkControl::Into)
    })?;
    while !open.is_empty() {
        close(&mut open);
    }
    Ok(big)
}

fn owners(subject: &InspectedStack) -> Result<PackageOwners, LookError> {
    DpkgDatabase::read(&subject.view)?.owners(&subject.view)
}

fn find(subject: &InspectedStack, needle: &str) -> Result<Vec<Vec<u8>>, LookError> {
    // Smart case, as in vim and less: a search text with upper-case letters is case-sensitive.
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
    let mut look = |node: &ViewNode| {
        if matches(&node.path) {
            found.push(node.path.clone());
        }
        Ok::<_, LookError>(if found.len() < MAX_MATCHES {
            WalkControl::Into
        } else {
            WalkControl::Stop
        })
    };
    subject.view.walk(&subject.view.root()?, &mut look)?;
    if subject.names.len() > 1 {
        let options = DiffOptions { within_deleted: true, ..DiffOptions::default() };
        Diff::new(&subject.base, &subject.view, options).changes(
            &mut |change| match &change.new {
                None => change.old.as_ref().map_or(Ok(WalkControl::Into), &mut look),
                Some(_) => Ok(WalkControl::Into),
            },
        )?;
    }
    found.sort_by(|a, b| names(a).cmp(names(b)));
    Ok(found)
}

/// Returns the names of a path. Comparing paths by their names gives tree order.
pub(crate) fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
}

/// Reads the lines of a file, or of its difference from the base's file.
fn read(subject: &InspectedStack, path: &[u8]) -> Result<Vec<String>, LookError> {
    let old = subject.base.find(path, Follow::No)?.filter(ViewNode::is_file);
    let new = subject.view.find(path, Follow::No)?.filter(ViewNode::is_file);
    let (mut old, new) =
        (old.map(|node| (&subject.base, node)), new.map(|node| (&subject.view, node)));
    // An unchanged file has no difference, so its content is shown.
    let same = match (&old, &new) {
        (Some((_, old)), Some((_, new))) => old.found == new.found,
        (None, None) => return Ok(vec!["Not a regular file.".to_owned()]),
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
        TextComparison::Unified(text) if text.is_empty() => {
            vec!["The content is unchanged.".to_owned()]
        }
        TextComparison::Unified(text) => {
            let lines = text.split(|&byte| byte == b'\n').map(line);
            // For an unchanged file, remove the headers and marks of the difference to no file.
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
        TextComparison::Binary => vec!["Binary file.".to_owned()],
        TextComparison::Large => {
            vec![format!("The file is too large to show: more than {} bytes.", text::MAX_TEXT_SIZE)]
        }
    })
}

fn cut(mut lines: Vec<String>) -> Vec<String> {
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let shown = list::shown(lines.len(), MAX_LINES);
    if let more @ 1.. = lines.len() - shown {
        lines.truncate(shown);
        lines.push(format!("…and {more} more lines"));
    }
    lines
}

/// Makes a line of a file safe for the terminal.
fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    plain(&text.replace('\t', "        ")).into_owned()
}

/// Returns the jobs to start with.
pub(crate) fn initial_jobs(check: bool) -> Vec<InspectJob> {
    let mut jobs = vec![InspectJob::Changes, InspectJob::Sums, InspectJob::PackageOwners];
    if check {
        jobs.push(InspectJob::Check);
    }
    jobs
}

/// Returns the parent directories of a path, the root first.
pub(crate) fn ancestors(path: &[u8]) -> Vec<Vec<u8>> {
    let mut dirs = vec![Vec::new()];
    for name in names(path).filter(|name| !name.is_empty()) {
        let next = dirs.last().map_or_else(Vec::new, |dir: &Vec<u8>| join(dir, name));
        dirs.push(next);
    }
    dirs.pop();
    dirs
}
