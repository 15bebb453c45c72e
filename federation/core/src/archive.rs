//! Ended jobs leave the state, and requests whose jobs have all left are forgotten.
//!
//! # Invariants
//! * A job that leaves has ended, and nothing that may still come in is about it: no lease and no
//!   lapsed lease of its attempts is known. What agents and hosts report of it later changes as
//!   little as before, when it had ended.
//! * Jobs are numbered in the order in which they leave, from one on, on every member alike.
//! * A request is remembered while one of its jobs is in the state: repeated until then, it is
//!   answered with the same jobs. Once it is forgotten, it would be taken for another one.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;
use core::ops::Bound;

use specs::id::{JobId, RequestId};
use specs::unit::{Millis, Timestamp};

use crate::apply::Reply;
use crate::command::ArchiveJobs;
use crate::state::{EndKey, Job, State};

/// Ended jobs that stay, the newest: some tens of megabytes on each controller, and more than
/// people look at in a listing.
const ENDED_KEPT: usize = 100_000;
/// A job stays so long after its end, however many there are: a request may be repeated for that
/// long, which outlasts whoever waits through a change of leaders or a restart.
const ENDED_AGE_MIN: Millis = Millis(600_000);
/// Most jobs of one command: some hundred kilobytes that every member takes out at once.
const LEAVING_MAX: usize = 1_000;
/// Requests looked at in one turn.
const SWEPT_MAX: usize = 500;
/// Requests that are looked at for each job that has left, in the mean: a round begins when so many
/// jobs have left that it costs no more. The others' requests stay until then.
const SWEPT_FOR_EACH: u64 = 8;

/// Which ended jobs stay in the state. The others go into the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many stay, the newest.
    pub jobs: usize,
    /// None goes sooner after its end, by the clocks of leaders.
    pub age_min: Millis,
}

impl Default for Retention {
    fn default() -> Self {
        Self { jobs: ENDED_KEPT, age_min: ENDED_AGE_MIN }
    }
}

/// A job on its way out of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// Its place in the archive.
    pub number: u64,
    pub job: Job,
}

/// What the command takes out of this state: read it before the command is applied.
#[must_use]
pub fn leaving(state: &State, it: &ArchiveJobs) -> Vec<Leaving> {
    let jobs = who_leaves(state, it).into_iter().filter_map(|id| state.jobs.get(&id)).cloned();
    (state.archived + 1..).zip(jobs).map(|(number, job)| Leaving { number, job }).collect()
}

pub(crate) fn archive(state: &mut State, it: &ArchiveJobs) -> Reply {
    let leaving = who_leaves(state, it);
    for id in &leaving {
        if let Some(key) = state.jobs.get(id).and_then(EndKey::of) {
            state.ended.remove(&key);
        }
        state.agreed.jobs.remove(id);
        state.agreed.archived += 1;
    }
    let over: Vec<&RequestId> = it.requests.iter().filter(|id| is_over(state, id)).collect();
    for request in &over {
        state.agreed.requests.remove(*request);
    }
    if leaving.is_empty() && over.is_empty() {
        return Reply::NoOp("nothing of it may leave");
    }
    Reply::Done
}

/// The jobs of the command that may leave, each once, in its order.
fn who_leaves(state: &State, it: &ArchiveJobs) -> Vec<JobId> {
    let mut seen = BTreeSet::new();
    let may_leave = |id: &&JobId| {
        state.jobs.get(*id).is_some_and(|job| may_leave(state, job)) && seen.insert(**id)
    };
    it.jobs.iter().filter(may_leave).copied().collect()
}

fn may_leave(state: &State, job: &Job) -> bool {
    let is_known = |lease| state.leases.contains(lease) || state.lapsed.contains(lease);
    job.has_ended()
        && job.kept.is_none()
        && !job.attempts.iter().any(|attempt| is_known(&attempt.lease))
}

/// Whether none of the request's jobs is in the state.
fn is_over(state: &State, request: &RequestId) -> bool {
    let record = state.requests.get(request);
    record.is_some_and(|it| !it.jobs.as_slice().iter().any(|job| state.jobs.contains(job)))
}

/// What a leader remembers to propose what leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct Archivist {
    /// None: nothing leaves.
    pub(crate) retention: Option<Retention>,
    /// The request that was looked at last; none between two rounds through all of them.
    at: Option<RequestId>,
    /// How many jobs had left when the present round, or the last one, began.
    round: u64,
}

impl Archivist {
    /// What may leave by now.
    pub(crate) fn plan(&mut self, at: Timestamp, state: &State) -> Option<ArchiveJobs> {
        let retention = self.retention?;
        let requests = self.sweep(state);
        let spare = state.ended.len().saturating_sub(retention.jobs);
        let mut jobs = Vec::new();
        // A command for each job that ends would double the log.
        if spare > retention.jobs / 64 {
            let is_old = |key: &&EndKey| key.at.0.saturating_add(retention.age_min.0) <= at.0;
            let oldest = state.ended.keys().take(spare.min(LEAVING_MAX)).take_while(is_old);
            let known = oldest.filter_map(|key| state.jobs.get(&key.job));
            jobs.extend(known.filter(|job| may_leave(state, job)).map(|job| job.id));
        }
        let nothing = jobs.is_empty() && requests.is_empty();
        (!nothing).then_some(ArchiveJobs { jobs, requests })
    }

    /// The next requests that may be forgotten. Goes through all of them, some in each turn, and
    /// rests while few jobs have left since a round began.
    fn sweep(&mut self, state: &State) -> Vec<RequestId> {
        if self.at.is_none() {
            let left = state.archived.saturating_sub(self.round);
            let few = state.requests.len() as u64 / SWEPT_FOR_EACH;
            if left == 0 || left < few {
                return Vec::new();
            }
            self.round = state.archived;
        }
        let from = self.at.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let range = state.requests.range::<RequestId, _>((from, Bound::Unbounded));
        let looked: Vec<&RequestId> = range.take(SWEPT_MAX).map(|(request, _)| request).collect();
        let last = looked.last().filter(|_| looked.len() == SWEPT_MAX);
        let over = looked.iter().filter(|id| is_over(state, id)).map(|id| (*id).clone()).collect();
        self.at = last.map(|id| (*id).clone());
        over
    }
}
