//! S6: quota holds federation-wide, also while sites cannot talk. So: no plan takes an account, or
//! one above it, past what it may hold, counted anew from the jobs; and no more of an account's
//! GPUs execute, anywhere, than its home counts. Source: the design, promise S6; Kueue's phantom
//! quota, where a manager and its workers each count for themselves.

use std::collections::BTreeMap;

use federation_core::{Command, Job, JobPhase, State};
use gpu_agent_core::Known;
use specs::id::{AccountId, GpuClass};
use specs::job::JobSpec;
use specs::unit::GpuCount;

use crate::accounts;
use crate::invariant::Found;
use crate::world::World;

const QUOTA: &str = "S6: quota holds federation-wide";

pub(crate) type Held = BTreeMap<(AccountId, Option<GpuClass>), GpuCount>;

/// The class of what a running job holds, and how much of it.
fn holds(state: &State, job: &Job) -> Option<(Option<GpuClass>, GpuCount)> {
    match &job.phase {
        JobPhase::Leased(leased) => {
            let lease = state.leases.get(&leased.lease)?;
            let gpus: usize = lease.parts.iter().map(|part| part.gpus.len()).sum();
            Some((leased.class.clone(), GpuCount(u32::try_from(gpus).unwrap_or(u32::MAX))))
        }
        JobPhase::Loaned(loan) => {
            let gpus = loan.slots.iter().fold(GpuCount::ZERO, |sum, slot| sum.plus(slot.gpus));
            Some((loan.slots.first().map(|slot| slot.class.clone()), gpus))
        }
        JobPhase::Queued(_) | JobPhase::Ended(_) => None,
    }
}

/// What every account holds, counted from the jobs.
pub(crate) fn count(state: &State) -> Held {
    let mut held = Held::new();
    for job in state.jobs.values() {
        let Some((class, gpus)) = holds(state, job) else { continue };
        for account in accounts::of(&job.spec()).line() {
            for class in [Some(None), class.clone().map(Some)].into_iter().flatten() {
                let sum = held.entry((account.clone(), class)).or_default();
                *sum = sum.plus(gpus);
            }
        }
    }
    held
}

pub(crate) fn on_commit(command: &Command, before: &State, after: &State) -> Found {
    let Command::CommitPlan(_) = command else { return Found::new() };
    if after.quotas.is_empty() {
        return Found::new();
    }
    let (before, now) = (count(before), count(after));
    let mut found = Found::new();
    for (account, quota) in after.quotas.iter() {
        for limit in &quota.limits {
            let key = (account.clone(), limit.class.clone());
            let of = |held: &Held| held.get(&key).copied().unwrap_or_default();
            if limit.max.is_some_and(|max| of(&now) > max) && of(&now) > of(&before) {
                let (now, max) = (of(&now), limit.max.unwrap_or_default());
                let detail = format!("{account} holds {now} of {:?}, may hold {max}", limit.class);
                found.push((QUOTA, detail));
            }
        }
    }
    found
}

/// Processes of a job begin to execute somewhere.
pub(crate) fn on_start(world: &World, known: &Known) -> Found {
    let Some(home) = world.site_index(&known.home) else { return Found::new() };
    let state = world.sites[home].log.latest();
    if state.quotas.is_empty() {
        return Found::new();
    }
    let Some(job) = state.jobs.get(&known.job) else { return Found::new() };
    let counted = count(state);
    let mut found = Found::new();
    for account in accounts::of(&job.spec()).line() {
        let is_of = |other: &Known| {
            let spec = state.jobs.get(&other.job).map(Job::spec);
            let spec = spec.filter(|_| other.home == known.home);
            spec.is_some_and(|spec| accounts::of(&spec).line().any(|it| it == account))
        };
        let executing = world.oracle.gpus.values().filter(|(_, known)| is_of(known)).count();
        let counted = counted.get(&(account.clone(), None)).copied().unwrap_or_default();
        if executing as u64 > u64::from(counted.0) {
            let detail = format!("{executing} GPUs execute for {account}, {counted} are counted");
            found.push((QUOTA, detail));
        }
    }
    found
}

/// Whether the job could ever hold what it asks for, of that class.
pub(crate) fn allows(home: &State, spec: &JobSpec, class: &GpuClass) -> bool {
    let line = accounts::of(spec).line().filter_map(|it| home.quotas.get(&it)).collect::<Vec<_>>();
    let mut limits = line.iter().flat_map(|quota| quota.limits_of(Some(class)));
    limits.all(|limit| limit.max.is_none_or(|max| spec.gpus() <= max))
}

/// How many waiting jobs quota alone holds back, whichever class they get.
pub(crate) fn bound(state: &State) -> u64 {
    let held = count(state);
    let is_bound = |job: &&Job| {
        let spec = job.spec();
        let quotas = accounts::of(&spec).line().collect::<Vec<_>>();
        quotas.into_iter().any(|account| {
            let limits = state.quotas.get(&account).map(|it| it.limits.clone()).unwrap_or_default();
            limits.iter().filter(|it| it.class.is_none()).any(|limit| {
                let now = held.get(&(account.clone(), None)).copied().unwrap_or_default();
                limit.max.is_some_and(|max| now.plus(spec.gpus()) > max && spec.gpus() <= max)
            })
        })
    };
    if state.quotas.is_empty() { 0 } else { state.queued().filter(is_bound).count() as u64 }
}
