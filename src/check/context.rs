//! The data that passes share: the stack, the layers below the checked ones, and the difference
//! between the two. Each item is computed on first use.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use fs_model::LayerError;
use fs_model::attr::{Attr, FileType};
use fs_model::error::LayerErrorKind;
use fs_model::layer::squashfs::CacheOptions;
use fs_model::layer::{Layer, LayerEntry, LayerIno};
pub(super) use fs_model::resolve::MAX_LINKS;
use fs_model::tree::Follow;
use provisioners::image::manifest_path;

use super::kernel::kernel_version;
use super::validators::Validation;
use super::{CheckError, CheckRequest, Finding, Findings, Lint, PassError, Severity};
use crate::image::diff::compare::contents;
use crate::image::open::{ImageFile, OpenError};
use crate::image::view::accounts::Accounts;
use crate::image::view::packages::{DpkgDatabase, DpkgPackage, PackageOwners};
use crate::image::view::{LayerNode, LookError, MAX_PATH, StackView, ViewNode, Visited, join};
use crate::sandbox::map_image;
use crate::text::digest::{hex, sha256_hex};
use crate::text::escape::{escape, plain};

/// Any pass can detect damage, and the context turns it into this finding, so the lint is defined
/// here. `archive` lists it.
pub(super) static UNREADABLE: Lint = Lint {
    name: "archive/unreadable",
    severity: Severity::Error,
    summary: "the archive cannot be read",
    why: "Nothing of the archive reaches the machine, or only the part before the damage: the \
          kernel and unpackers print a message on the console at best, and the boot continues. \
          Files in a damaged block of a squashfs image fail with \"input/output error\".",
    fix: "copy or build the archive again; supported are newc cpio archives, plain or compressed \
          with gzip or zstd, and tar archives",
};

/// One image of the stack.
pub(super) struct StackImage {
    pub(super) path: PathBuf,
    /// Its name as given by the user.
    pub(super) name: String,
    /// The whole content; `None` for a directory.
    pub(super) bytes: Option<ImageContent>,
    /// The error, if it cannot be opened as a layer.
    pub(super) open_error: Option<LayerError>,
    /// The content of the manifest next to it.
    pub(super) manifest: Option<Vec<u8>>,
    digest: OnceLock<String>,
}

impl StackImage {
    /// Returns the SHA-256 of the whole content in hexadecimal; empty for a directory.
    pub(super) fn digest(&self) -> &str {
        let digest = |bytes: &ImageContent| sha256_hex((**bytes).as_ref());
        self.digest.get_or_init(|| self.bytes.as_ref().map(digest).unwrap_or_default())
    }
}

pub(super) type ImageContent = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// The merged root with and without the checked layers.
pub(super) struct Roots {
    /// All layers.
    pub(super) view: StackView,
    /// The layers below the checked ones; `None` if all layers are checked.
    pub(super) lower: Option<StackView>,
}

/// An entry of the merged root that comes from a checked layer.
pub(super) struct OverlayEntry {
    pub(super) node: ViewNode,
    /// The entry at the same path in the lower layers.
    pub(super) lower: Option<ViewNode>,
}

impl OverlayEntry {
    /// Returns whether the lower entry has the same type, mode and owner.
    pub(super) fn same_attributes(&self) -> bool {
        let attributes = |attr: &Attr| (attr.kind, attr.mode, attr.uid, attr.gid);
        self.lower
            .as_ref()
            .is_some_and(|before| attributes(&before.attr) == attributes(&self.node.attr))
    }

    /// Returns whether it and the lower entry are files with the same content.
    pub(super) fn same_content(&self, Roots { view, lower }: &Roots) -> Result<bool, LookError> {
        match (&self.lower, lower) {
            (Some(before), Some(lower)) => same_content(lower, before, view, &self.node),
            _ => Ok(false),
        }
    }
}

/// The difference between the whole stack and the lower layers.
#[derive(Default)]
pub(super) struct Difference {
    /// In tree order; includes unchanged parent directories, which overlays contain too.
    pub(super) overlaid: Vec<OverlayEntry>,
    /// Entries of the lower layers that are hidden; of a directory only its topmost entry.
    pub(super) removed: Vec<ViewNode>,
}

/// An entry of one layer.
pub(super) struct OwnEntry {
    pub(super) path: Vec<u8>,
    /// `None` for a whiteout.
    pub(super) attr: Option<Attr>,
    /// The entry at the same path in the layers below it.
    pub(super) lower: Option<ViewNode>,
}

pub(super) struct CheckContext<'a> {
    pub(super) request: &'a CheckRequest,
    pub(super) images: Vec<StackImage>,
    names: Vec<String>,
    roots: Result<Roots, String>,
    difference: OnceLock<Result<Difference, LookError>>,
    accounts: OnceLock<Result<Accounts, LookError>>,
    packages: OnceLock<Result<(DpkgDatabase, PackageOwners), LookError>>,
    lower_packages: OnceLock<Result<DpkgDatabase, LookError>>,
    /// What the image's own programs reported, if they ran.
    pub(super) validation: Option<Validation>,
    /// The version of the named kernel: `None` without a named kernel, `Some(None)` if its version
    /// is unknown.
    pub(super) kernel: Option<Option<String>>,
}

impl<'a> CheckContext<'a> {
    pub(super) fn open(request: &'a CheckRequest) -> Result<Self, CheckError> {
        let mut images = Vec::new();
        let mut layers = Vec::new();
        for (index, path) in request.images.iter().enumerate() {
            let checked = index >= request.lower_layers;
            let (image, layer) = open(path, &layers)?;
            match (&image.open_error, layer) {
                (Some(error), _) if !checked || !request.selection.wants(&UNREADABLE) => {
                    return Err(OpenError::Layer(error.clone()).into());
                }
                (_, layer) => layers.extend(layer),
            }
            images.push(image);
        }
        let open_error = images.iter().find_map(|image| image.open_error.as_ref());
        let roots = match open_error {
            Some(error) => Err(error.to_string()),
            None => {
                let view = StackView::new(layers)?;
                let lower = match request.lower_layers {
                    0 => None,
                    count => Some(view.lowest(count)?),
                };
                Ok(Roots { view, lower })
            }
        };
        let names = images.iter().map(|image| image.name.clone()).collect();
        let kernel = request.kernel.as_ref().map(|path| {
            let fail = |source| CheckError::Kernel { path: path.clone(), source };
            map_image(path).map_err(fail).map(|image| kernel_version(&image))
        });
        Ok(CheckContext {
            request,
            images,
            names,
            roots,
            difference: OnceLock::new(),
            accounts: OnceLock::new(),
            packages: OnceLock::new(),
            lower_packages: OnceLock::new(),
            validation: None,
            kernel: kernel.transpose()?,
        })
    }

    /// Returns hints that the request is probably a mistake.
    pub(super) fn hints(&self) -> Result<Vec<String>, LookError> {
        let mut hints = Vec::new();
        if let (Some(None), Some(path)) = (&self.kernel, &self.request.kernel) {
            let path = path.display();
            hints.push(format!("{path} has no kernel version; is it a kernel image?"));
        }
        if let (Ok(Roots { view, .. }), [image]) = (&self.roots, &self.images[..]) {
            let name = &image.name;
            let shell = resolve(view, b"bin/sh").and_then(|shell| match shell {
                None => resolve(view, b"usr/bin/sh"),
                there => Ok(there),
            });
            match shell {
                Ok(Some(_)) => {}
                Ok(None) => hints.push(format!(
                    "{name} is checked as a complete root; name its base first if it is an overlay"
                )),
                // Reported as a finding.
                Err(error) if self.damage(&error).is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(hints)
    }

    /// Returns the finding for damage in a checked layer; `None` for a lower layer, for an I/O
    /// error, and if the lint is disabled.
    pub(super) fn damage(&self, error: &LookError) -> Option<Finding> {
        let LookError::Damaged { path, error: LayerError { image, kind } } = error else {
            return None;
        };
        let layer = self.names.iter().position(|name| **name == **image)?;
        let of_layer = layer >= self.first_checked() && !matches!(kind, LayerErrorKind::Io(_));
        // The text may contain names from the image.
        let message = plain(&kind.to_string()).into_owned();
        (of_layer && self.request.selection.wants(&UNREADABLE))
            .then(|| Finding::new(&UNREADABLE, image, Some(path), message))
    }

    /// Returns the names of the images, the lowest first.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the index of the lowest checked layer.
    pub(super) fn first_checked(&self) -> usize {
        self.request.lower_layers
    }

    /// Returns the checked images, each with its index in the stack.
    pub(super) fn checked(&self) -> impl Iterator<Item = (usize, &StackImage)> {
        self.images.iter().enumerate().skip(self.first_checked())
    }

    /// Returns the name of the image that a node comes from.
    pub(super) fn layer_name(&self, node: &ViewNode) -> &str {
        &self.names[node.layer()]
    }

    /// Returns the names of the checked images, the topmost first.
    pub(super) fn checked_names(&self) -> Vec<String> {
        self.names[self.first_checked()..].iter().rev().cloned().collect()
    }

    /// Returns the checked image that removed or replaced one of these paths; all checked images if
    /// none did.
    pub(super) fn responsible_layers(&self, paths: &[Vec<u8>]) -> Result<Vec<String>, PassError> {
        let Roots { view, lower } = self.roots()?;
        if self.checked().count() > 1 {
            for path in paths {
                let mut real = Vec::new();
                if let Some(lower) = lower {
                    real.extend(link_chain(lower, path)?);
                }
                for path in real.iter().chain([path]) {
                    if let Some(layer) = topmost_changing(view, path, self.first_checked())? {
                        return Ok(vec![self.names[layer].clone()]);
                    }
                }
            }
        }
        Ok(self.checked_names())
    }

    pub(super) fn roots(&self) -> Result<&Roots, PassError> {
        let unreadable =
            |reason: &String| PassError::CannotRun(format!("a layer cannot be read: {reason}"));
        self.roots.as_ref().map_err(unreadable)
    }

    pub(super) fn difference(&self) -> Result<&Difference, PassError> {
        let roots = self.roots()?;
        let difference = self.difference.get_or_init(|| difference(roots, self.first_checked()));
        difference.as_ref().map_err(|error| PassError::Layer(error.clone()))
    }

    /// Returns the users and groups of the merged root.
    pub(super) fn accounts(&self) -> Result<&Accounts, PassError> {
        let view = &self.roots()?.view;
        let accounts = self.accounts.get_or_init(|| Accounts::read(view));
        accounts.as_ref().map_err(|error| PassError::Layer(error.clone()))
    }

    /// Returns the package that contains a path, according to the database of the merged root.
    pub(super) fn owning_package(&self, path: &[u8]) -> Result<Option<&DpkgPackage>, PassError> {
        let view = &self.roots()?.view;
        let read = || {
            let packages = DpkgDatabase::read(view)?;
            let owners = packages.owners(view)?;
            Ok((packages, owners))
        };
        match self.packages.get_or_init(read) {
            Ok((packages, owners)) => Ok(owners.get(path).and_then(|name| packages.get(name))),
            Err(error) => Err(PassError::Layer(error.clone())),
        }
    }

    /// Returns whether the lower layers have the package in the same version.
    pub(super) fn lower_has_package(&self, package: &DpkgPackage) -> Result<bool, PassError> {
        let Some(lower) = &self.roots()?.lower else { return Ok(false) };
        match self.lower_packages.get_or_init(|| DpkgDatabase::read(lower)) {
            Ok(packages) => Ok(packages.iter().any(|(_, other)| {
                let identity = |package: &DpkgPackage| {
                    let DpkgPackage { name, architecture, version, .. } = package;
                    (name.clone(), architecture.clone(), version.clone())
                };
                other.is_installed() && identity(other) == identity(package)
            })),
            Err(error) => Err(PassError::Layer(error.clone())),
        }
    }

    /// Returns whether overcoat built the overlay that a file comes from: it has a manifest.
    pub(super) fn is_built_by_overcoat(&self, file: &ViewNode) -> bool {
        self.images[file.layer()].manifest.is_some()
    }

    /// Returns whether the manifest of a file's overlay records the lower file that is there now:
    /// then the overlay changed the file knowing its content.
    pub(super) fn was_built_over(
        &self,
        file: &ViewNode,
        lower: &StackView,
    ) -> Result<bool, PassError> {
        let Some(manifest) = &self.images[file.layer()].manifest else { return Ok(false) };
        let then = crate::manifest::lower::recorded_lower(manifest).remove(&*escape(&file.path));
        let Some(recorded) = then.and_then(|then| then.sha256) else { return Ok(false) };
        match resolve(lower, &file.path)?.filter(ViewNode::is_file) {
            Some(now) => Ok(hex(&lower.digest(&now)?) == recorded),
            None => Ok(false),
        }
    }

    /// Returns whether a package contains the file unchanged.
    pub(super) fn is_packaged(&self, node: &ViewNode) -> Result<bool, PassError> {
        match self.owning_package(&node.path)? {
            Some(package) => Ok(package.brought(&self.roots()?.view, node)?),
            None => Ok(false),
        }
    }

    /// Adds a finding to review; a note if a package contains the file unchanged: its maintainers
    /// intended it, and the user installed the package.
    pub(super) fn add_unless_packaged(
        &self,
        lint: &'static Lint,
        node: &ViewNode,
        message: String,
        findings: &mut Findings<'_>,
    ) -> Result<(), PassError> {
        let view = &self.roots()?.view;
        let finding =
            |message| Finding::new(lint, self.layer_name(node), Some(&node.path), message);
        findings.push(match self.owning_package(&node.path)? {
            Some(package) if package.brought(view, node)? => {
                let message =
                    format!("{message}; the file is part of the package {}", package.name);
                finding(message).severity(Severity::Note)
            }
            _ => finding(message),
        });
        Ok(())
    }

    /// Returns the entries of the layer with this index, in tree order.
    pub(super) fn own_entries(&self, layer: usize) -> Result<Vec<OwnEntry>, PassError> {
        let view = &self.roots()?.view;
        let lower = match layer {
            0 => None,
            count => {
                Some(view.lowest(count).map_err(|error| PassError::CannotRun(error.to_string()))?)
            }
        };
        Ok(own(&view.stack().layers()[layer], lower.as_ref())?)
    }
}

fn open(
    path: &std::path::Path,
    lower: &[Arc<dyn Layer>],
) -> Result<(StackImage, Option<Arc<dyn Layer>>), OpenError> {
    let (layer, open_error) =
        match crate::image::open::open_on(lower, path, CacheOptions::default()) {
            Ok(layer) => (Some(layer), None),
            Err(OpenError::Layer(error)) => (None, Some(error)),
            // It may be an archive in an unsupported format.
            Err(OpenError::Unknown { .. }) => {
                let image = Arc::from(path.to_string_lossy());
                (None, Some(LayerError::unsupported(&image, "unknown image format")))
            }
            Err(error) => return Err(error),
        };
    let bytes: Option<ImageContent> = match path.is_dir() {
        true => None,
        false => Some(Arc::new(ImageFile::open(path)?)),
    };
    let manifest = match std::fs::read(manifest_path(path)) {
        Ok(manifest) => Some(manifest),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(OpenError::Io { path: manifest_path(path), source: error }),
    };
    let name = path.to_string_lossy().into_owned();
    let digest = OnceLock::new();
    Ok((StackImage { path: path.to_owned(), name, bytes, open_error, manifest, digest }, layer))
}

fn difference(roots: &Roots, first: usize) -> Result<Difference, LookError> {
    let mut difference = Difference::default();
    let root = roots.view.root()?;
    let lower = roots.lower.as_ref();
    let before = lower.map(StackView::root).transpose()?;
    if root.layer() < first {
        return Ok(difference);
    }
    // An explicit stack, so that a deep tree cannot overflow the call stack.
    let mut pending = vec![vec![OverlayEntry { node: root, lower: before }].into_iter()];
    let mut visited = Visited::default();
    while let Some(listing) = pending.last_mut() {
        let Some(entry) = listing.next() else {
            pending.pop();
            continue;
        };
        if entry.node.is_dir() {
            visited.enter(&roots.view, &entry.node)?;
            let mut lower_nodes = match (&entry.lower, lower) {
                (Some(before), Some(lower)) => lower.children(before)?,
                _ => Vec::new(),
            }
            .into_iter()
            .peekable();
            let mut children = Vec::new();
            for node in roots.view.children(&entry.node)? {
                while let Some(gone) = lower_nodes.next_if(|other| other.name() < node.name()) {
                    difference.removed.push(gone);
                }
                let lower = lower_nodes.next_if(|other| other.name() == node.name());
                if node.layer() >= first {
                    children.push(OverlayEntry { node, lower });
                }
            }
            difference.removed.extend(lower_nodes);
            pending.push(children.into_iter());
        }
        difference.overlaid.push(entry);
    }
    Ok(difference)
}

fn own(layer: &Arc<dyn Layer>, lower: Option<&StackView>) -> Result<Vec<OwnEntry>, LookError> {
    let mut all = Vec::new();
    let root =
        OwnEntry { path: Vec::new(), attr: None, lower: lower.map(StackView::root).transpose()? };
    let mut pending = vec![vec![(root, Some(layer.root()))].into_iter()];
    let mut seen = HashSet::new();
    while let Some(listing) = pending.last_mut() {
        let Some((mut own, ino)) = listing.next() else {
            pending.pop();
            continue;
        };
        let damaged = |error| LookError::Damaged { path: own.path.clone().into(), error };
        let attr = ino.map(|ino| layer.attr(ino)).transpose().map_err(damaged)?;
        if let (Some(ino), Some(FileType::Directory)) = (ino, attr.map(|attr| attr.kind)) {
            // Each directory has exactly one path; see `Visited`.
            if layer.dirs_are_unique() && !seen.insert(ino) {
                let image = Arc::from(layer.name());
                let what = "directory is its own ancestor, or has two parents";
                return Err(damaged(LayerError::corrupt(&image, what)));
            }
            if own.path.len() >= MAX_PATH {
                let image = Arc::from(layer.name());
                let what = "directories are nested deeper than the maximum path length";
                let path = own.path[..64].into();
                return Err(LookError::Damaged { path, error: LayerError::corrupt(&image, what) });
            }
            let mut children: Vec<(OwnEntry, Option<LayerIno>)> = Vec::new();
            for entry in layer.read_dir(ino).map_err(damaged)? {
                let under = match (&own.lower, lower) {
                    (Some(under), Some(lower)) => lower.child(under, &entry.name)?,
                    _ => None,
                };
                let ino = match entry.entry {
                    LayerEntry::Object { ino, .. } => Some(ino),
                    LayerEntry::Whiteout => None,
                };
                let path = join(&own.path, &entry.name);
                children.push((OwnEntry { path, attr: None, lower: under }, ino));
            }
            pending.push(children.into_iter());
        }
        own.attr = attr;
        all.push(own);
    }
    Ok(all)
}

/// Maximum bytes that are read of a text file.
const MAX_TEXT_FILE: usize = 16 << 20;

/// Reads a text file; empty if it does not exist.
pub(super) fn read_text(view: &StackView, path: &str) -> Result<String, LookError> {
    let file = resolve(view, path.as_bytes())?.filter(ViewNode::is_file);
    let bytes = file.map(|file| view.head(&file, MAX_TEXT_FILE)).transpose()?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns whether two nodes are files with the same content. Holes are not read.
pub(super) fn same_content(
    old_view: &StackView,
    old: &ViewNode,
    new_view: &StackView,
    new: &ViewNode,
) -> Result<bool, LookError> {
    Ok(old.is_file()
        && new.is_file()
        && old.attr.size == new.attr.size
        && contents(old_view, old, new_view, new)?)
}

/// Resolves a path in a root, following links; `None` if it does not exist or is a link loop.
pub(super) fn resolve(view: &StackView, path: &[u8]) -> Result<Option<ViewNode>, LookError> {
    match view.find(path, Follow::Yes) {
        Err(LookError::Path { .. }) => Ok(None),
        found => found,
    }
}

/// Directories in which a program without a path is searched.
pub(super) const PROGRAM_DIRS: [&str; 6] =
    ["usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin", "sbin", "bin"];

/// Returns the file of a program: at its path, or by its name in [`PROGRAM_DIRS`].
pub(super) fn program(view: &StackView, name: &[u8]) -> Result<Option<ViewNode>, LookError> {
    if name.contains(&b'/') {
        return Ok(resolve(view, name)?.filter(ViewNode::is_file));
    }
    for dir in PROGRAM_DIRS {
        let found = resolve(view, &join(dir.as_bytes(), name))?;
        if let Some(node) = found.filter(ViewNode::is_file) {
            return Ok(Some(node));
        }
    }
    Ok(None)
}

/// Returns the paths on the chain of symbolic links that starts at `path`, each both with resolved
/// parent directories and as the link names it.
fn link_chain(view: &StackView, path: &[u8]) -> Result<Vec<Vec<u8>>, LookError> {
    let mut at = path.to_vec();
    let mut chain = Vec::new();
    for _ in 0..MAX_LINKS {
        let node = match view.find(&at, Follow::No) {
            Err(LookError::Path { .. }) | Ok(None) => break,
            Ok(Some(node)) => node,
            Err(error) => return Err(error),
        };
        chain.push(node.path.clone());
        chain.push(at);
        if !node.is_link() {
            break;
        }
        at = link_target_path(&node.path, &view.link(&node)?);
    }
    Ok(chain)
}

/// Returns the topmost layer, from index `first` on, that has an entry at a path or hides it.
pub(super) fn topmost_changing(
    view: &StackView,
    path: &[u8],
    first: usize,
) -> Result<Option<usize>, LookError> {
    let mut at = path;
    loop {
        let places = view.places(at)?;
        let here = |place: &Option<LayerNode>| match place {
            Some(LayerNode::Object(attr)) => at == path || attr.kind != FileType::Directory,
            Some(LayerNode::Whiteout) => true,
            None => false,
        };
        let found = places.iter().skip(first).rposition(here);
        if found.is_some() {
            return Ok(found.map(|layer| layer + first));
        }
        match at.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => at = &at[..slash],
            None => return Ok(None),
        }
    }
}

/// Returns the target of a link at `path` as a path from the root, without resolving other links.
pub(super) fn link_target_path(path: &[u8], target: &[u8]) -> Vec<u8> {
    let mut names: Vec<&[u8]> = Vec::new();
    if target.first() != Some(&b'/') {
        names.extend(path.split(|&byte| byte == b'/'));
        names.pop();
    }
    for name in target.split(|&byte| byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    names.join(&b'/')
}
