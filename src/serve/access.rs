//! The access log: a line for each response, when it has ended.

use std::net::SocketAddr;
use std::time::Instant;

use hyper::{Method, StatusCode, Uri};

/// A request that is being answered; it is logged when this is dropped.
#[derive(Debug)]
pub(super) struct Access {
    method: Method,
    uri: Uri,
    peer: SocketAddr,
    began: Instant,
    pub(super) status: StatusCode,
    /// Those of the body that were handed to the connection.
    pub(super) bytes: u64,
    /// Whether these are all of them.
    pub(super) whole: bool,
}

impl Access {
    /// Nothing, when nobody wants to read it.
    pub(super) fn begin(method: &Method, uri: &Uri, peer: SocketAddr) -> Option<Self> {
        tracing::enabled!(tracing::Level::INFO).then(|| Access {
            method: method.clone(),
            uri: uri.clone(),
            peer,
            began: Instant::now(),
            status: StatusCode::OK,
            bytes: 0,
            whole: false,
        })
    }
}

impl Drop for Access {
    fn drop(&mut self) {
        let cut = if self.whole { "" } else { ", cut off" };
        // The path has printable ASCII characters alone: others are no request.
        tracing::info!(
            "{} {} {} {} bytes{cut} {:.3} s {}",
            self.method,
            self.uri.path(),
            self.status.as_u16(),
            self.bytes,
            self.began.elapsed().as_secs_f64(),
            self.peer
        );
    }
}
