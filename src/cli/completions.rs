//! `completions`: shell completion of commands and options, and of what they name: images of the
//! project, image files, paths inside images.
//!
//! The script that `completions SHELL` prints has the shell ask this program, with the line so far,
//! each time (the environment variable [`VARIABLE`] says that it is asked, and by which shell). The
//! engine is clap_complete's dynamic one. Its interface is not settled yet, and `Cargo.lock` holds
//! the version; this module alone knows it.
//!
//! Invariant: whoever presses a key wants no message and no wait. What cannot be read completes to
//! nothing.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, ValueEnum};
use clap_complete::env::{CompleteEnv, Shells};
pub(super) use clap_complete::engine::ArgValueCompleter;
use clap_complete::engine::CompletionCandidate;
use fs_model::tree::Follow;
use provisioners::Project;

use super::{Failure, Outcome, command, print, project};
use crate::layers::is_image;
use crate::look::View;

/// What asks for completions, by its name; not `COMPLETE`, which others may have for something else.
const VARIABLE: &str = "OVERCOAT_COMPLETE";

/// The most candidates of one kind: nobody reads more.
const MOST: usize = 10_000;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Elvish,
    Powershell,
}

pub(super) fn run(args: &Args) -> Outcome {
    let name = args.shell.to_possible_value();
    let name = name.as_ref().map_or("bash", |value| value.get_name());
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| Failure::message("no such shell"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "overcoat", "overcoat", "overcoat", &mut script)?;
    print(String::from_utf8_lossy(&script).trim())?;
    Ok(ExitCode::SUCCESS)
}

/// Answers a shell that asks for completions, and ends then.
pub(super) fn answer() {
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Image files, and directories on the way to them.
pub(super) fn images() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| files(current, is_image))
}

/// Images of the project by name, project files and image files.
pub(super) fn buildable() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = names(|_| true);
        found.retain(|name| begins(name.get_value(), current));
        found.extend(files(current, |path| {
            path.extension().is_some_and(|end| end == "yml" || end == "yaml")
        }));
        found
    })
}

/// Images of the project by name that machines boot, and overlays by path.
pub(super) fn bootable() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = names(|kind| kind != "initrd");
        found.retain(|name| begins(name.get_value(), current));
        found.extend(files(current, is_image));
        found
    })
}

/// Images of the project by name.
pub(super) fn image_names() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = names(|_| true);
        found.retain(|name| begins(name.get_value(), current));
        found
    })
}

/// The images of the project that the line names, or that is here, each with its kind.
fn names(wanted: impl Fn(&str) -> bool) -> Vec<CompletionCandidate> {
    let line = Line::of_process();
    let file = line.value_of(&["-p", "--project"]);
    let named = line.words.iter().filter_map(|word| word.to_str());
    let named = named.filter(|word| !word.starts_with('-') && Path::new(word).exists());
    let named: Vec<String> = named.take(1).map(str::to_owned).collect();
    let found = match &file {
        Some(file) => Project::load(Path::new(file)).ok(),
        None => project::find(&named, None).ok().flatten().map(|(project, _)| project),
    };
    let candidate = |image: &provisioners::project::ProjectImage| {
        CompletionCandidate::new(&image.name).help(Some(image.kind().to_string().into()))
    };
    found.map_or_else(Vec::new, |project| {
        let images = project.images().iter().filter(|image| wanted(image.kind()));
        images.take(MOST).map(candidate).collect()
    })
}

/// Files that `wanted` takes, and directories, whose names begin as `current` does.
fn files(current: &OsStr, wanted: impl Fn(&Path) -> bool) -> Vec<CompletionCandidate> {
    let (folder, start) = split(current.as_bytes());
    let place = if folder.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(folder)) };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut found = BTreeSet::new();
    for entry in entries.flatten().take(MOST) {
        let name = entry.file_name();
        let bytes = name.as_bytes();
        if !bytes.starts_with(start) || (start.is_empty() && bytes.starts_with(b".")) {
            continue;
        }
        let path = entry.path();
        let Ok(kind) = std::fs::metadata(&path) else { continue };
        if kind.is_dir() {
            found.insert([folder, bytes, b"/"].concat());
        } else if kind.is_file() && wanted(&path) {
            found.insert([folder, bytes].concat());
        }
    }
    found.into_iter().map(|path| CompletionCandidate::new(OsString::from_vec(path))).collect()
}

/// What is in the images `layers` whose path begins as `current` does; directories end in a slash.
fn inside(layers: &[PathBuf], current: &[u8]) -> Vec<Vec<u8>> {
    let (folder, start) = split(current);
    let entries = || {
        let view = View::open(layers).ok()?;
        let folder = view.resolve(folder, Follow::Yes).ok()?;
        let children = view.children(&folder).ok()?;
        let leads_in = |node: &crate::look::Node| {
            let there = node.is_link().then(|| view.resolve(&node.path, Follow::Yes));
            node.is_dir() || there.is_some_and(|found| found.is_ok_and(|node| node.is_dir()))
        };
        let fitting = children.iter().filter(|node| node.name().starts_with(start)).take(MOST);
        let end = |node: &crate::look::Node| if leads_in(node) { &b"/"[..] } else { b"" };
        Some(fitting.map(|node| [folder_of(current), node.name(), end(node)].concat()).collect())
    };
    entries().unwrap_or_default()
}

fn folder_of(path: &[u8]) -> &[u8] {
    split(path).0
}

/// A path as its folder, with the slash at its end, and the name in that.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1))
}

fn begins(value: &OsStr, with: &OsStr) -> bool {
    value.as_bytes().starts_with(with.as_bytes())
}

/// The line that is completed: the words after the subcommand, before that of the cursor.
struct Line {
    words: Vec<OsString>,
}

impl Line {
    /// From this process's arguments: `overcoat -- overcoat SUBCOMMAND WORD… CURRENT`; which one is
    /// current is said by some shells, and is the last one for others.
    fn of_process() -> Self {
        let mut words: Vec<OsString> = std::env::args_os().skip_while(|arg| arg != "--").collect();
        let index = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|text| text.parse().ok());
        let current = index.map_or(words.len().saturating_sub(1), |index: usize| index + 1);
        words.truncate(current);
        Line { words: words.into_iter().skip(3).collect() }
    }

    /// The value of an option, written behind it or after `=`.
    fn value_of(&self, names: &[&str]) -> Option<OsString> {
        let words = self.words.iter().enumerate();
        let value = |(at, word): (usize, &OsString)| {
            names.iter().find_map(|name| {
                let rest = word.as_bytes().strip_prefix(name.as_bytes())?;
                match rest {
                    [] => self.words.get(at + 1).cloned(),
                    [b'=', value @ ..] => Some(OsStr::from_bytes(value).to_owned()),
                    _ => None,
                }
            })
        };
        words.filter_map(value).next_back()
    }
}
