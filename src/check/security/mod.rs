//! Lints (`safe/…`) of secrets, permissions and access rules that an overlay puts on every machine.

mod identity;
mod lints;
mod rights;
mod secrets;

use super::Pass;

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
