//! How much of the units of a root is read: images can have a few bytes stand for any number of them,
//! by hard links, by links to directories and by compression.

use crate::check::PassError;

/// What all units of a root may take together, in bytes of memory: several times what a
/// desktop with all that a distribution has needs.
const ALL: usize = 32 << 20;
/// What a file takes beside its text, or the name of one.
pub(super) const FILE: usize = 512;
/// What a line takes beside its text.
pub(super) const LINE: usize = 128;

/// What may still be read of the units of a root.
pub(super) struct Allowance(usize);

impl Allowance {
    pub(super) fn new() -> Self {
        Allowance(ALL)
    }

    /// Takes so many bytes of it.
    ///
    /// # Errors
    /// There is no more.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), PassError> {
        match self.0.checked_sub(bytes) {
            Some(left) => self.0 = left,
            None => return Err(too_many()),
        }
        Ok(())
    }
}

/// Why units are not judged.
pub(super) fn too_many() -> PassError {
    let most = ALL >> 20;
    PassError::CannotRun(format!("the units of the root take more than {most} MiB together"))
}
