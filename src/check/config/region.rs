//! The locale and the time zone: locale.conf(5), localtime(5), /etc/timezone of Debian.

use super::files::ConfigFile;
use crate::check::context::resolve;
use crate::check::faults::{Fault, SurveyFaults};
use crate::check::{Lint, PassError, Severity};
use crate::image::view::{LookError, StackView, ViewNode};
use crate::text::escape::escape;

pub(super) static LOCALE: Lint = Lint {
    name: "config/locale",
    severity: Severity::Warning,
    summary: "a locale that is not installed",
    why: "Programs use the locale C instead and cannot read or print other characters than ASCII; \
          Perl, man and others print a warning at each start.",
    fix: "generate the locale (package locales: `locale-gen`), or use C.UTF-8",
};

pub(super) static TIME_ZONE: Lint = Lint {
    name: "config/time-zone",
    severity: Severity::Warning,
    summary: "a time zone that is not installed",
    why: "The machine uses UTC instead.",
    fix: "install tzdata, or correct the name",
};

const LOCALE_DIR: &str = "usr/lib/locale";
/// Maximum bytes read of the archive of locales. Its names are before the locales.
const MAX_ARCHIVE_BYTES: usize = 4 << 20;

pub(super) fn survey(view: &StackView, faults: &mut SurveyFaults) -> Result<(), PassError> {
    let mut installed = None;
    for path in ["etc/locale.conf", "etc/default/locale"] {
        let Some(file) = ConfigFile::read(view, path)? else { continue };
        for (line, text) in file.entries(&['#']) {
            let Some((name, value)) = text.trim_start_matches("export ").split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']);
            let is_locale = name == "LANG" || name.starts_with("LC_");
            if !is_locale || is_built_in(value) {
                continue;
            }
            let installed = match &mut installed {
                Some(installed) => installed,
                none => none.insert(InstalledLocales::read(view)?),
            };
            if !installed.has(value) {
                let message = format!("{} is not installed", escape(value.as_bytes()));
                let cause = format!("{LOCALE_DIR}/locale-archive");
                let fault = Fault::new(&LOCALE, &file.node, message).line(line);
                faults.push(fault.cause(cause.as_bytes()));
            }
        }
    }
    if let Some(file) = ConfigFile::read(view, "etc/timezone")?
        && let Some((line, name)) = file.entries(&['#']).next()
        && !["Etc/UTC", "UTC"].contains(&name)
    {
        let path = format!("usr/share/zoneinfo/{name}");
        if resolve(view, path.as_bytes())?.filter(ViewNode::is_file).is_none() {
            let message = format!("{} does not exist", escape(format!("/{path}").as_bytes()));
            let fault = Fault::new(&TIME_ZONE, &file.node, message).line(line);
            faults.push(fault.cause(path.as_bytes()));
        }
    }
    Ok(())
}

/// Returns whether the C library needs no files for a locale.
fn is_built_in(value: &str) -> bool {
    value.is_empty() || value.starts_with('$') || ["C", "POSIX"].contains(&value)
}

struct InstalledLocales {
    /// The normal names of directories.
    names: Vec<String>,
    archive: Vec<u8>,
}

impl InstalledLocales {
    fn read(view: &StackView) -> Result<InstalledLocales, LookError> {
        let dir = resolve(view, LOCALE_DIR.as_bytes())?.filter(ViewNode::is_dir);
        let children = dir.map(|dir| view.children(&dir)).transpose()?.unwrap_or_default();
        let names = children
            .iter()
            .map(|child| normal_name(&String::from_utf8_lossy(child.name())))
            .collect();
        let archive = children.iter().find(|child| child.name() == b"locale-archive");
        let archive = archive.filter(|archive| archive.is_file());
        let archive = archive.map(|archive| view.head(archive, MAX_ARCHIVE_BYTES)).transpose()?;
        Ok(InstalledLocales { names, archive: archive.unwrap_or_default() })
    }

    fn has(&self, locale: &str) -> bool {
        let name = normal_name(locale);
        let entry = format!("\0{name}\0");
        // glibc 2.35 and later contain C.UTF-8.
        name == "C.utf8"
            || self.names.contains(&name)
            || memchr::memmem::find(&self.archive, entry.as_bytes()).is_some()
    }
}

/// Returns the name with its character set in the form of file names: `de_DE.utf8`.
fn normal_name(locale: &str) -> String {
    let Some((language, rest)) = locale.split_once('.') else { return locale.to_owned() };
    let (set, modifier) = match rest.split_once('@') {
        Some((set, modifier)) => (set, format!("@{modifier}")),
        None => (rest, String::new()),
    };
    let set: String =
        set.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect();
    format!("{language}.{set}{modifier}")
}
