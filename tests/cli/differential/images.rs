//! Compares views of random stacks with the kernel's overlayfs on the same layers: names, extracted
//! files, and differences from the lowest layers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use overcoat::image::diff::{Aspect, ChangeKind, Diff, DiffOptions, DiffTotals};
use overcoat::image::extract::{ExtractSelection, folder};
use overcoat::image::view::{LookError, StackView, ViewNode, WalkControl, join};
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, TestCaseError, TestRunner};

use super::sealed::Format;
use super::stack::{Plan, Stack, stack};
use crate::support::listing::{Listing, Object, differences, escape, list};
use crate::support::stage::{Stage, Who, finish};

/// Lists the kernel's mount of the layers, without the root itself.
fn shown(stage: &Stage, layers: &[PathBuf]) -> Listing {
    let (merged, empty) = (stage.path("merged"), stage.path("empty"));
    std::fs::create_dir_all(&merged).unwrap();
    std::fs::create_dir_all(&empty).unwrap();
    let mut lower: Vec<_> = layers.iter().rev().map(|layer| layer.to_str().unwrap()).collect();
    // overlayfs requires at least two layers.
    lower.insert(0, empty.to_str().unwrap());
    let options = format!("lowerdir={},xino=on", lower.join(":"));
    mount(Some("o"), &merged, Some("overlay"), MsFlags::MS_RDONLY, Some(&*options)).unwrap();
    let mut listing = list(&merged);
    umount2(&merged, MntFlags::MNT_DETACH).unwrap();
    listing.remove("");
    listing
}

fn check(stage: &Stage, plans: &[Plan], lowest: usize) -> Result<(), TestCaseError> {
    let case = stage.path("case");
    let _ = std::fs::remove_dir_all(&case);
    let stack = Stack::write(&case, plans, Format::Squashfs);
    let lowest = 1 + lowest % stack.ours.len();
    let all = shown(stage, &stack.kernel);
    let base = shown(stage, &stack.kernel[..lowest]);
    let view = StackView::open(&stack.ours).unwrap();

    names(stage, &stack, &all)?;
    hides(&view, &all)?;
    extracted(&view, &case.join("extracted"), &all)?;
    // As an overlay on its base, and as two unrelated stacks.
    differs(&view.lowest(lowest).unwrap(), &view, &base, &all)?;
    differs(&StackView::open(&stack.ours[..lowest]).unwrap(), &view, &base, &all)?;
    differs(&view, &StackView::open(&stack.ours[..lowest]).unwrap(), &all, &base)
}

fn names(stage: &Stage, stack: &Stack, all: &Listing) -> Result<(), TestCaseError> {
    let mut ls = stage.overcoat(Who::Root);
    let listed = finish(ls.args(["ls", "-R", "-0"]).args(&stack.ours)).ok().stdout;
    let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let found: BTreeSet<String> = names.map(escape).collect();
    prop_assert_eq!(found, all.keys().cloned().collect());
    Ok(())
}

/// Checks that exactly those names are reported as deleted that some of the lowest layers show and
/// the whole stack does not, if their directory still exists.
fn hides(view: &StackView, all: &Listing) -> Result<(), TestCaseError> {
    let lowest: Vec<StackView> =
        (1..view.names().len()).map(|count| view.lowest(count).unwrap()).collect();
    // Whether the lowest `count` layers show something at a path.
    let shows = |count: usize, path: &[u8]| match lowest.get(count - 1) {
        Some(view) => exactly(view, path).is_some(),
        None => all.contains_key(&escape(path)),
    };
    view.walk_layered(&view.root().unwrap(), |dir, inside| {
        let mut deleted = BTreeSet::new();
        for one in inside.iter().filter(|one| one.node.is_none()) {
            let path = join(&dir.path, &one.name);
            let layer = one.layer.unwrap();
            for count in layer + 1..=view.names().len() {
                assert!(!shows(count, &path), "/{}: not hidden by {layer}", escape(&path));
            }
            if one.hidden().next().is_some() {
                deleted.insert(path);
            }
        }
        for view in &lowest {
            let Some(below) = exactly(view, &dir.path) else { continue };
            for node in view.children(&below)? {
                let listed = all.contains_key(&escape(&node.path)) || deleted.contains(&node.path);
                assert!(listed, "/{}: hidden, but not reported", escape(&node.path));
            }
        }
        Ok::<_, LookError>(WalkControl::Into)
    })
    .unwrap();
    Ok(())
}

/// Returns the node of a view at a path, without following links.
fn exactly(view: &StackView, path: &[u8]) -> Option<ViewNode> {
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    names.try_fold(view.root().unwrap(), |dir, name| view.child(&dir, name).unwrap())
}

fn extracted(view: &StackView, to: &Path, all: &Listing) -> Result<(), TestCaseError> {
    folder::extract(view, &ExtractSelection::default(), to, false, &|| false).unwrap();
    let mut found = list(to);
    found.remove("");
    // In an archive, only files have several names.
    let without_links = |listing: &Listing| -> Listing {
        let one = |object: &Object| match object.kind == "file" {
            true => object.clone(),
            false => Object { links: None, ..object.clone() },
        };
        listing.iter().map(|(path, object)| (path.clone(), one(object))).collect()
    };
    let lines = differences(&without_links(all), &without_links(&found));
    prop_assert!(lines.is_empty(), "extracted:\n{}", lines.join("\n"));
    Ok(())
}

fn differs(
    old: &StackView,
    new: &StackView,
    was: &Listing,
    is: &Listing,
) -> Result<(), TestCaseError> {
    let what = |object: &Object| {
        let mode = if object.kind == "link" { 0 } else { object.mode };
        (object.kind.clone(), mode, object.uid, object.gid, object.rdev, object.content.clone())
    };
    let mut expected: BTreeMap<String, ChangeKind> = BTreeMap::new();
    for (path, object) in was {
        match is.get(path) {
            None => drop(expected.insert(path.clone(), ChangeKind::Deleted)),
            Some(now) if what(now) != what(object) => {
                expected.insert(path.clone(), ChangeKind::Changed);
            }
            Some(_) => {}
        }
    }
    let added = is.keys().filter(|path| !was.contains_key(*path));
    expected.extend(added.map(|path| (path.clone(), ChangeKind::Added)));

    let seen = |aspect| !matches!(aspect, Aspect::Xattrs | Aspect::Links | Aspect::Replaced);
    let mut found: BTreeMap<String, ChangeKind> = BTreeMap::new();
    let options = DiffOptions { within_deleted: true, ..DiffOptions::default() };
    Diff::new(old, new, options)
        .changes::<LookError>(&mut |change| {
            let reported = change.kind != ChangeKind::Changed || change.what.iter().any(seen);
            if reported && !change.path().is_empty() {
                let before = found.insert(escape(change.path()), change.kind);
                assert!(before.is_none(), "/{} is visited twice", escape(change.path()));
            }
            Ok(WalkControl::Into)
        })
        .unwrap();
    prop_assert_eq!(&found, &expected);

    // Deleted entries are counted even if they are not visited.
    let mut totals = DiffTotals::default();
    Diff::new(old, new, DiffOptions::default())
        .changes::<LookError>(&mut |change| {
            totals.add(change);
            Ok(WalkControl::Into)
        })
        .unwrap();
    let deleted = expected.values().filter(|kind| **kind == ChangeKind::Deleted).count();
    prop_assert_eq!(totals.deleted, deleted as u64);
    Ok(())
}

#[test]
fn views_agree_with_overlayfs() {
    let stage = Stage::new();
    let cases = std::env::var("DIFFERENTIAL_CASES").ok().and_then(|n| n.parse().ok());
    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/differential/seeds");
    let config = ProptestConfig {
        cases: cases.unwrap_or(60),
        max_shrink_iters: 1000,
        max_shrink_time: 60_000,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(seeds))),
        ..ProptestConfig::default()
    };
    TestRunner::new(config)
        .run(&(stack(), any::<usize>()), |(plans, lowest)| check(&stage, &plans, lowest))
        .unwrap_or_else(|error| panic!("{error}"));
}
