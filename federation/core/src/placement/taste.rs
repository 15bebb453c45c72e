//! What is liked of places: the score of [`crate::placement::score`], as a scorer of the index, and
//! the mix of jobs that it is for, counted from the leases.
//!
//! # Invariants
//! * A decision scores no more than [`SCORED_MAX`] shapes of a class, those that fill up tightest.
//! * Without a job that shares a GPU there is no taste: whole GPUs leave no fragments.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cmp::Reverse;

use specs::id::{GpuClass, LeaseId};

use crate::placement::fleet::{FreeShape, GPU_MILLI, Scorer};
use crate::placement::score::{Left, Mix, Shape};
use crate::state::{Lease, State};
use crate::table::Table;

/// Most shapes of a class that a decision scores. On the openb trace 8 do as well as all do.
const SCORED_MAX: u32 = 16;
/// Kinds of jobs that make up the mix, the most frequent first.
const KINDS_MAX: usize = 16;
/// With fewer running jobs there is no mix to speak of.
const JOBS_MIN: u64 = 16;
/// Scores are told apart to so many parts of a thousandth of a GPU.
const PARTS: f64 = 1_024.0;

/// Likes places at which little is left that the usual jobs cannot use.
#[derive(Debug, Clone)]
pub struct Taste {
    mix: Mix,
    /// Shares of the GPUs of the shape at hand.
    gpus: Vec<u32>,
}

impl Taste {
    #[must_use]
    pub fn of(mix: Mix) -> Self {
        Self { mix, gpus: Vec::new() }
    }

    fn left<'a>(gpus: &'a mut Vec<u32>, of: &FreeShape<'_>) -> Left<'a> {
        gpus.clear();
        gpus.extend(of.shared.iter().map(|left| u32::from(*left)));
        gpus.extend((0..of.whole).map(|_| u32::from(GPU_MILLI)));
        Left { model: u32::from(of.class.0), cpu_milli: u64::from(of.cpu_milli), gpus }
    }
}

impl Scorer for Taste {
    fn score(&mut self, before: &FreeShape<'_>, after: &FreeShape<'_>) -> i64 {
        let burden = self.mix.burden(&Self::left(&mut self.gpus, before));
        let cost = self.mix.cost(burden, &Self::left(&mut self.gpus, after));
        #[expect(clippy::cast_possible_truncation, reason = "a cast of a float saturates")]
        let score = -(cost * PARTS) as i64;
        score
    }

    fn most(&self) -> u32 {
        SCORED_MAX
    }
}

/// What one job asks of a node: CPU, GPUs, thousandths of each, and the classes that will do.
type Asked = (u64, u32, u32, Vec<GpuClass>);

/// The mix of jobs that run here. Follows from the leases.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demand {
    seen: Table<LeaseId, Lease>,
    /// Nodes of jobs of each kind. Invariant: no entry is zero.
    counts: BTreeMap<Asked, u64>,
    nodes: u64,
    /// Of those, nodes of jobs that share a GPU.
    sharing: u64,
    /// How many there were when the taste was made.
    made_of: u64,
    pub(crate) taste: Option<Taste>,
}

fn asked(lease: &Lease) -> Asked {
    let (spec, needs) = (&lease.spec, &lease.spec.needs);
    let milli = if needs.gpu_milli > 0 { needs.gpu_milli } else { u32::from(GPU_MILLI) };
    (u64::from(needs.cpu_milli), spec.gpus_per_node.0, milli, spec.gpu_classes.clone())
}

impl Demand {
    /// Takes over what was written since the last time. `site` tells the CPU and the GPUs of all nodes,
    /// if the taste is to be made anew.
    pub(crate) fn follow(
        &mut self,
        state: &State,
        class: impl Fn(&GpuClass) -> Option<u32>,
        site: impl FnOnce() -> (u64, u64),
    ) {
        let mut changed = Vec::new();
        state.leases.changed_since(&self.seen, |id| changed.push(*id));
        let before = core::mem::replace(&mut self.seen, state.leases.clone());
        for id in changed {
            for (lease, is_there) in [(before.get(&id), false), (state.leases.get(&id), true)] {
                if let Some(lease) = lease {
                    self.count(asked(lease), u64::from(lease.spec.nodes), is_there);
                }
            }
        }
        if self.sharing == 0 || self.nodes < JOBS_MIN {
            self.taste = None;
            self.made_of = 0;
        } else if self.taste.is_none() || self.nodes.abs_diff(self.made_of) * 4 > self.made_of {
            self.made_of = self.nodes;
            self.taste = Some(self.make(class, site()));
        }
    }

    fn count(&mut self, kind: Asked, nodes: u64, is_there: bool) {
        let shares = if kind.2 < u32::from(GPU_MILLI) { nodes } else { 0 };
        let count = self.counts.entry(kind.clone()).or_default();
        if is_there {
            *count += nodes;
            self.nodes += nodes;
            self.sharing += shares;
        } else {
            *count = count.saturating_sub(nodes);
            self.nodes = self.nodes.saturating_sub(nodes);
            self.sharing = self.sharing.saturating_sub(shares);
        }
        if *count == 0 {
            self.counts.remove(&kind);
        }
    }

    fn make(
        &self,
        class: impl Fn(&GpuClass) -> Option<u32>,
        (cpu_milli, gpus): (u64, u64),
    ) -> Taste {
        let mut kinds: Vec<(&Asked, u64)> = self.counts.iter().map(|(it, n)| (it, *n)).collect();
        kinds.sort_by_key(|(kind, count)| (Reverse(*count), *kind));
        kinds.truncate(KINDS_MAX);
        let shape = |((cpu_milli, gpus, gpu_milli, classes), count): (&Asked, u64)| Shape {
            cpu_milli: *cpu_milli,
            gpus: *gpus,
            gpu_milli: *gpu_milli,
            models: (!classes.is_empty()).then(|| classes.iter().filter_map(&class).collect()),
            count,
        };
        let shapes = kinds.into_iter().map(shape).collect();
        Taste::of(Mix::of(shapes, cpu_milli, gpus.saturating_mul(u64::from(GPU_MILLI))))
    }
}
