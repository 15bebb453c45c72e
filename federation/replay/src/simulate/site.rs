//! One site: agreed state, its leader, and agents who are never silent. All that happens goes
//! through the leader's `handle_…` and `poll_…`, and through `apply`.

use std::collections::BTreeSet;
use std::sync::Arc;

use federation_core::{
    AcceptNode, AddPeer, AdmitJobs, Command, Effect, FoundSite, KNOWN, Leader, OpenToken,
    PackedSpec, PeerRecord, Reply, Retention, SetQuota, SetVersion, State, TokenKind, apply, check,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{
    Boot, GpuClass, GpuIndex, JobId, LeaseId, NodeId, Question, Revision, SiteId, TokenId,
};
use specs::job::JobSpec;
use specs::site::{SiteSpec, Terms};
use specs::unit::{Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{
    AttemptPhase, AttemptReport, Ending, Inventory, NodeReport, Outcome, Want,
};
use specs::wire::peer::{PeerOrders, PeerReport};

use crate::simulate::SimulateError;
use crate::simulate::scenario::{Policy, SiteSetup};

/// Midnight, 1 January 2026: the second 0 of a simulation. Nothing but stamps rests on it.
const EPOCH: u64 = 1_767_225_600_000;
/// Ended jobs that stay in the state; nobody looks at them, and all others only cost memory.
const ENDED_KEPT: usize = 1_024;
/// Links and agents are never silent here, so that no heartbeat has to be simulated.
const NEVER: Millis = Millis(u64::MAX / 4);
/// Rounds of question and orders that one change may take an agent before something goes round in
/// circles.
const ROUNDS_MAX: u32 = 64;

/// Virtual milliseconds since the beginning.
pub(super) type Time = u64;

/// What an agent did on a node, told to whoever keeps the books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) node: usize,
    pub(super) lease: LeaseId,
    pub(super) job: JobId,
    pub(super) deed: Deed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    Started,
    /// The orders said so.
    Stopped,
}

pub(super) struct Site {
    pub(super) name: SiteId,
    pub(super) state: State,
    pub(super) leader: Leader,
    agents: Vec<NodeReport>,
    /// Nodes whose agents are to ask.
    nodes_due: BTreeSet<usize>,
    /// Peers that should hear of a change, and be heard.
    pub(super) peers_due: BTreeSet<SiteId>,
    /// The leader has something to look at.
    pub(super) is_stirred: bool,
    pub(super) parts: Vec<Part>,
    pub(super) commands: u64,
    is_checked: bool,
    last_token: u128,
}

fn at(time: Time) -> (Instant, Timestamp) {
    (Instant(time), Timestamp(EPOCH + time))
}

fn name_of(node: usize) -> String {
    format!("n{node:05}")
}

impl Site {
    /// Founds the site at the newest version, with all its nodes, before anything else happens.
    pub(super) fn found(
        setup: &SiteSetup,
        policy: &Policy,
        is_checked: bool,
    ) -> Result<Self, SimulateError> {
        let spec = SiteSpec {
            site: setup.name.clone(),
            country: "DE".parse().map_err(|_| SimulateError::Internal("country"))?,
            terms: Terms {
                loan_term: NEVER,
                suspect_node_after: NEVER,
                suspect_peer_after: NEVER,
                grant_term: NEVER,
                spill_after: policy.spill_after.unwrap_or_default(),
                ..Terms::default()
            },
            lend: setup.lend_rules(),
            trust: None,
        };
        let retention = Retention { jobs: ENDED_KEPT, age_min: Millis(0) };
        let mut leader = Leader::new(Instant(0), 1).archiving(retention);
        if let Some(patience) = policy.patience {
            leader = leader.patient(patience);
        }
        let mut site = Self {
            name: setup.name.clone(),
            state: State::default(),
            leader,
            agents: Vec::new(),
            nodes_due: BTreeSet::new(),
            peers_due: BTreeSet::new(),
            is_stirred: true,
            parts: Vec::new(),
            commands: 0,
            is_checked: false,
            last_token: 0,
        };
        let address = format!("{}:1", setup.name);
        site.apply(0, &Command::FoundSite(FoundSite { spec: Arc::new(spec), address }))?;
        for version in site.state.version.0 + 1..=KNOWN.newest.0 {
            let version = ClusterVersion(version);
            site.apply(0, &Command::SetVersion(SetVersion { version }))?;
        }
        for (account, limit) in &policy.quotas {
            let (account, limit) = (account.clone(), Some(limit.clone()));
            site.apply(0, &Command::SetQuota(SetQuota { account, limit, weight: 0 }))?;
        }
        for node in 0..setup.nodes {
            site.enrol(node, setup)?;
        }
        site.is_checked = is_checked;
        Ok(site)
    }

    fn enrol(&mut self, number: u32, setup: &SiteSetup) -> Result<(), SimulateError> {
        let node = number as usize;
        let name = name_of(node);
        self.last_token += 1;
        let token = TokenId(self.last_token);
        let (_, now) = at(0);
        self.apply(
            0,
            &Command::OpenToken(OpenToken {
                token,
                kind: TokenKind::Enrol,
                key: Blob(vec![1]),
                bound: name.clone(),
                expires_at: now,
            }),
        )?;
        let id: NodeId = name.parse().map_err(|_| SimulateError::Internal("a node's name"))?;
        let accept = AcceptNode { token, node: id.clone(), digest: Blob(name.into()), at: now };
        self.apply(0, &Command::AcceptNode(accept))?;
        let mut report = first_report(id, &setup.class, setup.gpus_per_node);
        report.inventory.facts = OrDefault(setup.layout.facts(number));
        self.agents.push(report);
        self.ask(node, 0)
    }

    /// Makes the site know another.
    pub(super) fn join(&mut self, other: &SiteId) -> Result<(), SimulateError> {
        let peer = PeerRecord {
            site: other.clone(),
            country: "DE".parse().map_err(|_| SimulateError::Internal("country"))?,
            ca: Blob(vec![1]),
            addresses: vec![format!("{other}:1")],
        };
        self.apply(0, &Command::AddPeer(AddPeer { peer })).map(|_| ())
    }

    pub(super) fn submit(
        &mut self,
        time: Time,
        job: JobId,
        spec: &JobSpec,
        tenant: &str,
    ) -> Result<(), SimulateError> {
        let request = format!("{:x}", job.0);
        let admit = AdmitJobs {
            request: request.parse().map_err(|_| SimulateError::Internal("a request's id"))?,
            jobs: vec![job],
            spec: PackedSpec::from(spec),
            submitter: tenant.to_owned(),
            at: at(time).1,
        };
        match self.apply(time, &Command::AdmitJobs(admit))? {
            Reply::Refused(fault) => Err(SimulateError::Refused(fault.message)),
            Reply::Done
            | Reply::NoOp(_)
            | Reply::Jobs { .. }
            | Reply::Controller(_)
            | Reply::Placed { .. } => Ok(()),
        }
    }

    fn apply(&mut self, time: Time, command: &Command) -> Result<Reply, SimulateError> {
        let (reply, effects) = apply(&mut self.state, command);
        self.commands += 1;
        self.is_stirred = true;
        if self.is_checked
            && let Some(found) = check(&self.state).into_iter().next()
        {
            return Err(SimulateError::Broken {
                site: self.name.to_string(),
                at_s: time / 1_000,
                detail: format!("{}: {}", found.invariant, found.detail),
            });
        }
        for effect in effects {
            match effect {
                Effect::SyncNode(node) => {
                    let number = node.as_str().strip_prefix('n');
                    let number: Option<usize> = number.and_then(|it| it.parse().ok());
                    self.nodes_due.extend(number);
                }
                Effect::SyncPeer(peer) => {
                    self.peers_due.insert(peer);
                }
                // A leader looks whenever something was applied.
                Effect::Plan | Effect::SyncTrust | Effect::SyncMembers => {}
            }
        }
        Ok(reply)
    }

    fn apply_all(&mut self, time: Time, commands: &[Command]) -> Result<(), SimulateError> {
        commands.iter().try_for_each(|command| self.apply(time, command).map(|_| ()))
    }

    /// Lets the leader look, and the agents ask, until nothing more follows here.
    pub(super) fn settle(&mut self, time: Time) -> Result<(), SimulateError> {
        while self.is_stirred || !self.nodes_due.is_empty() {
            self.is_stirred = false;
            let (now, wall) = at(time);
            let (commands, _) = self.leader.poll_commands(now, wall, &self.state);
            self.apply_all(time, &commands)?;
            while let Some(node) = self.nodes_due.pop_first() {
                self.ask(node, time)?;
            }
        }
        if self.is_checked
            && let Some(found) = self.leader.check_capacity(&self.state).into_iter().next()
        {
            return Err(SimulateError::Broken {
                site: self.name.to_string(),
                at_s: time / 1_000,
                detail: format!("{}: {}", found.invariant, found.detail),
            });
        }
        Ok(())
    }

    /// An agent asks and obeys, until its orders ask for nothing more.
    fn ask(&mut self, node: usize, time: Time) -> Result<(), SimulateError> {
        let (now, wall) = at(time);
        for _ in 0..ROUNDS_MAX {
            let Some(report) = self.agents.get_mut(node) else { return Ok(()) };
            report.question = Question(report.question.0 + 1);
            let asked = self.leader.handle_node_report(now, wall, &self.state, report);
            let commands = asked.map_err(|fault| SimulateError::Refused(fault.message))?;
            self.apply_all(time, &commands)?;
            let Some(report) = self.agents.get_mut(node) else { return Ok(()) };
            let orders = self.leader.node_orders(now, &self.state, report);
            let Some(orders) = orders else {
                return Err(SimulateError::Internal("an agent got no orders"));
            };
            report.answered = orders.question;
            report.obeyed = orders.revision;
            if !obey(report, &orders, node, wall, &mut self.parts) {
                return Ok(());
            }
        }
        Err(SimulateError::Internal("an agent and its leader do not come to rest"))
    }

    /// The processes of a lease end by themselves on that node.
    pub(super) fn exit(&mut self, node: usize, lease: LeaseId, time: Time) {
        let (_, wall) = at(time);
        let Some(report) = self.agents.get_mut(node) else { return };
        if let Some(attempt) = report.attempts.iter_mut().find(|it| it.lease == lease) {
            end(attempt, Outcome::exited(0, 0), wall);
            self.nodes_due.insert(node);
        }
    }

    pub(super) fn ask_peer(&mut self, time: Time, home: &SiteId) -> Option<PeerReport> {
        self.leader.ask_peer(at(time).0, &self.state, home)
    }

    /// As a home: takes a host's report in, and answers.
    pub(super) fn answer(
        &mut self,
        time: Time,
        report: &PeerReport,
    ) -> Result<PeerOrders, SimulateError> {
        let (now, wall) = at(time);
        let commands = self
            .leader
            .handle_peer_report(now, wall, &self.state, report)
            .map_err(|fault| SimulateError::Refused(fault.message))?;
        self.apply_all(time, &commands)?;
        let orders = self.leader.peer_orders(&self.state, report);
        orders.ok_or(SimulateError::Internal("a host got no orders"))
    }

    /// As a host: does what a home wants.
    pub(super) fn obey_peer(
        &mut self,
        time: Time,
        orders: &PeerOrders,
    ) -> Result<(), SimulateError> {
        let (now, wall) = at(time);
        let commands = self.leader.handle_peer_orders(now, wall, &self.state, orders);
        self.apply_all(time, &commands)
    }

    /// GPUs that are free although their node is in use, and GPUs that are granted and idle.
    pub(super) fn stranded(&self) -> (u64, u64) {
        let (mut stranded, mut idle) = (0, 0);
        for node in self.state.nodes.values() {
            let count = |test: fn(&&federation_core::Gpu) -> bool| {
                node.gpus.iter().filter(test).count() as u64
            };
            let free =
                count(|gpu| gpu.lease.is_none() && gpu.grant.is_none() && gpu.shares.is_empty());
            if free < node.gpus.len() as u64 {
                stranded += free;
            }
            idle += count(|gpu| gpu.lease.is_none() && gpu.grant.is_some());
        }
        (stranded, idle)
    }

    /// True if loans or grants may still come back by the passing of time.
    pub(super) fn has_grants(&self) -> bool {
        !self.state.held.is_empty() || !self.state.grants.is_empty()
    }
}

fn first_report(node: NodeId, class: &GpuClass, gpus: u32) -> NodeReport {
    let info = |index| GpuInfo {
        index: GpuIndex(index),
        class: class.clone(),
        uuid: String::new(),
        memory_mib: 0,
    };
    let gpus = u16::try_from(gpus).unwrap_or(u16::MAX);
    NodeReport {
        node,
        boot: Boot(1),
        question: Question(0),
        obeyed: Revision(0),
        answered: Question(0),
        inventory: Inventory {
            source: InventorySource::Declared,
            gpus: (0..gpus).map(info).collect(),
            address: String::new(),
            version: "simulated".to_owned(),
            facts: OrDefault::default(),
        },
        attempts: Vec::new(),
        health: Vec::new(),
        heeds_permits: true,
        checkpoints: Vec::new(),
    }
}

fn end(attempt: &mut AttemptReport, outcome: Outcome, wall: Timestamp) {
    attempt.phase = AttemptPhase::Ended;
    attempt.outcome = Some(outcome);
    attempt.ended_at = wall;
}

/// Does at once what the orders say. True if there is news to report.
fn obey(
    report: &mut NodeReport,
    orders: &specs::wire::agent::NodeOrders,
    node: usize,
    wall: Timestamp,
    parts: &mut Vec<Part>,
) -> bool {
    // An end that is no longer named was taken in.
    report.attempts.retain(|known| orders.leases.iter().any(|it| it.lease == known.lease));
    let mut has_news = false;
    for order in &orders.leases {
        let (lease, job) = (order.lease, order.job);
        let known = report.attempts.iter_mut().find(|it| it.lease == lease);
        match (known, order.want) {
            (Some(attempt), Want::Stop) if attempt.phase != AttemptPhase::Ended => {
                end(attempt, Outcome::of(Ending::Stopped, ""), wall);
                parts.push(Part { node, lease, job, deed: Deed::Stopped });
                has_news = true;
            }
            (Some(_), Want::Run | Want::Stop) => {}
            (None, want) => {
                let mut attempt = AttemptReport {
                    lease,
                    phase: AttemptPhase::Running,
                    outcome: None,
                    started_at: wall,
                    ended_at: Timestamp(0),
                };
                match want {
                    Want::Run => parts.push(Part { node, lease, job, deed: Deed::Started }),
                    Want::Stop => end(&mut attempt, Outcome::of(Ending::Stopped, ""), wall),
                }
                report.attempts.push(attempt);
                has_news = true;
            }
        }
    }
    has_news
}
