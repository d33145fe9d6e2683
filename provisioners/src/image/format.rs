//! Formats of artifacts, and the output files of an image.

use std::path::{Path, PathBuf};

use super::settings::ImageContext;
use super::source::ImageKind;
use super::values::keyword;
use crate::config::error::Mistake;
use crate::config::{Fields, join};

/// The file format of an artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An uncompressed newc archive.
    Cpio,
    /// A newc archive, compressed as a single gzip member.
    CpioGz,
    /// A newc archive, compressed as a single zstd frame.
    CpioZst,
    /// A tar archive.
    Tar,
    /// A squashfs image.
    Squashfs,
}

impl Format {
    /// All formats with their names in configuration files. The names are also file suffixes.
    pub const NAMES: [(&'static str, Self); 5] = [
        ("cpio.gz", Self::CpioGz),
        ("cpio.zst", Self::CpioZst),
        ("cpio", Self::Cpio),
        ("tar", Self::Tar),
        ("squashfs", Self::Squashfs),
    ];

    /// Returns its name in configuration files.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(_, format)| *format == self).map_or("", |(name, _)| name)
    }

    /// Returns the format for the suffix of a file name.
    pub fn from_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        Self::NAMES
            .iter()
            .find(|(suffix, _)| name.strip_suffix(suffix).is_some_and(|stem| stem.ends_with('.')))
            .map(|(_, format)| *format)
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
            let format = keyword(node, &Format::NAMES)?;
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
        (&[format], _) => Ok(vec![(path, format)]),
        ([], Some(format)) => Ok(vec![(path, format)]),
        ([], None) => {
            let suffixes: Vec<String> =
                Format::NAMES.iter().map(|(name, _)| format!(".{name}")).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffix_determines_format() {
        let of = |name| Format::from_path(Path::new(name));
        assert_eq!(of("a/discovery.cpio.gz"), Some(Format::CpioGz));
        assert_eq!(of("discovery.cpio"), Some(Format::Cpio));
        assert_eq!(of("base.squashfs"), Some(Format::Squashfs));
        assert_eq!(of("discovery.gz"), None);
        assert_eq!(of("cpio"), None);
    }
}
