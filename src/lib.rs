//! overcoat: composes a root from layers, provisions it without root privileges and seals the
//! changes.
#![deny(unsafe_op_in_unsafe_fn)]

pub mod below;
pub mod boot;
pub mod calendar;
pub mod check;
pub mod cli;
pub mod diff;
pub mod doctor;
pub mod drivers;
pub mod extract;
pub mod fuse;
pub mod import;
pub mod inspect;
pub mod layers;
pub mod lend;
pub mod live;
pub mod look;
pub mod machine;
pub mod project;
pub mod root;
pub mod sandbox;
pub mod seal;
pub mod serve;
pub mod supervise;
