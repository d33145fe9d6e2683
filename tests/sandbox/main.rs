//! The sandbox as a library: processes, signals, devices, terminals, at both privileges.
//!
//! `tests/set-up.sh` prepares what these tests need. A sandbox is forked from a test process with
//! several threads; `support::at_both_privileges` runs one test at a time, because some of them
//! inspect all processes below this one.

mod apt;
mod commands;
mod devices;
mod host_mount;
mod lifecycle;
mod root;
#[path = "../support/mod.rs"]
mod support;
