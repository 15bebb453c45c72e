//! GPUs of one make beside each other: whose numbers are worse than those of the others, and whose
//! digests are not theirs.
//!
//! ```text
//!   results of burn-ins ─▶ take_in ─▶ runs of each GPU ─▶ numbers of a make, in order ─▶ spread
//!                                        │ │    └───────▶ digests of a make, counted ──────┤
//!                                        │ └────────── judge ◀─────────────────────────────┘
//!                                        └──────────────▶ └─▶ found
//! ```
//!
//! Of a GPU its last [`RUNS`] burn-ins are known; its latest word on a number stands for it among the
//! others. What is behind follows from the runs alone, in whatever order they came: whoever was judged
//! before others came is judged again ([`Comparison::go_on`]), a few nodes at a time.
//!
//! # Invariants
//! * The numbers of a make are the latest of each GPU whose latest run was of it
//!   ([`Comparison::violations`]).
//! * What is kept of a GPU is bounded, whatever its agent says.

mod digests;
pub(crate) mod hold;
pub(crate) mod ranked;
pub(crate) mod rule;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::gpu::{BurnInEnd, BurnInResult, NUMBERS_MAX};
use specs::id::{GpuIndex, NodeId, Revision};
use specs::measure::{
    Behind, Differs, Lag, Make, NAME_BYTES_MAX, follows_clock, is_more_better, is_shared,
};

use digests::{Digests, Said};
use ranked::Ranked;
use rule::{Grade, RUNS, Spread, lag};

/// Most names of numbers that are compared at a site; what comes after is not.
const NAMES_MAX: usize = 512;

/// A name, by its place among all.
type Name = u16;

/// What a passed burn-in measured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    number: Revision,
    make: Arc<Make>,
    is_capped: bool,
    // Invariant: in the order of names, none twice.
    numbers: Vec<(Name, u64)>,
    /// What of it no later run says anew.
    said: Option<Said>,
}

#[derive(Debug, Clone)]
struct Known {
    uuid: String,
    /// The last is the latest; at most [`RUNS`].
    runs: Vec<Run>,
}

/// The numbers of all GPUs of a make that have a name, and what they are like if that was asked for
/// since they changed.
#[derive(Debug, Clone, Default)]
struct Numbers {
    ranked: Ranked,
    spread: Option<Spread>,
}

#[derive(Debug, Clone, Copy)]
struct Meaning {
    is_more_better: bool,
    follows_clock: bool,
    is_shared: bool,
}

/// What an agent told of a GPU.
pub(crate) struct Told<'a> {
    pub index: GpuIndex,
    pub uuid: &'a str,
    /// The last is the latest.
    pub results: Vec<&'a BurnInResult>,
}

/// What others of its make say against a GPU.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    /// The gravest first, as of numbers.
    differs: Vec<Differs>,
    behind: Vec<Behind>,
}

/// What a GPU is at fault for. Wrong is graver than slow.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault<'a> {
    Differs(&'a Differs),
    Behind(&'a Behind),
}

/// What is known of a site's GPUs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Comparison {
    names: BTreeMap<String, Name>,
    /// By their places.
    meanings: Vec<(String, Meaning)>,
    makes: BTreeMap<Arc<Make>, BTreeMap<Name, Numbers>>,
    nodes: BTreeMap<NodeId, BTreeMap<GpuIndex, Known>>,
    digests: Digests,
    found: BTreeMap<NodeId, BTreeMap<GpuIndex, Found>>,
    /// The node that was judged last, and how many are to be judged until all are again.
    judged: Option<NodeId>,
    stale: usize,
    /// Nodes of which something came since; they are judged first.
    fresh: BTreeSet<NodeId>,
}

impl Known {
    /// The latest word on each number.
    fn latest(&self) -> impl Iterator<Item = (Name, u64, &Arc<Make>)> {
        self.runs.iter().enumerate().flat_map(|(nth, run)| {
            let later = self.runs.get(nth + 1..).unwrap_or_default();
            let is_latest = move |name| later.iter().all(|run| run.number_of(name).is_none());
            let numbers = run.numbers.iter().filter(move |it| is_latest(it.0));
            numbers.map(|(name, value)| (*name, *value, &run.make))
        })
    }

    fn said(&self) -> impl Iterator<Item = &Said> {
        self.runs.iter().filter_map(|run| run.said.as_ref())
    }
}

impl Found {
    fn is_empty(&self) -> bool {
        self.differs.is_empty() && self.behind.is_empty()
    }

    /// What it is at fault for, if it is.
    pub(crate) fn fault(&self) -> Option<Fault<'_>> {
        let differs = self.differs.first().filter(|it| it.lag == Lag::Fault).map(Fault::Differs);
        let behind = || self.behind.first().filter(|it| it.lag == Lag::Fault).map(Fault::Behind);
        differs.or_else(behind)
    }

    /// The gravest of what its numbers, and its digests, are.
    pub(crate) fn lags(&self) -> (Option<Lag>, Option<Lag>) {
        (self.behind.first().map(|it| it.lag), self.differs.first().map(|it| it.lag))
    }
}

impl core::fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Differs(it) => write!(f, "differs from its fleet: {it}"),
            Self::Behind(it) => write!(f, "behind its fleet: {it}"),
        }
    }
}

impl Run {
    fn number_of(&self, name: Name) -> Option<u64> {
        let at = self.numbers.binary_search_by_key(&name, |it| it.0).ok()?;
        self.numbers.get(at).map(|it| it.1)
    }
}

impl Comparison {
    /// What a node's agent says of all of its GPUs. Those that it does not name are forgotten.
    pub(crate) fn take_in(&mut self, node: &NodeId, told: &[Told<'_>]) {
        let mut gpus = self.nodes.remove(node).unwrap_or_default();
        let is_named = |index: &GpuIndex, known: &Known| {
            told.iter().any(|it| it.index == *index && it.uuid == known.uuid)
        };
        let gone: Vec<GpuIndex> =
            gpus.iter().filter(|(index, it)| !is_named(index, it)).map(|it| *it.0).collect();
        for known in gone.iter().filter_map(|index| gpus.remove(index)) {
            self.leave(&known);
        }
        for it in told {
            let before = gpus.remove(&it.index);
            let before = before.unwrap_or_else(|| Known { uuid: it.uuid.into(), runs: Vec::new() });
            let mut after = before.clone();
            for result in &it.results {
                self.add(&mut after.runs, result);
            }
            if after.runs != before.runs {
                self.leave(&before);
                self.enter(&after);
            }
            if !after.runs.is_empty() {
                gpus.insert(it.index, after);
            }
        }
        if gpus.is_empty() {
            self.found.remove(node);
        } else {
            self.nodes.insert(node.clone(), gpus);
            self.fresh.insert(node.clone());
        }
    }

    /// Whether something of it is not known yet.
    pub(crate) fn lacks(&self, node: &NodeId, index: GpuIndex, result: &BurnInResult) -> bool {
        let known = self.nodes.get(node).and_then(|gpus| gpus.get(&index));
        let mut runs = known.into_iter().flat_map(|known| &known.runs);
        is_of_use(result) && runs.all(|run| run.number != result.number)
    }

    /// Adds a result to what is known, in its place, if it is none of the earliest.
    fn add(&mut self, runs: &mut Vec<Run>, result: &BurnInResult) {
        let at = runs.partition_point(|run| run.number < result.number);
        let is_known = runs.get(at).is_some_and(|run| run.number == result.number);
        let is_early = at == 0 && runs.len() >= RUNS;
        let make = result.make.as_ref().filter(|_| !is_known && !is_early && is_of_use(result));
        let Some(make) = make else { return };
        let numbers = result.numbers.iter().take(NUMBERS_MAX);
        let named = numbers.filter(|(_, value)| **value > 0);
        let numbers = named.filter_map(|(name, value)| Some((self.name(name)?, *value)));
        let mut numbers: Vec<(Name, u64)> = numbers.collect();
        numbers.sort_unstable();
        let known = self.makes.get_key_value(make).map(|(make, _)| make.clone());
        let make = known.unwrap_or_else(|| Arc::new(make.clone()));
        let (number, is_capped, said) = (result.number, result.capped, self.digests.read(result));
        runs.insert(at, Run { number, make, is_capped, numbers, said });
        runs.drain(..runs.len().saturating_sub(RUNS));
        digests::keep_latest(runs.iter_mut().map(|run| &mut run.said));
    }

    /// The place of a name; none if it means nothing, or there are too many.
    fn name(&mut self, name: &str) -> Option<Name> {
        if let Some(known) = self.names.get(name) {
            return Some(*known);
        }
        let is_more_better = is_more_better(name).filter(|_| name.len() <= NAME_BYTES_MAX)?;
        let place = Name::try_from(self.meanings.len()).ok()?;
        if self.meanings.len() >= NAMES_MAX {
            return None;
        }
        let (follows_clock, is_shared) = (follows_clock(name), is_shared(name));
        let meaning = Meaning { is_more_better, follows_clock, is_shared };
        self.meanings.push((name.into(), meaning));
        self.names.insert(name.into(), place);
        Some(place)
    }

    fn enter(&mut self, known: &Known) {
        self.stale = self.nodes.len() + 1;
        for (name, value, make) in known.latest() {
            let numbers = self.makes.entry(make.clone()).or_default().entry(name).or_default();
            numbers.ranked.insert(value);
            numbers.spread = None;
        }
        known.said().for_each(|said| self.digests.enter(said));
    }

    fn leave(&mut self, known: &Known) {
        self.stale = self.nodes.len() + 1;
        for (name, value, make) in known.latest() {
            let Some(names) = self.makes.get_mut(make) else { continue };
            if let Some(numbers) = names.get_mut(&name) {
                numbers.ranked.remove(value);
                numbers.spread = None;
                if numbers.ranked.is_empty() {
                    names.remove(&name);
                }
            }
            if names.is_empty() {
                self.makes.remove(make);
            }
        }
        known.said().for_each(|said| self.digests.leave(said));
    }

    fn spread(&mut self, make: &Make, name: Name) -> Option<Spread> {
        let numbers = self.makes.get_mut(make)?.get_mut(&name)?;
        Some(*numbers.spread.get_or_insert_with(|| numbers.ranked.spread()))
    }

    /// Judges the GPUs of a node.
    fn judge(&mut self, node: &NodeId) {
        let Some(gpus) = self.nodes.remove(node) else { return };
        let mut all = BTreeMap::new();
        for (index, known) in &gpus {
            let (behind, differs) = (self.behind_of(known), self.digests.differing(known.said()));
            let found = Found { differs, behind };
            if !found.is_empty() {
                all.insert(*index, found);
            }
        }
        self.nodes.insert(node.clone(), gpus);
        if all.is_empty() {
            self.found.remove(node);
        } else {
            self.found.insert(node.clone(), all);
        }
    }

    /// What of a GPU is behind, the gravest first.
    fn behind_of(&mut self, known: &Known) -> Vec<Behind> {
        let mut found = Vec::new();
        for (name, value, make) in known.latest() {
            let Some(meaning) = self.meanings.get(usize::from(name)).map(|it| it.1) else {
                continue;
            };
            let Some(spread) = self.spread(make, name) else { continue };
            if spread.grade(meaning.is_more_better, value) == Grade::Sound {
                continue;
            }
            let grades = self.grades(known, name, meaning);
            let Some((lag, runs)) = lag(&grades, meaning.is_shared) else { continue };
            let count = |it: usize| u32::try_from(it).unwrap_or(u32::MAX);
            found.push(Behind {
                measure: self.meanings[usize::from(name)].0.clone(),
                lag,
                value,
                median: spread.median,
                peers: count(spread.count.saturating_sub(1)),
                permille: spread.permille(meaning.is_more_better, value),
                runs: count(runs),
            });
        }
        found.sort_by_key(|it| (it.lag != Lag::Fault, core::cmp::Reverse(it.permille)));
        found
    }

    /// How a number stands in each run that has it, the latest first.
    fn grades(&mut self, known: &Known, name: Name, meaning: Meaning) -> Vec<(Grade, bool)> {
        let mut grades = Vec::new();
        for run in known.runs.iter().rev() {
            let Some(value) = run.number_of(name) else { continue };
            // Of a make that no GPU has any more, nothing can be said.
            let spread = self.spread(&run.make, name);
            let grade = spread.map(|it| it.grade(meaning.is_more_better, value));
            let is_explained = run.is_capped && meaning.follows_clock;
            grades.push((grade.unwrap_or(Grade::Sound), is_explained));
        }
        grades
    }

    /// Judges those of which something came, and some nodes again if numbers of others have come since;
    /// of these, forgets those that `is_there` does not know.
    pub(crate) fn go_on(
        &mut self,
        nodes: usize,
        is_there: impl Fn(&NodeId, GpuIndex, &str) -> bool,
    ) {
        for node in core::mem::take(&mut self.fresh) {
            self.judge(&node);
        }
        for _ in 0..nodes.min(self.stale).min(self.nodes.len()) {
            let after = match &self.judged {
                None => self.nodes.keys().next(),
                Some(last) => {
                    let from = (core::ops::Bound::Excluded(last), core::ops::Bound::Unbounded);
                    self.nodes.range::<NodeId, _>(from).next().map(|it| it.0)
                }
            };
            let Some(node) = after.or_else(|| self.nodes.keys().next()).cloned() else { return };
            self.stale -= 1;
            self.forget(&node, |index, uuid| is_there(&node, index, uuid));
            self.judge(&node);
            self.judged = Some(node);
        }
    }

    fn forget(&mut self, node: &NodeId, is_there: impl Fn(GpuIndex, &str) -> bool) {
        let Some(gpus) = self.nodes.get_mut(node) else { return };
        let is_gone = |it: &(&GpuIndex, &Known)| !is_there(*it.0, &it.1.uuid);
        let gone: Vec<GpuIndex> = gpus.iter().filter(is_gone).map(|it| *it.0).collect();
        let gone: Vec<Known> = gone.iter().filter_map(|index| gpus.remove(index)).collect();
        if gpus.is_empty() {
            self.nodes.remove(node);
            self.found.remove(node);
        }
        gone.iter().for_each(|known| self.leave(known));
    }

    fn found(&self, node: &NodeId, index: GpuIndex) -> Option<&Found> {
        self.found.get(node).and_then(|gpus| gpus.get(&index))
    }

    /// What of a GPU is behind, the gravest first.
    pub(crate) fn behind(&self, node: &NodeId, index: GpuIndex) -> &[Behind] {
        self.found(node, index).map_or(&[], |found| &found.behind)
    }

    /// What of a GPU's digests others do not say, the gravest first.
    pub(crate) fn differs(&self, node: &NodeId, index: GpuIndex) -> &[Differs] {
        self.found(node, index).map_or(&[], |found| &found.differs)
    }

    /// All GPUs against which others say something.
    pub(crate) fn all_found(&self) -> impl Iterator<Item = (&NodeId, GpuIndex, &Found)> {
        self.found
            .iter()
            .flat_map(|(node, gpus)| gpus.iter().map(move |(index, found)| (node, *index, found)))
    }

    /// The number of the last burn-in of a GPU that is compared.
    pub(crate) fn latest(&self, node: &NodeId, index: GpuIndex) -> Option<Revision> {
        let known = self.nodes.get(node).and_then(|gpus| gpus.get(&index));
        known.and_then(|known| known.runs.last()).map(|run| run.number)
    }

    /// How many GPUs are compared.
    pub(crate) fn gpus(&self) -> usize {
        self.nodes.values().map(BTreeMap::len).sum()
    }

    /// What does not follow from the runs. Linear: for tests and for simulation.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut expected: BTreeMap<(Arc<Make>, Name), Ranked> = BTreeMap::new();
        for known in self.nodes.values().flat_map(BTreeMap::values) {
            for (name, value, make) in known.latest() {
                expected.entry((make.clone(), name)).or_default().insert(value);
            }
        }
        let has: BTreeSet<(Arc<Make>, Name)> = self
            .makes
            .iter()
            .flat_map(|(make, names)| names.keys().map(|name| (make.clone(), *name)))
            .collect();
        let all = self.nodes.values().flat_map(BTreeMap::values);
        let mut found = self.digests.violations(all.flat_map(Known::said));
        if has != expected.keys().cloned().collect() {
            found.push(format!("{} numbers are known, not {}", has.len(), expected.len()));
        }
        for ((make, name), ranked) in &expected {
            let numbers = self.makes.get(make).and_then(|names| names.get(name));
            let spread = numbers.map(|numbers| numbers.ranked.spread());
            if spread != Some(ranked.spread()) {
                found.push(format!("number {name} of {}: {spread:?}", make.product));
            }
        }
        found
    }
}

/// Whether it can be compared with others.
fn is_of_use(result: &BurnInResult) -> bool {
    let is_short = result.make.as_ref().is_some_and(Make::is_short);
    let has_digests = result.digests.as_ref().is_some_and(|it| !it.by_kernel.is_empty());
    result.end == BurnInEnd::Passed && is_short && (has_digests || !result.numbers.is_empty())
}

#[cfg(test)]
mod tests;
