//! Input and output of the command line that commands share.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

pub(crate) mod args;
pub(crate) mod error;
pub(crate) mod examples;
pub(crate) mod format;
pub(crate) mod hints;
pub(crate) mod image_args;
pub(crate) mod progress;
pub(crate) mod project_images;
pub(crate) mod reporter;
pub(crate) mod status;
pub(crate) mod stdout;
pub(crate) mod test_report;

/// Where commands print: status lines to standard error, data to standard output. Clones print to
/// the same place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ui {
    child: Option<Arc<ChildUi>>,
}

/// The output of a child process that builds an image of a project for its parent.
#[derive(Debug)]
struct ChildUi {
    /// Name of the image; the prefix of the status lines.
    image: String,
    /// Pipe to the parent, which data is written to.
    parent: File,
}

impl Ui {
    /// Returns whether this process builds an image for its parent.
    pub(crate) fn is_child(&self) -> bool {
        self.child.is_some()
    }

    /// Turns this process into a child that builds `image` for its parent.
    ///
    /// Standard output is the pipe to the parent: it is kept for [`Ui::print`], and file descriptor
    /// 1 becomes a copy of standard error, so that the output of steps reaches the user.
    pub(crate) fn for_child(image: &str) -> io::Result<Ui> {
        let pipe = io::stdout().as_fd().try_clone_to_owned()?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        let child = ChildUi { image: image.to_owned(), parent: File::from(pipe) };
        Ok(Ui { child: Some(Arc::new(child)) })
    }
}
