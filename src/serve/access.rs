//! The access log: a line for each response, when it has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::{Method, StatusCode, Uri};

/// A response that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Served {
    /// The path that was asked for, as it came.
    pub path: String,
    /// The status of the response.
    pub status: u16,
    /// Bytes of its body that were sent.
    pub bytes: u64,
    /// Whether these are all of them.
    pub whole: bool,
}

/// Who is told of responses, on the server's threads.
pub type Observer = Arc<dyn Fn(Served) + Send + Sync>;

/// A request that is being answered; it is told when this is dropped.
pub(super) struct Access {
    observer: Option<Observer>,
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

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Access {
    /// Nothing, when nobody wants to read it.
    pub(super) fn begin(
        method: &Method,
        uri: &Uri,
        peer: SocketAddr,
        observer: Option<Observer>,
    ) -> Option<Self> {
        let wanted = observer.is_some() || tracing::enabled!(tracing::Level::INFO);
        wanted.then(|| Access {
            observer,
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
        if let Some(observer) = &self.observer {
            observer(Served {
                path: self.uri.path().to_owned(),
                status: self.status.as_u16(),
                bytes: self.bytes,
                whole: self.whole,
            });
        }
        // Control characters are no request, and what else does something to a terminal the
        // subscriber escapes.
        tracing::info!(
            "{} {} {} {} {} bytes{cut} {:.3} s {}",
            httpdate::fmt_http_date(std::time::SystemTime::now()),
            self.method,
            self.uri.path(),
            self.status.as_u16(),
            self.bytes,
            self.began.elapsed().as_secs_f64(),
            self.peer
        );
    }
}
