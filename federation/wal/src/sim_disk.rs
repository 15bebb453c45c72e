//! A disk in memory that loses power, runs out of room and fails, all on demand.
//!
//! What was not synced survives a power loss by chance: each sector of a file in one of the states
//! it had since its last sync, and each change of the directory or not, independently of the
//! others. After a failed sync the disk behaves like a kernel that drops what it could not write:
//! reads still show the bytes, a later sync returns `Ok`, and a power loss takes them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{DirectoryLock, Disk, DiskFile};

/// What survives or is lost as a whole, bytes.
pub const SECTOR_BYTES: usize = 512;

/// Calls that can be made to fail, and that are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`Disk::create`].
    Create,
    /// [`DiskFile::write_at`].
    Write,
    /// [`DiskFile::zero`].
    Zero,
    /// [`DiskFile::resize`].
    Resize,
    /// [`DiskFile::sync_data`].
    Sync,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`].
    Remove,
    /// [`Disk::sync_directory`].
    SyncDirectory,
}

/// A handle to one simulated directory; clones share it.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    files: BTreeMap<FileId, SimFile>,
    names: BTreeMap<String, FileId>,
    durable_names: BTreeMap<String, FileId>,
    /// Changes of the directory since it was last synced.
    changes: Vec<Change>,
    next_file: FileId,
    free_bytes: u64,
    locked: bool,
    /// Counts power losses: a handle from before one is dead.
    boot: u64,
    steps_until_power_cut: Option<u64>,
    /// The calls to fail, each after so many of its kind.
    faults: Vec<(Operation, u64, io::ErrorKind)>,
    counts: BTreeMap<Operation, u64>,
}

type FileId = u64;
type Change = Vec<(String, Option<FileId>)>;

#[derive(Default)]
struct SimFile {
    data: Vec<u8>,
    durable: Vec<u8>,
    /// Whether the file's length is durable.
    allocated: bool,
    dirty: BTreeMap<usize, Dirty>,
}

/// A sector that differs from the medium.
#[derive(Default)]
struct Dirty {
    /// What it held after each write since its last sync.
    versions: Vec<Vec<u8>>,
    /// A sync of it failed, and no write has come since.
    dropped: bool,
}

impl SimDisk {
    /// An empty directory on a disk with so much room.
    #[must_use]
    pub fn new(free_bytes: u64) -> SimDisk {
        let state = State { free_bytes, ..State::default() };
        SimDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Sets the room that is left, bytes.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.state().free_bytes = bytes;
    }

    /// Makes one call of `operation` fail, after `others` more of its kind have passed. A write
    /// that fails may have written a part.
    pub fn fail(&self, operation: Operation, others: u64, kind: io::ErrorKind) {
        let mut state = self.state();
        let done = state.counts.get(&operation).copied().unwrap_or(0);
        state.faults.push((operation, done + others, kind));
    }

    /// Cuts the power during the call after so many others: it and all later ones fail.
    pub fn cut_power_after(&self, steps: u64) {
        self.state().steps_until_power_cut = Some(steps);
    }

    /// How many calls of `operation` there were.
    #[must_use]
    pub fn count(&self, operation: Operation) -> u64 {
        self.state().counts.get(&operation).copied().unwrap_or(0)
    }

    /// Loses the power and gets it back. Equal seeds choose equal survivors.
    pub fn power_loss(&self, seed: u64) {
        let mut random = SplitMix64(seed);
        let mut state = self.state();
        let changes = std::mem::take(&mut state.changes);
        for change in changes {
            if random.flip() {
                apply(&mut state.durable_names, change);
            }
        }
        state.names = state.durable_names.clone();
        let names = state.names.clone();
        state.files.retain(|id, _| names.values().any(|named| named == id));
        for file in state.files.values_mut() {
            file.lose_power(&mut random);
        }
        state.restart();
    }

    /// Ends the process but not the machine: all that was written is there, synced or not.
    pub fn kill_process(&self) {
        self.state().restart();
    }

    /// Changes one bit of a file, in memory and on the medium.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip_bit(&self, name: &str, offset: usize, bit: u32) {
        self.damage(name, |bytes| bytes[offset] ^= 1 << bit);
    }

    /// Changes the bytes of a file at will, in memory and on the medium.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn damage(&self, name: &str, change: impl Fn(&mut [u8])) {
        let mut state = self.state();
        let id = state.names[name];
        let file = state.files.get_mut(&id).expect("each name has a file");
        change(&mut file.data);
        change(&mut file.durable);
    }

    /// What a file reads as.
    ///
    /// # Panics
    /// If there is no such file.
    #[must_use]
    pub fn read(&self, name: &str) -> Vec<u8> {
        let state = self.state();
        state.files[&state.names[name]].data.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for SimDisk {
    fn lock(&self) -> io::Result<DirectoryLock> {
        let mut state = self.state();
        if state.locked {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another simulated process"));
        }
        state.locked = true;
        Ok(Box::new(SimLock { disk: self.clone(), boot: state.boot }))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().names.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        let outcome = state.step(Operation::Create);
        if state.names.contains_key(name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if bytes > state.free_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let outcome = match outcome {
            // The file may be there when the power returns.
            Err(error) if state.power_is_off() => Err(error),
            other => Ok(other?),
        };
        state.free_bytes -= bytes;
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        let id = state.next_file;
        state.next_file += 1;
        let zeros = vec![0; length];
        let file = SimFile { data: zeros.clone(), durable: zeros, ..SimFile::default() };
        state.files.insert(id, file);
        state.change(vec![(name.to_owned(), Some(id))]);
        outcome?;
        Ok(Box::new(SimHandle { disk: self.clone(), id, boot: state.boot }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimHandle { disk: self.clone(), id, boot: state.boot }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.step(Operation::Rename);
        let id = *state.names.get(from).ok_or(io::ErrorKind::NotFound)?;
        if let Some(replaced) = state.names.get(to).copied() {
            state.free_bytes += state.files[&replaced].data.len() as u64;
        }
        state.change(vec![(from.to_owned(), None), (to.to_owned(), Some(id))]);
        outcome
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.state();
        let outcome = state.step(Operation::Remove);
        let id = *state.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.free_bytes += state.files[&id].data.len() as u64;
        state.change(vec![(name.to_owned(), None)]);
        outcome
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.state();
        state.step(Operation::SyncDirectory)?;
        state.changes.clear();
        state.durable_names = state.names.clone();
        Ok(())
    }
}

struct SimLock {
    disk: SimDisk,
    boot: u64,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.boot == self.boot {
            state.locked = false;
        }
    }
}

struct SimHandle {
    disk: SimDisk,
    id: FileId,
    boot: u64,
}

impl SimHandle {
    fn with<T>(&self, act: impl FnOnce(&mut State, FileId) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.boot != self.boot {
            return Err(io::Error::other("the process that opened this file is gone"));
        }
        act(&mut state, self.id)
    }
}

impl DiskFile for SimHandle {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, id| {
            let outcome = state.step(Operation::Write);
            let file = state.files.get_mut(&id).expect("an open file is kept");
            file.write(offset, bytes)?;
            outcome
        })
    }

    fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(|state, id| {
            let end = offset.saturating_add(bytes.len());
            let there = state.files[&id].data.get(offset..end);
            bytes.copy_from_slice(there.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn len(&mut self) -> io::Result<u64> {
        self.with(|state, id| Ok(state.files[&id].data.len() as u64))
    }

    fn zero(&mut self) -> io::Result<()> {
        self.with(|state, id| {
            let outcome = state.step(Operation::Zero);
            if outcome.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Unsupported) {
                return outcome;
            }
            let file = state.files.get_mut(&id).expect("an open file is kept");
            file.write(0, &vec![0; file.data.len()])?;
            outcome
        })
    }

    fn resize(&mut self, bytes: u64) -> io::Result<()> {
        let length = usize::try_from(bytes).map_err(io::Error::other)?;
        self.with(|state, id| {
            let outcome = state.step(Operation::Resize);
            let before = state.files[&id].data.len() as u64;
            if bytes > before && bytes - before > state.free_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
            if outcome.is_err() && !state.power_is_off() {
                return outcome;
            }
            state.free_bytes = (state.free_bytes + before).saturating_sub(bytes);
            state.files.get_mut(&id).expect("an open file is kept").data.resize(length, 0);
            outcome
        })
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.with(|state, id| {
            let outcome = state.step(Operation::Sync);
            let power_is_off = state.power_is_off();
            let file = state.files.get_mut(&id).expect("an open file is kept");
            match &outcome {
                Ok(()) => file.sync(),
                Err(_) if power_is_off => {}
                Err(_) => file.dirty.values_mut().for_each(|dirty| dirty.dropped = true),
            }
            outcome
        })
    }
}

impl State {
    /// Of a call that has failed: whether that was why.
    fn power_is_off(&self) -> bool {
        self.steps_until_power_cut == Some(0)
    }

    fn step(&mut self, operation: Operation) -> io::Result<()> {
        if let Some(steps) = &mut self.steps_until_power_cut {
            *steps = steps.checked_sub(1).ok_or_else(|| io::Error::other("the power is off"))?;
        }
        let count = self.counts.entry(operation).or_default();
        let this = *count;
        *count += 1;
        let fault = self.faults.iter().position(|(on, at, _)| *on == operation && *at == this);
        match fault {
            Some(fault) => Err(self.faults.swap_remove(fault).2.into()),
            None => Ok(()),
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, change.clone());
        self.changes.push(change);
    }

    fn restart(&mut self) {
        self.boot += 1;
        self.locked = false;
        self.steps_until_power_cut = None;
        self.faults.clear();
    }
}

impl SimFile {
    fn write(&mut self, offset: usize, bytes: &[u8]) -> io::Result<()> {
        let end = offset + bytes.len();
        let place = self.data.get_mut(offset..end).ok_or(io::ErrorKind::StorageFull)?;
        place.copy_from_slice(bytes);
        for sector in offset / SECTOR_BYTES..end.div_ceil(SECTOR_BYTES) {
            let dirty = self.dirty.entry(sector).or_default();
            dirty.dropped = false;
            dirty.versions.push(self.data[sector_range(sector, self.data.len())].to_vec());
        }
        Ok(())
    }

    fn sync(&mut self) {
        self.allocated = true;
        let length = self.data.len();
        self.durable.resize(length, 0);
        self.dirty.retain(|sector, dirty| {
            if !dirty.dropped {
                let range = sector_range(*sector, length);
                self.durable[range.clone()].copy_from_slice(&self.data[range]);
            }
            dirty.dropped
        });
    }

    fn lose_power(&mut self, random: &mut SplitMix64) {
        if !self.allocated && random.flip() {
            self.durable.clear();
        } else if self.durable.len() != self.data.len() && random.flip() {
            // A change of the length that was not synced has survived.
            self.durable.resize(self.data.len(), 0);
        }
        let length = self.durable.len();
        for (sector, dirty) in std::mem::take(&mut self.dirty) {
            let survivor = random.below(dirty.versions.len() + 1);
            if survivor > 0 && !dirty.dropped && length > 0 {
                let bytes = &dirty.versions[survivor - 1];
                let place = &mut self.durable[sector_range(sector, length)];
                let kept = place.len().min(bytes.len());
                place[..kept].copy_from_slice(&bytes[..kept]);
            }
        }
        self.allocated = true;
        self.data = self.durable.clone();
    }
}

fn sector_range(sector: usize, length: usize) -> std::ops::Range<usize> {
    // A sector that was cut off is empty.
    let start = (sector * SECTOR_BYTES).min(length);
    start..(start + SECTOR_BYTES).min(length)
}

fn apply(names: &mut BTreeMap<String, FileId>, change: Change) {
    for (name, id) in change {
        match id {
            Some(id) => names.insert(name, id),
            None => names.remove(&name),
        };
    }
}

/// A small generator of numbers that look random; equal seeds give equal numbers.
#[derive(Clone)]
pub(crate) struct SplitMix64(pub(crate) u64);

impl SplitMix64 {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("it is below a usize")
    }

    pub(crate) fn flip(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
