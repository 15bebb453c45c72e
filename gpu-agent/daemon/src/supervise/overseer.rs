//! What a supervisor decides: when to ask the tasks to end, when to kill, and what to say
//! afterwards. No processes, no clock.

use specs::unit::{Instant, Millis};
use specs::wire::agent::{Ending, Outcome};

use crate::protocol::{End, Wish};

/// What must be done to the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing.
    LetRun,
    /// Ask them to end, once.
    Terminate,
    /// Kill them, again and again.
    Kill,
}

/// One attempt's part of this node.
#[derive(Debug)]
pub(super) struct Overseer {
    /// Tasks that have not ended.
    left: u32,
    grace: Millis,
    deadline: Option<Instant>,
    time_limit: Millis,
    time_limit_at: Option<Instant>,
    /// Set once: the first reason to end is the one that is told.
    verdict: Option<Outcome>,
    kill_at: Option<Instant>,
    terminate: bool,
    killed: bool,
}

impl Overseer {
    pub(super) fn new(tasks: u32, grace: Millis, time_limit: Millis) -> Self {
        Self {
            left: tasks,
            grace,
            deadline: None,
            time_limit,
            time_limit_at: None,
            verdict: None,
            kill_at: None,
            terminate: false,
            killed: false,
        }
    }

    pub(super) fn handle_started(&mut self, now: Instant) {
        if self.time_limit > Millis::ZERO {
            self.time_limit_at = Some(now.after(self.time_limit));
        }
    }

    /// A task ended, or could not be run: its exit is `outcome`.
    pub(super) fn handle_exit(&mut self, now: Instant, outcome: Outcome) {
        self.left = self.left.saturating_sub(1);
        if self.verdict.is_some() {
            return;
        }
        if !outcome.is_success() {
            self.end(now, outcome, self.grace);
        } else if self.left == 0 {
            self.verdict = Some(outcome);
        }
    }

    /// The tasks cannot be started.
    pub(super) fn handle_refusal(&mut self, now: Instant, why: String) {
        self.end(now, Outcome::of(Ending::Refused, why), Millis::ZERO);
    }

    /// The agent said what it wants.
    pub(super) fn handle_wish(&mut self, now: Instant, wish: Wish) {
        self.deadline = wish.deadline;
        if let Some(End { outcome, grace }) = wish.end {
            self.end(now, outcome, grace);
        }
    }

    /// The agent is gone.
    pub(super) fn handle_silence(&mut self, now: Instant) {
        self.end(now, Outcome::of(Ending::Lost, "its agent ended"), Millis::ZERO);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.deadline) {
            self.end(now, Outcome::of(Ending::Fenced, "its lease ran out"), Millis::ZERO);
        }
        if is_due(self.time_limit_at) {
            let seconds = self.time_limit.0 / 1_000;
            let why = format!("it ran for longer than its time limit of {seconds} s");
            self.end(now, Outcome::of(Ending::Stopped, why), self.grace);
        }
        if is_due(self.kill_at) {
            self.killed = true;
        }
    }

    /// When [`Overseer::handle_timeout`] is next due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let limit = self.time_limit_at.filter(|_| self.verdict.is_none());
        [self.deadline, limit, self.kill_at].into_iter().flatten().min()
    }

    pub(super) fn poll_step(&mut self) -> Step {
        if self.killed {
            Step::Kill
        } else if std::mem::take(&mut self.terminate) {
            Step::Terminate
        } else {
            Step::LetRun
        }
    }

    /// True once it is clear how it ends.
    pub(super) fn is_ending(&self) -> bool {
        self.verdict.is_some()
    }

    pub(super) fn is_killing(&self) -> bool {
        self.killed
    }

    pub(super) fn into_outcome(self) -> Outcome {
        self.verdict.unwrap_or_else(|| Outcome::of(Ending::Lost, "nobody saw how it ended"))
    }

    /// A later reason changes nothing but the time that is left.
    fn end(&mut self, now: Instant, outcome: Outcome, grace: Millis) {
        let is_first = self.verdict.is_none();
        self.verdict.get_or_insert(outcome);
        let kill_at = now.after(grace);
        self.kill_at = Some(self.kill_at.map_or(kill_at, |known| known.min(kill_at)));
        if grace == Millis::ZERO {
            self.killed = true;
        } else if is_first {
            self.terminate = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Millis = Millis(100);

    fn started(tasks: u32) -> Overseer {
        let mut overseer = Overseer::new(tasks, GRACE, Millis(1_000));
        overseer.handle_started(Instant(0));
        overseer.handle_wish(Instant(0), until(500));
        overseer
    }

    fn until(deadline: u64) -> Wish {
        Wish { deadline: Some(Instant(deadline)), end: None }
    }

    fn stop(deadline: u64) -> Wish {
        let outcome = Outcome::of(Ending::Stopped, "");
        Wish { end: Some(End { outcome, grace: GRACE }), ..until(deadline) }
    }

    #[test]
    fn it_has_exited_well_when_every_task_has() {
        let mut overseer = started(2);
        overseer.handle_exit(Instant(1), Outcome::exited(0, 0));
        assert!(!overseer.is_ending());
        overseer.handle_exit(Instant(2), Outcome::exited(0, 0));
        assert!(overseer.is_ending());
        assert_eq!(overseer.into_outcome(), Outcome::exited(0, 0));
    }

    #[test]
    fn a_task_that_ends_badly_ends_the_others_and_gives_the_exit_code() {
        let mut overseer = started(2);
        overseer.handle_exit(Instant(10), Outcome::exited(3, 0));
        assert_eq!(overseer.poll_step(), Step::Terminate);
        assert_eq!(overseer.poll_step(), Step::LetRun);
        overseer.handle_timeout(Instant(109));
        assert_eq!(overseer.poll_step(), Step::LetRun);
        overseer.handle_timeout(Instant(110));
        assert_eq!(overseer.poll_step(), Step::Kill);
        overseer.handle_exit(Instant(111), Outcome::exited(137, 9));
        assert_eq!(overseer.into_outcome(), Outcome::exited(3, 0));
    }

    #[test]
    fn the_deadline_kills_at_once_unless_it_moves() {
        let mut overseer = started(1);
        overseer.handle_wish(Instant(400), until(900));
        overseer.handle_timeout(Instant(899));
        assert_eq!(overseer.poll_step(), Step::LetRun);
        overseer.handle_timeout(Instant(900));
        assert_eq!(overseer.poll_step(), Step::Kill);
        overseer.handle_exit(Instant(901), Outcome::exited(137, 9));
        assert_eq!(overseer.into_outcome().ending, Ending::Fenced);
    }

    #[test]
    fn a_deadline_that_comes_nearer_is_obeyed() {
        let mut overseer = started(1);
        overseer.handle_wish(Instant(100), until(200));
        assert_eq!(overseer.poll_timeout(), Some(Instant(200)));
        overseer.handle_timeout(Instant(200));
        assert_eq!(overseer.poll_step(), Step::Kill);
    }

    #[test]
    fn a_stop_that_is_repeated_does_not_move_the_kill() {
        let mut overseer = started(1);
        overseer.handle_wish(Instant(10), stop(500));
        overseer.handle_wish(Instant(90), stop(580));
        assert_eq!(overseer.poll_timeout(), Some(Instant(110)));
        overseer.handle_timeout(Instant(110));
        assert_eq!(overseer.poll_step(), Step::Kill);
    }

    #[test]
    fn what_ends_after_a_stop_was_stopped() {
        let mut overseer = started(1);
        overseer.handle_wish(Instant(10), stop(500));
        overseer.handle_exit(Instant(20), Outcome::exited(0, 0));
        assert_eq!(overseer.into_outcome().ending, Ending::Stopped);
    }

    #[test]
    fn what_exited_before_a_stop_has_exited() {
        let mut overseer = started(1);
        overseer.handle_exit(Instant(10), Outcome::exited(0, 0));
        overseer.handle_wish(Instant(20), stop(500));
        assert_eq!(overseer.into_outcome(), Outcome::exited(0, 0));
    }

    #[test]
    fn the_time_limit_asks_first_and_the_deadline_still_kills() {
        let mut overseer = started(1);
        overseer.handle_wish(Instant(900), until(1_050));
        overseer.handle_timeout(Instant(1_000));
        assert_eq!(overseer.poll_step(), Step::Terminate);
        overseer.handle_timeout(Instant(1_050));
        assert_eq!(overseer.poll_step(), Step::Kill);
        assert_eq!(overseer.into_outcome().ending, Ending::Stopped);
    }

    #[test]
    fn without_its_agent_it_is_killed_and_lost() {
        let mut overseer = started(1);
        overseer.handle_silence(Instant(5));
        assert_eq!(overseer.poll_step(), Step::Kill);
        assert_eq!(overseer.into_outcome().ending, Ending::Lost);
    }
}
