//! What stays on disk of each attempt.
//!
//! ```text
//!   attempts/<lease>/record       whose attempt it is; there before anything is started
//!                   /task-<n>.out, task-<n>.err
//!                   /checkpoint   touched by the job when it has saved its work
//!                   /exit         how it ended; there once every process is gone
//!                   /forgotten    the controllers have the end
//! ```

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use specs::codec::Message;
use specs::id::{Boot, Epoch, JobId, LeaseId, SiteId};
use specs::unit::{Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Ending, LogStream, Outcome};

use crate::disk;
use crate::protocol::{Assignment, ExitRecord};

/// Attempts whose output is kept after the controllers have their end.
const KEPT_MAX: usize = 1_000;
/// How long it is kept at most.
const KEPT_SPAN: Millis = Millis(7 * 24 * 3_600_000);
/// Room that is made for the exit record before anything runs.
const EXIT_RECORD_BYTES: usize = 4_096;

const RECORD: &str = "record";
const CHECKPOINT: &str = "checkpoint";
const EXIT: &str = "exit";
const FORGOTTEN: &str = "forgotten";

specs::message! {
    /// Whose attempt a directory holds.
    pub struct AttemptRecord {
        1 => lease: LeaseId,
        2 => job: JobId,
        3 => epoch: Epoch,
        4 => boot: Boot,
        5 => tasks: u32,
        6 => created_at: Timestamp,
        7 => home: SiteId,
    }
}

/// The attempts of one agent.
#[derive(Debug, Clone)]
pub(crate) struct Attempts {
    directory: PathBuf,
}

impl Attempts {
    /// The attempts below an agent's directory.
    pub(crate) fn below(directory: &Path) -> Self {
        Self { directory: directory.join("attempts") }
    }

    /// Where everything of an attempt is.
    pub(crate) fn path(&self, lease: LeaseId) -> PathBuf {
        self.directory.join(lease.to_string())
    }

    /// The file with a task's output.
    pub(crate) fn output(&self, lease: LeaseId, task: u32, stream: LogStream) -> PathBuf {
        let ending = match stream {
            LogStream::Stdout => "out",
            LogStream::Stderr => "err",
        };
        self.path(lease).join(format!("task-{task}.{ending}"))
    }

    /// The file that a job touches when it has saved its work. Nobody else makes it.
    pub(crate) fn checkpoint(&self, lease: LeaseId) -> PathBuf {
        self.path(lease).join(CHECKPOINT)
    }

    pub(crate) fn create_all(&self) -> io::Result<()> {
        directory_builder().recursive(true).create(&self.directory)
    }

    /// Makes the directory of an attempt that is about to start. Durable, so that a lease that was
    /// started once is never started again.
    ///
    /// # Errors
    /// `AlreadyExists` for an attempt that was there before.
    pub(crate) fn create(&self, it: &Assignment, at: Timestamp) -> io::Result<()> {
        let path = self.path(it.lease);
        directory_builder().create(&path)?;
        let record = AttemptRecord {
            lease: it.lease,
            job: it.job,
            epoch: it.epoch,
            boot: it.boot,
            tasks: it.launch.spec.tasks_per_node,
            created_at: at,
            home: it.home.clone(),
        };
        disk::reserve(&path.join(EXIT), EXIT_RECORD_BYTES)?;
        disk::replace(&path.join(RECORD), &record.encode())?;
        disk::sync_directory(&self.directory)
    }

    pub(crate) fn record(&self, lease: LeaseId) -> Option<AttemptRecord> {
        let bytes = fs::read(self.path(lease).join(RECORD)).ok()?;
        AttemptRecord::decode(&bytes).ok().filter(|record| record.lease == lease)
    }

    /// How an attempt ended; none if it has not, or if nobody wrote it down.
    pub(crate) fn exit(&self, lease: LeaseId) -> Option<ExitRecord> {
        let bytes = fs::read(self.path(lease).join(EXIT)).ok()?;
        ExitRecord::decode(&bytes).ok()
    }

    pub(crate) fn write_exit(&self, lease: LeaseId, exit: &ExitRecord) -> io::Result<()> {
        disk::fill(&self.path(lease).join(EXIT), &exit.encode())
    }

    /// The controllers have the end of an attempt.
    pub(crate) async fn forget(&self, lease: LeaseId) -> io::Result<()> {
        match tokio::fs::File::create(self.path(lease).join(FORGOTTEN)).await {
            // It was refused before it had a directory.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// What earlier lives left and no controller has heard of. Whoever calls this has ended their
    /// processes.
    pub(crate) fn left_behind(&self, at: Timestamp) -> io::Result<Vec<AttemptReport>> {
        let mut reports = Vec::new();
        for lease in self.leases()? {
            let path = self.path(lease);
            let Some(record) = self.record(lease) else {
                // Nothing was started: the record comes first.
                fs::remove_dir_all(path)?;
                continue;
            };
            if path.join(FORGOTTEN).exists() {
                continue;
            }
            let exit = self.exit(lease).unwrap_or_else(|| {
                let outcome = Outcome::of(Ending::Lost, "its agent ended");
                let exit = ExitRecord { outcome, started_at: record.created_at, ended_at: at };
                if let Err(error) = self.write_exit(lease, &exit) {
                    tracing::warn!(%lease, %error, "cannot keep how an attempt ended");
                }
                exit
            });
            reports.push(AttemptReport {
                lease,
                phase: AttemptPhase::Ended,
                outcome: Some(exit.outcome),
                started_at: exit.started_at,
                ended_at: exit.ended_at,
            });
        }
        Ok(reports)
    }

    /// Every attempt that is on disk.
    pub(crate) fn records(&self) -> io::Result<Vec<AttemptRecord>> {
        Ok(self.leases()?.into_iter().filter_map(|lease| self.record(lease)).collect())
    }

    /// Forgotten attempts whose output has been kept for long enough.
    pub(crate) fn outdated(&self, now: Timestamp) -> io::Result<Vec<LeaseId>> {
        let mut forgotten = BTreeMap::new();
        for lease in self.leases()? {
            let path = self.path(lease);
            if path.join(FORGOTTEN).exists() {
                let ended_at = self.exit(lease).map_or(Timestamp(0), |exit| exit.ended_at);
                forgotten.insert((ended_at, lease), lease);
            }
        }
        let surplus = forgotten.len().saturating_sub(KEPT_MAX);
        let old = |ended_at: Timestamp| now.minus(ended_at) > Timestamp(KEPT_SPAN.0);
        let outdated = forgotten.into_iter().enumerate();
        let outdated =
            outdated.filter(|(nth, ((ended_at, _), _))| *nth < surplus || old(*ended_at));
        Ok(outdated.map(|(_, (_, lease))| lease).collect())
    }

    /// Bytes that may still be written here.
    pub(crate) fn disk_free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.directory).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn leases(&self) -> io::Result<Vec<LeaseId>> {
        let mut leases = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let lease = name.to_str().and_then(|name| name.parse::<LeaseId>().ok());
            leases.extend(lease.filter(|lease| *lease.to_string() == *name));
        }
        leases.sort_unstable();
        Ok(leases)
    }
}

fn directory_builder() -> DirBuilder {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder
}
