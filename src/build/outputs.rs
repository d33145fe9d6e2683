//! The archives that the tree of a root is sealed into.

use std::path::{Path, PathBuf};

use fs_model::Ino;
use fs_model::tree::XattrSupport;
use provisioners::image::manifest_path;

use super::error::BuildError;
use super::input_texts::InputTexts;
use super::options::SealSettings;
use super::reporter::Reporter;
use crate::manifest::lower::{LowerRecords, lower_records};
use crate::root::FinishedRoot;
use crate::seal::report::archive_report;
use crate::seal::{ArchiveFormat, Format, ManifestInfo, Output, seal};

/// The archives that a tree is sealed into, one for each format.
#[derive(Debug)]
pub struct Outputs(Vec<SealTarget>);

#[derive(Debug)]
struct SealTarget {
    path: PathBuf,
    format: Format,
    archive: Output,
    manifest: Option<Output>,
}

impl Outputs {
    /// Opens the outputs, so that errors are reported before any work.
    ///
    /// # Errors
    /// Fails if a file cannot be created.
    pub fn open(
        files: impl IntoIterator<Item = (PathBuf, Format)>,
        settings: &SealSettings,
    ) -> Result<Outputs, BuildError> {
        let open = |(path, format): (PathBuf, Format)| {
            if path == Path::new("-") {
                settings.check_stdout()?;
                return Ok(SealTarget { path, format, archive: Output::stdout()?, manifest: None });
            }
            let archive = Output::file(&path)?;
            let manifest = match settings.manifest {
                true => Some(Output::file(&manifest_path(&path))?),
                false => None,
            };
            Ok(SealTarget { path, format, archive, manifest })
        };
        files.into_iter().map(open).collect::<Result<_, BuildError>>().map(Outputs)
    }

    /// Returns the extended attributes that all formats support.
    pub fn xattrs(&self) -> XattrSupport {
        let each = || self.0.iter().map(|target| target.format.xattrs());
        [XattrSupport::None, XattrSupport::WithoutAcls]
            .into_iter()
            .find(|least| each().any(|support| support == *least))
            .or(each().next())
            .unwrap_or(XattrSupport::None)
    }

    /// Seals the tree of a finished root, if there are archives to write, and reports the archives
    /// written. `inputs` are the user's.
    ///
    /// # Errors
    /// Fails if a layer cannot be read or an archive cannot be written.
    pub(crate) fn seal(
        self,
        finished: FinishedRoot,
        settings: &SealSettings,
        epoch: Option<u64>,
        inputs: &InputTexts,
        reporter: &dyn Reporter,
    ) -> Result<(), BuildError> {
        let mut warnings = finished.leftover_warnings();
        warnings.iter().for_each(|warning| reporter.warning(warning));
        if self.0.is_empty() {
            return Ok(());
        }
        let copies = finished.clean_copies(&|value| inputs.contains(value))?;
        copies.iter().for_each(|warning| reporter.warning(warning));
        warnings.extend(copies);
        let delta = finished.tree.delta()?.with_root(finished.tree.attr(Ino::ROOT)?);
        if let Some(warning) = finished.copied_owner_warning(&delta) {
            reporter.warning(&warning);
            warnings.push(warning);
        }
        let FinishedRoot { tree, layers, privilege, .. } = finished;
        let wanted = self.0.iter().any(|target| target.manifest.is_some());
        let lower =
            if wanted { lower_records(&delta, tree.layers())? } else { LowerRecords::new() };
        let info = ManifestInfo { layers, lower };
        for SealTarget { path, format, archive, manifest } in self.0 {
            let options = settings.options(format, epoch);
            let manifest = manifest.map(|output| (output, info.clone()));
            let mut update = |progress| reporter.seal_progress(progress);
            let sealed = seal(&delta, &*tree, &options, archive, manifest, &mut update);
            reporter.seal_ended();
            let summary = sealed?;
            reporter.archive_warnings(&summary.warnings);
            let mut report = archive_report(&path, &summary, &warnings);
            report["privilege"] = privilege.into();
            reporter.artifact(&report)?;
        }
        Ok(())
    }
}
