//! What becomes of attempts whose controllers are not heard, and of agents that stand still.

use rustix::process::{Pid, Signal, kill_process};
use specs::id::{Boot, LeaseId};
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
    stop_supervisors(&agent);
    controller.desk().mood = Mood::Silent;
    eventually("the end of the tasks", || alive_with(&mark).is_empty().then_some(()));
    controller.desk().mood = Mood::Leads;
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Fenced);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_stopped_does_not_outlive_its_agent_for_long() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    controller.order(LEASE, script(&format!("env -i setsid sleep {mark} & sleep {mark}")));
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    eventually("both tasks", || (alive_with(&mark).len() >= 2).then_some(()));
    stop_supervisors(&agent);
    agent.signal(Signal::KILL);
    agent.wait();
    assert!(!alive_with(&mark).is_empty());
    let _agent = Agent::start(&directory, None);
    let report =
        controller.wait("a second life", |report| (report.boot == Boot(2)).then(|| report.clone()));
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
    // Whoever killed it, it did not exit.
    let outcome = report.attempts[0].outcome.clone().unwrap();
    assert_eq!(outcome.ending, Ending::Lost);
}

fn stop_supervisors(agent: &Agent) {
    let family = agent.family();
    let supervisors = alive_with("SPILLWAY_SUPERVISOR=1");
    for pid in supervisors.into_iter().filter(|pid| family.contains(pid)) {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::STOP).unwrap();
    }
}
