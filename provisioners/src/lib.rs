//! Provisioners: folders that say what to change in an image.
//!
//! A [`Provisioner`] is read from a folder, a [`Plan`] gives it the variables of an image, and
//! [`Plan::run`] runs it on a [`Machine`]: a root whose files can be changed and in which commands
//! can be run. What that root is made of is none of this crate's business.
//!
//! An image file ([`Image`]) names base, provisioners, variables and output of an image.

#![forbid(unsafe_code)]

pub mod cleanup;
mod config;
mod folder;
mod glob;
pub mod image;
mod inputs;
mod library;
pub mod machine;
pub mod on_imagebuilder;
pub mod project;
mod provisioner;
mod run;
mod scope;
mod steps;
mod tail;
mod templates;
mod variables;
mod written;

pub use config::ConfigError;
pub use config::error::Mistake;
pub use config::nearest;
pub use folder::{Digest, Folder, NotInLibrary};
pub use glob::Pattern;
pub use image::Image;
pub use library::library;
pub use machine::Machine;
pub use project::Project;
pub use provisioner::{FILE_NAME, Provisioner};
pub use run::{Observer, Options, Plan, PlanError, StepFailed, StepInfo};
pub use steps::StepError;
pub use templates::TemplateError;
pub use variables::{ENVIRONMENT_PREFIX, Variable, Variables};
