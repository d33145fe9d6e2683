//! How the thread that reads the FUSE device waits for the next request.
//!
//! Most of the cost of a FUSE request is waking a sleeping thread: 60 µs of 75 on an idle machine.
//! So after a reply the thread polls the device for a while before it sleeps. The duration depends
//! on the time between recent requests: a program that walks a tree sends the next one at once, so
//! the thread polls. If requests are far apart, because the programs do other work, polling would
//! only take processor time from them. An idle mount costs nothing.
//!
//! On a machine with a single processor the thread does not poll: that would keep other processes
//! from running.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Maximum time to poll after a reply; bounds the processor time wasted when no request follows.
/// Measured on builds, on listing an image and on creating files: more hardly helps the last two,
/// and slows the first.
const MAX_POLL_TIME: Duration = Duration::from_micros(100);

/// Mean time between requests above which the thread does not poll.
const MAX_MEAN_GAP: Duration = Duration::from_micros(120);

/// Longer pauses are counted as this long, so that a single one has little effect.
const MAX_GAP: Duration = Duration::from_micros(300);

/// The mean time from a reply to the next request, in nanoseconds. The latest gap has a weight of
/// one quarter.
#[derive(Debug)]
struct Pace(AtomicU64);

impl Pace {
    fn new() -> Pace {
        Pace(AtomicU64::new(MAX_GAP.as_nanos() as u64))
    }

    /// Records the time between the last reply and a request.
    fn note(&self, gap: Duration) {
        let gap = gap.min(MAX_GAP).as_nanos() as u64;
        let mean = self.0.load(Ordering::Relaxed);
        self.0.store((mean * 3 + gap) / 4, Ordering::Relaxed);
    }

    /// Returns how long to poll for the next request, if at all.
    fn poll_time(&self) -> Option<Duration> {
        let mean = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        (mean < MAX_MEAN_GAP).then(|| (mean * 2 + Duration::from_micros(20)).min(MAX_POLL_TIME))
    }
}

/// Polls the device of a session whose requests one thread reads. With more threads the measured
/// gaps would be wrong, but nothing else.
#[derive(Debug)]
pub(super) struct DevicePoller {
    /// The session's device; `None` if it is not polled.
    device: Option<OwnedFd>,
    pace: Pace,
    begun: Instant,
    /// When the last request was answered or handed over, in nanoseconds since `begun`.
    answered: AtomicU64,
}

impl DevicePoller {
    pub(super) fn new(device: &OwnedFd) -> io::Result<DevicePoller> {
        let parallel = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        Ok(DevicePoller {
            device: parallel.then(|| device.try_clone()).transpose()?,
            pace: Pace::new(),
            begun: Instant::now(),
            answered: AtomicU64::new(0),
        })
    }

    /// Records a request. Keep the returned guard until the request is answered.
    pub(super) fn request(&self) -> ServedRequest<'_> {
        let answered = Duration::from_nanos(self.answered.load(Ordering::Relaxed));
        self.pace.note(self.begun.elapsed().saturating_sub(answered));
        ServedRequest { poller: self }
    }

    /// Records that the thread has finished a request, and returns the time.
    fn done(&self) -> Duration {
        let now = self.begun.elapsed();
        self.answered.store(now.as_nanos() as u64, Ordering::Relaxed);
        now
    }

    fn answered(&self) {
        let now = self.done();
        let (Some(device), Some(poll_time)) = (&self.device, self.pace.poll_time()) else { return };
        // Reading the device reports any error of poll too.
        while poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            == Ok(0)
            && self.begun.elapsed() - now < poll_time
        {}
    }
}

/// A request that the thread that read it is answering. Dropping this, which must happen after the
/// reply, polls for the next request.
#[derive(Debug)]
pub(super) struct ServedRequest<'a> {
    poller: &'a DevicePoller,
}

impl ServedRequest<'_> {
    /// Leaves the reply to other threads, which need the processor: the device is not polled.
    pub(super) fn hand_over(self) {
        self.poller.done();
        std::mem::forget(self);
    }
}

impl Drop for ServedRequest<'_> {
    fn drop(&mut self) {
        self.poller.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_is_polled_while_requests_come_quickly() {
        let (quick, slow) = (Duration::from_micros(20), Duration::from_millis(5));
        let pace = Pace::new();
        assert_eq!(pace.poll_time(), None);
        let quick_ones = |count| (0..count).for_each(|_| pace.note(quick));
        quick_ones(10);
        let settled = pace.poll_time().unwrap();
        assert!(settled >= quick * 2 && settled < MAX_POLL_TIME, "{settled:?}");
        pace.note(slow);
        assert!(pace.poll_time().is_some(), "a single pause has little effect");
        pace.note(slow);
        assert_eq!(pace.poll_time(), None);
        quick_ones(1000);
        pace.note(slow);
        pace.note(slow);
        assert_eq!(pace.poll_time(), None, "regardless of earlier requests");
    }
}
