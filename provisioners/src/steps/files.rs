//! The files step: a tree of the provisioner, laid over the root.
//!
//! The same tree gives the same bytes from any checkout: files are 0755 when their owner may
//! execute them and 0644 otherwise, new directories 0755, all owned by 0:0, whatever the umask was.
//! Directories that exist keep their attributes. `*.j2` is rendered and loses its suffix; a
//! `.gitkeep` only keeps its directory.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::{Context, StepError};
use crate::machine::{Meta, Node, Time};
use crate::run::Options;
use crate::templates;
use crate::variables::Variables;

const TEMPLATE_SUFFIX: &[u8] = b".j2";
const KEEP: &str = ".gitkeep";

/// A tree to copy.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    /// The folder on the host whose content goes to `/`.
    folder: PathBuf,
    /// As the provisioner names it.
    name: String,
}

/// One object of the tree.
#[derive(Debug)]
struct Item {
    from: PathBuf,
    to: PathBuf,
    kind: ItemKind,
    meta: fs::Metadata,
}

#[derive(Debug, PartialEq, Eq)]
enum ItemKind {
    Directory,
    File,
    Template,
    Symlink(PathBuf),
}

impl Files {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        Self { folder: folder.join(name), name: name.to_owned() }
    }

    pub(crate) fn name(&self) -> String {
        if self.name == "files" { self.name.clone() } else { format!("files {}", self.name) }
    }

    /// Reads the tree and renders its templates, so that their mistakes are found before anything
    /// is done.
    pub(crate) fn check(&self, variables: &Variables) -> Result<(), StepError> {
        for item in self.items()? {
            match item.kind {
                ItemKind::Template => drop(render(&item.from, variables)?),
                ItemKind::File => {
                    File::open(&item.from).map_err(|e| unreadable(&item.from, e))?;
                }
                ItemKind::Directory | ItemKind::Symlink(_) => {}
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, context: &mut Context<'_>) -> Result<(), StepError> {
        for item in self.items()? {
            let meta = meta(&item, context.options);
            match &item.kind {
                ItemKind::Directory => context.machine.put(&item.to, Node::Directory, &meta)?,
                ItemKind::Symlink(target) => {
                    context.machine.put(&item.to, Node::Symlink(target), &meta)?;
                }
                ItemKind::File => {
                    let mut file = File::open(&item.from).map_err(|e| unreadable(&item.from, e))?;
                    context.machine.put(&item.to, Node::File(&mut file), &meta)?;
                }
                ItemKind::Template => {
                    let text = render(&item.from, context.variables)?;
                    context.machine.put(&item.to, Node::File(&mut text.as_bytes()), &meta)?;
                }
            }
        }
        Ok(())
    }

    /// Everything in the tree, a directory before what is in it, by name.
    fn items(&self) -> Result<Vec<Item>, StepError> {
        let mut items = Vec::new();
        walk(&self.folder, Path::new("/"), &mut items)?;
        let mut sources: HashMap<&Path, &Path> = HashMap::new();
        for item in &items {
            if let Some(other) = sources.insert(&item.to, &item.from) {
                return Err(StepError::Impossible(format!(
                    "{} and {} are both for {}",
                    other.display(),
                    item.from.display(),
                    item.to.display()
                )));
            }
        }
        Ok(items)
    }
}

fn walk(folder: &Path, to: &Path, items: &mut Vec<Item>) -> Result<(), StepError> {
    let mut names: Vec<OsString> = fs::read_dir(folder)
        .and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect::<io::Result<_>>())
        .map_err(|e| unreadable(folder, e))?;
    names.sort();
    for name in names.iter().filter(|name| *name != KEEP) {
        let from = folder.join(name);
        let meta = fs::symlink_metadata(&from).map_err(|e| unreadable(&from, e))?;
        let file_type = meta.file_type();
        let (to, kind) = if file_type.is_dir() {
            (to.join(name), ItemKind::Directory)
        } else if file_type.is_symlink() {
            let target = fs::read_link(&from).map_err(|e| unreadable(&from, e))?;
            (to.join(name), ItemKind::Symlink(target))
        } else if !file_type.is_file() {
            return Err(StepError::Impossible(format!(
                "{} is neither a file, a directory nor a symbolic link",
                from.display()
            )));
        } else {
            match name.as_bytes().strip_suffix(TEMPLATE_SUFFIX) {
                Some(plain) if !plain.is_empty() => {
                    (to.join(OsStr::from_bytes(plain)), ItemKind::Template)
                }
                _ => (to.join(name), ItemKind::File),
            }
        };
        let descend = kind == ItemKind::Directory;
        items.push(Item { from: from.clone(), to: to.clone(), kind, meta });
        if descend {
            walk(&from, &to, items)?;
        }
    }
    Ok(())
}

fn render(file: &Path, variables: &Variables) -> Result<String, StepError> {
    let bytes = fs::read(file).map_err(|e| unreadable(file, e))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        StepError::Impossible(format!("the template {} is not UTF-8", file.display()))
    })?;
    Ok(templates::render(file, &text, variables)?)
}

fn meta(item: &Item, options: &Options) -> Meta {
    let mode = match item.kind {
        ItemKind::Directory => 0o755,
        ItemKind::Symlink(_) => 0o777,
        _ if item.meta.permissions().mode() & 0o100 != 0 => 0o755,
        _ => 0o644,
    };
    let own = Time {
        seconds: item.meta.mtime(),
        nanoseconds: u32::try_from(item.meta.mtime_nsec()).unwrap_or(0),
    };
    let epoch = options.source_date_epoch.map(|seconds| Time { seconds, nanoseconds: 0 });
    Meta { mode: Some(mode), uid: 0, gid: 0, mtime: Some(epoch.unwrap_or(own)) }
}

fn unreadable(path: &Path, source: io::Error) -> StepError {
    StepError::Read { path: path.to_owned(), source }
}
