//! The world: time, machines, what happens next. One thread, one seed; equal seeds give equal
//! runs.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use fabric_core::identity::Identity;
use gpu_agent_core::health::BurnIn;
use specs::id::{Country, GpuIndex, LeaseId, SiteId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::Outcome;

use crate::clock::{Clock, Time};
use crate::controller::Controller;
use crate::coverage::{Coverage, Mark};
use crate::faults::FaultKind;
use crate::log::Log;
use crate::network::{MachineId, Network, Packet};
use crate::node::Node;
use crate::oracle::Oracle;
use crate::rng::Rng;
use crate::setup::{self, Knobs};
use crate::workload::{Client, Operation};

/// More events than any run needs: one that gets here goes round in circles.
const EVENTS_MAX: u64 = 3_000_000;

/// A property that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub property: &'static str,
    pub detail: String,
    pub at_millis: u64,
}

/// What a run showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    pub seed: u64,
    /// Over everything that happened.
    pub hash: u64,
    pub violation: Option<Violation>,
    pub coverage: Coverage,
    pub faults: u64,
    pub events: u64,
    pub simulated: Millis,
    /// Empty unless asked for.
    pub trace: Vec<String>,
}

/// A controller of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CtlRef {
    pub(crate) site: usize,
    pub(crate) ctl: usize,
}

/// A node of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NodeRef {
    pub(crate) site: usize,
    pub(crate) node: usize,
}

/// What a machine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Duty {
    Controller(CtlRef),
    Node(NodeRef),
    Client(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) who: Identity,
    pub(crate) duty: Duty,
    pub(crate) clock: Clock,
    /// Nothing of it executes before; its clock goes on.
    pub(crate) suspended_until: Option<Time>,
}

#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) name: SiteId,
    pub(crate) country: Country,
    pub(crate) log: Log,
    pub(crate) controllers: Vec<Controller>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) client: Client,
}

/// What a supervisor tells its agent.
#[derive(Debug, Clone)]
pub(crate) enum Notice {
    Started(Timestamp),
    Ended(Outcome, Timestamp),
}

#[derive(Debug, Clone)]
pub(crate) enum Event {
    Arrive(Packet),
    /// A supervisor looks at its deadlines.
    Supervise(NodeRef),
    /// The next thing in a process's life, unless it took another turn.
    Process {
        at: NodeRef,
        lease: LeaseId,
        turn: u32,
    },
    /// An agent asks.
    Ask {
        at: NodeRef,
        life: u64,
        periodic: bool,
    },
    Notice {
        at: NodeRef,
        life: u64,
        lease: LeaseId,
        notice: Notice,
    },
    /// A burn-in came to its end.
    Burnt {
        at: NodeRef,
        life: u64,
        burn_in: BurnIn,
        run: u64,
    },
    /// An agent's orders may have run out.
    Tend {
        at: NodeRef,
        life: u64,
    },
    /// An operator wants a burn-in, or holds a GPU back for a while.
    Want,
    LetGo {
        at: NodeRef,
        gpu: GpuIndex,
    },
    /// A GPU falls sick.
    Sicken,
    SicknessShows {
        at: NodeRef,
        life: u64,
        gpu: GpuIndex,
    },
    Repair {
        at: NodeRef,
        gpu: GpuIndex,
    },
    /// An agent begins a new life.
    Rise(NodeRef),
    /// A leader's confirmation came to its end.
    Confirmed {
        at: CtlRef,
        life: u64,
        request: u64,
    },
    /// A leader comes back to a question.
    Wake {
        at: CtlRef,
        life: u64,
        request: u64,
    },
    Poll {
        at: CtlRef,
        life: u64,
        periodic: bool,
    },
    AskPeers {
        at: CtlRef,
        life: u64,
    },
    /// Asks one peer, because something changed.
    AskPeer {
        at: CtlRef,
        life: u64,
        peer: SiteId,
    },
    Apply {
        at: CtlRef,
        life: u64,
    },
    Commit {
        site: usize,
        term: u64,
    },
    Elect {
        site: usize,
    },
    /// A deposed leader learns that it is.
    Aware {
        at: CtlRef,
        life: u64,
    },
    /// A crashed controller comes back.
    Return(CtlRef),
    Resume(MachineId),
    Fault(FaultKind),
    EndCut(u64),
    EndBurst,
    Client {
        site: usize,
    },
    Submit {
        site: usize,
    },
    Cancel {
        site: usize,
    },
    Operate {
        site: usize,
        operation: Operation,
    },
    /// A cancelled job must have stopped.
    CancelDue {
        site: usize,
        job: specs::id::JobId,
    },
    /// Faults stop.
    Heal,
    /// Has everything healed?
    Inspect,
}

#[derive(Debug, Clone)]
struct Scheduled {
    at: Time,
    order: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, for the heap gives the greatest first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

pub(crate) struct World {
    pub(crate) now: Time,
    heap: BinaryHeap<Scheduled>,
    scheduled: u64,
    pub(crate) knobs: Knobs,
    pub(crate) network: Network,
    pub(crate) machines: Vec<Machine>,
    pub(crate) sites: Vec<Site>,
    pub(crate) oracle: Oracle,
    pub(crate) coverage: Coverage,
    pub(crate) violation: Option<Violation>,
    pub(crate) faults: u64,
    pub(crate) healing: bool,
    pub(crate) done: bool,
    /// Chance of what processes and machines do.
    pub(crate) chance: Rng,
    pub(crate) chance_log: Rng,
    pub(crate) chance_faults: Rng,
    pub(crate) chance_work: Rng,
    /// Chance of accounts and quotas.
    pub(crate) chance_queue: Rng,
    pub(crate) chance_needs: Rng,
    /// Chance of CPU and memory.
    pub(crate) chance_beside: Rng,
    /// Chance of what jobs demand of proofs.
    pub(crate) chance_demands: Rng,
    pub(crate) chance_health: Rng,
    pub(crate) chance_burn_ins: Rng,
    pub(crate) chance_shown: Rng,
    /// Chance of what sites cost.
    pub(crate) chance_costs: Rng,
    /// Chance of what is reserved.
    pub(crate) chance_reservations: Rng,
    hash: u64,
    trace: Option<Vec<String>>,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, with_trace: bool) -> Run {
    let mut world = World::new(seed, with_trace);
    setup::populate(&mut world);
    let mut events = 0;
    while let Some(next) = world.heap.pop() {
        events += 1;
        world.now = next.at;
        if events > EVENTS_MAX {
            world.violate("the run ends", "too many events".into());
        }
        world.handle(next.event);
        if world.done || world.violation.is_some() {
            break;
        }
    }
    if world.violation.is_none() && !world.done {
        world.violate("the run ends", "nothing left to happen".into());
    }
    Run {
        seed,
        hash: world.hash,
        violation: world.violation,
        coverage: world.coverage,
        faults: world.faults,
        events,
        simulated: world.now.since(Time(0)),
        trace: world.trace.unwrap_or_default(),
    }
}

impl World {
    fn new(seed: u64, with_trace: bool) -> Self {
        Self {
            now: Time(0),
            heap: BinaryHeap::new(),
            scheduled: 0,
            knobs: Knobs::draw(seed),
            network: Network::new(seed),
            machines: Vec::new(),
            sites: Vec::new(),
            oracle: Oracle::default(),
            coverage: Coverage::default(),
            violation: None,
            faults: 0,
            healing: false,
            done: false,
            chance: Rng::of(seed, "machines"),
            chance_log: Rng::of(seed, "log"),
            chance_faults: Rng::of(seed, "faults"),
            chance_work: Rng::of(seed, "work"),
            chance_queue: Rng::of(seed, "queue"),
            chance_needs: Rng::of(seed, "what jobs ask for"),
            chance_beside: Rng::of(seed, "what jobs ask for beside GPUs"),
            chance_demands: Rng::of(seed, "what jobs demand"),
            chance_health: Rng::of(seed, "health"),
            chance_burn_ins: Rng::of(seed, "burn-ins"),
            chance_shown: Rng::of(seed, "what hosts show"),
            chance_costs: Rng::of(seed, "what sites cost"),
            chance_reservations: Rng::of(seed, "what is reserved"),
            hash: 0xcbf2_9ce4_8422_2325,
            trace: with_trace.then(Vec::new),
        }
    }

    pub(crate) fn schedule(&mut self, at: Time, event: Event) {
        self.scheduled += 1;
        let at = at.max(self.now);
        self.heap.push(Scheduled { at, order: self.scheduled, event });
    }

    pub(crate) fn schedule_in(&mut self, millis: u64, event: Event) {
        self.schedule(self.now.after(Millis(millis)), event);
    }

    /// Takes a number into the hash of the run.
    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    fn mix_bytes(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// Writes a line of the trace, if there is one.
    pub(crate) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let line = format!("{}  {}", self.now, line(self));
            self.trace.get_or_insert_default().push(line);
        }
    }

    pub(crate) fn mark(&mut self, mark: Mark) {
        self.coverage.mark(mark);
    }

    /// The first violation stands.
    pub(crate) fn violate(&mut self, property: &'static str, detail: String) {
        self.note(|_| format!("VIOLATION {property}: {detail}"));
        let at_millis = self.now.0;
        self.violation.get_or_insert(Violation { property, detail, at_millis });
    }

    pub(crate) fn violate_all(&mut self, found: Vec<(&'static str, String)>) {
        for (property, detail) in found {
            self.violate(property, detail);
        }
    }

    pub(crate) fn clock(&self, machine: MachineId) -> Instant {
        self.machines[machine.0].clock.read(self.now)
    }

    pub(crate) fn wall(&self, machine: MachineId) -> Timestamp {
        self.machines[machine.0].clock.wall(self.now)
    }

    pub(crate) fn machine_of(&self, at: CtlRef) -> MachineId {
        self.sites[at.site].controllers[at.ctl].machine
    }

    pub(crate) fn is_suspended(&self, machine: MachineId) -> bool {
        self.machines[machine.0].suspended_until.is_some_and(|until| until > self.now)
    }

    pub(crate) fn site_index(&self, name: &SiteId) -> Option<usize> {
        self.sites.iter().position(|site| site.name == *name)
    }

    /// Puts bytes on the network.
    pub(crate) fn send(&mut self, packet: &Packet) {
        for delay in self.network.delays(packet.from, packet.to) {
            self.schedule_in(delay.0, Event::Arrive(packet.clone()));
        }
    }

    /// Until when the event has to wait because who must handle it does not execute.
    fn held_until(&self, event: &Event) -> Option<Time> {
        let (machine, agent) = match event {
            Event::Arrive(packet) => match self.machines[packet.to.0].duty {
                Duty::Node(at) => (packet.to, Some(at)),
                Duty::Controller(_) | Duty::Client(_) => (packet.to, None),
            },
            Event::Supervise(at) | Event::Process { at, .. } => (self.node(*at).machine, None),
            Event::Ask { at, .. }
            | Event::Notice { at, .. }
            | Event::Burnt { at, .. }
            | Event::Tend { at, .. }
            | Event::SicknessShows { at, .. }
            | Event::Rise(at) => (self.node(*at).machine, Some(*at)),
            Event::Confirmed { at, .. }
            | Event::Wake { at, .. }
            | Event::Poll { at, .. }
            | Event::AskPeers { at, .. }
            | Event::AskPeer { at, .. }
            | Event::Apply { at, .. }
            | Event::Aware { at, .. } => (self.machine_of(*at), None),
            Event::Commit { .. }
            | Event::Elect { .. }
            | Event::Return(_)
            | Event::Resume(_)
            | Event::Fault(_)
            | Event::EndCut(_)
            | Event::EndBurst
            | Event::Client { .. }
            | Event::Submit { .. }
            | Event::Cancel { .. }
            | Event::Operate { .. }
            | Event::CancelDue { .. }
            | Event::Sicken
            | Event::Want
            | Event::LetGo { .. }
            | Event::Repair { .. }
            | Event::Heal
            | Event::Inspect => return None,
        };
        let machine = self.machines[machine.0].suspended_until;
        let agent = agent.and_then(|at| self.node(at).paused_until);
        machine.max(agent).filter(|until| *until > self.now)
    }

    fn handle(&mut self, event: Event) {
        if let Some(until) = self.held_until(&event) {
            self.schedule(until, event);
            return;
        }
        self.mix(self.now.0);
        match event {
            Event::Arrive(packet) => self.arrive(packet),
            Event::Supervise(at) => self.supervise(at),
            Event::Process { at, lease, turn } => self.advance_process(at, lease, turn),
            Event::Ask { at, life, periodic } => self.agent_asks(at, life, periodic),
            Event::Notice { at, life, lease, notice } => {
                self.agent_noticed(at, life, lease, notice)
            }
            Event::Rise(at) => self.agent_rises(at),
            Event::Burnt { at, life, burn_in, run } => self.burnt(at, life, burn_in, run),
            Event::Tend { at, life } => self.tend_again(at, life),
            Event::Want => self.want_burn_in(),
            Event::LetGo { at, gpu } => self.let_go(at, gpu),
            Event::Sicken => self.sicken(),
            Event::SicknessShows { at, life, gpu } => self.sickness_shows(at, life, gpu),
            Event::Repair { at, gpu } => self.repair(at, gpu),
            Event::Confirmed { at, life, request } => self.confirmed(at, life, request),
            Event::Wake { at, life, request } => self.wake(at, life, request),
            Event::Poll { at, life, periodic } => self.poll_leader(at, life, periodic),
            Event::AskPeers { at, life } => self.ask_peers(at, life),
            Event::AskPeer { at, life, peer } => self.ask_peer(at, life, &peer),
            Event::Apply { at, life } => self.apply_at(at, life),
            Event::Commit { site, term } => self.commit_due(site, term),
            Event::Elect { site } => self.elect(site),
            Event::Aware { at, life } => self.become_follower(at, life),
            Event::Return(at) => self.controller_returns(at),
            Event::Resume(machine) => self.resume(machine),
            Event::Fault(kind) => self.strike(kind),
            Event::EndCut(number) => self.network.cuts.retain(|cut| cut.number != number),
            Event::EndBurst => self.calm_network(),
            Event::Client { site } => self.client_repeats(site),
            Event::Submit { site } => self.client_submits(site),
            Event::Cancel { site } => self.client_cancels(site),
            Event::Operate { site, operation } => self.operate(site, operation),
            Event::CancelDue { site, job } => self.check_cancelled(site, job),
            Event::Heal => self.heal(),
            Event::Inspect => self.inspect(),
        }
    }

    fn arrive(&mut self, packet: Packet) {
        self.mix_bytes(&packet.bytes);
        match self.machines[packet.to.0].duty {
            Duty::Node(at) => self.agent_hears(at, &packet),
            Duty::Controller(at) => self.controller_hears(at, &packet),
            Duty::Client(site) => self.client_hears(site, &packet),
        }
    }

    pub(crate) fn node(&self, at: NodeRef) -> &Node {
        &self.sites[at.site].nodes[at.node]
    }

    pub(crate) fn node_mut(&mut self, at: NodeRef) -> &mut Node {
        &mut self.sites[at.site].nodes[at.node]
    }
}
