//! The files that are arguments of validators: those that the checked layers add or change.

use std::collections::{BTreeSet, HashMap};

use super::output::DELETED_DIRS;
use super::program;
use super::table::Arguments;
use crate::check::PassError;
use crate::check::context::{CheckContext, Roots, resolve};
use crate::check::runtime::is_elsewhere;
use crate::image::view::packages::PackageChecksums;
use crate::image::view::{LookError, StackView, ViewNode, join};

/// Directories of the units of the system.
const UNIT_DIRS: [&[u8]; 4] = [
    b"etc/systemd/system/",
    b"usr/local/lib/systemd/system/",
    b"usr/lib/systemd/system/",
    b"lib/systemd/system/",
];
/// The types of units with files.
const UNIT_TYPES: [&[u8]; 9] = [
    b".service",
    b".socket",
    b".timer",
    b".mount",
    b".automount",
    b".swap",
    b".target",
    b".path",
    b".slice",
];
const SHELLS: [&str; 7] = ["sh", "dash", "bash", "ash", "ksh", "mksh", "zsh"];
/// Maximum size of a script.
const MAX_SCRIPT_SIZE: u64 = 1 << 20;
/// Maximum bytes of the arguments of a command.
const MAX_ARGUMENTS: usize = 256 << 10;

/// A regular file that the checked layers add or change.
struct ChangedFile<'a> {
    node: &'a ViewNode,
    /// The package that has the path.
    package: Option<String>,
    /// Whether the content is that of the package, if that has a checksum.
    as_packaged: Option<bool>,
}

/// The files of the checked layers.
pub(super) struct Targets<'a> {
    context: &'a CheckContext<'a>,
    view: &'a StackView,
    files: Vec<ChangedFile<'a>>,
}

impl<'a> Targets<'a> {
    pub(super) fn new(context: &'a CheckContext<'a>) -> Result<Self, PassError> {
        let roots: &Roots = context.roots()?;
        let mut sums: HashMap<String, PackageChecksums> = HashMap::new();
        let mut files = Vec::new();
        for entry in &context.difference()?.overlaid {
            let node = &entry.node;
            if !node.is_file() || entry.same_content(roots)? {
                continue;
            }
            let package = context.owning_package(&node.path)?;
            let as_packaged = match package {
                None => None,
                Some(package) => {
                    let key = format!("{}:{}", package.name, package.architecture);
                    let known = match sums.entry(key) {
                        std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                        std::collections::hash_map::Entry::Vacant(unknown) => {
                            unknown.insert(package.checksums(&roots.view)?)
                        }
                    };
                    known.matches(&roots.view, node)?
                }
            };
            let package = package.map(|package| package.name.clone());
            files.push(ChangedFile { node, package, as_packaged });
        }
        Ok(Targets { context, view: &roots.view, files })
    }

    /// Returns the arguments of a validator; `None` if there is nothing to check.
    pub(super) fn arguments(&self, kind: Arguments) -> Result<Option<Vec<Vec<u8>>>, PassError> {
        let arguments = match kind {
            Arguments::None => return Ok(Some(Vec::new())),
            Arguments::Units => self.units()?,
            Arguments::Kernels => self.kernels(),
            Arguments::Packages => self.packages()?,
            Arguments::ShellFiles => self.shell_files()?,
            Arguments::Scripts(interpreter) => self.scripts(interpreter)?,
            Arguments::Programs => self.programs()?,
            Arguments::FilesIn(dir) => self.files_in(dir),
        };
        let size: usize = arguments.iter().map(|argument| argument.len() + 1).sum();
        if size > MAX_ARGUMENTS {
            let count = arguments.len();
            return Err(PassError::CannotRun(format!("{count} files are too many arguments")));
        }
        Ok((!arguments.is_empty()).then_some(arguments))
    }

    /// Returns the files whose content is not that of a package.
    fn own(&self) -> impl Iterator<Item = &ViewNode> {
        let own = self.files.iter().filter(|file| file.as_packaged != Some(true));
        own.map(|file| file.node)
    }

    fn units(&self) -> Result<Vec<Vec<u8>>, PassError> {
        let mut units = BTreeSet::new();
        for file in &self.files {
            let path = &file.node.path;
            let Some(name) = UNIT_DIRS.iter().find_map(|dir| path.strip_prefix(*dir)) else {
                continue;
            };
            let is_unit = |name: &[u8]| {
                !name.contains(&b'/') && UNIT_TYPES.iter().any(|kind| name.ends_with(kind))
            };
            if is_unit(name) {
                units.insert(absolute(path));
                continue;
            }
            // A drop-in: `cron.service.d/x.conf`.
            let mut parts = name.split(|&byte| byte == b'/');
            let unit = parts.next().and_then(|dir| dir.strip_suffix(b".d"));
            let Some(unit) = unit.filter(|unit| is_unit(unit) && name.ends_with(b".conf")) else {
                continue;
            };
            for dir in UNIT_DIRS {
                let found = resolve(self.view, &join(dir, unit))?;
                if found.is_some_and(|node| node.is_file()) {
                    units.insert(absolute(&[dir, unit].concat()));
                    break;
                }
            }
        }
        Ok(units.into_iter().collect())
    }

    fn kernels(&self) -> Vec<Vec<u8>> {
        let version = |file: &ChangedFile<'_>| {
            let path = &file.node.path;
            let path = path.strip_prefix(b"usr/").unwrap_or(path);
            let mut parts = path.strip_prefix(b"lib/modules/")?.split(|&byte| byte == b'/');
            let version = parts.next()?;
            let is_module = parts.next_back()?.windows(3).any(|part| part == b".ko");
            let is_name = |c: &u8| c.is_ascii_alphanumeric() || b"._+-~".contains(c);
            let is_version = version.first().is_some_and(u8::is_ascii_digit);
            (is_module && is_version && version.iter().all(is_name)).then(|| version.to_vec())
        };
        self.files.iter().filter_map(version).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn packages(&self) -> Result<Vec<Vec<u8>>, PassError> {
        let changed = self.files.iter().filter(|file| file.as_packaged == Some(false));
        let mut packages: BTreeSet<String> =
            changed.filter_map(|file| file.package.clone()).collect();
        for node in &self.context.difference()?.removed {
            let path = absolute(&node.path);
            let is_kept = !DELETED_DIRS.iter().any(|dir| path.starts_with(dir.as_bytes()));
            if !node.is_dir()
                && is_kept
                && let Some(package) = self.context.owning_package(&node.path)?
                && package.is_installed()
            {
                packages.insert(package.name.clone());
            }
        }
        Ok(packages.into_iter().map(String::into_bytes).collect())
    }

    /// Returns the shell files, each after its shell.
    fn shell_files(&self) -> Result<Vec<Vec<u8>>, PassError> {
        let mut files = Vec::new();
        for node in self.own().filter(|node| is_script(node)) {
            let named = self.interpreter(node)?.filter(|(name, _)| SHELLS.contains(&&**name));
            let shell = match (named, sourced_by(&node.path)) {
                (Some((_, path)), _) if node.attr.mode & 0o111 != 0 => path,
                (_, Some(shell)) => match program(self.view, shell)? {
                    Some(path) => path,
                    None => b"/bin/sh".to_vec(),
                },
                _ => continue,
            };
            files.extend([shell, absolute(&node.path)]);
        }
        Ok(files)
    }

    fn scripts(&self, interpreter: &str) -> Result<Vec<Vec<u8>>, PassError> {
        let mut files = Vec::new();
        for node in self.own().filter(|node| is_script(node) && node.attr.mode & 0o111 != 0) {
            let is_wanted = self.interpreter(node)?.is_some_and(|(name, _)| {
                let version = name.strip_prefix(interpreter);
                version.is_some_and(|v| v.chars().all(|c| c.is_ascii_digit() || c == '.'))
            });
            if is_wanted {
                files.push(absolute(&node.path));
            }
        }
        Ok(files)
    }

    fn programs(&self) -> Result<Vec<Vec<u8>>, PassError> {
        let mut files = Vec::new();
        for file in self.files.iter().filter(|file| file.package.is_none()) {
            let node = file.node;
            let is_library = node.name().windows(3).any(|part| part == b".so");
            if node.attr.mode & 0o111 != 0
                && !is_library
                && !is_elsewhere(&node.path)
                && self.view.head(node, 4)? == b"\x7fELF"
            {
                files.push(absolute(&node.path));
            }
        }
        Ok(files)
    }

    fn files_in(&self, dir: &str) -> Vec<Vec<u8>> {
        let is_in = |node: &&ViewNode| {
            let name = node.path.strip_prefix(dir.as_bytes());
            let name = name.and_then(|name| name.strip_prefix(b"/"));
            name.is_some_and(|name| !name.contains(&b'/') && !name.starts_with(b"."))
        };
        self.own().filter(is_in).map(|node| absolute(&node.path)).collect()
    }

    /// Returns the name and the absolute path of the interpreter in the first line of a file.
    fn interpreter(&self, node: &ViewNode) -> Result<Option<(String, Vec<u8>)>, LookError> {
        let head = self.view.head(node, 256)?;
        let Some(line) = head.strip_prefix(b"#!") else { return Ok(None) };
        let line = line.split(|&byte| byte == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        let mut words = line.split_whitespace();
        let Some(path) = words.next().filter(|path| path.starts_with('/')) else {
            return Ok(None);
        };
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        if name(path) != "env" {
            return Ok(Some((name(path), path.as_bytes().to_vec())));
        }
        let mut words = words.skip_while(|word| word.starts_with('-') || word.contains('='));
        let Some(word) = words.next() else { return Ok(None) };
        Ok(program(self.view, word)?.map(|path| (name(word), path)))
    }
}

fn absolute(path: &[u8]) -> Vec<u8> {
    [b"/", path].concat()
}

/// Returns whether a file may be a script that is run.
fn is_script(node: &ViewNode) -> bool {
    const DATA: [&[u8]; 4] = [b"usr/share/doc/", b"usr/src/", b"var/lib/dpkg/", b"usr/share/man/"];
    let is_data = DATA.iter().any(|dir| node.path.starts_with(dir)) || is_elsewhere(&node.path);
    !is_data && (2..=MAX_SCRIPT_SIZE).contains(&node.attr.size)
}

/// Returns the shell that reads a file which is not executed. The shell of users is bash, as a
/// rule.
fn sourced_by(path: &[u8]) -> Option<&'static str> {
    let (dir, name) = match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    match (dir, name) {
        (b"etc", b"profile" | b"bash.bashrc") => Some("bash"),
        (b"etc/profile.d", name) if name.ends_with(b".sh") => Some("bash"),
        (b"root" | b"etc/skel", b".profile" | b".bashrc" | b".bash_profile") => Some("bash"),
        (b"etc/default", name) if !name.contains(&b'.') => Some("sh"),
        _ => None,
    }
}
