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
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::OnceLock;

use clap::{Args as ClapArgs, Command, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use fs_model::tree::Follow;
use provisioners::Project;
use provisioners::project::Member;

use super::{Failure, Outcome, command, print, project};
use crate::layers::is_image;
use crate::look::{Node, View};

/// What asks for completions, by its name; not `COMPLETE`, which others may have for something else.
const VARIABLE: &str = "OVERCOAT_COMPLETE";

/// The line up to the cursor, from a shell whose words are not the line's.
const LINE: &str = "OVERCOAT_LINE";

/// The shell that asks.
static ASKING: OnceLock<OsString> = OnceLock::new();

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
    print(adapted(args.shell, &String::from_utf8_lossy(&script)).trim())?;
    Ok(ExitCode::SUCCESS)
}

/// The script, so that a path inside an image can be completed, which begins with a colon.
fn adapted(shell: Shell, script: &str) -> String {
    match shell {
        // It takes a colon for the end of a word. Only the line itself has the words as they are.
        Shell::Bash => script.replacen(
            "_CLAP_IFS=",
            &format!("{LINE}=\"${{COMP_LINE:0:COMP_POINT}}\" \\\n        _CLAP_IFS="),
            1,
        ),
        // It has a colon stand before what a candidate means: the one before the path is set aside.
        Shell::Zsh => script.replacen("() {\n", "() {\n    compset -P :\n", 1),
        _ => script.to_owned(),
    }
}

/// Answers a shell that asks for completions, and ends then.
pub(super) fn answer() {
    if let Some(shell) = std::env::var_os(VARIABLE) {
        // It is asked once.
        let _ = ASKING.set(shell);
    }
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Completes each value as what its name in the help says it is.
pub(super) fn attach(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        subcommand.mut_args(|argument| {
            let names = argument.get_value_names().unwrap_or_default();
            let name = names.first().map(|name| name.as_str().to_owned()).unwrap_or_default();
            match completer(&name) {
                Some(completer) => argument.add(completer),
                None => argument,
            }
        })
    })
}

/// What completes a value of this name.
fn completer(value_name: &str) -> Option<ArgValueCompleter> {
    let is_project =
        |path: &Path| path.extension().is_some_and(|end| end == "yml" || end == "yaml");
    Some(match value_name {
        name if name.contains("[:PATH") => ArgValueCompleter::new(images_and_paths),
        name if name.starts_with("BASE") || name == "OVERLAY" || name == "IMAGE" => {
            ArgValueCompleter::new(|current: &OsStr| files(current, is_image))
        }
        "FILE|NAME" => ArgValueCompleter::new(move |current: &OsStr| {
            let mut found = names(current, |_| true);
            found.extend(files(current, is_project));
            found
        }),
        "NAME|OVERLAY" | "IMAGE|NAME" => ArgValueCompleter::new(|current: &OsStr| {
            let mut found = names(current, |kind| kind != "initrd");
            found.extend(files(current, is_image));
            found
        }),
        "NAME" => ArgValueCompleter::new(|current: &OsStr| names(current, |_| true)),
        _ => return None,
    })
}

/// The images of the project that the line names, or that is here, each with its kind.
fn names(current: &OsStr, wanted: impl Fn(&str) -> bool) -> Vec<CompletionCandidate> {
    let line = Line::of_process();
    let file = line.value_of(&["-p", "--project"]);
    let named = line.words.iter().filter_map(|word| word.to_str());
    let named = named.filter(|word| !word.starts_with('-') && Path::new(word).exists());
    let named: Vec<String> = named.take(1).map(str::to_owned).collect();
    let found = match &file {
        Some(file) => Project::load(Path::new(file)).ok(),
        None => project::find(&named, None).ok().flatten().map(|(project, _)| project),
    };
    let candidate =
        |image: &Member| CompletionCandidate::new(&image.name).help(Some(image.kind().into()));
    found.map_or_else(Vec::new, |project| {
        let images = project.images().iter().filter(|image| wanted(image.kind()));
        let images = images.filter(|image| image.name.as_bytes().starts_with(current.as_bytes()));
        images.take(MOST).map(candidate).collect()
    })
}

/// Files that `wanted` takes, and directories, whose names begin as `current` does.
fn files(current: &OsStr, wanted: impl Fn(&Path) -> bool) -> Vec<CompletionCandidate> {
    let (folder, start) = split(current.as_bytes());
    let place =
        if folder.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(folder)) };
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

/// Images, and paths inside those that are named before.
fn images_and_paths(current: &OsStr) -> Vec<CompletionCandidate> {
    let line = Line::of_process();
    let Some(path) = line.current.as_bytes().strip_prefix(b":") else {
        let mut found = files(current, is_image);
        if line.current.is_empty() && !line.images().is_empty() {
            found.push(CompletionCandidate::new(":/"));
        }
        return found;
    };
    // The shell puts the candidate in the place of what it takes for the word.
    let is_kept =
        ASKING.get().is_none_or(|shell| shell != "zsh") && current.as_bytes().starts_with(b":");
    let colon = if is_kept { &b":"[..] } else { b"" };
    let candidate = |path: Vec<u8>| OsString::from_vec([colon, &path].concat());
    let found = inside(&line.images(), if path.is_empty() { b"/" } else { path });
    found.into_iter().map(|path| CompletionCandidate::new(candidate(path))).collect()
}

/// What is in the images `layers` whose path begins as `current` does; directories end in a slash.
fn inside(layers: &[PathBuf], current: &[u8]) -> Vec<Vec<u8>> {
    let (folder, start) = split(current);
    let entries = || {
        let view = View::open(layers).ok()?;
        let children = view.children(&view.resolve(folder, Follow::Yes).ok()?).ok()?;
        let leads_in = |node: &Node| match node.is_link() {
            true => view.resolve(&node.path, Follow::Yes).is_ok_and(|node| node.is_dir()),
            false => node.is_dir(),
        };
        let end = |node: &Node| if leads_in(node) { &b"/"[..] } else { b"" };
        let fitting = children.iter().filter(|node| node.name().starts_with(start)).take(MOST);
        Some(fitting.map(|node| [folder, node.name(), end(node)].concat()).collect())
    };
    entries().unwrap_or_default()
}

/// A path as its folder, with the slash at its end, and the name in that.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1))
}

/// The line that is completed, up to the cursor.
struct Line {
    /// The words after the subcommand, without the last one.
    words: Vec<OsString>,
    /// The word that is being written.
    current: OsString,
}

impl Line {
    fn of_process() -> Self {
        let mut words: Vec<OsString> = match std::env::var_os(LINE) {
            Some(line) => {
                let blank = |byte: &u8| byte.is_ascii_whitespace();
                let words = line.as_bytes().split(blank).map(|word| OsStr::from_bytes(word).into());
                let words: Vec<OsString> = words.collect();
                let last = words.len().saturating_sub(1);
                let written = |(at, word): (usize, OsString)| {
                    (at == last || !word.is_empty()).then_some(word)
                };
                words.into_iter().enumerate().filter_map(written).collect()
            }
            // `PROGRAM -- overcoat SUBCOMMAND WORD…`; which one is written is said, or the last is.
            None => {
                let words = std::env::args_os().skip_while(|arg| arg != "--").skip(1);
                let mut words: Vec<OsString> = words.collect();
                let index = std::env::var("_CLAP_COMPLETE_INDEX").ok();
                if let Some(index) = index.and_then(|text| text.parse::<usize>().ok()) {
                    words.resize(index.min(words.len()) + 1, OsString::new());
                }
                words
            }
        };
        let current = words.pop().unwrap_or_default();
        // Options may stand before the subcommand.
        let behind = words.into_iter().skip(1).skip_while(|word| word.as_bytes().starts_with(b"-"));
        Line { words: behind.skip(1).collect(), current }
    }

    /// The images that it names: everything that is there and is no option, nor a path inside one.
    fn images(&self) -> Vec<PathBuf> {
        let names = self.words.iter().filter(|word| !word.as_bytes().starts_with(b"-"));
        names.map(PathBuf::from).filter(|path| path.is_dir() || is_image(path)).collect()
    }

    /// The value of an option, written behind it or after `=`.
    fn value_of(&self, names: &[&str]) -> Option<OsString> {
        let words = self.words.iter().enumerate();
        let value = |(at, word): (usize, &OsString)| {
            names.iter().find_map(|name| match word.as_bytes().strip_prefix(name.as_bytes())? {
                [] => self.words.get(at + 1).cloned(),
                [b'=', value @ ..] => Some(OsStr::from_bytes(value).to_owned()),
                _ => None,
            })
        };
        words.filter_map(value).next_back()
    }
}
