//! The inputs of an image, which determine whether it is out of date.
//!
//! Invariants:
//! - Equal inputs give an equal image, except for two things that the inputs do not contain: what
//!   a mirror serves under the same names, which is only known after a download, and the content of
//!   layers, which the caller compares. The names of layers are inputs.
//! - A variable is an input if a provisioner declares it or an Ansible role can use it.
//! - Each input has a name that a user understands, and a value: text or a digest.
//! - Settings that do not change the result (proxies, the size of the upper) are not inputs.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::{Image, ImageLocation, Network, Root, Source};
use crate::cleanup::CleanupSettings;
use crate::config::ConfigError;
use crate::folder::Digest;
use crate::variables::Variable;

/// Values of inputs by name.
pub type Inputs = BTreeMap<String, String>;

impl Image {
    /// Returns the inputs, except for the content of layers.
    ///
    /// # Errors
    ///
    /// Fails if a provisioner has a mistake or a file cannot be read.
    pub fn inputs(&self) -> Result<Inputs, ConfigError> {
        let mut parts = Inputs::new();
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                parts.insert(name.to_owned(), value);
            }
        };
        self.add_source(&mut add)?;
        let outputs = self
            .outputs
            .iter()
            .map(|(path, format)| format!("{} ({})", self.relative(path), format.name()));
        add("outputs", outputs.collect::<Vec<_>>().join(", "));
        add("network", if self.network == Network::None { "none" } else { "" }.to_owned());
        add("source_date_epoch", self.source_date_epoch.map_or(String::new(), |e| e.to_string()));

        let provisioners = self.load_provisioners()?;
        let mut cleanup = CleanupSettings::default();
        for provisioner in &provisioners {
            cleanup = cleanup.overridden_by(provisioner.cleanup());
        }
        let cleanup = cleanup.overridden_by(&self.cleanup);
        let names: Vec<&str> = cleanup.enabled().map(|step| step.name).collect();
        add("cleanup", names.join(", "));
        let named: Vec<String> = provisioners.iter().map(|p| p.name().to_owned()).collect();
        add("provisioners", named.join(", "));
        let variables: Vec<(&str, String)> =
            self.variables.iter().map(|(name, value)| (name, value.to_string())).collect();
        let declares = |name: &str| provisioners.iter().any(|p| p.variables().get(name).is_some());
        let mut used: BTreeSet<&str> =
            variables.iter().map(|(name, _)| *name).filter(|name| declares(name)).collect();
        for (index, provisioner) in provisioners.iter().enumerate() {
            let name = provisioner.name();
            // Provisioners of different directories may have the same name: `a/common`, `b/common`.
            let before = provisioners[..index].iter().filter(|other| other.name() == name).count();
            let name = match before {
                0 => name.to_owned(),
                n => format!("{name} ({})", n + 1),
            };
            let (files, names) = provisioner.inputs_and_names()?;
            for (file, digest) in files {
                add(&format!("{name}: {file}"), digest.to_string());
            }
            let Some(names) = names else { continue };
            let of_role = names.used(&variables);
            let mut values = Vec::new();
            for (_, value) in self.variables.iter().filter(|(name, _)| of_role.contains(name)) {
                add_texts(value, &mut values);
            }
            for (file, digest) in provisioner.inputs_of_values(&values)? {
                add(&format!("{name}: {file}"), digest.to_string());
            }
            used.extend(of_role);
        }
        for (name, value) in variables.into_iter().filter(|(name, _)| used.contains(name)) {
            add(&format!("variable {name}"), without_secret(name, value));
        }
        Ok(parts)
    }

    /// Returns a path relative to the directory of the image file, if the path is below that
    /// directory.
    fn relative(&self, path: &Path) -> String {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn add_source(&self, add: &mut dyn FnMut(&str, String)) -> Result<(), ConfigError> {
        if let Some(layers) = self.source.layers() {
            let names: Vec<String> =
                layers.paths().iter().map(|path| self.relative(path)).collect();
            add("layers", names.join(", "));
        }
        match &self.source {
            Source::Overlay(_) => add("kind", "overlay".to_owned()),
            Source::Initrd { yields, .. } => {
                add("kind", "initrd".to_owned());
                for wanted in yields {
                    add(&format!("yields {}", wanted.name), wanted.pattern.clone());
                    add(&format!("output {}", wanted.name), self.relative(&wanted.output));
                }
            }
            Source::Base(Root::From(path)) => {
                if let Some(mistake) =
                    self.missing.clone().filter(|_| !ImageLocation::of(path).file.exists())
                {
                    return Err(mistake.into());
                }
                add("kind", "base".to_owned());
                let file = ImageLocation::of(path).file;
                let digest = digest(&file, &self.output_places_below(&file))
                    .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                add(&format!("from {}", self.relative(path)), digest.to_string());
            }
            Source::Base(Root::Debian(debian)) => {
                add("kind", "base".to_owned());
                add("release", debian.release.clone());
                add("mirror", debian.mirrors.join(", "));
                add("variant", debian.variant.clone());
                add("components", debian.components.join(", "));
                add("architecture", debian.architecture.clone().unwrap_or_default());
                add("packages", debian.packages.join(", "));
                if let Some(path) = &debian.keyring {
                    let keys = digest(path, &[])
                        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                    add("keyring", keys.to_string());
                }
            }
        }
        Ok(())
    }
}

/// Adds all texts in a value.
fn add_texts(value: &Variable, texts: &mut Vec<String>) {
    match value {
        Variable::Text(text) => texts.push(text.clone()),
        Variable::List(values) => values.iter().for_each(|value| add_texts(value, texts)),
        Variable::Map(values) => values.values().for_each(|value| add_texts(value, texts)),
        _ => {}
    }
}

/// Returns the value of a variable, or its digest if it may be a secret: inputs are written to
/// files and logs.
fn without_secret(name: &str, value: String) -> String {
    let name = name.to_ascii_lowercase();
    let by_name = ["password", "passphrase", "secret", "token", "private"];
    let in_url = value
        .split("://")
        .skip(1)
        .any(|rest| rest.split(['/', '"', ' ']).next().is_some_and(|host| host.contains('@')));
    if in_url || by_name.iter().any(|word| name.contains(word)) {
        return Digest(Sha256::digest(&value).into()).to_string();
    }
    value
}

/// Returns a digest of a file's content, or of all objects in a directory. Files in a directory are
/// represented by size and times, since reading the content of a whole root takes long. The paths
/// `except` below a directory are left out.
fn digest(path: &Path, except: &[PathBuf]) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    if fs::metadata(path)?.is_dir() {
        let except: Vec<PathBuf> = except.iter().map(|below| path.join(below)).collect();
        hash_tree(path, &except, &mut sha256)?;
    } else {
        // A buffer of this size instead of `copy`'s own: the file can be a whole image.
        let mut file = io::BufReader::with_capacity(1 << 20, fs::File::open(path)?);
        io::copy(&mut file, &mut sha256)?;
    }
    Ok(Digest(sha256.finalize().into()))
}

fn hash_tree(folder: &Path, except: &[PathBuf], sha256: &mut Sha256) -> io::Result<()> {
    let hash = |path: &Path, meta: &fs::Metadata, sha256: &mut Sha256| {
        hash_attributes(meta, sha256);
        // Results that appear in a directory change its change time.
        if !except.iter().any(|except| except.parent() == Some(path)) {
            hash_change_time(meta, sha256);
        }
    };
    hash(folder, &fs::metadata(folder)?, sha256);
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.retain(|entry| !except.contains(&entry.path()));
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata()?;
        sha256.update(entry.file_name().as_bytes());
        sha256.update([0]);
        hash(&entry.path(), &meta, sha256);
        if meta.is_dir() {
            hash_tree(&entry.path(), except, sha256)?;
            sha256.update([1]);
        } else {
            sha256.update(meta.len().to_le_bytes());
            sha256.update(meta.mtime().to_le_bytes());
            sha256.update(meta.mtime_nsec().to_le_bytes());
        }
    }
    Ok(())
}

/// Hashes the attributes of one object.
fn hash_attributes(meta: &fs::Metadata, sha256: &mut Sha256) {
    for number in [u64::from(meta.mode()), u64::from(meta.uid()), u64::from(meta.gid())] {
        sha256.update(number.to_le_bytes());
    }
    sha256.update(meta.rdev().to_le_bytes());
}

/// Hashes the change time of one object, which represents its extended attributes.
fn hash_change_time(meta: &fs::Metadata, sha256: &mut Sha256) {
    sha256.update(meta.ctime().to_le_bytes());
    sha256.update(meta.ctime_nsec().to_le_bytes());
}
