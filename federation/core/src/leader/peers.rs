//! What leaders of two sites say to each other: a host asks what a home wants, and is answered.

use alloc::borrow::Cow;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::fault::{Fault, FaultCode};
use specs::id::{Epoch, GrantId, JobId, Question, SiteId};
use specs::unit::{GpuCount, Instant, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{Ending, Want};
use specs::wire::peer::{
    GrantReport, GuestPhase, GuestReport, LoanOrder, PROOFS_SHOWN_MAX, PeerOrders, PeerReport, Slot,
};

use super::{Asked, Confirmed, Leader, PEER_ASKED_MAX, sites};
use crate::command::{AttemptKey, Command, ObeyPeer, RecordPeer, RestorePeer};
use crate::exchange::host::{Admission, in_use, judge};
use crate::exchange::proofs;
use crate::state::{Grant, GuestKey, JobPhase, State};
use crate::view;

impl Leader {
    /// As a home: a host asks. What must be agreed before it is answered.
    ///
    /// # Errors
    /// The asker is not a peer, or its report is older than one taken in.
    pub fn handle_peer_report(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        report: &PeerReport,
    ) -> Result<Vec<Command>, Fault> {
        self.at = at;
        let Some(peer) = state.peers.get(&report.host) else {
            let message = alloc::format!("site {} is not joined", report.host);
            return Err(Fault::new(FaultCode::Forbidden, message));
        };
        if report.revision < peer.seen {
            return Err(Fault::new(FaultCode::Conflict, "a later report was taken in"));
        }
        let memory = self.peers.entry(report.host.clone()).or_default();
        let before = memory.watch.heard();
        memory.watch.hear(now, report.question, report.answered);
        memory.told = sites::told(now, report);
        let mut commands = Vec::new();
        let guests = news_of_guests(state, report);
        let grants = grants_kept(state, &report.grants);
        let shows = report.shows && state.version >= proofs::SINCE;
        let is_news = grants_differ(state, &report.host, &grants) || (shows && !peer.shows);
        if !guests.is_empty() || is_news {
            commands.push(Command::RecordPeer(RecordPeer {
                peer: report.host.clone(),
                revision: report.revision,
                grants: grants.into_owned(),
                guests,
                at,
                shows,
            }));
        }
        if let Some(suspicion) = peer.suspicion.filter(|_| memory.watch.heard() > before) {
            let peer = report.host.clone();
            commands.push(Command::RestorePeer(RestorePeer { peer, suspicion }));
        }
        Ok(commands)
    }

    /// As a home: the answer to a host's question, from a state read after it came.
    #[must_use]
    pub fn peer_orders(&mut self, state: &State, report: &PeerReport) -> Option<PeerOrders> {
        // No older than the report that is answered.
        let now = self.peers.get(&report.host).map_or(self.since, |memory| memory.told.at);
        let demand = self.demand_for(now, state, &report.host);
        let mut orders = view::peer_orders(state, report, demand)?;
        if !orders.hold {
            orders.show = self.proofs_to_ask(now, state, &report.host);
        }
        Some(orders)
    }

    /// As a host: the next question to a home.
    #[must_use]
    pub fn ask_peer(&mut self, now: Instant, state: &State, home: &SiteId) -> Option<PeerReport> {
        // A home that is told nothing gives nothing up before its loans have run out.
        if state.recovering.is_some() {
            return None;
        }
        let memory = self.peers.entry(home.clone()).or_default();
        let question = self.next_question;
        self.summary.follow(state);
        let capacity = self.summary.classes(state.version);
        let mut report = view::peer_report(state, home, (question, memory.answered), capacity)?;
        report.signals = self.own_signals(state);
        self.capacity.follow(state);
        // What is reserved is no room for others.
        self.capacity.set_reserved(state);
        report.outlook = self.outlook(state);
        self.capacity.give_back();
        report.proofs = self.proofs_to_show(state, home);
        let memory = self.peers.entry(home.clone()).or_default();
        self.next_question = Question(question.0 + 1);
        let ended = report.guests.iter().filter(|guest| guest.phase == GuestPhase::Ended);
        let ended = ended.map(|guest| (guest.job, guest.epoch)).collect();
        memory.asked.insert(question, Asked { at: now, revision: report.revision, ended });
        while memory.asked.len() > PEER_ASKED_MAX {
            memory.asked.pop_first();
        }
        Some(report)
    }

    /// As a host: a home answered. What follows for the log.
    #[must_use]
    pub fn handle_peer_orders(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        orders: &PeerOrders,
    ) -> Vec<Command> {
        let Some(peer) = state.peers.get(&orders.home) else { return Vec::new() };
        let Some(memory) = self.peers.get_mut(&orders.home) else { return Vec::new() };
        let Some(asked) = memory.asked.remove(&orders.question) else { return Vec::new() };
        memory.answered = memory.answered.max(orders.question);
        memory.answered_at = Some(now);
        self.at = at;
        if orders.hold || orders.revision < peer.obeyed {
            return Vec::new();
        }
        if memory.demand != orders.demand {
            memory.demand.clone_from(&orders.demand);
            self.planned = None;
        }
        memory.shown.wanted.clone_from(&orders.show);
        memory.shown.wanted.truncate(PROOFS_SHOWN_MAX);
        for loan in orders.loans.iter().filter(|loan| loan.want == Want::Run) {
            let confirmed = Confirmed { asked_at: asked.at, term: orders.loan_term };
            memory.confirmed.insert((loan.job, loan.epoch), confirmed);
        }
        let named: BTreeSet<_> = orders.loans.iter().map(|loan| (loan.job, loan.epoch)).collect();
        memory.confirmed.retain(|key, _| named.contains(key));
        obedience(state, orders, &asked, at).map(Command::ObeyPeer).into_iter().collect()
    }
}

/// What of the report the log does not have yet.
fn news_of_guests(state: &State, report: &PeerReport) -> Vec<GuestReport> {
    let is_news = |it: &&GuestReport| {
        let Some(job) = state.jobs.get(&it.job).filter(|job| !job.has_ended()) else {
            return false;
        };
        match &job.phase {
            JobPhase::Loaned(loan) if job.epoch == it.epoch => {
                loan.peer == report.host && loan.phase != it.phase
            }
            JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Loaned(_) => {
                let exited = it.outcome.as_ref().is_some_and(|it| it.ending == Ending::Exited);
                job.kept.is_none() && exited && job.epoch >= it.epoch
            }
            JobPhase::Ended(_) => false,
        }
    };
    report.guests.iter().filter(is_news).cloned().collect()
}

/// The grants with only as much of their slots as all members of this site's group keep.
fn grants_kept<'a>(state: &State, reports: &'a [GrantReport]) -> Cow<'a, [GrantReport]> {
    let all = || reports.iter().flat_map(|grant| &grant.slots);
    let is_kept = |slot: &Slot| slot.which.is_empty() || proofs::is_told_well(slot);
    if state.version >= proofs::SINCE && all().all(is_kept) {
        return Cow::Borrowed(reports);
    }
    let mut grants = reports.to_vec();
    for slot in grants.iter_mut().flat_map(|grant| &mut grant.slots) {
        if state.version < proofs::SINCE || !is_kept(slot) {
            slot.which.clear();
        }
        if state.version >= ClusterVersion::DEMANDS {
            continue;
        }
        (slot.cpu_milli, slot.memory_mib, slot.node_gpus) = (0, 0, GpuCount::ZERO);
        if state.version < ClusterVersion::SITES {
            slot.facts = None;
        }
    }
    Cow::Owned(grants)
}

fn grants_differ(state: &State, host: &SiteId, reports: &[GrantReport]) -> bool {
    let held = state.held_at(host).map(|(grant, held)| (grant, &held.slots, held.recalled));
    let said = reports.iter().map(|report| (report.grant, &report.slots, report.recalled));
    !held.eq(said)
}

/// The order with only as much of the job as all members of this site's group keep: the home may
/// have a later version. Without what the job cannot do without, it names no slots: members that
/// know less of it refuse it all the same.
fn kept_here(state: &State, order: &LoanOrder) -> LoanOrder {
    let mut order = order.clone();
    if let Some(body) = &mut order.body
        && body.spec.since() > state.version
    {
        let is_asked_for = !body.spec.needs.fit_a_loan();
        let spec = Arc::make_mut(&mut body.spec);
        spec.cut_to(state.version);
        if is_asked_for && spec.needs.fit_a_loan() {
            body.slots.clear();
        }
    }
    if let Some(body) = &mut order.body
        && state.version < proofs::SINCE
    {
        body.slots.iter_mut().for_each(|slot| slot.which.clear());
    }
    order
}

/// What a home's orders ask for that has not been done; none if nothing.
fn obedience(state: &State, orders: &PeerOrders, asked: &Asked, at: Timestamp) -> Option<ObeyPeer> {
    let mut obey = ObeyPeer {
        peer: orders.home.clone(),
        revision: orders.revision,
        admit: Vec::new(),
        stop: Vec::new(),
        forget: Vec::new(),
        returned: Vec::new(),
        at,
        shown: asked.revision,
    };
    let mut named: BTreeMap<(JobId, Epoch), Want> = BTreeMap::new();
    for loan in &orders.loans {
        named.insert((loan.job, loan.epoch), loan.want);
        match judge(state, &orders.home, loan, at) {
            Admission::Admit(_) | Admission::Refuse(_) => obey.admit.push(kept_here(state, loan)),
            Admission::Known | Admission::Later => {}
        }
    }
    for guest in state.guests_of(&orders.home) {
        let GuestKey { job, epoch, .. } = guest.key;
        let want = named.get(&(job, epoch));
        let stopping =
            guest.lease.and_then(|id| state.leases.get(&id)).is_some_and(|it| it.stop.is_some());
        let is_shown = asked.ended.contains(&(job, epoch)) && guest.ended_in <= asked.revision;
        match guest.phase {
            GuestPhase::Ended if want.is_none() && is_shown => {
                obey.forget.push(AttemptKey { job, epoch });
            }
            GuestPhase::Admitted | GuestPhase::Running if want != Some(&Want::Run) && !stopping => {
                obey.stop.push(AttemptKey { job, epoch });
            }
            GuestPhase::Admitted | GuestPhase::Running | GuestPhase::Ended => {}
        }
    }
    let returnable = |id: &GrantId| {
        let grant: Option<&Grant> = state.grants.get(id).filter(|it| it.home == orders.home);
        grant.is_some_and(|grant| !in_use(state, grant))
    };
    obey.returned = orders.returned.iter().copied().filter(returnable).collect();
    let nothing = obey.admit.is_empty()
        && obey.stop.is_empty()
        && obey.forget.is_empty()
        && obey.returned.is_empty();
    (!nothing).then_some(obey)
}
