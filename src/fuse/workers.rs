//! Threads for reads that have to decode a block, so that the thread that reads the device can go
//! on with fast requests, and all processors decode.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

type WorkerJob = Box<dyn FnOnce() + Send>;

/// A fixed number of threads that run jobs from one queue.
#[derive(Debug)]
pub(super) struct WorkerPool {
    /// `None` while this is dropped.
    queue: Option<Sender<WorkerJob>>,
    threads: Vec<JoinHandle<()>>,
}

impl WorkerPool {
    /// Starts one thread per processor.
    pub(super) fn start() -> io::Result<WorkerPool> {
        let (queue, jobs) = channel::<WorkerJob>();
        let jobs = Arc::new(Mutex::new(jobs));
        let count = std::thread::available_parallelism().map_or(1, |n| n.get());
        let mut threads = Vec::with_capacity(count);
        for n in 0..count {
            let jobs = jobs.clone();
            let thread = std::thread::Builder::new().name(format!("fuse-reader-{n}"));
            threads.push(thread.spawn(move || work(&jobs))?);
        }
        Ok(WorkerPool { queue: Some(queue), threads })
    }

    /// Runs `job` on one of the threads.
    pub(super) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let job: WorkerJob = Box::new(job);
        // The threads live as long as the queue. If they have ended, the job runs here.
        if let Some(Err(unsent)) = self.queue.as_ref().map(|queue| queue.send(job)) {
            (unsent.0)();
        }
    }
}

/// Waits for the threads: a process that forks later must not have any.
impl Drop for WorkerPool {
    fn drop(&mut self) {
        drop(self.queue.take());
        for thread in self.threads.drain(..) {
            let _ = thread.join();
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
