//! The process engine: a supervisor for each attempt, and what is done when one fails.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric_quic::env::Env;
use rustix::process::{Pid, Signal, WaitOptions, waitpid};
use specs::id::LeaseId;
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::{Ending, Outcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, watch};

use crate::attempts::Attempts;
use crate::protocol::{Assignment, End, ExitRecord, Inbox, Notice, Wish, frame};
use crate::tree::{self, DIRECTORY_MARK, LEASE_MARK, Marks, Process, SUPERVISOR_MARK};

/// How much later than it should have, an attempt may end before its supervisor is given up.
const KILL_BUDGET: Millis = Millis(3_000);
/// How long a supervisor that has said all may take to exit.
const EXIT_SPAN: Millis = Millis(2_000);
/// How long a supervisor may take to read a wish.
const TELL_SPAN: Millis = Millis(2_000);
const PAUSE: Millis = Millis(10);
/// Pause between kills once many have not helped.
const PAUSE_LONG: Millis = Millis(200);
const KILLS_QUICK: u32 = 200;

/// Starts supervisors.
pub trait Launcher: fmt::Debug + Send + Sync {
    /// Starts a supervisor whose standard input is one end of a pair of sockets.
    ///
    /// # Errors
    /// Whatever the system says.
    fn launch(&self, lease: LeaseId, socket: OwnedFd) -> io::Result<Child>;
}

/// Starts this very program as a supervisor.
#[derive(Debug)]
pub struct SelfLauncher {
    /// The agent's directory, canonical.
    pub directory: PathBuf,
}

impl Launcher for SelfLauncher {
    fn launch(&self, lease: LeaseId, socket: OwnedFd) -> io::Result<Child> {
        // The running program, also when its file was replaced since.
        let mut command = Command::new("/proc/self/exe");
        // Not the whole environment: the enrolment token may be in it.
        command
            .env_remove("SPILLWAY_ENROL_TOKEN")
            .env(DIRECTORY_MARK, &self.directory)
            .env(LEASE_MARK, lease.to_string())
            .env(SUPERVISOR_MARK, "1")
            .arg("supervise")
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/");
        command.spawn()
    }
}

/// What becomes of an attempt.
#[derive(Debug)]
pub(crate) enum Progress {
    Started { lease: LeaseId, at: Timestamp },
    Ended { lease: LeaseId, exit: ExitRecord },
}

/// Runs attempts. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Engine {
    env: Env,
    launcher: Arc<dyn Launcher>,
    attempts: Attempts,
    marks: Marks,
    children: Arc<Mutex<Children>>,
    progress: mpsc::Sender<Progress>,
}

/// Children of this process that are not orphans of a supervisor.
#[derive(Debug, Default)]
struct Children {
    /// Whoever was there before the first attempt.
    strangers: BTreeSet<i32>,
    supervisors: BTreeMap<i32, LeaseId>,
}

impl Engine {
    /// # Errors
    /// The system does not give orphans back to this process.
    pub(crate) fn new(
        env: &Env,
        launcher: Arc<dyn Launcher>,
        attempts: Attempts,
        marks: Marks,
        progress: mpsc::Sender<Progress>,
    ) -> io::Result<Self> {
        // Orphans of a supervisor that was killed come back here and can be found.
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let own = tree::own_pid();
        let strangers = tree::processes().into_iter().filter(|it| it.parent == own);
        let strangers = strangers.map(|it| it.pid).collect();
        let children = Children { strangers, supervisors: BTreeMap::new() };
        let children = Arc::new(Mutex::new(children));
        Ok(Self { env: env.clone(), launcher, attempts, marks, children, progress })
    }

    /// Starts an attempt; how it goes is told as [`Progress`].
    pub(crate) fn start(&self, assignment: Assignment) -> watch::Sender<Wish> {
        let (wishes, wanted) = watch::channel(assignment.wish.clone());
        let engine = self.clone();
        self.env.spawn(async move {
            let lease = assignment.lease;
            let exit = engine.attend(assignment, wanted).await;
            engine.tell(Progress::Ended { lease, exit }).await;
        });
        wishes
    }

    async fn attend(&self, assignment: Assignment, wanted: watch::Receiver<Wish>) -> ExitRecord {
        let lease = assignment.lease;
        let (socket, mut child) = match self.launch(lease) {
            Ok(launched) => launched,
            Err(error) => {
                let detail = format!("cannot start a supervisor: {error}");
                let outcome = Outcome::of(Ending::Refused, detail);
                let ended_at = self.env.clock.wall();
                return ExitRecord { outcome, started_at: Timestamp(0), ended_at };
            }
        };
        let pid = Pid::from_child(&child).as_raw_pid();
        let mut line = Line { env: self.env.clone(), socket, wanted, inbox: Inbox::default() };
        let heard = line.follow(&assignment, |at| self.tell(Progress::Started { lease, at })).await;
        let exit = match heard {
            Ok(exit) => {
                // It says so as its last deed.
                self.bury(&mut child).await;
                exit
            }
            Err(outcome) => {
                tracing::warn!(%lease, why = outcome.detail, "a supervisor is given up");
                self.clean_up(lease, pid, &mut child).await;
                self.exit_without_supervisor(lease, outcome)
            }
        };
        lock(&self.children).supervisors.remove(&pid);
        exit
    }

    fn launch(&self, lease: LeaseId) -> io::Result<(UnixStream, Child)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let socket = UnixStream::from_std(ours)?;
        // Held while the child is made, so that nobody takes it for an orphan.
        let mut children = lock(&self.children);
        let child = self.launcher.launch(lease, theirs.into())?;
        children.supervisors.insert(Pid::from_child(&child).as_raw_pid(), lease);
        Ok((socket, child))
    }

    async fn tell(&self, progress: Progress) {
        // The agent that does not listen any more is on its way out.
        let _ = self.progress.send(progress).await;
    }

    async fn bury(&self, child: &mut Child) {
        let begun = self.env.clock.now();
        while !has_ended(child) {
            if self.env.clock.now().since(begun) > EXIT_SPAN {
                let _ = child.kill();
            }
            self.env.sleep(PAUSE).await;
        }
    }

    /// Ends an attempt without the help of its supervisor.
    async fn clean_up(&self, lease: LeaseId, supervisor: i32, child: &mut Child) {
        let marks = self.marks.clone().and_lease(lease);
        let mut kills = 0;
        loop {
            // Once it has been waited for, its pid may be another's.
            let root = Some(supervisor).filter(|_| !has_ended(child));
            let victims = self.remains(&marks, root);
            for victim in &victims {
                tree::signal(victim, Signal::KILL);
            }
            if root.is_none() && victims.is_empty() {
                return;
            }
            kills += 1;
            self.env.sleep(if kills < KILLS_QUICK { PAUSE } else { PAUSE_LONG }).await;
        }
    }

    /// What is alive of an attempt whose supervisor has failed: what is below it, what came back
    /// from it to this process, and what carries the attempt's marks.
    fn remains(&self, marks: &Marks, supervisor: Option<i32>) -> Vec<Process> {
        let children = lock(&self.children);
        let all = tree::processes();
        let own = tree::own_pid();
        let is_orphan = |it: &&Process| {
            it.parent == own
                && !children.strangers.contains(&it.pid)
                && !children.supervisors.contains_key(&it.pid)
        };
        let mut roots: BTreeSet<i32> = supervisor.into_iter().collect();
        for orphan in all.iter().filter(is_orphan) {
            if orphan.zombie {
                let _ = Pid::from_raw(orphan.pid).map(|it| waitpid(Some(it), WaitOptions::NOHANG));
            }
            roots.insert(orphan.pid);
        }
        let marked = all.iter().filter(|it| it.pid != own && marks.match_process(it.pid));
        roots.extend(marked.map(|it| it.pid));
        let mut pids = tree::descendants(&roots, &all);
        pids.extend(roots);
        tree::alive(&pids, &all)
    }

    fn exit_without_supervisor(&self, lease: LeaseId, outcome: Outcome) -> ExitRecord {
        // It may have died after it wrote the end down.
        if let Some(exit) = self.attempts.exit(lease) {
            return exit;
        }
        let (started_at, ended_at) = (Timestamp(0), self.env.clock.wall());
        let exit = ExitRecord { outcome, started_at, ended_at };
        if self.attempts.path(lease).is_dir()
            && let Err(error) = self.attempts.write_exit(lease, &exit)
        {
            tracing::warn!(%lease, %error, "cannot keep how an attempt ended");
        }
        exit
    }
}

/// The agent's end of the socket to a supervisor.
struct Line {
    env: Env,
    socket: UnixStream,
    wanted: watch::Receiver<Wish>,
    inbox: Inbox,
}

impl Line {
    /// Assigns the attempt, passes on what is wanted and listens until the end is told. Otherwise
    /// says what to make of an attempt whose supervisor is silent.
    async fn follow<F: Future<Output = ()>>(
        &mut self,
        assignment: &Assignment,
        started: impl Fn(Timestamp) -> F,
    ) -> Result<ExitRecord, Outcome> {
        let mut wish = assignment.wish.clone();
        let mut overdue = overdue(&wish, self.env.clock.now(), None);
        self.send(frame(assignment)).await?;
        let mut bytes = vec![0; 4_096];
        loop {
            while let Some(notice) = self.inbox.pop().map_err(|error| lost(&error))? {
                match notice {
                    Notice::Started(it) => started(it.at).await,
                    Notice::Ended(exit) => return Ok(exit),
                }
            }
            let now = self.env.clock.now();
            let left = overdue.map_or(KILL_BUDGET, |at| at.since(now));
            if left == Millis::ZERO {
                return Err(too_late(&wish));
            }
            // Not in one piece: the timer stops while a machine sleeps.
            let sleep = self.env.sleep(left.min(KILL_BUDGET));
            let heard = tokio::select! {
                read = self.socket.read(&mut bytes) => Some(read),
                Ok(()) = self.wanted.changed() => {
                    wish = self.wanted.borrow_and_update().clone();
                    overdue = self::overdue(&wish, self.env.clock.now(), overdue);
                    self.send(frame(&wish)).await?;
                    None
                }
                () = sleep => None,
            };
            match heard {
                None => {}
                Some(Ok(0)) => return Err(lost(&"its supervisor died")),
                Some(Ok(len)) => self.inbox.push(&bytes[..len]),
                Some(Err(error)) => return Err(lost(&error)),
            }
        }
    }

    async fn send(&mut self, bytes: Vec<u8>) -> Result<(), Outcome> {
        match self.env.timeout(TELL_SPAN, self.socket.write_all(&bytes)).await {
            Ok(Ok(())) => Ok(()),
            // What it said last can still be read.
            Ok(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            Ok(Err(error)) => Err(lost(&error)),
            Err(_) => Err(lost(&"its supervisor does not listen")),
        }
    }
}

/// When the supervisor should long have said that the attempt has ended.
fn overdue(wish: &Wish, now: Instant, before: Option<Instant>) -> Option<Instant> {
    let by_end = wish.end.as_ref().map(|end| now.after(end.grace).after(KILL_BUDGET));
    // What was to end already does not get more time by being told again.
    let by_end = by_end.map(|at| before.map_or(at, |before| before.min(at)));
    let by_deadline = wish.deadline.map(|at| at.after(KILL_BUDGET));
    [by_end, by_deadline].into_iter().flatten().min()
}

fn too_late(wish: &Wish) -> Outcome {
    match &wish.end {
        Some(End { outcome, .. }) => outcome.clone(),
        None => Outcome::of(Ending::Fenced, "its lease ran out, and its supervisor hung"),
    }
}

fn lost(why: &dyn fmt::Display) -> Outcome {
    Outcome::of(Ending::Lost, why.to_string())
}

fn has_ended(child: &mut Child) -> bool {
    // An error says that there is nobody to wait for.
    !matches!(child.try_wait(), Ok(None))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
