//! Applies what is committed and publishes what comes of it.
//!
//! # Invariants
//! * Readers see the state after a whole batch, and see it before any proposer of the batch is
//!   answered.
//! * A command that cannot be read stops the member. It is never skipped: the states would differ.
//! * What leaves the state is in the archive, durable, before a snapshot without it is kept.
//! * A snapshot is built from a state that nobody changes any more, on a thread of its own. To keep
//!   one costs the same for any size; to drop one does not, so that is done on another thread too.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use federation_core::{Command, Effect, Reply, State, apply, leaving};
use futures::{Stream, StreamExt};
use openraft::storage::{
    ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot,
};
use specs::id::Revision;
use tokio::sync::{mpsc, watch};

use super::archive::Archive;
use super::config::SnapshotRule;
use super::snapshot::{Content, Image, Latest, Since, Snapshots, is_full};
use super::types::{
    Answer, CommandReader, CommittedLeaderId, Entry, EntryPayload, LogId, PayloadError,
    SnapshotMeta, StoredMembership, Types,
};
use super::verify::Windows;
use super::version::Gate;

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
    pub(crate) windows: Windows,
    pub(crate) archive: Arc<Archive>,
}

/// The state machine of one member.
pub(crate) struct StateMachine {
    state: State,
    last: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<Snapshots>,
    rule: SnapshotRule,
    since: Since,
    /// The state when a snapshot was due, until openraft asks for it.
    kept: Option<Builder>,
    gate: Gate,
    outputs: Outputs,
}

/// A state to be written.
pub(crate) struct Builder {
    meta: SnapshotMeta,
    state: State,
    snapshots: Arc<Snapshots>,
    archive: Arc<Archive>,
    windows: Windows,
}

impl StateMachine {
    /// Begins where the newest snapshot ends.
    pub(crate) fn new(
        snapshots: Arc<Snapshots>,
        newest: Option<Content>,
        rule: SnapshotRule,
        outputs: Outputs,
    ) -> Self {
        let (meta, state) = newest.unwrap_or_default();
        let (last, membership) = (meta.last_log_id, meta.last_membership);
        let (since, gate) = (Since::default(), Gate::default());
        let machine =
            Self { state, last, membership, snapshots, rule, since, kept: None, gate, outputs };
        machine.publish();
        machine
    }

    pub(crate) fn guarded_by(self, gate: Gate) -> Self {
        Self { gate, ..self }
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
        self.outputs.windows.note(&entry);
        let mut bytes = 0;
        let answer = match entry.payload {
            EntryPayload::Blank => Answer::Nothing,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(at), membership);
                Answer::Nothing
            }
            EntryPayload::Normal(payload) => {
                bytes = payload.len();
                let applied = payload.commands().and_then(|all| self.apply_commands(all));
                Answer::Applied(applied.map_err(|error| self.unreadable(&at, error))?)
            }
        };
        self.last = Some(at);
        self.since.add(bytes);
        self.keep_if_due(at.index);
        Ok(answer)
    }

    fn keep_if_due(&mut self, index: u64) {
        let trigger = &self.snapshots.trigger;
        let state_bytes = || self.snapshots.latest().map_or(0, |latest| latest.plain_bytes);
        if !self.since.is_due(index, self.rule, state_bytes, trigger.is_held()) {
            return;
        }
        self.since = Since::default();
        let outdated = self.kept.replace(self.builder());
        self.snapshots.trigger.kept();
        if outdated.is_some() {
            self.snapshots.discard(outdated);
        }
    }

    /// After an error the state is not to be used: some commands were applied, and others not.
    fn apply_commands(
        &mut self,
        commands: CommandReader<'_>,
    ) -> Result<Vec<(Reply, Revision)>, PayloadError> {
        let mut effects = BTreeSet::new();
        let mut answers = Vec::new();
        for command in commands {
            let command = command?;
            self.gate.admit(&self.state, &command)?;
            if let Command::ArchiveJobs(it) = &command {
                self.outputs.archive.add(leaving(&self.state, it));
            }
            let (reply, follows) = apply(&mut self.state, &command);
            effects.extend(follows);
            answers.push((reply, self.state.revision));
        }
        self.tell(effects.into_iter().collect());
        Ok(answers)
    }

    fn unreadable(&self, at: &LogId, error: PayloadError) -> io::Error {
        let install = match &error {
            PayloadError::Version { needs, .. } => format!("a release that knows version {needs}"),
            PayloadError::Format(_) | PayloadError::Short | PayloadError::Command(_) => {
                let (at, known) = (self.state.version, self.gate.known);
                format!("the release that wrote it (the site has version {at}, this knows {known})")
            }
        };
        let message =
            format!("entry {} of the log cannot be applied: {error}; install {install}", at.index);
        (self.outputs.on_fatal)(&message);
        io::Error::other(error)
    }

    fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() }
    }

    fn builder(&self) -> Builder {
        let (snapshots, archive) = (self.snapshots.clone(), self.outputs.archive.clone());
        let windows = self.outputs.windows.clone();
        Builder { meta: self.meta(), state: self.state.clone(), snapshots, archive, windows }
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
        let trigger = &self.snapshots.trigger;
        let is_asked = trigger.take_asked() || force;
        trigger.taken();
        let kept = self.kept.take();
        if is_asked { Some(self.builder()) } else { kept }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        self.builder()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, image: Image) -> io::Result<()> {
        let (snapshots, archive) = (self.snapshots.clone(), self.outputs.archive.clone());
        let work = move || {
            archive.settle()?;
            snapshots.take_in(image)
        };
        let installed = self.snapshots.off_thread(work).await?;
        let state = installed.map_err(io::Error::other)?;
        let old = std::mem::replace(&mut self.state, state);
        self.last = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.since = Since::default();
        self.snapshots.trigger.taken();
        let shown = self.outputs.view.send_replace(self.state.clone());
        self.snapshots.discard((old, shown, self.kept.take()));
        // Whatever was skipped may have called for any of these.
        self.tell(vec![Effect::Plan, Effect::SyncTrust, Effect::SyncMembers]);
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        let latest = self.snapshots.latest();
        Ok(latest.map(|latest| stored(&self.snapshots, latest)))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let (writer, meta) = (self.snapshots.clone(), self.meta.clone());
        let state = std::mem::take(&mut self.state);
        let archive = self.archive.clone();
        let work = move || {
            archive.settle()?;
            writer.save(&meta, &state)
        };
        match self.snapshots.off_thread(work).await? {
            Ok(latest) => {
                if let Some(last) = latest.meta.last_log_id {
                    self.windows.note_state(last.index, &latest.digest);
                }
                Ok(stored(&self.snapshots, latest))
            }
            Err(error) if is_full(&error) => {
                tracing::warn!("no space left for a snapshot: the log grows until there is");
                // openraft takes one that is not newer than its last for none.
                let meta = self.snapshots.latest().map_or_else(SnapshotMeta::default, |it| it.meta);
                Ok(Snapshot { meta, snapshot: Image::Nothing })
            }
            Err(error) => Err(error),
        }
    }
}

fn stored(snapshots: &Arc<Snapshots>, latest: Latest) -> RaftSnapshot {
    let meta = latest.meta.clone();
    Snapshot { meta, snapshot: Image::Stored { snapshots: snapshots.clone(), latest } }
}
