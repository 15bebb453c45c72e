//! Which nodes are reserved for whom, and why others cannot be. The choice is made outside the log,
//! which asks the same of each node again.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use specs::fault::{Fault, FaultCode};
use specs::id::{AccountId, GpuClass, JobId, NodeId, ReservationName};
use specs::unit::{GpuCount, Millis, Timestamp};

use super::of_node;
use crate::command::MakeReservation;
use crate::state::{Job, Lease, Node, State};

/// What a reservation is to be.
#[derive(Debug, Clone, Copy)]
pub struct Window<'a> {
    pub account: &'a AccountId,
    /// Of the GPUs that are meant; none for any.
    pub class: Option<&'a GpuClass>,
    pub start: Timestamp,
    pub end: Timestamp,
    /// Jobs that may run into it are no hindrance.
    pub beside_jobs: bool,
    pub at: Timestamp,
}

impl<'a> Window<'a> {
    /// What is asked for, but for the nodes.
    #[must_use]
    pub fn of(it: &'a MakeReservation) -> Self {
        Self {
            account: &it.account,
            class: it.class.as_ref(),
            start: it.start,
            end: it.end,
            beside_jobs: it.beside_jobs,
            at: it.at,
        }
    }
}

/// What an operator asks for.
#[derive(Debug, Clone, Copy)]
pub enum ReserveAsk<'a> {
    /// Nodes that together have at least so many.
    Gpus(GpuCount),
    Nodes(&'a [NodeId]),
}

/// Why a node cannot be reserved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hindrance {
    NoGpus,
    Unusable,
    Unsound,
    Granted(u32),
    Reserved(ReservationName),
    Busy(JobId),
}

impl fmt::Display for Hindrance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGpus => write!(f, "it has no GPUs of the class"),
            Self::Unusable => write!(f, "it is drained, not heard or not enrolled yet"),
            Self::Unsound => write!(f, "none of its GPUs is sound"),
            Self::Granted(gpus) => write!(f, "{gpus} of its GPUs are granted to a peer"),
            Self::Reserved(name) => write!(f, "it is reserved in that time ({name})"),
            Self::Busy(job) => write!(f, "{job} may run into that time"),
        }
    }
}

/// Sound GPUs of the node that can be reserved.
///
/// # Errors
/// What is in the way.
pub(crate) fn hindrance(
    state: &State,
    node: &Node,
    window: &Window<'_>,
) -> Result<GpuCount, Hindrance> {
    let is_meant = |class: &GpuClass| window.class.is_none_or(|it| it == class);
    if !node.gpus.iter().any(|gpu| is_meant(&gpu.info.class)) {
        return Err(if node.gpus.is_empty() { Hindrance::Unusable } else { Hindrance::NoGpus });
    }
    if !node.is_usable() {
        return Err(Hindrance::Unusable);
    }
    let granted = node.gpus.iter().filter(|gpu| gpu.grant.is_some()).count();
    if granted > 0 {
        return Err(Hindrance::Granted(u32::try_from(granted).unwrap_or(u32::MAX)));
    }
    let meets = |start: Timestamp, end: Timestamp| start < window.end && window.start < end;
    if let Some((name, _)) = of_node(state, &node.id).find(|(_, it)| meets(it.start, it.end)) {
        return Err(Hindrance::Reserved(name.clone()));
    }
    let stays = |lease: &&Lease| !window.beside_jobs && may_stay(state, lease, window);
    if let Some(lease) = state.leases_of(&node.id).find(stays) {
        return Err(Hindrance::Busy(lease.job));
    }
    let sound = node.gpus.iter().filter(|gpu| is_meant(&gpu.info.class) && gpu.is_fit()).count();
    match u32::try_from(sound) {
        Ok(0) => Err(Hindrance::Unsound),
        gpus => Ok(GpuCount(gpus.unwrap_or(u32::MAX))),
    }
}

/// Whether another's job may still run when the reservation begins.
fn may_stay(state: &State, lease: &Lease, window: &Window<'_>) -> bool {
    let account = state.jobs.get(&lease.job).filter(|_| state.is_own(&lease.home));
    let is_own = account.map(Job::account).is_some_and(|account| {
        let mut line = account.line();
        line.any(|it| it == *window.account)
    });
    if is_own {
        return false;
    }
    let spec = &lease.spec;
    let starts = lease.parts.iter().map(|part| part.started_at);
    let started_at = starts.filter(|it| *it != Timestamp(0)).max().unwrap_or(window.at);
    let ends_at = started_at.0.saturating_add(spec.time_limit.0).saturating_add(spec.grace.0);
    spec.time_limit == Millis::ZERO || ends_at > window.start.0
}

/// GPUs that cannot be reserved, by why.
#[derive(Debug, Clone, Default)]
struct Missed {
    unusable: u32,
    granted: u32,
    reserved: u32,
    busy: u32,
    /// Of the nodes that have them.
    jobs: BTreeMap<JobId, ()>,
}

impl Missed {
    fn count(&mut self, gpus: u32, why: Hindrance) {
        match why {
            Hindrance::NoGpus => {}
            Hindrance::Unusable | Hindrance::Unsound => self.unusable += gpus,
            Hindrance::Granted(_) => self.granted += gpus,
            Hindrance::Reserved(_) => self.reserved += gpus,
            Hindrance::Busy(job) => {
                self.busy += gpus;
                self.jobs.insert(job, ());
            }
        }
    }

    fn told(&self) -> String {
        let kinds = [
            (self.busy, "on nodes with jobs that may run into it"),
            (self.reserved, "reserved in that time"),
            (self.granted, "on nodes that are lent"),
            (self.unusable, "drained, not heard or not sound"),
        ];
        let some = kinds.iter().filter(|(gpus, _)| *gpus > 0);
        let texts: Vec<String> =
            some.map(|(gpus, why)| alloc::format!("{gpus} are {why}")).collect();
        texts.join(", ")
    }
}

/// The nodes for a reservation: those that nobody is on at present before others, neighbours
/// together.
///
/// # Errors
/// It cannot be met; the message tells how much could be, and what the rest is held by.
pub fn choose(
    state: &State,
    ask: ReserveAsk<'_>,
    window: &Window<'_>,
) -> Result<Vec<NodeId>, Fault> {
    let wanted = match ask {
        // Each is looked at when the log decides.
        ReserveAsk::Nodes(nodes) => {
            let mut nodes = nodes.to_vec();
            nodes.sort();
            return Ok(nodes);
        }
        ReserveAsk::Gpus(wanted) => wanted,
    };
    let mut able = Vec::new();
    let (mut total, mut missed) = (0u32, Missed::default());
    for node in state.nodes.values() {
        let there = super::gpus_of(node, window.class).0;
        total = total.saturating_add(there);
        match hindrance(state, node, window) {
            Ok(gpus) => {
                missed.unusable += there.saturating_sub(gpus.0);
                let is_busy = state.leases_of(&node.id).next().is_some();
                let facts = &node.facts;
                able.push(((is_busy, &facts.hall, &facts.rack, &node.id), gpus));
            }
            Err(why) => missed.count(there, why),
        }
    }
    able.sort_unstable();
    let (mut nodes, mut gpus) = (Vec::new(), GpuCount::ZERO);
    for ((.., node), there) in &able {
        if gpus >= wanted {
            break;
        }
        gpus = gpus.plus(*there);
        nodes.push((*node).clone());
    }
    if gpus >= wanted && !nodes.is_empty() {
        nodes.sort();
        return Ok(nodes);
    }
    Err(too_few(wanted, (gpus, total), window, &missed))
}

fn too_few(
    wanted: GpuCount,
    (able, total): (GpuCount, u32),
    window: &Window<'_>,
    missed: &Missed,
) -> Fault {
    let class = window.class.map_or_else(String::new, |class| alloc::format!(" of {class}"));
    let told = missed.told();
    let told = if told.is_empty() { told } else { alloc::format!(": {told}") };
    let message = alloc::format!(
        "{wanted} GPUs{class} cannot be reserved then: of {total} here {able} can{told}"
    );
    let hint = match missed.jobs.keys().next() {
        Some(job) => alloc::format!(
            "`--beside-jobs` lets them run on, {job} for one; or a later start, or fewer GPUs"
        ),
        None => "a later start, or fewer GPUs".into(),
    };
    Fault::new(FaultCode::Unplaceable, message).with_hint(hint)
}
