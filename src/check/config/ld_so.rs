//! Directories of the dynamic linker: ldconfig(8). Missing libraries of ld.so.preload are found by
//! `works/elf-library`.

use std::path::Path;

use provisioners::Pattern;

use super::files::{ConfigFile, files_in, is_volatile};
use super::inspector::{Inspector, shown};
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{StackView, ViewNode};

pub(super) static LD_SO: Lint = Lint {
    name: "config/ld-so",
    severity: Severity::Note,
    summary: "a library directory that does not exist",
    why: "ldconfig skips a directory of ld.so.conf that does not exist. If libraries were meant to \
          be there, programs that need them do not start.",
    fix: "correct the path, or remove the line",
};

/// Maximum number of `include` patterns, and of files of each.
const MAX_PATTERNS: usize = 100;
const MAX_FILES: usize = 1000;

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut inspector = Inspector::new(view, faults);
    let Some(file) = inspector.file("etc/ld.so.conf")? else { return Ok(()) };
    let mut included = Vec::new();
    check(&mut inspector, &file, &mut included)?;
    for pattern in included.into_iter().take(MAX_PATTERNS) {
        let Some((dir, _)) = pattern.rsplit_once('/') else { continue };
        let Ok(parsed) = Pattern::parse(&pattern) else { continue };
        for (name, node) in files_in(view, dir)?.into_iter().take(MAX_FILES) {
            if parsed.matches(Path::new(&format!("{dir}/{name}"))) {
                let file = inspector.open(node)?;
                // Files that these include are rare, and not read.
                check(&mut inspector, &file, &mut Vec::new())?;
            }
        }
    }
    Ok(())
}

/// Reports missing directories, and adds the patterns of included files.
fn check(
    inspector: &mut Inspector<'_>,
    file: &ConfigFile,
    included: &mut Vec<String>,
) -> Result<(), PassError> {
    for (line, text) in file.lines() {
        let text = text.split('#').next().unwrap_or_default().trim();
        let mut words = text.split_ascii_whitespace();
        match words.next() {
            Some("include") => {
                included.extend(words.map(|pattern| match pattern.starts_with('/') {
                    true => pattern.to_owned(),
                    false => format!("/etc/{pattern}"),
                }));
                continue;
            }
            Some("hwcap") | None => continue,
            Some(_) => {}
        }
        for dir in text.split([' ', '\t', ',', ':']).filter(|dir| dir.starts_with('/')) {
            let dir = dir.split('=').next().unwrap_or_default();
            // Debian lists directories of the administrator before there are any.
            if is_volatile(dir) || dir.starts_with("/usr/local/lib") {
                continue;
            }
            if resolve(inspector.view, dir.as_bytes())?.filter(ViewNode::is_dir).is_none() {
                let message = format!("the directory {} does not exist", shown(dir));
                let fault = Fault::new(&LD_SO, &file.node, message).line(line);
                inspector.add(fault.cause(dir.as_bytes()));
            }
        }
    }
    Ok(())
}
