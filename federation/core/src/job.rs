//! The life of a job at its home: admission, cancel, the end of an attempt.

use alloc::boxed::Box;
use alloc::vec::Vec;

use specs::fault::{Fault, FaultCode};
use specs::id::{Epoch, JobId, LeaseId, NodeId, SiteId};
use specs::unit::Timestamp;
use specs::version::ClusterVersion;
use specs::wire::agent::{Ending, Outcome};
use specs::wire::client::JobState;

use crate::apply::Reply;
use crate::command::{AdmitJobs, CancelJob};
use crate::effect::{Effect, Effects};
use crate::lease;
use crate::queue::recent;
use crate::quota;
use crate::state::{
    ATTEMPTS_KEPT, Attempt, EndKey, Ended, Job, JobPhase, Queued, RequestRecord, State, StopReason,
};

pub(crate) fn admit(state: &mut State, fx: &mut Effects, it: &AdmitJobs) -> Reply {
    if let Some(record) = state.requests.get(&it.request) {
        let same = record.jobs.as_slice().iter().find_map(|id| state.jobs.get(id));
        if same.is_some_and(|job| job.spec == it.spec && job.submitter == it.submitter) {
            return Reply::Jobs { jobs: record.jobs.as_slice().to_vec(), repeated: true };
        }
        let is_known = same.is_some();
        let what = if is_known { "another job" } else { "jobs that are in the archive" };
        let message = alloc::format!("request `{}` was used for {what}", it.request);
        let hint = "give each new job a request id of its own";
        return Reply::Refused(Fault::new(FaultCode::Conflict, message).with_hint(hint));
    }
    let account = it.spec.account();
    if let Some(fault) = quota::refuses(state, account.as_ref(), &it.submitter) {
        return Reply::Refused(fault);
    }
    if it.jobs.iter().any(|id| state.jobs.contains(id)) {
        return Reply::Refused(Fault::new(FaultCode::Internal, "the stamped job id is taken"));
    }
    for (array_index, &id) in (0..).zip(&it.jobs) {
        let job = Job {
            id,
            spec: it.spec.clone(),
            array_index,
            submitter: it.submitter.clone(),
            submitted_at: it.at,
            order: state.revision,
            phase: JobPhase::Queued(Queued {}),
            epoch: Epoch(0),
            losses: 0,
            cancel: false,
            kept: None,
            attempts: Vec::new(),
            preemptions: 0,
            made_room: None,
        };
        state.queue.insert(job.queue_key(), ());
        state.agreed.jobs.insert(id, job);
    }
    state
        .agreed
        .requests
        .insert(it.request.clone(), RequestRecord { jobs: it.jobs.as_slice().into() });
    fx.insert(Effect::Plan);
    Reply::Jobs { jobs: it.jobs.clone(), repeated: false }
}

pub(crate) fn cancel(state: &mut State, fx: &mut Effects, it: &CancelJob) -> Reply {
    let Some(job) = state.agreed.jobs.get_mut(&it.job) else {
        return Reply::NoOp("there is no such job");
    };
    if job.has_ended() {
        return Reply::NoOp("the job has ended");
    }
    job.cancel = true;
    if let JobPhase::Queued(_) = job.phase {
        let outcome = Outcome::of(Ending::Stopped, "cancelled before it started");
        end(state, it.job, JobState::Cancelled, outcome, it.at);
    } else {
        stop_current(state, fx, it.job, StopReason::Cancel);
    }
    Reply::Done
}

/// Asks for the current attempt to be stopped, wherever it is.
fn stop_current(state: &mut State, fx: &mut Effects, id: JobId, reason: StopReason) {
    let Some(job) = state.agreed.jobs.get_mut(&id) else { return };
    match &mut job.phase {
        JobPhase::Leased(leased) => {
            let id = leased.lease;
            stop_lease(state, fx, id, reason);
        }
        JobPhase::Loaned(loan) => {
            loan.stop.get_or_insert(reason);
            fx.insert(Effect::SyncPeer(loan.peer.clone()));
        }
        JobPhase::Queued(_) | JobPhase::Ended(_) => {}
    }
}

/// Marks a lease as to be stopped; the first reason stays.
pub(crate) fn stop_lease(state: &mut State, fx: &mut Effects, id: LeaseId, reason: StopReason) {
    let Some(lease) = state.agreed.leases.get_mut(&id) else { return };
    lease.stop.get_or_insert(reason);
    for part in lease.parts.iter().filter(|part| part.outcome.is_none()) {
        fx.insert(Effect::SyncNode(part.node.clone()));
    }
}

/// Ends the job for ever.
fn end(state: &mut State, id: JobId, end: JobState, outcome: Outcome, at: Timestamp) {
    let Some(job) = state.agreed.jobs.get_mut(&id) else { return };
    let key = job.queue_key();
    job.phase = JobPhase::Ended(Ended { state: end, outcome, at });
    state.ended.insert(EndKey { at, job: id }, ());
    let leases: Vec<LeaseId> = job.attempts.iter().map(|attempt| attempt.lease).collect();
    state.queue.remove(&key);
    for lease in leases {
        lease::forget_lapsed(state, lease);
    }
}

/// A new attempt begins: one more epoch.
pub(crate) fn begin_attempt(job: &mut Job, host: SiteId, nodes: Vec<NodeId>, lease: LeaseId) {
    job.epoch = Epoch(job.epoch.0 + 1);
    if job.attempts.len() >= ATTEMPTS_KEPT {
        job.attempts.remove(0);
    }
    // Most jobs have one attempt, and most of the known ones will never have another.
    job.attempts.reserve_exact(1);
    job.attempts.push(Attempt {
        epoch: job.epoch,
        host,
        nodes,
        started_at: Timestamp(0),
        ended_at: Timestamp(0),
        outcome: None,
        lease,
        preempted: None,
    });
}

/// Which attempt ended, how and when.
pub(crate) struct AttemptEnd {
    pub(crate) job: JobId,
    pub(crate) epoch: Epoch,
    pub(crate) outcome: Outcome,
    pub(crate) started_at: Timestamp,
    pub(crate) ended_at: Timestamp,
}

/// What the attempt held is free to its account, and what it used is remembered.
fn count_end(state: &mut State, it: &AttemptEnd, at: Timestamp) {
    let Some(charge) = quota::discharge(state, it.job) else { return };
    if state.version < ClusterVersion::QUEUEING {
        return;
    }
    let Some(job) = state.jobs.get(&it.job) else { return };
    let (class, submitted_at) = (job.spec().class, job.submitted_at);
    let exited = it.outcome.ending == Ending::Exited;
    recent::record(state, &charge, class, (it, exited), (submitted_at, at));
}

fn record_end(job: &mut Job, it: &AttemptEnd) {
    if let Some(attempt) = job.attempt_mut(it.epoch) {
        attempt.outcome = Some(it.outcome.clone());
        attempt.ended_at = it.ended_at;
        if it.started_at != Timestamp(0) {
            attempt.started_at = it.started_at;
        }
    }
}

/// The current attempt has ended: the job ends, or waits for its next try.
/// The caller has taken the job out of the indexes of its phase.
pub(crate) fn end_attempt(state: &mut State, fx: &mut Effects, it: &AttemptEnd, at: Timestamp) {
    fx.insert(Effect::Plan);
    count_end(state, it, at);
    let Some(job) = state.agreed.jobs.get_mut(&it.job) else { return };
    record_end(job, it);
    if let Some(kept) = job.kept.take() {
        end(state, it.job, JobState::Finished, *kept, at);
        return;
    }
    // Who was stopped for another has lost nothing by itself.
    let preempted = job.attempt(it.epoch).is_some_and(|attempt| attempt.preempted.is_some());
    let exhausted = match it.outcome.ending {
        Ending::Exited => Some(JobState::Finished),
        Ending::Stopped | Ending::Fenced | Ending::Refused | Ending::Lost if job.cancel => {
            Some(JobState::Cancelled)
        }
        Ending::Stopped | Ending::Fenced | Ending::Refused | Ending::Lost if preempted => None,
        Ending::Refused if job.losses >= job.spec().retries => Some(JobState::Refused),
        Ending::Stopped | Ending::Fenced | Ending::Lost if job.losses >= job.spec().retries => {
            Some(JobState::Lost)
        }
        Ending::Stopped | Ending::Fenced | Ending::Refused | Ending::Lost => None,
    };
    if let Some(final_state) = exhausted {
        end(state, it.job, final_state, it.outcome.clone(), at);
        return;
    }
    job.losses += u32::from(!preempted);
    job.phase = JobPhase::Queued(Queued {});
    let key = job.queue_key();
    state.queue.insert(key, ());
}

/// A true result of an earlier attempt came in. It is kept: the job ends with it, as soon as the
/// current attempt, if there is one, has been stopped.
pub(crate) fn keep_result(state: &mut State, fx: &mut Effects, it: &AttemptEnd, at: Timestamp) {
    let Some(job) = state.agreed.jobs.get_mut(&it.job) else { return };
    if job.has_ended() || it.outcome.ending != Ending::Exited {
        return;
    }
    record_end(job, it);
    if let JobPhase::Queued(_) = job.phase {
        end(state, it.job, JobState::Finished, it.outcome.clone(), at);
        return;
    }
    job.kept.get_or_insert_with(|| Box::new(it.outcome.clone()));
    stop_current(state, fx, it.job, StopReason::Superseded);
}
