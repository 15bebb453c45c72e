//! What a site has, class by class, as its peers are told: sums that follow from the nodes, so that a
//! report costs as much as was written since the last one.
//!
//! # Invariant
//! Equal to [`crate::view::capacity`] of the same state, which walks all nodes.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{GpuClass, NodeId};
use specs::unit::GpuCount;
use specs::wire::peer::ClassCapacity;

use crate::state::{Node, State};
use crate::table::Table;
use crate::view;

/// Sums over all usable nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Summary {
    /// What this follows from.
    seen: Table<NodeId, Node>,
    classes: BTreeMap<GpuClass, Sums>,
}

/// GPUs of one class; of them that are fit.
#[derive(Debug, Clone, Copy, Default)]
struct Gpus {
    total: GpuCount,
    free: GpuCount,
    granted: GpuCount,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    gpus: Gpus,
    /// How many nodes have so many. Invariant: no entry is zero.
    nodes: BTreeMap<GpuCount, u32>,
}

impl Summary {
    /// Takes over what was written since the last time.
    pub(crate) fn follow(&mut self, state: &State) {
        let mut changed = Vec::new();
        state.nodes.changed_since(&self.seen, |id| changed.push(id.clone()));
        let before = core::mem::replace(&mut self.seen, state.nodes.clone());
        for id in changed {
            for (class, gpus) in before.get(&id).map(of_node).unwrap_or_default() {
                self.take(class, gpus);
            }
            for (class, gpus) in state.nodes.get(&id).map(of_node).unwrap_or_default() {
                self.add(class, gpus);
            }
        }
    }

    fn add(&mut self, class: &GpuClass, gpus: Gpus) {
        let sums = self.classes.entry(class.clone()).or_default();
        sums.gpus.total = sums.gpus.total.plus(gpus.total);
        sums.gpus.free = sums.gpus.free.plus(gpus.free);
        sums.gpus.granted = sums.gpus.granted.plus(gpus.granted);
        *sums.nodes.entry(gpus.total).or_default() += 1;
    }

    fn take(&mut self, class: &GpuClass, gpus: Gpus) {
        let Some(sums) = self.classes.get_mut(class) else { return };
        sums.gpus.total = sums.gpus.total.minus(gpus.total);
        sums.gpus.free = sums.gpus.free.minus(gpus.free);
        sums.gpus.granted = sums.gpus.granted.minus(gpus.granted);
        if let Some(nodes) = sums.nodes.get_mut(&gpus.total) {
            *nodes = nodes.saturating_sub(1);
        }
        sums.nodes.retain(|_, nodes| *nodes > 0);
        if sums.nodes.is_empty() {
            self.classes.remove(class);
        }
    }

    pub(crate) fn classes(&self) -> Vec<ClassCapacity> {
        let told = |(class, sums): (&GpuClass, &Sums)| {
            let (node_gpus_max, nodes) = sums.nodes.last_key_value()?;
            Some(ClassCapacity {
                class: class.clone(),
                total: sums.gpus.total,
                free: sums.gpus.free,
                granted: sums.gpus.granted,
                node_gpus_max: *node_gpus_max,
                nodes: *nodes,
            })
        };
        self.classes.iter().filter_map(told).collect()
    }

    /// What does not follow from the state; nothing if all does. Linear in the nodes: for tests and
    /// for simulation.
    pub(crate) fn violations(&mut self, state: &State) -> Vec<String> {
        self.follow(state);
        let (told, is) = (self.classes(), view::capacity(state));
        if told == is {
            return Vec::new();
        }
        alloc::vec![alloc::format!("a peer is told {told:?}, and there is {is:?}")]
    }
}

/// What the node adds to the sums; nothing if nothing may start there.
fn of_node(node: &Node) -> BTreeMap<&GpuClass, Gpus> {
    let mut classes: BTreeMap<&GpuClass, Gpus> = BTreeMap::new();
    if !node.is_usable() {
        return classes;
    }
    let one = GpuCount(1);
    for gpu in node.gpus.iter().filter(|gpu| gpu.is_fit()) {
        let sums = classes.entry(&gpu.info.class).or_default();
        sums.total = sums.total.plus(one);
        if gpu.grant.is_some() {
            sums.granted = sums.granted.plus(one);
        } else if gpu.is_free() && node.alone.is_none() {
            sums.free = sums.free.plus(one);
        }
    }
    classes
}
