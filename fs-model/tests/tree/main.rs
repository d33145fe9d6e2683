//! Tests of the tree against a reference model: random operations on random layers must have the
//! same results, show the same tree, and result in a minimal and complete delta.

mod acl;
mod behaviour;
mod compare;
mod delta;
mod generate;
mod harness;
mod layer;
mod listing;
mod operations;
mod properties;
mod reference;
mod replay;
mod scale;
mod scratch;
