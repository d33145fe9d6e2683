//! `tree`: what is in images, drawn as a tree.

use std::collections::HashMap;

use clap::Args as ClapArgs;
use fs_model::tree::Follow;

use super::images::{Images, labels};
use super::ls::told;
use super::options::size_text;
use super::out::{Colour, Out};
use super::shown::inside;
use super::{Failure, Outcome};
use crate::look::layered::Layered;
use crate::look::{Node, View, Visited, usage};
use crate::seal::path::escape;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(flatten)]
    images: Images,

    /// How many names deep
    #[arg(short = 'L', long, value_name = "N", default_value_t = usize::MAX, hide_default_value = true)]
    depth: usize,

    /// Sizes: of files, and of directories with all that is in them
    #[arg(short, long)]
    sizes: bool,

    /// Directories alone
    #[arg(short, long)]
    directories: bool,

    /// Which layer each comes from, what it hides there, and what is deleted
    #[arg(long)]
    layers: bool,
}

/// How branches are drawn.
struct Branches {
    between: &'static str,
    last: &'static str,
    past: &'static str,
    after: &'static str,
}

const LINES: Branches =
    Branches { between: "├── ", last: "└── ", past: "│   ", after: "    " };
const ASCII: Branches = Branches { between: "|-- ", last: "`-- ", past: "|   ", after: "    " };

pub(super) fn run(args: &Args) -> Outcome {
    let opened = args.images.open()?;
    let branches = if is_utf8() { &LINES } else { &ASCII };
    let mut tree = Tree {
        view: &opened.view,
        labels: labels(&opened.view),
        args,
        branches,
        sums: HashMap::new(),
        out: Out::new(),
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

/// Whether the terminal, or who reads it, has more than ASCII: setlocale(3).
fn is_utf8() -> bool {
    let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = set("LC_ALL").or_else(|| set("LC_CTYPE")).or_else(|| set("LANG"));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

struct Tree<'a> {
    view: &'a View,
    labels: Vec<String>,
    args: &'a Args,
    branches: &'static Branches,
    /// Of directories, if sizes are asked for.
    sums: HashMap<Vec<u8>, u64>,
    out: Out,
    directories: u64,
    others: u64,
}

impl Tree<'_> {
    fn draw(&mut self, top: Node) -> Result<(), Failure> {
        if self.args.sizes {
            let sums = usage::by_directory(self.view, &top, self.args.depth)?;
            self.sums = sums.into_iter().map(|(path, sum)| (path, sum.bytes)).collect();
        }
        let path = top.path.clone();
        let is_dir = top.is_dir();
        self.line(&Layered::alone(top.clone()), "", &inside(&path))?;
        if !is_dir {
            return Ok(());
        }
        // A stack, so that no depth of the tree can be too much; with how much of `before` stands
        // before each line.
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
            if let Some(node) = one.node.filter(Node::is_dir)
                && pending.len() < self.args.depth
            {
                visited.enter(self.view, &node)?;
                let inside = self.inside(&node)?;
                pending.push((before.len(), inside.into_iter().peekable()));
            }
        }
        Ok(())
    }

    fn inside(&self, dir: &Node) -> Result<Vec<Layered>, Failure> {
        if self.args.depth == 0 {
            return Ok(Vec::new());
        }
        let mut inside = match self.args.layers {
            true => self.view.layered(dir)?,
            false => self.view.children(dir)?.into_iter().map(Layered::alone).collect(),
        };
        if self.args.directories {
            inside.retain(|one| one.node.as_ref().is_some_and(Node::is_dir));
        }
        Ok(inside)
    }

    fn line(&mut self, one: &Layered, before: &str, name: &str) -> Result<(), Failure> {
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
                () if node.is_dir() => Some(Colour::Blue),
                () if node.is_link() => Some(Colour::Cyan),
                () if node.is_file() && node.attr.mode & 0o111 != 0 => Some(Colour::Green),
                () => None,
            };
            line += &colour.map_or(name.to_owned(), |colour| self.out.paint(colour, name));
            if node.is_link() {
                line += &format!(" -> {}", escape(&self.view.link(node)?));
            }
        } else {
            line += &self.out.paint(Colour::Red, name);
        }
        if self.args.layers && !one.has.is_empty() {
            let label = one.layer.and_then(|layer| self.labels.get(layer));
            line += &format!("  [{}]", label.map_or("-", String::as_str));
            let told = told(one, &self.labels);
            if !told.is_empty() {
                line += &format!("  ({told})");
            }
        }
        self.out.line(&line)
    }
}
