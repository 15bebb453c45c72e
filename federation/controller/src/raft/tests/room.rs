//! A log whose queue is full: who appends waits, and the thread that it runs on does not.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use federation_wal::QUEUE_RECORDS;
use federation_wal::hooked_disk::{Call, Hook, HookedDisk};
use federation_wal::sim_disk::SimDisk;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::{ROOM, entry, open};
use crate::raft::types::Types;

/// Lets no write pass while it is held.
#[derive(Default)]
struct Held {
    is_held: Mutex<bool>,
    turned: Condvar,
}

impl Held {
    fn hold(&self, is_held: bool) {
        *self.is_held.lock().unwrap() = is_held;
        self.turned.notify_all();
    }
}

impl Hook for Held {
    fn write(&self, _: &[u8], call: Call<'_>) -> io::Result<()> {
        let is_held = self.is_held.lock().unwrap();
        drop(self.turned.wait_while(is_held, |is_held| *is_held).unwrap());
        call()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_queue_makes_appends_wait_and_nothing_else() {
    let disk = HookedDisk::new(SimDisk::new(ROOM), Held::default());
    let mut store = open(Arc::new(disk.clone()));
    let mut reader = store.get_log_reader().await;
    disk.hook.hold(true);
    // More than the queue and the one batch that the writer has taken.
    let count = QUEUE_RECORDS as u64 + 10_000;
    let queued = Cell::new(0);
    let appending = async {
        let mut flushed = Vec::new();
        for index in 0..count {
            let (done, outcome) = Types::oneshot();
            let entries = vec![entry(1, index, b"x")];
            store.append(entries, IOFlushed::signal(done)).await.unwrap();
            flushed.push(outcome);
            queued.set(index + 1);
        }
        for outcome in flushed {
            outcome.await.unwrap().unwrap();
        }
    };
    let watching = async {
        let (mut seen, mut rounds) = (0, 0);
        while rounds < 1_000 {
            tokio::task::yield_now().await;
            rounds = if queued.get() == seen { rounds + 1 } else { 0 };
            seen = queued.get();
        }
        // What waits for room is readable already.
        let last = reader.try_get_log_entries(seen..=seen).await.unwrap();
        // Before anything can fail: a writer that is held would be waited for.
        disk.hook.hold(false);
        assert!((QUEUE_RECORDS as u64..count).contains(&seen), "{seen}");
        assert_eq!(last.len(), 1);
    };
    tokio::join!(appending, watching);
    assert_eq!(queued.get(), count);
    store.close().unwrap();
}
