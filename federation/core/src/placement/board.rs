//! What could be free on each node if some of those who run there were stopped, and how to free
//! enough for a gang with the least damage: the least work lost, in GPU-time, and of equal losses the
//! fewest GPUs. A gang that is stopped is stopped as a whole, and counts as a whole.
//!
//! Node by node the cheapest is taken, by a knapsack over those who run there; what a stopped gang
//! frees elsewhere counts at once, and in the end whoever turns out not to be needed is spared. That
//! is exact for one node and for jobs of one node, and near it for gangs of both. Where CPU or memory is
//! short, too, those who have some leave besides, the cheapest first.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::cmp::Reverse;

use specs::id::{GpuClass, LeaseId, NodeId};
use specs::job::{JobSpec, Needs};
use specs::unit::{Millis, Timestamp};

use crate::leader::saves::Saves;
use crate::placement::fits;
use crate::placement::pool::Pool;
use crate::reserve;
use crate::state::{Gpu, Lease, Node, State};

/// What somebody loses: work that is done once more and the time to start again, in
/// GPU-milliseconds; and his GPUs, of equal losses the fewer.
type Cost = (u64, u64);

/// How long a job takes to go on where it had saved its work.
const RESTART: Millis = Millis(60_000);

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
    node: &'a Node,
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
    /// CPU and memory of the node that nobody has who stays if those leave who are told to.
    room: Pool,
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
    pub needs: &'a Needs,
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
        (at, saves): (Timestamp, &Saves),
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
                board.count(state, (at, saves), &mut numbers, (first, node, gpu));
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
        (at, saves): (Timestamp, &Saves),
        numbers: &mut BTreeMap<LeaseId, usize>,
        (first, node, gpu): (usize, &'a Node, &'a Gpu),
    ) {
        let class = &gpu.info.class;
        let found = self.spots[first..].iter().position(|spot| spot.class == class);
        let number = found.map_or(self.spots.len(), |it| first + it);
        if found.is_none() {
            let (stopping, here) = (Vec::new(), Vec::new());
            let room = room_of(state, node);
            let spot = Spot { node, class, free: 0, coming: 0, stopping, here, claimed: 0, room };
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
            self.tenants.push(Tenant {
                lease,
                cost: cost(lease, at, saves.of(lease)),
                spots: Vec::new(),
            });
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
        room.spots.iter().map(|spot| self.spots[*spot].node.id.clone()).collect()
    }

    /// Leases on the nodes that are being stopped.
    pub(crate) fn stopping<'b>(&'b self, room: &'b Room) -> impl Iterator<Item = LeaseId> + 'b {
        room.spots.iter().flat_map(|spot| self.spots[*spot].stopping.iter().copied())
    }

    /// What is lost by it, for comparison.
    pub(crate) fn cost(&self, room: &Room) -> Cost {
        room.tenants.iter().fold((0, 0), |sum, it| plus(sum, self.tenants[*it].cost))
    }

    /// Sets the room aside, for no other to be counted in.
    pub(crate) fn claim(&mut self, room: &Room, spec: &JobSpec) {
        for tenant in &room.tenants {
            let leaves_room = Pool::asked(&self.tenants[*tenant].lease.spec.needs);
            for spot in &self.tenants[*tenant].spots.clone() {
                let spot = &mut self.spots[*spot];
                let leaves = spot.here.iter().position(|(it, _)| it == tenant);
                if let Some(leaves) = leaves {
                    spot.coming += spot.here.swap_remove(leaves).1;
                    spot.room = spot.room.plus(leaves_room);
                }
            }
        }
        for spot in &room.spots {
            let spot = &mut self.spots[*spot];
            spot.claimed += spec.gpus_per_node.0;
            spot.room = spot.room.minus(Pool::asked(&spec.needs));
        }
    }

    /// The cheapest room of those that can be made by stopping whom `open` names.
    pub(crate) fn make_room(&self, wanted: &Wanted<'_>, open: &[bool]) -> Option<Room> {
        let mut able = self.by_class.get(wanted.class)?.clone();
        able.retain(|spot| fits::has_attributes(wanted.needs, &self.spots[*spot].node.facts));
        let together = wanted.needs.together.as_ref().filter(|it| it.required && wanted.nodes > 1);
        let Some(together) = together else { return self.room_on(&able, wanted, open) };
        // All of it in one hall, rack or domain: the one where that costs least.
        let mut places: BTreeMap<(&str, &str), Vec<usize>> = BTreeMap::new();
        for spot in able {
            if let Some(place) = fits::place_of(&self.spots[spot].node.facts, together.level) {
                places.entry(place).or_default().push(spot);
            }
        }
        let rooms = places.values().filter(|spots| spots.len() >= wanted.nodes);
        let rooms = rooms.filter_map(|spots| self.room_on(spots, wanted, open));
        rooms.min_by_key(|room| self.cost(room))
    }

    fn room_on(&self, spots: &[usize], wanted: &Wanted<'_>, open: &[bool]) -> Option<Room> {
        let beside = Pool::asked(wanted.needs);
        let (gain, gained) = (BTreeMap::new(), BTreeMap::new());
        let mut search = Search { board: self, open, gpus: wanted.gpus, beside, gain, gained };
        let mut ready: BTreeSet<usize> =
            spots.iter().copied().filter(|spot| search.is_ready(*spot)).collect();
        let mut offers: BTreeSet<(Cost, usize)> = BTreeSet::new();
        let mut known: BTreeMap<usize, (Cost, Vec<usize>)> = BTreeMap::new();
        let mut chosen: BTreeSet<usize> = BTreeSet::new();
        let mut changed: Vec<usize> = spots.to_vec();
        while ready.len() < wanted.nodes {
            for spot in changed.drain(..).filter(|it| spots.binary_search(it).is_ok()) {
                if let Some((cost, _)) = known.remove(&spot) {
                    offers.remove(&(cost, spot));
                }
                if search.is_ready(spot) {
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

/// CPU and memory of a node beside those who stay there.
fn room_of(state: &State, node: &Node) -> Pool {
    let left = Pool::of_node(&node.facts).minus(fits::promised(state, &node.id));
    let leave = state.leases_of(&node.id).filter(|lease| lease.stop.is_some());
    let leave = leave.filter(|lease| state.is_own(&lease.home));
    leave.fold(left, |room, lease| room.plus(Pool::asked(&lease.spec.needs)))
}

/// Work counts from when it was last saved; from the start, if that was never said.
fn cost(lease: &Lease, at: Timestamp, saved_at: Option<Timestamp>) -> Cost {
    let gpus = u64::from(lease.spec.gpus().0);
    let starts = lease.parts.iter().map(|part| part.started_at);
    let started_at = starts.filter(|it| *it != Timestamp(0)).min().unwrap_or(at);
    let lost = Millis(at.0.saturating_sub(started_at.max(saved_at.unwrap_or_default()).0));
    (gpus.saturating_mul(lost.plus(RESTART).0), gpus)
}

fn plus(one: Cost, other: Cost) -> Cost {
    (one.0.saturating_add(other.0), one.1.saturating_add(other.1))
}

/// Who leaves is not settled yet.
struct Search<'b, 'a> {
    board: &'b Board<'a>,
    open: &'b [bool],
    gpus: u32,
    beside: Pool,
    /// What those chosen so far free on each spot.
    gain: BTreeMap<usize, u32>,
    gained: BTreeMap<usize, Pool>,
}

impl Search<'_, '_> {
    /// GPUs that the node is short of.
    fn lacks(&self, spot: usize) -> u32 {
        let gain = self.gain.get(&spot).copied().unwrap_or_default();
        let it = &self.board.spots[spot];
        (self.gpus + it.claimed).saturating_sub(it.free + it.coming + gain)
    }

    fn room(&self, spot: usize) -> Pool {
        self.board.spots[spot].room.plus(self.gained.get(&spot).copied().unwrap_or_default())
    }

    fn is_ready(&self, spot: usize) -> bool {
        self.lacks(spot) == 0 && self.room(spot).covers(self.beside)
    }

    fn has_of(&self, spot: usize, tenant: usize) -> u32 {
        let mut here = self.board.spots[spot].here.iter();
        here.find(|(it, _)| *it == tenant).map_or(0, |(_, gpus)| *gpus)
    }

    fn beside_of(&self, tenant: usize) -> Pool {
        Pool::asked(&self.board.tenants[tenant].lease.spec.needs)
    }

    /// Counts the tenant as gone. Where that changes something.
    fn stop(&mut self, tenant: usize) -> Vec<usize> {
        let spots = self.board.tenants[tenant].spots.clone();
        let beside = self.beside_of(tenant);
        for spot in &spots {
            let gpus = self.has_of(*spot, tenant);
            *self.gain.entry(*spot).or_default() += gpus;
            let gained = self.gained.entry(*spot).or_default();
            *gained = gained.plus(beside);
        }
        spots
    }

    /// Who would have to leave the node, besides those chosen; none if that would not do.
    fn cheapest(&self, spot: usize, chosen: &BTreeSet<usize>) -> Option<(Cost, Vec<usize>)> {
        let lacks = usize::try_from(self.lacks(spot)).ok()?;
        let here = || {
            let here = self.board.spots[spot].here.iter();
            here.filter(|(it, _)| self.open[*it] && !chosen.contains(it))
        };
        // The best for each number of GPUs up to what is lacking, which stands for all above.
        let mut best: Vec<Option<(Cost, Vec<usize>)>> = alloc::vec![None; lacks + 1];
        best[0] = Some(((0, 0), Vec::new()));
        for (tenant, gpus) in here() {
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
        let (mut cost, mut who) = best.pop().flatten()?;
        let mut room = who.iter().fold(self.room(spot), |room, it| room.plus(self.beside_of(*it)));
        let mut others: Vec<usize> = here().map(|(it, _)| *it).collect();
        others.retain(|it| !who.contains(it) && self.beside_of(*it) != Pool::default());
        others.sort_by_key(|it| (self.board.tenants[*it].cost, *it));
        for other in others {
            if room.covers(self.beside) {
                break;
            }
            room = room.plus(self.beside_of(other));
            cost = plus(cost, self.board.tenants[other].cost);
            who.push(other);
        }
        room.covers(self.beside).then_some((cost, who))
    }

    /// Lets those stay who are not needed, the costliest first.
    fn spare(&mut self, chosen: &mut BTreeSet<usize>, ready: &mut BTreeSet<usize>, nodes: usize) {
        let mut costly: Vec<usize> = chosen.iter().copied().collect();
        costly.sort_by_key(|it| Reverse((self.board.tenants[*it].cost, *it)));
        for tenant in costly {
            let spots = &self.board.tenants[tenant].spots;
            let (mut gain, mut gained) = (self.gain.clone(), self.gained.clone());
            let beside = self.beside_of(tenant);
            for spot in spots {
                let gpus = self.has_of(*spot, tenant);
                gain.entry(*spot).and_modify(|it| *it = it.saturating_sub(gpus));
                gained.entry(*spot).and_modify(|it| *it = it.minus(beside));
            }
            let before = (
                core::mem::replace(&mut self.gain, gain),
                core::mem::replace(&mut self.gained, gained),
            );
            let lost: Vec<usize> = spots
                .iter()
                .copied()
                .filter(|spot| ready.contains(spot) && !self.is_ready(*spot))
                .collect();
            if ready.len() - lost.len() >= nodes {
                chosen.remove(&tenant);
                for spot in lost {
                    ready.remove(&spot);
                }
            } else {
                (self.gain, self.gained) = before;
            }
        }
    }
}
