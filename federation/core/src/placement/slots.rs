//! Counts of GPUs of named nodes, as grants hold them: the same index, where only numbers are known.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::id::{GpuClass, NodeId};
use specs::unit::GpuCount;

use crate::placement::fleet::{Ask, ClassIndex, Fleet, NodeShape};

/// GPUs by class and node.
pub(crate) type Counts = BTreeMap<(GpuClass, NodeId), GpuCount>;

/// What is left of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    fleet: Fleet,
    /// By their numbers in the fleet.
    nodes: Vec<NodeId>,
    /// In order.
    classes: Vec<GpuClass>,
}

impl Slots {
    pub(crate) fn of(counts: &Counts) -> Self {
        let mut slots = Self::default();
        for ((class, node), gpus) in counts {
            if slots.classes.last() != Some(class) {
                slots.classes.push(class.clone());
            }
            let class = ClassIndex(u16::try_from(slots.classes.len() - 1).unwrap_or(u16::MAX));
            slots.fleet.add(&NodeShape { class, gpus: gpus.0, ..NodeShape::default() });
            slots.nodes.push(node.clone());
        }
        slots
    }

    /// Takes a gang of one of the classes that are not closed, the first that has it; of any other
    /// class if none is named.
    pub(crate) fn take(
        &mut self,
        classes: &[GpuClass],
        closed: &[GpuClass],
        nodes: u32,
        gpus: GpuCount,
    ) -> Option<(GpuClass, Vec<NodeId>)> {
        let number = |class| self.classes.binary_search(class).ok();
        let all = if classes.is_empty() && !closed.is_empty() { &self.classes } else { classes };
        let named: Vec<ClassIndex> = all
            .iter()
            .filter(|class| !closed.contains(class))
            .filter_map(number)
            .filter_map(|at| at.try_into().ok().map(ClassIndex))
            .collect();
        if named.is_empty() && !all.is_empty() {
            return None;
        }
        let placement = self.fleet.place(&Ask { classes: named, ..Ask::whole(nodes, gpus.0) })?;
        let at = |part: &crate::placement::fleet::Taken| usize::try_from(part.node.0).ok();
        let class = self.fleet.class(placement.parts.first()?.node)?;
        let nodes = placement.parts.iter().filter_map(|part| self.nodes.get(at(part)?).cloned());
        Some((self.classes.get(usize::from(class.0))?.clone(), nodes.collect()))
    }
}
