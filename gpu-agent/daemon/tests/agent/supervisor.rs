//! The supervisor alone: the test is its agent.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use gpu_agent_daemon::protocol::{Assignment, End, ExitRecord, Inbox, Notice, Wish, frame};
use rustix::process::{Pid, Signal, kill_process};
use specs::codec::Message;
use specs::id::{Boot, Epoch, LeaseId};
use specs::job::JobSpec;
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::agent::{Ending, LogStream, Outcome};

use crate::support::{
    AGENT, alive_with, clock, directory, eventually, job_id, launch, node, output, script, site,
    unmistakable,
};

const LEASE: LeaseId = LeaseId(7);

/// A supervisor, seen from its agent.
struct Ward {
    directory: PathBuf,
    child: Child,
    socket: UnixStream,
    inbox: Inbox,
    _guard: tempfile::TempDir,
}

fn assignment(spec: JobSpec, deadline: Option<Instant>) -> Assignment {
    Assignment {
        lease: LEASE,
        home: site(),
        job: job_id(),
        epoch: Epoch(2),
        node: node(),
        boot: Boot(1),
        launch: launch(spec),
        wish: Wish { deadline, end: None },
    }
}

fn begin(spec: JobSpec) -> Ward {
    begin_with(&assignment(spec, None))
}

fn begin_with(assignment: &Assignment) -> Ward {
    let (guard, directory) = directory();
    fs::create_dir(directory.join("attempts")).unwrap();
    let (mut socket, theirs) = UnixStream::pair().unwrap();
    let child = Command::new(AGENT)
        .arg("supervise")
        .env("SPILLWAY_AGENT_DIR", &directory)
        .env("SPILLWAY_LEASE", LEASE.to_string())
        .env("SPILLWAY_SUPERVISOR", "1")
        .env("SECRET_OF_THE_AGENT", "do not pass on")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    socket.write_all(&frame(assignment)).unwrap();
    Ward { directory, child, socket, inbox: Inbox::default(), _guard: guard }
}

impl Drop for Ward {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ward {
    fn notice(&mut self) -> Notice {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(notice) = self.inbox.pop().unwrap() {
                return notice;
            }
            let len = self.socket.read(&mut bytes).unwrap();
            assert!(len > 0, "the supervisor died");
            self.inbox.push(&bytes[..len]);
        }
    }

    fn started(&mut self) -> &mut Self {
        assert!(matches!(self.notice(), Notice::Started(_)));
        self
    }

    /// Its last word, which must also be on disk, and nothing may be left of it.
    fn ended(&mut self) -> Outcome {
        let exit = loop {
            if let Notice::Ended(exit) = self.notice() {
                break exit;
            }
        };
        self.check_ended(&exit);
        exit.outcome
    }

    fn check_ended(&mut self, exit: &ExitRecord) {
        self.wait_for_exit();
        assert_eq!(self.alive(), Vec::<i32>::new());
        let bytes = fs::read(self.directory.join("attempts/lease-7/exit")).unwrap();
        assert_eq!(ExitRecord::decode(&bytes).unwrap(), *exit);
        assert!(exit.ended_at >= exit.started_at && exit.ended_at > Timestamp(0));
    }

    fn wait_for_exit(&mut self) {
        let status = eventually("the supervisor's exit", || self.child.try_wait().unwrap());
        assert!(status.success());
    }

    /// Everything that carries the marks of the attempt.
    fn alive(&self) -> Vec<i32> {
        alive_with(&format!("SPILLWAY_AGENT_DIR={}", self.directory.display()))
    }

    fn wish(&mut self, deadline: Option<Instant>, end: Option<End>) {
        self.socket.write_all(&frame(&Wish { deadline, end })).unwrap();
    }

    fn stop(&mut self, grace: Millis) {
        let outcome = Outcome::of(Ending::Stopped, "its orders said so");
        self.wish(None, Some(End { outcome, grace }));
    }

    fn stdout(&self, task: u32) -> String {
        output(&self.directory, "lease-7", task, LogStream::Stdout)
    }

    fn stderr(&self, task: u32) -> String {
        output(&self.directory, "lease-7", task, LogStream::Stderr)
    }

    fn wait_for_output(&self, text: &str) {
        eventually(text, || self.stdout(0).contains(text).then_some(()));
    }
}

fn spec_of(tasks: u32, gpus: u32, text: &str) -> JobSpec {
    JobSpec { tasks_per_node: tasks, gpus_per_node: GpuCount(gpus), ..script(text) }
}

#[test]
fn the_exit_code_is_the_tasks_own() {
    for code in [0, 3, 255] {
        let mut ward = begin(script(&format!("exit {code}")));
        assert_eq!(ward.started().ended(), Outcome::exited(code, 0));
    }
}

#[test]
fn a_signal_is_told_as_a_shell_tells_it() {
    let mut ward = begin(script("kill -SEGV $$"));
    assert_eq!(ward.ended(), Outcome::exited(139, 11));
}

#[test]
fn output_is_captured_and_input_is_empty() {
    let mut ward = begin(script("echo out; echo err >&2; cat; pwd"));
    assert!(ward.ended().is_success());
    let own = ward.directory.join("attempts/lease-7");
    assert_eq!(ward.stdout(0), format!("out\n{}\n", own.display()));
    assert_eq!(ward.stderr(0), "err\n");
}

#[test]
fn each_task_knows_its_place_and_nothing_of_the_agent() {
    let mut it = assignment(spec_of(2, 4, "env | sort"), None);
    it.launch.node_rank = 1;
    let mut spec = (*it.launch.spec).clone();
    spec.nodes = 2;
    spec.env = [("MINE", "1"), ("RANK", "99"), ("HOME", "/nowhere")]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    it.launch.spec = spec.into();
    let mut ward = begin_with(&it);
    assert!(ward.ended().is_success());
    let own = ward.directory.join("attempts/lease-7");
    let expected = [
        "CUDA_DEVICE_ORDER=PCI_BUS_ID".to_owned(),
        "CUDA_VISIBLE_DEVICES=2,3".into(),
        "HOME=/nowhere".into(),
        "LOCAL_RANK=1".into(),
        "LOCAL_WORLD_SIZE=2".into(),
        "MASTER_ADDR=127.0.0.1".into(),
        "MASTER_PORT=29500".into(),
        "MINE=1".into(),
        "NODE_RANK=1".into(),
        "RANK=3".into(),
        format!("SPILLWAY_AGENT_DIR={}", ward.directory.display()),
        "SPILLWAY_ARRAY_INDEX=3".into(),
        format!("SPILLWAY_ATTEMPT_DIR={}", own.display()),
        "SPILLWAY_EPOCH=2".into(),
        "SPILLWAY_HOME=berlin".into(),
        format!("SPILLWAY_JOB_ID={}", job_id()),
        "SPILLWAY_JOB_NAME=probe".into(),
        "SPILLWAY_LEASE=lease-7".into(),
        "SPILLWAY_NNODES=2".into(),
        "SPILLWAY_NODE=n01".into(),
        "SPILLWAY_SITE=giga".into(),
        "WORLD_SIZE=4".into(),
    ];
    let seen = ward.stdout(1);
    for line in &expected {
        assert!(seen.lines().any(|it| it == line), "{line} is not in\n{seen}");
    }
    assert!(seen.contains("\nPATH="));
    assert!(!seen.contains("SECRET") && !seen.contains("SPILLWAY_SUPERVISOR"), "{seen}");
}

#[test]
fn a_task_that_ends_badly_ends_the_others() {
    let text = "if test $LOCAL_RANK = 1; then \
                  until test -e ready-0 && test -e ready-2; do sleep 0.02; done; exit 4; \
                fi; \
                trap 'echo asked; exit 0' TERM; touch ready-$LOCAL_RANK; \
                while :; do sleep 0.05; done";
    let mut ward = begin(spec_of(3, 1, text));
    let outcome = ward.ended();
    assert_eq!((outcome.ending, outcome.exit_code), (Ending::Exited, 4));
    assert_eq!((ward.stdout(0), ward.stdout(2)), ("asked\n".into(), "asked\n".into()));
}

#[test]
fn a_command_that_is_not_there_exits_with_127() {
    let mut spec = script("");
    spec.command = vec!["no-such-program".into(), "-x".into()];
    let mut ward = begin(spec);
    let outcome = ward.ended();
    assert_eq!((outcome.ending, outcome.exit_code), (Ending::Exited, 127));
    assert_eq!(outcome.detail, "spillway: no-such-program: command not found");
    assert_eq!(ward.stderr(0), "spillway: no-such-program: command not found\n");
}

#[test]
fn a_command_that_cannot_be_executed_exits_with_126() {
    for program in ["/etc/passwd", "/"] {
        let mut spec = script("");
        spec.command = vec![program.into()];
        let mut ward = begin(spec);
        let outcome = ward.ended();
        assert_eq!((outcome.ending, outcome.exit_code), (Ending::Exited, 126), "{program}");
        assert!(ward.stderr(0).starts_with(&format!("spillway: {program}: ")));
    }
}

#[test]
fn a_directory_that_is_not_there_is_a_refusal() {
    let mut spec = script("exit 0");
    spec.workdir = "/no/such/directory".into();
    let outcome = begin(spec).ended();
    assert_eq!(outcome.ending, Ending::Refused);
    assert!(outcome.detail.contains("/no/such/directory"), "{outcome:?}");
}

#[test]
fn a_job_that_breaks_a_rule_is_a_refusal() {
    let mut spec = script("exit 0");
    spec.command = Vec::new();
    let mut ward = begin(spec);
    let Notice::Ended(exit) = ward.notice() else { panic!("it started") };
    assert_eq!(exit.outcome.ending, Ending::Refused);
}

#[test]
fn a_lease_is_never_started_twice() {
    let mut first = begin(script("echo first"));
    assert!(first.ended().is_success());
    let (mut socket, theirs) = UnixStream::pair().unwrap();
    first.child = Command::new(AGENT)
        .arg("supervise")
        .env("SPILLWAY_AGENT_DIR", &first.directory)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .unwrap();
    socket.write_all(&frame(&assignment(script("echo second"), None))).unwrap();
    first.socket = socket;
    let Notice::Ended(exit) = first.notice() else { panic!("it started") };
    assert_eq!(exit.outcome.ending, Ending::Refused);
    assert_eq!(first.stdout(0), "first\n");
}

/// Leaves the task's group, its session, its parent and its environment.
fn escape(mark: &str) -> String {
    format!(
        "sleep {mark} & \
         setsid sleep {mark} & \
         (setsid sh -c 'sleep {mark} & sleep {mark} &' &) ; \
         (env -i PATH=\"$PATH\" setsid setsid sh -c '(sleep {mark} &) ; sleep {mark}' &) ; \
         sleep 0.2; echo ready; "
    )
}

#[test]
fn nothing_of_the_tree_outlives_a_stop() {
    let mark = unmistakable();
    let mut ward = begin(script(&format!("{} sleep {mark}", escape(&mark))));
    ward.started().wait_for_output("ready");
    assert!(alive_with(&mark).len() >= 7, "{:?}", alive_with(&mark));
    ward.stop(Millis(50));
    assert_eq!(ward.ended().ending, Ending::Stopped);
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
}

#[test]
fn nothing_of_the_tree_outlives_the_task_that_made_it() {
    let mark = unmistakable();
    let mut ward = begin(script(&format!("{} exit 5", escape(&mark))));
    assert_eq!(ward.ended(), Outcome::exited(5, 0));
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
}

#[test]
fn a_tree_that_keeps_growing_is_ended_all_the_same() {
    let mark = unmistakable();
    let text = format!("grow() {{ sleep {mark} & sleep 0.002; grow & }}; grow; echo ready; wait");
    let mut ward = begin(script(&text));
    ward.wait_for_output("ready");
    ward.stop(Millis::ZERO);
    ward.ended();
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
}

#[test]
fn the_deadline_kills_while_the_agent_is_silent() {
    let mut ward = begin(script("trap '' TERM; echo ready; sleep 100000"));
    ward.started().wait_for_output("ready");
    let deadline = clock().now().after(Millis(500));
    ward.wish(Some(deadline), None);
    assert_eq!(ward.ended().ending, Ending::Fenced);
    assert!(clock().now() >= deadline);
}

#[test]
fn a_deadline_that_moves_lets_the_task_end() {
    let deadline = |span| Some(clock().now().after(Millis(span)));
    let mut ward = begin(script("sleep 1.5; exit 6"));
    ward.started().wish(deadline(1_000), None);
    ward.wish(deadline(60_000), None);
    assert_eq!(ward.ended(), Outcome::exited(6, 0));
}

#[test]
fn a_deadline_in_the_past_starts_nothing() {
    let past = Instant(clock().now().0 - 1);
    let mut ward = begin_with(&assignment(script("echo ran"), Some(past)));
    let Notice::Ended(exit) = ward.notice() else { panic!("it started") };
    assert_eq!((exit.outcome.ending, exit.started_at), (Ending::Fenced, Timestamp(0)));
    assert_eq!(ward.stdout(0), "");
}

#[test]
fn an_agent_that_is_gone_takes_its_attempts_along() {
    let mark = unmistakable();
    let mut ward = begin(script(&format!("trap '' TERM; {} sleep {mark}", escape(&mark))));
    ward.started().wait_for_output("ready");
    let (other, _) = UnixStream::pair().unwrap();
    // The last copy of the agent's end is closed, as when it is killed.
    ward.socket = other;
    ward.wait_for_exit();
    assert_eq!(alive_with(&mark), Vec::<i32>::new());
    let bytes = fs::read(ward.directory.join("attempts/lease-7/exit")).unwrap();
    assert_eq!(ExitRecord::decode(&bytes).unwrap().outcome.ending, Ending::Lost);
}

#[test]
fn a_stop_asks_first() {
    let text = "trap 'echo asked; sleep 0.1; echo saved; exit 0' TERM; echo ready; \
                while :; do sleep 0.05; done";
    let mut ward = begin(script(text));
    ward.started().wait_for_output("ready");
    ward.stop(Millis(60_000));
    assert_eq!(ward.ended().ending, Ending::Stopped);
    assert_eq!(ward.stdout(0), "ready\nasked\nsaved\n");
}

#[test]
fn a_stop_that_is_not_heeded_kills_after_the_grace() {
    let mut ward =
        begin(script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.05; done"));
    ward.started().wait_for_output("ready");
    let begun = clock().now();
    ward.stop(Millis(300));
    assert_eq!(ward.ended().ending, Ending::Stopped);
    assert!(clock().now().since(begun) >= Millis(300));
    assert_eq!(ward.stdout(0), "ready\nasked\n");
}

#[test]
fn the_time_limit_stops() {
    let mut spec = script("trap 'echo asked; exit 0' TERM; while :; do sleep 0.05; done");
    spec.time_limit = Millis(300);
    let mut ward = begin(spec);
    let outcome = ward.started().ended();
    assert_eq!(outcome.ending, Ending::Stopped);
    assert!(outcome.detail.contains("time limit"), "{outcome:?}");
    assert_eq!(ward.stdout(0), "asked\n");
}

#[test]
fn signals_that_are_meant_for_the_agent_do_not_end_a_supervisor() {
    let mut ward = begin(script("echo ready; sleep 0.5; exit 8"));
    ward.started().wait_for_output("ready");
    let pid = Pid::from_child(&ward.child);
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        kill_process(pid, signal).unwrap();
    }
    assert_eq!(ward.ended(), Outcome::exited(8, 0));
}
