//! Scripts that mount the file system `overlayfs`, which is named `overlay` since Linux 3.18 and
//! needs a work directory.

use std::ops::RangeInclusive;

use super::syntax::task_lines;
use super::{Obsolete, scalars};
use crate::ansible::tasks::tasks;
use crate::config::{YamlDocument, YamlNode};
use crate::on_imagebuilder::initramfs_modules::MODULES_FILE;
use crate::on_imagebuilder::line_edit::LineEdit;

/// The problem of a mount.
const MOUNT_PROBLEM: &str = "the file system `overlayfs` is named `overlay` since Linux 3.18, and \
                             needs a `workdir` in the file system of `upperdir`";

/// Searches a script.
pub(super) fn search_script(text: &str, found: &mut Vec<Obsolete>) {
    let documents = here_documents(text);
    let in_document = |line: usize| documents.iter().any(|lines| lines.contains(&line));
    let first = found.len();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let code = line.trim_start();
        if code.starts_with('#') {
            continue;
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        if let Some(command) = command_with(code, "modprobe", "overlayfs") {
            let new = format!("{}overlay", command.trim_end_matches("overlayfs"));
            let edit = LineEdit::replace(text, number..=number, command, &new);
            let problem = "the module `overlayfs` is named `overlay` since Linux 3.18";
            found.push(Obsolete::new(number, problem, edit));
        }
        if let Some(command) = command_with(code, "mount", "overlayfs")
            && is_type(&words, "overlayfs")
        {
            let edit = if code.contains("workdir=") {
                let (old, new) = ("-t overlayfs", "-t overlay");
                command.contains(old).then(|| LineEdit::replace(text, number..=number, old, new))
            } else {
                // The lines that replace it are no part of a longer command.
                let before = index.checked_sub(1).and_then(|at| text.lines().nth(at));
                let continues = ["\\", "&&", "||", "|"];
                let continues =
                    |line: &str| continues.iter().any(|end| line.trim_end().ends_with(end));
                let is_simple = words.first() == Some(&"mount")
                    && !code.contains([';', '&', '|', '\\', '`', '('])
                    && !before.is_some_and(continues);
                mount(&words).filter(|_| is_simple).map(|new| {
                    let indent = &line[..line.len() - code.len()];
                    let new = new.join(&format!("\n{indent}"));
                    LineEdit::replace(text, number..=number, code.trim_end(), &new)
                })
            };
            found.push(Obsolete::new(number, MOUNT_PROBLEM, edit.flatten()));
        }
    }
    // The shell may change the text, or another program may read it.
    for found in found[first..].iter_mut().filter(|found| in_document(found.line)) {
        found.edits.clear();
    }
}

/// Returns the lines of the here-documents of a script, from 1, each with its last line.
fn here_documents(text: &str) -> Vec<RangeInclusive<usize>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    let mut index = 0;
    while index < lines.len() {
        let line = lines[index];
        index += 1;
        if line.trim_start().starts_with('#') {
            continue;
        }
        for (has_tabs, word) in here_words(line) {
            let is_end = |line: &&str| {
                let line = if has_tabs { line.trim_start_matches('\t') } else { line };
                line == word
            };
            // Without an end, it is another operator: `$((1 << 2))`.
            if let Some(length) = lines[index..].iter().position(is_end) {
                found.push(index + 1..=index + 1 + length);
                index += length + 1;
            }
        }
    }
    found
}

/// Returns the words that end the here-documents of a line, and whether tabs before them are
/// ignored.
fn here_words(line: &str) -> Vec<(bool, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((_, after)) = rest.split_once("<<") {
        if let Some(after) = after.strip_prefix('<') {
            rest = after;
            continue;
        }
        let has_tabs = after.starts_with('-');
        let after = after.trim_start_matches('-').trim_start_matches([' ', '\t']);
        let end = after.find(|c: char| c.is_whitespace() || ";|&<>()`".contains(c));
        let word = &after[..end.unwrap_or(after.len())];
        let word = word.replace(['\'', '"', '\\'], "");
        if !word.is_empty() {
            found.push((has_tabs, word));
        }
        rest = after;
    }
    found
}

/// Returns the part of a line from a program to the last occurrence of an argument.
fn command_with<'a>(code: &'a str, program: &str, argument: &str) -> Option<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-/.".contains(c);
    let start = code.match_indices(program).map(|(at, _)| at).find(|at| {
        !code[..*at].ends_with(is_part) && code[at + program.len()..].starts_with([' ', '\t'])
    })?;
    let command = code[start..].split(['|', ';', '&', '#']).next()?;
    Some(&command[..command.rfind(argument)? + argument.len()])
}

fn is_type(words: &[&str], name: &str) -> bool {
    words.windows(2).any(|pair| pair == ["-t", name])
}

/// Returns the lines that replace `mount -t overlayfs overlayfs TARGET -o …`. The upper directory
/// may be the root of its file system, so its content moves to a directory in it, beside the work
/// directory.
fn mount(words: &[&str]) -> Option<Vec<String>> {
    let options = words.iter().position(|word| *word == "-o").and_then(|at| words.get(at + 1))?;
    let option = |name: &str| {
        options.split(',').find_map(|option| option.strip_prefix(name)?.strip_prefix('='))
    };
    let (upper, lower) = (option("upperdir")?, option("lowerdir")?);
    let values = [options, &"overlayfs", &"-o", &"-t", &"mount"];
    let mut targets = words.iter().filter(|word| !values.contains(word) && !word.starts_with('-'));
    let target = targets.next().filter(|_| targets.next().is_none())?;
    let others: Vec<&str> = options
        .split(',')
        .filter(|option| !option.starts_with("upperdir=") && !option.starts_with("lowerdir="))
        .collect();
    let others = others.iter().map(|option| format!("{option},")).collect::<String>();
    Some(vec![
        "# The work directory of overlay is in the file system of the upper one, and not in it."
            .to_owned(),
        format!("mkdir {upper}/.upper {upper}/.work"),
        format!("for entry in {upper}/* {upper}/.[!.]*; do"),
        "    case \"$entry\" in */.upper | */.work) continue ;; esac".to_owned(),
        "    [ -e \"$entry\" ] || [ -L \"$entry\" ] || continue".to_owned(),
        format!("    mv \"$entry\" {upper}/.upper/"),
        "done".to_owned(),
        format!(
            "mount -t overlay overlay {target} -o \
             {others}lowerdir={lower},upperdir={upper}/.upper,workdir={upper}/.work"
        ),
    ])
}

/// Searches tasks that mount the file system, load its module, or add it to those of the initrd.
pub(super) fn search_tasks(document: &YamlDocument, text: &str, found: &mut Vec<Obsolete>) {
    let renamed = "the module `overlayfs` is named `overlay` since Linux 3.18";
    for task in tasks(&document.root) {
        let Some(module) = task.module() else { continue };
        let nodes = scalars(module.value);
        let texts = || nodes.iter().filter_map(|node| Some((*node, node.text("").ok()?)));
        if texts().any(|(_, text)| text.contains(MODULES_FILE)) {
            for (node, value) in
                scalars(task.node).into_iter().filter_map(|n| Some((n, n.text("").ok()?)))
            {
                if value.split(|c: char| !c.is_ascii_alphanumeric()).any(|w| w == "overlayfs") {
                    let line = node.span.line;
                    let edit = LineEdit::replace(text, line..=line, "overlayfs", "overlay");
                    found.push(Obsolete::new(line, renamed, edit));
                }
            }
        }
        match module.name {
            "command" | "shell" | "raw" => {
                for (node, code) in texts() {
                    search_command(node, code, text, found);
                }
            }
            "mount" if module.text("fstype") == Some("overlayfs") => {
                found.push(Obsolete::new(module.line_of(&["fstype"]), MOUNT_PROBLEM, None));
            }
            "modprobe" if module.text("name") == Some("overlayfs") => {
                let line = module.line_of(&["name"]);
                let edit = LineEdit::replace(text, task_lines(text, line), "overlayfs", "overlay");
                found.push(Obsolete::new(line, renamed, edit));
            }
            _ => {}
        }
    }
}

/// Searches the command of a task, which may have several lines.
fn search_command(node: &YamlNode, code: &str, text: &str, found: &mut Vec<Obsolete>) {
    let documents = here_documents(code);
    for (index, code) in code.lines().enumerate() {
        let first = found.len();
        let line = node.span.line;
        if let Some(command) = command_with(code, "modprobe", "overlayfs") {
            let new = format!("{}overlay", command.trim_end_matches("overlayfs"));
            let edit = LineEdit::replace(text, task_lines(text, line), command, &new);
            let line = edit.as_ref().map_or(line, LineEdit::line);
            let problem = "the module `overlayfs` is named `overlay` since Linux 3.18";
            found.push(Obsolete::new(line, problem, edit));
        }
        let words: Vec<&str> = code.split_whitespace().collect();
        if command_with(code, "mount", "overlayfs").is_some() && is_type(&words, "overlayfs") {
            let old = "-t overlayfs";
            let edit = LineEdit::replace(text, task_lines(text, line), old, "-t overlay");
            let at = edit.as_ref().map_or(line, LineEdit::line);
            // The place of a work directory is a choice.
            let edit = edit.filter(|_| code.contains("workdir="));
            found.push(Obsolete::new(at, MOUNT_PROBLEM, edit));
        }
        if documents.iter().any(|lines| lines.contains(&(index + 1))) {
            found[first..].iter_mut().for_each(|found| found.edits.clear());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::on_imagebuilder::line_edit::apply;

    #[test]
    fn tasks_that_mount_overlayfs_or_load_it_are_noted() {
        for (old, new, line) in [
            ("- modprobe: name=overlayfs", "- modprobe: name=overlay", 1),
            ("- command: modprobe overlayfs", "- command: modprobe overlay", 1),
            (
                "- shell: mount -t overlayfs x /m -o upperdir=u,lowerdir=l,workdir=w",
                "- shell: mount -t overlay x /m -o upperdir=u,lowerdir=l,workdir=w",
                1,
            ),
            ("- shell: mount -t overlayfs x /m -o upperdir=u,lowerdir=l", "", 1),
            ("- shell: |\n    cat >x <<E\n    modprobe overlayfs\n    E", "", 3),
            ("- shell: |\n    cd /m\n    mount -t overlayfs x . -o lowerdir=l", "", 3),
            ("- mount: name=/m src=x fstype=overlayfs state=mounted", "", 1),
            ("- mount:\n    src: x\n    fstype: overlayfs", "", 3),
            (
                "- lineinfile: dest=/etc/initramfs-tools/modules line=overlayfs",
                "- lineinfile: dest=/etc/initramfs-tools/modules line=overlay",
                1,
            ),
        ] {
            let (old, new) = (format!("{old}\n"), format!("{new}\n"));
            let mut found = Vec::new();
            let document = YamlDocument::parse(Path::new("main.yml"), old.clone()).unwrap();
            search_tasks(&document, &old, &mut found);
            assert_eq!(found.iter().map(|found| found.line).collect::<Vec<_>>(), [line], "{old}");
            let edits: Vec<_> = found.into_iter().flat_map(|found| found.edits).collect();
            let wanted = if new == "\n" { &old } else { &new };
            assert_eq!(apply(&old, &edits), *wanted);
        }
    }

    #[test]
    fn mounts_of_overlayfs_get_a_work_directory() {
        let search = |text: &str| {
            let mut found = Vec::new();
            search_script(text, &mut found);
            let edits: Vec<_> = found.iter().flat_map(|found| found.edits.clone()).collect();
            (found.len(), apply(text, &edits))
        };
        let (count, fixed) = search(
            "# modprobe overlayfs\n\tmodprobe -q overlayfs\n\tmount -t overlayfs overlayfs ${rootmnt} -o \
             rw,upperdir=upper,lowerdir=lower\n",
        );
        assert_eq!(count, 2);
        assert!(fixed.starts_with("# modprobe overlayfs\n\tmodprobe -q overlay\n"), "{fixed}");
        let last = "\tmount -t overlay overlay ${rootmnt} -o \
                    rw,lowerdir=lower,upperdir=upper/.upper,workdir=upper/.work\n";
        assert!(fixed.ends_with(last), "{fixed}");
        assert_eq!(search(&fixed).0, 0);
        // Both targets of the first are possible, and the second is part of a condition.
        for kept in [
            "mount -t overlayfs a b c -o upperdir=u,lowerdir=l\n",
            "if ! mount -t overlayfs x / -o upperdir=u,lowerdir=l; then\n",
            "mount -t overlayfs x / -o lowerdir=l,upperdir=/u;\n",
            "[ -d /u ] && \\\n  mount -t overlayfs x / -o upperdir=u,lowerdir=l\n",
            "cat <<EOT\nmount -t overlayfs x / -o upperdir=u,lowerdir=l\nEOT\n",
            "cat >a <<-'E' && cat <<\"F\"\n\tE\nmount -t overlayfs x / -o upperdir=u,lowerdir=l\nF\n",
            "cat << \\E\n\tE\n# x\nmodprobe overlayfs\nE\n",
        ] {
            assert_eq!(search(kept), (1, kept.to_owned()));
        }
        for (old, new) in [
            ("cat <<E\nE\nmodprobe overlayfs\n", "cat <<E\nE\nmodprobe overlay\n"),
            ("cat <<<E\nmodprobe overlayfs\nE\n", "cat <<<E\nmodprobe overlay\nE\n"),
            ("x=$((1 << 2))\nmodprobe overlayfs\n", "x=$((1 << 2))\nmodprobe overlay\n"),
            (
                "mount -t overlayfs x / -o upperdir=u,lowerdir=l,workdir=w\n",
                "mount -t overlay x / -o upperdir=u,lowerdir=l,workdir=w\n",
            ),
            (
                "echo overlayfs; modprobe overlayfs || exit\n",
                "echo overlayfs; modprobe overlay || exit\n",
            ),
        ] {
            assert_eq!(search(old), (1, new.to_owned()));
        }
    }
}
