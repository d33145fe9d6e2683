//! The packages of a Debian root, from its dpkg database.
//!
//! Sources: deb-control(5) for `/var/lib/dpkg/status`, dpkg-query(1) for the states, and
//! `/var/lib/dpkg/info/NAME[:ARCH].list` for the files of a package. The lists contain the paths of
//! the package (`/bin/ls`), which can differ from those in the root (`/usr/bin/ls`). They are
//! resolved to the latter.
//!
//! A malformed database is not an error, because it does not mean that an image is damaged: invalid
//! parts are ignored.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use fs_model::tree::Follow;
use md5::Digest;

use super::{LookError, StackView, ViewNode, components, join};

/// Maximum bytes read of the `status` file.
const MAX_STATUS_SIZE: usize = 16 << 20;
/// Maximum number of packages and configuration files read from it, because they use more memory
/// than their text. Debian has about 70,000 packages in total.
const MAX_ENTRIES: usize = 1 << 18;
/// Maximum bytes read of a package's `md5sums`: a kernel package has a few thousand files.
const MAX_SUMS_SIZE: usize = 16 << 20;
/// Maximum size, in bytes, of a file whose checksum is verified. Relevant files are programs and
/// configuration files; a small image can contain terabytes of holes.
const MAX_VERIFIED_SIZE: u64 = 64 << 20;
/// Maximum bytes read of all file lists together.
const MAX_LISTS_SIZE: usize = 64 << 20;
/// Maximum bytes of memory for the paths in the lists. A full installation has a million paths.
const MAX_PATHS_MEMORY: usize = 256 << 20;
/// Memory used by a path in addition to its own bytes.
const PATH_OVERHEAD: usize = 96;

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpkgPackage {
    /// The name, such as `lldpd`.
    pub name: String,
    /// The architecture, such as `amd64` or `all`.
    pub architecture: String,
    /// The version, such as `1.0.16-1`.
    pub version: String,
    /// The status, such as `install ok installed` or `deinstall ok config-files`.
    pub status: String,
    /// Its configuration files: the path from the root without a leading slash, and the MD5 of the
    /// packaged content in hexadecimal.
    pub conffiles: Vec<(Vec<u8>, String)>,
}

impl DpkgPackage {
    /// Whether the content of a file is that of the package, according to dpkg's checksums.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn brought(&self, view: &StackView, file: &ViewNode) -> Result<bool, LookError> {
        let mut known: Vec<Vec<u8>> = Vec::new();
        let conffiles = self.conffiles.iter().filter(|(path, _)| is_at(path, &file.path));
        known.extend(conffiles.map(|(_, md5)| md5.clone().into_bytes()));
        if let Some(sums) = self.info(view, "md5sums")?.filter(ViewNode::is_file) {
            // "MD5  usr/bin/tool" per line.
            for line in view.head(&sums, MAX_SUMS_SIZE)?.split(|&byte| byte == b'\n') {
                if let (Some(md5), Some(path)) = (line.get(..32), line.get(34..))
                    && is_at(path, &file.path)
                {
                    known.push(md5.to_vec());
                }
            }
        }
        if known.is_empty() || file.attr.size > MAX_VERIFIED_SIZE {
            return Ok(false);
        }
        let md5 = md5_of(view, file)?;
        Ok(known.iter().any(|known| known == md5.as_bytes()))
    }

    /// Returns the checksums of the package's files, configuration files included.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn checksums(&self, view: &StackView) -> Result<PackageChecksums, LookError> {
        let conffiles = self.conffiles.iter();
        let mut sums: HashMap<Vec<u8>, Vec<u8>> =
            conffiles.map(|(path, md5)| (path.clone(), md5.clone().into_bytes())).collect();
        if let Some(file) = self.info(view, "md5sums")?.filter(ViewNode::is_file) {
            for line in view.head(&file, MAX_SUMS_SIZE)?.split(|&byte| byte == b'\n') {
                if let (Some(md5), Some(path)) = (line.get(..32), line.get(34..)) {
                    sums.insert(path.to_vec(), md5.to_vec());
                }
            }
        }
        Ok(PackageChecksums(sums))
    }

    /// Returns a file of dpkg about the package: its `list`, `md5sums`, `postinst` and so on.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub fn info(&self, view: &StackView, kind: &str) -> Result<Option<ViewNode>, LookError> {
        for stem in [format!("{}:{}", self.name, self.architecture), self.name.clone()] {
            let path = format!("var/lib/dpkg/info/{stem}.{kind}");
            if let Some(file) = view.find_following(path.as_bytes())? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Whether the package is installed.
    pub fn is_installed(&self) -> bool {
        self.status.ends_with(" installed")
    }

    /// Whether only configuration files of the package remain.
    pub fn is_removed(&self) -> bool {
        self.status.ends_with(" config-files")
    }
}

/// The packages of a root by name, or by `name:architecture` for a foreign architecture whose name
/// is taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct DpkgDatabase {
    packages: BTreeMap<String, DpkgPackage>,
}

impl DpkgDatabase {
    /// Reads a root's database; empty if the root has none.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn read(view: &StackView) -> Result<DpkgDatabase, LookError> {
        match view.find_following(b"var/lib/dpkg/status")?.filter(ViewNode::is_file) {
            Some(file) => Ok(DpkgDatabase::parse(&String::from_utf8_lossy(
                &view.head(&file, MAX_STATUS_SIZE)?,
            ))),
            None => Ok(DpkgDatabase::default()),
        }
    }

    /// Parses a `status` file.
    pub(crate) fn parse(text: &str) -> DpkgDatabase {
        let mut packages = BTreeMap::new();
        let mut left = MAX_ENTRIES;
        for paragraph in text.split("\n\n") {
            let Some(package) = parse(paragraph, left) else { continue };
            left = left.saturating_sub(1 + package.conffiles.len());
            if left == 0 {
                break;
            }
            let key = match packages.contains_key(&package.name) {
                false => package.name.clone(),
                true => format!("{}:{}", package.name, package.architecture),
            };
            packages.insert(key, package);
        }
        DpkgDatabase { packages }
    }

    /// Iterates over all packages by name, including removed ones whose configuration files remain.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &DpkgPackage)> {
        self.packages.iter().map(|(name, package)| (name.as_str(), package))
    }

    /// Returns the package with this name.
    pub(crate) fn get(&self, name: &str) -> Option<&DpkgPackage> {
        self.packages.get(name)
    }

    /// Determines the package of each path.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn owners(&self, view: &StackView) -> Result<PackageOwners, LookError> {
        let mut owners = PackageOwners { names: Vec::new(), paths: HashMap::new() };
        // The resolved paths of the directories in the lists.
        let mut real: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
        let (mut text_left, mut memory_left) = (MAX_LISTS_SIZE, MAX_PATHS_MEMORY);
        let Some(info) = view.find_following(b"var/lib/dpkg/info")? else { return Ok(owners) };
        for (key, package) in &self.packages {
            let name = format!("{}.list", package.name);
            let qualified = format!("{}:{}.list", package.name, package.architecture);
            let list = match view.child(&info, qualified.as_bytes())? {
                Some(list) => Some(list),
                None => view.child(&info, name.as_bytes())?,
            };
            let Some(list) = list.filter(ViewNode::is_file) else { continue };
            let number = owners.names.len();
            owners.names.push(key.clone());
            let text = view.head(&list, text_left)?;
            text_left -= text.len();
            for path in text.split(|&byte| byte == b'\n') {
                let mut names = components(path);
                if names.is_empty() {
                    continue;
                }
                let last = names.remove(0);
                let dir = names.iter().rev().fold(Vec::new(), |dir, name| join(&dir, name));
                let mut take = |bytes: usize| {
                    let left = memory_left.checked_sub(bytes + PATH_OVERHEAD);
                    memory_left = left.unwrap_or(0);
                    left.is_some()
                };
                let dir = match real.entry(dir) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        let node = view.find(unknown.key(), Follow::Yes).unwrap_or(None);
                        let found = node.filter(ViewNode::is_dir).map(|node| node.path);
                        if !take(unknown.key().len() + found.as_ref().map_or(0, Vec::len)) {
                            return Ok(owners);
                        }
                        unknown.insert(found)
                    }
                };
                if let Some(dir) = dir {
                    // Of the many owners of a directory, the first by name is kept.
                    if let Entry::Vacant(path) = owners.paths.entry(join(dir, &last)) {
                        if !take(path.key().len()) {
                            return Ok(owners);
                        }
                        path.insert(number);
                    }
                }
            }
        }
        Ok(owners)
    }
}

/// The MD5 sums of a package's files in hexadecimal, by path.
#[derive(Clone, Debug, Default)]
pub(crate) struct PackageChecksums(HashMap<Vec<u8>, Vec<u8>>);

impl PackageChecksums {
    /// Returns whether the content of a file is that of the package; `None` if the package has no
    /// checksum of it, or it is too large.
    ///
    /// # Errors
    /// Fails if a layer is damaged.
    pub(crate) fn matches(
        &self,
        view: &StackView,
        file: &ViewNode,
    ) -> Result<Option<bool>, LookError> {
        let before_merge = file.path.strip_prefix(b"usr/").and_then(|path| self.0.get(path));
        let Some(known) = self.0.get(&file.path).or(before_merge) else { return Ok(None) };
        if file.attr.size > MAX_VERIFIED_SIZE {
            return Ok(None);
        }
        Ok(Some(md5_of(view, file)?.as_bytes() == known))
    }
}

/// Returns the MD5 sum of a file in hexadecimal.
fn md5_of(view: &StackView, file: &ViewNode) -> Result<String, LookError> {
    let mut md5 = md5::Md5::default();
    view.read::<LookError>(file, &mut |bytes| {
        md5.update(bytes);
        Ok(())
    })?;
    Ok(crate::text::digest::hex(&md5.finalize()))
}

/// The owning package of each path.
#[derive(Clone, Debug)]
pub(crate) struct PackageOwners {
    names: Vec<String>,
    paths: HashMap<Vec<u8>, usize>,
}

impl PackageOwners {
    /// Returns the package that owns this path, which must be relative to the root, without a
    /// leading slash and without symbolic links.
    pub(crate) fn get(&self, path: &[u8]) -> Option<&str> {
        self.paths.get(path).map(|&number| self.names[number].as_str())
    }
}

/// Whether a packaged path is equal to `path`, possibly after the /usr merge.
fn is_at(of_package: &[u8], path: &[u8]) -> bool {
    of_package == path || path.strip_prefix(b"usr/") == Some(of_package)
}

fn parse(paragraph: &str, most: usize) -> Option<DpkgPackage> {
    let mut fields: HashMap<&str, &str> = HashMap::new();
    let mut conffiles = Vec::new();
    let mut field = "";
    for line in paragraph.lines() {
        if let Some(more) = line.strip_prefix(' ') {
            // " /etc/file MD5 [obsolete]" per line.
            let mut words = more.split(' ').filter(|word| !word.is_empty());
            if field == "Conffiles"
                && conffiles.len() < most
                && let (Some(path), Some(md5)) = (words.next(), words.next())
            {
                conffiles.push((path.trim_start_matches('/').as_bytes().to_vec(), md5.to_owned()));
            }
        } else if let Some((name, value)) = line.split_once(':') {
            field = name;
            if ["Package", "Architecture", "Version", "Status"].contains(&name) {
                fields.insert(name, value.trim());
            }
        }
    }
    let text = |name: &str| fields.get(name).map(|&value| value.to_owned());
    Some(DpkgPackage {
        name: text("Package").filter(|name| !name.is_empty())?,
        architecture: text("Architecture").unwrap_or_default(),
        version: text("Version").unwrap_or_default(),
        status: text("Status").unwrap_or_default(),
        conffiles,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\n\
        Version: 2.36-9\nConffiles:\n /etc/ld.so.conf.d/x86_64-linux-gnu.conf d4e7a7b88a71b5ff\n\
        Description: C\n Conffiles of others\n /etc/none none\n\nPackage: gone\n\
        Status: deinstall ok config-files\nArchitecture: all\nVersion: 1\n\n\
        Package: libc6\nStatus: install ok installed\nArchitecture: i386\nVersion: 2.36-9\n\n\
        nonsense\n";

    #[test]
    fn packages_are_read_with_their_conffiles_and_states() {
        let packages = DpkgDatabase::parse(STATUS);
        let names: Vec<_> = packages.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["gone", "libc6", "libc6:i386"]);
        let libc = packages.get("libc6").unwrap();
        assert_eq!(libc.version, "2.36-9");
        let conffile = b"etc/ld.so.conf.d/x86_64-linux-gnu.conf".to_vec();
        assert_eq!(libc.conffiles, [(conffile, "d4e7a7b88a71b5ff".to_owned())]);
        assert!(libc.is_installed() && !packages.get("gone").unwrap().is_installed());
    }

    #[test]
    fn number_of_entries_is_bounded() {
        let conffiles = "Package: many\nConffiles:\n".to_owned() + &" /a b\n".repeat(MAX_ENTRIES);
        let packages = DpkgDatabase::parse(&format!("{conffiles}\n{conffiles}"));
        let kept: usize = packages.iter().map(|(_, package)| 1 + package.conffiles.len()).sum();
        assert!(kept <= MAX_ENTRIES + 1, "{kept}");
        let text: String = (0..MAX_ENTRIES + 9).map(|n| format!("Package: {n}\n\n")).collect();
        assert!(DpkgDatabase::parse(&text).iter().count() <= MAX_ENTRIES);
    }

    #[test]
    fn owners_are_found_by_resolved_paths() {
        let dir = tempfile::tempdir().unwrap();
        let info = dir.path().join("var/lib/dpkg/info");
        std::fs::create_dir_all(&info).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        std::fs::write(dir.path().join("usr/lib/libc.so.6"), "").unwrap();
        std::fs::write(info.parent().unwrap().join("status"), STATUS).unwrap();
        std::fs::write(info.join("libc6:amd64.list"), "/.\n/lib\n/lib/libc.so.6\n").unwrap();
        let view = StackView::open(&[dir.path().to_owned()]).unwrap();
        let owners = DpkgDatabase::read(&view).unwrap().owners(&view).unwrap();
        assert_eq!(owners.get(b"usr/lib/libc.so.6"), Some("libc6"));
        assert_eq!(owners.get(b"usr/lib"), None);
    }
}
