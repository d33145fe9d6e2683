//! `ls`: lists files in images, without mounting them.

use std::process::ExitCode;

use anstyle::AnsiColor;
use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::{AttrJson, display_path};
use crate::cli::ui::image_args::{ImageArgs, OpenedImages, labels};
use crate::cli::ui::stdout::{JsonDocument, StdoutWriter};
use crate::image::view::accounts::Accounts;
use crate::image::view::layered::Layered;
use crate::image::view::{LayerNode, ViewNode, WalkControl};
use crate::text::attr::{brief, mode_text, time};
use crate::text::escape::escape;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,

    /// Show mode, owner, size, time (in UTC) and layer
    #[arg(short, long)]
    long: bool,

    /// List directories recursively
    #[arg(short = 'R', long)]
    recursive: bool,

    /// List directories and links themselves, not their content or target
    #[arg(short, long, conflicts_with = "recursive")]
    directory: bool,

    /// Show each file's layer, the files it hides in lower layers, and deleted files
    #[arg(long)]
    layers: bool,

    /// Print human-readable sizes
    #[arg(short = 'H', long, requires = "long")]
    human: bool,

    /// Print unescaped names, each terminated by a NUL byte
    #[arg(short = '0', long, conflicts_with_all = ["long", "layers", "json"])]
    null: bool,

    /// Print the list as JSON
    #[arg(long, conflicts_with_all = ["long", "layers"])]
    json: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    let accounts = if args.long { Accounts::read(&opened.view)? } else { Accounts::default() };
    let out = StdoutWriter::new();
    let labels = labels(&opened.view);
    let mut list = Lister { opened: &opened, args, accounts, labels, out };
    let follow = if args.directory { Follow::No } else { Follow::Yes };
    let code = if args.json { list.document(follow)? } else { list.lists(follow)? };
    list.out.finish()?;
    Ok(code)
}

struct Lister<'a> {
    opened: &'a OpenedImages,
    args: &'a Args,
    accounts: Accounts,
    labels: Vec<String>,
    out: StdoutWriter,
}

/// A line of output: aligned cells, the name, and a note after it.
struct Row {
    cells: Vec<String>,
    name: String,
    kind: Option<AnsiColor>,
    note: String,
}

impl Lister<'_> {
    fn lists(&mut self, follow: Follow) -> Result<ExitCode, CommandError> {
        let opened = self.opened;
        let several = opened.paths.len() > 1;
        let mut first = true;
        opened.each(follow, &mut |node| {
            let alone = self.args.directory || !node.is_dir();
            if several && !self.args.null && !alone {
                let blank = if first { "" } else { "\n" };
                self.out.line(&format!("{blank}{}:", display_path(&node.path)))?;
            }
            first = false;
            if alone { self.single(node) } else { self.directory(&node, node.path.len()) }
        })
    }

    /// Lists a single node by its path.
    fn single(&mut self, node: ViewNode) -> Result<(), CommandError> {
        if self.args.null {
            return self.null_terminated(&[b"/", &node.path[..]].concat());
        }
        let name = display_path(&node.path);
        let layered = match self.args.layers {
            true => self.opened.view.layers_at(node)?,
            false => Layered::from_node(node),
        };
        let row = self.row(&layered, name)?;
        self.rows(vec![row])
    }

    /// Lists a directory, recursively if requested. The first `above` bytes of paths are omitted.
    fn directory(&mut self, top: &ViewNode, above: usize) -> Result<(), CommandError> {
        let view = &self.opened.view;
        if !self.args.recursive {
            return self.names(top, above);
        }
        if !self.args.layers {
            // In tree order: each directory precedes its content.
            return view.walk::<CommandError>(top, &mut |node| {
                if node.path.len() > top.path.len() {
                    let name = below(&node.path, above);
                    if self.args.null {
                        self.null_terminated(name)?;
                    } else if self.args.long {
                        let row =
                            self.row(&Layered::from_node(node.clone()), escape(name).into_owned())?;
                        self.rows(vec![row])?;
                    } else {
                        self.out.line(&escape(name))?;
                    }
                }
                Ok(WalkControl::Into)
            });
        }
        view.walk_layered(top, |dir, inside| {
            self.table(dir, inside, above)?;
            Ok(WalkControl::Into)
        })
    }

    /// Lists the names in one directory.
    fn names(&mut self, dir: &ViewNode, above: usize) -> Result<(), CommandError> {
        let view = &self.opened.view;
        if !self.args.long && !self.args.layers {
            // A plain list of names needs no inodes.
            let sources = crate::image::view::sources(dir);
            let entries = view.stack().entries(sources);
            let damaged = |error| crate::image::view::LookError::Damaged {
                path: dir.path.clone().into(),
                error,
            };
            for (name, _) in entries.map_err(damaged)? {
                match self.args.null {
                    true => self.null_terminated(&name)?,
                    false => self.out.line(&escape(&name))?,
                }
            }
            return Ok(());
        }
        let layered = match self.args.layers {
            true => view.layered(dir)?,
            false => view.children(dir)?.into_iter().map(Layered::from_node).collect(),
        };
        self.table(dir, &layered, above)
    }

    fn table(
        &mut self,
        dir: &ViewNode,
        inside: &[Layered],
        above: usize,
    ) -> Result<(), CommandError> {
        let row = |one: &Layered| {
            let path = crate::image::view::join(&dir.path, &one.name);
            self.row(one, escape(below(&path, above)).into_owned())
        };
        let rows = inside.iter().map(row).collect::<Result<_, _>>()?;
        self.rows(rows)
    }

    fn row(&self, layered: &Layered, name: String) -> Result<Row, CommandError> {
        let node = layered.node.as_ref();
        let mut row = Row { cells: Vec::new(), name, kind: None, note: String::new() };
        if self.args.long {
            row.cells = match node {
                Some(node) => self.cells(node),
                None => ["-", "-", "-", "-", "-"].map(str::to_owned).to_vec(),
            };
        }
        if (self.args.long && self.labels.len() > 1) || self.args.layers {
            let layer = layered.layer.and_then(|layer| self.labels.get(layer));
            row.cells.push(layer.cloned().unwrap_or_else(|| "-".to_owned()));
        }
        if let Some(node) = node {
            row.kind = match () {
                () if node.is_dir() => Some(AnsiColor::Blue),
                () if node.is_link() => Some(AnsiColor::Cyan),
                () if node.is_file() && node.attr.mode & 0o111 != 0 => Some(AnsiColor::Green),
                () => None,
            };
            if node.is_link() && self.args.long {
                row.note = format!(" -> {}", escape(&self.opened.view.link(node)?));
            }
        }
        if self.args.layers {
            let note = layer_note(layered, &self.labels);
            if !note.is_empty() {
                row.note = format!("{}  ({note})", row.note);
            }
        }
        Ok(row)
    }

    fn cells(&self, node: &ViewNode) -> Vec<String> {
        let attr = &node.attr;
        let size = match () {
            () if attr.kind.is_device() => format!("{}, {}", attr.rdev.major, attr.rdev.minor),
            () if self.args.human && node.is_file() => size_text(attr.size),
            () if node.is_file() || node.is_link() => attr.size.to_string(),
            () => "-".to_owned(),
        };
        vec![
            mode_text(attr),
            self.accounts.user_text(attr.uid),
            self.accounts.group_text(attr.gid),
            size,
            time(attr),
        ]
    }

    fn rows(&mut self, rows: Vec<Row>) -> Result<(), CommandError> {
        /// Index of the cell with the size, which is right-aligned.
        const SIZE_CELL: usize = 3;
        let mut widths: Vec<usize> = Vec::new();
        for row in &rows {
            widths.resize(row.cells.len().max(widths.len()), 0);
            for (width, cell) in widths.iter_mut().zip(&row.cells) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in rows {
            let mut line = String::new();
            for (index, (cell, &width)) in row.cells.iter().zip(&widths).enumerate() {
                line += &match self.args.long && index == SIZE_CELL {
                    true => format!("{cell:>width$} "),
                    false => format!("{cell:width$} "),
                };
            }
            let name = match row.kind {
                Some(colour) => self.out.paint(colour, &row.name),
                None => row.name,
            };
            self.out.line(&format!("{line}{name}{}", row.note))?;
        }
        Ok(())
    }

    fn null_terminated(&mut self, name: &[u8]) -> Result<(), CommandError> {
        self.out.bytes(name)?;
        self.out.bytes(b"\0")
    }

    fn document(&mut self, follow: Follow) -> Result<ExitCode, CommandError> {
        let opened = self.opened;
        let head = json!({ "schema": 1, "layers": opened.view.names() });
        let mut document = JsonDocument::begin(&mut self.out, &head, "entries")?;
        let code = opened.each(follow, &mut |top| {
            if self.args.directory || !top.is_dir() {
                let path = top.path.clone();
                let item = self.item(&opened.view.layers_at(top)?, &path)?;
                return document.item(&mut self.out, &item);
            }
            opened.view.walk_layered(&top, |dir, inside| {
                for layered in inside {
                    let path = crate::image::view::join(&dir.path, &layered.name);
                    let item = self.item(layered, &path)?;
                    document.item(&mut self.out, &item)?;
                }
                Ok(if self.args.recursive { WalkControl::Into } else { WalkControl::Stop })
            })
        })?;
        document.end(&mut self.out, &Value::Null)?;
        Ok(code)
    }

    fn item(&self, layered: &Layered, path: &[u8]) -> Result<LsEntryJson, CommandError> {
        let object = match &layered.node {
            Some(node) => Some(AttrJson::new(&self.opened.view, node)?),
            None => None,
        };
        let hidden = |(layer, place): (usize, &LayerNode)| match place {
            LayerNode::Object(attr) => {
                Some(HiddenJson { layer, object: AttrJson::from_attr(attr) })
            }
            LayerNode::Whiteout => None,
        };
        Ok(LsEntryJson {
            path: escape(path).into_owned(),
            deleted: object.is_none(),
            object,
            layer: layered.layer,
            hides: layered.hidden().filter_map(hidden).collect(),
        })
    }
}

/// Describes what a name hides in lower layers or is merged with. Empty if only one layer has it.
pub(crate) fn layer_note(layered: &Layered, labels: &[String]) -> String {
    let label = |layer: usize| labels.get(layer).map_or("?", String::as_str);
    let mut notes = Vec::new();
    let merged: Vec<_> = layered.merged_layers().map(label).collect();
    if !merged.is_empty() {
        notes.push(format!("merged with {}", merged.join(", ")));
    }
    let hidden = |(layer, place): (usize, &LayerNode)| match place {
        LayerNode::Object(attr) => Some(format!("{} in {}", brief(attr), label(layer))),
        LayerNode::Whiteout => None,
    };
    let hidden: Vec<_> = layered.hidden().filter_map(hidden).collect();
    match (&layered.node, hidden.is_empty()) {
        (Some(_), true) => {}
        (Some(_), false) => notes.push(format!("hides {}", hidden.join(", "))),
        (None, true) => notes.push("whiteout without a file to delete".to_owned()),
        (None, false) => notes.push(format!("deleted: {}", hidden.join(", "))),
    }
    notes.join("; ")
}

/// Returns a path without its first `above` bytes and the slash after them.
fn below(path: &[u8], above: usize) -> &[u8] {
    let rest = &path[above.min(path.len())..];
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// JSON form of a name.
#[derive(Debug, Serialize)]
struct LsEntryJson {
    path: String,
    #[serde(flatten)]
    object: Option<AttrJson>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// Index into the layers.
    layer: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hides: Vec<HiddenJson>,
}

/// JSON form of a file that a higher layer hides.
#[derive(Debug, Serialize)]
struct HiddenJson {
    layer: usize,
    #[serde(flatten)]
    object: AttrJson,
}
