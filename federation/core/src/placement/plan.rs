//! `plan`: the queue against what is free here and what is held at peers. First fit in the order
//! of the queue, on the fullest nodes that will do; here before there; a gang whole or not at all.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::id::{GpuClass, GpuIndex, GrantId, JobId, NodeId, Revision, SiteId};
use specs::job::JobSpec;
use specs::unit::GpuCount;
use specs::wire::peer::LoanSlot;

use crate::command::{Assignment, LeasePlan, LoanPlan, PartPlan, Place};
use crate::placement::fits;
use crate::state::{DrawKey, Job, State};

/// Most jobs looked at in one plan; the rest wait for the next.
pub(crate) const LOOKED_AT_MAX: usize = 512;
/// Most assignments of one plan.
pub(crate) const ASSIGNMENTS_MAX: usize = 128;

/// GPUs taken, node by node.
pub(crate) type Parts = Vec<(NodeId, Vec<GpuIndex>)>;

/// Free GPUs by class and node, while a plan is made.
#[derive(Debug, Clone, Default)]
pub(crate) struct FreeMap(BTreeMap<GpuClass, BTreeMap<NodeId, Vec<GpuIndex>>>);

impl FreeMap {
    /// What is neither leased nor granted on usable nodes.
    pub(crate) fn of(state: &State) -> Self {
        let mut free = Self::default();
        for node in state.nodes.values().filter(|node| node.is_usable()) {
            for gpu in node.free() {
                free.add(&gpu.info.class, &node.id, [gpu.info.index]);
            }
        }
        free
    }

    /// What there would be if nothing were leased or granted.
    pub(crate) fn whole(state: &State) -> Self {
        let mut whole = Self::default();
        for node in state.nodes.values().filter(|node| node.is_usable()) {
            for gpu in &node.gpus {
                whole.add(&gpu.info.class, &node.id, [gpu.info.index]);
            }
        }
        whole
    }

    /// Whether the gang could stand on this, node by node.
    pub(crate) fn could_hold(&self, spec: &JobSpec) -> bool {
        let of_class = self.0.iter().filter(|(class, _)| fits::class_will_do(spec, class));
        of_class.into_iter().any(|(_, by_node)| {
            let gpus = u64::from(spec.gpus_per_node.0);
            let fitting = by_node.values().filter(|free| free.len() as u64 >= gpus);
            fitting.count() as u64 >= u64::from(spec.nodes)
        })
    }

    pub(crate) fn add(
        &mut self,
        class: &GpuClass,
        node: &NodeId,
        gpus: impl IntoIterator<Item = GpuIndex>,
    ) {
        let nodes = self.0.entry(class.clone()).or_default();
        nodes.entry(node.clone()).or_default().extend(gpus);
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = &GpuClass> {
        self.0.keys()
    }

    /// Takes `gpus` on each of `nodes` nodes of one class, the first class that has them; any
    /// class if none is named. The fullest nodes that will do are taken, so that large holes stay.
    pub(crate) fn take<'a>(
        &mut self,
        classes: impl Iterator<Item = &'a GpuClass>,
        nodes: u32,
        gpus: GpuCount,
    ) -> Option<(GpuClass, Parts)> {
        let mut named: Vec<GpuClass> = classes.cloned().collect();
        if named.is_empty() {
            named = self.0.keys().cloned().collect();
        }
        let want = usize::try_from(gpus.0).ok()?;
        let count = usize::try_from(nodes).ok()?;
        for class in named {
            let Some(by_node) = self.0.get_mut(&class) else { continue };
            let mut fitting: Vec<(usize, NodeId)> = by_node
                .iter()
                .filter(|(_, free)| free.len() >= want)
                .map(|(node, free)| (free.len(), node.clone()))
                .collect();
            if fitting.len() < count {
                continue;
            }
            fitting.sort();
            fitting.truncate(count);
            let mut parts = Vec::new();
            for (_, node) in fitting {
                let Some(free) = by_node.get_mut(&node) else { continue };
                parts.push((node, free.drain(..want).collect()));
            }
            parts.sort();
            return Some((class, parts));
        }
        None
    }
}

/// What is left of grants at one peer: GPUs by class, node and grant.
#[derive(Debug, Clone, Default)]
struct HeldMap(BTreeMap<GpuClass, BTreeMap<NodeId, BTreeMap<GrantId, GpuCount>>>);

impl HeldMap {
    fn of(state: &State, peer: &SiteId) -> Self {
        let mut map = Self::default();
        for (grant, held) in state.held_at(peer).filter(|(_, it)| !it.recalled && !it.returned) {
            for slot in &held.slots {
                let key = DrawKey { host: peer.clone(), grant, node: Some(slot.node.clone()) };
                let drawn = state.drawn.get(&key).copied().unwrap_or_default();
                let nodes = map.0.entry(slot.class.clone()).or_default();
                nodes.entry(slot.node.clone()).or_default().insert(grant, slot.gpus.minus(drawn));
            }
        }
        map
    }

    fn take(&mut self, spec: &JobSpec) -> Option<Vec<LoanSlot>> {
        let count = usize::try_from(spec.nodes).ok()?;
        let classes: Vec<GpuClass> = if spec.gpu_classes.is_empty() {
            self.0.keys().cloned().collect()
        } else {
            spec.gpu_classes.clone()
        };
        for class in classes {
            let Some(by_node) = self.0.get_mut(&class) else { continue };
            let sum = |grants: &BTreeMap<GrantId, GpuCount>| {
                grants.values().fold(GpuCount::ZERO, |sum, gpus| sum.plus(*gpus))
            };
            let mut fitting: Vec<(GpuCount, NodeId)> = by_node
                .iter()
                .map(|(node, grants)| (sum(grants), node.clone()))
                .filter(|(free, _)| *free >= spec.gpus_per_node)
                .collect();
            if fitting.len() < count {
                continue;
            }
            fitting.sort();
            fitting.truncate(count);
            let mut slots = Vec::new();
            for (_, node) in fitting {
                let Some(grants) = by_node.get_mut(&node) else { continue };
                draw(grants, &node, &class, spec.gpus_per_node, &mut slots);
            }
            return Some(slots);
        }
        None
    }
}

fn draw(
    grants: &mut BTreeMap<GrantId, GpuCount>,
    node: &NodeId,
    class: &GpuClass,
    mut want: GpuCount,
    slots: &mut Vec<LoanSlot>,
) {
    for (grant, left) in grants.iter_mut() {
        let gpus = want.min(*left);
        if gpus == GpuCount::ZERO {
            continue;
        }
        *left = left.minus(gpus);
        want = want.minus(gpus);
        slots.push(LoanSlot { grant: *grant, node: node.clone(), class: class.clone(), gpus });
    }
}

/// What a plan proposes, and what it could not place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Revision of the state that this was made from.
    pub base: Revision,
    pub assignments: Vec<Assignment>,
    /// Jobs that fit nowhere at present, in the order of the queue.
    pub waiting: Vec<JobId>,
    /// What is left free here afterwards.
    pub(crate) free: FreeMap,
}

/// Proposes places for queued jobs. `may_spill` says whether a job has waited long enough here.
#[must_use]
pub(crate) fn plan(state: &State, may_spill: impl Fn(&Job) -> bool) -> Plan {
    let mut plan = Plan { base: state.revision, free: FreeMap::of(state), ..Plan::default() };
    let mut held: BTreeMap<SiteId, HeldMap> = BTreeMap::new();
    for peer in state.peers.values().filter(|peer| peer.suspicion.is_none()) {
        held.insert(peer.site.clone(), HeldMap::of(state, &peer.site));
    }
    for job in state.queued().take(LOOKED_AT_MAX) {
        if plan.assignments.len() >= ASSIGNMENTS_MAX {
            break;
        }
        let place = here(state, job, &mut plan.free)
            .or_else(|| if may_spill(job) { there(state, job, &mut held) } else { None });
        match place {
            Some(place) => {
                plan.assignments.push(Assignment { job: job.id, after: job.epoch, place });
            }
            None => plan.waiting.push(job.id),
        }
    }
    plan
}

fn here(state: &State, job: &Job, free: &mut FreeMap) -> Option<Place> {
    let site = state.site.as_ref()?;
    if !fits::may_run_at(&job.spec(), &site.site, site.country) {
        return None;
    }
    let spec = &job.spec();
    let (_, parts) = free.take(spec.gpu_classes.iter(), spec.nodes, spec.gpus_per_node)?;
    let parts = parts.into_iter().map(|(node, gpus)| PartPlan { node, gpus }).collect();
    Some(Place::Here(LeasePlan { parts }))
}

/// The first peer, in the order of names, that holds enough for the job.
fn there(state: &State, job: &Job, held: &mut BTreeMap<SiteId, HeldMap>) -> Option<Place> {
    if !job.spec().placement.spill {
        return None;
    }
    held.iter_mut().find_map(|(site, map)| {
        let peer = state.peers.get(site)?;
        if !fits::may_run_at(&job.spec(), site, peer.country) {
            return None;
        }
        let slots = map.take(&job.spec())?;
        Some(Place::There(LoanPlan { peer: site.clone(), slots }))
    })
}
