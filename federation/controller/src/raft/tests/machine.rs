//! Applying, and snapshots on disk.

use std::sync::Arc;

use federation_core::{Command, Effect, FoundSite};
use federation_wal::Disk;
use federation_wal::sim_disk::SimDisk;
use futures::stream;
use openraft::EntryPayload;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use specs::id::{Revision, SiteId};
use specs::site::{SiteSpec, Terms};

use super::{Machine, ROOM, entry, id, machine, threads};
use crate::raft::snapshot::{Pace, Snapshots};
use crate::raft::state_machine::Applied;
use crate::raft::types::{Entry, Payload};

/// The site's founding, which has an effect.
fn command(index: u64) -> Entry {
    let spec = SiteSpec {
        site: SiteId::new("berlin").unwrap(),
        country: "DE".parse().unwrap(),
        terms: Terms::default(),
        lend: Vec::new(),
        trust: None,
    };
    let found = FoundSite { spec: Arc::new(spec), address: "a:1".to_owned() };
    let payload = EntryPayload::Normal(Payload::of(&Command::FoundSite(found)));
    Entry { log_id: id(1, index), payload }
}

async fn apply(machine: &mut Machine, entries: Vec<Entry>) -> std::io::Result<()> {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.machine.apply(stream::iter(entries)).await
}

#[tokio::test]
async fn a_batch_is_published_with_its_effects() {
    let mut it = machine(Arc::new(SimDisk::new(ROOM)));
    apply(&mut it, vec![command(1), command(2)]).await.unwrap();
    assert_eq!(it.view.borrow().revision, Revision(2));
    let applied = it.applied.try_recv().unwrap();
    assert_eq!(applied, Applied { revision: Revision(1), effects: vec![Effect::SyncTrust] });
}

#[tokio::test]
async fn a_command_that_cannot_be_read_stops_the_member() {
    let mut it = machine(Arc::new(SimDisk::new(ROOM)));
    for bytes in [&b"\x01\x00\xff\xff"[..], b"\x09\x00", b"\x01"] {
        apply(&mut it, vec![entry(1, 1, bytes)]).await.unwrap_err();
        let why = it.fatal.try_recv().unwrap();
        assert!(why.contains("entry 1 of the log cannot be applied"), "{why}");
    }
    assert_eq!(it.view.borrow().revision, Revision(0));
}

#[tokio::test]
async fn a_snapshot_is_there_after_a_restart_and_the_old_one_is_gone() {
    let disk = Arc::new(SimDisk::new(ROOM));
    let mut it = machine(disk.clone());
    apply(&mut it, vec![command(1)]).await.unwrap();
    it.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    apply(&mut it, vec![command(2)]).await.unwrap();
    it.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(disk.list().unwrap().len(), 1);
    let state = it.view.borrow().clone();
    disk.power_loss(1);
    let mut again = machine(disk);
    assert_eq!(again.view.borrow().encode(), state.encode());
    let (last, _) = again.machine.applied_state().await.unwrap();
    assert_eq!(last, Some(id(1, 2)));
}

#[tokio::test]
async fn a_damaged_snapshot_is_refused_and_says_so() {
    let disk = Arc::new(SimDisk::new(ROOM));
    let mut it = machine(disk.clone());
    apply(&mut it, vec![command(1)]).await.unwrap();
    it.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let name = disk.list().unwrap().remove(0);
    let length = disk.read(&name).len();
    for offset in 0..length {
        disk.flip_bit(&name, offset, 3);
        let refused = Snapshots::open(disk.clone(), threads(), Pace::default()).err();
        assert!(refused.is_some_and(|(at, _)| at == name), "offset {offset}");
        disk.flip_bit(&name, offset, 3);
    }
}
