//! Whether the thread that reads the FUSE device spins or sleeps.
//!
//! Waking a sleeping thread is most of what a FUSE request costs. While requests come one after the
//! other, the device is therefore read without blocking, in a loop; once none has come for
//! [`WINDOW`], reading blocks again, so an idle mount costs nothing. fuser's own loop tries again
//! on `EAGAIN`: switching `O_NONBLOCK` on the open device is all that is needed.
//!
//! On a machine with a single processor it never spins: it would only keep the others from running.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

/// How long the device is polled after a request before the thread goes to sleep.
const WINDOW: Duration = Duration::from_micros(400);

#[derive(Debug)]
struct Shared {
    /// The same open device that the session reads.
    device: OwnedFd,
    flags: OFlag,
    requests: AtomicU64,
    sleeping: AtomicBool,
    ended: AtomicBool,
}

impl Shared {
    fn set_blocking(&self, blocking: bool) {
        let mut flags = self.flags;
        flags.set(OFlag::O_NONBLOCK, !blocking);
        // Should it fail, requests cost more and nothing else.
        if let Err(errno) = fcntl(self.device.as_fd(), FcntlArg::F_SETFL(flags)) {
            tracing::debug!(%errno, "cannot switch the FUSE device's blocking mode");
        }
    }
}

/// Switches the device between polling and sleeping. Ends with the session that it is dropped with.
#[derive(Debug)]
pub(super) struct Governor {
    shared: Option<(Arc<Shared>, Thread)>,
    thread: Option<JoinHandle<()>>,
}

impl Governor {
    pub(super) fn start(device: &OwnedFd) -> io::Result<Governor> {
        let parallel = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        if !parallel {
            return Ok(Governor { shared: None, thread: None });
        }
        let flags = OFlag::from_bits_retain(fcntl(device.as_fd(), FcntlArg::F_GETFL)?);
        let shared = Arc::new(Shared {
            device: device.try_clone()?,
            flags,
            requests: AtomicU64::new(0),
            sleeping: AtomicBool::new(true),
            ended: AtomicBool::new(false),
        });
        let watched = shared.clone();
        let thread = std::thread::Builder::new()
            .name("fuse-governor".into())
            .spawn(move || watch(&watched))?;
        let handle = thread.thread().clone();
        Ok(Governor { shared: Some((shared, handle)), thread: Some(thread) })
    }

    /// A request came in.
    pub(super) fn request(&self) {
        let Some((shared, thread)) = &self.shared else { return };
        shared.requests.fetch_add(1, Ordering::Relaxed);
        if shared.sleeping.load(Ordering::Relaxed) && shared.sleeping.swap(false, Ordering::AcqRel)
        {
            shared.set_blocking(false);
            thread.unpark();
        }
    }
}

impl Governor {
    /// What comes next is not worth polling for: others need the processor.
    pub(super) fn rest(&self) {
        let Some((shared, _)) = &self.shared else { return };
        if !shared.sleeping.swap(true, Ordering::AcqRel) {
            shared.set_blocking(true);
        }
    }
}

fn watch(shared: &Shared) {
    let mut seen = 0;
    while !shared.ended.load(Ordering::Acquire) {
        if shared.sleeping.load(Ordering::Acquire) {
            std::thread::park();
            continue;
        }
        std::thread::sleep(WINDOW);
        let now = shared.requests.load(Ordering::Relaxed);
        if now == seen {
            shared.set_blocking(true);
            shared.sleeping.store(true, Ordering::Release);
        }
        seen = now;
    }
}

impl Drop for Governor {
    fn drop(&mut self) {
        if let Some((shared, handle)) = &self.shared {
            shared.ended.store(true, Ordering::Release);
            handle.unpark();
        }
        if let Some(thread) = self.thread.take() {
            // It holds nothing but its own clone of the device.
            let _ = thread.join();
        }
    }
}
