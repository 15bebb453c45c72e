//! The figures that were published, from the traces that they were published on. The folder with
//! the traces is named by `SPILLWAY_TRACES`; without it these tests say that they did not run.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test stops at the first surprise")]

use std::env;
use std::path::PathBuf;

use federation_replay::fgd::cluster::Cluster;
use federation_replay::read::NoProgress;
use federation_replay::trace::{JobRow, Needs, read_jobs, read_nodes};
use federation_replay::{fgd, queue};

fn trace(name: &str) -> Option<PathBuf> {
    let found = env::var_os("SPILLWAY_TRACES").map(|folder| PathBuf::from(folder).join(name));
    if found.is_none() {
        eprintln!("skipped: SPILLWAY_TRACES names no folder with {name}");
    }
    found
}

fn openb() -> Option<Cluster> {
    let nodes = read_nodes(&trace("openb_nodes.csv.gz")?, &mut NoProgress).unwrap();
    let pods = trace("openb_default_jobs.csv.gz")?;
    let pods = read_jobs(&pods, Needs::Shapes, &mut NoProgress).unwrap();
    Some(Cluster::of(&nodes, &pods).unwrap())
}

fn philly() -> Option<Vec<JobRow>> {
    let path = trace("philly_full_2vc_jobs.csv.gz")?;
    Some(read_jobs(&path, Needs::Times, &mut NoProgress).unwrap())
}

fn allocation(cluster: &Cluster, policies: &[fgd::Policy]) -> Vec<f64> {
    let seeds: Vec<u64> = (42..=51).collect();
    let report = fgd::replay(cluster, policies, &seeds, &mut NoProgress);
    policies.iter().map(|policy| report.mean[policy.name()]["130"]).collect()
}

#[test]
fn the_published_placement_policies_allocate_what_was_published() {
    let Some(cluster) = openb() else { return };
    assert_eq!((cluster.nodes.len(), cluster.capacity), (1_213, 6_212_000));
    let published = [
        (fgd::Policy::Random, 87.47),
        (fgd::Policy::DotProduct, 90.85),
        (fgd::Policy::Clustering, 91.88),
        (fgd::Policy::Packing, 92.00),
        (fgd::Policy::BestFit, 93.08),
        (fgd::Policy::Fgd, 95.39),
    ];
    let allocated = allocation(&cluster, &published.map(|(policy, _)| policy));
    for ((policy, expected), allocated) in published.into_iter().zip(allocated) {
        assert!((allocated - expected).abs() <= 0.2, "{policy:?}: {allocated}, not {expected}");
    }
}

#[test]
fn ours_allocates_more_than_the_best_published_policy() {
    let Some(cluster) = openb() else { return };
    let allocated = allocation(&cluster, &[fgd::Policy::Ours]);
    assert!(allocated[0] > 95.39, "{allocated:?}");
}

#[test]
fn the_index_of_a_leader_loses_little_to_a_search_of_all_nodes() {
    let Some(cluster) = openb() else { return };
    let policies = [fgd::Policy::Live, fgd::Policy::Ours, fgd::Policy::LiveTight];
    let allocated = allocation(&cluster, &policies);
    assert!(allocated[0] > 95.39 && allocated[0] > allocated[1] - 0.2, "{allocated:?}");
    assert!(allocated[2] < allocated[0] - 5.0, "the score is what makes it: {allocated:?}");
}

fn served(cluster: &str, nodes: u32, policy: queue::Policy) -> Option<(f64, f64)> {
    let question = queue::Question {
        cluster: Some(cluster),
        nodes,
        gpus_per_node: 8,
        from: 4_752_000,
        to: 10_022_340,
    };
    let report = queue::replay(&philly()?, &question, &[policy], &mut NoProgress).unwrap();
    Some((report.results[0].mean_jct_s, report.results[0].mean_queue_s))
}

#[test]
fn the_published_queueing_rules_wait_as_was_published() {
    let published = [
        ("7f04ca", 32, queue::Policy::Fifo, 133_826.0, 1_412.0),
        ("7f04ca", 32, queue::Policy::Sjf, 133_271.0, 857.0),
        ("ee9e8c", 64, queue::Policy::Fifo, 243_144.0, 127_270.0),
        ("ee9e8c", 64, queue::Policy::Sjf, 130_493.0, 14_619.0),
    ];
    for (cluster, nodes, policy, jct, wait) in published {
        let Some(seen) = served(cluster, nodes, policy) else { return };
        let is_near = |seen: f64, published: f64| (seen - published).abs() <= 0.01 * published;
        assert!(is_near(seen.0, jct) && is_near(seen.1, wait), "{cluster} {policy:?}: {seen:?}");
    }
}

#[test]
fn ours_waits_less_than_the_shortest_first_without_being_told_durations() {
    for (cluster, nodes, bar) in [("7f04ca", 32, 857.0), ("ee9e8c", 64, 14_619.0)] {
        let Some((_, wait)) = served(cluster, nodes, queue::Policy::Ours) else { return };
        assert!(wait <= bar, "{cluster}: {wait}");
    }
}
