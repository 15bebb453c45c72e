//! Nodes: register, suspect, restore, release, drain, and what they report.

use alloc::vec::Vec;

use specs::codec::OrDefault;
use specs::id::{Boot, LeaseId, NodeId};
use specs::job::OnPartition;
use specs::version::ClusterVersion;
use specs::wire::agent::AttemptPhase;

use crate::apply::Reply;
use crate::burn_in;
use crate::command::{DrainNode, RecordParts, RegisterNode, ReleaseNode, RestoreNode, SuspectNode};
use crate::effect::{Effect, Effects};
use crate::exchange;
use crate::health;
use crate::lease;
use crate::state::{Gpu, Node, Part, State};

/// A new life of an agent: whatever an earlier life had is gone, because an agent ends orphans
/// before its first report.
pub(crate) fn register(state: &mut State, fx: &mut Effects, it: &RegisterNode) -> Reply {
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("the node is not enrolled");
    };
    if it.boot <= node.boot {
        return Reply::NoOp("a later life of the agent is known");
    }
    node.boot = it.boot;
    node.suspicion = None;
    node.address.clone_from(&it.inventory.address);
    node.version.clone_from(&it.inventory.version);
    node.source = Some(it.inventory.source);
    node.facts.clone_from(&it.inventory.facts);
    let detail = "its agent was restarted";
    lease::lose_parts(state, fx, &it.node, detail, it.at, |_, part| part.boot < it.boot);
    forget_lapsed(state, it);
    replace_gpus(state, fx, it);
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncNode(it.node.clone()));
    Reply::Done
}

/// What an earlier life could tell has been told: the first report of a life names every end that
/// an earlier one left, and is recorded before the life is.
fn forget_lapsed(state: &mut State, it: &RegisterNode) {
    let is_over = |part: &Part| part.node == it.node && part.boot < it.boot && part.is_lost();
    let lapsed = state.lapsed_of(&it.node);
    let over: Vec<LeaseId> =
        lapsed.filter(|lease| lease.parts.iter().any(is_over)).map(|lease| lease.id).collect();
    for lease in over {
        lease::forget_lapsed(state, lease);
    }
}

/// How many GPUs a node has.
pub(crate) fn count_gpus(node: &Node) -> u32 {
    u32::try_from(node.gpus.len()).unwrap_or(u32::MAX)
}

/// Takes over the inventory; a granted GPU stays granted if it is there and of the same class.
fn replace_gpus(state: &mut State, fx: &mut Effects, it: &RegisterNode) {
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else { return };
    let before = count_gpus(node);
    let old = core::mem::take(&mut node.gpus);
    let absent = core::mem::take(&mut node.absent);
    let mut gpus: Vec<Gpu> = Vec::new();
    for info in &it.inventory.gpus {
        if gpus.iter().any(|gpu| gpu.info.index == info.index) {
            continue;
        }
        let before = old.iter().find(|gpu| gpu.info.index == info.index);
        let same = before.filter(|gpu| gpu.info.class == info.class);
        let grant = same.and_then(|gpu| gpu.grant);
        let same = same.filter(|gpu| gpu.info.uuid == info.uuid);
        let same = same.or_else(|| burn_in::absent(&absent, info));
        // A lease that outlives a restart cannot exist: its part was lost above.
        gpus.push(health::inherit(state, it.inventory.source, info, same, grant));
    }
    let absent = burn_in::leave(state, &it.node, old, absent, &gpus);
    let carry = state.version >= ClusterVersion::DEMANDS;
    if let Some(node) = state.agreed.nodes.get_mut(&it.node) {
        node.gpus = gpus;
        node.absent = absent;
        // Nothing runs there, so what is granted can carry all that it should.
        node.gpus.iter_mut().for_each(|gpu| gpu.carries = carry && gpu.grant.is_some());
        state.gpus = state.gpus.saturating_sub(before).saturating_add(count_gpus(node));
    }
    exchange::host::shrink_grants(state, fx, &it.node);
}

pub(crate) fn suspect(state: &mut State, it: &SuspectNode) -> Reply {
    let revision = state.revision;
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    if node.boot != it.boot || node.boot == Boot(0) || node.suspicion.is_some() {
        return Reply::NoOp("the suspicion is not about the present");
    }
    node.suspicion = Some(revision);
    Reply::Done
}

pub(crate) fn restore(state: &mut State, fx: &mut Effects, it: &RestoreNode) -> Reply {
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    if node.suspicion != Some(it.suspicion) {
        return Reply::NoOp("the suspicion named is not the present one");
    }
    node.suspicion = None;
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncNode(it.node.clone()));
    sync_homes(state, fx, &it.node);
    Reply::Done
}

/// Homes that hold grants on the node must see that it came or went.
pub(crate) fn sync_homes(state: &State, fx: &mut Effects, node: &NodeId) {
    let Some(node) = state.nodes.get(node) else { return };
    for grant in node.gpus.iter().filter_map(|gpu| gpu.grant) {
        if let Some(grant) = state.grants.get(&grant) {
            fx.insert(Effect::SyncPeer(grant.home.clone()));
        }
    }
}

pub(crate) fn release(state: &mut State, fx: &mut Effects, it: &ReleaseNode) -> Reply {
    let suspicion = state.nodes.get(&it.node).and_then(|node| node.suspicion);
    if suspicion != Some(it.suspicion) {
        return Reply::NoOp("the suspicion named is not the present one");
    }
    let detail = "its node was not heard for longer than a lease";
    lease::lose_parts(state, fx, &it.node, detail, it.at, |lease, _| {
        lease.spec.on_partition == OnPartition::Restart
    });
    Reply::Done
}

pub(crate) fn drain(state: &mut State, fx: &mut Effects, it: &DrainNode) -> Reply {
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    node.draining = it.drain;
    fx.insert(Effect::Plan);
    sync_homes(state, fx, &it.node);
    Reply::Done
}

/// An end is true whichever life reports it; anything else only from the life that has the part.
pub(crate) fn record_parts(state: &mut State, fx: &mut Effects, it: &RecordParts) -> Reply {
    for report in &it.attempts {
        let lapsed = state.lapsed.get(&report.lease).and_then(|lease| lease.part(&it.node));
        if lapsed.is_some_and(|part| it.boot >= part.boot) && report.phase == AttemptPhase::Ended {
            lease::end_lapsed(state, fx, &it.node, report, it.at);
            continue;
        }
        let lease = state.leases.get(&report.lease);
        let Some(part) = lease.and_then(|lease| lease.part(&it.node)) else { continue };
        match report.phase {
            AttemptPhase::Ended if it.boot >= part.boot => {
                lease::end_part(state, fx, &it.node, report, it.at);
            }
            AttemptPhase::Running if it.boot == part.boot => {
                lease::start_part(state, fx, &it.node, report);
            }
            AttemptPhase::Starting
            | AttemptPhase::Running
            | AttemptPhase::Stopping
            | AttemptPhase::Ended => {}
        }
    }
    Reply::Done
}

impl Node {
    pub(crate) fn awaited(id: NodeId) -> Self {
        Self {
            id,
            boot: Boot(0),
            gpus: Vec::new(),
            address: alloc::string::String::new(),
            version: alloc::string::String::new(),
            source: None,
            suspicion: None,
            draining: false,
            facts: OrDefault::default(),
            alone: None,
            absent: Vec::new(),
        }
    }
}
