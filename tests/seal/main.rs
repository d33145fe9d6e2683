//! Artifacts, as other programs read them.

mod outputs;
mod roundtrip;
mod streams;
mod support;
#[path = "../support/tools.rs"]
#[allow(unreachable_pub, reason = "shared with other test binaries")]
mod tools;
mod unpack;
