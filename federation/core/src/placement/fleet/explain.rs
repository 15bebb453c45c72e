//! Why an ask finds no place: the constraint that binds, and the numbers.

use alloc::vec::Vec;

use super::Fleet;
use super::ask::{Ask, ClassIndex, GpuAsk, Level};
use super::bits::{at, number};
use super::choose::Found;
use super::shape::Class;
use super::{GPU_MILLI, GpuMask, NodeIndex, Taken};

/// What keeps an ask from a place, of all its classes the one that comes nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// No usable node is of the classes asked for, or none has the attributes.
    NoNode { of_class: u32 },
    /// No node is large enough when it is empty.
    NodeTooSmall { gpus: u32, cpu_milli: u32, memory_mib: u32 },
    /// Too few nodes are large enough when they are empty.
    TooFewNodes { nodes: u32 },
    /// No hall, rack or domain is large enough when it is empty.
    GroupTooSmall { level: Level, nodes: u32, wanted: u32 },
    /// Too few nodes have the GPUs free; `free` GPUs of `total` are.
    Gpus { nodes: u32, free: u32, total: u32 },
    /// Enough nodes have the GPUs free, but on all but so many the CPU or the memory is taken, or
    /// something else runs there.
    Rest { nodes: u32 },
    /// Enough nodes have all that is asked, but no hall, rack or domain has so many of them.
    Group { level: Level, nodes: u32, wanted: u32, free: u32 },
}

/// What there is of a class.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ClassTotals {
    pub gpus: u32,
    /// Whole GPUs.
    pub free: u32,
    pub nodes: u32,
    /// Most GPUs of a node.
    pub node_gpus_max: u32,
    /// Nodes with that many.
    pub largest_nodes: u32,
    /// Nodes by their free whole GPUs.
    pub by_free: Vec<u32>,
}

impl Fleet {
    /// Whether the gang could stand here if nothing were taken. Goes by the nodes that are usable.
    #[must_use]
    pub fn could_hold(&self, ask: &Ask) -> bool {
        ask.is_sound() && self.asked(ask).any(|class| self.never(class, ask).is_none())
    }

    /// What keeps the ask from a place; none if nothing does, as far as can be said without
    /// taking one. Linear in racks for a gang that must stand together: to explain, not to decide.
    #[must_use]
    pub fn shortage(&self, ask: &Ask) -> Option<Shortage> {
        let mut nearest = Shortage::NoNode { of_class: 0 };
        for class in self.asked(ask) {
            match self.never(class, ask).or_else(|| self.at_present(class, ask)) {
                Some(shortage) => nearest = nearest.max(shortage),
                None => return None,
            }
        }
        Some(nearest)
    }

    /// What there is of a class, on usable nodes. Linear in kinds, not in nodes.
    #[must_use]
    pub fn totals(&self, class: ClassIndex) -> ClassTotals {
        let mut totals = ClassTotals::default();
        let Some(class) = self.classes.get(at(class.0.into())) else { return totals };
        for kind in class.kinds.iter().map(|kind| &self.kinds[at(*kind)]) {
            if kind.usable == 0 {
                continue;
            }
            totals.gpus += kind.gpus * kind.usable;
            totals.free += kind.free;
            totals.nodes += kind.usable;
            if kind.gpus > totals.node_gpus_max {
                (totals.node_gpus_max, totals.largest_nodes) = (kind.gpus, 0);
            }
            if kind.gpus == totals.node_gpus_max {
                totals.largest_nodes += kind.usable;
            }
            if totals.by_free.len() < kind.at_level.len() {
                totals.by_free.resize(kind.at_level.len(), 0);
            }
            for (sum, nodes) in totals.by_free.iter_mut().zip(&kind.at_level) {
                *sum += nodes;
            }
        }
        totals
    }

    /// Nodes that exist and are not usable.
    #[must_use]
    pub fn unusable(&self) -> u32 {
        self.unusable
    }

    fn asked<'a>(&'a self, ask: &'a Ask) -> impl Iterator<Item = &'a Class> {
        let any = if ask.classes.is_empty() { self.classes.len() } else { 0 };
        let named = ask.classes.iter().filter_map(|class| self.classes.get(at(class.0.into())));
        named.chain(self.classes.iter().take(any))
    }

    /// What would keep the ask from a place if nothing were taken.
    fn never(&self, class: &Class, ask: &Ask) -> Option<Shortage> {
        let kinds = || class.kinds.iter().map(|kind| &self.kinds[at(*kind)]);
        let of_class = kinds().map(|kind| kind.usable).sum();
        let fitting = || kinds().filter(|kind| kind.usable > 0 && kind.will_do(ask));
        let largest = fitting().map(|it| (it.gpus, it.cpu, it.memory)).max();
        let Some((gpus, cpu_milli, memory_mib)) = largest else {
            return Some(Shortage::NoNode { of_class });
        };
        let least = ask.gpus_of_node();
        let large = fitting().filter(|kind| {
            kind.gpus >= least && kind.cpu >= ask.cpu_milli && kind.memory >= ask.memory_mib
        });
        let nodes: u32 = large.map(|kind| kind.usable).sum();
        if nodes == 0 {
            return Some(Shortage::NodeTooSmall { gpus, cpu_milli, memory_mib });
        }
        if nodes < ask.nodes {
            return Some(Shortage::TooFewNodes { nodes });
        }
        let (level, wanted) = ask.must_stand_together()?;
        let largest = class.totals[level.place()].largest(least).map_or(0, |(_, nodes)| nodes);
        (largest < wanted).then_some(Shortage::GroupTooSmall { level, nodes: largest, wanted })
    }

    fn at_present(&self, class: &Class, ask: &Ask) -> Option<Shortage> {
        let kinds = || class.kinds.iter().map(|kind| &self.kinds[at(*kind)]);
        let fitting = || kinds().filter(|kind| kind.will_do(ask));
        let least = ask.whole_gpus();
        let levels = fitting().filter_map(|kind| kind.at_level.get(at(least)..));
        let with_gpus: u32 = levels.flatten().sum();
        let nodes = self.with_all(class, ask);
        let is_shared = matches!(ask.gpus, GpuAsk::Milli(_));
        if with_gpus < ask.nodes || (is_shared && nodes < ask.nodes) {
            let free = fitting().map(|kind| kind.free).sum();
            let total = fitting().map(|kind| kind.gpus * kind.usable).sum();
            return Some(Shortage::Gpus { nodes: with_gpus.min(nodes), free, total });
        }
        if nodes < ask.nodes {
            return Some(Shortage::Rest { nodes });
        }
        let (level, wanted) = ask.must_stand_together()?;
        let roll = &class.rolls[level.place()];
        if roll.has_room(least, ask.nodes, wanted) {
            return None;
        }
        let nodes = roll.each(least).max().unwrap_or(0);
        Some(Shortage::Group { level, nodes, wanted, free: roll.most_gpus() })
    }

    /// Nodes that have all that is asked of one, as far as it matters.
    fn with_all(&self, class: &Class, ask: &Ask) -> u32 {
        let mut found = Found::for_nodes(ask.nodes, ask);
        let _ = self.each(class, ask, &mut |_, members, shared| found.add(members, shared));
        number(found.chosen.len())
    }

    /// Whether this very node will do, and what is left of the GPU that would be shared.
    pub(super) fn would_do(&self, class: usize, ask: &Ask, node: u32) -> Option<Option<u16>> {
        let record = self.records.get(at(node)).filter(|record| record.is_listed())?;
        let kind = &self.kinds[at(record.kind)];
        let free = &record.free;
        let fits = at(kind.class.0.into()) == class
            && kind.will_do(ask)
            && free.cpu >= kind.beside(ask).0
            && free.memory >= kind.beside(ask).1
            && (!ask.exclusive || *free == kind.empty());
        if !fits {
            return None;
        }
        match ask.gpus {
            GpuAsk::Whole(gpus) => (free.count() >= gpus).then_some(None),
            GpuAsk::Milli(milli) => {
                let shared = free.shared().iter().map(|(left, _)| *left).find(|it| *it >= milli);
                shared.or((free.count() > 0).then_some(GPU_MILLI)).map(Some)
            }
        }
    }

    /// What is left of those GPUs of a node, each as it could be taken.
    pub(crate) fn left_of(&self, node: NodeIndex, gpus: GpuMask) -> Vec<Taken> {
        let Some(record) = self.records.get(at(node.0)).filter(|record| record.spot.exists())
        else {
            return Vec::new();
        };
        let part = |gpus, share| Taken {
            node,
            gpus,
            share,
            cpu_milli: 0,
            memory_mib: 0,
            exclusive: false,
        };
        let whole = record.free.whole().both(gpus);
        let whole = (whole != GpuMask(0)).then(|| part(whole, None));
        let shared = record.free.shared().iter();
        let shared = shared.filter(|(_, gpu)| GpuMask::one(*gpu).is_within(gpus));
        let shared = shared.map(|(left, gpu)| part(GpuMask(0), Some((*gpu, *left))));
        whole.into_iter().chain(shared).collect()
    }

    /// What is free on a node: places of its whole GPUs.
    #[must_use]
    pub fn free_gpus(&self, node: NodeIndex) -> GpuMask {
        let record = self.records.get(at(node.0)).filter(|record| record.spot.exists());
        record.map_or(GpuMask(0), |record| record.free.whole())
    }

    /// All that is free on a node, and whether somebody has it for himself.
    pub(crate) fn free_of(&self, node: NodeIndex) -> impl core::fmt::Debug {
        let record = self.records.get(at(node.0)).filter(|record| record.spot.exists());
        record.map(|record| (&record.free, record.spot.is_alone()))
    }

    /// Whether anything may be placed on the node.
    #[must_use]
    pub fn is_usable(&self, node: NodeIndex) -> bool {
        self.records
            .get(at(node.0))
            .is_some_and(|record| record.spot.exists() && record.spot.is_usable())
    }

    /// The class of a node that exists.
    #[must_use]
    pub fn class(&self, node: NodeIndex) -> Option<ClassIndex> {
        let record = self.records.get(at(node.0)).filter(|record| record.spot.exists())?;
        Some(self.kinds[at(record.kind)].class)
    }

    /// Nodes that were ever added, less those removed.
    #[must_use]
    pub fn nodes(&self) -> u32 {
        number(self.records.len() - self.spare.len())
    }
}

impl Ask {
    /// GPUs that an empty node must have.
    fn gpus_of_node(&self) -> u32 {
        match self.gpus {
            GpuAsk::Whole(gpus) => gpus,
            GpuAsk::Milli(_) => 1,
        }
    }

    /// Where so many nodes have to stand together.
    fn must_stand_together(&self) -> Option<(Level, u32)> {
        let together = self.together.filter(|together| together.required)?;
        let nodes = self.group_nodes();
        (nodes > 1).then_some((together.level, nodes))
    }
}
