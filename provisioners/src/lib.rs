//! Provisioners: folders that say what to change in an image.
#![forbid(unsafe_code)]
