//! Roll-ups of groups of nodes: how many nodes of each rack have at least so many GPUs free, and
//! which racks have just so many such nodes.

use alloc::vec::Vec;

use super::bits::{Bits, Members, at, number};

/// The groups of one level, for the nodes of one class.
#[derive(Debug, Clone, Default)]
pub(super) struct Roll {
    /// By GPUs: groups by how many of their nodes have at least so many.
    with: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct Step {
    /// By group: its nodes with so many GPUs.
    nodes: Vec<u32>,
    /// By number of nodes: the groups that have just so many.
    groups: Vec<Members>,
    /// Invariant: a number of nodes is in here when a group has it.
    numbers: Bits,
}

impl Step {
    fn set(&mut self, group: u32, nodes: u32) {
        if self.nodes.len() <= at(group) {
            self.nodes.resize(at(group) + 1, 0);
        }
        let before = core::mem::replace(&mut self.nodes[at(group)], nodes);
        if before > 0 && self.groups[at(before)].remove(group) {
            self.numbers.remove(before);
        }
        if nodes > 0 {
            if self.groups.len() <= at(nodes) {
                self.groups.resize_with(at(nodes) + 1, Members::default);
            }
            self.groups[at(nodes)].insert(group);
            self.numbers.insert(nodes);
        }
    }

    fn get(&self, group: u32) -> u32 {
        self.nodes.get(at(group)).copied().unwrap_or(0)
    }
}

impl Roll {
    /// A node of the group has `to` GPUs and had `from`; none if it was, or is, not listed.
    pub(super) fn shift(&mut self, group: u32, from: Option<u32>, to: Option<u32>) {
        // As a number of steps that the node stands on.
        let steps = |level: Option<u32>| level.map_or(0, |level| at(level) + 1);
        let (from, to) = (steps(from), steps(to));
        if self.with.len() < to {
            self.with.resize_with(to, Step::default);
        }
        for step in self.with.get_mut(from..to).into_iter().flatten() {
            step.set(group, step.get(group) + 1);
        }
        for step in self.with.get_mut(to..from).into_iter().flatten() {
            step.set(group, step.get(group).saturating_sub(1));
        }
    }

    /// Groups with at least so many nodes that have so many GPUs, those with the fewest first.
    pub(super) fn with_nodes(&self, gpus: u32, nodes: u32) -> impl Iterator<Item = u32> {
        let step = self.with.get(at(gpus));
        let next = move |from| step.and_then(|step| step.numbers.next(from));
        let numbers = core::iter::successors(next(nodes), move |last| next(last + 1));
        let groups = move |nodes| step.and_then(|step| step.groups.get(at(nodes)));
        numbers.filter_map(groups).flat_map(Members::iter)
    }

    /// The group with most nodes that have so many GPUs, and how many.
    pub(super) fn largest(&self, gpus: u32) -> Option<(u32, u32)> {
        let step = self.with.get(at(gpus))?;
        let nodes = step.numbers.last()?;
        Some((step.groups.get(at(nodes))?.first()?, nodes))
    }

    /// Whether a gang of so many nodes finds groups for its parts of `wanted` nodes. Linear in the
    /// groups: to explain, not to decide.
    pub(super) fn has_room(&self, gpus: u32, nodes: u32, wanted: u32) -> bool {
        let Some(step) = self.with.get(at(gpus)) else { return false };
        let there = || step.nodes.iter().copied();
        let parts: u32 = there().map(|nodes| nodes / wanted).sum();
        let (whole, rest) = (nodes / wanted, nodes % wanted);
        let rest_fits = || parts > whole || there().any(|nodes| nodes % wanted >= rest);
        parts >= whole && (rest == 0 || rest_fits())
    }

    /// Free GPUs in the group that has most of them. Linear in the groups: to explain, not to
    /// decide.
    pub(super) fn most_gpus(&self) -> u32 {
        let groups = self.with.get(1).map_or(0, |step| number(step.nodes.len()));
        let gpus = |group| self.with.iter().skip(1).map(|step| step.get(group)).sum();
        (0..groups).map(gpus).max().unwrap_or(0)
    }

    /// Whether both say the same, though one may know of groups that are empty by now.
    pub(super) fn are_alike((one, other): (&Self, &Self)) -> bool {
        let len = one.with.len().max(other.with.len());
        (0..len).all(|gpus| {
            let nodes = |roll: &Self| -> Vec<(u32, u32)> {
                let step = roll.with.get(gpus);
                let nodes = step.map_or(&[][..], |step| &step.nodes);
                let numbered = nodes.iter().enumerate().filter(|(_, nodes)| **nodes > 0);
                numbered.map(|(group, nodes)| (number(group), *nodes)).collect()
            };
            let by_number =
                |roll: &Self| -> Vec<u32> { roll.with_nodes(number(gpus), 1).collect() };
            nodes(one) == nodes(other) && by_number(one) == by_number(other)
        })
    }
}
