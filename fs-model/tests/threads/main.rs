//! Many threads on one tree, in the same directories: nothing is lost, torn, doubled or stuck.
//!
//! Every thread does the same amount of work, which its number and the round decide; what the
//! threads do to each other is up to the scheduler. So nothing here depends on speed, and the
//! same tests run under ThreadSanitizer (`make tsan`). `THREADS_STEPS` is how many steps a thread
//! does in a round, `THREADS_ROUNDS` how many rounds there are.

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

/// How many threads there are, however few processors.
const THREADS: u64 = 8;
/// Without a step of any thread for this long, they wait for each other for good.
const STUCK: Duration = Duration::from_secs(120);

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

/// Ends the process if what runs meanwhile stops making progress.
fn watched<T>(world: &World, run: impl FnOnce() -> T) -> T {
    let (done, waits) = channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut seen = world.progress();
            while waits.recv_timeout(STUCK) == Err(RecvTimeoutError::Timeout) {
                let now = world.progress();
                if now == seen {
                    eprintln!("no thread has made a step for {STUCK:?}: a deadlock");
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

/// Lets all threads work on `world`, and checks it after each round.
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
fn eight_threads_in_the_same_directories_of_a_layer() {
    let world = World::new(true, u64::MAX);
    run(&world, 5_000);
    check::nothing_is_left(world);
}

#[test]
fn eight_threads_in_the_same_directories_without_a_layer() {
    let world = World::new(false, u64::MAX);
    run(&world, 5_000);
    check::nothing_is_left(world);
}

/// What is refused for want of room has changed nothing, and what removes is never refused.
#[test]
fn eight_threads_in_an_upper_that_is_full() {
    let world = World::new(true, 40 << 10);
    run(&world, 5_000);
    assert!(world.was_full(), "there was room for everything");
    check::nothing_is_left(world);
}
