//! The boot server of one machine, on the host's loopback, and what it was asked for.

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

use super::{BootError, Parts, qemu};
use crate::serve::{Catalogue, Limits, Served, Server as Http};

/// What is waiting to be told.
#[derive(Debug, Default)]
struct Heard {
    served: Mutex<Vec<Served>>,
    bytes: AtomicU64,
}

/// A server that runs as long as this lives.
#[derive(Debug)]
pub(super) struct Server {
    http: Option<Http>,
    heard: Arc<Heard>,
    /// Readable when something was served.
    bell: PipeReader,
    /// The overlay in memory, which is served by its descriptor.
    _agent: Option<File>,
}

impl Server {
    /// Serves `parts`, with an overlay in memory over them, if there is one.
    pub(super) fn start(
        parts: &Parts,
        agent: Option<&[u8]>,
        parameters: &str,
    ) -> Result<Self, BootError> {
        let mut parts = parts.clone();
        let agent = agent.map(in_memory).transpose()?;
        if let Some(file) = &agent {
            parts.overlays.push(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
        }
        for path in [&parts.kernel, &parts.initrd, &parts.base].into_iter().chain(&parts.overlays) {
            let readable = File::open(path).and_then(|file| file.metadata());
            match readable {
                Ok(meta) if meta.is_file() => {}
                Ok(_) => {
                    let source = io::Error::other("it is no file, and so no machine can fetch it");
                    return Err(BootError::Artifact { path: path.clone(), source });
                }
                Err(source) => return Err(BootError::Artifact { path: path.clone(), source }),
            }
        }
        for path in &parts.overlays {
            let mut head = [0; 4];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut head));
            if read.is_ok() && &head == b"hsqs" {
                let source = io::Error::other(
                    "it is a squashfs image, and the overlays that a machine fetches are cpio archives",
                );
                return Err(BootError::Artifact { path: path.clone(), source });
            }
        }
        let heard = Arc::new(Heard::default());
        let (bell, ringer) = io::pipe()?;
        let tell = heard.clone();
        let told = move |served: Served| {
            tell.bytes.fetch_add(served.bytes, Ordering::Relaxed);
            tell.served.lock().push(served);
            // Nobody listens any more when the pipe is closed.
            let _ = (&ringer).write(&[0]);
        };
        let catalogue = Catalogue::machine(&parts, parameters)?;
        let address = (Ipv4Addr::LOCALHOST, 0).into();
        let http = Http::observed(catalogue, address, Limits::default(), Arc::new(told))?;
        // All that the machine would hear is that there is none.
        http.script(&url(&http)).map_err(BootError::Script)?;
        Ok(Server { http: Some(http), heard, bell, _agent: agent })
    }

    /// What the firmware is to load.
    pub(super) fn script(&self) -> String {
        format!("{}/boot.ipxe", self.http.as_ref().map(url).unwrap_or_default())
    }

    /// What was served since this was asked last.
    pub(super) fn served(&self) -> Vec<Served> {
        let mut rung = [0; 64];
        // There is something to read, or else there was nothing to ask for.
        let _ = (&self.bell).read(&mut rung);
        std::mem::take(&mut *self.heard.served.lock())
    }

    /// All bytes that were sent.
    pub(super) fn fetched(&self) -> u64 {
        self.heard.bytes.load(Ordering::Relaxed)
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(http) = self.http.take() {
            // Its only client is gone.
            http.stop(Duration::ZERO, || true);
        }
    }
}

/// Where the machine finds it.
fn url(http: &Http) -> String {
    format!("http://{}:{}", qemu::HOST, http.address().port())
}

fn in_memory(bytes: &[u8]) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"boot-agent.cpio.gz", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(bytes)?;
    Ok(file)
}
