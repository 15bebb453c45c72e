//! One member's state machine by itself, for the benchmark of restarts: what of `apply` a snapshot
//! that is being written takes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fabric_quic::env::Env;
use federation_core::{Command, State};
use futures::stream;
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::{mpsc, watch};

use super::config::SnapshotRule;
use super::snapshot::{Pace, Snapshots};
use super::start::{StartError, Storage};
use super::state_machine::{Applied, Outputs, StateMachine};
use super::types::{CommittedLeaderId, Entry, LogId, Payload};

/// A state machine that begins with the newest snapshot of a directory.
pub struct Probe {
    machine: StateMachine,
    last: LogId,
    view: watch::Receiver<State>,
    _applied: mpsc::UnboundedReceiver<Applied>,
}

/// A command as the log has it.
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
        let Storage { snapshots, threads, .. } = Storage::real(dir)?;
        let pace = Pace::by(env.clock.clone());
        let (snapshots, newest) = Snapshots::open(snapshots, threads, pace)?;
        let last = newest.as_ref().and_then(|(meta, _)| meta.last_log_id);
        let (view_sender, view) = watch::channel(State::default());
        let (applied_sender, applied) = mpsc::unbounded_channel();
        let outputs = Outputs {
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

    /// Applies one command as a batch of its own.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn apply(&mut self, command: &Prepared) -> io::Result<()> {
        self.last.index += 1;
        let payload = EntryPayload::Normal(command.0.clone());
        let entry = Entry { log_id: self.last, payload };
        self.machine.apply(stream::iter([Ok((entry, None))])).await
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
