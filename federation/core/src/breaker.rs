//! The circuit breaker: how many GPUs are taken from running jobs on the word of agents alone. A
//! release of agents or kernels that is wrong about sound GPUs must not empty a site.
//!
//! A GPU that is one too many is held to be as bad as any other: nothing new runs on it. But what
//! runs on it is not stopped, and an alarm is raised, until an operator has decided: to quarantine
//! it, which stops what runs there, or to let it go, which burns it in.

use alloc::collections::{BTreeMap, BTreeSet};

use specs::gpu::{GpuHealth, HealthLimits, QUARANTINED_FEW, QUARANTINES_MAX, QUARANTINES_SPAN};
use specs::id::{GpuClass, GpuIndex};
use specs::unit::{GpuCount, Timestamp};
use specs::wire::client::HealthLimitsView;

use crate::apply::Reply;
use crate::burn_in::{SINCE, TOO_EARLY, permitted};
use crate::command::{RecordHealth, SetHealthLimits};
use crate::effect::{Effect, Effects};
use crate::health::ends_attempts;
use crate::state::{Doubt, Node, State};

/// The site's limits.
#[must_use]
pub fn limits(state: &State) -> HealthLimits {
    state.health_limits.clone().unwrap_or_default()
}

/// The limits, and what of them is used.
#[must_use]
pub fn limits_view(state: &State) -> HealthLimitsView {
    let (retests, admissions) = permitted(state);
    let count = |gpus: usize| u32::try_from(gpus).unwrap_or(u32::MAX);
    let spared = state.nodes.values().map(spared).sum();
    HealthLimitsView {
        revision: state.revision,
        limits: limits(state),
        retests,
        admissions,
        gpus: GpuCount(state.gpus),
        spared: count(spared),
    }
}

/// GPUs of the node that are bad, and whose jobs run on.
pub(crate) fn spared(node: &Node) -> usize {
    let is_spared = |doubt: &Doubt| doubt.spared;
    node.gpus.iter().filter(|gpu| gpu.doubt.as_ref().is_some_and(is_spared)).count()
}

pub(crate) fn set_limits(state: &mut State, fx: &mut Effects, it: &SetHealthLimits) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    if limits(state) == it.limits {
        return Reply::NoOp("the site has these limits already");
    }
    state.agreed.health_limits = Some(it.limits.clone());
    fx.insert(Effect::Plan);
    Reply::Done
}

/// Of each class, how many GPUs there are and how many of them are quarantined for good.
fn pools(state: &State) -> BTreeMap<GpuClass, (u32, u32)> {
    let mut pools: BTreeMap<GpuClass, (u32, u32)> = BTreeMap::new();
    for gpu in state.nodes.values().flat_map(|node| &node.gpus) {
        let pool = pools.entry(gpu.info.class.clone()).or_default();
        let is_out = |doubt: &Doubt| ends_attempts(doubt.state) && !doubt.spared;
        pool.0 += 1;
        pool.1 += u32::from(gpu.doubt.as_ref().is_some_and(is_out));
    }
    pools
}

/// Which GPUs of a node are spared of those that its agent says are bad: those that are already,
/// and those that come on top of too many. Notes the others.
pub(crate) fn trip(state: &mut State, it: &RecordHealth) -> BTreeSet<GpuIndex> {
    let mut spared = BTreeSet::new();
    if state.version < SINCE {
        return spared;
    }
    let limits = limits(state);
    let span = |at: &Timestamp| at.0.abs_diff(it.at.0) < QUARANTINES_SPAN.0;
    let mut lately = core::mem::take(&mut state.agreed.quarantined_at);
    lately.retain(span);
    let most = usize::try_from(limits.quarantines.min(QUARANTINES_MAX)).unwrap_or(0);
    let mut counted: Option<BTreeMap<GpuClass, (u32, u32)>> = None;
    let bad = |it: &&GpuHealth| ends_attempts(it.state);
    for health in it.gpus.iter().filter(bad) {
        let gpus = state.nodes.get(&it.node).map(|node| &node.gpus);
        let mut gpus = gpus.into_iter().flatten();
        let Some(gpu) = gpus.find(|gpu| gpu.info.index == health.index) else { continue };
        let before = gpu.doubt.as_ref().filter(|doubt| ends_attempts(doubt.state));
        if let Some(before) = before {
            if before.spared {
                spared.insert(health.index);
            }
            continue;
        }
        let is_often = lately.len() >= most;
        // To look at all GPUs takes long, and is of no use when there were too many lately.
        let pool = if is_often {
            None
        } else {
            counted.get_or_insert_with(|| pools(state)).get_mut(&gpu.info.class)
        };
        match pool {
            Some((all, out)) if *out < limits.quarantined.of(*all).max(QUARANTINED_FEW) => {
                *out += 1;
                lately.push(it.at);
            }
            Some(_) | None => {
                spared.insert(health.index);
            }
        }
    }
    state.agreed.quarantined_at = lately;
    spared
}
