//! Asks apt for all packages of a plan at once, before the first of them is installed.
//!
//! A step that lacks a package fails after the steps before it, and apt names only the packages of
//! that step. The answer is a forecast: a step may still add an archive.

use std::collections::{BTreeMap, BTreeSet};

use super::StepError;
use super::packages::{APT_ENVIRONMENT, FetchedLists, apt, first_error, update_lists};
use crate::machine::{Command, Machine};

/// A package that a step installs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WantedPackage {
    /// Its name in apt's syntax, with version or release.
    pub name: String,
    /// The step, or the file and line of a role.
    pub place: String,
}

/// A package that apt does not find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MissingPackage {
    /// The package.
    pub wanted: WantedPackage,
    /// The version that apt would install, if the package has other versions than the wanted one.
    pub candidate: Option<String>,
}

/// The answer of apt about the packages of a plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackageForecast {
    /// The packages that apt does not find.
    pub missing: Vec<MissingPackage>,
    /// The number of packages to fetch, with those that the others need.
    pub fetched: usize,
    /// The total size of these, in bytes.
    pub bytes: u64,
    /// The error of apt if it cannot install the packages that it finds together. The packages to
    /// fetch are then unknown.
    pub problem: Option<String>,
}

/// What is known about the packages of a plan before its steps run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForecastAnswer {
    /// The steps install no packages.
    NoPackages,
    /// The answer of apt.
    Known(PackageForecast),
    /// Apt cannot answer, for example without a network: its first error. The step that installs
    /// the packages reports the error, too.
    Unknown(String),
}

/// Asks apt for the packages.
pub(crate) fn forecast(
    machine: &mut dyn Machine,
    wanted: &[WantedPackage],
    lists: &mut FetchedLists,
) -> Result<ForecastAnswer, StepError> {
    if let Err(reason) = update_lists(machine, lists)? {
        return Ok(ForecastAnswer::Unknown(reason));
    }
    let mut names: BTreeSet<&str> = wanted.iter().map(|package| &*package.name).collect();
    let mut found = PackageForecast::default();
    let (mut output, mut is_complete) = print_uris(machine, &names)?;
    let missing: BTreeSet<&str> =
        names.iter().copied().filter(|name| is_missing(name, &output)).collect();
    if !missing.is_empty() {
        let mut candidates = BTreeMap::new();
        for name in missing.iter().filter(|name| name.contains(['=', '/'])) {
            candidates.insert(*name, candidate(machine, name)?);
        }
        let lacking = wanted.iter().filter(|package| missing.contains(&*package.name));
        found.missing = lacking
            .map(|wanted| MissingPackage {
                wanted: wanted.clone(),
                candidate: candidates.get(&*wanted.name).cloned().flatten(),
            })
            .collect();
        found.missing.sort();
        found.missing.dedup();
        names.retain(|name| !missing.contains(name));
        (output, is_complete) = print_uris(machine, &names)?;
    }
    // 'URL' FILE SIZE HASH
    let sizes = output.lines().filter(|line| line.starts_with('\''));
    let sizes = sizes.filter_map(|line| line.split_whitespace().nth(2)?.parse::<u64>().ok());
    for size in sizes {
        found.fetched += 1;
        found.bytes = found.bytes.saturating_add(size);
    }
    if !is_complete {
        found.problem = Some(first_error(&output).unwrap_or_else(|| "apt-get failed".to_owned()));
    }
    Ok(ForecastAnswer::Known(found))
}

/// Returns apt's output about the installation of packages, without installing them, and whether it
/// could be planned.
fn print_uris(
    machine: &mut dyn Machine,
    names: &BTreeSet<&str>,
) -> Result<(String, bool), StepError> {
    if names.is_empty() {
        return Ok((String::new(), true));
    }
    let command = apt("install").arg("--no-install-recommends").arg("--print-uris").args(names);
    let mut output = Vec::new();
    let status = machine.run(&command, &mut output)?;
    Ok((String::from_utf8_lossy(&output).into_owned(), status.success()))
}

/// Returns the version of a package that apt would install without the wanted version.
fn candidate(machine: &mut dyn Machine, wanted: &str) -> Result<Option<String>, StepError> {
    let name = wanted.split(['=', '/']).next().unwrap_or(wanted);
    let mut command = Command::new("apt-cache").arg("policy").arg(name);
    for (name, value) in APT_ENVIRONMENT {
        command = command.env(name, value);
    }
    let mut output = Vec::new();
    machine.run(&command, &mut output)?;
    let output = String::from_utf8_lossy(&output);
    let version = output.lines().find_map(|line| line.trim().strip_prefix("Candidate: "));
    Ok(version.filter(|version| *version != "(none)").map(str::to_owned))
}

/// Returns whether apt's output says that it does not find a package.
fn is_missing(wanted: &str, output: &str) -> bool {
    let name = wanted.split(['=', '/']).next().unwrap_or(wanted);
    let version = wanted.split_once('=').map(|(_, version)| version);
    let release = wanted.split_once('/').map(|(_, release)| release);
    let mut errors = output.lines().filter_map(|line| line.strip_prefix("E: "));
    errors.any(|error| {
        error == format!("Unable to locate package {name}")
            || error == format!("Package '{name}' has no installation candidate")
            || version.is_some_and(|v| error == format!("Version '{v}' for '{name}' was not found"))
            || release.is_some_and(|r| error == format!("Release '{r}' for '{name}' was not found"))
    })
}
