//! The bounded queue between callers and the one writer thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::format::Seq;
use crate::wal::{Done, Wish, WriteError};
use crate::writer::record_bytes;

/// Records that may wait.
pub const QUEUE_RECORDS: usize = 65_536;

/// Bytes of records that may wait. One record may exceed it alone.
pub const QUEUE_BYTES: usize = 64 << 20;

/// One record and whom to tell.
pub(crate) struct Append {
    pub(crate) record: Vec<u8>,
    pub(crate) wish: Wish,
    pub(crate) done: Done,
}

/// What the writer should do next.
pub(crate) enum Work {
    Write(Vec<Append>),
    Resume,
    Release(Seq),
    /// The preparer has met trouble.
    Check,
    /// Nothing came for as long as the writer said.
    Idle,
    Close,
}

enum Request {
    Append(Append),
    Resume,
}

/// Why a record was not queued.
pub(crate) enum NotQueued {
    NoRoom(Append),
    Ended(Append, WriteError),
}

/// Told once that there may be room.
type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Wakes the writer.
    arrived: Condvar,
    /// Wakes callers: there is room, or the writer is gone.
    departed: Condvar,
}

#[derive(Default)]
struct State {
    requests: VecDeque<Request>,
    bytes: usize,
    /// Requests for which the writer wakes.
    urgent: usize,
    /// Callers that wait for room.
    waiting: usize,
    hooks: Vec<Hook>,
    release: Option<Seq>,
    check: bool,
    full: bool,
    closing: bool,
    writer_waits: Waits,
    /// Why nothing is accepted any more.
    ended: Option<WriteError>,
    /// The writer's thread, which cannot wait for itself.
    writer: Option<ThreadId>,
    writer_gone: bool,
}

/// Whether the writer sleeps. Waking it costs a call to the system, even if it does not.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Waits {
    #[default]
    No,
    /// It wakes by itself in a while.
    ForTime,
    ForWork,
}

impl Queue {
    /// Queues a record, and waits while the queue is full. Gives it back if the log has ended.
    pub(crate) fn push(&self, append: Append) -> Result<(), (Append, WriteError)> {
        let mut state = self.state();
        let mut append = append;
        loop {
            append = match self.push_in(state, append) {
                Ok(()) => return Ok(()),
                Err(NotQueued::Ended(append, error)) => return Err((append, error)),
                Err(NotQueued::NoRoom(append)) => append,
            };
            state = self.state();
            // Room may have come between the two.
            if !state.has_room(&append) && state.ended.is_none() {
                state.waiting += 1;
                state = self.departed.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.waiting -= 1;
            }
        }
    }

    /// As [`Queue::push`], but gives the record back also when there is no room.
    pub(crate) fn try_push(&self, append: Append) -> Result<(), NotQueued> {
        self.push_in(self.state(), append)
    }

    fn push_in(&self, mut state: MutexGuard<'_, State>, append: Append) -> Result<(), NotQueued> {
        if let Some(error) = &state.ended {
            let error = error.clone();
            return Err(NotQueued::Ended(append, error));
        }
        if !state.has_room(&append) {
            return Err(NotQueued::NoRoom(append));
        }
        let is_urgent = append.wish != Wish::Ride;
        state.bytes += record_bytes(append.record.len());
        state.urgent += usize::from(is_urgent);
        state.requests.push_back(Request::Append(append));
        let wakes = match state.writer_waits {
            Waits::No => false,
            Waits::ForTime => is_urgent || state.is_half_full(),
            Waits::ForWork => true,
        };
        self.unlock(state, wakes);
        Ok(())
    }

    /// Calls `hook` when there may be room, or the log has ended: at once, or on the writer thread.
    pub(crate) fn when_room(&self, hook: Hook) {
        let mut state = self.state();
        if state.is_half_full() && state.ended.is_none() {
            state.hooks.push(hook);
        } else {
            drop(state);
            hook();
        }
    }

    pub(crate) fn release(&self, upto: Seq) {
        let mut state = self.state();
        state.release = state.release.max(Some(upto));
        self.unlock(state, true);
    }

    pub(crate) fn resume(&self) {
        let mut state = self.state();
        // One behind another asks for nothing more.
        if !matches!(state.requests.back(), Some(Request::Resume)) {
            state.requests.push_back(Request::Resume);
            state.urgent += 1;
            self.unlock(state, true);
        }
    }

    pub(crate) fn check(&self) {
        let mut state = self.state();
        state.check = true;
        self.unlock(state, true);
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state().full
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Wakes the writer, if it sleeps, when the state is unlocked: it would run into the lock.
    fn unlock(&self, mut state: MutexGuard<'_, State>, wakes: bool) {
        let wakes = wakes && std::mem::take(&mut state.writer_waits) != Waits::No;
        drop(state);
        if wakes {
            self.arrived.notify_one();
        }
    }

    /// Refuses what comes from here on, and waits until the writer has done the rest.
    pub(crate) fn close(&self) -> Result<(), WriteError> {
        let mut state = self.state();
        state.closing = true;
        state.ended.get_or_insert(WriteError::Closed);
        state.writer_waits = Waits::No;
        self.arrived.notify_one();
        self.departed.notify_all();
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        hooks.into_iter().for_each(|hook| hook());
        let mut state = self.state();
        while !state.writer_gone && state.writer != Some(thread::current().id()) {
            state = self.departed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.ended {
            Some(WriteError::Closed) | None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Waits for work: all that is queued, up to `batch_bytes` of records, or one larger record.
    /// What only rides along is waited with for the time `idle`. After that, if the writer
    /// `is_restless`, it is told that nothing came.
    pub(crate) fn take(&self, batch_bytes: usize, idle: Duration, is_restless: bool) -> Work {
        let mut state = self.state();
        let mut is_late = false;
        loop {
            if std::mem::take(&mut state.check) {
                return Work::Check;
            }
            if let Some(upto) = state.release.take() {
                return Work::Release(upto);
            }
            let is_due = state.urgent > 0 || state.is_half_full() || state.closing || is_late;
            if is_due && !state.requests.is_empty() {
                let work = state.take_requests(batch_bytes);
                let hooks = std::mem::take(&mut state.hooks);
                let waiting = state.waiting;
                drop(state);
                if waiting > 0 {
                    self.departed.notify_all();
                }
                hooks.into_iter().for_each(|hook| hook());
                return work;
            }
            if state.closing {
                return Work::Close;
            }
            if is_late && is_restless {
                return Work::Idle;
            }
            is_late = false;
            state = if is_restless || !state.requests.is_empty() {
                state.writer_waits = Waits::ForTime;
                let waited = self.arrived.wait_timeout(state, idle);
                let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                is_late = timeout.timed_out();
                state
            } else {
                state.writer_waits = Waits::ForWork;
                self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
            state.writer_waits = Waits::No;
        }
    }

    /// Ends the log with an error. Returns those who still wait; the writer must tell them.
    pub(crate) fn fail(&self, error: WriteError) -> Vec<Append> {
        let mut state = self.state();
        state.ended = Some(error);
        state.bytes = 0;
        state.urgent = 0;
        let waiting = std::mem::take(&mut state.requests);
        self.departed.notify_all();
        let hooks = std::mem::take(&mut state.hooks);
        drop(state);
        hooks.into_iter().for_each(|hook| hook());
        waiting
            .into_iter()
            .filter_map(|request| match request {
                Request::Append(append) => Some(append),
                Request::Resume => None,
            })
            .collect()
    }

    /// The writer's first call.
    pub(crate) fn writer_is_here(&self) {
        self.state().writer = Some(thread::current().id());
    }

    /// The writer's last call, also when a callback has panicked.
    pub(crate) fn writer_is_gone(&self, panicked: bool) {
        let mut state = self.state();
        if panicked {
            state.ended = Some(WriteError::Panicked);
        }
        state.ended.get_or_insert(WriteError::Closed);
        state.writer_gone = true;
        // Dropping a callback may run a caller's code, which may call this queue.
        let waiting = std::mem::take(&mut state.requests);
        let hooks = std::mem::take(&mut state.hooks);
        self.departed.notify_all();
        drop(state);
        drop(waiting);
        hooks.into_iter().for_each(|hook| hook());
    }

    /// A panic elsewhere cannot leave the state half changed: no code of others runs under it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self, append: &Append) -> bool {
        let bytes = self.bytes + record_bytes(append.record.len());
        let fits = self.requests.len() < QUEUE_RECORDS && bytes <= QUEUE_BYTES;
        fits || self.requests.is_empty()
    }

    fn is_half_full(&self) -> bool {
        self.requests.len() > QUEUE_RECORDS / 2 || self.bytes > QUEUE_BYTES / 2
    }

    /// Takes from a queue that is not empty.
    fn take_requests(&mut self, batch_bytes: usize) -> Work {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(request) = self.requests.pop_front() {
            match request {
                Request::Resume if batch.is_empty() => {
                    self.urgent -= 1;
                    return Work::Resume;
                }
                Request::Resume => {
                    self.requests.push_front(Request::Resume);
                    break;
                }
                Request::Append(append) => {
                    let size = record_bytes(append.record.len());
                    if !batch.is_empty() && bytes + size > batch_bytes {
                        self.requests.push_front(Request::Append(append));
                        break;
                    }
                    bytes += size;
                    self.urgent -= usize::from(append.wish != Wish::Ride);
                    batch.push(append);
                }
            }
        }
        self.bytes -= bytes;
        Work::Write(batch)
    }
}
