//! Leases: granted with a recheck, recorded part by part, concluded when every part has ended.

use alloc::vec::Vec;

use specs::id::{Boot, LeaseId, NodeId};
use specs::unit::Timestamp;
use specs::version::ClusterVersion;
use specs::wire::agent::{AttemptPhase, AttemptReport, Ending, Outcome};
use specs::wire::peer::GuestPhase;

use crate::apply::Reply;
use crate::command::{Assignment, CommitPlan, LeasePlan, PartPlan, Place};
use crate::effect::{Effect, Effects};
use crate::exchange;
use crate::job::{self, AttemptEnd};
use crate::placement::fits;
use crate::quota::{self, Charge};
use crate::reserve;
use crate::state::{
    Guest, GuestKey, Job, JobPhase, LAPSED_KEPT, Lease, Leased, Part, Share, State, StopReason,
};

pub(crate) fn commit_plan(state: &mut State, fx: &mut Effects, it: &CommitPlan) -> Reply {
    let (mut taken, mut dropped) = (0, 0);
    for assignment in &it.assignments {
        if assign(state, fx, assignment, it.at) {
            taken += 1;
        } else {
            dropped += 1;
            fx.insert(Effect::Plan);
        }
    }
    Reply::Placed { taken, dropped }
}

/// Rechecks one assignment and takes it, or drops it.
fn assign(state: &mut State, fx: &mut Effects, it: &Assignment, at: Timestamp) -> bool {
    let Some(job) = state.jobs.get(&it.job) else { return false };
    let JobPhase::Queued(_) = job.phase else { return false };
    if job.epoch != it.after || job.cancel || state.recovering.is_some() {
        return false;
    }
    let job = job.clone();
    match &it.place {
        Place::Here(plan) => assign_here(state, fx, job, (plan, at)),
        Place::There(plan) => exchange::home::assign_there(state, fx, job, (plan, at)),
    }
}

fn assign_here(
    state: &mut State,
    fx: &mut Effects,
    mut job: Job,
    (plan, at): (&LeasePlan, Timestamp),
) -> bool {
    if !fits::lease_fits(state, &job.spec(), plan, at) || reserve::bars_lease(state, &job, plan, at)
    {
        return false;
    }
    let (spec, class) = (job.spec(), quota::class_of(state, &plan.parts));
    if quota::check(state, &Charge::new(&job, &spec, class.clone())).is_err() {
        return false;
    }
    let Some(own) = state.own().cloned() else { return false };
    let nodes = plan.parts.iter().map(|part| part.node.clone()).collect();
    let id = LeaseId(state.last_lease.0 + 1);
    job::begin_attempt(&mut job, own.clone(), nodes, id);
    let key = job.queue_key();
    let class = class.filter(|_| state.version >= ClusterVersion::QUEUEING);
    job.phase = JobPhase::Leased(Leased { lease: id, class });
    let lease = Lease {
        id,
        home: own,
        job: job.id,
        epoch: job.epoch,
        spec,
        array_index: job.array_index,
        parts: Vec::new(),
        stop: None,
        verdict: None,
    };
    state.queue.remove(&key);
    quota::charge(state, &job);
    state.agreed.jobs.insert(job.id, job);
    open(state, fx, lease, &plan.parts);
    true
}

/// Takes the GPUs and starts the lease. The caller has checked that they are free for it and has
/// given it the next id.
pub(crate) fn open(state: &mut State, fx: &mut Effects, mut lease: Lease, parts: &[PartPlan]) {
    state.agreed.last_lease = lease.id;
    // A guest has the GPUs of its home's grants, and those are whole.
    let milli = if state.is_own(&lease.home) { lease.spec.needs.gpu_milli } else { 0 };
    for plan in parts {
        let boot = take_gpus(state, &lease, plan, milli);
        state.node_leases.insert((plan.node.clone(), lease.id), ());
        fx.insert(Effect::SyncNode(plan.node.clone()));
        lease.parts.push(Part {
            node: plan.node.clone(),
            boot,
            gpus: plan.gpus.clone(),
            phase: AttemptPhase::Starting,
            outcome: None,
            started_at: Timestamp(0),
            ended_at: Timestamp(0),
            milli,
        });
    }
    state.agreed.leases.insert(lease.id, lease);
}

fn take_gpus(state: &mut State, lease: &Lease, plan: &PartPlan, milli: u32) -> Boot {
    let Some(node) = state.agreed.nodes.get_mut(&plan.node) else { return Boot(0) };
    for gpu in node.gpus.iter_mut().filter(|gpu| plan.gpus.contains(&gpu.info.index)) {
        if milli > 0 {
            gpu.shares.push(Share { lease: lease.id, milli });
        } else {
            gpu.lease = Some(lease.id);
        }
    }
    if lease.spec.needs.exclusive {
        node.alone = Some(lease.id);
    }
    node.boot
}

/// Takes in that a part has started.
pub(crate) fn start_part(
    state: &mut State,
    fx: &mut Effects,
    node: &NodeId,
    report: &AttemptReport,
) {
    let Some(lease) = state.agreed.leases.get_mut(&report.lease) else { return };
    let Some(part) = lease.part_mut(node) else { return };
    if part.phase != AttemptPhase::Starting || part.outcome.is_some() {
        return;
    }
    part.phase = AttemptPhase::Running;
    part.started_at = report.started_at;
    if lease.parts.iter().any(|part| part.phase == AttemptPhase::Starting) {
        return;
    }
    let started_at = lease.parts.iter().map(|part| part.started_at).max().unwrap_or_default();
    let (home, job, epoch) = (lease.home.clone(), lease.job, lease.epoch);
    if state.is_own(&home) {
        let attempt = state.agreed.jobs.get_mut(&job).and_then(|job| job.attempt_mut(epoch));
        if let Some(attempt) = attempt {
            attempt.started_at = started_at;
        }
        return;
    }
    let key = GuestKey { home: home.clone(), job, epoch };
    if let Some(guest) = state.agreed.guests.get_mut(&key) {
        guest.phase = GuestPhase::Running;
        guest.started_at = started_at;
        fx.insert(Effect::SyncPeer(home));
    }
}

/// Takes in that a part has ended: frees its GPUs, stops the rest of the gang if it ended badly,
/// and concludes the lease with its last part.
pub(crate) fn end_part(
    state: &mut State,
    fx: &mut Effects,
    node: &NodeId,
    report: &AttemptReport,
    at: Timestamp,
) {
    let Some(outcome) = &report.outcome else { return };
    let Some(lease) = state.agreed.leases.get_mut(&report.lease) else { return };
    let Some(part) = lease.part_mut(node) else { return };
    // What was given up may turn out to have exited, and an exit is better than not knowing.
    let is_late = part.is_lost() && outcome.ending == Ending::Exited;
    if part.outcome.is_some() && !is_late {
        return;
    }
    put_end(lease, node, report, outcome);
    if is_late {
        return;
    }
    let ended = lease.parts.iter().all(|part| part.outcome.is_some());
    free_gpus(state, report.lease, node);
    state.node_leases.remove(&(node.clone(), report.lease));
    fx.insert(Effect::SyncNode(node.clone()));
    fx.insert(Effect::Plan);
    if ended {
        conclude(state, fx, report.lease, at);
    } else if !outcome.is_success() {
        job::stop_lease(state, fx, report.lease, StopReason::Gang);
    }
}

fn put_end(lease: &mut Lease, node: &NodeId, report: &AttemptReport, outcome: &Outcome) {
    let Some(part) = lease.part_mut(node) else { return };
    part.phase = AttemptPhase::Ended;
    part.outcome = Some(outcome.clone());
    if report.started_at != Timestamp(0) {
        part.started_at = report.started_at;
    }
    part.ended_at = report.ended_at;
    if outcome.ending == Ending::Exited && !outcome.is_success() {
        lease.verdict.get_or_insert(outcome.clone());
    }
}

fn free_gpus(state: &mut State, lease: LeaseId, node: &NodeId) {
    let Some(node) = state.agreed.nodes.get_mut(node) else { return };
    for gpu in &mut node.gpus {
        gpu.lease = gpu.lease.filter(|user| *user != lease);
        gpu.shares.retain(|share| share.lease != lease);
    }
    node.alone = node.alone.filter(|user| *user != lease);
}

/// How the whole ended, given how its parts did.
fn overall(lease: &Lease) -> Outcome {
    if let Some(verdict) = &lease.verdict {
        return verdict.clone();
    }
    let outcomes = || lease.parts.iter().filter_map(|part| part.outcome.as_ref());
    if outcomes().all(Outcome::is_success) {
        return Outcome::exited(0, 0);
    }
    let telling = outcomes().find(|it| !it.is_success() && it.ending != Ending::Stopped);
    let telling = telling.or_else(|| outcomes().find(|it| it.ending == Ending::Stopped));
    telling.cloned().unwrap_or_else(|| Outcome::of(Ending::Lost, "no part said how it ended"))
}

fn attempt_end(lease: &Lease) -> AttemptEnd {
    let started = lease.parts.iter().map(|part| part.started_at);
    AttemptEnd {
        job: lease.job,
        epoch: lease.epoch,
        outcome: overall(lease),
        started_at: started.filter(|at| *at != Timestamp(0)).min().unwrap_or_default(),
        ended_at: lease.parts.iter().map(|part| part.ended_at).max().unwrap_or_default(),
    }
}

fn conclude(state: &mut State, fx: &mut Effects, id: LeaseId, at: Timestamp) {
    let Some(lease) = state.agreed.leases.take(&id) else { return };
    let it = attempt_end(&lease);
    let is_own = state.is_own(&lease.home);
    if it.outcome.ending != Ending::Exited {
        lapse(state, lease.clone());
    }
    if is_own {
        let current = state.jobs.get(&it.job).is_some_and(|job| job.epoch == it.epoch);
        if current {
            job::end_attempt(state, fx, &it, at);
        }
    } else {
        end_guest(state, fx, &lease, &it);
    }
}

/// Remembers a lease that was given up, if a life of an agent that had a part of it may still tell
/// how that part ended.
fn lapse(state: &mut State, lease: Lease) {
    let may_tell = |part: &Part| {
        let node = state.nodes.get(&part.node);
        part.is_lost() && node.is_some_and(|node| node.boot == part.boot)
    };
    if !lease.parts.iter().any(may_tell) {
        return;
    }
    for part in lease.parts.iter().filter(|part| part.is_lost()) {
        state.node_lapsed.insert((part.node.clone(), lease.id), ());
    }
    state.agreed.lapsed.insert(lease.id, lease);
    if state.lapsed.len() > LAPSED_KEPT {
        let oldest = state.lapsed.keys().next().copied();
        if let Some(oldest) = oldest {
            forget_lapsed(state, oldest);
        }
    }
}

/// Nothing more will be heard of it, or nobody wants to know.
pub(crate) fn forget_lapsed(state: &mut State, id: LeaseId) {
    let Some(lease) = state.lapsed.get(&id).cloned() else { return };
    for part in &lease.parts {
        state.node_lapsed.remove(&(part.node.clone(), id));
    }
    state.agreed.lapsed.remove(&id);
}

/// A node tells how its part of a lapsed lease ended. If with that the attempt as a whole exited,
/// the result is kept.
pub(crate) fn end_lapsed(
    state: &mut State,
    fx: &mut Effects,
    node: &NodeId,
    report: &AttemptReport,
    at: Timestamp,
) {
    let Some(outcome) = &report.outcome else { return };
    let Some(lease) = state.agreed.lapsed.get_mut(&report.lease) else { return };
    if !lease.part(node).is_some_and(Part::is_lost) {
        return;
    }
    put_end(lease, node, report, outcome);
    let lease = lease.clone();
    let it = attempt_end(&lease);
    let exited = it.outcome.ending == Ending::Exited;
    if outcome.ending == Ending::Exited && !exited {
        state.node_lapsed.remove(&(node.clone(), report.lease));
        if lease.parts.iter().any(Part::is_lost) {
            return;
        }
    }
    forget_lapsed(state, report.lease);
    if !exited {
        return;
    }
    if state.is_own(&lease.home) {
        job::keep_result(state, fx, &it, at);
    } else {
        end_guest(state, fx, &lease, &it);
    }
}

/// Records the end of a guest; of one that was forgotten as lost, so that its home hears of it.
fn end_guest(state: &mut State, fx: &mut Effects, lease: &Lease, it: &AttemptEnd) {
    let key = GuestKey { home: lease.home.clone(), job: it.job, epoch: it.epoch };
    let guest = Guest {
        key: key.clone(),
        phase: GuestPhase::Ended,
        lease: None,
        outcome: Some(it.outcome.clone()),
        started_at: it.started_at,
        ended_at: it.ended_at,
        nodes: lease.parts.iter().map(|part| part.node.clone()).collect(),
        name: lease.spec.name.as_str().into(),
        gpus: lease.spec.gpus(),
        ended_in: state.revision,
    };
    state.agreed.guests.insert(key, guest);
    fx.insert(Effect::SyncPeer(lease.home.clone()));
}

/// Ends every part that the node still has and that `gone` picks, as nobody knows how.
pub(crate) fn lose_parts(
    state: &mut State,
    fx: &mut Effects,
    node: &NodeId,
    detail: &str,
    at: Timestamp,
    gone: impl Fn(&Lease, &Part) -> bool,
) {
    let lost: Vec<AttemptReport> = state
        .leases_of(node)
        .filter_map(|lease| lease.part(node).map(|part| (lease, part)))
        .filter(|(lease, part)| gone(lease, part))
        .map(|(lease, part)| AttemptReport {
            lease: lease.id,
            phase: AttemptPhase::Ended,
            outcome: Some(Outcome::of(Ending::Lost, detail)),
            started_at: part.started_at,
            ended_at: at,
        })
        .collect();
    for report in &lost {
        end_part(state, fx, node, report, at);
    }
}
