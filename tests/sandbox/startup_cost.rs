//! Measures the start of a sandbox:
//! `cargo test --release --test sandbox -- --ignored --nocapture startup_cost`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{ServedTree, at_both_privileges, plan};
use overcoat::fuse::settle_allocator;
use overcoat::root::lay_mount_points;
use overcoat::root::supervise::SupervisedTree;
use overcoat::sandbox::{CommandSpec, Sandbox, Supervisor};

#[test]
#[ignore = "a measurement"]
fn start_up() {
    at_both_privileges(|| {
        settle_allocator();
        let tree = ServedTree::base(65536);
        lay_mount_points(&tree.live, &plan()).unwrap();
        let mut times: [Vec<Duration>; 5] = Default::default();
        for _ in 0..41 {
            let mut last = Instant::now();
            let mut lap = |index: usize| {
                times[index].push(last.elapsed());
                last = Instant::now();
            };
            let mut starting = Sandbox::fork(plan()).unwrap();
            lap(0);
            let serving = tree.serve(starting.fuse_fd());
            lap(1);
            let mut sandbox = starting.enter().unwrap();
            let supervisor =
                Supervisor::start(&mut sandbox, Arc::new(SupervisedTree::new(tree.live.clone())))
                    .unwrap();
            lap(2);
            let mut child = sandbox.spawn(&CommandSpec::new(["/bin/true"])).unwrap();
            assert!(child.wait().unwrap().success());
            lap(3);
            sandbox.shutdown();
            supervisor.join();
            serving.wait().unwrap();
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
