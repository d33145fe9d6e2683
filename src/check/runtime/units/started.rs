//! The units that a boot starts, for lints of other files.

use super::allowance::Allowance;
use super::load::Units;
use super::{program, section};
use crate::check::PassError;
use crate::look::View;

/// A unit that is started, as other lints see it.
pub(in crate::check::runtime) struct StartedUnit {
    pub(in crate::check::runtime) name: String,
    /// The path of its file.
    pub(in crate::check::runtime) path: Vec<u8>,
    /// The command lines that it runs.
    pub(in crate::check::runtime) texts: Vec<String>,
    /// The programs of these lines, by their paths.
    pub(in crate::check::runtime) programs: Vec<String>,
}

/// The units of a root that a link or another unit starts.
pub(in crate::check::runtime) fn started_units(view: &View) -> Result<Vec<StartedUnit>, PassError> {
    const COMMANDS: [&str; 4] = ["ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost"];
    let units = Units::of(view, &mut Allowance::new())?;
    let mut started = Vec::new();
    for unit in units.iter().filter(|unit| units.started(unit).is_some()) {
        let Some(file) = unit.files.first() else { continue };
        let section = section(unit.kind()).unwrap_or_default();
        let lines = COMMANDS.iter().flat_map(|key| unit.values(section, key));
        let texts: Vec<String> = lines.map(|(_, line)| line.to_owned()).collect();
        // Also one whose failure does not matter, which has a dash before it.
        let plain = texts.iter().filter_map(|line| program(line.trim_start_matches('-')));
        started.push(StartedUnit {
            name: unit.name.clone(),
            path: file.node.path.clone(),
            programs: plain.filter(|program| program.starts_with('/')).collect(),
            texts,
        });
    }
    Ok(started)
}
