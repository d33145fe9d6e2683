//! Input and output of the command line that commands share.

pub(crate) mod args;
pub(crate) mod error;
pub(crate) mod examples;
pub(crate) mod format;
pub(crate) mod hints;
pub(crate) mod image_args;
pub(crate) mod progress;
pub(crate) mod reporter;
pub(crate) mod status;
pub(crate) mod stdout;
