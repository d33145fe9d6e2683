//! What a sandbox costs to start: `cargo test --release --test sandbox_cost -- --ignored --nocapture`.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use overcoat::sandbox::{CommandSpec, Sandbox, Supervisor};
use support::{MemFs, at_both_privileges, make_mount_points, plan, serve};

#[test]
#[ignore = "a measurement"]
fn start_up() {
    at_both_privileges("start_up", || {
        // fuser's buffers have 16 MiB each: mapped afresh they cost nothing, but once one was
        // freed, glibc takes the next from the heap and fills it with zeros.
        // SAFETY: sets a number of the allocator.
        unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
        let fs = MemFs::from_tar(&support::base(), 65536);
        make_mount_points(&plan(), &fs);
        let mut times: [Vec<Duration>; 5] = Default::default();
        for _ in 0..41 {
            let mut last = Instant::now();
            let mut lap = |index: usize| {
                times[index].push(last.elapsed());
                last = Instant::now();
            };
            let mut starting = Sandbox::fork(plan()).unwrap();
            lap(0);
            let session = serve(&mut starting, &fs);
            lap(1);
            let mut sandbox = starting.enter().unwrap();
            let supervisor = Supervisor::start(&mut sandbox, Arc::new(fs.clone())).unwrap();
            lap(2);
            let mut child = sandbox.spawn(&CommandSpec::new(["/bin/true"])).unwrap();
            assert!(child.wait().unwrap().success());
            lap(3);
            sandbox.shutdown();
            supervisor.join();
            session.join().unwrap();
            lap(4);
        }
        let names = ["fork (with Privilege::detect)", "serve", "enter", "/bin/true", "shutdown"];
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2]
        };
        for (name, times) in names.iter().zip(&mut times) {
            println!("{name}: {:.1} ms", median(times).as_secs_f64() * 1e3);
        }
    });
}
