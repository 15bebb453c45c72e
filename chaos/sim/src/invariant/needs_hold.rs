//! A gang's nodes are what it asks for, here and at peers: each has its attributes, and they stand
//! together if they must. Source: decisions 0015 and 0004. The rule is written down here a second time.

use std::collections::{BTreeMap, BTreeSet};

use specs::id::{LeaseId, SiteId};
use specs::job::Needs;

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
    found.extend(beside(world, part, process));
    found
}

fn sum<'a>(needs: impl Iterator<Item = &'a Needs>) -> (u64, u64) {
    needs.fold((0, 0), |(cpu, memory), it| {
        (cpu + u64::from(it.cpu_milli), memory + u64::from(it.memory_mib))
    })
}

/// What executes on a node asks for no more CPU and memory than it has, and guests for no more than
/// their home's granted GPUs carry: each its part of the node's. Source: decision 0025.
fn beside(world: &World, part: &Executing, process: &Process) -> Found {
    let (node, site) = (world.node(part.at), &world.sites[part.at.site]);
    let others = world.oracle.gpus.iter().filter(|((at, _), _)| *at == part.at);
    let others: BTreeMap<LeaseId, &Process> = others
        .filter_map(|(_, (lease, _))| Some((*lease, node.processes.get(lease)?)))
        .filter(|(lease, _)| *lease != part.lease)
        .collect();
    let all = || others.values().copied().chain([process]);
    let mut found = Found::new();
    let asked = sum(all().map(|it| &*it.spec.needs));
    if asked.0 > node.facts.cpu_milli.into() || asked.1 > node.facts.memory_mib.into() {
        let detail = format!("{} runs what asks for {asked:?}", world.node_name(part.at));
        found.push((RULE, detail));
    }
    if all().any(|it| it.spec.needs.exclusive) && !others.is_empty() {
        let detail = format!("{} is beside another", world.node_name(part.at));
        found.push(("needs hold: who is to be alone on a node is", detail));
    }
    let home: &SiteId = &process.known.home;
    let state = site.log.latest();
    let Some(record) = state.nodes.get(&node.id).filter(|_| *home != site.name) else {
        return found;
    };
    let granted = record.gpus.iter().filter(|gpu| {
        let grant = gpu.grant.and_then(|id| state.grants.get(&id));
        gpu.carries && grant.is_some_and(|grant| grant.home == *home)
    });
    let granted = granted.count() as u64;
    let count = (record.gpus.len() as u64).max(1);
    let carried = |all: u32| u64::from(all) / count * granted;
    let asked = sum(all().filter(|it| it.known.home == *home).map(|it| &*it.spec.needs));
    if asked.0 > carried(node.facts.cpu_milli) || asked.1 > carried(node.facts.memory_mib) {
        let what = format!("{}: guests of {home} ask for {asked:?}", world.node_name(part.at));
        found.push((RULE, format!("{what}, {granted} of {count} GPUs are theirs")));
    }
    found
}
