//! The boot server: a project's artifacts over HTTP, to read.
//!
//! Invariants:
//! - What can be asked for is in the [`Catalogue`] before it is asked for; no request is a path.
//! - A connection takes little memory, and a bounded one: a request's head has a largest size, there
//!   is no request body, and a response holds one piece of a file at a time (`body`).
//! - No client keeps a connection by doing nothing: a head that does not come, and a client that
//!   does not read, end it ([`Limits`]).
//! - Nothing that a client does, nor a lack of descriptors, ends the server or has it spin.

mod access;
mod artifact;
mod body;
mod boot;
mod catalogue;
mod conditions;
mod connection;
mod current;
mod entity;
mod host;
mod index;
mod machine;
mod page;
mod respond;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use connection::Connection;
use current::{Current, Source};
use respond::Site;

pub use access::{Observer, Served};
pub use catalogue::{Catalogue, CatalogueError};
pub use current::Read;
pub use machine::Parts;

/// The most connections at a time, if there are descriptors for as many.
const CONNECTIONS: usize = 16 << 10;

/// Descriptors for everything else but the files; of each of these there can be an old content as
/// well.
const OTHERS: usize = 32;

/// The most connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// How much the kernel takes of a response that it cannot send yet, in bytes. Without a limit it is
/// 4 MiB a connection; a thousand of them then have the kernel drop packets of all.
const UNSENT: u32 = 256 << 10;

/// The largest head of a request, and the most of its fields.
const HEAD: usize = 16 << 10;
const FIELDS: usize = 64;

/// How long to wait for descriptors when there are none.
const PAUSE: Duration = Duration::from_millis(50);

/// How long clients are waited for.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For the head of a request, from when the connection was made or the last response ended.
    pub head: Duration,
    /// For a client that takes not one byte.
    pub stall: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { head: Duration::from_secs(30), stall: Duration::from_secs(60) }
    }
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    runtime: Runtime,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// One is taken by each connection.
    places: Arc<Semaphore>,
    connections: usize,
    site: Arc<Site>,
}

impl Server {
    /// Listens at `address` and serves on threads of its own, until it is stopped. What is served is
    /// read by `read` anew when `file` changes.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn start(
        catalogue: Catalogue,
        file: &Path,
        read: Read,
        address: SocketAddr,
        limits: Limits,
    ) -> io::Result<Self> {
        let source = Source::new(file.to_owned(), read);
        Self::with(Current::new(catalogue, Some(source)), address, limits, None)
    }

    /// As [`Server::start`], of what does not change; `observer` is told of each response, once it
    /// has ended.
    ///
    /// # Errors
    /// When it cannot listen there.
    pub fn observed(
        catalogue: Catalogue,
        address: SocketAddr,
        limits: Limits,
        observer: Observer,
    ) -> io::Result<Self> {
        Self::with(Current::new(catalogue, None), address, limits, Some(observer))
    }

    fn with(
        current: Current,
        address: SocketAddr,
        limits: Limits,
        observer: Option<Observer>,
    ) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(64)
            .thread_name("serve")
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // What an earlier server's connections leave for a minute is no reason to wait.
            socket.set_reuseaddr(true)?;
            // A response's head and its last piece go out at once. What a client does not take waits
            // here, not in the kernel, whose memory for all connections is one. (What is accepted
            // has both from the listener.)
            socket.set_nodelay(true)?;
            SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?
        };
        let address = listener.local_addr()?;
        let others = OTHERS + 2 * current.known().files.len();
        let connections = CONNECTIONS.min(descriptors().saturating_sub(others)).max(1);
        let places = Arc::new(Semaphore::new(connections));
        let (stop, stopped) = watch::channel(false);
        let site = Arc::new(Site { current, pool: Arc::default(), observer });
        let learner = site.clone();
        runtime.spawn(async move { learner.learn().await });
        let accepting =
            Accepting { listener, site: site.clone(), limits, places: places.clone(), stopped };
        runtime.spawn(accepting.run());
        Ok(Server { runtime, address, stop, places, connections, site })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The script that boots the default, for a machine that reaches the server at this URL.
    ///
    /// # Errors
    /// Why there is none.
    pub fn script(&self, url: &str) -> Result<String, String> {
        self.runtime.block_on(self.site.default_script(url))
    }

    /// Accepts no more, and lets what is being sent come to its end, for as long as `grace` says or
    /// until `impatient` (asked now and then) says otherwise. How many were cut off.
    pub fn stop(self, grace: Duration, impatient: impl Fn() -> bool) -> usize {
        // The accepting task may have ended already.
        let _ = self.stop.send(true);
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        self.runtime.block_on(async {
            let done = pin!(self.places.acquire_many(all));
            let waiting = async {
                while !impatient() {
                    tokio::time::sleep(PAUSE).await;
                }
            };
            tokio::select! {
                _ = done => {}
                () = waiting => {}
                () = tokio::time::sleep(grace) => {}
            }
        });
        let left = self.connections - self.places.available_permits();
        self.runtime.shutdown_background();
        left
    }
}

/// Raises the limit of open files to what is allowed, and tells it.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

struct Accepting {
    listener: TcpListener,
    site: Arc<Site>,
    limits: Limits,
    places: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Accepting {
    async fn run(mut self) {
        let mut complained = false;
        loop {
            // Who stops the server waits for all places: behind that one nobody gets another.
            let place = tokio::select! {
                biased;
                () = asked(&mut self.stopped) => return,
                place = self.places.clone().acquire_owned() => place,
            };
            let Ok(place) = place else { return };
            let accepted = tokio::select! {
                biased;
                () = asked(&mut self.stopped) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    complained = false;
                    let (site, limits) = (self.site.clone(), self.limits);
                    tokio::spawn(converse(site, stream, peer, limits, self.stopped.clone(), place));
                }
                // The client has gone again.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Out of descriptors or of memory, most likely: some come back.
                    if !complained {
                        tracing::warn!("cannot accept connections: {error}");
                        complained = true;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// Waits until the server is asked to stop.
async fn asked(stopped: &mut watch::Receiver<bool>) {
    // A server that is gone asks, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Serves one connection to its end.
async fn converse(
    site: Arc<Site>,
    stream: TcpStream,
    peer: SocketAddr,
    limits: Limits,
    mut stopped: watch::Receiver<bool>,
    place: OwnedSemaphorePermit,
) {
    let _place = place;
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(respond::respond(&site, &request, peer, local).await) }
    });
    let io = TokioIo::new(Connection::new(stream, limits.stall));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(HEAD)
        .max_headers(FIELDS)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = asked(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("{peer}: {error}");
    }
}
