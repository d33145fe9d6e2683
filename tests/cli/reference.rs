//! The reference of all commands in the documentation.

use std::fs;
use std::path::Path;

use crate::snapshot::program;
use crate::support::stage::finish;

const UPDATE: &str = "INSTA_UPDATE=always cargo test -p overcoat --test cli reference";

/// docs/COMMANDS.md contains the help of all commands.
#[test]
fn reference_contains_the_help_of_each_command() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/COMMANDS.md");
    let mut expected = "# Commands\n\n\
        The help of each command, as `overcoat COMMAND --help` prints it. [USING.md](USING.md) \
        explains the commands, with examples.\n"
        .to_owned();
    expected += &format!("\n<!-- Written by `{UPDATE}`. -->\n");
    let help = help(&[]);
    expected += &section("overcoat", &help);
    for name in command_names(&help) {
        expected += &section(&format!("overcoat {name}"), &self::help(&[name]));
    }
    // The variable that updates the snapshots.
    if std::env::var_os("INSTA_UPDATE").is_some_and(|value| value == "always") {
        fs::write(&file, &expected).unwrap();
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let different = found.lines().zip(expected.lines()).find(|(found, expected)| found != expected);
    assert!(
        found == expected,
        "docs/COMMANDS.md is out of date; update it with `{UPDATE}`\n{different:?}"
    );
}

fn section(title: &str, help: &str) -> String {
    let lines: Vec<&str> = help.trim().lines().map(str::trim_end).collect();
    format!("\n## {title}\n\n```text\n{}\n```\n", lines.join("\n"))
}

/// Returns the help of a command, at the largest width.
fn help(command: &[&str]) -> String {
    finish(program().args(command).arg("--help").env("COLUMNS", "100")).ok().text()
}

/// Returns the commands in the help of overcoat, without `help` itself.
pub(crate) fn command_names(help: &str) -> Vec<&str> {
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let entries =
        commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = entries.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").collect()
}
