//! What the parts of one controller share.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric_quic::connection::Connection;
use fabric_quic::env::Env;
use fabric_quic::pki::Authority;
use fabric_quic::pool::Pool;
use fabric_quic::trust::TrustStore;
use federation_core::{Command, Leader, Reply, Retention, State};
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, NodeId, Revision, SiteId};
use specs::unit::{Instant, Timestamp};
use tokio::sync::{Notify, watch};

use crate::backup::Backups;
use crate::raft::{Committed, Group, ProposeError};

/// A reign of this controller, and what its leader remembers.
pub(crate) struct Reign {
    pub(crate) term: u64,
    pub(crate) leader: Leader,
}

/// One controller's parts.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) site: SiteId,
    pub(crate) id: ControllerId,
    pub(crate) authority: Authority,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) pool: Pool,
    pub(crate) group: Group,
    /// Present while this controller leads.
    pub(crate) reign: Mutex<Option<Reign>>,
    /// The agents that are connected to this controller.
    pub(crate) agents: Mutex<BTreeMap<NodeId, Connection>>,
    /// Wakes the leader's loop.
    pub(crate) plan: Notify,
    /// Wakes the reconciliation of the group's members.
    pub(crate) members: Notify,
    /// Wakes the loops that ask peers, by peer.
    pub(crate) peers: Mutex<BTreeMap<SiteId, Arc<Notify>>>,
    /// The revision that was last applied here.
    pub(crate) applied: watch::Sender<Revision>,
    /// Which ended jobs stay in the state while this controller leads.
    pub(crate) retention: Retention,
    pub(crate) about: About,
    /// States that are held still while they are read in pieces.
    pub(crate) backups: Backups,
}

/// What a controller says of itself.
pub(crate) struct About {
    pub(crate) dir: PathBuf,
    /// Where others reach it.
    pub(crate) address: String,
    pub(crate) certificate_until: Timestamp,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Reads or changes the leader's memory. The time is taken under the lock.
    ///
    /// # Errors
    /// This controller does not lead.
    pub(crate) fn with_leader<T>(
        &self,
        f: impl FnOnce(&mut Leader, Instant) -> T,
    ) -> Result<T, Fault> {
        let mut reign = lock(&self.reign);
        let reign = reign.as_mut().ok_or_else(|| self.not_leader())?;
        Ok(f(&mut reign.leader, self.env.clock.now()))
    }

    /// A view with the leader's memory beside it, if this controller leads.
    pub(crate) fn with_view<T>(&self, f: impl FnOnce(Option<(&Leader, Instant)>) -> T) -> T {
        let reign = lock(&self.reign);
        f(reign.as_ref().map(|reign| (&reign.leader, self.env.clock.now())))
    }

    /// The refusal of one who does not lead, with the leader's address if it is known.
    pub(crate) fn not_leader(&self) -> Fault {
        let leader = self.group.leadership().borrow().leader.clone();
        let fault = Fault::new(FaultCode::NotLeader, "this controller does not lead its site");
        match leader {
            Some((id, address)) if id != self.id => fault.with_hint(format!("leader={address}")),
            _ => fault,
        }
    }

    /// Agrees on a command.
    pub(crate) async fn propose(&self, command: Command) -> Result<Reply, Fault> {
        match self.agree(&[command]).await?.pop() {
            Some(Committed { reply: Reply::Refused(fault), .. }) => Err(fault),
            Some(committed) => Ok(committed.reply),
            None => Err(Fault::new(FaultCode::OutcomeUnknown, "the answer is lost")),
        }
    }

    /// Agrees on commands, in their order. Fails with the first that is refused; the others have
    /// taken effect all the same.
    pub(crate) async fn propose_all(&self, commands: &[Command]) -> Result<(), Fault> {
        for committed in self.agree(commands).await? {
            if let Reply::Refused(fault) = committed.reply {
                return Err(fault);
            }
        }
        Ok(())
    }

    /// Agrees on commands, in their order. As many outcomes as commands.
    pub(crate) async fn agree(&self, commands: &[Command]) -> Result<Vec<Committed>, Fault> {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        self.group.propose_all(commands).await.map_err(|error| self.propose_fault(error))
    }

    /// The agreed state, confirmed by this leader after the call.
    pub(crate) async fn confirm(&self) -> Result<State, Fault> {
        self.group.confirm().await.map_err(|error| self.propose_fault(error))
    }

    pub(crate) fn propose_fault(&self, error: ProposeError) -> Fault {
        match error {
            ProposeError::NotLeader { .. } => self.not_leader(),
            ProposeError::DiskFull => {
                Fault::new(FaultCode::DiskFull, "the disk of the site's log is full")
                    .with_hint("make room on the leader's disk; nothing acknowledged is lost")
            }
            error @ ProposeError::TooNew { .. } => {
                Fault::new(FaultCode::Conflict, error.to_string())
                    .with_hint("once all controllers know it: `federation upgrade finalize`")
            }
            ProposeError::Unknown(why) => Fault::new(
                FaultCode::OutcomeUnknown,
                format!("the site could not say in time whether it agreed: {why}"),
            ),
            ProposeError::Stopped(why) => {
                Fault::new(FaultCode::Unreachable, format!("this controller is stopping: {why}"))
            }
        }
    }

    /// What wakes the loop that asks a peer.
    pub(crate) fn peer_bell(&self, peer: &SiteId) -> Arc<Notify> {
        lock(&self.peers).entry(peer.clone()).or_default().clone()
    }
}
