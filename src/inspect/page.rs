//! The picture as one HTML page that needs nothing else: not the network, not this program.
//!
//! Invariants:
//! - The page is the same bytes for the same picture: it has no time and no host in it.
//! - What comes from images is data: JSON in an element that no browser executes, with every `<`
//!   escaped so that it cannot end there, and shown as text only. The page's policy allows its own
//!   script and style, by their digests, and nothing else: no other script, no request.
//! - The page has a bounded number of names that are the base's own ([`MOST_SAME`]): what is small
//!   there is summed up by directory. All that the overlays change is in it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};

use fs_model::{Attr, FileType};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::model::{Item, Model};
use super::{plain, shown};
use crate::check::CheckReport;
use crate::diff::{Aspect, Kind};

/// How many unchanged names a page has at the most.
pub const MOST_SAME: usize = 50_000;
/// How many findings of one lint a page has at the most; how many there are it says.
pub const MOST_FOUND: u64 = 1000;

const SHELL: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// In this order one script.
const SCRIPT: [&str; 6] = [
    include_str!("page/data.js"),
    include_str!("page/treemap.js"),
    include_str!("page/table.js"),
    include_str!("page/details.js"),
    include_str!("page/findings.js"),
    include_str!("page/main.js"),
];

/// An image of the stack, as the page's head tells of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Image {
    /// Its file name.
    pub name: String,
    /// Bytes of the file; none for a directory.
    pub size: Option<u64>,
    /// The SHA-256 of the file in hexadecimal digits; none for a directory.
    pub sha256: Option<String>,
}

/// A lint that found something.
#[derive(Serialize)]
struct Lint {
    name: &'static str,
    summary: &'static str,
    why: &'static str,
    /// How many findings of each severity it has, by their words.
    counts: BTreeMap<&'static str, u64>,
}

/// A finding as the page has it.
#[derive(Serialize)]
struct Found<'a> {
    severity: &'static str,
    /// Its place in [`Check::lints`].
    lint: usize,
    path: Option<String>,
    layer: Cow<'a, str>,
    text: Cow<'a, str>,
    fix: Cow<'a, str>,
    saves: Option<u64>,
}

/// What a check came to, as the page has it: of each lint at the most [`MOST_FOUND`] findings.
#[derive(Serialize)]
struct Check<'a> {
    lints: Vec<Lint>,
    findings: Vec<Found<'a>>,
    /// The lints that could not run, and why.
    not_run: Vec<(String, Cow<'a, str>)>,
}

impl<'a> From<&'a CheckReport> for Check<'a> {
    fn from(report: &'a CheckReport) -> Self {
        let mut lints: Vec<Lint> = Vec::new();
        let mut places: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut findings = Vec::new();
        for finding in &report.findings {
            let severity = finding.severity.word();
            let lint = *places.entry(finding.lint.name).or_insert_with(|| {
                let (summary, why) = (finding.lint.summary, finding.lint.why);
                let counts = BTreeMap::new();
                lints.push(Lint { name: finding.lint.name, summary, why, counts });
                lints.len() - 1
            });
            *lints[lint].counts.entry(severity).or_default() += 1;
            if lints[lint].counts.values().sum::<u64>() > MOST_FOUND {
                continue;
            }
            findings.push(Found {
                severity,
                lint,
                path: finding.path.as_ref().map(|path| format!("/{}", shown(path))),
                // As the head of the page names it: without the path that is only this host's.
                layer: plain(finding.layer.rsplit('/').next().unwrap_or_default()),
                text: plain(&finding.message),
                fix: plain(&finding.fix),
                saves: finding.saves,
            });
        }
        let not_run = report.not_run.iter();
        let not_run = not_run.map(|not| (not.lints.join(", "), plain(&not.reason))).collect();
        Check { lints, findings, not_run }
    }
}

#[derive(Serialize)]
struct Data<'a> {
    schema: u32,
    layers: &'a [Image],
    aspects: [&'static str; Aspect::ALL.len()],
    packages: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    nodes: Nodes<'a>,
    changes: Changes<'a>,
    /// None: nothing was checked.
    check: Option<Check<'a>>,
}

/// The names, each a row of these columns; the first is the root.
#[derive(Default, Serialize)]
struct Nodes<'a> {
    parent: Vec<u32>,
    name: Vec<Cow<'a, str>>,
    bytes: Vec<u64>,
    layer: Vec<u16>,
    package: Vec<i64>,
    /// A letter each, as `ls` and `find` have them; `+` is the sum of what is small.
    kind: String,
    /// A letter each: `A`dded, `M`odified, `D`eleted, `.`.
    change: String,
}

/// More of those that are changed.
#[derive(Default, Serialize)]
struct Changes<'a> {
    node: Vec<u32>,
    /// Type, bytes, mode, uid, gid.
    is: Vec<Facts>,
    was: Vec<Option<Facts>>,
    /// A bit for each of [`Data::aspects`], the first one the lowest.
    aspects: Vec<u16>,
    target: Vec<Option<Cow<'a, str>>>,
    /// Lines of differences, as far as there are any.
    text: Vec<Option<Vec<Cow<'a, str>>>>,
}

type Facts = (char, u64, u16, u32, u32);

/// Writes the page.
///
/// # Errors
/// What `out` fails with.
pub fn write(
    out: &mut dyn Write,
    model: &Model,
    images: &[Image],
    report: Option<&CheckReport>,
) -> io::Result<()> {
    let (nodes, changes) = columns(model, MOST_SAME);
    let data = Data {
        schema: 1,
        layers: images,
        aspects: Aspect::ALL.map(Aspect::word),
        packages: model.packages.iter().map(|(n, v)| (plain(n), plain(v))).collect(),
        nodes,
        changes,
        check: report.map(Check::from),
    };
    let script = format!("\"use strict\";\n{}", SCRIPT.concat());
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; img-src data:; \
         base-uri 'none'; form-action 'none'",
        base64(&Sha256::digest(&script)),
        base64(&Sha256::digest(STYLE))
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
    serde_json::to_writer(InScript(&mut *out), &data)?;
    until(out, "{script}")?;
    out.write_all(script.as_bytes())?;
    out.write_all(rest.as_bytes())
}

/// The columns of all changes and of what else is not too small.
fn columns(model: &Model, most: usize) -> (Nodes<'_>, Changes<'_>) {
    let items = &model.items;
    let is_kept = kept(items, most);
    let (mut nodes, mut changes) = (Nodes::default(), Changes::default());
    // Of each item: its own row, or the row of the nearest directory that has one.
    let mut rows: Vec<u32> = Vec::with_capacity(items.len());
    let mut small: BTreeMap<(u32, u16, i64), (u64, u64)> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let parent = if index == 0 { 0 } else { rows[item.parent as usize] };
        let package = item.package.map_or(-1, i64::from);
        if !is_kept[index] {
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
            Some(Kind::Added) => 'A',
            Some(Kind::Changed) => 'M',
            Some(Kind::Deleted) => 'D',
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

/// Which items have a row of their own: those that are changed, the largest others, and the
/// directories on the way to them.
fn kept(items: &[Item], most: usize) -> Vec<bool> {
    let same = |item: &&Item| item.change.is_none() && item.attr.kind != FileType::Directory;
    let mut sizes: Vec<u64> = items.iter().filter(same).map(|item| item.bytes).collect();
    let least = match sizes.len() > most {
        true => {
            let nth = sizes.len() - most;
            // More than that, so that many of one size cannot be too many.
            Some(*sizes.select_nth_unstable(nth).1)
        }
        false => None,
    };
    let mut is_kept = vec![false; items.len()];
    for (index, item) in items.iter().enumerate().rev() {
        let large = match item.attr.kind {
            FileType::Directory => least.is_none(),
            _ => least.is_none_or(|least| item.bytes > least),
        };
        if index == 0 || item.change.is_some() || large {
            is_kept[index] = true;
        }
        if is_kept[index] {
            // It stands before what is in it.
            is_kept[item.parent as usize] = true;
        }
    }
    is_kept
}

impl<'a> Nodes<'a> {
    fn push(&mut self, parent: u32, name: Cow<'a, str>, bytes: u64, layer: u16, package: i64) {
        self.parent.push(parent);
        self.name.push(name);
        self.bytes.push(bytes);
        self.layer.push(layer);
        self.package.push(package);
    }
}

impl<'a> Changes<'a> {
    fn push(&mut self, row: u32, item: &'a Item) {
        self.node.push(row);
        self.is.push(facts(&item.attr));
        self.was.push(item.before.as_ref().map(facts));
        self.aspects.push(item.what.iter().map(|aspect| 1 << aspect as u16).sum());
        self.target.push(item.target.as_deref().map(shown));
        // The first two lines name the file.
        let lines = |text: &'a str| text.lines().skip(2).map(plain).collect();
        self.text.push(item.text.as_deref().map(lines));
    }
}

fn facts(attr: &Attr) -> Facts {
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

/// JSON on its way into a script element: there, `<` could begin what ends the element. It stands
/// in strings only.
struct InScript<W>(W);

impl<W: Write> Write for InScript<W> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut pieces = data.split(|&byte| byte == b'<');
        if let Some(first) = pieces.next() {
            self.0.write_all(first)?;
        }
        for piece in pieces {
            self.0.write_all(b"\\u003c")?;
            self.0.write_all(piece)?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// RFC 4648, as Content-Security-Policy has digests.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte))
            << (8 * (3 - three.len()));
        for digit in 0..4 {
            text.push(match digit <= three.len() {
                true => char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]),
                false => '=',
            });
        }
    }
    text
}
