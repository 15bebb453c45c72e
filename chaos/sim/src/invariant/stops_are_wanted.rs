//! Nobody stops an attempt that nobody wants stopped: when an agent stops one, its site has agreed
//! that it is to be stopped, or that it is over. Source: the design, §5, orders are obeyed in the
//! order of their revisions.

use specs::id::LeaseId;

use crate::invariant::Found;
use crate::world::{NodeRef, World};

pub(crate) fn on_stop(world: &World, at: NodeRef, lease: LeaseId) -> Found {
    let Some(record) = world.sites[at.site].log.latest().leases.get(&lease) else {
        return Found::new();
    };
    let is_over = record.part(&world.node(at).id).is_none_or(|part| part.outcome.is_some());
    if is_over || record.stop.is_some() {
        return Found::new();
    }
    let detail = format!("{} stops {lease}, which is to run", world.node_name(at));
    vec![("orders: a stop is wanted", detail)]
}
