//! Settings that images and projects have in common, and the context that an image is read in.

use std::path::{Path, PathBuf};

use super::archive::ArchiveSettings;
use super::check::CheckSettings;
use super::values::{epoch, keep, keyword, proxy, size};
use crate::cleanup::CleanupSettings;
use crate::config::error::Mistake;
use crate::config::{Fields, YamlNode};

/// The file that an image is read from: its own, or a project file.
pub(crate) struct ImageContext<'a> {
    /// The directory that paths are relative to.
    pub(crate) folder: &'a Path,
    /// Returns the file of the layer named by a node.
    pub(crate) layer: &'a dyn Fn(&YamlNode) -> Result<PathBuf, Box<Mistake>>,
    /// The project that the image is part of.
    pub(crate) project: Option<ProjectContext<'a>>,
}

/// The name of an image in a project, and the settings of the project.
#[derive(Clone, Copy)]
pub(crate) struct ProjectContext<'a> {
    pub(crate) name: &'a str,
    pub(crate) globals: &'a ProjectSettings,
}

/// Network access of commands during a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The host's network.
    #[default]
    Host,
    /// No network.
    None,
}

/// The settings that an image and a project have in common.
#[derive(Debug, Clone, Default)]
pub(crate) struct CommonSettings {
    pub(super) network: Option<Network>,
    pub(super) apt_proxy: Option<String>,
    pub(super) upper_size: Option<u64>,
    pub(super) source_date_epoch: Option<i64>,
    pub(super) keep: Option<u16>,
    pub(super) cleanup: CleanupSettings,
    pub(super) check: CheckSettings,
}

impl CommonSettings {
    pub(crate) fn parse(fields: &Fields<'_>, folder: &Path) -> Result<Self, Box<Mistake>> {
        let network = [("host", Network::Host), ("none", Network::None)];
        Ok(Self {
            network: fields.get("network").map(|n| keyword(n, &network)).transpose()?,
            apt_proxy: fields.get("apt_proxy").map(proxy).transpose()?,
            upper_size: fields.get("upper_size").map(size).transpose()?,
            source_date_epoch: fields.get("source_date_epoch").map(epoch).transpose()?,
            keep: fields.get("keep").map(keep).transpose()?,
            cleanup: CleanupSettings::parse(fields.get("cleanup"))?,
            check: CheckSettings::parse(fields.get("check"), folder)?,
        })
    }
}

/// The settings of a project, which apply to all its images.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProjectSettings {
    /// The directory for artifacts.
    pub(crate) output: PathBuf,
    pub(crate) archive: ArchiveSettings,
    pub(crate) settings: CommonSettings,
}
