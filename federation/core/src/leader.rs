//! What runs only while leading: the memory of who was heard, and what follows from it. Takes
//! questions and time, proposes commands, and answers; the shell agrees on the commands and
//! carries the bytes.
//!
//! ```text
//!   NodeReport ─▶ handle_node_report ─▶ commands ─▶ (log) ─▶ node_orders ─▶ NodeOrders
//!   PeerReport ─▶ handle_peer_report ─▶ commands ─▶ (log) ─▶ peer_orders ─▶ PeerOrders      home
//!   ask_peer ─▶ PeerReport … PeerOrders ─▶ handle_peer_orders ─▶ commands ─▶ (log)          host
//!   poll_commands(now) ─▶ suspicions, releases, plans, grants
//! ```
//!
//! # Invariants
//! * Orders are computed from a state that was read after the question came, by a leader that
//!   confirmed in between that it leads. The shell sees to it.
//! * A span is counted on this leader's clock alone; a new leader starts at zero.

mod behind;
mod peers;
mod proofs;
pub(crate) mod saves;
mod shown;
mod sites;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::fault::{Fault, FaultCode};
use specs::gpu::{BurnInResult, SignedProof};
use specs::id::{
    AccountId, Boot, Epoch, GpuClass, GpuIndex, JobId, LeaseId, NodeId, Question, ReservationName,
    Revision, SiteId,
};
use specs::job::JobSpec;
use specs::quota::Quota;
use specs::site::SiteSpec;
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::agent::{
    AttemptPhase, AttemptReport, Ending, NodeOrders, NodeReport, Outcome, Validity, ValidityKind,
};
use specs::wire::peer::{ClassCapacity, Demand};

pub use behind::ComparedCounts;

use crate::archive::{Archivist, Retention};
use crate::breaker;
use crate::burn_in::{self, Needs};
use crate::command::{
    Command, CommitPlan, EndPermits, EndRecovery, ExpireGrant, RecordParts, RegisterNode,
    ReleaseNode, ReleasePeer, RestoreNode, ReturnGrant, SuspectNode, SuspectPeer,
};
use crate::exchange::host::in_use;
use crate::health;
use crate::invariant::Violation;
use crate::placement::capacity::Capacity;
use crate::placement::capacity::screen::Binding;
use crate::placement::lookout::{LOOKED_AT_MAX, Lookout};
use crate::placement::plan::{Plan, plan};
use crate::placement::sites::Told;
use crate::placement::sites::outlook::Waits;
use crate::placement::summary::Summary;
use crate::placement::{fits, lend};
use crate::queue::clearing::{self, Clearing};
use crate::queue::kept::Keeper;
use crate::queue::turns::Order;
use crate::quota::UseKey;
use crate::reserve;
use crate::restore;
use crate::state::{DrawKey, Held, HeldKey, Lease, Node, Peer, QueueKey, State};
use crate::table::{Index, Table};
use crate::view;
use crate::watch::{Vigil, Watch};
use saves::Saves;

/// A site with fewer nodes does not wait for others to be heard before it releases one.
const HEARD_SHARE_FROM_NODES: usize = 4;
/// Questions to a peer that are remembered while their answers are on the way.
const PEER_ASKED_MAX: usize = 32;

/// A plan that nothing calls for is made again after this long: waiting jobs come to be lent for.
const PLAN_AGAIN: Millis = Millis(200);
/// Nodes, peers and grants are looked at this often: the spans that are watched over are seconds.
const LOOK_EVERY: Millis = Millis(200);

/// A question that this leader, as a host, asked a home.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    /// Of the state that it was read from.
    revision: Revision,
    /// Guests that the question showed as ended.
    ended: BTreeSet<(JobId, Epoch)>,
}

/// When a home last confirmed a loan.
#[derive(Debug, Clone, Copy)]
struct Confirmed {
    asked_at: Instant,
    term: Millis,
}

#[derive(Debug, Clone, Default)]
struct PeerMemory {
    /// As its home: when it asked.
    watch: Watch,
    told: Told,
    /// As its host: what was asked.
    asked: BTreeMap<Question, Asked>,
    answered: Question,
    answered_at: Option<Instant>,
    confirmed: BTreeMap<(JobId, Epoch), Confirmed>,
    demand: Vec<Demand>,
    shown: shown::Shown,
}

#[derive(Debug, Clone, Default)]
struct NodeMemory {
    boot: Boot,
    watch: Watch,
    /// As its last report showed them.
    proofs: BTreeMap<GpuIndex, SignedProof>,
    burn_ins: BTreeMap<GpuIndex, BurnInResult>,
    heeds_permits: bool,
}

/// The leader's memory of one reign.
#[derive(Debug, Clone)]
pub struct Leader {
    since: Instant,
    next_question: Question,
    nodes: BTreeMap<NodeId, NodeMemory>,
    peers: BTreeMap<SiteId, PeerMemory>,
    vigil: Vigil,
    /// The jobs at the head of the queue.
    lookout: Lookout,
    /// What the last plan was made from, if that is all there was to do.
    planned: Option<Planned>,
    /// When nodes, peers and grants were last looked at; none if they are to be looked at again.
    looked_at: Option<Instant>,
    /// Since when a held grant is seen without loans.
    idle_since: BTreeMap<HeldKey, Instant>,
    /// Waiting jobs that fit nowhere at present, as the last plan saw it.
    waiting: Vec<Waiting>,
    /// A job waits that did not when [`Leader::waits_anew`] was last asked.
    waits_anew: bool,
    archivist: Archivist,
    /// What is free where. Follows from the state.
    capacity: Capacity,
    /// What peers are told of it. Follows likewise.
    summary: Summary,
    /// How long jobs waited for their first places here.
    waits: Waits,
    /// The wall clock when it was last told.
    at: Timestamp,
    keeper: Keeper,
    clearing: Clearing,
    /// What nodes need to have burnt in, as their last reports showed it.
    needs: BTreeMap<NodeId, Needs>,
    /// How many GPUs of which nodes are bad, and have jobs that run on.
    spared: BTreeMap<NodeId, usize>,
    compared: behind::Compared,
    saves: Saves,
}

/// What a plan goes by. Held only to be compared.
#[derive(Debug, Clone)]
struct Planned {
    at: Instant,
    /// Who comes now has to wait until those are gone that were not looked at.
    leaves_some: bool,
    site: Option<Arc<SiteSpec>>,
    queue: Index<QueueKey, ()>,
    nodes: Table<NodeId, Node>,
    peers: Table<SiteId, Peer>,
    held: Table<HeldKey, Held>,
    drawn: Index<DrawKey, GpuCount>,
    quotas: Table<AccountId, Quota>,
    used: Index<UseKey, GpuCount>,
    running: Index<Revision, u32>,
    reserved: Index<(NodeId, ReservationName), ()>,
}

impl Planned {
    fn from(now: Instant, state: &State) -> Self {
        Self {
            at: now,
            leaves_some: false,
            site: state.site.clone(),
            queue: state.queue.clone(),
            nodes: state.nodes.clone(),
            peers: state.peers.clone(),
            held: state.held.clone(),
            drawn: state.drawn.clone(),
            quotas: state.quotas.clone(),
            used: state.used.clone(),
            running: state.running.clone(),
            reserved: state.reserved.clone(),
        }
    }

    /// Whether another plan would say nothing else.
    fn holds(&self, now: Instant, state: &State) -> bool {
        now.since(self.at) < PLAN_AGAIN
            && self.site == state.site
            && (self.leaves_some || self.queue.is_same(&state.queue))
            && self.nodes.is_same(&state.nodes)
            && self.peers.is_same(&state.peers)
            && self.held.is_same(&state.held)
            && self.drawn.is_same(&state.drawn)
            && self.quotas.is_same(&state.quotas)
            && self.used.is_same(&state.used)
            && self.running.is_same(&state.running)
            && self.reserved.is_same(&state.reserved)
    }
}

/// A job that fits nowhere at present.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    job: JobId,
    /// How often it has waited in vain for a grant: each time another host is asked. None while it
    /// is better to wait at home.
    turn: Option<u64>,
}

/// What an operator should be woken for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// Releases are held back: too few nodes are heard, so the silence may be this site's own.
    ReleasesHeld { heard: usize, nodes: usize },
    /// More GPUs turned bad than are taken out of service at once: jobs run on so many of them.
    GpusSpared { gpus: usize },
    /// More GPUs are behind others of their make, or differ from them, than are taken out of service:
    /// so many run on.
    GpusBehind { gpus: usize },
    /// So many GPUs give other digests than others of their make, and no clear majority says who is
    /// wrong: nothing follows.
    DigestsDiffer { gpus: usize },
}

impl Leader {
    /// Begins a reign. `reign` is larger than that of any earlier leader of this site, so that
    /// answers to an earlier leader's questions are not taken for this one's.
    #[must_use]
    pub fn new(now: Instant, reign: u64) -> Self {
        Self {
            since: now,
            next_question: Question(reign.saturating_mul(1 << 32) + 1),
            nodes: BTreeMap::new(),
            peers: BTreeMap::new(),
            vigil: Vigil::default(),
            lookout: Lookout::default(),
            planned: None,
            looked_at: None,
            idle_since: BTreeMap::new(),
            waiting: Vec::new(),
            waits_anew: false,
            archivist: Archivist::default(),
            capacity: Capacity::default(),
            summary: Summary::default(),
            waits: Waits::default(),
            at: Timestamp(0),
            keeper: Keeper::default(),
            clearing: Clearing::default(),
            needs: BTreeMap::new(),
            spared: BTreeMap::new(),
            compared: behind::Compared::default(),
            saves: Saves::default(),
        }
    }

    /// How long a job may be passed over before nodes are kept for it, whenever they may be free.
    #[must_use]
    pub fn patient(mut self, patience: Millis) -> Self {
        self.keeper.patience = patience;
        self
    }

    /// Lets ended jobs leave the state, except those that are to stay. Without it all stay: whoever
    /// applies commands must keep what leaves.
    #[must_use]
    pub fn archiving(mut self, retention: Retention) -> Self {
        self.archivist.retention = Some(retention);
        self
    }

    /// An agent asks: what must be agreed before it is answered.
    ///
    /// # Errors
    /// The node is not enrolled, or a later life of its agent is known.
    pub fn handle_node_report(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        report: &NodeReport,
    ) -> Result<Vec<Command>, Fault> {
        self.at = at;
        let Some(node) = state.nodes.get(&report.node) else {
            let message = alloc::format!("node {} is not enrolled here", report.node);
            return Err(Fault::new(FaultCode::NotFound, message));
        };
        if report.boot < node.boot {
            let message = alloc::format!("a later life of the agent of {} is known", report.node);
            let hint = "run one agent per node and directory";
            return Err(Fault::new(FaultCode::Conflict, message).with_hint(hint));
        }
        if let Err(why) = report.inventory.facts.check() {
            let message = alloc::format!("what {} says of itself is wrong: {why}", report.node);
            return Err(Fault::new(FaultCode::InvalidArgument, message));
        }
        let memory = self.nodes.entry(report.node.clone()).or_default();
        if memory.boot != report.boot {
            memory.boot = report.boot;
            memory.watch.reset();
            memory.burn_ins.clear();
        }
        let before = memory.watch.heard();
        memory.watch.hear(now, report.question, report.answered);
        let mut commands = Vec::new();
        let news = news_of_parts(state, report);
        if !news.is_empty() {
            commands.push(Command::RecordParts(RecordParts {
                node: report.node.clone(),
                boot: report.boot,
                attempts: news,
                at,
            }));
        }
        if report.boot > node.boot {
            commands.push(Command::RegisterNode(RegisterNode {
                node: report.node.clone(),
                boot: report.boot,
                inventory: report.inventory.clone(),
                at,
            }));
        } else if let Some(suspicion) = node.suspicion.filter(|_| memory.watch.heard() > before) {
            let node = report.node.clone();
            commands.push(Command::RestoreNode(RestoreNode { node, suspicion }));
        }
        commands.extend(health::news(state, report, at).map(Command::RecordHealth));
        memory.burn_ins = behind::burn_ins(report, &memory.burn_ins);
        self.compared.hear(now, report);
        self.saves.hear(state, report);
        memory.heeds_permits = report.heeds_permits;
        let proofs = report.health.iter();
        let proofs = proofs.filter_map(|it| Some((it.health.index, it.proof.clone()?)));
        memory.proofs = proofs.collect();
        match breaker::spared(node) {
            0 => self.spared.remove(&report.node),
            gpus => self.spared.insert(report.node.clone(), gpus),
        };
        let needs = burn_in::needs(state, report);
        if needs.is_empty() {
            self.needs.remove(&report.node);
        } else {
            self.needs.insert(report.node.clone(), needs);
        }
        Ok(commands)
    }

    /// The answer to an agent's question, from a state read after it came.
    #[must_use]
    pub fn node_orders(
        &self,
        now: Instant,
        state: &State,
        report: &NodeReport,
    ) -> Option<NodeOrders> {
        let orders = view::node_orders(state, report, |lease| self.guest_validity(now, lease));
        let tell_earlier = self.compared.asks(&report.node);
        orders.map(|orders| NodeOrders { tell_earlier, ..orders })
    }

    /// How long a guest's attempt may go on: as long as this leader knows its loan to last. A
    /// leader that has not asked yet extends nothing.
    fn guest_validity(&self, now: Instant, lease: &Lease) -> Validity {
        let peer = self.peers.get(&lease.home);
        let known = peer.and_then(|peer| peer.confirmed.get(&(lease.job, lease.epoch)));
        match known {
            Some(known) => Validity {
                kind: ValidityKind::Until,
                remaining: known.term.minus(now.since(known.asked_at)),
            },
            None => Validity { kind: ValidityKind::AsBefore, remaining: Millis::ZERO },
        }
    }

    /// What follows from the passing of time and from the state as it is.
    pub fn poll_commands(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
    ) -> (Vec<Command>, Vec<Alarm>) {
        self.at = at;
        let (mut commands, mut alarms) = (Vec::new(), Vec::new());
        let looks = self.looked_at.is_none_or(|last| now.since(last) >= LOOK_EVERY);
        if looks {
            self.poll_nodes(now, at, state, &mut commands, &mut alarms);
            self.poll_peers(now, at, state, &mut commands);
            // What is proposed here begins further spans.
            self.looked_at = commands.is_empty().then_some(now);
        }
        if let Some(restored) = state.recovering {
            if now.since(self.since) >= restore::hold(state) {
                commands.push(Command::EndRecovery(EndRecovery { restored }));
            }
            return (commands, alarms);
        }
        self.poll_plan(now, at, state, &mut commands);
        if looks {
            self.poll_held(now, state, &mut commands);
            self.poll_behind(now, state, &mut commands, &mut alarms);
            commands.extend(reserve::over(state, at).map(Command::EndReservation));
            if !self.needs.is_empty() {
                commands
                    .extend(burn_in::plan(state, self.needs.iter()).map(Command::PermitBurnIns));
            }
        }
        commands.extend(self.archivist.plan(at, state).map(Command::ArchiveJobs));
        (commands, alarms)
    }

    fn poll_nodes(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        commands: &mut Vec<Command>,
        alarms: &mut Vec<Alarm>,
    ) {
        let terms = state.terms();
        self.vigil.follow(&state.nodes, self.since);
        let (reign, memory) = (self.since, &self.nodes);
        let until = now.0.checked_sub(terms.suspect_node_after.0).map(Instant);
        let silent = until.map_or_else(Vec::new, |until| {
            self.vigil.silent(until, |node| silent_since(memory, node, reign))
        });
        let nodes = self.vigil.nodes();
        let heard = nodes - silent.len();
        for node in silent.iter().filter_map(|id| state.nodes.get(id)) {
            if node.suspicion.is_none() {
                let (node, boot) = (node.id.clone(), node.boot);
                commands.push(Command::SuspectNode(SuspectNode { node, boot }));
            }
        }
        let mut over = Vec::new();
        for (node, suspicion) in self.vigil.suspected() {
            let memory = self.nodes.entry(node.clone()).or_default();
            let waited = memory.watch.waited(now, suspicion, terms.release_node_after());
            if waited && state.leases_of(node).any(is_released_by_time) {
                over.push(ReleaseNode { node: node.clone(), suspicion, at });
            }
            if waited && burn_in::has_permits(state, node) {
                let node = node.clone();
                commands.push(Command::EndPermits(EndPermits { node, suspicion }));
            }
        }
        if !self.spared.is_empty() {
            alarms.push(Alarm::GpusSpared { gpus: self.spared.values().sum() });
        }
        let share_counts = nodes >= HEARD_SHARE_FROM_NODES;
        let too_few = heard * 100 < nodes * usize::try_from(terms.heard_percent_min).unwrap_or(100);
        if share_counts && too_few && !over.is_empty() {
            alarms.push(Alarm::ReleasesHeld { heard, nodes });
            return;
        }
        commands.extend(over.into_iter().map(Command::ReleaseNode));
    }

    fn poll_peers(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        commands: &mut Vec<Command>,
    ) {
        let terms = state.terms();
        for peer in state.peers.values() {
            let memory = self.peers.entry(peer.site.clone()).or_default();
            let silent = now.since(memory.watch.silent_since(self.since));
            let site = peer.site.clone();
            match peer.suspicion {
                None if silent >= terms.suspect_peer_after => {
                    commands.push(Command::SuspectPeer(SuspectPeer { peer: site }));
                }
                None => {}
                Some(suspicion) => {
                    let waited = memory.watch.waited(now, suspicion, terms.release_peer_after());
                    let holds = state.loans_to(&peer.site).any(|(job, _)| {
                        job.spec().on_partition == specs::job::OnPartition::Restart
                    });
                    if waited && holds {
                        let release = ReleasePeer { peer: site, suspicion, at };
                        commands.push(Command::ReleasePeer(release));
                    }
                }
            }
        }
    }

    fn poll_plan(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        commands: &mut Vec<Command>,
    ) {
        if self.planned.as_ref().is_some_and(|planned| planned.holds(now, state)) {
            return;
        }
        let mut planned = Planned::from(now, state);
        self.capacity.follow(state);
        self.clearing.review(state);
        self.keeper.review(now, at, state);
        let order = self.order(now, at);
        let sites = sites::sites(&self.peers, now, at, state);
        self.capacity.set_reserved(state);
        let made = plan(state, &order, &mut self.capacity, &mut self.lookout, &sites);
        let Plan { base, assignments, waiting: jobs, leaving, waited, leaves_some } = made;
        planned.leaves_some = leaves_some;
        self.planned = Some(planned);
        self.lookout.sweep(state);
        for (class, nodes, waited) in waited {
            self.waits.record(class, nodes, waited);
        }
        self.note_waiting(now, state, &jobs, &leaving);
        let seen = clearing::Seen {
            waiting: &jobs,
            assignments: &assignments,
            lookout: &self.lookout,
            kept: self.keeper.kept(),
            saves: &self.saves,
            since: self.since,
        };
        let stops = self.clearing.make(now, at, state, &seen);
        if !assignments.is_empty() {
            commands.push(Command::CommitPlan(CommitPlan { base, assignments, at }));
        }
        commands.extend(stops.into_iter().map(Command::PreemptJobs));
        commands.extend(self.wishes(at, state, &jobs).into_iter().map(Command::WantBurnIns));
        self.poll_lend(state, commands);
        self.capacity.give_back();
        self.keeper.see(now, state, &self.capacity, jobs, &self.lookout);
        self.keeper.leave(self.clearing.claims());
    }

    /// Lends what no job of this site waits for.
    fn poll_lend(&mut self, state: &State, commands: &mut Vec<Command>) {
        let is_asked = self.peers.values().any(|memory| !memory.demand.is_empty());
        if !is_asked {
            return;
        }
        let wanted = self.wanted_here(state);
        if self.capacity.classes().all(|class| wanted.contains(class)) {
            return;
        }
        for peer in state.peers.values().filter(|peer| peer.suspicion.is_none()) {
            let Some(memory) = self.peers.get(&peer.site) else { continue };
            if memory.demand.is_empty() {
                continue;
            }
            let grant = lend::cover(
                state,
                &peer.site,
                &memory.demand,
                &wanted,
                (&mut self.capacity, self.at),
            );
            commands.extend(grant.map(Command::MakeGrant));
        }
    }

    /// The index of capacity, up to date with the state.
    pub(crate) fn capacity(&mut self, state: &State) -> &Capacity {
        self.capacity.follow(state);
        &self.capacity
    }

    /// Why the job finds no place here at present, if it does not.
    pub(crate) fn binding(&mut self, state: &State, spec: &JobSpec) -> Result<(), Binding> {
        self.capacity.follow(state);
        self.capacity.binding(spec, self.at)
    }

    /// What of this leader's indexes does not follow from the state; nothing if all does. Linear in
    /// the nodes and the leases: for tests and for simulation.
    pub fn check_capacity(&mut self, state: &State) -> Vec<Violation> {
        let (reign, memory) = (self.since, &self.nodes);
        let since = |node: &NodeId| silent_since(memory, node, reign);
        let found = [
            ("capacity follows from the state", self.capacity.violations(state)),
            ("what peers are told follows from the state", self.summary.violations(state)),
            ("who is watched follows", self.vigil.violations(&state.nodes, reign, since)),
            ("who may be stopped follows", self.clearing.violations(state)),
            ("what is compared follows from the results", self.check_compared()),
        ];
        let named = |(invariant, found): (&'static str, Vec<String>)| {
            found.into_iter().map(move |detail| Violation { invariant, detail })
        };
        found.into_iter().flat_map(named).collect()
    }

    /// What the order of the queue rests on.
    fn order(&self, now: Instant, at: Timestamp) -> Order {
        let mut capacity: BTreeMap<GpuClass, u64> = self.capacity.totals().collect();
        for class in self.peers.values().flat_map(|memory| &memory.told.capacity) {
            *capacity.entry(class.class.clone()).or_default() += u64::from(class.total.0);
        }
        let kept = self.keeper.kept().cloned();
        let claims = self.clearing.claims().to_vec();
        Order { now, at, capacity, claims, kept, looks: LOOKED_AT_MAX }
    }

    pub(crate) fn keeper(&self) -> &Keeper {
        &self.keeper
    }

    /// For which job which nodes are kept, and when it is forecast to start.
    #[must_use]
    pub fn kept(&self) -> Option<(JobId, &[NodeId], Option<Timestamp>)> {
        self.keeper.kept().map(|kept| (kept.job, kept.nodes.as_slice(), kept.starts_at))
    }

    /// For which jobs room is being made on which nodes, those whose turn comes first before others.
    pub fn claims(&self) -> impl Iterator<Item = (JobId, &[NodeId])> {
        self.clearing.claims().iter().map(|claim| (claim.job, claim.nodes.as_slice()))
    }

    /// The site's own jobs come first: no class is lent on which one could run that waits, or for which
    /// room is kept or made.
    fn wanted_here(&self, state: &State) -> BTreeSet<GpuClass> {
        let mut wanted = BTreeSet::new();
        let mut asks: BTreeSet<&[u8]> = BTreeSet::new();
        let waiting = self.waiting.iter().filter_map(|it| self.lookout.get(it.job));
        let mut specs: Vec<Arc<JobSpec>> =
            waiting.filter(|seen| asks.insert(&seen.ask)).map(|seen| seen.spec.clone()).collect();
        let kept = self.keeper.kept().map(|kept| kept.job);
        let ahead = kept.into_iter().chain(self.clearing.claims().iter().map(|claim| claim.job));
        specs.extend(ahead.filter_map(|id| state.jobs.get(&id)).map(|job| job.spec()));
        for spec in specs.iter().filter(|spec| fits::may_be_here(state, spec)) {
            let others = self.capacity.classes().filter(|class| !wanted.contains(*class));
            let on: Vec<GpuClass> =
                others.filter(|class| self.capacity.could_hold_on(spec, class)).cloned().collect();
            wanted.extend(on);
        }
        wanted
    }

    /// Gives back what is held in vain, and takes back what was granted in vain.
    fn poll_held(&mut self, now: Instant, state: &State, commands: &mut Vec<Command>) {
        let terms = state.terms();
        let idle: BTreeMap<HeldKey, bool> = state
            .held
            .iter()
            .filter(|(key, held)| !held.returned && !state.is_drawn(key))
            .filter(|(key, held)| held.recalled || !self.awaits_proofs(key, held))
            .map(|(key, held)| (key.clone(), held.recalled))
            .collect();
        self.idle_since.retain(|key, _| idle.contains_key(key));
        for (key, recalled) in idle {
            let since = *self.idle_since.entry(key.clone()).or_insert(now);
            if recalled || now.since(since) >= terms.grant_idle {
                let (peer, grant) = (key.host, key.grant);
                commands.push(Command::ReturnGrant(ReturnGrant { peer, grant }));
            }
        }
        for grant in state.grants.values() {
            let answered = self.peers.get(&grant.home).and_then(|memory| memory.answered_at);
            let silent = now.since(answered.unwrap_or(self.since));
            if silent >= terms.grant_term && !in_use(state, grant) {
                commands.push(Command::ExpireGrant(ExpireGrant { grant: grant.id }));
            }
        }
    }

    /// Whether a job waits that did not when this was last asked: peers should be told to ask.
    pub fn waits_anew(&mut self) -> bool {
        core::mem::take(&mut self.waits_anew)
    }

    /// Since a node was last known to hear this leader; none if it never was.
    #[must_use]
    pub fn node_silence(&self, now: Instant, node: &NodeId) -> Option<Millis> {
        let heard = self.nodes.get(node).and_then(|memory| memory.watch.heard());
        heard.map(|heard| now.since(heard))
    }

    /// The proof that a node's last report showed for a GPU.
    #[must_use]
    pub fn proof(&self, node: &NodeId, gpu: GpuIndex) -> Option<&SignedProof> {
        self.nodes.get(node).and_then(|memory| memory.proofs.get(&gpu))
    }

    /// What a node's last report said of a GPU's last permitted burn-in.
    #[must_use]
    pub fn last_burn_in(&self, node: &NodeId, gpu: GpuIndex) -> Option<&BurnInResult> {
        self.nodes.get(node).and_then(|memory| memory.burn_ins.get(&gpu))
    }

    /// Since a peer was last known to hear this leader; none if it never was.
    #[must_use]
    pub fn peer_silence(&self, now: Instant, peer: &SiteId) -> Option<Millis> {
        let heard = self.peers.get(peer).and_then(|memory| memory.watch.heard());
        heard.map(|heard| now.since(heard))
    }

    /// What a peer said it has.
    #[must_use]
    pub fn peer_capacity(&self, peer: &SiteId) -> &[ClassCapacity] {
        self.peers.get(peer).map_or(&[], |memory| &memory.told.capacity)
    }
}

/// Since when the node is silent, as far as this reign knows.
fn silent_since(memory: &BTreeMap<NodeId, NodeMemory>, node: &NodeId, reign: Instant) -> Instant {
    memory.get(node).map_or(reign, |memory| memory.watch.silent_since(reign))
}

/// Whether a gang of that shape could ever stand on that much, as far as the summary tells.
pub(crate) fn could_hold(capacity: &ClassCapacity, spec: &JobSpec) -> bool {
    fits::class_will_do(spec, &capacity.class)
        && capacity.node_gpus_max >= spec.gpus_per_node
        && capacity.total >= spec.gpus()
        && could_carry(capacity, spec)
}

/// Whether GPUs of that class, once granted, could carry what the job asks for beside them, be it that
/// nobody else is on its nodes.
pub(crate) fn could_carry(capacity: &ClassCapacity, spec: &JobSpec) -> bool {
    let has = |each: u32, asked| each.saturating_mul(spec.gpus_per_node.0) >= asked;
    let largest = capacity.node_gpus_max;
    let are_alike = capacity.total == largest.times(capacity.nodes);
    has(capacity.gpu_cpu_milli, spec.needs.cpu_milli)
        && has(capacity.gpu_memory_mib, spec.needs.memory_mib)
        && !(spec.needs.exclusive && are_alike && largest != spec.gpus_per_node)
}

fn is_released_by_time(lease: &Lease) -> bool {
    lease.spec.on_partition == specs::job::OnPartition::Restart
}

/// What of the report the log does not have yet.
fn news_of_parts(state: &State, report: &NodeReport) -> Vec<AttemptReport> {
    let is_news = |it: &&AttemptReport| {
        if state.lapsed.get(&it.lease).is_some_and(|lease| may_tell(report, lease)) {
            return it.phase == AttemptPhase::Ended;
        }
        let lease = state.leases.get(&it.lease);
        let Some(part) = lease.and_then(|lease| lease.part(&report.node)) else { return false };
        let exited = it.outcome.as_ref().is_some_and(|it| it.ending == Ending::Exited);
        let started = it.phase == AttemptPhase::Running && part.phase == AttemptPhase::Starting;
        let open = part.outcome.is_none()
            && (it.phase == AttemptPhase::Ended || (started && part.boot == report.boot));
        open || (part.is_lost() && exited)
    };
    let mut news: Vec<AttemptReport> = report.attempts.iter().filter(is_news).cloned().collect();
    // What the agent does not name it never had, or its end was taken in before.
    let named: BTreeSet<LeaseId> = report.attempts.iter().map(|it| it.lease).collect();
    let lapsed = state.lapsed_of(&report.node).filter(|lease| may_tell(report, lease));
    news.extend(lapsed.filter(|lease| !named.contains(&lease.id)).map(|lease| AttemptReport {
        lease: lease.id,
        phase: AttemptPhase::Ended,
        outcome: Some(Outcome::of(Ending::Lost, "its node does not know it")),
        started_at: Timestamp(0),
        ended_at: Timestamp(0),
    }));
    news
}

/// Whether the reporting life of the agent may know how its part of the lapsed lease ended.
fn may_tell(report: &NodeReport, lease: &Lease) -> bool {
    lease.part(&report.node).is_some_and(|part| part.is_lost() && part.boot <= report.boot)
}
