//! Whether a job can still end in time. Who is late runs on: nobody is better off if it is stopped.

use alloc::string::String;

use specs::unit::{Millis, Timestamp};
use specs::wire::client::QueueWhy;

use crate::leader::Leader;
use crate::placement::sites::run_of;
use crate::placement::why::span;
use crate::state::{Job, State};

/// What a waiting job's deadline asks for; nothing without one.
pub(crate) fn why(state: &State, leader: &Leader, at: Timestamp, job: &Job) -> Option<QueueWhy> {
    let due = job.due()?;
    let between = |one: Timestamp, other: Timestamp| span(Millis(other.0.saturating_sub(one.0)));
    let say = |constraint: String, change: String| Some(QueueWhy { constraint, change });
    if at > due {
        let passed = between(due, at);
        return say(
            alloc::format!("its deadline passed {passed} ago; it still runs when it can"),
            String::new(),
        );
    }
    let run = run_of(state, job, &job.spec());
    let latest = Timestamp(due.0.saturating_sub(run.0));
    let (takes, left) = (span(run), between(at, due));
    if at > latest {
        let late = between(latest, at);
        return say(
            alloc::format!("cannot be expected to end by its deadline in {left}: it takes {takes}"),
            alloc::format!("a deadline {late} later, or a shorter spec.time.limit"),
        );
    }
    let kept = leader.kept().filter(|(kept, _, _)| *kept == job.id);
    if let Some(starts_at) = kept.and_then(|(_, _, starts_at)| starts_at).filter(|it| *it > latest)
    {
        let (starts, late) = (between(at, starts_at), between(latest, starts_at));
        return say(
            alloc::format!("is forecast to start in {starts}, too late for its deadline in {left}"),
            alloc::format!("a start {late} sooner"),
        );
    }
    let within = between(at, latest);
    say(
        alloc::format!("has to start within {within} for its deadline in {left}: it takes {takes}"),
        String::new(),
    )
}
