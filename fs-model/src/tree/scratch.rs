//! Scratch entries: what a sandbox needs in the root but an overlay must not contain.
//!
//! Invariants:
//! - A scratch entry is in the view and out of every delta, with all that is below it.
//! - What was at its name stays beneath it, and is what the delta compares.
//! - Who removes or replaces a scratch entry from inside has done so to what is beneath it: the
//!   delta then has that change. Writing into one changes nothing but the view.
//! - Laying one leaves no trace in its directory's times.

use super::dir::{Beneath, Scratch, Slot};
use super::names::{NewNode, check_name};
use super::{Entry, Ino, Tree};
use crate::error::FsError;

impl Tree {
    /// Lays a scratch entry at `name`, over whatever is there.
    pub fn lay_scratch(
        &self,
        parent: Ino,
        name: &[u8],
        node: &NewNode<'_>,
    ) -> Result<Entry, FsError> {
        let _gate = self.gate.read();
        self.check_writable()?;
        let mut state = self.state.lock();
        check_name(name)?;
        state.check_alive(self, parent)?;
        state.make(self, parent, name, node, |shown, before| {
            let beneath = match before {
                None => Beneath::Layers,
                Some(Slot::Present(target)) => Beneath::Object(*target),
                Some(Slot::Absent) => Beneath::Absent,
                Some(Slot::Scratch(scratch)) => scratch.beneath,
            };
            Slot::Scratch(Box::new(Scratch { shown, beneath }))
        })
    }
}
