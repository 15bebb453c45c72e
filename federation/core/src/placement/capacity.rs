//! The index of capacity that follows from the agreed state, as the leader keeps it. The state is
//! the truth: what was written since the last look is taken over, and what a plan takes for itself
//! is given back at its end.

pub(crate) mod screen;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{GpuClass, GpuIndex, NodeId, ReservationName};
use specs::job::{JobSpec, Needs, Vicinity};
use specs::signals::FreeNodes;
use specs::unit::{GpuCount, Timestamp};

use crate::command::PartPlan;
use crate::placement::fits;
use crate::placement::fleet::{
    Ask, AttributeIndex, Busy, ClassIndex, Fill, Fleet, GpuAsk, GpuMask, NodeIndex, NodeShape,
    Placement, Shortage, Taken,
};
use crate::placement::names::{self, Names};
use crate::placement::pool;
use crate::placement::taste::Demand;
use crate::state::{Gpu, Node, State};
use crate::table::Table;
use screen::Screen;

/// What nodes with GPUs of one class alone have. In the fleet, who asks for a node for himself asks
/// for it, since what stands there twice is not seen to be free as a whole.
const UNMIXED: AttributeIndex = AttributeIndex(0);

/// The nodes of a site, by what is free on them. A machine with GPUs of several classes stands in
/// the fleet once for each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Capacity {
    fleet: Fleet,
    /// What the fleet follows from.
    seen: Table<NodeId, Node>,
    known: BTreeMap<NodeId, Known>,
    /// By their numbers in the fleet.
    owners: Vec<NodeId>,
    classes: Vec<GpuClass>,
    class_of: BTreeMap<GpuClass, ClassIndex>,
    names: Names,
    /// Nodes on which nothing can start at present, or less than they have.
    awaited: usize,
    /// What jobs here ask for. Follows from the leases.
    demand: Demand,
    /// What the plan in the making has taken.
    taken: Vec<Placement>,
    aside: Aside,
    /// Nodes that are reserved, by for whom and when, until the next [`Capacity::give_back`].
    reserved: Vec<Reserved>,
    /// Nodes that no job sees until the next [`Capacity::give_back`].
    hidden: BTreeSet<NodeIndex>,
    screen: Screen,
}

/// Nodes that most jobs do not see.
#[derive(Debug, Clone, Default)]
struct Aside {
    fleet: Fleet,
    /// Their numbers in the site's fleet, by those in this one.
    at: Vec<NodeIndex>,
}

/// Nodes that are in the same reservations.
#[derive(Debug, Clone, Default)]
struct Reserved {
    reservations: Vec<ReservationName>,
    nodes: Aside,
    /// What found no place here.
    full: BTreeSet<(Vec<u8>, Vec<GpuClass>)>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Known {
    /// It is usable, and so are all of its GPUs.
    is_whole: bool,
    shapes: Vec<(NodeIndex, NodeShape)>,
}

fn number(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Capacity {
    /// Takes over what was written since the last time. Costs as much as was written. A plan that took
    /// something has given it back.
    pub(crate) fn follow(&mut self, state: &State) {
        let mut changed = Vec::new();
        state.nodes.changed_since(&self.seen, |node| changed.push(node.clone()));
        self.seen = state.nodes.clone();
        for id in changed {
            self.renew(state, &id);
        }
        let class_of = &self.class_of;
        let index = |class: &GpuClass| class_of.get(class).map(|it| u32::from(it.0));
        self.demand.follow(state, index, || {
            let all = state.nodes.values().filter(|node| node.is_usable());
            all.fold((0, 0), |(cpu, gpus), node| {
                (cpu + u64::from(node.facts.cpu_milli), gpus + node.gpus.len() as u64)
            })
        });
    }

    /// Hides nodes from everybody until the next [`Capacity::give_back`].
    pub(crate) fn hide(&mut self, nodes: &[NodeId]) {
        for id in nodes {
            let Some(known) = self.known.get(id) else { continue };
            if !self.seen.get(id).is_some_and(Node::is_usable) {
                continue;
            }
            for (at, _) in &known.shapes {
                if self.hidden.insert(*at) {
                    self.fleet.set_usable(*at, false);
                }
            }
        }
    }

    /// Hides nodes from [`Capacity::take`], until the next [`Capacity::give_back`]. Nothing of them
    /// is taken yet.
    pub(crate) fn set_aside(&mut self, state: &State, nodes: &[NodeId]) {
        let mut aside = core::mem::take(&mut self.aside);
        for id in nodes {
            self.move_to(&mut aside, state, id);
        }
        self.aside = aside;
    }

    fn move_to(&mut self, aside: &mut Aside, state: &State, id: &NodeId) {
        let (Some(known), Some(node)) = (self.known.get(id), self.seen.get(id)) else { return };
        if !node.is_usable() {
            return;
        }
        let promised = fits::promised(state, id);
        for (at, shape) in &known.shapes {
            // Another has it.
            if !self.fleet.is_usable(*at) {
                continue;
            }
            let place = aside.fleet.add(shape);
            let class = &self.classes[usize::from(shape.class.0)];
            aside.fleet.set_busy(place, &busy(node, class, promised));
            aside.fleet.set_usable(place, true);
            aside.at.push(*at);
            self.fleet.set_usable(*at, false);
        }
    }

    /// Takes a place on nodes that were set aside; none for who demands something of proofs.
    pub(crate) fn take_aside(
        &mut self,
        spec: &JobSpec,
        closed: &[GpuClass],
    ) -> Option<(GpuClass, Vec<PartPlan>)> {
        let mut aside = core::mem::take(&mut self.aside);
        let taken = self.take_of(&mut aside, spec, closed);
        self.aside = aside;
        taken
    }

    fn take_of(
        &self,
        aside: &mut Aside,
        spec: &JobSpec,
        closed: &[GpuClass],
    ) -> Option<(GpuClass, Vec<PartPlan>)> {
        if spec.needs.proof.is_some() {
            return None;
        }
        let ask = self.ask_beside(spec, closed)?;
        let taken = aside.fleet.place(&ask)?.parts;
        let here = |part: &Taken| {
            let at = aside.at.get(usize::try_from(part.node.0).ok()?)?;
            Some(Taken { node: *at, ..part.clone() })
        };
        let taken: Vec<Taken> = taken.iter().filter_map(here).collect();
        let class = taken.first().and_then(|part| self.class_at(part.node)).cloned()?;
        let mut parts: Vec<PartPlan> = taken.iter().filter_map(|part| self.part(part)).collect();
        parts.sort_by(|one, other| one.node.cmp(&other.node));
        self.in_order(spec, &mut parts);
        Some((class, parts))
    }

    /// Hides what is reserved, begun or to come, from [`Capacity::take`] and from whoever lends, until
    /// the next [`Capacity::give_back`]. Costs as much as there is reserved.
    pub(crate) fn set_reserved(&mut self, state: &State) {
        let mut pools: BTreeMap<Vec<ReservationName>, Aside> = BTreeMap::new();
        let mut at: Option<(NodeId, Vec<ReservationName>)> = None;
        let mut nodes: Vec<(NodeId, Vec<ReservationName>)> = Vec::new();
        for ((node, name), ()) in state.reserved.iter() {
            match &mut at {
                Some((same, names)) if same == node => names.push(name.clone()),
                Some(_) | None => {
                    nodes.extend(at.replace((node.clone(), alloc::vec![name.clone()])));
                }
            }
        }
        nodes.extend(at);
        for (node, names) in nodes {
            self.move_to(pools.entry(names).or_default(), state, &node);
        }
        let pool = |(reservations, nodes)| Reserved { reservations, nodes, full: BTreeSet::new() };
        self.reserved = pools.into_iter().map(pool).collect();
    }

    /// Takes a place on nodes all of whose reservations are such that the job may start there.
    pub(crate) fn take_reserved(
        &mut self,
        (spec, ask): (&JobSpec, &[u8]),
        closed: &[GpuClass],
        may: impl Fn(&[ReservationName]) -> bool,
    ) -> Option<(GpuClass, Vec<PartPlan>)> {
        if self.reserved.is_empty() {
            return None;
        }
        let mut pools = core::mem::take(&mut self.reserved);
        let tried = (ask.to_vec(), closed.to_vec());
        let place = pools.iter_mut().find_map(|pool| {
            if pool.full.contains(&tried) || !may(&pool.reservations) {
                return None;
            }
            let place = self.take_of(&mut pool.nodes, spec, closed);
            if place.is_none() {
                pool.full.insert(tried.clone());
            }
            place
        });
        self.reserved = pools;
        place
    }

    /// Gives back what a plan has taken or set aside.
    pub(crate) fn give_back(&mut self) {
        self.lift_screen();
        let aside = core::mem::take(&mut self.aside).at;
        let reserved = core::mem::take(&mut self.reserved).into_iter().flat_map(|it| it.nodes.at);
        let hidden = core::mem::take(&mut self.hidden);
        for at in aside.into_iter().chain(reserved).chain(hidden) {
            self.fleet.set_usable(at, true);
        }
        for placement in self.taken.drain(..) {
            self.fleet.free(&placement);
        }
    }

    fn renew(&mut self, state: &State, id: &NodeId) {
        let seen = self.seen.clone();
        let before = self.known.remove(id);
        self.awaited -= usize::from(before.as_ref().is_some_and(|known| !known.is_whole));
        let before = before.unwrap_or_default();
        let Some(node) = seen.get(id) else {
            for (at, _) in before.shapes {
                self.fleet.remove(at);
            }
            return;
        };
        let wanted = self.shapes(node);
        let is_same = before.shapes.iter().map(|(_, shape)| shape).eq(wanted.iter());
        let shapes = if is_same {
            before.shapes
        } else {
            for (at, _) in before.shapes {
                self.fleet.remove(at);
            }
            wanted.into_iter().map(|shape| (self.add(id, &shape), shape)).collect()
        };
        let usable = node.is_usable();
        let promised = fits::promised(state, id);
        for (at, shape) in &shapes {
            let class = &self.classes[usize::from(shape.class.0)];
            self.fleet.set_busy(*at, &busy(node, class, promised));
            self.fleet.set_usable(*at, usable);
        }
        let is_whole = usable && node.gpus.iter().all(Gpu::is_fit);
        self.awaited += usize::from(!is_whole);
        self.known.insert(id.clone(), Known { is_whole, shapes });
    }

    fn add(&mut self, id: &NodeId, shape: &NodeShape) -> NodeIndex {
        let at = self.fleet.add(shape);
        let place = usize::try_from(at.0).unwrap_or(usize::MAX);
        if place < self.owners.len() {
            self.owners[place] = id.clone();
        } else {
            self.owners.push(id.clone());
        }
        at
    }

    /// What the node is, class by class.
    fn shapes(&mut self, node: &Node) -> Vec<NodeShape> {
        let mut gpus: BTreeMap<&GpuClass, usize> = BTreeMap::new();
        for gpu in node.gpus.iter().filter(|gpu| gpu.is_fit()) {
            *gpus.entry(&gpu.info.class).or_default() += 1;
        }
        let facts = &node.facts;
        let mut plain = self.names.shape(facts);
        if gpus.len() == 1 {
            plain.attributes.push(UNMIXED);
        }
        let mut shapes = Vec::new();
        for (class, count) in gpus {
            shapes.push(NodeShape {
                class: self.class(class),
                gpus: number(count),
                cpu_milli: facts.cpu_milli,
                memory_mib: facts.memory_mib,
                machine_gpus: number(node.gpus.len()),
                ..plain.clone()
            });
        }
        shapes
    }

    fn class(&mut self, name: &GpuClass) -> ClassIndex {
        if let Some(known) = self.class_of.get(name) {
            return *known;
        }
        let class = ClassIndex(u16::try_from(self.classes.len()).unwrap_or(u16::MAX));
        self.classes.push(name.clone());
        self.class_of.insert(name.clone(), class);
        class
    }

    /// The classes of those names that any node has or had; all, in the order of their names, if
    /// none is named.
    fn numbers(&self, names: &[GpuClass]) -> Vec<ClassIndex> {
        if names.is_empty() {
            return self.class_of.values().copied().collect();
        }
        names.iter().filter_map(|name| self.class_of.get(name)).copied().collect()
    }

    /// What the job asks of a site; none if no class would do.
    pub(crate) fn ask(&self, spec: &JobSpec) -> Option<Ask> {
        let classes = self.numbers(&spec.gpu_classes);
        if classes.is_empty() {
            return None;
        }
        let needs = &spec.needs;
        let mut attributes = self.names.asked(needs);
        if needs.exclusive {
            attributes.push(UNMIXED);
        }
        let gpus = match u16::try_from(needs.gpu_milli) {
            Ok(milli) if milli > 0 => GpuAsk::Milli(milli),
            _ => GpuAsk::Whole(spec.gpus_per_node.0),
        };
        Some(Ask {
            nodes: spec.nodes,
            gpus,
            cpu_milli: needs.cpu_milli,
            memory_mib: needs.memory_mib,
            classes,
            unordered: spec.gpu_classes.is_empty(),
            attributes,
            exclusive: needs.exclusive,
            together: names::together(needs),
            fill: names::fill(needs),
            lent: false,
            entire: false,
        })
    }

    /// Takes a place for the job, on GPUs of a class that is not closed to it and whose proofs are
    /// what it demands at that time, until the next [`Capacity::give_back`].
    pub(crate) fn take(
        &mut self,
        spec: &JobSpec,
        closed: &[GpuClass],
        at: Timestamp,
    ) -> Option<(GpuClass, Vec<PartPlan>)> {
        let ask = self.ask_beside(spec, closed)?;
        self.put_screen(&spec.needs, at);
        let (class, mut parts) = self.take_asked(&ask)?;
        self.in_order(spec, &mut parts);
        Some((class, parts))
    }

    /// Takes a place for the job whatever the proofs are, until the next [`Capacity::give_back`].
    pub(crate) fn take_unproven(&mut self, spec: &JobSpec) -> Vec<PartPlan> {
        self.lift_screen();
        let taken = self.ask(spec).and_then(|ask| self.take_asked(&ask));
        taken.map(|(_, parts)| parts).unwrap_or_default()
    }

    /// Neighbours by rank are neighbours in the hall.
    fn in_order(&self, spec: &JobSpec, parts: &mut [PartPlan]) {
        if let Some(together) = spec.needs.together.as_ref() {
            parts.sort_by_key(|part| self.place(&part.node, together.level));
        }
    }

    fn place(&self, node: &NodeId, level: Vicinity) -> Option<(&str, &str)> {
        self.seen.get(node).and_then(|node| fits::place_of(&node.facts, level))
    }

    /// What the job asks for of classes that are not closed to it.
    fn ask_beside(&self, spec: &JobSpec, closed: &[GpuClass]) -> Option<Ask> {
        let mut ask = self.ask(spec)?;
        ask.classes.retain(|class| !closed.contains(&self.classes[usize::from(class.0)]));
        (!ask.classes.is_empty()).then_some(ask)
    }

    /// Takes a gang to be granted of one of the classes, the first that has it; of any class if none is
    /// named. Who asks for CPU or memory beside the GPUs gets no more of it than they carry; who asks for
    /// nodes for himself, those that have just as many GPUs.
    pub(crate) fn take_gang(
        &mut self,
        classes: &[GpuClass],
        (nodes, gpus): (u32, GpuCount),
        needs: &Needs,
        at: Timestamp,
    ) -> Option<(GpuClass, Vec<PartPlan>)> {
        let classes = self.numbers(classes);
        if classes.is_empty() {
            return None;
        }
        self.put_screen(needs, at);
        let mut attributes = self.names.asked(needs);
        if needs.exclusive {
            attributes.push(UNMIXED);
        }
        self.take_asked(&Ask {
            classes,
            cpu_milli: needs.cpu_milli,
            memory_mib: needs.memory_mib,
            lent: needs.ask_beside_gpus(),
            entire: needs.exclusive,
            exclusive: needs.exclusive,
            attributes,
            together: names::together(needs),
            fill: names::fill(needs),
            ..Ask::whole(nodes, gpus.0)
        })
    }

    fn take_asked(&mut self, ask: &Ask) -> Option<(GpuClass, Vec<PartPlan>)> {
        let placement = match &mut self.demand.taste {
            // Who asks for more than room, or to be spread, is placed by that.
            Some(taste) if ask.nodes == 1 && ask.fill == Fill::Pack && !ask.exclusive => {
                self.fleet.place_scored(ask, taste)?
            }
            Some(_) | None => self.fleet.place(ask)?,
        };
        let mut parts: Vec<PartPlan> =
            placement.parts.iter().filter_map(|part| self.part(part)).collect();
        parts.sort_by(|one, other| one.node.cmp(&other.node));
        let class = placement.parts.first().and_then(|part| self.class_at(part.node)).cloned();
        self.taken.push(placement);
        class.map(|class| (class, parts))
    }

    fn class_at(&self, at: NodeIndex) -> Option<&GpuClass> {
        self.classes.get(usize::from(self.fleet.class(at)?.0))
    }

    fn part(&self, part: &Taken) -> Option<PartPlan> {
        let owner = self.owners.get(usize::try_from(part.node.0).ok()?)?;
        let class = self.class_at(part.node)?;
        let of_class = of_class(self.seen.get(owner)?, class).zip(0u8..);
        let gpus = part.share.map_or(part.gpus, |(gpu, _)| GpuMask::one(gpu));
        let taken = of_class.filter(|(_, place)| GpuMask::one(*place).is_within(gpus));
        let gpus: Vec<GpuIndex> = taken.map(|(gpu, _)| gpu.info.index).collect();
        Some(PartPlan { node: owner.clone(), gpus })
    }

    /// GPUs of the class that are free on usable nodes.
    pub(crate) fn free(&self, class: &GpuClass) -> GpuCount {
        let class = self.class_of.get(class);
        GpuCount(class.map_or(0, |class| self.fleet.totals(*class).free))
    }

    /// Nodes of the class by the whole GPUs that are free on them, without those that have none.
    pub(crate) fn free_nodes(&self, class: &GpuClass) -> Vec<FreeNodes> {
        let Some(class) = self.class_of.get(class) else { return Vec::new() };
        let by_free = self.fleet.totals(*class).by_free;
        let some = by_free.into_iter().zip(0..).filter(|(nodes, gpus)| *nodes > 0 && *gpus > 0);
        some.map(|(nodes, gpus)| FreeNodes { gpus: GpuCount(gpus), nodes }).collect()
    }

    /// GPUs of each class on usable nodes, taken or not.
    pub(crate) fn totals(&self) -> impl Iterator<Item = (GpuClass, u64)> + '_ {
        let gpus = |class: &ClassIndex| u64::from(self.fleet.totals(*class).gpus);
        self.class_of.iter().map(move |(name, class)| (name.clone(), gpus(class)))
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = &GpuClass> {
        self.class_of.keys()
    }

    /// Whether the job could stand here if nothing were taken.
    pub(crate) fn could_hold(&self, spec: &JobSpec) -> bool {
        self.ask(spec).is_some_and(|ask| self.fleet.could_hold(&ask))
    }

    /// Whether the job could stand here on GPUs of that class if nothing were taken.
    pub(crate) fn could_hold_on(&self, spec: &JobSpec, class: &GpuClass) -> bool {
        let (Some(ask), Some(number)) = (self.ask(spec), self.class_of.get(class)) else {
            return false;
        };
        ask.classes.contains(number)
            && self.fleet.could_hold(&Ask { classes: alloc::vec![*number], ..ask })
    }

    /// What keeps the job from a place; none if nothing does.
    pub(crate) fn shortage(&self, spec: &JobSpec) -> Option<Shortage> {
        match self.ask(spec) {
            Some(ask) => self.fleet.shortage(&ask),
            None => Some(Shortage::NoNode { of_class: 0 }),
        }
    }

    /// True if there are nodes of which more may be known later.
    pub(crate) fn awaits_nodes(&self) -> bool {
        self.awaited > 0
    }

    /// What of the index does not follow from the state; nothing if all does. Linear in the nodes:
    /// for tests and for simulation.
    pub(crate) fn violations(&mut self, state: &State) -> Vec<String> {
        self.follow(state);
        let mut found = self.fleet.violations();
        let mut again = Self::default();
        again.follow(state);
        if self.known.len() != again.known.len() || self.awaited != again.awaited {
            found.push("the nodes known are others".into());
        }
        for (id, known) in &self.known {
            let told = again.known.get(id).map(|known| again.told(known)).unwrap_or_default();
            if self.told(known) != told {
                found.push(alloc::format!("{id}: {:?}, and is {told:?}", self.told(known)));
            }
        }
        found
    }

    /// A node in words that do not depend on when it came.
    fn told(&self, known: &Known) -> Vec<String> {
        let tell = |(at, shape): &(NodeIndex, NodeShape)| {
            let usable = if self.fleet.is_usable(*at) { "usable" } else { "not usable" };
            let class = self.class_at(*at);
            let free = self.fleet.free_of(*at);
            alloc::format!("{usable}, {} of {class:?}, free {free:?}", shape.gpus)
        };
        known.shapes.iter().map(tell).collect()
    }
}

/// The GPUs of which a node's shape is made: what is not fit is not there.
fn of_class<'a>(node: &'a Node, class: &'a GpuClass) -> impl Iterator<Item = &'a Gpu> {
    node.gpus.iter().filter(move |gpu| gpu.info.class == *class && gpu.is_fit())
}

/// What of a node's GPUs of the class is not free, and what is promised of the rest.
fn busy(node: &Node, class: &GpuClass, promised: pool::Pool) -> Busy {
    let (cpu_milli, memory_mib) = promised.numbers();
    let exclusive = node.alone.is_some();
    let mut busy = Busy { cpu_milli, memory_mib, exclusive, ..Busy::default() };
    for (gpu, place) in of_class(node, class).zip(0u8..) {
        if !gpu.is_free() && gpu.shares.is_empty() {
            busy.gpus = busy.gpus.with(GpuMask::one(place));
        }
        let shares = gpu.shares.iter().filter_map(|share| u16::try_from(share.milli).ok());
        busy.shares.extend(shares.map(|milli| (place, milli)));
    }
    busy
}
