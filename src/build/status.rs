//! The state of a project's images, their kept results, and leftovers.

use std::path::PathBuf;

use provisioners::Project;

use super::decision::{DecisionContext, DecisionOptions};
use super::error::BuildError;
use super::kept::{self, KeptResult};
use super::leftovers::{self, Leftover};
use super::record::{LayerRecord, Record, Records};
use super::staleness::BuildReason;
use super::stamp::FileStamp;
use crate::text::error::describe;

/// The state of a project.
#[derive(Debug)]
pub struct ProjectStatus {
    /// The requested images, in the order of the project.
    pub images: Vec<ImageStatus>,
    /// Files that no image makes any more.
    pub leftovers: Vec<LeftoverStatus>,
    /// Kept results of images that the project does not have any more, with the names of these.
    pub former: Vec<(String, KeptResult)>,
}

/// The state of an image of a project.
#[derive(Debug)]
pub struct ImageStatus {
    /// Index of the image.
    pub index: usize,
    /// Its state.
    pub state: ResultState,
    /// Why a build would build it, or the error of [`ResultState::Failed`].
    pub reasons: Vec<String>,
    /// The record of its current result.
    pub record: Option<Record>,
    /// The layer that it was built on first.
    pub base: Option<BaseStatus>,
    /// The names of the layers that differ from those that it was built on.
    pub other_layers: Vec<String>,
    /// Its earlier results, the newest first.
    pub kept: Vec<KeptStatus>,
}

/// A kept result of an image.
#[derive(Debug)]
pub struct KeptStatus {
    /// The result.
    pub result: KeptResult,
    /// The images with a result that was built on this one.
    pub needed_by: Vec<String>,
}

/// The base that an image was built on.
#[derive(Debug)]
pub struct BaseStatus {
    /// The name of the image, or else of the file.
    pub name: String,
    /// The layer at the time of the build.
    pub layer: LayerRecord,
    /// Whether the file is still the same.
    pub is_current: bool,
}

/// The state of the result of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultState {
    /// A build does not build it.
    UpToDate,
    /// A build does not build it because it was rolled back.
    RolledBack,
    /// A build builds it.
    Due,
    /// It has no result, or an artifact is missing. A build builds it.
    Missing,
    /// It has a mistake, so that a build fails.
    Failed,
}

/// A file that no image makes any more.
#[derive(Debug)]
pub struct LeftoverStatus {
    /// The file.
    pub path: PathBuf,
    /// The image that made it.
    pub image: String,
    /// The size in bytes.
    pub size: u64,
    /// Whether it was changed after the build.
    pub is_touched: bool,
}

/// Returns the state of the images of `project` with the indices `wanted`. Artifacts are only read
/// if their times have changed.
///
/// # Errors
/// Fails if the output directory cannot be read.
pub fn project_status(project: &Project, wanted: &[usize]) -> Result<ProjectStatus, BuildError> {
    let options = DecisionOptions { dry_run: true, ..DecisionOptions::default() };
    let records = Records::of_project(project, false)?;
    let mut context =
        DecisionContext { project, options: &options, wanted: wanted.to_vec(), records };
    let mut images: Vec<ImageStatus> = Vec::new();
    // Images that these need come first, because their state affects that of the others.
    for index in project.with_needs(wanted) {
        let is_due = |need: usize| {
            let mut due = images.iter().filter(|image| image.index == need);
            due.any(|image| matches!(image.state, ResultState::Due | ResultState::Missing))
        };
        let status = image_status(&mut context, index, is_due);
        images.push(status);
    }
    images.retain(|image| wanted.contains(&image.index));
    images.sort_by_key(|image| image.index);
    let records = &mut context.records;
    let leftovers = leftovers::leftovers(records, project);
    let leftovers = leftovers.into_iter().map(|leftover| leftover_status(records, leftover));
    let leftovers = leftovers.collect();
    let mut former = Vec::new();
    for name in leftovers::former_images(records, project) {
        former.extend(kept::kept(records, &name).into_iter().map(|kept| (name.clone(), kept)));
    }
    Ok(ProjectStatus { images, leftovers, former })
}

fn image_status(
    context: &mut DecisionContext<'_>,
    index: usize,
    is_due: impl Fn(usize) -> bool,
) -> ImageStatus {
    let member = &context.project.images()[index];
    let records = &mut context.records;
    let record = records.read(&member.name).filter(|record| records.is_own(record));
    let planned = member.image.plan().map_err(BuildError::from);
    let decision = planned.and_then(|_| {
        let inputs = context.inputs(index)?;
        context.decide(index, &inputs, is_due)
    });
    let is_missing =
        |reason: &BuildReason| matches!(reason, BuildReason::NotBuilt | BuildReason::Missing(_));
    let (state, reasons, other_layers) = match decision {
        Err(error) => (ResultState::Failed, vec![describe(&error)], Vec::new()),
        Ok(decision) => {
            let state = match decision.reasons.as_slice() {
                [] if decision.rolled_back => ResultState::RolledBack,
                [] => ResultState::UpToDate,
                reasons if reasons.iter().any(is_missing) => ResultState::Missing,
                _ => ResultState::Due,
            };
            let reasons = decision.reasons.iter().map(ToString::to_string).collect();
            (state, reasons, decision.other_layers)
        }
    };
    let layer = record.as_ref().and_then(|record| record.layers.first().cloned());
    let base = layer.map(|layer| base_status(context, layer, index));
    let kept = kept::earlier(&mut context.records, &member.name, record.as_ref());
    let kept = kept.into_iter().map(|result| KeptStatus {
        needed_by: needed_by(&mut context.records, &result.record),
        result,
    });
    let kept = kept.collect();
    ImageStatus { index, state, reasons, record, base, other_layers, kept }
}

/// Returns the names of the images with a current or kept result that was built on `lower`.
fn needed_by(records: &mut Records, lower: &Record) -> Vec<String> {
    let is_upper = |upper: &Record| {
        upper.layers.iter().any(|layer| lower.artifacts().any(|one| one.sha256 == layer.sha256))
    };
    let mut names = records.names();
    names.retain(|name| {
        records.read(name).is_some_and(|record| is_upper(&record))
            || kept::kept(records, name).iter().any(|kept| is_upper(&kept.record))
    });
    names
}

fn base_status(context: &mut DecisionContext<'_>, layer: LayerRecord, index: usize) -> BaseStatus {
    let project = context.project;
    let file = context.layers(index).into_iter().next();
    let digest = file.as_ref().and_then(|file| context.records.digest(file).ok());
    let image = project
        .images()
        .iter()
        .find(|image| file.as_ref().is_some_and(|file| image.files().contains(file)));
    BaseStatus {
        name: image.map_or_else(|| layer.name.clone(), |image| image.name.clone()),
        is_current: digest.is_some_and(|digest| digest == layer.sha256),
        layer,
    }
}

fn leftover_status(records: &mut Records, leftover: Leftover) -> LeftoverStatus {
    let path = records.artifact(&leftover.output.file);
    let stamp = FileStamp::read(&path).ok();
    LeftoverStatus {
        image: leftover.image,
        size: stamp.as_ref().map_or(0, FileStamp::size),
        is_touched: records.is_unchanged(&leftover.output) != Some(true),
        path,
    }
}
