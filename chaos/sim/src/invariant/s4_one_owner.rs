//! S4: a GPU executes at most one attempt at a time. Source: the design, promise S4. That it has
//! one lease is checked on agreed state.

use crate::invariant::Found;
use crate::oracle::Executing;
use crate::supervisor::Process;
use crate::world::World;

pub(crate) fn on_start(world: &World, part: &Executing, process: &Process) -> Found {
    let mut found = Found::new();
    for gpu in &process.gpus {
        if let Some((lease, _)) = world.oracle.gpus.get(&(part.at, *gpu)) {
            let node = world.node_name(part.at);
            let detail = format!("{node} gpu {gpu}: {lease} executes, {} begins", part.lease);
            found.push(("S4: a GPU has one owner", detail));
        }
        if !world.node(part.at).gpus.iter().any(|it| it.index == *gpu) {
            let detail = format!("{} has no gpu {gpu}", world.node_name(part.at));
            found.push(("S4: a GPU has one owner", detail));
        }
    }
    found
}
