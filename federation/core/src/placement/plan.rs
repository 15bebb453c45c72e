//! `plan`: the queue against what is free here and what is held at peers. First fit in the order
//! of the queue, on the fullest nodes that will do; here before there, since what stands idle here
//! costs as much; there at the site that weighs least; a gang whole or not at all.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::id::{Epoch, GpuClass, JobId, ReservationName, Revision, SiteId};
use specs::job::JobSpec;
use specs::unit::{Millis, Timestamp};

use crate::command::{Assignment, LeasePlan, LoanPlan, PartPlan, Place};
use crate::placement::capacity::Capacity;
use crate::placement::fits;
use crate::placement::held::HeldMap;
use crate::placement::lookout::{Lookout, Seen};
use crate::placement::sites::{GRANT_AWAITED, REFUSAL_AVOIDED, Sites, Weighed};
use crate::queue::turns::{Order, Turns};
use crate::quota::{Charge, Taken};
use crate::state::{Job, State};

/// Most assignments of one plan.
pub(crate) const ASSIGNMENTS_MAX: usize = 1_024;
/// Most nodes of all assignments of one plan together, but for the last: a plan is one entry of
/// the log.
pub(crate) const PARTS_MAX: usize = 4_096;

/// What a plan proposes, and what it could not place.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Revision of the state that this was made from.
    pub base: Revision,
    pub assignments: Vec<Assignment>,
    /// Jobs that fit nowhere at present, in the order of the queue.
    pub waiting: Vec<JobId>,
    /// Those of them that may leave, and for how long they might have.
    pub leaving: Vec<(JobId, Millis)>,
    /// How long jobs had waited that get their first place here: class and nodes.
    pub waited: Vec<(GpuClass, u32, Millis)>,
    /// More jobs wait than were looked at.
    pub leaves_some: bool,
}

/// Proposes places for queued jobs, and has the lookout see them. `capacity` follows the state, and
/// has lost what the plan takes when this returns.
#[must_use]
pub(crate) fn plan(
    state: &State,
    order: &Order,
    capacity: &mut Capacity,
    lookout: &mut Lookout,
    sites: &Sites<'_>,
) -> Plan {
    let mut plan = Plan { base: state.revision, ..Plan::default() };
    let mut held: BTreeMap<SiteId, HeldMap<'_>> = BTreeMap::new();
    // What found no place finds none later in the same plan: all that a plan does is to take.
    let (mut full_here, mut full_there) = (BTreeSet::new(), BTreeSet::new());
    let mut parts = 0;
    let mut taken = Taken::default();
    let mut turns = Turns::new(state, order);
    while plan.assignments.len() < ASSIGNMENTS_MAX
        && parts < PARTS_MAX
        && let Some(job) = turns.next()
    {
        let seen = lookout.see(order.now, job);
        let spec = &seen.spec;
        // Whom quota binds waits for no capacity, and keeps none from others.
        let Ok(closed) = taken.closed(state, job, spec) else {
            // What is kept may be for one whom only this plan's gifts hold back.
            keep(state, order, capacity, job.id);
            continue;
        };
        let tried = (seen.ask.clone(), closed);
        let mut place = at_home(state, order, capacity, (job, seen, &tried), &mut full_here);
        let mut leaves = None;
        let home_could = || fits::may_be_here(state, &seen.spec) && capacity.could_hold(&seen.spec);
        if place.is_none()
            && let Some((weighed, since)) = may_leave(order, sites, (job, seen), home_could)
        {
            leaves = Some(since);
            if !full_there.contains(&tried) {
                let found = there((state, order.at), (spec, &weighed, since), &tried.1, &mut held);
                if let There::Nowhere = found {
                    full_there.insert(tried);
                }
                place = found.place();
            }
        }
        match place {
            Some((class, place)) => {
                plan.note_wait(order, job, (&class, &place));
                let charge = Charge::new(job, spec, Some(class));
                taken.take(&charge);
                turns.took(&charge);
                parts += usize::try_from(spec.nodes).unwrap_or(usize::MAX);
                plan.assignments.push(Assignment { job: job.id, after: job.epoch, place });
            }
            None => {
                plan.waiting.push(job.id);
                plan.leaving.extend(leaves.map(|since| (job.id, since)));
                keep(state, order, capacity, job.id);
            }
        }
    }
    plan.leaves_some = turns.leaves_some();
    capacity.lift_screen();
    plan
}

/// Leaves to the job what is kept for it. It has its turn first, so nothing of that is taken.
fn keep(state: &State, order: &Order, capacity: &mut Capacity, job: JobId) {
    if let Some(claim) = order.claims.iter().find(|claim| claim.job == job) {
        capacity.hide(&claim.nodes);
    } else if let Some(kept) = order.kept.as_ref().filter(|kept| kept.job == job) {
        capacity.set_aside(state, &kept.nodes);
    }
}

/// What a job asks for, and the classes that are closed to it.
type Tried = (Arc<[u8]>, Vec<GpuClass>);

/// A place on this site: where it may be beside others for a time, on what is reserved for its
/// account, on what is everybody's, and last on what is reserved and not needed yet.
fn at_home(
    state: &State,
    order: &Order,
    capacity: &mut Capacity,
    (job, seen, tried): (&Job, &Seen, &Tried),
    full: &mut BTreeSet<Tried>,
) -> Option<(GpuClass, Place)> {
    let (spec, closed) = (&*seen.spec, &tried.1);
    let mut place = None;
    if order.kept.as_ref().is_some_and(|kept| kept.leaves_in_time(spec, order.at)) {
        place = here(state, spec, |spec| capacity.take_aside(spec, closed));
    }
    let on_reserved = |capacity: &mut Capacity, begun: bool| {
        if state.reserved.is_empty() {
            return None;
        }
        let (account, at) = (job.account(), order.at);
        let may = |names: &[ReservationName]| {
            let mut all = names.iter().filter_map(|name| state.reservations.get(name));
            let is_open = all.clone().all(|it| !it.bars(&account, spec, at));
            is_open && (!begun || all.any(|it| it.is_on(at)))
        };
        here(state, spec, |spec| capacity.take_reserved((spec, &tried.0), closed, may))
    };
    place = place.or_else(|| on_reserved(capacity, true));
    if place.is_none() && !full.contains(tried) {
        place = here(state, spec, |spec| capacity.take(spec, closed, order.at));
        if place.is_none() {
            full.insert(tried.clone());
        }
    }
    place.or_else(|| on_reserved(capacity, false))
}

/// A place on this site, if the job may run there.
fn here(
    state: &State,
    spec: &JobSpec,
    take: impl FnOnce(&JobSpec) -> Option<(GpuClass, Vec<PartPlan>)>,
) -> Option<(GpuClass, Place)> {
    let site = state.site.as_ref()?;
    if !fits::may_go(state, spec, &site.site, site.country) {
        return None;
    }
    let (class, parts) = take(spec)?;
    Some((class, Place::Here(LeasePlan { parts })))
}

/// What the sites weigh for a job, and for how long it might have left; none if it is to wait.
fn may_leave(
    order: &Order,
    sites: &Sites<'_>,
    (job, seen): (&Job, &Seen),
    home_could: impl FnOnce() -> bool,
) -> Option<(Arc<Weighed>, Millis)> {
    let waited = order.now.since(seen.since);
    let weighed = sites.weigh(job, seen);
    let patience = weighed.patience(home_could);
    (waited >= patience).then(|| (weighed, waited.minus(patience)))
}

/// Where a job goes that leaves.
enum There {
    To(GpuClass, LoanPlan),
    /// A better site has room, and is given time to grant it.
    Later,
    Nowhere,
}

impl There {
    fn place(self) -> Option<(GpuClass, Place)> {
        match self {
            Self::To(class, loan) => Some((class, Place::There(loan))),
            Self::Later | Self::Nowhere => None,
        }
    }
}

/// The best site that holds enough for the job. What is held at a peer is counted once for a plan,
/// when the first job asks.
fn there<'a>(
    (state, at): (&'a State, Timestamp),
    (spec, weighed, since): (&JobSpec, &Weighed, Millis),
    closed: &[GpuClass],
    held: &mut BTreeMap<SiteId, HeldMap<'a>>,
) -> There {
    let mut better = None;
    for candidate in weighed.candidates.iter().filter(|it| !closed.contains(&it.class)) {
        let is_worth_waiting = better.is_some_and(|total| {
            let is_better = total < candidate.total;
            (is_better && since < GRANT_AWAITED)
                || (candidate.has_refused && since < REFUSAL_AVOIDED)
        });
        if is_worth_waiting {
            return There::Later;
        }
        let site = &candidate.site;
        let map = held.entry(site.clone()).or_insert_with(|| HeldMap::of(state, site, at));
        if let Some((class, slots)) = map.take(spec, &candidate.class) {
            return There::To(class, LoanPlan { peer: site.clone(), slots });
        }
        // Who comes first is late only if all are that have not refused the job.
        if candidate.has_room {
            better.get_or_insert(candidate.total);
        }
    }
    There::Nowhere
}

impl Plan {
    /// Notes how long a job waited that gets its first place here.
    fn note_wait(&mut self, order: &Order, job: &Job, (class, place): (&GpuClass, &Place)) {
        if let (Epoch(0), Place::Here(lease)) = (job.epoch, place) {
            let waited = Millis(order.at.0.saturating_sub(job.submitted_at.0));
            let nodes = u32::try_from(lease.parts.len()).unwrap_or(u32::MAX);
            self.waited.push((class.clone(), nodes, waited));
        }
    }
}
