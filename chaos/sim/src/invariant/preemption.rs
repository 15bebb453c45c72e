//! A running job is stopped for another only if that one goes before it: it has the higher priority,
//! or the same and its account is due what the other's has borrowed. Nobody is stopped for others
//! more often than the bound, loses a retry by it, or is lost to it; a stop frees nothing by itself,
//! and what it frees later is kept for whom it was freed. Source: decisions 0017 and 0020.

use federation_core::{Command, Job, JobPhase, Leader, PREEMPTIONS_MAX, Place, PreemptJobs, State};
use specs::id::{AccountId, GpuClass, JobId, NodeId};
use specs::job::{JobClass, JobSpec};
use specs::unit::GpuCount;
use specs::version::ClusterVersion;
use specs::wire::client::JobState;

use crate::accounts;
use crate::coverage::Mark;
use crate::invariant::{Found, s6_quota};
use crate::world::World;

const RULE: &str = "preemption: only for one that goes first";
const BOUND: &str = "preemption: bounded, and costs no retry";
const KEPT: &str = "preemption: what is freed is kept for whom it is freed";

/// Nodes, by the job for which they are kept.
pub(crate) type Claims = Vec<(JobId, Vec<NodeId>)>;

pub(crate) fn claims(leader: &Leader) -> Claims {
    leader.claims().map(|(job, nodes)| (job, nodes.to_vec())).collect()
}

/// A look of a leader with these claims before and after it.
pub(crate) fn on_poll(before: &Claims, after: &Claims, commands: &[Command]) -> Found {
    let plans = commands.iter().filter_map(|it| {
        if let Command::CommitPlan(plan) = it { Some(&plan.assignments) } else { None }
    });
    let mut found = Found::new();
    for it in plans.flatten().filter(|it| before.iter().all(|(job, _)| *job != it.job)) {
        let Place::Here(plan) = &it.place else { continue };
        // A claim that is gone afterwards may have been dropped before the plan.
        for (job, nodes) in before.iter().filter(|claim| after.contains(claim)) {
            if plan.parts.iter().any(|part| nodes.contains(&part.node)) {
                found.push((KEPT, format!("{} starts on nodes kept for {job}", it.job)));
            }
        }
    }
    found
}

pub(crate) fn on_commit(
    world: &mut World,
    command: &Command,
    before: &State,
    after: &State,
) -> Found {
    let mut found = keeps_retries(before, after);
    if let Command::PreemptJobs(it) = command {
        let stopped = stopped(before, after);
        if stopped.is_empty() {
            world.coverage.mark(Mark::StalePreemptions);
        } else {
            world.coverage.add(Mark::JobsPreempted, stopped.len() as u64);
            found.extend(is_allowed(world, it, before, &stopped));
        }
        let named = |id: &JobId| it.victims.iter().any(|key| key.job == *id);
        if (!stopped.is_empty() && stopped.len() != it.victims.len()) || !stopped.iter().all(named)
        {
            found.push((RULE, format!("{stopped:?} are stopped of {:?}", it.victims)));
        }
        if before.nodes != after.nodes {
            found.push((RULE, "a stop has freed something".into()));
        }
    }
    found
}

fn is_stopping(state: &State, job: &Job) -> bool {
    let JobPhase::Leased(leased) = &job.phase else { return false };
    state.leases.get(&leased.lease).is_some_and(|lease| lease.stop.is_some())
}

/// Jobs whose stop was decided in between.
fn stopped(before: &State, after: &State) -> Vec<JobId> {
    let is_new = |job: &&Job| {
        is_stopping(after, job)
            && before.jobs.get(&job.id).is_some_and(|job| !is_stopping(before, job))
    };
    after.jobs.values().filter(is_new).map(|job| job.id).collect()
}

fn is_preemptible(spec: &JobSpec) -> bool {
    match (spec.preemptible, spec.class) {
        (Some(said), _) => said,
        (None, JobClass::Training | JobClass::Simulation) => true,
        (None, JobClass::Service | JobClass::Interactive) => false,
    }
}

fn is_allowed(world: &mut World, it: &PreemptJobs, before: &State, stopped: &[JobId]) -> Found {
    let mut found = Found::new();
    let Some(job) = before.jobs.get(&it.job).filter(|job| job.is_queued() && !job.cancel) else {
        return vec![(RULE, format!("{} does not wait", it.job))];
    };
    let spec = job.spec();
    let mut lost = under_way(before, &it.class);
    for victim in it.victims.iter().filter_map(|key| before.jobs.get(&key.job)) {
        let theirs = victim.spec();
        if !stopped.contains(&victim.id) || !is_preemptible(&theirs) {
            found.push((RULE, format!("{} may not be stopped", victim.id)));
        }
        if victim.preemptions >= PREEMPTIONS_MAX {
            let detail = format!("{} was stopped {} times", victim.id, victim.preemptions);
            found.push((BOUND, detail));
        }
        if victim.preemptions + 1 == PREEMPTIONS_MAX {
            world.coverage.mark(Mark::PreemptedForGood);
        }
        lost.push((accounts::of(&theirs), theirs.gpus()));
        let is_reclaimed = theirs.priority == spec.priority
            && is_due(before, &spec, &it.class, &theirs)
            && is_borrowed(before, &spec, &it.class, &theirs, &lost);
        world.coverage.add(Mark::Reclaims, u64::from(is_reclaimed));
        if theirs.priority >= spec.priority && !is_reclaimed {
            let (high, low) = (theirs.priority, spec.priority);
            let detail = format!("{} at {high} is stopped for {} at {low}", victim.id, job.id);
            found.push((RULE, detail));
        }
    }
    found
}

/// What accounts lose of the class by stops that were decided before. A site of an earlier version
/// checks each command alone.
fn under_way(state: &State, class: &GpuClass) -> Vec<(AccountId, GpuCount)> {
    if state.version < ClusterVersion::SITES {
        return Vec::new();
    }
    let of_class = |job: &&Job| match &job.phase {
        JobPhase::Leased(leased) => leased.class.as_ref() == Some(class),
        JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => false,
    };
    let stopping = state.jobs.values().filter(|job| is_stopping(state, job)).filter(of_class);
    stopping.map(|job| (accounts::of(&job.spec()), job.spec().gpus())).collect()
}

/// What is guaranteed to an account of that class, and what it holds.
fn guaranteed(state: &State, account: &AccountId, class: &GpuClass) -> Vec<(GpuCount, GpuCount)> {
    let held = s6_quota::count(state);
    let Some(quota) = state.quotas.get(account) else { return Vec::new() };
    let counts = |of: &Option<GpuClass>| of.is_none() || of.as_ref() == Some(class);
    let limits = quota.limits.iter().filter(|it| it.guaranteed.0 > 0 && counts(&it.class));
    let of = |class: &Option<GpuClass>| {
        held.get(&(account.clone(), class.clone())).copied().unwrap_or_default()
    };
    limits.map(|it| (it.guaranteed, of(&it.class))).collect()
}

fn is_above(account: &AccountId, spec: &JobSpec) -> bool {
    accounts::of(spec).line().any(|it| it == *account)
}

/// The job's account, or one above it, would still be within what it is guaranteed.
fn is_due(state: &State, spec: &JobSpec, class: &GpuClass, theirs: &JobSpec) -> bool {
    let account = accounts::of(spec);
    let mut own = account.line().filter(|account| !is_above(account, theirs));
    own.any(|account| {
        let limits = guaranteed(state, &account, class);
        limits.into_iter().any(|(guaranteed, held)| held.plus(spec.gpus()) <= guaranteed)
    })
}

/// No account of theirs falls below what it is guaranteed by what it has lost so far.
fn is_borrowed(
    state: &State,
    spec: &JobSpec,
    class: &GpuClass,
    theirs: &JobSpec,
    lost: &[(AccountId, GpuCount)],
) -> bool {
    let account = accounts::of(theirs);
    let mut line = account.line().filter(|account| !is_above(account, spec));
    line.all(|account| {
        let below = lost.iter().filter(|(it, _)| it.line().any(|above| above == account));
        let lost = below.fold(GpuCount::ZERO, |sum, (_, gpus)| sum.plus(*gpus));
        let limits = guaranteed(state, &account, class);
        limits.into_iter().all(|(guaranteed, held)| held >= guaranteed.plus(lost))
    })
}

/// Whoever was stopped for another waits again, with as many tries as before, unless his tenant
/// cancels him or he had finished.
fn keeps_retries(before: &State, after: &State) -> Found {
    let mut found = Found::new();
    for job in before.jobs.values().filter(|job| job.preemptions > 0 && is_stopping(before, job)) {
        let attempt = job.attempts.last().and_then(|attempt| attempt.preempted.as_ref());
        let Some(now) = after.jobs.get(&job.id).filter(|_| attempt.is_some()) else { continue };
        if now.losses != job.losses {
            found.push((BOUND, format!("{} has lost a try", job.id)));
        }
        if let JobPhase::Ended(ended) = &now.phase {
            match ended.state {
                JobState::Finished | JobState::Cancelled => {}
                JobState::Lost
                | JobState::Refused
                | JobState::Queued
                | JobState::Starting
                | JobState::Running
                | JobState::Stopping => {
                    found.push((BOUND, format!("{} ended as {}", job.id, ended.state)));
                }
            }
        }
    }
    found
}
