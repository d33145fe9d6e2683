//! `diff`: compares overlays with their base, or two image stacks.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde::Serialize;
use serde_json::json;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult, ErrorKind};
use crate::cli::ui::format::{AttrJson, display_path};
use crate::cli::ui::image_args;
use crate::cli::ui::stdout::{JsonDocument, StdoutWriter};
use crate::image::diff::packages::{PackageChange, PackageChangeKind};
use crate::image::diff::text::{MAX_TEXT_SIZE, TextComparison, unified};
use crate::image::diff::{Aspect, ChangeKind, Diff, DiffOptions, DiffTotals, PathChange};
use crate::image::view::{LookError, StackView, WalkControl};
use crate::text::attr::{brief, file_type_name};
use crate::text::escape::escape;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
#[command(after_help = "\
overcoat diff BASE OVERLAY…               show the changes that the overlays make to the base
overcoat diff BASE --from A… --to B…      compare overlays on the same base
overcoat diff --from BASE A… --to BASE B… compare two stacks
overcoat diff BASE OVERLAY… :/etc         compare only this path

Exit code: 0 if there are no differences, 1 if there are, 2 if the images cannot be compared.")]
pub(crate) struct Args {
    /// The base, its overlays, and paths to compare, which begin with a colon
    ///
    /// The name of a project's image selects its base, its lower overlays and the image.
    #[arg(value_name = "BASE [OVERLAY…] [:PATH…]")]
    arguments: Vec<OsString>,

    #[command(flatten)]
    stack: image_args::StackOptions,

    /// Old stack: overlays over BASE, or all images if there is no BASE
    #[arg(long, value_name = "IMAGE", num_args = 1.., requires = "to")]
    from: Vec<OsString>,

    /// New stack: overlays over BASE, or all images if there is no BASE
    #[arg(long, value_name = "IMAGE", num_args = 1..)]
    to: Vec<OsString>,

    /// Show the differences in text files, as `diff -u` does
    #[arg(short = 'u', long)]
    content: bool,

    /// List the paths in deleted directories too
    #[arg(long)]
    all: bool,

    /// Compare modification times too
    #[arg(long)]
    mtime: bool,

    /// Print totals by directory instead of paths
    #[arg(long, conflicts_with = "content")]
    stat: bool,

    /// Depth of the directories of --stat
    #[arg(long, value_name = "N", default_value_t = 2, requires = "stat")]
    depth: usize,

    /// Print the differences as JSON
    #[arg(long, conflicts_with = "stat")]
    json: bool,
}

/// The images of both stacks, and the paths to compare.
struct Sides {
    old: Vec<PathBuf>,
    new: Vec<PathBuf>,
    paths: Vec<Vec<u8>>,
}

impl Args {
    fn sides(&self, ui: &Ui) -> Result<Sides, CommandError> {
        let (common, mut paths) = image_args::split(&self.arguments);
        if common.is_empty() {
            self.stack.reject_offset("with --from and --to alone")?;
        }
        let (from, mut more) = image_args::split(&self.from);
        paths.append(&mut more);
        let (to, mut more) = image_args::split(&self.to);
        paths.append(&mut more);
        if self.to.is_empty() {
            return self.base_and_overlays(ui, &common, paths);
        }
        if to.is_empty() {
            return Err(image_args::no_image_error(&paths));
        }
        let stack = |over| self.stack.layers(&[&common[..], over].concat());
        let sides = Sides { old: stack(&from)?, new: stack(&to)?, paths };
        match sides.old.is_empty() {
            true => Err(CommandError::user(
                "--to has nothing to compare with: give a base before it, or a stack with --from",
            )),
            false => Ok(sides),
        }
    }

    /// Returns the sides for a base and its overlays.
    fn base_and_overlays(
        &self,
        ui: &Ui,
        images: &[PathBuf],
        paths: Vec<Vec<u8>>,
    ) -> Result<Sides, CommandError> {
        let Some(base) = images.first() else { return Err(image_args::no_image_error(&paths)) };
        let layers = self.stack.layers(images)?;
        if layers.len() < 2 {
            return Err(CommandError::user(format!(
                "{}: nothing to compare with: give overlays after it, or another stack with --to",
                base.display()
            )));
        }
        // A name selects a base and its overlays.
        let is_ambiguous = |path: &&PathBuf| layers.contains(path) && is_root(path);
        if let Some(other) = images.iter().skip(1).find(is_ambiguous) {
            return Err(CommandError::user(format!(
                "{other}: not an archive, so it could be another base or an overlay: write \
                 `--from {base} --to {other}` to compare it with {base}, or \
                 `{base} --to {other}` to stack it on {base}",
                other = other.display(),
                base = base.display()
            )));
        }
        if let [base, first, second, ..] = images
            && std::io::stderr().is_terminal()
        {
            ui.status(&format!(
                "comparing {base} with the stack of all {} overlays; to compare the overlays with \
                 each other: {base} --from {} --to {}",
                images.len() - 1,
                first.display(),
                second.display(),
                base = base.display()
            ));
        }
        Ok(Sides { old: layers[..1].to_vec(), new: layers, paths })
    }
}

/// Returns whether an image can be a whole root as well as an overlay: a squashfs image or a
/// directory.
fn is_root(path: &Path) -> bool {
    path.is_dir() || crate::image::open::is_squashfs(path)
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let Sides { old, new, paths } = args.sides(ui)?;
    let (old_view, new_view) =
        crate::image::diff::open(&old, &new).map_err(|error| image_args::add_hint(error, &new))?;
    image_args::reject_host_paths(&new_view, &new)?;
    image_args::reject_host_paths(&old_view, &old)?;
    let paths = paths
        .iter()
        .map(|path| resolve_parents(&old_view, &new_view, path))
        .collect::<Result<Vec<_>, LookError>>()?;
    let everything = paths.is_empty();
    let options = DiffOptions { mtime: args.mtime, within_deleted: args.all, paths };
    let diff = Diff::new(&old_view, &new_view, options);
    let mut printer = DiffPrinter {
        old: &old_view,
        new: &new_view,
        labels: image_args::labels(&new_view),
        args,
        out: StdoutWriter::new(),
        totals: DiffTotals::default(),
        found: false,
    };
    match printer.write(&diff, everything) {
        Ok(()) => {}
        // The pipe was closed after some output, so there are differences.
        Err(error) if error.kind == ErrorKind::OutputClosed => return Ok(ExitCode::from(1)),
        Err(failure) => return Err(failure),
    }
    let found = printer.found;
    match printer.out.finish() {
        Err(error) if error.kind != ErrorKind::OutputClosed => Err(error),
        _ => Ok(ExitCode::from(u8::from(found))),
    }
}

/// Resolves the symbolic links in a path's directories, in the new stack or else in the old one.
fn resolve_parents(old: &StackView, new: &StackView, path: &[u8]) -> Result<Vec<u8>, LookError> {
    match new.resolve(path, Follow::No) {
        Ok(node) => Ok(node.path),
        Err(error) if error.is_absence() => match old.find(path, Follow::No)? {
            Some(node) => Ok(node.path),
            None => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Prints differences in one of the output formats.
struct DiffPrinter<'a> {
    old: &'a StackView,
    new: &'a StackView,
    labels: Vec<String>,
    args: &'a Args,
    out: StdoutWriter,
    totals: DiffTotals,
    /// Whether there are any differences.
    found: bool,
}

impl DiffPrinter<'_> {
    /// Writes all differences; those of packages only if `packages`.
    fn write(&mut self, diff: &Diff<'_>, packages: bool) -> Result<(), CommandError> {
        let packages = || if packages { diff.packages() } else { Ok(Vec::new()) };
        if self.args.json {
            self.document(diff, packages)
        } else if self.args.stat {
            let sums = self.sums(diff)?;
            self.table(&sums)?;
            self.end(&packages()?)
        } else {
            diff.changes::<CommandError>(&mut |change| {
                self.totals.add(change);
                self.found = true;
                self.change(change)?;
                Ok(WalkControl::Into)
            })?;
            self.end(&packages()?)
        }
    }

    fn change(&mut self, change: &PathChange) -> Result<(), CommandError> {
        let (letter, colour) = match change.kind {
            ChangeKind::Added => ("A", AnsiColor::Green),
            ChangeKind::Changed => ("C", AnsiColor::Yellow),
            ChangeKind::Deleted => ("D", AnsiColor::Red),
        };
        let node = change.node();
        let slash = match node.is_some_and(|node| node.is_dir() && !node.path.is_empty()) {
            true => "/",
            false => "",
        };
        let mut details = self.details(change)?;
        if let Some(layer) = change.layer
            && self.labels.len() > 2
        {
            details.push(format!("in {}", self.labels[layer]));
        }
        let line = format!("{letter} {}{slash}", display_path(change.path()));
        let line = self.out.paint(colour, &line);
        self.out.line(&format!("{line}  ({})", details.join("; ")))?;
        if self.args.content
            && let Some(text) = self.text(change)?
        {
            match text {
                TextComparison::Unified(text) => self.unified(&text)?,
                TextComparison::Binary => self.out.line("  (binary)")?,
                TextComparison::Large => {
                    self.out.line(&format!(
                        "  (larger than {}, so lines are not compared)",
                        size_text(MAX_TEXT_SIZE)
                    ))?;
                }
            }
        }
        Ok(())
    }

    /// Returns the details of a change, such as old and new values.
    fn details(&self, change: &PathChange) -> Result<Vec<String>, CommandError> {
        let mut details = Vec::new();
        match (&change.old, &change.new) {
            (Some(old), Some(new)) => {
                for aspect in change.what.iter() {
                    let word = aspect.word();
                    details.push(match aspect {
                        Aspect::Type => format!("{} -> {}", brief(&old.attr), brief(&new.attr)),
                        Aspect::Content if old.attr.size == new.attr.size => {
                            format!("{word} of {}", size_text(new.attr.size))
                        }
                        Aspect::Content => {
                            let sizes = [old.attr.size, new.attr.size];
                            let [mut before, mut after] = sizes.map(size_text);
                            if before == after {
                                [before, after] = sizes.map(|size| format!("{size} bytes"));
                            }
                            format!("{word} {before} -> {after}")
                        }
                        Aspect::Target => format!(
                            "{word} {} -> {}",
                            escape(&self.old.link(old)?),
                            escape(&self.new.link(new)?)
                        ),
                        Aspect::Device => {
                            format!("{} -> {}", brief(&old.attr), brief(&new.attr))
                        }
                        Aspect::Mode => {
                            format!("{word} {:04o} -> {:04o}", old.attr.mode, new.attr.mode)
                        }
                        Aspect::Owner => format!("{word} {} -> {}", old.attr.uid, new.attr.uid),
                        Aspect::Group => format!("{word} {} -> {}", old.attr.gid, new.attr.gid),
                        Aspect::Links if new.is_file() => {
                            format!("{word} {} -> {}", old.attr.nlink, new.attr.nlink)
                        }
                        _ => word.to_owned(),
                    });
                }
            }
            (None, Some(node)) if node.is_link() => {
                let target = escape(&self.new.link(node)?).into_owned();
                details.push(format!("{} -> {target}", file_type_name(node.attr.kind)));
            }
            (Some(node), None) | (None, Some(node)) => details.push(brief(&node.attr)),
            (None, None) => {}
        }
        if change.removed.entries > 0 {
            details.push(format!(
                "{} with {} in it",
                match change.removed.entries {
                    1 => "1 entry".to_owned(),
                    entries => format!("{entries} entries"),
                },
                size_text(change.removed.bytes)
            ));
        }
        if let Some(link) = &change.link {
            details.push(format!("the same file as {}", display_path(link)));
        }
        Ok(details)
    }

    /// Returns the textual difference, if the content of a file changed.
    fn text(&self, change: &PathChange) -> Result<Option<TextComparison>, LookError> {
        let files =
            [&change.old, &change.new].iter().any(|n| n.as_ref().is_some_and(|n| n.is_file()));
        let same = change.kind == ChangeKind::Changed
            && !change.what.contains(Aspect::Content)
            && !change.what.contains(Aspect::Type);
        // The content of a hard-linked file is shown at its first path only.
        if !files || same || (change.kind == ChangeKind::Added && change.link.is_some()) {
            return Ok(None);
        }
        let old = change.old.as_ref().map(|node| (self.old, node));
        let new = change.new.as_ref().map(|node| (self.new, node));
        unified(old, new).map(Some)
    }

    /// Writes a unified diff. For a terminal, it escapes control characters and adds colours.
    fn unified(&mut self, text: &[u8]) -> Result<(), CommandError> {
        if !self.out.is_terminal() {
            return self.out.bytes(text);
        }
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let parts: Vec<_> = line.split(|&byte| byte == b'\t').map(escape).collect();
            let line = parts.join("\t");
            let line = match line.as_bytes().first() {
                Some(b'+') => self.out.paint(AnsiColor::Green, &line),
                Some(b'-') => self.out.paint(AnsiColor::Red, &line),
                Some(b'@') => self.out.paint(AnsiColor::Cyan, &line),
                _ => line,
            };
            self.out.line(&line)?;
        }
        Ok(())
    }

    /// Returns the totals by directory, at most `--depth` levels deep.
    fn sums(&mut self, diff: &Diff<'_>) -> Result<BTreeMap<Vec<u8>, DiffTotals>, CommandError> {
        let mut sums: BTreeMap<Vec<u8>, DiffTotals> = BTreeMap::new();
        diff.changes::<CommandError>(&mut |change| {
            self.totals.add(change);
            self.found = true;
            let path = change.path();
            let names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
            // A path with fewer levels counts for its own directory.
            let dir = names[..names.len() - 1].iter().take(self.args.depth);
            let dir = dir.copied().collect::<Vec<_>>().join(&b'/');
            sums.entry(dir).or_default().add(change);
            Ok(WalkControl::Into)
        })?;
        Ok(sums)
    }

    fn table(&mut self, sums: &BTreeMap<Vec<u8>, DiffTotals>) -> Result<(), CommandError> {
        if sums.is_empty() {
            return Ok(());
        }
        self.out.line("   added  changed  deleted         new        gone  directory")?;
        for (dir, sum) in sums {
            self.out.line(&format!(
                "{:8} {:8} {:8} {:>11} {:>11}  {}",
                sum.added,
                sum.changed,
                sum.deleted,
                size_text(sum.new_bytes),
                size_text(sum.old_bytes),
                display_path(dir)
            ))?;
        }
        Ok(())
    }

    /// Writes the package changes and the total.
    fn end(&mut self, packages: &[PackageChange]) -> Result<(), CommandError> {
        for package in packages {
            let version = |package: &Option<_>| {
                let package: &Option<crate::image::view::packages::DpkgPackage> = package;
                package.as_ref().map(|p| escape(p.version.as_bytes()).into_owned())
            };
            let versions = match (package.how, version(&package.old), version(&package.new)) {
                (
                    PackageChangeKind::Upgraded | PackageChangeKind::Downgraded,
                    Some(old),
                    Some(new),
                ) => {
                    format!("{old} -> {new}")
                }
                (PackageChangeKind::State, _, _) => {
                    let status = |package: &Option<crate::image::view::packages::DpkgPackage>| {
                        let status = package.as_ref().map_or("none", |p| p.status.as_str());
                        escape(status.as_bytes()).into_owned()
                    };
                    format!("{} -> {}", status(&package.old), status(&package.new))
                }
                (_, _, Some(version)) | (_, Some(version), None) => version,
                (_, None, None) => String::new(),
            };
            let name = escape(package.name.as_bytes());
            self.out.line(&format!("package {}: {name} {versions}", package.how.word()))?;
        }
        self.found |= !packages.is_empty();
        let sum = &self.totals;
        let line = match self.found {
            false => "no differences".to_owned(),
            true => format!(
                "{} added, {} changed, {} deleted; {} new, {} gone",
                sum.added,
                sum.changed,
                sum.deleted,
                size_text(sum.new_bytes),
                size_text(sum.old_bytes)
            ),
        };
        self.out.line(&line)
    }

    fn document(
        &mut self,
        diff: &Diff<'_>,
        packages: impl Fn() -> Result<Vec<PackageChange>, LookError>,
    ) -> Result<(), CommandError> {
        let head = json!({
            "schema": 1,
            "layers": { "old": self.old.names(), "new": self.new.names() },
        });
        let mut document = JsonDocument::begin(&mut self.out, &head, "changes")?;
        diff.changes::<CommandError>(&mut |change| {
            self.totals.add(change);
            self.found = true;
            let change = self.change_json(change)?;
            document.item(&mut self.out, &change)?;
            Ok(WalkControl::Into)
        })?;
        let packages: Vec<_> = packages()?
            .iter()
            .map(|package| {
                let version = |package: &Option<crate::image::view::packages::DpkgPackage>| {
                    package.as_ref().map(|p| p.version.clone())
                };
                json!({
                    "name": package.name,
                    "change": package.how.word(),
                    "old": version(&package.old),
                    "new": version(&package.new),
                })
            })
            .collect();
        self.found |= !packages.is_empty();
        let sum = &self.totals;
        let rest = json!({
            "packages": packages,
            "totals": {
                "added": sum.added,
                "changed": sum.changed,
                "deleted": sum.deleted,
                "new_bytes": sum.new_bytes,
                "old_bytes": sum.old_bytes,
            },
        });
        document.end(&mut self.out, &rest)
    }

    fn change_json(&self, change: &PathChange) -> Result<ChangeJson, CommandError> {
        let shown = |view: &StackView, node: &Option<_>| match node {
            Some(node) => AttrJson::new(view, node).map(Some),
            None => Ok(None),
        };
        let text = match self.args.content.then(|| self.text(change)).transpose()?.flatten() {
            Some(TextComparison::Unified(text)) => {
                Some(String::from_utf8_lossy(&text).into_owned())
            }
            _ => None,
        };
        let removed = change.removed;
        Ok(ChangeJson {
            path: escape(change.path()).into_owned(),
            change: change.kind.word(),
            what: change.what.iter().map(Aspect::word).collect(),
            layer: change.layer,
            old: shown(self.old, &change.old)?,
            new: shown(self.new, &change.new)?,
            beneath: (removed.entries > 0)
                .then(|| json!({ "entries": removed.entries, "bytes": removed.bytes })),
            within_deleted: change.within_deleted,
            same_file_as: change.link.as_ref().map(|link| escape(link).into_owned()),
            text,
        })
    }
}

/// JSON form of a change.
#[derive(Debug, Serialize)]
struct ChangeJson {
    path: String,
    change: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    what: Vec<&'static str>,
    /// Index into the new stack's layers.
    layer: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    old: Option<AttrJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new: Option<AttrJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    beneath: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    within_deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    same_file_as: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}
