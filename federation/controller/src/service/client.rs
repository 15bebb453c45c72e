//! Users ask about jobs.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use federation_core::{
    CancelJob, Command, Job, State, job_state, job_view, queue_why, resolve_jobs, why,
};
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
    let state = shared.confirm().await?;
    let ids = match resolve_jobs(&state, &it.text) {
        Ok(ids) => ids,
        Err(fault) => {
            // Whoever left the state has ended, and there is nothing to cancel.
            let jobs = archived(shared, &state, &it.text).await?;
            return if jobs.is_empty() { Err(fault) } else { Ok(encode(&JobCancelled { jobs })) };
        }
    };
    let at = shared.env.clock.wall();
    for &job in &ids {
        shared.propose(Command::CancelJob(CancelJob { job, at })).await?;
    }
    let state = shared.group.state();
    Ok(encode(&JobCancelled { jobs: views(shared, &state, &ids) }))
}

pub(crate) fn list(shared: &Shared, asked: &Asked, state: &State) -> Result<Bytes, Fault> {
    let it: JobList = decode(asked)?;
    if it.archived {
        let message = "the archive is not listed without the leader";
        return Err(
            Fault::new(FaultCode::InvalidArgument, message).with_hint("ask without --stale")
        );
    }
    let limit = limit_of(&it);
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

fn limit_of(it: &JobList) -> usize {
    match it.limit {
        0 => LISTED_MAX,
        limit => usize::try_from(limit).unwrap_or(LISTED_MAX).min(LISTED_MAX),
    }
}

/// Lists the state's jobs, or those of the archive.
pub(crate) async fn list_any(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobList = decode(asked)?;
    let state = shared.confirm().await?;
    if !it.archived {
        return list(shared, asked, &state);
    }
    let limit = limit_of(&it);
    let mut found = shared.group.archived_newest(limit + 1).await.map_err(|e| unread(&e))?;
    let cut = found.len() > limit;
    found.truncate(limit);
    let jobs = found.iter().map(|job| archived_view(shared, &state, job)).collect();
    Ok(encode(&JobViews { revision: state.revision, jobs, cut }))
}

/// Shows a job wherever it is by now.
pub(crate) async fn show_any(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobSelector = decode(asked)?;
    let state = shared.confirm().await?;
    match show(shared, asked, &state) {
        Err(fault) if fault.code == FaultCode::NotFound => {
            let jobs = archived(shared, &state, &it.text).await?;
            let revision = state.revision;
            if jobs.is_empty() {
                return Err(fault);
            }
            Ok(encode(&JobViews { revision, jobs, cut: false }))
        }
        shown => shown,
    }
}

/// The archived job that an id, or a unique beginning of one, names; none if there is none.
async fn archived(shared: &Shared, state: &State, text: &str) -> Result<Vec<JobView>, Fault> {
    if state.archived == 0 {
        return Ok(Vec::new());
    }
    let view = |job: &Job| archived_view(shared, state, job);
    if let Ok(id) = text.parse::<JobId>() {
        let found = shared.group.archived_job(id).await.map_err(|e| unread(&e))?;
        return Ok(found.iter().map(view).collect());
    }
    let Some((from, to)) = ids_from(text) else { return Ok(Vec::new()) };
    let found = shared.group.archived_between(from, to, 2).await.map_err(|e| unread(&e))?;
    if found.len() > 1 {
        let message = format!("`{text}` is the beginning of several archived jobs");
        return Err(Fault::new(FaultCode::Conflict, message).with_hint("give more of the id"));
    }
    Ok(found.iter().map(view).collect())
}

/// The first and the last id that begin so.
fn ids_from(text: &str) -> Option<(JobId, JobId)> {
    let digits = text.strip_prefix(JobId::PREFIX).unwrap_or(text);
    let open = 32_usize.checked_sub(digits.len()).filter(|open| (1..32).contains(open))?;
    if !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let begin = u128::from_str_radix(digits, 16).ok()? << (open * 4);
    Some((JobId(begin), JobId(begin | ((1 << (open * 4)) - 1))))
}

fn archived_view(shared: &Shared, state: &State, job: &Job) -> JobView {
    JobView { archived: true, ..view(shared, state, job) }
}

pub(crate) fn unread(error: &std::io::Error) -> Fault {
    Fault::new(FaultCode::Internal, format!("the archive cannot be read: {error}"))
}

/// Answers when the job is no longer as the asker knows it, or after the wait.
pub(crate) async fn wait(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobWait = decode(asked)?;
    let until = shared.env.clock.now().after(it.wait.min(WAIT_MAX));
    let mut applied = shared.applied.subscribe();
    let mut state = shared.confirm().await?;
    loop {
        applied.borrow_and_update();
        let Some(job) = state.jobs.get(&it.job) else {
            let found = archived(shared, &state, &it.job.to_string()).await?;
            let none = || Fault::new(FaultCode::NotFound, format!("there is no job {}", it.job));
            return found.first().map(encode).ok_or_else(none);
        };
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
    let at = shared.env.clock.wall();
    let (sites, queue) = shared.with_leader(|leader, now| {
        (why(&state, leader, now, job), queue_why(&state, leader, at, job))
    })?;
    Ok(encode(&JobWhy { job: view(shared, &state, job), sites, queue }))
}
