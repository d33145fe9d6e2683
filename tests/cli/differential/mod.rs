//! Makes the same system calls on an overcoat root and on file systems of the kernel: overlayfs
//! with the same layers, and a tmpfs with the same content. All results and the final trees must be
//! equal, and the sealed artifact over the layers must be the final tree.
//!
//! Layers, calls and formats are random. Each run first repeats cases that failed before
//! (`differential/seeds`), then tries new ones.

mod calls;
mod images;
mod reader;
mod scene;
mod sealed;
mod side;
mod stack;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestRunner};
use rustix::fs::FileType;

use self::calls::{Call, There, call};
use self::scene::Scene;
use self::sealed::{Format, Seen};
use self::side::{PAST, Side};
use self::stack::{Plan, Stack, stack};
use crate::support::listing::Listing;
use crate::support::stage::Stage;

/// The file system that overcoat is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Other {
    /// overlayfs over the same layers.
    Overlayfs,
    /// tmpfs with the merged content of the layers.
    Tmpfs,
}

/// Returns whether all hard links are visible: link counts of a union include hidden ones.
fn shows_all_links(root: &Path, listing: &Listing) -> bool {
    let mut seen = std::collections::HashMap::new();
    for (path, _) in listing.iter().filter(|(_, object)| object.kind != "directory") {
        let meta = std::fs::symlink_metadata(root.join(path)).unwrap();
        seen.entry(meta.ino()).or_insert((0, meta.nlink())).0 += 1;
    }
    seen.values().all(|(names, links)| names == links)
}

/// Returns whether the format can store the result of the call.
fn is_carried(call: &Call, format: Format) -> bool {
    match call {
        Call::Node(_, FileType::Socket, _) => format.has_sockets(),
        Call::SetXattr(..) => format.has_xattrs(),
        _ => true,
    }
}

type Case = (Vec<Plan>, Vec<(Call, Option<usize>)>, Format);

fn check(stage: &Stage, other: Other, (plans, calls, format): &Case) -> Result<(), TestCaseError> {
    let scene = Scene::new(stage, |folder| Stack::write(folder, plans, *format));
    let ours = scene.mount(None);
    let seen = compare(&scene, &ours, other, calls, *format)?;
    sealed::check(&scene, seen, *format)
}

/// Makes the calls on both file systems. Returns the final tree.
fn compare(
    scene: &Scene<'_>,
    ours: &Path,
    other: Other,
    calls: &[(Call, Option<usize>)],
    format: Format,
) -> Result<Seen, TestCaseError> {
    let kernel = scene.other(other);
    let seen = Seen::at(ours);
    seen.same("the initial tree", &Seen::at(kernel.root()))?;
    let links = other == Other::Overlayfs || shows_all_links(ours, &seen.listing);
    let mut sides = [(kernel.root(), false), (ours, true)]
        .map(|(root, ours)| Side::new(root, ours, other, links));
    for (n, (call, aim)) in calls.iter().enumerate() {
        let mut call = match aim {
            Some(number) => call.aimed(*number, &There::below(kernel.root())),
            None => call.clone(),
        };
        if !is_carried(&call, format) {
            continue;
        }
        let [expected, found] = sides.each_mut().map(|side| side.outcome(&call));
        prop_assert_eq!(found, expected, "call {}: {:?}", n, call);
        let names = call.names();
        let [expected, found] = sides.each_ref().map(|side| side.after(&names));
        prop_assert_eq!(found, expected, "after call {}: {:?}", n, call);
        if n % 16 == 15 {
            let [expected, found] = [kernel.root(), ours].map(|root| Seen::at(root).timeless(PAST));
            expected.same(&format!("the tree after call {n}"), &found)?;
        }
    }
    drop(sides);
    let [expected, found] = [kernel.root(), ours].map(|root| Seen::at(root).timeless(PAST));
    expected.same("the final tree", &found)?;
    Ok(Seen::at(ours))
}

/// Runs random cases; `DIFFERENTIAL_CASES` sets their number.
fn run(other: Other) {
    let stage = Stage::new();
    let cases = std::env::var("DIFFERENTIAL_CASES").ok().and_then(|n| n.parse().ok());
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/differential/seeds");
    let config = ProptestConfig {
        cases: cases.unwrap_or(60),
        max_shrink_iters: 2000,
        max_shrink_time: 120_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..ProptestConfig::default()
    };
    let cases = (stack(), prop::collection::vec(call(), 1..60), Format::any());
    TestRunner::new(config)
        .run(&cases, |case| check(&stage, other, &case))
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn results_equal_those_of_overlayfs() {
    run(Other::Overlayfs);
}

#[test]
fn results_equal_those_of_tmpfs() {
    run(Other::Tmpfs);
}
