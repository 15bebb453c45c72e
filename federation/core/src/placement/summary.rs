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
use specs::version::ClusterVersion;
use specs::wire::peer::ClassCapacity;

use crate::placement::pool::{self, Pool};
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
    proven: GpuCount,
}

#[derive(Debug, Clone, Default)]
struct Sums {
    gpus: Gpus,
    /// How many nodes have so many. Invariant: no entry is zero.
    nodes: BTreeMap<GpuCount, u32>,
    /// How many nodes have GPUs that carry so much CPU, and so much memory. Likewise.
    cpu: BTreeMap<u64, u32>,
    memory: BTreeMap<u64, u32>,
}

/// One node less has that number.
fn drop_one<K: Ord>(nodes: &mut BTreeMap<K, u32>, number: &K) {
    if let Some(count) = nodes.get_mut(number) {
        *count = count.saturating_sub(1);
    }
    nodes.retain(|_, count| *count > 0);
}

impl Summary {
    /// Takes over what was written since the last time.
    pub(crate) fn follow(&mut self, state: &State) {
        let mut changed = Vec::new();
        state.nodes.changed_since(&self.seen, |id| changed.push(id.clone()));
        let before = core::mem::replace(&mut self.seen, state.nodes.clone());
        for id in changed {
            if let Some(node) = before.get(&id) {
                for (class, gpus) in of_node(node) {
                    self.take(class, gpus, pool::share(node));
                }
            }
            if let Some(node) = state.nodes.get(&id) {
                for (class, gpus) in of_node(node) {
                    self.add(class, gpus, pool::share(node));
                }
            }
        }
    }

    fn add(&mut self, class: &GpuClass, gpus: Gpus, share: Pool) {
        let sums = self.classes.entry(class.clone()).or_default();
        sums.gpus.total = sums.gpus.total.plus(gpus.total);
        sums.gpus.free = sums.gpus.free.plus(gpus.free);
        sums.gpus.granted = sums.gpus.granted.plus(gpus.granted);
        sums.gpus.proven = sums.gpus.proven.plus(gpus.proven);
        *sums.nodes.entry(gpus.total).or_default() += 1;
        *sums.cpu.entry(share.cpu_milli).or_default() += 1;
        *sums.memory.entry(share.memory_mib).or_default() += 1;
    }

    fn take(&mut self, class: &GpuClass, gpus: Gpus, share: Pool) {
        let Some(sums) = self.classes.get_mut(class) else { return };
        sums.gpus.total = sums.gpus.total.minus(gpus.total);
        sums.gpus.free = sums.gpus.free.minus(gpus.free);
        sums.gpus.granted = sums.gpus.granted.minus(gpus.granted);
        sums.gpus.proven = sums.gpus.proven.minus(gpus.proven);
        drop_one(&mut sums.nodes, &gpus.total);
        drop_one(&mut sums.cpu, &share.cpu_milli);
        drop_one(&mut sums.memory, &share.memory_mib);
        if sums.nodes.is_empty() {
            self.classes.remove(class);
        }
    }

    pub(crate) fn classes(&self, version: ClusterVersion) -> Vec<ClassCapacity> {
        let told = |(class, sums): (&GpuClass, &Sums)| {
            let (node_gpus_max, nodes) = sums.nodes.last_key_value()?;
            let most = |of: &BTreeMap<u64, u32>| of.last_key_value().map_or(0, |(most, _)| *most);
            let most = Pool { cpu_milli: most(&sums.cpu), memory_mib: most(&sums.memory) };
            let carries = version >= ClusterVersion::DEMANDS;
            let shows = version >= ClusterVersion::PEER_PROOFS;
            let (gpu_cpu_milli, gpu_memory_mib) = if carries { most.numbers() } else { (0, 0) };
            Some(ClassCapacity {
                class: class.clone(),
                total: sums.gpus.total,
                free: sums.gpus.free,
                granted: sums.gpus.granted,
                node_gpus_max: *node_gpus_max,
                nodes: *nodes,
                gpu_cpu_milli,
                gpu_memory_mib,
                proven: if shows { sums.gpus.proven } else { GpuCount::ZERO },
            })
        };
        self.classes.iter().filter_map(told).collect()
    }

    /// What does not follow from the state; nothing if all does. Linear in the nodes: for tests and
    /// for simulation.
    pub(crate) fn violations(&mut self, state: &State) -> Vec<String> {
        self.follow(state);
        let (told, is) = (self.classes(state.version), view::capacity(state));
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
        if gpu.proven.is_some() {
            sums.proven = sums.proven.plus(one);
        }
        if gpu.grant.is_some() {
            sums.granted = sums.granted.plus(one);
        } else if gpu.is_free() && node.alone.is_none() {
            sums.free = sums.free.plus(one);
        }
    }
    classes
}
