//! S1: at no instant do two attempts of one job execute, anywhere; and a lease starts at most once
//! on a node. Sharper, and seen earlier: what is agreed to have ended, or was given up, does not
//! execute, so that whatever follows it may start at once. Source: the design, promise S1; the prototype's "job on two agents" and "lease
//! started twice".

use federation_core::State;
use gpu_agent_core::Known;

use crate::invariant::Found;
use crate::oracle::Executing;
use crate::world::World;

pub(crate) fn on_start(world: &World, part: &Executing, known: &Known, is_new: bool) -> Found {
    let mut found = Found::new();
    let name = world.node_name(part.at);
    if is_new && world.oracle.started.contains(&(part.at, part.lease)) {
        found.push(("S1: a lease is never started twice", format!("{} on {name}", part.lease)));
    }
    let others = world.oracle.executing.get(&known.job);
    for other in others.into_iter().flatten() {
        // Parts of one gang are one attempt.
        let same = other.lease == part.lease
            && other.at.site == part.at.site
            && other.epoch == part.epoch
            && other.at != part.at;
        if !same {
            let detail = format!(
                "{}: epoch {} executes on {}, epoch {} begins on {name}",
                known.job,
                other.epoch,
                world.node_name(other.at),
                part.epoch
            );
            found.push(("S1: never two copies", detail));
        }
    }
    found
}

/// What the site agreed on last says of no part that executes that it has ended.
pub(crate) fn on_commit(world: &World, site: usize, after: &State) -> Found {
    let mut found = Found::new();
    for (id, parts) in &world.oracle.executing {
        let job = after.jobs.get(id);
        for part in parts {
            let attempts = job.iter().flat_map(|job| &job.attempts);
            let mut ended = attempts.filter(|it| it.epoch == part.epoch && it.outcome.is_some());
            let is_given_up = part.at.site == site && {
                let record = after.leases.get(&part.lease);
                let record = record.and_then(|it| it.part(&world.node(part.at).id));
                record.is_none_or(|record| record.outcome.is_some())
            };
            if is_given_up || ended.next().is_some() {
                let (name, lease) = (world.node_name(part.at), part.lease);
                let detail = format!("epoch {} of {id} ({lease}) executes on {name}", part.epoch);
                found.push(("S1: what was given up does not execute", detail));
            }
        }
    }
    found
}
