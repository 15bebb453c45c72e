//! Makes room for jobs that wait: who is to be stopped for them, and which nodes are kept until they
//! have what they need. The log decides whether anybody is stopped.
//!
//! A claim is made anew each time from what is free and what is being stopped, so that it does not
//! matter who led when the stops were decided.
//!
//! # Invariants
//! * Outside the log: a lost or wrong claim costs time, or another stop, and nothing else.
//! * What is being stopped for one job counts for no other whose turn comes later.
//! * Nodes and leases are walked at most once in [`LOOKED_EVERY`], and only if a job waits that goes
//!   before one that runs, or is due something.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{GpuClass, JobId, LeaseId, NodeId};
use specs::job::{JobSpec, Needs};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};

use crate::command::{Assignment, AttemptKey, Place, PreemptJobs};
use crate::leader::saves::Saves;
use crate::placement::board::{Board, Room, Wanted};
use crate::placement::fits;
use crate::placement::lookout::Lookout;
use crate::queue::kept::Kept;
use crate::queue::preempt::{Case, Pending, SINCE, VICTIMS_MAX};
use crate::reserve;
use crate::state::{Gpu, Job, Lease, Node, State, StopReason};
use crate::table::Table;

const LOOKED_EVERY: Millis = Millis(1_000);
/// By then nodes that are heard have told a new leader what is saved.
const TOLD_AFTER: Millis = Millis(2_000);
/// Jobs for which room is made at a time.
const CANDIDATES_MAX: usize = 64;
/// How often another set is tried if those chosen may not all be stopped together.
const TRIES_MAX: usize = 8;

/// Nodes that are kept for a job while others are being stopped there.
#[derive(Debug, Clone)]
pub(crate) struct Claim {
    pub job: JobId,
    pub nodes: Vec<NodeId>,
    class: GpuClass,
    /// Of each node.
    gpus: u32,
    /// Those of whom the log may not have heard yet.
    victims: Vec<JobId>,
}

impl Claim {
    /// Whether all nodes have, or will soon have, what the job needs.
    fn holds(&self, state: &State) -> bool {
        let waits = state.jobs.get(&self.job).is_some_and(|job| job.is_queued() && !job.cancel);
        let has_room = |id: &NodeId| {
            let node = state.nodes.get(id).filter(|node| node.is_usable());
            let node = node.filter(|node| !reserve::is_reserved(state, &node.id));
            node.is_some_and(|node| self.counts(state, node) >= self.gpus)
        };
        waits && self.nodes.iter().all(has_room)
    }

    fn counts(&self, state: &State, node: &Node) -> u32 {
        let comes = |gpu: &&Gpu| {
            if gpu.info.class != self.class || gpu.grant.is_some() || !gpu.is_fit() {
                return false;
            }
            let user = node.alone.or(gpu.lease).and_then(|id| state.leases.get(&id));
            match user {
                Some(lease) => lease.stop.is_some() || self.victims.contains(&lease.job),
                None => gpu.is_free(),
            }
        };
        u32::try_from(node.gpus.iter().filter(comes).count()).unwrap_or(u32::MAX)
    }
}

/// The leader's memory of the room that is being made.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clearing {
    /// Whose turn comes first stands first.
    claims: Vec<Claim>,
    looked_at: Option<Instant>,
    rivals: Rivals,
}

/// How many own jobs of each priority run here and might be stopped for another. Follows from the
/// leases: a look costs as much as was written since the last one.
#[derive(Debug, Clone, Default)]
struct Rivals {
    /// What this follows from.
    seen: Table<LeaseId, Lease>,
    /// Invariant: no entry is zero.
    counts: BTreeMap<u32, usize>,
}

impl Rivals {
    fn follow(&mut self, state: &State) {
        let mut changed = Vec::new();
        state.leases.changed_since(&self.seen, |id| changed.push(*id));
        let before = core::mem::replace(&mut self.seen, state.leases.clone());
        let counts = |lease: &&Lease| lease.spec.is_preemptible() && state.is_own(&lease.home);
        for id in changed {
            if let Some(lease) = before.get(&id).filter(counts) {
                let count = self.counts.entry(lease.spec.priority).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&lease.spec.priority);
                }
            }
            if let Some(lease) = state.leases.get(&id).filter(counts) {
                *self.counts.entry(lease.spec.priority).or_default() += 1;
            }
        }
    }

    /// The least of their priorities; none if there is nobody.
    fn least(&self) -> Option<u32> {
        self.counts.keys().next().copied()
    }
}

/// What the last plan saw.
pub(crate) struct Seen<'a> {
    /// Jobs that found no place, in the order of their turns.
    pub waiting: &'a [JobId],
    pub assignments: &'a [Assignment],
    pub lookout: &'a Lookout,
    pub kept: Option<&'a Kept>,
    pub saves: &'a Saves,
    /// Since when this leader leads.
    pub since: Instant,
}

impl Clearing {
    pub(crate) fn claims(&self) -> &[Claim] {
        &self.claims
    }

    /// What of it does not follow from the state; nothing if all does. Linear in the leases.
    pub(crate) fn violations(&mut self, state: &State) -> Vec<String> {
        self.rivals.follow(state);
        let mut again = Rivals::default();
        again.follow(state);
        let (known, is) = (&self.rivals.counts, &again.counts);
        let differ =
            || alloc::format!("by priority there are taken to be {known:?}, and are {is:?}");
        (known != is).then(differ).into_iter().collect()
    }

    /// Before a plan: drops what is not needed any more, or will not come.
    pub(crate) fn review(&mut self, state: &State) {
        self.claims.retain(|claim| claim.holds(state));
    }

    /// After a plan: who is to be stopped for whom.
    pub(crate) fn make(
        &mut self,
        now: Instant,
        at: Timestamp,
        state: &State,
        seen: &Seen<'_>,
    ) -> Vec<PreemptJobs> {
        // Who was placed, or whom quota holds back, needs no room.
        self.claims.retain(|claim| seen.waiting.contains(&claim.job));
        if state.version < SINCE {
            return Vec::new();
        }
        let is_early = self.looked_at.is_some_and(|last| now.since(last) < LOOKED_EVERY)
            || now.since(seen.since) < TOLD_AFTER;
        if is_early || seen.waiting.is_empty() {
            return Vec::new();
        }
        self.rivals.follow(state);
        let least = self.rivals.least();
        let candidates = least.map_or_else(Vec::new, |least| candidates(state, seen, least));
        if candidates.is_empty() {
            // Nobody is left who could leave for anybody: what is free is everybody's. A job that has not
            // been placed there by now asks for more than a claim looks at.
            self.claims.clear();
            return Vec::new();
        }
        self.looked_at = Some(now);
        self.claims.clear();
        let mut commands = Vec::new();
        let avoided = seen.kept.map(|kept| kept.nodes.as_slice()).unwrap_or_default();
        let mut pending = Pending::of(state);
        let mut board = Board::of(state, (at, seen.saves), &given(seen.assignments), avoided);
        for (job, spec) in candidates {
            let Some((class, room)) = find(state, &board, &pending, (job, spec)) else { continue };
            pending.promise(job, spec, class);
            for lease in room.tenants.iter().map(|it| board.tenants()[*it].lease) {
                if let Some(victim) = state.jobs.get(&lease.job) {
                    pending.lose(victim, lease, class);
                }
            }
            board.claim(&room, spec);
            let key = |it: &usize| {
                let lease = board.tenants()[*it].lease;
                AttemptKey { job: lease.job, epoch: lease.epoch }
            };
            let victims: Vec<AttemptKey> = room.tenants.iter().map(key).collect();
            self.claims.push(Claim {
                job: job.id,
                nodes: board.nodes(&room),
                class: class.clone(),
                gpus: spec.gpus_per_node.0,
                victims: victims.iter().map(|key| key.job).collect(),
            });
            if !victims.is_empty() {
                let (after, times) = (job.epoch, job.room_made());
                let class = class.clone();
                commands.push(PreemptJobs { job: job.id, after, times, class, victims, at });
            }
        }
        commands
    }
}

/// What a plan gives away on each node.
fn given(assignments: &[Assignment]) -> BTreeMap<NodeId, u32> {
    let mut given = BTreeMap::new();
    for it in assignments {
        let Place::Here(plan) = &it.place else { continue };
        for part in &plan.parts {
            let gpus = u32::try_from(part.gpus.len()).unwrap_or(u32::MAX);
            *given.entry(part.node.clone()).or_default() += gpus;
        }
    }
    given
}

/// The jobs for which somebody might have to leave, the most urgent first.
fn candidates<'a>(state: &'a State, seen: &'a Seen<'_>, least: u32) -> Vec<(&'a Job, &'a JobSpec)> {
    let is_promised = || {
        let mut limits = state.quotas.values().flat_map(|quota| &quota.limits);
        limits.any(|limit| limit.guaranteed > GpuCount::ZERO)
    };
    let mut promised = None;
    let mut goes_before = |priority: u32| {
        priority > least || (priority == least && *promised.get_or_insert_with(is_promised))
    };
    let mut found: Vec<(&Job, &JobSpec)> = Vec::new();
    for id in seen.waiting {
        let (Some(job), Some(it)) = (state.jobs.get(id), seen.lookout.get(*id)) else { continue };
        let spec = &*it.spec;
        if can_be_cleared_for(&spec.needs)
            && goes_before(spec.priority)
            && fits::may_be_here(state, spec)
        {
            found.push((job, spec));
        }
    }
    found.sort_by_key(|(job, _)| job.queue_key().rank);
    found.truncate(CANDIDATES_MAX);
    found
}

/// Whether it can be told which nodes would do once somebody has left. Parts of GPUs are never freed
/// alone, of a gang in several places nobody seeks all, and which proofs will do is a matter of time.
fn can_be_cleared_for(needs: &Needs) -> bool {
    let together = needs.together.as_ref().filter(|it| it.required);
    let is_of_whole_gpus = needs.gpu_milli == 0 && !needs.exclusive;
    is_of_whole_gpus && needs.proof.is_none() && together.is_none_or(|it| it.group_nodes == 0)
}

/// The class on which room for the job costs least, and the room.
fn find<'a>(
    state: &State,
    board: &Board<'a>,
    pending: &Pending,
    (job, spec): (&Job, &JobSpec),
) -> Option<(&'a GpuClass, Room)> {
    let nodes = usize::try_from(spec.nodes).ok()?;
    let mut best: Option<(&GpuClass, Room)> = None;
    for class in board.classes() {
        let Some(case) = Case::new(state, job, spec, class, pending.clone()) else { continue };
        let wanted = Wanted { class, nodes, gpus: spec.gpus_per_node.0, needs: &spec.needs };
        let Some(room) = allowed(board, &case, &wanted) else { continue };
        let is_better =
            best.as_ref().is_none_or(|(_, known)| board.cost(&room) < board.cost(known));
        if is_better {
            best = Some((class, room));
        }
    }
    best.filter(|(_, room)| !room.tenants.is_empty() || is_meant(state, board, job, room))
}

/// Whether those who leave without being told again leave for the job, or for a less urgent one.
fn is_meant(state: &State, board: &Board<'_>, job: &Job, room: &Room) -> bool {
    board.stopping(room).any(|id| {
        let lease = state.leases.get(&id).filter(|it| it.stop == Some(StopReason::Preempted));
        let other = lease.and_then(|lease| state.jobs.get(&lease.job));
        let attempt = other.and_then(|other| other.attempt(other.epoch));
        let by = attempt.and_then(|attempt| attempt.preempted.as_ref()).map(|it| it.by);
        let by = by.and_then(|by| state.jobs.get(&by));
        by.is_some_and(|by| by.id == job.id || job.queue_key().rank < by.queue_key().rank)
    })
}

/// The cheapest room whose tenants may all be stopped together.
fn allowed(board: &Board<'_>, case: &Case<'_>, wanted: &Wanted<'_>) -> Option<Room> {
    let mut open: Vec<bool> =
        board.tenants().iter().map(|tenant| case.may_stop(tenant.lease)).collect();
    for _ in 0..TRIES_MAX {
        let room = board.make_room(wanted, &open)?;
        let mut case = case.clone();
        let refused = room.tenants.iter().find(|tenant| {
            let lease = board.tenants()[**tenant].lease;
            let may = case.may_stop(lease);
            case.stop(lease);
            !may
        });
        match refused {
            Some(refused) => open[*refused] = false,
            None if room.tenants.len() > VICTIMS_MAX => return None,
            None => return Some(room),
        }
    }
    None
}
