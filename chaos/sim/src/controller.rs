//! A controller as its shell must be. A question comes in; the leader confirms that it leads; the
//! report is handled, what follows is proposed in the order given, committed and applied here;
//! the orders are computed from a state read after that; the answer goes out.
//!
//! Who is deposed and does not know it goes on handling questions; what it proposes goes nowhere,
//! and its confirmations come to nothing.

use std::collections::BTreeMap;

use federation_core::{Command, Leader, PackedSpec, Reply, State};
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
pub(crate) struct Request {
    from: MachineId,
    call: CallId,
    ask: Ask,
    stage: Stage,
    /// What was committed when the question came.
    read: usize,
    pub(crate) tickets: Vec<Ticket>,
    pub(crate) reply: Option<Reply>,
}

/// The controller of another site that this leader asks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Target {
    pub(crate) ctl: usize,
    pub(crate) misses: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Reign {
    pub(crate) term: u64,
    pub(crate) leader: Leader,
    /// What the last look around proposed and is not applied yet.
    pub(crate) proposed: Vec<Ticket>,
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
    pub(crate) reign: Option<Reign>,
    pub(crate) requests: BTreeMap<u64, Request>,
    last_request: u64,
    pub(crate) targets: BTreeMap<SiteId, Target>,
    pub(crate) applies: bool,
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

    pub(crate) fn forget_all(&mut self) -> usize {
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

    pub(crate) fn controller_name(&self, at: CtlRef) -> String {
        format!("{}/c{}", self.sites[at.site].name, at.ctl)
    }

    /// The state as this controller has applied it. Cheap: the tables are shared.
    pub(crate) fn state_at(&self, at: CtlRef) -> State {
        let controller = self.controller(at);
        match &controller.own {
            Some(state) => state.clone(),
            None => self.sites[at.site].log.state(controller.applied).clone(),
        }
    }

    /// True if it leads, whatever it believes.
    pub(crate) fn is_true_leader(&self, at: CtlRef) -> bool {
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
            let archive = &self.sites[at.site].log.archive;
            let has_left = |job: JobId| !state.jobs.contains(&job) && archive.contains_key(&job);
            if selector.text.parse().is_ok_and(has_left) {
                return Ok(Some(Ask::Cancel(Vec::new())));
            }
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
    pub(crate) fn progress(&mut self, at: CtlRef, request: u64) {
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
            Ask::Peer(report) => self.hear_peer(at, report, (now, wall)),
            Ask::Submit(submit) => Ok(vec![Command::AdmitJobs(federation_core::AdmitJobs {
                request: submit.request.clone(),
                jobs: ids,
                spec: PackedSpec::from(&*submit.spec),
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
        let Some(reign) = &mut self.controller_mut(at).reign else { return };
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
}
