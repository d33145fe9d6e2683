//! `tree`: shows the files in images as a tree.

use std::collections::HashMap;

use anstyle::AnsiColor;
use clap::Args as ClapArgs;
use fs_model::tree::Follow;

use super::ls::layer_note;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::format::display_path;
use crate::cli::ui::image_args::{ImageArgs, labels};
use crate::cli::ui::stdout::StdoutWriter;
use crate::image::view::layered::Layered;
use crate::image::view::{StackView, ViewNode, Visited, usage};
use crate::text::escape::escape;
use crate::text::size::size_text;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    images: ImageArgs,

    /// Maximum depth (default: no limit)
    #[arg(short = 'L', long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    depth: usize,

    /// Show the sizes of files, and of directories including their content
    #[arg(short, long)]
    sizes: bool,

    /// Show only directories
    #[arg(short, long)]
    directories: bool,

    /// Show each file's layer, the files it hides in lower layers, and deleted files
    #[arg(long)]
    layers: bool,
}

/// Strings that draw the branches of the tree.
struct Branches {
    between: &'static str,
    last: &'static str,
    past: &'static str,
    after: &'static str,
}

const LINES: Branches =
    Branches { between: "├── ", last: "└── ", past: "│   ", after: "    " };
const ASCII: Branches = Branches { between: "|-- ", last: "`-- ", past: "|   ", after: "    " };

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let opened = args.images.open(ui)?;
    let branches = if is_utf8() { &LINES } else { &ASCII };
    let mut tree = TreePrinter {
        view: &opened.view,
        labels: labels(&opened.view),
        args,
        branches,
        sums: HashMap::new(),
        out: StdoutWriter::new(),
        directories: 0,
        others: 0,
    };
    let code = opened.each(Follow::Yes, &mut |node| tree.draw(node))?;
    let (directories, others) = (tree.directories, tree.others);
    let plural = |count: u64, one: &str, more: &str| match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    };
    let directories = plural(directories, "directory", "directories");
    let line = match args.directories {
        true => directories,
        false => format!("{directories}, {}", plural(others, "file", "files")),
    };
    tree.out.line(&format!("\n{line}"))?;
    tree.out.finish()?;
    Ok(code)
}

/// Returns whether the locale is UTF-8, by the variables of setlocale(3).
fn is_utf8() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Prints the tree and counts its nodes.
struct TreePrinter<'a> {
    view: &'a StackView,
    labels: Vec<String>,
    args: &'a Args,
    branches: &'static Branches,
    /// Sizes of directories by path, if sizes are requested.
    sums: HashMap<Vec<u8>, u64>,
    out: StdoutWriter,
    directories: u64,
    others: u64,
}

impl TreePrinter<'_> {
    fn draw(&mut self, top: ViewNode) -> Result<(), CommandError> {
        if self.args.sizes {
            let sums = usage::by_directory(self.view, &top, self.args.depth)?;
            self.sums = sums.into_iter().map(|(path, sum)| (path, sum.bytes)).collect();
        }
        let path = top.path.clone();
        let is_dir = top.is_dir();
        self.line(&Layered::from_node(top.clone()), "", &display_path(&path))?;
        if !is_dir {
            return Ok(());
        }
        // An explicit stack, so that deep trees cannot overflow the call stack. Each element has
        // the length of the prefix of `before` that belongs to its lines.
        let mut before = String::new();
        let mut pending = vec![(0, self.inside(&top)?.into_iter().peekable())];
        let mut visited = Visited::default();
        visited.enter(self.view, &top)?;
        while let Some((length, listing)) = pending.last_mut() {
            let Some(one) = listing.next() else {
                pending.pop();
                continue;
            };
            before.truncate(*length);
            let last = listing.peek().is_none();
            let branch = if last { self.branches.last } else { self.branches.between };
            let line = format!("{before}{branch}");
            before += if last { self.branches.after } else { self.branches.past };
            let name = escape(&one.name).into_owned();
            self.line(&one, &line, &name)?;
            if let Some(node) = one.node.filter(ViewNode::is_dir)
                && pending.len() < self.args.depth
            {
                visited.enter(self.view, &node)?;
                let inside = self.inside(&node)?;
                pending.push((before.len(), inside.into_iter().peekable()));
            }
        }
        Ok(())
    }

    fn inside(&self, dir: &ViewNode) -> Result<Vec<Layered>, CommandError> {
        if self.args.depth == 0 {
            return Ok(Vec::new());
        }
        let mut inside = match self.args.layers {
            true => self.view.layered(dir)?,
            false => self.view.children(dir)?.into_iter().map(Layered::from_node).collect(),
        };
        if self.args.directories {
            inside.retain(|one| one.node.as_ref().is_some_and(ViewNode::is_dir));
        }
        Ok(inside)
    }

    fn line(&mut self, one: &Layered, before: &str, name: &str) -> Result<(), CommandError> {
        let mut line = before.to_owned();
        if let Some(node) = &one.node {
            match node.is_dir() {
                true => self.directories += 1,
                false => self.others += 1,
            }
            if self.args.sizes {
                let sum = self.sums.get(&node.path).copied().filter(|_| node.is_dir());
                if let Some(size) = sum.or(node.is_file().then_some(node.attr.size)) {
                    line += &format!("[{:>11}] ", size_text(size));
                }
            }
            let colour = match () {
                () if node.is_dir() => Some(AnsiColor::Blue),
                () if node.is_link() => Some(AnsiColor::Cyan),
                () if node.is_file() && node.attr.mode & 0o111 != 0 => Some(AnsiColor::Green),
                () => None,
            };
            line += &colour.map_or(name.to_owned(), |colour| self.out.paint(colour, name));
            if node.is_link() {
                line += &format!(" -> {}", escape(&self.view.link(node)?));
            }
        } else {
            line += &self.out.paint(AnsiColor::Red, name);
        }
        if self.args.layers && !one.has.is_empty() {
            let label = one.layer.and_then(|layer| self.labels.get(layer));
            line += &format!("  [{}]", label.map_or("-", String::as_str));
            let note = layer_note(one, &self.labels);
            if !note.is_empty() {
                line += &format!("  ({note})");
            }
        }
        self.out.line(&line)
    }
}
