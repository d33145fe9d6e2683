//! `import`: converts an on-imagebuilder tree into a project.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::on_imagebuilder::{self, FileChange, Imported, Note};
use provisioners::project::FILE_NAME;
use similar::TextDiff;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::seal::Output;
use crate::seal::output::commit;

/// Directory of a tree that is not copied.
const GIT_DIR: &str = ".git";

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// Directory with roles/, vars/ and group_vars/
    #[arg(value_name = "DIR")]
    folder: PathBuf,

    /// Write the project file to this path; `-` is standard output (default: DIR/overcoat.yml)
    ///
    /// The file must be in DIR, because its paths are relative to it.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Use this existing base image for all overlays instead of the tree's bases
    ///
    /// The path is relative to DIR.
    #[arg(long, value_name = "PATH")]
    base: Option<String>,

    /// Replace obsolete text in roles and config files, and print the changes as a diff
    ///
    /// Replaces old syntax of Ansible, packages of Python 2, and mounts of the file system
    /// overlayfs. Comments and all other lines stay as they are.
    #[arg(long)]
    fix: bool,

    /// Copy DIR to the new directory NEW, and import the copy; DIR is not changed
    #[arg(long, value_name = "NEW", conflicts_with = "add")]
    copy: Option<PathBuf>,

    /// Add config files that the existing project file does not name, and keep its text
    #[arg(long, conflicts_with_all = ["force", "output"])]
    add: bool,

    /// Overwrite an existing project file
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> CommandResult {
    let folder = args.copy.as_ref().unwrap_or(&args.folder);
    let file = args.output.clone().unwrap_or_else(|| folder.join(FILE_NAME));
    let to_stdout = file == Path::new("-");
    if to_stdout && args.fix {
        return Err(CommandError::user("--fix writes a diff to standard output, so `-o -` cannot"));
    }
    if !to_stdout && !args.add {
        check(args, folder, &file)?;
    }
    if let Some(base) = &args.base
        && !args.folder.join(base).exists()
    {
        let folder = args.folder.display();
        return Err(CommandError::user(format!(
            "{base} not found: the path of --base is relative to {folder}"
        )));
    }
    // Rejects a directory that is no tree before it is copied or changed.
    import(args, &args.folder, &file)?;
    if let Some(copy) = &args.copy {
        copy_tree(&args.folder, copy)?;
    }
    if args.fix {
        let mut changes = on_imagebuilder::fixes(folder)?;
        keep_links_outside(ui, folder, &mut changes);
        write_changes(folder, &changes)?;
        let diffs = changes.iter().map(diff).collect::<String>();
        if !diffs.is_empty() {
            ui.print(diffs.trim_end())?;
        }
    }
    let imported = import(args, folder, &file)?;
    if to_stdout {
        ui.print(imported.text.trim_end())?;
    } else {
        let mut output = Output::file(&file)?;
        output.write_all(imported.text.as_bytes())?;
        commit(vec![output])?;
        let names = imported.images.join(", ");
        let (count, shown) = (imported.images.len(), file.display());
        let images = if count == 1 { "image" } else { "images" };
        match (args.add, count) {
            (true, 0) => ui.status(&format!("{shown}: it has an image for each config file")),
            (true, _) => ui.status(&format!("{shown}: {count} {images} added: {names}")),
            (false, _) => ui.status(&format!("{shown}: {count} {images}: {names}")),
        }
    }
    report(ui, args, folder, &imported);
    Ok(ExitCode::SUCCESS)
}

fn import(args: &Args, folder: &Path, file: &Path) -> Result<Imported, CommandError> {
    let base = args.base.as_deref();
    if !args.add {
        return Ok(on_imagebuilder::import(folder, base)?);
    }
    let text = fs::read_to_string(file).map_err(|error| {
        CommandError::user(format!(
            "--add needs an existing project file; cannot read {}: {error}",
            file.display()
        ))
    })?;
    Ok(on_imagebuilder::add(folder, &text, base)?)
}

/// Prints what became of each config file and role, a list of things to do, and the next command.
fn report(ui: &Ui, args: &Args, folder: &Path, imported: &Imported) {
    ui.line("\nConfig files and roles:");
    let width = imported.accounts.iter().map(|a| a.path.as_os_str().len()).max().unwrap_or(0);
    for account in &imported.accounts {
        ui.line(&format!("  {:<width$}  {}", account.path.display().to_string(), account.text));
    }
    let (by_fix, by_hand): (Vec<&Note>, Vec<&Note>) =
        imported.notes.iter().partition(|note| note.has_fix);
    let checks = checks(&imported.text);
    if !by_hand.is_empty() || !checks.is_empty() {
        ui.line("\nTo do:");
        for text in by_hand.iter().map(|note| note.to_string()).chain(checks) {
            ui.line(&format!("  [ ] {text}"));
        }
    }
    let file = args.output.as_deref().filter(|file| *file != Path::new("-"));
    let build = format!("overcoat build {} -n", quoted(file.unwrap_or(folder)));
    if by_fix.is_empty() {
        ui.line(&format!("\nNext: {build}"));
        return;
    }
    ui.line("\nTo do, by --fix:");
    by_fix.iter().for_each(|note| ui.line(&format!("  [ ] {note}")));
    let mut import = format!("overcoat import {} --fix", quoted(folder));
    if let Some(base) = &args.base {
        import.push_str(&format!(" --base {}", quoted(Path::new(base))));
    }
    if let Some(file) = file {
        import.push_str(&format!(" -o {}", quoted(file)));
    }
    import.push_str(if args.add { " --add" } else { " --force" });
    ui.line(&format!("\nNext: {import}, then {build}"));
}

/// Returns a path as a word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_word = |c: char| c.is_alphanumeric() || "_-./:,+@%".contains(c);
    match !text.is_empty() && text.chars().all(is_word) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

/// Returns the comments of the project file that ask the user to check a line, each with the
/// numbers of its lines.
fn checks(text: &str) -> Vec<String> {
    let mut found: Vec<(String, Vec<usize>)> = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for (index, line) in lines.iter().enumerate() {
        let Some((_, comment)) = line.split_once("# ") else { continue };
        let is_check = ["Check: ", "check: "].iter().any(|word| comment.starts_with(word));
        if !is_check {
            continue;
        }
        // A comment continues on the next lines.
        let rest = lines[index + 1..].iter().map(|line| line.trim_start());
        let rest = rest
            .map_while(|line| line.strip_prefix("# "))
            .filter(|_| line.trim_start().starts_with('#'));
        let rest = rest.take_while(|line| !line.starts_with("Check: "));
        let words: Vec<&str> = [&comment["check: ".len()..]].into_iter().chain(rest).collect();
        let text = words.join(" ");
        match found.iter_mut().find(|(other, _)| *other == text) {
            Some((_, numbers)) => numbers.push(index + 1),
            None => found.push((text, vec![index + 1])),
        }
    }
    let shown = |(text, lines): (String, Vec<usize>)| {
        let lines: Vec<String> = lines.iter().map(usize::to_string).collect();
        format!("{FILE_NAME}:{}: {text}", lines.join(","))
    };
    found.into_iter().map(shown).collect()
}

/// Returns the change of a file as a unified diff.
fn diff(change: &FileChange) -> String {
    let name = change.file.display();
    TextDiff::from_lines(&change.before, &change.after)
        .unified_diff()
        .header(&format!("a/{name}"), &format!("b/{name}"))
        .to_string()
}

/// Removes the changes of files that a link leads to outside of the tree, with a warning.
fn keep_links_outside(ui: &Ui, folder: &Path, changes: &mut Vec<FileChange>) {
    let tree = folder.canonicalize();
    changes.retain(|change| {
        let real = folder.join(&change.file).canonicalize();
        let is_inside = matches!((&tree, &real), (Ok(tree), Ok(real)) if real.starts_with(tree));
        if !is_inside {
            let file = change.file.display();
            ui.warning(&format!("{file}: not changed, because it is a link out of the tree"));
        }
        is_inside
    });
}

/// Writes all changed files, or none. The files keep their modes.
fn write_changes(folder: &Path, changes: &[FileChange]) -> Result<(), CommandError> {
    let mut outputs = Vec::new();
    let mut modes = Vec::new();
    for change in changes {
        let path = folder.join(&change.file);
        let mut output = Output::file(&path)?;
        output.write_all(change.after.as_bytes())?;
        outputs.push(output);
        modes.push((fs::metadata(&path)?.permissions(), path));
    }
    commit(outputs)?;
    modes.into_iter().try_for_each(|(mode, path)| Ok(fs::set_permissions(path, mode)?))
}

/// Copies a tree without its Git directory to a new directory.
fn copy_tree(from: &Path, to: &Path) -> Result<(), CommandError> {
    let failed = |path: &Path, error: std::io::Error| {
        CommandError::user(format!("cannot copy {} to {}: {error}", path.display(), to.display()))
    };
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new(".")).canonicalize();
    if let (Ok(parent), Ok(from)) = (parent, from.canonicalize())
        && parent.starts_with(&from)
    {
        return Err(CommandError::user(format!(
            "{} is in {}: copy the tree to a directory outside of it",
            to.display(),
            from.display()
        )));
    }
    fs::create_dir(to).map_err(|error| failed(from, error))?;
    let mut todo = vec![PathBuf::new()];
    while let Some(inside) = todo.pop() {
        let folder = from.join(&inside);
        for entry in fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let (path, inside) = (entry.path(), inside.join(entry.file_name()));
            let copy = to.join(&inside);
            let is = entry.file_type().map_err(|error| failed(&path, error))?;
            let copied = if is.is_symlink() {
                fs::read_link(&path).and_then(|target| std::os::unix::fs::symlink(target, &copy))
            } else if is.is_dir() && inside != Path::new(GIT_DIR) {
                todo.push(inside);
                fs::create_dir(&copy)
            } else if is.is_file() {
                fs::copy(&path, &copy).map(drop)
            } else {
                Ok(())
            };
            copied.map_err(|error| failed(&path, error))?;
        }
    }
    Ok(())
}

/// Rejects a path outside of the tree, or of an existing file without `--force`.
fn check(args: &Args, folder: &Path, file: &Path) -> Result<(), CommandError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let same = match (parent.canonicalize(), folder.canonicalize()) {
        (Ok(parent), Ok(folder)) => parent == folder,
        // A missing directory is reported later, by the code that reads or writes it.
        _ => true,
    };
    let shown = file.display();
    if !same {
        let folder = folder.display();
        return Err(CommandError::user(format!(
            "{shown} is not in {folder}, but paths in a project are relative to its file: write it \
             there, or to standard output with `-o -`"
        )));
    }
    if !args.force && file.symlink_metadata().is_ok() {
        return Err(CommandError::user(format!(
            "{shown} already exists; --force overwrites it, --add adds config files to it"
        )));
    }
    Ok(())
}
