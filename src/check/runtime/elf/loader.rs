//! Searches libraries as ld.so does: ld.so(8), ldconfig(8).
//!
//! The order is: `DT_RPATH` if there is no `DT_RUNPATH`; `DT_RUNPATH`; the directories of
//! /etc/ld.so.conf, which ld.so knows only through its cache; its built-in directories. A library
//! for another machine is skipped.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use fs_model::tree::Follow;
use provisioners::Pattern;

use super::object::{ElfObject, read};
use crate::check::context::resolve;
use crate::image::view::{LookError, StackView, ViewNode, join};

/// Maximum bytes that are read of a configuration file or of the cache.
const MAX_FILE: usize = 16 << 20;
/// Maximum depth of includes in ld.so.conf.
const MAX_INCLUDE_DEPTH: u32 = 8;
/// Maximum missing paths that are cached.
const MAX_MISSING_PATHS: usize = 1 << 16;
/// Maximum configured directories. Each of them is searched for each library.
const MAX_CONFIGURED_DIRS: usize = 1024;

/// The dynamic loader of a root.
pub(super) struct Loader<'a> {
    pub(super) view: &'a StackView,
    /// The directories of ld.so.conf.
    pub(super) configured: Vec<Vec<u8>>,
    /// The paths in ld.so.cache, if it exists.
    cache: Option<BTreeSet<Vec<u8>>>,
    /// Parsed files by path; `None` for files that are not ELF files.
    objects: Mutex<HashMap<Vec<u8>, MaybeObject>>,
    /// Resolved libraries by path.
    libraries: Mutex<HashMap<Vec<u8>, LibraryAt>>,
}

type MaybeObject = Option<Arc<ElfObject>>;
type LibraryAt = Option<(ViewNode, Arc<ElfObject>)>;

/// A library that was found.
#[derive(Clone, Debug)]
pub(super) struct Library {
    pub(super) node: ViewNode,
    pub(super) object: Arc<ElfObject>,
    /// Whether it is in a directory of ld.so.conf but not in the cache: ld.so does not find it.
    pub(super) uncached: bool,
}

/// Result of a search.
pub(super) enum Search {
    Found(Library),
    /// Only a library for another machine was found.
    OtherMachine(ViewNode, Arc<ElfObject>),
    Nowhere,
}

impl<'a> Loader<'a> {
    pub(super) fn open(view: &'a StackView) -> Result<Self, LookError> {
        let mut configured = Vec::new();
        read_configuration(view, b"etc/ld.so.conf", MAX_INCLUDE_DEPTH, &mut configured)?;
        let cache = match resolve(view, b"etc/ld.so.cache")?.filter(ViewNode::is_file) {
            Some(file) => parse_cache(&view.head(&file, MAX_FILE)?),
            None => None,
        };
        let (objects, libraries) = (Mutex::default(), Mutex::default());
        Ok(Loader { view, configured, cache, objects, libraries })
    }

    /// Parses an ELF file; `None` for any other file.
    pub(super) fn object(&self, node: &ViewNode) -> Result<MaybeObject, LookError> {
        let objects = || self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(parsed) = objects().get(&node.path) {
            return Ok(parsed.clone());
        }
        let parsed = match node.is_file() {
            true => read(self.view, node)?.map(Arc::new),
            false => None,
        };
        objects().insert(node.path.clone(), parsed.clone());
        Ok(parsed)
    }

    /// Searches the library `name` that the object at `path` needs; `more` are directories that the
    /// files which load the object add.
    pub(super) fn search(
        &self,
        name: &[u8],
        path: &[u8],
        object: &ElfObject,
        more: &[Vec<u8>],
    ) -> Result<Search, LookError> {
        let mut other = None;
        if name.contains(&b'/') {
            let Some(file) = expand(name, path, object) else { return Ok(Search::Nowhere) };
            return Ok(self.try_at(&file, object, &mut other)?.map_or_else(|| end(other), found));
        }
        let own = if object.runpath.is_empty() { &object.rpath } else { &object.runpath };
        for dir in own {
            let Some(dir) = expand(dir, path, object) else { continue };
            if let Some(library) = self.try_at(&join(&dir, name), object, &mut other)? {
                return Ok(found(library));
            }
        }
        let rpaths: &[Vec<u8>] = if object.runpath.is_empty() { more } else { &[] };
        for dir in rpaths {
            if let Some(library) = self.try_at(&join(dir, name), object, &mut other)? {
                return Ok(found(library));
            }
        }
        let built_in = built_in(object);
        let mut uncached = None;
        for dir in &self.configured {
            if let Some(library) = self.try_at(&join(dir, name), object, &mut other)? {
                if built_in.iter().any(|own| own.as_bytes() == &dir[..])
                    || self.is_cached(dir, name)
                {
                    return Ok(found(library));
                }
                // ld.so skips it and continues.
                uncached.get_or_insert(Library { uncached: true, ..library });
            }
        }
        for dir in built_in {
            if let Some(library) = self.try_at(&join(dir.as_bytes(), name), object, &mut other)? {
                return Ok(found(library));
            }
        }
        Ok(uncached.map_or_else(|| end(other), found))
    }

    /// Returns the possible paths of an object's library or loader; first the path where it is
    /// found.
    pub(super) fn possible_paths(
        &self,
        name: &[u8],
        node: &ViewNode,
        object: &ElfObject,
    ) -> Result<Vec<Vec<u8>>, LookError> {
        if name.contains(&b'/') {
            return Ok(vec![name.to_vec()]);
        }
        let mut paths = Vec::new();
        if let Search::Found(library) = self.search(name, &node.path, object, &[])? {
            let dir = library.node.path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
            paths.push(join(&library.node.path[..dir], name));
            paths.push(library.node.path);
        }
        for dir in own_dirs(&object.rpath, &node.path, object)
            .into_iter()
            .chain(own_dirs(&object.runpath, &node.path, object))
            .chain(self.configured.iter().cloned())
            .chain(built_in(object).iter().map(|dir| dir.as_bytes().to_vec()))
        {
            paths.push(join(&dir, name));
        }
        Ok(paths)
    }

    /// Returns whether ld.so searches the directory of a path.
    pub(super) fn searches_dir_of(&self, path: &[u8], object: &ElfObject) -> bool {
        let at = path.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        let dir = &path[..at];
        let is = |known: &[u8]| known == dir || dir.strip_prefix(b"usr/") == Some(known);
        self.configured.iter().any(|known| is(known))
            || built_in(object).iter().any(|known| is(known.as_bytes()))
    }

    /// Returns the names of libraries that another root's cache lists and this one's lacks.
    pub(super) fn not_cached<'b>(
        &'b self,
        other: &'b Loader<'_>,
    ) -> impl Iterator<Item = &'b [u8]> {
        let lacks = |path: &&Vec<u8>| self.cache.as_ref().is_some_and(|own| !own.contains(*path));
        let paths = other.cache.iter().flatten().filter(lacks);
        paths.filter_map(|path| path.rsplit(|&byte| byte == b'/').next())
    }

    fn is_cached(&self, dir: &[u8], name: &[u8]) -> bool {
        // Without a cache, ldconfig may run at boot.
        self.cache.as_ref().is_none_or(|paths| paths.contains(&join(dir, name)))
    }

    /// Returns the library at a path, following links.
    fn library_at(&self, path: &[u8]) -> Result<LibraryAt, LookError> {
        let libraries = || self.libraries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = libraries().get(path) {
            return Ok(known.clone());
        }
        let found = match resolve(self.view, path)? {
            Some(node) => self.object(&node)?.map(|object| (node, object)),
            None => None,
        };
        let mut libraries = libraries();
        // The image bounds the number of libraries; missing paths need a limit.
        if found.is_some() || path.len() <= 256 && libraries.len() < MAX_MISSING_PATHS {
            libraries.insert(path.to_vec(), found.clone());
        }
        Ok(found)
    }

    fn try_at(
        &self,
        path: &[u8],
        object: &ElfObject,
        other: &mut Option<(ViewNode, Arc<ElfObject>)>,
    ) -> Result<Option<Library>, LookError> {
        let Some((node, found)) = self.library_at(path)? else { return Ok(None) };
        if found.is_compatible(object) {
            return Ok(Some(Library { node, object: found, uncached: false }));
        }
        other.get_or_insert((node, found));
        Ok(None)
    }
}

fn found(library: Library) -> Search {
    Search::Found(library)
}

fn end(other: Option<(ViewNode, Arc<ElfObject>)>) -> Search {
    other.map_or(Search::Nowhere, |(node, object)| Search::OtherMachine(node, object))
}

/// Returns the expanded directories of an object's search path, as paths from the root.
pub(super) fn own_dirs(list: &[Vec<u8>], path: &[u8], object: &ElfObject) -> Vec<Vec<u8>> {
    list.iter().filter_map(|dir| expand(dir, path, object)).collect()
}

/// Expands `$ORIGIN` and `$LIB` in a directory, and returns it as a path from the root; `None` if
/// it is relative to the current directory.
fn expand(dir: &[u8], path: &[u8], object: &ElfObject) -> Option<Vec<u8>> {
    let origin = path.rsplitn(2, |&byte| byte == b'/').nth(1).unwrap_or_default();
    let mut origin_path = vec![b'/'];
    origin_path.extend_from_slice(origin);
    let mut text = dir.to_vec();
    let lib: &[u8] = if object.is_64 { b"lib64" } else { b"lib" };
    for (name, value) in [(&b"ORIGIN"[..], &origin_path[..]), (b"LIB", lib)] {
        for form in [[b"${", name, b"}"].concat(), [b"$", name].concat()] {
            while let Some(at) = text.windows(form.len()).position(|window| window == form) {
                // A value that contains its own name would expand for ever.
                if value.windows(form.len()).any(|window| window == form) || text.len() > 4096 {
                    return None;
                }
                text.splice(at..at + form.len(), value.iter().copied());
            }
        }
    }
    let dir = text.strip_prefix(b"/")?;
    Some(dir.to_vec())
}

/// Returns the built-in directories of the loader, in Debian's and the traditional layout.
fn built_in(object: &ElfObject) -> Vec<String> {
    use ::object::elf::{self, Machine};
    if object.interpreter.as_ref().is_some_and(|path| path.windows(8).any(|w| w == b"/ld-musl")) {
        return ["lib", "usr/local/lib", "usr/lib"].map(str::to_owned).to_vec();
    }
    let triplets: &[&str] = match (Machine(object.machine), object.is_64, object.little) {
        (elf::EM_X86_64, true, _) => &["x86_64-linux-gnu"],
        (elf::EM_X86_64, false, _) => &["x86_64-linux-gnux32"],
        (elf::EM_386, ..) => &["i386-linux-gnu"],
        (elf::EM_AARCH64, ..) => &["aarch64-linux-gnu"],
        (elf::EM_ARM, ..) => &["arm-linux-gnueabihf", "arm-linux-gnueabi"],
        (elf::EM_RISCV, true, _) => &["riscv64-linux-gnu"],
        (elf::EM_PPC64, _, true) => &["powerpc64le-linux-gnu"],
        (elf::EM_PPC64, _, false) => &["powerpc64-linux-gnu"],
        (elf::EM_PPC, ..) => &["powerpc-linux-gnu"],
        (elf::EM_S390, true, _) => &["s390x-linux-gnu"],
        (elf::EM_LOONGARCH, true, _) => &["loongarch64-linux-gnu"],
        (elf::EM_MIPS, true, true) => &["mips64el-linux-gnuabi64"],
        (elf::EM_MIPS, false, true) => &["mipsel-linux-gnu"],
        _ => &[],
    };
    let mut dirs = Vec::new();
    for triplet in triplets {
        dirs.extend([format!("lib/{triplet}"), format!("usr/lib/{triplet}")]);
    }
    let wide: &[&str] = match (Machine(object.machine), object.is_64) {
        (elf::EM_X86_64, false) => &["libx32", "usr/libx32"],
        (_, true) => &["lib64", "usr/lib64"],
        (_, false) => &["lib32", "usr/lib32"],
    };
    dirs.extend(wide.iter().chain(&["lib", "usr/lib"]).map(|dir| (*dir).to_owned()));
    dirs
}

/// Reads the directories of a configuration file and of the files it includes.
fn read_configuration(
    view: &StackView,
    path: &[u8],
    depth: u32,
    dirs: &mut Vec<Vec<u8>>,
) -> Result<(), LookError> {
    let Some(file) = resolve(view, path)?.filter(ViewNode::is_file) else { return Ok(()) };
    if depth == 0 {
        return Ok(());
    }
    let text = view.head(&file, MAX_FILE)?;
    for line in text.split(|&byte| byte == b'\n') {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if let Some(pattern) = line.strip_prefix(b"include") {
            let pattern = String::from_utf8_lossy(pattern.trim_ascii()).into_owned();
            let absolute =
                if pattern.starts_with('/') { pattern } else { format!("/etc/{pattern}") };
            for path in matching(view, &absolute)? {
                read_configuration(view, &path, depth - 1, dirs)?;
            }
        } else if let Some(dir) = line.strip_prefix(b"/") {
            let dir = dir.trim_ascii_end().to_vec();
            if dirs.len() < MAX_CONFIGURED_DIRS && !dirs.contains(&dir) {
                dirs.push(dir);
            }
        }
    }
    Ok(())
}

/// Returns the files that match a pattern with wildcards in its last component.
fn matching(view: &StackView, pattern: &str) -> Result<Vec<Vec<u8>>, LookError> {
    use std::os::unix::ffi::OsStrExt;
    let Ok(glob) = Pattern::parse(pattern) else { return Ok(Vec::new()) };
    let dir = pattern.rsplit_once('/').map_or("", |(dir, _)| dir);
    let Some(dir) = view.find(dir.as_bytes(), Follow::Yes).unwrap_or(None) else {
        return Ok(Vec::new());
    };
    let at = pattern.rsplit_once('/').map_or("", |(dir, _)| dir).trim_matches('/').as_bytes();
    let paths = view.children(&dir)?.into_iter().map(|node| join(at, node.name()));
    let matches =
        |path: &Vec<u8>| glob.matches(std::path::Path::new(std::ffi::OsStr::from_bytes(path)));
    Ok(paths.filter(matches).collect())
}

/// Returns the paths of a cache, from the root, in the format of glibc since 2.2
/// (`sysdeps/generic/dl-cache.h`, `struct cache_file_new`); `None` for another format.
fn parse_cache(bytes: &[u8]) -> Option<BTreeSet<Vec<u8>>> {
    const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    // It may follow a cache in the old format.
    let start = bytes.windows(MAGIC.len()).step_by(4).position(|window| window == MAGIC)? * 4;
    let bytes = &bytes[start..];
    let number = |at: usize| {
        let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(u32::from_le_bytes(bytes) as usize)
    };
    let count = number(MAGIC.len())?;
    let mut paths = BTreeSet::new();
    for entry in bytes.get(HEADER..)?.chunks_exact(ENTRY).take(count) {
        let at = u32::from_le_bytes(entry.get(8..12)?.try_into().ok()?) as usize;
        let rest = bytes.get(at..)?;
        let rest = &rest[..rest.len().min(4096)];
        let path = &rest[..rest.iter().position(|&byte| byte == 0)?];
        paths.insert(path.strip_prefix(b"/").unwrap_or(path).to_vec());
    }
    Some(paths)
}
