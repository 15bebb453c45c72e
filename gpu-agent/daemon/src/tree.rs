//! Who is alive on this machine, whose child each is, and ending all of a kind. Reads `/proc`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use specs::id::LeaseId;

/// Environment variable with the directory of the agent that a process belongs to.
pub(crate) const DIRECTORY_MARK: &str = "SPILLWAY_AGENT_DIR";
/// Environment variable with the lease that a process belongs to.
pub(crate) const LEASE_MARK: &str = "SPILLWAY_LEASE";
/// Environment variable of supervisors, which their tasks do not inherit.
pub(crate) const SUPERVISOR_MARK: &str = "SPILLWAY_SUPERVISOR";

/// A live process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    /// In clock ticks after the machine's start; with the pid it names a process for good.
    started: u64,
    /// Dead, and waiting for its parent to notice.
    pub(crate) zombie: bool,
}

/// What the environment of a process must hold for it to be meant.
#[derive(Debug, Clone)]
pub(crate) struct Marks(Vec<Vec<u8>>);

impl Marks {
    /// Everything that belongs to the agent of a directory.
    pub(crate) fn of_directory(directory: &Path) -> Self {
        Self(vec![entry(DIRECTORY_MARK, directory.as_os_str())])
    }

    /// What belongs to one attempt of that agent.
    pub(crate) fn and_lease(mut self, lease: LeaseId) -> Self {
        self.0.push(entry(LEASE_MARK, OsStr::new(&lease.to_string())));
        self
    }

    /// Supervisors alone.
    pub(crate) fn and_supervisor(mut self) -> Self {
        self.0.push(entry(SUPERVISOR_MARK, OsStr::new("1")));
        self
    }

    /// A process that hides its environment does not match; its ancestry may still betray it.
    pub(crate) fn match_process(&self, pid: i32) -> bool {
        let Ok(environment) = fs::read(format!("/proc/{pid}/environ")) else { return false };
        let has = |mark: &Vec<u8>| environment.split(|byte| *byte == 0).any(|it| it == mark);
        self.0.iter().all(has)
    }
}

fn entry(name: &str, value: &OsStr) -> Vec<u8> {
    [name.as_bytes(), b"=", value.as_bytes()].concat()
}

/// All processes that can be seen.
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// One process, if it is there.
pub(crate) fn process(pid: i32) -> Option<Process> {
    parse_stat(pid, &fs::read(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(pid: i32, stat: &[u8]) -> Option<Process> {
    // The name stands in parentheses and may hold anything, also a parenthesis.
    let after_name = stat.iter().rposition(|byte| *byte == b')')? + 2;
    let fields = std::str::from_utf8(stat.get(after_name..)?).ok()?;
    let fields: Vec<&str> = fields.split_ascii_whitespace().collect();
    let threads: u64 = fields.get(17)?.parse().ok()?;
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        started: fields.get(19)?.parse().ok()?,
        // The first thread may be dead while others run.
        zombie: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
    })
}

/// The pids below `roots`, without the roots themselves.
pub(crate) fn descendants(roots: &BTreeSet<i32>, all: &[Process]) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    loop {
        let before = found.len();
        for process in all {
            if roots.contains(&process.parent) || found.contains(&process.parent) {
                found.insert(process.pid);
            }
        }
        if found.len() == before {
            return found.difference(roots).copied().collect();
        }
    }
}

/// The pids above a process, and its own.
pub(crate) fn ancestors(pid: i32, all: &[Process]) -> BTreeSet<i32> {
    let mut line = BTreeSet::from([pid]);
    let mut next = all.iter().find(|it| it.pid == pid);
    while let Some(process) = next.filter(|it| line.insert(it.parent)) {
        next = all.iter().find(|it| it.pid == process.parent);
    }
    line
}

/// Sends a signal to the very process that was seen, not to one that has its pid since.
pub(crate) fn signal(process: &Process, signal: Signal) {
    let Some(pid) = Pid::from_raw(process.pid) else { return };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => {
            if self::process(process.pid).is_some_and(|it| it.started == process.started) {
                // It may have ended a moment ago.
                let _ = pidfd_send_signal(handle, signal);
            }
        }
        Err(Errno::NOSYS) => {
            let _ = rustix::process::kill_process(pid, signal);
        }
        Err(_) => {}
    }
}

/// The processes of `all` with these pids that are not dead yet.
pub(crate) fn alive(pids: &BTreeSet<i32>, all: &[Process]) -> Vec<Process> {
    all.iter().filter(|it| pids.contains(&it.pid) && !it.zombie).copied().collect()
}

/// This process.
pub(crate) fn own_pid() -> i32 {
    rustix::process::getpid().as_raw_pid()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pid: i32, parent: i32) -> Process {
        Process { pid, parent, started: 0, zombie: false }
    }

    #[test]
    fn a_name_may_hold_parentheses_and_blanks() {
        let stat = b"42 (a) R 9 (b)) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 3 0 99 1 2";
        assert_eq!(
            parse_stat(42, stat),
            Some(Process { pid: 42, parent: 7, started: 99, zombie: false })
        );
        assert_eq!(parse_stat(42, b"42 (cut"), None);
        assert_eq!(parse_stat(42, b""), None);
    }

    #[test]
    fn a_dead_first_thread_does_not_make_a_dead_process() {
        let stat =
            |threads: u32| format!("1 (x) Z 0 1 1 0 -1 0 1 2 3 4 5 6 7 8 20 0 {threads} 0 9");
        assert!(parse_stat(1, stat(1).as_bytes()).unwrap().zombie);
        assert!(!parse_stat(1, stat(2).as_bytes()).unwrap().zombie);
    }

    #[test]
    fn descendants_are_found_in_any_order() {
        let all = [of(5, 4), of(4, 2), of(3, 1), of(2, 1), of(9, 8)];
        assert_eq!(descendants(&BTreeSet::from([2]), &all), BTreeSet::from([4, 5]));
        assert_eq!(descendants(&BTreeSet::from([1]), &all), BTreeSet::from([2, 3, 4, 5]));
    }

    #[test]
    fn ancestors_end_at_the_top_and_in_a_circle() {
        let all = [of(5, 4), of(4, 2), of(2, 0), of(8, 9), of(9, 8)];
        assert_eq!(ancestors(5, &all), BTreeSet::from([0, 2, 4, 5]));
        assert_eq!(ancestors(8, &all), BTreeSet::from([8, 9]));
    }

    #[test]
    fn this_process_is_seen_alive() {
        let all = processes();
        let own = all.iter().find(|it| it.pid == own_pid()).unwrap();
        assert!(!own.zombie);
        assert!(Marks(Vec::new()).match_process(own.pid));
    }
}
