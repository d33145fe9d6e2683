//! `import`: converts an on-imagebuilder tree into a project.

use std::fs;
use std::io::Write;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use clap::Args as ClapArgs;
use provisioners::on_imagebuilder::{self, FileChange, Imported, Note};
use provisioners::project::FILE_NAME;
use similar::TextDiff;

use crate::cli::ui::Ui;
use crate::cli::ui::error::{CommandError, CommandResult};
use crate::seal::Output;
use crate::seal::output::commit;
use crate::text::escape::shell_word;

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
    #[arg(long, conflicts_with = "force")]
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
    if !to_stdout {
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
    let Some(copy) = &args.copy else {
        return convert(ui, args, folder, &file);
    };
    create_copy(&args.folder, copy)?;
    let result = copy_tree(&args.folder, copy).and_then(|()| convert(ui, args, copy, &file));
    if result.is_err() {
        fs::remove_dir_all(copy)?;
    }
    result
}

/// Fixes and imports a tree, and reports the result.
fn convert(ui: &Ui, args: &Args, folder: &Path, file: &Path) -> CommandResult {
    if args.fix {
        let mut changes = on_imagebuilder::fixes(folder)?;
        keep_links_outside(ui, folder, &mut changes);
        write_changes(folder, &changes)?;
        let diffs = changes.iter().map(diff).collect::<String>();
        if !diffs.is_empty() {
            ui.print(diffs.trim_end())?;
        }
    }
    let imported = import(args, folder, file)?;
    if file == Path::new("-") {
        ui.print(imported.text.trim_end())?;
    } else {
        let mut output = Output::file(file)?;
        output.write_all(imported.text.as_bytes())?;
        commit(vec![output])?;
        let names = imported.images.join(", ");
        let (count, shown) = (imported.images.len(), file.display());
        let images = if count == 1 { "image" } else { "images" };
        match (args.add, count, imported.not_added.len()) {
            (true, 0, 0) => ui.status(&format!("{shown}: it has an image for each config file")),
            (true, 0, _) => ui.status(&format!("{shown}: no image added; see the list below")),
            (true, ..) => ui.status(&format!("{shown}: {count} {images} added: {names}")),
            (false, ..) => ui.status(&format!("{shown}: {count} {images}: {names}")),
        }
    }
    report(ui, args, folder, &imported);
    Ok(ExitCode::SUCCESS)
}

fn import(args: &Args, folder: &Path, file: &Path) -> Result<Imported, CommandError> {
    let mut base = args.base.clone();
    if let (Some(_), Some(base)) = (&args.copy, &mut base) {
        let target =
            target_in_copy(&args.folder.canonicalize()?, Path::new(""), PathBuf::from(&*base));
        *base = target.display().to_string();
    }
    let base = base.as_deref();
    if !args.add {
        return Ok(on_imagebuilder::import(folder, base)?);
    }
    let text = fs::read_to_string(file).map_err(|error| {
        CommandError::user(format!(
            "--add needs an existing project file; cannot read {}: {error}",
            file.display()
        ))
    })?;
    Ok(on_imagebuilder::add(folder, file, &text, base)?)
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
    let file = args.output.as_deref().filter(|file| *file != Path::new("-"));
    let name = file.and_then(Path::file_name).unwrap_or(FILE_NAME.as_ref()).display().to_string();
    let checks = checks(&name, &imported.text);
    if !by_hand.is_empty() || !checks.is_empty() {
        ui.line("\nTo do:");
        for text in by_hand.iter().map(|note| note.to_string()).chain(checks) {
            ui.line(&format!("  [ ] {text}"));
        }
    }
    let build = format!("overcoat build {} -n", path_word(file.unwrap_or(folder)));
    if by_fix.is_empty() {
        ui.line(&format!("\nNext: {build}"));
        return;
    }
    ui.line("\nTo do, by --fix:");
    by_fix.iter().for_each(|note| ui.line(&format!("  [ ] {note}")));
    let mut import = format!("overcoat import {} --fix", path_word(folder));
    if let Some(base) = &args.base {
        import.push_str(&format!(" --base {}", path_word(Path::new(base))));
    }
    if let Some(file) = file {
        import.push_str(&format!(" -o {}", path_word(file)));
    }
    // The user may have edited the file, so it is not written again.
    let has_file = file.map_or_else(|| folder.join(FILE_NAME), Path::to_owned).exists();
    if has_file {
        import.push_str(" --add");
    }
    ui.line(&format!("\nNext: {import}, then {build}"));
}

/// Returns a path as a word of a shell.
fn path_word(path: &Path) -> String {
    shell_word(&path.display().to_string()).into_owned()
}

/// Returns the comments of the project file that ask the user to check a line, each with the
/// numbers of its lines.
fn checks(file: &str, text: &str) -> Vec<String> {
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
        format!("{file}:{}: {text}", lines.join(","))
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

/// Creates the directory for the copy of a tree.
fn create_copy(from: &Path, to: &Path) -> Result<(), CommandError> {
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
    fs::create_dir(to).map_err(|error| cannot_copy(from, to, &error))
}

fn cannot_copy(path: &Path, to: &Path, error: &std::io::Error) -> CommandError {
    let (path, to) = (path.display(), to.display());
    CommandError::user(format!("cannot copy {path} to {to}: {error}"))
}

/// Copies a tree without its Git directory to a new, empty directory.
fn copy_tree(from: &Path, to: &Path) -> Result<(), CommandError> {
    let failed = |path: &Path, error: std::io::Error| cannot_copy(path, to, &error);
    let tree = from.canonicalize().map_err(|error| failed(from, error))?;
    let mut todo = vec![PathBuf::new()];
    while let Some(inside) = todo.pop() {
        let folder = from.join(&inside);
        for entry in fs::read_dir(&folder).map_err(|error| failed(&folder, error))? {
            let entry = entry.map_err(|error| failed(&folder, error))?;
            let (path, within) = (entry.path(), inside.join(entry.file_name()));
            let copy = to.join(&within);
            let is = entry.file_type().map_err(|error| failed(&path, error))?;
            let copied = if is.is_symlink() {
                fs::read_link(&path).and_then(|target| {
                    let target = target_in_copy(&tree, &inside, target);
                    std::os::unix::fs::symlink(target, &copy)
                })
            } else if is.is_dir() && within != Path::new(GIT_DIR) {
                todo.push(within);
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

/// Returns the target of a link in the copy of a tree: an absolute one if the link is relative and
/// leads out of the tree. `folder` is the directory of the link in the tree.
fn target_in_copy(tree: &Path, folder: &Path, target: PathBuf) -> PathBuf {
    if target.is_absolute() {
        return target;
    }
    let mut depth = folder.iter().count();
    for part in target.components() {
        match (part, depth) {
            (Component::ParentDir, 0) => {
                // The directories of the tree are no links.
                let rest = target.components().skip_while(|part| *part == Component::ParentDir);
                let up = target.components().count() - rest.clone().count();
                let above = tree.join(folder);
                let above = above.ancestors().nth(up).unwrap_or(Path::new("/"));
                let outside = above.join(rest.collect::<PathBuf>());
                // A path through the parent of the tree may lead back into it.
                let real = outside.canonicalize();
                let inside = real.as_ref().ok().and_then(|real| real.strip_prefix(tree).ok());
                return match inside {
                    Some(inside) => {
                        let up = folder.iter().map(|_| "..").collect::<PathBuf>();
                        up.join(inside)
                    }
                    None => outside,
                };
            }
            (Component::ParentDir, _) => depth -= 1,
            (Component::Normal(_), _) => depth += 1,
            _ => {}
        }
    }
    target
}

/// Rejects a path outside of the tree, or of an existing file without `--add` or `--force`.
fn check(args: &Args, folder: &Path, file: &Path) -> Result<(), CommandError> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let shown = file.display();
    if resolved(parent) != resolved(folder) {
        let folder = folder.display();
        return Err(CommandError::user(format!(
            "{shown} is not in {folder}, but paths in a project are relative to its file: write it \
             there, or to standard output with `-o -`"
        )));
    }
    if !args.force && !args.add && file.symlink_metadata().is_ok() {
        return Err(CommandError::user(format!(
            "{shown} already exists; --add keeps it and adds config files to it, also with --fix; \
             --force overwrites it and all changes that were made to it"
        )));
    }
    Ok(())
}

/// Returns an absolute path without links, as far as the path exists: a copy does not exist yet.
fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let exists = absolute.ancestors().find_map(|above| Some((above, above.canonicalize().ok()?)));
    match exists {
        Some((above, real)) => match absolute.strip_prefix(above) {
            Ok(rest) if !rest.as_os_str().is_empty() => real.join(rest),
            _ => real,
        },
        None => absolute,
    }
}
