//! A node's agent: asks, obeys, crashes and begins anew. What its supervisor does with processes
//! is in [`crate::supervisor`].

use std::collections::{BTreeMap, BTreeSet};

use gpu_agent_core::health::Health;
use gpu_agent_core::{Action, Runner};
use specs::codec::{Message, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, CallId, GpuIndex, LeaseId, NodeId};
use specs::unit::{Instant, Millis};
use specs::wire::agent::{AttemptReport, Facts, Inventory, NodeOrders};
use specs::wire::method::Method;

use crate::clock::Time;
use crate::coverage::Mark;
use crate::health;
use crate::invariant::s8_proven;
use crate::network::{self, Frames, MachineId, Packet};
use crate::supervisor::Process;
use crate::world::{Event, NodeRef, Notice, World};

/// Unanswered questions after which an agent or a leader turns to another controller.
pub(crate) const MISSES_MAX: u32 = 2;

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) machine: MachineId,
    pub(crate) facts: Facts,
    /// Every GPU that it was built with.
    pub(crate) all_gpus: Vec<GpuInfo>,
    /// Those that this life of the agent found.
    pub(crate) gpus: Vec<GpuInfo>,
    pub(crate) boot: Boot,
    /// Counts lives; events of an earlier one are void.
    pub(crate) life: u64,
    /// None between two lives.
    pub(crate) runner: Option<Runner>,
    /// The controller that it asks.
    target: usize,
    misses: u32,
    /// The agent alone does not execute before; its supervisor and its processes do.
    pub(crate) paused_until: Option<Time>,
    pub(crate) processes: BTreeMap<LeaseId, Process>,
    /// Ends on disk, until the agent forgets them.
    pub(crate) durable: BTreeMap<LeaseId, AttemptReport>,
    /// What the agent knows of its GPUs, and which are truly bad.
    pub(crate) health: Health,
    pub(crate) sick: BTreeSet<GpuIndex>,
    /// Its agent is of a release that knows no permits.
    pub(crate) is_old: bool,
}

impl Node {
    pub(crate) fn new(id: NodeId, machine: MachineId, gpus: Vec<GpuInfo>, facts: Facts) -> Self {
        Self {
            id,
            machine,
            facts,
            all_gpus: gpus.clone(),
            gpus,
            boot: Boot(0),
            life: 0,
            runner: None,
            target: 0,
            misses: 0,
            paused_until: None,
            processes: BTreeMap::new(),
            durable: BTreeMap::new(),
            health: Health::new(Instant::ZERO, []),
            sick: BTreeSet::new(),
            is_old: false,
        }
    }

    fn inventory(&self) -> Inventory {
        Inventory {
            source: InventorySource::Declared,
            gpus: self.gpus.clone(),
            address: self.id.to_string(),
            version: "sim".into(),
            facts: OrDefault(self.facts.clone()),
        }
    }
}

impl World {
    /// A new life: no orphan is left, and every result on disk is handed over.
    pub(crate) fn agent_rises(&mut self, at: NodeRef) {
        if self.node(at).runner.is_some() {
            return;
        }
        if !self.node(at).processes.is_empty() {
            self.schedule_in(20, Event::Rise(at));
            return;
        }
        let shrinks = !self.healing && self.node(at).boot.0 > 0 && self.chance.chance(60);
        let gone = self.chance.index(self.node(at).all_gpus.len());
        let node = self.node_mut(at);
        node.boot = Boot(node.boot.0 + 1);
        node.life += 1;
        node.gpus = node.all_gpus.clone();
        if shrinks && node.gpus.len() > 1 {
            node.gpus.remove(gone);
        }
        let ended: Vec<AttemptReport> = node.durable.values().cloned().collect();
        let exited = ended.iter().filter(|it| crate::oracle::has_exited(it)).count() as u64;
        node.runner = Some(Runner::new(node.id.clone(), node.boot, node.inventory(), ended));
        let (life, boot) = (node.life, node.boot);
        self.health_rises(at);
        self.coverage.add(Mark::ResultsAcrossLives, exited);
        if shrinks {
            self.mark(Mark::InventoryShrunk);
        }
        self.note(|world| format!("{} rises, boot {boot}", world.node_name(at)));
        self.schedule_in(1, Event::Ask { at, life, periodic: true });
    }

    pub(crate) fn node_name(&self, at: NodeRef) -> String {
        format!("{}/{}", self.sites[at.site].name, self.node(at).id)
    }

    pub(crate) fn agent_asks(&mut self, at: NodeRef, life: u64, periodic: bool) {
        if self.node(at).life != life || self.node(at).runner.is_none() {
            return;
        }
        if periodic {
            let jitter = if self.knobs.is_tight { 0 } else { self.chance.below(20) };
            self.schedule_in(self.knobs.ask_every.0 + jitter, Event::Ask { at, life, periodic });
        }
        self.tend_health(at);
        let now = self.clock(self.node(at).machine);
        let controllers = self.sites[at.site].controllers.len();
        let call = CallId(self.chance.wide());
        let node = self.node_mut(at);
        node.misses += 1;
        if node.misses > MISSES_MAX {
            node.misses = 1;
            node.target = (node.target + 1) % controllers;
        }
        let Some(runner) = &mut node.runner else { return };
        runner.handle_timeout(now);
        let mut report = runner.ask(now);
        if node.is_old {
            health::forget_permits(&mut report);
        }
        let (from, target) = (node.machine, node.target);
        let to = self.sites[at.site].controllers[target].machine;
        let bytes = network::request(Method::NodeReport, call, &report);
        self.note(|world| {
            let ended = report.attempts.iter().filter(|it| it.outcome.is_some()).count();
            format!(
                "{} asks c{target} {} ({} attempts, {ended} ended)",
                world.node_name(at),
                report.question,
                report.attempts.len()
            )
        });
        self.send(&Packet { from, to, call, bytes });
        self.drain_actions(at);
    }

    /// Asks soon, because something happened.
    fn ask_soon(&mut self, at: NodeRef, millis: u64) {
        let life = self.node(at).life;
        self.schedule_in(millis, Event::Ask { at, life, periodic: false });
    }

    pub(crate) fn agent_hears(&mut self, at: NodeRef, packet: &Packet) {
        if self.node(at).runner.is_none() {
            return;
        }
        match network::open(&packet.bytes) {
            Ok(Frames::Answer(body)) => match NodeOrders::decode(body) {
                Ok(orders) => self.agent_obeys(at, orders),
                Err(error) => self.violate("bytes read back", format!("orders: {error}")),
            },
            Ok(Frames::Fault(fault)) => {
                let count = self.sites[at.site].controllers.len();
                let node = self.node_mut(at);
                node.misses = 0;
                if fault.code.is_retryable() {
                    node.target = (node.target + 1) % count;
                    let soon = 50 + self.chance.below(150);
                    self.ask_soon(at, soon);
                }
            }
            Ok(Frames::Request(method, _)) => {
                let caller = self.machines[packet.from.0].who.clone();
                let site = self.sites[at.site].name.clone();
                let role = self.machines[packet.to.0].who.role();
                if let Err(fault) = network::let_in(method, &caller, &site, role) {
                    self.violate("the fabric lets its own in", fault.to_string());
                }
                self.ask_soon(at, 0);
            }
            Err(error) => self.violate("bytes read back", error),
        }
    }

    fn agent_obeys(&mut self, at: NodeRef, orders: NodeOrders) {
        let machine = self.node(at).machine;
        let (now, wall) = (self.clock(machine), self.wall(machine));
        self.note(|world| {
            let leases: Vec<String> = orders
                .leases
                .iter()
                .map(|it| format!("{} {} {}", it.lease, it.want, it.validity.kind))
                .collect();
            let hold = if orders.hold { " hold" } else { "" };
            let (question, revision) = (orders.question, orders.revision);
            format!(
                "{} is answered {question} at {revision}{hold}: {}",
                world.node_name(at),
                leases.join(", ")
            )
        });
        if orders.permits_only {
            self.tend_when_over(at, orders.lease_term);
        }
        let node = self.node_mut(at);
        node.misses = 0;
        if let Some(runner) = &mut node.runner {
            runner.handle_timeout(now);
            runner.handle_orders(now, wall, orders);
        }
        self.drain_actions(at);
    }

    pub(crate) fn agent_noticed(&mut self, at: NodeRef, life: u64, lease: LeaseId, notice: Notice) {
        let node = self.node_mut(at);
        if node.life != life {
            return;
        }
        let Some(runner) = &mut node.runner else { return };
        match notice {
            Notice::Started(wall) => runner.handle_started(lease, wall),
            Notice::Ended(outcome, wall) => runner.handle_ended(lease, outcome, wall),
        }
        self.drain_actions(at);
        if self.knobs.prompt {
            self.ask_soon(at, 1);
        }
    }

    fn drain_actions(&mut self, at: NodeRef) {
        while let Some(action) = self.node_mut(at).runner.as_mut().and_then(Runner::poll_action) {
            match action {
                Action::Start { lease, known, launch, deadline } => {
                    let found = s8_proven::on_start(self, at, &known, &launch);
                    self.violate_all(found);
                    let demands = u64::from(launch.spec.needs.proof.is_some());
                    self.coverage.add(Mark::DemandingStarted, demands);
                    let is_guest = known.home != self.sites[at.site].name;
                    let count = if is_guest { demands } else { 0 };
                    self.coverage.add(Mark::DemandingGuestsStarted, count);
                    self.start_process(at, lease, known, launch, deadline);
                }
                Action::Extend { lease, deadline } => self.extend_process(at, lease, deadline),
                Action::Stop { lease } => self.stop_process(at, lease),
                Action::Kill { lease } => self.fence_process(at, lease),
                Action::Forget { lease } => self.forget_result(at, lease),
            }
        }
    }

    fn forget_result(&mut self, at: NodeRef, lease: LeaseId) {
        if let Some(report) = self.node_mut(at).durable.remove(&lease) {
            self.check_forgotten(at, &report);
        }
    }

    /// The agent dies. Its processes die with it; results on disk stay.
    pub(crate) fn crash_agent(&mut self, at: NodeRef, down: Millis) {
        self.note(|world| format!("{} loses its agent", world.node_name(at)));
        let node = self.node_mut(at);
        node.life += 1;
        node.runner = None;
        node.paused_until = None;
        let leases: Vec<LeaseId> = node.processes.keys().copied().collect();
        for lease in leases {
            self.orphan_process(at, lease);
        }
        self.schedule_in(down.0, Event::Rise(at));
    }
}
