//! An overlay as a layer: newc cpio.
