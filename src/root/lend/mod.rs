//! Files that a sandbox lends to a root for the time of a build: name servers, host names,
//! certificates, apt's settings, and the policy that no service starts.
//!
//! Invariants:
//! - The files are lent at the beginning and again before each command, so that a step finds them
//!   regardless of what an earlier step did to a file, its link or its directory.
//! - A change of a lent file by a program is a change of the image's own file
//!   ([`fs_model::tree::Tree::lend`]). The program then sees its change until the next command.
//! - A symbolic link at the path of a lent file stays. The file is lent at its target, which may be
//!   in the sandbox's own `/run`. Programs are lent only where the image has nothing: it would lose
//!   its own lines in a copy that a step edits.
//! - No directory except `/etc` is created for a lent file: a program that creates the directory
//!   would find an existing one and not set its attributes.
//! - The image contains nothing of the host afterwards: lent files are not in a delta, and lent
//!   lines are removed from copies of them ([`Loans::clean_copies`]).

mod compressed;
mod content;
mod copies;
mod host;
mod lent_block;
mod proxy;
mod traces;

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use fs_model::resolve::MAX_LINKS;
use fs_model::tree::Follow;
use fs_model::{FileType, FsError, Ino};

use self::content::LentContent;
pub use self::host::Host;
use self::lent_block::{Cleaned, LINE_END, LentBlock};
use self::traces::Traces;
use crate::root::mounted_tree::{
    CreateAs, Meta, MountedTree, MountedTreeError, MountedTreeErrorKind,
};
use crate::sandbox::{Network, Plan};

/// The host name of an image that does not have one.
pub(crate) const NEUTRAL_HOSTNAME: &str = "overcoat";

/// The directory of scratch entries for files that programs of the image do not search for.
pub(super) const SCRATCH_DIR: &str = "/.overcoat";
/// Maximum length of a host name, in bytes (`HOST_NAME_MAX`).
const MAX_HOSTNAME_BYTES: usize = 64;

/// A lent file.
#[derive(Debug)]
struct LentFile {
    path: &'static str,
    mode: u16,
    lines: LentLines,
    entry: Option<LentEntry>,
    /// The content lent in one of the sandbox's own file systems.
    mounted: Option<(RootState, Vec<u8>)>,
}

/// The lines of a lent file.
#[derive(Debug)]
enum LentLines {
    /// The host's name servers, before those of the image.
    Resolver(Vec<u8>),
    /// The host's settings of apt, which override those of the image.
    Apt(Vec<u8>),
    /// A program that forbids services to start, for an image without one. The sandbox does not
    /// execute the image's own.
    Policy,
    /// A program that reports a container, for an image without `systemd-detect-virt`.
    DetectVirt,
    Hosts,
    /// A bundle of certificates, possibly lent only over a bundle of the image, or only where the
    /// image lacks one.
    Bundle {
        host: Vec<u8>,
        only_existing: bool,
        only_missing: bool,
    },
}

/// The state of the root that the content of lent files depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct RootState {
    hostname: String,
    /// The host's certificates for apt, while the image has no directory for its own bundle.
    bundle: Option<String>,
}

/// A lent file's entry in the tree.
#[derive(Debug, PartialEq, Eq)]
struct LentEntry {
    parent: Ino,
    name: Vec<u8>,
    ino: Ino,
    made_for: RootState,
    /// The content of the image's own file.
    own: Option<Vec<u8>>,
}

/// The host name and the files that the sandbox shows in addition to the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownFiles {
    /// The host name.
    pub hostname: String,
    /// Files in the sandbox's own file systems: absolute paths and content.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

/// The files lent to one root.
#[derive(Debug)]
pub struct Loans {
    files: Vec<LentFile>,
    /// The sandbox's mount points, from the root without a leading slash: they hide the tree.
    mounts: Vec<PathBuf>,
    /// All lines lent so far.
    blocks: Vec<LentBlock>,
    /// Values of the host that should not be in an image.
    traces: Traces,
    /// Warnings about files that programs edited while they were lent.
    edited: Vec<String>,
    /// The certificates of the host, and of the image at the beginning; empty if there are none to
    /// lend.
    certificates: Vec<u8>,
    /// The image's own bundle, if it has one.
    own_bundle: Option<Vec<u8>>,
    /// The path of these certificates in the scratch directory.
    bundle: Option<String>,
    /// The same path while the image has no directory for its own bundle. Programs find the
    /// certificates by variables and settings then.
    bundle_without_place: Option<String>,
    environment: Vec<(String, String)>,
    warnings: Vec<String>,
}

impl Loans {
    /// Collects the files that this host lends to a root of `plan`. Packages are fetched through
    /// `apt_proxy`, if given, instead of the host's proxies.
    ///
    /// # Errors
    /// Fails if a file of the sandbox's own cannot be put into the tree.
    pub fn new(
        mounted_tree: &MountedTree,
        plan: &Plan,
        apt_proxy: Option<&str>,
    ) -> Result<Loans, MountedTreeError> {
        Self::from_host(mounted_tree, plan, Host::current().with_proxy(apt_proxy))
    }

    fn from_host(
        mounted_tree: &MountedTree,
        plan: &Plan,
        mut host: Host,
    ) -> Result<Loans, MountedTreeError> {
        let mut loans = Loans {
            files: Vec::new(),
            mounts: plan.mounts(),
            blocks: Vec::new(),
            traces: Traces::from_host(&host),
            edited: Vec::new(),
            certificates: Vec::new(),
            own_bundle: None,
            bundle: None,
            bundle_without_place: None,
            environment: Vec::new(),
            warnings: Vec::new(),
        };
        loans.add("/usr/sbin/policy-rc.d", 0o755, LentLines::Policy);
        loans.add("/usr/bin/systemd-detect-virt", 0o755, LentLines::DetectVirt);
        loans.add("/etc/hosts", 0o644, LentLines::Hosts);
        if plan.network == Network::Host {
            loans.warnings = host.resolve_proxies(&sources(mounted_tree)?);
            if let Some(resolver) = host.resolver() {
                let lines: String =
                    resolver.lines.iter().map(|line| format!("{line}{LINE_END}")).collect();
                let lines = lines.into_bytes();
                loans.add("/etc/resolv.conf", 0o644, LentLines::Resolver(lines));
                // Packages would record names with a search domain from the file.
                let search = resolver.search.map(|search| ("LOCALDOMAIN".to_owned(), search));
                loans.environment.extend(search);
            }
            loans.lend_certificates(mounted_tree, &host)?;
        }
        // apt reads the settings in this file last (apt.conf(5)).
        let conf = apt_conf(mounted_tree, &host, plan.network)?;
        loans.add("/etc/apt/apt.conf", 0o644, LentLines::Apt(conf));
        Ok(loans)
    }

    fn add(&mut self, path: &'static str, mode: u16, lines: LentLines) {
        self.files.push(LentFile { path, mode, lines, entry: None, mounted: None });
    }

    /// Lends the host's certificates: to all bundles of the image if the host trusts its own
    /// authorities, and always to an image without a bundle.
    fn lend_certificates(
        &mut self,
        mounted_tree: &MountedTree,
        host: &Host,
    ) -> Result<(), MountedTreeError> {
        if let Some(java) = host.java_trust() {
            let path = scratch(mounted_tree, "java-trust-store", &java.store)?;
            self.environment.push((host::JAVA_OPTIONS.to_owned(), java.variable(&path)));
        }
        let Some(certificates) = host.certificates() else { return Ok(()) };
        let [debian, others @ ..] = host::BUNDLES;
        let mut has_other = false;
        for path in others {
            if matches!(mounted_tree.stat(path.as_bytes(), Follow::Yes), Ok(Some(_))) {
                has_other = true;
                if certificates.are_own {
                    let host = certificates.pem.clone();
                    let lines =
                        LentLines::Bundle { host, only_existing: true, only_missing: false };
                    self.add(path, 0o644, lines);
                }
            }
        }
        let lines = LentLines::Bundle {
            host: certificates.pem.clone(),
            only_existing: has_other,
            only_missing: !certificates.are_own,
        };
        self.add(debian, 0o644, lines);
        let named: Vec<&str> =
            host::BUNDLE_VARIABLES.into_iter().filter(|n| host.variable(n).is_some()).collect();
        // One of the image's own bundles is enough: they are all made of one list.
        let mut pem = certificates.pem;
        for path in host::BUNDLES {
            if let Ok(Some(own)) = mounted_tree.read(path.as_bytes()) {
                pem.push(b'\n');
                pem.extend_from_slice(&own);
                self.own_bundle = Some(own);
                break;
            }
        }
        self.certificates = pem;
        if !named.is_empty() {
            let path = self.add_bundle(mounted_tree)?;
            let path = path.unwrap_or_default();
            self.environment.extend(named.into_iter().map(|n| (n.to_owned(), path.clone())));
        }
        Ok(())
    }

    /// Puts the host's certificates into the scratch directory, unless they are there. Returns the
    /// path of the bundle; `None` if the host has none to lend.
    fn add_bundle(
        &mut self,
        mounted_tree: &MountedTree,
    ) -> Result<Option<String>, MountedTreeError> {
        if self.bundle.is_none() && !self.certificates.is_empty() {
            let own = self.own_bundle.as_deref();
            let mut block = LentBlock::new("#", self.blocks.len(), &self.certificates, own);
            // A copy of it becomes a copy of the image's own bundle.
            block.replaced = own.unwrap_or_default().to_vec();
            self.bundle = Some(scratch(mounted_tree, "ca-certificates.crt", &block.shown)?);
            self.blocks.push(block);
        }
        Ok(self.bundle.clone())
    }

    /// Returns variables for the next command in the root.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut environment = self.environment.clone();
        if let Some(bundle) = &self.bundle_without_place {
            let variables = host::BUNDLE_VARIABLES.iter().map(|name| (*name).to_owned());
            environment.extend(variables.map(|name| (name, bundle.clone())));
        }
        environment
    }

    /// Returns warnings for the user, before the first command runs.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Lends the files that are no longer lent, and those that changed.
    ///
    /// # Errors
    /// Fails if a layer cannot be read, or the upper is full.
    pub fn refresh(&mut self, mounted_tree: &MountedTree) -> Result<ShownFiles, MountedTreeError> {
        let hostname = hostname(mounted_tree)?;
        let mut shown = ShownFiles { hostname: hostname.clone(), files: Vec::new() };
        let has_place = is_directory(mounted_tree, host::BUNDLE_DIR.as_bytes())?;
        self.bundle_without_place = if has_place { None } else { self.add_bundle(mounted_tree)? };
        let root = RootState { hostname, bundle: self.bundle_without_place.clone() };
        for file in &mut self.files {
            let path = match file.follow(mounted_tree, &self.mounts)? {
                LentTarget::Tree(path) => path,
                LentTarget::Mount(path) => {
                    let known = file.mounted.take().filter(|(made_for, _)| *made_for == root);
                    let content = match known {
                        Some((_, content)) => content,
                        None => match file.lent(self.blocks.len(), None, &root) {
                            Some(lent) => {
                                self.blocks.push(lent.block);
                                lent.content
                            }
                            None => continue,
                        },
                    };
                    file.mounted = Some((root.clone(), content.clone()));
                    shown.files.push((PathBuf::from(OsString::from_vec(path)), content));
                    continue;
                }
                LentTarget::Nowhere => continue,
            };
            let lent = file.lend(mounted_tree, &path, &self.blocks, &root, &mut self.edited)?;
            self.blocks.extend(lent.map(|lent| lent.block));
        }
        Ok(shown)
    }
}

impl LentFile {
    /// Resolves the path. If it is a link into the host's or the kernel's mounts, or a loop, the
    /// file itself is lent in place of the link.
    fn follow(
        &self,
        mounted_tree: &MountedTree,
        mounts: &[PathBuf],
    ) -> Result<LentTarget, MountedTreeError> {
        let path = self.path.as_bytes();
        let target = match self.lines {
            // The target of the link is another program, such as `true`.
            LentLines::Policy | LentLines::DetectVirt => LentTarget::Nowhere,
            _ => match follow(mounted_tree, path, mounts)? {
                LentTarget::Tree(target) if !has_directory(mounted_tree, &target)? => {
                    LentTarget::Nowhere
                }
                target => target,
            },
        };
        let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        match target {
            LentTarget::Nowhere => Ok(match follow(mounted_tree, &path[..slash], mounts)? {
                LentTarget::Tree(dir) => LentTarget::Tree([&dir, &path[slash..]].concat()),
                target => target,
            }),
            target => Ok(target),
        }
    }

    fn lent(&self, number: usize, own: Option<&[u8]>, root: &RootState) -> Option<LentContent> {
        match &self.lines {
            LentLines::Resolver(lines) => Some(content::prepended(number, lines, own)),
            LentLines::Apt(lines) => {
                let mut lines = lines.clone();
                if let Some(bundle) = &root.bundle {
                    let line = format!("Acquire::https::CaInfo \"{bundle}\";{LINE_END}");
                    lines.extend(line.into_bytes());
                }
                Some(content::appended("//", number, &lines, own))
            }
            LentLines::Policy | LentLines::DetectVirt if own.is_some() => None,
            LentLines::Policy => Some(content::policy(number)),
            LentLines::DetectVirt => Some(content::detect_virt(number)),
            LentLines::Hosts => content::hosts(number, &root.hostname, own),
            LentLines::Bundle { only_existing: true, .. } if own.is_none() => None,
            LentLines::Bundle { only_missing: true, .. } if own.is_some() => None,
            LentLines::Bundle { host, .. } => content::bundle(number, host, own),
        }
    }

    /// Lends the file at `path`, whose directories are not links, unless it is already lent there.
    fn lend(
        &mut self,
        mounted_tree: &MountedTree,
        path: &[u8],
        blocks: &[LentBlock],
        root: &RootState,
        edited: &mut Vec<String>,
    ) -> Result<Option<LentContent>, MountedTreeError> {
        let tree = mounted_tree.tree();
        if let Some(entry) = self.entry.take() {
            let resolved = tree.resolve(path, Follow::No);
            let is_there = resolved.is_ok_and(|found| {
                found.object.is_some_and(|(ino, _)| ino == entry.ino)
                    && found.parent == entry.parent
            });
            if is_there && tree.is_lent(entry.ino) {
                return self.lend_again(mounted_tree, path, blocks, root, entry, edited);
            }
            self.end_loan(mounted_tree, &entry);
        }
        let own = match mounted_tree.stat(path, Follow::No)? {
            None => None,
            Some((_, attr)) if attr.kind == FileType::Regular => mounted_tree.read(path)?,
            // A link that does not lead to a place for a file.
            Some((_, attr)) if attr.kind == FileType::Symlink => match self.lines {
                LentLines::Policy | LentLines::DetectVirt => return Ok(None),
                _ => None,
            },
            Some(_) => return Ok(None),
        };
        let clean = own.as_deref().map(|own| cleaned(path, own, blocks, edited));
        let lent = self.lent(blocks.len(), clean.as_deref(), root);
        let Some(lent) = lent else { return Ok(None) };
        let lent_end = lent.lent_end();
        let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
        let dir = &path[..slash];
        if !has_directory(mounted_tree, path)? {
            match mounted_tree.stat(dir, Follow::No)? {
                None if dir == b"/etc" => {
                    mounted_tree.make_directories(dir, CreateAs::ScratchEntry)?
                }
                _ => return Ok(None),
            }
        }
        let fail = |e: FsError| at(path, e);
        let resolved = tree.resolve(path, Follow::No).map_err(fail)?;
        let (parent, name) = (resolved.parent, resolved.name.clone());
        match tree.lend(parent, &name, self.mode, &lent.content, lent_end) {
            Ok(ino) => {
                mounted_tree.forget_name(parent, &name);
                self.entry = Some(LentEntry { parent, name, ino, made_for: root.clone(), own });
                Ok(Some(lent))
            }
            // Another scratch entry is there, such as the mount point of a bind.
            Err(FsError::Busy) => Ok(None),
            Err(error) => Err(fail(error)),
        }
    }

    /// Updates the content of a file that is still lent. It keeps its inode, because programs may
    /// have it open, or mounted elsewhere.
    fn lend_again(
        &mut self,
        mounted_tree: &MountedTree,
        path: &[u8],
        blocks: &[LentBlock],
        root: &RootState,
        entry: LentEntry,
        edited: &mut Vec<String>,
    ) -> Result<Option<LentContent>, MountedTreeError> {
        let own = mounted_tree.read(path)?;
        if entry.made_for == *root && entry.own == own {
            self.entry = Some(entry);
            return Ok(None);
        }
        let clean = own.as_deref().map(|own| cleaned(path, own, blocks, edited));
        let lent = self.lent(blocks.len(), clean.as_deref(), root);
        let Some(lent) = lent else {
            self.end_loan(mounted_tree, &entry);
            return Ok(None);
        };
        let tree = mounted_tree.tree();
        let again = tree.lend_again(entry.ino, self.mode, &lent.content, lent.lent_end());
        if !again.map_err(|error| at(path, error))? {
            return Ok(None);
        }
        mounted_tree.forget_inode(entry.ino);
        self.entry = Some(LentEntry { made_for: root.clone(), own, ..entry });
        Ok(Some(lent))
    }

    fn end_loan(&self, mounted_tree: &MountedTree, entry: &LentEntry) {
        // The directory may have been removed, and the loan with it.
        if mounted_tree.tree().end_loan(entry.parent, &entry.name, entry.ino).unwrap_or(false) {
            mounted_tree.forget_name(entry.parent, &entry.name);
        }
    }
}

/// Returns the content of the image's own file at `path` without lent lines: a step may have made
/// the lent file the image's own, as `sed -i` does.
fn cleaned(path: &[u8], own: &[u8], blocks: &[LentBlock], edited: &mut Vec<String>) -> Vec<u8> {
    let text = match lent_block::clean(own, blocks) {
        Cleaned::Text(text) => text,
        Cleaned::Edited(text) => {
            edited.push(copies::edited_warning(path.strip_prefix(b"/").unwrap_or(path)));
            text
        }
        Cleaned::Nothing => Vec::new(),
        Cleaned::Untouched | Cleaned::Unclear => own.to_vec(),
    };
    lent_block::without_unmarked(&text, &lent_block::unmarked_lines(blocks)).unwrap_or(text)
}

/// Whether the directory of `path` exists.
fn has_directory(mounted_tree: &MountedTree, path: &[u8]) -> Result<bool, MountedTreeError> {
    let slash = path.iter().rposition(|&b| b == b'/').unwrap_or(0);
    is_directory(mounted_tree, &path[..slash])
}

/// Whether `path` leads to a directory. Links in a loop lead to nothing.
fn is_directory(mounted_tree: &MountedTree, path: &[u8]) -> Result<bool, MountedTreeError> {
    match mounted_tree.stat(path, Follow::Yes) {
        Ok(found) => Ok(found.is_some_and(|(_, attr)| attr.kind == FileType::Directory)),
        Err(MountedTreeError { source: MountedTreeErrorKind::Tree(FsError::Loop), .. }) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

fn at(path: &[u8], error: FsError) -> MountedTreeError {
    MountedTreeError { path: path.to_vec(), source: error.into() }
}

/// The target of a lent file's path.
enum LentTarget {
    /// This path of the tree, without links.
    Tree(Vec<u8>),
    /// This path in a file system that the sandbox mounts.
    Mount(Vec<u8>),
    /// No place for a file: a loop, or a mount of the host's or the kernel's files.
    Nowhere,
}

/// Follows the links in `path`, including one at its end. Names that do not exist are kept.
fn follow(
    mounted_tree: &MountedTree,
    path: &[u8],
    mounts: &[PathBuf],
) -> Result<LentTarget, MountedTreeError> {
    /// The sandbox's own file systems that programs write to.
    const WRITABLE_MOUNTS: [&[u8]; 2] = [b"run", b"tmp"];
    let split = |path: &[u8]| -> Vec<Vec<u8>> {
        let names = path.split(|&b| b == b'/').filter(|n| !n.is_empty() && *n != b".");
        names.rev().map(<[u8]>::to_vec).collect()
    };
    let join = |names: &[Vec<u8>]| -> Vec<u8> {
        names.iter().flat_map(|name| [b"/".as_slice(), name].concat()).collect()
    };
    let mut rest = split(path);
    let mut clean: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = rest.pop() {
        if name == b".." {
            clean.pop();
            continue;
        }
        clean.push(name);
        let here = join(&clean);
        let is_mount = mounts.iter().any(|mount| mount.as_os_str().as_bytes() == &here[1..]);
        if is_mount {
            let is_writable =
                WRITABLE_MOUNTS.iter().any(|own| *own == &here[1..]) && !rest.is_empty();
            let has_parent = rest.iter().any(|name| name == b"..");
            rest.reverse();
            clean.extend(rest);
            return Ok(match is_writable && !has_parent {
                true => LentTarget::Mount(join(&clean)),
                false => LentTarget::Nowhere,
            });
        }
        if let Some((ino, attr)) = mounted_tree.stat(&here, Follow::No)?
            && attr.kind == FileType::Symlink
        {
            links += 1;
            if links > MAX_LINKS {
                return Ok(LentTarget::Nowhere);
            }
            let target = mounted_tree.tree().read_link(ino).map_err(|e| at(&here, e))?;
            clean.pop();
            if target.starts_with(b"/") {
                clean.clear();
            }
            rest.extend(split(&target));
        }
    }
    Ok(LentTarget::Tree(join(&clean)))
}

/// Returns the image's host name: the first valid name in `/etc/hostname`, or a neutral name.
fn hostname(mounted_tree: &MountedTree) -> Result<String, MountedTreeError> {
    let content = mounted_tree.read(b"/etc/hostname")?.unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    let name = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    let is_valid = |name: &&str| {
        name.len() <= MAX_HOSTNAME_BYTES
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
            && !name.starts_with(['.', '-'])
    };
    Ok(name.filter(is_valid).unwrap_or(NEUTRAL_HOSTNAME).to_owned())
}

/// Returns the URLs that the image fetches packages from, by scheme and host, without duplicates.
fn sources(mounted_tree: &MountedTree) -> Result<Vec<String>, MountedTreeError> {
    const FOLDER: &str = "/etc/apt/sources.list.d";
    let mut files = vec!["/etc/apt/sources.list".to_owned()];
    for (name, kind) in mounted_tree.list(FOLDER.as_bytes())? {
        if kind == FileType::Regular {
            files.push(format!("{FOLDER}/{}", String::from_utf8_lossy(&name)));
        }
    }
    let mut urls: Vec<String> = Vec::new();
    for file in files {
        let content = mounted_tree.read(file.as_bytes())?.unwrap_or_default();
        let text = String::from_utf8_lossy(&content);
        let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
        for word in lines.flat_map(str::split_whitespace) {
            let Some((scheme, rest)) = word.split_once("://") else { continue };
            let host = rest.split('/').next().unwrap_or("");
            let url = format!("{scheme}://{host}/");
            if !host.is_empty() && !urls.contains(&url) {
                urls.push(url);
            }
        }
    }
    Ok(urls)
}

/// Returns the settings of apt in the root. Certificates and keys named in the host's settings are
/// put into the scratch directory.
fn apt_conf(
    mounted_tree: &MountedTree,
    host: &Host,
    network: Network,
) -> Result<Vec<u8>, MountedTreeError> {
    let mut lines = vec![
        "// The host's settings for fetching packages.".to_owned(),
        "// Fetch as root: another user may not exist, or not be able to read the files."
            .to_owned(),
        "APT::Sandbox::User \"root\";".to_owned(),
    ];
    for (number, setting) in host.apt_settings().iter().enumerate() {
        let mut setting = setting.clone();
        if setting.names_file() {
            if network == Network::None {
                continue;
            }
            let Some(content) = host.read(&setting.value) else { continue };
            setting.value = scratch(mounted_tree, &format!("apt/{number}.pem"), &content)?;
        }
        lines.push(setting.line());
    }
    Ok(lines.iter().map(|line| format!("{line}{LINE_END}")).collect::<String>().into_bytes())
}

/// Puts a file into the scratch directory and returns its path.
fn scratch(
    mounted_tree: &MountedTree,
    name: &str,
    content: &[u8],
) -> Result<String, MountedTreeError> {
    let path = format!("{SCRATCH_DIR}/{name}");
    let meta = Meta { mode: 0o600, uid: 0, gid: 0, mtime: None };
    let meta = if name.starts_with("apt/") { meta } else { Meta { mode: 0o644, ..meta } };
    mounted_tree.put_file(path.as_bytes(), &mut &*content, &meta, CreateAs::ScratchEntry)?;
    Ok(path)
}
