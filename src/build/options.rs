//! The settings of a build that do not come from its image file.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use fs_model::tree::XattrSupport;
use provisioners::image::ImageLocation;

use super::error::BuildError;
use crate::root::supervise::ReportFn;
use crate::root::{RootOptions, default_upper_limit};
use crate::sandbox::{
    Bind, Network, Privilege, PrivilegeChoice, SandboxError, SelectedPrivilege, widening_command,
};
use crate::seal::{ArchiveFormat, Format, SealOptions};
use crate::text::error::describe;

/// The settings of an image's build.
#[derive(Clone, Debug)]
pub struct BuildOptions {
    /// The file to write instead of those of the image file; `-` is standard output.
    pub output: Option<PathBuf>,
    /// The settings of the root.
    pub root: RootSettings,
    /// The settings of the archives.
    pub seal: SealSettings,
    /// The file for the output of all steps; by default it is written only if the build fails.
    pub log: Option<PathBuf>,
    /// Whether the log is also written if the build succeeds.
    pub keep_log: bool,
    /// Whether to open a shell in the root when a step fails.
    pub shell_on_failure: bool,
    /// Arguments for ansible-playbook.
    pub ansible: Vec<OsString>,
}

/// The settings of a root.
#[derive(Clone, Debug)]
pub struct RootSettings {
    /// The network inside, instead of the image file's.
    pub network: Option<Network>,
    /// Maximum size of the upper in bytes, instead of the image file's.
    pub upper_size: Option<u64>,
    /// The host's files and directories to show inside.
    pub binds: Vec<Bind>,
    /// The privilege to use.
    pub privilege: PrivilegeChoice,
    /// Called with lines for the user while commands run.
    pub report: ReportFn,
}

impl RootSettings {
    /// Returns the privilege to use. Reports why a higher one is not available.
    ///
    /// # Errors
    /// Returns the missing requirement, and how to meet it.
    fn select_privilege(&self) -> Result<Privilege, SandboxError> {
        let SelectedPrivilege { privilege, declined } = self.privilege.select()?;
        tracing::info!(privilege = privilege.name(), "selected");
        if let Some(declined) = declined {
            let lacking = match privilege {
                Privilege::None => "without subordinate ids",
                _ => "in a user namespace",
            };
            let hint =
                declined.hint().map_or(String::new(), |hint| format!("; to change it: {hint}"));
            let text = format!("working {lacking}: {}{hint}", describe(&declined));
            self.report.call(&text);
        }
        Ok(privilege)
    }

    /// Returns the privilege for a root with owners up to `highest`: `none` instead of
    /// `subordinate` if the user's subordinate ids end below it and no privilege was requested,
    /// because only `none` shows such owners to programs. Reports it.
    ///
    /// # Errors
    /// As for [`RootSettings::select_privilege`].
    pub(crate) fn select_privilege_for(&self, highest: u32) -> Result<Privilege, SandboxError> {
        let selected = self.select_privilege()?;
        let max = selected.max_uid().min(selected.max_gid());
        let is_beyond = matches!(selected, Privilege::Subordinate { .. }) && highest > max;
        if !is_beyond || self.privilege != PrivilegeChoice::Auto {
            return Ok(selected);
        }
        let privilege = Privilege::none()?;
        let command = widening_command(max, (highest, highest));
        let hint =
            command.map_or(String::new(), |command| format!("; to use them, as root: {command}"));
        self.report.call(&format!(
            "working without subordinate ids: the image has owners up to {highest}, and your \
             subordinate ids end at {max}{hint}"
        ));
        Ok(privilege)
    }

    /// Returns the options of a root. `network` and `upper_size` are the values of an image file,
    /// which these settings override.
    pub(crate) fn root(
        &self,
        layers: Vec<PathBuf>,
        xattrs: XattrSupport,
        network: Network,
        upper_size: Option<u64>,
        digests: bool,
    ) -> RootOptions {
        RootOptions {
            layers,
            upper_limit: self.upper_size.or(upper_size).unwrap_or_else(default_upper_limit),
            xattrs,
            network: self.network.unwrap_or(network),
            binds: self.binds.clone(),
            apt_proxy: None,
            digests,
            memory_files: None,
            report: self.report.clone(),
        }
    }
}

/// The settings of the archives that a build writes.
#[derive(Clone, Debug)]
pub struct SealSettings {
    /// The format, instead of the image file's or that of the output's name.
    pub format: Option<Format>,
    /// The compression level.
    pub level: Option<u32>,
    /// The number of compression threads.
    pub threads: Option<u16>,
    /// Whether manifests are written.
    pub manifest: bool,
    /// Whether standard output receives JSON reports, so that it cannot receive an archive.
    pub reports_on_stdout: bool,
}

impl SealSettings {
    /// Rejects an archive on standard output if reports are printed there.
    ///
    /// # Errors
    /// Returns [`BuildError::StdoutInUse`].
    pub fn check_stdout(&self) -> Result<(), BuildError> {
        match self.reports_on_stdout {
            true => Err(BuildError::StdoutInUse),
            false => Ok(()),
        }
    }

    /// Returns the format of `output`: from the settings, from an image file (`configured`), or
    /// from the name.
    ///
    /// # Errors
    /// Fails if the format is unknown or does not support the requested level.
    pub fn format_for(
        &self,
        output: &Path,
        configured: Option<Format>,
    ) -> Result<Format, BuildError> {
        let format = self
            .format
            .or(configured)
            .or_else(|| Format::from_path(output))
            .or((output == Path::new("-")).then_some(Format::CpioGz))
            .ok_or_else(|| BuildError::UnknownFormat(output.to_owned()))?;
        format.level(self.level)?;
        if format == Format::Squashfs {
            crate::seal::squashfs::available()?;
        }
        Ok(format)
    }

    /// Returns the options of an archive.
    pub fn options(&self, format: Format, epoch: Option<u64>) -> SealOptions {
        let defaults = SealOptions::new(format);
        SealOptions {
            level: self.level,
            threads: self.threads.map_or(defaults.threads, usize::from),
            source_date_epoch: epoch,
            ..defaults
        }
    }
}

/// Returns `SOURCE_DATE_EPOCH` from the environment, or else the value of an image file.
///
/// # Errors
/// Fails if the variable is not a number.
pub fn source_date_epoch(configured: Option<i64>) -> Result<Option<u64>, BuildError> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(_) => Err(BuildError::SourceDateEpoch(text)),
        },
        Ok(_) | Err(std::env::VarError::NotPresent) => {
            Ok(configured.and_then(|epoch| u64::try_from(epoch).ok()))
        }
        Err(std::env::VarError::NotUnicode(_)) => Err(BuildError::SourceDateEpochNotUnicode),
    }
}

/// Rejects an output file that is also a layer.
///
/// # Errors
/// Returns [`BuildError::OverwritesLayer`].
pub fn reject_layers<'a>(
    files: impl Iterator<Item = &'a PathBuf>,
    layers: &[PathBuf],
) -> Result<(), BuildError> {
    for file in files {
        if layers.iter().any(|layer| is_same_file(&ImageLocation::of(layer).file, file)) {
            return Err(BuildError::OverwritesLayer(file.clone()));
        }
    }
    Ok(())
}

/// Returns whether two paths refer to the same existing file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    match (std::fs::metadata(one), std::fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
