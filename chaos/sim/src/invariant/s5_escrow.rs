//! S5: what a home executes at a host stays within what the host granted it, GPU by GPU.
//! Source: the design, promise S5. That grants and leases add up is checked on agreed state.

use crate::invariant::Found;
use crate::oracle::Executing;
use crate::supervisor::Process;
use crate::world::World;

pub(crate) fn on_start(world: &World, part: &Executing, process: &Process) -> Found {
    let site = &world.sites[part.at.site];
    let home = &process.known.home;
    let state = site.log.latest();
    let Some(node) = state.nodes.get(&world.node(part.at).id) else { return Found::new() };
    let is_guest = *home != site.name;
    let mut found = Found::new();
    for gpu in node.gpus.iter().filter(|gpu| process.gpus.contains(&gpu.info.index)) {
        let granted_to = gpu.grant.and_then(|id| state.grants.get(&id)).map(|grant| &grant.home);
        let fits = if is_guest { granted_to == Some(home) } else { granted_to.is_none() };
        if !fits {
            let detail = format!(
                "{} of {home} executes on {} gpu {}, granted to {granted_to:?}",
                part.lease,
                world.node_name(part.at),
                gpu.info.index
            );
            found.push(("S5: escrow adds up", detail));
        }
    }
    if is_guest {
        let executing = world
            .oracle
            .gpus
            .iter()
            .filter(|((at, _), (_, known))| at.site == part.at.site && known.home == *home);
        let executing = executing.count() + process.gpus.len();
        let grants = state.grants.values().filter(|grant| grant.home == *home);
        let granted: usize =
            grants.flat_map(|grant| &grant.slots).map(|slot| slot.gpus.len()).sum();
        if executing > granted {
            let detail = format!("{home} executes on {executing} GPUs, {granted} are granted");
            found.push(("S5: escrow adds up", detail));
        }
    }
    found
}
