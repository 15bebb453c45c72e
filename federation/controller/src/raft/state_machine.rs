//! Applies what is committed and publishes what comes of it.
//!
//! # Invariants
//! * Readers see the state after a whole batch, and see it before any proposer of the batch is
//!   answered.
//! * A command that cannot be read stops the member. It is never skipped: the states would differ.
//! * A snapshot is built from a state that nobody changes any more, on a thread of its own.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use federation_core::{Effect, State, apply};
use futures::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use specs::id::Revision;
use tokio::sync::{mpsc, watch};

use super::snapshot::{Content, Image, Snapshots, decode};
use super::types::{
    Answer, CommittedLeaderId, Entry, EntryPayload, LogId, SnapshotMeta, StoredMembership, Types,
};

/// Bytes of the last snapshot for each entry that must come before the next one: a large state is
/// not written again for a few entries.
const SNAPSHOT_BYTES_PER_ENTRY: u64 = 2_048;
/// Entries after which a snapshot is due whatever its size.
const SNAPSHOT_ENTRIES_MAX: u64 = 1_000_000;

pub(crate) type RaftSnapshot = Snapshot<CommittedLeaderId, u64, openraft::BasicNode, Image>;

/// What was applied, for those who act on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub revision: Revision,
    pub effects: Vec<Effect>,
}

/// Called once with the reason when the member cannot go on.
pub type OnFatal = Arc<dyn Fn(&str) + Send + Sync>;

/// Where applied entries go.
pub(crate) struct Outputs {
    /// What is published after each batch.
    pub(crate) view: watch::Sender<State>,
    pub(crate) applied: mpsc::UnboundedSender<Applied>,
    /// False while the log is read again after a start: what follows from it was done before.
    pub(crate) is_live: Arc<AtomicBool>,
    pub(crate) on_fatal: OnFatal,
}

/// The state machine of one member.
pub(crate) struct StateMachine {
    state: State,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    outputs: Outputs,
}

/// A state to be written.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: State,
    snapshots: Arc<Snapshots>,
}

impl StateMachine {
    /// Begins where the newest snapshot ends.
    pub(crate) fn new(
        snapshots: Arc<Snapshots>,
        newest: Option<Content>,
        outputs: Outputs,
    ) -> Self {
        let (meta, state) = newest.unwrap_or_default();
        let (last, membership) = (meta.last_log_id, meta.last_membership);
        let machine = Self { state, last, membership, snapshots, outputs };
        machine.publish();
        machine
    }

    fn publish(&self) {
        self.outputs.view.send_replace(self.state.clone());
    }

    fn tell(&self, effects: Vec<Effect>) {
        if !effects.is_empty() && self.outputs.is_live.load(Ordering::Relaxed) {
            let revision = self.state.revision;
            // No one listens when the controller is stopping.
            let _ = self.outputs.applied.send(Applied { revision, effects });
        }
    }

    fn apply_entry(&mut self, entry: Entry) -> io::Result<Answer> {
        let at = entry.log_id;
        let answer = match entry.payload {
            EntryPayload::Blank => Answer::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(at), membership);
                Answer::Nothing
            }
            EntryPayload::Normal(payload) => {
                let command = payload.command().map_err(|error| self.unreadable(&at, error))?;
                let (reply, effects) = apply(&mut self.state, &command);
                self.tell(effects);
                Answer::Applied { reply, revision: self.state.revision }
            }
        };
        self.last = Some(at);
        Ok(answer)
    }

    fn unreadable(&self, at: &LogId, error: super::types::PayloadError) -> io::Error {
        let message = format!(
            "entry {} of the log cannot be applied: {error}; install the version that wrote it",
            at.index
        );
        (self.outputs.on_fatal)(&message);
        io::Error::other(error)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    /// True if a snapshot now would cost more than it spares.
    fn is_too_soon(&self) -> bool {
        let Some(latest) = self.snapshots.latest() else { return false };
        let index = |id: Option<LogId>| id.map_or(0, |id| id.index);
        let entries = index(self.last).saturating_sub(index(latest.meta.last_log_id));
        entries < (latest.bytes / SNAPSHOT_BYTES_PER_ENTRY).min(SNAPSHOT_ENTRIES_MAX)
    }

    fn builder(&self) -> Builder {
        let snapshots = self.snapshots.clone();
        Builder { meta: self.meta(), state: self.state.clone(), snapshots }
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + openraft::OptionalSend,
    {
        let mut answers: Vec<(ApplyResponder<Types>, Answer)> = Vec::new();
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let answer = self.apply_entry(entry)?;
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        self.publish();
        for (responder, answer) in answers {
            responder.send(answer);
        }
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder> {
        (force || !self.is_too_soon()).then(|| self.builder())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let (snapshots, task_meta) = (self.snapshots.clone(), meta.clone());
        let work = move || {
            let (file, state) = match image {
                Image::Received { file, state } => (file, *state),
                Image::Stored { snapshots, name } => {
                    let file = snapshots.read(&name).map_err(io::Error::other)?;
                    let (_, state) = decode(&file).map_err(io::Error::other)?;
                    (file, state)
                }
            };
            snapshots.store(&task_meta, &file)?;
            Ok(state)
        };
        let installed: io::Result<State> = self.snapshots.off_thread(work).await?;
        self.state = installed?;
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
        // Whatever was skipped may have called for any of these.
        self.tell(vec![Effect::Plan, Effect::SyncTrust, Effect::SyncMembers]);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let latest = self.snapshots.latest();
        Ok(latest.map(|latest| Snapshot {
            meta: latest.meta,
            snapshot: Image::Stored { snapshots: self.snapshots.clone(), name: latest.name },
        }))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let (writer, meta) = (self.snapshots.clone(), self.meta.clone());
        let state = std::mem::take(&mut self.state);
        let work = move || writer.save(&meta, &state);
        let stored = self.snapshots.off_thread(work).await??;
        let snapshot = Image::Stored { snapshots: self.snapshots.clone(), name: stored.name };
        Ok(Snapshot { meta: stored.meta, snapshot })
    }
}
