//! The site's agreement: a log that all controllers have in the same order, and the state that
//! follows from it. Nothing outside this module names openraft.
//!
//! ```text
//!   propose ─▶ openraft ─▶ log_store ─▶ WAL          network ─▶ other members
//!                 │            ▲                        │
//!                 │            └── serve ◀── lanes, calls
//!                 ▼
//!           state_machine ─▶ State (watch), Applied (mpsc) ─▶ snapshot
//! ```
//!
//! # Invariants
//! * An answer to [`Group::propose`] comes after a majority has the command on disk and this member
//!   has applied it.
//! * What [`Group::confirm`] returns is at least as new as all that was answered anywhere before
//!   the call.
//! * A leader that restarts is a follower first.
//! * A member whose log was cut off at its start votes for no one that could lack what was in it.
//! * The id of a controller is never used again, and a member that lost its disk never comes back
//!   under its old id.
//!
//! Deliberately absent: reads by clock (leader leases), witnesses, and any meaning of a command.

mod abstain;
mod archive;
mod asker;
mod audit;
mod config;
mod links;
mod log_store;
mod marker;
mod members;
mod memory;
mod network;
mod offline;
#[doc(hidden)]
pub mod probe;
mod propose;
mod record;
mod serve;
mod snapshot;
mod start;
mod state_machine;
#[cfg(test)]
mod tests;
mod trigger;
mod types;
mod verify;
mod version;
mod watchdog;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fabric_quic::env::Env;
use fabric_quic::lane::Lane;
use federation_core::{Command, Reply, State};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::impls::BasicNode;
use openraft::{Instant as _, ReadPolicy};
use specs::codec::Message;
use specs::fault::Fault;
use specs::id::{ControllerId, Revision};
use specs::unit::Millis;
use specs::version::ClusterVersion;
use specs::wire::method::Method;
use tokio::sync::watch;

pub use archive::ArchiveView;
use asker::Asker;
pub use config::{
    COMMAND_MAX_BYTES, CutLog, ELECTION_MAX, ELECTION_MIN, HEARTBEAT, KEPT_ENTRIES, RaftConfig,
    SNAPSHOT_BYTES, SNAPSHOT_ENTRIES,
};
pub use members::{Member, Without};
pub use offline::{Look, SnapshotLook, found_with, look};
use propose::Proposer;
use serve::{Own, Raft, Server};
pub use snapshot::Threads;
pub use start::{StartError, Storage};
pub use state_machine::{Applied, OnFatal};
use types::Types;
pub use version::{BUILD, MemberVersions, RaiseError, Told};

/// How long a leader may take to confirm that it leads.
const CONFIRM_SPAN: Millis = Millis(5_000);
/// How long one change of the membership may take.
const CHANGE_SPAN: Millis = Millis(5_000);
/// How long a leader that stops waits for another to take over.
const TRANSFER_SPAN: Millis = Millis(1_500);
/// How often it looks.
const TRANSFER_POLL: Millis = Millis(20);

/// One member's part in the group. Clones share it.
#[derive(Clone)]
pub struct Group {
    inner: Arc<Inner>,
}

struct Inner {
    id: ControllerId,
    env: Env,
    raft: Raft,
    proposer: Proposer,
    server: Server,
    own: Own,
    view: watch::Receiver<State>,
    leadership: watch::Receiver<Leadership>,
    is_stopping: Arc<AtomicBool>,
    asker: Asker,
    changing: tokio::sync::Mutex<members::Close>,
}

/// Who leads, as this member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leadership {
    pub term: u64,
    /// With its address.
    pub leader: Option<(ControllerId, String)>,
    /// True if it is this member. Another may have been elected since: see [`Group::confirm`].
    pub own: bool,
}

/// A command that is agreed on and applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    pub reply: Reply,
    /// The state's, right after the command.
    pub revision: Revision,
}

/// Numbers of one member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RaftMetricsView {
    pub term: u64,
    /// Index of the last entry in the log.
    pub last_log: u64,
    /// Index of the last entry that is known to be committed.
    pub committed: u64,
    /// Index of the last entry applied.
    pub applied: u64,
    /// Index of the last entry in the newest snapshot; zero without one.
    pub snapshot: u64,
    /// Index of the last entry that is gone from the log; zero without one.
    pub purged: u64,
    /// Size of the newest snapshot, bytes.
    pub snapshot_bytes: u64,
    pub is_leader: bool,
    /// The log's disk has no room.
    pub is_full: bool,
    /// The log was cut off at the start, and the member does not vote yet.
    pub is_abstaining: bool,
}

/// Why a command was not answered, or a state not confirmed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was done. Ask the leader; if none is known, again in a moment.
    #[error("this controller does not lead its site")]
    NotLeader { leader: Option<(ControllerId, String)> },
    /// Nothing was done.
    #[error("the disk of this controller's log is full")]
    DiskFull,
    /// Nothing was done.
    #[error("this needs version {needs}, and the site has {has}")]
    TooNew { needs: ClusterVersion, has: ClusterVersion },
    /// It may have been done, or may be yet.
    #[error("it is not known whether this was agreed on: {0}")]
    Unknown(String),
    /// The member has stopped. What was under way may have been done.
    #[error("the controller is stopping: {0}")]
    Stopped(String),
}

/// Why the group was not founded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FoundError {
    #[error("the group is founded already")]
    Founded,
    #[error("the controller is stopping: {0}")]
    Stopped(String),
}

impl Group {
    /// For how long the log's disk has been at what it was last asked to do; none while it is idle.
    #[must_use]
    pub fn disk_stalled_for(&self) -> Option<Duration> {
        self.inner.own.log.stalled_for()
    }

    /// True if nothing was ever agreed on or voted for here: a controller before the site is
    /// founded, or one that waits to be taken in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inner.own.log.is_empty()
    }

    /// Founds the group with this member alone.
    ///
    /// # Errors
    /// There is something in the log, or the member has stopped.
    pub async fn found(&self, address: String) -> Result<(), FoundError> {
        let alone = BTreeMap::from([(self.inner.id.0, BasicNode::new(address))]);
        match self.inner.raft.initialize(alone).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(
                InitializeError::NotAllowed(_) | InitializeError::NotInMembers(_),
            )) => Err(FoundError::Founded),
            Err(RaftError::Fatal(error)) => Err(FoundError::Stopped(error.to_string())),
        }
    }

    /// Agrees on a command.
    ///
    /// # Errors
    /// As [`ProposeError`] says. Only [`ProposeError::NotLeader`], [`ProposeError::DiskFull`] and
    /// [`ProposeError::TooNew`] say for certain that nothing was done.
    pub async fn propose(&self, command: Command) -> Result<Committed, ProposeError> {
        let outcome = self.propose_all(&[command]).await?.pop();
        outcome.ok_or_else(|| ProposeError::Unknown("the answer is lost".to_owned()))
    }

    /// Agrees on several commands at the cost of one, if they are not very large. Each is applied on
    /// its own, in order, with nothing between them; there are as many outcomes as commands.
    ///
    /// # Errors
    /// As [`Group::propose`], for all of them.
    pub async fn propose_all(&self, commands: &[Command]) -> Result<Vec<Committed>, ProposeError> {
        if self.inner.own.log.is_full() {
            return Err(ProposeError::DiskFull);
        }
        let has = self.inner.view.borrow().version;
        if let Some(needs) = commands.iter().map(Command::since).max().filter(|it| *it > has) {
            return Err(ProposeError::TooNew { needs, has });
        }
        let commands: Vec<Vec<u8>> = commands.iter().map(Message::encode).collect();
        if let Some(large) = commands.iter().find(|it| it.len() > COMMAND_MAX_BYTES) {
            let (have, max) = (large.len(), COMMAND_MAX_BYTES);
            let why = format!("not proposed: a command of {have} bytes exceeds the limit of {max}");
            return Err(ProposeError::Unknown(why));
        }
        if commands.iter().map(Vec::len).sum::<usize>() > COMMAND_MAX_BYTES {
            let mut outcomes = Vec::new();
            for command in commands {
                outcomes.extend(self.inner.proposer.propose(vec![command]).await?);
            }
            return Ok(outcomes);
        }
        let outcome = self.inner.proposer.propose(commands).await;
        match outcome {
            Err(ProposeError::Unknown(_)) if self.inner.own.log.is_full() => {
                Err(ProposeError::Unknown("the disk is full".to_owned()))
            }
            outcome => outcome,
        }
    }

    /// The state, after this member has made sure, since the call, that it leads.
    ///
    /// # Errors
    /// As [`ProposeError`] says; nothing was done in any case.
    pub async fn confirm(&self) -> Result<State, ProposeError> {
        let confirmed = Box::pin(self.inner.raft.ensure_linearizable(ReadPolicy::ReadIndex));
        let Ok(confirmed) = self.inner.env.timeout(CONFIRM_SPAN, confirmed).await else {
            return Err(ProposeError::NotLeader { leader: None });
        };
        match confirmed {
            Ok(_) => Ok(self.state()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(to.into()),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ProposeError::NotLeader { leader: None })
            }
            Err(RaftError::Fatal(error)) => Err(ProposeError::Stopped(error.to_string())),
        }
    }

    /// The state as far as it is applied here; it may be old.
    #[must_use]
    pub fn state(&self) -> State {
        self.inner.view.borrow().clone()
    }

    /// Who leads, and each change of it.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership.clone()
    }

    /// The members of the group, learners too.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        members::members(&self.inner.raft)
    }

    /// Takes the next step towards a membership, and returns once it is agreed on. Does nothing if
    /// this member does not lead or a step is under way, so call it until it has what it wants.
    /// A leader that is not wanted removes itself last and lets another lead.
    ///
    /// # Errors
    /// The step was refused, or is not known to be agreed on in time. Call it again.
    pub async fn reconcile_members(
        &self,
        wanted: BTreeMap<ControllerId, String>,
    ) -> Result<(), ProposeError> {
        let Ok(mut close) = self.inner.changing.try_lock() else { return Ok(()) };
        let unfit = self.unfit_learners().await;
        let now = self.inner.env.clock.now();
        let step = members::reconcile(&self.inner.raft, &wanted, &unfit, &mut close, now);
        let step = Box::pin(step);
        match self.inner.env.timeout(CHANGE_SPAN, step).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) => Err(to.into()),
            Ok(Err(RaftError::APIError(
                error @ (ClientWriteError::LogEntryDiscarded(_)
                | ClientWriteError::ChangeMembershipError(_)
                | ClientWriteError::PreconditionFailed(_)),
            ))) => Err(ProposeError::Unknown(error.to_string())),
            Ok(Err(RaftError::Fatal(error))) => Err(ProposeError::Stopped(error.to_string())),
            Err(elapsed) => Err(ProposeError::Unknown(elapsed.to_string())),
        }
    }

    /// Answers a call of the Raft plane from another member.
    ///
    /// # Errors
    /// The call is malformed, or the member has stopped.
    pub async fn handle_call(&self, method: Method, body: Bytes) -> Result<Bytes, Fault> {
        Box::pin(self.inner.server.call(method, &body)).await
    }

    /// Serves a lane for [`Method::RaftAppend`] from another member until it ends.
    pub async fn handle_lane(&self, lane: Lane) {
        self.inner.server.lane(lane).await;
    }

    #[must_use]
    pub fn metrics(&self) -> RaftMetricsView {
        let raft = self.inner.raft.metrics();
        let raft = raft.borrow_watched();
        let index = |id: Option<types::LogId>| id.map_or(0, |id| id.index);
        RaftMetricsView {
            term: raft.current_term,
            last_log: raft.last_log_index.unwrap_or(0),
            committed: index(raft.local_committed),
            applied: index(raft.last_applied),
            snapshot: index(raft.snapshot),
            purged: index(raft.purged),
            snapshot_bytes: self.inner.own.snapshots.latest().map_or(0, |latest| latest.bytes),
            is_leader: raft.state.is_leader(),
            is_full: self.inner.own.log.is_full(),
            is_abstaining: !self.inner.own.abstention.is_over(),
        }
    }

    /// Lets another lead, if this member does and another can; then stops and seals the log.
    pub async fn shutdown(&self) {
        self.inner.is_stopping.store(true, Ordering::Relaxed);
        self.hand_over().await;
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "the agreement did not stop cleanly");
        }
        let log = self.inner.own.log.clone();
        match self.inner.own.snapshots.off_thread(move || log.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "the log was not sealed"),
            Err(error) => tracing::error!(%error, "the log was not sealed"),
        }
    }

    async fn hand_over(&self) {
        let others = self.members();
        let own = others.iter().any(|member| member.leader && member.id == self.inner.id);
        let best = others
            .iter()
            .filter(|member| member.voter && member.id != self.inner.id)
            .max_by_key(|member| member.matched);
        if let (true, Some(best)) = (own, best)
            && self.transfer(best.id).await.is_none()
        {
            tracing::info!(to = %best.id, "no other controller has taken over in time");
        }
    }

    /// Lets another voter lead, if this member does. Returns who leads then, if another does
    /// within a moment; otherwise this member leads on.
    pub async fn transfer(&self, to: ControllerId) -> Option<ControllerId> {
        if self.inner.raft.trigger().transfer_leader(to.0).await.is_err() {
            return None;
        }
        let mut leadership = self.leadership();
        let moved = async {
            loop {
                let now = leadership.borrow_and_update().clone();
                if let Some((id, _)) = now.leader.filter(|(id, _)| *id != self.inner.id) {
                    return id;
                }
                self.inner.env.sleep(TRANSFER_POLL).await;
            }
        };
        self.inner.env.timeout(TRANSFER_SPAN, moved).await.ok()
    }

    /// Since this member knew that a leader with a majority stood behind what it has applied: it
    /// accepted entries from one, or was one. None if it never did.
    #[must_use]
    pub fn heard(&self) -> Option<Millis> {
        let acknowledged = {
            let metrics = self.inner.raft.metrics();
            let metrics = metrics.borrow_watched();
            metrics.last_quorum_acked.map(|at| at.elapsed())
        };
        let as_leader = acknowledged.and_then(|span| u64::try_from(span.as_millis()).ok());
        let as_follower = self.inner.server.heard(self.inner.env.clock.now());
        as_leader.map(Millis).into_iter().chain(as_follower).min()
    }
}

impl From<ForwardToLeader<Types>> for ProposeError {
    fn from(to: ForwardToLeader<Types>) -> Self {
        let leader = to.leader_id.zip(to.leader_node);
        let leader = leader.map(|(id, node)| (ControllerId(id), node.addr));
        Self::NotLeader { leader }
    }
}
