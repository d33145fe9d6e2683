//! Many threads on one tree, in the same directories: no change is lost, torn or duplicated, and no
//! thread hangs.
//!
//! Every thread does a fixed amount of work that depends on its number and the round. Only the
//! interleaving depends on the scheduler. So the tests do not depend on speed, and also run under
//! ThreadSanitizer (`make tsan`). `THREADS_STEPS` is the number of steps of a thread per round,
//! `THREADS_ROUNDS` the number of rounds.

mod check;
#[path = "../tree/layer.rs"]
#[allow(dead_code, reason = "the tests of the tree use the rest of it")]
mod layer;
mod work;
mod world;

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use crate::work::Worker;
use crate::world::World;

/// Number of threads, regardless of the number of processors.
const THREADS: u64 = 8;
/// Time without progress of any thread after which a deadlock is assumed.
const STUCK: Duration = Duration::from_secs(120);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Ends the process if `run` stops making progress.
fn watched<T>(world: &World, run: impl FnOnce() -> T) -> T {
    let (done, waits) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut seen = world.progress();
            while waits.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout) {
                let now = world.progress();
                if now == seen {
                    eprintln!("no thread made progress for {STUCK:?}: deadlock");
                    std::process::abort();
                }
                seen = now;
            }
        });
        let result = run();
        drop(done);
        result
    })
}

/// Runs all threads on `world`, and checks it after each round.
fn run(world: &World, steps: u64) {
    let steps = from_env("THREADS_STEPS", steps);
    watched(world, || {
        for round in 0..from_env("THREADS_ROUNDS", 2) {
            thread::scope(|scope| {
                for thread in 0..THREADS {
                    scope.spawn(move || Worker::new(world, thread, round).work(steps));
                }
            });
            check::at_rest(world);
        }
    });
}

#[test]
fn eight_threads_share_directories_of_a_layer() {
    let world = World::new(true, u64::MAX);
    run(&world, 5_000);
    check::nothing_is_left(world);
}

#[test]
fn eight_threads_share_directories_without_layers() {
    let world = World::new(false, u64::MAX);
    run(&world, 5_000);
    check::nothing_is_left(world);
}

/// An operation that fails for lack of space changes nothing, and removals never fail for it.
#[test]
fn eight_threads_share_a_full_upper() {
    let world = World::new(true, 40 << 10);
    run(&world, 5_000);
    assert!(world.was_full(), "the upper was never full");
    check::nothing_is_left(world);
}
