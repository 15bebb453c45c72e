//! S2: an acknowledged submission is agreed, reaches an end, and the end is true: an exit status is
//! one that a process really had, and what was fenced, stopped or lost is not called finished.
//! Source: the design, promise S2; the prototype's "finished job that never did".

use std::ops::Bound::Included;

use federation_core::{Job, JobPhase, State};
use specs::id::{Epoch, JobId};
use specs::wire::agent::Ending;
use specs::wire::client::JobState;

use crate::invariant::Found;
use crate::world::World;

const LOST: &str = "S2: nothing acknowledged is lost";
const TRUE: &str = "S2: an end is true";

pub(crate) fn on_commit(world: &World, site: usize, after: &State) -> Found {
    let open = world.oracle.open.range((Included((site, JobId(0))), Included((site, LAST))));
    let ended = open.filter_map(|(_, id)| after.jobs.get(id)).filter(|job| job.has_ended());
    ended.flat_map(|job| end_is_true(world, job)).collect()
}

const LAST: JobId = JobId(u128::MAX);

fn end_is_true(world: &World, job: &Job) -> Found {
    let JobPhase::Ended(end) = &job.phase else { return Found::new() };
    let ending = end.outcome.ending;
    let wrong = |why: &str| {
        let detail = format!("{} ended as {} with {ending}: {why}", job.id, end.state);
        vec![(TRUE, detail)]
    };
    match end.state {
        JobState::Finished if ending != Ending::Exited => wrong("nothing exited"),
        JobState::Finished => {
            let code = end.outcome.exit_code;
            let mut tries = world.oracle.truth.range((job.id, Epoch(0))..=(job.id, job.epoch));
            if tries.any(|(_, truth)| truth.could_say(code)) {
                Found::new()
            } else {
                wrong(&format!("no process exited with {code}"))
            }
        }
        JobState::Cancelled if !job.cancel => wrong("nobody cancelled it"),
        JobState::Cancelled | JobState::Lost | JobState::Refused if ending == Ending::Exited => {
            wrong("it exited")
        }
        JobState::Cancelled | JobState::Lost | JobState::Refused => Found::new(),
        JobState::Queued | JobState::Starting | JobState::Running | JobState::Stopping => {
            wrong("which is no end")
        }
    }
}

/// After everything has healed.
pub(crate) fn at_the_end(world: &World) -> Found {
    let mut found = Found::new();
    for (id, site) in &world.oracle.acknowledged {
        let job = world.sites[*site].log.job(id);
        match job.map(|job| &job.phase) {
            Some(JobPhase::Ended(end)) => {
                let first = world.oracle.ends.get(id).map(|(_, outcome)| outcome);
                if first != Some(&end.outcome) {
                    found.push((TRUE, format!("the end of {id} changed")));
                }
            }
            Some(_) => found.push((LOST, format!("{id} has not ended"))),
            None => found.push((LOST, format!("{id} is unknown"))),
        }
    }
    found
}
