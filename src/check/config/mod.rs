//! Lints (`config/…`) of configuration files: whether the programs that read them accept them.
//!
//! Each module is a survey of one kind of files ([`Survey`]), which follows the manual page or the
//! source that it names. A fault is reported only if the program would reject or ignore something;
//! styles are not checked.

mod accounts;
mod boot;
mod created;
mod cron;
mod dbus;
mod files;
mod fstab;
mod inspector;
mod interfaces;
mod kernel;
mod ld_so;
mod logrotate;
mod network;
mod nsswitch;
mod region;
mod resolver;
mod sshd;
mod sudoers;
mod udev;

use super::Pass;
use super::faults::{Survey, report};

/// Returns a pass that reports the faults of a survey.
macro_rules! survey {
    ($module:ident::$function:ident: $($lint:ident)+) => {
        Pass {
            lints: &[$(&$module::$lint),+],
            run: |context, findings| {
                const SURVEY: Survey = $module::$function;
                report(context, findings, SURVEY)
            },
        }
    };
}

pub(super) static PASSES: &[Pass] = &[
    survey!(accounts::survey: ACCOUNT_LINE UID_ZERO SHADOW SHELL),
    survey!(nsswitch::survey: NSSWITCH),
    survey!(sshd::survey: SSHD SSH_KEYS),
    survey!(sudoers::survey: SUDOERS),
    survey!(fstab::survey: FSTAB FSTAB_DEVICE FSTAB_ROOT),
    survey!(boot::default_target: DEFAULT_TARGET),
    survey!(boot::command_line: KERNEL_COMMAND_LINE),
    survey!(network::survey: NETWORK_FILE),
    survey!(resolver::survey: RESOLV_CONF HOSTS HOSTNAME),
    survey!(interfaces::survey: INTERFACES),
    survey!(udev::survey: UDEV_RULE),
    survey!(kernel::modprobe: MODPROBE),
    survey!(kernel::modules_load: MODULES_LOAD),
    survey!(kernel::sysctl: SYSCTL),
    survey!(kernel::binfmt: BINFMT),
    survey!(created::tmpfiles: TMPFILES),
    survey!(created::sysusers: SYSUSERS),
    survey!(ld_so::survey: LD_SO),
    survey!(dbus::survey: DBUS_POLICY),
    survey!(cron::survey: CRON),
    survey!(logrotate::survey: LOGROTATE),
    survey!(region::survey: LOCALE TIME_ZONE),
];
