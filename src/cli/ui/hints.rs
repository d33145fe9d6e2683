//! Hints for the causes of errors.

use std::error::Error;
use std::io;

use fs_model::FsError;
use provisioners::StepError;
use provisioners::machine::MachineError;

use crate::build::{BuildError, RecordError};
use crate::check::CheckError;
use crate::image::open::OpenError;
use crate::mount::host::MountServerError;
use crate::report::model::ModelError;
use crate::root::RootError;
use crate::root::import::RootImportError;
use crate::root::mounted_tree::MountedTreeErrorKind;
use crate::sandbox::{MissingRequirement, SandboxError};
use crate::seal::PATH_TOO_LONG_ADVICE;
use crate::tui::screen::ScreenError;
use crate::vm::BootError;

/// Returns the hints for an error and its causes.
pub(super) fn hints_of(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut hints = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        hints.extend(own_hint(error));
        next = inner(error).or_else(|| error.source());
    }
    hints
}

/// Returns the hint for an error itself.
fn own_hint(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = error.downcast_ref::<FsError>() {
        return match error {
            FsError::NoSpace { .. } => {
                Some("raise the limit with --upper-size, or `upper_size` in an image file".into())
            }
            FsError::PathTooLong { .. } => Some(PATH_TOO_LONG_ADVICE.into()),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<MissingRequirement>() {
        return Some(error.hint());
    }
    if let Some(error) = error.downcast_ref::<OpenError>() {
        return error.hint();
    }
    match error.downcast_ref::<SandboxError>()? {
        // `inner` returns it.
        SandboxError::MissingRequirement(_) => None,
        error => error.hint(),
    }
}

/// Returns the error that a transparent error wraps: both have the same message and the same
/// source.
fn inner<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<BuildError>() {
        return match error {
            BuildError::Step(failed) => Some(&failed.error),
            BuildError::Yield(error) => Some(error),
            BuildError::Kernels(error) => Some(error),
            BuildError::Plan(error) => Some(error),
            BuildError::Root(error) => Some(error),
            BuildError::Sandbox(error) => Some(error),
            BuildError::MissingRequirement(error) => Some(error),
            BuildError::Seal(error) => Some(error),
            BuildError::Tree(error) => Some(error),
            BuildError::Import(error) => Some(error),
            BuildError::Record(error) => Some(error),
            BuildError::Io(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<RootError>() {
        return match error {
            RootError::Open(error) => Some(error),
            RootError::Tree(error) => Some(error),
            RootError::MountedTree(error) => Some(error),
            RootError::Sandbox(error) => Some(error),
            RootError::Serve(_) => None,
        };
    }
    if let Some(error) = error.downcast_ref::<BootError>() {
        return match error {
            BootError::MissingRequirement(error) => Some(error),
            BootError::Io(error) => Some(error),
            BootError::ServedRoot(error) => Some(error),
            BootError::MountedTree(error) => Some(error),
            BootError::Seal(error) => Some(error),
            BootError::Tree(error) => Some(error),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<RootImportError>() {
        return match error {
            RootImportError::Layer(error) => Some(error),
            RootImportError::Damaged(error) => Some(error),
            _ => None,
        };
    }
    if let Some(MountedTreeErrorKind::Tree(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(StepError::Machine(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(MachineError::Other(error)) = error.downcast_ref() {
        return Some(&**error);
    }
    if let Some(SandboxError::MissingRequirement(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(MountServerError::Sandbox(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(ScreenError::Sandbox(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(RecordError::Seal(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(CheckError::Open(error)) = error.downcast_ref() {
        return Some(error);
    }
    if let Some(ModelError::Open(error)) = error.downcast_ref() {
        return Some(error);
    }
    let wrapped = error.downcast_ref::<io::Error>()?.get_ref()?;
    Some(wrapped)
}
