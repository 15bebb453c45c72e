//! What a site agrees on of burn-ins. Source: the design, promise S8 and section 9, and decision
//! 0022. Nothing runs anew on a GPU between the wish that it be burnt in and the result of a burn-in
//! that began after it; no burn-in goes on without its permit; permits and quarantines keep to the
//! site's limits.

use federation_core::{Command, Gpu, Node, PermitKind, State};
use specs::gpu::{GpuState, HealthLimits, QUARANTINED_FEW};
use specs::id::{GpuClass, GpuIndex, NodeId, Revision};
use specs::unit::Millis;

use crate::clock::Time;
use crate::invariant::Found;
use crate::world::{NodeRef, World};

const RETEST: &str = "S8: nothing runs on a GPU between a wish to burn it in and the result";
const PERMIT: &str = "nothing is burnt in without a permit";
const BUDGET: &str = "no more is burnt in at once than the limits say";
const BREAKER: &str = "no more is quarantined by itself than the limits say";
/// Quarantines within this are surely within the span, whichever clock counts it.
const SURELY_WITHIN: Millis = Millis(580_000);

/// A burn-in that really goes on.
#[derive(Debug, Clone)]
pub(crate) struct Burning {
    pub(crate) run: u64,
    pub(crate) gpu: GpuIndex,
    /// Of an agent that does not heed permits: none.
    pub(crate) number: Option<Revision>,
    pub(crate) since: Time,
}

fn gpu<'a>(state: &'a State, node: &NodeId, index: GpuIndex) -> Option<&'a Gpu> {
    state.nodes.get(node)?.gpus.iter().find(|gpu| gpu.info.index == index)
}

fn is_permitted(state: &State, node: &NodeId, it: &Burning) -> bool {
    let permit = gpu(state, node, it.gpu).and_then(|gpu| gpu.permit.as_ref());
    permit.is_some_and(|permit| Some(permit.number) == it.number)
}

/// A burn-in begins.
pub(crate) fn on_start(world: &World, at: NodeRef, it: &Burning) -> Found {
    let node = world.node(at);
    if world.knobs.limits.is_none() || node.is_old {
        return Found::new();
    }
    if is_permitted(world.sites[at.site].log.latest(), &node.id, it) {
        return Found::new();
    }
    vec![(PERMIT, format!("{} begins with GPU {}", world.node_name(at), it.gpu))]
}

/// A burn-in came to its end, with a result or because its GPU is quarantined.
pub(crate) fn on_result(world: &mut World, at: NodeRef, it: &Burning) {
    let wished = &mut world.oracle.wished;
    if wished.get(&(at, it.gpu)).is_some_and(|wished| *wished <= it.since) {
        wished.remove(&(at, it.gpu));
    }
}

pub(crate) fn on_commit(
    world: &mut World,
    site: usize,
    command: &Command,
    before: &State,
    after: &State,
) -> Found {
    let Some(limits) = world.knobs.limits.clone() else { return Found::new() };
    let mut found = permits_hold(world, site, after);
    found.extend(leases_wait(world, site, before, after));
    if let Command::PermitBurnIns(_) = command {
        found.extend(budget_holds(&limits, before, after));
    }
    if let Command::RecordHealth(_) = command {
        found.extend(breaker_holds(world, site, &limits, before, after));
    }
    if let Command::WantBurnIns(it) = command {
        for index in &it.gpus {
            let is_sound = gpu(before, &it.node, *index).is_some_and(|gpu| !is_bad(gpu));
            note_wish(world, site, &it.node, *index, is_sound);
        }
    }
    if let Command::WithholdGpu(it) = command
        && it.why.is_none()
    {
        let was_held = |gpu: &Gpu| gpu.withheld.is_some() || (is_bad(gpu) && !gpu.released);
        let was_held = gpu(before, &it.node, it.index).is_some_and(was_held);
        note_wish(world, site, &it.node, it.index, was_held);
    }
    found
}

fn note_wish(world: &mut World, site: usize, node: &NodeId, index: GpuIndex, is_wished: bool) {
    let nth = world.sites[site].nodes.iter().position(|it| it.id == *node);
    if let Some(node) = nth.filter(|_| is_wished) {
        let now = world.now;
        world.oracle.wished.insert((NodeRef { site, node }, index), now);
    }
}

fn is_bad(gpu: &Gpu) -> bool {
    let is_bad = |state| matches!(state, GpuState::Quarantined | GpuState::Rma);
    gpu.doubt.as_ref().is_some_and(|doubt| is_bad(doubt.state))
}

/// Whatever is burnt in has its permit; an agent that does not execute cannot end anything.
fn permits_hold(world: &World, site: usize, after: &State) -> Found {
    let mut found = Found::new();
    for ((at, _), it) in &world.oracle.burning {
        let node = world.node(*at);
        let is_still = node.runner.is_none() || world.is_still(*at);
        if at.site != site || node.is_old || is_still || it.number.is_none() {
            continue;
        }
        if node.boot == after.nodes.get(&node.id).map(|node| node.boot).unwrap_or_default()
            && !is_permitted(after, &node.id, it)
        {
            found.push((PERMIT, format!("{} goes on with GPU {}", world.node_name(*at), it.gpu)));
        }
    }
    found
}

fn leases_wait(world: &World, site: usize, before: &State, after: &State) -> Found {
    let mut found = Found::new();
    let is_new = |id: &&specs::id::LeaseId| !before.leases.contains(*id);
    for lease in after.leases.keys().filter(is_new).filter_map(|id| after.leases.get(id)) {
        for part in &lease.parts {
            let nth = world.sites[site].nodes.iter().position(|it| it.id == part.node);
            let Some(node) = nth else { continue };
            let at = NodeRef { site, node };
            let is_wished = |gpu: &&GpuIndex| world.oracle.wished.contains_key(&(at, **gpu));
            for gpu in part.gpus.iter().filter(is_wished) {
                let name = world.node_name(at);
                found.push((RETEST, format!("{} takes GPU {gpu} of {name}", lease.id)));
            }
        }
    }
    found
}

fn budget_holds(limits: &HealthLimits, before: &State, after: &State) -> Found {
    let mut found = Found::new();
    let all = |state: &State| -> Vec<(NodeId, Gpu)> {
        let of = |node: &Node| {
            let id = node.id.clone();
            node.gpus.clone().into_iter().map(move |gpu| (id.clone(), gpu))
        };
        state.nodes.values().flat_map(of).collect()
    };
    let after = all(after);
    let total = u32::try_from(after.len()).unwrap_or(u32::MAX);
    let count = |kind| {
        let is_of = |gpu: &Gpu| gpu.permit.as_ref().is_some_and(|permit| permit.kind == kind);
        after.iter().filter(|(_, gpu)| is_of(gpu)).count() as u64
    };
    for (kind, bound) in
        [(PermitKind::Retest, &limits.retests), (PermitKind::Admission, &limits.admissions)]
    {
        if count(kind) > u64::from(bound.of(total)) {
            found.push((BUDGET, format!("{} of {kind}, of {total} GPUs", count(kind))));
        }
    }
    for (node, now) in &after {
        let Some(permit) = &now.permit else { continue };
        let Some(was) = gpu(before, node, now.info.index).filter(|it| it.permit.is_none()) else {
            continue;
        };
        let is_sound = was.doubt.is_none() && was.withheld.is_none() && was.wish.is_none();
        if is_sound != (permit.kind == PermitKind::Retest) || was.lease.is_some() {
            found.push((BUDGET, format!("{node} GPU {} as {}", now.info.index, permit.kind)));
        }
    }
    found
}

fn breaker_holds(
    world: &mut World,
    site: usize,
    limits: &HealthLimits,
    before: &State,
    after: &State,
) -> Found {
    let mut found = Found::new();
    let is_out = |gpu: &Gpu| is_bad(gpu) && gpu.doubt.as_ref().is_some_and(|it| !it.spared);
    let now = world.now;
    for node in after.nodes.values() {
        for gpu in node.gpus.iter().filter(|gpu| is_out(gpu)) {
            let was = self::gpu(before, &node.id, gpu.info.index);
            if was.is_some_and(is_bad) {
                continue;
            }
            let times = world.oracle.quarantines.entry(site).or_default();
            times.retain(|at| now.since(*at) < SURELY_WITHIN);
            times.push(now);
            let class: &GpuClass = &gpu.info.class;
            let of_class = |gpu: &&Gpu| gpu.info.class == *class;
            let gpus = || after.nodes.values().flat_map(|node| &node.gpus).filter(of_class);
            let all = u32::try_from(gpus().count()).unwrap_or(u32::MAX);
            let out = u32::try_from(gpus().filter(|gpu| is_out(gpu)).count()).unwrap_or(u32::MAX);
            let is_often = times.len() as u64 > u64::from(limits.quarantines);
            if is_often || out > limits.quarantined.of(all).max(QUARANTINED_FEW) {
                let often = times.len();
                found.push((BREAKER, format!("{out} of {all} {class}, {often} of late")));
            }
        }
    }
    found
}
