//! Lints (`config/…`) of configuration files: whether the programs that read them accept them.
//!
//! Each module is a survey of one kind of files ([`Survey`]), which follows the manual page or the
//! source that it names. A fault is reported only if the program would reject or ignore something;
//! styles are not checked.

mod accounts;
mod cron;
mod files;
mod logrotate;
mod nsswitch;
mod region;
mod sshd;
mod sudoers;

use super::Pass;
use super::faults::{Survey, report};

/// Returns a pass that reports the faults of a survey.
macro_rules! survey {
    ($module:ident: $($lint:ident)+) => {
        Pass {
            lints: &[$(&$module::$lint),+],
            run: |context, findings| {
                const SURVEY: Survey = $module::survey;
                report(context, findings, SURVEY)
            },
        }
    };
}

pub(super) static PASSES: &[Pass] = &[
    survey!(accounts: ACCOUNT_LINE UID_ZERO SHADOW SHELL),
    survey!(nsswitch: NSSWITCH),
    survey!(sshd: SSHD SSH_KEYS),
    survey!(sudoers: SUDOERS),
    survey!(cron: CRON),
    survey!(logrotate: LOGROTATE),
    survey!(region: LOCALE TIME_ZONE),
];
