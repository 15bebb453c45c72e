//! A home with a queue and a remote site, in virtual time, event by event.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use federation_core::spill::Spill;

use crate::pool::{Place, Pool};
use crate::queue::restart_cost;
use crate::spill::scenario::Job;
use crate::trace::WHOLE;

/// When a job may leave, and whether it comes back.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rule {
    NoWait,
    /// Seconds.
    Constant(f64),
    /// Seconds for each GPU.
    Resource(f64),
    /// Seconds for each GPU and hour that the job will run: it is told.
    Compute(f64),
    Ours(Spill),
}

impl Rule {
    fn patience(&self, job: &Job) -> u64 {
        let gpus = f64::from(job.gpus) * f64::from(job.milli) / f64::from(WHOLE);
        let hours = job.duration as f64 / 3_600.0;
        match self {
            Self::NoWait => 0,
            Self::Constant(seconds) => whole_seconds(*seconds),
            Self::Resource(seconds) => whole_seconds(seconds * gpus),
            Self::Compute(seconds) => whole_seconds(seconds * gpus * hours),
            Self::Ours(spill) => spill.patience(job.gpus, 0),
        }
    }

    fn returns(&self) -> Option<&Spill> {
        match self {
            Self::Ours(spill) => Some(spill),
            Self::NoWait | Self::Constant(_) | Self::Resource(_) | Self::Compute(_) => None,
        }
    }
}

/// Longest patience of any rule: beyond it no experiment runs.
const PATIENCE_MAX: u64 = 1 << 40;

fn whole_seconds(seconds: f64) -> u64 {
    if seconds >= PATIENCE_MAX as f64 {
        return PATIENCE_MAX;
    }
    Duration::try_from_secs_f64(seconds).map_or(0, |span| span.as_secs())
}

#[derive(Debug, Clone)]
enum Phase {
    Waiting,
    Home { place: Place },
    Remote { place: Place },
    Ended,
}

#[derive(Debug, Clone)]
struct Entry {
    phase: Phase,
    /// Work done before the present run.
    attained: u64,
    /// When the present run began, and how long it did no work of its own.
    since: u64,
    cost: u64,
    run: u32,
    has_spilled: bool,
    was_starved: bool,
}

/// What became of a scenario. Times are seconds, work is GPU-seconds.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcome {
    /// All time in which a job did no work of its own, one for each job.
    pub(super) waits: Vec<u64>,
    pub(super) jct_sum: u64,
    /// While jobs came: afterwards the home empties under any rule.
    pub(super) home_work: f64,
    pub(super) remote_work: f64,
    /// To the end.
    pub(super) remote_work_all: f64,
    pub(super) spilled: u64,
    pub(super) returned: u64,
    pub(super) parked: u64,
    pub(super) wrong_way: u64,
    pub(super) longest_first_wait: u64,
    /// Without a break, first or later.
    pub(super) longest_wait: u64,
    /// How often a job made room for one that was starved.
    pub(super) evicted: u64,
}

type Class = (u32, u32);

/// The world of an experiment.
pub(super) struct World<'a> {
    pub(super) jobs: &'a [Job],
    pub(super) home: Pool,
    pub(super) remote: Pool,
    /// When the last job comes.
    pub(super) to: u64,
    /// A spilled job could have started at home within this: it went the wrong way.
    pub(super) transfer: u64,
}

struct Engine<'a> {
    rule: Rule,
    jobs: &'a [Job],
    to: u64,
    transfer: u64,
    home: Pool,
    remote: Pool,
    entries: Vec<Entry>,
    waiting: BTreeMap<Class, BTreeSet<u32>>,
    /// Those called back, by the GPUs that they need.
    parked: BTreeMap<Class, BTreeSet<u32>>,
    /// Those of both whose patience has ended.
    impatient: BTreeMap<Class, BTreeSet<u32>>,
    /// Those that have waited for too long, and since when.
    starved: BTreeSet<(u64, u32)>,
    abroad: BTreeMap<Class, BTreeSet<(u64, u32)>>,
    at_home: Vec<BTreeSet<u32>>,
    /// Time, job, run: its run ends, or its turn, or its patience.
    events: BinaryHeap<Reverse<(u64, u32, u32)>>,
    /// Lately spilled.
    recent: VecDeque<(u64, u32)>,
    outcome: Outcome,
}

/// Runs all jobs to their end.
pub(super) fn run(world: &World<'_>, rule: Rule) -> Outcome {
    let entry = Entry {
        phase: Phase::Waiting,
        attained: 0,
        since: 0,
        cost: 0,
        run: 0,
        has_spilled: false,
        was_starved: false,
    };
    let mut engine = Engine {
        rule,
        jobs: world.jobs,
        to: world.to,
        transfer: world.transfer,
        home: world.home.clone(),
        remote: world.remote.clone(),
        entries: vec![entry; world.jobs.len()],
        waiting: BTreeMap::new(),
        parked: BTreeMap::new(),
        impatient: BTreeMap::new(),
        starved: BTreeSet::new(),
        abroad: BTreeMap::new(),
        at_home: vec![BTreeSet::new(); world.home.nodes() as usize],
        events: BinaryHeap::new(),
        recent: VecDeque::new(),
        outcome: Outcome { waits: vec![0; world.jobs.len()], ..Outcome::default() },
    };
    engine.run();
    engine.outcome
}

fn class(job: &Job) -> Class {
    (job.gpus, job.milli)
}

fn put(queue: &mut BTreeMap<Class, BTreeSet<u32>>, job: &Job, id: u32) {
    queue.entry(class(job)).or_default().insert(id);
}

fn take(queue: &mut BTreeMap<Class, BTreeSet<u32>>, job: &Job, id: u32) {
    if let Some(of_class) = queue.get_mut(&class(job)) {
        of_class.remove(&id);
        if of_class.is_empty() {
            queue.remove(&class(job));
        }
    }
}

/// The first to have come of those that fit.
fn first_fitting(queue: &BTreeMap<Class, BTreeSet<u32>>, pool: &Pool) -> Option<u32> {
    let free = pool.free_total();
    let able =
        queue.iter().take_while(|((gpus, milli), _)| u64::from(*gpus) <= free || *milli < WHOLE);
    let able = able.filter(|((gpus, milli), _)| pool.fits(*gpus, *milli));
    able.filter_map(|(_, ids)| ids.first().copied()).min()
}

impl Engine<'_> {
    fn run(&mut self) {
        let mut next = 0;
        loop {
            let born = self.jobs.get(next).map(|job| job.submit);
            let event = self.events.peek().map(|Reverse((at, ..))| *at);
            let Some(now) = born.into_iter().chain(event).min() else { break };
            while let Some(&Reverse((at, id, run))) = self.events.peek() {
                if at > now {
                    break;
                }
                self.events.pop();
                self.pass(id, run, now);
            }
            while self.jobs.get(next).is_some_and(|job| job.submit == now) {
                let id = u32::try_from(next).unwrap_or(u32::MAX);
                put(&mut self.waiting, &self.jobs[next], id);
                self.wait(id, self.rule.patience(&self.jobs[next]), now);
                next += 1;
            }
            self.serve_starved(now);
            self.serve(now);
            // Patience of none ends in the moment in which the job comes.
            let is_due = |it: &Reverse<(u64, u32, u32)>| it.0.0 == now;
            while self.events.peek().is_some_and(is_due) {
                if let Some(Reverse((_, id, run))) = self.events.pop() {
                    self.pass(id, run, now);
                }
            }
            self.serve_parked(now);
            self.serve_abroad(now);
            self.look_back(now);
            self.bring_back(now);
        }
    }

    fn pass(&mut self, id: u32, run: u32, now: u64) {
        let entry = &self.entries[id as usize];
        if entry.run != run {
            return;
        }
        match &entry.phase {
            Phase::Waiting => self.lose_patience(id),
            Phase::Home { .. } | Phase::Remote { .. } => {
                self.leave(id, now);
                let job = self.jobs[id as usize];
                if self.entries[id as usize].attained < job.duration {
                    self.park(id, now);
                    return;
                }
                self.entries[id as usize].phase = Phase::Ended;
                let jct = now - job.submit;
                self.outcome.waits[id as usize] = jct.saturating_sub(job.duration);
                self.outcome.jct_sum += jct;
            }
            Phase::Ended => {}
        }
    }

    /// Notes when a job that waits may leave, and when it is starved.
    fn wait(&mut self, id: u32, patience: u64, now: u64) {
        let entry = &mut self.entries[id as usize];
        entry.since = now;
        self.events.push(Reverse((now.saturating_add(patience), id, entry.run)));
        if let Some(spill) = self.rule.returns() {
            let at = now.saturating_add(spill.starved_after(patience));
            self.events.push(Reverse((at, id, entry.run)));
        }
    }

    /// The first time a job may leave, the second time it is starved.
    fn lose_patience(&mut self, id: u32) {
        let job = &self.jobs[id as usize];
        let since = self.entries[id as usize].since;
        let was_impatient = self.impatient.get(&class(job)).is_some_and(|ids| ids.contains(&id));
        if was_impatient && self.rule.returns().is_some() && u64::from(job.gpus) <= self.home.gpus()
        {
            self.starved.insert((since, id));
        }
        put(&mut self.impatient, job, id);
    }

    /// Calls a job back: it waits at home again.
    fn park(&mut self, id: u32, now: u64) {
        let job = &self.jobs[id as usize];
        let entry = &mut self.entries[id as usize];
        entry.phase = Phase::Waiting;
        entry.run += 1;
        let spill = self.rule.returns();
        let patience = spill.map_or(0, |spill| spill.patience(job.gpus, entry.attained));
        put(&mut self.parked, job, id);
        self.wait(id, patience, now);
        self.outcome.parked += 1;
    }

    /// Books the run that ends here, and frees its GPUs.
    fn leave(&mut self, id: u32, now: u64) {
        let job = self.jobs[id as usize];
        let entry = &mut self.entries[id as usize];
        entry.attained += now.saturating_sub(entry.since + entry.cost);
        let gpus = f64::from(job.gpus) * f64::from(job.milli) / f64::from(WHOLE);
        let within = now.min(self.to).saturating_sub(entry.since);
        match &entry.phase {
            Phase::Home { place } => {
                self.outcome.home_work += gpus * within as f64;
                for node in self.home.nodes_of(place) {
                    self.at_home[node as usize].remove(&id);
                }
                self.home.release(place);
            }
            Phase::Remote { place } => {
                self.outcome.remote_work += gpus * within as f64;
                self.outcome.remote_work_all += gpus * (now - entry.since) as f64;
                self.remote.release(place);
                if let Some(of_class) = self.abroad.get_mut(&class(&job)) {
                    of_class.remove(&(entry.since, id));
                    if of_class.is_empty() {
                        self.abroad.remove(&class(&job));
                    }
                }
            }
            Phase::Waiting | Phase::Ended => {}
        }
    }

    fn start(&mut self, id: u32, phase: Phase, now: u64) {
        let job = &self.jobs[id as usize];
        let entry = &mut self.entries[id as usize];
        entry.cost = if entry.run > 0 { restart_cost(job.gpus) } else { 0 };
        entry.since = now;
        entry.run += 1;
        if let Phase::Home { place } = &phase {
            for node in self.home.nodes_of(place) {
                self.at_home[node as usize].insert(id);
            }
        }
        let rest = job.duration.saturating_sub(entry.attained);
        let turn = match (&phase, self.rule.returns()) {
            (Phase::Remote { .. }, Some(spill)) => rest.min(spill.turn(job.gpus, entry.attained)),
            _ => rest,
        };
        entry.phase = phase;
        self.events.push(Reverse((now + entry.cost + turn, id, entry.run)));
    }

    fn begin(&mut self, id: u32, phase: Phase, now: u64) {
        let job = &self.jobs[id as usize];
        take(&mut self.waiting, job, id);
        take(&mut self.parked, job, id);
        take(&mut self.impatient, job, id);
        let entry = &mut self.entries[id as usize];
        let wait = now - entry.since;
        entry.was_starved = self.starved.remove(&(entry.since, id));
        self.outcome.longest_wait = self.outcome.longest_wait.max(wait);
        if entry.run == 0 {
            self.outcome.longest_first_wait = self.outcome.longest_first_wait.max(wait);
        }
        self.start(id, phase, now);
    }

    /// Those that have waited for too long, the longest first: where there is room, or at home in
    /// the place of others.
    fn serve_starved(&mut self, now: u64) {
        for (_, id) in self.starved.clone() {
            let job = self.jobs[id as usize];
            if !self.home.fits(job.gpus, job.milli) && !self.make_room(&job, now) {
                continue;
            }
            if let Some(place) = self.home.place(job.gpus, job.milli) {
                self.begin(id, Phase::Home { place }, now);
            }
        }
    }

    /// Evicts from the nodes that have most free until the job fits; false if that is not enough.
    fn make_room(&mut self, job: &Job, now: u64) -> bool {
        let Some(spill) = self.rule.returns().copied() else { return false };
        let may_leave = |entry: &Entry| spill.may_evict(now - entry.since, entry.was_starved);
        let mut nodes: Vec<u32> = (0..self.home.nodes()).collect();
        nodes.sort_by_key(|&node| Reverse(self.home.free_on(node)));
        let able = nodes.into_iter().filter(|&node| {
            self.at_home[node as usize].iter().all(|&id| may_leave(&self.entries[id as usize]))
        });
        let needed = job.gpus.div_ceil(self.home.per_node()) as usize;
        let able: Vec<u32> = able.take(needed).collect();
        if able.len() < needed {
            return false;
        }
        for node in able {
            for id in self.at_home[node as usize].clone() {
                self.leave(id, now);
                self.park(id, now);
                self.outcome.evicted += 1;
            }
        }
        true
    }

    fn serve(&mut self, now: u64) {
        while let Some(id) = first_fitting(&self.waiting, &self.home) {
            let job = &self.jobs[id as usize];
            let Some(place) = self.home.place(job.gpus, job.milli) else { break };
            self.begin(id, Phase::Home { place }, now);
        }
    }

    /// The narrowest first: as much room then ends the wait of more jobs.
    fn serve_parked(&mut self, now: u64) {
        loop {
            let free = self.home.free_total();
            let able = self.parked.iter().take_while(|((gpus, _), _)| u64::from(*gpus) <= free);
            let mut able = able.filter(|((gpus, milli), _)| self.home.fits(*gpus, *milli));
            let Some(id) = able.find_map(|(_, ids)| ids.first().copied()) else { break };
            let job = &self.jobs[id as usize];
            let Some(place) = self.home.place(job.gpus, job.milli) else { break };
            self.begin(id, Phase::Home { place }, now);
            self.outcome.returned += 1;
        }
    }

    fn serve_abroad(&mut self, now: u64) {
        while let Some(id) = first_fitting(&self.impatient, &self.remote) {
            let job = &self.jobs[id as usize];
            let Some(place) = self.remote.place(job.gpus, job.milli) else { break };
            self.abroad.entry(class(job)).or_default().insert((now, id));
            self.begin(id, Phase::Remote { place }, now);
            let entry = &mut self.entries[id as usize];
            self.outcome.spilled += u64::from(!entry.has_spilled);
            entry.has_spilled = true;
            self.recent.push_back((now, id));
        }
    }

    /// Looks for jobs that left a moment ago and that the home has room for.
    fn look_back(&mut self, now: u64) {
        while self.recent.front().is_some_and(|(at, _)| at + self.transfer < now) {
            self.recent.pop_front();
        }
        if self.home.free_total() == 0 {
            return;
        }
        let (jobs, home) = (self.jobs, &self.home);
        let before = self.recent.len();
        self.recent.retain(|&(_, id)| {
            let job = &jobs[id as usize];
            !home.fits(job.gpus, job.milli)
        });
        self.outcome.wrong_way += (before - self.recent.len()) as u64;
    }

    /// Fills what is free at home with jobs that run elsewhere: the widest that fits, of these the
    /// one that has run there for longest. Room for many GPUs at once is rare, and what the narrow
    /// leave to the wide they will find again; the other way round it is lost.
    fn bring_back(&mut self, now: u64) {
        let Some(spill) = self.rule.returns().copied() else { return };
        loop {
            let free = self.home.free_total();
            let able = self.abroad.iter().rev().filter(|((gpus, milli), _)| {
                u64::from(*gpus) <= free && self.home.fits(*gpus, *milli)
            });
            let mut oldest = able.filter_map(|(_, ids)| ids.first().copied());
            let Some((_, id)) = oldest.find(|(since, _)| spill.may_return(now - since)) else {
                break;
            };
            let job = self.jobs[id as usize];
            self.leave(id, now);
            let Some(place) = self.home.place(job.gpus, job.milli) else { break };
            self.start(id, Phase::Home { place }, now);
            self.outcome.returned += 1;
        }
    }
}
