//! An agent under the orders of a controller.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use fabric_quic::token::Token;
use rustix::process::{Pid, Signal, kill_process};
use specs::fault::{Fault, FaultCode};
use specs::gpu::InventorySource;
use specs::id::{Boot, LeaseId, SiteId};
use specs::unit::{GpuCount, Millis};
use specs::wire::agent::{AttemptPhase, Ending, LogStream, NodeLogs, Want};

use crate::controller::{Controller, Mood, logs_of};
use crate::support::{AGENT, alive_with, directory, eventually, output, script, unmistakable};

const LEASE: LeaseId = LeaseId(7);

/// An agent that runs.
pub(crate) struct Agent {
    pub(crate) directory: PathBuf,
    child: Child,
    /// Where its log goes.
    log: PathBuf,
}

impl Agent {
    pub(crate) fn start(directory: &Path, token: Option<&Token>) -> Self {
        Self::start_with(directory, token, &["--declare", "b200:4"])
    }

    pub(crate) fn start_with(directory: &Path, token: Option<&Token>, args: &[&str]) -> Self {
        Self::start_in(directory, token, args, &[])
    }

    pub(crate) fn start_in(
        directory: &Path,
        token: Option<&Token>,
        args: &[&str],
        environment: &[(&str, PathBuf)],
    ) -> Self {
        let log = directory.join("agent.log");
        let options = fs::File::options().append(true).create(true).open(&log).unwrap();
        let mut command = Command::new(AGENT);
        command.arg("run").arg("--dir").arg(directory).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(options);
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        command.envs(environment.iter().cloned());
        if let Some(token) = token {
            command.env("SPILLWAY_ENROL_TOKEN", token.to_text());
        }
        Self { directory: directory.to_owned(), child: command.spawn().unwrap(), log }
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually("the agent's end", || self.child.try_wait().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Everything that it started and that is alive.
    pub(crate) fn family(&self) -> Vec<i32> {
        alive_with(&format!("SPILLWAY_AGENT_DIR={}", self.directory.display()))
    }

    fn stdout(&self) -> String {
        output(&self.directory, "lease-7", 0, LogStream::Stdout)
    }

    pub(crate) fn wait_for_output(&self, text: &str) {
        eventually(text, || self.stdout().contains(text).then_some(()));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = std::io::stderr().write_all(self.log().as_bytes());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_runs_to_its_end_and_is_forgotten() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("echo hello; exit 3"));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    let report = controller.wait("a report", |report| Some(report.clone()));
    assert_eq!(report.boot, Boot(1));
    assert_eq!(report.inventory.source, InventorySource::Declared);
    assert_eq!(report.inventory.gpus.len(), 4);
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    let outcome = ended.outcome.unwrap();
    assert_eq!((outcome.ending, outcome.exit_code), (Ending::Exited, 3));
    assert!(ended.ended_at >= ended.started_at);
    controller.withdraw(LEASE);
    controller.wait("no attempts", |report| report.attempts.is_empty().then_some(()));
    // What it wrote can still be read.
    let chunk = controller.logs(&logs_of(LEASE)).await.unwrap();
    assert_eq!((chunk.data.0.as_slice(), chunk.end), (&b"hello\n"[..], true));
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_stop_stops() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let text = "trap 'echo asked; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    controller.order(LEASE, script(text));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    agent.wait_for_output("ready");
    controller.change(LEASE, |order| order.want = Want::Stop);
    controller.nudge().await;
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Stopped);
    agent.wait_for_output("asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_is_no_longer_named_is_stopped() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("sleep 100000"));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    controller.withdraw(LEASE);
    controller.wait("no attempts", |report| report.attempts.is_empty().then_some(()));
    assert_eq!(agent.family(), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nudge_is_answered_by_a_report() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait("a report", |_| Some(()));
    let clock = crate::support::clock();
    // In one second there are a few reports without any nudge; there are many with them.
    let (begun, before) = (clock.now(), controller.desk().reports);
    while controller.desk().reports < before + 20 {
        controller.nudge().await;
        let span = clock.now().since(begun);
        assert!(span < Millis(15_000), "20 reports take more than {span} ms");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_does_not_have_is_refused() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut spec = script("exit 0");
    spec.gpus_per_node = GpuCount(5);
    controller.order(LEASE, spec);
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    let outcome = ended.outcome.unwrap();
    assert_eq!(outcome.ending, Ending::Refused);
    assert_eq!(outcome.detail, "this node has no GPU 4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_has_one_user() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("sleep 100000"));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    controller.order(LeaseId(8), script("exit 0"));
    let ended = controller.wait_for_phase(LeaseId(8), AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_is_shared_as_far_as_it_goes() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let part = |milli: u32, text: &str| {
        let mut spec = script(text);
        spec.gpus_per_node = GpuCount(1);
        spec.needs.0.gpu_milli = milli;
        spec
    };
    controller.order(LEASE, part(600, "sleep 100000"));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    controller.order(LeaseId(8), part(400, "sleep 100000"));
    controller.wait_for_phase(LeaseId(8), AttemptPhase::Running);
    controller.order(LeaseId(9), part(1, "exit 0"));
    let ended = controller.wait_for_phase(LeaseId(9), AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Refused);
    // All of it is more than what is left, too.
    let mut whole = script("exit 0");
    whole.gpus_per_node = GpuCount(1);
    controller.order(LeaseId(10), whole);
    let ended = controller.wait_for_phase(LeaseId(10), AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_followed_while_the_task_writes() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let gate = directory.join("gate");
    let text = format!("echo one; until test -e {}; do sleep 0.05; done; echo two", gate.display());
    controller.order(LEASE, script(&text));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    let follow = |offset| NodeLogs { offset, wait: Millis(30_000), ..logs_of(LEASE) };
    let first = controller.logs(&follow(0)).await.unwrap();
    assert_eq!((first.data.0.as_slice(), first.end), (&b"one\n"[..], false));
    // Nothing more is there, and nobody waits.
    let none = controller.logs(&NodeLogs { offset: 4, ..logs_of(LEASE) }).await.unwrap();
    assert_eq!((none.data.0.len(), none.end), (0, false));
    let open_the_gate = async { fs::write(&gate, "").unwrap() };
    let asked = follow(4);
    let (second, ()) = tokio::join!(controller.logs(&asked), open_the_gate);
    let second = second.unwrap();
    assert_eq!(second.data.0, b"two\n");
    controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    let last = controller.logs(&follow(8)).await.unwrap();
    assert_eq!((last.data.0.len(), last.end), (0, true));
    let piece = controller.logs(&NodeLogs { offset: 2, max_bytes: 3, ..logs_of(LEASE) }).await;
    let piece = piece.unwrap();
    assert_eq!((piece.data.0.as_slice(), piece.end), (&b"e\nt"[..], false));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_that_is_not_here_is_not_found() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("echo one; echo two >&2"));
    let _agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    let other_home = NodeLogs { home: SiteId::new("giga").unwrap(), ..logs_of(LEASE) };
    for asked in [logs_of(LeaseId(9)), other_home, NodeLogs { task: 1, ..logs_of(LEASE) }] {
        let fault = controller.logs(&asked).await.unwrap_err();
        assert_eq!(fault.code, FaultCode::NotFound, "{fault}");
    }
    let stderr = NodeLogs { stream: LogStream::Stderr, ..logs_of(LEASE) };
    assert_eq!(controller.logs(&stderr).await.unwrap().data.0, b"two\n");
    let beyond = NodeLogs { offset: u64::MAX, ..logs_of(LEASE) };
    // Whatever is said of it, the agent lives.
    let _ = controller.logs(&beyond).await;
    assert!(controller.logs(&logs_of(LEASE)).await.unwrap().end);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_told_to_end_ends_its_attempts_and_says_so() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller
        .order(LEASE, script("trap 'echo asked; exit 0' TERM; echo ready; sleep 100000 & wait"));
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    agent.wait_for_output("ready");
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait().code(), Some(0));
    assert_eq!(agent.family(), Vec::<i32>::new());
    let report = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(report.outcome.unwrap().ending, Ending::Lost);
    agent.wait_for_output("asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_leaves_nothing_and_its_next_life_tells_the_truth() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    controller.order(LEASE, script(&format!("setsid sleep {mark} & sleep {mark}")));
    controller.order(LeaseId(8), script("exit 4"));
    controller.change(LeaseId(8), |order| {
        let launch = order.launch.as_mut().unwrap();
        launch.gpus = vec![specs::id::GpuIndex(1)];
    });
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    controller.wait_for_phase(LeaseId(8), AttemptPhase::Ended);
    controller.desk().last = None;
    agent.signal(Signal::KILL);
    agent.wait();
    let agent = Agent::start(&directory, None);
    let report =
        controller.wait("a second life", |report| (report.boot == Boot(2)).then(|| report.clone()));
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
    let outcome = |lease| {
        let attempt = report.attempts.iter().find(|it| it.lease == lease).unwrap();
        attempt.outcome.clone().unwrap()
    };
    assert_eq!(outcome(LEASE).ending, Ending::Lost);
    assert_eq!((outcome(LeaseId(8)).ending, outcome(LeaseId(8)).exit_code), (Ending::Exited, 4));
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_killed_takes_its_attempt_along() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mark = unmistakable();
    let text = format!(
        "(env -i PATH=\"$PATH\" setsid sh -c '(sleep {mark} &) ; sleep {mark}' &) ; sleep 0.2; \
         echo ready; sleep {mark}"
    );
    controller.order(LEASE, script(&text));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    agent.wait_for_output("ready");
    let supervisors = alive_with("SPILLWAY_SUPERVISOR=1");
    let family = agent.family();
    let supervisor = supervisors.into_iter().find(|pid| family.contains(pid)).unwrap();
    kill_process(Pid::from_raw(supervisor).unwrap(), Signal::KILL).unwrap();
    let ended = controller.wait_for_phase(LEASE, AttemptPhase::Ended);
    assert_eq!(ended.outcome.unwrap().ending, Ending::Lost);
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_does_not_stop_the_agent() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    let mut child = Command::new(AGENT)
        .args(["run", "--declare", "b200:4", "--dir"])
        .arg(&directory)
        .env("SPILLWAY_ENROL_TOKEN", controller.mint().to_text())
        .env("RUST_LOG", "trace")
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    controller.wait("a report", |_| Some(()));
    // More than a pipe holds.
    for _ in 0..200 {
        controller.nudge().await;
    }
    let before = controller.desk().reports;
    eventually("reports that go on", || (controller.desk().reports > before + 3).then_some(()));
    child.kill().unwrap();
    child.wait().unwrap();
    let mut log = Vec::new();
    child.stderr.take().unwrap().read_to_end(&mut log).unwrap();
    assert!(log.len() >= 60_000, "the pipe was not full: {} bytes", log.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_is_found_among_others() {
    let (first, (_guard, directory)) = (Controller::start(), directory());
    let (second, third) = (first.fellow(2), first.fellow(3));
    first.tell_addresses([&first, &second, &third].map(Controller::address).into());
    let fault = Fault::new(FaultCode::NotLeader, "this controller does not lead its site");
    first.desk().mood = Mood::Refuses(fault.clone());
    second.desk().mood = Mood::Silent;
    let _agent = Agent::start(&directory, Some(&first.mint()));
    third.wait("a report to the leader", |_| Some(()));
    // Another one leads, and the one that led says so.
    first.desk().mood = Mood::Leads;
    third.desk().mood = Mood::Refuses(fault.with_hint(format!("leader={}", first.address())));
    first.wait("a report to the next leader", |_| Some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gives_way_to_a_later_life() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("sleep 100000"));
    let mut agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    let fault = Fault::new(FaultCode::Conflict, "a later life of the agent of n01 is known");
    controller.desk().mood = Mood::Refuses(fault);
    assert_eq!(agent.wait().code(), Some(5));
    assert!(agent.log().contains("error[conflict]: a later life"), "{}", agent.log());
    assert_eq!(agent.family(), Vec::<i32>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_runs() {
    let (controller, (_guard, directory)) = (Controller::start(), directory());
    controller.order(LEASE, script("sleep 100000"));
    let agent = Agent::start(&directory, Some(&controller.mint()));
    controller.wait_for_phase(LEASE, AttemptPhase::Running);
    let address = eventually("the address of the metrics", || {
        let log = agent.log();
        let (_, rest) = log.split_once("metrics=http://")?;
        Some(rest.split_once("/metrics")?.0.to_owned())
    });
    let get = |path: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let text = get("/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    for line in [
        "spillway_agent_boot 1",
        "spillway_agent_attempts_running 1",
        "spillway_agent_gpus{class=\"b200\",source=\"declared\"} 4",
        "spillway_agent_reports_total{outcome=\"answered\"}",
        "spillway_agent_build_info{version=",
    ] {
        assert!(text.lines().any(|it| it.starts_with(line)), "{line} is not in\n{text}");
    }
    let age = text.lines().find_map(|it| it.strip_prefix("spillway_agent_orders_age_seconds "));
    let age: f64 = age.unwrap().parse().unwrap();
    assert!((0.0..30.0).contains(&age), "{age}");
    assert!(get("/else").starts_with("HTTP/1.1 404"));
}
