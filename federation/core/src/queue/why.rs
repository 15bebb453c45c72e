//! What a waiting job waits for in the queue, before any site is looked at.

use alloc::string::String;
use alloc::vec::Vec;

use specs::unit::Timestamp;
use specs::wire::client::QueueWhy;

use crate::leader::Leader;
use crate::placement::sites::deadline;
use crate::queue::kept::Keeper;
use crate::queue::preempt::{PREEMPTIONS_MAX, still_there};
use crate::quota::{Bound, Taken};
use crate::reserve;
use crate::state::{Job, JobPhase, State};

/// Nothing for a job that does not wait. The leader tells what the last plan saw.
#[must_use]
pub fn queue_why(state: &State, leader: &Leader, at: Timestamp, job: &Job) -> Vec<QueueWhy> {
    let JobPhase::Queued(_) = job.phase else { return Vec::new() };
    let spec = job.spec();
    let bound = Taken::default().closed(state, job, &spec).err();
    let bound = bound.map(|bound| of_bound(&bound, spec.gpus().0));
    let mut found: Vec<QueueWhy> = of_stops(state, job)
        .or(bound)
        .or_else(|| of_turn(leader.keeper(), at, job))
        .into_iter()
        .collect();
    let reserved = reserve::why(state, at, job);
    found.extend(reserved.into_iter().map(|(constraint, change)| QueueWhy { constraint, change }));
    found.extend(of_preemption(at, job));
    found.extend(deadline::why(state, leader, at, job));
    found
}

/// Who is being stopped for it.
fn of_stops(state: &State, job: &Job) -> Option<QueueWhy> {
    let leaving: Vec<String> = still_there(state, job).map(|id| alloc::format!("{id}")).collect();
    if leaving.is_empty() {
        return None;
    }
    let constraint = alloc::format!("stopped for it, and still there: {}", leaving.join(", "));
    Some(QueueWhy { constraint, change: String::from("time: until they have ended") })
}

/// Who it was stopped for.
fn of_preemption(at: Timestamp, job: &Job) -> Option<QueueWhy> {
    let preempted = job.attempts.last()?.preempted.as_ref()?;
    let seconds = at.0.saturating_sub(preempted.at.0) / 1_000;
    let left = PREEMPTIONS_MAX.saturating_sub(job.preemptions);
    let constraint = alloc::format!(
        "stopped {seconds} s ago for {}, and may be {left} times more",
        preempted.by
    );
    Some(QueueWhy { constraint, change: String::new() })
}

/// Where the job stands, and what is kept for it.
fn of_turn(keeper: &Keeper, at: Timestamp, job: &Job) -> Option<QueueWhy> {
    let before = keeper.before(job.id)?;
    let Some(kept) = keeper.kept().filter(|kept| kept.job == job.id) else {
        // Who is first, and has nothing kept for it, is bound by what its sites say.
        if before == 0 {
            return None;
        }
        let constraint =
            alloc::format!("{before} jobs that wait for room have their turn before it");
        return Some(QueueWhy { constraint, change: String::from("its priority, or more room") });
    };
    let nodes = kept.nodes.len();
    let constraint = alloc::format!("{nodes} nodes are kept for it until all of them are free");
    let off = keeper.off().map(|off| alloc::format!("; forecasts were {} s off", off.0 / 1_000));
    let change = match kept.starts_at {
        Some(starts_at) => {
            let seconds = starts_at.0.saturating_sub(at.0) / 1_000;
            alloc::format!("time: some {seconds} s{}", off.unwrap_or_default())
        }
        None => String::from("time: nobody knows how long those run that are there"),
    };
    Some(QueueWhy { constraint, change })
}

pub(crate) fn of_bound(bound: &Bound, asked: u32) -> QueueWhy {
    let change = match bound {
        Bound::Account { account, class, max, used } => {
            let of = class.as_ref().map(|class| alloc::format!(" --class {class}"));
            let needed = u64::from(used.0) + u64::from(asked);
            let over = needed.saturating_sub(u64::from(max.0));
            let set = alloc::format!(
                "federation quota set {account}{} --max {needed}",
                of.unwrap_or_default()
            );
            alloc::format!("{over} GPUs less in use by it, or `{set}`")
        }
        Bound::Array { .. } => String::from("the end of one of them, or spec.array.maxRunning"),
    };
    QueueWhy { constraint: alloc::format!("{bound}; the job asks {asked}"), change }
}
