//! The bounded queue between callers and the one writer thread.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use crate::format::Seq;
use crate::wal::{Done, WriteError};
use crate::writer::record_bytes;

/// Records that may wait; further callers block.
pub const QUEUE_RECORDS: usize = 65_536;

/// Bytes of records that may wait; further callers block. One record may exceed it alone.
pub const QUEUE_BYTES: usize = 64 << 20;

/// One record and whom to tell.
pub(crate) struct Append {
    pub(crate) record: Vec<u8>,
    pub(crate) sync: bool,
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
    release: Option<Seq>,
    check: bool,
    full: bool,
    closing: bool,
    /// Why nothing is accepted any more.
    ended: Option<WriteError>,
    /// The writer's thread, which cannot wait for itself.
    writer: Option<ThreadId>,
    writer_gone: bool,
}

impl Queue {
    /// Queues a record, and waits while the queue is full. Gives it back if the log has ended.
    pub(crate) fn push(&self, append: Append) -> Result<(), (Append, WriteError)> {
        let mut state = self.state();
        loop {
            if let Some(error) = &state.ended {
                return Err((append, error.clone()));
            }
            let bytes = state.bytes + record_bytes(append.record.len());
            let fits = state.requests.len() < QUEUE_RECORDS && bytes <= QUEUE_BYTES;
            if fits || state.requests.is_empty() {
                state.bytes = bytes;
                state.requests.push_back(Request::Append(append));
                self.arrived.notify_one();
                return Ok(());
            }
            state = self.departed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(crate) fn release(&self, upto: Seq) {
        let mut state = self.state();
        state.release = state.release.max(Some(upto));
        self.arrived.notify_one();
    }

    pub(crate) fn resume(&self) {
        let mut state = self.state();
        // One behind another asks for nothing more.
        if !matches!(state.requests.back(), Some(Request::Resume)) {
            state.requests.push_back(Request::Resume);
            self.arrived.notify_one();
        }
    }

    pub(crate) fn check(&self) {
        self.state().check = true;
        self.arrived.notify_one();
    }

    pub(crate) fn is_full(&self) -> bool {
        self.state().full
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Refuses what comes from here on, and waits until the writer has done the rest.
    pub(crate) fn close(&self) -> Result<(), WriteError> {
        let mut state = self.state();
        state.closing = true;
        state.ended.get_or_insert(WriteError::Closed);
        self.arrived.notify_one();
        self.departed.notify_all();
        while !state.writer_gone && state.writer != Some(thread::current().id()) {
            state = self.departed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        match &state.ended {
            Some(WriteError::Closed) | None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Waits for work: all that is queued, up to `batch_bytes` of records, or one larger record.
    /// With `idle`, gives up waiting after that time.
    pub(crate) fn take(&self, batch_bytes: usize, idle: Option<Duration>) -> Work {
        let mut state = self.state();
        loop {
            if std::mem::take(&mut state.check) {
                return Work::Check;
            }
            if let Some(upto) = state.release.take() {
                return Work::Release(upto);
            }
            if !state.requests.is_empty() {
                let work = state.take_requests(batch_bytes);
                self.departed.notify_all();
                return work;
            }
            if state.closing {
                return Work::Close;
            }
            state = match idle {
                None => self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(idle) => {
                    let waited = self.arrived.wait_timeout(state, idle);
                    let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                    let nothing = state.requests.is_empty() && state.release.is_none();
                    if timeout.timed_out() && nothing && !state.check && !state.closing {
                        return Work::Idle;
                    }
                    state
                }
            };
        }
    }

    /// Ends the log with an error. Returns those who still wait; the writer must tell them.
    pub(crate) fn fail(&self, error: WriteError) -> Vec<Done> {
        let mut state = self.state();
        state.ended = Some(error);
        state.bytes = 0;
        let waiting = std::mem::take(&mut state.requests);
        self.departed.notify_all();
        waiting
            .into_iter()
            .filter_map(|request| match request {
                Request::Append(append) => Some(append.done),
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
        self.departed.notify_all();
        drop(state);
        drop(waiting);
    }

    /// A panic elsewhere cannot leave the state half changed: no code of others runs under it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes from a queue that is not empty.
    fn take_requests(&mut self, batch_bytes: usize) -> Work {
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(request) = self.requests.pop_front() {
            match request {
                Request::Resume if batch.is_empty() => return Work::Resume,
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
                    batch.push(append);
                }
            }
        }
        self.bytes -= bytes;
        Work::Write(batch)
    }
}
