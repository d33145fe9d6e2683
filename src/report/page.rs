//! The output of `inspect --html`: a self-contained HTML page.
//!
//! Invariants:
//! - The same model produces the same bytes: the page contains neither times nor host names.
//! - Data from images is JSON in an element that browsers do not execute. Every `<` in it is
//!   escaped, so that it cannot end the element, and it is displayed as text only. The page's
//!   policy allows its own script and style, by their digests, and nothing else: no other script
//!   and no request.
//! - The number of unchanged items on the page is bounded ([`MAX_UNCHANGED`]): small ones are
//!   summed by directory. All changes by the overlays are included.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use data_encoding::BASE64;
use fs_model::{Attr, FileType};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::model::{InspectItem, Model};
use super::{plain, shown};
use crate::check::CheckReport;
use crate::image::diff::{Aspect, ChangeKind};

/// Maximum number of unchanged items on a page.
pub(crate) const MAX_UNCHANGED: usize = 50_000;
/// Maximum number of findings of one lint on a page; the total number is included as well.
pub(crate) const MAX_FINDINGS: u64 = 1000;

const SHELL: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// The parts of the script, in this order.
const SCRIPT: [&str; 6] = [
    include_str!("page/data.js"),
    include_str!("page/treemap.js"),
    include_str!("page/table.js"),
    include_str!("page/details.js"),
    include_str!("page/findings.js"),
    include_str!("page/main.js"),
];

/// An image of the stack, for the head of the page.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct PageImage {
    /// Its file name.
    pub name: String,
    /// Bytes of the file; `None` for a directory.
    pub size: Option<u64>,
    /// The SHA-256 of the file in hexadecimal; `None` for a directory.
    pub sha256: Option<String>,
}

/// A lint with findings.
#[derive(Serialize)]
struct LintSummary {
    name: &'static str,
    summary: &'static str,
    why: &'static str,
    /// The number of findings by severity.
    counts: BTreeMap<&'static str, u64>,
}

/// A finding on the page.
#[derive(Serialize)]
struct PageFinding<'a> {
    severity: &'static str,
    /// An index into [`CheckData::lints`].
    lint: usize,
    path: Option<String>,
    layer: Cow<'a, str>,
    text: Cow<'a, str>,
    fix: Cow<'a, str>,
    saves: Option<u64>,
}

/// The result of a check on the page, with at most [`MAX_FINDINGS`] findings per lint.
#[derive(Serialize)]
struct CheckData<'a> {
    lints: Vec<LintSummary>,
    findings: Vec<PageFinding<'a>>,
    /// The lints that could not run, with the reasons.
    not_run: Vec<(String, Cow<'a, str>)>,
}

impl<'a> From<&'a CheckReport> for CheckData<'a> {
    fn from(report: &'a CheckReport) -> Self {
        let mut lints: Vec<LintSummary> = Vec::new();
        let mut places: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut findings = Vec::new();
        for finding in &report.findings {
            let severity = finding.severity.word();
            let lint = *places.entry(finding.lint.name).or_insert_with(|| {
                let (summary, why) = (finding.lint.summary, finding.lint.why);
                let counts = BTreeMap::new();
                lints.push(LintSummary { name: finding.lint.name, summary, why, counts });
                lints.len() - 1
            });
            *lints[lint].counts.entry(severity).or_default() += 1;
            if lints[lint].counts.values().sum::<u64>() > MAX_FINDINGS {
                continue;
            }
            findings.push(PageFinding {
                severity,
                lint,
                path: finding.path.as_ref().map(|path| format!("/{}", shown(path))),
                // The file name only, as in the head of the page: the path is specific to the host.
                layer: plain(finding.layer.rsplit('/').next().unwrap_or_default()),
                text: plain(&finding.message),
                fix: plain(&finding.fix),
                saves: finding.saves,
            });
        }
        let not_run = report.not_run.iter();
        let not_run = not_run.map(|not| (not.lints.join(", "), plain(&not.reason))).collect();
        CheckData { lints, findings, not_run }
    }
}

#[derive(Serialize)]
struct PageData<'a> {
    schema: u32,
    layers: &'a [PageImage],
    aspects: [&'static str; Aspect::ALL.len()],
    packages: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    nodes: ItemColumns<'a>,
    changes: ChangeColumns<'a>,
    /// `None` if no check was made.
    check: Option<CheckData<'a>>,
}

/// The columns of the table of items; the first row is the root.
#[derive(Default, Serialize)]
struct ItemColumns<'a> {
    parent: Vec<u32>,
    name: Vec<Cow<'a, str>>,
    bytes: Vec<u64>,
    layer: Vec<u16>,
    package: Vec<i64>,
    /// One letter each, as in `ls` and `find`; `+` is a sum of small files.
    kind: String,
    /// One letter each: `A`dded, `M`odified, `D`eleted, `.` for unchanged.
    change: String,
}

/// The columns of further data about changed items.
#[derive(Default, Serialize)]
struct ChangeColumns<'a> {
    node: Vec<u32>,
    /// Type, bytes, mode, uid and gid.
    is: Vec<AttrRow>,
    was: Vec<Option<AttrRow>>,
    /// One bit for each of [`PageData::aspects`], beginning with the lowest.
    aspects: Vec<u16>,
    target: Vec<Option<Cow<'a, str>>>,
    /// Lines of the text difference, if there is one.
    text: Vec<Option<Vec<Cow<'a, str>>>>,
}

type AttrRow = (char, u64, u16, u32, u32);

/// Writes the page.
///
/// # Errors
/// Fails if writing to `out` fails.
pub(crate) fn write(
    out: &mut dyn Write,
    model: &Model,
    images: &[PageImage],
    report: Option<&CheckReport>,
) -> io::Result<()> {
    let (nodes, changes) = columns(model, MAX_UNCHANGED);
    let data = PageData {
        schema: 1,
        layers: images,
        aspects: Aspect::ALL.map(Aspect::word),
        packages: model.packages.iter().map(|(n, v)| (plain(n), plain(v))).collect(),
        nodes,
        changes,
        check: report.map(CheckData::from),
    };
    let script = format!("\"use strict\";\n{}", SCRIPT.concat());
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        BASE64.encode(&Sha256::digest(&script)),
        BASE64.encode(&Sha256::digest(STYLE))
    );
    let mut rest = SHELL;
    let mut until = |out: &mut dyn Write, mark: &str| {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        rest = after;
        out.write_all(before.as_bytes())
    };
    for (mark, text) in [("{policy}", &*policy), ("{style}", STYLE)] {
        until(out, mark)?;
        out.write_all(text.as_bytes())?;
    }
    until(out, "{data}")?;
    serde_json::to_writer(ScriptEscaper(&mut *out), &data)?;
    until(out, "{script}")?;
    out.write_all(script.as_bytes())?;
    out.write_all(rest.as_bytes())
}

/// Returns the columns of all changed and the largest unchanged items.
fn columns(model: &Model, most: usize) -> (ItemColumns<'_>, ChangeColumns<'_>) {
    let items = &model.items;
    let has_row = select_rows(items, most);
    let (mut nodes, mut changes) = (ItemColumns::default(), ChangeColumns::default());
    // For each item: its row, or the row of the nearest parent directory that has one.
    let mut rows: Vec<u32> = Vec::with_capacity(items.len());
    let mut small: BTreeMap<(u32, u16, i64), (u64, u64)> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let parent = if index == 0 { 0 } else { rows[item.parent as usize] };
        let package = item.package.map_or(-1, i64::from);
        if !has_row[index] {
            if item.attr.kind != FileType::Directory {
                let (count, bytes) = small.entry((parent, item.layer, package)).or_default();
                *count += 1;
                *bytes = bytes.saturating_add(item.bytes);
            }
            rows.push(parent);
            continue;
        }
        let row = nodes.parent.len() as u32;
        rows.push(row);
        nodes.push(parent, shown(&item.name), item.bytes, item.layer, package);
        nodes.kind.push(letter(item.attr.kind));
        nodes.change.push(match item.change {
            None => '.',
            Some(ChangeKind::Added) => 'A',
            Some(ChangeKind::Changed) => 'M',
            Some(ChangeKind::Deleted) => 'D',
        });
        if item.change.is_some() {
            changes.push(row, item);
        }
    }
    for ((parent, layer, package), (count, bytes)) in small {
        nodes.push(parent, count.to_string().into(), bytes, layer, package);
        nodes.kind.push('+');
        nodes.change.push('.');
    }
    (nodes, changes)
}

/// Determines which items have a row: changed ones, the largest unchanged ones, and their parent
/// directories.
fn select_rows(items: &[InspectItem], most: usize) -> Vec<bool> {
    let same = |item: &&InspectItem| item.change.is_none() && item.attr.kind != FileType::Directory;
    let mut sizes: Vec<u64> = items.iter().filter(same).map(|item| item.bytes).collect();
    let threshold = match sizes.len() > most {
        true => {
            let nth = sizes.len() - most;
            // Only larger files are kept, so that many files of this size do not exceed `most`.
            Some(*sizes.select_nth_unstable(nth).1)
        }
        false => None,
    };
    let mut has_row = vec![false; items.len()];
    for (index, item) in items.iter().enumerate().rev() {
        let large = match item.attr.kind {
            FileType::Directory => threshold.is_none(),
            _ => threshold.is_none_or(|threshold| item.bytes > threshold),
        };
        if index == 0 || item.change.is_some() || large {
            has_row[index] = true;
        }
        if has_row[index] {
            // Parents precede their entries, so they are still to be visited.
            has_row[item.parent as usize] = true;
        }
    }
    has_row
}

impl<'a> ItemColumns<'a> {
    fn push(&mut self, parent: u32, name: Cow<'a, str>, bytes: u64, layer: u16, package: i64) {
        self.parent.push(parent);
        self.name.push(name);
        self.bytes.push(bytes);
        self.layer.push(layer);
        self.package.push(package);
    }
}

impl<'a> ChangeColumns<'a> {
    fn push(&mut self, row: u32, item: &'a InspectItem) {
        self.node.push(row);
        self.is.push(facts(&item.attr));
        self.was.push(item.before.as_ref().map(facts));
        self.aspects.push(item.what.iter().map(|aspect| 1 << aspect as u16).sum());
        self.target.push(item.target.as_deref().map(shown));
        // The first two lines are the file names.
        let lines = |text: &'a str| text.lines().skip(2).map(plain).collect();
        self.text.push(item.text.as_deref().map(lines));
    }
}

fn facts(attr: &Attr) -> AttrRow {
    let size = if attr.kind == FileType::Directory { 0 } else { attr.size };
    (letter(attr.kind), size, attr.mode, attr.uid, attr.gid)
}

fn letter(kind: FileType) -> char {
    match kind {
        FileType::Regular => 'f',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
    }
}

/// Escapes `<` in JSON within a script element, where it could begin an end tag. In JSON, it occurs
/// only in strings.
struct ScriptEscaper<W>(W);

impl<W: Write> Write for ScriptEscaper<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut parts = data.split(|&byte| byte == b'<');
        if let Some(first) = parts.next() {
            self.0.write_all(first)?;
        }
        for part in parts {
            self.0.write_all(b"\\u003c")?;
            self.0.write_all(part)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
