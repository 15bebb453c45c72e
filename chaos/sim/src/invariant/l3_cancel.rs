//! L3: a cancelled job does not execute for longer than a loan and a lease after the cancel was
//! agreed, whatever is cut, unless it was told to wait out partitions. Source: the design, promise
//! L3.

use federation_core::State;
use specs::id::JobId;
use specs::job::OnPartition;
use specs::site::{KILL_BUDGET, surely_over};
use specs::unit::Millis;

use crate::invariant::Found;
use crate::oracle::with_room;
use crate::world::World;

/// When, after its cancel was agreed, a job must not execute any more.
pub(crate) fn due(state: &State, job: JobId) -> Millis {
    let terms = state.terms();
    let grace = state.jobs.get(&job).map(|job| job.spec().grace).unwrap_or_default();
    let spans = surely_over(terms.loan_term).plus(surely_over(terms.node_lease));
    with_room(spans.plus(grace).plus(KILL_BUDGET))
}

pub(crate) fn on_due(world: &World, site: usize, job: JobId) -> Found {
    let record = world.sites[site].log.job(&job);
    let waits = record.is_some_and(|it| it.spec().on_partition == OnPartition::Wait);
    let Some(parts) = world.oracle.executing.get(&job).filter(|_| !waits) else {
        return Found::new();
    };
    let names: Vec<String> = parts.iter().map(|part| world.node_name(part.at)).collect();
    vec![("L3: a cancel takes effect", format!("{job} still executes on {}", names.join(", ")))]
}
