//! One experiment: pods arrive one at a time, none leaves, none is tried twice.

use federation_core::score::Mix;

use crate::fgd::cluster::{Cluster, Node};
use crate::fgd::live::Live;
use crate::fgd::policy::{Choice, Score};
use crate::fgd::typical::Typical;
use crate::rng::Rng;

/// Demand that arrives, in percent of the capacity.
const DEMAND_PERCENT: u32 = 130;

/// What was measured at each percent of arrived demand, 0 to 130; what was before where nothing
/// arrived.
#[derive(Debug, Clone)]
pub(super) struct Curve {
    pub allocation_percent: Vec<f64>,
    pub fragmented_percent: Vec<f64>,
    /// Pods that fitted nowhere.
    pub dropped: u64,
    /// Arrived demand when the first was dropped.
    pub dropped_from_percent: Option<f64>,
}

/// The pods of one seed in the order in which they arrive: all of the list, shuffled, then some
/// drawn from it again, up to 130 % of the capacity.
pub(super) fn arrivals_of(cluster: &Cluster, seed: u64) -> Vec<u32> {
    arrivals(cluster, &mut Rng::stream(seed, 0))
}

fn arrivals(cluster: &Cluster, rng: &mut Rng) -> Vec<u32> {
    let mut order = cluster.pods.clone();
    rng.shuffle(&mut order);
    let milli = |pod: u32| cluster.shapes[pod as usize].gpu_milli();
    let mut demand: u64 = order.iter().map(|&pod| milli(pod)).sum();
    loop {
        let pod = cluster.pods[rng.below(cluster.pods.len())];
        demand += milli(pod);
        if demand * 100 > cluster.capacity * u64::from(DEMAND_PERCENT) {
            return order;
        }
        order.push(pod);
    }
}

/// Scores of every node for every shape, kept until the node changes.
struct Scores {
    /// By shape, then by node: the version of the node that the score is of, and the score.
    known: Vec<Vec<(u32, Option<Choice>)>>,
    versions: Vec<u32>,
}

impl Scores {
    fn new(shapes: usize, nodes: usize) -> Self {
        Self { known: vec![vec![(0, None); nodes]; shapes], versions: vec![1; nodes] }
    }

    /// The best node for the shape, the first in order of those that are equal.
    fn best(
        &mut self,
        cluster: &Cluster,
        nodes: &[Node],
        pod: u32,
        policy: &dyn Score,
    ) -> Option<(usize, Choice)> {
        let shape = &cluster.shapes[pod as usize];
        let known = &mut self.known[pod as usize];
        let mut best: Option<(usize, Choice)> = None;
        for (at, (slot, node)) in known.iter_mut().zip(nodes).enumerate() {
            if slot.0 != self.versions[at] {
                let fits = node.fits(shape);
                *slot = (self.versions[at], fits.then(|| policy.score(node, shape)));
            }
            let Some(choice) = slot.1 else { continue };
            if best.is_none_or(|(_, best)| choice.score > best.score) {
                best = Some((at, choice));
            }
        }
        best
    }
}

/// Which node a pod goes to.
pub(super) enum Rule<'a> {
    /// The best; the first in a random order of those that are equal.
    Best(&'a dyn Score),
    /// Any node that fits, then any GPU that fits.
    Any,
    /// What the index of a leader says, with a score or without.
    Live(Option<&'a Mix>),
}

fn any(cluster: &Cluster, nodes: &[Node], pod: u32, rng: &mut Rng) -> Option<(usize, Choice)> {
    let shape = &cluster.shapes[pod as usize];
    let able: Vec<usize> = (0..nodes.len()).filter(|&at| nodes[at].fits(shape)).collect();
    if able.is_empty() {
        return None;
    }
    let at = able[rng.below(able.len())];
    let left = nodes[at].left.iter().enumerate();
    let gpus: Vec<usize> =
        left.filter(|(_, left)| **left >= shape.milli).map(|(gpu, _)| gpu).collect();
    let gpu = shape.is_shared().then(|| gpus[rng.below(gpus.len())]);
    Some((at, Choice { score: 0.0, gpu }))
}

/// Runs one experiment.
pub(super) fn run(cluster: &Cluster, typical: &Typical, rule: &Rule<'_>, seed: u64) -> Curve {
    let order = arrivals_of(cluster, seed);
    let mut nodes = cluster.nodes.clone();
    Rng::stream(seed, 1).shuffle(&mut nodes);
    let mut rng = Rng::stream(seed, 2);
    let mut live = match rule {
        Rule::Live(mix) => Some(Live::of(&nodes, *mix)),
        Rule::Best(_) | Rule::Any => None,
    };
    let fragment_of = |node: &Node| typical.fragment(node.cpu, node.model, &node.left);
    let mut fragments: Vec<f64> = nodes.iter().map(fragment_of).collect();
    let mut fragment: f64 = fragments.iter().sum();
    let mut scores = Scores::new(cluster.shapes.len(), nodes.len());
    let (mut used, mut arrived, mut dropped, mut dropped_from) = (0u64, 0u64, 0u64, None);
    let points = DEMAND_PERCENT as usize + 1;
    let mut sums = vec![(0u32, 0.0, 0.0); points];
    let capacity = cluster.capacity as f64;
    for pod in order {
        let shape = &cluster.shapes[pod as usize];
        arrived += shape.gpu_milli();
        let place = match rule {
            Rule::Best(policy) => scores.best(cluster, &nodes, pod, *policy),
            Rule::Any => any(cluster, &nodes, pod, &mut rng),
            Rule::Live(_) => live.as_mut().and_then(|live| live.place(shape)),
        };
        match place {
            Some((at, choice)) => {
                nodes[at].take(shape, choice.gpu);
                scores.versions[at] += 1;
                used += shape.gpu_milli();
                let now = fragment_of(&nodes[at]);
                fragment += now - fragments[at];
                fragments[at] = now;
            }
            None => {
                dropped += 1;
                dropped_from.get_or_insert(100.0 * arrived as f64 / capacity);
            }
        }
        // Half a percent up, in whole numbers: the percent that the demand rounds to.
        let percent = (arrived * 200 + cluster.capacity) / (cluster.capacity * 2);
        if let Some(sum) = usize::try_from(percent).ok().and_then(|at| sums.get_mut(at)) {
            sum.0 += 1;
            sum.1 += 100.0 * used as f64 / capacity;
            sum.2 += 100.0 * fragment / capacity;
        }
    }
    Curve {
        allocation_percent: means(sums.iter().map(|sum| (sum.0, sum.1))),
        fragmented_percent: means(sums.iter().map(|sum| (sum.0, sum.2))),
        dropped,
        dropped_from_percent: dropped_from,
    }
}

/// From counts and sums; the one before where the count is zero.
fn means(sums: impl Iterator<Item = (u32, f64)>) -> Vec<f64> {
    let mean = |last: &mut f64, (count, sum): (u32, f64)| {
        if count > 0 {
            *last = sum / f64::from(count);
        }
        Some(*last)
    };
    sums.scan(0.0, mean).collect()
}
