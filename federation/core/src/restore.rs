//! A site's state after its group was lost and founded again from a backup. The world has gone on
//! since the backup: agents and peers know ids, epochs and revisions that this state has not given
//! out yet, and run attempts that it does not know. `specs/decisions/0011-restore.md` has the
//! reasons for each step.
//!
//! ```text
//!   backup ─▶ restore ─▶ State { recovering } ─▶ a node lease and a loan term pass ─▶ EndRecovery
//!                         nothing is placed, no home is asked                       as ever
//! ```
//!
//! # Invariants
//! * No id, epoch or revision that the site gave out after the backup is given out again.
//! * Nothing that the state names may run: whatever agents and hosts have is unknown to it, and so
//!   they stop it, or fence it when its lease or loan runs out.
//! * A job whose attempt is not bound by time is never placed again.

use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{ControllerId, Epoch, GrantId, JobId, LeaseId, RequestId, Revision};
use specs::job::OnPartition;
use specs::unit::{Millis, Timestamp};
use specs::wire::agent::{Ending, Outcome};
use specs::wire::client::JobState;

use crate::apply::Reply;
use crate::command::EndRecovery;
use crate::effect::{Effect, Effects};
use crate::state::{Controller, Ended, JobPhase, LAPSED_KEPT, Queued, State};
use crate::table::Table;

/// An era is a range of ids and revisions; each restore begins one. It has room for 2^36 of a kind:
/// a hundred thousand a second for a week for each minute that passes between two restores.
const ERA_BITS: u32 = 36;
/// Eras are counted in minutes since 1970, so that a second restore from one backup begins another
/// than the first did.
const ERA_MILLIS: u64 = 60_000;
/// Epochs and controllers are for people to read: they go on at the next multiple of this.
const ROUND: u64 = 1_000;

/// What the steps of a restore leave to chance and to the operator.
#[derive(Debug, Clone)]
pub struct RestorePlan {
    /// Wall-clock time. It must not lie before that of an earlier restore of the same site.
    pub at: Timestamp,
    /// Of the only controller.
    pub address: String,
    pub request: RequestId,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    /// The first controller of the group; its id was never used.
    pub controller: ControllerId,
    pub revision: Revision,
    /// Jobs that are placed again; some may have run, or even finished, since the backup.
    pub again: u32,
    /// Jobs given up as lost, since an attempt of theirs may run on for ever unseen.
    pub lost: u32,
    /// Guests of other sites that their homes will be told were lost.
    pub guests: u32,
}

/// Tests break one rule at a time, to show that something notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) epochs_jump: bool,
    pub(crate) revision_jumps: bool,
    pub(crate) grants_jump: bool,
    pub(crate) leases_are_dissolved: bool,
    pub(crate) waiting_jobs_are_lost: bool,
    pub(crate) placement_is_held: bool,
}

impl Rules {
    pub(crate) const ALL: Self = Self {
        epochs_jump: true,
        revision_jumps: true,
        grants_jump: true,
        leases_are_dissolved: true,
        waiting_jobs_are_lost: true,
        placement_is_held: true,
    };
}

/// Makes a state of a backup fit to be the first of a group.
#[must_use]
pub fn restore(state: &State, plan: &RestorePlan) -> (State, Restored) {
    restore_with(state, plan, Rules::ALL)
}

pub(crate) fn restore_with(state: &State, plan: &RestorePlan, rules: Rules) -> (State, Restored) {
    let mut state = state.clone();
    let now = plan.at.0 / ERA_MILLIS;
    let next = (era(state.revision.0).max(era(state.last_grant.0)) + 1).max(now);
    let floor = next << ERA_BITS;
    let mut done = Restored {
        controller: ControllerId(round_up(state.last_controller.0)),
        revision: Revision(if rules.revision_jumps { floor } else { state.revision.0 }),
        again: 0,
        lost: 0,
        guests: 0,
    };
    end_guests(&mut state, &mut done, plan.at);
    reset_jobs(&mut state, &mut done, plan.at, rules);
    if rules.leases_are_dissolved {
        dissolve_leases(&mut state);
    }
    free_nodes(&mut state, rules);
    let agreed = &mut state.agreed;
    agreed.revision = done.revision;
    agreed.last_lease = LeaseId(floor.max(agreed.last_lease.0));
    if rules.grants_jump {
        agreed.last_grant = GrantId(floor.max(agreed.last_grant.0));
    }
    agreed.grants = Table::default();
    // Hosts report what this site holds; a grant that is gone must not be drawn on meanwhile.
    agreed.held = Table::default();
    // A token that was used since would be good for another.
    agreed.tokens = Table::default();
    for id in agreed.peers.keys().cloned().collect::<Vec<_>>() {
        if let Some(peer) = agreed.peers.get_mut(&id) {
            peer.suspicion = None;
        }
    }
    let id = done.controller;
    agreed.last_controller = id;
    agreed.controllers = Table::default();
    let (address, request) = (plan.address.clone(), plan.request.clone());
    agreed.controllers.insert(id, Controller { id, address, request, replaces: None });
    agreed.recovering = rules.placement_is_held.then_some(done.revision);
    (State::index(state.agreed), done)
}

fn era(number: u64) -> u64 {
    number >> ERA_BITS
}

fn round_up(number: u64) -> u64 {
    (number / ROUND + 1) * ROUND
}

/// What a leader's reign is numbered with towards agents and peers: Raft's terms begin again with
/// each restored group.
#[must_use]
pub fn reign(state: &State, term: u64) -> u64 {
    // Days since 1970, or restores that came faster than that; both fit beside a term.
    let era = era(state.revision.0) / (24 * 60);
    (era << 16).saturating_add(term)
}

/// True if the grant was made before the site was last restored: the site does not know it, and
/// whatever was drawn on it may run unseen.
pub(crate) fn is_forgotten(state: &State, grant: GrantId) -> bool {
    !state.grants.contains(&grant) && era(grant.0) < era(state.last_grant.0)
}

/// How long nothing may be placed: until every attempt that is bound by a lease or a loan, and that
/// the state does not know, has surely been ended. A leader counts it from its own beginning.
pub(crate) fn hold(state: &State) -> Millis {
    let terms = state.terms();
    terms.release_node_after().plus(terms.release_peer_after())
}

/// The hold that began with the revision named is over.
pub(crate) fn end_recovery(state: &mut State, fx: &mut Effects, it: &EndRecovery) -> Reply {
    if state.recovering != Some(it.restored) {
        return Reply::NoOp("the site does not recover from that");
    }
    state.agreed.recovering = None;
    fx.insert(Effect::Plan);
    Reply::Done
}

/// Guests that ran: bound by time, they are over after the hold, and their homes are told so. The
/// others are forgotten, and their homes wait: see [`is_forgotten`].
fn end_guests(state: &mut State, done: &mut Restored, at: Timestamp) {
    let open: Vec<_> = state
        .guests
        .values()
        .filter(|guest| guest.outcome.is_none())
        .map(|guest| (guest.key.clone(), guest.lease))
        .collect();
    for (key, lease) in open {
        let lease = lease.and_then(|id| state.leases.get(&id));
        if lease.is_none_or(|lease| lease.spec.on_partition == OnPartition::Wait) {
            state.agreed.guests.remove(&key);
            continue;
        }
        let revision = done.revision;
        let Some(guest) = state.agreed.guests.get_mut(&key) else { continue };
        guest.phase = specs::wire::peer::GuestPhase::Ended;
        guest.lease = None;
        guest.outcome = Some(unknown());
        guest.ended_at = at;
        guest.ended_in = revision;
        done.guests += 1;
    }
}

/// How an attempt ended that the state does not know to have ended.
pub(crate) fn unknown() -> Outcome {
    Outcome::of(Ending::Lost, "its site was restored from a backup")
}

/// Jobs that had not ended wait for a place again, with an epoch that none of their attempts had.
fn reset_jobs(state: &mut State, done: &mut Restored, at: Timestamp, rules: Rules) {
    let open: Vec<JobId> =
        state.jobs.values().filter(|job| !job.has_ended()).map(|job| job.id).collect();
    for id in open {
        let Some(job) = state.agreed.jobs.get_mut(&id) else { continue };
        if let Some(attempt) = job.attempts.last_mut().filter(|it| it.outcome.is_none()) {
            attempt.outcome = Some(unknown());
            attempt.ended_at = at;
        }
        let spec = job.spec();
        if rules.epochs_jump {
            // Each attempt but the last costs a retry, so there were no more than these.
            let most = u64::from(job.epoch.0) + u64::from(spec.retries) + 1;
            job.epoch = Epoch(u32::try_from(round_up(most)).unwrap_or(u32::MAX));
        }
        let (state, outcome) = if let Some(kept) = job.kept.take() {
            (JobState::Finished, *kept)
        } else if job.cancel {
            (JobState::Cancelled, unknown())
        } else if spec.on_partition == OnPartition::Wait && rules.waiting_jobs_are_lost {
            done.lost += 1;
            (JobState::Lost, unknown())
        } else {
            done.again += 1;
            job.phase = JobPhase::Queued(Queued {});
            continue;
        };
        job.phase = JobPhase::Ended(Ended { state, outcome, at });
    }
}

/// Leases that may still be told of: a node that finished an attempt says so, and a true result is
/// kept. None is named to any node, so whatever runs is stopped.
fn dissolve_leases(state: &mut State) {
    let leases: Vec<LeaseId> = state.leases.keys().copied().collect();
    for id in leases {
        let Some(mut lease) = state.leases.get(&id).cloned() else { continue };
        state.agreed.leases.remove(&id);
        let is_wanted = state.is_own(&lease.home)
            && state.jobs.get(&lease.job).is_some_and(|job| !job.has_ended());
        for part in lease.parts.iter_mut().filter(|part| part.outcome.is_none()) {
            part.outcome = Some(unknown());
        }
        if is_wanted && state.lapsed.len() < LAPSED_KEPT {
            state.agreed.lapsed.insert(id, lease);
        }
    }
}

fn free_nodes(state: &mut State, rules: Rules) {
    for id in state.nodes.keys().cloned().collect::<Vec<_>>() {
        let Some(node) = state.agreed.nodes.get_mut(&id) else { continue };
        node.suspicion = None;
        for gpu in &mut node.gpus {
            gpu.grant = None;
            gpu.carries = false;
            if rules.leases_are_dissolved {
                gpu.lease = None;
                gpu.shares.clear();
            }
        }
        if rules.leases_are_dissolved {
            node.alone = None;
        }
    }
}

#[cfg(test)]
mod tests;
