//! The user's side of a lane of submissions: many under way at a time over one stream.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fabric_quic::connection::{CallError, Connection};
use fabric_quic::env::Env;
use fabric_quic::lane::{LaneReceiver, LaneSender};
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::wire::client::{JobSubmit, JobSubmitted, SubmitAnswer, SubmitFrame};
use specs::wire::method::Method;
use tokio::sync::oneshot;

/// Submits jobs to the leader of a site. Shared by as many tasks as there are.
pub struct SubmitLane {
    sender: LaneSender,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Default)]
struct Waiting {
    /// Number of the last submission.
    last: u64,
    answers: BTreeMap<u64, oneshot::Sender<SubmitAnswer>>,
    ended: bool,
}

impl SubmitLane {
    /// Opens a lane to a controller. One that does not lead refuses each submission, with the
    /// leader's address as a hint.
    ///
    /// # Errors
    /// As [`Connection::open_lane`].
    pub async fn open(env: &Env, connection: &Connection) -> Result<Self, CallError> {
        let (sender, receiver) = connection.open_lane(Method::JobSubmit).await?.split();
        let waiting = Arc::<Mutex<Waiting>>::default();
        env.spawn(receive(receiver, waiting.clone()));
        Ok(Self { sender, waiting })
    }

    /// Submits a job. There is no deadline: drop the future to give up.
    ///
    /// # Errors
    /// A refusal; or [`FaultCode::OutcomeUnknown`] when the lane ends before the answer, and then
    /// the same request may be repeated on another.
    pub async fn submit(&self, submit: JobSubmit) -> Result<JobSubmitted, Fault> {
        let unknown = || Fault::new(FaultCode::OutcomeUnknown, "the lane ended before the answer");
        let (answer, answered) = oneshot::channel();
        let number = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.ended {
                return Err(Fault::new(FaultCode::Unreachable, "the lane has ended"));
            }
            waiting.last += 1;
            let number = waiting.last;
            waiting.answers.insert(number, answer);
            number
        };
        let frame = SubmitFrame { number, submit }.encode();
        self.sender.send(frame).await.map_err(|_| unknown())?;
        let SubmitAnswer { submitted, fault, .. } = answered.await.map_err(|_| unknown())?;
        match (submitted, fault) {
            (Some(submitted), _) => Ok(submitted),
            (None, Some(fault)) => Err(fault),
            (None, None) => Err(Fault::new(FaultCode::Internal, "the answer says nothing")),
        }
    }
}

async fn receive(mut receiver: LaneReceiver, waiting: Arc<Mutex<Waiting>>) {
    while let Some(frame) = receiver.recv().await {
        let Ok(answer) = SubmitAnswer::decode(&frame) else { break };
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asker) = waiting.answers.remove(&answer.number) {
            // Nobody listens if the asker gave up.
            let _ = asker.send(answer);
        }
    }
    let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
    waiting.ended = true;
    waiting.answers.clear();
}
