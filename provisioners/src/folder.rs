//! The directory of a provisioner: on the host, or in the library compiled into the program.
//!
//! Paths are relative to the directory. [`Folder::display_path`] returns the form for messages:
//! `roles/discovery/files/etc/x`, or `library:discovery/files/etc/x`.

use std::borrow::Cow;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::ansible::role::is_role;
use crate::config::{ConfigError, nearest};
use crate::error::StepError;
use crate::library_files::{self, LIBRARY_PREFIX, LibraryContent, LibraryEntry, LibraryFolder};
use crate::machine::Time;

/// Name of the file that makes a directory a provisioner.
pub const FILE_NAME: &str = "provisioner.yml";

/// Modification time of the library's files: 2026-01-01. The times of the source files differ
/// between checkouts, so the program contains none of them.
const LIBRARY_TIME: Time = Time { seconds: 1_767_225_600, nanoseconds: 0 };

/// A directory that holds a provisioner.
#[derive(Debug, Clone)]
pub struct Folder(FolderLocation);

#[derive(Debug, Clone)]
enum FolderLocation {
    Host(PathBuf),
    Library(&'static LibraryFolder),
}

/// An object in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FolderItem {
    /// Path relative to the provisioner's directory.
    pub(crate) path: PathBuf,
    pub(crate) kind: FolderItemKind,
    pub(crate) mtime: Time,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FolderItemKind {
    Directory,
    /// A regular file. `executable` is the owner's execute bit.
    File {
        executable: bool,
    },
    /// A symbolic link and its target.
    Symlink(PathBuf),
    /// A device, a fifo or a socket.
    Other,
}

/// A file of a provisioner cannot be read.
#[derive(Debug)]
pub(crate) struct FolderReadError {
    pub(crate) path: PathBuf,
    source: io::Error,
}

impl From<FolderReadError> for StepError {
    fn from(FolderReadError { path, source }: FolderReadError) -> Self {
        Self::Read { path, source }
    }
}

impl From<FolderReadError> for ConfigError {
    fn from(FolderReadError { path, source }: FolderReadError) -> Self {
        Self::Read { path, source }
    }
}

/// The library has no provisioner of this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\nhelp: {help}")]
pub struct NotInLibrary {
    /// The problem.
    pub problem: String,
    /// The most similar name, or all names.
    pub help: String,
}

impl NotInLibrary {
    fn new(name: &str, folders: &[LibraryFolder]) -> Self {
        let names = || folders.iter().map(|folder| folder.name);
        let all =
            names().map(|name| format!("{LIBRARY_PREFIX}{name}")).collect::<Vec<_>>().join(", ");
        let help = match nearest(name, names()) {
            Some(name) => format!("did you mean `{LIBRARY_PREFIX}{name}`? The library has {all}"),
            None if folders.is_empty() => "this program was built without a library".to_owned(),
            None => format!("the library has {all}"),
        };
        Self { problem: format!("the library has no provisioner `{name}`"), help }
    }
}

/// The SHA-256 of an input of an image. `Display` writes it in hexadecimal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Folder {
    /// Creates a directory of the host. Does not check that it exists.
    pub fn from_host(path: impl Into<PathBuf>) -> Self {
        Self(FolderLocation::Host(path.into()))
    }

    pub(crate) fn from_library(folder: &'static LibraryFolder) -> Self {
        Self(FolderLocation::Library(folder))
    }

    /// Returns the directory for a `name` in a configuration file: `library:NAME`, or a path
    /// relative to the directory of that file. Does not check that a directory of the host exists.
    ///
    /// # Errors
    ///
    /// Fails if the library has no provisioner of this name.
    pub fn named(name: &str, relative_to: &Path) -> Result<Self, NotInLibrary> {
        let Some(name) = name.strip_prefix(LIBRARY_PREFIX) else {
            return Ok(Self::from_host(relative_to.join(name)));
        };
        match library_files::folders().iter().find(|folder| folder.name == name) {
            Some(folder) => Ok(Self::from_library(folder)),
            None => Err(NotInLibrary::new(name, library_files::folders())),
        }
    }

    /// Returns the path on the host; `None` for a directory of the library.
    pub fn host_path(&self) -> Option<&Path> {
        match &self.0 {
            FolderLocation::Host(path) => Some(path),
            FolderLocation::Library(_) => None,
        }
    }

    /// Returns whether the directory is a provisioner: has a `provisioner.yml`, or is an Ansible
    /// role.
    pub fn is_provisioner(&self) -> bool {
        self.is_file(Path::new(FILE_NAME)) || self.host_path().is_some_and(is_role)
    }

    /// Returns the name of the directory, without its parents.
    pub fn name(&self) -> String {
        match &self.0 {
            FolderLocation::Host(path) => {
                let absolute = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                let name = absolute.file_name().unwrap_or(path.as_os_str());
                name.to_string_lossy().into_owned()
            }
            FolderLocation::Library(folder) => folder.name.to_owned(),
        }
    }

    /// Returns `path` in the form for messages.
    pub(crate) fn display_path(&self, path: &Path) -> PathBuf {
        match &self.0 {
            FolderLocation::Host(folder) => folder.join(path),
            FolderLocation::Library(folder) => {
                Path::new(&format!("{LIBRARY_PREFIX}{}", folder.name)).join(without_dots(path))
            }
        }
    }

    /// Returns whether `path` is a regular file. Follows links on the host.
    pub(crate) fn is_file(&self, path: &Path) -> bool {
        match &self.0 {
            FolderLocation::Host(folder) => folder.join(path).is_file(),
            FolderLocation::Library(folder) => {
                find(folder, path).is_some_and(|e| matches!(e.content, LibraryContent::File { .. }))
            }
        }
    }

    /// Returns whether `path` is a directory. Follows links on the host.
    pub(crate) fn is_dir(&self, path: &Path) -> bool {
        match &self.0 {
            FolderLocation::Host(folder) => folder.join(path).is_dir(),
            FolderLocation::Library(folder) => {
                without_dots(path).as_os_str().is_empty()
                    || find(folder, path)
                        .is_some_and(|e| matches!(e.content, LibraryContent::Directory))
            }
        }
    }

    /// Reads the file at `path`.
    pub(crate) fn read(&self, path: &Path) -> Result<Cow<'static, [u8]>, FolderReadError> {
        match &self.0 {
            FolderLocation::Host(folder) => fs::read(folder.join(path)).map(Cow::Owned),
            FolderLocation::Library(folder) => bytes(folder, path).map(Cow::Borrowed),
        }
        .map_err(|source| self.unreadable(path, source))
    }

    /// Opens the file at `path`.
    pub(crate) fn open(&self, path: &Path) -> Result<Box<dyn Read>, FolderReadError> {
        match &self.0 {
            FolderLocation::Host(folder) => {
                File::open(folder.join(path)).map(|file| Box::new(file) as Box<dyn Read>)
            }
            FolderLocation::Library(folder) => {
                bytes(folder, path).map(|bytes| Box::new(bytes) as Box<dyn Read>)
            }
        }
        .map_err(|source| self.unreadable(path, source))
    }

    /// Returns all objects below `path`, ordered by name, each directory before its content. Does
    /// not follow links.
    pub(crate) fn walk(&self, path: &Path) -> Result<Vec<FolderItem>, FolderReadError> {
        match &self.0 {
            FolderLocation::Host(folder) => {
                let mut items = Vec::new();
                walk_host(folder, path, &mut items)?;
                Ok(items)
            }
            FolderLocation::Library(folder) => {
                let above = without_dots(path);
                let below = |entry: &&LibraryEntry| {
                    Path::new(entry.path).strip_prefix(&above).is_ok_and(|p| p != Path::new(""))
                };
                Ok(folder.entries.iter().filter(below).map(item).collect())
            }
        }
    }

    /// Returns the digest of a file: its content and execute bit.
    pub(crate) fn digest_file(&self, path: &Path) -> Result<Digest, FolderReadError> {
        let executable = match &self.0 {
            FolderLocation::Host(folder) => fs::metadata(folder.join(path))
                .map(|meta| meta.permissions().mode() & 0o100 != 0)
                .map_err(|source| self.unreadable(path, source))?,
            FolderLocation::Library(folder) => find(folder, path).is_some_and(|e| {
                matches!(e.content, LibraryContent::File { executable: true, .. })
            }),
        };
        self.digest(path, &FolderItemKind::File { executable })
    }

    /// Returns the digest of an object found by [`walk`](Self::walk): its type, its content or
    /// target, and its execute bit.
    pub(crate) fn digest(
        &self,
        path: &Path,
        kind: &FolderItemKind,
    ) -> Result<Digest, FolderReadError> {
        let mut hash = Sha256::new();
        match kind {
            FolderItemKind::Directory => hash.update(b"d"),
            FolderItemKind::Other => hash.update(b"o"),
            FolderItemKind::Symlink(target) => {
                hash.update(b"l");
                hash.update(target.as_os_str().as_bytes());
            }
            FolderItemKind::File { executable } => {
                hash.update(if *executable { b"x" } else { b"f" });
                io::copy(&mut self.open(path)?, &mut hash)
                    .map_err(|source| self.unreadable(path, source))?;
            }
        }
        Ok(Digest(hash.finalize().into()))
    }

    fn unreadable(&self, path: &Path, source: io::Error) -> FolderReadError {
        FolderReadError { path: self.display_path(path), source }
    }
}

/// The path of the directory, or `library:NAME`.
impl fmt::Display for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            FolderLocation::Host(path) => path.display().fmt(f),
            FolderLocation::Library(folder) => write!(f, "{LIBRARY_PREFIX}{}", folder.name),
        }
    }
}

/// Returns a path as text that no other path has: bytes that are not UTF-8 are escaped.
pub(crate) fn unique_text(path: &Path) -> String {
    let mut text = String::new();
    for chunk in path.as_os_str().as_bytes().utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', "\\\\"));
        text.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02x}")));
    }
    text
}

/// Returns the path without `.` components.
pub(crate) fn without_dots(path: &Path) -> PathBuf {
    path.components().filter(|c| *c != Component::CurDir).collect()
}

fn find(folder: &'static LibraryFolder, path: &Path) -> Option<&'static LibraryEntry> {
    let path = without_dots(path);
    folder.entries.iter().find(|entry| Path::new(entry.path) == path)
}

fn bytes(folder: &'static LibraryFolder, path: &Path) -> io::Result<&'static [u8]> {
    match find(folder, path).map(|entry| &entry.content) {
        Some(LibraryContent::File { bytes, .. }) => Ok(bytes),
        Some(_) => Err(io::Error::other("not a regular file")),
        None => Err(io::ErrorKind::NotFound.into()),
    }
}

fn item(entry: &LibraryEntry) -> FolderItem {
    let kind = match entry.content {
        LibraryContent::Directory => FolderItemKind::Directory,
        LibraryContent::File { executable, .. } => FolderItemKind::File { executable },
        LibraryContent::Symlink(target) => FolderItemKind::Symlink(target.into()),
    };
    FolderItem { path: entry.path.into(), kind, mtime: LIBRARY_TIME }
}

fn walk_host(
    folder: &Path,
    path: &Path,
    items: &mut Vec<FolderItem>,
) -> Result<(), FolderReadError> {
    let unreadable = |path: PathBuf| move |source| FolderReadError { path, source };
    let mut names: Vec<_> = fs::read_dir(folder.join(path))
        .and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect::<io::Result<_>>())
        .map_err(unreadable(folder.join(path)))?;
    names.sort();
    for name in names {
        let path = path.join(name);
        let host = folder.join(&path);
        let meta = fs::symlink_metadata(&host).map_err(unreadable(host.clone()))?;
        let kind = if meta.is_dir() {
            FolderItemKind::Directory
        } else if meta.is_symlink() {
            FolderItemKind::Symlink(fs::read_link(&host).map_err(unreadable(host))?)
        } else if meta.is_file() {
            FolderItemKind::File { executable: meta.permissions().mode() & 0o100 != 0 }
        } else {
            FolderItemKind::Other
        };
        let mtime = Time {
            seconds: meta.mtime(),
            nanoseconds: u32::try_from(meta.mtime_nsec()).unwrap_or(0),
        };
        let descend = kind == FolderItemKind::Directory;
        items.push(FolderItem { path: path.clone(), kind, mtime });
        if descend {
            walk_host(folder, &path, items)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_library_name_suggests_the_nearest() {
        static FOLDERS: [LibraryFolder; 2] = [
            LibraryFolder { name: "discovery", entries: &[] },
            LibraryFolder { name: "raid-tools", entries: &[] },
        ];
        let help = |name| NotInLibrary::new(name, &FOLDERS).help;
        assert_eq!(
            help("discvery"),
            "did you mean `library:discovery`? The library has library:discovery, library:raid-tools"
        );
        assert_eq!(help("x"), "the library has library:discovery, library:raid-tools");
        assert!(Folder::named("library:no such", Path::new("/")).is_err());
        let host = Folder::named("roles/x", Path::new("/a")).unwrap();
        assert_eq!(host.host_path(), Some(Path::new("/a/roles/x")));
    }
}
