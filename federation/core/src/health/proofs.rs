//! What proofs say, as far as jobs may demand something of it: the tier, and when it was passed.
//!
//! An agent tells how long ago that was, counted by itself; the leader that takes it in says from it
//! when that was by the site's clock. So clocks of two machines are never compared, and a proof that
//! is told again changes nothing.
//!
//! # Invariants
//! * Below [`SINCE`] nothing here is ever set.
//! * What is said of a GPU is of the proof that its agent shows; without one it is nothing.

use alloc::vec::Vec;

use specs::gpu::{GpuReport, Passed};
use specs::job::Needs;
use specs::unit::{Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::NodeReport;

use crate::command::{GpuPassed, RecordHealth};
use crate::state::{Gpu, Node, Proven, State};

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::DEMANDS;

impl Proven {
    /// How old the proof is then, by the site's clock.
    pub(crate) fn age(&self, at: Timestamp) -> Millis {
        Millis(at.0.saturating_sub(self.at.0))
    }

    fn is_of(&self, passed: &Passed) -> bool {
        (self.tier, self.passed_at) == (passed.tier, passed.at)
    }
}

/// Whether the GPU's proof is what is asked for, at that time.
pub(crate) fn will_do(needs: &Needs, gpu: &Gpu, at: Timestamp) -> bool {
    needs.proof.as_ref().is_none_or(|need| {
        gpu.proven.as_ref().is_some_and(|proven| need.is_met(proven.tier, proven.age(at)))
    })
}

/// What a report says of proofs that the log does not have yet.
pub(crate) fn news(state: &State, node: &Node, report: &NodeReport) -> Vec<GpuPassed> {
    if state.version < SINCE {
        return Vec::new();
    }
    let is_new_life = report.boot > node.boot;
    let differs = |it: &&GpuReport| {
        let gpu = node.gpus.iter().find(|gpu| gpu.info.index == it.health.index);
        let known = gpu.and_then(|gpu| gpu.proven.as_ref()).filter(|_| !is_new_life);
        match (known, &it.passed) {
            (Some(known), Some(passed)) => !known.is_of(passed),
            (None, None) => false,
            (None, Some(_)) => is_new_life || gpu.is_some(),
            (Some(_), None) => true,
        }
    };
    let told = report.health.iter().filter(differs);
    told.map(|it| GpuPassed { index: it.health.index, passed: it.passed }).collect()
}

/// Takes it in.
pub(crate) fn record(state: &mut State, it: &RecordHealth) {
    let (version, number) = (state.version, state.revision);
    let Some(node) = state.agreed.nodes.get_mut(&it.node).filter(|_| version >= SINCE) else {
        return;
    };
    for told in &it.proven {
        let found = node.gpus.iter_mut().find(|gpu| gpu.info.index == told.index);
        let Some(gpu) = found else { continue };
        gpu.proven = told.passed.map(|passed| Proven {
            tier: passed.tier,
            passed_at: passed.at,
            at: Timestamp(it.at.0.saturating_sub(passed.ago.0)),
            number,
        });
    }
}

#[cfg(test)]
mod tests {
    use specs::codec::Message;
    use specs::gpu::BurnInTier;
    use specs::id::{Boot, GpuIndex};

    use super::*;
    use crate::command::Command;

    #[test]
    fn what_is_recorded_of_proofs_keeps_its_bytes() {
        let passed = Passed { tier: BurnInTier::T3, at: Timestamp(7), ago: Millis(5) };
        let told = |index, passed| GpuPassed { index: GpuIndex(index), passed };
        let command = Command::RecordHealth(RecordHealth {
            node: "n1".parse().expect("a name that keeps the rules"),
            boot: Boot(1),
            gpus: Vec::new(),
            ended: Vec::new(),
            at: Timestamp(9),
            proven: [told(3, Some(passed)), told(4, None)].into(),
        });
        let record = [0x0a, 2, b'n', b'1', 0x10, 1, 0x28, 9];
        let young = [0xa2, 1, 10, 0x08, 3, 0x12, 6, 0x08, 4, 0x10, 7, 0x18, 5];
        let none = [0xa2, 1, 2, 0x08, 4];
        let bytes = [&[0x8a, 4, 26][..], &record, &young, &none].concat();
        assert_eq!(command.encode(), bytes);
        assert_eq!(Command::decode(&bytes), Ok(command));
    }
}
