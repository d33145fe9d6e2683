//! Archives as other programs see them.

mod outputs;
mod roundtrip;
mod streams;
mod support;
mod unpack;
