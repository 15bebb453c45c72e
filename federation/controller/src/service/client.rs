//! Users ask about jobs.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use federation_core::{
    AdmitJobs, CancelJob, Command, Job, Reply, State, could_ever_run, job_state, job_view,
    resolve_jobs, why,
};
use specs::fault::{Fault, FaultCode};
use specs::id::{JobId, RequestId};
use specs::unit::Millis;
use specs::wire::client::{
    JobCancelled, JobList, JobSelector, JobSubmit, JobSubmitted, JobView, JobViews, JobWait, JobWhy,
};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Most jobs of one listing.
const LISTED_MAX: usize = 10_000;
/// Longest that a question waits for news.
const WAIT_MAX: Millis = Millis(30_000);
/// While it waits, it looks at least this often.
const LOOK_AGAIN: Millis = Millis(250);

/// A new id whose order follows the wall clock: a version 7 UUID.
fn stamp(shared: &Shared) -> JobId {
    let millis = shared.env.clock.wall().0;
    let random: [u8; 10] = shared.env.random_bytes();
    JobId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
}

pub(crate) fn user(asked: &Asked) -> String {
    match &asked.caller {
        Identity::User { user, .. } => user.to_string(),
        Identity::Controller { .. } | Identity::Agent { .. } | Identity::Anonymous => {
            asked.caller.to_string()
        }
    }
}

/// Checks, stamps and agrees on a submission. Acknowledged means durable on a majority.
pub(crate) async fn submit(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobSubmit = decode(asked)?;
    it.spec.check().map_err(|error| {
        Fault::new(FaultCode::InvalidArgument, format!("the job is not valid: {error}"))
    })?;
    let state = shared.group.state();
    if !known(&state, &it.request) {
        placeable(shared, &state, &it)?;
    }
    let jobs = (0..it.spec.array).map(|_| stamp(shared)).collect();
    let command = Command::AdmitJobs(AdmitJobs {
        request: it.request,
        jobs,
        spec: it.spec,
        submitter: user(asked),
        at: shared.env.clock.wall(),
    });
    let committed = shared.propose(command).await?;
    let Reply::Jobs { jobs, repeated } = committed else {
        return Err(Fault::new(FaultCode::Internal, "the admission was answered strangely"));
    };
    shared.plan.notify_one();
    let revision = shared.group.state().revision;
    Ok(encode(&JobSubmitted { jobs, revision, repeated }))
}

fn known(state: &State, request: &RequestId) -> bool {
    state.requests.contains(request)
}

/// Refuses what no site could ever run, as far as is known.
fn placeable(shared: &Shared, state: &State, it: &JobSubmit) -> Result<(), Fault> {
    let possible = shared.with_leader(|leader, _| could_ever_run(state, leader, &it.spec))?;
    if possible {
        return Ok(());
    }
    let spec = &it.spec;
    let mut classes: Vec<_> = spec.gpu_classes.iter().map(ToString::to_string).collect();
    if classes.is_empty() {
        classes.push("any".into());
    }
    let message = format!(
        "no site could ever run `{}`: {} nodes x {} GPUs of class {}",
        spec.name,
        spec.nodes,
        spec.gpus_per_node,
        classes.join(" or ")
    );
    let hint = "see `federation capacity` for what each site has; placement rules count too";
    Err(Fault::new(FaultCode::Unplaceable, message).with_hint(hint))
}

fn view(shared: &Shared, state: &State, job: &Job) -> JobView {
    shared.with_view(|leader| job_view(state, job, leader))
}

fn views(shared: &Shared, state: &State, ids: &[JobId]) -> Vec<JobView> {
    let jobs = ids.iter().filter_map(|id| state.jobs.get(id));
    jobs.map(|job| view(shared, state, job)).collect()
}

pub(crate) async fn cancel(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobSelector = decode(asked)?;
    let ids = resolve_jobs(&shared.confirm().await?, &it.text)?;
    let at = shared.env.clock.wall();
    for &job in &ids {
        shared.propose(Command::CancelJob(CancelJob { job, at })).await?;
    }
    let state = shared.group.state();
    Ok(encode(&JobCancelled { jobs: views(shared, &state, &ids) }))
}

pub(crate) async fn list(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobList = decode(asked)?;
    let state = shared.confirm().await?;
    let limit = match it.limit {
        0 => LISTED_MAX,
        limit => usize::try_from(limit).unwrap_or(LISTED_MAX).min(LISTED_MAX),
    };
    let mut found: Vec<&Job> =
        state.jobs.values().filter(|job| !it.active_only || !job.has_ended()).collect();
    found.sort_by_key(|job| (job.order, job.array_index));
    let cut = found.len() > limit;
    let latest = found.split_off(found.len().saturating_sub(limit));
    let jobs = latest.into_iter().map(|job| view(shared, &state, job)).collect();
    Ok(encode(&JobViews { revision: state.revision, jobs, cut }))
}

pub(crate) async fn show(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobSelector = decode(asked)?;
    let state = shared.confirm().await?;
    let ids = resolve_jobs(&state, &it.text)?;
    let jobs = views(shared, &state, &ids);
    Ok(encode(&JobViews { revision: state.revision, jobs, cut: false }))
}

/// Answers when the job is no longer as the asker knows it, or after the wait.
pub(crate) async fn wait(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobWait = decode(asked)?;
    let until = shared.env.clock.now().after(it.wait.min(WAIT_MAX));
    let mut applied = shared.applied.subscribe();
    let mut state = shared.confirm().await?;
    loop {
        applied.borrow_and_update();
        let job = state.jobs.get(&it.job).ok_or_else(|| {
            Fault::new(FaultCode::NotFound, format!("there is no job {}", it.job))
        })?;
        let same_state = it.state.is_none_or(|known| known == job_state(&state, job));
        let same_epoch = it.epoch.0 == 0 || it.epoch == job.epoch;
        let news = job.has_ended() || !same_epoch || (it.state.is_some() && !same_state);
        if news || shared.env.clock.now() >= until {
            return Ok(encode(&view(shared, &state, job)));
        }
        let _ = shared.env.timeout(LOOK_AGAIN, applied.changed()).await;
        state = shared.group.state();
    }
}

pub(crate) async fn why_not(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobSelector = decode(asked)?;
    let state = shared.confirm().await?;
    let ids = resolve_jobs(&state, &it.text)?;
    let job = ids.first().and_then(|id| state.jobs.get(id));
    let job = job.ok_or_else(|| Fault::new(FaultCode::NotFound, "the job is gone"))?;
    let sites = shared.with_leader(|leader, now| why(&state, leader, now, job))?;
    Ok(encode(&JobWhy { job: view(shared, &state, job), sites }))
}
