//! The texts that a user wrote for a build.

use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;

/// Maximum size of a file that is searched, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Maximum number of files that are searched.
const MAX_FILES: usize = 10_000;

/// Files, variables and command lines that are the input of a build.
///
/// A build warns about values of the host in an image, such as the address of a name server. A
/// value that the user wrote is meant to be there.
#[derive(Debug, Default)]
pub struct InputTexts {
    paths: Vec<PathBuf>,
    words: Vec<Vec<u8>>,
}

impl InputTexts {
    /// Creates the texts in `paths`, which are files and directories with their files, and in
    /// `words`, such as those of a command line.
    pub fn new(paths: Vec<PathBuf>, words: Vec<Vec<u8>>) -> Self {
        InputTexts { paths, words }
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
        let texts = InputTexts::new(vec![folder.path().to_owned()], Vec::new());
        assert!(texts.contains("192.0.2.1") && !texts.contains("192.0.2.2"));
        let texts = InputTexts::new(Vec::new(), vec![b"echo 192.0.2.2".to_vec()]);
        assert!(texts.contains("192.0.2.2") && !texts.contains("192.0.2.1"));
    }
}
