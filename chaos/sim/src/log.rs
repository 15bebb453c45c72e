//! A model of Raft: one site's log, who leads, what is in flight.
//!
//! What it takes for granted of openraft:
//! * A committed entry is never lost, and every member applies the same entries in the same order.
//! * One leader's entries commit in the order in which it proposed them. At a change of leaders
//!   some beginning of what is in flight survives, and the rest vanishes.
//! * A linearizable read succeeds only for a leader that still led after the read began, and only
//!   after it applied everything that was committed when the read began.
//! * Terms only grow, and a term has one leader.
//!
//! What it does not promise: that a proposer learns what became of its proposal, that a deposed
//! leader knows that it is deposed, that a new leader has applied what is committed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use federation_core::{Command, Effect, Job, Reply, State, apply, leaving};
use specs::id::JobId;

use crate::clock::Time;

/// Names a proposal for the one who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) command: Arc<Command>,
    pub(crate) ticket: Ticket,
    pub(crate) reply: Reply,
    pub(crate) effects: Vec<Effect>,
}

#[derive(Debug, Clone)]
pub(crate) struct InFlight {
    command: Arc<Command>,
    ticket: Ticket,
    commit_at: Time,
}

#[derive(Debug, Clone)]
pub(crate) struct Log {
    pub(crate) entries: Vec<Entry>,
    /// The state after so many entries. Invariant: one longer than `entries`.
    states: Vec<State>,
    in_flight: VecDeque<InFlight>,
    pub(crate) term: u64,
    /// The member that leads in this term; none while nobody does.
    pub(crate) leader: Option<usize>,
    last_ticket: u64,
    /// What has left the state.
    pub(crate) archive: BTreeMap<JobId, Job>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            entries: Vec::new(),
            states: vec![State::default()],
            in_flight: VecDeque::new(),
            term: 0,
            leader: None,
            last_ticket: 0,
            archive: BTreeMap::new(),
        }
    }

    pub(crate) fn committed(&self) -> usize {
        self.entries.len()
    }

    /// The state after everything that is committed.
    pub(crate) fn latest(&self) -> &State {
        &self.states[self.entries.len()]
    }

    /// A job, wherever it is by now.
    pub(crate) fn job(&self, id: &JobId) -> Option<&Job> {
        self.latest().jobs.get(id).or_else(|| self.archive.get(id))
    }

    /// The state after so many entries.
    pub(crate) fn state(&self, applied: usize) -> &State {
        &self.states[applied]
    }

    pub(crate) fn ticket(&mut self) -> Ticket {
        self.last_ticket += 1;
        Ticket(self.last_ticket)
    }

    /// Takes a proposal of the true leader. Returns when it commits, if nothing comes between.
    pub(crate) fn propose(&mut self, command: Command, ticket: Ticket, commit_at: Time) -> Time {
        let last = self.in_flight.back().map_or(commit_at, |it| it.commit_at);
        let commit_at = commit_at.max(last);
        self.in_flight.push_back(InFlight { command: Arc::new(command), ticket, commit_at });
        commit_at
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The next proposal that is due.
    pub(crate) fn pop_due(&mut self, now: Time) -> Option<InFlight> {
        self.in_flight.pop_front_if(|it| it.commit_at <= now)
    }

    /// At a change of leaders: the first `survivors` in flight commit, the rest vanishes.
    pub(crate) fn cut(&mut self, survivors: usize) -> Vec<InFlight> {
        let kept = self.in_flight.drain(..survivors.min(self.in_flight.len())).collect();
        self.in_flight.clear();
        kept
    }

    /// Commits and applies one entry.
    pub(crate) fn commit(&mut self, it: InFlight) {
        self.append(it.command, it.ticket);
    }

    pub(crate) fn append(&mut self, command: Arc<Command>, ticket: Ticket) {
        let mut state = self.latest().clone();
        if let Command::ArchiveJobs(it) = &*command {
            self.archive.extend(leaving(&state, it).into_iter().map(|it| (it.job.id, it.job)));
        }
        let (reply, effects) = apply(&mut state, &command);
        self.entries.push(Entry { command, ticket, reply, effects });
        self.states.push(state);
    }
}
