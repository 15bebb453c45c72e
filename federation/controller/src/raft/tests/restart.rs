//! What a log holds when it is opened again.

use std::cell::Cell;
use std::sync::Arc;

use federation_wal::sim_disk::SimDisk;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::{ROOM, append, close, entry, id, open};
use crate::raft::log_store::LogStore;
use crate::raft::types::{Entry, Types, Vote};

fn reopen(store: LogStore, disk: &SimDisk) -> LogStore {
    close(store, disk);
    open(Arc::new(disk.clone()))
}

async fn all(store: &mut LogStore) -> Vec<Entry> {
    store.try_get_log_entries(..).await.unwrap()
}

#[tokio::test]
async fn log_vote_and_committed_id_are_there_again() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(Arc::new(disk.clone()));
    assert!(store.is_empty());
    let vote = Vote::new_committed(3, 2);
    store.save_vote(&vote).await.unwrap();
    let entries: Vec<Entry> = (0..100).map(|index| entry(3, index, b"command")).collect();
    append(&mut store, entries.clone()).await;
    store.save_committed(Some(id(3, 90))).await.unwrap();
    let mut store = reopen(store, &disk);
    assert!(!store.is_empty());
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(id(3, 90)));
    assert_eq!(all(&mut store).await, entries);
}

#[tokio::test]
async fn what_was_truncated_stays_away() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(Arc::new(disk.clone()));
    append(&mut store, (0..10).map(|index| entry(1, index, b"old")).collect()).await;
    store.truncate_after(Some(id(1, 4))).await.unwrap();
    append(&mut store, (5..8).map(|index| entry(2, index, b"new")).collect()).await;
    let mut store = reopen(store, &disk);
    let found = all(&mut store).await;
    assert_eq!(found.len(), 8);
    assert_eq!(found[5..], (5..8).map(|index| entry(2, index, b"new")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_vote_survives_the_release_of_its_segment() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(Arc::new(disk.clone()));
    let vote = Vote::new(7, 1);
    store.save_vote(&vote).await.unwrap();
    let filler = vec![1; 8 << 10];
    for index in 0..100 {
        append(&mut store, vec![entry(7, index, &filler)]).await;
        if index % 20 == 19 {
            store.purge(id(7, index - 5)).await.unwrap();
        }
    }
    // The release of segments is the log's next work after the record that allows it.
    store.save_vote(&vote).await.unwrap();
    append(&mut store, vec![entry(7, 100, b"last")]).await;
    let segments = federation_wal::Disk::list(&disk).unwrap();
    assert!(segments.iter().filter(|name| name.ends_with(".wal")).count() < 6, "{segments:?}");
    let mut store = reopen(store, &disk);
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    let state = store.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(7, 94)), Some(id(7, 100))));
    assert_eq!(all(&mut store).await.len(), 6);
}

#[tokio::test]
async fn a_purge_beyond_the_end_leaves_room_for_what_follows() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(Arc::new(disk.clone()));
    append(&mut store, (0..5).map(|index| entry(1, index, b"old")).collect()).await;
    store.purge(id(2, 50)).await.unwrap();
    append(&mut store, vec![entry(2, 51, b"new")]).await;
    let mut store = reopen(store, &disk);
    assert_eq!(all(&mut store).await, vec![entry(2, 51, b"new")]);
}

#[tokio::test]
async fn a_large_append_is_split_and_whole_again() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(Arc::new(disk.clone()));
    let filler = vec![7; 10 << 10];
    let entries: Vec<Entry> = (0..40).map(|index| entry(1, index, &filler)).collect();
    append(&mut store, entries.clone()).await;
    let mut store = reopen(store, &disk);
    assert_eq!(all(&mut store).await, entries);
}

#[tokio::test]
async fn a_power_loss_takes_nothing_that_was_reported_durable() {
    for seed in 0..50 {
        let disk = SimDisk::new(ROOM);
        let mut store = open(Arc::new(disk.clone()));
        store.save_vote(&Vote::new(1, 1)).await.unwrap();
        append(&mut store, (0..5).map(|index| entry(1, index, b"durable")).collect()).await;
        disk.power_loss(seed);
        drop(store);
        let mut store = open(Arc::new(disk.clone()));
        assert_eq!(store.read_vote().await.unwrap(), Some(Vote::new(1, 1)), "seed {seed}");
        assert_eq!(all(&mut store).await.len(), 5, "seed {seed}");
    }
}

#[tokio::test]
async fn what_a_full_disk_refused_is_written_in_order_once_there_is_room() {
    let disk = SimDisk::new(super::SEGMENT_BYTES as u64 * 2);
    let mut store = open(Arc::new(disk.clone()));
    let flushed = Cell::new(false);
    let filler = vec![1; 8 << 10];
    let mut waits = Vec::new();
    for index in 0..40 {
        let (done, outcome) = Types::oneshot();
        store.append(vec![entry(1, index, &filler)], IOFlushed::signal(done)).await.unwrap();
        waits.push(outcome);
    }
    let waiting = async {
        for outcome in waits {
            outcome.await.unwrap().unwrap();
        }
        flushed.set(true);
    };
    let relief = async {
        while !store.is_full() {
            tokio::task::yield_now().await;
        }
        assert!(!flushed.get());
        // Readable all the same.
        assert_eq!(all(&mut store).await.len(), 40);
        disk.set_free_bytes(ROOM);
        store.look_for_room().await;
    };
    tokio::join!(waiting, relief);
    let mut store = reopen(store, &disk);
    assert_eq!(
        all(&mut store).await,
        (0..40).map(|index| entry(1, index, &filler)).collect::<Vec<_>>()
    );
}
