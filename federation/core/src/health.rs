//! The health of GPUs: what agents report of it, what an operator holds back, and so what may be
//! leased or granted.
//!
//! ```text
//!   agent: burn-in, counters, events ─▶ NodeReport ─▶ RecordHealth ─▶ doubt ─┐
//!   operator: quarantine, release ──────────────────▶ WithholdGpu ─▶ withheld ┴▶ is_fit
//!   agent: what its proof is of ──────▶ NodeReport ─▶ RecordHealth ─▶ proven ─▶ what jobs demand
//! ```
//!
//! # Invariants
//! * Below [`SINCE`] nothing here is ever set, and every GPU is fit.
//! * Nothing is leased, granted or admitted on a GPU that is not fit ([`Gpu::is_fit`]).
//! * What is held back becomes fit again only by a report of a new proof: the agent is told that it
//!   is held back, and says so until it has burnt it in again.

pub(crate) mod proofs;

use alloc::string::String;
use alloc::vec::Vec;

use specs::gpu::{BurnInTier, GpuHealth, GpuInfo, GpuReport, GpuState, InventorySource};
use specs::id::{GpuIndex, GrantId, LeaseId, NodeId};
use specs::site::Trust;
use specs::unit::Timestamp;
use specs::version::ClusterVersion;
use specs::wire::agent::NodeReport;

use crate::apply::Reply;
use crate::breaker;
use crate::burn_in;
use crate::command::{RecordHealth, SetTrust, WithholdGpu};
use crate::effect::{Effect, Effects};
use crate::job;
use crate::node::sync_homes;
use crate::state::{Doubt, Gpu, Node, State, StopReason};

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::HEALTH;

/// What is said of a GPU of which nothing has come.
const UNPROVEN: &str = "no proof of its health has come";
const TOO_EARLY: Reply = Reply::NoOp("the site's version knows nothing of health");

impl Gpu {
    /// True if something new may run on it.
    #[must_use]
    pub fn is_fit(&self) -> bool {
        self.doubt.is_none()
            && self.withheld.is_none()
            && self.wish.is_none()
            && self.permit.is_none()
    }

    pub(crate) fn is_quarantined(&self) -> bool {
        let is_left = |doubt: &Doubt| matches!(doubt.state, GpuState::Quarantined | GpuState::Rma);
        self.doubt.as_ref().is_some_and(is_left)
    }
}

/// True if the site asks for proofs.
#[must_use]
pub fn asks_for_proofs(state: &State) -> bool {
    trust(state).is_some()
}

fn trust(state: &State) -> Option<Trust> {
    state.site.as_ref().and_then(|spec| spec.trust).filter(|_| state.version >= SINCE)
}

/// Whether the node's GPUs are taken for what was declared: nothing can burn them in.
pub(crate) fn are_taken_as_declared(state: &State, node: &Node) -> bool {
    let declared = (Some(Trust::Declared), Some(InventorySource::Declared));
    (trust(state), node.source) == declared
}

/// What is held against a GPU of which nobody has reported yet.
fn first_doubt(trust: Option<Trust>, source: Option<InventorySource>) -> Option<Doubt> {
    match (trust, source) {
        (None, _) | (Some(Trust::Declared), Some(InventorySource::Declared)) => None,
        (Some(Trust::Declared | Trust::Proven), _) => {
            Some(Doubt { state: GpuState::Discovered, why: UNPROVEN.into(), spared: false })
        }
    }
}

/// What is held against a GPU, going by what its agent says of it.
fn doubt(trust: Option<Trust>, source: Option<InventorySource>, it: &GpuHealth) -> Option<Doubt> {
    match it.state {
        GpuState::Healthy => None,
        GpuState::Discovered if first_doubt(trust, source).is_none() => None,
        GpuState::Discovered
        | GpuState::BurningIn
        | GpuState::Suspect
        | GpuState::Quarantined
        | GpuState::Resetting
        | GpuState::Rma => Some(Doubt { state: it.state, why: it.why.clone(), spared: false }),
    }
}

/// A GPU that an agent found. What of its record outlives the agent's life: what was held against
/// it, who holds it back, and what is wanted of it.
pub(crate) fn inherit(
    state: &State,
    source: InventorySource,
    info: &GpuInfo,
    before: Option<&Gpu>,
    grant: Option<GrantId>,
) -> Gpu {
    let fresh = first_doubt(trust(state), Some(source));
    Gpu {
        info: info.clone(),
        lease: None,
        grant,
        shares: Vec::new(),
        doubt: before.and_then(|before| before.doubt.clone()).or(fresh),
        withheld: before.and_then(|before| before.withheld.clone()),
        released: before.is_some_and(|before| before.released),
        wish: before.and_then(|before| before.wish.clone()),
        permit: None,
        carries: false,
        proven: None,
    }
}

pub(crate) fn set_trust(state: &mut State, fx: &mut Effects, it: &SetTrust) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let Some(spec) = &state.site else { return Reply::NoOp("the site is not founded") };
    if spec.trust == Some(it.trust) {
        return Reply::NoOp("the site trusts so already");
    }
    let mut spec = (**spec).clone();
    spec.trust = Some(it.trust);
    state.agreed.site = Some(spec.into());
    let nodes: Vec<NodeId> = state.nodes.keys().cloned().collect();
    for id in nodes {
        let Some(node) = state.agreed.nodes.get_mut(&id) else { continue };
        let fresh = first_doubt(Some(it.trust), node.source);
        for gpu in &mut node.gpus {
            let is_open = gpu.doubt.as_ref().is_none_or(|it| it.state == GpuState::Discovered);
            // What an agent has proven in the meantime it says again with its next report.
            if is_open {
                gpu.doubt.clone_from(&fresh);
            }
        }
        sync_homes(state, fx, &id);
    }
    fx.insert(Effect::Plan);
    Reply::Done
}

/// What runs on a GPU that turns out not to be sound is stopped; what is merely suspect runs on.
pub(crate) fn record(state: &mut State, fx: &mut Effects, it: &RecordHealth) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let trust = trust(state);
    match state.nodes.get(&it.node) {
        None => return Reply::NoOp("there is no such node"),
        Some(node) if node.boot != it.boot => {
            return Reply::NoOp("another life of the agent is known");
        }
        Some(_) => {}
    }
    let spared = breaker::trip(state, it);
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    let source = node.source;
    let mut broken: Vec<LeaseId> = Vec::new();
    for health in &it.gpus {
        let found = node.gpus.iter_mut().find(|gpu| gpu.info.index == health.index);
        let Some(gpu) = found else { continue };
        gpu.doubt = doubt(trust, source, health);
        gpu.released &= gpu.is_quarantined();
        let is_spared = spared.contains(&health.index);
        if let Some(doubt) = &mut gpu.doubt {
            doubt.spared = is_spared;
        }
        if ends_attempts(health.state) && !is_spared {
            broken.extend(gpu.lease);
            broken.extend(gpu.shares.iter().map(|share| share.lease));
        }
    }
    burn_in::answered(state, &it.node, &it.ended);
    proofs::record(state, it);
    for lease in broken {
        job::stop_lease(state, fx, lease, StopReason::Unsound);
    }
    sync_homes(state, fx, &it.node);
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncNode(it.node.clone()));
    Reply::Done
}

/// Whether what runs on a GPU in that state is stopped, but for the breaker.
pub(crate) fn ends_attempts(state: GpuState) -> bool {
    match state {
        GpuState::Quarantined | GpuState::Resetting | GpuState::Rma => true,
        GpuState::Discovered | GpuState::BurningIn | GpuState::Healthy | GpuState::Suspect => false,
    }
}

/// Holds a GPU back, or no longer. What runs there runs on: an operator can cancel it. But what runs
/// on a GPU that its agent knows to be bad, and that was spared, is stopped: an operator agrees.
pub(crate) fn withhold(state: &mut State, fx: &mut Effects, it: &WithholdGpu) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let (trust, version, number) = (trust(state), state.version, state.revision);
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    let first = first_doubt(trust, node.source);
    let Some(gpu) = node.gpus.iter_mut().find(|gpu| gpu.info.index == it.index) else {
        return Reply::NoOp("the node has no such GPU");
    };
    let is_released = it.why.is_none() && gpu.is_quarantined();
    let spared = gpu.doubt.as_mut().filter(|_| it.why.is_some()).map(|doubt| &mut doubt.spared);
    let is_agreed = spared.is_some_and(core::mem::take);
    if gpu.withheld == it.why && gpu.released == is_released && !is_agreed {
        return Reply::NoOp("nothing changes");
    }
    gpu.withheld.clone_from(&it.why);
    gpu.released = is_released;
    if it.why.is_none() && first.is_some() && version >= burn_in::SINCE {
        burn_in::wish(gpu, number, BurnInTier::T2);
    }
    if it.why.is_none() && gpu.doubt.is_none() {
        gpu.doubt = first;
    }
    let mut broken: Vec<LeaseId> = Vec::new();
    if is_agreed {
        broken.extend(gpu.lease);
        broken.extend(gpu.shares.iter().map(|share| share.lease));
    }
    for lease in broken {
        job::stop_lease(state, fx, lease, StopReason::Unsound);
    }
    sync_homes(state, fx, &it.node);
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncNode(it.node.clone()));
    Reply::Done
}

/// GPUs of the node that an operator holds back.
pub(crate) fn withheld(node: &Node) -> Vec<GpuIndex> {
    let held = node.gpus.iter().filter(|gpu| gpu.withheld.is_some());
    held.map(|gpu| gpu.info.index).collect()
}

/// GPUs of the node that are to be burnt in although they are quarantined.
pub(crate) fn released(node: &Node) -> Vec<GpuIndex> {
    let released = node.gpus.iter().filter(|gpu| gpu.released);
    released.map(|gpu| gpu.info.index).collect()
}

/// What a report says of health that the log does not have yet.
pub(crate) fn news(state: &State, report: &NodeReport, at: Timestamp) -> Option<RecordHealth> {
    if state.version < SINCE {
        return None;
    }
    let node = state.nodes.get(&report.node)?;
    let is_new_life = report.boot > node.boot;
    let source = if is_new_life { Some(report.inventory.source) } else { node.source };
    let trust = trust(state);
    let differs = |it: &GpuHealth| {
        let known = node.gpus.iter().find(|gpu| gpu.info.index == it.index);
        is_new_life || known.is_some_and(|gpu| !is_same(gpu, doubt(trust, source, it).as_ref()))
    };
    let told = report.health.iter().map(claim);
    let gpus: Vec<GpuHealth> = told.filter(differs).collect();
    let ended = burn_in::ends(state, report);
    let proven = proofs::news(state, node, report);
    let at = if state.version >= burn_in::SINCE { at } else { Timestamp(0) };
    let (node, boot) = (report.node.clone(), report.boot);
    let is_news = !gpus.is_empty() || !ended.is_empty() || !proven.is_empty();
    is_news.then_some(RecordHealth { node, boot, gpus, ended, at, proven })
}

/// Whether that much is held against a GPU; whether it was spared is the site's to say.
fn is_same(gpu: &Gpu, doubt: Option<&Doubt>) -> bool {
    let of = |doubt: &Doubt| (doubt.state, doubt.why.clone());
    gpu.doubt.as_ref().map(of) == doubt.map(of)
}

/// Who says healthy shows a proof, or has said nothing.
fn claim(it: &GpuReport) -> GpuHealth {
    let GpuHealth { index, state, why } = it.health.clone();
    match state {
        GpuState::Healthy if it.proof.is_none() => {
            GpuHealth::new(index, GpuState::Discovered, UNPROVEN)
        }
        GpuState::Healthy => GpuHealth { index, state, why: String::new() },
        GpuState::Discovered
        | GpuState::BurningIn
        | GpuState::Suspect
        | GpuState::Quarantined
        | GpuState::Resetting
        | GpuState::Rma => GpuHealth::new(index, state, why),
    }
}
