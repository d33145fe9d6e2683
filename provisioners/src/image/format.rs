//! Formats of artifacts, and the output files of an image.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::settings::ImageContext;
use super::source::ImageKind;
use super::values::keyword;
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode, join};

/// The file format of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// A newc archive, compressed as a single gzip member. The kernel, busybox and all other tools
    /// unpack it.
    CpioGz,
    /// A newc archive, compressed as a single zstd frame.
    CpioZst,
    /// An uncompressed newc archive.
    Cpio,
    /// A tar archive, with deletions as `.wh.` names.
    Tar,
    /// A squashfs image compressed with zstd, with deletions as character devices 0:0.
    Squashfs,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 5] = [Self::CpioGz, Self::CpioZst, Self::Cpio, Self::Tar, Self::Squashfs];

    /// Returns the name that the user writes: the suffix of file names, without the dot.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpioGz => "cpio.gz",
            Self::CpioZst => "cpio.zst",
            Self::Cpio => "cpio",
            Self::Tar => "tar",
            Self::Squashfs => "squashfs",
        }
    }

    /// Returns the format with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }

    /// Returns the format for the suffix of a file name. A name that is only a suffix, such as
    /// `.cpio`, has no format.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.as_bytes();
        Self::ALL.into_iter().find(|format| {
            let stem = name.strip_suffix(format.name().as_bytes());
            stem.is_some_and(|stem| stem.ends_with(b".") && stem.len() > 1)
        })
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the path of an archive's manifest: `NAME.cpio.gz.manifest.json` for `NAME.cpio.gz`.
pub fn manifest_path(archive: &Path) -> PathBuf {
    let mut name = archive.as_os_str().to_owned();
    name.push(".manifest.json");
    name.into()
}

/// Reads the output files of an image, with their formats.
pub(crate) fn outputs(
    fields: &Fields<'_>,
    context: &ImageContext<'_>,
) -> Result<Vec<(PathBuf, Format)>, Box<Mistake>> {
    let kind = ImageKind::parse(fields)?;
    let format_node = fields.get("format");
    if kind == ImageKind::Initrd {
        return match format_node {
            None => Ok(Vec::new()),
            Some(node) => Err(node.mistake_with_help(
                "an initrd image has no format: it yields files",
                "list the files in `yields`",
            )),
        };
    }
    let mut formats = Vec::new();
    if let Some(node) = format_node {
        for node in node.list()? {
            let format = keyword(node, &Format::ALL.map(|format| (format.name(), format)))?;
            if formats.contains(&format) {
                return Err(node.mistake("duplicate format"));
            }
            formats.push(format);
        }
    }
    let folder = context.project.map_or(context.folder, |project| &project.globals.output);
    let suffixed = |stem: &Path, format: Format| {
        let mut path = stem.as_os_str().to_owned();
        path.push(".");
        path.push(format.name());
        (PathBuf::from(path), format)
    };
    let Some(node) = fields.get("output") else {
        let Some(project) = context.project else { return Ok(Vec::new()) };
        if formats.is_empty() {
            formats.push(if kind == ImageKind::Base { Format::Squashfs } else { Format::CpioGz });
        }
        let stem = folder.join(project.name);
        return Ok(formats.into_iter().map(|format| suffixed(&stem, format)).collect());
    };
    let path = join(folder, node.text("the path of a file")?);
    match (formats.as_slice(), Format::from_path(&path)) {
        // A list of one is a list, unless the path already has the suffix of a format.
        (&[format], None) if format_node.is_some_and(YamlNode::is_list) => {
            Ok(vec![suffixed(&path, format)])
        }
        (&[format], _) => Ok(vec![(path, format)]),
        ([], Some(format)) => Ok(vec![(path, format)]),
        ([], None) => {
            let suffixes = Format::ALL.map(|format| format!(".{format}"));
            Err(node.mistake_with_help(
                "the suffix is not that of a format",
                format!("use one of {}, or give a `format`", suffixes.join(", ")),
            ))
        }
        (several, None) => Ok(several.iter().map(|format| suffixed(&path, *format)).collect()),
        (_, Some(format)) => Err(node.mistake_with_help(
            "several formats need a path without suffix",
            format!("leave out `.{}`: each file gets the suffix of its format", format.name()),
        )),
    }
}

/// Returns the artifact that other images are built on and commands read: one in a format of
/// machines, if there is one, because a tar archive is read more slowly.
pub fn preferred_layer(outputs: &[(PathBuf, Format)]) -> Option<&(PathBuf, Format)> {
    outputs.iter().find(|(_, format)| *format != Format::Tar).or(outputs.first())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_determines_format() {
        let of = |name: &str| Format::from_path(Path::new(name));
        assert_eq!(of("a/discovery.cpio.gz"), Some(Format::CpioGz));
        assert_eq!(of("discovery.cpio"), Some(Format::Cpio));
        assert_eq!(of("base.squashfs"), Some(Format::Squashfs));
        assert_eq!(of("discovery.gz"), None);
        assert_eq!(of("cpio"), None);
        assert_eq!(of("a/.cpio.gz"), None);
        for format in Format::ALL {
            assert_eq!(of(&format!("overlay.{format}")), Some(format));
            assert_eq!(Format::from_name(format.name()), Some(format));
        }
        assert_eq!(Format::from_name("zip"), None);
    }
}
