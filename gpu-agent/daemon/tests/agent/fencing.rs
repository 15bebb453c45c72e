//! What becomes of attempts whose controllers are not heard, and of agents that stand still.

use rustix::process::Signal;
use specs::id::LeaseId;
use specs::unit::Millis;
use specs::wire::agent::{AttemptPhase, Ending, ValidityKind};

use crate::controller::{Controller, Mood};
use crate::running::Agent;
use crate::support::{alive_with, clock, directory, eventually, script, unmistakable};

const LEASE: LeaseId = LeaseId(7);
const TERM: Millis = Millis(3_000);

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_ends_when_its_lease_runs_out() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    controller.desk().lease_term = TERM;
    controller.order(LEASE, script(&format!("trap '' TERM; setsid sleep {mark} & sleep {mark}")));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    let silent_since = clock().now();
    controller.desk().mood = Mood::Silent;
    eventually("the end of the tasks", || alive_with(&mark).is_empty().then_some(()));
    let span = clock().now().since(silent_since);
    assert!(span < TERM.plus(Millis(2_000)), "it took {span} ms");
    controller.desk().mood = Mood::Leads;
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_renewed_does_not_run_out() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.desk().lease_term = TERM;
    controller.order(LEASE, script("sleep 5; exit 9"));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    let outcome = ended.outcome.unwrap();
    assert_eq!((outcome.ending, outcome.exit_code), (Ending::Exited, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_waits_outlives_its_lease() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.desk().lease_term = Millis(1_500);
    controller.order(LEASE, script("sleep 4; exit 9"));
    controller.change(LEASE, |order| order.validity.kind = ValidityKind::Open);
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    controller.desk().mood = Mood::Silent;
    let exit = directory.join("attempts/lease-7/exit");
    eventually("the exit record", || exit.exists().then_some(()));
    controller.desk().mood = Mood::Leads;
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().exit_code, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_stopped_cannot_keep_its_attempts_alive() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    controller.desk().lease_term = TERM;
    controller.order(LEASE, script(&format!("trap '' TERM; sleep {mark}")));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    eventually("the task", || (!alive_with(&mark).is_empty()).then_some(()));
    let stopped_at = clock().now();
    agent.signal(Signal::STOP);
    eventually("the end of the tasks", || alive_with(&mark).is_empty().then_some(()));
    let span = clock().now().since(stopped_at);
    assert!(span < TERM.plus(Millis(2_000)), "it took {span} ms");
    agent.signal(Signal::CONT);
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_stopped_does_not_save_its_attempt() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    controller.desk().lease_term = TERM;
    controller.order(LEASE, script(&format!("sleep {mark}")));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    let family = agent.family();
    let supervisors = alive_with("SPILLWAY_SUPERVISOR=1");
    for pid in supervisors.into_iter().filter(|pid| family.contains(pid)) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, Signal::STOP).unwrap();
    }
    controller.desk().mood = Mood::Silent;
    eventually("the end of the tasks", || alive_with(&mark).is_empty().then_some(()));
    controller.desk().mood = Mood::Leads;
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Fenced);
}
