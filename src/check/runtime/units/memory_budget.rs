//! A limit for the memory of a root's units: hard links, links to directories and compression allow
//! a small image to contain any number of them.

use crate::check::PassError;

/// Maximum memory of all units of a root, in bytes: several times the units of a full desktop.
const MAX_UNIT_MEMORY: usize = 32 << 20;
/// Memory of a file, or of a file name, in addition to its text.
pub(super) const FILE_OVERHEAD: usize = 512;
/// Memory of a line in addition to its text.
pub(super) const LINE_OVERHEAD: usize = 128;

/// Remaining memory for the units of a root.
pub(super) struct UnitMemoryBudget(usize);

impl UnitMemoryBudget {
    pub(super) fn new() -> Self {
        UnitMemoryBudget(MAX_UNIT_MEMORY)
    }

    /// Reserves `bytes`.
    ///
    /// # Errors
    /// Fails if the limit is exceeded.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), PassError> {
        match self.0.checked_sub(bytes) {
            Some(left) => self.0 = left,
            None => {
                let limit = MAX_UNIT_MEMORY >> 20;
                let reason = format!("the units of the root take more than {limit} MiB of memory");
                return Err(PassError::CannotRun(reason));
            }
        }
        Ok(())
    }
}
