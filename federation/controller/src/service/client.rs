//! Users ask about jobs.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use federation_core::{CancelJob, Command, Job, State, job_state, job_view, resolve_jobs, why};
use specs::fault::{Fault, FaultCode};
use specs::id::JobId;
use specs::unit::Millis;
use specs::wire::client::{JobCancelled, JobList, JobSelector, JobView, JobViews, JobWait, JobWhy};

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Most jobs of one listing.
const LISTED_MAX: usize = 10_000;
/// Longest that a question waits for news.
const WAIT_MAX: Millis = Millis(30_000);
/// While it waits, it looks at least this often.
const LOOK_AGAIN: Millis = Millis(250);

pub(crate) fn user(caller: &Identity) -> String {
    match caller {
        Identity::User { user, .. } => user.to_string(),
        Identity::Controller { .. } | Identity::Agent { .. } | Identity::Anonymous => {
            caller.to_string()
        }
    }
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

pub(crate) fn list(shared: &Shared, asked: &Asked, state: &State) -> Result<Bytes, Fault> {
    let it: JobList = decode(asked)?;
    let limit = match it.limit {
        0 => LISTED_MAX,
        limit => usize::try_from(limit).unwrap_or(LISTED_MAX).min(LISTED_MAX),
    };
    let mut found: Vec<&Job> =
        state.jobs.values().filter(|job| !it.active_only || !job.has_ended()).collect();
    found.sort_by_key(|job| (job.order, job.array_index));
    let cut = found.len() > limit;
    let latest = found.split_off(found.len().saturating_sub(limit));
    let jobs = latest.into_iter().map(|job| view(shared, state, job)).collect();
    Ok(encode(&JobViews { revision: state.revision, jobs, cut }))
}

pub(crate) fn show(shared: &Shared, asked: &Asked, state: &State) -> Result<Bytes, Fault> {
    let it: JobSelector = decode(asked)?;
    let ids = resolve_jobs(state, &it.text)?;
    let jobs = views(shared, state, &ids);
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
