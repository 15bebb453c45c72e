//! What a controller answers. A request that only the leader can answer is forwarded to it, whole,
//! by whichever controller it reached; an agent's question is not: agents find the leader.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use fabric_quic::connection::{CallError, CallOptions, Connection};
use fabric_quic::env::BoxFuture;
use fabric_quic::identity::Identity;
use fabric_quic::lane::Lane;
use fabric_quic::pool::CONTROL;
use fabric_quic::service::{Request, Service};
use fabric_quic::verify::Expect;
use federation_core::State;
use specs::codec::{Blob, DecodeError, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::ControllerId;
use specs::unit::Millis;
use specs::wire::client::{StaleAnswer, StaleRead};
use specs::wire::method::{Method, Plane};

use crate::raft::Leadership;
use crate::shared::{Shared, lock};

mod agent;
mod backup;
mod burn_in;
mod client;
mod controller;
mod logs;
mod peer;
mod quota;
mod reserve;
mod signals;
mod signatures;
mod site;
mod submit;
mod token;
mod upgrade;

/// A request, however it came here.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) caller: Identity,
    pub(crate) method: Method,
    pub(crate) body: Bytes,
    /// Binds a proof to the connection that the asker itself made.
    pub(crate) exporter: [u8; 32],
    /// What is left to answer in.
    pub(crate) deadline: Millis,
}

specs::message! {
    /// A request as one controller passes it to another.
    pub struct Forwarded {
        1 => method: Method,
        2 => body: Blob,
        /// The asker's identity, as a URI; empty for one without.
        3 => caller: String,
        4 => exporter: Blob,
    }
}

/// The service of a controller's endpoint; it answers once the controller is up.
#[derive(Default)]
pub(crate) struct Front {
    shared: OnceLock<Arc<Shared>>,
}

impl Front {
    pub(crate) fn open(&self, shared: Arc<Shared>) {
        let _ = self.shared.set(shared);
    }

    fn shared(&self) -> Result<&Arc<Shared>, Fault> {
        let starting = || Fault::new(FaultCode::Busy, "this controller is starting");
        self.shared.get().ok_or_else(starting)
    }
}

impl Service for Front {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            let shared = self.shared()?;
            if request.method.plane() == Plane::Raft && request.method != Method::Forward {
                return shared.group.handle_call(request.method, request.body).await;
            }
            let asked = Asked {
                exporter: request.connection.exporter(),
                deadline: request.deadline,
                caller: request.caller,
                method: request.method,
                body: request.body,
            };
            if asked.method == Method::Forward {
                return answer(shared, unwrap(&asked)?).await;
            }
            if is_local(asked.method) {
                return answer(shared, asked).await;
            }
            answer_or_forward(shared, asked).await
        })
    }

    fn accepts_lane(&self, method: Method) -> bool {
        method == Method::RaftAppend || method == Method::JobSubmit
    }

    fn lane(&self, request: Request, lane: Lane) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let Ok(shared) = self.shared() else { return };
            if request.method == Method::JobSubmit {
                submit::lane(shared, &client::user(&request.caller), lane).await;
            } else {
                shared.group.handle_lane(lane).await;
            }
        })
    }

    fn connected(&self, connection: &Connection) {
        let (Ok(shared), Identity::Agent { node, .. }) = (self.shared(), connection.peer()) else {
            return;
        };
        lock(&shared.agents).insert(node.clone(), connection.clone());
    }

    fn disconnected(&self, connection: &Connection) {
        let (Ok(shared), Identity::Agent { node, .. }) = (self.shared(), connection.peer()) else {
            return;
        };
        let mut agents = lock(&shared.agents);
        if agents.get(node).is_some_and(|known| known.id() == connection.id()) {
            agents.remove(node);
        }
    }
}

/// Reads a request that a fellow controller passed on.
fn unwrap(asked: &Asked) -> Result<Asked, Fault> {
    let it = Forwarded::decode(&asked.body).map_err(|error| malformed(&error))?;
    let caller = if it.caller.is_empty() {
        Identity::Anonymous
    } else {
        it.caller.parse().map_err(|_| {
            Fault::new(FaultCode::InvalidArgument, "the forwarded identity cannot be read")
        })?
    };
    let exporter = it.exporter.0.try_into().map_err(|_| {
        Fault::new(FaultCode::InvalidArgument, "the forwarded exporter has a wrong length")
    })?;
    if it.method.plane() == Plane::Raft {
        return Err(Fault::new(FaultCode::Forbidden, "only users' requests are forwarded"));
    }
    let (method, body, deadline) = (it.method, Bytes::from(it.body.0), asked.deadline);
    Ok(Asked { caller, method, body, exporter, deadline })
}

/// Whether whoever is asked answers: about itself, or from what it holds.
fn is_local(method: Method) -> bool {
    let local =
        [Method::ControllerStatus, Method::StaleRead, Method::BackupOpen, Method::BackupRead];
    local.contains(&method)
}

async fn answer_or_forward(shared: &Arc<Shared>, asked: Asked) -> Result<Bytes, Fault> {
    let leader = shared.group.leadership().borrow().leader.clone();
    match leader {
        Some((id, _)) if id == shared.id => answer(shared, asked).await,
        _ if asked.method == Method::NodeReport => Err(shared.not_leader()),
        Some((id, address)) => forward(shared, id, &address, &asked).await,
        None => Err(shared.not_leader()),
    }
}

async fn forward(
    shared: &Shared,
    leader: ControllerId,
    address: &str,
    asked: &Asked,
) -> Result<Bytes, Fault> {
    let unreachable = |why: String| Fault::new(FaultCode::NotLeader, why);
    let resolved = shared.env.sockets.resolve(address).await;
    let at = resolved.ok().and_then(|found| found.first().copied());
    let at = at.ok_or_else(|| unreachable(format!("the leader's address {address} is unknown")))?;
    let expect = Expect::Member { site: shared.site.clone(), id: leader };
    let message = Forwarded {
        method: asked.method,
        body: Blob(asked.body.to_vec()),
        caller: asked.caller.uri().unwrap_or_default(),
        exporter: Blob(asked.exporter.to_vec()),
    };
    let options = CallOptions { deadline: Some(asked.deadline), ..CallOptions::default() };
    let call = shared.pool.call(at, &expect, CONTROL, Method::Forward, message.encode(), options);
    let answer = tokio::select! {
        answer = call => answer,
        // A leader that died does not answer; the asker repeats the same request to the next.
        () = another_leads(shared, leader) => {
            let message = "the leader changed while it was asked";
            return Err(Fault::new(FaultCode::Timeout, message));
        }
    };
    answer.map_err(|error| match error {
        CallError::Unreachable(why) => unreachable(format!("the leader is not reached: {why}")),
        error @ (CallError::Fault(_) | CallError::Unknown(_)) => error.into_fault(),
    })
}

/// Ends when another controller is known to lead.
async fn another_leads(shared: &Shared, leader: ControllerId) {
    let mut leadership = shared.group.leadership();
    let other = |now: &Leadership| now.leader.as_ref().is_some_and(|(id, _)| *id != leader);
    // Without news for ever, there is no other leader.
    if leadership.wait_for(other).await.is_err() {
        std::future::pending::<()>().await;
    }
}

pub(crate) fn malformed(error: &DecodeError) -> Fault {
    Fault::new(FaultCode::InvalidArgument, format!("the request cannot be read: {error}"))
}

/// Answers as the leader. Whoever does not lead says so.
async fn answer(shared: &Arc<Shared>, asked: Asked) -> Result<Bytes, Fault> {
    let method = asked.method;
    if method == Method::ControllerStatus {
        return Ok(controller::status(shared));
    }
    if shared.group.state().site.is_none() {
        return Err(Fault::new(FaultCode::Busy, "the site is being founded"));
    }
    dispatch(shared, asked, method).await
}

async fn dispatch(shared: &Arc<Shared>, asked: Asked, method: Method) -> Result<Bytes, Fault> {
    match method {
        Method::NodeReport => agent::report(shared, &asked).await,
        Method::PeerReport => peer::report(shared, &asked).await,
        Method::PeerNudge => peer::nudge(shared, &asked),
        Method::PeerLogs => logs::for_peer(shared, &asked).await,
        Method::JoinRedeem => token::redeem_join(shared, &asked).await,
        Method::EnrolRedeem => token::redeem_enrol(shared, &asked).await,
        Method::JobSubmit => submit::submit(shared, &asked).await,
        Method::JobCancel => client::cancel(shared, &asked).await,
        Method::JobList => client::list_any(shared, &asked).await,
        Method::JobShow => client::show_any(shared, &asked).await,
        Method::NodeList
        | Method::GpuList
        | Method::SiteList
        | Method::Capacity
        | Method::GrantList
        | Method::LoanList
        | Method::QuotaList
        | Method::ReservationList
        | Method::HealthLimitsShow => read(shared, &asked, &shared.confirm().await?),
        Method::JobWait => client::wait(shared, &asked).await,
        Method::JobWhy => client::why_not(shared, &asked).await,
        Method::JobLogs => logs::for_client(shared, &asked).await,
        Method::NodeDrain => site::drain(shared, &asked).await,
        Method::GpuWithhold => site::withhold(shared, &asked).await,
        Method::BurnInStart => burn_in::start(shared, &asked).await,
        Method::HealthLimitsSet => burn_in::set_limits(shared, &asked).await,
        Method::NodeEnroll => token::enroll(shared, &asked).await,
        Method::SiteInvite => token::invite(shared, &asked).await,
        Method::SiteJoin => token::join(shared, &asked).await,
        Method::ControllerList => controller::list(shared).await,
        Method::ControllerAdd => controller::add(shared, &asked).await,
        Method::ControllerRemove => controller::remove(shared, &asked).await,
        Method::ControllerTransfer => controller::transfer(shared, &asked).await,
        Method::QuotaSet | Method::QuotaRemove => quota::change(shared, &asked).await,
        Method::ReservationMake | Method::ReservationEnd => reserve::change(shared, &asked).await,
        Method::SignalsSet
        | Method::WeightsSet
        | Method::DataSetSet
        | Method::DataSetRemove
        | Method::LinkSet => signals::answer(shared, &asked).await,
        Method::UpgradeStatus => upgrade::status(shared).await,
        Method::UpgradeFinalize => upgrade::finalize(shared, &asked).await,
        Method::UpgradeRehearse => upgrade::rehearse(shared, &asked).await,
        Method::StaleRead => stale(shared, &asked),
        Method::BackupOpen => backup::open(shared, &asked).await,
        Method::BackupRead => backup::read(shared, &asked).await,
        Method::ControllerStatus
        | Method::NodeNudge
        | Method::NodeLogs
        | Method::RaftAppend
        | Method::RaftVote
        | Method::RaftPreVote
        | Method::RaftSnapshot
        | Method::RaftTransfer
        | Method::RaftTail
        | Method::RaftArchive
        | Method::RaftVerify
        | Method::Forward => {
            let message = format!("{method} is not for a controller to answer");
            Err(Fault::new(FaultCode::Unimplemented, message))
        }
    }
}

/// Answers from a state, whoever vouches for it.
fn read(shared: &Arc<Shared>, asked: &Asked, state: &State) -> Result<Bytes, Fault> {
    let method = asked.method;
    if method == Method::JobList {
        client::list(shared, asked, state)
    } else if method == Method::JobShow {
        client::show(shared, asked, state)
    } else if method == Method::NodeList {
        Ok(site::nodes(shared, state))
    } else if method == Method::GpuList {
        Ok(site::gpus(shared, state))
    } else if method == Method::SiteList || method == Method::Capacity {
        Ok(site::sites(shared, state))
    } else if method == Method::GrantList {
        Ok(site::grants(shared, state))
    } else if method == Method::LoanList {
        Ok(site::loans(state))
    } else if method == Method::HealthLimitsShow {
        Ok(burn_in::limits(state))
    } else if method == Method::QuotaList {
        Ok(quota::list(shared, state))
    } else if method == Method::ReservationList {
        Ok(reserve::list(shared, state))
    } else if method == Method::ControllerList {
        Ok(controller::views(shared, state))
    } else {
        let message = format!("{method} cannot be answered without the other controllers");
        Err(Fault::new(FaultCode::InvalidArgument, message).with_hint("ask without --stale"))
    }
}

/// Answers from what this controller holds, without asking anyone.
fn stale(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let StaleRead { method, body } = decode(asked)?;
    let inner = Asked { method, body: Bytes::from(body.0), ..asked.clone() };
    // Before the state is read: what is applied meanwhile only makes it newer than it says.
    let heard = shared.group.heard();
    let state = shared.group.state();
    let body = Blob(read(shared, &inner, &state)?.to_vec());
    let (revision, controller) = (state.revision, shared.id);
    Ok(encode(&StaleAnswer { body, revision, controller, heard }))
}

/// Reads a request's body.
pub(crate) fn decode<M: Message>(asked: &Asked) -> Result<M, Fault> {
    M::decode(&asked.body).map_err(|error| malformed(&error))
}

/// The bytes of an answer.
pub(crate) fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode())
}
