//! The record of an artifact's entries and of the lower entries that they hide.

pub mod lower;
