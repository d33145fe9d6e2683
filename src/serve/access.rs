//! The access log: one line per response, written when the response has ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper::{Method, StatusCode, Uri};

/// The access record of a response that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AccessRecord {
    /// The requested path, undecoded.
    pub path: String,
    /// The status of the response.
    pub status: u16,
    /// Body bytes that were sent.
    pub bytes: u64,
    /// Whether the whole body was sent.
    pub whole: bool,
}

/// A callback for finished responses. It runs on the server's threads.
pub(crate) type AccessObserver = Arc<dyn Fn(AccessRecord) + Send + Sync>;

/// A request that is being answered. Dropping it logs the request and calls the observer.
pub(super) struct Access {
    observer: Option<AccessObserver>,
    method: Method,
    uri: Uri,
    peer: SocketAddr,
    began: Instant,
    pub(super) status: StatusCode,
    /// Body bytes handed to the connection.
    pub(super) bytes: u64,
    /// Whether the whole body was handed over.
    pub(super) whole: bool,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").field("uri", &self.uri).finish_non_exhaustive()
    }
}

impl Access {
    /// Returns `None` when there is neither an observer nor a log to write to.
    pub(super) fn begin(
        method: &Method,
        uri: &Uri,
        peer: SocketAddr,
        observer: Option<AccessObserver>,
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
            observer(AccessRecord {
                path: self.uri.path().to_owned(),
                status: self.status.as_u16(),
                bytes: self.bytes,
                whole: self.whole,
            });
        }
        // hyper rejects control characters in a request; the subscriber escapes everything else
        // that could affect a terminal.
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
