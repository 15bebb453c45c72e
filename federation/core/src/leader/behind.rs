//! GPUs whose numbers are behind those of others of their make, or whose digests differ: the leader
//! compares what agents tell of burn-ins, and holds back those that are at fault, as an operator would.
//!
//! All of it follows from what agents tell: the next leader hears the same and says the same. A bit
//! is done in each look, so that a site that tells everything at once is no burden.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::gpu::{BurnInResult, GpuReport, QUARANTINES_SPAN, RESULTS_MAX};
use specs::id::{Boot, GpuIndex, NodeId, Revision};
use specs::measure::{Behind, Differs, Lag};
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
/// Nobody is held back earlier in a reign: whoever is heard first may be wrong in one and the same way,
/// and many. By then all agents have been heard that live.
const HOLD_AFTER: Millis = Millis(30_000);
/// What was proposed and is not agreed on after that long is proposed again.
const HOLD_AGAIN: Millis = Millis(30_000);

/// Nodes that are asked for earlier burn-ins, or whose answer is not taken in yet, at once: a site
/// that tells everything after a failover tells it bit by bit.
const ASKED_MAX: usize = 64;
/// Who is asked and does not answer makes room for others after that long.
const ASKED_SPAN: Millis = Millis(10_000);

/// GPUs that are compared with others of their make.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ComparedCounts {
    pub all: usize,
    /// Those with a number that is behind: to be watched, and at fault.
    pub behind: (usize, usize),
    /// Those with a digest that differs, likewise.
    pub differing: (usize, usize),
}

/// What the leader knows of numbers and digests.
#[derive(Debug, Clone, Default)]
pub(super) struct Compared {
    comparison: Comparison,
    /// Nodes that told what is not taken in yet.
    waiting: BTreeSet<NodeId>,
    /// What such nodes told of earlier burn-ins.
    earlier: BTreeMap<NodeId, BTreeMap<GpuIndex, Vec<BurnInResult>>>,
    /// Nodes that are asked for them, and lives of agents that have told them.
    asked: BTreeMap<NodeId, Instant>,
    told: BTreeMap<NodeId, Boot>,
    held_at: Option<Instant>,
    /// What was held back in this reign, and by which burn-in's numbers.
    held: BTreeMap<(NodeId, GpuIndex), (Revision, Instant)>,
    spared: usize,
}

impl Compared {
    /// A node's agent has told of burn-ins.
    pub(super) fn hear(&mut self, now: Instant, report: &NodeReport) {
        let node = &report.node;
        let mut told =
            report.health.iter().filter_map(|it| Some((it.health.index, it.last.as_ref()?)));
        if told.any(|(index, last)| self.comparison.lacks(node, index, last)) {
            self.waiting.insert(node.clone());
        }
        if report.health.is_empty() || self.told.get(node) == Some(&report.boot) {
            return;
        }
        if report.health.iter().all(|it| it.earlier.is_some()) {
            let earlier = report.health.iter().filter_map(|it| {
                let results = it.earlier.clone()?.results;
                Some((it.health.index, results.into_iter().take(RESULTS_MAX).collect()))
            });
            self.earlier.insert(node.clone(), earlier.collect());
            self.told.insert(node.clone(), report.boot);
            self.asked.remove(node);
            self.waiting.insert(node.clone());
            return;
        }
        self.asked.retain(|_, at| now.since(*at) < ASKED_SPAN);
        if self.asked.len() + self.earlier.len() < ASKED_MAX {
            self.asked.entry(node.clone()).or_insert(now);
        }
    }

    /// Whether the node is to tell of earlier burn-ins.
    pub(super) fn asks(&self, node: &NodeId) -> bool {
        self.asked.contains_key(node)
    }

    /// Takes in what was told, of a few nodes.
    fn take_in(&mut self, state: &State, nodes: &BTreeMap<NodeId, NodeMemory>) {
        for _ in 0..TAKEN_IN_MAX {
            let Some(id) = self.waiting.pop_first() else { return };
            let earlier = self.earlier.remove(&id).unwrap_or_default();
            let (Some(node), Some(memory)) = (state.nodes.get(&id), nodes.get(&id)) else {
                continue;
            };
            // Whose GPUs are not agreed on yet tells them again.
            if memory.boot != node.boot {
                self.told.remove(&id);
                continue;
            }
            let told = node.gpus.iter().map(|gpu| {
                let index = gpu.info.index;
                let earlier = earlier.get(&index).into_iter().flatten();
                let results = earlier.chain(memory.burn_ins.get(&index)).collect();
                Told { index, uuid: &gpu.info.uuid, results }
            });
            self.comparison.take_in(&id, &told.collect::<Vec<_>>());
        }
    }

    /// Those at fault, of which nothing has followed yet.
    fn candidates(&self, now: Instant) -> impl Iterator<Item = Candidate<'_>> {
        self.comparison.all_found().filter_map(move |(node, index, found)| {
            let fault = found.fault()?;
            let latest = self.comparison.latest(node, index)?;
            let held = self.held.get(&(node.clone(), index));
            let is_done =
                held.is_some_and(|(number, at)| *number == latest && now.since(*at) < HOLD_AGAIN);
            (!is_done).then_some(Candidate { node, index, fault })
        })
    }
}

/// What a report tells of each GPU's last burn-in. One of an earlier life is told when that is asked
/// for, and remembered from then on; `before` is what this life told.
pub(super) fn burn_ins(
    report: &NodeReport,
    before: &BTreeMap<GpuIndex, BurnInResult>,
) -> BTreeMap<GpuIndex, BurnInResult> {
    let last = |it: &GpuReport| {
        let earlier = || it.earlier.as_ref().and_then(|it| it.results.last());
        let last = it.last.as_ref().or_else(earlier).or_else(|| before.get(&it.health.index));
        Some((it.health.index, last?.clone()))
    };
    report.health.iter().filter_map(last).collect()
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
        let Self { compared, nodes, since, .. } = self;
        compared.take_in(state, nodes);
        compared.comparison.go_on(JUDGED_MAX, |node, index, uuid| {
            let gpus = state.nodes.get(node).into_iter().flat_map(|node| &node.gpus);
            gpus.into_iter().any(|gpu| gpu.info.index == index && gpu.info.uuid == uuid)
        });
        let is_due = compared.held_at.is_none_or(|at| now.since(at) >= HOLD_EVERY);
        let is_all_heard = now.since(*since) >= HOLD_AFTER && compared.waiting.is_empty();
        if !is_due || !is_all_heard || !health::asks_for_proofs(state) {
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
        let all = compared.comparison.all_found();
        let split = all.filter(|it| it.2.lags().1 == Some(Lag::Warning)).count();
        if split > 0 {
            alarms.push(Alarm::DigestsDiffer { gpus: split });
        }
    }

    /// What of a GPU's numbers is behind those of others, the gravest first.
    #[must_use]
    pub fn behind(&self, node: &NodeId, gpu: GpuIndex) -> &[Behind] {
        self.compared.comparison.behind(node, gpu)
    }

    /// What of a GPU's digests others of its make do not say, the gravest first.
    #[must_use]
    pub fn differs(&self, node: &NodeId, gpu: GpuIndex) -> &[Differs] {
        self.compared.comparison.differs(node, gpu)
    }

    /// How many GPUs are compared with others, and of how many of them something is said.
    #[must_use]
    pub fn compared(&self) -> ComparedCounts {
        let comparison = &self.compared.comparison;
        let mut counts = ComparedCounts { all: comparison.gpus(), ..ComparedCounts::default() };
        for (_, _, found) in comparison.all_found() {
            let (behind, differs) = found.lags();
            let all = [(behind, &mut counts.behind), (differs, &mut counts.differing)];
            for (lag, (warnings, faults)) in all {
                match lag {
                    None => {}
                    Some(Lag::Warning) => *warnings += 1,
                    Some(Lag::Fault) => *faults += 1,
                }
            }
        }
        counts
    }

    pub(super) fn check_compared(&self) -> Vec<alloc::string::String> {
        self.compared.comparison.violations()
    }
}
