//! `completions`: shell completion of commands, options, images of the project, image files and
//! paths inside images.
//!
//! The script that `completions SHELL` prints makes the shell run this program for each completion,
//! with the current line as arguments. The environment variable [`VARIABLE`] marks such a run and
//! names the shell. The engine is the dynamic one of clap_complete, whose interface is unstable:
//! `Cargo.lock` pins the version, and only this module uses it.
//!
//! Invariants:
//! - Completion prints no messages and does not block. Files that cannot be read have no
//!   candidates.
//! - Names in images and directories cannot inject shell code: candidates are quoted here for
//!   shells that insert them unquoted, and names with control characters are omitted.

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

use self::line::{CompletionLine, LINE, expand_tilde};
use crate::cli::command;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::project_images;
use crate::image::open::is_image;
use crate::image::view::{StackView, ViewNode};

/// Environment variable that requests completions and names the shell. The default of
/// clap_complete, `COMPLETE`, could collide with other programs.
const VARIABLE: &str = "OVERCOAT_COMPLETE";

/// Maximum number of candidates of one kind.
const MAX_CANDIDATES: usize = 10_000;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Shell to generate the script for
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

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let name = args.shell.to_possible_value();
    let name = name.as_ref().map_or("bash", |value| value.get_name());
    let shells = Shells::builtins();
    let shell = shells.completer(name).ok_or_else(|| CommandError::user("unknown shell"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "overcoat", "overcoat", "overcoat", &mut script)?;
    ui.print(patch_script(args.shell, &String::from_utf8_lossy(&script)).trim())?;
    Ok(ExitCode::SUCCESS)
}

/// Patches a generated script to support paths inside images, which begin with a colon.
fn patch_script(shell: Shell, script: &str) -> String {
    match shell {
        // Bash splits words at colons, so the script also passes the unsplit line.
        Shell::Bash => script.replacen(
            "_CLAP_IFS=",
            &format!("{LINE}=\"${{COMP_LINE:0:COMP_POINT}}\" \\\n        _CLAP_IFS="),
            1,
        ),
        // Zsh separates a candidate from its description with a colon; `compset -P :` excludes the
        // leading colon of a path from the completed word.
        Shell::Zsh => script.replacen("() {\n", "() {\n    compset -P :\n", 1),
        _ => script.to_owned(),
    }
}

/// Prints completions and exits if a shell requested them by [`VARIABLE`]; else does nothing.
pub(crate) fn answer() {
    if let Some(shell) = std::env::var_os(VARIABLE) {
        line::set_shell(shell);
    }
    CompleteEnv::with_factory(command).var(VARIABLE).complete();
}

/// Attaches a completer to each argument, chosen by the argument's value name in the help.
pub(crate) fn attach(command: Command) -> Command {
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

/// Returns the completer for arguments with this value name.
fn completer(value_name: &str) -> Option<ArgValueCompleter> {
    let is_project =
        |path: &Path| path.extension().is_some_and(|end| end == "yml" || end == "yaml");
    let any = |_: &Path| true;
    Some(match value_name {
        name if name.contains("[:PATH") => completer_from(images_and_paths),
        name if name.starts_with("BASE") || name == "OVERLAY" || name == "IMAGE" => {
            completer_from(|line| [layer_names(line), files(line, is_image)].concat())
        }
        "FILE|NAME" => {
            completer_from(move |line| [names(line, |_| true), files(line, is_project)].concat())
        }
        "NAME|OVERLAY" | "IMAGE|NAME" => {
            completer_from(|line| [names(line, is_layer), files(line, is_image)].concat())
        }
        "NAME" => completer_from(|line| names(line, |_| true)),
        "LINT" => completer_from(lints),
        "FILE" | "OUT" | "PROJECT" | "PATH" => completer_from(move |line| files(line, any)),
        "DIR" => completer_from(move |line| files(line, |_| false)),
        _ => return None,
    })
}

/// A word that can replace the current one, and its description.
type Candidate = (Vec<u8>, Option<&'static str>);

/// Returns a completer that calls `candidates` with the line.
fn completer_from(
    candidates: impl Fn(&CompletionLine) -> Vec<Candidate> + Send + Sync + 'static,
) -> ArgValueCompleter {
    ArgValueCompleter::new(move |current: &OsStr| {
        let Some(line) = CompletionLine::from_process(current) else { return Vec::new() };
        let shown = |(word, help): Candidate| {
            let candidate = CompletionCandidate::new(line.replacement(&word)?);
            Some(candidate.help(help.map(Into::into)))
        };
        candidates(&line).into_iter().filter_map(shown).collect()
    })
}

/// Completes names of images, with their kinds, from the project that the line names, or from that
/// of the current directory.
fn names(line: &CompletionLine, wanted: impl Fn(&str) -> bool) -> Vec<Candidate> {
    let named = line.paths().find(|path| project_images::is_project(path));
    let named = named.map(|path| path.to_string_lossy().into_owned());
    let file = line.value_of(&["-p", "--project"]);
    let named = if file.is_some() { &[] } else { named.as_slice() };
    let found = project_images::find(named, file.as_deref()).ok().flatten();
    let Some((project, _)) = found else { return Vec::new() };
    names_in(&project, line, wanted)
}

/// Completes names of images that can be layers, with their kinds.
fn layer_names(line: &CompletionLine) -> Vec<Candidate> {
    project(line).map_or_else(Vec::new, |project| names_in(&project, line, is_layer))
}

/// Whether an image of this kind can be a layer.
fn is_layer(kind: &str) -> bool {
    kind != "initrd"
}

/// Returns the project that the option `--project` gives, or that of the current directory.
fn project(line: &CompletionLine) -> Option<Project> {
    let file = line.value_of(&["-p", "--project"]);
    let found = project_images::find(&[], file.as_deref()).ok().flatten();
    found.map(|(project, _)| project)
}

fn names_in(
    project: &Project,
    line: &CompletionLine,
    wanted: impl Fn(&str) -> bool,
) -> Vec<Candidate> {
    let images = project.images().iter().filter(|image| wanted(image.kind()));
    let images = images.filter(|image| image.name.as_bytes().starts_with(&line.current));
    images
        .take(MAX_CANDIDATES)
        .map(|image| (image.name.as_bytes().to_vec(), Some(image.kind())))
        .collect()
}

/// Completes lints and groups of lints, with their summaries.
fn lints(line: &CompletionLine) -> Vec<Candidate> {
    let lints = crate::check::lints().map(|lint| (lint.name, lint.summary));
    let all = crate::check::GROUPS.into_iter().chain(lints);
    all.filter(|(name, _)| name.as_bytes().starts_with(&line.current))
        .map(|(name, what)| (name.as_bytes().to_vec(), Some(what)))
        .collect()
}

/// Completes directories, and files accepted by `wanted`.
fn files(line: &CompletionLine, wanted: impl Fn(&Path) -> bool) -> Vec<Candidate> {
    let (folder, start) = split(&line.current);
    let dir = if folder.is_empty() { PathBuf::from(".") } else { expand_tilde(folder) };
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
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
        if found.len() >= MAX_CANDIDATES {
            break;
        }
    }
    found.into_iter().map(|path| (path, None)).collect()
}

/// Completes images, and paths inside the images given before.
fn images_and_paths(line: &CompletionLine) -> Vec<Candidate> {
    let project = project(line);
    let layers = || -> Vec<PathBuf> {
        let is_name = |word: &Path| {
            project.as_ref().is_some_and(|p| project_images::named_image(p, word).is_some())
        };
        let images = line.paths().filter(|word| word.is_dir() || is_image(word) || is_name(word));
        let images: Vec<PathBuf> = images.collect();
        project_images::stack(&images, project.as_ref()).unwrap_or_default()
    };
    let Some(path) = line.current.strip_prefix(b":") else {
        let names = project.as_ref().map(|project| names_in(project, line, is_layer));
        let mut found = [names.unwrap_or_default(), files(line, is_image)].concat();
        if line.current.is_empty() && !layers().is_empty() {
            found.push((b":/".to_vec(), None));
        }
        return found;
    };
    let found = inside(&layers(), if path.is_empty() { b"/" } else { path });
    found.into_iter().map(|path| ([b":", &path[..]].concat(), None)).collect()
}

/// Returns the paths inside the stack `layers` that begin with `current`; directories end in a
/// slash.
fn inside(layers: &[PathBuf], current: &[u8]) -> Vec<Vec<u8>> {
    let (folder, start) = split(current);
    if layers.is_empty() {
        return Vec::new();
    }
    let entries = || {
        let view = StackView::open(layers).ok()?;
        let children = view.children(&view.resolve(folder, Follow::Yes).ok()?).ok()?;
        let is_dir = |node: &ViewNode| match node.is_link() {
            true => view.resolve(&node.path, Follow::Yes).is_ok_and(|node| node.is_dir()),
            false => node.is_dir(),
        };
        let end = |node: &ViewNode| if is_dir(node) { &b"/"[..] } else { b"" };
        let matching = children.iter().filter(|node| node.name().starts_with(start));
        let paths = matching.map(|node| [folder, node.name(), end(node)].concat());
        Some(paths.take(MAX_CANDIDATES).collect())
    };
    entries().unwrap_or_default()
}

/// Splits a path after its last slash, into directory and name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    path.split_at(path.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1))
}
