//! Limits on the memory of layers that keep decoded content.

/// Limits on a layer's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum memory for decoded content and the index, in bytes.
    pub memory: u64,
}

impl Default for Limits {
    /// Returns a limit of 4 GiB: more than the overlay of any machine that runs from RAM, and less
    /// than the memory of most build machines. Callers that know the machine can set a better one.
    fn default() -> Self {
        Limits { memory: 4 << 30 }
    }
}

/// Accounting of a layer's memory.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    limit: u64,
    used: u64,
}

/// The layer would exceed its memory limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct OverBudget {
    /// The limit in bytes.
    pub(super) limit: u64,
}

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "it needs more than {} bytes of memory when unpacked", self.limit)
    }
}

impl MemoryBudget {
    pub(super) fn new(limits: Limits) -> Self {
        MemoryBudget { limit: limits.memory, used: 0 }
    }

    pub(super) fn take(&mut self, bytes: u64) -> Result<(), OverBudget> {
        self.used = self.used.saturating_add(bytes);
        match self.used > self.limit {
            true => Err(OverBudget { limit: self.limit }),
            false => Ok(()),
        }
    }
}
