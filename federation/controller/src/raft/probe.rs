//! One member's state machine by itself, for the benchmark of restarts: what of `apply` a snapshot
//! that is being written takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fabric_quic::env::Env;
use federation_core::{Command, State};
use futures::stream;
use openraft::impls::BasicNode;
use openraft::storage::{IOFlushed, RaftLogStorage, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use specs::id::ControllerId;
use tokio::sync::{mpsc, watch};

use super::archive::{Archive, FILE_BYTES};
use super::config::{RaftConfig, SnapshotRule};
use super::snapshot::{Pace, Snapshots};
use super::start::{StartError, Storage, open_log};
use super::state_machine::{Applied, Outputs, StateMachine};
use super::types::{
    CommittedLeaderId, Entry, EntryPayload, LogId, Membership, Payload, Types, Vote,
};

/// Entries of one append while a log is written.
const LOG_BATCH: usize = 4_096;

/// A state machine that begins with the newest snapshot of a directory.
pub struct Probe {
    machine: StateMachine,
    last: LogId,
    view: watch::Receiver<State>,
    _applied: mpsc::UnboundedReceiver<Applied>,
}

/// A command as the log has it.
#[derive(Clone)]
pub struct Prepared(Payload);

/// A snapshot to be written.
pub struct Unwritten(super::state_machine::Builder);

impl Prepared {
    #[must_use]
    pub fn new(command: &Command) -> Self {
        Self(Payload::of(command))
    }
}

impl Probe {
    /// Reads the newest snapshot of a member's directory. Blocks.
    ///
    /// # Errors
    /// As [`super::Group::start`].
    pub fn open(env: &Env, dir: &Path) -> Result<Self, StartError> {
        let Storage { snapshots, archive, threads, .. } = Storage::real(dir)?;
        let archive = Archive::open(archive, threads.clone(), FILE_BYTES);
        let pace = Pace::by(env.clock.clone());
        let (snapshots, newest) = Snapshots::open(snapshots, threads, pace)?;
        let last = newest.as_ref().and_then(|(meta, _)| meta.last_log_id);
        let (view_sender, view) = watch::channel(State::default());
        let (applied_sender, applied) = mpsc::unbounded_channel();
        let outputs = Outputs {
            windows: super::verify::Windows::default(),
            archive,
            view: view_sender,
            applied: applied_sender,
            is_live: Arc::new(AtomicBool::new(false)),
            on_fatal: Arc::new(|_| ()),
        };
        let rule = SnapshotRule { entries: u64::MAX, bytes: u64::MAX };
        let machine = StateMachine::new(Arc::new(snapshots), newest, rule, outputs);
        let last = last.unwrap_or_else(|| LogId::new(CommittedLeaderId::new(1), 0));
        Ok(Self { machine, last, view, _applied: applied })
    }

    /// Takes note of a group whose one member is controller 1.
    ///
    /// # Errors
    /// Does not happen.
    pub async fn found(&mut self) -> io::Result<()> {
        let nodes = BTreeMap::from([(1, BasicNode::new("127.0.0.1:1"))]);
        let membership = Membership::new(vec![BTreeSet::from([1])], nodes);
        let membership = membership.map_err(io::Error::other)?;
        self.apply_payloads([EntryPayload::Membership(membership)]).await
    }

    /// Applies commands as one batch.
    ///
    /// # Errors
    /// One cannot be read.
    pub async fn apply(
        &mut self,
        commands: impl IntoIterator<Item = Prepared> + Send,
    ) -> io::Result<()> {
        let payloads = commands.into_iter().map(|command| EntryPayload::Normal(command.0));
        self.apply_payloads(payloads.collect::<Vec<_>>()).await
    }

    async fn apply_payloads(
        &mut self,
        payloads: impl IntoIterator<Item = EntryPayload> + Send,
    ) -> io::Result<()> {
        let mut entries = Vec::new();
        for payload in payloads {
            self.last.index += 1;
            entries.push(Ok((Entry { log_id: self.last, payload }, None)));
        }
        self.machine.apply(stream::iter(entries)).await
    }

    /// Writes commands behind the newest snapshot into the log of the member, in batches as a
    /// leader of many clients would, and ends it. Returns the index of the last one.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn write_log(
        &self,
        env: &Env,
        dir: &Path,
        commands: impl Iterator<Item = Prepared> + Send,
    ) -> io::Result<u64> {
        let config = RaftConfig::new(ControllerId(1), dir.to_owned());
        let storage = Storage::real(dir).map_err(io::Error::other)?;
        let log = open_log(env, &config, &storage, Arc::new(|_| ()));
        let mut log = log.map_err(io::Error::other)?;
        log.save_vote(&Vote::new_committed(self.last.leader_id.term, 1)).await?;
        log.purge(self.last).await?;
        let mut last = self.last;
        let mut commands = commands.peekable();
        while commands.peek().is_some() {
            let mut entries = Vec::new();
            for command in commands.by_ref().take(LOG_BATCH) {
                last.index += 1;
                let payload = EntryPayload::Normal(command.0);
                entries.push(Entry { log_id: last, payload });
            }
            let (done, flushed) = Types::oneshot();
            log.append(entries, IOFlushed::signal(done)).await?;
            flushed.await.map_err(io::Error::other)??;
        }
        log.save_committed(Some(last)).await?;
        log.close().map_err(io::Error::other)?;
        Ok(last.index)
    }

    /// Takes the state as it is, to be written by another task.
    pub async fn snapshot(&mut self) -> Unwritten {
        Unwritten(self.machine.get_snapshot_builder().await)
    }

    #[must_use]
    pub fn state(&self) -> State {
        self.view.borrow().clone()
    }
}

impl Unwritten {
    /// Writes it. Returns when it is in place.
    ///
    /// # Errors
    /// The disk fails.
    pub async fn write(mut self) -> io::Result<()> {
        self.0.build_snapshot().await.map(drop)
    }
}
