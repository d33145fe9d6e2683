//! Machines that boot from the network: the initrd of the library, a server on loopback, and QEMU.
//!
//! `tests/set-up.sh` prepares what these tests need. Each boot takes 10 to 40 seconds: a processor
//! is emulated.

mod command;
mod failures;
mod machine;
mod original;
#[path = "../support/mod.rs"]
mod support;
mod union;
