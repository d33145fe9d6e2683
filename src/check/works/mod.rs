//! Lints of whether what an overlay brings will work in the merged root, and whether what was there
//! still does.

mod elf;
mod links;
mod lints;
mod modules;
mod owners;
mod scripts;
mod units;

use super::Pass;

use lints::*;
pub(super) use modules::kernel_version;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&DANGLING_LINK, &ESCAPING_LINK, &ALTERNATIVE], run: links::links },
    Pass {
        lints: &[&ELF_LIBRARY, &ELF_VERSION, &ELF_MACHINE, &ELF_INTERPRETER, &LINKER_CACHE],
        run: elf::closure,
    },
    Pass {
        lints: &[&UNIT_MISSING, &UNIT_REFUSED, &UNIT_EXEC, &UNIT_NEEDS, &UNIT_USER, &UNIT_SYNTAX],
        run: units::units,
    },
    Pass { lints: &[&KERNEL_MODULES, &MODULE_INDEX], run: modules::modules },
    Pass { lints: &[&OWNER], run: owners::owners },
    Pass { lints: &[&INTERPRETER], run: scripts::interpreters },
];
