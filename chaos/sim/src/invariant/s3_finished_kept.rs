//! S3: a result is kept where it ran until its home has it, whoever could not hear whom meanwhile.
//! So: an agent or a host forgets an exit only when whoever must know it does; a new life's
//! registration loses no result; a report is recorded as it was; and no attempt follows one that is
//! known to have exited. Source: the design, promise S3.

use federation_core::{Command, Job, State};
use gpu_agent_core::Known;
use specs::id::LeaseId;
use specs::wire::agent::{AttemptReport, Ending, Outcome};

use crate::invariant::Found;
use crate::oracle::has_exited;
use crate::world::{NodeRef, World};

const KEPT: &str = "S3: finished work is kept";

pub(crate) fn on_commit(
    world: &World,
    site: usize,
    command: &Command,
    before: &State,
    after: &State,
) -> Found {
    if let Command::RegisterNode(it) = command {
        let node = world.sites[site].nodes.iter().position(|node| node.id == it.node);
        let Some(at) = node.map(|node| NodeRef { site, node }) else { return Found::new() };
        return registration_loses_nothing(world, at, before, after);
    }
    if let Command::CommitPlan(_) = command {
        let begun = after
            .jobs
            .values()
            .filter(|job| before.jobs.get(&job.id).is_some_and(|before| before.epoch != job.epoch));
        return begun.flat_map(|job| nothing_was_finished(world, job)).collect();
    }
    if let Command::ObeyPeer(it) = command {
        let guests = before.guests_of(&it.peer).filter(|guest| !after.guests.contains(&guest.key));
        let exited = guests.filter(|guest| is_exit(guest.outcome.as_ref()));
        let unknown = exited.filter(|guest| {
            let key = &guest.key;
            let known = Known { home: key.home.clone(), job: key.job, epoch: key.epoch };
            !home_has_it(world, &known)
        });
        let forgotten = |guest: &federation_core::Guest| {
            let (job, epoch) = (guest.key.job, guest.key.epoch);
            (KEPT, format!("the host forgets how epoch {epoch} of {job} exited"))
        };
        return unknown.map(forgotten).collect();
    }
    Found::new()
}

fn is_exit(outcome: Option<&Outcome>) -> bool {
    outcome.is_some_and(|it| it.ending == Ending::Exited)
}

/// Whatever exited on the node in an earlier life is recorded before its new life is.
fn registration_loses_nothing(world: &World, at: NodeRef, before: &State, after: &State) -> Found {
    let node = &world.node(at).id;
    let mut found = Found::new();
    for lease in before.leases_of(node) {
        let truth = world.oracle.truth.get(&(lease.job, lease.epoch));
        let exited = truth.is_some_and(|truth| truth.exits.contains_key(&at));
        let gone = after
            .leases
            .get(&lease.id)
            .and_then(|it| it.part(node))
            .is_none_or(|part| part.outcome.is_some());
        if exited && gone {
            let detail = format!("{} had exited on {node}, and is given up", lease.id);
            found.push((KEPT, detail));
        }
    }
    found
}

/// No attempt follows one that is known to have exited, and one that exited may only have been
/// given up, never recorded as something else.
fn nothing_was_finished(world: &World, job: &Job) -> Found {
    let mut found = Found::new();
    for attempt in job.attempts.iter().filter(|it| it.epoch < job.epoch) {
        let truth = world.oracle.truth.get(&(job.id, attempt.epoch));
        if !truth.is_some_and(crate::oracle::Truth::has_exited) {
            continue;
        }
        let ending = attempt.outcome.as_ref().map(|it| it.ending);
        if ending != Some(Ending::Lost) {
            let detail = format!(
                "epoch {} of {} exited and is recorded as {ending:?}; epoch {} follows",
                attempt.epoch, job.id, job.epoch
            );
            found.push((KEPT, detail));
        }
    }
    found
}

fn home_has_it(world: &World, known: &Known) -> bool {
    let Some(home) = world.site_index(&known.home) else { return false };
    let Some(job) = world.sites[home].log.job(&known.job) else { return false };
    let attempt = job.attempts.iter().find(|it| it.epoch == known.epoch);
    job.has_ended()
        || job.kept.is_some()
        || attempt.is_none_or(|attempt| is_exit(attempt.outcome.as_ref()))
}

/// The host holds it for the home.
fn host_has_it(world: &World, at: NodeRef, lease: LeaseId, known: &Known) -> bool {
    let state = world.sites[at.site].log.latest();
    let record = state.leases.get(&lease).or_else(|| state.lapsed.get(&lease));
    let part = record.and_then(|it| it.part(&world.node(at).id));
    let mut guests = state.guests_of(&known.home);
    part.is_some_and(|part| is_exit(part.outcome.as_ref()))
        || guests.any(|guest| {
            guest.key.job == known.job
                && guest.key.epoch == known.epoch
                && is_exit(guest.outcome.as_ref())
        })
}

/// An agent forgets how an attempt ended.
pub(crate) fn on_forget(world: &World, at: NodeRef, report: &AttemptReport) -> Found {
    let Some(known) = world.oracle.leases.get(&(at.site, report.lease)) else {
        return Found::new();
    };
    let truth = world.oracle.truth.get(&(known.job, known.epoch));
    // A gang is finished only as a whole.
    let finished = has_exited(report) && truth.is_some_and(crate::oracle::Truth::has_exited);
    if !finished || home_has_it(world, known) || host_has_it(world, at, report.lease, known) {
        return Found::new();
    }
    let (name, lease) = (world.node_name(at), report.lease);
    let detail = format!(
        "{name} forgets how {lease} exited; {} does not know of epoch {} of {}",
        known.home, known.epoch, known.job
    );
    vec![(KEPT, detail)]
}
