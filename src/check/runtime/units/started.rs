//! The started units, for lints of other files.

use super::load::Units;
use super::memory_budget::UnitMemoryBudget;
use super::{program, section};
use crate::check::PassError;
use crate::image::view::StackView;

/// A unit that a link or another unit starts.
pub(in crate::check::runtime) struct StartedUnit {
    pub(in crate::check::runtime) name: String,
    /// Path of its file.
    pub(in crate::check::runtime) path: Vec<u8>,
    /// Command lines that it runs.
    pub(in crate::check::runtime) commands: Vec<String>,
    /// Absolute paths of the programs in these lines.
    pub(in crate::check::runtime) programs: Vec<String>,
}

/// Returns the units of a root that a link or another unit starts.
pub(in crate::check::runtime) fn started_units(
    view: &StackView,
) -> Result<Vec<StartedUnit>, PassError> {
    const COMMAND_KEYS: [&str; 4] = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
    let units = Units::read(view, &mut UnitMemoryBudget::new())?;
    let mut started = Vec::new();
    for unit in units.iter().filter(|unit| units.started(unit).is_some()) {
        let Some(file) = unit.files.first() else { continue };
        let section = section(unit.kind()).unwrap_or_default();
        let lines = COMMAND_KEYS.iter().flat_map(|key| unit.values(section, key));
        let commands: Vec<String> = lines.map(|(_, line)| line.to_owned()).collect();
        // A leading dash, which ignores failures, does not matter here.
        let plain = commands.iter().filter_map(|line| program(line.trim_start_matches('-')));
        started.push(StartedUnit {
            name: unit.name.clone(),
            path: file.node.path.clone(),
            programs: plain.filter(|program| program.starts_with('/')).collect(),
            commands,
        });
    }
    Ok(started)
}
