//! Output of tasks: from the node that has it, wherever it is, in pieces with offsets, so that a
//! reader goes on where it stopped.

use std::sync::Arc;

use bytes::Bytes;
use federation_core::{Attempt, Job, JobPhase, State};
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::{Epoch, NodeId, SiteId};
use specs::unit::Millis;
use specs::wire::agent::{LogChunk, NodeLogs};
use specs::wire::client::JobLogs;
use specs::wire::method::Method;
use specs::wire::peer::PeerLogs;

use crate::peer::call_peer;
use crate::service::client::unread;
use crate::service::peer::asking_site;
use crate::service::{Asked, decode, encode};
use crate::shared::{Shared, lock};

/// What is left for the way back, of a question that waits.
const MARGIN: Millis = Millis(3_000);
/// Spans are cut to this.
const WAIT_MAX: Millis = Millis(20_000);

/// Reads output for a user of this site, at this site or through the one that hosts the attempt.
pub(crate) async fn for_client(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: JobLogs = decode(asked)?;
    let state = shared.confirm().await?;
    let archived;
    let job = match state.jobs.get(&it.job) {
        Some(job) => job,
        None => {
            let found = shared.group.archived_job(it.job).await.map_err(|e| unread(&e))?;
            let none = || Fault::new(FaultCode::NotFound, format!("there is no job {}", it.job));
            archived = found.ok_or_else(none)?;
            &archived
        }
    };
    let attempt = match it.epoch {
        Epoch(0) => with_output(job),
        epoch => job.attempts.iter().find(|attempt| attempt.epoch == epoch),
    };
    let Some(attempt) = attempt else { return nothing_yet(job, &it) };
    let wait = it.wait.min(asked.deadline.minus(MARGIN)).min(WAIT_MAX);
    let node = node_at(&attempt.nodes, it.node_rank)?;
    let question = NodeLogs {
        home: shared.site.clone(),
        job: it.job,
        epoch: attempt.epoch,
        task: it.task,
        stream: it.stream,
        offset: it.offset,
        max_bytes: it.max_bytes,
        wait,
    };
    if state.is_own(&attempt.host) {
        from_node(shared, node, &question).await
    } else {
        from_peer(shared, &state, &attempt.host, node, &question).await
    }
}

/// The attempt a reader means who names none: the one whose result counts, else the last.
fn with_output(job: &Job) -> Option<&Attempt> {
    let finished = |attempt: &&Attempt| {
        let outcome = attempt.outcome.as_ref();
        outcome.is_some_and(|it| it.ending == specs::wire::agent::Ending::Exited)
    };
    job.attempts.iter().find(finished).or_else(|| job.attempts.last())
}

/// A job that has not begun has no output yet; one that ended without beginning never will.
fn nothing_yet(job: &Job, it: &JobLogs) -> Result<Bytes, Fault> {
    match job.phase {
        JobPhase::Queued(_) if it.epoch == Epoch(0) => {
            let fault = Fault::new(FaultCode::NotFound, "the job has not started yet");
            Err(fault.with_hint("follow it with `federation job logs -f`"))
        }
        JobPhase::Ended(_) if it.epoch == Epoch(0) => {
            Err(Fault::new(FaultCode::NotFound, "the job ended before it started"))
        }
        JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => {
            let message = format!("the job has no attempt {}", it.epoch);
            Err(Fault::new(FaultCode::NotFound, message))
        }
    }
}

fn node_at(nodes: &[NodeId], rank: u32) -> Result<&NodeId, Fault> {
    let node = usize::try_from(rank).ok().and_then(|rank| nodes.get(rank));
    node.ok_or_else(|| {
        let message = format!("there is no rank {rank}: the gang has {} nodes", nodes.len());
        Fault::new(FaultCode::NotFound, message)
    })
}

async fn from_peer(
    shared: &Arc<Shared>,
    state: &State,
    host: &SiteId,
    node: &NodeId,
    it: &NodeLogs,
) -> Result<Bytes, Fault> {
    let question = PeerLogs {
        job: it.job,
        epoch: it.epoch,
        node: node.clone(),
        task: it.task,
        stream: it.stream,
        offset: it.offset,
        max_bytes: it.max_bytes,
        wait: it.wait,
    };
    call_peer(shared, state, host, &mut 0, Method::PeerLogs, question.encode()).await
}

/// Reads a guest's output for its home; the node gives it to no other home.
pub(crate) async fn for_peer(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let it: PeerLogs = decode(asked)?;
    let question = NodeLogs {
        home: asking_site(asked)?.clone(),
        job: it.job,
        epoch: it.epoch,
        task: it.task,
        stream: it.stream,
        offset: it.offset,
        max_bytes: it.max_bytes,
        wait: it.wait.min(asked.deadline.minus(MARGIN)).min(WAIT_MAX),
    };
    from_node(shared, &it.node, &question).await
}

async fn from_node(
    shared: &Arc<Shared>,
    node: &NodeId,
    question: &NodeLogs,
) -> Result<Bytes, Fault> {
    let agent = lock(&shared.agents).get(node).cloned().ok_or_else(|| {
        let message = format!("the agent of node {node}, which has the output, is not connected");
        Fault::new(FaultCode::Unreachable, message)
    })?;
    let deadline = Some(question.wait.plus(MARGIN));
    let answer = agent.call(Method::NodeLogs, question.encode(), deadline).await;
    let answer = answer.map_err(fabric_quic::connection::CallError::into_fault)?;
    let chunk = LogChunk::decode(&answer).map_err(|error| {
        Fault::new(FaultCode::Internal, format!("node {node} answered strangely: {error}"))
    })?;
    Ok(encode(&chunk))
}
