//! The packages of a Debian root, as its dpkg database has them.
//!
//! Sources: deb-control(5) for `/var/lib/dpkg/status`, dpkg-query(1) for the states, and
//! `/var/lib/dpkg/info/NAME[:ARCH].list` for the files of a package. Those lists name paths as the
//! package has them (`/bin/ls`), also where the root has them elsewhere (`/usr/bin/ls`): here they
//! are found where they are.
//!
//! A database that makes no sense is no error: what cannot be understood is not there. It says
//! nothing about the images.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use fs_model::tree::Follow;
use md5::Digest;

use super::{LookError, Node, View, components, join};

/// The most of a `status` file that is read.
const STATUS_MOST: usize = 16 << 20;
/// How many packages and configuration files are read of it: what each takes in memory is more than
/// it takes there. Debian has some 70,000 packages in all.
const ENTRIES_MOST: usize = 1 << 18;
/// The most bytes of the sums of one package: a kernel has some thousand files.
const SUMS_MOST: usize = 16 << 20;
/// The largest file that is held against its sum, in bytes. Those of interest are programs and
/// configuration files; a small image can have files that are terabytes of holes.
const BROUGHT_MOST: u64 = 64 << 20;
/// The most bytes of all lists of files together.
const LISTS_MOST: usize = 64 << 20;
/// The most bytes of memory for the paths in them. A machine with everything on it has a million.
const PATHS_MOST: usize = 256 << 20;
/// What a path takes in memory beside its own bytes.
const PATH_COST: usize = 96;

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// `lldpd`.
    pub name: String,
    /// `amd64`, `all`.
    pub architecture: String,
    /// `1.0.16-1`.
    pub version: String,
    /// `install ok installed`, `deinstall ok config-files`, and so on.
    pub status: String,
    /// Its configuration files: path from the root without a leading slash, and the MD5 of what the
    /// package brought, in hexadecimal digits.
    pub conffiles: Vec<(Vec<u8>, String)>,
}

impl Package {
    /// Whether a file is just what the package brought: by the sums that dpkg keeps of it.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn brought(&self, view: &View, file: &Node) -> Result<bool, LookError> {
        let mut known: Vec<Vec<u8>> = Vec::new();
        let conffiles = self.conffiles.iter().filter(|(path, _)| is_at(path, &file.path));
        known.extend(conffiles.map(|(_, md5)| md5.clone().into_bytes()));
        if let Some(sums) = self.info(view, "md5sums")?.filter(Node::is_file) {
            // "MD5  usr/bin/tool"
            for line in view.head(&sums, SUMS_MOST)?.split(|&byte| byte == b'\n') {
                if let (Some(md5), Some(path)) = (line.get(..32), line.get(34..))
                    && is_at(path, &file.path)
                {
                    known.push(md5.to_vec());
                }
            }
        }
        if known.is_empty() || file.attr.size > BROUGHT_MOST {
            return Ok(false);
        }
        let mut md5 = md5::Md5::default();
        view.read::<LookError>(file, &mut |bytes| {
            md5.update(bytes);
            Ok(())
        })?;
        let md5 = crate::seal::manifest::hex(&md5.finalize());
        Ok(known.iter().any(|known| known == md5.as_bytes()))
    }

    /// A file of dpkg's on it: its `list`, `md5sums`, `postinst` and so on.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn info(&self, view: &View, kind: &str) -> Result<Option<Node>, LookError> {
        for stem in [format!("{}:{}", self.name, self.architecture), self.name.clone()] {
            let path = format!("var/lib/dpkg/info/{stem}.{kind}");
            if let Some(file) = view.sought(path.as_bytes())? {
                return Ok(Some(file));
            }
        }
        Ok(None)
    }

    /// Whether its files are there.
    pub fn is_installed(&self) -> bool {
        self.status.ends_with(" installed")
    }

    /// Whether nothing is left of it but configuration files.
    pub fn is_removed(&self) -> bool {
        self.status.ends_with(" config-files")
    }
}

/// The packages of a root by name; `name:architecture` for those of another architecture than
/// dpkg's own where the name alone is taken.
#[derive(Clone, Debug, Default)]
pub struct Packages {
    packages: BTreeMap<String, Package>,
}

impl Packages {
    /// Reads a root's database; none where the root has none.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn read(view: &View) -> Result<Packages, LookError> {
        match view.sought(b"var/lib/dpkg/status")?.filter(Node::is_file) {
            Some(file) => {
                Ok(Packages::parse(&String::from_utf8_lossy(&view.head(&file, STATUS_MOST)?)))
            }
            None => Ok(Packages::default()),
        }
    }

    /// The packages of a `status` file.
    pub fn parse(text: &str) -> Packages {
        let mut packages = BTreeMap::new();
        let mut left = ENTRIES_MOST;
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
        Packages { packages }
    }

    /// All of them, also those of which only configuration files are left, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Package)> {
        self.packages.iter().map(|(name, package)| (name.as_str(), package))
    }

    /// The package of this name.
    pub fn get(&self, name: &str) -> Option<&Package> {
        self.packages.get(name)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.packages.is_empty()
    }

    /// Which package each path belongs to.
    ///
    /// # Errors
    /// A damaged layer.
    pub fn owners(&self, view: &View) -> Result<Owners, LookError> {
        let mut owners = Owners { names: Vec::new(), paths: HashMap::new() };
        // What the directories of the lists are in this root, without links.
        let mut real: HashMap<Vec<u8>, Option<Vec<u8>>> = HashMap::new();
        let (mut text_left, mut memory_left) = (LISTS_MOST, PATHS_MOST);
        let Some(info) = view.sought(b"var/lib/dpkg/info")? else { return Ok(owners) };
        for (key, package) in &self.packages {
            let name = format!("{}.list", package.name);
            let qualified = format!("{}:{}.list", package.name, package.architecture);
            let list = match view.child(&info, qualified.as_bytes())? {
                Some(list) => Some(list),
                None => view.child(&info, name.as_bytes())?,
            };
            let Some(list) = list.filter(Node::is_file) else { continue };
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
                    let left = memory_left.checked_sub(bytes + PATH_COST);
                    memory_left = left.unwrap_or(0);
                    left.is_some()
                };
                let dir = match real.entry(dir) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(unknown) => {
                        let node = view.find(unknown.key(), Follow::Yes).unwrap_or(None);
                        let found = node.filter(Node::is_dir).map(|node| node.path);
                        if !take(unknown.key().len() + found.as_ref().map_or(0, Vec::len)) {
                            return Ok(owners);
                        }
                        unknown.insert(found)
                    }
                };
                if let Some(dir) = dir {
                    // A directory has many owners: the first one by name.
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

/// Which package a path belongs to.
#[derive(Clone, Debug)]
pub struct Owners {
    names: Vec<String>,
    paths: HashMap<Vec<u8>, usize>,
}

impl Owners {
    /// The package that brought this path (from the root, without a leading slash, and without
    /// symbolic links on its way).
    pub fn of(&self, path: &[u8]) -> Option<&str> {
        self.paths.get(path).map(|&number| self.names[number].as_str())
    }
}

/// Whether a package's path is that of a root with merged /usr, or the same.
fn is_at(of_package: &[u8], path: &[u8]) -> bool {
    of_package == path || path.strip_prefix(b"usr/") == Some(of_package)
}

fn parse(paragraph: &str, most: usize) -> Option<Package> {
    let mut fields: HashMap<&str, &str> = HashMap::new();
    let mut conffiles = Vec::new();
    let mut field = "";
    for line in paragraph.lines() {
        if let Some(more) = line.strip_prefix(' ') {
            // " /etc/file MD5 [obsolete]"
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
    Some(Package {
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
        let packages = Packages::parse(STATUS);
        let names: Vec<_> = packages.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["gone", "libc6", "libc6:i386"]);
        let libc = packages.get("libc6").unwrap();
        assert_eq!(libc.version, "2.36-9");
        let conffile = b"etc/ld.so.conf.d/x86_64-linux-gnu.conf".to_vec();
        assert_eq!(libc.conffiles, [(conffile, "d4e7a7b88a71b5ff".to_owned())]);
        assert!(libc.is_installed() && !packages.get("gone").unwrap().is_installed());
    }

    #[test]
    fn more_than_any_system_has_is_not_kept() {
        let conffiles = "Package: many\nConffiles:\n".to_owned() + &" /a b\n".repeat(ENTRIES_MOST);
        let packages = Packages::parse(&format!("{conffiles}\n{conffiles}"));
        let kept: usize = packages.iter().map(|(_, package)| 1 + package.conffiles.len()).sum();
        assert!(kept <= ENTRIES_MOST + 1, "{kept}");
        let text: String = (0..ENTRIES_MOST + 9).map(|n| format!("Package: {n}\n\n")).collect();
        assert!(Packages::parse(&text).iter().count() <= ENTRIES_MOST);
    }

    #[test]
    fn files_belong_to_packages_where_the_root_has_them() {
        let dir = tempfile::tempdir().unwrap();
        let info = dir.path().join("var/lib/dpkg/info");
        std::fs::create_dir_all(&info).unwrap();
        std::fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", dir.path().join("lib")).unwrap();
        std::fs::write(dir.path().join("usr/lib/libc.so.6"), "").unwrap();
        std::fs::write(info.parent().unwrap().join("status"), STATUS).unwrap();
        std::fs::write(info.join("libc6:amd64.list"), "/.\n/lib\n/lib/libc.so.6\n").unwrap();
        let view = View::open(&[dir.path().to_owned()]).unwrap();
        let owners = Packages::read(&view).unwrap().owners(&view).unwrap();
        assert_eq!(owners.of(b"usr/lib/libc.so.6"), Some("libc6"));
        assert_eq!(owners.of(b"usr/lib"), None);
    }
}
