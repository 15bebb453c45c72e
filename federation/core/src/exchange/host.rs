//! At the host: grants made, guests admitted, stopped and forgotten as their homes' orders say.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{GpuIndex, GrantId, LeaseId, NodeId, Revision, SiteId};
use specs::job::{JobSpec, Needs, OnPartition};
use specs::unit::{GpuCount, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{Ending, Outcome, Want};
use specs::wire::peer::{GuestPhase, LoanBody, LoanOrder, LoanSlot};

use crate::apply::Reply;
use crate::command::{ExpireGrant, MakeGrant, ObeyPeer, PartPlan, RecallGrant};
use crate::effect::{Effect, Effects};
use crate::health::proofs;
use crate::job;
use crate::lease;
use crate::node::count_gpus;
use crate::placement::pool::{self, Pool};
use crate::placement::sites::data;
use crate::placement::{fits, lend};
use crate::reserve;
use crate::restore;
use crate::state::{Gpu, Grant, GrantSlot, Guest, GuestKey, Lease, State, StopReason};

pub(crate) fn make_grant(state: &mut State, fx: &mut Effects, it: &MakeGrant) -> Reply {
    let known = state.peers.get(&it.home).is_some_and(|peer| peer.suspicion.is_none());
    if !known || it.slots.is_empty() {
        return Reply::NoOp("the home is suspected, or unknown");
    }
    for slot in &it.slots {
        if !is_free(state, slot) {
            return Reply::NoOp("the GPUs are no longer free");
        }
        if reserve::is_reserved(state, &slot.node) {
            return Reply::NoOp("the GPUs are reserved");
        }
    }
    if !lend::allows(state, &it.home, &it.slots) {
        return Reply::NoOp("the lend rules do not allow it");
    }
    let id = GrantId(state.last_grant.0 + 1);
    state.agreed.last_grant = id;
    for slot in &it.slots {
        mark(state, &slot.node, &slot.gpus, Some(id));
        carry(state, slot);
    }
    let grant = Grant { id, home: it.home.clone(), slots: it.slots.clone(), recalled: false };
    state.agreed.grants.insert(id, grant);
    fx.insert(Effect::SyncPeer(it.home.clone()));
    Reply::Done
}

fn is_free(state: &State, slot: &GrantSlot) -> bool {
    let Some(node) = state.nodes.get(&slot.node).filter(|node| node.is_usable()) else {
        return false;
    };
    !slot.gpus.is_empty()
        && slot.gpus.iter().all(|index| {
            node.free().any(|gpu| gpu.info.index == *index && gpu.info.class == slot.class)
        })
}

fn mark(state: &mut State, node: &NodeId, gpus: &[GpuIndex], grant: Option<GrantId>) {
    let Some(node) = state.agreed.nodes.get_mut(node) else { return };
    for gpu in node.gpus.iter_mut().filter(|gpu| gpus.contains(&gpu.info.index)) {
        gpu.grant = grant;
        gpu.carries = false;
    }
}

/// As many of the GPUs carry their part of the node's CPU and memory as leave own jobs what they have.
fn carry(state: &mut State, slot: &GrantSlot) {
    let Some(node) = state.nodes.get(&slot.node) else { return };
    if state.version < ClusterVersion::DEMANDS {
        return;
    }
    let (share, taken) = (pool::share(node), fits::promised(state, &slot.node));
    let mut left = Pool::of_node(&node.facts).minus(taken);
    let Some(node) = state.agreed.nodes.get_mut(&slot.node) else { return };
    for gpu in node.gpus.iter_mut().filter(|gpu| slot.gpus.contains(&gpu.info.index)) {
        gpu.carries = left.covers(share);
        if gpu.carries {
            left = left.minus(share);
        }
    }
}

pub(crate) fn recall_grant(state: &mut State, fx: &mut Effects, it: &RecallGrant) -> Reply {
    let Some(grant) = state.agreed.grants.get_mut(&it.grant) else {
        return Reply::NoOp("there is no such grant");
    };
    grant.recalled = true;
    fx.insert(Effect::SyncPeer(grant.home.clone()));
    Reply::Done
}

pub(crate) fn expire_grant(state: &mut State, fx: &mut Effects, it: &ExpireGrant) -> Reply {
    remove_grant(state, fx, it.grant)
}

/// Takes a grant back; only when no guest uses it.
fn remove_grant(state: &mut State, fx: &mut Effects, id: GrantId) -> Reply {
    let Some(grant) = state.grants.get(&id).cloned() else {
        return Reply::NoOp("there is no such grant");
    };
    if in_use(state, &grant) {
        return Reply::NoOp("guests use the grant");
    }
    for slot in &grant.slots {
        mark(state, &slot.node, &slot.gpus, None);
    }
    state.agreed.grants.remove(&id);
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncPeer(grant.home));
    Reply::Done
}

/// True if a guest has a GPU of the grant, or guests ask for more beside theirs than other grants
/// carry.
pub(crate) fn in_use(state: &State, grant: &Grant) -> bool {
    let is_leased = grant.slots.iter().any(|slot| {
        state.nodes.get(&slot.node).is_some_and(|node| {
            node.gpus.iter().any(|gpu| gpu.grant == Some(grant.id) && gpu.lease.is_some())
        })
    });
    is_leased || pool::is_needed(state, grant)
}

/// After a node's inventory changed: a grant keeps only the GPUs that are still its own.
pub(crate) fn shrink_grants(state: &mut State, fx: &mut Effects, node: &NodeId) {
    let Some(record) = state.nodes.get(node).cloned() else { return };
    let touched: Vec<Grant> = state
        .grants
        .values()
        .filter(|grant| grant.slots.iter().any(|slot| slot.node == *node))
        .cloned()
        .collect();
    for mut grant in touched {
        for slot in grant.slots.iter_mut().filter(|slot| slot.node == *node) {
            slot.gpus.retain(|index| {
                record
                    .gpus
                    .iter()
                    .any(|gpu| gpu.info.index == *index && gpu.grant == Some(grant.id))
            });
        }
        fx.insert(Effect::SyncPeer(grant.home.clone()));
        state.agreed.grants.insert(grant.id, grant);
    }
}

/// Orders older than those last obeyed change nothing.
pub(crate) fn obey(state: &mut State, fx: &mut Effects, it: &ObeyPeer) -> Reply {
    let Some(peer) = state.agreed.peers.get_mut(&it.peer) else {
        return Reply::NoOp("there is no such peer");
    };
    if it.revision < peer.obeyed {
        return Reply::NoOp("later orders were obeyed");
    }
    peer.obeyed = it.revision;
    let key = |it: &ObeyPeer, job, epoch| GuestKey { home: it.peer.clone(), job, epoch };
    for attempt in &it.stop {
        let guest = state.guests.get(&key(it, attempt.job, attempt.epoch));
        if let Some(lease) = guest.and_then(|guest| guest.lease) {
            job::stop_lease(state, fx, lease, StopReason::Revoked);
        }
    }
    for attempt in &it.forget {
        let key = key(it, attempt.job, attempt.epoch);
        let has_it = |guest: &Guest| guest.phase == GuestPhase::Ended && guest.ended_in <= it.shown;
        if state.guests.get(&key).is_some_and(has_it) {
            state.agreed.guests.remove(&key);
        }
    }
    for order in &it.admit {
        admit(state, fx, &it.peer, order, it.at);
    }
    for &grant in &it.returned {
        if state.grants.get(&grant).is_some_and(|grant| grant.home == it.peer) {
            remove_grant(state, fx, grant);
        }
    }
    fx.insert(Effect::SyncPeer(it.peer.clone()));
    Reply::Done
}

/// What becomes of a loan that the host does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Known, or older than one that is known: nothing to do.
    Known,
    /// What it asks for is taken by a guest that is being stopped: try again.
    Later,
    /// It was never started and never will be.
    Refuse(Outcome),
    /// These are its GPUs.
    Admit(Vec<PartPlan>),
}

pub(crate) fn judge(state: &State, home: &SiteId, order: &LoanOrder, at: Timestamp) -> Admission {
    let newest = state.guests_for(home, order.job).last();
    if newest.is_some_and(|guest| guest.key.epoch >= order.epoch) {
        return Admission::Known;
    }
    if order.want == Want::Stop {
        let outcome = Outcome::of(Ending::Stopped, "stopped before it was admitted");
        return Admission::Refuse(outcome);
    }
    let Some(body) = &order.body else { return Admission::Known };
    let refuse = |why: String| Admission::Refuse(Outcome::of(Ending::Refused, why));
    if let Err(error) = body.spec.check() {
        return refuse(alloc::format!("the job is not valid: {error}"));
    }
    let Some(site) = &state.site else { return Admission::Known };
    if !fits::may_run_at(&body.spec, &site.site, site.country) {
        return refuse("its policy forbids this site".into());
    }
    if let Some((name, _)) = data::forbidden(state, &body.spec, &site.site, site.country) {
        return refuse(alloc::format!("its data set {name} may not be used at this site"));
    }
    if !fits::loans_carry(state, &body.spec.needs) {
        return refuse("it asks for more of its nodes than a loan can carry".into());
    }
    let nodes: Vec<_> = fits::loan_nodes(&body.slots).collect();
    let whole = nodes.iter().all(|(_, gpus)| *gpus == body.spec.gpus_per_node);
    if !whole || nodes.len() as u64 != u64::from(body.spec.nodes) {
        return refuse("its slots do not make up its gang".into());
    }
    if !body.spec.needs.fit_a_loan() {
        let facts = |(node, _): &(&NodeId, GpuCount)| state.nodes.get(*node).map(|it| &*it.facts);
        let facts: Vec<_> = nodes.iter().map(facts).collect();
        if !fits::told_fit(&body.spec, facts.into_iter()) {
            return refuse("its nodes are not, or do not stand, as it asks for".into());
        }
    }
    let has_more = |(node, gpus): &&(&NodeId, GpuCount)| {
        state.nodes.get(*node).is_some_and(|node| GpuCount(count_gpus(node)) != *gpus)
    };
    if let Some((node, _)) = nodes.iter().find(has_more).filter(|_| body.spec.needs.exclusive) {
        return refuse(alloc::format!(
            "it is to be alone on {node} and does not take all its GPUs"
        ));
    }
    pick_all(state, home, body, at)
}

fn pick_all(state: &State, home: &SiteId, body: &LoanBody, at: Timestamp) -> Admission {
    let refuse = |why: String| Admission::Refuse(Outcome::of(Ending::Refused, why));
    let mut parts: BTreeMap<NodeId, Vec<GpuIndex>> = BTreeMap::new();
    for slot in &body.slots {
        let granted = state.grants.get(&slot.grant).is_some_and(|grant| grant.home == *home);
        if restore::is_forgotten(state, slot.grant) {
            return forgotten(&body.spec);
        }
        if !granted {
            return refuse(alloc::format!("{} is not granted", slot.grant));
        }
        let usable = state.nodes.get(&slot.node).is_some_and(crate::state::Node::is_usable);
        if !usable {
            return refuse(alloc::format!("node {} takes nothing new", slot.node));
        }
        match pick(state, slot, (&body.spec.needs, at)) {
            Pick::Some(gpus) => parts.entry(slot.node.clone()).or_default().extend(gpus),
            Pick::Busy => return Admission::Later,
            Pick::None => {
                return refuse(alloc::format!("{} has too few GPUs on {}", slot.grant, slot.node));
            }
            Pick::Unproven(gpu) => {
                let node = &slot.node;
                return refuse(alloc::format!(
                    "the proof of GPU {gpu} of {node} is not as demanded"
                ));
            }
        }
    }
    let asked = Pool::asked(&body.spec.needs);
    for (node, _) in fits::loan_nodes(&body.slots).filter(|_| body.spec.needs.ask_beside_gpus()) {
        let carried = pool::granted(state, home, node);
        if !carried.covers(asked) {
            let (cpu, memory) = carried.numbers();
            let what = alloc::format!("{cpu} milli-CPU and {memory} MiB");
            return refuse(alloc::format!("what is granted on {node} carries but {what}"));
        }
        if !carried.minus(pool::used(state, home, node)).covers(asked) {
            return Admission::Later;
        }
    }
    let ordered = fits::loan_nodes(&body.slots).map(|(node, _)| PartPlan {
        node: node.clone(),
        gpus: parts.remove(node).unwrap_or_default(),
    });
    Admission::Admit(ordered.collect())
}

/// The loan is older than the restore of this site. Bound by time, it is over: a restored site asks
/// no home before that. Otherwise it may run for ever, and nobody may take it for ended.
fn forgotten(spec: &JobSpec) -> Admission {
    match spec.on_partition {
        OnPartition::Wait => Admission::Later,
        OnPartition::Restart => Admission::Refuse(restore::unknown()),
    }
}

enum Pick {
    Some(Vec<GpuIndex>),
    Busy,
    None,
    /// The proof of that GPU is not what is demanded.
    Unproven(GpuIndex),
}

/// The GPUs that the slot names, or as many as it takes if it names none.
fn pick(state: &State, slot: &LoanSlot, (needs, at): (&Needs, Timestamp)) -> Pick {
    let Some(node) = state.nodes.get(&slot.node) else { return Pick::None };
    let granted = node.gpus.iter().filter(|gpu| gpu.grant == Some(slot.grant));
    let of_class = granted.filter(|gpu| gpu.info.class == slot.class && gpu.is_fit());
    let is_named = |gpu: &&Gpu| slot.which.is_empty() || slot.which.contains(&gpu.info.index);
    let (mut idle, mut all) = (Vec::new(), GpuCount::ZERO);
    for gpu in of_class.filter(is_named) {
        if !proofs::will_do(needs, gpu, at) {
            return Pick::Unproven(gpu.info.index);
        }
        all = all.plus(GpuCount(1));
        if gpu.lease.is_none() {
            idle.push(gpu.info.index);
        }
    }
    let want = usize::try_from(slot.gpus.0).unwrap_or(usize::MAX);
    let names_enough = slot.which.is_empty() || slot.which.len() == want;
    if all < slot.gpus || !names_enough {
        Pick::None
    } else if idle.len() < want {
        Pick::Busy
    } else {
        idle.truncate(want);
        Pick::Some(idle)
    }
}

fn admit(state: &mut State, fx: &mut Effects, home: &SiteId, order: &LoanOrder, at: Timestamp) {
    let key = GuestKey { home: home.clone(), job: order.job, epoch: order.epoch };
    let mut guest = Guest {
        key,
        phase: GuestPhase::Ended,
        lease: None,
        outcome: None,
        started_at: Timestamp(0),
        ended_at: at,
        nodes: Vec::new(),
        name: String::new(),
        gpus: GpuCount::ZERO,
        ended_in: state.revision,
    };
    if let Some(body) = &order.body {
        guest.name = body.spec.name.as_str().into();
        guest.gpus = body.spec.gpus();
    }
    match (judge(state, home, order, at), &order.body) {
        (Admission::Refuse(outcome), _) => guest.outcome = Some(outcome),
        (Admission::Admit(parts), Some(body)) => {
            let id = LeaseId(state.last_lease.0 + 1);
            guest.phase = GuestPhase::Admitted;
            guest.ended_at = Timestamp(0);
            guest.ended_in = Revision(0);
            guest.lease = Some(id);
            guest.nodes = parts.iter().map(|part| part.node.clone()).collect();
            let lease = Lease {
                id,
                home: home.clone(),
                job: order.job,
                epoch: order.epoch,
                spec: body.spec.clone(),
                array_index: body.array_index,
                parts: Vec::new(),
                stop: None,
                verdict: None,
            };
            lease::open(state, fx, lease, &parts);
        }
        (Admission::Known | Admission::Later | Admission::Admit(_), _) => return,
    }
    state.agreed.guests.insert(guest.key.clone(), guest);
}
