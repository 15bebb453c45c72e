//! A gang's nodes are what it asks for, here and at peers: each has its attributes, and they stand
//! together if they must. Source: decisions 0015 and 0004. The rule is written down here a second time.

use std::collections::BTreeSet;

use crate::invariant::Found;
use crate::needs;
use crate::oracle::Executing;
use crate::supervisor::Process;
use crate::world::World;

const RULE: &str = "needs hold: a gang stands on what it asks for";

pub(crate) fn on_start(world: &World, part: &Executing, process: &Process) -> Found {
    let (spec, site) = (&process.spec, &world.sites[part.at.site]);
    let mut found = Found::new();
    if !needs::has(&spec.needs, &world.node(part.at).facts) {
        let detail = format!("{} runs on {}", part.lease, world.node_name(part.at));
        found.push((RULE, detail));
    }
    let lease = site.log.latest().leases.get(&part.lease);
    if let Some(lease) = lease.filter(|_| needs::is_bound(spec)) {
        let nodes = site.nodes.iter().filter(|node| lease.part(&node.id).is_some());
        let racks: BTreeSet<&str> = nodes.map(|node| node.facts.rack.as_str()).collect();
        if racks.len() != 1 {
            found.push((RULE, format!("{} stands in racks {racks:?}", part.lease)));
        }
    }
    found
}
