//! What is kept for a job that others would pass over for ever, and who may still start there.
//!
//! The first job in the order of turns that waits for room here gets nodes of its own: those that
//! are forecast to be free for it soonest. Until then only jobs start there that their time limit
//! ends before the forecast start (Lifka, *The ANL/IBM SP Scheduling System*, 1995). Nobody has to
//! say how long a job runs: without a limit the forecast is what jobs of the account usually ran,
//! and a job without one is never let onto nodes that are kept.
//!
//! A job whose start nobody can forecast is passed over until it has waited longer than the site's
//! patience. Then nodes are kept for it all the same, one job at a time, who waited longest first.
//!
//! # Invariants
//! * Outside the log: a lost or wrong reservation costs time, and nothing else.
//! * Whoever starts on kept nodes is over before the forecast start, as far as limits are kept.
//! * Only a job that asks its nodes for GPUs alone gets any: for others the wait is not bounded.
//! * Nodes are walked only to choose, which begins at most once in [`CHOSEN_EVERY`], and no more than
//!   [`WALKED_MAX`] of them in one look: a choice at a large site takes several looks.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound::{Excluded, Unbounded};

use specs::codec::OrDefault;
use specs::id::{GpuClass, JobId, LeaseId, NodeId};
use specs::job::{JobClass, JobSpec};
use specs::unit::{Instant, Millis, Timestamp};

use crate::placement::capacity::Capacity;
use crate::placement::fits;
use crate::placement::lookout::{Lookout, Seen};
use crate::queue::clearing::Claim;
use crate::queue::recent;
use crate::quota::Taken;
use crate::reserve;
use crate::state::{Gpu, Job, JobPhase, Lease, Node, State};

/// How long a job may be passed over, unless the site says otherwise.
pub(crate) const PATIENCE: Millis = Millis(600_000);
/// Nodes are not chosen more often: it costs as much as there are nodes.
const CHOSEN_EVERY: Millis = Millis(1_000);
/// Nodes that are looked at in one look of the leader: some milliseconds.
const WALKED_MAX: usize = 2_048;
/// Jobs for which nodes are sought at a time; the first for which there are some gets them.
const CANDIDATES_MAX: usize = 4;
/// It ends some time, and nobody knows when.
const UNKNOWN: u64 = u64::MAX - 1;
/// It ends when somebody has had enough of it.
const NEVER: u64 = u64::MAX;

/// Nodes that are kept for a job.
#[derive(Debug, Clone)]
pub(crate) struct Kept {
    pub job: JobId,
    pub nodes: Vec<NodeId>,
    /// When it is forecast to start; none if nobody knows.
    pub starts_at: Option<Timestamp>,
    /// How many GPUs of each node.
    gpus: usize,
    /// What was forecast first.
    said: Option<Timestamp>,
    /// It has waited longer than the site's patience.
    is_overdue: bool,
}

impl Kept {
    /// Whether the job, started now, would be over before the nodes are needed.
    pub(crate) fn leaves_in_time(&self, spec: &JobSpec, at: Timestamp) -> bool {
        let ends_at = at.0.saturating_add(spec.time_limit.0).saturating_add(spec.grace.0);
        let in_time = self.starts_at.is_some_and(|starts_at| ends_at <= starts_at.0);
        spec.time_limit > Millis::ZERO && in_time
    }

    /// Whether the node may still come to have what is needed.
    fn may_have(&self, state: &State, node: &Node) -> bool {
        !reserve::is_reserved(state, &node.id)
            && node.is_usable()
            && node.gpus.iter().filter(|gpu| may_come_free(gpu)).count() >= self.gpus
    }
}

/// The leader's memory of what is kept.
#[derive(Debug, Clone)]
pub(crate) struct Keeper {
    pub(crate) patience: Millis,
    kept: Option<Kept>,
    /// Who waits for room here, as the last plan saw it: who has waited too long, the longest first;
    /// then who is next.
    overdue: Vec<JobId>,
    next: Option<JobId>,
    /// Who waits for room, in the order of their turns.
    waiting: Vec<JobId>,
    chosen_at: Option<Instant>,
    /// The choice that is being made.
    choice: Option<Choice>,
    /// How far off forecasts were, and how many were compared.
    off: Millis,
    compared: u32,
}

impl Default for Keeper {
    fn default() -> Self {
        Self {
            patience: PATIENCE,
            kept: None,
            overdue: Vec::new(),
            next: None,
            waiting: Vec::new(),
            chosen_at: None,
            choice: None,
            off: Millis::ZERO,
            compared: 0,
        }
    }
}

impl Keeper {
    pub(crate) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    /// How far off forecasts were on average; none before the first.
    pub(crate) fn off(&self) -> Option<Millis> {
        (self.compared > 0).then_some(self.off)
    }

    /// How many have their turn before the job; none if it does not wait for room.
    pub(crate) fn before(&self, job: JobId) -> Option<usize> {
        self.waiting.iter().position(|id| *id == job)
    }

    /// Keeps nothing for who has room made for him.
    pub(crate) fn leave(&mut self, claims: &[Claim]) {
        let is_claimed = |id: &JobId| claims.iter().any(|claim| claim.job == *id);
        self.kept = self.kept.take().filter(|kept| !is_claimed(&kept.job));
        self.overdue.retain(|id| !is_claimed(id));
        self.next = self.next.filter(|id| !is_claimed(id));
    }

    /// Before a plan: what is kept, and for whom.
    pub(crate) fn review(&mut self, now: Instant, at: Timestamp, state: &State) {
        self.drop_done(at, state);
        let stands = self.kept.as_ref().is_some_and(|kept| {
            kept.starts_at.is_none_or(|starts_at| at <= starts_at)
                && kept
                    .nodes
                    .iter()
                    .all(|id| state.nodes.get(id).is_some_and(|it| kept.may_have(state, it)))
                && (kept.is_overdue || (self.overdue.is_empty() && !self.is_outranked(state, kept)))
        });
        if stands {
            self.choice = None;
            return;
        }
        if self.choice.is_none() {
            self.choice = self.begin(now, at, state);
        }
        if let Some(choice) = &mut self.choice
            && let Some(chosen) = choice.go_on(state, WALKED_MAX)
        {
            let before = self.kept.take();
            self.kept = chosen.map(|mut kept| {
                let same = before.filter(|before| before.job == kept.job);
                kept.said = same.and_then(|before| before.said).or(kept.starts_at);
                kept
            });
            self.choice = None;
        }
    }

    /// For whom nodes are to be sought; none if it is too early, or for nobody.
    fn begin(&mut self, now: Instant, at: Timestamp, state: &State) -> Option<Choice> {
        if self.chosen_at.is_some_and(|chosen| now.since(chosen) < CHOSEN_EVERY) {
            return None;
        }
        // Who has something keeps it, unless another has waited too long.
        let held = self.kept.as_ref().filter(|kept| !self.is_outranked(state, kept));
        let held = held.map(|kept| (kept.job, kept.is_overdue));
        let overdue = self.overdue.iter().map(|job| (*job, true));
        let mut candidates: VecDeque<(JobId, bool)> =
            held.filter(|(_, overdue)| *overdue).into_iter().collect();
        candidates.extend(overdue);
        candidates.extend(held);
        candidates.extend(self.next.map(|job| (job, false)));
        if candidates.is_empty() {
            self.kept = None;
            return None;
        }
        self.chosen_at = Some(now);
        Some(Choice { at, candidates, walk: None })
    }

    /// Another waits that goes before it whatever it is due.
    fn is_outranked(&self, state: &State, kept: &Kept) -> bool {
        let priority = |id: &JobId| state.jobs.get(id).map(|job| job.queue_key().rank);
        let next = self.next.as_ref().and_then(priority);
        !kept.is_overdue && next.is_some_and(|next| Some(next) < priority(&kept.job))
    }

    /// Forgets a reservation that is not needed any more, and compares its forecast.
    fn drop_done(&mut self, at: Timestamp, state: &State) {
        let Some(kept) = &self.kept else { return };
        let job = state.jobs.get(&kept.job);
        let waits = job.filter(|job| job.is_queued());
        let open = |job: &Job| Taken::default().closed(state, job, &job.spec()).is_ok();
        if waits.is_some_and(open) {
            return;
        }
        let started = job.is_some_and(|job| match job.phase {
            JobPhase::Leased(_) => true,
            JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => false,
        });
        if let Some(said) = kept.said.filter(|_| started) {
            self.compared = self.compared.saturating_add(1);
            self.off = recent::mean(self.off, Millis(at.0.abs_diff(said.0)), self.compared);
        }
        self.kept = None;
    }

    /// After a plan: who waits for room here.
    pub(crate) fn see(
        &mut self,
        now: Instant,
        state: &State,
        capacity: &Capacity,
        waiting: Vec<JobId>,
        lookout: &Lookout,
    ) {
        let kept = self.kept.as_ref().map(|kept| kept.job);
        let others = || {
            let others = waiting.iter().filter(|id| Some(**id) != kept);
            others.filter_map(|id| lookout.get(*id).map(|seen| (*id, seen)))
        };
        let could_stand = |(_, Seen { spec, .. }): &(JobId, &Seen)| {
            fits::may_be_here(state, spec) && capacity.could_hold(spec)
        };
        self.next = others().find(could_stand).map(|(id, _)| id);
        let mut late: Vec<(JobId, &Seen)> =
            others().filter(|(_, seen)| now.since(seen.since) >= self.patience).collect();
        late.sort_unstable_by_key(|(id, seen)| (seen.since, *id));
        let late = late.into_iter().filter(could_stand).map(|(id, _)| id);
        self.overdue = late.take(CANDIDATES_MAX).collect();
        self.waiting = waiting;
    }
}

fn may_come_free(gpu: &Gpu) -> bool {
    gpu.grant.is_none() && gpu.is_fit()
}

/// A choice of nodes that may take several looks.
#[derive(Debug, Clone)]
struct Choice {
    /// When it began; what ends is forecast from then.
    at: Timestamp,
    /// For whom nodes are sought, and whether each has waited too long. The first for whom there are
    /// some gets them.
    candidates: VecDeque<(JobId, bool)>,
    /// Through the nodes, for the first of them.
    walk: Option<Walk>,
}

impl Choice {
    /// Looks at no more than so many nodes. None until it is made.
    #[expect(clippy::option_option, reason = "it may be made, and for nobody")]
    fn go_on(&mut self, state: &State, mut nodes: usize) -> Option<Option<Kept>> {
        while let Some((id, is_overdue)) = self.candidates.front().copied() {
            // The last plan may be older than what was agreed since.
            let job = state.jobs.get(&id).filter(|job| job.is_queued());
            let walk = self.walk.take().or_else(|| Walk::new(state, job?));
            if let (Some(job), Some(mut walk)) = (job, walk) {
                if !walk.go_on(state, self.at, &mut nodes) {
                    self.walk = Some(walk);
                    return None;
                }
                if let Some(kept) = walk.kept(job.id, is_overdue) {
                    return Some(Some(kept));
                }
            }
            self.candidates.pop_front();
        }
        Some(None)
    }
}

/// A walk through the nodes, which finds when each is free for a job.
#[derive(Debug, Clone)]
struct Walk {
    spec: Arc<JobSpec>,
    nodes: usize,
    /// Of each node.
    gpus: usize,
    /// Quota leaves the job none of these.
    closed: Vec<GpuClass>,
    /// The node looked at last.
    last: Option<NodeId>,
    ends: BTreeMap<LeaseId, u64>,
    ready: BTreeMap<GpuClass, Vec<(u64, NodeId)>>,
}

impl Walk {
    /// None if nothing can be kept for the job.
    fn new(state: &State, job: &Job) -> Option<Self> {
        let spec = job.spec();
        // Of others nobody can tell which nodes would do.
        if spec.needs != OrDefault::default() {
            return None;
        }
        let closed = Taken::default().closed(state, job, &spec).ok()?;
        let (nodes, gpus) =
            (usize::try_from(spec.nodes).ok()?, usize::try_from(spec.gpus_per_node.0).ok()?);
        let (ends, ready) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { spec, nodes, gpus, closed, last: None, ends, ready })
    }

    /// True once all nodes were looked at. `nodes` loses what was walked.
    fn go_on(&mut self, state: &State, at: Timestamp, nodes: &mut usize) -> bool {
        let last = self.last.clone();
        let from = last.as_ref().map_or(Unbounded, Excluded);
        for (id, node) in state.nodes.range::<NodeId, _>((from, Unbounded)) {
            if *nodes == 0 {
                return false;
            }
            *nodes -= 1;
            self.last = Some(id.clone());
            // Who may start where something is reserved is a matter of time.
            if node.is_usable() && !reserve::is_reserved(state, id) {
                self.look(state, at, node);
            }
        }
        true
    }

    fn look(&mut self, state: &State, at: Timestamp, node: &Node) {
        let mut times: BTreeMap<&GpuClass, Vec<u64>> = BTreeMap::new();
        for gpu in node.gpus.iter().filter(|gpu| may_come_free(gpu)) {
            let users = gpu.shares.iter().map(|share| share.lease).chain(gpu.lease);
            let end = |id| {
                *self.ends.entry(id).or_insert_with(|| {
                    state.leases.get(&id).map_or(NEVER, |lease| end_of(state, lease, at))
                })
            };
            let time = users.chain(node.alone).map(end).max().unwrap_or(at.0);
            times.entry(&gpu.info.class).or_default().push(time);
        }
        for (class, mut times) in times {
            times.sort_unstable();
            let time = self.gpus.checked_sub(1).and_then(|nth| times.get(nth));
            let Some(time) = time.filter(|time| **time < NEVER) else { continue };
            if fits::class_will_do(&self.spec, class) && !self.closed.contains(class) {
                let entry = (*time, node.id.clone());
                match self.ready.get_mut(class) {
                    Some(ready) => ready.push(entry),
                    None => _ = self.ready.insert(class.clone(), alloc::vec![entry]),
                }
            }
        }
    }

    /// The nodes that are free for the job soonest. Without a forecast none, unless it has waited
    /// too long.
    fn kept(self, job: JobId, is_overdue: bool) -> Option<Kept> {
        let soonest = |mut all: Vec<(u64, NodeId)>| {
            all.sort_unstable();
            all.truncate(self.nodes);
            let last = all.last().filter(|_| all.len() == self.nodes)?.0;
            let mut nodes: Vec<NodeId> = all.into_iter().map(|(_, id)| id).collect();
            nodes.sort();
            Some((nodes, last))
        };
        let found = self.ready.into_values().filter_map(soonest);
        let (nodes, ready) = found.min_by_key(|(_, last)| *last)?;
        let starts_at = (ready < UNKNOWN).then_some(Timestamp(ready));
        let kept = Kept { job, gpus: self.gpus, nodes, starts_at, said: None, is_overdue };
        (starts_at.is_some() || is_overdue).then_some(kept)
    }
}

/// When the lease is forecast to be over.
fn end_of(state: &State, lease: &Lease, at: Timestamp) -> u64 {
    let spec = &lease.spec;
    if lease.stop.is_some() {
        return at.0.saturating_add(spec.grace.0);
    }
    let starts = lease.parts.iter().map(|part| part.started_at);
    let started_at = starts.filter(|it| *it != Timestamp(0)).min().unwrap_or(at).min(at);
    let limit = (spec.time_limit > Millis::ZERO)
        .then(|| started_at.0.saturating_add(spec.time_limit.0).saturating_add(spec.grace.0));
    let ran = at.0.saturating_sub(started_at.0);
    // What has lasted longer than usual is taken to last as long again.
    let usual = usual(state, lease).map(|usual| {
        if ran < usual.0 { started_at.0.saturating_add(usual.0) } else { at.0.saturating_add(ran) }
    });
    let forecast = match (limit, usual) {
        (Some(limit), Some(usual)) => limit.min(usual),
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => match spec.class {
            JobClass::Training | JobClass::Simulation => UNKNOWN,
            JobClass::Service | JobClass::Interactive => NEVER,
        },
    };
    forecast.max(at.0)
}

/// How long jobs like this one ran, of the nearest account that has run some.
fn usual(state: &State, lease: &Lease) -> Option<Millis> {
    let job = state.jobs.get(&lease.job).filter(|_| state.is_own(&lease.home))?;
    let line: Vec<_> = job.account().line().collect();
    line.iter().rev().find_map(|account| state.recent.get(account)?.usual(lease.spec.class))
}

#[cfg(test)]
mod tests;
