//! Users submit jobs, one by one or many on a lane. What arrives together is agreed on together.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::lane::{Lane, LaneSender};
use federation_core::{AdmitJobs, Command, PackedSpec, Reply, State, could_ever_run};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::{JobId, RequestId};
use specs::job::{JobSpec, Needs};
use specs::version::ClusterVersion;
use specs::wire::client::{JobSubmit, JobSubmitted, SubmitAnswer, SubmitFrame};

use crate::raft::Committed;
use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Most submissions of a lane that are agreed on together.
const TOGETHER_MAX: usize = 256;
/// Groups of a lane's submissions that are under way at a time; the lane is not read meanwhile.
const GROUPS_MAX: usize = 8;

type Outcome = Result<JobSubmitted, Fault>;

/// A new id whose order follows the wall clock: a version 7 UUID.
fn stamp(shared: &Shared) -> JobId {
    let millis = shared.env.clock.wall().0;
    let random: [u8; 10] = shared.env.random_bytes();
    JobId(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().as_u128())
}

/// Checks, stamps and agrees on a submission. Acknowledged means durable on a majority.
pub(crate) async fn submit(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let submitter = super::client::user(&asked.caller);
    let outcome = admit(shared, &submitter, vec![decode(asked)?]).await.pop();
    let lost = || Err(Fault::new(FaultCode::Internal, "the submission was lost"));
    Ok(encode(&outcome.unwrap_or_else(lost)?))
}

/// Takes submissions from a lane, and answers each, until the lane ends.
pub(crate) async fn lane(shared: &Arc<Shared>, submitter: &str, lane: Lane) {
    let (sender, mut receiver) = lane.split();
    let mut frames = Vec::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(answers) = under_way.next() => {
                if send(&sender, answers).await.is_none() {
                    return;
                }
            }
            count = receiver.recv_many(&mut frames, TOGETHER_MAX),
                if under_way.len() < GROUPS_MAX =>
            {
                if count == 0 {
                    break;
                }
                let read: Result<Vec<_>, _> =
                    frames.drain(..).map(|frame| SubmitFrame::decode(&frame)).collect();
                match read {
                    Ok(group) => under_way.push(answer(shared, submitter, group)),
                    Err(error) => {
                        tracing::warn!(%error, submitter, "a submission could not be read");
                        break;
                    }
                }
            }
        }
    }
    // What was taken is answered, although nothing more is read.
    while let Some(answers) = under_way.next().await {
        if send(&sender, answers).await.is_none() {
            return;
        }
    }
}

async fn send(sender: &LaneSender, answers: Vec<SubmitAnswer>) -> Option<()> {
    for answer in answers {
        sender.send(answer.encode()).await.ok()?;
    }
    Some(())
}

async fn answer(
    shared: &Arc<Shared>,
    submitter: &str,
    group: Vec<SubmitFrame>,
) -> Vec<SubmitAnswer> {
    let (numbers, submits): (Vec<_>, Vec<_>) =
        group.into_iter().map(|frame| (frame.number, frame.submit)).unzip();
    let outcomes = admit(shared, submitter, submits).await;
    let answer = |(number, outcome): (u64, Outcome)| match outcome {
        Ok(submitted) => SubmitAnswer { number, submitted: Some(submitted), fault: None },
        Err(fault) => SubmitAnswer { number, submitted: None, fault: Some(fault) },
    };
    numbers.into_iter().zip(outcomes).map(answer).collect()
}

/// Admits what may be admitted, all at once. An outcome for each, in order.
async fn admit(shared: &Arc<Shared>, submitter: &str, submits: Vec<JobSubmit>) -> Vec<Outcome> {
    let state = shared.group.state();
    let at = shared.env.clock.wall();
    let (mut commands, mut checked) = (Vec::new(), Vec::new());
    for JobSubmit { request, spec } in submits {
        checked.push(check(shared, &state, &request, &spec).map(|()| {
            let jobs = (0..spec.array).map(|_| stamp(shared)).collect();
            let submitter = submitter.to_owned();
            let spec = PackedSpec::from(&*spec);
            commands.push(Command::AdmitJobs(AdmitJobs { request, jobs, spec, submitter, at }));
        }));
    }
    let mut agreed = match shared.agree(&commands).await {
        Ok(agreed) => agreed.into_iter().map(submitted).collect::<Vec<_>>(),
        Err(fault) => vec![Err(fault); commands.len()],
    }
    .into_iter();
    let lost = || Err(Fault::new(FaultCode::Internal, "the submission was lost"));
    let outcomes =
        checked.into_iter().map(|it| it.and_then(|()| agreed.next().unwrap_or_else(lost)));
    outcomes.collect()
}

fn submitted(committed: Committed) -> Outcome {
    let revision = committed.revision;
    match committed.reply {
        Reply::Jobs { jobs, repeated } => Ok(JobSubmitted { jobs, revision, repeated }),
        Reply::Refused(fault) => Err(fault),
        Reply::Done | Reply::NoOp(_) | Reply::Controller(_) | Reply::Placed { .. } => {
            Err(Fault::new(FaultCode::Internal, "the admission was answered strangely"))
        }
    }
}

fn check(shared: &Shared, state: &State, request: &RequestId, spec: &JobSpec) -> Result<(), Fault> {
    if state.site.is_none() {
        return Err(Fault::new(FaultCode::Busy, "the site is being founded"));
    }
    spec.check().map_err(|error| {
        Fault::new(FaultCode::InvalidArgument, format!("the job is not valid: {error}"))
    })?;
    if spec.since() > state.version {
        return Err(comes_later(state, spec));
    }
    if state.requests.contains(request) {
        return Ok(());
    }
    let at = shared.env.clock.wall();
    if spec.due(at).is_some_and(|due| due <= at) {
        let message = "the job is not valid: spec.time.finishBy: has passed";
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    placeable(shared, state, spec)
}

/// The site's version does not know all that the job says.
fn comes_later(state: &State, spec: &JobSpec) -> Fault {
    let (has, needed) = (state.version, spec.since());
    let what = if needed >= ClusterVersion::DEMANDS {
        "`spec.health`"
    } else if needed >= ClusterVersion::SITES {
        "a deadline or `data`"
    } else if spec.needs.0 == Needs::default() {
        "an account, `preemptible` or `array.maxRunning`"
    } else {
        "what the job asks of its nodes"
    };
    let message = format!("{what} needs version {needed} of the site, which has version {has}");
    let hint = "once all controllers run this release: `federation upgrade finalize`";
    Fault::new(FaultCode::Conflict, message).with_hint(hint)
}

/// Refuses what no site could ever run, as far as is known.
fn placeable(shared: &Shared, state: &State, spec: &JobSpec) -> Result<(), Fault> {
    let possible = shared.with_leader(|leader, _| could_ever_run(state, leader, spec))?;
    if possible {
        return Ok(());
    }
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
