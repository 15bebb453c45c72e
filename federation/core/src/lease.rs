//! Leases: granted with a recheck, recorded part by part, concluded when every part has ended.

use alloc::vec::Vec;

use specs::id::{Boot, GpuIndex, LeaseId, NodeId, SiteId};
use specs::unit::Timestamp;
use specs::wire::agent::{AttemptPhase, AttemptReport, Ending, Outcome};
use specs::wire::peer::GuestPhase;

use crate::apply::Reply;
use crate::command::{Assignment, CommitPlan, LeasePlan, PartPlan, Place};
use crate::effect::{Effect, Effects};
use crate::exchange;
use crate::job::{self, AttemptEnd};
use crate::placement::fits;
use crate::state::{GuestKey, Job, JobPhase, Lease, Leased, Part, State, StopReason};

pub(crate) fn commit_plan(state: &mut State, fx: &mut Effects, it: &CommitPlan) -> Reply {
    let (mut taken, mut dropped) = (0, 0);
    for assignment in &it.assignments {
        if assign(state, fx, assignment) {
            taken += 1;
        } else {
            dropped += 1;
            fx.insert(Effect::Plan);
        }
    }
    Reply::Placed { taken, dropped }
}

/// Rechecks one assignment and takes it, or drops it.
fn assign(state: &mut State, fx: &mut Effects, it: &Assignment) -> bool {
    let Some(job) = state.jobs.get(&it.job) else { return false };
    let JobPhase::Queued(_) = job.phase else { return false };
    if job.epoch != it.after || job.cancel {
        return false;
    }
    let job = job.clone();
    match &it.place {
        Place::Here(plan) => assign_here(state, fx, job, plan),
        Place::There(plan) => exchange::home::assign_there(state, fx, job, plan),
    }
}

fn assign_here(state: &mut State, fx: &mut Effects, mut job: Job, plan: &LeasePlan) -> bool {
    if !fits::lease_fits(state, &job.spec, plan) {
        return false;
    }
    let Some(own) = state.own().cloned() else { return false };
    let nodes = plan.parts.iter().map(|part| part.node.clone()).collect();
    let id = LeaseId(state.last_lease.0 + 1);
    job::begin_attempt(&mut job, own.clone(), nodes, id);
    let key = job.queue_key();
    job.phase = JobPhase::Leased(Leased { lease: id });
    let lease = Lease {
        id,
        home: own,
        job: job.id,
        epoch: job.epoch,
        spec: job.spec.clone(),
        array_index: job.array_index,
        parts: Vec::new(),
        stop: None,
        verdict: None,
    };
    state.queue.remove(&key);
    state.agreed.jobs.insert(job.id, job);
    open(state, fx, lease, &plan.parts);
    true
}

/// Takes the GPUs and starts the lease. The caller has checked that they are free for it and has
/// given it the next id.
pub(crate) fn open(state: &mut State, fx: &mut Effects, mut lease: Lease, parts: &[PartPlan]) {
    state.agreed.last_lease = lease.id;
    for plan in parts {
        let boot = take_gpus(state, lease.id, &plan.node, &plan.gpus);
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
        });
    }
    state.agreed.leases.insert(lease.id, lease);
}

fn take_gpus(state: &mut State, lease: LeaseId, node: &NodeId, gpus: &[GpuIndex]) -> Boot {
    let Some(node) = state.agreed.nodes.get_mut(node) else { return Boot(0) };
    for gpu in node.gpus.iter_mut().filter(|gpu| gpus.contains(&gpu.info.index)) {
        gpu.lease = Some(lease);
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
    if part.outcome.is_some() {
        return;
    }
    part.phase = AttemptPhase::Ended;
    part.outcome = Some(outcome.clone());
    if report.started_at != Timestamp(0) {
        part.started_at = report.started_at;
    }
    part.ended_at = report.ended_at;
    if outcome.ending == Ending::Exited && !outcome.is_success() {
        lease.verdict.get_or_insert(outcome.clone());
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

fn free_gpus(state: &mut State, lease: LeaseId, node: &NodeId) {
    let Some(node) = state.agreed.nodes.get_mut(node) else { return };
    for gpu in node.gpus.iter_mut().filter(|gpu| gpu.lease == Some(lease)) {
        gpu.lease = None;
    }
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

fn conclude(state: &mut State, fx: &mut Effects, id: LeaseId, at: Timestamp) {
    let Some(lease) = state.leases.get(&id).cloned() else { return };
    state.agreed.leases.remove(&id);
    let started = lease.parts.iter().map(|part| part.started_at);
    let it = AttemptEnd {
        job: lease.job,
        epoch: lease.epoch,
        outcome: overall(&lease),
        started_at: started.filter(|at| *at != Timestamp(0)).min().unwrap_or_default(),
        ended_at: lease.parts.iter().map(|part| part.ended_at).max().unwrap_or_default(),
    };
    if state.is_own(&lease.home) {
        let current = state.jobs.get(&it.job).is_some_and(|job| job.epoch == it.epoch);
        if current {
            job::end_attempt(state, fx, &it, at);
        }
    } else {
        end_guest(state, fx, lease.home, &it);
    }
}

fn end_guest(state: &mut State, fx: &mut Effects, home: SiteId, it: &AttemptEnd) {
    let key = GuestKey { home: home.clone(), job: it.job, epoch: it.epoch };
    let Some(guest) = state.agreed.guests.get_mut(&key) else { return };
    guest.phase = GuestPhase::Ended;
    guest.lease = None;
    guest.outcome = Some(it.outcome.clone());
    guest.started_at = it.started_at;
    guest.ended_at = it.ended_at;
    fx.insert(Effect::SyncPeer(home));
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
