//! The beginning of an agent's life: it has its directory to itself, it is numbered, and nothing
//! of an earlier life runs any more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use fabric_quic::env::Env;
use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use specs::fault::{Fault, FaultCode};
use specs::id::Boot;
use specs::unit::Millis;

use crate::tree::{self, Marks, Process};
use crate::{disk, error};

/// How long supervisors of an earlier life may take to end their attempts by themselves.
const SUPERVISORS_SPAN: Millis = Millis(3_000);
/// How long the kernel may take to end what was killed.
const KILL_SPAN: Millis = Millis(10_000);
const PAUSE: Millis = Millis(20);
/// Pids that a message names.
const NAMED_MAX: usize = 8;

const LOCK: &str = "lock";
const BOOT: &str = "boot";

/// An agent's directory, held by this process alone.
#[derive(Debug)]
pub(crate) struct Home {
    /// Canonical, so that marks of one directory are equal.
    pub(crate) path: PathBuf,
    _lock: File,
}

impl Home {
    /// Makes the directory if it is not there, and takes it.
    pub(crate) fn take(path: &Path) -> Result<Self, Fault> {
        let mut builder = DirBuilder::new();
        let made = builder.mode(0o700).recursive(true).create(path);
        made.map_err(error::disk("create", path))?;
        let path = path.canonicalize().map_err(error::disk("find", path))?;
        let lock_path = path.join(LOCK);
        let opened = disk::private().read(true).write(true).create(true).open(&lock_path);
        let mut lock = opened.map_err(error::disk("open", &lock_path))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut owner = String::new();
            let _ = lock.read_to_string(&mut owner);
            let message =
                format!("another agent (pid {}) runs with {}", owner.trim(), path.display());
            return Err(Fault::new(FaultCode::Conflict, message)
                .with_hint("stop it first, or give this one a directory of its own"));
        }
        // For people; the lock itself is the kernel's.
        let _ = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        Ok(Self { path, _lock: lock })
    }

    /// Before the first life there was life zero.
    pub(crate) fn write_first_boot(&self) -> Result<(), Fault> {
        let path = self.path.join(BOOT);
        if path.exists() {
            return Ok(());
        }
        disk::replace(&path, b"0\n").map_err(error::disk("write", &path))
    }

    /// The number of this life, durably one more than the last.
    pub(crate) fn next_boot(&self) -> Result<Boot, Fault> {
        let path = self.path.join(BOOT);
        let text = fs::read_to_string(&path).map_err(|error| {
            error::disk("read", &path)(error).with_hint(
                "without its boot number an agent could be taken for an earlier one: enrol again",
            )
        })?;
        let last = text.trim().parse::<u64>().ok().filter(|last| *last < u64::MAX);
        let last = last.ok_or_else(|| {
            let message = format!("{} does not hold a number", path.display());
            Fault::new(FaultCode::Internal, message)
        })?;
        let next = Boot(last + 1);
        let written = disk::replace(&path, format!("{next}\n").as_bytes());
        written.map_err(error::disk("write", &path))?;
        Ok(next)
    }

    /// Ends whatever earlier lives left running.
    pub(crate) async fn end_orphans(&self, env: &Env) -> Result<(), Fault> {
        let begun = env.clock.now();
        let mut seen = false;
        loop {
            let orphans = Orphans::find(&self.path);
            if orphans.is_empty() {
                if seen {
                    tracing::info!("ended what an earlier life left running");
                }
                return Ok(());
            }
            seen = true;
            let waited = env.clock.now().since(begun);
            // A supervisor whose agent is gone ends its attempt by itself, and knows best.
            if waited >= SUPERVISORS_SPAN || orphans.supervisors.is_empty() {
                orphans.kill();
            }
            if waited >= SUPERVISORS_SPAN.plus(KILL_SPAN) {
                return Err(orphans.fault());
            }
            env.sleep(PAUSE).await;
        }
    }
}

/// Processes of earlier lives.
struct Orphans {
    supervisors: Vec<Process>,
    others: Vec<Process>,
}

impl Orphans {
    fn find(directory: &Path) -> Self {
        let all = tree::processes();
        let marks = Marks::of_directory(directory);
        let own = tree::own_pid();
        let marked = all.iter().filter(|it| it.pid != own && marks.match_process(it.pid));
        let marked: BTreeSet<i32> = marked.map(|it| it.pid).collect();
        let mut pids = tree::descendants(&marked, &all);
        pids.extend(&marked);
        // Whoever started this agent is not its orphan.
        for ancestor in tree::ancestors(own, &all) {
            pids.remove(&ancestor);
        }
        let marks = marks.and_supervisor();
        let (supervisors, others) =
            tree::alive(&pids, &all).into_iter().partition(|it| marks.match_process(it.pid));
        Self { supervisors, others }
    }

    fn is_empty(&self) -> bool {
        self.supervisors.is_empty() && self.others.is_empty()
    }

    /// Supervisors last: orphans come back to them and can be found, and one that is stopped
    /// cannot take a kill of ours for an end of the task's own.
    fn kill(&self) {
        for supervisor in &self.supervisors {
            tree::signal(supervisor, Signal::STOP);
        }
        for other in &self.others {
            tree::signal(other, Signal::KILL);
        }
        if self.others.is_empty() {
            for supervisor in &self.supervisors {
                tree::signal(supervisor, Signal::KILL);
            }
        }
    }

    fn fault(&self) -> Fault {
        let all = self.supervisors.iter().chain(&self.others);
        let named: Vec<String> = all.take(NAMED_MAX).map(|it| it.pid.to_string()).collect();
        let count = self.supervisors.len() + self.others.len();
        let message = format!(
            "{count} processes of an earlier life cannot be ended: pid {}",
            named.join(", ")
        );
        Fault::new(FaultCode::Internal, message).with_hint(
            "they hang in the kernel, most often in a driver or a network disk; \
             restart the machine if they stay",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_agent_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::take(&directory.path().join("deep/down")).unwrap();
        let fault = Home::take(&home.path).unwrap_err();
        assert_eq!(fault.code, FaultCode::Conflict);
        assert!(fault.message.contains(&std::process::id().to_string()), "{fault}");
        let path = home.path.clone();
        drop(home);
        Home::take(&path).unwrap();
    }

    #[test]
    fn each_life_has_a_higher_number_and_the_number_is_never_guessed() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::take(directory.path()).unwrap();
        assert!(home.next_boot().is_err());
        home.write_first_boot().unwrap();
        assert_eq!(home.next_boot().unwrap(), Boot(1));
        assert_eq!(home.next_boot().unwrap(), Boot(2));
        home.write_first_boot().unwrap();
        assert_eq!(home.next_boot().unwrap(), Boot(3));
        fs::write(home.path.join(BOOT), "").unwrap();
        assert!(home.next_boot().is_err());
        fs::write(home.path.join(BOOT), u64::MAX.to_string()).unwrap();
        assert!(home.next_boot().is_err());
    }

    #[test]
    fn an_interrupted_write_of_the_number_does_not_lose_it() {
        let directory = tempfile::tempdir().unwrap();
        let home = Home::take(directory.path()).unwrap();
        home.write_first_boot().unwrap();
        assert_eq!(home.next_boot().unwrap(), Boot(1));
        fs::write(home.path.join("boot.tmp"), "garb").unwrap();
        assert_eq!(home.next_boot().unwrap(), Boot(2));
    }
}
