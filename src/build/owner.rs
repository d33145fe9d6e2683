//! The project that a record belongs to.
//!
//! Projects can share an output directory, and can be moved. A record names its project file by its
//! absolute path and by its path from the output directory, which stays the same if both are moved.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use provisioners::Project;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::options::is_same_file;

/// A path in a record. JSON has no text for a path that is not UTF-8; its bytes are stored instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoredPath(pub(super) PathBuf);

#[derive(Deserialize)]
#[serde(untagged)]
enum StoredForm {
    Text(String),
    Bytes(Vec<u8>),
}

impl Serialize for StoredPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de> Deserialize<'de> for StoredPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(StoredPath)
    }
}

/// Serializes a path as [`StoredPath`] does.
pub(super) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    match path.to_str() {
        Some(text) => serializer.serialize_str(text),
        None => path.as_os_str().as_bytes().serialize(serializer),
    }
}

/// Deserializes a path as [`StoredPath`] does.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
    Ok(match StoredForm::deserialize(from)? {
        StoredForm::Text(text) => text.into(),
        StoredForm::Bytes(bytes) => OsString::from_vec(bytes).into(),
    })
}

/// The project file of a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProjectPlace {
    /// The absolute path, without symbolic links.
    #[serde(rename = "project")]
    file: StoredPath,
    /// The path from the output directory.
    #[serde(rename = "project_from_output", default, skip_serializing_if = "Option::is_none")]
    from_output: Option<StoredPath>,
}

impl ProjectPlace {
    /// Returns the place of the project file `file` with this output directory, which need not
    /// exist.
    pub(super) fn new(file: &Path, output: &Path) -> Option<Self> {
        let file = fs::canonicalize(file).ok()?;
        let output = fs::canonicalize(output).ok();
        let from_output = output.map(|output| StoredPath(relative(&output, &file)));
        Some(ProjectPlace { file: StoredPath(file), from_output })
    }
}

/// Returns the path of `to` from the directory `from`; both are absolute.
fn relative(from: &Path, to: &Path) -> PathBuf {
    let common = from.components().zip(to.components()).take_while(|(one, other)| one == other);
    let common = common.count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

/// The owner of a record, as seen from a project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// This project.
    This,
    /// An earlier version wrote the record, which does not name the project, or the project does
    /// not exist any more or uses another output directory.
    Unknown,
    /// Another project with the same output directory: its file.
    Other(PathBuf),
}

/// Finds the owners of the records in an output directory.
#[derive(Debug)]
pub(super) struct Owners {
    output: PathBuf,
    this: ProjectPlace,
    /// Whether the projects in these files use the output directory.
    others: RefCell<BTreeMap<PathBuf, bool>>,
}

impl Owners {
    /// Creates the owners as seen from the project at `this`.
    pub(super) fn new(this: ProjectPlace, output: &Path) -> Self {
        Owners { output: output.to_owned(), this, others: RefCell::default() }
    }

    /// Returns the place of this project.
    pub(super) fn this(&self) -> &ProjectPlace {
        &self.this
    }

    /// Returns the owner of a record that names this project file.
    pub(super) fn owner(&self, place: Option<&ProjectPlace>) -> Owner {
        let Some(place) = place else { return Owner::Unknown };
        let is_moved = place.from_output.is_some() && place.from_output == self.this.from_output;
        if place.file == self.this.file || is_moved {
            return Owner::This;
        }
        let file = &place.file.0;
        let mut others = self.others.borrow_mut();
        let uses = others.entry(file.clone()).or_insert_with(|| uses_output(file, &self.output));
        if *uses { Owner::Other(file.clone()) } else { Owner::Unknown }
    }
}

/// Returns whether the project in `file` exists and has this output directory. A project that
/// cannot be read has it.
fn uses_output(file: &Path, output: &Path) -> bool {
    let exists = file.try_exists().unwrap_or(true);
    exists && Project::load(file).map_or(true, |project| is_same_file(&project.output, output))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_lead_from_the_directory_to_the_file() {
        for (from, to, expected) in [
            ("/a/build", "/a/overcoat.yml", "../overcoat.yml"),
            ("/a/b/c", "/x/y", "../../../x/y"),
            ("/a", "/a/b", "b"),
        ] {
            assert_eq!(relative(Path::new(from), Path::new(to)), Path::new(expected));
        }
    }

    #[test]
    fn paths_of_any_bytes_are_stored() {
        for bytes in [&b"/a/b"[..], b"/a/\xff\xfe"] {
            let path = StoredPath(OsString::from_vec(bytes.to_vec()).into());
            let text = serde_json::to_string(&path).unwrap();
            assert_eq!(serde_json::from_str::<StoredPath>(&text).unwrap(), path);
        }
        assert_eq!(serde_json::to_string(&StoredPath("/a".into())).unwrap(), "\"/a\"");
    }
}
