//! The pods that are most often asked for, and what of a node they would leave unused.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::fgd::cluster::{Cluster, Pod};

/// Share of the list that the typical pods cover.
const COVERED_PERCENT: u64 = 95;

/// A pod's shape without its memory, and how often it comes.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    pub pod: Pod,
    pub count: u64,
    /// All shares together are 1.
    pub share: f64,
}

/// The most frequent shapes of the list.
#[derive(Debug, Clone)]
pub(super) struct Typical {
    pub shapes: Vec<Shape>,
}

impl Typical {
    /// The fewest shapes that cover 95 % of the list, scaled to all of it.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let mut counts: BTreeMap<Pod, u64> = BTreeMap::new();
        for &pod in &cluster.pods {
            let shape = Pod { mem: 0, ..cluster.shapes[pod as usize].clone() };
            *counts.entry(shape).or_default() += 1;
        }
        let total: u64 = counts.values().sum();
        let mut sorted: Vec<(Pod, u64)> = counts.into_iter().collect();
        sorted.sort_by_key(|(_, count)| Reverse(*count));
        let mut covered = 0;
        let enough = sorted.iter().position(|(_, count)| {
            covered += count;
            covered * 100 >= total * COVERED_PERCENT
        });
        sorted.truncate(enough.map_or(usize::MAX, |last| last + 1));
        let kept: u64 = sorted.iter().map(|(_, count)| count).sum();
        let shape = |(pod, count)| Shape { pod, count, share: count as f64 / kept as f64 };
        Self { shapes: sorted.into_iter().map(shape).collect() }
    }

    /// Idle GPU shares that a typical pod could not use, on average.
    pub(super) fn fragment(&self, cpu: u64, model: u32, left: &[u32]) -> f64 {
        let idle: u32 = left.iter().sum();
        if idle == 0 {
            return 0.0;
        }
        let mut sum = 0.0;
        for shape in &self.shapes {
            let pod = &shape.pod;
            let wasted = if pod.gpus == 0
                || cpu < pod.cpu
                || pod.models.as_ref().is_some_and(|models| !models.contains(&model))
            {
                idle
            } else {
                let (mut able, mut small) = (0, 0);
                for &left in left {
                    if left >= pod.milli {
                        able += 1;
                    } else {
                        small += left;
                    }
                }
                if able >= pod.gpus { small } else { idle }
            };
            sum += shape.share * f64::from(wasted);
        }
        sum
    }
}
