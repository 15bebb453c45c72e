//! Makes the next segment's file while the current one fills.
//!
//! A file is prepared in steps, each one call to the disk, by whoever comes first: the thread that
//! is there for it, the writer when it needs the file and nobody has begun, or a simulation, which
//! may lose the power between any two.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile};
use crate::recover::Rules;
use crate::writer::{Trouble, fatal, is_full};

/// A created file has this name until it is a segment.
pub(crate) const SPARE_FILE: &str = "spare";

/// Released segments that are kept to be used again; more are removed.
pub const RECYCLED_SEGMENTS: usize = 2;

/// Zeros whose space is reserved, durable up to its name.
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Box<dyn DiskFile>,
}

/// A file on its way to be a [`Spare`].
struct Preparation {
    bytes: u64,
    stage: Stage,
}

enum Stage {
    /// Released, and its new name is durable: it may be overwritten.
    Recycle(String),
    Create,
    Sync(Spare),
    SyncDirectory(Spare),
}

enum Progress {
    More(Preparation),
    Done(Spare),
}

pub(crate) struct Preparer {
    disk: Arc<dyn Disk>,
    rules: Rules,
    bytes: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Names of released segments, oldest first.
    recycled: VecDeque<String>,
    // Invariant: at most one of the four is set.
    wanted: Option<Preparation>,
    is_working: bool,
    ready: Option<Spare>,
    failed: Option<Trouble>,
    is_closing: bool,
}

impl Preparer {
    /// One for files of `bytes` bytes. It does nothing until it is asked.
    pub(crate) fn new(disk: Arc<dyn Disk>, bytes: u64, rules: Rules) -> Preparer {
        Preparer { disk, rules, bytes, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Asks for a file, unless one is there or on its way.
    pub(crate) fn want(&self) {
        self.want_in(&mut self.state());
    }

    /// Whether another released segment would be kept.
    pub(crate) fn takes_another(&self) -> bool {
        self.state().recycled.len() < RECYCLED_SEGMENTS
    }

    /// Takes a released segment, by its durable name.
    pub(crate) fn recycle(&self, name: String) {
        self.state().recycled.push_back(name);
    }

    /// Waits until a file is ready, or makes it here. What failed before is tried again only if it
    /// was for lack of room.
    pub(crate) fn finish(&self) -> Result<(), Trouble> {
        let mut state = self.state();
        if let Some(Trouble::Full) = state.failed {
            state.failed = None;
        }
        self.want_in(&mut state);
        loop {
            if state.ready.is_some() {
                return Ok(());
            }
            if let Some(trouble) = state.failed.take() {
                return Err(trouble);
            }
            state = match state.take_wanted() {
                Some(preparation) => {
                    drop(state);
                    self.work(preparation);
                    self.state()
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// The file, once it is ready.
    pub(crate) fn take(&self) -> Result<Spare, Trouble> {
        self.finish()?;
        // Nobody else takes what is ready.
        self.state().ready.take().ok_or(Trouble::Full)
    }

    /// What ended a preparation, unless it was a full disk, which is looked at again in time.
    pub(crate) fn check(&self) -> Result<(), Trouble> {
        let mut state = self.state();
        match state.failed.take() {
            Some(trouble @ Trouble::Fatal { .. }) => Err(trouble),
            full => {
                state.failed = full;
                Ok(())
            }
        }
    }

    /// Prepares what is wanted until it is closed; calls `failed` when the disk has.
    pub(crate) fn run(&self, failed: impl Fn()) {
        let mut state = self.state();
        while !state.is_closing {
            state = match state.take_wanted() {
                Some(preparation) => {
                    drop(state);
                    if self.work(preparation) {
                        failed();
                    }
                    self.state()
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Ends [`Preparer::run`], and waits until nothing more happens on the disk.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.is_closing = true;
        self.changed.notify_all();
        while state.is_working {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// One step of what is wanted, for a simulation.
    #[cfg(test)]
    pub(crate) fn step(&self) {
        let mut state = self.state();
        let Some(preparation) = state.wanted.take() else { return };
        match preparation.step(self.disk.as_ref(), self.rules) {
            Ok(Progress::More(preparation)) => state.wanted = Some(preparation),
            Ok(Progress::Done(spare)) => state.ready = Some(spare),
            Err(trouble) => state.failed = Some(trouble),
        }
    }

    fn want_in(&self, state: &mut State) {
        let is_idle = state.wanted.is_none() && !state.is_working && state.ready.is_none();
        if is_idle && state.failed.is_none() {
            let stage = state.recycled.pop_front().map_or(Stage::Create, Stage::Recycle);
            state.wanted = Some(Preparation { bytes: self.bytes, stage });
            self.changed.notify_all();
        }
    }

    /// Does all steps. Returns whether the disk has failed.
    fn work(&self, preparation: Preparation) -> bool {
        let mut outcome = Outcome { preparer: self, result: Err(Trouble::panicked()) };
        let mut next = preparation;
        outcome.result = loop {
            match next.step(self.disk.as_ref(), self.rules) {
                Ok(Progress::More(preparation)) => next = preparation,
                Ok(Progress::Done(spare)) => break Ok(spare),
                Err(trouble) => break Err(trouble),
            }
        };
        matches!(outcome.result, Err(Trouble::Fatal { .. }))
    }

    /// A panic elsewhere cannot leave the state half changed: no code of others runs under it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_wanted(&mut self) -> Option<Preparation> {
        let preparation = self.wanted.take()?;
        self.is_working = true;
        Some(preparation)
    }
}

/// Tells what became of a preparation, even if the disk's code panics.
struct Outcome<'a> {
    preparer: &'a Preparer,
    result: Result<Spare, Trouble>,
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        let mut state = self.preparer.state();
        state.is_working = false;
        match std::mem::replace(&mut self.result, Err(Trouble::Full)) {
            Ok(spare) => state.ready = Some(spare),
            Err(trouble) => state.failed = Some(trouble),
        }
        self.preparer.changed.notify_all();
    }
}

impl Preparation {
    fn step(self, disk: &dyn Disk, rules: Rules) -> Result<Progress, Trouble> {
        let Preparation { bytes, stage } = self;
        let stage = match stage {
            Stage::Recycle(name) => match zeroed(disk, &name, bytes, rules)? {
                Some(file) => Stage::Sync(Spare { name, file }),
                None => {
                    disk.remove(&name).map_err(fatal("remove a segment"))?;
                    Stage::Create
                }
            },
            Stage::Create => {
                Stage::Sync(Spare { name: SPARE_FILE.to_owned(), file: create(disk, bytes)? })
            }
            Stage::Sync(mut spare) => {
                spare.file.sync_data().map_err(fatal("sync the spare"))?;
                Stage::SyncDirectory(spare)
            }
            Stage::SyncDirectory(spare) => {
                disk.sync_directory().map_err(fatal("sync the directory"))?;
                return Ok(Progress::Done(spare));
            }
        };
        Ok(Progress::More(Preparation { bytes, stage }))
    }
}

/// The released segment of that name with its bytes made zeros. `None` if the disk cannot do that,
/// or its length is not the one wanted.
fn zeroed(
    disk: &dyn Disk,
    name: &str,
    bytes: u64,
    rules: Rules,
) -> Result<Option<Box<dyn DiskFile>>, Trouble> {
    let mut file = disk.open(name).map_err(fatal("open a released segment"))?;
    if file.len().map_err(fatal("measure a released segment"))? != bytes {
        return Ok(None);
    }
    if rules.skip_zeroing() {
        return Ok(Some(file));
    }
    match file.zero() {
        Ok(()) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::Unsupported || is_full(&error) => Ok(None),
        Err(error) => Err(fatal("zero a released segment")(error)),
    }
}

/// A file of so many zeros under the name [`SPARE_FILE`].
pub(crate) fn create(disk: &dyn Disk, bytes: u64) -> Result<Box<dyn DiskFile>, Trouble> {
    disk.create(SPARE_FILE, bytes).map_err(|source| {
        if is_full(&source) { Trouble::Full } else { fatal("create a segment")(source) }
    })
}
