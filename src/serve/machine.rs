//! What is served to one machine: the files that boot it, whatever project they are of.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::artifact::Artifact;
use super::catalogue::{Boot, Catalogue, CatalogueError, Image};

/// The files that boot a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its initrd.
    pub initrd: PathBuf,
    /// The base.
    pub base: PathBuf,
    /// Overlays over it, the lowest first.
    pub overlays: Vec<PathBuf>,
}

impl Catalogue {
    /// That of one machine, which `boot.ipxe` boots. `append` is added to its kernel's command line.
    ///
    /// # Errors
    /// When what is added makes no line.
    pub fn machine(parts: &Parts, append: &str) -> Result<Self, CatalogueError> {
        let mut catalogue = Catalogue {
            title: "machine".to_owned(),
            images: Vec::new(),
            files: Vec::new(),
            by_name: HashMap::new(),
            default: Some(0),
            append: super::catalogue::parameters(append)?,
            url: None,
        };
        let boot = Boot {
            kernel: catalogue.part(&parts.kernel),
            initrd: catalogue.part(&parts.initrd),
            base: catalogue.part(&parts.base),
            overlays: parts.overlays.iter().map(|path| catalogue.part(path)).collect(),
        };
        catalogue.images.push(Image {
            name: "machine".to_owned(),
            kind: "overlay",
            description: None,
            layers: Vec::new(),
            files: Vec::new(),
            boot: Some(Ok(boot)),
        });
        Ok(catalogue)
    }

    /// Serves the file at `path` under its name, or under a longer one if that is taken.
    fn part(&mut self, path: &Path) -> usize {
        let plain = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let mut name = plain.clone();
        let mut number = 1;
        while self.by_name.contains_key(&name) || name == "boot.ipxe" || name == "index.json" {
            number += 1;
            name = format!("{number}-{plain}");
        }
        let index = self.files.len();
        self.by_name.insert(name.clone(), index);
        // No record tells its digest.
        self.files.push(Arc::new(Artifact::new(name, path.to_owned(), Default::default())));
        index
    }

    /// The files that boot the image of this name.
    ///
    /// # Errors
    /// Why it cannot be booted.
    pub fn parts(&self, name: &str) -> Result<Parts, String> {
        let image = self.images.iter().find(|image| image.name == name);
        let boot = match image.and_then(|image| image.boot.as_ref()) {
            Some(Ok(boot)) => boot,
            Some(Err(why)) => return Err(format!("{name} cannot be booted: {why}")),
            None => return Err(format!("{name} cannot be booted: it is no overlay and no base")),
        };
        let path = |file: usize| self.files[file].path.clone();
        Ok(Parts {
            kernel: path(boot.kernel),
            initrd: path(boot.initrd),
            base: path(boot.base),
            overlays: boot.overlays.iter().map(|&file| path(file)).collect(),
        })
    }
}
