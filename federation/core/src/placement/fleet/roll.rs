//! Roll-ups of groups of nodes: how many nodes of each rack have at least so many GPUs free, and
//! which racks have just so many such nodes.
//!
//! A change of a node only counts it elsewhere in its group. Which groups come first is put right
//! when it is asked for, group by group that changed since: a gang that fills a rack moves it once.

use alloc::vec::Vec;

use super::bits::{Bits, Members, at, number};

/// Most nodes of one group; more belong to none.
pub(super) const GROUP_NODES_MAX: u16 = u16::MAX;

/// The groups of one level, for the nodes of one class.
#[derive(Debug, Clone, Default)]
pub(super) struct Roll {
    /// Of each group in turn: its nodes by how many GPUs they have free. Each change of a node writes
    /// here, and nowhere else of a roll as a rule.
    counts: Vec<u16>,
    /// Of each group in turn: how many had at least so many when its place in `with` was last put
    /// right.
    ordered: Vec<u16>,
    /// Entries of both for each group: one more than the most GPUs of a node.
    width: u32,
    /// Groups whose place in `with` is not up to date.
    changed: Vec<u32>,
    is_changed: Vec<bool>,
    /// By GPUs: groups by how many of their nodes have at least so many.
    with: Vec<Step>,
}

#[derive(Debug, Clone, Default)]
struct Step {
    /// By number of nodes: the groups that have just so many.
    groups: Vec<Members>,
    /// Invariant: a number of nodes is in here when a group has it.
    numbers: Bits,
}

impl Step {
    fn shift(&mut self, group: u32, before: u32, nodes: u32) {
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
}

impl Roll {
    fn row(&self, group: u32) -> &[u16] {
        let from = at(group) * at(self.width);
        self.counts.get(from..from + at(self.width)).unwrap_or(&[])
    }

    fn groups(&self) -> u32 {
        number(self.is_changed.len())
    }

    /// Makes room for a group and for nodes with so many GPUs.
    fn grow(&mut self, group: u32, gpus: u32) {
        if gpus >= self.width {
            let width = gpus + 1;
            let wider = |rows: &[u16]| {
                let mut wider = alloc::vec![0; self.is_changed.len() * at(width)];
                let from = rows.chunks_exact(at(self.width).max(1));
                for (row, to) in from.zip(wider.chunks_exact_mut(at(width))) {
                    to[..row.len()].copy_from_slice(row);
                }
                wider
            };
            (self.counts, self.ordered) = (wider(&self.counts), wider(&self.ordered));
            self.width = width;
        }
        if group >= self.groups() {
            self.is_changed.resize(at(group) + 1, false);
            self.counts.resize(self.is_changed.len() * at(self.width), 0);
            self.ordered.resize(self.counts.len(), 0);
        }
    }

    /// A node of the group has `to` GPUs and had `from`; none if it was, or is, not listed.
    pub(super) fn shift(&mut self, group: u32, from: Option<u32>, to: Option<u32>) {
        let most = from.max(to).unwrap_or(0);
        if most >= self.width || group >= self.groups() {
            self.grow(group, most);
        }
        let row = at(group) * at(self.width);
        if let Some(from) = from {
            self.counts[row + at(from)] -= 1;
        }
        if let Some(to) = to {
            self.counts[row + at(to)] += 1;
        }
        if !core::mem::replace(&mut self.is_changed[at(group)], true) {
            self.changed.push(group);
        }
    }

    /// Puts the order of the groups right.
    pub(super) fn settle(&mut self) {
        if self.with.len() < at(self.width) {
            self.with.resize_with(at(self.width), Step::default);
        }
        while let Some(group) = self.changed.pop() {
            self.is_changed[at(group)] = false;
            let row = at(group) * at(self.width);
            let mut nodes = 0;
            for gpus in (0..at(self.width)).rev() {
                nodes += self.counts[row + gpus];
                let before = core::mem::replace(&mut self.ordered[row + gpus], nodes);
                if before != nodes {
                    self.with[gpus].shift(group, before.into(), nodes.into());
                }
            }
        }
    }

    /// Groups with at least so many nodes that have so many GPUs, those with the fewest first. As
    /// of when the order was last put right.
    pub(super) fn with_nodes(&self, gpus: u32, nodes: u32) -> impl Iterator<Item = u32> {
        let step = self.with.get(at(gpus));
        let next = move |from| step.and_then(|step| step.numbers.next(from));
        let numbers = core::iter::successors(next(nodes), move |last| next(last + 1));
        let groups = move |nodes| step.and_then(|step| step.groups.get(at(nodes)));
        numbers.filter_map(groups).flat_map(Members::iter)
    }

    /// The group with most nodes that have so many GPUs, and how many. As of when the order was
    /// last put right.
    pub(super) fn largest(&self, gpus: u32) -> Option<(u32, u32)> {
        let step = self.with.get(at(gpus))?;
        let nodes = step.numbers.last()?;
        Some((step.groups.get(at(nodes))?.first()?, nodes))
    }

    /// Nodes that have so many GPUs, group by group. Linear in the groups: to explain, not to
    /// decide.
    pub(super) fn each(&self, gpus: u32) -> impl Iterator<Item = u32> {
        let nodes = move |row: &[u16]| {
            let there = row.get(at(gpus)..).unwrap_or(&[]).iter();
            there.map(|nodes| u32::from(*nodes)).sum()
        };
        (0..self.groups()).map(move |group| nodes(self.row(group)))
    }

    /// Whether a gang of so many nodes finds groups for its parts of `wanted` nodes. Linear in the
    /// groups: to explain, not to decide.
    pub(super) fn has_room(&self, gpus: u32, nodes: u32, wanted: u32) -> bool {
        let parts: u32 = self.each(gpus).map(|nodes| nodes / wanted).sum();
        let (whole, rest) = (nodes / wanted, nodes % wanted);
        let rest_fits = || parts > whole || self.each(gpus).any(|nodes| nodes % wanted >= rest);
        parts >= whole && (rest == 0 || rest_fits())
    }

    /// Free GPUs in the group that has most of them. Linear in the groups: to explain, not to
    /// decide.
    pub(super) fn most_gpus(&self) -> u32 {
        let gpus =
            |row: &[u16]| row.iter().zip(0..).map(|(nodes, gpus)| u32::from(*nodes) * gpus).sum();
        (0..self.groups()).map(|group| gpus(self.row(group))).max().unwrap_or(0)
    }

    /// Whether both say the same, though one may know of groups that are empty by now.
    pub(super) fn are_alike((one, other): (&Self, &Self)) -> bool {
        let width = one.width.max(other.width);
        let ordered = |roll: &Self| {
            let mut roll = roll.clone();
            roll.settle();
            roll
        };
        let (one, other) = (ordered(one), ordered(other));
        (0..width).all(|gpus| {
            let nodes = |roll: &Self| -> Vec<u32> {
                let mut nodes: Vec<u32> = roll.each(gpus).collect();
                while nodes.last() == Some(&0) {
                    nodes.pop();
                }
                nodes
            };
            nodes(&one) == nodes(&other)
                && one.with_nodes(gpus, 1).eq(other.with_nodes(gpus, 1))
                && one.largest(gpus) == other.largest(gpus)
        })
    }
}
