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
mod container;
mod differential;
mod discovery;
mod doctor;
mod embedded;
mod fidelity;
mod initrd_script;
mod inside;
mod inspect;
mod lending;
mod library;
mod listing;
mod looking;
mod machines;
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
mod services;
mod stuck;
#[path = "../support/mod.rs"]
mod support;
mod torture;
