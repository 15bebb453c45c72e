//! Whoever starts on nodes that are kept for another is over before that one is forecast to start.
//! Source: Lifka, *The ANL/IBM SP Scheduling System*, 1995: backfill delays no reservation.

use federation_core::{Assignment, Command, Leader, Place, State};
use specs::unit::{Millis, Timestamp};

use crate::invariant::Found;
use crate::invariant::preemption::Claims;

/// How many assignments stand on kept nodes, and those that should not.
pub(crate) fn check(
    leader: &Leader,
    claims: &Claims,
    commands: &[Command],
    (state, at): (&State, Timestamp),
) -> (u64, Found) {
    let (mut beside, mut found) = (0, Found::new());
    let Some((kept_for, nodes, starts_at)) = leader.kept() else { return (beside, found) };
    let plans = commands.iter().filter_map(|it| {
        if let Command::CommitPlan(plan) = it { Some(&plan.assignments) } else { None }
    });
    let assignments: Vec<&Assignment> = plans.flatten().collect();
    if assignments.iter().any(|it| it.job == kept_for) {
        return (beside, found);
    }
    for it in assignments {
        let Place::Here(plan) = &it.place else { continue };
        // Whoever has room made for him goes before those for whom nodes are kept.
        let goes_first = claims.iter().any(|(job, _)| *job == it.job);
        if goes_first || !plan.parts.iter().any(|part| nodes.contains(&part.node)) {
            continue;
        }
        beside += 1;
        let Some(job) = state.jobs.get(&it.job) else { continue };
        let spec = job.spec();
        let ends_at = Timestamp(at.0 + spec.time_limit.0 + spec.grace.0);
        let in_time = starts_at.is_some_and(|starts_at| ends_at <= starts_at);
        if spec.time_limit == Millis::ZERO || !in_time {
            let detail = format!("{} starts on nodes kept for {kept_for} {starts_at:?}", it.job);
            found.push(("nobody delays a reservation", detail));
        }
    }
    (beside, found)
}
