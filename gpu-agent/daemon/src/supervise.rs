//! The supervisor: a small process of its own for each attempt on this node. It starts the tasks,
//! kills them when their time is up, and outlives nobody: its end comes with the attempt's, and
//! the attempt's comes with the agent's.
//!
//! ```text
//!   agent ══socket══ supervisor ──┬─ task 0 ── …
//!     ✗ (killed, stopped, hung)   └─ task 1 ── …    every orphan comes back to the supervisor
//! ```
//!
//! # Invariants
//! * From the first task on, nothing here waits for the disk, the agent or a program that starts:
//!   the deadline is always looked at.
//! * It says that an attempt has ended only when no process of it is left.
//! * A task has exited only if it did so before anything here sent it a signal.
//!
//! Deliberately absent: logging. Who reads the agent's log may be slow, and what is slow must not
//! be on the way of a kill. What there is to say stands in the outcome's detail.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use fabric_quic::env::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use specs::unit::{Millis, Timestamp};
use specs::wire::agent::{Ending, Outcome};

use crate::attempts::Attempts;
use crate::protocol::{Assignment, ExitRecord, Inbox, Notice, Started, Wish, frame};

mod family;
mod overseer;
mod task;

use family::Family;
use overseer::{Overseer, Step};

/// How long nothing is looked at. Timers stop while a machine sleeps, and the deadline does not.
const TICK: Millis = Millis(200);
/// The same while tasks are being started or killed.
const TICK_BUSY: Millis = Millis(5);
/// Kills after which the next one may take its time: what is left hangs in the kernel.
const KILLS_QUICK: u32 = 400;
/// Tries to write the exit record to a disk that is full.
const RECORD_TRIES: u32 = 5;
const RECORD_PAUSE: Millis = Millis(200);

/// Runs one attempt that the agent at the other end of `socket` assigns.
///
/// # Errors
/// The socket is none, or ends before the assignment has come.
pub fn supervise(clock: Arc<dyn Clock>, directory: PathBuf, socket: OwnedFd) -> io::Result<()> {
    // Its own session, so that no terminal's signal reaches it. It leads no group before this.
    let _ = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut line = Line::new(UnixStream::from(socket));
    let assignment = line.assignment()?;
    let supervisor = Supervisor { clock, directory, assignment, line };
    supervisor.run();
    Ok(())
}

/// The socket to the agent.
struct Line {
    socket: UnixStream,
    inbox: Inbox,
}

/// What the agent said since it was asked last.
struct Heard {
    wish: Option<Wish>,
    is_closed: bool,
}

impl Line {
    fn new(socket: UnixStream) -> Self {
        Self { socket, inbox: Inbox::default() }
    }

    fn assignment(&mut self) -> io::Result<Assignment> {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(assignment) = self.inbox.pop()? {
                self.socket.set_nonblocking(true)?;
                return Ok(assignment);
            }
            match self.socket.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                len => self.inbox.push(&bytes[..len]),
            }
        }
    }

    /// Each wish is whole, so that only the last one counts.
    fn listen(&mut self) -> Heard {
        let mut bytes = [0; 4_096];
        let is_closed = loop {
            match self.socket.read(&mut bytes) {
                Ok(0) => break true,
                Ok(len) => self.inbox.push(&bytes[..len]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break true,
            }
        };
        let mut wish = None;
        loop {
            match self.inbox.pop() {
                Ok(Some(latest)) => wish = Some(latest),
                Ok(None) => return Heard { wish, is_closed },
                // An agent that makes no sense is as good as none.
                Err(_) => return Heard { wish, is_closed: true },
            }
        }
    }

    /// Two notices in all: they fit into the socket's buffer, whoever reads it.
    fn tell(&mut self, notice: &Notice) {
        let _ = self.socket.write_all(&frame(notice));
    }
}

struct Supervisor {
    clock: Arc<dyn Clock>,
    directory: PathBuf,
    assignment: Assignment,
    line: Line,
}

impl Supervisor {
    fn run(mut self) {
        let attempts = Attempts::below(&self.directory);
        let plan = match task::prepare(&attempts, &self.assignment, self.clock.wall()) {
            Ok(plan) => plan,
            Err(detail) => {
                let outcome = Outcome::of(Ending::Refused, detail);
                return self.finish(&attempts, outcome, Timestamp(0), &[]);
            }
        };
        let spec = &self.assignment.launch.spec;
        let mut overseer = Overseer::new(spec.tasks_per_node, spec.grace, spec.time_limit);
        let wish = self.assignment.wish.clone();
        overseer.handle_wish(self.clock.now(), wish);
        self.listen(&mut overseer);
        overseer.handle_timeout(self.clock.now());
        if overseer.is_ending() {
            let outcome = overseer.into_outcome();
            return self.finish(&attempts, outcome, Timestamp(0), &[]);
        }
        let started_at = self.clock.wall();
        let mut family = Family::start(plan, &self.directory, self.assignment.lease);
        self.watch(&mut overseer, &mut family);
        self.bury(&family);
        self.finish(&attempts, overseer.into_outcome(), started_at, family.remarks());
    }

    /// Until every task has ended.
    fn watch(&mut self, overseer: &mut Overseer, family: &mut Family) {
        let mut told = false;
        while !family.is_over() {
            let now = self.clock.now();
            // What ended by itself is seen before anything that could end it.
            family.handle_births(now, overseer);
            family.handle_deaths(now, overseer);
            if !told && family.is_complete() {
                told = true;
                overseer.handle_started(now);
                self.line.tell(&Notice::Started(Started { at: self.clock.wall() }));
            }
            self.listen(overseer);
            overseer.handle_timeout(self.clock.now());
            if overseer.is_ending() {
                family.start_no_more();
            }
            match overseer.poll_step() {
                Step::LetRun => {}
                Step::Terminate => family.terminate(),
                Step::Kill => drop(family.kill()),
            }
            let busy = family.is_starting() || overseer.is_killing() || !family.has_handles();
            self.wait(overseer, family, if busy { TICK_BUSY } else { TICK });
        }
    }

    fn listen(&mut self, overseer: &mut Overseer) {
        let heard = self.line.listen();
        let now = self.clock.now();
        if let Some(wish) = heard.wish {
            overseer.handle_wish(now, wish);
        }
        if heard.is_closed {
            overseer.handle_silence(now);
        }
    }

    /// Until something happens that is worth a look.
    fn wait(&self, overseer: &Overseer, family: &Family, tick: Millis) {
        let now = self.clock.now();
        let due = overseer.poll_timeout().map_or(tick, |at| at.since(now).min(tick));
        // Once the kill has begun, the deadline lies behind and says nothing.
        let span = if overseer.is_killing() { tick } else { due };
        let mut events: Vec<PollFd<'_>> = family
            .handles()
            .map(|handle| PollFd::from_borrowed_fd(handle, PollFlags::IN))
            .collect();
        if !overseer.is_killing() {
            let socket = self.line.socket.as_fd();
            events.push(PollFd::from_borrowed_fd(socket, PollFlags::IN));
        }
        pause(&mut events, span);
    }

    /// Every task has ended; what they left behind goes too.
    fn bury(&self, family: &Family) {
        let mut kills = 0;
        while family.kill() {
            kills += 1;
            pause(&mut [], if kills < KILLS_QUICK { TICK_BUSY } else { TICK });
            family.reap();
        }
    }

    fn finish(
        mut self,
        attempts: &Attempts,
        outcome: Outcome,
        started_at: Timestamp,
        remarks: &[task::Remark],
    ) {
        let lease = self.assignment.lease;
        for remark in remarks {
            // The outcome says it too.
            let _ = remark.write(attempts, lease);
        }
        let mut exit = ExitRecord { outcome, started_at, ended_at: self.clock.wall() };
        if attempts.path(lease).is_dir()
            && let Err(error) = write_exit(attempts, &self.assignment, &exit)
        {
            let note = format!("how it ended could not be kept: {error}");
            let detail = std::mem::take(&mut exit.outcome.detail);
            exit.outcome.detail =
                if detail.is_empty() { note } else { format!("{detail}; {note}") };
        }
        self.line.tell(&Notice::Ended(exit));
    }
}

fn write_exit(attempts: &Attempts, it: &Assignment, exit: &ExitRecord) -> io::Result<()> {
    for _ in 1..RECORD_TRIES {
        if attempts.write_exit(it.lease, exit).is_ok() {
            return Ok(());
        }
        pause(&mut [], RECORD_PAUSE);
    }
    attempts.write_exit(it.lease, exit)
}

fn pause(events: &mut [PollFd<'_>], span: Millis) {
    let tv_sec = i64::try_from(span.0 / 1_000).unwrap_or(i64::MAX);
    let tv_nsec = i64::try_from(span.0 % 1_000 * 1_000_000).unwrap_or(0);
    // A signal or an error shortens the wait, no more.
    let _ = poll(events, Some(&Timespec { tv_sec, tv_nsec }));
}
