//! The texts that a user wrote for a build, in which values of the host may be on purpose.

use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;

/// Maximum size of a file that is searched, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maximum number of files that are searched.
const MAX_FILES: usize = 10_000;

/// Files and command lines that are the input of a build.
///
/// A build warns about values of the host in an image, such as the address of a name server. A value
/// that the user wrote is meant to be there.
#[derive(Debug, Default)]
pub struct InputTexts {
    paths: Vec<PathBuf>,
    words: Vec<Vec<u8>>,
}

impl InputTexts {
    /// Returns the texts in files and, recursively, in folders.
    pub fn from_paths(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        InputTexts { paths: paths.into_iter().collect(), words: Vec::new() }
    }

    /// Returns the words of a command line.
    pub fn from_words(words: impl IntoIterator<Item = Vec<u8>>) -> Self {
        InputTexts { paths: Vec::new(), words: words.into_iter().collect() }
    }

    /// Whether `value` is in one of the texts. A file that cannot be read is left out.
    pub(crate) fn contains(&self, value: &str) -> bool {
        let finder = memmem::Finder::new(value);
        if self.words.iter().any(|word| finder.find(word).is_some()) {
            return true;
        }
        let mut paths = self.paths.clone();
        let mut searched = 0;
        while let Some(path) = paths.pop() {
            let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
            if metadata.is_dir() {
                paths.extend(entries(&path));
            } else if metadata.is_file() && metadata.len() <= MAX_FILE_BYTES {
                searched += 1;
                if searched > MAX_FILES {
                    return false;
                }
                if fs::read(&path).is_ok_and(|content| finder.find(&content).is_some()) {
                    return true;
                }
            }
        }
        false
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_in_files_of_folders_and_in_words() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("files")).unwrap();
        fs::write(folder.path().join("files/conf"), "server=192.0.2.1\n").unwrap();
        let texts = InputTexts::from_paths([folder.path().to_owned()]);
        assert!(texts.contains("192.0.2.1") && !texts.contains("192.0.2.2"));
        let texts = InputTexts::from_words([b"echo 192.0.2.2".to_vec()]);
        assert!(texts.contains("192.0.2.2") && !texts.contains("192.0.2.1"));
    }
}
