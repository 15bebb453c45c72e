//! What is reserved is its account's: no plan starts another's job on a reserved node unless its
//! limit ends it before the reservation begins, no reserved node is lent, and no two reservations
//! have a node at the same time. Source: decision 0026; Slurm's reservations. The rule is written
//! down here a second time.

use federation_core::{Command, JobPhase, Reservation, State};
use specs::id::{AccountId, LeaseId, NodeId};
use specs::unit::{Millis, Timestamp};

use crate::accounts;
use crate::invariant::Found;

const RULE: &str = "what is reserved is its account's";

fn of<'a>(state: &'a State, node: &'a NodeId) -> impl Iterator<Item = &'a Reservation> {
    state.reservations.values().filter(move |it| it.nodes.contains(node))
}

fn serves(it: &Reservation, account: &AccountId) -> bool {
    account.line().any(|it_or_above| it_or_above == it.account)
}

/// Leases of this home's jobs that a plan has just given.
fn given<'a>(
    before: &'a State,
    after: &'a State,
    plan: &'a federation_core::CommitPlan,
) -> impl Iterator<Item = LeaseId> + 'a {
    plan.assignments.iter().filter_map(|it| match &after.jobs.get(&it.job)?.phase {
        JobPhase::Leased(leased) => {
            (!before.leases.contains(&leased.lease)).then_some(leased.lease)
        }
        JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => None,
    })
}

pub(crate) fn on_commit(command: &Command, before: &State, after: &State) -> Found {
    if after.reservations.is_empty() {
        return Found::new();
    }
    let mut found = Found::new();
    if let Command::CommitPlan(plan) = command {
        for id in given(before, after, plan) {
            let Some(lease) = after.leases.get(&id) else { continue };
            let (spec, account) = (&lease.spec, accounts::of(&lease.spec));
            for node in lease.parts.iter().map(|part| &part.node) {
                for it in of(before, node).filter(|it| !serves(it, &account)) {
                    let over_at = Timestamp(plan.at.0 + spec.time_limit.0 + spec.grace.0);
                    let is_over = spec.time_limit > Millis::ZERO && over_at <= it.start;
                    if plan.at < it.end && !is_over {
                        let (from, to, at) = (it.start, it.end, plan.at);
                        let detail = format!(
                            "{id} of {account} starts on {node} at {at}, which is for {} from \
                             {from} to {to}",
                            it.account
                        );
                        found.push((RULE, detail));
                    }
                }
            }
        }
    }
    for grant in after.grants.values() {
        for slot in grant.slots.iter().filter(|slot| !slot.gpus.is_empty()) {
            if of(after, &slot.node).next().is_some() {
                found.push((
                    RULE,
                    format!("{} has GPUs of {}, which is reserved", grant.id, slot.node),
                ));
            }
        }
    }
    if let Command::MakeReservation(it) = command {
        for node in &it.nodes {
            let windows: Vec<(Timestamp, Timestamp)> =
                of(after, node).map(|it| (it.start, it.end)).collect();
            let meet = windows.iter().enumerate().any(|(nth, one)| {
                windows[nth + 1..].iter().any(|other| one.0 < other.1 && other.0 < one.1)
            });
            if meet {
                found.push((RULE, format!("{node} is reserved twice at a time: {windows:?}")));
            }
        }
    }
    found
}

/// Whether the plan starts something on a node that is reserved.
pub(crate) fn starts(command: &Command, before: &State, after: &State) -> u64 {
    let Command::CommitPlan(plan) = command else { return 0 };
    if before.reservations.is_empty() {
        return 0;
    }
    let is_there = |id: &LeaseId| {
        let lease = after.leases.get(id);
        let mut parts = lease.into_iter().flat_map(|lease| &lease.parts);
        parts.any(|part| of(before, &part.node).next().is_some())
    };
    given(before, after, plan).filter(is_there).count() as u64
}
