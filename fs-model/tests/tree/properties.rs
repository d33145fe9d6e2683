//! Random operations on random layers.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::delta::timeless;
use crate::generate::{LayerPlan, layers};
use crate::harness::Run;
use crate::layer::MemoryLayer;
use crate::operations::{Operation, operation};

fn build(plans: &[LayerPlan]) -> Vec<MemoryLayer> {
    plans.iter().map(LayerPlan::build).collect()
}

fn run(layers: &[MemoryLayer], operations: &[Operation], limit: u64, xattrs: bool) -> Run {
    let mut run = Run::new(layers.to_vec(), limit, xattrs);
    for operation in operations {
        run.step(operation);
    }
    run.compare(3);
    run
}

fn config() -> ProptestConfig {
    // `PROPTEST_CASES` overrides this.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    ProptestConfig {
        cases,
        max_shrink_iters: 20_000,
        max_shrink_time: 120_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn tree_behaves_as_the_model(
        plans in layers(),
        operations in vec(operation(), 0..80),
        xattrs in any::<bool>(),
    ) {
        let mut run = run(&build(&plans), &operations, u64::MAX, xattrs);
        run.check_delta(true);
        run.check_replay();
        run.forget_all();
        run.compare(2);
        run.check_delta(false);
        prop_assert_eq!(run.tree.check_invariants(), Ok(()));
    }

    #[test]
    fn full_upper_loses_no_data(
        plans in layers(),
        operations in vec(operation(), 0..80),
        limit in prop_oneof![0u64..5_000, 0u64..400_000],
    ) {
        let run = run(&build(&plans), &operations, limit, true);
        run.check_delta(false);
    }

    #[test]
    fn delta_is_deterministic(
        plans in layers(),
        operations in vec(operation(), 0..40),
    ) {
        let layers = build(&plans);
        let delta = || run(&layers, &operations, u64::MAX, false).tree.delta().unwrap();
        prop_assert_eq!(timeless(&delta()), timeless(&delta()));
    }

    #[test]
    fn reading_changes_nothing(plans in layers(), step in 1usize..4) {
        let mut run = Run::new(build(&plans), 0, true);
        let before = run.tree.usage();
        run.compare(step);
        run.check_delta(true);
        prop_assert!(run.tree.delta().unwrap().entries.is_empty());
        prop_assert_eq!(run.tree.usage(), before);
        prop_assert_eq!(run.tree.check_invariants(), Ok(()));
    }
}
