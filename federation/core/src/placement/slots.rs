//! Counts of GPUs of named nodes, as grants hold them: the same index, where only numbers are known.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::id::{GpuClass, NodeId};
use specs::job::Needs;
use specs::unit::GpuCount;
use specs::wire::agent::Facts;

use crate::placement::fleet::{Ask, ClassIndex, Fleet, NodeShape};
use crate::placement::names::{self, Names};
use crate::placement::pool::Pool;

/// GPUs by class and node.
pub(crate) type Counts = BTreeMap<(GpuClass, NodeId), GpuCount>;

/// A gang that is to stand on them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gang<'a> {
    /// The preferred first; empty for any.
    pub classes: &'a [GpuClass],
    /// Of these none.
    pub closed: &'a [GpuClass],
    pub nodes: u32,
    pub gpus: GpuCount,
    /// Parts of GPUs are not looked at.
    pub needs: &'a Needs,
}

/// What is left of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots {
    fleet: Fleet,
    /// By their numbers in the fleet.
    nodes: Vec<NodeId>,
    /// In order.
    classes: Vec<GpuClass>,
    names: Names,
}

impl Slots {
    /// `facts` tells of a node what its host tells, if it does; `rest`, what CPU and memory is left
    /// beside its GPUs, and how many GPUs it has in all.
    pub(crate) fn of<'a>(
        counts: &Counts,
        facts: impl Fn(&NodeId) -> Option<&'a Facts>,
        rest: impl Fn(&NodeId) -> (Pool, u32),
    ) -> Self {
        let mut slots = Self::default();
        for ((class, node), gpus) in counts {
            if slots.classes.last() != Some(class) {
                slots.classes.push(class.clone());
            }
            let class = ClassIndex(u16::try_from(slots.classes.len() - 1).unwrap_or(u16::MAX));
            let shape = facts(node).map(|facts| slots.names.shape(facts)).unwrap_or_default();
            let (pool, machine_gpus) = rest(node);
            let ((cpu_milli, memory_mib), gpus) = (pool.numbers(), gpus.0);
            slots.fleet.add(&NodeShape {
                class,
                gpus,
                cpu_milli,
                memory_mib,
                machine_gpus,
                ..shape
            });
            slots.nodes.push(node.clone());
        }
        slots
    }

    /// Takes a gang of one of the classes that are not closed, the first that has it; of any other
    /// class if none is named.
    pub(crate) fn take(&mut self, gang: &Gang<'_>) -> Option<(GpuClass, Vec<NodeId>)> {
        let Gang { classes, closed, nodes, gpus, needs } = *gang;
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
        let ask = Ask {
            classes: named,
            cpu_milli: needs.cpu_milli,
            memory_mib: needs.memory_mib,
            entire: needs.exclusive,
            attributes: self.names.asked(needs),
            together: names::together(needs),
            fill: names::fill(needs),
            ..Ask::whole(nodes, gpus.0)
        };
        let placement = self.fleet.place(&ask)?;
        let at = |part: &crate::placement::fleet::Taken| usize::try_from(part.node.0).ok();
        let class = self.fleet.class(placement.parts.first()?.node)?;
        let nodes = placement.parts.iter().filter_map(|part| self.nodes.get(at(part)?).cloned());
        Some((self.classes.get(usize::from(class.0))?.clone(), nodes.collect()))
    }
}
