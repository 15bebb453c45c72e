//! A fixed set of seeds is clean, and a seed is a run. More seeds: `sim --seeds A..B`.

use chaos_sim::{Coverage, Mark, run};

const SEEDS: std::ops::Range<u64> = 0..60;

#[test]
fn no_property_is_violated_and_most_of_the_world_is_seen() {
    let mut coverage = Coverage::default();
    for seed in SEEDS {
        let run = run(seed, false);
        assert_eq!(run.violation, None, "repeat it: sim --seed {seed} --trace");
        coverage.merge(&run.coverage);
    }
    let unseen: Vec<&str> =
        coverage.iter().filter(|(_, count)| *count == 0).map(|(mark, _)| mark.as_str()).collect();
    assert!(unseen.len() * 10 < Mark::ALL.len(), "never met: {}", unseen.join(", "));
}

#[test]
fn equal_seeds_give_equal_runs_and_a_trace_changes_nothing() {
    for seed in [1, 7, 23] {
        let (one, mut other) = (run(seed, false), run(seed, true));
        assert!(!other.trace.is_empty());
        assert_eq!(run(seed, true).trace, other.trace);
        other.trace.clear();
        assert_eq!(one, other);
    }
}

#[test]
fn other_seeds_give_other_runs() {
    assert_ne!(run(1, false).hash, run(2, false).hash);
}
