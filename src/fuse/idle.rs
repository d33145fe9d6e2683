//! How the thread that reads the FUSE device waits for the next request.
//!
//! Waking a sleeping thread is most of what a FUSE request costs: 60 µs of 75 on an idle machine.
//! So after an answer the device is watched for up to [`PATIENCE`] before the thread goes to sleep
//! on it: what watching costs at most is what it can save. Where requests are far apart, because
//! whoever asks has other things to do, watching only takes the processor from them; so it is
//! done while they come in quick succession, and not otherwise. An idle mount costs nothing.
//!
//! On a machine with a single processor nothing is watched: it would only keep the others from
//! running.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long the device is watched after an answer. Measured on the main job, on listing an image
/// and on making files: from 30 to 100 µs make no difference to the last two, and what is longer
/// costs the first.
const PATIENCE: Duration = Duration::from_micros(40);

/// A request that comes within this time of the last answer is in quick succession to it, the
/// time to wake up for it included.
const QUICK: Duration = Duration::from_micros(100);

/// How far apart requests are, by the latest few: a counter that has to be pushed twice before it
/// changes its mind.
#[derive(Debug, Default)]
struct Pace(AtomicU32);

impl Pace {
    const MOST: u32 = 3;

    /// A request came this long after the last answer.
    fn note(&self, gap: Duration) {
        let pace = self.0.load(Ordering::Relaxed);
        let pace = if gap < QUICK { (pace + 1).min(Self::MOST) } else { pace.saturating_sub(1) };
        self.0.store(pace, Ordering::Relaxed);
    }

    fn is_quick(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= 2
    }
}

/// Watches the device of a session whose requests one thread reads. More threads would do no harm
/// but to its judgement.
#[derive(Debug)]
pub(super) struct Watch {
    /// The same open device that the session reads; `None` where it is not watched.
    device: Option<OwnedFd>,
    pace: Pace,
    begun: Instant,
    /// When the last request was answered or handed over, in nanoseconds since `begun`.
    answered: AtomicU64,
}

impl Watch {
    pub(super) fn new(device: &OwnedFd) -> io::Result<Watch> {
        let parallel = std::thread::available_parallelism().is_ok_and(|n| n.get() > 1);
        Ok(Watch {
            device: parallel.then(|| device.try_clone()).transpose()?,
            pace: Pace::default(),
            begun: Instant::now(),
            answered: AtomicU64::new(0),
        })
    }

    /// A request came in. Keep what this gives until it is answered.
    pub(super) fn request(&self) -> Request<'_> {
        let answered = Duration::from_nanos(self.answered.load(Ordering::Relaxed));
        self.pace.note(self.begun.elapsed().saturating_sub(answered));
        Request { watch: self }
    }

    /// The thread has done its part for a request. Gives the time.
    fn done(&self) -> Duration {
        let now = self.begun.elapsed();
        self.answered.store(now.as_nanos() as u64, Ordering::Relaxed);
        now
    }

    fn answered(&self) {
        let now = self.done();
        let Some(device) = self.device.as_ref().filter(|_| self.pace.is_quick()) else { return };
        // Whatever poll has to say, reading the device says it too.
        while poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            == Ok(0)
            && self.begun.elapsed() - now < PATIENCE
        {}
    }
}

/// A request that is being answered by the thread that read it. Dropping it, which must come after
/// the answer, watches for the next one.
#[derive(Debug)]
pub(super) struct Request<'a> {
    watch: &'a Watch,
}

impl Request<'_> {
    /// Others answer it, and need the processor for that: nothing is watched.
    pub(super) fn hand_over(self) {
        self.watch.done();
        std::mem::forget(self);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.watch.answered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_is_watched_while_requests_come_quickly_and_not_otherwise() {
        let (quick, slow) = (Duration::from_micros(20), Duration::from_millis(5));
        let pace = Pace::default();
        assert!(!pace.is_quick());
        pace.note(quick);
        assert!(!pace.is_quick(), "one alone says nothing");
        pace.note(quick);
        assert!(pace.is_quick());
        for _ in 0..1000 {
            pace.note(quick);
        }
        pace.note(slow);
        assert!(pace.is_quick(), "a single pause says nothing");
        pace.note(slow);
        assert!(!pace.is_quick());
        pace.note(slow);
        pace.note(quick);
        assert!(!pace.is_quick());
    }
}
