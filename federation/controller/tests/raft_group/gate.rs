//! A disk that a test can hold up.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use federation_controller::raft::Storage;
use federation_wal::Disk as _;
use federation_wal::hooked_disk::{Call, Hook, HookedDisk};
use federation_wal::sim_disk::SimDisk;

use crate::disk::threads;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Gate {
    #[default]
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
pub(crate) struct GatedDisk(pub(crate) HookedDisk<Lock>);

#[derive(Default)]
pub(crate) struct Lock {
    state: Mutex<State>,
    turned: Condvar,
}

#[derive(Default)]
struct State {
    gate: Gate,
    /// The bytes were written, but not synced yet.
    is_met: bool,
}

impl GatedDisk {
    pub(crate) fn new() -> Self {
        Self(HookedDisk::new(SimDisk::new(256 << 20), Lock::default()))
    }

    pub(crate) fn set(&self, gate: Gate) {
        let lock = &self.0.hook;
        *lock.state.lock().unwrap() = State { gate, is_met: false };
        lock.turned.notify_all();
    }

    pub(crate) fn gate(&self) -> Gate {
        self.0.hook.state.lock().unwrap().gate.clone()
    }

    pub(crate) fn storage(&self) -> Storage {
        let snapshots = Arc::new(SimDisk::new(64 << 20));
        let archive = Arc::new(SimDisk::new(64 << 20));
        Storage { wal: Arc::new(self.0.clone()), snapshots, archive, threads: threads() }
    }

    /// The disk as the next process finds it.
    pub(crate) fn again(&self) -> Self {
        self.0.disk.kill_process();
        Self(HookedDisk::new(self.0.disk.clone(), Lock::default()))
    }

    /// Damages the last byte that was written to the log.
    pub(crate) fn rot_last(&self) {
        let names = self.0.disk.list().unwrap();
        let newest = names.into_iter().filter(|name| name.ends_with(".wal")).max().unwrap();
        let last = self.0.disk.read(&newest).iter().rposition(|byte| *byte != 0).unwrap();
        self.0.disk.flip_bit(&newest, last, 3);
    }

    pub(crate) fn has_marker(&self) -> bool {
        self.0.disk.list().unwrap().iter().any(|name| name == "cut-log")
    }
}

impl Lock {
    fn pass(&self, held: &Gate) -> io::Result<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap();
        let state = self.turned.wait_while(state, |state| state.gate == *held).unwrap();
        if state.gate == Gate::Cut { Err(io::Error::other("the power is off")) } else { Ok(state) }
    }
}

impl Hook for Lock {
    fn write(&self, bytes: &[u8], call: Call<'_>) -> io::Result<()> {
        let mut state = self.pass(&Gate::Writes)?;
        if let Gate::After(pattern) = &state.gate {
            state.is_met |= bytes.windows(pattern.len()).any(|window| window == pattern);
        }
        drop(state);
        call()
    }
    fn sync(&self, call: Call<'_>) -> io::Result<()> {
        drop(self.pass(&Gate::Syncs)?);
        call()?;
        let mut state = self.state.lock().unwrap();
        if state.is_met {
            state.gate = Gate::Writes;
        }
        Ok(())
    }
}
