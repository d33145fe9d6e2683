//! Lints (`config/…`) of configuration files: whether the programs that read them accept them.
//!
//! Each module is a survey of one kind of files ([`Survey`]), which follows the manual page or the
//! source that it names. A fault is reported only if the program would reject or ignore something;
//! styles are not checked.

mod accounts;
mod boot;
mod created;
mod dbus;
mod files;
mod fstab;
mod inspector;
mod interfaces;
mod kernel;
mod known_accounts;
mod ld_so;
mod lints;
mod network;
mod resolver;
mod udev;

use super::Pass;
use super::faults::{Survey, report};

use boot::{DEFAULT_TARGET, KERNEL_COMMAND_LINE};
use created::{SYSUSERS, TMPFILES};
use dbus::DBUS_POLICY;
use fstab::{FSTAB, FSTAB_DEVICE, FSTAB_ROOT};
use interfaces::INTERFACES;
use kernel::{BINFMT, MODPROBE, MODULES_LOAD, SYSCTL};
use ld_so::LD_SO;
use lints::*;
use network::NETWORK_FILE;
use resolver::{HOSTNAME, HOSTS, RESOLV_CONF};
use udev::UDEV_RULE;

/// Returns a pass that reports the faults of a survey.
macro_rules! survey {
    ($survey:expr, $($lint:ident),+) => {
        Pass {
            lints: &[$(&$lint),+],
            run: |context, findings| {
                const SURVEY: Survey = $survey;
                report(context, findings, SURVEY)
            },
        }
    };
}

pub(super) static PASSES: &[Pass] = &[
    survey!(accounts::survey, ACCOUNT_LINE, UID_ZERO, SHADOW, SHELL),
    survey!(fstab::survey, FSTAB, FSTAB_DEVICE, FSTAB_ROOT),
    survey!(boot::default_target, DEFAULT_TARGET),
    survey!(boot::command_line, KERNEL_COMMAND_LINE),
    survey!(network::survey, NETWORK_FILE),
    survey!(resolver::survey, RESOLV_CONF, HOSTS, HOSTNAME),
    survey!(interfaces::survey, INTERFACES),
    survey!(udev::survey, UDEV_RULE),
    survey!(kernel::modprobe, MODPROBE),
    survey!(kernel::modules_load, MODULES_LOAD),
    survey!(kernel::sysctl, SYSCTL),
    survey!(kernel::binfmt, BINFMT),
    survey!(created::tmpfiles, TMPFILES),
    survey!(created::sysusers, SYSUSERS),
    survey!(ld_so::survey, LD_SO),
    survey!(dbus::survey, DBUS_POLICY),
];
