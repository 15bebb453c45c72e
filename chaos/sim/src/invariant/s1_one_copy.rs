//! S1: at no instant do two attempts of one job execute, anywhere; and a lease starts at most once
//! on a node. Source: the design, promise S1; the prototype's "job on two agents" and "lease
//! started twice".

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
