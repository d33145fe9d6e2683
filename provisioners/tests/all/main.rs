//! Tests of provisioners, image files and project files, on a folder as the machine. One binary,
//! because each would be linked with the whole crate.

mod cleanup;
mod common;
mod conditions;
mod debian;
mod image_tests;
mod inputs;
mod library;
mod mistakes;
mod on_imagebuilder;
mod role_review;
mod schema;
mod steps;
