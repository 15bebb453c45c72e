//! What is left of grants at a peer, while a plan draws loans on them.
//!
//! # Invariants
//! * Where the host tells which GPUs there are, a loan names its own: no two name the same.
//! * Where proofs are required, or demanded by a job, only GPUs are named whose proofs were verified
//!   and will do a while longer, so that they still do when the host looks.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::gpu::ProofNeed;
use specs::id::{GpuClass, GpuIndex, GrantId, NodeId, SiteId};
use specs::job::JobSpec;
use specs::unit::{GpuCount, Timestamp};
use specs::wire::agent::Facts;
use specs::wire::peer::{LoanSlot, Slot};

use crate::exchange::proofs;
use crate::placement::fits;
use crate::placement::pool::{self, Pool};
use crate::placement::slots::{Counts, Gang, Slots};
use crate::state::{DrawKey, Held, HeldProof, NamedKey, State};

/// By so much a proof must outlast the plan.
const AHEAD: u64 = 10_000;

/// A GPU that no loan names.
#[derive(Debug, Clone)]
struct Left<'a> {
    index: GpuIndex,
    proof: Option<&'a HeldProof>,
}

/// What is left of a node's GPUs of one class in a grant.
#[derive(Debug, Clone)]
enum Rest<'a> {
    /// So many; the host chooses.
    Some(GpuCount),
    /// Of these; those with the least proof first, so that others are left for who demands more.
    Of(Vec<Left<'a>>),
}

/// What a plan asks of the proofs of a peer's GPUs.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    at: Timestamp,
    is_required: bool,
    need: Option<&'a ProofNeed>,
}

impl Asked<'_> {
    fn will_do(&self, gpu: &Left<'_>) -> bool {
        let is_free_of_it = !self.is_required && self.need.is_none();
        is_free_of_it || gpu.proof.is_some_and(|proof| proof.will_do(self.need, self.at))
    }
}

impl Rest<'_> {
    fn count(&self, asked: Asked<'_>) -> GpuCount {
        match self {
            Self::Some(_) if asked.is_required || asked.need.is_some() => GpuCount::ZERO,
            Self::Some(count) => *count,
            Self::Of(gpus) => {
                let fitting = gpus.iter().filter(|gpu| asked.will_do(gpu)).count();
                GpuCount(u32::try_from(fitting).unwrap_or(u32::MAX))
            }
        }
    }

    /// Takes as many as there are, and no more than are wanted.
    fn take(&mut self, asked: Asked<'_>, want: GpuCount) -> (GpuCount, Vec<GpuIndex>) {
        let gpus = self.count(asked).min(want);
        match self {
            Self::Some(count) => {
                *count = count.minus(gpus);
                (gpus, Vec::new())
            }
            Self::Of(left) => {
                let most = usize::try_from(gpus.0).unwrap_or(usize::MAX);
                let fitting = left.iter().filter(|gpu| asked.will_do(gpu));
                let mut which: Vec<GpuIndex> = fitting.map(|gpu| gpu.index).take(most).collect();
                which.sort_unstable();
                left.retain(|gpu| !which.contains(&gpu.index));
                (gpus, which)
            }
        }
    }
}

/// What is left of grants at one peer.
#[derive(Debug, Clone)]
pub(crate) struct HeldMap<'a> {
    at: Timestamp,
    is_required: bool,
    /// By class, node and grant.
    grants: BTreeMap<(GpuClass, NodeId), BTreeMap<GrantId, Rest<'a>>>,
    /// Where their nodes stand.
    places: BTreeMap<&'a NodeId, &'a Facts>,
    /// What is left on nodes beside GPUs, and how many GPUs they have in all.
    pools: BTreeMap<&'a NodeId, (Pool, u32)>,
    /// How many there are for a demand. Age is in no index: it changes with every moment.
    slots: Option<(Option<ProofNeed>, Slots)>,
}

impl<'a> HeldMap<'a> {
    pub(crate) fn of(state: &'a State, peer: &SiteId, at: Timestamp) -> Self {
        let mut map = Self {
            at: Timestamp(at.0.saturating_add(AHEAD)),
            is_required: proofs::are_required(state, peer),
            grants: BTreeMap::new(),
            places: BTreeMap::new(),
            pools: BTreeMap::new(),
            slots: None,
        };
        for (grant, held) in state.held_at(peer).filter(|(_, it)| !it.recalled && !it.returned) {
            for slot in &held.slots {
                let (pool, machine) = map.pools.entry(&slot.node).or_default();
                (*pool, *machine) = (pool.plus(Pool::told(slot)), slot.node_gpus.0);
                map.places.extend(slot.facts.as_deref().map(|facts| (&slot.node, facts)));
                let left = rest(state, peer, grant, (held, slot));
                let key = (slot.class.clone(), slot.node.clone());
                map.grants.entry(key).or_default().insert(grant, left);
            }
        }
        for (node, (pool, _)) in &mut map.pools {
            *pool = pool.minus(pool::drawn(state, peer, node));
        }
        map
    }

    /// How many GPUs there are for the demand.
    fn index(&self, need: Option<&ProofNeed>) -> Slots {
        let asked = Asked { at: self.at, is_required: self.is_required, need };
        let sum = |all: &BTreeMap<GrantId, Rest<'_>>| {
            all.values().fold(GpuCount::ZERO, |sum, rest| sum.plus(rest.count(asked)))
        };
        let counts: Counts = self.grants.iter().map(|(key, all)| (key.clone(), sum(all))).collect();
        let left = |node: &NodeId| self.pools.get(node).copied().unwrap_or_default();
        Slots::of(&counts, |node| self.places.get(node).copied(), left)
    }

    pub(crate) fn take(
        &mut self,
        spec: &JobSpec,
        class: &GpuClass,
    ) -> Option<(GpuClass, Vec<LoanSlot>)> {
        let (classes, closed, needs) = (core::slice::from_ref(class), &[][..], &*spec.needs);
        let gang = Gang { classes, closed, nodes: spec.nodes, gpus: spec.gpus_per_node, needs };
        let known = self.slots.take().filter(|(need, _)| *need == needs.proof);
        let mut slots = known.map_or_else(|| self.index(needs.proof.as_ref()), |(_, slots)| slots);
        let taken = slots.take(&gang);
        self.slots = Some((needs.proof, slots));
        let (class, mut nodes) = taken?;
        if let Some(together) = &needs.together {
            // Neighbours by rank are neighbours in the hall.
            let place = |node: &NodeId| {
                self.places.get(node).and_then(|facts| fits::place_of(facts, together.level))
            };
            nodes.sort_by(|one, other| (place(one), one).cmp(&(place(other), other)));
        }
        let mut drawn = Vec::new();
        for node in nodes {
            if let Some((pool, _)) = self.pools.get_mut(&node) {
                *pool = pool.minus(Pool::asked(needs));
            }
            self.draw((class.clone(), node), spec, &mut drawn);
        }
        Some((class, drawn))
    }

    fn draw(&mut self, key: (GpuClass, NodeId), spec: &JobSpec, slots: &mut Vec<LoanSlot>) {
        let need = spec.needs.proof.as_ref();
        let asked = Asked { at: self.at, is_required: self.is_required, need };
        let mut want = spec.gpus_per_node;
        for (grant, rest) in self.grants.get_mut(&key).into_iter().flatten() {
            let (gpus, which) = rest.take(asked, want);
            if gpus == GpuCount::ZERO {
                continue;
            }
            want = want.minus(gpus);
            let (class, node) = key.clone();
            slots.push(LoanSlot { grant: *grant, node, class, gpus, which });
        }
    }
}

/// What loans leave of a slot.
fn rest<'a>(
    state: &State,
    peer: &SiteId,
    grant: GrantId,
    (held, slot): (&'a Held, &'a Slot),
) -> Rest<'a> {
    let (host, node) = (peer.clone(), slot.node.clone());
    let drawn = DrawKey { host: host.clone(), grant, node: Some(node.clone()) };
    let drawn = state.drawn.get(&drawn).copied().unwrap_or_default();
    if slot.which.is_empty() {
        return Rest::Some(slot.gpus.minus(drawn));
    }
    let first = NamedKey { host, grant, node, gpu: GpuIndex(0) };
    let is_of_slot =
        |it: &NamedKey| it.host == first.host && it.grant == first.grant && it.node == first.node;
    let named = state.named.range(first.clone()..).map(|(key, ())| key);
    let named: Vec<GpuIndex> = named.take_while(|key| is_of_slot(key)).map(|it| it.gpu).collect();
    // Loans of an earlier version are on any of them.
    if named.len() as u64 != u64::from(drawn.0) {
        return Rest::Of(Vec::new());
    }
    let open = slot.which.iter().filter(|gpu| !named.contains(&gpu.index));
    let mut left: Vec<Left<'_>> =
        open.map(|gpu| Left { index: gpu.index, proof: proofs::of(held, slot, gpu) }).collect();
    left.sort_by_key(|it| it.proof.map(|proof| (proof.tier.rank(), proof.passed_at)));
    Rest::Of(left)
}
