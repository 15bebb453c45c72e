//! How queues are served: the rules that were published, and ours.
//!
//! Source of the published ones: Hu et al., *Characterization and Prediction of Deep Learning
//! Workloads in Large-Scale GPU Datacenters*, SC 2021, and its artifact (`HeliosArtifact`, commit
//! bdaae10, `framework/QSSF Service`).

use federation_core::order::{Order, Rank};

use crate::queue::engine::{Known, Rule};

/// In the order of submission; the head holds up all.
pub(super) struct Fifo;

impl Rule for Fifo {
    type Key = u64;

    fn key(&self, waiting: &Known, _: u64) -> u64 {
        waiting.seen.submitted
    }

    fn blocks(&self, _: &Known, _: u64) -> bool {
        true
    }
}

/// The shortest first; it is told how long jobs run. The head holds up all.
pub(super) struct Sjf;

impl Rule for Sjf {
    type Key = (u64, u64);

    fn key(&self, waiting: &Known, _: u64) -> (u64, u64) {
        (waiting.remaining, waiting.seen.submitted)
    }

    fn blocks(&self, _: &Known, _: u64) -> bool {
        true
    }
}

/// The shortest remaining first; it is told how long jobs run, and evicts those that run longer.
pub(super) struct Srtf;

impl Rule for Srtf {
    type Key = (u64, u64);

    fn key(&self, waiting: &Known, _: u64) -> (u64, u64) {
        (waiting.remaining, waiting.seen.submitted)
    }

    fn blocks(&self, _: &Known, _: u64) -> bool {
        true
    }

    fn may_evict(&self, waiting: &Known, running: &Known, _: u64) -> bool {
        waiting.remaining < running.remaining
    }

    fn evicted_first(&self, running: &Known) -> (u64, u64) {
        (u64::MAX - running.remaining, running.seen.submitted)
    }
}

/// By what a job has had so far; evicts those that have had more. Nothing is held up by what does
/// not fit.
pub(super) struct Ours(pub(super) Order);

impl Rule for Ours {
    type Key = Rank;

    fn key(&self, waiting: &Known, now: u64) -> Rank {
        self.0.rank(&waiting.seen, now)
    }

    fn blocks(&self, _: &Known, _: u64) -> bool {
        false
    }

    fn may_evict(&self, waiting: &Known, running: &Known, now: u64) -> bool {
        self.0.may_evict(&waiting.seen, &running.seen, now)
    }

    fn evicted_first(&self, running: &Known) -> (u64, u64) {
        let level = u64::from(self.0.evicted_first(&running.seen));
        (u64::MAX - level, u64::MAX - running.seen.submitted)
    }

    fn changes_after(&self, running: &Known) -> Option<u64> {
        self.0.rises_after(&running.seen)
    }

    fn patience(&self) -> Option<u64> {
        Some(self.0.starved_after)
    }

    fn is_starved(&self, waiting: &Known, now: u64) -> bool {
        self.0.is_starved(&waiting.seen, now)
    }
}

/// In the order of submission, and whatever fits goes ahead; but once the head has waited for
/// too long, nothing passes it any more.
pub(super) struct OursNoPreempt(pub(super) Order);

impl Rule for OursNoPreempt {
    type Key = Rank;

    fn key(&self, waiting: &Known, now: u64) -> Rank {
        self.0.rank(&waiting.seen, now)
    }

    fn blocks(&self, waiting: &Known, now: u64) -> bool {
        self.0.is_starved(&waiting.seen, now)
    }

    fn patience(&self) -> Option<u64> {
        Some(self.0.starved_after)
    }
}
