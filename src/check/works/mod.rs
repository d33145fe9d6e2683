//! Lints of whether what an overlay brings will work in the merged root, and whether what was there
//! still does.

mod links;
mod lints;
mod scripts;

use super::Pass;

use lints::*;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&DANGLING_LINK, &ESCAPING_LINK, &ALTERNATIVE], run: links::links },
    Pass { lints: &[&INTERPRETER], run: scripts::interpreters },
];
