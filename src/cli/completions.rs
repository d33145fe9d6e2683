//! `completions`: shell completion of commands and options, and of what they name: images of the
//! project, image files, paths inside images.
//!
//! The script that `completions SHELL` prints has the shell ask this program, with the line so far,
//! each time (the environment variable [`VARIABLE`] says that it is asked, and by which shell). The
//! engine is clap_complete's dynamic one. Its interface is not settled yet, and `Cargo.lock` holds
//! the version; this module alone knows it.
//!
//! Invariants:
//! - Whoever presses a key wants no message and no wait. What cannot be read completes to nothing.
//! - A name that an image or a folder has cannot make the shell do anything: where the shell does not
//!   quote what it is given, it is quoted here, and names with control characters are left out.

mod line;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args as ClapArgs, Command, ValueEnum};
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use fs_model::tree::Follow;
use provisioners::Project;

use self::line::{LINE, Line, at_home};
use super::{Failure, Outcome, command, print, project};
use crate::layers::is_image;
use crate::look::{Node, View};

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
        line::asked_by(shell);
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
    let any = |_: &Path| true;
    Some(match value_name {
        name if name.contains("[:PATH") => with(images_and_paths),
        name if name.starts_with("BASE") || name == "OVERLAY" || name == "IMAGE" => {
            with(|line| files(line, is_image))
        }
        "FILE|NAME" => with(move |line| [names(line, |_| true), files(line, is_project)].concat()),
        "NAME|OVERLAY" | "IMAGE|NAME" => {
            with(|line| [names(line, |kind| kind != "initrd"), files(line, is_image)].concat())
        }
        "NAME" => with(|line| names(line, |_| true)),
        "LINT" => with(lints),
        "FILE" | "OUT" | "PROJECT" | "PATH" => with(move |line| files(line, any)),
        "DIR" => with(move |line| files(line, |_| false)),
        _ => return None,
    })
}

/// What may stand in the place of the word that is written, and what it is.
type Candidate = (Vec<u8>, Option<&'static str>);

/// Completes by what `candidates` finds for the line.
fn with(candidates: impl Fn(&Line) -> Vec<Candidate> + Send + Sync + 'static) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let Some(line) = Line::of_process(current) else { return Vec::new() };
        let shown = |(word, what): Candidate| {
            let candidate = CompletionCandidate::new(line.written(&word)?);
            Some(candidate.help(what.map(Into::into)))
        };
        candidates(&line).into_iter().filter_map(shown).collect()
    })
}

/// The images of the project that the line names, or that is here, each with its kind.
fn names(line: &Line, wanted: impl Fn(&str) -> bool) -> Vec<Candidate> {
    let found = match line.value_of(&["-p", "--project"]) {
        Some(file) => Project::load(&file).ok(),
        None => {
            let named = line.paths().find(|path| path.exists());
            let named = named.map(|path| path.to_string_lossy().into_owned());
            let found = project::find(named.as_slice(), None).ok().flatten();
            found.map(|(project, _)| project)
        }
    };
    let Some(project) = found else { return Vec::new() };
    let images = project.images().iter().filter(|image| wanted(image.kind()));
    let images = images.filter(|image| image.name.as_bytes().starts_with(&line.current));
    images.take(MOST).map(|image| (image.name.as_bytes().to_vec(), Some(image.kind()))).collect()
}

/// Lints, and groups of them.
fn lints(line: &Line) -> Vec<Candidate> {
    let lints = crate::check::lints().map(|lint| (lint.name, lint.summary));
    let all = crate::check::GROUPS.into_iter().chain(lints);
    all.filter(|(name, _)| name.as_bytes().starts_with(&line.current))
        .map(|(name, what)| (name.as_bytes().to_vec(), Some(what)))
        .collect()
}

/// Files that `wanted` takes, and directories, whose names begin as the word does.
fn files(line: &Line, wanted: impl Fn(&Path) -> bool) -> Vec<Candidate> {
    let (folder, start) = split(&line.current);
    let place = if folder.is_empty() { PathBuf::from(".") } else { at_home(folder) };
    let Ok(entries) = std::fs::read_dir(place) else { return Vec::new() };
    let mut found = BTreeSet::new();
    for entry in entries.flatten() {
        let name = entry.file_name();
        let bytes = name.as_bytes();
        if !bytes.starts_with(start) || (start.is_empty() && bytes.starts_with(b".")) {
            continue;
        }
        let path = entry.path();
        let Ok(kind) = std::fs::metadata(&path) else { continue };
        if kind.is_dir() {
            found.insert([folder, bytes, b"/"].concat());
        } else if wanted(&path) {
            found.insert([folder, bytes].concat());
        }
        if found.len() >= MOST {
            break;
        }
    }
    found.into_iter().map(|path| (path, None)).collect()
}

/// Images, and paths inside those that are named before.
fn images_and_paths(line: &Line) -> Vec<Candidate> {
    let images = || -> Vec<PathBuf> {
        line.paths().filter(|path| path.is_dir() || is_image(path)).collect()
    };
    let Some(path) = line.current.strip_prefix(b":") else {
        let mut found = files(line, is_image);
        if line.current.is_empty() && !images().is_empty() {
            found.push((b":/".to_vec(), None));
        }
        return found;
    };
    let found = inside(&images(), if path.is_empty() { b"/" } else { path });
    found.into_iter().map(|path| ([b":", &path[..]].concat(), None)).collect()
}

/// What is in the images `layers` whose path begins as `current` does; directories end in a slash.
fn inside(layers: &[PathBuf], current: &[u8]) -> Vec<Vec<u8>> {
    let (folder, start) = split(current);
    if layers.is_empty() {
        return Vec::new();
    }
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
