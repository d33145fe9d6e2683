//! Threads for reads that have to decode a block, so that the thread that reads the device can go
//! on with fast requests, and all processors decode.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

type WorkerJob = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that run jobs from one queue.
#[derive(Debug)]
pub(super) struct WorkerPool {
    queue: Sender<WorkerJob>,
}

impl WorkerPool {
    /// Starts one thread per processor. They end when this is dropped and their jobs are done.
    pub(super) fn start() -> io::Result<WorkerPool> {
        let (queue, jobs) = channel::<WorkerJob>();
        let jobs = Arc::new(Mutex::new(jobs));
        let count = std::thread::available_parallelism().map_or(1, |n| n.get());
        for n in 0..count {
            let jobs = jobs.clone();
            std::thread::Builder::new()
                .name(format!("fuse-reader-{n}"))
                .spawn(move || work(&jobs))?;
        }
        Ok(WorkerPool { queue })
    }

    /// Runs `job` on one of the threads.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // The threads live as long as the queue. If they have ended, the job runs here.
        if let Err(unsent) = self.queue.send(Box::new(job)) {
            (unsent.0)();
        }
    }
}

fn work(jobs: &Mutex<Receiver<WorkerJob>>) {
    loop {
        // The lock is held while waiting, and released before working.
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match job {
            Ok(job) => job(),
            Err(_) => return,
        }
    }
}
