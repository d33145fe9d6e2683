//! Decides for each image of a project whether it is out of date.

use std::fs;
use std::path::PathBuf;

use provisioners::Project;
use provisioners::image::{ImageLocation, Inputs, Layers, manifest_path};

use super::error::BuildError;
use super::options::source_date_epoch;
use super::record::{COMMAND_LINE_KEY, RecordError, Records};
use super::staleness::{BuildDecision, BuildReason, decide};

/// What affects the decisions, besides the project and its records.
#[derive(Debug, Clone, Default)]
pub struct DecisionOptions {
    /// Whether to build the requested images even if they are up to date.
    pub force: bool,
    /// Whether to rebuild images whose layers have changed since they were built.
    pub rebase: bool,
    /// Whether to find the images to build, but not to build them.
    pub dry_run: bool,
    /// Options of the command line that affect the content of images; an input of each requested
    /// image. They do not apply to images that these need.
    pub command_line: String,
    /// Whether the requested image is built to a file that is not one of its artifacts. It is then
    /// always built, and its artifacts and its record are not changed.
    pub elsewhere: bool,
}

/// A project and the records of its images.
#[derive(Debug)]
pub(super) struct DecisionContext<'a> {
    pub(super) project: &'a Project,
    pub(super) options: &'a DecisionOptions,
    /// Indices of the requested images.
    pub(super) wanted: Vec<usize>,
    pub(super) records: Records,
}

impl DecisionContext<'_> {
    /// Returns the inputs of an image, with those of this process: environment and options.
    pub(super) fn inputs(&self, index: usize) -> Result<Inputs, BuildError> {
        let mut inputs = project_inputs(self.project, index)?;
        if self.wanted.contains(&index) && !self.options.command_line.is_empty() {
            inputs.insert(COMMAND_LINE_KEY.to_owned(), self.options.command_line.clone());
        }
        Ok(inputs)
    }

    /// Returns whether an image is up to date. In a dry run, `is_due` returns whether an image that
    /// it needs would be built before.
    pub(super) fn decide(
        &mut self,
        index: usize,
        inputs: &Inputs,
        is_due: impl Fn(usize) -> bool,
    ) -> Result<BuildDecision, BuildError> {
        if !self.is_elsewhere(index) {
            self.reject_unsafe_files(index)?;
        }
        let member = &self.project.images()[index];
        let mut layers = self.layers(index);
        let mut due = Vec::new();
        if self.options.dry_run {
            // The files of images to be built are missing or outdated now.
            for &need in member.needs.iter().filter(|need| is_due(**need)) {
                due.extend(self.project.images()[need].files());
            }
            if let Some(missing) =
                layers.iter().find(|l| !due.contains(l) && !ImageLocation::of(l).file.exists())
            {
                return Err(BuildError::LayerNotFound(missing.clone()));
            }
            due.retain(|file| layers.contains(file));
            if due.iter().any(|file| !file.exists()) {
                layers.clear();
            }
        }
        let is_wanted = self.wanted.contains(&index);
        let mut decision = decide(
            &mut self.records,
            &member.name,
            inputs,
            &layers,
            self.options.rebase,
            // Options that a needed image was built with are no reason to build it again.
            is_wanted,
        )?;
        if self.options.rebase && decision.reasons.is_empty() {
            let name = |file: &PathBuf| file.file_name().unwrap_or_default().display().to_string();
            decision.reasons.extend(due.iter().map(|file| BuildReason::Layer(name(file))));
        }
        if self.is_elsewhere(index) {
            decision.reasons = vec![BuildReason::Elsewhere];
        } else if self.options.force && is_wanted && decision.reasons.is_empty() {
            decision.reasons.push(BuildReason::Forced);
        }
        Ok(decision)
    }

    /// Rejects artifacts that would replace those of another project, or that cannot be files.
    fn reject_unsafe_files(&self, index: usize) -> Result<(), RecordError> {
        let member = &self.project.images()[index];
        let files = member.files();
        self.records.reject_others(&member.name, &files)?;
        let manifests = files.iter().map(|file| manifest_path(file));
        let mut written = files.iter().cloned().chain(manifests);
        for file in &files {
            let target = fs::read_link(file).ok().and_then(|link| Some(file.parent()?.join(link)));
            let is_dangling =
                |target: &PathBuf| target.parent().is_some_and(|folder| !folder.is_dir());
            if let Some(target) = target.filter(is_dangling) {
                return Err(RecordError::DanglingLink { file: file.clone(), target });
            }
        }
        let is_other = |file: &PathBuf| fs::metadata(file).is_ok_and(|meta| !meta.is_file());
        written.find(is_other).map_or(Ok(()), |file| Err(RecordError::NotRegular(file)))
    }

    /// Returns whether the image is built to another file than its artifacts.
    pub(super) fn is_elsewhere(&self, index: usize) -> bool {
        self.options.elsewhere && self.wanted.contains(&index)
    }

    pub(super) fn layers(&self, index: usize) -> Vec<PathBuf> {
        let source = &self.project.images()[index].image.source;
        source.layers().map(Layers::paths).unwrap_or_default()
    }
}

/// Returns the inputs of an image that come from the project and the environment.
pub(super) fn project_inputs(project: &Project, index: usize) -> Result<Inputs, BuildError> {
    let image = &project.images()[index].image;
    let mut inputs = image.inputs()?;
    if let Some(epoch) = source_date_epoch(image.source_date_epoch)? {
        inputs.insert("source_date_epoch".to_owned(), epoch.to_string());
    }
    Ok(inputs)
}
