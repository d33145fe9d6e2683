//! The program as its users run it: as root and unprivileged, on real images, from start to end.
//!
//! Most commands have a module of their name (`build`, `shell` and `umount` are tested in
//! `project`, `run` and `mount`, `boot` in `tests/boot`); the other modules are named by their
//! subject. `tests/set-up.sh` prepares what these tests need.

mod ansible;
mod attributes;
mod base;
mod bootable_images;
mod build_errors;
mod build_progress;
mod cat;
mod check;
mod clean;
mod command_line;
mod completions;
mod concurrency;
mod container;
mod daily_life;
mod damaged_images;
mod diff;
mod differential;
mod discovery;
mod doctor;
mod du;
mod extract;
mod host_values;
mod image_arguments;
mod image_fixture;
mod image_names;
mod image_offsets;
mod import;
mod init;
mod initrd_script;
mod inner_program;
mod inspect;
mod interruption;
mod lending;
mod library;
mod ls;
mod man;
mod mount;
mod mount_fixture;
mod mount_helper;
mod outside_scripts;
mod posix;
mod project;
mod project_fixture;
mod promote;
mod provisioner_steps;
mod reference;
mod reproducibility;
mod rollback;
mod run;
mod seal;
mod serve;
mod services;
mod shared_output;
mod single_id;
mod snapshot;
mod squashfs_output;
mod staleness;
mod stalled_seal;
mod stat;
mod status;
#[path = "../support/mod.rs"]
mod support;
mod tar_layers;
mod torture;
mod tree;
mod unpacking;
