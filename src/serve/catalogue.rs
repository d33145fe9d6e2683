//! What there is to be served: a project's images, their files, and which of them boot together.
//!
//! All names that a request can ask for are in [`Catalogue::by_name`]; there is nothing else.

use std::collections::HashMap;
use std::path::{Component, Path};
use std::sync::Arc;

use provisioners::Project;
use provisioners::image::{Format, Source, Yield, manifest_path};
use provisioners::project::Member;

use super::artifact::Artifact;

/// A project cannot be served as it is.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// A file would have a name that another one, or the server itself, has.
    #[error(
        "{image}: `{name}` is what the boot server calls something else: give the file another name"
    )]
    Taken {
        /// The image that makes it.
        image: String,
        /// The file's name.
        name: String,
    },
    /// The image that is to be booted by default cannot be.
    #[error("{name} cannot be booted: {why}")]
    NoDefault {
        /// Its name.
        name: String,
        /// Why.
        why: String,
    },
    /// What machines are to reach the server by is no URL.
    #[error("{0} is no URL of a boot server: write http://NAME, or https://NAME:PORT/PATH")]
    Url(String),
    /// What is to be added to the kernel's command line cannot be.
    #[error("kernel parameters stand in one line of printable characters")]
    Append,
}

/// What is served.
#[derive(Debug)]
pub struct Catalogue {
    /// What the project is called: the folder that its file is in.
    pub(super) title: String,
    pub(super) images: Vec<Image>,
    pub(super) files: Vec<Arc<Artifact>>,
    pub(super) by_name: HashMap<String, usize>,
    /// The image that `boot.ipxe` boots; without one it asks.
    pub(super) default: Option<usize>,
    /// What the user adds to the kernel's command line.
    pub(super) append: String,
    /// Where machines reach the server, if it is not where whoever asks has reached it.
    pub(super) url: Option<String>,
}

/// An image of the project.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) kind: &'static str,
    pub(super) description: Option<String>,
    /// The names of what it was made on, the lowest first.
    pub(super) layers: Vec<String>,
    /// What it makes, and the manifest of each if it has one: places in [`Catalogue::files`].
    pub(super) files: Vec<(usize, Option<usize>)>,
    /// How it is booted, or why it cannot be; nothing for an initrd.
    pub(super) boot: Option<Result<Boot, String>>,
}

/// The files that boot an image: places in [`Catalogue::files`].
#[derive(Debug, Clone)]
pub(super) struct Boot {
    pub(super) kernel: usize,
    pub(super) initrd: usize,
    pub(super) base: usize,
    /// The lowest first.
    pub(super) overlays: Vec<usize>,
}

impl Boot {
    pub(super) fn files(&self) -> impl Iterator<Item = usize> {
        [self.kernel, self.initrd, self.base].into_iter().chain(self.overlays.iter().copied())
    }
}

impl Catalogue {
    /// That of a project. `default` is the image to boot when none is named, `append` what is added
    /// to the kernel's command line.
    ///
    /// # Errors
    /// When names are in each other's way, or the default cannot be booted.
    pub fn of(
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
            None => catalogue.only(),
        };
        Ok(catalogue)
    }

    /// As it is, but for machines that reach the server at `url`: through a proxy, say, which has
    /// `https` or a path in front.
    ///
    /// # Errors
    /// When that is no URL.
    pub fn reached_at(mut self, url: &str) -> Result<Self, CatalogueError> {
        let plain = url.strip_suffix('/').unwrap_or(url);
        let rest = plain.strip_prefix("http://").or_else(|| plain.strip_prefix("https://"));
        // No character that iPXE, a kernel's command line or HTML could take for its own.
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
                    "{} is not in the folder of the artifacts: it is not served",
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
        self.images.push(Image {
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

    /// The place of the file at this path.
    fn at(&self, path: &Path) -> Option<usize> {
        self.files.iter().position(|file| file.path == path)
    }

    /// What boots the image at `index`, or why nothing does.
    fn boot(&self, project: &Project, index: usize) -> Result<Boot, String> {
        let images = project.images();
        let member = &images[index];
        let layers = member.image.source.layers().map(|layers| layers.paths()).unwrap_or_default();
        let mut stack = Vec::new();
        for path in &layers {
            match images.iter().position(|image| image.files().contains(path)) {
                Some(layer) => stack.push(layer),
                None => return Err(format!("{} is no image of the project", path.display())),
            }
        }
        stack.push(index);
        let base = &images[stack[0]];
        if base.kind() != "base" {
            return Err(format!("{}, which it is made on, is no base", base.name));
        }
        let initrd = initrd(project, stack[0])?;
        let Source::Initrd { yields, .. } = &images[initrd].image.source else {
            return Err("there is no initrd".to_owned());
        };
        let yielded = |words: &[&str], what: &str| {
            yields
                .iter()
                .find(|one| is_named(one, words))
                .and_then(|one| self.at(&one.output))
                .ok_or_else(|| format!("{} yields no {what}", images[initrd].name))
        };
        let overlays = stack[1..].iter().map(|&layer| {
            let formats = [Format::CpioGz, Format::CpioZst, Format::Cpio];
            self.in_format(&images[layer], &formats).ok_or_else(|| {
                format!("{} has no file that an initrd could unpack", images[layer].name)
            })
        });
        Ok(Boot {
            kernel: yielded(&["vmlinu", "bzimage", "kernel"], "kernel")?,
            initrd: yielded(&["initrd", "initramfs"], "initrd")?,
            base: self
                .in_format(base, &[Format::Squashfs])
                .ok_or_else(|| format!("{} has no squashfs file", base.name))?,
            overlays: overlays.collect::<Result<_, _>>()?,
        })
    }

    /// The first file of an image in one of these formats.
    fn in_format(&self, member: &Member, formats: &[Format]) -> Option<usize> {
        let mut outputs = member.image.outputs.iter();
        outputs.find_map(|(path, format)| self.at(path).filter(|_| formats.contains(format)))
    }

    /// The overlay that can be booted, if it is the only one; or else the base, if it is.
    fn only(&self) -> Option<usize> {
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
            None => Err(no("it is an initrd: name what is to be booted with it".to_owned())),
        }
    }
}

/// Kernel parameters of the user's.
pub(super) fn parameters(append: &str) -> Result<String, CatalogueError> {
    // A second line would be a command of the script.
    match append.chars().any(char::is_control) {
        true => Err(CatalogueError::Append),
        false => Ok(append.trim().to_owned()),
    }
}

/// The name of the file in the folder of the artifacts, if it is in there.
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

/// The initrd image to boot a base with: the one made on it, or else the only one.
fn initrd(project: &Project, base: usize) -> Result<usize, String> {
    let images = project.images();
    let all: Vec<usize> = (0..images.len()).filter(|&i| images[i].kind() == "initrd").collect();
    let on_it = all.iter().find(|&&initrd| images[initrd].needs.first() == Some(&base));
    match (on_it, all.as_slice()) {
        (Some(&initrd), _) | (None, &[initrd]) => Ok(initrd),
        (None, []) => Err("the project has no image of the kind initrd".to_owned()),
        (None, _) => Err(format!("none of the project's initrds is made on {}", images[base].name)),
    }
}

/// Whether what an image yields is called so: as an artifact, or where it is in the root.
fn is_named(one: &Yield, words: &[&str]) -> bool {
    let last = one.pattern.rsplit('/').next().unwrap_or_default();
    let says = |name: &str| words.iter().any(|word| name.to_ascii_lowercase().contains(word));
    says(&one.name) || says(last)
}
