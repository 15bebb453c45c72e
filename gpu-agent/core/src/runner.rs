//! The runner: orders in, actions out; fences itself.

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use specs::gpu::{BurnInPermit, GpuReport, GpuState};
use specs::id::{Boot, Epoch, GpuIndex, JobId, LeaseId, NodeId, Question, Revision, SiteId};
use specs::unit::{Instant, Timestamp};
use specs::wire::agent::{
    AttemptPhase, AttemptReport, Checkpoint, Ending, Inventory, Launch, LeaseOrder, NodeOrders,
    NodeReport, Outcome, Validity, ValidityKind, Want,
};

/// Questions remembered while their answers are on the way.
const ASKED_MAX: usize = 64;

/// What the shell must do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start the attempt's processes; kill them at the deadline unless it is extended. None for
    /// an attempt that may go on for ever.
    Start { lease: LeaseId, known: Known, launch: Launch, deadline: Option<Instant> },
    /// Move the deadline. It may also come nearer.
    Extend { lease: LeaseId, deadline: Option<Instant> },
    /// Ask the processes to end, and kill them after the grace their job gives them.
    Stop { lease: LeaseId },
    /// Kill the processes at once: the deadline has passed.
    Kill { lease: LeaseId },
    /// Nothing will be asked about the attempt again; its output may go in time.
    Forget { lease: LeaseId },
}

/// Whose attempt a lease is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub home: SiteId,
    pub job: JobId,
    pub epoch: Epoch,
}

/// A limit that is counted from a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Limit {
    /// None but the node's lease.
    NodeLease,
    /// The node's lease, and this.
    At(Instant),
    /// None at all.
    Open,
}

#[derive(Debug, Clone)]
struct Attempt {
    phase: AttemptPhase,
    limit: Limit,
    /// Until when the node's lease covers it.
    covered_until: Instant,
    outcome: Option<Outcome>,
    /// Its deadline has passed and its kill was ordered.
    fenced: bool,
    started_at: Timestamp,
    ended_at: Timestamp,
}

impl Attempt {
    fn deadline(&self) -> Option<Instant> {
        match self.limit {
            Limit::NodeLease => Some(self.covered_until),
            Limit::At(limit) => Some(limit.min(self.covered_until)),
            Limit::Open => None,
        }
    }

    fn has_ended(&self) -> bool {
        self.phase == AttemptPhase::Ended
    }

    fn end(&mut self, outcome: Outcome, at: Timestamp) {
        self.phase = AttemptPhase::Ended;
        self.outcome = Some(outcome);
        self.ended_at = at;
    }
}

/// A question that was asked.
#[derive(Debug, Clone)]
struct Asked {
    at: Instant,
    /// Attempts that it showed as ended.
    ended: BTreeSet<LeaseId>,
}

/// One life of an agent.
#[derive(Debug, Clone)]
pub struct Runner {
    node: NodeId,
    boot: Boot,
    inventory: Inventory,
    last_question: Question,
    asked: BTreeMap<Question, Asked>,
    answered: Question,
    obeyed: Revision,
    attempts: BTreeMap<LeaseId, Attempt>,
    health: Vec<GpuReport>,
    checkpoints: Vec<Checkpoint>,
    is_asked_for_proofs: bool,
    withheld: BTreeSet<GpuIndex>,
    released: BTreeSet<GpuIndex>,
    /// None if the site knows nothing of permits.
    permits: Option<Vec<BurnInPermit>>,
    tells_earlier: bool,
    /// Until when the orders last obeyed hold.
    covered_until: Instant,
    actions: VecDeque<Action>,
}

impl Runner {
    /// A new life. `ended` is what earlier lives left: results that were never reported, and
    /// orphans, which the shell has ended before.
    #[must_use]
    pub fn new(
        node: NodeId,
        boot: Boot,
        inventory: Inventory,
        ended: impl IntoIterator<Item = AttemptReport>,
    ) -> Self {
        let attempts = ended.into_iter().map(|report| {
            let attempt = Attempt {
                phase: AttemptPhase::Ended,
                limit: Limit::NodeLease,
                covered_until: Instant::ZERO,
                outcome: report.outcome,
                fenced: false,
                started_at: report.started_at,
                ended_at: report.ended_at,
            };
            (report.lease, attempt)
        });
        Self {
            node,
            boot,
            inventory,
            last_question: Question(0),
            asked: BTreeMap::new(),
            answered: Question(0),
            obeyed: Revision(0),
            attempts: attempts.collect(),
            health: Vec::new(),
            checkpoints: Vec::new(),
            is_asked_for_proofs: false,
            withheld: BTreeSet::new(),
            released: BTreeSet::new(),
            permits: None,
            tells_earlier: false,
            covered_until: Instant::ZERO,
            actions: VecDeque::new(),
        }
    }

    /// What is known of the health of the node's GPUs; none where nobody looks after it.
    pub fn set_health(&mut self, health: Vec<GpuReport>) {
        self.health = health;
    }

    /// When attempts last saved their work; of those that have ended, nothing is told.
    pub fn set_checkpoints(&mut self, checkpoints: Vec<Checkpoint>) {
        let runs = |it: &Checkpoint| self.attempts.get(&it.lease).is_some_and(|it| !it.has_ended());
        self.checkpoints = checkpoints.into_iter().filter(runs).collect();
    }

    /// True if the site runs nothing on GPUs without a proof, as far as was heard.
    #[must_use]
    pub fn is_asked_for_proofs(&self) -> bool {
        self.is_asked_for_proofs
    }

    /// GPUs that an operator holds back, as far as was heard.
    #[must_use]
    pub fn withheld(&self) -> &BTreeSet<GpuIndex> {
        &self.withheld
    }

    /// True if the site wants to hear of earlier burn-ins, as far as was heard.
    #[must_use]
    pub fn tells_earlier(&self) -> bool {
        self.tells_earlier
    }

    /// Quarantined GPUs that an operator wants to be burnt in again, as far as was heard.
    #[must_use]
    pub fn released(&self) -> &BTreeSet<GpuIndex> {
        &self.released
    }

    /// Burn-ins that the site permits; none without orders that hold, as with attempts. Not a
    /// list at all if the site knows nothing of permits.
    #[must_use]
    pub fn permits(&self, now: Instant) -> Option<&[BurnInPermit]> {
        let is_covered = now < self.covered_until;
        self.permits.as_deref().map(|permits| if is_covered { permits } else { &[] })
    }

    /// Why nothing may start on one of these GPUs.
    fn unsound(&self, gpus: &[GpuIndex]) -> Option<String> {
        let bad = |it: &&GpuReport| gpus.contains(&it.health.index) && is_barred(it.health.state);
        let it = &self.health.iter().find(bad)?.health;
        Some(alloc::format!("GPU {} is {}: {}", it.index, it.state, it.why))
    }

    /// The next question: all that this agent knows.
    pub fn ask(&mut self, now: Instant) -> NodeReport {
        self.last_question = Question(self.last_question.0 + 1);
        let ended = self.attempts.iter().filter(|(_, it)| it.has_ended());
        let ended = ended.map(|(lease, _)| *lease).collect();
        self.asked.insert(self.last_question, Asked { at: now, ended });
        while self.asked.len() > ASKED_MAX {
            self.asked.pop_first();
        }
        NodeReport {
            node: self.node.clone(),
            boot: self.boot,
            question: self.last_question,
            obeyed: self.obeyed,
            answered: self.answered,
            inventory: self.inventory.clone(),
            attempts: self.attempts.iter().map(|(lease, it)| report(*lease, it)).collect(),
            health: self.health.clone(),
            heeds_permits: true,
            checkpoints: self.checkpoints.clone(),
        }
    }

    /// An answer came.
    pub fn handle_orders(&mut self, now: Instant, at: Timestamp, orders: NodeOrders) {
        if orders.node != self.node || orders.boot != self.boot {
            return;
        }
        let Some(asked) = self.asked.remove(&orders.question) else { return };
        self.answered = self.answered.max(orders.question);
        if orders.hold || orders.revision < self.obeyed {
            return;
        }
        self.obeyed = orders.revision;
        self.is_asked_for_proofs = orders.prove;
        self.withheld = orders.withheld.iter().copied().collect();
        self.released = orders.released.iter().copied().collect();
        let covered_until = asked.at.after(orders.lease_term);
        self.permits = orders.permits_only.then_some(orders.permits);
        self.tells_earlier = orders.tell_earlier;
        self.covered_until = self.covered_until.max(covered_until);
        let mut named = BTreeSet::new();
        for order in orders.leases {
            named.insert(order.lease);
            self.obey(now, at, &asked, covered_until, order);
        }
        self.revoke_unnamed(&named, &asked);
    }

    fn obey(
        &mut self,
        now: Instant,
        at: Timestamp,
        asked: &Asked,
        covered_until: Instant,
        order: LeaseOrder,
    ) {
        let lease = order.lease;
        let Some(attempt) = self.attempts.get_mut(&lease) else {
            self.begin(now, at, asked, covered_until, order);
            return;
        };
        if attempt.has_ended() {
            return;
        }
        let before = attempt.deadline();
        attempt.covered_until = attempt.covered_until.max(covered_until);
        if let Some(limit) = limit_of(&order.validity, asked.at) {
            attempt.limit = later(attempt.limit, limit);
        }
        let deadline = attempt.deadline();
        if deadline != before {
            self.actions.push_back(Action::Extend { lease, deadline });
        }
        if order.want == Want::Stop {
            self.stop(lease);
        }
    }

    /// An attempt that is not known here.
    fn begin(
        &mut self,
        now: Instant,
        at: Timestamp,
        asked: &Asked,
        covered_until: Instant,
        order: LeaseOrder,
    ) {
        let mut attempt = Attempt {
            phase: AttemptPhase::Starting,
            limit: Limit::NodeLease,
            covered_until,
            outcome: None,
            fenced: false,
            started_at: Timestamp(0),
            ended_at: Timestamp(0),
        };
        if order.want == Want::Stop {
            // Remembered as ended, so that orders which come late cannot start it.
            attempt.end(Outcome::of(Ending::Stopped, "stopped before it started"), at);
            self.attempts.insert(order.lease, attempt);
            return;
        }
        let (Some(launch), Some(limit)) = (order.launch, limit_of(&order.validity, asked.at))
        else {
            return;
        };
        if let Some(why) = self.unsound(&launch.gpus) {
            attempt.end(Outcome::of(Ending::Refused, why), at);
            self.attempts.insert(order.lease, attempt);
            return;
        }
        attempt.limit = limit;
        let deadline = attempt.deadline();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return;
        }
        self.attempts.insert(order.lease, attempt);
        let known = Known { home: order.home, job: order.job, epoch: order.epoch };
        self.actions.push_back(Action::Start { lease: order.lease, known, launch, deadline });
    }

    /// What is not named must not run; what ended and was shown as ended may be forgotten.
    fn revoke_unnamed(&mut self, named: &BTreeSet<LeaseId>, asked: &Asked) {
        let unnamed: Vec<LeaseId> =
            self.attempts.keys().filter(|lease| !named.contains(lease)).copied().collect();
        for lease in unnamed {
            let ended = self.attempts.get(&lease).is_some_and(Attempt::has_ended);
            if !ended {
                self.stop(lease);
            } else if asked.ended.contains(&lease) {
                self.attempts.remove(&lease);
                self.actions.push_back(Action::Forget { lease });
            }
        }
    }

    fn stop(&mut self, lease: LeaseId) {
        let Some(attempt) = self.attempts.get_mut(&lease) else { return };
        if attempt.phase == AttemptPhase::Stopping || attempt.has_ended() {
            return;
        }
        attempt.phase = AttemptPhase::Stopping;
        self.actions.push_back(Action::Stop { lease });
    }

    /// The attempt's processes are there.
    pub fn handle_started(&mut self, lease: LeaseId, at: Timestamp) {
        let Some(attempt) = self.attempts.get_mut(&lease) else { return };
        if attempt.phase == AttemptPhase::Starting {
            attempt.phase = AttemptPhase::Running;
        }
        attempt.started_at = at;
    }

    /// The attempt's processes are gone, all of them. `outcome` is what whoever ran them saw: an
    /// exit of their own, or that they ended after a stop or a kill.
    pub fn handle_ended(&mut self, lease: LeaseId, outcome: Outcome, at: Timestamp) {
        let Some(attempt) = self.attempts.get_mut(&lease) else { return };
        if attempt.has_ended() {
            return;
        }
        attempt.end(outcome, at);
    }

    /// Time has passed: whatever ran out is killed.
    pub fn handle_timeout(&mut self, now: Instant) {
        for (lease, attempt) in &mut self.attempts {
            let over = attempt.deadline().is_some_and(|deadline| deadline <= now);
            if over && !attempt.has_ended() && !attempt.fenced {
                attempt.phase = AttemptPhase::Stopping;
                attempt.fenced = true;
                self.actions.push_back(Action::Kill { lease: *lease });
            }
        }
    }

    /// When [`Runner::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let running = self.attempts.values().filter(|it| !it.has_ended() && !it.fenced);
        running.filter_map(Attempt::deadline).min()
    }

    /// The next thing to do; call until there is none.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Attempts that have not ended.
    pub fn running(&self) -> impl Iterator<Item = LeaseId> {
        self.attempts.iter().filter(|(_, it)| !it.has_ended()).map(|(lease, _)| *lease)
    }
}

/// Whether nothing may start on a GPU in that state, whoever orders it.
fn is_barred(state: GpuState) -> bool {
    match state {
        GpuState::BurningIn | GpuState::Quarantined | GpuState::Resetting | GpuState::Rma => true,
        GpuState::Discovered | GpuState::Healthy | GpuState::Suspect => false,
    }
}

fn report(lease: LeaseId, attempt: &Attempt) -> AttemptReport {
    AttemptReport {
        lease,
        phase: attempt.phase,
        outcome: attempt.outcome.clone(),
        started_at: attempt.started_at,
        ended_at: attempt.ended_at,
    }
}

/// The limit that a validity sets, counted from when the question was asked; none if it sets none.
fn limit_of(validity: &Validity, asked_at: Instant) -> Option<Limit> {
    match validity.kind {
        ValidityKind::NodeLease => Some(Limit::NodeLease),
        ValidityKind::Until => Some(Limit::At(asked_at.after(validity.remaining))),
        ValidityKind::AsBefore => None,
        ValidityKind::Open => Some(Limit::Open),
    }
}

/// Of two limits of one kind the later; answers may come out of order.
fn later(old: Limit, new: Limit) -> Limit {
    match (old, new) {
        (Limit::At(old), Limit::At(new)) => Limit::At(old.max(new)),
        (_, new) => new,
    }
}
