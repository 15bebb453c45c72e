//! What a seed draws before anything happens: terms, habits, faults, sites.

use std::sync::Arc;

use federation_core::{
    AcceptNode, Command, FoundSite, OpenToken, Retention, SetHealthLimits, SetTrust, SetVersion,
    State, TokenKind,
};
use specs::codec::Blob;
use specs::gpu::{GpuClass, GpuInfo, HealthLimits};
use specs::id::{ControllerId, Country, GpuIndex, NodeId, SiteId, TokenId, UserId};
use specs::site::{LendRule, SiteSpec, Terms, Trust};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::Facts;

use fabric_core::identity::Identity;

use crate::accounts;
use crate::clock::{Clock, Time};
use crate::controller::Controller;
use crate::costs;
use crate::faults::FaultKind;
use crate::health;
use crate::log::Log;
use crate::needs;
use crate::network::MachineId;
use crate::node::Node;
use crate::reservations;
use crate::rng::Rng;
use crate::shown;
use crate::workload::{Client, Operation};
use crate::world::{CtlRef, Duty, Event, Machine, NodeRef, Site, World};

const CONTROLLERS: usize = 3;
const NAMES: [&str; 3] = ["berlin", "giga", "third"];
const COUNTRIES: [&str; 4] = ["DE", "FI", "US", "FR"];

/// How a run behaves, from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Knobs {
    pub(crate) sites: usize,
    pub(crate) terms: Terms,
    pub(crate) ask_every: Millis,
    pub(crate) ask_peer_every: Millis,
    pub(crate) poll_every: Millis,
    /// Agents and leaders act on changes at once, not only at their next turn.
    pub(crate) prompt: bool,
    /// A leader looks around again only when what it proposed is applied.
    pub(crate) patient: bool,
    pub(crate) loss_permille: u64,
    pub(crate) copy_permille: u64,
    pub(crate) slow_permille: u64,
    /// How late a late message is at most.
    pub(crate) slow_max: Millis,
    pub(crate) slow_commits_permille: u64,
    /// How often a leader does something else between agreeing and answering.
    pub(crate) distracted_permille: u64,
    pub(crate) start_fails_permille: u64,
    /// Suspects far too soon: gangs may never find all their nodes trusted at once.
    pub(crate) is_hasty: bool,
    /// Everything comes at the last moment that is allowed, and is seen at once: clocks are as
    /// wrong as they may be, kills take as long as they may.
    pub(crate) is_tight: bool,
    pub(crate) job_max: Millis,
    /// Each member applies for itself; else they share what was applied once.
    pub(crate) own_states: bool,
    /// Agreed state is checked after each so many commits.
    pub(crate) check_every: usize,
    pub(crate) heal_at: Time,
    pub(crate) submits: u64,
    /// The first site is small, and most of what is submitted there may run elsewhere.
    pub(crate) is_spilling: bool,
    /// How many of the submissions all go to the first site.
    pub(crate) busy_permille: u64,
    /// Which ended jobs stay in a site's state; none: all.
    pub(crate) retention: Option<Retention>,
    /// None if the sites have the version before there were accounts.
    pub(crate) accounts: Option<accounts::Habits>,
    /// None if the sites have the version before there were reservations.
    pub(crate) reservations: Option<reservations::Habits>,
    /// None if the sites have the version before they said what they cost.
    pub(crate) costs: Option<costs::Habits>,
    /// The sites run nothing on GPUs without a proof, and GPUs fall sick.
    pub(crate) asks_for_proofs: bool,
    /// How much such sites test at once; none if they have a version that knows nothing of it.
    pub(crate) limits: Option<HealthLimits>,
    /// Jobs demand something of proofs.
    pub(crate) demands: bool,
    /// Most sites show proofs of what they grant, and verify what they are shown.
    pub(crate) shows_proofs: bool,
    /// How many of the proofs that a host shows are spoilt, of thousand.
    pub(crate) spoilt_permille: u64,
    /// The sites have the version that stops jobs for others.
    pub(crate) preempts: bool,
    /// And the one that weighs what several leaders have decided together.
    pub(crate) weighs_together: bool,
    /// Jobs ask for more than GPUs, and loans may carry it.
    pub(crate) asks_of_nodes: bool,
    /// Nodes have CPU and memory, jobs ask for it, and loans may carry it.
    pub(crate) lends_beside: bool,
    /// How long leaders let a job be passed over.
    pub(crate) patience: Millis,
    /// Mean span between faults of each kind; zero for none.
    faults: Vec<u64>,
}

/// Mostly none stays for long; but each until what was sent while it ran has arrived. In half of
/// the worlds all stay, so that what the archive brings with it hides nothing else.
fn draw_retention(seed: u64) -> Option<Retention> {
    let mut rng = Rng::of(seed, "retention");
    let jobs = if rng.chance(800) { 0 } else { rng.index(20) };
    let retention = Retention { jobs, age_min: Millis(rng.range(12_000, 20_000)) };
    rng.chance(500).then_some(retention)
}

impl Knobs {
    pub(crate) fn draw(seed: u64) -> Self {
        let rng = &mut Rng::of(seed, "knobs");
        let node_lease = rng.range(2_000, 5_000);
        let loan_term = rng.range(node_lease + 3_000, 15_000);
        let ask_every = rng.range(node_lease / 5, node_lease * 2 / 5);
        let ask_peer = rng.range(loan_term / 12, loan_term / 5);
        // From far too soon, so that who is well is suspected half of the time, to sane.
        let is_hasty = rng.chance(120);
        let asks = if is_hasty { 12..20 } else { 21..50 };
        let is_tight = rng.chance(80);
        let suspect_node = ask_every * rng.range(asks.start, asks.end) / 10;
        let suspect_peer = ask_peer * rng.range(asks.start, asks.end) / 10;
        let terms = Terms {
            node_lease: Millis(node_lease),
            loan_term: Millis(loan_term),
            suspect_node_after: Millis(if is_tight { ask_every + 8 } else { suspect_node + 250 }),
            suspect_peer_after: Millis(if is_tight { ask_peer + 8 } else { suspect_peer + 250 }),
            grant_idle: Millis(rng.range(1_000, 6_000)),
            grant_term: Millis(rng.range(5_000, 30_000)),
            heard_percent_min: if rng.chance(500) { 50 } else { 0 },
            spill_after: Millis(if rng.chance(700) { 0 } else { rng.range(100, 4_000) }),
        };
        let is_calm = !is_tight && rng.chance(250);
        let noise = |rng: &mut Rng, most: u64| {
            if is_calm || is_tight || rng.chance(400) { 0 } else { rng.range(1, most) }
        };
        let is_spilling = is_tight || rng.chance(400);
        let faults = draw_faults(rng, is_calm, is_tight, is_spilling);
        Self {
            sites: if rng.chance(600) { 2 } else { 3 },
            terms,
            ask_every: Millis(ask_every),
            ask_peer_every: Millis(ask_peer),
            poll_every: Millis(if is_tight { 20 } else { rng.range(200, 800) }),
            prompt: rng.chance(700),
            patient: is_tight || rng.chance(700),
            loss_permille: noise(rng, 60),
            copy_permille: noise(rng, 100),
            slow_permille: draw_slow(rng, is_tight, noise),
            slow_max: draw_slow_max(rng, is_tight),
            slow_commits_permille: noise(rng, 250),
            distracted_permille: if rng.chance(700) { noise(rng, 30) } else { noise(rng, 300) },
            start_fails_permille: noise(rng, 60),
            is_hasty: is_hasty || is_tight,
            is_tight,
            job_max: Millis(if is_tight { 40_000 } else { rng.range(2_000, 25_000) }),
            own_states: rng.chance(250),
            check_every: 1 << rng.below(5),
            heal_at: Time(rng.range(if is_spilling { 45_000 } else { 30_000 }, 60_000)),
            submits: if is_spilling { rng.range(15, 40) } else { rng.range(8, 30) },
            busy_permille: if is_spilling { 850 } else { 0 },
            is_spilling,
            retention: draw_retention(seed),
            accounts: accounts::Habits::draw(seed),
            costs: costs::Habits::draw(seed),
            reservations: reservations::Habits::draw(seed),
            asks_for_proofs: health::asks_for_proofs(seed),
            preempts: draw_preempts(seed),
            limits: health::draw_limits(seed),
            demands: health::jobs_demand(seed),
            shows_proofs: shown::is_on(seed),
            spoilt_permille: shown::spoilt_permille(seed),
            weighs_together: Rng::of(seed, "sites").chance(500),
            asks_of_nodes: Rng::of(seed, "needs").chance(300),
            lends_beside: Rng::of(seed, "beside").chance(350),
            patience: Millis(Rng::of(seed, "patience").range(1_000, 40_000)),
            faults,
        }
    }

    pub(crate) fn fault_every(&self, kind: FaultKind) -> u64 {
        self.faults.get(place_of(kind)).copied().unwrap_or(0)
    }
}

/// Versions come one after the other.
fn draw_preempts(seed: u64) -> bool {
    health::draw_limits(seed).is_some() || Rng::of(seed, "preemption").chance(500)
}

fn draw_slow_max(rng: &mut Rng, is_tight: bool) -> Millis {
    Millis(match rng.below(2) {
        0 => 400,
        _ if is_tight => 300,
        _ => rng.range(400, 5_000),
    })
}

fn place_of(kind: FaultKind) -> usize {
    FaultKind::ALL.iter().position(|it| *it == kind).unwrap_or(0)
}

/// How many messages are slow, of thousand.
fn draw_slow(rng: &mut Rng, is_tight: bool, noise: impl Fn(&mut Rng, u64) -> u64) -> u64 {
    match rng.below(10) {
        _ if is_tight => 150,
        0..7 => noise(rng, 200),
        _ => noise(rng, 600),
    }
}

/// The mean span between faults of each kind: few kinds, or a mix of many.
fn draw_faults(rng: &mut Rng, is_calm: bool, is_tight: bool, is_spilling: bool) -> Vec<u64> {
    let is_focused = rng.chance(500);
    let (on, seldom) = if is_focused { (200, 8_000) } else { (450, 12_000) };
    let mean = |_: &FaultKind| {
        if is_calm || is_tight || !rng.chance(on) { 0 } else { rng.skewed(1_500, seldom) }
    };
    let mut faults: Vec<u64> = FaultKind::ALL.iter().map(mean).collect();
    if is_spilling && !is_calm {
        faults[place_of(FaultKind::CutSites)] = rng.range(10_000, 20_000);
    }
    if is_tight {
        faults[place_of(FaultKind::CutNode)] = rng.range(5_000, 10_000);
    }
    faults
}

fn class(name: &str) -> GpuClass {
    GpuClass::new(name).expect("a constant that keeps the rules of names")
}

/// The classes of GPUs there are.
pub(crate) fn classes() -> [GpuClass; 2] {
    [class("b200"), class("rtx-pro-6000")]
}

fn country(name: &str) -> Country {
    name.parse().expect("a constant of two capital letters")
}

/// The countries there are, and one that stands for many.
pub(crate) fn countries() -> Vec<Country> {
    COUNTRIES.iter().chain(&["EU"]).map(|name| country(name)).collect()
}

pub(crate) fn site_name(index: usize) -> SiteId {
    SiteId::new(NAMES[index]).expect("a constant that keeps the rules of names")
}

/// Builds the sites and schedules what will happen to them.
pub(crate) fn populate(world: &mut World) {
    let count = world.knobs.sites;
    for index in 0..count {
        add_site(world, index);
    }
    for index in 0..count {
        found_site(world, index);
    }
    if world.knobs.is_tight {
        world.network.delay_max = Millis(2);
    }
    world.network.slow_max = world.knobs.slow_max;
    world.calm_network();
    for site in 0..count {
        world.schedule_in(5, Event::Elect { site });
        for node in 0..world.sites[site].nodes.len() {
            let at = world.chance.skewed(1, 3_000);
            world.schedule_in(at, Event::Rise(NodeRef { site, node }));
        }
        for peer in (0..count).filter(|peer| *peer != site) {
            let at = world.chance_work.skewed(1, 6_000);
            let operation = Operation::Join { peer };
            world.schedule_in(at, Event::Operate { site, operation });
        }
    }
    for kind in FaultKind::ALL.iter().copied() {
        let every = world.knobs.fault_every(kind);
        if every > 0 {
            let at = world.chance_faults.range(500, 2_000 + every);
            world.schedule_in(at, Event::Fault(kind));
        }
    }
    world.plan_work();
    let sicken_at = world.chance_health.range(1_000, 12_000);
    world.schedule_in(sicken_at, Event::Sicken);
    if world.knobs.limits.is_some() {
        let want_at = world.chance_burn_ins.range(500, 6_000);
        world.schedule_in(want_at, Event::Want);
    }
    let heal_at = world.knobs.heal_at;
    world.schedule(heal_at, Event::Heal);
}

fn add_machine(world: &mut World, who: Identity, duty: Duty) -> MachineId {
    let clock = Clock::draw(&mut world.chance, world.knobs.is_tight);
    world.machines.push(Machine { who, duty, clock, suspended_until: None });
    MachineId(world.machines.len() - 1)
}

fn add_site(world: &mut World, index: usize) {
    let name = site_name(index);
    let at = world.chance.index(COUNTRIES.len());
    let home = country(COUNTRIES[if index == 0 { 0 } else { at }]);
    let own = world.knobs.own_states.then(State::default);
    let controllers = (0..CONTROLLERS).map(|ctl| {
        let number = u64::try_from(ctl + 1).unwrap_or(1);
        let who = Identity::Controller { site: name.clone(), id: ControllerId(number) };
        let at = CtlRef { site: index, ctl };
        Controller::new(add_machine(world, who, Duty::Controller(at)), own.clone())
    });
    let controllers = controllers.collect();
    let per_node = [2, 4, 8][world.chance.index(3)];
    let per_node = if world.knobs.is_spilling && index == 0 { 2 } else { per_node };
    let mixed = world.chance.chance(300);
    let most = if world.knobs.is_spilling && index == 0 { 2 } else { 5 };
    let count = world.chance.range(2, most);
    let mut nodes = Vec::new();
    for node in 0..count {
        let id = NodeId::new(&format!("n{node:02}")).expect("a name made of a letter and digits");
        let who = Identity::Agent { site: name.clone(), node: id.clone() };
        let at = NodeRef { site: index, node: nodes.len() };
        let machine = add_machine(world, who, Duty::Node(at));
        let class = classes()[usize::from(mixed && world.chance.chance(400))].clone();
        let gpus = (0..per_node).map(|gpu| GpuInfo {
            index: GpuIndex(gpu),
            class: class.clone(),
            uuid: String::new(),
            memory_mib: 1_024,
        });
        let says = world.knobs.asks_of_nodes;
        let facts = if says { needs::facts(nodes.len()) } else { Facts::default() };
        let has_beside = world.knobs.lends_beside;
        let facts = if has_beside { needs::with_beside(facts) } else { facts };
        nodes.push(Node::new(id, machine, gpus.collect(), facts));
    }
    let user = UserId::new("tenant").expect("a constant that keeps the rules of names");
    let who = Identity::User { site: name.clone(), user };
    let machine = add_machine(world, who, Duty::Client(index));
    let client = Client::new(machine);
    let log = Log::new();
    world.sites.push(Site { name, country: home, log, controllers, nodes, client });
}

fn lend_rules(world: &mut World, index: usize) -> Vec<LendRule> {
    let rule = |world: &mut World, to: Option<SiteId>| LendRule {
        to,
        class: None,
        gpus_max: GpuCount(world.chance.small(if world.knobs.is_spilling { 8 } else { 2 }, 24)),
        keep_free: GpuCount(if world.chance.chance(700) { 0 } else { world.chance.small(1, 4) }),
    };
    match world.chance.below(10) {
        // One rule for each peer, and perhaps none for some.
        0..3 => {
            let peers = (0..world.knobs.sites).filter(|peer| *peer != index).collect::<Vec<_>>();
            let some: Vec<usize> = peers.into_iter().filter(|_| world.chance.chance(800)).collect();
            some.into_iter().map(|peer| rule(world, Some(site_name(peer)))).collect()
        }
        _ => vec![rule(world, None)],
    }
}

fn raise_to(world: &mut World, site: usize, version: ClusterVersion) {
    while world.sites[site].log.latest().version < version {
        let version = world.sites[site].log.latest().version.next();
        world.append_directly(site, Command::SetVersion(SetVersion { version }));
    }
}

fn found_site(world: &mut World, index: usize) {
    let site = &world.sites[index];
    let (name, home) = (site.name.clone(), site.country);
    let nodes: Vec<NodeId> = site.nodes.iter().map(|node| node.id.clone()).collect();
    let lend = lend_rules(world, index);
    let spec =
        SiteSpec { site: name, country: home, terms: world.knobs.terms.clone(), lend, trust: None };
    let found = FoundSite { spec: Arc::new(spec), address: format!("{}:1", NAMES[index]) };
    world.append_directly(index, Command::FoundSite(found));
    if world.knobs.accounts.is_some() {
        let version = ClusterVersion::QUEUEING;
        world.append_directly(index, Command::SetVersion(SetVersion { version }));
        for set in accounts::found(&mut world.chance_queue) {
            world.append_directly(index, set);
        }
    }
    if world.knobs.asks_for_proofs {
        raise_to(world, index, ClusterVersion::HEALTH);
        let trust = SetTrust { trust: Trust::Proven };
        world.append_directly(index, Command::SetTrust(trust));
    }
    if world.knobs.preempts {
        raise_to(world, index, ClusterVersion::PREEMPTION);
    }
    if let Some(limits) = world.knobs.limits.clone() {
        raise_to(world, index, ClusterVersion::BURN_INS);
        world.append_directly(index, Command::SetHealthLimits(SetHealthLimits { limits }));
        for node in 0..nodes.len() {
            let is_old = world.chance_burn_ins.chance(150);
            world.node_mut(NodeRef { site: index, node }).is_old = is_old;
        }
    }
    if world.knobs.weighs_together || world.knobs.asks_of_nodes {
        raise_to(world, index, ClusterVersion::SITES);
    }
    // Now and then a peer is of the version before.
    if world.knobs.costs.is_some() && (index == 0 || world.chance_costs.chance(800)) {
        raise_to(world, index, ClusterVersion::SITES);
        for said in costs::found(&mut world.chance_costs) {
            world.append_directly(index, said);
        }
    }
    if world.knobs.reservations.is_some() || world.knobs.demands {
        raise_to(world, index, ClusterVersion::DEMANDS);
    }
    if world.knobs.lends_beside {
        // As long as one side is of the version before, a loan carries GPUs alone.
        let is_new = world.chance_beside.chance(900);
        let version = if is_new { ClusterVersion::DEMANDS } else { ClusterVersion::SITES };
        raise_to(world, index, version);
    }
    // Now and then a peer is of the version before.
    if world.knobs.shows_proofs && world.chance_shown.chance(850) {
        raise_to(world, index, ClusterVersion::PEER_PROOFS);
    }
    for (nth, node) in nodes.into_iter().enumerate() {
        let token = TokenId(nth as u128 + 1);
        let open = OpenToken {
            token,
            kind: TokenKind::Enrol,
            key: Blob(vec![1]),
            bound: node.to_string(),
            expires_at: Timestamp(u64::MAX),
        };
        world.append_directly(index, Command::OpenToken(open));
        let accept = AcceptNode { token, node, digest: Blob(vec![2]), at: Timestamp(1) };
        world.append_directly(index, Command::AcceptNode(accept));
    }
}
