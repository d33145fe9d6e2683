//! Puts files in the place of artifacts.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::options::is_same_file;
use super::record::{RecordError, remove_file};
use crate::seal::{Output, output};

/// Makes `to` another name of the file `from`. At no time is `to` missing or incomplete. A symbolic
/// link at `to` is followed.
///
/// # Errors
/// Fails if the file cannot be linked.
pub(super) fn link(from: &Path, to: &Path) -> Result<(), RecordError> {
    let to = target(to)?;
    let temporary = temporary_name(&to);
    remove_file(&temporary)?;
    fs::hard_link(from, &temporary).map_err(RecordError::io("link", from))?;
    let renamed = fs::rename(&temporary, &to);
    // The name also remains if both are links of the same file.
    remove_file(&temporary)?;
    renamed.map_err(RecordError::io("replace", &to))?;
    sync_folder(&to)
}

/// Makes `to` another name of the file `from`, or a copy if they are on different file systems or
/// the file cannot have another name. At no time is `to` missing or incomplete.
///
/// # Errors
/// Fails if the file can be neither linked nor copied.
pub(super) fn link_or_copy(from: &Path, to: &Path) -> Result<(), RecordError> {
    if is_same_file(from, to) || link(from, to).is_ok() {
        return Ok(());
    }
    let mut source = File::open(from).map_err(RecordError::io("read", from))?;
    let mut copy = Output::file(&target(to)?)?;
    io::copy(&mut source, &mut copy).map_err(RecordError::io("write", to))?;
    Ok(output::commit(vec![copy])?)
}

/// Returns the file that `path` names, and creates its directory.
fn target(path: &Path) -> Result<PathBuf, RecordError> {
    if let Ok(path) = fs::canonicalize(path) {
        return Ok(path);
    }
    if let Some(folder) = path.parent() {
        output::create_folders(folder).map_err(RecordError::io("create the directory", folder))?;
    }
    Ok(path.to_owned())
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{:x}.partial", std::process::id()));
    path.with_file_name(name)
}

fn sync_folder(path: &Path) -> Result<(), RecordError> {
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    let folder = folder.unwrap_or(Path::new("."));
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(RecordError::io("sync", folder))
}
