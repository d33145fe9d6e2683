//! How the thread that reads the FUSE device waits for the next request.
//!
//! Waking a sleeping thread is most of what a FUSE request costs: 60 µs of 75 on an idle machine.
//! So after an answer the device is watched for a while before the thread goes to sleep on it. How
//! long is judged by how far apart the requests have been lately: somebody who walks over a tree
//! comes again at once, and is waited for; where requests are far apart, because
//! whoever asks has other things to do, watching would only take the processor from them. An idle
//! mount costs nothing.
//!
//! On a machine with a single processor nothing is watched: it would only keep the others from
//! running.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The longest that the device is watched after an answer: what it costs in vain at most. Measured
/// on the main job, on listing an image and on making files: more hardly helps the last two, and
/// costs the first.
const MOST_PATIENCE: Duration = Duration::from_micros(100);

/// Requests that are further apart than this on average are not waited for.
const QUICK: Duration = Duration::from_micros(120);

/// A pause counts as this long at most: one alone says little.
const LONGEST_GAP: Duration = Duration::from_micros(300);

/// How far apart requests are: the mean time from an answer to the next request, in nanoseconds,
/// of which the latest gap makes a quarter.
#[derive(Debug)]
struct Pace(AtomicU64);

impl Pace {
    fn new() -> Pace {
        Pace(AtomicU64::new(LONGEST_GAP.as_nanos() as u64))
    }

    /// A request came this long after the last answer.
    fn note(&self, gap: Duration) {
        let gap = gap.min(LONGEST_GAP).as_nanos() as u64;
        let mean = self.0.load(Ordering::Relaxed);
        self.0.store((mean * 3 + gap) / 4, Ordering::Relaxed);
    }

    /// How long the next request is worth waiting for.
    fn patience(&self) -> Option<Duration> {
        let mean = Duration::from_nanos(self.0.load(Ordering::Relaxed));
        (mean < QUICK).then(|| (mean * 2 + Duration::from_micros(20)).min(MOST_PATIENCE))
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
            pace: Pace::new(),
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
        let (Some(device), Some(patience)) = (&self.device, self.pace.patience()) else { return };
        // Whatever poll has to say, reading the device says it too.
        while poll(&mut [PollFd::new(device.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)
            == Ok(0)
            && self.begun.elapsed() - now < patience
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
    fn who_comes_again_soon_is_waited_for_and_nobody_else() {
        let (quick, slow) = (Duration::from_micros(20), Duration::from_millis(5));
        let pace = Pace::new();
        assert_eq!(pace.patience(), None);
        let quick_ones = |count| (0..count).for_each(|_| pace.note(quick));
        quick_ones(10);
        let settled = pace.patience().unwrap();
        assert!(settled >= quick * 2 && settled < MOST_PATIENCE, "{settled:?}");
        pace.note(slow);
        assert!(pace.patience().is_some(), "a single pause says little");
        pace.note(slow);
        assert_eq!(pace.patience(), None);
        quick_ones(1000);
        pace.note(slow);
        pace.note(slow);
        assert_eq!(pace.patience(), None, "however long it went well before");
    }
}
