//! Processes: those that a test starts, and those that come of them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Between two looks at something that is awaited.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// Lines of a log that a failure shows.
const LOG_LINES: usize = 15;

/// Looks until there is something, or fails the test.
#[track_caller]
pub(crate) fn await_some<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < limit, "still not after {limit:?}: {what}");
        thread::sleep(LOOK);
    }
}

/// Looks until it is so, or fails the test.
#[track_caller]
pub(crate) fn await_that(what: &str, limit: Duration, mut look: impl FnMut() -> bool) {
    await_some(what, limit, || look().then_some(()));
}

/// Sends a signal; a process that is gone needs none.
pub(crate) fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

pub(crate) fn send_all(pids: &[u32], signal: Signal) {
    for &pid in pids {
        send(pid, signal);
    }
}

/// A controller or an agent, which can be started again.
pub(crate) struct Daemon {
    name: String,
    program: PathBuf,
    args: Vec<String>,
    environment: Vec<(&'static str, PathBuf)>,
    config: PathBuf,
    pub(crate) log: PathBuf,
    child: Option<Child>,
}

impl Daemon {
    pub(crate) fn new(name: &str, program: &Path, args: &[&str], config: &Path) -> Self {
        let log = config.with_file_name(format!("{name}.log"));
        Self {
            name: name.into(),
            program: program.into(),
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            environment: Vec::new(),
            config: config.into(),
            log,
            child: None,
        }
    }

    /// Gives it a variable in all its lives.
    pub(crate) fn with(mut self, name: &'static str, path: PathBuf) -> Self {
        self.environment.push((name, path));
        self
    }

    pub(crate) fn start(&mut self) {
        self.start_with(&[]);
    }

    /// Starts it with arguments that later starts do not repeat.
    pub(crate) fn start_with(&mut self, once: &[&str]) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let child = Command::new(&self.program)
            .args(&self.args)
            .args(once)
            .env("SPILLWAY_CONFIG", &self.config)
            .env_remove("SPILLWAY_ENROL_TOKEN")
            .envs(self.environment.iter().map(|(name, path)| (name, path)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        self.child = Some(child.unwrap());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    pub(crate) fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if thread::panicking() {
            let said = self.said();
            let lines: Vec<&str> = said.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            eprintln!("--- {}\n{}", self.name, last.join("\n"));
        }
    }
}

fn pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let mut pids: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    pids
}

/// Processes whose environment holds all of these texts. Those that are gone and not yet reaped
/// have none.
pub(crate) fn with_environment(texts: &[&str]) -> Vec<u32> {
    let holds = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let has = |text: &&str| environment.windows(text.len()).any(|it| it == text.as_bytes());
        *pid != std::process::id() && texts.iter().all(has)
    };
    pids().into_iter().filter(holds).collect()
}

/// Processes of one job, or of one attempt of it.
pub(crate) fn of_job(job: &str, epoch: Option<u64>) -> Vec<u32> {
    let job = format!("SPILLWAY_JOB_ID={job}\0");
    let epoch = epoch.map(|epoch| format!("SPILLWAY_EPOCH={epoch}\0"));
    let mut texts = vec![job.as_str()];
    texts.extend(epoch.as_deref());
    with_environment(&texts)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// All that a process started, and what came of that; supervisors before their tasks.
pub(crate) fn descendants(of: u32) -> Vec<u32> {
    let all: Vec<(u32, u32)> =
        pids().into_iter().filter_map(|pid| Some((pid, parent(pid)?))).collect();
    let mut found = vec![of];
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(all.iter().filter(|(_, parent)| *parent == pid).map(|(pid, _)| *pid));
        next += 1;
    }
    found.remove(0);
    found
}
