//! The index of capacity: which node has what free, kept so that one decision costs about the same
//! on a thousand nodes and on a hundred thousand.
//!
//! ```text
//!  site ─ hall ─ rack, NVLink domain ─ node ─ GPU ─ fraction        what there is
//!                  │                     │
//!                rolls                 shapes                       what is indexed
//!   groups by how many of       nodes with the same things free,
//!   their nodes have ≥ g free   in the order in which they fill up
//! ```
//!
//! Nodes in the same state share a *shape*: class, kind, free whole GPUs, CPU, memory and the
//! fractions left of shared GPUs. A decision looks at shapes, not at nodes, and at no more than
//! [`LOOKED_AT_MAX`] of them; of a shape it takes the nodes that come first. A gang that must stand
//! together looks at racks or domains by how many of their nodes would do.
//!
//! # Invariants
//! * What is indexed equals a recount of the nodes ([`Fleet::violations`]).
//! * A GPU, or a thousandth of one, is taken once. A gang is taken whole or not at all.
//! * Equal asks on equal fleets are answered alike: ties go to the node that was added first.
//!
//! Deliberately absent: names, jobs, time. Whoever keeps a fleet knows what its numbers stand for.

mod ask;
mod bits;
mod choose;
mod explain;
mod record;
mod roll;
mod shape;
mod together;

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

pub use ask::{
    Ask, AttributeIndex, Busy, ClassIndex, Fill, FreeShape, GpuAsk, GpuMask, GroupIndex, Level,
    NodeIndex, NodeShape, Parts, Placement, Scorer, Taken, Together,
};
use bits::{at, number};
pub use explain::{ClassTotals, Shortage};
use record::{NO_GROUP, Place, Record, Spot};
use roll::{GROUP_NODES_MAX, Roll};
use shape::{Class, Key, Kind};

/// Most shapes that one decision looks at. Fewer than this many distinct shapes of a class are
/// judged exactly; among more, a decision may say *no* although the last ones would do.
pub const LOOKED_AT_MAX: u32 = 4_096;
/// Most racks or domains that one group of a gang looks at.
pub const GROUPS_LOOKED_AT_MAX: u32 = 256;
/// Most GPUs of a node; more are not seen.
pub const NODE_GPUS_MAX: u32 = 128;
/// Thousandths of a GPU.
pub const GPU_MILLI: u16 = 1_000;

/// The nodes of a site and what is free on them.
#[derive(Debug, Clone, Default)]
pub struct Fleet {
    records: Vec<Record>,
    /// Places of removed nodes, taken up again.
    spare: Vec<u32>,
    kinds: Vec<Kind>,
    kind_of: BTreeMap<KindKey, u32>,
    /// Where nodes stand, each place once.
    places: Vec<Place>,
    place_of: BTreeMap<Place, u32>,
    /// By class.
    classes: Vec<Class>,
    /// Nodes of each group, by level: hall, rack, domain.
    groups: [Vec<Vec<u32>>; 3],
    /// Nodes that exist and are not usable.
    unusable: u32,
}

type KindKey = (ClassIndex, u32, u32, u32, u32, Vec<AttributeIndex>);

impl Fleet {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a node with nothing taken. The numbers of removed nodes are used again.
    pub fn add(&mut self, shape: &NodeShape) -> NodeIndex {
        let node = self.spare.pop().unwrap_or_else(|| {
            self.records.push(Record::default());
            number(self.records.len() - 1)
        });
        let kind = self.kind(shape);
        let groups = [shape.hall, shape.rack, shape.domain];
        let mut groups = groups.map(|group| group.map_or(NO_GROUP, |group| group.0));
        for (group, lists) in groups.iter_mut().zip(&self.groups) {
            let is_full = |list: &Vec<u32>| list.len() >= usize::from(GROUP_NODES_MAX);
            if lists.get(at(*group)).is_some_and(is_full) {
                *group = NO_GROUP;
            }
        }
        let spot = Spot::new(self.place_number(groups));
        self.records[at(node)] = Record { free: self.kinds[at(kind)].empty(), kind, spot };
        for (level, group) in groups.into_iter().enumerate() {
            if group == NO_GROUP {
                continue;
            }
            let lists = &mut self.groups[level];
            if lists.len() <= at(group) {
                lists.resize(at(group) + 1, Vec::new());
            }
            let list = &mut lists[at(group)];
            let place = list.binary_search(&node).unwrap_or_else(|place| place);
            list.insert(place, node);
        }
        self.unusable += 1;
        self.set_usable(NodeIndex(node), true);
        NodeIndex(node)
    }

    /// Forgets a node and what was taken of it.
    pub fn remove(&mut self, node: NodeIndex) {
        if !self.exists(node) {
            return;
        }
        self.set_usable(node, false);
        self.unusable -= 1;
        let record = &mut self.records[at(node.0)];
        record.spot.remove();
        let groups = self.places[at(record.spot.place())];
        for (level, group) in groups.into_iter().enumerate() {
            let Some(list) = self.groups[level].get_mut(at(group)) else { continue };
            if let Ok(place) = list.binary_search(&node.0) {
                list.remove(place);
            }
        }
        self.spare.push(node.0);
    }

    /// Whether anything may be placed on the node: false for one that is drained or not heard.
    pub fn set_usable(&mut self, node: NodeIndex, usable: bool) {
        if !self.exists(node) || self.records[at(node.0)].spot.is_usable() == usable {
            return;
        }
        self.change(node.0, |record| record.spot.set_usable(usable));
        let record = &self.records[at(node.0)];
        let kind = &mut self.kinds[at(record.kind)];
        let class = &mut self.classes[at(kind.class.0.into())];
        let (from, to) = if usable { (None, Some(kind.gpus)) } else { (Some(kind.gpus), None) };
        let groups = self.places[at(record.spot.place())];
        for (roll, group) in class.totals.iter_mut().zip(groups) {
            if group != NO_GROUP {
                roll.shift(group, from, to);
                roll.settle();
            }
        }
        if usable {
            kind.usable += 1;
            self.unusable -= 1;
        } else {
            kind.usable -= 1;
            self.unusable += 1;
        }
    }

    /// Says anew all that is taken of a node. What does not fit the node is taken as far as it
    /// goes: what runs there runs there.
    pub fn set_busy(&mut self, node: NodeIndex, busy: &Busy) {
        if !self.exists(node) {
            return;
        }
        let mut free = self.kinds[at(self.records[at(node.0)].kind)].empty();
        free.take_whole(busy.gpus);
        for &(gpu, milli) in &busy.shares {
            free.take_share(gpu, milli.min(free.left_of(gpu)));
        }
        free.cpu = free.cpu.saturating_sub(busy.cpu_milli);
        free.memory = free.memory.saturating_sub(busy.memory_mib);
        let record = &self.records[at(node.0)];
        if record.free != free || record.spot.is_alone() != busy.exclusive {
            self.change(node.0, |record| {
                record.free = free;
                record.spot.set_alone(busy.exclusive);
            });
        }
    }

    /// Takes just this; false, and nothing taken, if it is not free.
    pub fn take(&mut self, part: &Taken) -> bool {
        if !self.exists(part.node) {
            return false;
        }
        let record = &self.records[at(part.node.0)];
        let free = &record.free;
        let has_gpus = match part.share {
            Some((gpu, milli)) => free.left_of(gpu) >= milli,
            None => part.gpus.is_within(free.whole()),
        };
        let fits = has_gpus
            && !record.spot.is_alone()
            && free.cpu >= part.cpu_milli
            && free.memory >= part.memory_mib
            && (!part.exclusive || *free == self.kinds[at(record.kind)].empty());
        if fits {
            self.change(part.node.0, |record| {
                record.spot.set_alone(part.exclusive);
                record.free.take(part);
            });
        }
        fits
    }

    /// Gives back what was taken.
    pub fn free(&mut self, placement: &Placement) {
        for part in placement.parts.iter() {
            self.free_part(part);
        }
    }

    /// Gives back one node's part of what was taken. More than the node has is not made of it.
    pub fn free_part(&mut self, part: &Taken) {
        if !self.exists(part.node) {
            return;
        }
        let empty = self.kinds[at(self.records[at(part.node.0)].kind)].empty();
        self.change(part.node.0, |record| {
            if part.exclusive {
                record.spot.set_alone(false);
            }
            record.free.give(part, &empty);
        });
    }

    fn exists(&self, node: NodeIndex) -> bool {
        self.records.get(at(node.0)).is_some_and(|record| record.spot.exists())
    }

    fn place_number(&mut self, place: Place) -> u32 {
        let next = number(self.places.len());
        let known = *self.place_of.entry(place).or_insert(next);
        if known == next {
            self.places.push(place);
        }
        known
    }

    /// The number of a kind: nodes that are alike when empty.
    fn kind(&mut self, shape: &NodeShape) -> u32 {
        let mut attributes = shape.attributes.clone();
        attributes.sort_unstable();
        attributes.dedup();
        let gpus = shape.gpus.min(NODE_GPUS_MAX);
        let machine = shape.machine_gpus;
        let key = (shape.class, gpus, shape.cpu_milli, shape.memory_mib, machine, attributes);
        if let Some(known) = self.kind_of.get(&key) {
            return *known;
        }
        let kind = number(self.kinds.len());
        self.kinds.push(Kind {
            class: key.0,
            gpus,
            cpu: key.2,
            memory: key.3,
            machine_gpus: key.4,
            attributes: key.5.clone(),
            usable: 0,
            free: 0,
            at_level: alloc::vec![0; at(gpus) + 1],
        });
        self.kind_of.insert(key, kind);
        let class = at(shape.class.0.into());
        if self.classes.len() <= class {
            self.classes.resize_with(class + 1, Class::default);
        }
        self.classes[class].kinds.push(kind);
        kind
    }

    /// Changes a node and all that is kept of it.
    fn change(&mut self, node: u32, how: impl FnOnce(&mut Record)) {
        let record = &mut self.records[at(node)];
        let kind = &mut self.kinds[at(record.kind)];
        let class = &mut self.classes[at(kind.class.0.into())];
        let before = record.is_listed().then(|| record.free.count());
        if before.is_some() {
            class.unlist(&Key::of(record.kind, &record.free), &record.free, node);
        }
        how(record);
        let after = record.is_listed().then(|| record.free.count());
        if after.is_some() {
            class.list(Key::of(record.kind, &record.free), &record.free, node);
        }
        if before == after {
            return;
        }
        if let Some(level) = before {
            kind.at_level[at(level)] -= 1;
            kind.free -= level;
        }
        if let Some(level) = after {
            kind.at_level[at(level)] += 1;
            kind.free += level;
        }
        for (roll, group) in class.rolls.iter_mut().zip(self.places[at(record.spot.place())]) {
            if group != NO_GROUP {
                roll.shift(group, before, after);
            }
        }
    }

    /// What is kept and does not equal a recount; nothing if the index is sound. Linear in the
    /// nodes: for tests and for simulation.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let (kinds, places) = (self.kinds.clone(), self.places.clone());
        let mut again = Self { kinds, places, ..Self::default() };
        again.classes.resize_with(self.classes.len(), Class::default);
        for (class, known) in again.classes.iter_mut().zip(&self.classes) {
            class.kinds.clone_from(&known.kinds);
        }
        for kind in &mut again.kinds {
            (kind.usable, kind.free) = (0, 0);
            kind.at_level.fill(0);
        }
        for (node, record) in self.records.iter().enumerate() {
            let mut unusable = record.clone();
            unusable.spot.set_usable(false);
            again.records.push(unusable);
            if record.spot.exists() {
                again.unusable += 1;
                again.set_usable(NodeIndex(number(node)), record.spot.is_usable());
            }
        }
        let mut found = Vec::new();
        let mut compare = |same: bool, what: &str| {
            if !same {
                found.push(alloc::format!("{what} differ from a recount"));
            }
        };
        compare(again.unusable == self.unusable, "unusable nodes");
        compare(again.kinds == self.kinds, "totals of kinds");
        for (again, class) in again.classes.iter().zip(&self.classes) {
            compare(again.shapes == class.shapes, "shapes");
            compare(again.shared == class.shared, "shared GPUs");
            compare(again.rolls.iter().zip(&class.rolls).all(Roll::are_alike), "groups");
            compare(again.totals.iter().zip(&class.totals).all(Roll::are_alike), "whole groups");
        }
        found
    }
}
