//! Where each policy puts a pod: those of the publication, and ours.
//!
//! Sources: Weng et al., *Beware of Fragmentation*, USENIX ATC 2023, and the authors' simulator
//! (hkust-adsl/kubernetes-scheduler-simulator, commit 8f3d641, `pkg/simulator/plugin`).

use federation_core::score::{Left, Mix, Shape};

use crate::fgd::cluster::{Cluster, Node, Pod};
use crate::fgd::typical::Typical;
use crate::trace::WHOLE;

/// CPU of the largest node that the published scores are scaled by.
const CPU_SCALE: f64 = 128_000.0;
/// GPU shares of the largest node.
const GPU_SCALE: f64 = 8_000.0;
const GPU_SCALE_WHOLE: u64 = 8_000;

/// How good a place is, and the GPU to take there if the pod shares one.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Choice {
    /// Higher is better.
    pub score: f64,
    pub gpu: Option<usize>,
}

/// How one policy sees one node that fits.
pub(super) trait Score {
    fn score(&self, node: &Node, pod: &Pod) -> Choice;
}

/// The GPU with least left that holds a shared pod.
fn tightest(node: &Node, pod: &Pod) -> Option<usize> {
    if !pod.is_shared() {
        return None;
    }
    let able = node.left.iter().enumerate().filter(|(_, left)| **left >= pod.milli);
    able.min_by_key(|(_, left)| **left).map(|(gpu, _)| gpu)
}

fn whole_score(score: f64) -> f64 {
    score.floor()
}

/// Least left of CPU and GPU together.
#[derive(Debug)]
pub(super) struct BestFit;

impl Score for BestFit {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let cpu = (node.cpu - pod.cpu) as f64 / CPU_SCALE;
        let gpu = node.gpu_left().saturating_sub(pod.gpu_milli()) as f64 / GPU_SCALE;
        let score = whole_score(100.0 * (1.0 - 0.5 * (cpu + gpu)));
        Choice { score, gpu: tightest(node, pod) }
    }
}

/// Smallest product of what is left and what is asked for.
#[derive(Debug)]
pub(super) struct DotProduct;

impl Score for DotProduct {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let cpu = node.cpu as f64 * pod.cpu as f64 / (CPU_SCALE * CPU_SCALE);
        let gpu = node.gpu_left() as f64 * pod.gpu_milli() as f64 / (GPU_SCALE * GPU_SCALE);
        let score = whole_score(100.0 * (1.0 - f64::midpoint(cpu, gpu)));
        Choice { score, gpu: tightest(node, pod) }
    }
}

/// Pods of one kind together.
#[derive(Debug)]
pub(super) struct Clustering;

impl Score for Clustering {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let gpu = tightest(node, pod);
        if pod.gpus == 0 {
            return Choice { score: 0.0, gpu };
        }
        let kind = if pod.is_shared() { 0 } else { pod.gpus };
        let base = match (node.kinds.contains_key(&kind), node.kinds.len()) {
            (true, 1) => 75,
            (true, _) => 50,
            (false, 0) => 25,
            (false, _) => 0,
        };
        let used = GPU_SCALE_WHOLE.saturating_sub(node.gpu_left());
        Choice { score: (base + 25 * used / GPU_SCALE_WHOLE) as f64, gpu }
    }
}

/// Shared GPUs first, then free GPUs of nodes in use, then free nodes.
#[derive(Debug)]
pub(super) struct Packing;

impl Score for Packing {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let gpu = tightest(node, pod);
        Choice { score: packing(node, pod), gpu }
    }
}

fn packing(node: &Node, pod: &Pod) -> f64 {
    if pod.gpus == 0 {
        return 0.0;
    }
    let free = node.wholly_free();
    if free == node.left.len() {
        return 33.0 - free as f64;
    }
    let mut able: Vec<u32> = node.left.iter().copied().filter(|&left| left >= pod.milli).collect();
    able.sort_unstable();
    able.truncate(pod.gpus as usize);
    let opened = able.iter().filter(|&&left| left == WHOLE).count();
    if opened > 0 {
        return (50.0 - opened as f64).max(33.0);
    }
    let percent: u32 = able.iter().map(|left| left / 10).sum();
    (100.0 - f64::from(percent / 10)).max(50.0)
}

/// Fragmentation gradient descent: least growth of the fragment that typical pods would find.
#[derive(Debug)]
pub(super) struct Fgd<'a>(pub(super) &'a Typical);

impl Score for Fgd<'_> {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let before = self.0.fragment(node.cpu, node.model, &node.left);
        best_gpu(node, pod, |cpu, left| {
            let after = self.0.fragment(cpu, node.model, left);
            whole_score(100.0 / (1.0 + ((after - before) / 1_000.0).exp()))
        })
    }
}

/// Least growth of what will be of no use, by the score of `federation-core`.
#[derive(Debug)]
pub(super) struct Ours(Mix);

impl Ours {
    /// Knows the typical pods of the list, as the published policy does.
    pub(super) fn of(cluster: &Cluster, typical: &Typical) -> Self {
        let shapes = typical.shapes.iter().map(|it| Shape {
            cpu_milli: it.pod.cpu,
            gpus: it.pod.gpus,
            gpu_milli: it.pod.milli,
            models: it.pod.models.clone(),
            count: it.count,
        });
        let cpu = cluster.nodes.iter().map(|node| node.cpu).sum();
        Self(Mix::of(shapes.collect(), cpu, cluster.capacity))
    }

    pub(super) fn mix(&self) -> &Mix {
        &self.0
    }
}

impl Score for Ours {
    fn score(&self, node: &Node, pod: &Pod) -> Choice {
        let model = node.model;
        let before = self.0.burden(&Left { model, cpu_milli: node.cpu, gpus: &node.left });
        best_gpu(node, pod, |cpu_milli, gpus| {
            -self.0.cost(before, &Left { model, cpu_milli, gpus })
        })
    }
}

/// The best of the GPUs that a shared pod could take, by what would be left of CPU and GPUs; for
/// another pod, the one way there is.
fn best_gpu(node: &Node, pod: &Pod, score: impl Fn(u64, &[u32]) -> f64) -> Choice {
    if !pod.is_shared() {
        let mut after = node.clone();
        after.take(pod, None);
        return Choice { score: score(after.cpu, &after.left), gpu: None };
    }
    let mut left = node.left.clone();
    let mut best = Choice { score: f64::NEG_INFINITY, gpu: None };
    for gpu in 0..left.len() {
        if left[gpu] < pod.milli {
            continue;
        }
        left[gpu] -= pod.milli;
        let score = score(node.cpu - pod.cpu, &left);
        left[gpu] += pod.milli;
        if score > best.score {
            best = Choice { score, gpu: Some(gpu) };
        }
    }
    best
}
