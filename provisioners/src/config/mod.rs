//! Configuration files: YAML with positions, so that every mistake is shown at its line and column.
//!
//! [`yaml`] parses a file into nodes with their positions, [`fields`] reads the known keys of a
//! mapping and rejects all others, [`yaml_1_1`] reads scalars of Ansible's files, and [`error`]
//! formats mistakes. Scalars keep their text until a
//! caller converts them, so `mode: 0640` and `version: 1.10` are not changed by a conversion to
//! numbers.

pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod yaml;
pub(crate) mod yaml_1_1;

pub use error::ConfigError;
pub(crate) use fields::Fields;
pub(crate) use yaml::{YamlDocument, YamlKey, YamlNode, YamlTag, YamlValue};

/// Returns the path for `text` in a file of `folder`, without `./` at the start if `folder` is `.`.
pub(crate) fn join(folder: &std::path::Path, text: &str) -> std::path::PathBuf {
    if folder == std::path::Path::new(".") { text.into() } else { folder.join(text) }
}

/// Returns the name in `names` that is most similar to `given`, if one is similar enough for a
/// suggestion.
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = given.to_lowercase().replace('-', "_");
    names
        .into_iter()
        .map(|name| {
            (strsim::damerau_levenshtein(&lower, &name.to_lowercase().replace('-', "_")), name)
        })
        .filter(|(distance, name)| *distance <= (name.chars().count().max(3) / 3))
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn nearest_finds_misspelled_but_not_different_names() {
        let names = ["packages", "files", "scripts", "apt-cache"];
        assert_eq!(nearest("pakages", names), Some("packages"));
        assert_eq!(nearest("Files", names), Some("files"));
        assert_eq!(nearest("file", names), Some("files"));
        assert_eq!(nearest("apt_cache", names), Some("apt-cache"));
        assert_eq!(nearest("users", names), None);
    }
}
