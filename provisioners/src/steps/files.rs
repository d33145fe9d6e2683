//! The step that copies a tree of files into the root.
//!
//! A tree gives the same bytes from any checkout, regardless of the umask: files are 0755 if their
//! owner may execute them and 0644 otherwise, new directories 0755, and all are owned by 0:0.
//! Existing directories keep their attributes. `*.j2` is rendered and loses its suffix. A
//! `.gitkeep` is not copied, but its directory is.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::{StepContext, StepError};
use crate::folder::{self, Folder};
use crate::machine::{Meta, Node, Time};
use crate::options::Options;
use crate::templates;
use crate::variables::Variables;

const TEMPLATE_SUFFIX: &[u8] = b".j2";
const KEEP_FILE: &str = ".gitkeep";

/// A tree to copy.
#[derive(Debug, Clone)]
pub(crate) struct FileTree {
    folder: Folder,
    /// The directory, relative to the provisioner's, whose content is copied to `/`.
    tree: PathBuf,
}

/// An object of the tree.
#[derive(Debug)]
struct TreeItem {
    /// Source, relative to the provisioner's directory.
    from: PathBuf,
    /// Destination in the root.
    to: PathBuf,
    kind: TreeItemKind,
    mtime: Time,
}

#[derive(Debug, PartialEq, Eq)]
enum TreeItemKind {
    Directory,
    File { executable: bool },
    Template { executable: bool },
    Symlink(PathBuf),
}

impl FileTree {
    pub(crate) fn new(folder: &Folder, name: &str) -> Self {
        Self { folder: folder.clone(), tree: folder::without_dots(Path::new(name)) }
    }

    /// Returns the path of the tree, relative to the provisioner's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.tree
    }

    pub(crate) fn name(&self) -> String {
        match self.tree.display().to_string().as_str() {
            "files" => "files".to_owned(),
            name => format!("files {name}"),
        }
    }

    /// Reads the tree and renders its templates, to find mistakes before any step runs.
    pub(crate) fn check(&self, variables: &Variables) -> Result<(), StepError> {
        for item in self.items()? {
            match item.kind {
                TreeItemKind::Template { .. } => drop(self.render(&item.from, variables)?),
                TreeItemKind::File { .. } => drop(self.folder.open(&item.from)?),
                TreeItemKind::Directory | TreeItemKind::Symlink(_) => {}
            }
        }
        Ok(())
    }

    pub(crate) fn run(&self, context: &mut StepContext<'_>) -> Result<(), StepError> {
        for item in self.items()? {
            let meta = meta(&item, context.options);
            match &item.kind {
                TreeItemKind::Directory => context.machine.put(&item.to, Node::Directory, &meta)?,
                TreeItemKind::Symlink(target) => {
                    context.machine.put(&item.to, Node::Symlink(target), &meta)?;
                }
                TreeItemKind::File { .. } => {
                    let mut file = self.folder.open(&item.from)?;
                    context.machine.put(&item.to, Node::File(&mut file), &meta)?;
                }
                TreeItemKind::Template { .. } => {
                    let text = self.render(&item.from, context.variables)?;
                    context.machine.put(&item.to, Node::File(&mut text.as_bytes()), &meta)?;
                }
            }
        }
        Ok(())
    }

    /// Returns all objects of the tree, ordered by name, each directory before its content.
    fn items(&self) -> Result<Vec<TreeItem>, StepError> {
        let found = self.folder.walk(&self.tree)?;
        let in_git = |path: &Path| path.components().any(|part| part.as_os_str() == ".git");
        let kept = found.into_iter().filter(|item| !is_keep(&item.path) && !in_git(&item.path));
        let items = kept.map(|item| self.item(item)).collect::<Result<Vec<_>, _>>()?;
        let mut sources: HashMap<&Path, &Path> = HashMap::new();
        for item in &items {
            if let Some(other) = sources.insert(&item.to, &item.from) {
                return Err(StepError::Impossible(format!(
                    "{} and {} have the same destination {}",
                    self.folder.display_path(other).display(),
                    self.folder.display_path(&item.from).display(),
                    item.to.display()
                )));
            }
        }
        Ok(items)
    }

    fn item(&self, found: folder::FolderItem) -> Result<TreeItem, StepError> {
        let from = found.path;
        let mut to = Path::new("/").join(from.strip_prefix(&self.tree).unwrap_or(&from));
        let kind = match found.kind {
            folder::FolderItemKind::Directory => TreeItemKind::Directory,
            folder::FolderItemKind::Symlink(target) => TreeItemKind::Symlink(target),
            folder::FolderItemKind::File { executable } => {
                let name = from.file_name().unwrap_or_default().as_bytes();
                match name.strip_suffix(TEMPLATE_SUFFIX) {
                    Some(plain) if !plain.is_empty() => {
                        to.set_file_name(OsStr::from_bytes(plain));
                        TreeItemKind::Template { executable }
                    }
                    _ => TreeItemKind::File { executable },
                }
            }
            folder::FolderItemKind::Other => {
                return Err(StepError::Impossible(format!(
                    "{} is neither a file, a directory nor a symbolic link",
                    self.folder.display_path(&from).display()
                )));
            }
        };
        Ok(TreeItem { from, to, kind, mtime: found.mtime })
    }

    fn render(&self, path: &Path, variables: &Variables) -> Result<String, StepError> {
        let bytes = self.folder.read(path)?;
        let file = self.folder.display_path(path);
        let text = std::str::from_utf8(&bytes).map_err(|_| {
            StepError::Impossible(format!("the template {} is not UTF-8", file.display()))
        })?;
        Ok(templates::render(&file, text, variables)?)
    }
}

/// Returns whether a file exists only to keep its directory in Git.
pub(crate) fn is_keep(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == KEEP_FILE)
}

fn meta(item: &TreeItem, options: &Options) -> Meta {
    let mode = match item.kind {
        TreeItemKind::Directory => 0o755,
        TreeItemKind::Symlink(_) => 0o777,
        TreeItemKind::File { executable } | TreeItemKind::Template { executable } => {
            if executable {
                0o755
            } else {
                0o644
            }
        }
    };
    let epoch = options.source_date_epoch.map(|seconds| Time { seconds, nanoseconds: 0 });
    Meta { mode: Some(mode), uid: 0, gid: 0, mtime: Some(epoch.unwrap_or(item.mtime)) }
}
