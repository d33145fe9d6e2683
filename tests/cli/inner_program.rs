//! Runs this test binary as a program inside a root. Its loader and libraries are bind-mounted, so
//! that it runs in every root, even an empty one.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::listing::{self, Listing};
use crate::support::stage::{Finished, Stage, Who, finish};
use crate::torture;

/// Path of the binary and its libraries inside.
const TOOL: &str = "/tool";
const TASK: &str = "OVERCOAT_TEST_TASK";

/// Runs a task inside a root, and prints the listing of the root.
#[test]
#[ignore = "the program that other tests run inside a root"]
fn run_task_inside() {
    let task = std::env::var(TASK).expect("only other tests run this");
    match task.as_str() {
        "list" => {}
        "torture" => torture::torture(Path::new("/")),
        "three-gibibytes" => torture::three_gibibytes(Path::new("/")),
        other => panic!("no task {other}"),
    }
    // The test harness has begun a line.
    println!();
    for (path, object) in listing::list(Path::new("/")) {
        println!("@{}", serde_json::to_string(&(path, object)).unwrap());
    }
    println!("@end");
}

/// Copies this binary and its libraries to a stage.
pub(crate) fn bundle(stage: &Stage) -> std::path::PathBuf {
    let folder = stage.path("tool");
    if folder.exists() {
        return folder;
    }
    fs::create_dir(&folder).unwrap();
    let program = std::env::current_exe().unwrap();
    let libraries = Command::new("ldd").arg(&program).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    for path in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        let name = if name.starts_with("ld-") { "loader" } else { name };
        fs::copy(path, folder.join(name)).unwrap();
    }
    fs::copy(program, folder.join("program")).unwrap();
    folder
}

/// Returns the value of `--bind` and the command that runs the program inside.
fn words(stage: &Stage) -> (String, Vec<String>) {
    let shown = format!("{}:{TOOL}:ro", bundle(stage).display());
    let run = format!(
        "{TOOL}/loader --library-path {TOOL} {TOOL}/program --exact inner_program::run_task_inside \
         --ignored --nocapture --test-threads=1"
    );
    (shown, run.split(' ').map(str::to_owned).collect())
}

/// Runs `task` in a root of `layers`, and returns the listing of the root afterwards.
pub(crate) fn run(
    stage: &Stage,
    who: Who,
    layers: &[&Path],
    task: &str,
    set: impl FnOnce(&mut Command),
) -> Listing {
    listing_of(&attempt(stage, who, layers, task, set).ok())
}

/// Like [`run`], but returns the result of a command that may fail.
pub(crate) fn attempt(
    stage: &Stage,
    who: Who,
    layers: &[&Path],
    task: &str,
    set: impl FnOnce(&mut Command),
) -> Finished {
    let (shown, run) = words(stage);
    let mut command = stage.overcoat(who);
    command.arg("run").args(layers).args(["--bind", &shown]);
    // The base has owners above the subordinate ids, which the default shows with a single id.
    if who == Who::Unprivileged {
        command.args(["--privilege", "subordinate"]);
    }
    command.arg("--env").arg(format!("{TASK}={task}"));
    set(&mut command);
    command.arg("--").args(run);
    finish(&mut command)
}

/// Returns the value of `--bind` and a shell command that lists the root.
pub(crate) fn list_command(stage: &Stage) -> (String, String) {
    let (shown, run) = words(stage);
    (shown, format!("{TASK}=list {}", run.join(" ")))
}

/// Returns the listing that a command printed.
pub(crate) fn listing_of(finished: &Finished) -> Listing {
    parse(&finished.text())
}

/// Parses a listing.
pub(crate) fn parse(text: &str) -> Listing {
    let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('@')).collect();
    let (last, lines) = lines.split_last().unwrap_or_else(|| panic!("no listing: {text}"));
    assert_eq!(*last, "end", "the listing is complete");
    lines.iter().map(|line| serde_json::from_str::<(_, _)>(line).unwrap()).collect()
}
