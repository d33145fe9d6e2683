//! The archive that a Debian root is installed from: release, mirrors, components and keys.

use std::path::{Path, PathBuf};

use super::values::paths;
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode};

/// The options of a [`Debootstrap`](super::Debootstrap) that a project can set for all images.
#[derive(Debug, Clone, Default)]
pub(crate) struct ArchiveSettings {
    pub(crate) release: Option<String>,
    pub(super) mirrors: Vec<String>,
    pub(super) components: Vec<String>,
    pub(super) architecture: Option<String>,
    pub(super) keyring: Option<PathBuf>,
}

impl ArchiveSettings {
    pub(crate) fn parse(fields: &Fields<'_>, folder: &Path) -> Result<Self, Box<Mistake>> {
        let mut mirrors = words(fields, "mirror", "a URL")?;
        if let Some(node) = fields.get("apt_server") {
            if !mirrors.is_empty() {
                return Err(node.mistake_with_help(
                    "`mirror` and `apt_server` cannot be used together",
                    "`apt_server: HOST` is short for `mirror: http://HOST/debian`",
                ));
            }
            let host = node.text("a host name")?;
            if host.contains('/') {
                return Err(node.mistake_with_help(
                    "expected a host name",
                    "write `apt_server: cache.example.org:3142`, or use `mirror` for a URL",
                ));
            }
            mirrors = vec![format!("http://{host}/debian")];
        }
        Ok(Self {
            release: fields.get("release").map(release).transpose()?,
            mirrors,
            components: words(fields, "components", "a component such as main")?,
            architecture: fields.text("architecture")?,
            keyring: fields.path("keyring", folder)?,
        })
    }
}

/// Reads the name of a release.
pub(super) fn release(node: &YamlNode) -> Result<String, Box<Mistake>> {
    let text = node.text("the name of a release")?;
    // It becomes an argument of mmdebstrap.
    if text.starts_with('-') || text.contains(char::is_whitespace) {
        return Err(node.mistake_with_help("invalid release name", "write `release: bookworm`"));
    }
    Ok(text.to_owned())
}

fn words(fields: &Fields<'_>, name: &'static str, what: &str) -> Result<Vec<String>, Box<Mistake>> {
    let found = paths(fields.get(name), Path::new(""), what)?;
    Ok(found.into_iter().map(|word| word.to_string_lossy().into_owned()).collect())
}
