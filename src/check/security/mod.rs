//! Lints of what an overlay should not carry to every machine that boots it, or what deserves a
//! second look there.

mod identity;
mod lints;
mod rights;
mod secrets;

use super::context::CheckContext;
use super::{Finding, Findings, Lint, Pass, Severity, PassError};
use crate::look::Node;

use lints::*;

pub(super) static PASSES: &[Pass] = &[
    Pass { lints: &[&SETUID, &CAPABILITY, &WORLD_WRITABLE, &DEVICE], run: rights::rights },
    Pass {
        lints: &[&PRIVATE_KEY, &HOST_KEY, &TOKEN, &CREDENTIALS, &HISTORY],
        run: secrets::secrets,
    },
    Pass {
        lints: &[
            &MACHINE_ID,
            &RANDOM_SEED,
            &RESOLV_CONF,
            &PROXY,
            &SUDOERS,
            &PAM,
            &AUTHORIZED_KEYS,
            &PASSWORD,
        ],
        run: identity::identity,
    },
];

/// A finding that deserves a look, less of it where a package has brought what is found, just as it
/// is: then its maintainers have thought of it, and it is there because the package was asked for.
pub(super) fn of_package(
    context: &CheckContext<'_>,
    lint: &'static Lint,
    node: &Node,
    message: String,
    findings: &mut Findings<'_>,
) -> Result<(), PassError> {
    let view = &context.roots()?.view;
    let finding = |message| Finding::new(lint, context.layer_name(node), Some(&node.path), message);
    findings.push(match context.owning_package(&node.path)? {
        Some(package) if package.brought(view, node)? => {
            let message = format!("{message}; the package {} brings it", package.name);
            finding(message).severity(Severity::Note)
        }
        _ => finding(message),
    });
    Ok(())
}
