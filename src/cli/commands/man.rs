//! `man`: manual pages, generated from the same definitions as `--help`.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode, Stdio};

use clap::{Args as ClapArgs, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::cli::Cli;
use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::cli::ui::examples;
use crate::sandbox::find_program;
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Command to show the page of (default: overcoat itself)
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,

    /// Write all pages to this directory, which is created if necessary
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// Exit codes, listed only on the page of overcoat itself. Also in docs/USING.md.
const EXIT: [(&str, &str); 5] = [
    ("0", "success"),
    ("1", "the answer is no (such as differences found by diff), or a provisioner's step failed"),
    ("2", "overcoat itself failed"),
    ("128 + n", "overcoat was terminated by signal n"),
    (
        "the command's",
        "run and shell exit with the code of their command; 126 if it cannot be executed, 127 if \
         it is not found",
    ),
];

/// Environment variables, listed only on the page of overcoat itself. Also in docs/USING.md.
const ENVIRONMENT: [(&str, &str); 8] = [
    (
        "SOURCE_DATE_EPOCH",
        "upper limit of all times in artifacts; takes precedence over the image file",
    ),
    (
        "http_proxy, https_proxy, ftp_proxy, all_proxy, no_proxy",
        "passed to commands in the root, in upper case too",
    ),
    (
        "SSL_CERT_FILE, CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE, PIP_CERT, NODE_EXTRA_CA_CERTS, \
         GIT_SSL_CAINFO, CARGO_HTTP_CAINFO, AWS_CA_BUNDLE, HTTPLIB2_CA_CERTS, NIX_SSL_CERT_FILE",
        "certificate bundles that are trusted in the root too",
    ),
    ("JAVA_TOOL_OPTIONS", "its trust store is lent to Java programs in the root"),
    ("TERM, COLORTERM", "passed to commands in the root"),
    ("NO_COLOR", "disables colours; passed to commands in the root"),
    ("TMPDIR", "working directory of mmdebstrap (default: /dev/shm)"),
    ("OVERCOAT_COMPLETE", "set by shells that request completions"),
];

const FILES: [(&str, &str); 5] = [
    ("overcoat.yml", "project file: the images and their inputs"),
    ("provisioners/NAME/", "provisioner in the directory of a project"),
    ("OUT.manifest.json", "manifest of the archive OUT"),
    ("/etc/subuid, /etc/subgid", "subordinate ids, which roots of ordinary users are mapped to"),
    ("/etc/fuse.conf", "user_allow_other lets other users access a user's mounts"),
];

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let pages = pages()?;
    if let Some(dir) = &args.dir {
        let failed =
            |error| CommandError::system(format!("cannot write to {}", dir.display()), error);
        std::fs::create_dir_all(dir).map_err(failed)?;
        let mut outputs = Vec::new();
        for (name, page) in &pages {
            let mut output = Output::file(&dir.join(format!("{name}.1")))?;
            output.write_all(page).map_err(failed)?;
            outputs.push(output);
        }
        commit(outputs)?;
        return Ok(ExitCode::SUCCESS);
    }
    let name = match &args.command {
        Some(command) => format!("overcoat-{command}"),
        None => "overcoat".to_owned(),
    };
    let Some(page) = pages.get(&name) else {
        let all: Vec<_> = pages.keys().filter_map(|name| name.strip_prefix("overcoat-")).collect();
        return Err(CommandError::user(format!(
            "unknown command {}; the commands are {}",
            args.command.as_deref().unwrap_or_default(),
            all.join(", ")
        )));
    };
    if std::io::stdout().is_terminal()
        && let Some(program) = find_program("man")
    {
        return show(&program, page);
    }
    ui.print(String::from_utf8_lossy(page).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Shows a page with man(1).
fn show(program: &std::path::Path, page: &[u8]) -> CommandResult {
    let mut man = Process::new(program).args(["-l", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = man.stdin.take() {
        // If man exited early, it printed an error itself.
        let _ = input.write_all(page);
    }
    match man.wait()?.success() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(CommandError::user("man cannot show the page")),
    }
}

/// Returns all pages by name.
fn pages() -> Result<BTreeMap<String, Vec<u8>>, CommandError> {
    let mut all = Cli::command().disable_help_subcommand(true);
    all.build();
    let mut pages = BTreeMap::new();
    for subcommand in all.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = format!("overcoat-{}", subcommand.get_name());
        pages.insert(name.clone(), page(&name, subcommand)?);
    }
    pages.insert("overcoat".to_owned(), page("overcoat", &all)?);
    Ok(pages)
}

fn page(name: &str, command: &Command) -> std::io::Result<Vec<u8>> {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command.clone());
    let title = name.to_uppercase();
    // The date is empty so that pages are reproducible. clap_mangen would omit an empty argument.
    let mut page =
        format!(".TH \"{title}\" 1 \"\" \"overcoat {}\"\n", env!("CARGO_PKG_VERSION")).into_bytes();
    let mut head = Roff::new();
    // whatis(1) requires one line.
    head.control("SH", ["NAME"]).text([roman(format!("{name} - {about}"))]);
    head.to_writer(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut rest = Roff::new();
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
        section(&mut rest, "EXIT STATUS", &EXIT);
        section(&mut rest, "ENVIRONMENT", &ENVIRONMENT);
        section(&mut rest, "FILES", &FILES);
    } else {
        if let Some(notes) = command.get_after_help() {
            // Without filling, because the text has columns.
            rest.control("SH", ["NOTES"]).control("nf", []);
            for line in notes.to_string().lines() {
                rest.text([roman(line)]);
            }
            rest.control("fi", []);
        }
        let examples = examples::examples(command.get_name());
        if !examples.is_empty() {
            rest.control("SH", ["EXAMPLES"]);
        }
        for (line, what) in examples {
            rest.control("TP", []).text([bold(format!("overcoat {line}"))]).text([roman(*what)]);
        }
        rest.control("SH", ["SEE ALSO"]).text([bold("overcoat"), roman("(1)")]);
    }
    rest.to_writer(&mut page)?;
    Ok(ascii(&String::from_utf8_lossy(&page)).into_bytes())
}

/// Replaces non-ASCII characters by escapes of groff and mandoc, so that the encoding of the page
/// does not matter.
fn ascii(page: &str) -> String {
    let named = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\[u{:04X}]", u32::from(c)),
    };
    page.chars().map(named).collect()
}

/// Writes a section with a list of terms and their meanings.
fn section(roff: &mut Roff, title: &str, entries: &[(&str, &str)]) {
    roff.control("SH", [title]);
    for (word, meaning) in entries {
        roff.control("TP", []).text([bold(*word)]).text([roman(*meaning)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_section_matches_using_md() {
        let document = include_str!("../../../docs/USING.md");
        let section = document.split("\n## Environment\n").nth(1).unwrap();
        let table = section.split("\n## ").next().unwrap();
        let rows = table.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: Vec<String> =
            rows.map(|row| row.split('|').next().unwrap().to_owned()).collect();
        let ours = ENVIRONMENT.map(|(names, _)| names.split(", ").collect::<Vec<_>>());
        assert_eq!(documented.len(), ours.len(), "{documented:?}");
        for (row, names) in documented.iter().zip(ours) {
            let missing: Vec<_> =
                names.iter().filter(|name| !row.contains(name.trim_matches('`'))).collect();
            assert!(missing.is_empty(), "{row}: {missing:?}");
        }
    }
}
