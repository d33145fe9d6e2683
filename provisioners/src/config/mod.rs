//! Configuration files: YAML read with its positions, so that every mistake is shown where it is.
//!
//! [`yaml`] turns a file into nodes that know their line and column, [`fields`] takes the known
//! keys out of a mapping and refuses the others, [`error`] shows what was wrong. Scalars keep their
//! text until someone asks for a type, so `mode: 0640` and `version: 1.10` mean what they say.

pub(crate) mod error;
pub(crate) mod fields;
pub(crate) mod yaml;

pub use error::ConfigError;
pub(crate) use fields::Fields;
pub(crate) use yaml::{Document, Node, Value};

/// The path that a file in `folder` calls `text`: without a needless `./` before it.
pub(crate) fn join(folder: &std::path::Path, text: &str) -> std::path::PathBuf {
    if folder == std::path::Path::new(".") { text.into() } else { folder.join(text) }
}

/// The name among `names` that was most likely meant by `given`, if one is near enough.
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
    fn nearest_forgives_a_slip_but_not_another_word() {
        let names = ["packages", "files", "scripts", "apt-cache"];
        assert_eq!(nearest("pakages", names), Some("packages"));
        assert_eq!(nearest("Files", names), Some("files"));
        assert_eq!(nearest("file", names), Some("files"));
        assert_eq!(nearest("apt_cache", names), Some("apt-cache"));
        assert_eq!(nearest("users", names), None);
    }
}
