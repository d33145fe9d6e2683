//! What goes into an image, so that one can tell whether it would come out otherwise today.
//!
//! Invariants:
//! - Equal inputs, equal image, as far as this program decides it: what a mirror serves under the
//!   same names is not known before it is fetched, and layers are not part of it but their names:
//!   they are judged by whoever has them.
//! - Each part has a name that a reader understands, and a value: text, or a digest.
//! - What only says how the build goes (proxies, the size of the upper) is not in it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{Image, ImageLocation, Network, Root, Source};
use crate::config::ConfigError;
use crate::folder::Digest;

/// The parts by name.
pub type Inputs = BTreeMap<String, String>;

impl Image {
    /// What goes into it, but the content of its layers.
    ///
    /// # Errors
    /// When a provisioner has a mistake or a file can't be read.
    pub fn inputs(&self) -> Result<Inputs, ConfigError> {
        let mut parts = Inputs::new();
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                parts.insert(name.to_owned(), value);
            }
        };
        self.of_source(&mut add)?;
        let outputs = self
            .outputs
            .iter()
            .map(|(path, format)| format!("{} ({})", self.named(path), format.name()));
        add("outputs", outputs.collect::<Vec<_>>().join(", "));
        add("network", if self.network == Network::None { "none" } else { "" }.to_owned());
        add("source_date_epoch", self.source_date_epoch.map_or(String::new(), |e| e.to_string()));

        let provisioners = self.load_provisioners()?;
        let mut cleanup = crate::cleanup::Settings::default();
        for provisioner in &provisioners {
            cleanup = cleanup.overridden_by(provisioner.cleanup());
        }
        let cleanup = cleanup.overridden_by(&self.cleanup);
        let names: Vec<&str> = cleanup.enabled().map(|step| step.name).collect();
        add("cleanup", names.join(", "));
        let named: Vec<String> = provisioners.iter().map(|p| p.name().to_owned()).collect();
        add("provisioners", named.join(", "));
        for (name, value) in self.variables.iter() {
            add(&format!("variable {name}"), shown(name, value.to_string()));
        }
        for (index, provisioner) in provisioners.iter().enumerate() {
            let name = provisioner.name();
            // `a/common` and `b/common` are two.
            let before = provisioners[..index].iter().filter(|other| other.name() == name).count();
            let name = match before {
                0 => name.to_owned(),
                n => format!("{name} ({})", n + 1),
            };
            for (file, digest) in provisioner.inputs()? {
                add(&format!("{name}: {file}"), digest.to_string());
            }
        }
        Ok(parts)
    }

    /// A path as the file that the image is in would write it.
    fn named(&self, path: &Path) -> String {
        let folder = self.file.parent().unwrap_or(Path::new(""));
        path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
    }

    fn of_source(&self, add: &mut dyn FnMut(&str, String)) -> Result<(), ConfigError> {
        if let Some(layers) = self.source.layers() {
            let names: Vec<String> = layers.paths().iter().map(|path| self.named(path)).collect();
            add("layers", names.join(", "));
        }
        match &self.source {
            Source::Overlay(_) => add("kind", "overlay".to_owned()),
            Source::Initrd { yields, .. } => {
                add("kind", "initrd".to_owned());
                for wanted in yields {
                    add(&format!("yields {}", wanted.name), wanted.pattern.clone());
                    add(&format!("output {}", wanted.name), self.named(&wanted.output));
                }
            }
            Source::Base(Root::From(path)) => {
                if let Some(mistake) =
                    self.missing.clone().filter(|_| !ImageLocation::of(path).file.exists())
                {
                    return Err(mistake.into());
                }
                add("kind", "base".to_owned());
                let digest = digest(&ImageLocation::of(path).file)
                    .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                add(&format!("from {}", self.named(path)), digest.to_string());
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
                    let keys = digest(path)
                        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
                    add("keyring", keys.to_string());
                }
            }
        }
        Ok(())
    }
}

/// A variable's value, or a digest of one that nobody else should read: inputs are kept in files and
/// told in logs.
fn shown(name: &str, value: String) -> String {
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

/// A digest of a file's content, or of all that is in a directory: of its files the sizes and times
/// stand for the content, since there may be a whole root of them.
fn digest(path: &Path) -> io::Result<Digest> {
    let mut sha256 = Sha256::new();
    if fs::metadata(path)?.is_dir() {
        tree(path, &mut sha256)?;
    } else {
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => sha256.update(&buffer[..read]),
            }
        }
    }
    Ok(Digest(sha256.finalize().into()))
}

fn tree(folder: &Path, sha256: &mut Sha256) -> io::Result<()> {
    attributes(&fs::metadata(folder)?, sha256);
    let mut entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let meta = entry.metadata()?;
        sha256.update(entry.file_name().as_bytes());
        sha256.update([0]);
        attributes(&meta, sha256);
        if meta.is_dir() {
            tree(&entry.path(), sha256)?;
            sha256.update([1]);
        } else {
            sha256.update(meta.len().to_le_bytes());
            sha256.update(meta.mtime().to_le_bytes());
            sha256.update(meta.mtime_nsec().to_le_bytes());
        }
    }
    Ok(())
}

/// The attributes of one object. Its time of change is among them: that of extended attributes too.
fn attributes(meta: &fs::Metadata, sha256: &mut Sha256) {
    for number in [u64::from(meta.mode()), u64::from(meta.uid()), u64::from(meta.gid())] {
        sha256.update(number.to_le_bytes());
    }
    sha256.update(meta.rdev().to_le_bytes());
    sha256.update(meta.ctime().to_le_bytes());
    sha256.update(meta.ctime_nsec().to_le_bytes());
}
