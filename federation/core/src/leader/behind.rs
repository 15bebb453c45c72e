//! GPUs whose numbers are behind those of others of their make: the leader compares what agents tell
//! of burn-ins, and holds back those that are at fault, as an operator would.
//!
//! All of it follows from what agents tell: the next leader hears the same and says the same. A bit
//! is done in each look, so that a site that tells everything at once is no burden.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::gpu::QUARANTINES_SPAN;
use specs::id::{GpuIndex, NodeId, Revision};
use specs::measure::{Behind, Lag};
use specs::unit::{Instant, Millis};
use specs::wire::agent::NodeReport;

use super::{Alarm, Leader, NodeMemory};
use crate::command::Command;
use crate::compare::hold::{self, Candidate};
use crate::compare::{Comparison, Told};
use crate::health;
use crate::state::State;

/// Nodes whose results are taken in, and that are judged again, in one look.
const TAKEN_IN_MAX: usize = 16;
const JUDGED_MAX: usize = 16;
/// How often it is decided who is held back.
const HOLD_EVERY: Millis = Millis(1_000);
/// What was proposed and is not agreed on after that long is proposed again.
const HOLD_AGAIN: Millis = Millis(30_000);

/// What the leader knows of numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct Compared {
    comparison: Comparison,
    /// Nodes that told what is not taken in yet.
    waiting: BTreeSet<NodeId>,
    held_at: Option<Instant>,
    /// What was held back in this reign, and by which burn-in's numbers.
    held: BTreeMap<(NodeId, GpuIndex), (Revision, Instant)>,
    spared: usize,
}

impl Compared {
    /// A node's agent has told of burn-ins.
    pub(super) fn hear(&mut self, report: &NodeReport) {
        let mut told =
            report.health.iter().filter_map(|it| Some((it.health.index, it.last.as_ref()?)));
        if told.any(|(index, last)| self.comparison.lacks(&report.node, index, last)) {
            self.waiting.insert(report.node.clone());
        }
    }

    /// Takes in what was told, of a few nodes.
    fn take_in(&mut self, state: &State, nodes: &BTreeMap<NodeId, NodeMemory>) {
        for _ in 0..TAKEN_IN_MAX {
            let Some(id) = self.waiting.pop_first() else { return };
            let (Some(node), Some(memory)) = (state.nodes.get(&id), nodes.get(&id)) else {
                continue;
            };
            // Whose GPUs are not agreed on yet tells them again.
            if memory.boot != node.boot {
                continue;
            }
            let told = node.gpus.iter().map(|gpu| Told {
                index: gpu.info.index,
                uuid: &gpu.info.uuid,
                results: memory.burn_ins.get(&gpu.info.index).into_iter().collect(),
            });
            self.comparison.take_in(&id, &told.collect::<Vec<_>>());
        }
    }

    /// Those at fault, of whose numbers nothing has followed yet.
    fn candidates(&self, now: Instant) -> impl Iterator<Item = Candidate<'_>> {
        self.comparison.all_behind().filter_map(move |(node, index, found)| {
            let behind = found.first().filter(|it| it.lag == Lag::Fault)?;
            // What it told since may say something else.
            if self.waiting.contains(node) {
                return None;
            }
            let latest = self.comparison.latest(node, index)?;
            let held = self.held.get(&(node.clone(), index));
            let is_done =
                held.is_some_and(|(number, at)| *number == latest && now.since(*at) < HOLD_AGAIN);
            (!is_done).then_some(Candidate { node, index, behind })
        })
    }
}

impl Leader {
    /// Compares on, and holds back who is at fault.
    pub(super) fn poll_behind(
        &mut self,
        now: Instant,
        state: &State,
        commands: &mut Vec<Command>,
        alarms: &mut Vec<Alarm>,
    ) {
        let Self { compared, nodes, .. } = self;
        compared.take_in(state, nodes);
        compared.comparison.go_on(JUDGED_MAX, |node, index, uuid| {
            let gpus = state.nodes.get(node).into_iter().flat_map(|node| &node.gpus);
            gpus.into_iter().any(|gpu| gpu.info.index == index && gpu.info.uuid == uuid)
        });
        let is_due = compared.held_at.is_none_or(|at| now.since(at) >= HOLD_EVERY);
        if !is_due || !health::asks_for_proofs(state) {
            return;
        }
        compared.held_at = Some(now);
        compared.held.retain(|_, (_, at)| now.since(*at) < QUARANTINES_SPAN);
        let holds = hold::holds(state, compared.candidates(now), compared.held.len());
        compared.spared = holds.spared;
        for it in holds.held {
            let number = compared.comparison.latest(&it.node, it.index).unwrap_or_default();
            compared.held.insert((it.node.clone(), it.index), (number, now));
            commands.push(Command::WithholdGpu(it));
        }
        if compared.spared > 0 {
            alarms.push(Alarm::GpusBehind { gpus: compared.spared });
        }
    }

    /// What of a GPU's numbers is behind those of others, the gravest first.
    #[must_use]
    pub fn behind(&self, node: &NodeId, gpu: GpuIndex) -> &[Behind] {
        self.compared.comparison.behind(node, gpu)
    }

    /// How many GPUs are compared with others, and how many of them are behind: to be watched, and at
    /// fault.
    #[must_use]
    pub fn compared(&self) -> (usize, usize, usize) {
        let comparison = &self.compared.comparison;
        let is_at_fault = |found: &[Behind]| found.iter().any(|it| it.lag == Lag::Fault);
        let (faults, warnings): (Vec<bool>, Vec<bool>) =
            comparison.all_behind().map(|(_, _, found)| is_at_fault(found)).partition(|it| *it);
        (comparison.gpus(), warnings.len(), faults.len())
    }

    pub(super) fn check_compared(&self) -> Vec<alloc::string::String> {
        self.compared.comparison.violations()
    }
}
