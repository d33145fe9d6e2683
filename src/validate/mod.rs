//! Runs the image's own validators for `check`: the programs with which it checks its
//! configuration.
//!
//! Invariants:
//! - They run in a sandbox on the layers, without a network, and nothing that they write remains.
//! - A root is composed once for all commands, which run side by side. The lower layers are
//!   composed only if problems were found, to drop those that existed before.
//! - Time, output, memory and files of a command are limited.

mod execute;

use std::path::PathBuf;
use std::time::Duration;

use fs_model::tree::XattrSupport;

use crate::check::Check;
use crate::check::validators::{Validation, ValidatorCommand, ValidatorOutput, ValidatorPlan};
use crate::root::supervise::ReportFn;
use crate::root::{RootError, RootOptions, UnstartedRoot};
use crate::sandbox::{Network, Privilege, SandboxError, Signals};
use crate::text::error::describe;

/// Maximum bytes that validators write to a root, and to each of its file systems in memory.
const MAX_WRITTEN: u64 = 512 << 20;

/// Why validation ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ValidateError {
    /// A signal asked this process to end.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// The root or its sandbox reports an error.
    #[error(transparent)]
    Root(#[from] RootError),
}

impl From<SandboxError> for ValidateError {
    fn from(error: SandboxError) -> Self {
        ValidateError::Root(error.into())
    }
}

/// How validators run.
pub(crate) struct ValidateOptions<'a> {
    /// Selects the privilege for a root with owners up to this one.
    pub(crate) select: &'a dyn Fn(u32) -> Result<Privilege, SandboxError>,
    /// Maximum time of each validator, instead of its own.
    pub(crate) limit: Option<Duration>,
}

/// Runs the validators of the images `images`, of which the first `lower_layers` are not checked,
/// and gives their results to `check`. Call it before starting threads.
///
/// # Errors
/// Returns the signal that asked this process to end. If no sandbox can be started, the lints are
/// reported as not run.
pub(crate) fn validate(
    check: &mut Check<'_>,
    images: &[PathBuf],
    lower_layers: usize,
    options: &ValidateOptions<'_>,
) -> Result<(), ValidateError> {
    let validation = match results(check, images, lower_layers, options) {
        Ok(validation) => validation,
        Err(ValidateError::Interrupted(signal)) => return Err(ValidateError::Interrupted(signal)),
        Err(ValidateError::Root(error)) => Validation::Unavailable(describe(&error)),
    };
    check.set_validation(validation);
    Ok(())
}

fn results(
    check: &Check<'_>,
    images: &[PathBuf],
    lower_layers: usize,
    options: &ValidateOptions<'_>,
) -> Result<Validation, ValidateError> {
    let plan = match check.validators(options.limit) {
        Ok(plan) => plan,
        Err(reason) => return Ok(Validation::Unavailable(reason)),
    };
    let outputs = run(images, &plan, options)?;
    let lower = match check.lower_validators(&plan, &outputs) {
        Ok(plan) => plan,
        Err(reason) => return Ok(Validation::Unavailable(reason)),
    };
    let lower_outputs = run(&images[..lower_layers], &lower, options)?;
    Ok(Validation::Ran { merged: (plan, outputs), lower: (lower, lower_outputs) })
}

/// Runs the commands of a plan in a root of these layers.
fn run(
    layers: &[PathBuf],
    plan: &ValidatorPlan,
    options: &ValidateOptions<'_>,
) -> Result<Vec<ValidatorOutput>, ValidateError> {
    let commands: &[ValidatorCommand] = &plan.commands;
    if commands.is_empty() {
        return Ok(Vec::new());
    }
    let signals = Signals::take()?;
    let root = UnstartedRoot::new(RootOptions {
        layers: layers.to_vec(),
        upper_limit: MAX_WRITTEN,
        xattrs: XattrSupport::None,
        network: Network::None,
        binds: Vec::new(),
        apt_proxy: None,
        digests: false,
        memory_files: Some(MAX_WRITTEN),
        // Validators may try to start services, which is of no interest.
        report: ReportFn::default(),
    })?;
    let privilege = (options.select)(root.highest_owner()?).map_err(RootError::from)?;
    let root = root.start(privilege)?;
    let outputs = execute::run_all(&root, commands, &signals);
    // The tree is served until all processes have ended.
    let finished = root.finish();
    let outputs = outputs?;
    finished?;
    Ok(outputs)
}
