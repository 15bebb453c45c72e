//! Reading what tasks wrote, while they run and afterwards.

use std::collections::BTreeMap;
use std::io::{self, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric_quic::env::Env;
use specs::codec::Blob;
use specs::fault::{Fault, FaultCode};
use specs::id::{Epoch, JobId, LeaseId, SiteId};
use specs::unit::Millis;
use specs::wire::agent::{LogChunk, NodeLogs};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use crate::attempts::{AttemptRecord, Attempts};
use crate::protocol::Assignment;

/// Largest piece.
const CHUNK_MAX: u32 = 1 << 20;
/// How often a file is looked at by one who waits for more.
const LOOK_SPAN: Millis = Millis(100);
/// What is kept of a call's time to send the answer.
const ANSWER_SPAN: Millis = Millis(500);

/// An attempt, as those know it who ask for its output.
type Key = (SiteId, JobId, Epoch);

/// Whose output is here.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<BTreeMap<Key, Entry>>>);

#[derive(Debug, Clone, Copy)]
struct Entry {
    lease: LeaseId,
    tasks: u32,
    is_running: bool,
}

impl Shelf {
    /// Takes in what earlier lives left.
    pub(crate) fn of(records: Vec<AttemptRecord>) -> Self {
        let shelf = Self::default();
        for AttemptRecord { home, job, epoch, lease, tasks, .. } in records {
            let entry = Entry { lease, tasks, is_running: false };
            shelf.lock().insert((home, job, epoch), entry);
        }
        shelf
    }

    pub(crate) fn begin(&self, it: &Assignment) {
        let tasks = it.launch.spec.tasks_per_node;
        let entry = Entry { lease: it.lease, tasks, is_running: true };
        self.lock().insert((it.home.clone(), it.job, it.epoch), entry);
    }

    pub(crate) fn end(&self, lease: LeaseId) {
        let mut entries = self.lock();
        for entry in entries.values_mut().filter(|entry| entry.lease == lease) {
            entry.is_running = false;
        }
    }

    pub(crate) fn remove(&self, lease: LeaseId) {
        self.lock().retain(|_, entry| entry.lease != lease);
    }

    fn get(&self, asked: &NodeLogs) -> Option<Entry> {
        self.lock().get(&(asked.home.clone(), asked.job, asked.epoch)).copied()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives out the output of attempts.
#[derive(Debug, Clone)]
pub(crate) struct Logs {
    env: Env,
    attempts: Attempts,
    shelf: Shelf,
}

impl Logs {
    pub(crate) fn new(env: &Env, attempts: Attempts, shelf: Shelf) -> Self {
        Self { env: env.clone(), attempts, shelf }
    }

    /// A piece of a task's output; waits for it if the task may write more.
    pub(crate) async fn read(&self, asked: &NodeLogs, left: Millis) -> Result<LogChunk, Fault> {
        let wait = asked.wait.min(left.minus(ANSWER_SPAN));
        let give_up_at = self.env.clock.now().after(wait);
        loop {
            // Looked up before the file is read: what an ended attempt wrote is all there.
            let entry = self.shelf.get(asked).ok_or_else(|| not_here(asked))?;
            check_task(asked, entry.tasks)?;
            let path = self.attempts.output(entry.lease, asked.task, asked.stream);
            let data = match read_at(&path, asked.offset, asked.max_bytes.min(CHUNK_MAX)).await {
                Ok(data) => data,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    // A running one has not opened its files yet.
                    if entry.is_running { Vec::new() } else { return Err(not_here(asked)) }
                }
                Err(error) => return Err(unreadable(asked, &error)),
            };
            if !data.is_empty() || !entry.is_running || self.env.clock.now() >= give_up_at {
                let end = !entry.is_running && self.is_all(&path, asked.offset, &data).await;
                return Ok(LogChunk { offset: asked.offset, data: Blob(data), end });
            }
            self.env.sleep(LOOK_SPAN).await;
        }
    }

    async fn is_all(&self, path: &Path, offset: u64, data: &[u8]) -> bool {
        let read_to = offset.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
        tokio::fs::metadata(path).await.is_ok_and(|file| file.len() <= read_to)
    }
}

async fn read_at(path: &Path, offset: u64, max: u32) -> io::Result<Vec<u8>> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(offset)).await?;
    let mut data = Vec::new();
    file.take(u64::from(max)).read_to_end(&mut data).await?;
    Ok(data)
}

fn check_task(asked: &NodeLogs, tasks: u32) -> Result<(), Fault> {
    if asked.task < tasks {
        return Ok(());
    }
    let message = format!("{} has no task {} on this node", asked.job, asked.task);
    Err(Fault::new(FaultCode::NotFound, message)
        .with_hint(format!("it has {tasks}, counted from 0")))
}

fn not_here(asked: &NodeLogs) -> Fault {
    let NodeLogs { home, job, epoch, .. } = asked;
    let message = format!("no output of attempt {epoch} of {job} of {home} is on this node");
    Fault::new(FaultCode::NotFound, message)
        .with_hint("it never ran here, or its output was deleted after some days")
}

fn unreadable(asked: &NodeLogs, error: &io::Error) -> Fault {
    let NodeLogs { job, task, stream, .. } = asked;
    Fault::new(
        FaultCode::Internal,
        format!("cannot read {stream} of task {task} of {job}: {error}"),
    )
}
