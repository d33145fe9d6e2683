//! The catalogue: a project's images, their files, and the files that boot each image.
//!
//! [`Catalogue::by_name`] holds every file name that a request can ask for.

use std::collections::HashMap;
use std::path::{Component, Path};
use std::sync::Arc;

use provisioners::image::{Format, Source, Yield, manifest_path};
use provisioners::project::Member;
use provisioners::{Project, Variable};

use super::artifact::Artifact;

/// The variable of an initrd image with the script by which its machines boot.
const BOOT_SCRIPT: &str = "boot_script";
/// Its value if that is not overcoat's script.
const OWN_BOOT_SCRIPT: &str = "local";

/// The reason why a project cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CatalogueError {
    /// A file has the name of another file or of one of the server's own resources.
    #[error("{image}: the boot server already uses the name `{name}`: give the file another name")]
    Taken {
        /// The image that makes the file.
        image: String,
        /// The file's name.
        name: String,
    },
    /// The default image cannot be booted.
    #[error("{name} cannot be booted: {why}")]
    NoDefault {
        /// The image's name.
        name: String,
        /// The reason.
        why: String,
    },
    /// The URL that machines are to reach the server by is invalid.
    #[error("invalid boot server URL {0:?}: write http://NAME, or https://NAME:PORT/PATH")]
    Url(String),
    /// The text to append to the kernel command line is invalid.
    #[error("kernel parameters must be one line of printable characters")]
    Append,
}

/// The served images and files.
#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// The project's title: the name of the directory with the project file.
    pub(super) title: String,
    pub(super) images: Vec<ServedImage>,
    pub(super) files: Vec<Arc<Artifact>>,
    pub(super) by_name: HashMap<String, usize>,
    /// The image that `boot.ipxe` boots; without one, it shows a menu.
    pub(super) default: Option<usize>,
    /// The user's addition to the kernel command line.
    pub(super) append: String,
    /// The URL by which machines reach the server; `None` for the one that each client used.
    pub(super) url: Option<String>,
}

/// An image of the project.
#[derive(Debug)]
pub(super) struct ServedImage {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) description: Option<String>,
    /// Names of the layers that it is made on, the lowest first.
    pub(super) layers: Vec<String>,
    /// The files that it makes, each with its manifest if there is one: indices into
    /// [`Catalogue::files`].
    pub(super) files: Vec<(usize, Option<usize>)>,
    /// The files that boot it, or the reason why it cannot be booted; `None` for an initrd.
    pub(super) boot: Option<Result<BootFiles, String>>,
}

/// The files that boot an image: indices into [`Catalogue::files`].
#[derive(Debug, Clone)]
pub(super) struct BootFiles {
    pub(super) kernel: usize,
    pub(super) initrd: usize,
    pub(super) base: usize,
    /// The overlays, the lowest first.
    pub(super) overlays: Vec<usize>,
    /// Whether the initrd boots by its own script, and not by overcoat's.
    pub(super) has_own_script: bool,
}

impl BootFiles {
    pub(super) fn files(&self) -> impl Iterator<Item = usize> {
        [self.kernel, self.initrd, self.base].into_iter().chain(self.overlays.iter().copied())
    }
}

impl Catalogue {
    /// Creates the catalogue of a project. `default` names the image that `boot.ipxe` boots, and
    /// `append` is added to the kernel command line.
    ///
    /// # Errors
    /// Fails if two files have the same name, or the default image cannot be booted.
    pub(crate) fn new(
        project: &Project,
        default: Option<&str>,
        append: Option<&str>,
    ) -> Result<Self, CatalogueError> {
        let append = parameters(append.unwrap_or_default())?;
        let mut catalogue = Catalogue {
            title: title(&project.file),
            images: Vec::new(),
            files: Vec::new(),
            by_name: HashMap::new(),
            default: None,
            append,
            url: None,
        };
        for member in project.images() {
            catalogue.add(project, member)?;
        }
        for (index, member) in project.images().iter().enumerate() {
            if member.kind() != "initrd" {
                catalogue.images[index].boot = Some(catalogue.boot(project, index));
            }
        }
        catalogue.default = match default {
            Some(name) => Some(catalogue.named_default(project, name)?),
            None => catalogue.implied_default(),
        };
        Ok(catalogue)
    }

    /// Sets the URL by which machines reach the server, for example through a proxy with `https` or
    /// a path prefix.
    ///
    /// # Errors
    /// Fails if the URL is invalid.
    pub(crate) fn reached_at(mut self, url: &str) -> Result<Self, CatalogueError> {
        let plain = url.strip_suffix('/').unwrap_or(url);
        let rest = plain.strip_prefix("http://").or_else(|| plain.strip_prefix("https://"));
        // No character with a meaning in iPXE, in a kernel command line or in HTML.
        let fits = |c: char| c.is_ascii_alphanumeric() || "-._~:/[]%+".contains(c);
        match rest {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') && rest.chars().all(fits) => {
                self.url = Some(plain.to_owned());
                Ok(self)
            }
            _ => Err(CatalogueError::Url(url.to_owned())),
        }
    }

    fn add(&mut self, project: &Project, member: &Member) -> Result<(), CatalogueError> {
        let mut files = Vec::new();
        for path in member.files() {
            let Some(name) = name_in(&project.output, &path) else {
                tracing::warn!(
                    "{} is outside of the artifact directory and is not served",
                    path.display()
                );
                continue;
            };
            let file = self.file(project, member, &name, &path)?;
            let manifest = match member.image.source {
                Source::Initrd { .. } => None,
                _ => {
                    let path = manifest_path(&path);
                    let name = manifest_path(Path::new(&name)).display().to_string();
                    Some(self.file(project, member, &name, &path)?)
                }
            };
            files.push((file, manifest));
        }
        let layers = member.image.source.layers().map(|layers| layers.paths()).unwrap_or_default();
        let layers = layers.iter().map(|path| {
            let of = project.images().iter().find(|image| image.files().contains(path));
            of.map_or_else(|| path.display().to_string(), |image| image.name.clone())
        });
        self.images.push(ServedImage {
            name: member.name.clone(),
            kind: member.kind(),
            description: member.image.description.clone(),
            layers: layers.collect(),
            files,
            boot: None,
        });
        Ok(())
    }

    fn file(
        &mut self,
        project: &Project,
        member: &Member,
        name: &str,
        path: &Path,
    ) -> Result<usize, CatalogueError> {
        let of = (project.output.clone(), member.name.clone());
        let index = self.files.len();
        let own = name == "boot.ipxe" || name == "index.json" || name.starts_with("boot/");
        if own || self.by_name.insert(name.to_owned(), index).is_some() {
            return Err(CatalogueError::Taken { image: of.1, name: name.to_owned() });
        }
        self.files.push(Arc::new(Artifact::new(name.to_owned(), path.to_owned(), of)));
        Ok(index)
    }

    /// Returns the index of the file at this path.
    fn index_of(&self, path: &Path) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    /// Returns the files that boot the image at `index`, or the reason why it cannot be booted.
    fn boot(&self, project: &Project, index: usize) -> Result<BootFiles, String> {
        let images = project.images();
        let member = &images[index];
        let layers = member.image.source.layers().map(|layers| layers.paths()).unwrap_or_default();
        let mut stack = Vec::new();
        for path in &layers {
            match images.iter().position(|image| image.files().contains(path)) {
                Some(layer) => stack.push(layer),
                None => return Err(format!("{} is not an image of the project", path.display())),
            }
        }
        stack.push(index);
        let base = &images[stack[0]];
        if base.kind() != "base" {
            return Err(format!("{}, which it is made on, is not a base", base.name));
        }
        let initrd = initrd(project, stack[0])?;
        let Source::Initrd { yields, .. } = &images[initrd].image.source else {
            return Err("the project has no initrd image".to_owned());
        };
        let yielded = |words: &[&str], what: &str| {
            yields
                .iter()
                .find(|one| is_named(one, words))
                .and_then(|one| self.index_of(&one.output))
                .ok_or_else(|| format!("{} does not yield a {what}", images[initrd].name))
        };
        let overlays = stack[1..].iter().map(|&layer| {
            let formats = [Format::CpioGz, Format::CpioZst, Format::Cpio];
            self.in_format(&images[layer], &formats).ok_or_else(|| {
                format!("{} has no file in a format that an initrd can unpack", images[layer].name)
            })
        });
        Ok(BootFiles {
            kernel: yielded(&["vmlinu", "bzimage", "kernel"], "kernel")?,
            initrd: yielded(&["initrd", "initramfs"], "initrd")?,
            base: self
                .in_format(base, &[Format::Squashfs])
                .ok_or_else(|| format!("{} has no squashfs file", base.name))?,
            overlays: overlays.collect::<Result<_, _>>()?,
            has_own_script: has_own_script(&images[initrd]),
        })
    }

    /// Returns the first file of an image in one of these formats.
    fn in_format(&self, member: &Member, formats: &[Format]) -> Option<usize> {
        let mut outputs = member.image.outputs.iter();
        outputs.find_map(|(path, format)| self.index_of(path).filter(|_| formats.contains(format)))
    }

    /// Returns the only bootable overlay, or else the only bootable base.
    fn implied_default(&self) -> Option<usize> {
        let of_kind = |kind: &str| {
            let each = self.images.iter().enumerate();
            each.filter(|(_, image)| image.kind == kind && matches!(image.boot, Some(Ok(_))))
                .map(|(index, _)| index)
                .collect::<Vec<_>>()
        };
        match (of_kind("overlay").as_slice(), of_kind("base").as_slice()) {
            (&[only], _) | ([], &[only]) => Some(only),
            _ => None,
        }
    }

    fn named_default(&self, project: &Project, name: &str) -> Result<usize, CatalogueError> {
        let no = |why: String| CatalogueError::NoDefault { name: name.to_owned(), why };
        let index = project.find(name).map_err(no)?;
        match &self.images[index].boot {
            Some(Ok(_)) => Ok(index),
            Some(Err(why)) => Err(no(why.clone())),
            None => Err(no("it is an initrd: name a base or an overlay".to_owned())),
        }
    }
}

/// Checks and trims the user's kernel parameters.
pub(super) fn parameters(append: &str) -> Result<String, CatalogueError> {
    // A second line would be a command of the iPXE script.
    match append.chars().any(char::is_control) {
        true => Err(CatalogueError::Append),
        false => Ok(append.trim().to_owned()),
    }
}

/// Returns the file's path relative to the artifact directory, if it is in there.
fn name_in(folder: &Path, file: &Path) -> Option<String> {
    let name = file.strip_prefix(folder).ok()?;
    let plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    name.to_str().filter(|name| plain && !name.is_empty()).map(str::to_owned)
}

fn title(file: &Path) -> String {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let folder = absolute.parent().and_then(Path::file_name);
    folder.map_or_else(|| "overcoat".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Returns the initrd image for a base: the one made on it, or else the only one.
fn initrd(project: &Project, base: usize) -> Result<usize, String> {
    let images = project.images();
    let all: Vec<usize> = (0..images.len()).filter(|&i| images[i].kind() == "initrd").collect();
    let on_it = all.iter().find(|&&initrd| images[initrd].needs.first() == Some(&base));
    match (on_it, all.as_slice()) {
        (Some(&initrd), _) | (None, &[initrd]) => Ok(initrd),
        (None, []) => Err("the project has no initrd image".to_owned()),
        (None, _) => Err(format!(
            "the project has several initrds, but none is made on {}",
            images[base].name
        )),
    }
}

/// Returns whether an initrd image says that its machines boot by another script than overcoat's:
/// with the variable of library:initrd, which initrds of other provisioners may have, too.
fn has_own_script(initrd: &Member) -> bool {
    let mut variables = initrd.image.variables();
    variables.any(|(name, value)| {
        name == BOOT_SCRIPT && *value == Variable::Text(OWN_BOOT_SCRIPT.to_owned())
    })
}

/// Whether the name of a yielded file, or its path in the root, contains one of `words`.
fn is_named(one: &Yield, words: &[&str]) -> bool {
    let last = one.pattern.rsplit('/').next().unwrap_or_default();
    let matches = |name: &str| words.iter().any(|word| name.to_ascii_lowercase().contains(word));
    matches(&one.name) || matches(last)
}
