//! The boot server of one machine, on the host's loopback interface, and its access records.

use std::fs::File;
use std::io::{self, PipeReader, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;

use super::{BootError, MachineFiles, qemu};
use crate::serve::{AccessRecord, BootServer, Catalogue, ClientTimeouts};

/// Access records that have not been read yet.
#[derive(Debug, Default)]
struct AccessLog {
    served: Mutex<Vec<AccessRecord>>,
    bytes: AtomicU64,
}

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(super) struct ArtifactServer {
    http: Option<BootServer>,
    log: Arc<AccessLog>,
    /// Readable when there are new access records.
    wakeup: PipeReader,
    /// The agent's overlay in memory; it is served through its descriptor.
    _agent: Option<File>,
}

impl ArtifactServer {
    /// Serves the files, and the agent's overlay over them if there is one.
    pub(super) fn start(
        files: &MachineFiles,
        agent: Option<&[u8]>,
        parameters: &str,
    ) -> Result<Self, BootError> {
        let mut files = files.clone();
        let agent = agent.map(in_memory).transpose()?;
        if let Some(file) = &agent {
            files.overlays.push(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        }
        for path in [&files.kernel, &files.initrd, &files.base].into_iter().chain(&files.overlays) {
            let readable = File::open(path).and_then(|file| file.metadata());
            match readable {
                Ok(meta) if meta.is_file() => {}
                Ok(_) => {
                    let source = io::Error::other("not a regular file");
                    return Err(BootError::Artifact { path: path.clone(), source });
                }
                Err(source) => return Err(BootError::Artifact { path: path.clone(), source }),
            }
        }
        for path in &files.overlays {
            let mut head = [0; 4];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
            if read.is_ok() && &head == b"hsqs" {
                let source = io::Error::other(
                    "it is a squashfs image; a machine can only fetch overlays that are cpio archives",
                );
                return Err(BootError::Artifact { path: path.clone(), source });
            }
        }
        let log = Arc::new(AccessLog::default());
        let (wakeup, waker) = io::pipe()?;
        let log_writer = log.clone();
        let observer = move |served: AccessRecord| {
            log_writer.bytes.fetch_add(served.bytes, Ordering::Relaxed);
            log_writer.served.lock().push(served);
            // The write fails once the reading end is closed, which does not matter.
            let _ = (&waker).write(&[0]);
        };
        let catalogue = Catalogue::machine(&files, parameters)?;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let http = BootServer::start_observed(
            catalogue,
            address,
            ClientTimeouts::default(),
            Arc::new(observer),
        )?;
        // Fail here if there is no script: the machine would only get an error response.
        http.script(&url(&http)).map_err(BootError::Script)?;
        Ok(ArtifactServer { http: Some(http), log, wakeup, _agent: agent })
    }

    /// Returns the URL of the script that the firmware loads.
    pub(super) fn script(&self) -> String {
        format!("{}/boot.ipxe", self.http.as_ref().map(url).unwrap_or_default())
    }

    /// Returns the access records since the last call.
    pub(super) fn served(&self) -> Vec<AccessRecord> {
        let mut buffer = [0; 64];
        // The descriptor is readable: the caller has polled it.
        let _ = (&self.wakeup).read(&mut buffer);
        std::mem::take(&mut *self.log.served.lock())
    }

    /// Returns the number of body bytes sent.
    pub(super) fn fetched(&self) -> u64 {
        self.log.bytes.load(Ordering::Relaxed)
    }
}

impl AsFd for ArtifactServer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }
}

impl Drop for ArtifactServer {
    fn drop(&mut self) {
        if let Some(http) = self.http.take() {
            // Its only client has ended.
            http.stop(Duration::ZERO, || true);
        }
    }
}

/// Returns the URL at which the machine reaches the server.
fn url(http: &BootServer) -> String {
    format!("http://{}:{}", qemu::HOST, http.address().port())
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"boot-agent.cpio.gz", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
