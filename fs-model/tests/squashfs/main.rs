//! Tests of the squashfs layer. Those with damaged images are in `squashfs_hostile`, which limits
//! the memory of its process.

mod behaviour;
mod kernel;
mod support;
