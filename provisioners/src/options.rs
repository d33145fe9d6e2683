//! Options of a run.

use std::ffi::OsString;
use std::path::PathBuf;

/// Options of a run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `SOURCE_DATE_EPOCH`: the time to use as the time of the build, in seconds since 1970.
    pub source_date_epoch: Option<i64>,
    /// The file to which the caller writes the log. It is named in the message of a failed step.
    pub log_file: Option<PathBuf>,
    /// The directory of artifacts, for Ansible roles that write some themselves.
    pub artifacts: Option<PathBuf>,
    /// Whether kernel packages that an Ansible role installs make an initrd.
    pub kernel_initrds: bool,
    /// Additional arguments of `ansible-playbook`, such as `--tags` or `--check`.
    pub ansible: Vec<OsString>,
}
