//! At the home: grants held, loans drawn, what hosts report, hosts given up.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use specs::id::{GrantId, JobId, LeaseId, SiteId};
use specs::job::{Needs, OnPartition};
use specs::unit::{GpuCount, Timestamp};
use specs::wire::agent::{Ending, Outcome};
use specs::wire::peer::{GrantReport, GuestPhase, GuestReport, LoanSlot};

use crate::apply::Reply;
use crate::command::{LoanPlan, RecordPeer, ReleasePeer, RestorePeer, ReturnGrant, SuspectPeer};
use crate::effect::{Effect, Effects};
use crate::exchange::proofs;
use crate::job::{self, AttemptEnd};
use crate::placement::{fits, pool};
use crate::quota::{self, Charge};
use crate::state::{DrawKey, Held, HeldKey, Job, JobPhase, Loan, NamedKey, State};

/// Rechecks a loan against what is held, and draws it.
pub(crate) fn assign_there(
    state: &mut State,
    fx: &mut Effects,
    mut job: Job,
    (plan, at): (&LoanPlan, Timestamp),
) -> bool {
    let spec = job.spec();
    let class = plan.slots.first().map(|slot| slot.class.clone());
    if !fits::loan_fits(state, &spec, plan, at)
        || quota::check(state, &Charge::new(&job, &spec, class)).is_err()
    {
        return false;
    }
    let nodes = fits::loan_nodes(&plan.slots).map(|(node, _)| node.clone()).collect();
    job::begin_attempt(&mut job, plan.peer.clone(), nodes, LeaseId(0));
    let key = job.queue_key();
    state.queue.remove(&key);
    state.peer_loans.insert((plan.peer.clone(), job.id), ());
    draw(state, &plan.peer, &plan.slots, &spec.needs);
    job.phase = JobPhase::Loaned(Loan {
        peer: plan.peer.clone(),
        slots: plan.slots.clone(),
        stop: None,
        phase: GuestPhase::Admitted,
    });
    quota::charge(state, &job);
    state.agreed.jobs.insert(job.id, job);
    fx.insert(Effect::SyncPeer(plan.peer.clone()));
    true
}

fn draw(state: &mut State, peer: &SiteId, slots: &[LoanSlot], needs: &Needs) {
    pool::draw(&mut state.beside, peer, slots, needs);
    for slot in slots {
        let key = DrawKey::of(peer, slot);
        let drawn = state.drawn.get(&key).copied().unwrap_or_default();
        state.drawn.insert(key, drawn.plus(slot.gpus));
        for key in NamedKey::all(peer, slot) {
            state.named.insert(key, ());
        }
    }
}

fn undraw(state: &mut State, peer: &SiteId, slots: &[LoanSlot], needs: &Needs) {
    pool::undraw(&mut state.beside, peer, slots, needs);
    for slot in slots {
        let key = DrawKey::of(peer, slot);
        let left = state.drawn.get(&key).copied().unwrap_or_default().minus(slot.gpus);
        if left == GpuCount::ZERO {
            state.drawn.remove(&key);
        } else {
            state.drawn.insert(key, left);
        }
        for key in NamedKey::all(peer, slot) {
            state.named.remove(&key);
        }
    }
}

/// The current attempt, a loan, has ended.
fn end_loan(state: &mut State, fx: &mut Effects, it: &AttemptEnd, at: Timestamp) {
    let Some(job) = state.jobs.get(&it.job) else { return };
    if let JobPhase::Loaned(loan) = &job.phase {
        let (peer, slots, spec) = (loan.peer.clone(), loan.slots.clone(), job.spec());
        state.peer_loans.remove(&(peer.clone(), it.job));
        undraw(state, &peer, &slots, &spec.needs);
        fx.insert(Effect::SyncPeer(peer));
    }
    job::end_attempt(state, fx, it, at);
}

/// A report older than one taken in before changes nothing.
pub(crate) fn record_peer(state: &mut State, fx: &mut Effects, it: &RecordPeer) -> Reply {
    let Some(peer) = state.agreed.peers.get_mut(&it.peer) else {
        return Reply::NoOp("there is no such peer");
    };
    if it.revision < peer.seen {
        return Reply::NoOp("a later report was taken in");
    }
    peer.seen = it.revision;
    peer.shows |= it.shows;
    record_grants(state, fx, &it.peer, &it.grants);
    for guest in &it.guests {
        record_guest(state, fx, &it.peer, guest, it.at);
    }
    Reply::Done
}

fn record_grants(state: &mut State, fx: &mut Effects, host: &SiteId, reports: &[GrantReport]) {
    let named: BTreeSet<GrantId> = reports.iter().map(|report| report.grant).collect();
    let gone: Vec<GrantId> = state
        .held_at(host)
        .map(|(grant, _)| grant)
        .filter(|grant| !named.contains(grant))
        .collect();
    for grant in gone {
        state.agreed.held.remove(&HeldKey { host: host.clone(), grant });
    }
    for report in reports {
        let key = HeldKey { host: host.clone(), grant: report.grant };
        let before = state.held.get(&key);
        let returned = before.is_some_and(|held| held.returned);
        let proofs = proofs::kept(before, &report.slots);
        let held =
            Held { slots: report.slots.clone(), recalled: report.recalled, returned, proofs };
        state.agreed.held.insert(key, held);
    }
    fx.insert(Effect::Plan);
}

fn record_guest(
    state: &mut State,
    fx: &mut Effects,
    host: &SiteId,
    report: &GuestReport,
    at: Timestamp,
) {
    let Some(job) = state.agreed.jobs.get_mut(&report.job) else { return };
    let Some(attempt) = job.attempts.iter_mut().find(|it| it.epoch == report.epoch) else { return };
    // A host speaks only for what it was lent.
    if attempt.host != *host {
        return;
    }
    if report.started_at != Timestamp(0) {
        attempt.started_at = report.started_at;
    }
    let current = job.epoch == report.epoch;
    let on_loan = match &mut job.phase {
        JobPhase::Loaned(loan) if current && loan.peer == *host => {
            loan.phase = report.phase;
            true
        }
        JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => {
            false
        }
    };
    let Some(outcome) = &report.outcome else { return };
    let it = AttemptEnd {
        job: report.job,
        epoch: report.epoch,
        outcome: outcome.clone(),
        started_at: report.started_at,
        ended_at: report.ended_at,
    };
    if on_loan {
        end_loan(state, fx, &it, at);
    } else {
        job::keep_result(state, fx, &it, at);
    }
}

pub(crate) fn return_grant(state: &mut State, fx: &mut Effects, it: &ReturnGrant) -> Reply {
    let key = HeldKey { host: it.peer.clone(), grant: it.grant };
    if state.is_drawn(&key) {
        return Reply::NoOp("loans are drawn on the grant");
    }
    if pool::is_drawn(state, &key) {
        return Reply::NoOp("loans use what the grant carries");
    }
    let Some(held) = state.agreed.held.get_mut(&key) else {
        return Reply::NoOp("no such grant is held");
    };
    held.returned = true;
    fx.insert(Effect::SyncPeer(it.peer.clone()));
    Reply::Done
}

pub(crate) fn suspect_peer(state: &mut State, it: &SuspectPeer) -> Reply {
    let revision = state.revision;
    match state.agreed.peers.get_mut(&it.peer) {
        Some(peer) if peer.suspicion.is_none() => {
            peer.suspicion = Some(revision);
            Reply::Done
        }
        _ => Reply::NoOp("the peer is suspected, or unknown"),
    }
}

pub(crate) fn restore_peer(state: &mut State, fx: &mut Effects, it: &RestorePeer) -> Reply {
    match state.agreed.peers.get_mut(&it.peer) {
        Some(peer) if peer.suspicion == Some(it.suspicion) => {
            peer.suspicion = None;
            fx.insert(Effect::Plan);
            fx.insert(Effect::SyncPeer(it.peer.clone()));
            Reply::Done
        }
        _ => Reply::NoOp("the suspicion named is not the present one"),
    }
}

/// Every loan that may run out has: its jobs are placed again. Loans of jobs that wait stay.
pub(crate) fn release_peer(state: &mut State, fx: &mut Effects, it: &ReleasePeer) -> Reply {
    let suspicion = state.peers.get(&it.peer).and_then(|peer| peer.suspicion);
    if suspicion != Some(it.suspicion) {
        return Reply::NoOp("the suspicion named is not the present one");
    }
    let over: Vec<JobId> = state
        .loans_to(&it.peer)
        .filter(|(job, _)| job.spec().on_partition == OnPartition::Restart)
        .map(|(job, _)| job.id)
        .collect();
    for id in over {
        let Some(job) = state.jobs.get(&id) else { continue };
        let end = AttemptEnd {
            job: id,
            epoch: job.epoch,
            outcome: Outcome::of(Ending::Lost, "its host was not heard for longer than a loan"),
            started_at: Timestamp(0),
            ended_at: it.at,
        };
        end_loan(state, fx, &end, it.at);
    }
    Reply::Done
}
