//! Network boots: the library's initrd, an HTTP server on the loopback interface, and QEMU.
//!
//! `tests/set-up.sh` prepares what these tests need. Each boot takes 10 to 40 seconds, because the
//! processor is emulated.

mod command;
mod failures;
mod machine;
mod on_imagebuilder;
#[path = "../support/mod.rs"]
mod support;
mod union;
