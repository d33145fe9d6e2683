//! The boot server: serves a project's artifacts over HTTP, read-only.
//!
//! Invariants:
//! - All names that can be requested are in the [`Catalogue`] before the request; no request is
//!   used as a path.
//! - Memory per connection is bounded: the size of a request's head is limited, request bodies are
//!   rejected, and a response holds one chunk of a file at a time (`body`).
//! - Idle clients lose their connection: one that does not send a request head in time, and one
//!   that does not read ([`ClientTimeouts`]).
//! - Neither a client nor a lack of file descriptors ends the server or makes it spin.

mod access;
mod artifact;
mod body;
mod catalogue;
mod conditions;
mod connection;
mod current_catalogue;
mod entity;
mod host;
mod index;
mod ipxe;
mod machine_files;
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
use current_catalogue::{CatalogueSource, CurrentCatalogue};
use respond::Site;

pub(crate) use access::{AccessObserver, AccessRecord};
pub(crate) use catalogue::{Catalogue, CatalogueError};
pub(crate) use current_catalogue::ReadCatalogue;
pub(crate) use machine_files::MachineFiles;

/// Maximum number of concurrent connections. The limit of open files can lower it.
const MAX_CONNECTIONS: usize = 16 << 10;

/// File descriptors reserved for purposes other than connections and artifacts. (Each artifact can
/// be open twice: with its old and with its new content.)
const RESERVED_DESCRIPTORS: usize = 32;

/// Maximum number of connections waiting to be accepted.
const BACKLOG: u32 = 4096;

/// Maximum bytes of unsent response data that the kernel buffers per connection. The default is
/// 4 MiB; with a thousand such connections, the kernel drops packets of all of them.
const MAX_UNSENT_BYTES: u32 = 256 << 10;

/// Maximum size of a request's head, in bytes.
const MAX_HEAD_SIZE: usize = 16 << 10;
/// Maximum number of header fields of a request.
const MAX_HEADER_FIELDS: usize = 64;

/// Delay before retrying when no file descriptors are available.
const RETRY_DELAY: Duration = Duration::from_millis(50);

/// Timeouts for clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientTimeouts {
    /// For receiving the head of a request, from the connection or the end of the last response.
    pub head: Duration,
    /// For a client that does not read a single byte.
    pub stall: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> Self {
        ClientTimeouts { head: Duration::from_secs(30), stall: Duration::from_secs(60) }
    }
}

/// A running server.
#[derive(Debug)]
pub(crate) struct BootServer {
    runtime: Runtime,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// Connection permits; each connection holds one.
    permits: Arc<Semaphore>,
    connections: usize,
    site: Arc<Site>,
}

impl BootServer {
    /// Listens at `address` and serves on its own threads until it is stopped. When `file` changes,
    /// the catalogue is read again with `read`.
    ///
    /// # Errors
    /// Fails if the server cannot listen at `address`.
    pub(crate) fn start(
        catalogue: Catalogue,
        file: &Path,
        read: ReadCatalogue,
        address: SocketAddr,
        timeouts: ClientTimeouts,
    ) -> io::Result<Self> {
        let source = CatalogueSource::new(file.to_owned(), read);
        Self::launch(CurrentCatalogue::new(catalogue, Some(source)), address, timeouts, None)
    }

    /// Starts a server with a fixed catalogue. `observer` is called when a response has ended.
    ///
    /// # Errors
    /// Fails if the server cannot listen at `address`.
    pub(crate) fn start_observed(
        catalogue: Catalogue,
        address: SocketAddr,
        timeouts: ClientTimeouts,
        observer: AccessObserver,
    ) -> io::Result<Self> {
        Self::launch(CurrentCatalogue::new(catalogue, None), address, timeouts, Some(observer))
    }

    fn launch(
        current: CurrentCatalogue,
        address: SocketAddr,
        timeouts: ClientTimeouts,
        observer: Option<AccessObserver>,
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
            // Connections of a previous server in TIME_WAIT must not block the address.
            socket.set_reuseaddr(true)?;
            // Accepted sockets inherit both options from the listener. Heads and last chunks are
            // sent without delay. Unread data waits in this process, because the kernel's TCP
            // memory is shared by all connections.
            socket.set_nodelay(true)?;
            SockRef::from(&socket).set_tcp_notsent_lowat(MAX_UNSENT_BYTES)?;
            socket.bind(address)?;
            socket.listen(BACKLOG)?
        };
        let address = listener.local_addr()?;
        let others = RESERVED_DESCRIPTORS + 2 * current.known().files.len();
        let connections =
            MAX_CONNECTIONS.min(raise_descriptor_limit().saturating_sub(others)).max(1);
        let permits = Arc::new(Semaphore::new(connections));
        let (stop, stopped) = watch::channel(false);
        let site = Arc::new(Site { current, pool: Arc::default(), observer });
        let hashing = site.clone();
        runtime.spawn(async move { hashing.hash_artifacts().await });
        let acceptor =
            Acceptor { listener, site: site.clone(), timeouts, permits: permits.clone(), stopped };
        runtime.spawn(acceptor.run());
        Ok(BootServer { runtime, address, stop, permits, connections, site })
    }

    /// Returns the address that it listens at.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the script that boots the default image, for a machine that uses this URL.
    ///
    /// # Errors
    /// Fails if there is no default, or it cannot be booted.
    pub(crate) fn script(&self, url: &str) -> Result<String, String> {
        self.runtime.block_on(self.site.default_script(url))
    }

    /// Stops accepting connections and waits until running responses have ended, at most for
    /// `grace` or until `impatient`, which is polled, returns true. Returns the number of
    /// connections that were cut off.
    pub(crate) fn stop(self, grace: Duration, impatient: impl Fn() -> bool) -> usize {
        // The acceptor task may have ended already.
        let _ = self.stop.send(true);
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        self.runtime.block_on(async {
            let done = pin!(self.permits.acquire_many(all));
            let waiting = async {
                while !impatient() {
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            };
            tokio::select! {
                _ = done => {}
                () = waiting => {}
                () = tokio::time::sleep(grace) => {}
            }
        });
        let left = self.connections - self.permits.available_permits();
        self.runtime.shutdown_background();
        left
    }
}

/// Raises the soft limit of open files to the hard limit, and returns it.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let limit = if raised.is_ok() { limit.maximum } else { limit.current };
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

struct Acceptor {
    listener: TcpListener,
    site: Arc<Site>,
    timeouts: ClientTimeouts,
    permits: Arc<Semaphore>,
    stopped: watch::Receiver<bool>,
}

impl Acceptor {
    async fn run(mut self) {
        let mut warned = false;
        loop {
            // `BootServer::stop` queues for every permit; the semaphore is fair, so no connection
            // is admitted after it.
            let permit = tokio::select! {
                biased;
                () = stop_requested(&mut self.stopped) => return,
                permit = self.permits.clone().acquire_owned() => permit,
            };
            let Ok(permit) = permit else { return };
            let accepted = tokio::select! {
                biased;
                () = stop_requested(&mut self.stopped) => return,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    warned = false;
                    let (site, timeouts) = (self.site.clone(), self.timeouts);
                    tokio::spawn(serve_connection(
                        site,
                        stream,
                        peer,
                        timeouts,
                        self.stopped.clone(),
                        permit,
                    ));
                }
                // The client has disconnected.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Probably out of descriptors or memory; retry until some are released.
                    if !warned {
                        tracing::warn!("cannot accept connections: {error}");
                        warned = true;
                    }
                    tokio::time::sleep(RETRY_DELAY).await;
                }
            }
        }
    }
}

/// Waits until the server is asked to stop.
async fn stop_requested(stopped: &mut watch::Receiver<bool>) {
    // A dropped `BootServer` also counts as a request to stop.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

/// Serves one connection to its end.
async fn serve_connection(
    site: Arc<Site>,
    stream: TcpStream,
    peer: SocketAddr,
    timeouts: ClientTimeouts,
    mut stopped: watch::Receiver<bool>,
    permit: OwnedSemaphorePermit,
) {
    let _permit = permit;
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(respond::respond(&site, &request, peer, local).await) }
    });
    let io = TokioIo::new(Connection::new(stream, timeouts.stall));
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_buf_size(MAX_HEAD_SIZE)
        .max_headers(MAX_HEADER_FIELDS)
        .serve_connection(io, service);
    let mut serving = pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop_requested(&mut stopped) => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("{peer}: {error}");
    }
}
