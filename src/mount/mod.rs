//! A mount on the host: its server and the protocol by which it is sealed.

pub(crate) mod control;
pub(crate) mod host;
pub(crate) mod server;
