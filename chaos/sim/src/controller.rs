//! A controller as its shell must be. A question comes in; the leader confirms that it leads; the
//! report is handled, what follows is proposed in the order given, committed and applied here;
//! the orders are computed from a state read after that; the answer goes out.
//!
//! Who is deposed and does not know it goes on handling questions; what it proposes goes nowhere,
//! and its confirmations come to nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_core::{Command, Leader, Reply, State, apply};
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::{CallId, JobId, SiteId};
use specs::wire::agent::NodeReport;
use specs::wire::client::{JobCancelled, JobSelector, JobSubmit, JobSubmitted};
use specs::wire::method::Method;
use specs::wire::peer::{PeerOrders, PeerReport};

use crate::coverage::Mark;
use crate::log::Ticket;
use crate::network::{self, Frames, MachineId, Packet};
use crate::node::MISSES_MAX;
use crate::world::{CtlRef, Event, World};

/// What is asked of a controller.
#[derive(Debug, Clone)]
enum Ask {
    Node(Box<NodeReport>),
    Peer(Box<PeerReport>),
    Submit(Box<JobSubmit>),
    Cancel(Vec<JobId>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Asks the others whether it still leads.
    Confirming,
    /// Waits until it has applied what was committed when the question came.
    CatchingUp,
    /// Waits until what it proposed is applied.
    Agreeing,
    /// Busy with something else.
    Distracted,
}

#[derive(Debug, Clone)]
struct Request {
    from: MachineId,
    call: CallId,
    ask: Ask,
    stage: Stage,
    /// What was committed when the question came.
    read: usize,
    tickets: Vec<Ticket>,
    reply: Option<Reply>,
}

/// The controller of another site that this leader asks.
#[derive(Debug, Clone, Copy, Default)]
struct Target {
    ctl: usize,
    misses: u32,
}

#[derive(Debug, Clone)]
struct Reign {
    term: u64,
    leader: Leader,
    /// What the last look around proposed and is not applied yet.
    proposed: Vec<Ticket>,
}

#[derive(Debug, Clone)]
pub(crate) struct Controller {
    pub(crate) machine: MachineId,
    pub(crate) is_up: bool,
    /// Grows with every change of roles; events of an earlier one are void.
    pub(crate) life: u64,
    /// Entries applied here.
    pub(crate) applied: usize,
    /// Its own copy of the state; none to read the log's.
    pub(crate) own: Option<State>,
    reign: Option<Reign>,
    requests: BTreeMap<u64, Request>,
    last_request: u64,
    targets: BTreeMap<SiteId, Target>,
    applies: bool,
}

impl Controller {
    pub(crate) fn new(machine: MachineId, own: Option<State>) -> Self {
        Self {
            machine,
            is_up: true,
            life: 0,
            applied: 0,
            own,
            reign: None,
            requests: BTreeMap::new(),
            last_request: 0,
            targets: BTreeMap::new(),
            applies: false,
        }
    }

    pub(crate) fn leads(&self) -> bool {
        self.reign.is_some()
    }

    fn forget_all(&mut self) -> usize {
        self.life += 1;
        self.reign = None;
        self.applies = false;
        let questions = self.requests.len();
        self.requests.clear();
        questions
    }
}

impl World {
    pub(crate) fn controller(&self, at: CtlRef) -> &Controller {
        &self.sites[at.site].controllers[at.ctl]
    }

    pub(crate) fn controller_mut(&mut self, at: CtlRef) -> &mut Controller {
        &mut self.sites[at.site].controllers[at.ctl]
    }

    fn controller_name(&self, at: CtlRef) -> String {
        format!("{}/c{}", self.sites[at.site].name, at.ctl)
    }

    /// The state as this controller has applied it. Cheap: the tables are shared.
    fn state_at(&self, at: CtlRef) -> State {
        let controller = self.controller(at);
        match &controller.own {
            Some(state) => state.clone(),
            None => self.sites[at.site].log.state(controller.applied).clone(),
        }
    }

    /// True if it leads, whatever it believes.
    fn is_true_leader(&self, at: CtlRef) -> bool {
        let log = &self.sites[at.site].log;
        let reign = self.controller(at).reign.as_ref();
        log.leader == Some(at.ctl) && reign.is_some_and(|reign| reign.term == log.term)
    }

    pub(crate) fn has_quorum(&self, site: usize) -> bool {
        let controllers = &self.sites[site].controllers;
        let alive = controllers.iter().filter(|it| it.is_up && !self.is_suspended(it.machine));
        alive.count() * 2 > controllers.len()
    }

    pub(crate) fn controller_hears(&mut self, at: CtlRef, packet: &Packet) {
        if !self.controller(at).is_up {
            return;
        }
        match network::open(&packet.bytes) {
            Ok(Frames::Request(method, body)) => {
                let caller = self.machines[packet.from.0].who.clone();
                let site = self.sites[at.site].name.clone();
                let role = self.machines[packet.to.0].who.role();
                if let Err(fault) = network::let_in(method, &caller, &site, role) {
                    self.violate("the fabric lets its own in", fault.to_string());
                    return;
                }
                self.question_comes(at, packet, method, body);
            }
            Ok(Frames::Answer(body)) => match PeerOrders::decode(body) {
                Ok(orders) => self.peer_answers(at, &orders),
                Err(error) => self.violate("bytes read back", format!("peer orders: {error}")),
            },
            Ok(Frames::Fault(_)) => self.peer_refuses(at, packet.from),
            Err(error) => self.violate("bytes read back", error),
        }
    }

    fn question_comes(&mut self, at: CtlRef, packet: &Packet, method: Method, body: &[u8]) {
        if !self.controller(at).leads() {
            let fault = Fault::new(FaultCode::NotLeader, "this controller does not lead");
            self.reply(at, packet.from, packet.call, network::fault(&fault));
            return;
        }
        match self.parse(at, method, body) {
            Ok(Some(ask)) => self.take_question(at, packet, ask),
            Ok(None) => self.nudged(at, packet.from),
            Err(Ok(fault)) => {
                self.reply(at, packet.from, packet.call, network::fault(&fault));
            }
            Err(Err(error)) => self.violate("bytes read back", error),
        }
    }

    fn nudged(&mut self, at: CtlRef, from: MachineId) {
        let life = self.controller(at).life;
        if let Some(peer) = self.machines[from.0].who.site().cloned() {
            self.schedule_in(0, Event::AskPeer { at, life, peer });
        }
    }

    /// The question; none if it only asks to be asked. The inner error is a broken codec.
    fn parse(
        &mut self,
        at: CtlRef,
        method: Method,
        body: &[u8],
    ) -> Result<Option<Ask>, Result<Fault, String>> {
        let broken = |error: specs::codec::DecodeError| Err(format!("{method}: {error}"));
        if method == Method::NodeReport {
            let report = NodeReport::decode(body).map_err(broken)?;
            return Ok(Some(Ask::Node(Box::new(report))));
        }
        if method == Method::PeerReport {
            let report = PeerReport::decode(body).map_err(broken)?;
            return Ok(Some(Ask::Peer(Box::new(report))));
        }
        if method == Method::JobSubmit {
            let submit = JobSubmit::decode(body).map_err(broken)?;
            let wrong = |error: specs::job::JobSpecError| {
                Ok(Fault::new(FaultCode::InvalidArgument, error.to_string()))
            };
            submit.spec.check().map_err(wrong)?;
            return Ok(Some(Ask::Submit(Box::new(submit))));
        }
        if method == Method::JobCancel {
            let selector = JobSelector::decode(body).map_err(broken)?;
            let state = self.state_at(at);
            let jobs = federation_core::resolve_jobs(&state, &selector.text).map_err(Ok)?;
            return Ok(Some(Ask::Cancel(jobs)));
        }
        Ok(None)
    }

    fn take_question(&mut self, at: CtlRef, packet: &Packet, ask: Ask) {
        // Who is deposed does not know what is committed since.
        let applied = self.controller(at).applied;
        let committed = self.sites[at.site].log.committed();
        let read = if self.is_true_leader(at) { committed } else { applied };
        let controller = self.controller_mut(at);
        controller.last_request += 1;
        let (request, life) = (controller.last_request, controller.life);
        let it = Request {
            from: packet.from,
            call: packet.call,
            ask,
            stage: Stage::Confirming,
            read,
            tickets: Vec::new(),
            reply: None,
        };
        controller.requests.insert(request, it);
        let high = self.round_trip(400, 30);
        let takes = self.chance_log.range(1, high);
        self.schedule_in(takes, Event::Confirmed { at, life, request });
    }

    /// The others have answered whether it leads.
    pub(crate) fn confirmed(&mut self, at: CtlRef, life: u64, request: u64) {
        if self.controller(at).life != life {
            return;
        }
        if !self.is_true_leader(at) || !self.has_quorum(at.site) {
            self.mark(Mark::ConfirmationRefused);
            let Some(it) = self.controller_mut(at).requests.remove(&request) else { return };
            let fault = Fault::new(FaultCode::NotLeader, "leadership could not be confirmed");
            self.reply(at, it.from, it.call, network::fault(&fault));
            return;
        }
        if let Some(it) = self.controller_mut(at).requests.get_mut(&request) {
            it.stage = Stage::CatchingUp;
        }
        self.progress(at, request);
    }

    /// Takes a question as far as it can go.
    fn progress(&mut self, at: CtlRef, request: u64) {
        let applied = self.controller(at).applied;
        let Some(it) = self.controller_mut(at).requests.get_mut(&request) else { return };
        match it.stage {
            Stage::Confirming | Stage::Distracted => {}
            Stage::CatchingUp if it.read > applied => {}
            Stage::CatchingUp => {
                it.stage = Stage::Agreeing;
                let ask = it.ask.clone();
                match self.commands_of(at, &ask) {
                    Ok(commands) => {
                        let tickets = commands.into_iter().map(|it| self.propose(at, it)).collect();
                        if let Some(it) = self.controller_mut(at).requests.get_mut(&request) {
                            it.tickets = tickets;
                        }
                        self.progress(at, request);
                    }
                    Err(fault) => self.refuse(at, request, &fault),
                }
            }
            Stage::Agreeing if !it.tickets.is_empty() => {}
            Stage::Agreeing => {
                it.stage = Stage::Distracted;
                let life = self.controller(at).life;
                if self.chance.chance(self.knobs.distracted_permille) {
                    let takes = self.chance.skewed(0, 3_000);
                    self.schedule_in(takes, Event::Wake { at, life, request });
                } else {
                    self.wake(at, life, request);
                }
            }
        }
    }

    fn refuse(&mut self, at: CtlRef, request: u64, fault: &Fault) {
        let Some(it) = self.controller_mut(at).requests.remove(&request) else { return };
        self.reply(at, it.from, it.call, network::fault(fault));
    }

    fn commands_of(&mut self, at: CtlRef, ask: &Ask) -> Result<Vec<Command>, Fault> {
        let machine = self.machine_of(at);
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let state = self.state_at(at);
        let ids = match ask {
            Ask::Submit(submit) => submit.spec.array,
            Ask::Node(_) | Ask::Peer(_) | Ask::Cancel(_) => 0,
        };
        let ids: Vec<JobId> = (0..ids).map(|_| JobId(self.chance_work.wide())).collect();
        let Some(reign) = &mut self.controller_mut(at).reign else { return Ok(Vec::new()) };
        match ask {
            Ask::Node(report) => reign.leader.handle_node_report(now, wall, &state, report),
            Ask::Peer(report) => reign.leader.handle_peer_report(now, wall, &state, report),
            Ask::Submit(submit) => Ok(vec![Command::AdmitJobs(federation_core::AdmitJobs {
                request: submit.request.clone(),
                jobs: ids,
                spec: submit.spec.clone(),
                submitter: "tenant".into(),
                at: wall,
            })]),
            Ask::Cancel(jobs) => {
                let cancel = |job: &JobId| federation_core::CancelJob { job: *job, at: wall };
                Ok(jobs.iter().map(cancel).map(Command::CancelJob).collect())
            }
        }
    }

    /// Answers from the state as it is by now.
    pub(crate) fn wake(&mut self, at: CtlRef, life: u64, request: u64) {
        if self.controller(at).life != life {
            return;
        }
        let Some(it) = self.controller_mut(at).requests.remove(&request) else { return };
        let now = self.clock(self.machine_of(at));
        let state = self.state_at(at);
        let Some(reign) = &self.controller(at).reign else { return };
        let unknown = || Fault::new(FaultCode::NotFound, "not known here");
        let bytes = match &it.ask {
            Ask::Node(report) => reign
                .leader
                .node_orders(now, &state, report)
                .ok_or_else(unknown)
                .and_then(|orders| network::answer(Method::NodeReport, &orders)),
            Ask::Peer(report) => reign
                .leader
                .peer_orders(&state, report)
                .ok_or_else(unknown)
                .and_then(|orders| network::answer(Method::PeerReport, &orders)),
            Ask::Submit(_) => match it.reply {
                Some(Reply::Jobs { jobs, repeated }) => {
                    let submitted = JobSubmitted { jobs, revision: state.revision, repeated };
                    network::answer(Method::JobSubmit, &submitted)
                }
                Some(Reply::Refused(fault)) => Err(fault),
                _ => Err(unknown()),
            },
            Ask::Cancel(_) => {
                network::answer(Method::JobCancel, &JobCancelled { jobs: Vec::new() })
            }
        };
        self.reply(at, it.from, it.call, bytes.unwrap_or_else(|fault| network::fault(&fault)));
    }

    fn reply(&mut self, at: CtlRef, to: MachineId, call: CallId, bytes: Vec<u8>) {
        let from = self.machine_of(at);
        self.send(&Packet { from, to, call, bytes });
    }

    /// How long the members may take at most to agree.
    fn round_trip(&mut self, slow: u64, usual: u64) -> u64 {
        if self.knobs.is_tight {
            1
        } else if self.chance_log.chance(self.knobs.slow_commits_permille) {
            slow
        } else {
            usual
        }
    }

    /// Puts a command to the log. Only the true leader's gets in.
    pub(crate) fn propose(&mut self, at: CtlRef, command: Command) -> Ticket {
        let ticket = self.sites[at.site].log.ticket();
        if !self.is_true_leader(at) {
            self.mark(Mark::ProposalsToNobody);
            return ticket;
        }
        let high = self.round_trip(400, 40);
        let takes = self.chance_log.range(0, high);
        let at_least = self.now.after(specs::unit::Millis(takes));
        let log = &mut self.sites[at.site].log;
        let (when, term) = (log.propose(command, ticket, at_least), log.term);
        self.schedule(when, Event::Commit { site: at.site, term });
        ticket
    }

    pub(crate) fn commit_due(&mut self, site: usize, term: u64) {
        let log = &self.sites[site].log;
        let Some(leader) = log.leader.filter(|_| log.term == term) else { return };
        let machine = self.sites[site].controllers[leader].machine;
        if self.is_suspended(machine) || !self.has_quorum(site) {
            self.schedule_in(100, Event::Commit { site, term });
            return;
        }
        let now = self.now;
        while let Some(it) = self.sites[site].log.pop_due(now) {
            self.sites[site].log.commit(it);
            self.check_commit(site);
        }
        self.apply_soon(CtlRef { site, ctl: leader });
    }

    pub(crate) fn apply_soon(&mut self, at: CtlRef) {
        let high = self.round_trip(100, 5);
        let lag = self.chance_log.range(0, high);
        let controller = self.controller_mut(at);
        let life = controller.life;
        if !core::mem::replace(&mut controller.applies, true) {
            self.schedule_in(lag, Event::Apply { at, life });
        }
    }

    pub(crate) fn apply_at(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        self.controller_mut(at).applies = false;
        let leader = self.sites[at.site].log.leader;
        if self.controller(at).leads() && leader.is_some_and(|leader| leader != at.ctl) {
            // Whoever does not hear the present leader learns of nothing that it commits.
            return;
        }
        let committed = self.sites[at.site].log.committed();
        let first = self.controller(at).applied;
        self.catch_up(at, committed);
        let entries = self.sites[at.site].log.entries[first..committed].to_vec();
        let mut effects = std::collections::BTreeSet::new();
        for entry in entries {
            effects.extend(entry.effects);
            let controller = self.controller_mut(at);
            if let Some(reign) = &mut controller.reign {
                reign.proposed.retain(|ticket| *ticket != entry.ticket);
            }
            for it in controller.requests.values_mut() {
                let before = it.tickets.len();
                it.tickets.retain(|ticket| *ticket != entry.ticket);
                if it.tickets.len() < before {
                    it.reply = Some(entry.reply.clone());
                }
            }
        }
        let waiting: Vec<u64> = self.controller(at).requests.keys().copied().collect();
        for request in waiting {
            self.progress(at, request);
        }
        if self.knobs.prompt {
            self.carry_out(at, effects.into_iter().collect());
        }
    }

    /// Applies entries up to there, and compares with what the log says of them.
    pub(crate) fn catch_up(&mut self, at: CtlRef, upto: usize) {
        let site = &mut self.sites[at.site];
        let controller = &mut site.controllers[at.ctl];
        let mut diverged = None;
        if let Some(own) = &mut controller.own {
            for (nth, entry) in
                site.log.entries.iter().enumerate().take(upto).skip(controller.applied)
            {
                let (reply, _) = apply(own, &entry.command);
                if reply != entry.reply {
                    diverged = Some(format!("entry {nth}: {reply:?}, not {:?}", entry.reply));
                }
            }
            let distance = upto / 64 > controller.applied / 64;
            if distance && own.encode() != site.log.state(upto).encode() {
                diverged = Some(format!("after entry {upto}"));
            }
        }
        controller.applied = controller.applied.max(upto);
        if let Some(detail) = diverged {
            let detail = format!("{}: {detail}", self.controller_name(at));
            self.violate("replicas are equal", detail);
        }
    }

    /// A leader's look around.
    pub(crate) fn poll_leader(&mut self, at: CtlRef, life: u64, periodic: bool) {
        if self.controller(at).life != life {
            return;
        }
        if periodic {
            let every = self.knobs.poll_every.0;
            self.schedule_in(every, Event::Poll { at, life, periodic });
        }
        let machine = self.machine_of(at);
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let is_patient = self.knobs.patient;
        let state = self.state_at(at);
        let Some(reign) = &mut self.controller_mut(at).reign else { return };
        if is_patient && !reign.proposed.is_empty() {
            return;
        }
        let (commands, alarms) = reign.leader.poll_commands(now, wall, &state);
        self.coverage.add(Mark::ReleasesHeld, alarms.len() as u64);
        let tickets: Vec<Ticket> = commands.into_iter().map(|it| self.propose(at, it)).collect();
        if let Some(reign) = &mut self.controller_mut(at).reign {
            reign.proposed = tickets;
        }
    }

    pub(crate) fn ask_peers(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        let jitter = if self.knobs.is_tight { 0 } else { self.chance.below(30) };
        let every = self.knobs.ask_peer_every.0 + jitter;
        self.schedule_in(every, Event::AskPeers { at, life });
        let peers: Vec<SiteId> = self.state_at(at).peers.keys().cloned().collect();
        for peer in peers {
            self.ask_peer(at, life, &peer);
        }
    }

    pub(crate) fn ask_peer(&mut self, at: CtlRef, life: u64, peer: &SiteId) {
        if self.controller(at).life != life {
            return;
        }
        let Some(home) = self.site_index(peer) else { return };
        let count = self.sites[home].controllers.len();
        let now = self.clock(self.machine_of(at));
        let state = self.state_at(at);
        let controller = self.controller_mut(at);
        let Some(reign) = &mut controller.reign else { return };
        let Some(report) = reign.leader.ask_peer(now, &state, peer) else { return };
        let target = controller.targets.entry(peer.clone()).or_default();
        target.misses += 1;
        if target.misses > MISSES_MAX {
            *target = Target { ctl: (target.ctl + 1) % count, misses: 1 };
        }
        let ctl = target.ctl;
        let from = controller.machine;
        let to = self.machine_of(CtlRef { site: home, ctl });
        let call = CallId(self.chance.wide());
        let bytes = network::request(Method::PeerReport, call, &report);
        self.note(|world| {
            let guests: Vec<String> =
                report.guests.iter().map(|it| format!("{} {}", it.job, it.phase)).collect();
            let grants = report.grants.len();
            let asker = world.controller_name(at);
            let (question, revision) = (report.question, report.revision);
            let guests = guests.join(", ");
            format!("{asker} asks {peer} {question} at {revision}: {grants} grants; {guests}")
        });
        self.send(&Packet { from, to, call, bytes });
    }

    fn peer_answers(&mut self, at: CtlRef, orders: &PeerOrders) {
        let machine = self.machine_of(at);
        let (now, wall) = (self.clock(machine), self.wall(machine));
        let state = self.state_at(at);
        self.note(|world| {
            let loans: Vec<String> = orders
                .loans
                .iter()
                .map(|it| {
                    let body = if it.body.is_some() { " with body" } else { "" };
                    format!("{} epoch {} {}{body}", it.job, it.epoch, it.want)
                })
                .collect();
            let asker = world.controller_name(at);
            let hold = if orders.hold { " hold" } else { "" };
            let (home, question) = (&orders.home, orders.question);
            let (revision, loans) = (orders.revision, loans.join(", "));
            format!("{asker} is answered {question} by {home} at {revision}{hold}: {loans}")
        });
        let controller = self.controller_mut(at);
        controller.targets.entry(orders.home.clone()).or_default().misses = 0;
        let Some(reign) = &mut controller.reign else { return };
        let commands = reign.leader.handle_peer_orders(now, wall, &state, orders);
        for command in commands {
            self.propose(at, command);
        }
    }

    fn peer_refuses(&mut self, at: CtlRef, from: MachineId) {
        let home = self.sites.iter().find(|it| it.controllers.iter().any(|c| c.machine == from));
        let Some((name, count)) = home.map(|it| (it.name.clone(), it.controllers.len())) else {
            return;
        };
        let controller = self.controller_mut(at);
        let target = controller.targets.entry(name.clone()).or_default();
        *target = Target { ctl: (target.ctl + 1) % count, misses: 0 };
        let life = controller.life;
        let soon = 50 + self.chance.below(200);
        self.schedule_in(soon, Event::AskPeer { at, life, peer: name });
    }

    /// The controller of a peer that this one would ask.
    pub(crate) fn target_at(&self, at: CtlRef, peer: &SiteId) -> Option<MachineId> {
        let site = self.site_index(peer)?;
        let target = self.controller(at).targets.get(peer).copied().unwrap_or_default();
        Some(self.machine_of(CtlRef { site, ctl: target.ctl }))
    }

    /// A member leads in this term, whatever it has applied by now.
    pub(crate) fn become_leader(&mut self, at: CtlRef, term: u64) {
        let now = self.clock(self.machine_of(at));
        let controller = self.controller_mut(at);
        controller.forget_all();
        controller.reign = Some(Reign { term, leader: Leader::new(now, term), proposed: vec![] });
        controller.targets.clear();
        let life = controller.life;
        self.note(|world| format!("{} leads in term {term}", world.controller_name(at)));
        let lag = if self.chance_log.chance(100) { 1_600 } else { 40 };
        let lag = self.chance_log.range(0, lag);
        self.controller_mut(at).applies = true;
        self.schedule_in(lag, Event::Apply { at, life });
        self.schedule_in(1, Event::Poll { at, life, periodic: true });
        self.schedule_in(2, Event::AskPeers { at, life });
    }

    /// It learns that it does not lead.
    pub(crate) fn become_follower(&mut self, at: CtlRef, life: u64) {
        if self.controller(at).life != life {
            return;
        }
        if self.controller_mut(at).forget_all() > 0 {
            self.mark(Mark::DeposedWithQuestions);
        }
        self.note(|world| format!("{} no longer leads", world.controller_name(at)));
    }

    /// A crash: memory is lost, the log is not.
    pub(crate) fn crash_controller(&mut self, at: CtlRef) {
        let controller = self.controller_mut(at);
        controller.forget_all();
        controller.is_up = false;
        self.note(|world| format!("{} crashes", world.controller_name(at)));
    }

    /// It starts from a snapshot and applies what followed.
    pub(crate) fn controller_returns(&mut self, at: CtlRef) {
        if self.controller(at).is_up {
            return;
        }
        let committed = self.sites[at.site].log.committed();
        let snapshot = self.chance_log.index(committed + 1);
        self.mark(Mark::SnapshotsRestored);
        match State::decode(&self.sites[at.site].log.state(snapshot).encode()) {
            Ok(state) => {
                let controller = self.controller_mut(at);
                controller.is_up = true;
                controller.applied = snapshot;
                if controller.own.is_some() {
                    controller.own = Some(state);
                }
                self.note(|world| format!("{} is back", world.controller_name(at)));
                self.catch_up(at, committed);
            }
            Err(error) => self.violate("a snapshot reads back", error.to_string()),
        }
    }

    pub(crate) fn append_directly(&mut self, site: usize, command: Command) {
        let ticket = self.sites[site].log.ticket();
        self.sites[site].log.append(Arc::new(command), ticket);
        self.check_commit(site);
    }
}
