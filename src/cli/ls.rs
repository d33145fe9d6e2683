//! `ls`: what is in images, without mounting them.

use std::process::ExitCode;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;
use serde::Serialize;
use serde_json::json;

use super::images::{Images, Opened, labels};
use super::options::size_text;
use super::out::{Colour, Document, Out};
use super::shown::{Shown, brief, group, inside, mode_text, time, user};
use super::{Failure, Outcome};
use crate::look::accounts::Accounts;
use crate::look::layered::Layered;
use crate::look::{Node, Place, Walk};
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,

    /// With mode, owner, size, time (in UTC) and, of several, the layer it comes from
    #[arg(short, long)]
    long: bool,

    /// All below too, each by its path
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Directories and links themselves, not what they lead to
    #[arg(short, long, conflicts_with = "recursive")]
    directory: bool,

    /// Which layer each comes from, what it hides there, and what is deleted
    #[arg(long)]
    layers: bool,

    /// Sizes as people read them
    #[arg(short = 'H', long, requires = "long")]
    human: bool,

    /// Names as they are, each ended by a NUL
    #[arg(short = '0', long, conflicts_with_all = ["long", "layers", "json"])]
    null: bool,

    /// Print one JSON document
    #[arg(long, conflicts_with_all = ["long", "layers"])]
    json: bool,
}

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    let accounts = if args.long { Accounts::read(&opened.view)? } else { Accounts::default() };
    let out = Out::new();
    let labels = labels(&opened.view);
    let mut list = List { opened: &opened, args, accounts, labels, out };
    let follow = if args.directory { Follow::No } else { Follow::Yes };
    let code = if args.json { list.document(follow)? } else { list.lists(follow)? };
    list.out.finish()?;
    Ok(code)
}

struct List<'a> {
    opened: &'a Opened,
    args: &'a Args,
    accounts: Accounts,
    labels: Vec<String>,
    out: Out,
}

/// A line: what is aligned, and the name.
struct Row {
    cells: Vec<String>,
    name: String,
    kind: Option<Colour>,
    note: String,
}

impl List<'_> {
    fn lists(&mut self, follow: Follow) -> Result<ExitCode, Failure> {
        let opened = self.opened;
        let several = opened.paths.len() > 1;
        let mut first = true;
        opened.each(follow, &mut |node| {
            let alone = self.args.directory || !node.is_dir();
            if several && !self.args.null && !alone {
                let blank = if first { "" } else { "\n" };
                self.out.line(&format!("{blank}{}:", inside(&node.path)))?;
            }
            first = false;
            if alone { self.alone(node) } else { self.directory(&node, node.path.len()) }
        })
    }

    /// One object, by its path.
    fn alone(&mut self, node: Node) -> Result<(), Failure> {
        if self.args.null {
            return self.ended(&[b"/", &node.path[..]].concat());
        }
        let name = inside(&node.path);
        let layered = match self.args.layers {
            true => self.opened.view.layers_at(node)?,
            false => Layered::alone(node),
        };
        let row = self.row(&layered, name)?;
        self.rows(vec![row])
    }

    /// What is in a directory, and below it if that is asked for. Paths are shown without their
    /// first `above` bytes.
    fn directory(&mut self, top: &Node, above: usize) -> Result<(), Failure> {
        let view = &self.opened.view;
        if !self.args.recursive {
            return self.names(top, above);
        }
        if !self.args.layers {
            // In tree order, a directory before what is in it.
            return view.walk::<Failure>(top, &mut |node| {
                if node.path.len() > top.path.len() {
                    let name = below(&node.path, above);
                    if self.args.null {
                        self.ended(name)?;
                    } else if self.args.long {
                        let row =
                            self.row(&Layered::alone(node.clone()), escape(name).into_owned())?;
                        self.rows(vec![row])?;
                    } else {
                        self.out.line(&escape(name))?;
                    }
                }
                Ok(Walk::Into)
            });
        }
        view.walk_layered(top, |dir, inside| {
            self.table(dir, inside, above)?;
            Ok(Walk::Into)
        })
    }

    /// The names in one directory.
    fn names(&mut self, dir: &Node, above: usize) -> Result<(), Failure> {
        let view = &self.opened.view;
        if !self.args.long && !self.args.layers {
            // No inode is read for a list of names.
            let sources = crate::look::sources(dir);
            let entries = view.stack().entries(sources);
            let damaged =
                |error| crate::look::LookError::Damaged { path: dir.path.clone().into(), error };
            for (name, _) in entries.map_err(damaged)? {
                match self.args.null {
                    true => self.ended(&name)?,
                    false => self.out.line(&escape(&name))?,
                }
            }
            return Ok(());
        }
        let layered = match self.args.layers {
            true => view.layered(dir)?,
            false => view.children(dir)?.into_iter().map(Layered::alone).collect(),
        };
        self.table(dir, &layered, above)
    }

    fn table(&mut self, dir: &Node, inside: &[Layered], above: usize) -> Result<(), Failure> {
        let row = |one: &Layered| {
            let path = crate::look::join(&dir.path, &one.name);
            self.row(one, escape(below(&path, above)).into_owned())
        };
        let rows = inside.iter().map(row).collect::<Result<_, _>>()?;
        self.rows(rows)
    }

    fn row(&self, layered: &Layered, name: String) -> Result<Row, Failure> {
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
                () if node.is_dir() => Some(Colour::Blue),
                () if node.is_link() => Some(Colour::Cyan),
                () if node.is_file() && node.attr.mode & 0o111 != 0 => Some(Colour::Green),
                () => None,
            };
            if node.is_link() && self.args.long {
                row.note = format!(" -> {}", escape(&self.opened.view.link(node)?));
            }
        }
        if self.args.layers {
            let told = told(layered, &self.labels);
            if !told.is_empty() {
                row.note = format!("{}  ({told})", row.note);
            }
        }
        Ok(row)
    }

    fn cells(&self, node: &Node) -> Vec<String> {
        let attr = &node.attr;
        let size = match () {
            () if attr.kind.is_device() => format!("{}, {}", attr.rdev.major, attr.rdev.minor),
            () if self.args.human && node.is_file() => size_text(attr.size),
            () if node.is_file() || node.is_link() => attr.size.to_string(),
            () => "-".to_owned(),
        };
        vec![
            mode_text(attr),
            user(&self.accounts, attr.uid),
            group(&self.accounts, attr.gid),
            size,
            time(attr),
        ]
    }

    fn rows(&mut self, rows: Vec<Row>) -> Result<(), Failure> {
        /// The cell with the sizes.
        const SIZE: usize = 3;
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
                line += &match self.args.long && index == SIZE {
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

    fn ended(&mut self, name: &[u8]) -> Result<(), Failure> {
        self.out.bytes(name)?;
        self.out.bytes(b"\0")
    }

    fn document(&mut self, follow: Follow) -> Result<ExitCode, Failure> {
        let opened = self.opened;
        let head = json!({ "schema": 1, "layers": opened.view.names() });
        let mut document = Document::begin(&mut self.out, &head, "entries")?;
        let code = opened.each(follow, &mut |top| {
            if self.args.directory || !top.is_dir() {
                let path = top.path.clone();
                let item = self.item(&opened.view.layers_at(top)?, &path)?;
                return document.item(&mut self.out, &item);
            }
            opened.view.walk_layered(&top, |dir, inside| {
                for layered in inside {
                    let path = crate::look::join(&dir.path, &layered.name);
                    let item = self.item(layered, &path)?;
                    document.item(&mut self.out, &item)?;
                }
                Ok(if self.args.recursive { Walk::Into } else { Walk::Stop })
            })
        })?;
        document.end(&mut self.out, &[])?;
        Ok(code)
    }

    fn item(&self, layered: &Layered, path: &[u8]) -> Result<Item, Failure> {
        let object = match &layered.node {
            Some(node) => Some(Shown::new(&self.opened.view, node)?),
            None => None,
        };
        let hidden = |(layer, place): (usize, &Place)| match place {
            Place::Object(attr) => Some(Hidden { layer, object: Shown::of(attr) }),
            Place::Whiteout => None,
        };
        Ok(Item {
            path: escape(path).into_owned(),
            deleted: object.is_none(),
            object,
            layer: layered.layer,
            hides: layered.hidden().filter_map(hidden).collect(),
        })
    }
}

/// What a name hides or adds to, in words; nothing where it has nothing to do with other layers.
pub(super) fn told(layered: &Layered, labels: &[String]) -> String {
    let label = |layer: usize| labels.get(layer).map_or("?", String::as_str);
    let mut told = Vec::new();
    let adds: Vec<_> = layered.adds_to().map(label).collect();
    if !adds.is_empty() {
        told.push(format!("adds to {}", adds.join(", ")));
    }
    let hidden = |(layer, place): (usize, &Place)| match place {
        Place::Object(attr) => Some(format!("{} of {}", brief(attr), label(layer))),
        Place::Whiteout => None,
    };
    let hidden: Vec<_> = layered.hidden().filter_map(hidden).collect();
    match (&layered.node, hidden.is_empty()) {
        (Some(_), true) => {}
        (Some(_), false) => told.push(format!("hides {}", hidden.join(", "))),
        (None, true) => told.push("deletes nothing".to_owned()),
        (None, false) => told.push(format!("deleted: {}", hidden.join(", "))),
    }
    told.join("; ")
}

/// A path without its first `above` bytes, and without the slash after them.
fn below(path: &[u8], above: usize) -> &[u8] {
    let rest = &path[above.min(path.len())..];
    rest.strip_prefix(b"/").unwrap_or(rest)
}

/// A name, for programs.
#[derive(Debug, Serialize)]
struct Item {
    path: String,
    #[serde(flatten)]
    object: Option<Shown>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    deleted: bool,
    /// Index into the layers.
    layer: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hides: Vec<Hidden>,
}

#[derive(Debug, Serialize)]
struct Hidden {
    layer: usize,
    #[serde(flatten)]
    object: Shown,
}
