//! Burn-ins that the leader wishes for jobs that wait for nothing but proofs.

use alloc::vec::Vec;

use specs::gpu::ProofNeed;
use specs::id::JobId;
use specs::job::JobSpec;
use specs::unit::{Millis, Timestamp};

use super::Leader;
use crate::breaker;
use crate::command::WantBurnIns;
use crate::health::{self, proofs};
use crate::placement::capacity::screen::Binding;
use crate::placement::fits;
use crate::state::{Gpu, State};

/// Jobs for which something is wished in one look.
const JOBS_MAX: usize = 4;
/// How long a burn-in takes, at most as a rule. The GPUs of a node are burnt in one after the other,
/// so the proof of the first is that much older when the last has its own.
const BURN_IN_SPAN: u64 = 300_000;

/// Whether burn-ins of the GPUs of a node can be over before the first proof is too old.
fn can_be_met(spec: &JobSpec, need: &ProofNeed) -> bool {
    let takes = Millis(BURN_IN_SPAN.saturating_mul(u64::from(spec.gpus_per_node.0)));
    need.age_max == Millis::ZERO || need.age_max >= takes
}

/// GPUs that are to be burnt in: all, and those whose proofs the job could use.
fn wished(state: &State, spec: &JobSpec, need: &ProofNeed) -> (u32, u32) {
    let (mut all, mut useful) = (0, 0);
    for gpu in state.nodes.values().flat_map(|node| &node.gpus) {
        let Some(wish) = &gpu.wish else { continue };
        all += 1;
        let will_do = wish.tier.rank() >= need.tier.rank();
        useful += u32::from(will_do && fits::class_will_do(spec, &gpu.info.class));
    }
    (all, useful)
}

impl Leader {
    /// Of idle GPUs, for jobs that could start there if their proofs were what is demanded. Never of
    /// more than the site admits at once, or one job needs. What is chosen is taken from the capacity.
    pub(super) fn wishes(
        &mut self,
        at: Timestamp,
        state: &State,
        waiting: &[JobId],
    ) -> Vec<WantBurnIns> {
        let mut wishes = Vec::new();
        if state.version < proofs::SINCE || !health::asks_for_proofs(state) {
            return wishes;
        }
        let specs = waiting.iter().filter_map(|id| Some(self.lookout.get(*id)?.spec.clone()));
        let specs: Vec<_> =
            specs.filter(|spec| spec.needs.proof.is_some()).take(JOBS_MAX).collect();
        let most = breaker::limits(state).admissions.of(state.gpus);
        let mut chosen = 0u32;
        for spec in specs {
            let Some(need) = spec.needs.proof.filter(|need| can_be_met(&spec, need)) else {
                continue;
            };
            let gpus = spec.gpus().0;
            let (all, useful) = wished(state, &spec, &need);
            let has_room = all.saturating_add(chosen).saturating_add(gpus) <= most.max(gpus);
            if useful >= gpus || !has_room || !fits::may_be_here(state, &spec) {
                continue;
            }
            if !matches!(self.capacity.binding(&spec, at), Err(Binding::Proofs(_))) {
                continue;
            }
            for part in self.capacity.take_unproven(&spec) {
                let heeds = self.nodes.get(&part.node).is_some_and(|node| node.heeds_permits);
                let Some(node) = state.nodes.get(&part.node).filter(|_| heeds) else { continue };
                if health::are_taken_as_declared(state, node) {
                    continue;
                }
                // Whoever has a node for himself has all that is there.
                let lacks = |gpu: &&Gpu| {
                    (spec.needs.exclusive || part.gpus.contains(&gpu.info.index))
                        && !gpu.is_leased()
                        && !proofs::will_do(&spec.needs, gpu, at)
                };
                let lacking = node.gpus.iter().filter(lacks).map(|gpu| gpu.info.index);
                let gpus: Vec<_> = lacking.collect();
                chosen = chosen.saturating_add(u32::try_from(gpus.len()).unwrap_or(u32::MAX));
                if !gpus.is_empty() {
                    wishes.push(WantBurnIns { node: part.node, gpus, tier: need.tier });
                }
            }
        }
        wishes
    }
}
