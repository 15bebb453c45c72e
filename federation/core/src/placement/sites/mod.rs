//! To which site a job goes that leaves its home. Every site that may run it is weighed, whether it
//! holds a grant or not; one is chosen.
//!
//! ```text
//!   what runs there costs  ×  how long it runs   ─┐
//!   what an hour sooner is worth  ×  the delay   ─┴─▶  total for one GPU, the least is best
//!        delay: until there is room, then until the data is there
//! ```
//!
//! A job that finds no place at home waits there until that has cost as much as leaving would cost
//! more. Nobody needs to know when the home has room: whoever waits so never pays more than twice
//! what he would have paid had he known.
//!
//! # Invariants
//! * Outside the log: a wrong or late signal costs money or time, and nothing else.
//! * Who has refused a job before comes after all others.
//! * Equal numbers are weighed alike, and ties end the same way: the class that the job prefers,
//!   then who has granted some, then most free GPUs, then the order of names.

pub(crate) mod cost;
pub(crate) mod data;
pub(crate) mod deadline;
pub(crate) mod outlook;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::{OnceCell, RefCell};
use core::cmp::Reverse;

use specs::id::{DataName, GpuClass, SiteId};
use specs::job::JobSpec;
use specs::signals::{ClassOutlook, Signals, Weights};
use specs::unit::{GpuCount, Instant, MicroEuro, Millis, Timestamp};
use specs::wire::agent::Ending;
use specs::wire::peer::ClassCapacity;

use crate::exchange::proofs;
use crate::leader::could_hold;
use crate::placement::fits;
use crate::placement::lookout::Seen;
use crate::placement::spill::Spill;
use crate::state::{Attempt, Job, Peer, State};
use cost::{Heard, Known};

/// How long a job is taken to run of which nothing is known.
const RUN_UNKNOWN: Millis = Millis(3_600_000);
/// For so long a better site that has room is given time to make a grant, before a job goes where
/// one is held.
pub(crate) const GRANT_AWAITED: Millis = Millis(3_000);
/// Likewise, before a job goes where it was refused.
pub(crate) const REFUSAL_AVOIDED: Millis = Millis(30_000);
const DAY: u64 = 86_400;

/// What a peer last told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    pub capacity: Vec<ClassCapacity>,
    pub signals: Option<Signals>,
    pub data: BTreeSet<DataName>,
    pub outlook: Vec<ClassOutlook>,
    /// When that came in.
    pub at: Instant,
}

impl Told {
    pub(crate) fn outlook_of(&self, class: &GpuClass) -> Option<&ClassOutlook> {
        self.outlook.iter().find(|outlook| outlook.class == *class)
    }
}

/// A class of GPUs at a site, weighed for one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub site: SiteId,
    pub class: GpuClass,
    /// It could hold the gang if nothing ran there.
    pub could_hold: bool,
    /// A grant is held there.
    is_held: bool,
    /// It has room for the gang now, by what it told.
    pub has_room: bool,
    /// Until there is room.
    pub wait: Millis,
    /// Until the data is there.
    pub bring: Millis,
    pub missing: u64,
    pub run: Millis,
    /// Of a GPU-hour, all that is weighed.
    pub rate: MicroEuro,
    /// For one GPU.
    pub total: MicroEuro,
    /// It would end after its deadline.
    pub is_late: bool,
    /// It has refused the job before.
    pub has_refused: bool,
    pub stale: Vec<String>,
    free: GpuCount,
    /// The place of the class among those that the job names.
    preference: usize,
}

/// A job weighed at every site.
#[derive(Debug, Clone, Default)]
pub(crate) struct Weighed {
    /// The best first.
    pub candidates: Vec<Candidate>,
    /// How long it waits at home before it goes to the best, if its home could ever run it.
    patience: Millis,
    /// How long it waits in any case.
    least: Millis,
    /// For how long it is taken to run.
    pub run: Millis,
    /// Of a GPU-hour at home.
    pub home: MicroEuro,
}

impl Weighed {
    /// How long the job waits at home. There is nothing to wait for if its home can never run it.
    pub(crate) fn patience(&self, home_could: impl FnOnce() -> bool) -> Millis {
        if self.patience > self.least && !home_could() { self.least } else { self.patience }
    }
}

/// What sites cost, as far as it is the same for all jobs.
struct Rates {
    weights: Weights,
    /// By site and class.
    of: BTreeMap<(SiteId, GpuClass), (MicroEuro, Vec<String>)>,
    /// Classes of grants that are held at a peer.
    held: BTreeSet<(SiteId, GpuClass)>,
}

/// All sites, as one plan sees them.
pub(crate) struct Sites<'a> {
    state: &'a State,
    told: BTreeMap<&'a SiteId, &'a Told>,
    /// What this site said of itself.
    own: Option<Signals>,
    now: Instant,
    at: Timestamp,
    rates: OnceCell<Rates>,
    weighed: RefCell<BTreeMap<Arc<[u8]>, Arc<Weighed>>>,
}

impl<'a> Sites<'a> {
    pub(crate) fn new(
        state: &'a State,
        told: impl Iterator<Item = (&'a SiteId, &'a Told)>,
        now: Instant,
        at: Timestamp,
    ) -> Self {
        let (rates, weighed) = (OnceCell::new(), RefCell::default());
        let own = state.signals.as_deref().map(|said| cost::aged(said, at));
        Self { state, told: told.collect(), own, now, at, rates, weighed }
    }

    /// The peer's report; none before the first.
    pub(crate) fn told(&self, site: &SiteId) -> Option<&'a Told> {
        self.told.get(site).copied()
    }

    fn rates(&self) -> &Rates {
        self.rates.get_or_init(|| self.find_rates())
    }

    fn find_rates(&self) -> Rates {
        let state = self.state;
        let weights = weights(state);
        let mut held = BTreeSet::new();
        for (key, grant) in state.held.iter().filter(|(_, it)| !it.recalled && !it.returned) {
            held.extend(grant.slots.iter().map(|slot| (key.host.clone(), slot.class.clone())));
        }
        let told = |site: &SiteId| {
            let told = self.told(site).into_iter();
            told.flat_map(|told| told.capacity.iter().map(|it| it.class.clone()))
        };
        let mut classes: BTreeSet<GpuClass> = held.iter().map(|(_, class)| class.clone()).collect();
        classes.extend(state.peers.keys().flat_map(told));
        let mut of = BTreeMap::new();
        for class in classes {
            let sites: Vec<SiteId> =
                state.own().into_iter().chain(state.peers.keys()).cloned().collect();
            let known: Vec<Known> =
                sites.iter().map(|site| self.heard(site).known(&class, &weights)).collect();
            let rates = cost::rates(&known, &weights);
            for ((site, known), rate) in sites.into_iter().zip(known).zip(rates) {
                of.insert((site, class.clone()), (rate, known.stale));
            }
        }
        Rates { weights, of, held }
    }

    /// The signals of a site, this one's too.
    fn heard(&self, site: &SiteId) -> Heard<'_> {
        if !self.state.is_own(site) {
            let told = self.told(site);
            let since = told.map_or(Millis::ZERO, |told| self.now.since(told.at));
            return Heard { signals: told.and_then(|told| told.signals.as_ref()), since };
        }
        Heard { signals: self.own.as_ref(), since: Millis::ZERO }
    }

    /// What is weighed of a waiting job, best first. Jobs that are alike are weighed once.
    pub(crate) fn weigh(&self, job: &Job, seen: &Seen) -> Arc<Weighed> {
        let key = key(job, seen);
        if let Some(known) = self.weighed.borrow().get(&key) {
            return known.clone();
        }
        let weighed = Arc::new(self.weigh_anew(job, &seen.spec));
        self.weighed.borrow_mut().insert(key, weighed.clone());
        weighed
    }

    pub(crate) fn weigh_anew(&self, job: &Job, spec: &JobSpec) -> Weighed {
        let run = run_of(self.state, job, spec);
        let mut candidates = Vec::new();
        let may_leave = fits::may_leave(self.state, spec);
        for peer in self.state.peers.values().filter(|peer| may_leave && peer.suspicion.is_none()) {
            if fits::may_go(self.state, spec, &peer.site, peer.country) {
                self.weigh_at(job, spec, (peer, run), &mut candidates);
            }
        }
        candidates.sort_by(|one, other| order_of(one).cmp(&order_of(other)));
        let home = candidates.first().map_or(MicroEuro::ZERO, |best| self.home_rate(&best.class));
        let patience = self.patience(job, spec, run, candidates.first());
        let least = self.state.terms().spill_after;
        Weighed { candidates, patience, least, run, home }
    }

    fn home_rate(&self, class: &GpuClass) -> MicroEuro {
        let own = self.state.own();
        let key = own.map(|own| (own.clone(), class.clone()));
        key.and_then(|key| self.rates().of.get(&key)).map_or(MicroEuro::ZERO, |(rate, _)| *rate)
    }

    fn weigh_at(
        &self,
        job: &Job,
        spec: &JobSpec,
        (peer, run): (&Peer, Millis),
        candidates: &mut Vec<Candidate>,
    ) {
        let nothing = Told::default();
        let demands = spec.needs.proof.is_some();
        if demands && !proofs::are_shown(self.state, &peer.site) {
            return;
        }
        let asks_for_proofs = demands || proofs::are_required(self.state, &peer.site);
        let told = self.told(&peer.site).unwrap_or(&nothing);
        let rates = self.rates();
        let mut classes: BTreeSet<&GpuClass> = rates
            .held
            .range((peer.site.clone(), first_class())..)
            .take_while(|(site, _)| *site == peer.site)
            .map(|(_, class)| class)
            .collect();
        classes.extend(told.capacity.iter().map(|it| &it.class));
        let missing = data::missing(self.state, spec, &told.data);
        let bring = data::time_to_bring(missing, self.state.links.get(&peer.site));
        for class in classes.into_iter().filter(|class| fits::class_will_do(spec, class)) {
            let capacity = told.capacity.iter().find(|it| it.class == *class);
            let could_hold = capacity.is_some_and(|it| {
                could_hold(it, spec) && (!asks_for_proofs || it.proven >= spec.gpus())
            });
            let is_held = rates.held.contains(&(peer.site.clone(), class.clone()));
            if !could_hold && !is_held {
                continue;
            }
            let free = capacity.map_or(GpuCount::ZERO, |it| it.free);
            let (has_room, wait) = self.room(spec, free, told.outlook_of(class));
            let wait = if is_held { Millis::ZERO } else { wait };
            let key = (peer.site.clone(), class.clone());
            let (rate, stale) = rates.of.get(&key).cloned().unwrap_or_default();
            let delay = wait.plus(bring);
            let total = cost::over(rate, run).plus(cost::over(rates.weights.wait, delay));
            let ends = Timestamp(self.at.0.saturating_add(delay.0).saturating_add(run.0));
            let preference = spec.gpu_classes.iter().position(|it| it == class).unwrap_or(0);
            candidates.push(Candidate {
                site: key.0,
                class: key.1,
                could_hold,
                is_held,
                has_room,
                wait,
                bring,
                missing,
                run,
                rate,
                total,
                is_late: job.due().is_some_and(|due| ends > due),
                stale,
                has_refused: refusals(job).any(|host| *host == peer.site),
                free,
                preference,
            });
        }
    }

    /// Whether there is room for the gang, and how long until there is.
    fn room(
        &self,
        spec: &JobSpec,
        free: GpuCount,
        outlook: Option<&ClassOutlook>,
    ) -> (bool, Millis) {
        // One of an earlier version tells only how much is free.
        let Some(outlook) = outlook else {
            let has_room = free >= spec.gpus();
            let wait = if has_room { Millis::ZERO } else { self.rates().weights.unknown_wait };
            return (has_room, wait);
        };
        if outlook::nodes_with(outlook, spec.gpus_per_node) >= spec.nodes {
            return (true, Millis::ZERO);
        }
        let comes_back = free.plus(outlook.reclaimable) >= spec.gpus();
        let idle = self.state.terms().grant_idle;
        let forecast = outlook::wait_for(outlook, spec.nodes);
        let wait = match forecast {
            Some(wait) if comes_back => wait.min(idle),
            None if comes_back => idle,
            Some(wait) => wait,
            None => self.rates().weights.unknown_wait,
        };
        (false, wait)
    }

    /// How long the job waits at home, from when it is seen to wait.
    fn patience(&self, job: &Job, spec: &JobSpec, run: Millis, best: Option<&Candidate>) -> Millis {
        let least = self.state.terms().spill_after;
        let Some(best) = best else { return least };
        let weights = &self.rates().weights;
        let there = cost::over(best.rate, run).plus(cost::over(weights.wait, best.bring));
        let more = there.minus(cost::over(self.home_rate(&best.class), run));
        let patience = cost::until(weights.wait, more).plus(work_patience(weights, job, spec));
        let patience = least.max(patience.min(weights.patience_max));
        // Who would miss his deadline does not wait for a better price.
        let Some(due) = job.due() else { return patience };
        let taken = run.plus(best.wait).plus(best.bring);
        let latest = due.0.saturating_sub(taken.0);
        patience.min(least.max(Millis(latest.saturating_sub(job.submitted_at.0))))
    }
}

/// By what the better of two is told.
fn order_of(it: &Candidate) -> impl Ord + '_ {
    (
        it.has_refused,
        it.is_late,
        it.total,
        it.preference,
        !it.is_held,
        Reverse(it.free),
        &it.site,
        &it.class,
    )
}

/// Not after any other class.
fn first_class() -> GpuClass {
    GpuClass::new("0").expect("a constant that keeps the rules of names")
}

pub(crate) fn weights(state: &State) -> Weights {
    state.weights.as_deref().cloned().unwrap_or_default()
}

/// All that a job is weighed by, as bytes: what it asks for, and how long it may run.
fn key(job: &Job, seen: &Seen) -> Arc<[u8]> {
    let mut key = seen.ask.to_vec();
    let due = job.due().map_or(0, |due| due.0);
    let attained = attained(job, &seen.spec);
    for number in [due, attained, job.submitted_at.0 * u64::from(due > 0), seen.spec.time_limit.0] {
        key.extend_from_slice(&number.to_be_bytes());
    }
    key.extend_from_slice(&seen.spec.class.number().to_be_bytes());
    for host in refusals(job) {
        key.extend_from_slice(host.as_str().as_bytes());
        key.push(0);
    }
    key.extend_from_slice(job.account().as_str().as_bytes());
    key.into()
}

/// For how long the job is taken to run: as long as such jobs of the account usually do, but not
/// longer than it may.
pub(crate) fn run_of(state: &State, job: &Job, spec: &JobSpec) -> Millis {
    let line: Vec<_> = job.account().line().collect();
    let usual = line.iter().rev().find_map(|account| state.recent.get(account)?.usual(spec.class));
    let limit = (spec.time_limit > Millis::ZERO).then_some(spec.time_limit);
    match (usual, limit) {
        (Some(usual), Some(limit)) => usual.min(limit),
        (Some(known), None) | (None, Some(known)) => known,
        (None, None) => RUN_UNKNOWN,
    }
}

/// The sites that have refused the job: each has a reason, and none is known here.
fn refusals(job: &Job) -> impl Iterator<Item = &SiteId> {
    let refused = |it: &&Attempt| {
        it.outcome.as_ref().is_some_and(|outcome| outcome.ending == Ending::Refused)
    };
    job.attempts.iter().filter(refused).map(|it| &it.host)
}

/// Seconds for which the job's attempts ran so far.
fn attained(job: &Job, spec: &JobSpec) -> u64 {
    let ran = job.attempts.iter().filter(|it| it.started_at != Timestamp(0));
    let ran = ran.map(|it| it.ended_at.0.saturating_sub(it.started_at.0));
    let sum = ran.fold(0, u64::saturating_add);
    // What other machines' clocks say is believed as far as a year goes.
    let most = spec.time_limit.0.max(366 * DAY * 1_000);
    sum.min(most) / 1_000
}

/// How long a job waits for the work it had: the stock of work for idle moments at home should be
/// few jobs with much of it ([`Spill`]).
fn work_patience(weights: &Weights, job: &Job, spec: &JobSpec) -> Millis {
    if weights.work_rate_micro == 0 {
        return Millis::ZERO;
    }
    let spill = Spill {
        rate: f64::from(weights.work_rate_micro) / 1e6,
        patience_min: 0,
        patience_max: weights.patience_max.0 / 1_000,
        ..Spill::default()
    };
    Millis(spill.patience(spec.gpus().0, attained(job, spec)).saturating_mul(1_000))
}
