//! One cluster with a queue, in virtual time, event by event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use federation_core::order::Seen;

use crate::pool::{Piece, Place, Pool};
use crate::trace::WHOLE;

/// A job of a queue. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) submit: u64,
    pub(super) gpus: u32,
    pub(super) duration: u64,
}

/// What a rule may know of a job when it decides.
#[derive(Debug, Clone, Copy)]
pub(super) struct Known {
    pub(super) seen: Seen,
    /// For rules that are told durations.
    pub(super) remaining: u64,
}

/// How a queue is served.
pub(super) trait Rule {
    /// The place in the queue: lower goes first.
    type Key: Ord + Copy;
    fn key(&self, waiting: &Known, now: u64) -> Self::Key;
    /// Whether the first that does not fit holds up all behind it.
    fn blocks(&self, waiting: &Known, now: u64) -> bool;
    /// Whether a waiting job may take the place of a running one.
    fn may_evict(&self, _waiting: &Known, _running: &Known, _now: u64) -> bool {
        false
    }
    /// Which of several is evicted first: lower goes first.
    fn evicted_first(&self, running: &Known) -> (u64, u64) {
        (0, running.seen.submitted)
    }
    /// After how many more seconds of work a running job's standing changes.
    fn changes_after(&self, _running: &Known) -> Option<u64> {
        None
    }
    /// After how long a waiting job's place changes by itself.
    fn patience(&self) -> Option<u64> {
        None
    }
    fn is_starved(&self, _waiting: &Known, _now: u64) -> bool {
        false
    }
}

/// Seconds that a start costs after the job was evicted: those of the published preemptive rule.
pub(crate) fn restart_cost(gpus: u32) -> u64 {
    match gpus {
        0..=1 => 7,
        2..=8 => 30,
        _ => 60,
    }
}

#[derive(Debug, Clone)]
enum Phase {
    Unborn,
    Waiting,
    Running { place: Place, cost: u64 },
    Ended,
}

#[derive(Debug, Clone)]
struct Entry {
    job: Job,
    phase: Phase,
    attained: u64,
    since: u64,
    /// Numbers its runs, so that an event of an earlier one is known.
    run: u32,
    was_evicted: bool,
    was_starved: bool,
    end: u64,
    longest_wait: u64,
}

/// What became of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) jct: u64,
    /// All time between submission and end in which it did no work of its own.
    pub(super) queue: u64,
    /// The longest single wait.
    pub(super) longest_wait: u64,
}

/// What became of all.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    pub(super) jobs: Vec<Done>,
    pub(super) evictions: u64,
}

struct Engine<'a, R: Rule> {
    rule: &'a R,
    pool: Pool,
    entries: Vec<Entry>,
    waiting: BTreeSet<u32>,
    running: BTreeSet<u32>,
    on_node: Vec<BTreeSet<u32>>,
    /// Time, job, run. Ends and changes of order alike: both make the queue be looked at.
    events: BinaryHeap<Reverse<(u64, u32, u32)>>,
    evictions: u64,
}

/// Serves all jobs, which are in the order of their submission, until the last has ended. A job
/// larger than the cluster must not be among them.
pub(super) fn serve<R: Rule>(jobs: &[Job], nodes: u32, per_node: u32, rule: &R) -> Outcome {
    let entry = |&job: &Job| Entry {
        job,
        phase: Phase::Unborn,
        attained: 0,
        since: job.submit,
        run: 0,
        was_evicted: false,
        was_starved: false,
        end: 0,
        longest_wait: 0,
    };
    let mut engine = Engine {
        rule,
        pool: Pool::new(nodes, per_node),
        entries: jobs.iter().map(entry).collect(),
        waiting: BTreeSet::new(),
        running: BTreeSet::new(),
        on_node: vec![BTreeSet::new(); nodes as usize],
        events: BinaryHeap::new(),
        evictions: 0,
    };
    engine.run();
    let done = |entry: &Entry| {
        let jct = entry.end.saturating_sub(entry.job.submit);
        let queue = jct.saturating_sub(entry.job.duration);
        Done { jct, queue, longest_wait: entry.longest_wait }
    };
    Outcome { jobs: engine.entries.iter().map(done).collect(), evictions: engine.evictions }
}

impl<R: Rule> Engine<'_, R> {
    fn run(&mut self) {
        let mut next = 0;
        loop {
            let born = self.entries.get(next).map(|entry| entry.job.submit);
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let Some(now) = born.into_iter().chain(event).min() else { break };
            while let Some(&Reverse((at, id, run))) = self.events.peek() {
                if at > now {
                    break;
                }
                self.events.pop();
                self.pass(id, run, now);
            }
            while self.entries.get(next).is_some_and(|entry| entry.job.submit == now) {
                let id = u32::try_from(next).unwrap_or(u32::MAX);
                self.entries[next].phase = Phase::Waiting;
                self.wait(id, now);
                next += 1;
            }
            // Who was evicted may fit elsewhere.
            while self.serve(now) {}
        }
    }

    fn wait(&mut self, id: u32, now: u64) {
        self.entries[id as usize].since = now;
        self.waiting.insert(id);
        if let Some(patience) = self.rule.patience() {
            let at = now.saturating_add(patience);
            self.events.push(Reverse((at, id, self.entries[id as usize].run)));
        }
    }

    fn known(&self, id: u32, now: u64) -> Known {
        let entry = &self.entries[id as usize];
        let worked = match entry.phase {
            Phase::Running { cost, .. } => now.saturating_sub(entry.since + cost),
            Phase::Unborn | Phase::Waiting | Phase::Ended => 0,
        };
        let attained = entry.attained + worked;
        let seen = Seen {
            submitted: entry.job.submit,
            gpus: entry.job.gpus,
            attained,
            since: entry.since,
            was_starved: entry.was_starved,
        };
        Known { seen, remaining: entry.job.duration.saturating_sub(attained) }
    }

    /// A job's run has come to its end, or to where its order changes.
    fn pass(&mut self, id: u32, run: u32, now: u64) {
        if self.entries[id as usize].run != run || !self.running.contains(&id) {
            return;
        }
        let known = self.known(id, now);
        if known.remaining > 0 {
            self.watch(id, &known, now);
            return;
        }
        self.leave(id);
        let entry = &mut self.entries[id as usize];
        entry.phase = Phase::Ended;
        entry.end = now;
    }

    /// Sets the next moment at which this running job matters.
    fn watch(&mut self, id: u32, known: &Known, now: u64) {
        let entry = &self.entries[id as usize];
        let Phase::Running { cost, .. } = entry.phase else { return };
        let from = now.max(entry.since + cost);
        let changes = self.rule.changes_after(known).filter(|&after| after < known.remaining);
        let at = from + changes.unwrap_or(known.remaining);
        self.events.push(Reverse((at, id, entry.run)));
    }

    /// Frees what a running job has.
    fn leave(&mut self, id: u32) {
        let entry = &mut self.entries[id as usize];
        entry.run += 1;
        if let Phase::Running { place, .. } = &entry.phase {
            self.pool.release(place);
            if let Place::Pieces(pieces) = place {
                for piece in pieces {
                    self.on_node[piece.node as usize].remove(&id);
                }
            }
        }
        self.running.remove(&id);
    }

    fn start(&mut self, id: u32, place: Place, now: u64) {
        if let Place::Pieces(pieces) = &place {
            for piece in pieces {
                self.on_node[piece.node as usize].insert(id);
            }
        }
        let is_starved = self.rule.is_starved(&self.known(id, now), now);
        let entry = &mut self.entries[id as usize];
        entry.was_starved = is_starved;
        let cost = if entry.was_evicted { restart_cost(entry.job.gpus) } else { 0 };
        entry.longest_wait = entry.longest_wait.max(now - entry.since);
        entry.phase = Phase::Running { place, cost };
        entry.since = now;
        entry.run += 1;
        self.waiting.remove(&id);
        self.running.insert(id);
        self.watch(id, &self.known(id, now), now);
    }

    fn evict(&mut self, id: u32, now: u64) {
        let attained = self.known(id, now).seen.attained;
        self.leave(id);
        let entry = &mut self.entries[id as usize];
        entry.attained = attained;
        entry.phase = Phase::Waiting;
        entry.was_evicted = true;
        self.evictions += 1;
        self.wait(id, now);
    }

    /// Looks through the queue once; true if somebody was evicted.
    fn serve(&mut self, now: u64) -> bool {
        let mut order: Vec<(R::Key, u32)> =
            self.waiting.iter().map(|&id| (self.rule.key(&self.known(id, now), now), id)).collect();
        order.sort_unstable();
        let before = self.evictions;
        // What did not fit does not fit a moment later either, until somebody is evicted.
        let mut misfit = u32::MAX;
        for (_, id) in order {
            let gpus = self.entries[id as usize].job.gpus;
            let mut place = if gpus < misfit { self.pool.place(gpus, WHOLE) } else { None };
            if place.is_none() {
                place = self.make_room(id, now);
                misfit = if place.is_some() { u32::MAX } else { misfit.min(gpus) };
            }
            match place {
                Some(place) => self.start(id, place, now),
                None if self.rule.blocks(&self.known(id, now), now) => break,
                None => {}
            }
        }
        self.evictions > before
    }

    /// Evicts the fewest GPUs that make room, if the rule lets it.
    fn make_room(&mut self, id: u32, now: u64) -> Option<Place> {
        let waiting = self.known(id, now);
        let mut victims: BTreeMap<u32, Known> = BTreeMap::new();
        for &other in &self.running {
            let known = self.known(other, now);
            if self.rule.may_evict(&waiting, &known, now) {
                victims.insert(other, known);
            }
        }
        if victims.is_empty() {
            return None;
        }
        let per_node = self.pool.per_node();
        let (mut left, mut chosen) = (waiting.seen.gpus, BTreeSet::new());
        let mut pieces: Vec<Piece> = Vec::new();
        while left > 0 {
            let want = left.min(per_node);
            let (node, more) = self.cheapest(want, &victims, &chosen, &pieces)?;
            chosen.extend(more);
            pieces.push(Piece { node, gpus: want });
            left -= want;
        }
        for victim in chosen {
            self.evict(victim, now);
        }
        // The pieces were counted on what is free now.
        self.pool.take_pieces(&pieces).then_some(Place::Pieces(pieces))
    }

    /// The node on which room for that many GPUs costs least, and whom it costs.
    fn cheapest(
        &self,
        want: u32,
        victims: &BTreeMap<u32, Known>,
        chosen: &BTreeSet<u32>,
        taken: &[Piece],
    ) -> Option<(u32, Vec<u32>)> {
        let mut best: Option<((u32, u32), u32, Vec<u32>)> = None;
        for node in 0..self.pool.nodes() {
            if taken.iter().any(|piece| piece.node == node) {
                continue;
            }
            let Some((cost, whom, left)) = self.price(node, want, victims, chosen) else {
                continue;
            };
            if best.as_ref().is_none_or(|(least, ..)| (cost, left) < *least) {
                best = Some(((cost, left), node, whom));
            }
        }
        best.map(|(_, node, whom)| (node, whom))
    }

    /// What room on a node costs: GPUs of gangs that would be evicted, whom, and what is left.
    fn price(
        &self,
        node: u32,
        want: u32,
        victims: &BTreeMap<u32, Known>,
        chosen: &BTreeSet<u32>,
    ) -> Option<(u32, Vec<u32>, u32)> {
        let mut free = self.pool.free_on(node);
        let here = self.on_node[node as usize].iter();
        let mut able: Vec<((u64, u64), u32, u32)> = Vec::new();
        for &id in here {
            let Some(known) = victims.get(&id) else { continue };
            let gpus = self.gpus_on(id, node);
            if chosen.contains(&id) {
                free += gpus;
            } else {
                able.push((self.rule.evicted_first(known), id, gpus));
            }
        }
        able.sort_unstable();
        let (mut cost, mut whom) = (0, Vec::new());
        for (_, id, gpus) in able {
            if free >= want {
                break;
            }
            free += gpus;
            cost += self.entries[id as usize].job.gpus;
            whom.push(id);
        }
        (free >= want).then(|| (cost, whom, free - want))
    }

    fn gpus_on(&self, id: u32, node: u32) -> u32 {
        match &self.entries[id as usize].phase {
            Phase::Running { place: Place::Pieces(pieces), .. } => {
                pieces.iter().filter(|piece| piece.node == node).map(|piece| piece.gpus).sum()
            }
            Phase::Running { .. } | Phase::Unborn | Phase::Waiting | Phase::Ended => 0,
        }
    }
}
