//! `man`: manual pages, made of what `--help` is made of.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::{Command as Process, ExitCode, Stdio};

use clap::{Args as ClapArgs, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Failure, Outcome, examples, print};
use crate::sandbox::find_program;
use crate::seal::Output;
use crate::seal::output::commit;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The command whose page to show; without it, the page of overcoat itself
    #[arg(value_name = "COMMAND", conflicts_with = "dir")]
    command: Option<String>,

    /// Write all pages into this folder, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

/// What is said on the page of overcoat itself alone, and in docs/USING.md.
const EXIT: [(&str, &str); 5] = [
    ("0", "fine"),
    ("1", "what was asked about is not so, or a step of a provisioner failed"),
    ("2", "overcoat itself could not do it"),
    ("128 + n", "signal n ended it"),
    (
        "the command's",
        "run and shell end as their command did; 126 when it cannot be executed, 127 when it is not there",
    ),
];

/// As [`EXIT`].
const ENVIRONMENT: [(&str, &str); 8] = [
    ("SOURCE_DATE_EPOCH", "no time in what is written is later; wins over the image file"),
    (
        "http_proxy, https_proxy, ftp_proxy, all_proxy, no_proxy",
        "passed on inside, also in capitals",
    ),
    (
        "SSL_CERT_FILE, CURL_CA_BUNDLE, REQUESTS_CA_BUNDLE, PIP_CERT, NODE_EXTRA_CA_CERTS, \
         GIT_SSL_CAINFO, CARGO_HTTP_CAINFO, AWS_CA_BUNDLE, HTTPLIB2_CA_CERTS, NIX_SSL_CERT_FILE",
        "bundles of certificates that are trusted inside too",
    ),
    ("JAVA_TOOL_OPTIONS", "a trust store that it names is lent to Java programs inside"),
    ("TERM, COLORTERM", "passed on inside"),
    ("NO_COLOR", "no colours; passed on inside"),
    ("TMPDIR", "where mmdebstrap works; /dev/shm if it is not set"),
    ("OVERCOAT_COMPLETE", "set by shells that ask for completions"),
];

const FILES: [(&str, &str); 5] = [
    ("overcoat.yml", "the project: images, and what they are made of"),
    ("provisioners/NAME/", "what to change in an image, in a project's folder"),
    ("OUT.manifest.json", "the manifest beside an archive"),
    ("/etc/subuid, /etc/subgid", "the ids that a user's roots have"),
    ("/etc/fuse.conf", "user_allow_other: other users see what one mounts"),
];

pub(super) fn run(args: &Args) -> Outcome {
    let pages = pages()?;
    if let Some(dir) = &args.dir {
        let cannot =
            |error| Failure::message(format!("cannot write into {}: {error}", dir.display()));
        std::fs::create_dir_all(dir).map_err(cannot)?;
        let mut outputs = Vec::new();
        for (name, page) in &pages {
            let mut output = Output::file(&dir.join(format!("{name}.1")))?;
            output.write_all(page).map_err(cannot)?;
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
        return Err(Failure::message(format!(
            "there is no command {}; there are {}",
            args.command.as_deref().unwrap_or_default(),
            all.join(", ")
        )));
    };
    if std::io::stdout().is_terminal()
        && let Some(program) = find_program("man")
    {
        return show(&program, page);
    }
    print(String::from_utf8_lossy(page).trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// Has `man` show a page.
fn show(program: &std::path::Path, page: &[u8]) -> Outcome {
    let mut man = Process::new(program).args(["-l", "-"]).stdin(Stdio::piped()).spawn()?;
    if let Some(mut input) = man.stdin.take() {
        // It has ended already, and says why.
        let _ = input.write_all(page);
    }
    match man.wait()?.success() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(Failure::message("man could not show the page")),
    }
}

/// All pages by name.
fn pages() -> Result<BTreeMap<String, Vec<u8>>, Failure> {
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
    // Without a date: the same program writes the same pages. (The crate leaves what is empty out.)
    let mut page =
        format!(".TH \"{title}\" 1 \"\" \"overcoat {}\"\n", env!("CARGO_PKG_VERSION")).into_bytes();
    let mut head = Roff::new();
    // `whatis` takes one line.
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
            // As it is: it has columns.
            rest.control("SH", ["NOTES"]).control("nf", []);
            for line in notes.to_string().lines() {
                rest.text([roman(line)]);
            }
            rest.control("fi", []);
        }
        let examples = examples::of(command.get_name());
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

/// The page with what is not ASCII as groff and mandoc name it: neither has to guess the encoding.
fn ascii(page: &str) -> String {
    let named = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => format!("\\[u{:04X}]", u32::from(c)),
    };
    page.chars().map(named).collect()
}

/// Words, and what they mean.
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
    fn the_page_and_the_document_name_the_same_variables() {
        let document = include_str!("../../docs/USING.md");
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
