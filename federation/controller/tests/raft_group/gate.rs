//! A disk that a test can hold up.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use federation_controller::raft::Storage;
use federation_wal::sim_disk::SimDisk;
use federation_wal::{DirectoryLock, Disk, DiskFile};

use crate::disk::threads;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Open,
    /// Writes wait.
    Writes,
    /// Writes pass, and syncs wait.
    Syncs,
    /// As [`Gate::Writes`], once a write with these bytes in it is durable.
    After(Vec<u8>),
    /// The power is gone: what waited never happens.
    Cut,
}

/// A simulated disk behind a gate.
#[derive(Clone)]
pub(crate) struct GatedDisk {
    pub(crate) disk: SimDisk,
    gate: Arc<(Mutex<State>, Condvar)>,
}

struct State {
    gate: Gate,
    /// The bytes were written, but not synced yet.
    is_met: bool,
}

impl GatedDisk {
    pub(crate) fn new() -> Self {
        Self::over(SimDisk::new(256 << 20))
    }

    pub(crate) fn over(disk: SimDisk) -> Self {
        let state = State { gate: Gate::Open, is_met: false };
        Self { disk, gate: Arc::new((Mutex::new(state), Condvar::new())) }
    }

    pub(crate) fn set(&self, gate: Gate) {
        *self.gate.0.lock().unwrap() = State { gate, is_met: false };
        self.gate.1.notify_all();
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate.0.lock().unwrap().gate.clone()
    }

    pub(crate) fn storage(&self) -> Storage {
        let snapshots = Arc::new(SimDisk::new(64 << 20));
        let archive = Arc::new(SimDisk::new(64 << 20));
        Storage { wal: Arc::new(self.clone()), snapshots, archive, threads: threads() }
    }

    /// The disk as the next process finds it.
    pub(crate) fn again(&self) -> Self {
        self.disk.kill_process();
        Self::over(self.disk.clone())
    }

    /// Damages the last byte that was written to the log.
    pub(crate) fn rot_last(&self) {
        let names = self.disk.list().unwrap();
        let newest = names.into_iter().filter(|name| name.ends_with(".wal")).max().unwrap();
        let last = self.disk.read(&newest).iter().rposition(|byte| *byte != 0).unwrap();
        self.disk.flip_bit(&newest, last, 3);
    }

    pub(crate) fn has_marker(&self) -> bool {
        self.disk.list().unwrap().iter().any(|name| name == "cut-log")
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
    gate: Arc<(Mutex<State>, Condvar)>,
}

impl GatedFile {
    fn pass(&self, held: Gate) -> io::Result<MutexGuard<'_, State>> {
        let state = self.gate.0.lock().unwrap();
        let state = self.gate.1.wait_while(state, |state| state.gate == held).unwrap();
        if state.gate == Gate::Cut { Err(io::Error::other("the power is off")) } else { Ok(state) }
    }
}

impl DiskFile for GatedFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.pass(Gate::Writes)?;
        if let Gate::After(pattern) = &state.gate {
            state.is_met |= bytes.windows(pattern.len()).any(|window| window == pattern);
        }
        drop(state);
        self.file.write_at(offset, bytes)
    }
    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, bytes)
    }
    fn len(&mut self) -> io::Result<u64> {
        self.file.len()
    }
    fn sync_data(&mut self) -> io::Result<()> {
        drop(self.pass(Gate::Syncs)?);
        self.file.sync_data()?;
        let mut state = self.gate.0.lock().unwrap();
        if state.is_met {
            state.gate = Gate::Writes;
        }
        Ok(())
    }
}
