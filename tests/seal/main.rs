//! Archives as other programs see them.

mod support;
mod unpack;
