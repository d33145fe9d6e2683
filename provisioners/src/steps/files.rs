//! The files step: a tree of the provisioner, laid over the root.
//!
//! The same tree gives the same bytes from any checkout: files are 0755 when their owner may
//! execute them and 0644 otherwise, new directories 0755, all owned by 0:0, whatever the umask was.
//! Directories that exist keep their attributes. `*.j2` is rendered and loses its suffix; a
//! `.gitkeep` only keeps its directory.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{Context, StepError};
use crate::folder::{self, Folder};
use crate::machine::{Meta, Node, Time};
use crate::run::Options;
use crate::templates;
use crate::variables::Variables;

const TEMPLATE_SUFFIX: &[u8] = b".j2";
const KEEP: &str = ".gitkeep";

/// A tree to copy.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    folder: Folder,
    /// The folder in that whose content goes to `/`.
    tree: PathBuf,
}

/// One object of the tree.
#[derive(Debug)]
struct Item {
    /// From the provisioner's folder.
    from: PathBuf,
    to: PathBuf,
    kind: ItemKind,
    mtime: Time,
}

#[derive(Debug, PartialEq, Eq)]
enum ItemKind {
    Directory,
    File { executable: bool },
    Template { executable: bool },
    Symlink(PathBuf),
}

impl Files {
    pub(crate) fn new(folder: &Folder, name: &str) -> Self {
        Self { folder: folder.clone(), tree: folder::plain(Path::new(name)) }
    }

    /// The tree, from the provisioner's folder.
    pub(crate) fn path(&self) -> &Path {
        &self.tree
    }

    pub(crate) fn name(&self) -> String {
        match self.tree.display().to_string().as_str() {
            "files" => "files".to_owned(),
            name => format!("files {name}"),
        }
    }

    /// Reads the tree and renders its templates, so that their mistakes are found before anything
    /// is done.
    pub(crate) fn check(&self, variables: &Variables) -> Result<(), StepError> {
        for item in self.items()? {
            match item.kind {
                ItemKind::Template { .. } => drop(self.render(&item.from, variables)?),
                ItemKind::File { .. } => drop(self.folder.open(&item.from)?),
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
                ItemKind::File { .. } => {
                    let mut file = self.folder.open(&item.from)?;
                    context.machine.put(&item.to, Node::File(&mut file), &meta)?;
                }
                ItemKind::Template { .. } => {
                    let text = self.render(&item.from, context.variables)?;
                    context.machine.put(&item.to, Node::File(&mut text.as_bytes()), &meta)?;
                }
            }
        }
        Ok(())
    }

    /// Everything in the tree, a directory before what is in it, by name.
    fn items(&self) -> Result<Vec<Item>, StepError> {
        let found = self.folder.walk(&self.tree)?;
        let in_git = |path: &Path| path.components().any(|part| part.as_os_str() == ".git");
        let kept = found.into_iter().filter(|item| !is_keep(&item.path) && !in_git(&item.path));
        let items = kept.map(|item| self.item(item)).collect::<Result<Vec<_>, _>>()?;
        let mut sources: HashMap<&Path, &Path> = HashMap::new();
        for item in &items {
            if let Some(other) = sources.insert(&item.to, &item.from) {
                return Err(StepError::Impossible(format!(
                    "{} and {} are both for {}",
                    self.folder.at(other).display(),
                    self.folder.at(&item.from).display(),
                    item.to.display()
                )));
            }
        }
        Ok(items)
    }

    fn item(&self, found: folder::Item) -> Result<Item, StepError> {
        let from = found.path;
        let mut to = Path::new("/").join(from.strip_prefix(&self.tree).unwrap_or(&from));
        let kind = match found.kind {
            folder::ItemKind::Directory => ItemKind::Directory,
            folder::ItemKind::Symlink(target) => ItemKind::Symlink(target),
            folder::ItemKind::File { executable } => {
                let name = from.file_name().unwrap_or_default().as_bytes();
                match name.strip_suffix(TEMPLATE_SUFFIX) {
                    Some(plain) if !plain.is_empty() => {
                        to.set_file_name(OsStr::from_bytes(plain));
                        ItemKind::Template { executable }
                    }
                    _ => ItemKind::File { executable },
                }
            }
            folder::ItemKind::Other => {
                return Err(StepError::Impossible(format!(
                    "{} is neither a file, a directory nor a symbolic link",
                    self.folder.at(&from).display()
                )));
            }
        };
        Ok(Item { from, to, kind, mtime: found.mtime })
    }

    fn render(&self, path: &Path, variables: &Variables) -> Result<String, StepError> {
        let bytes = self.folder.read(path)?;
        let file = self.folder.at(path);
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            StepError::Impossible(format!("the template {} is not UTF-8", file.display()))
        })?;
        Ok(templates::render(&file, text, variables)?)
    }
}

/// Whether something is there only to keep its directory in Git.
pub(crate) fn is_keep(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == KEEP)
}

fn meta(item: &Item, options: &Options) -> Meta {
    let mode = match item.kind {
        ItemKind::Directory => 0o755,
        ItemKind::Symlink(_) => 0o777,
        ItemKind::File { executable: true } | ItemKind::Template { executable: true } => 0o755,
        ItemKind::File { .. } | ItemKind::Template { .. } => 0o644,
    };
    let epoch = options.source_date_epoch.map(|seconds| Time { seconds, nanoseconds: 0 });
    Meta { mode: Some(mode), uid: 0, gid: 0, mtime: Some(epoch.unwrap_or(item.mtime)) }
}
