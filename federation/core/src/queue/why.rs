//! What a waiting job waits for in the queue, before any site is looked at.

use alloc::string::String;
use alloc::vec::Vec;

use specs::wire::client::QueueWhy;

use crate::quota::{Bound, Taken};
use crate::state::{Job, JobPhase, State};

/// Nothing for a job that does not wait.
#[must_use]
pub fn queue_why(state: &State, job: &Job) -> Vec<QueueWhy> {
    let JobPhase::Queued(_) = job.phase else { return Vec::new() };
    let spec = job.spec();
    let bound = Taken::default().closed(state, job, &spec).err();
    bound.map(|bound| of_bound(&bound, spec.gpus().0)).into_iter().collect()
}

fn of_bound(bound: &Bound, asked: u32) -> QueueWhy {
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
