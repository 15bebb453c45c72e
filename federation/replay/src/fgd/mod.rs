//! Placement quality: pods with shares of GPUs on the nodes of a cluster that fills up.
//!
//! The protocol is that of Weng et al., *Beware of Fragmentation* (USENIX ATC 2023): the list of
//! pods in a random order, and then pods drawn from it again, up to 130 % of the GPUs. Pods come
//! one at a time, none leaves, none is tried twice; a pod that fits is placed.

pub mod cluster;
mod live;
mod policy;
mod run;
mod typical;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::fgd::cluster::Cluster;
use crate::fgd::policy::{BestFit, Clustering, DotProduct, Fgd, Ours, Packing};
use crate::fgd::run::{Curve, Rule, run};
use crate::fgd::typical::Typical;
use crate::read::Progress;

/// Where the allocation is told.
const TOLD_PERCENT: [usize; 4] = [90, 95, 100, 130];
/// What a policy must place before it may drop anything, for [`Report::upper_bound_percent`].
const KEPT_UNTIL_PERCENT: u64 = 80;

/// A policy of placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    Ours,
    /// The index of a leader with the score.
    Live,
    /// The index of a leader as it was before the score: the tightest first.
    LiveTight,
    Fgd,
    BestFit,
    DotProduct,
    Packing,
    Clustering,
    Random,
}

impl Policy {
    /// Ours and the published ones: what is compared where none is named.
    pub const COMPARED: [Self; 7] = [
        Self::Ours,
        Self::Fgd,
        Self::BestFit,
        Self::DotProduct,
        Self::Packing,
        Self::Clustering,
        Self::Random,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Live => "live",
            Self::LiveTight => "live-tight",
            Self::Fgd => "fgd",
            Self::BestFit => "bestfit",
            Self::DotProduct => "dotprod",
            Self::Packing => "packing",
            Self::Clustering => "clustering",
            Self::Random => "random",
        }
    }
}

/// What one policy did with the pods of one seed.
#[derive(Debug, Clone, Serialize)]
pub struct Result {
    pub policy: &'static str,
    pub seed: u64,
    /// By arrived demand in percent.
    pub allocation_percent_at: BTreeMap<String, f64>,
    pub fragmented_percent_at_130: f64,
    /// Pods that fitted nowhere.
    pub dropped: u64,
    /// Arrived demand when the first was dropped.
    pub dropped_from_percent: Option<f64>,
}

/// What all did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub results: Vec<Result>,
    /// By policy, then by arrived demand.
    pub mean: BTreeMap<&'static str, BTreeMap<String, f64>>,
    /// Standard deviation over the seeds at 130 %.
    pub deviation: BTreeMap<&'static str, f64>,
    /// No policy that places all that comes before 80 % can allocate more at 130 %, by the mean
    /// over the seeds: large shares leave rests that the small pods which come cannot fill.
    pub upper_bound_percent: f64,
    pub gpus: u64,
    pub nodes: usize,
    pub pods: usize,
}

/// Runs every policy on every seed.
#[must_use]
pub fn replay(
    cluster: &Cluster,
    policies: &[Policy],
    seeds: &[u64],
    progress: &mut dyn Progress,
) -> Report {
    let typical = Typical::of(cluster);
    let ours = Ours::of(cluster, &typical);
    let fgd = Fgd(&typical);
    let of = (policies.len() * seeds.len()) as u64;
    let mut results = Vec::new();
    for &policy in policies {
        let rule = match policy {
            Policy::Ours => Rule::Best(&ours),
            Policy::Live => Rule::Live(Some(ours.mix())),
            Policy::LiveTight => Rule::Live(None),
            Policy::Fgd => Rule::Best(&fgd),
            Policy::BestFit => Rule::Best(&BestFit),
            Policy::DotProduct => Rule::Best(&DotProduct),
            Policy::Packing => Rule::Best(&Packing),
            Policy::Clustering => Rule::Best(&Clustering),
            Policy::Random => Rule::Any,
        };
        for &seed in seeds {
            progress.step(policy.name(), results.len() as u64, of);
            results.push(told(policy, seed, &run(cluster, &typical, &rule, seed)));
        }
    }
    progress.step("", of, of);
    let bounds = seeds.iter().map(|&seed| upper_bound(cluster, seed));
    Report {
        mean: policies.iter().map(|policy| (policy.name(), means(&results, *policy))).collect(),
        deviation: policies.iter().map(|it| (it.name(), deviation(&results, *it))).collect(),
        upper_bound_percent: bounds.sum::<f64>() / seeds.len().max(1) as f64,
        gpus: cluster.capacity / u64::from(crate::trace::WHOLE),
        nodes: cluster.nodes.len(),
        pods: cluster.pods.len(),
        results,
    }
}

fn told(policy: Policy, seed: u64, curve: &Curve) -> Result {
    let at = |percent: &usize| (percent.to_string(), curve.allocation_percent[*percent]);
    Result {
        policy: policy.name(),
        seed,
        allocation_percent_at: TOLD_PERCENT.iter().map(at).collect(),
        fragmented_percent_at_130: curve.fragmented_percent.last().copied().unwrap_or_default(),
        dropped: curve.dropped,
        dropped_from_percent: curve.dropped_from_percent,
    }
}

fn values<'a>(
    results: &'a [Result],
    policy: Policy,
    at: &'a str,
) -> impl Iterator<Item = f64> + 'a {
    let of_policy = results.iter().filter(move |result| result.policy == policy.name());
    of_policy.filter_map(move |result| result.allocation_percent_at.get(at).copied())
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

fn means(results: &[Result], policy: Policy) -> BTreeMap<String, f64> {
    let at = |percent: &usize| {
        let at = percent.to_string();
        mean(values(results, policy, &at)).map(|mean| (at, mean))
    };
    TOLD_PERCENT.iter().filter_map(at).collect()
}

fn deviation(results: &[Result], policy: Policy) -> f64 {
    let Some(middle) = mean(values(results, policy, "130")) else { return 0.0 };
    let squares = values(results, policy, "130").map(|value| (value - middle).powi(2));
    mean(squares).unwrap_or_default().sqrt()
}

/// Pods that ask for at least a share `x > 1/2` of a GPU never meet, and beside them fits only
/// what asks for at most the rest. So what those that came before 80 % leave, less all that is so
/// small and ever comes, is lost; for the `x` that shows most.
fn upper_bound(cluster: &Cluster, seed: u64) -> f64 {
    let whole = crate::trace::WHOLE as usize;
    let (mut rests, mut small) = (vec![0u64; whole + 1], vec![0u64; whole + 1]);
    let mut arrived = 0;
    for pod in run::arrivals_of(cluster, seed) {
        let shape = &cluster.shapes[pod as usize];
        arrived += shape.gpu_milli();
        if !shape.is_shared() {
            continue;
        }
        let milli = shape.milli as usize;
        small[milli] += shape.gpu_milli();
        if milli > whole / 2 && arrived * 100 <= cluster.capacity * KEPT_UNTIL_PERCENT {
            rests[milli] += (whole - milli) as u64;
        }
    }
    let lost_from = |least: usize| {
        let rests: u64 = rests[least..].iter().sum();
        rests.saturating_sub(small[..=whole - least].iter().sum())
    };
    let lost = (whole / 2 + 1..=whole).map(lost_from).max().unwrap_or(0);
    100.0 * (cluster.capacity - lost.min(cluster.capacity)) as f64 / cluster.capacity as f64
}
