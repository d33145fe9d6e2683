//! The tree against a model of it: random operations on random layers, with the same results,
//! the same view, and a delta that is the difference and nothing else.

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
