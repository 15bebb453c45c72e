//! Reservations: nodes that are an account's alone for a time.
//!
//! ```text
//!   operator ─▶ choose (which nodes) ─▶ MakeReservation ─▶ rechecked ─▶ on the state
//!   plan, CommitPlan ─▶ bars: may this job start here now?      leader, at its end ─▶ EndReservation
//! ```
//!
//! Time is what proposers stamp on commands, as everywhere in the log. A wrong clock begins or ends
//! a reservation at a wrong time, and does nothing unsafe.
//!
//! # Invariants
//! * Below [`SINCE`] nothing here is ever set.
//! * From its start to its end no job of another account starts on a reserved node. Before its
//!   start only those start there that their time limit ends before it; so none without a limit.
//! * No two reservations have a node at the same time.
//! * A reserved node is never granted, from the moment on at which it is reserved: a grant has no
//!   end.
//! * Nothing is stopped for a reservation.

pub(crate) mod choose;

use alloc::collections::BTreeSet;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use specs::fault::{Fault, FaultCode};
use specs::id::{AccountId, NodeId, ReservationName};
use specs::job::JobSpec;
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::client::ReservationView;

use crate::apply::Reply;
use crate::command::{EndReservation, LeasePlan, MakeReservation};
use crate::effect::{Effect, Effects};
use crate::state::{Agreed, Job, Node, Reservation, State};
use crate::table::Index;
use choose::{Window, hindrance};

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::DEMANDS;
/// Most reservations of a site.
pub(crate) const RESERVATIONS_MAX: usize = 1_024;
/// Most nodes of one.
pub(crate) const NODES_MAX: usize = 16_384;
/// A reservation ends no later than this after it was made: what is further off is a slip of the pen.
pub(crate) const AHEAD_MAX: Millis = Millis(366 * 86_400_000);

/// Which nodes are reserved.
pub(crate) fn index(agreed: &Agreed) -> Index<(NodeId, ReservationName), ()> {
    let mut index = Index::default();
    for (name, it) in agreed.reservations.iter() {
        for node in &it.nodes {
            index.insert((node.clone(), name.clone()), ());
        }
    }
    index
}

/// Before every name of a reservation.
fn first_name() -> ReservationName {
    ReservationName::new("0").expect("a constant that keeps the rules of names")
}

/// The reservations of a node, over or not.
pub(crate) fn of_node<'a>(
    state: &'a State,
    node: &'a NodeId,
) -> impl Iterator<Item = (&'a ReservationName, &'a Reservation)> {
    let range = state.reserved.range((node.clone(), first_name())..);
    let here = range.take_while(move |((at, _), ())| at == node);
    here.filter_map(|((_, name), ())| Some((name, state.reservations.get(name)?)))
}

/// Whether the node is in a reservation that has not been ended.
pub(crate) fn is_reserved(state: &State, node: &NodeId) -> bool {
    !state.reserved.is_empty() && of_node(state, node).next().is_some()
}

impl Reservation {
    /// Whether jobs of the account may use it.
    pub(crate) fn serves(&self, account: &AccountId) -> bool {
        let rest = account.as_str().strip_prefix(self.account.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Whether it has begun and has not ended.
    #[must_use]
    pub fn is_on(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }

    /// Whether a job of the account may not start on its nodes at that time.
    pub(crate) fn bars(&self, account: &AccountId, spec: &JobSpec, at: Timestamp) -> bool {
        at < self.end && !self.serves(account) && !ends_before(spec, at, self.start)
    }
}

/// Whether the job, started at that time, is surely over before another.
pub(crate) fn ends_before(spec: &JobSpec, at: Timestamp, before: Timestamp) -> bool {
    let ends_at = at.0.saturating_add(spec.time_limit.0).saturating_add(spec.grace.0);
    spec.time_limit > Millis::ZERO && ends_at <= before.0
}

/// Whether a reservation keeps the job from a node of the lease.
pub(crate) fn bars_lease(state: &State, job: &Job, plan: &LeasePlan, at: Timestamp) -> bool {
    if state.reserved.is_empty() {
        return false;
    }
    let (account, spec) = (job.account(), job.spec());
    let barred = |node| of_node(state, node).any(|(_, it)| it.bars(&account, &spec, at));
    plan.parts.iter().any(|part| barred(&part.node))
}

fn refuse(code: FaultCode, message: String, hint: &'static str) -> Reply {
    Reply::Refused(Fault::new(code, message).with_hint(hint))
}

/// Why the window cannot be, whatever is free.
fn check_window(it: &MakeReservation) -> Option<Reply> {
    let wrong = |message: String| {
        let hint = "give a start and an end, or a start and a duration";
        Some(refuse(FaultCode::InvalidArgument, message, hint))
    };
    if it.start >= it.end {
        return wrong("a reservation ends after it starts".into());
    }
    if it.end <= it.at {
        return wrong("the reservation would be over already".into());
    }
    if it.end.0.saturating_sub(it.at.0) > AHEAD_MAX.0 {
        let days = AHEAD_MAX.0 / 86_400_000;
        return wrong(alloc::format!("a reservation ends within {days} days"));
    }
    if it.nodes.is_empty() || it.nodes.len() > NODES_MAX {
        let message = alloc::format!("a reservation has 1 to {NODES_MAX} nodes");
        return Some(refuse(FaultCode::InvalidArgument, message, "name fewer nodes, or some"));
    }
    None
}

/// Whether the account is one that somebody has set up, or that uses GPUs: with a slip of the pen
/// nobody could use what is reserved.
fn is_known(state: &State, account: &AccountId) -> bool {
    state.quotas.is_empty()
        || !account.as_str().contains('/')
        || account.line().any(|it| state.quotas.contains(&it))
        || state.recent.contains(account)
}

pub(crate) fn make(state: &mut State, fx: &mut Effects, it: &MakeReservation) -> Reply {
    if state.version < SINCE {
        return Reply::NoOp("the site's version has no reservations");
    }
    if let Some(known) = state.reservations.get(&it.name) {
        // Which nodes it got was decided when it was first asked for.
        let is_same = (&known.account, &known.class, known.gpus, known.start, known.end)
            == (&it.account, &it.class, it.gpus, it.start, it.end);
        if is_same && (it.gpus > GpuCount::ZERO || known.nodes == it.nodes) {
            return Reply::NoOp("there is this reservation already");
        }
        let message = alloc::format!("there is another reservation {}", it.name);
        return refuse(FaultCode::Conflict, message, "see `federation reservation ls`");
    }
    if let Some(refusal) = check_window(it) {
        return refusal;
    }
    if !is_known(state, &it.account) {
        let message = alloc::format!("the account {} is not known here", it.account);
        return refuse(FaultCode::NotFound, message, "see `federation quota ls`");
    }
    if state.reservations.len() >= RESERVATIONS_MAX {
        let message = alloc::format!("a site has at most {RESERVATIONS_MAX} reservations");
        return refuse(FaultCode::Conflict, message, "delete one that is not needed");
    }
    if let Err(fault) = recheck(state, it) {
        return Reply::Refused(fault);
    }
    let mut nodes = it.nodes.clone();
    nodes.sort();
    for node in &nodes {
        state.reserved.insert((node.clone(), it.name.clone()), ());
    }
    let reservation = Reservation {
        number: state.revision,
        account: it.account.clone(),
        class: it.class.clone(),
        gpus: it.gpus,
        nodes,
        start: it.start,
        end: it.end,
        by: it.by.clone(),
        made_at: it.at,
    };
    state.agreed.reservations.insert(it.name.clone(), reservation);
    fx.insert(Effect::Plan);
    Reply::Done
}

/// The nodes may have changed since they were chosen.
fn recheck(state: &State, it: &MakeReservation) -> Result<(), Fault> {
    let window = Window::of(it);
    let conflict = |message: String| {
        let hint = "try again, or at another time; see `federation reservation ls`";
        Fault::new(FaultCode::Conflict, message).with_hint(hint)
    };
    let mut gpus = GpuCount::ZERO;
    let mut seen = BTreeSet::new();
    for id in &it.nodes {
        let Some(node) = state.nodes.get(id) else {
            return Err(Fault::new(FaultCode::NotFound, alloc::format!("there is no node {id}")));
        };
        if !seen.insert(id) {
            return Err(conflict(alloc::format!("node {id} is named twice")));
        }
        match hindrance(state, node, &window) {
            Ok(there) => gpus = gpus.plus(there),
            Err(why) => {
                return Err(conflict(alloc::format!("node {id} cannot be reserved: {why}")));
            }
        }
    }
    if gpus < it.gpus {
        let message = alloc::format!("the nodes have {gpus} GPUs, and {} are asked for", it.gpus);
        return Err(conflict(message));
    }
    Ok(())
}

pub(crate) fn end(state: &mut State, fx: &mut Effects, it: &EndReservation) -> Reply {
    let known = state.reservations.get(&it.name).filter(|known| known.number == it.number);
    let Some(known) = known.cloned() else {
        return Reply::NoOp("there is no such reservation any more");
    };
    for node in &known.nodes {
        state.reserved.remove(&(node.clone(), it.name.clone()));
    }
    state.agreed.reservations.remove(&it.name);
    fx.insert(Effect::Plan);
    Reply::Done
}

/// What is over at that time, to be taken away.
pub(crate) fn over(state: &State, at: Timestamp) -> impl Iterator<Item = EndReservation> + '_ {
    let over = state.reservations.iter().filter(move |(_, it)| it.end <= at);
    over.map(|(name, it)| EndReservation { name: name.clone(), number: it.number })
}

/// GPUs of the node that a reservation is about.
fn gpus_of(node: &Node, class: Option<&specs::id::GpuClass>) -> GpuCount {
    let gpus = node.gpus.iter().filter(|gpu| class.is_none_or(|class| gpu.info.class == *class));
    GpuCount(u32::try_from(gpus.count()).unwrap_or(u32::MAX))
}

/// Every reservation, with who is on its nodes.
#[must_use]
pub fn reservation_views(state: &State, at: Timestamp) -> Vec<ReservationView> {
    let view = |(name, it): (&ReservationName, &Reservation)| {
        let (mut gpus, mut used, mut foreign) = (GpuCount::ZERO, GpuCount::ZERO, Vec::new());
        for id in &it.nodes {
            let Some(node) = state.nodes.get(id) else { continue };
            gpus = gpus.plus(gpus_of(node, it.class.as_ref()));
            for lease in state.leases_of(id) {
                let account = state.jobs.get(&lease.job).map(Job::account);
                if account.is_some_and(|account| it.serves(&account)) {
                    let part = lease.part(id).map_or(0, |part| part.gpus.len());
                    used = used.plus(GpuCount(u32::try_from(part).unwrap_or(u32::MAX)));
                } else {
                    foreign.push(lease.job);
                }
            }
        }
        foreign.sort_unstable();
        foreign.dedup();
        ReservationView {
            name: name.clone(),
            account: it.account.clone(),
            class: it.class.clone(),
            asked: it.gpus,
            gpus,
            used,
            nodes: it.nodes.clone(),
            start: it.start,
            end: it.end,
            is_on: it.is_on(at),
            others: foreign,
            by: it.by.clone(),
            made_at: it.made_at,
            number: it.number,
        }
    };
    state.reservations.iter().map(view).collect()
}

/// What keeps a waiting job from nodes that would do, in words, and what would change it.
pub(crate) fn why(state: &State, at: Timestamp, job: &Job) -> Vec<(String, String)> {
    let (account, spec) = (job.account(), job.spec());
    let will_do = |it: &Reservation| {
        it.nodes.iter().filter_map(|id| state.nodes.get(id)).any(|node| {
            let mut classes = node.gpus.iter().map(|gpu| &gpu.info.class);
            classes.any(|class| crate::placement::fits::class_will_do(&spec, class))
        })
    };
    let mut found = Vec::new();
    for (name, it) in state.reservations.iter().filter(|(_, it)| at < it.end && will_do(it)) {
        let seconds = |to: Timestamp| to.0.saturating_sub(at.0) / 1_000;
        let nodes = it.nodes.len();
        if it.bars(&account, &spec, at) {
            let until = seconds(it.end);
            let (when, change) = if it.is_on(at) {
                (alloc::format!("for {until} s more"), "time, or an account that it serves".into())
            } else {
                let room = it.start.0.saturating_sub(at.0).saturating_sub(spec.grace.0) / 1_000;
                let change = alloc::format!("spec.time.limit of {room} s at most");
                (alloc::format!("from in {} s until in {until} s", seconds(it.start)), change)
            };
            let what =
                alloc::format!("{nodes} nodes are reserved for {} ({name}) {when}", it.account);
            found.push((what, change));
        } else if it.serves(&account) && !it.is_on(at) {
            let what = alloc::format!(
                "{nodes} nodes are reserved for its account ({name}) from in {} s",
                seconds(it.start)
            );
            found.push((what, "time".to_string()));
        }
    }
    found
}

#[cfg(test)]
mod tests;
