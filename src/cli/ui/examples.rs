//! Examples for each subcommand, at the end of its `--help` and in its manual page.

use clap::Command;

/// A command line, without `overcoat`, and its description.
pub(crate) type Example = (&'static str, &'static str);

const NONE: [Example; 0] = [];

/// Returns the examples of a subcommand.
pub(crate) fn examples(subcommand: &str) -> &'static [Example] {
    match subcommand {
        "build" => &[
            ("build", "build all outdated images of the project"),
            ("build --explain discovery", "build one image and print the reasons"),
            ("build base -o next.squashfs", "build the next base beside the present one"),
            ("build -n --rebase", "list the images to build, also for a changed base"),
        ],
        "status" => &[
            ("status", "all images of the project"),
            ("status --exit-code discovery", "fail if an image is out of date"),
        ],
        "rollback" => &[
            ("rollback discovery", "put the previous result back"),
            ("rollback --list discovery", "list the results that are kept"),
        ],
        "promote" => &[("promote next.squashfs", "replace the project's base by the next one")],
        "clean" => &[
            ("clean -n", "list what would be removed"),
            ("clean --kept", "also remove the kept results of all images"),
        ],
        "run" => &[
            ("run discovery -- lsscsi --version", "in the layers of an image of the project"),
            ("run base.squashfs discovery.cpio.gz -- lsscsi --version", "discard all changes"),
            (
                "run base.squashfs --save motd.cpio.gz -- sh -c 'echo welcome >/etc/motd'",
                "save the changes",
            ),
        ],
        "shell" => &[
            ("shell base.squashfs discovery.cpio.gz", "discard all changes"),
            ("shell base.squashfs --save tools.cpio.gz", "save the changes as an overlay"),
        ],
        "mount" => &[
            ("mount base.squashfs discovery.cpio.gz /tmp/root", "mount read-only"),
            ("mount --rw base.squashfs root", "mount with a writable layer in memory"),
        ],
        "seal" => &[("seal root -o motd.cpio.gz", "save the changes of the root mounted on root/")],
        "umount" => &[("umount root", "unmount, and discard changes that were not sealed")],
        "base" => &[("base debian.yml -o base.squashfs", "build the base described in debian.yml")],
        "init" => &[("init mysite", "create a project in a new directory")],
        "import" => &[("import on-imagebuilder", "write overcoat.yml into the tree")],
        "schema" => &[("schema project", "print the schema of overcoat.yml")],
        "boot" => &[
            ("boot discovery", "boot an image of the project"),
            ("boot discovery --run 'systemctl is-active lldpd'", "run a command in the machine"),
            ("boot discovery --shell", "use the machine's console"),
        ],
        "serve" => &[
            ("serve", "serve the project to this machine only"),
            ("serve --listen 0.0.0.0:8080 --default discovery", "serve it to all machines"),
        ],
        "doctor" => &[("doctor", "check all requirements")],
        "completions" => &[
            ("completions bash >~/.local/share/bash-completion/completions/overcoat", "for bash"),
            ("completions fish >~/.config/fish/completions/overcoat.fish", "for fish"),
        ],
        "man" => &[
            ("man build", "show the page of a command"),
            ("man --dir ~/.local/share/man/man1", "install all pages for the current user"),
        ],
        "ls" => &[("ls base.squashfs discovery.cpio.gz :/etc", "list a directory")],
        "tree" => &[("tree base.squashfs discovery.cpio.gz :/etc", "show a directory as a tree")],
        "cat" => &[("cat base.squashfs discovery.cpio.gz :/etc/passwd", "print a file")],
        "stat" => &[("stat base.squashfs discovery.cpio.gz :/etc/passwd", "show a file's details")],
        "extract" => &[("extract base.squashfs :/etc --directory here", "extract a directory")],
        "du" => &[("du base.squashfs discovery.cpio.gz", "show the usage by directory")],
        "diff" => &[
            ("diff discovery", "show what an image of the project changes in its base"),
            ("diff -u base.squashfs discovery.cpio.gz :/etc", "show the lines changed in /etc"),
        ],
        "check" => &[
            ("check base.squashfs discovery.cpio.gz", "check an overlay over its base"),
            ("check --base next.squashfs", "check the project's overlays on the next base"),
        ],
        "inspect" => &[("inspect base.squashfs discovery.cpio.gz", "browse in the terminal")],
        _ => &NONE,
    }
}

/// Appends examples to the help of each subcommand.
pub(crate) fn attach(command: Command) -> Command {
    command.mut_subcommands(|subcommand| {
        let examples = examples(subcommand.get_name());
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

    /// Splits a line as a shell does; supports only single quotes and output redirection.
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
    fn every_subcommand_has_examples_that_parse() {
        for subcommand in crate::cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let name = subcommand.get_name();
            assert!(!examples(name).is_empty(), "{name} has no example");
            for (line, _) in examples(name) {
                let parsed = crate::cli::command().try_get_matches_from(words(line));
                let matches = parsed.unwrap_or_else(|error| panic!("{line}: {error}"));
                assert_eq!(matches.subcommand_name(), Some(name), "{line}");
            }
        }
    }
}
