//! Provisioners: directories that describe changes to an image.
//!
//! A [`Provisioner`] is read from a directory. A [`Plan`] combines provisioners with the variables
//! of an image into steps, and [`Plan::run`] runs these on a [`Machine`]: a root whose files can be
//! changed and in which commands can run. The crate does not depend on how that root is
//! implemented.
//!
//! An image file ([`Image`]) names the base, the provisioners, their variables and the output of an
//! image. A project file ([`Project`]) has several images.
//!
//! # Example
//!
//! Reads a provisioner and lists the steps of its plan:
//!
//! ```
//! use provisioners::{Plan, Provisioner};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let directory = tempfile::tempdir()?;
//! std::fs::write(
//!     directory.path().join("provisioner.yml"),
//!     "packages: [lldpd, ethtool]\nservices: {enable: [lldpd]}\ncleanup: {all: false}\n",
//! )?;
//!
//! let provisioner = Provisioner::load(directory.path())?;
//! let plan = Plan::new(&[provisioner])?;
//! let names: Vec<&str> = plan.steps().map(|step| step.name.as_str()).collect();
//! assert_eq!(names, ["packages (2)", "services"]);
//! # Ok(())
//! # }
//! ```
//!
//! To run it, call [`Plan::run`] with an implementation of [`Machine`].

#![forbid(unsafe_code)]

mod ansible;
pub mod cleanup;
mod config;
mod error;
mod evaluate;
mod folder;
mod glob;
pub mod image;
mod image_tests;
mod library;
mod library_files;
pub mod machine;
pub mod on_imagebuilder;
mod options;
mod plan;
pub mod project;
mod provisioner;
mod steps;
mod tail;
mod templates;
mod variables;

pub use ansible::review::{RoleProblem, RoleProblemKind};
pub use config::ConfigError;
pub use config::error::Mistake;
pub use config::nearest;
pub use error::StepError;
pub use folder::{Digest, FILE_NAME, Folder, NotInLibrary};
pub use glob::Pattern;
pub use image::Image;
pub use image_tests::ImageTest;
pub use library::library;
pub use machine::Machine;
pub use options::Options;
pub use plan::{Observer, Plan, PlanError, StepFailed, StepInfo};
pub use project::Project;
pub use provisioner::Provisioner;
pub use steps::availability::{ForecastAnswer, MissingPackage, PackageForecast, WantedPackage};
pub use templates::TemplateError;
pub use variables::{ENVIRONMENT_PREFIX, Variable, Variables};
