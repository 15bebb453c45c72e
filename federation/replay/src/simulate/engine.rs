//! Virtual time: what happens next, at all sites, and what is written down of it.
//!
//! ```text
//!   the next instant ─▶ jobs come, processes exit ─▶ settle: at each site plans, agents' questions;
//!        ▲                                            between sites reports and orders
//!        └───────────── exits of what has started ◀──────────┘
//! ```
//!
//! Commands are agreed on and answers come in no time at all. What follows from the passing of time
//! alone (grants that idle, turns) is looked for each [`Scenario::look`].

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use specs::codec::OrDefault;
use specs::id::{JobId, LeaseId, SiteId};
use specs::job::{JobClass, JobSpec, Needs, OnPartition, PlacementSpec, RETRIES_MAX};
use specs::unit::{GpuCount, Millis};

use crate::queue::restart_cost;
use crate::read::Progress;
use crate::simulate::SimulateError;
use crate::simulate::books::Books;
use crate::simulate::scenario::{Job, Jobs, Scenario};
use crate::simulate::site::{Deed, Part, Site, Time};

/// Instants at which nodes are looked at one by one.
const SAMPLES: u64 = 200;
/// Of those, after the last job has come.
const SAMPLES_AFTER: u64 = 200;
/// Looks at grants after the last command: idle ones are given back within two.
const GRANT_LOOKS: u32 = 4;
/// Looks in which nothing starts although nothing runs, before what waits is given up.
const IDLE_LOOKS_MAX: u32 = 64;
/// Of a job of which nothing else is said, as in a job's file.
const PRIORITY: u32 = 50;
/// Exchanges that one change may take before something goes round in circles.
const ROUNDS_MAX: u32 = 10_000;

/// What comes, in the order in which it is handled within an instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The processes of a job exit, if they still run in this turn.
    Exit {
        job: usize,
        turn: u32,
    },
    Submit {
        job: usize,
    },
    Look,
    Sample,
}

/// A job as its processes are.
#[derive(Debug, Clone, Default)]
struct Run {
    /// Work that is left.
    left: Time,
    turn: u32,
    /// Where the present attempt runs.
    lease: Option<(usize, LeaseId)>,
    nodes: Vec<usize>,
    since: Time,
    is_running: bool,
    was_stopped: bool,
}

/// What a simulation leaves behind.
pub(super) struct Outcome {
    pub(super) books: Books,
    /// Commands that were applied, at all sites.
    pub(super) commands: u64,
}

pub(super) struct World<'a> {
    jobs: &'a [Job],
    tenants: &'a [String],
    look: Millis,
    may_spill: bool,
    sites: Vec<Site>,
    heap: BinaryHeap<Reverse<(Time, Event)>>,
    runs: Vec<Run>,
    books: Books,
    now: Time,
    /// Questions that are due: the host, and the home that it asks.
    due: BTreeSet<(usize, usize)>,
    /// Which home last wanted more of which host.
    wanted: BTreeSet<(usize, usize)>,
    /// Sites that jobs come to. The others draw on nobody, so nobody has to ask them.
    are_homes: Vec<bool>,
    index: BTreeMap<SiteId, usize>,
    is_look_due: bool,
    /// Jobs with an end, that run.
    running: u64,
    to_come: u64,
    idle_looks: u32,
    /// Looks since a command was applied, and how many had been then.
    quiet_looks: u32,
    commands: u64,
}

/// Runs the whole of it. With `is_checked` the invariants of agreed state are checked after each
/// command.
pub(super) fn run(
    scenario: &Scenario,
    jobs: &Jobs,
    is_checked: bool,
    progress: &mut dyn Progress,
) -> Result<Outcome, SimulateError> {
    let mut world = World::new(scenario, jobs, is_checked)?;
    let mut handled = 0;
    let total = 2 * jobs.jobs.len() as u64;
    while let Some(Reverse((time, event))) = world.heap.pop() {
        world.now = time;
        world.handle(event)?;
        while let Some(Reverse((next, _))) = world.heap.peek()
            && *next == time
            && let Some(Reverse((_, event))) = world.heap.pop()
        {
            world.handle(event)?;
            handled += 1;
        }
        world.settle()?;
        handled += 1;
        if handled % 256 == 0 {
            progress.step("simulating", world.books.ended + world.books.submitted, total);
        }
        if world.is_over() {
            break;
        }
    }
    progress.step("", total, total);
    let commands = world.sites.iter().map(|site| site.commands).sum();
    world.books.close(world.now);
    Ok(Outcome { books: world.books, commands })
}

impl<'a> World<'a> {
    fn new(scenario: &Scenario, jobs: &'a Jobs, is_checked: bool) -> Result<Self, SimulateError> {
        let found = |setup| Site::found(setup, &scenario.policy, is_checked);
        let mut sites = scenario.sites.iter().map(found).collect::<Result<Vec<_>, _>>()?;
        let names: Vec<SiteId> = sites.iter().map(|site| site.name.clone()).collect();
        for (nth, site) in sites.iter_mut().enumerate() {
            for (_, other) in names.iter().enumerate().filter(|(at, _)| *at != nth) {
                site.join(other)?;
            }
        }
        let last = jobs.jobs.iter().map(|job| job.submit).max().unwrap_or(0);
        let run = |job: &Job| Run { left: job.duration, ..Run::default() };
        let mut world = Self {
            jobs: &jobs.jobs,
            tenants: &jobs.tenants,
            look: Millis(scenario.look.0.max(1_000)),
            may_spill: scenario.policy.spill_after.is_some(),
            index: names.into_iter().enumerate().map(|(nth, name)| (name, nth)).collect(),
            books: Books::new(sites.len(), &jobs.jobs, last),
            sites,
            heap: BinaryHeap::new(),
            runs: jobs.jobs.iter().map(run).collect(),
            now: 0,
            due: BTreeSet::new(),
            wanted: BTreeSet::new(),
            are_homes: homes(jobs, scenario.sites.len()),
            is_look_due: false,
            running: 0,
            to_come: jobs.jobs.len() as u64,
            idle_looks: 0,
            quiet_looks: 0,
            commands: 0,
        };
        for (nth, job) in jobs.jobs.iter().enumerate() {
            world.schedule(job.submit, Event::Submit { job: nth });
        }
        let step = last.div_ceil(SAMPLES).max(1_000);
        for nth in 0..=SAMPLES + SAMPLES_AFTER {
            world.schedule(nth * step, Event::Sample);
        }
        Ok(world)
    }

    fn schedule(&mut self, at: Time, event: Event) {
        self.heap.push(Reverse((at, event)));
    }

    fn is_over(&self) -> bool {
        let given_up = self.idle_looks > IDLE_LOOKS_MAX;
        self.to_come == 0 && self.running == 0 && (self.books.is_all_started() || given_up)
    }

    fn handle(&mut self, event: Event) -> Result<(), SimulateError> {
        match event {
            Event::Submit { job } => self.submit(job)?,
            Event::Exit { job, turn } => self.exit(job, turn),
            Event::Look => self.look(),
            Event::Sample => {
                for (nth, site) in self.sites.iter().enumerate() {
                    let (stranded, idle) = site.stranded();
                    self.books.sample(nth, self.now, stranded, idle);
                }
            }
        }
        Ok(())
    }

    fn submit(&mut self, nth: usize) -> Result<(), SimulateError> {
        let job = &self.jobs[nth];
        let tenant = if job.is_background {
            "background"
        } else {
            self.tenants.get(job.tenant).map_or("tenant", String::as_str)
        };
        let spec = spec(job, self.may_spill)?;
        self.to_come -= 1;
        self.idle_looks = 0;
        self.books.came(nth, self.now);
        self.sites[job.home].submit(self.now, JobId(nth as u128 + 1), &spec, tenant)
    }

    fn exit(&mut self, nth: usize, turn: u32) {
        let run = &mut self.runs[nth];
        if run.turn != turn || !run.is_running {
            return;
        }
        let Some((site, lease)) = run.lease else { return };
        for node in std::mem::take(&mut run.nodes) {
            self.sites[site].exit(node, lease, self.now);
        }
        run.is_running = false;
        run.lease = None;
        self.running -= 1;
        self.books.left(nth, site, self.now);
        self.books.finished(nth, self.now);
    }

    /// Time has passed: leaders look, and hosts ask who waits.
    fn look(&mut self) {
        self.is_look_due = false;
        self.quiet_looks += 1;
        if self.running == 0 && self.to_come == 0 {
            self.idle_looks += 1;
        }
        for home in 0..self.sites.len() {
            self.sites[home].is_stirred = true;
            if self.books.waits(home) {
                self.ask_all(home);
            }
        }
    }

    /// All others are to ask that home.
    fn ask_all(&mut self, home: usize) {
        let others = (0..self.sites.len()).filter(|host| *host != home);
        self.due.extend(others.map(|host| (host, home)));
    }

    /// Until nothing more follows anywhere.
    fn settle(&mut self) -> Result<(), SimulateError> {
        for _ in 0..ROUNDS_MAX {
            for nth in 0..self.sites.len() {
                self.sites[nth].settle(self.now)?;
                for part in std::mem::take(&mut self.sites[nth].parts) {
                    self.happened(nth, part);
                }
                if self.sites[nth].leader.waits_anew() {
                    self.ask_all(nth);
                }
                for peer in std::mem::take(&mut self.sites[nth].peers_due) {
                    let Some(&other) = self.index.get(&peer) else { continue };
                    self.due.extend([(nth, other), (other, nth)]);
                }
            }
            let is_quiet = self.sites.iter().all(|site| !site.is_stirred);
            if self.due.is_empty() && is_quiet {
                self.look_again();
                return Ok(());
            }
            for (host, home) in std::mem::take(&mut self.due) {
                if self.are_homes[home] {
                    self.exchange(host, home)?;
                }
            }
        }
        Err(SimulateError::Internal("sites and their peers do not come to rest"))
    }

    /// One question of a host to a home, and its orders.
    fn exchange(&mut self, host: usize, home: usize) -> Result<(), SimulateError> {
        let name = self.sites[home].name.clone();
        let Some(report) = self.sites[host].ask_peer(self.now, &name) else { return Ok(()) };
        let orders = self.sites[home].answer(self.now, &report)?;
        let wants = !orders.demand.is_empty();
        let pair = (home, host);
        let wanted = if wants { !self.wanted.insert(pair) } else { self.wanted.remove(&pair) };
        // What was wanted may be wanted in another number.
        self.sites[host].is_stirred |= wants || wanted;
        self.sites[host].obey_peer(self.now, &orders)
    }

    /// What waits, and what is granted, is looked at again after a while.
    fn look_again(&mut self) {
        let commands = self.sites.iter().map(|site| site.commands).sum();
        if commands != self.commands {
            self.commands = commands;
            self.quiet_looks = 0;
        }
        let may_idle = self.quiet_looks < GRANT_LOOKS;
        let is_needed = (0..self.sites.len())
            .any(|nth| self.books.waits(nth) || (may_idle && self.sites[nth].has_grants()));
        if is_needed && !self.is_look_due {
            self.is_look_due = true;
            self.schedule(self.now + self.look.0, Event::Look);
        }
    }

    fn happened(&mut self, site: usize, part: Part) {
        let Some(nth) = usize::try_from(part.job.0 - 1).ok().filter(|it| *it < self.jobs.len())
        else {
            return;
        };
        match part.deed {
            Deed::Started => self.started(site, nth, part),
            Deed::Stopped => self.stopped(site, nth, part.lease),
        }
    }

    fn started(&mut self, site: usize, nth: usize, part: Part) {
        let job = &self.jobs[nth];
        let run = &mut self.runs[nth];
        if run.lease != Some((site, part.lease)) {
            run.lease = Some((site, part.lease));
            run.nodes.clear();
        }
        run.nodes.push(part.node);
        if run.nodes.len() < job.nodes as usize {
            return;
        }
        run.turn += 1;
        run.is_running = true;
        run.since = self.now;
        if run.was_stopped {
            run.left += restart_cost(job.gpus()) * 1_000;
        }
        let (turn, ends) = (run.turn, self.now.saturating_add(run.left));
        self.idle_looks = 0;
        self.books.began(nth, site, self.now);
        if !job.is_background {
            self.running += 1;
            self.schedule(ends, Event::Exit { job: nth, turn });
        }
        // The home's wish has changed, and its hosts would hear of it within a second.
        let home = job.home;
        let hosts = self.wanted.iter().filter(|(of, _)| *of == home);
        self.due.extend(hosts.map(|(home, host)| (*host, *home)));
    }

    /// The orders ended it. Its work is kept; to start again will cost what it costs in `replay`.
    fn stopped(&mut self, site: usize, nth: usize, lease: LeaseId) {
        let run = &mut self.runs[nth];
        if run.lease != Some((site, lease)) || !run.is_running {
            return;
        }
        run.is_running = false;
        run.was_stopped = true;
        run.lease = None;
        run.nodes.clear();
        run.left = run.left.saturating_sub(self.now - run.since);
        if !self.jobs[nth].is_background {
            self.running -= 1;
        }
        self.books.left(nth, site, self.now);
        self.books.waits_again(nth, self.now);
    }
}

fn homes(jobs: &Jobs, sites: usize) -> Vec<bool> {
    let mut homes = vec![false; sites];
    for job in jobs.jobs.iter().filter(|job| !job.is_background) {
        homes[job.home] = true;
    }
    homes
}

/// What a site is told of a job. How long it will run is not in it.
fn spec(job: &Job, may_spill: bool) -> Result<JobSpec, SimulateError> {
    let class = if job.is_background { JobClass::Service } else { JobClass::Training };
    let together = job.manner.together.clone();
    let needs = Needs { gpu_milli: job.milli, together, ..Needs::default() };
    let spec = JobSpec {
        name: "job".parse().map_err(|_| SimulateError::Internal("a job's name"))?,
        class,
        priority: job.manner.priority.unwrap_or(PRIORITY),
        nodes: job.nodes,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(job.per_node),
        gpu_classes: job.classes.clone(),
        array: 1,
        command: vec!["simulated".to_owned()],
        env: BTreeMap::new(),
        workdir: String::new(),
        grace: Millis(0),
        retries: RETRIES_MAX,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec {
            sites: Vec::new(),
            residency: Vec::new(),
            spill: may_spill && !job.is_background,
        },
        time_limit: Millis(0),
        labels: BTreeMap::new(),
        needs: OrDefault(needs),
        account: None,
        preemptible: job.manner.preemptible,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    };
    spec.check().map_err(|error| SimulateError::Refused(error.to_string()))?;
    Ok(spec)
}
