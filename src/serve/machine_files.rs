//! A catalogue for a single machine: the files that boot it, independent of any project.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact::Artifact;
use super::catalogue::{BootFiles, Catalogue, CatalogueError, ServedImage};

/// The files that boot a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MachineFiles {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initrd.
    pub initrd: PathBuf,
    /// The base.
    pub base: PathBuf,
    /// The overlays, the lowest first.
    pub overlays: Vec<PathBuf>,
    /// Whether the initrd boots by its own script, and not by overcoat's.
    pub has_own_script: bool,
}

impl Catalogue {
    /// Creates a catalogue whose `boot.ipxe` boots these files. `append` is added to the kernel
    /// command line.
    ///
    /// # Errors
    /// Fails if `append` contains control characters.
    pub(crate) fn machine(files: &MachineFiles, append: &str) -> Result<Self, CatalogueError> {
        let mut catalogue = Catalogue {
            title: "machine".to_owned(),
            images: Vec::new(),
            files: Vec::new(),
            by_name: HashMap::new(),
            default: Some(0),
            append: super::catalogue::parameters(append)?,
            url: None,
        };
        let boot = BootFiles {
            kernel: catalogue.add_file(&files.kernel),
            initrd: catalogue.add_file(&files.initrd),
            base: catalogue.add_file(&files.base),
            overlays: files.overlays.iter().map(|path| catalogue.add_file(path)).collect(),
            has_own_script: files.has_own_script,
        };
        catalogue.images.push(ServedImage {
            name: "machine".to_owned(),
            kind: "overlay",
            description: None,
            layers: Vec::new(),
            files: Vec::new(),
            boot: Some(Ok(boot)),
        });
        Ok(catalogue)
    }

    /// Adds the file at `path` under its file name, with a number in front if that is taken.
    fn add_file(&mut self, path: &Path) -> usize {
        let plain = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut name = plain.clone();
        let mut number = 1;
        while self.by_name.contains_key(&name) || name == "boot.ipxe" || name == "index.json" {
            number += 1;
            name = format!("{number}-{plain}");
        }
        let index = self.files.len();
        self.by_name.insert(name.clone(), index);
        // There is no build record with its digest.
        self.files.push(Arc::new(Artifact::new(name, path.to_owned(), Default::default())));
        index
    }

    /// Returns the files that boot the image with this name.
    ///
    /// # Errors
    /// Fails if the image cannot be booted.
    pub(crate) fn machine_files(&self, name: &str) -> Result<MachineFiles, String> {
        let image = self.images.iter().find(|image| image.name == name);
        let boot = match image.and_then(|image| image.boot.as_ref()) {
            Some(Ok(boot)) => boot,
            Some(Err(why)) => return Err(format!("{name} cannot be booted: {why}")),
            None => {
                return Err(format!(
                    "{name} cannot be booted: it is neither an overlay nor a base"
                ));
            }
        };
        let path = |file: usize| self.files[file].path.clone();
        Ok(MachineFiles {
            kernel: path(boot.kernel),
            initrd: path(boot.initrd),
            base: path(boot.base),
            overlays: boot.overlays.iter().map(|&file| path(file)).collect(),
            has_own_script: boot.has_own_script,
        })
    }
}
