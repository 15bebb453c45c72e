//! Which nodes an ask gets.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::ops::ControlFlow;

use super::ask::{Ask, ClassIndex, Fill, GpuAsk, NodeIndex, Placement, Scorer, Taken};
use super::bits::{Members, at, number};
use super::record::Free;
use super::shape::{Class, Key, each_shared, each_whole};
use super::{Fleet, GPU_MILLI, GpuMask, LOOKED_AT_MAX};

/// A node that will do, and what is left of the GPU that it would share; none for whole GPUs.
pub(super) type Chosen = (u32, Option<u16>);

/// A shape that will do, by its score and its first node.
type Ranked<'a> = (Reverse<i64>, u32, Option<u16>, &'a Members);

impl Fleet {
    /// Takes a place for the ask, the fullest nodes or the emptiest as it says; none, and nothing
    /// taken, if there is none.
    pub fn place(&mut self, ask: &Ask) -> Option<Placement> {
        self.place_by(ask, None)
    }

    /// Takes the place that the scorer likes best. Where a gang stands together, the groups are
    /// chosen as without a scorer, and the nodes in them.
    pub fn place_scored(&mut self, ask: &Ask, scorer: &mut dyn Scorer) -> Option<Placement> {
        self.place_by(ask, Some(scorer))
    }

    fn place_by(&mut self, ask: &Ask, mut scorer: Option<&mut dyn Scorer>) -> Option<Placement> {
        if !ask.is_sound() {
            return None;
        }
        let named = ask.classes.len();
        let classes = if named == 0 { self.classes.len() } else { named };
        let class = |place: usize| match ask.classes.get(place) {
            Some(ClassIndex(class)) => at((*class).into()),
            None => place,
        };
        if let Some(scorer) = scorer.as_deref_mut().filter(|_| ask.unordered && ask.nodes == 1) {
            let all = (0..classes).filter_map(|place| {
                self.ranked(class(place), ask, scorer).first().map(|it| (it.0, it.1, it.2))
            });
            let (_, node, shared) = all.min()?;
            return Some(Placement {
                parts: [self.commit(ask, (node, shared))].into_iter().collect(),
            });
        }
        (0..classes).find_map(|place| self.place_in(class(place), ask, &mut scorer))
    }

    fn place_in(
        &mut self,
        class: usize,
        ask: &Ask,
        scorer: &mut Option<&mut dyn Scorer>,
    ) -> Option<Placement> {
        if ask.nodes > 1 && ask.together.is_some() {
            return self.place_together(class, ask);
        }
        let chosen = match scorer {
            Some(scorer) => self.best(class, ask, &mut **scorer)?,
            None if ask.nodes == 1 => {
                let one = self.one(class, ask)?;
                return Some(Placement { parts: [self.commit(ask, one)].into_iter().collect() });
            }
            None => self.first(class, ask, ask.nodes)?,
        };
        let parts = chosen.into_iter().map(|it| self.commit(ask, it)).collect();
        Some(Placement { parts })
    }

    /// Takes what the ask wants of one node.
    pub(super) fn commit(&mut self, ask: &Ask, (node, shared): Chosen) -> Taken {
        let record = &self.records[at(node)];
        let beside = self.kinds[at(record.kind)].beside(ask);
        let part = taken(ask, node, (&record.free, beside), shared);
        self.change(node, |record| {
            record.spot.set_alone(part.exclusive);
            record.free.take(&part);
        });
        part
    }

    /// The first nodes that will do, in the order of the index of each class: for a share of a GPU
    /// the tightest GPU; then by free whole GPUs, by kind, and in a kind the least CPU and memory.
    pub(super) fn first(&self, class: usize, ask: &Ask, nodes: u32) -> Option<Vec<Chosen>> {
        let class = self.classes.get(class)?;
        if self.listed(class, ask) < nodes {
            return None;
        }
        let mut found = Found::for_nodes(nodes, ask);
        let _ = self.each(class, ask, &mut |_, members, shared| found.add(members, shared));
        (number(found.chosen.len()) == nodes).then_some(found.chosen)
    }

    /// As [`Fleet::first`], for one node.
    fn one(&self, class: usize, ask: &Ask) -> Option<Chosen> {
        let class = self.classes.get(class)?;
        let mut found = None;
        let _ = self.each(class, ask, &mut |_, members, shared| {
            found = members.first().map(|node| (node, shared));
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        found
    }

    /// Listed nodes of the class that have the whole GPUs.
    fn listed(&self, class: &Class, ask: &Ask) -> u32 {
        let kinds = class.kinds.iter().map(|kind| &self.kinds[at(*kind)]);
        kinds.filter_map(|kind| kind.at_level.get(at(ask.whole_gpus())..)).flatten().sum()
    }

    /// Shows the shapes that will do, each GPU that could be shared by itself, in order.
    pub(super) fn each<'a>(
        &'a self,
        class: &'a Class,
        ask: &Ask,
        visit: &mut dyn FnMut(&'a Key, &'a Members, Option<u16>) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut left = LOOKED_AT_MAX;
        let highest = class.kinds.iter().map(|kind| self.kinds[at(*kind)].gpus).max().unwrap_or(0);
        let has_level = |level: u32| {
            let mut kinds = class.kinds.iter().map(|kind| &self.kinds[at(*kind)]);
            kinds.any(|kind| kind.at_level.get(at(level)).is_some_and(|nodes| *nodes > 0))
        };
        let mut whole = |least: u32, left: &mut u32, shared: Option<u16>| {
            for step in least..=highest {
                let level = match ask.fill {
                    Fill::Pack => step,
                    Fill::Spread => least + (highest - step),
                };
                if has_level(level) {
                    let mut show = |key, members| visit(key, members, shared);
                    each_whole(self, class, ask, level, left, &mut show)?;
                }
            }
            ControlFlow::Continue(())
        };
        let milli = match ask.gpus {
            GpuAsk::Whole(gpus) => return whole(gpus, &mut left, None),
            GpuAsk::Milli(milli) => milli,
        };
        if ask.fill == Fill::Spread {
            whole(1, &mut left, Some(GPU_MILLI))?;
        }
        each_shared(self, class, ask, milli, &mut left, &mut |there, key, members| {
            visit(key, members, Some(there))
        })?;
        if ask.fill == Fill::Pack {
            let mut show = |key, members| visit(key, members, Some(GPU_MILLI));
            for level in (1..=highest).filter(|level| has_level(*level)) {
                each_whole(self, class, ask, level, &mut left, &mut show)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// The nodes of the shapes with the best scores; of equal ones, the shape whose first node is
    /// the first.
    fn best(&self, class: usize, ask: &Ask, scorer: &mut dyn Scorer) -> Option<Vec<Chosen>> {
        let mut found = Found::for_nodes(ask.nodes, ask);
        for (_, _, shared, members) in self.ranked(class, ask, scorer) {
            if found.add(members, shared).is_break() {
                break;
            }
        }
        (number(found.chosen.len()) == ask.nodes).then_some(found.chosen)
    }

    /// The shapes of a class that will do, those with the best scores first; the best alone for one
    /// node.
    fn ranked(&self, class: usize, ask: &Ask, scorer: &mut dyn Scorer) -> Vec<Ranked<'_>> {
        let mut ranked: Vec<Ranked<'_>> = Vec::new();
        let Some(class) = self.classes.get(class) else { return ranked };
        if self.listed(class, ask) < ask.nodes {
            return ranked;
        }
        let mut left = scorer.most();
        let _ = self.each(class, ask, &mut |key, members, shared| {
            if let Some(first) = members.first() {
                let score = self.score(ask, key, first, shared, scorer);
                let entry = (Reverse(score), first, shared, members);
                // For one node, the best so far is all that matters.
                match ranked.first_mut().filter(|_| ask.nodes == 1) {
                    None => ranked.push(entry),
                    Some(best) if (entry.0, entry.1, entry.2) < (best.0, best.1, best.2) => {
                        *best = entry;
                    }
                    Some(_) => {}
                }
                left = left.saturating_sub(1);
            }
            if left == 0 && ask.nodes == 1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        ranked.sort_unstable_by_key(|(score, first, shared, _)| (*score, *first, *shared));
        ranked
    }

    fn score(
        &self,
        ask: &Ask,
        key: &Key,
        node: u32,
        shared: Option<u16>,
        scorer: &mut dyn Scorer,
    ) -> i64 {
        let kind = &self.kinds[at(key.kind())];
        let before = &self.records[at(node)].free;
        let mut after = before.clone();
        after.take(&taken(ask, node, (before, kind.beside(ask)), shared));
        let lefts = after.lefts();
        scorer.score(&kind.shape(before, key.shared()), &kind.shape(&after, &lefts))
    }
}

/// What the ask takes of a node that has it.
pub(super) fn taken(
    ask: &Ask,
    node: u32,
    (free, (cpu_milli, memory_mib)): (&Free, (u32, u32)),
    shared: Option<u16>,
) -> Taken {
    let (gpus, share) = match ask.gpus {
        GpuAsk::Whole(gpus) => (free.whole().lowest(gpus), None),
        GpuAsk::Milli(milli) => {
            let on_shared = free.shared().iter().find(|(left, _)| Some(*left) == shared);
            let whole = || free.whole().iter().next().unwrap_or(0);
            (GpuMask(0), Some((on_shared.map_or_else(whole, |(_, gpu)| *gpu), milli)))
        }
    };
    Taken { node: NodeIndex(node), gpus, share, cpu_milli, memory_mib, exclusive: ask.exclusive }
}

/// Nodes found so far, each once.
pub(super) struct Found {
    pub chosen: Vec<Chosen>,
    wanted: usize,
    /// A node with several shared GPUs is met under each; kept only where that matters.
    seen: Option<BTreeSet<u32>>,
}

impl Found {
    pub(super) fn for_nodes(nodes: u32, ask: &Ask) -> Self {
        let met_twice = nodes > 1 && matches!(ask.gpus, GpuAsk::Milli(_));
        Self {
            chosen: Vec::with_capacity(at(nodes)),
            wanted: at(nodes),
            seen: met_twice.then(BTreeSet::new),
        }
    }

    /// Breaks when there are enough.
    pub(super) fn add(&mut self, members: &Members, shared: Option<u16>) -> ControlFlow<()> {
        for node in members.iter() {
            if self.chosen.len() == self.wanted {
                return ControlFlow::Break(());
            }
            if self.seen.as_mut().is_none_or(|seen| seen.insert(node)) {
                self.chosen.push((node, shared));
            }
        }
        if self.chosen.len() == self.wanted {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

impl Ask {
    /// It asks for something that can be counted.
    pub(super) fn is_sound(&self) -> bool {
        let milli = match self.gpus {
            GpuAsk::Whole(_) => true,
            GpuAsk::Milli(milli) => (1..GPU_MILLI).contains(&milli),
        };
        self.nodes > 0 && milli
    }
}
