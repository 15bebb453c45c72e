//! How good a place is: what of a node's GPUs will be of no use once it is taken.
//!
//! Two things are added up, in shares of a GPU; of all places the one is best at which the sum
//! grows least, and of near equals the node that has least left.
//! * *Unusable next*: what a pod of the usual mix could not use, on average. This is the fragment
//!   of FGD (Weng et al., *Beware of Fragmentation*, USENIX ATC 2023). It looks one pod ahead.
//! * *Lost in the end*: pods of the mix come to a GPU, each as likely as the shares that its kind
//!   asks for in all, until none fits; what is left then, on average. A recurrence over what a GPU
//!   has left and the CPU that goes with it, solved once for a mix. Alone it opens whole GPUs too
//!   gladly, since it does not see who else waits for them; the first term does.

use alloc::vec::Vec;

/// Shares of one whole GPU.
pub const WHOLE_GPU: u32 = 1_000;

/// Shares are told apart to a hundredth of a GPU.
const SHARE_STEP: usize = 10;
const SHARES: usize = WHOLE_GPU as usize / SHARE_STEP + 1;
/// CPU is told apart to a quarter of a core.
const CPU_STEP_MILLI: u64 = 250;
/// With 40 cores for one GPU there are enough.
const CPUS: usize = 161;
/// How much a GPU share that stays free on the node weighs against one that is of no use. From 0.02
/// to 0.04 the outcome hardly differs; below, free nodes are opened too soon.
const FREE_WEIGHT: f64 = 0.02;

/// A kind of pod: what it asks for, and how many of them come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub cpu_milli: u64,
    /// On one node.
    pub gpus: u32,
    /// Of each GPU, at most [`WHOLE_GPU`].
    pub gpu_milli: u32,
    /// GPU models that will do, by number; `None` for any.
    pub models: Option<Vec<u32>>,
    pub count: u64,
}

/// What is left of a node.
#[derive(Debug, Clone, Copy)]
pub struct Left<'a> {
    pub model: u32,
    pub cpu_milli: u64,
    /// Free shares of each GPU.
    pub gpus: &'a [u32],
}

impl Left<'_> {
    fn shares(&self) -> u64 {
        self.gpus.iter().map(|&left| u64::from(left)).sum()
    }
}

/// The usual mix of pods, and what it makes of nodes.
#[derive(Debug, Clone)]
pub struct Mix {
    shapes: Vec<Shape>,
    count: f64,
    /// Shares lost in the end, by shares left and then by CPU left.
    lost: Vec<[f64; CPUS]>,
    /// CPU that goes with one GPU share, over all nodes.
    cpu_per_share: f64,
}

impl Mix {
    /// From the usual pods, and the CPU and the GPU shares of all nodes together.
    #[must_use]
    pub fn of(shapes: Vec<Shape>, cpu_milli: u64, gpu_shares: u64) -> Self {
        let mut lost: Vec<[f64; CPUS]> = alloc::vec![[0.0; CPUS]; SHARES];
        for shares in 0..SHARES {
            for cpu in 0..CPUS {
                lost[shares][cpu] = expected(&lost, &shapes, shares, cpu);
            }
        }
        let count = shapes.iter().map(|shape| shape.count as f64).sum();
        let cpu_per_share = cpu_milli as f64 / gpu_shares.max(1) as f64;
        Self { shapes, count, lost, cpu_per_share }
    }

    /// Free shares that a pod of the mix could not use, on average.
    #[must_use]
    pub fn unusable(&self, left: &Left<'_>) -> f64 {
        let all = left.shares();
        if all == 0 || self.shapes.is_empty() {
            return all as f64;
        }
        let of_shape = |shape: &Shape| {
            let is_accessible =
                shape.models.as_ref().is_none_or(|models| models.contains(&left.model));
            if shape.gpus == 0 || shape.cpu_milli > left.cpu_milli || !is_accessible {
                return all as f64;
            }
            let (mut able, mut small) = (0, 0);
            for &shares in left.gpus {
                if shares >= shape.gpu_milli {
                    able += 1;
                } else {
                    small += u64::from(shares);
                }
            }
            (if able >= shape.gpus { small } else { all }) as f64
        };
        let sum: f64 = self.shapes.iter().map(|it| it.count as f64 * of_shape(it)).sum();
        sum / self.count.max(1.0)
    }

    /// Free shares that are likely lost in the end. Each GPU counts on the CPU that falls to its
    /// part of what is free.
    #[must_use]
    pub fn lost(&self, left: &Left<'_>) -> f64 {
        let all = left.shares();
        if all == 0 {
            return 0.0;
        }
        let of_gpu = |&shares: &u32| {
            let cpu = left.cpu_milli.saturating_mul(u64::from(shares)) / all;
            let cpu = usize::try_from(cpu / CPU_STEP_MILLI).map_or(CPUS - 1, |at| at.min(CPUS - 1));
            let at = (shares as usize).div_ceil(SHARE_STEP).min(SHARES - 1);
            self.lost[at][cpu]
        };
        left.gpus.iter().filter(|&&shares| shares > 0).map(of_gpu).sum()
    }

    /// What is wrong with a node, in GPU shares.
    #[must_use]
    pub fn burden(&self, left: &Left<'_>) -> f64 {
        self.unusable(left) + self.lost(left)
    }

    /// What a place costs, from the burden of its node before and what would be left of it.
    #[must_use]
    pub fn cost(&self, burden_before: f64, after: &Left<'_>) -> f64 {
        let free = after.shares() as f64 + after.cpu_milli as f64 / self.cpu_per_share.max(1.0);
        self.burden(after) - burden_before + FREE_WEIGHT * free
    }
}

/// What the mix leaves of a GPU with that much left, from what it leaves of one with less.
fn expected(lost: &[[f64; CPUS]], mix: &[Shape], shares: usize, cpu: usize) -> f64 {
    let (mut weights, mut sum) = (0.0, 0.0);
    let cpu_milli = cpu as u64 * CPU_STEP_MILLI;
    for shape in mix.iter().filter(|it| it.gpus == 1 && it.cpu_milli <= cpu_milli) {
        let wanted = (shape.gpu_milli as usize).div_ceil(SHARE_STEP);
        if wanted == 0 || wanted > shares {
            continue;
        }
        let cpu_after = (cpu_milli - shape.cpu_milli) / CPU_STEP_MILLI;
        let cpu_after = usize::try_from(cpu_after).unwrap_or(0);
        let weight = shape.count as f64 * f64::from(shape.gpu_milli);
        weights += weight;
        sum += weight * lost[shares - wanted][cpu_after];
    }
    if weights > 0.0 { sum / weights } else { (shares * SHARE_STEP) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(gpus: u32, gpu_milli: u32, count: u64) -> Shape {
        Shape { cpu_milli: 4_000, gpus, gpu_milli, models: None, count }
    }

    fn mix(shapes: &[Shape]) -> Mix {
        Mix::of(shapes.to_vec(), 96_000, 8_000)
    }

    fn left(cpu_milli: u64, gpus: &[u32]) -> Left<'_> {
        Left { model: 0, cpu_milli, gpus }
    }

    #[test]
    fn what_no_pod_of_the_mix_fits_is_lost_and_unusable() {
        let mix = mix(&[shape(1, 500, 3), shape(1, 800, 1)]);
        for (cpu, gpus, shares) in [(96_000, [490, 0], 490.0), (3_000, [1_000, 0], 1_000.0)] {
            assert_eq!(mix.lost(&left(cpu, &gpus)), shares);
            assert_eq!(mix.unusable(&left(cpu, &gpus)), shares);
        }
    }

    #[test]
    fn pods_that_fill_a_gpu_leave_nothing() {
        assert_eq!(mix(&[shape(1, 500, 3)]).lost(&left(96_000, &[1_000, 500])), 0.0);
    }

    #[test]
    fn in_the_end_kinds_weigh_by_the_shares_that_they_ask_for() {
        let mix = mix(&[shape(1, 500, 3), shape(1, 800, 1)]);
        // Three halves leave nothing, one of 800 leaves 200.
        let lost = mix.lost(&left(96_000, &[1_000]));
        assert!((lost - 200.0 * 800.0 / 2_300.0).abs() < 1e-9, "{lost}");
    }

    #[test]
    fn a_gang_of_gpus_cannot_use_a_node_that_has_fewer() {
        let mix = mix(&[shape(4, 1_000, 1), shape(1, 1_000, 1)]);
        assert_eq!(mix.unusable(&left(96_000, &[1_000; 3])), 1_500.0);
        assert_eq!(mix.unusable(&left(96_000, &[1_000; 4])), 0.0);
    }

    #[test]
    fn a_model_that_will_not_do_is_unusable() {
        let picky = Shape { models: Some(alloc::vec![7]), ..shape(1, 1_000, 1) };
        let mix = mix(&[picky]);
        assert_eq!(mix.unusable(&left(96_000, &[1_000])), 1_000.0);
        assert_eq!(mix.unusable(&Left { model: 7, ..left(96_000, &[1_000]) }), 0.0);
    }

    #[test]
    fn a_place_that_leaves_a_usable_rest_costs_less() {
        let mix = mix(&[shape(1, 500, 3), shape(1, 800, 1)]);
        let burden = |gpus: &[u32]| mix.burden(&left(92_000, gpus));
        assert!(burden(&[0, 1_000]) < burden(&[500, 500]));
        assert!(burden(&[600, 0]) < burden(&[100, 500]));
    }

    #[test]
    fn of_equal_places_the_fuller_node_costs_less() {
        let mix = mix(&[shape(1, 500, 3), shape(1, 1_000, 1)]);
        let cost = |before: &[u32], after: &[u32]| {
            mix.cost(mix.burden(&left(96_000, before)), &left(92_000, after))
        };
        let (full, free) = (cost(&[0, 1_000], &[0, 0]), cost(&[1_000, 1_000], &[0, 1_000]));
        assert!(full < free, "{full} {free}");
    }

    #[test]
    fn an_empty_mix_and_absurd_nodes_do_not_panic() {
        let mix = Mix::of(Vec::new(), 0, 0);
        assert!(mix.burden(&left(u64::MAX, &[1_000, u32::MAX])).is_finite());
    }
}
