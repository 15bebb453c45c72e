//! A log whose queue is full: who appends waits, and the thread that it runs on does not.

use std::cell::Cell;
use std::io;
use std::sync::{Arc, Condvar, Mutex};

use federation_wal::sim_disk::SimDisk;
use federation_wal::{DirectoryLock, Disk, DiskFile, QUEUE_RECORDS};
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft::type_config::TypeConfigExt;

use super::{ROOM, entry, open};
use crate::raft::types::Types;

/// A disk whose writes wait until it is opened.
#[derive(Clone)]
struct HeldDisk {
    disk: SimDisk,
    is_held: Arc<(Mutex<bool>, Condvar)>,
}

impl HeldDisk {
    fn hold(&self, is_held: bool) {
        *self.is_held.0.lock().unwrap() = is_held;
        self.is_held.1.notify_all();
    }

    fn file(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(HeldFile { file, is_held: self.is_held.clone() })
    }
}

impl Disk for HeldDisk {
    fn lock(&self) -> io::Result<DirectoryLock> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.create(name, bytes)?))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(self.file(self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync_directory(&self) -> io::Result<()> {
        self.disk.sync_directory()
    }
}

struct HeldFile {
    file: Box<dyn DiskFile>,
    is_held: Arc<(Mutex<bool>, Condvar)>,
}

impl DiskFile for HeldFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let is_held = self.is_held.0.lock().unwrap();
        drop(self.is_held.1.wait_while(is_held, |is_held| *is_held).unwrap());
        self.file.write_at(offset, bytes)
    }
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }
    fn len(&mut self) -> io::Result<u64> {
        self.file.len()
    }
    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_full_queue_makes_appends_wait_and_nothing_else() {
    let disk = HeldDisk { disk: SimDisk::new(ROOM), is_held: Arc::default() };
    let mut store = open(Arc::new(disk.clone()));
    let mut reader = store.get_log_reader().await;
    disk.hold(true);
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
        disk.hold(false);
        assert!((QUEUE_RECORDS as u64..count).contains(&seen), "{seen}");
        assert_eq!(last.len(), 1);
    };
    tokio::join!(appending, watching);
    assert_eq!(queued.get(), count);
    store.close().unwrap();
}
