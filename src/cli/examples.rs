//! Examples of each subcommand: the end of its `--help`, and a section of its manual page.

use clap::Command;

/// A command line, without `overcoat`, and what it does.
pub(super) type Example = (&'static str, &'static str);

const NONE: [Example; 0] = [];

/// The examples of a subcommand.
pub(super) fn of(subcommand: &str) -> &'static [Example] {
    match subcommand {
        "build" => &[
            ("build", "what is out of date of the project here"),
            ("build --explain discovery", "one image, and all reasons for it"),
            ("build -n --rebase", "what would be built, also for a new base"),
        ],
        "run" => &[
            ("run base.squashfs discovery.cpio.gz -- lsscsi --version", "a command, nothing kept"),
            (
                "run base.squashfs --save motd.cpio.gz -- sh -c 'echo welcome >/etc/motd'",
                "what it changed as an overlay",
            ),
        ],
        "shell" => &[
            ("shell base.squashfs discovery.cpio.gz", "look around; nothing is kept"),
            ("shell base.squashfs --save tools.cpio.gz", "keep what was done"),
        ],
        "mount" => &[
            ("mount base.squashfs discovery.cpio.gz /tmp/root", "read-only"),
            ("mount --rw base.squashfs root", "to be changed, in memory"),
        ],
        "seal" => &[("seal root -o motd.cpio.gz", "what changed in the root mounted there")],
        "umount" => &[("umount root", "the root, and all in it that was not sealed")],
        "base" => &[("base debian.yml -o base.squashfs", "what debian.yml describes")],
        "init" => &[("init mysite", "a project in a new folder")],
        "import" => &[("import on-imagebuilder", "a project file for the tree there")],
        "schema" => &[("schema project", "for an editor that completes overcoat.yml")],
        "boot" => &[
            ("boot discovery", "an image of the project here"),
            ("boot discovery --run 'systemctl is-active lldpd'", "ask the machine something"),
            ("boot discovery --shell", "use its console"),
        ],
        "serve" => &[
            ("serve", "the project here, for this machine alone"),
            ("serve --listen 0.0.0.0:8080 --default discovery", "for all machines"),
        ],
        "doctor" => &[("doctor", "everything, with the commands that mend it")],
        "completions" => &[
            ("completions bash >~/.local/share/bash-completion/completions/overcoat", "for bash"),
            ("completions fish >~/.config/fish/completions/overcoat.fish", "for fish"),
        ],
        "man" => &[
            ("man build", "the page of one command"),
            ("man --dir ~/.local/share/man/man1", "all pages, for man itself"),
        ],
        "ls" => &[("ls base.squashfs discovery.cpio.gz :/etc", "what is in a folder of both")],
        "tree" => &[("tree base.squashfs discovery.cpio.gz :/etc", "all below a folder of both")],
        "cat" => &[("cat base.squashfs discovery.cpio.gz :/etc/passwd", "a file")],
        "stat" => &[("stat base.squashfs discovery.cpio.gz :/etc/passwd", "all about a file")],
        "extract" => {
            &[("extract base.squashfs :/etc --directory here", "a folder, out of the image")]
        }
        "du" => &[("du base.squashfs discovery.cpio.gz", "where the bytes are")],
        "diff" => {
            &[("diff -u base.squashfs discovery.cpio.gz :/etc", "with what changed in text files")]
        }
        "check" => &[
            ("check base.squashfs discovery.cpio.gz", "an overlay over its base"),
            ("check --base new.squashfs", "whether all overlays of the project fit a new base"),
        ],
        "inspect" => &[("inspect base.squashfs discovery.cpio.gz", "look around, by the keyboard")],
        _ => &NONE,
    }
}

/// Ends the help of each subcommand with its examples.
pub(super) fn attach(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        let examples = of(subcommand.get_name());
        if examples.is_empty() {
            return subcommand;
        }
        let before = subcommand.get_after_help().map(|text| format!("{text}\n\n"));
        let before = before.unwrap_or_default();
        let width = examples.iter().map(|(line, _)| line.len()).max().unwrap_or_default().min(56);
        let lines = examples.iter().map(|(line, what)| {
            let gap = if line.len() > width {
                format!("\n{:w$}", "", w = width + 11)
            } else {
                String::new()
            };
            format!("  overcoat {line:<width$}{gap}  # {what}")
        });
        let text = lines.collect::<Vec<_>>().join("\n");
        subcommand.after_help(format!("{before}Examples:\n{text}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as a shell makes them of a line that has single quotes and redirections at most.
    fn words(line: &str) -> Vec<String> {
        let mut words = vec!["overcoat".to_owned()];
        for (index, part) in line.split('\'').enumerate() {
            match index % 2 {
                0 => words.extend(part.split_whitespace().map(str::to_owned)),
                _ => words.push(part.to_owned()),
            }
        }
        words.retain(|word| !word.starts_with('>'));
        words
    }

    #[test]
    fn every_subcommand_has_examples_that_it_understands() {
        for subcommand in super::super::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let name = subcommand.get_name();
            assert!(!of(name).is_empty(), "{name} has no example");
            for (line, _) in of(name) {
                let parsed = super::super::command().try_get_matches_from(words(line));
                let matches = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(matches.subcommand_name(), Some(name), "{line}");
            }
        }
    }
}
