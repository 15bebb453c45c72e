//! What could be free on each node if some of those who run there were stopped, and how to free
//! enough for a gang with the least damage: the fewest GPUs taken from others, then the least work
//! lost. A gang that is stopped is stopped as a whole, and counts as a whole.
//!
//! Node by node the cheapest is taken, by a knapsack over those who run there; what a stopped gang
//! frees elsewhere counts at once, and in the end whoever turns out not to be needed is spared. That
//! is exact for one node and for jobs of one node, and near it for gangs of both.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Reverse;

use specs::id::{GpuClass, LeaseId, NodeId};
use specs::unit::Timestamp;

use crate::reserve;
use crate::state::{Gpu, Lease, Node, State};

/// GPUs that somebody loses, and for how long he had used them, in GPU-milliseconds.
type Cost = (u64, u64);

/// Somebody who could be stopped.
#[derive(Debug, Clone)]
pub(crate) struct Tenant<'a> {
    pub lease: &'a Lease,
    cost: Cost,
    /// Where it has GPUs, by their numbers on the board.
    spots: Vec<usize>,
}

/// GPUs of one class on a node.
#[derive(Debug, Clone)]
struct Spot<'a> {
    node: &'a NodeId,
    class: &'a GpuClass,
    free: u32,
    /// Of leases that are being stopped.
    coming: u32,
    /// Those leases.
    stopping: Vec<LeaseId>,
    /// Who has how many of the others.
    here: Vec<(usize, u32)>,
    /// Set aside for somebody.
    claimed: u32,
}

/// The nodes that something may start on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Board<'a> {
    spots: Vec<Spot<'a>>,
    tenants: Vec<Tenant<'a>>,
    by_class: BTreeMap<&'a GpuClass, Vec<usize>>,
}

/// What is to be freed.
#[derive(Debug, Clone)]
pub(crate) struct Wanted<'a> {
    pub class: &'a GpuClass,
    pub nodes: usize,
    pub gpus: u32,
}

/// Nodes for a gang, and who has to leave them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Room {
    spots: Vec<usize>,
    pub tenants: Vec<usize>,
}

impl<'a> Board<'a> {
    /// `taken` is what a plan has just given away on each node; nothing on `avoided` ones counts.
    pub(crate) fn of(
        state: &'a State,
        at: Timestamp,
        taken: &BTreeMap<NodeId, u32>,
        avoided: &[NodeId],
    ) -> Self {
        let mut board = Self::default();
        let mut numbers: BTreeMap<LeaseId, usize> = BTreeMap::new();
        let usable = state.nodes.values().filter(|node| node.is_usable());
        // What is freed there would be for others.
        let usable = usable.filter(|node| !reserve::is_reserved(state, &node.id));
        for node in usable.filter(|node| !avoided.contains(&node.id)) {
            let first = board.spots.len();
            for gpu in node.gpus.iter().filter(|gpu| gpu.grant.is_none() && gpu.is_fit()) {
                board.count(state, at, &mut numbers, (first, node, gpu));
            }
            let taken = taken.get(&node.id).copied().unwrap_or_default();
            for spot in &mut board.spots[first..] {
                spot.free = spot.free.saturating_sub(taken);
            }
        }
        for (number, spot) in board.spots.iter().enumerate() {
            board.by_class.entry(spot.class).or_default().push(number);
            for (tenant, _) in &spot.here {
                board.tenants[*tenant].spots.push(number);
            }
        }
        board
    }

    fn count(
        &mut self,
        state: &'a State,
        at: Timestamp,
        numbers: &mut BTreeMap<LeaseId, usize>,
        (first, node, gpu): (usize, &'a Node, &'a Gpu),
    ) {
        let class = &gpu.info.class;
        let found = self.spots[first..].iter().position(|spot| spot.class == class);
        let number = found.map_or(self.spots.len(), |it| first + it);
        if found.is_none() {
            let node = &node.id;
            let (stopping, here) = (Vec::new(), Vec::new());
            let spot = Spot { node, class, free: 0, coming: 0, stopping, here, claimed: 0 };
            self.spots.push(spot);
        }
        let Some(id) = node.alone.or(gpu.lease) else {
            // Of a shared GPU nobody has enough to free it alone.
            self.spots[number].free += u32::from(gpu.is_free());
            return;
        };
        let Some(lease) = state.leases.get(&id) else { return };
        let spot = &mut self.spots[number];
        if lease.stop.is_some() {
            spot.coming += 1;
            if spot.stopping.last() != Some(&id) {
                spot.stopping.push(id);
            }
            return;
        }
        let next = self.tenants.len();
        let tenant = *numbers.entry(id).or_insert(next);
        if tenant == next {
            self.tenants.push(Tenant { lease, cost: cost(lease, at), spots: Vec::new() });
        }
        match spot.here.iter_mut().find(|(it, _)| *it == tenant) {
            Some((_, gpus)) => *gpus += 1,
            None => spot.here.push((tenant, 1)),
        }
    }

    pub(crate) fn tenants(&self) -> &[Tenant<'a>] {
        &self.tenants
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = &'a GpuClass> {
        self.by_class.keys().copied()
    }

    pub(crate) fn nodes(&self, room: &Room) -> Vec<NodeId> {
        room.spots.iter().map(|spot| self.spots[*spot].node.clone()).collect()
    }

    /// Leases on the nodes that are being stopped.
    pub(crate) fn stopping<'b>(&'b self, room: &'b Room) -> impl Iterator<Item = LeaseId> + 'b {
        room.spots.iter().flat_map(|spot| self.spots[*spot].stopping.iter().copied())
    }

    /// Lost GPUs and work, for comparison.
    pub(crate) fn cost(&self, room: &Room) -> Cost {
        room.tenants.iter().fold((0, 0), |sum, it| plus(sum, self.tenants[*it].cost))
    }

    /// Sets the room aside, for no other to be counted in.
    pub(crate) fn claim(&mut self, room: &Room, gpus: u32) {
        for spot in &room.spots {
            self.spots[*spot].claimed += gpus;
        }
        for tenant in &room.tenants {
            for spot in &self.tenants[*tenant].spots.clone() {
                let spot = &mut self.spots[*spot];
                let leaves = spot.here.iter().position(|(it, _)| it == tenant);
                if let Some(leaves) = leaves {
                    spot.coming += spot.here.swap_remove(leaves).1;
                }
            }
        }
    }

    /// The cheapest room of those that can be made by stopping whom `open` names.
    pub(crate) fn make_room(&self, wanted: &Wanted<'_>, open: &[bool]) -> Option<Room> {
        let spots = self.by_class.get(wanted.class)?;
        let mut search = Search { board: self, open, gpus: wanted.gpus, gain: BTreeMap::new() };
        let mut ready: BTreeSet<usize> =
            spots.iter().copied().filter(|spot| search.lacks(*spot) == 0).collect();
        let mut offers: BTreeSet<(Cost, usize)> = BTreeSet::new();
        let mut known: BTreeMap<usize, (Cost, Vec<usize>)> = BTreeMap::new();
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        let mut changed: Vec<usize> = spots.clone();
        while ready.len() < wanted.nodes {
            for spot in changed.drain(..) {
                if let Some((cost, _)) = known.remove(&spot) {
                    offers.remove(&(cost, spot));
                }
                if search.lacks(spot) == 0 {
                    ready.insert(spot);
                } else if let Some(offer) = search.cheapest(spot, &chosen) {
                    offers.insert((offer.0, spot));
                    known.insert(spot, offer);
                }
            }
            if ready.len() >= wanted.nodes {
                break;
            }
            let (_, spot) = offers.pop_first()?;
            for tenant in known.remove(&spot)?.1 {
                chosen.insert(tenant);
                changed.extend(search.stop(tenant));
            }
        }
        search.spare(&mut chosen, &mut ready, wanted.nodes);
        let mut spots: Vec<usize> = ready.into_iter().collect();
        spots.sort_by_key(|spot| (Reverse(self.spots[*spot].free), *spot));
        spots.truncate(wanted.nodes);
        Some(Room { spots, tenants: chosen.into_iter().collect() })
    }
}

fn cost(lease: &Lease, at: Timestamp) -> Cost {
    let gpus = u64::from(lease.spec.gpus().0);
    let starts = lease.parts.iter().map(|part| part.started_at);
    let started_at = starts.filter(|it| *it != Timestamp(0)).min().unwrap_or(at);
    (gpus, gpus.saturating_mul(at.0.saturating_sub(started_at.0)))
}

fn plus(one: Cost, other: Cost) -> Cost {
    (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
}

/// Who leaves is not settled yet.
struct Search<'b, 'a> {
    board: &'b Board<'a>,
    open: &'b [bool],
    gpus: u32,
    /// What those chosen so far free on each spot.
    gain: BTreeMap<usize, u32>,
}

impl Search<'_, '_> {
    /// GPUs that the node is short of.
    fn lacks(&self, spot: usize) -> u32 {
        let gain = self.gain.get(&spot).copied().unwrap_or_default();
        let it = &self.board.spots[spot];
        (self.gpus + it.claimed).saturating_sub(it.free + it.coming + gain)
    }

    fn has_of(&self, spot: usize, tenant: usize) -> u32 {
        let mut here = self.board.spots[spot].here.iter();
        here.find(|(it, _)| *it == tenant).map_or(0, |(_, gpus)| *gpus)
    }

    /// Counts the tenant as gone. Where that changes something.
    fn stop(&mut self, tenant: usize) -> Vec<usize> {
        let spots = self.board.tenants[tenant].spots.clone();
        for spot in &spots {
            let gpus = self.has_of(*spot, tenant);
            *self.gain.entry(*spot).or_default() += gpus;
        }
        spots
    }

    /// Who would have to leave the node, besides those chosen; none if that would not do.
    fn cheapest(&self, spot: usize, chosen: &BTreeSet<usize>) -> Option<(Cost, Vec<usize>)> {
        let lacks = usize::try_from(self.lacks(spot)).ok()?;
        // The best for each number of GPUs up to what is lacking, which stands for all above.
        let mut best: Vec<Option<(Cost, Vec<usize>)>> = alloc::vec![None; lacks + 1];
        best[0] = Some(((0, 0), Vec::new()));
        let here = self.board.spots[spot].here.iter();
        for (tenant, gpus) in here.filter(|(it, _)| self.open[*it] && !chosen.contains(it)) {
            let gpus = usize::try_from(*gpus).ok()?;
            for before in (0..lacks).rev() {
                let Some((cost, who)) = &best[before] else { continue };
                let cost = plus(*cost, self.board.tenants[*tenant].cost);
                let after = (before + gpus).min(lacks);
                if best[after].as_ref().is_none_or(|(known, _)| cost < *known) {
                    let mut who = who.clone();
                    who.push(*tenant);
                    best[after] = Some((cost, who));
                }
            }
        }
        best.pop().flatten()
    }

    /// Lets those stay who are not needed, the costliest first.
    fn spare(&mut self, chosen: &mut BTreeSet<usize>, ready: &mut BTreeSet<usize>, nodes: usize) {
        let mut costly: Vec<usize> = chosen.iter().copied().collect();
        costly.sort_by_key(|it| Reverse((self.board.tenants[*it].cost, *it)));
        for tenant in costly {
            let spots = &self.board.tenants[tenant].spots;
            let mut gain = self.gain.clone();
            for spot in spots {
                let gpus = self.has_of(*spot, tenant);
                gain.entry(*spot).and_modify(|it| *it = it.saturating_sub(gpus));
            }
            let before = core::mem::replace(&mut self.gain, gain);
            let lost: Vec<usize> = spots
                .iter()
                .copied()
                .filter(|spot| ready.contains(spot) && self.lacks(*spot) > 0)
                .collect();
            if ready.len() - lost.len() >= nodes {
                chosen.remove(&tenant);
                for spot in lost {
                    ready.remove(&spot);
                }
            } else {
                self.gain = before;
            }
        }
    }
}
