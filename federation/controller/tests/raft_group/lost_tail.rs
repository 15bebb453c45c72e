//! A leader that loses what it had not synced must not write something else in its place.

use std::io;
use std::sync::{Arc, Condvar, Mutex};

use federation_controller::raft::{RaftConfig, Storage};
use federation_wal::sim_disk::SimDisk;
use federation_wal::{DirectoryLock, Disk, DiskFile};
use specs::unit::Millis;

use crate::cluster::{Cluster, has_token, token};
use crate::disk::threads;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Gate {
    Open,
    /// Writes wait.
    Held,
    /// The power is gone: writes that waited never happen.
    Cut,
}

/// A disk whose writes can be held back.
#[derive(Clone)]
struct GatedDisk {
    disk: SimDisk,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

impl GatedDisk {
    fn new(disk: SimDisk) -> Self {
        Self { disk, gate: Arc::new((Mutex::new(Gate::Open), Condvar::new())) }
    }

    fn set(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = gate;
        self.gate.1.notify_all();
    }
}

impl Disk for GatedDisk {
    fn lock(&self) -> io::Result<DirectoryLock> {
        self.disk.lock()
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.create(name, bytes)?;
        Ok(Box::new(GatedFile { file, gate: self.gate.clone() }))
    }
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(name)?;
        Ok(Box::new(GatedFile { file, gate: self.gate.clone() }))
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

struct GatedFile {
    file: Box<dyn DiskFile>,
    gate: Arc<(Mutex<Gate>, Condvar)>,
}

impl DiskFile for GatedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let gate = self.gate.0.lock().unwrap();
        let gate = self.gate.1.wait_while(gate, |gate| *gate == Gate::Held).unwrap();
        if *gate == Gate::Cut {
            return Err(io::Error::other("the power is off"));
        }
        drop(gate);
        self.file.write_at(offset, bytes)
    }
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }
    fn len(&mut self) -> io::Result<u64> {
        self.file.len()
    }
    fn resize(&mut self, bytes: u64) -> io::Result<()> {
        self.file.resize(bytes)
    }
    fn sync_data(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn storage(disk: &GatedDisk) -> Storage {
    let snapshots = Arc::new(SimDisk::new(1 << 20));
    let archive = Arc::new(SimDisk::new(64 << 20));
    Storage { wal: Arc::new(disk.clone()), snapshots, archive, threads: threads() }
}

/// Long enough to restart a member before anyone misses it.
fn slow_elections(config: &mut RaftConfig) {
    config.election_min = Millis(3_000);
    config.election_max = Millis(5_000);
    config.segment_bytes = 1 << 20;
}

#[test]
fn a_leader_that_lost_its_tail_does_not_go_on_in_its_term() {
    let mut cluster = Cluster::new(slow_elections);
    let mut disks: Vec<GatedDisk> =
        (0..3).map(|_| GatedDisk::new(SimDisk::new(64 << 20))).collect();
    for (id, disk) in (1..).zip(&disks) {
        cluster.start_on(id, storage(disk));
    }
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    cluster.propose(&token(1));
    let before = cluster.converge();
    let leader = cluster.leader();
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let disk = disks.remove(usize::try_from(leader - 1).unwrap());

    disk.set(Gate::Held);
    let group = cluster.group(leader);
    let acknowledged =
        cluster.members[&leader].runtime.spawn(async move { group.propose(token(2)).await });
    cluster.until("the entry at the followers", |cluster| {
        let has = |id: &u64| has_token(&cluster.group(*id).state(), 2);
        followers.iter().all(has).then_some(())
    });
    // A majority has it on disk, so the leader may even say so.
    let answered = cluster.members[&leader].runtime.block_on(acknowledged).unwrap().unwrap();
    assert!(answered.revision > before.revision);

    disk.set(Gate::Cut);
    cluster.kill(leader);
    disk.disk.kill_process();
    let term = cluster.group(followers[0]).metrics().term;
    let disk = GatedDisk::new(disk.disk);
    cluster.start_on(leader, storage(&disk));
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!((1..=3).all(|number| has_token(&state, number)), "an acknowledged command is lost");
    assert!(cluster.group(leader).metrics().term > term, "the leader went on in its old term");
}
