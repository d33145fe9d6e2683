//! The program as its users run it: as root and without rights, on real images, to the end.
//!
//! `tests/set-up.sh` prepares what these tests need.

mod ansible;
mod attributes;
mod bad_input;
mod beginning;
mod broken;
mod check;
mod command_line;
mod completions;
mod concurrency;
mod differential;
mod discovery;
mod doctor;
mod fidelity;
mod initrd_script;
mod inside;
mod inspect;
mod library;
mod listing;
mod looking;
mod manuals;
mod mounting;
mod native;
mod nothing_left;
mod on_imagebuilder;
mod outside;
mod posix;
mod project;
mod same_bytes;
mod serve;
mod stuck;
#[path = "../support/mod.rs"]
mod support;
mod torture;
