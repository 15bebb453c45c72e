//! Tests of the parts; whole groups are tried in `tests/raft_group`.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod golden;
mod machine;
mod restart;
mod room;
mod snapshots;
mod suite;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use federation_core::State;
use federation_wal::sim_disk::SimDisk;
use federation_wal::{Config, Disk, Environment};
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::type_config::TypeConfigExt;
use tokio::sync::{mpsc, watch};

use super::config::SnapshotRule;
use super::log_store::LogStore;
use super::snapshot::{Pace, Snapshots, Threads};
use super::state_machine::{Applied, Outputs, StateMachine};
use super::types::{CommittedLeaderId, Entry, LogId, Payload, Types};

pub(super) const ROOM: u64 = 64 << 20;
pub(super) const SEGMENT_BYTES: usize = 64 << 10;

pub(super) fn threads() -> Threads {
    Arc::new(|name, task| std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop))
}

/// Opens the log on a disk.
pub(super) fn open(disk: Arc<dyn Disk>) -> LogStore {
    let mut salt = 0;
    let environment = Environment {
        disk,
        salts: Box::new(move || {
            salt += 1;
            salt
        }),
        spawn: Box::new(|name, task| threads()(name, task)),
        clock: Box::new(|| Duration::ZERO),
        on_fatal: Box::new(|_| ()),
    };
    let config = Config { segment_bytes: SEGMENT_BYTES, ..Config::default() };
    LogStore::open(environment, config).unwrap().0
}

/// Closes the log as a stopping member does.
pub(super) fn close(store: LogStore, disk: &SimDisk) {
    store.close().unwrap();
    disk.kill_process();
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

pub(super) fn entry(term: u64, index: u64, bytes: &[u8]) -> Entry {
    let payload = EntryPayload::Normal(Payload::raw(bytes.to_vec()));
    Entry { log_id: id(term, index), payload }
}

/// Appends and waits until it is durable.
pub(super) async fn append(store: &mut LogStore, entries: Vec<Entry>) {
    let (done, flushed) = Types::oneshot();
    store.append(entries, IOFlushed::signal(done)).await.unwrap();
    flushed.await.unwrap().unwrap();
}

const RULE: SnapshotRule = SnapshotRule { entries: 1_000, bytes: 1 << 30 };

/// A state machine, and what it publishes.
pub(super) struct Machine {
    pub(super) machine: StateMachine,
    pub(super) view: watch::Receiver<State>,
    pub(super) applied: mpsc::UnboundedReceiver<Applied>,
    pub(super) fatal: mpsc::UnboundedReceiver<String>,
}

pub(super) fn machine(disk: Arc<dyn Disk>) -> Machine {
    let (snapshots, newest) = Snapshots::open(disk, threads(), Pace::default()).unwrap();
    let (view_sender, view) = watch::channel(State::default());
    let (applied_sender, applied) = mpsc::unbounded_channel();
    let (fatal_sender, fatal) = mpsc::unbounded_channel();
    let archive = Arc::new(SimDisk::new(ROOM));
    let archive = crate::raft::archive::Archive::open(archive, threads(), 64 << 10);
    let outputs = Outputs {
        archive,
        view: view_sender,
        applied: applied_sender,
        is_live: Arc::new(AtomicBool::new(true)),
        windows: crate::raft::verify::Windows::default(),
        on_fatal: Arc::new(move |why| fatal_sender.send(why.to_owned()).unwrap()),
    };
    let machine = StateMachine::new(Arc::new(snapshots), newest, RULE, outputs);
    Machine { machine, view, applied, fatal }
}
