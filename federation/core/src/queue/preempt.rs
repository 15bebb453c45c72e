//! Who may be stopped for whom. The planner and the recheck in the log both ask here.
//!
//! A job may have the GPUs of preemptible jobs of lower priority that run here. One whose account is
//! still below what it is guaranteed may also have those of equal priority whose accounts hold more
//! than that (what they have borrowed, decision 0017). Jobs of equal priority stop each other for
//! nothing else, so two never take turns.
//!
//! # Invariants
//! * A job is stopped for others at most [`PREEMPTIONS_MAX`] times, and never loses a retry by it.
//! * For a job of equal priority no account is taken below what it is guaranteed.
//! * All that a command names is stopped, or nothing. Of several that are under way at once the
//!   leader sees that they go together, and from [`ClusterVersion::SITES`] on so does the log.
//! * Nothing is free before an agent said that it has ended, or its lease ran out: this only asks for
//!   the stop.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::id::{AccountId, GpuClass, JobId, LeaseId};
use specs::job::JobSpec;
use specs::unit::GpuCount;
use specs::version::ClusterVersion;

use crate::apply::Reply;
use crate::command::{AttemptKey, PreemptJobs};
use crate::effect::{Effect, Effects};
use crate::job;
use crate::placement::fits;
use crate::quota::{self, Charge, UseKey, held};
use crate::state::{Job, JobPhase, Lease, Leased, MadeRoom, Preemption, State, StopReason};

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::PREEMPTION;
/// After so many times a job runs to its end. Sites have few priorities, and usually no more than
/// three above one that is preemptible: a job may make way for each of them once.
pub const PREEMPTIONS_MAX: u32 = 3;
/// Most jobs that are stopped for one: as many as a gang has nodes, in practice.
pub(crate) const VICTIMS_MAX: usize = 1_024;
/// Most of them that the job remembers.
const REMEMBERED_MAX: usize = 16;

/// What is decided and has not happened yet, beside what is held.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pending {
    /// To those for whom others are stopped.
    promised: BTreeMap<UseKey, GpuCount>,
    /// By those who are stopped.
    lost: BTreeMap<UseKey, GpuCount>,
}

fn add(sums: &mut BTreeMap<UseKey, GpuCount>, job: &Job, class: &GpuClass, gpus: GpuCount) {
    for account in job.account().line() {
        for class in [None, Some(class.clone())] {
            let sum = sums.entry(UseKey { account: account.clone(), class }).or_default();
            *sum = sum.plus(gpus);
        }
    }
}

impl Pending {
    /// Counts what whoever is being stopped still holds as lost.
    pub(crate) fn of(state: &State) -> Self {
        let mut pending = Self::default();
        let stopping = state.leases.values().filter(|lease| lease.stop.is_some());
        for lease in stopping.filter(|lease| state.is_own(&lease.home)) {
            let Some(job) = state.jobs.get(&lease.job) else { continue };
            if let JobPhase::Leased(Leased { class: Some(class), .. }) = &job.phase {
                add(&mut pending.lost, job, class, lease.spec.gpus());
            }
        }
        pending
    }

    pub(crate) fn promise(&mut self, job: &Job, spec: &JobSpec, class: &GpuClass) {
        add(&mut self.promised, job, class, spec.gpus());
    }

    pub(crate) fn lose(&mut self, job: &Job, lease: &Lease, class: &GpuClass) {
        add(&mut self.lost, job, class, lease.spec.gpus());
    }
}

/// A job that waits for GPUs of a class, and what it may take.
#[derive(Debug, Clone)]
pub(crate) struct Case<'a> {
    state: &'a State,
    priority: u32,
    class: GpuClass,
    /// Its account and those above it.
    line: Vec<AccountId>,
    /// Those of them that would still be within what they are guaranteed.
    due: Vec<AccountId>,
    pending: Pending,
}

impl<'a> Case<'a> {
    /// None if the job would not run here on that class whoever made room.
    pub(crate) fn new(
        state: &'a State,
        job: &Job,
        spec: &JobSpec,
        class: &GpuClass,
        pending: Pending,
    ) -> Option<Self> {
        let may_start = state.version >= SINCE
            && job.is_queued()
            && !job.cancel
            && state.recovering.is_none()
            && fits::may_be_here(state, spec)
            && fits::class_will_do(spec, class)
            && quota::check(state, &Charge::new(job, spec, Some(class.clone()))).is_ok();
        if !may_start {
            return None;
        }
        let (line, class) = (job.account().line().collect::<Vec<_>>(), class.clone());
        let is_due = |account: &&AccountId| {
            let limits = guarantees(state, account, &class);
            limits.into_iter().any(|(key, guaranteed)| {
                let promised = pending.promised.get(&key).copied().unwrap_or_default();
                held(state, &key).plus(promised).plus(spec.gpus()) <= guaranteed
            })
        };
        let due = line.iter().filter(is_due).cloned().collect();
        Some(Self { state, priority: spec.priority, class, line, due, pending })
    }

    /// Whether the lease may be stopped, besides those that are stopped already.
    pub(crate) fn may_stop(&self, lease: &Lease) -> bool {
        let Some(victim) = victim(self.state, lease, &self.class) else { return false };
        lease.spec.priority < self.priority
            || (lease.spec.priority == self.priority && self.is_borrowed(victim, lease))
    }

    /// Whether all of it is more than its accounts are guaranteed, and is due to the job's.
    fn is_borrowed(&self, victim: &Job, lease: &Lease) -> bool {
        let line: Vec<AccountId> = victim.account().line().collect();
        let is_due = self.due.iter().any(|account| !line.contains(account));
        let mut others = line.iter().filter(|account| !self.line.contains(account));
        is_due
            && others.all(|account| {
                let limits = guarantees(self.state, account, &self.class);
                limits.into_iter().all(|(key, guaranteed)| {
                    let lost = self.pending.lost.get(&key).copied().unwrap_or_default();
                    held(self.state, &key) >= guaranteed.plus(lost).plus(lease.spec.gpus())
                })
            })
    }

    /// Counts the lease as stopped.
    pub(crate) fn stop(&mut self, lease: &Lease) {
        if let Some(job) = self.state.jobs.get(&lease.job) {
            self.pending.lose(job, lease, &self.class);
        }
    }
}

/// What the account is guaranteed that counts for a class.
fn guarantees(state: &State, account: &AccountId, class: &GpuClass) -> Vec<(UseKey, GpuCount)> {
    let Some(quota) = state.quotas.get(account) else { return Vec::new() };
    let limits = quota.limits_of(Some(class)).filter(|it| it.guaranteed > GpuCount::ZERO);
    let key = |class: &Option<GpuClass>| UseKey { account: account.clone(), class: class.clone() };
    limits.map(|it| (key(&it.class), it.guaranteed)).collect()
}

/// The job that runs under the lease, if it may be stopped at all.
fn victim<'a>(state: &'a State, lease: &Lease, class: &GpuClass) -> Option<&'a Job> {
    if lease.stop.is_some() || !state.is_own(&lease.home) || !lease.spec.is_preemptible() {
        return None;
    }
    let job = state.jobs.get(&lease.job).filter(|job| job.preemptions < PREEMPTIONS_MAX)?;
    match &job.phase {
        JobPhase::Leased(it) if it.lease == lease.id && it.class.as_ref() == Some(class) => {
            Some(job)
        }
        JobPhase::Leased(_) | JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => {
            None
        }
    }
}

/// The lease of that very attempt.
fn lease_of<'a>(state: &'a State, key: &AttemptKey) -> Option<&'a Lease> {
    let job = state.jobs.get(&key.job).filter(|job| job.epoch == key.epoch)?;
    match &job.phase {
        JobPhase::Leased(it) => state.leases.get(&it.lease),
        JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => None,
    }
}

/// The leases that are to be stopped.
///
/// # Errors
/// What is no longer as it was when this was planned.
fn recheck(state: &State, it: &PreemptJobs) -> Result<Vec<LeaseId>, &'static str> {
    let job = state.jobs.get(&it.job).ok_or("there is no such job")?;
    if job.epoch != it.after || job.room_made() != it.times {
        return Err("the job has had its turn since");
    }
    let case = Case::new(state, job, &job.spec(), &it.class, under_way(state));
    let mut case = case.ok_or("the job does not wait for that")?;
    let mut leases = BTreeSet::new();
    for key in &it.victims {
        let lease = lease_of(state, key).ok_or("a job that was to be stopped does not run")?;
        if !case.may_stop(lease) || !leases.insert(lease.id) {
            return Err("a job that was to be stopped may not be");
        }
        case.stop(lease);
    }
    if leases.is_empty() || leases.len() > VICTIMS_MAX {
        return Err("nobody is to be stopped, or too many");
    }
    Ok(leases.into_iter().collect())
}

/// What the log counts as decided already: also by a leader that this one's planner did not know of.
/// Before, the log checked each command alone, and members that do so still must agree.
fn under_way(state: &State) -> Pending {
    if state.version < ClusterVersion::SITES { Pending::default() } else { Pending::of(state) }
}

pub(crate) fn preempt(state: &mut State, fx: &mut Effects, it: &PreemptJobs) -> Reply {
    if state.version < SINCE {
        return Reply::NoOp("the site's version stops no job for another");
    }
    let leases = match recheck(state, it) {
        Ok(leases) => leases,
        Err(why) => {
            fx.insert(Effect::Plan);
            return Reply::NoOp(why);
        }
    };
    for key in &it.victims {
        let Some(job) = state.agreed.jobs.get_mut(&key.job) else { continue };
        job.preemptions += 1;
        if let Some(attempt) = job.attempt_mut(key.epoch) {
            attempt.preempted = Some(Box::new(Preemption { by: it.job, at: it.at }));
        }
    }
    for lease in leases {
        job::stop_lease(state, fx, lease, StopReason::Preempted);
    }
    if let Some(job) = state.agreed.jobs.get_mut(&it.job) {
        remember(job, &it.victims);
    }
    Reply::Done
}

fn remember(job: &mut Job, victims: &[AttemptKey]) {
    let none = || Box::new(MadeRoom { times: 0, jobs: Vec::new() });
    let room = job.made_room.get_or_insert_with(none);
    room.times = room.times.saturating_add(1);
    room.jobs.retain(|id| victims.iter().all(|key| key.job != *id));
    room.jobs.extend(victims.iter().map(|key| key.job));
    let over = room.jobs.len().saturating_sub(REMEMBERED_MAX);
    room.jobs.drain(..over);
}

/// Those of the jobs stopped for it that have not ended yet.
pub(crate) fn still_there<'a>(state: &'a State, job: &'a Job) -> impl Iterator<Item = JobId> + 'a {
    let made = job.made_room.iter().flat_map(|room| room.jobs.iter().copied());
    made.filter(|id| {
        let other = state.jobs.get(id).filter(|other| match other.phase {
            JobPhase::Leased(_) => true,
            JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => false,
        });
        let attempt = other.and_then(|other| other.attempt(other.epoch));
        let by = attempt.and_then(|attempt| attempt.preempted.as_ref()).map(|it| it.by);
        by == Some(job.id)
    })
}
