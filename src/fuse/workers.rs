//! Threads for the reads that have to decode a block first, so that the thread that reads the
//! device can go on with the requests that take microseconds, and so that all processors decode.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type Job = Box<dyn FnOnce() + Send>;

/// A fixed set of threads that take jobs from one queue.
#[derive(Debug)]
pub(super) struct Workers {
    queue: Sender<Job>,
}

impl Workers {
    /// Starts as many threads as there are processors. They end when the set is dropped and their
    /// jobs are done.
    pub(super) fn start() -> io::Result<Workers> {
        let (queue, jobs) = channel::<Job>();
        let jobs = Arc::new(Mutex::new(jobs));
        let count = std::thread::available_parallelism().map_or(1, |n| n.get());
        for n in 0..count {
            let jobs = jobs.clone();
            std::thread::Builder::new()
                .name(format!("fuse-reader-{n}"))
                .spawn(move || work(&jobs))?;
        }
        Ok(Workers { queue })
    }

    /// Has `job` done by one of the threads.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as the queue; were they gone, the job would be done here.
        if let Err(unsent) = self.queue.send(Box::new(job)) {
            (unsent.0)();
        }
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting and let go before working.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
