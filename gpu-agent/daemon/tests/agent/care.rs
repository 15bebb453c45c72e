//! An agent that looks after emulated GPUs: it checks them in idle moments, makes way for jobs,
//! resets them, and tells a scraper of them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gpu_agent_emulator::control::{Control, Gpu, VARIABLE};
use gpu_agent_emulator::fault::{Counter, Fault};
use rustix::process::Signal;
use specs::gpu::GpuState;
use specs::id::{Boot, GpuIndex, LeaseId};
use specs::unit::Millis;
use specs::wire::agent::AttemptPhase;

use crate::controller::Controller;
use crate::running::Agent;
use crate::support::{clock, directory, eventually, is_alive, script};

/// A node with emulated GPUs, under orders of a controller that asks for proofs.
struct Node {
    controller: Controller,
    agent: Agent,
    directory: PathBuf,
    _guard: tempfile::TempDir,
}

fn gpu(faults: Vec<Fault>) -> Gpu {
    Gpu { memory_kib: 512, sms: 4, faults, ..Gpu::default() }
}

fn plant(directory: &Path, gpus: Vec<Gpu>) {
    let text = toml::to_string(&Control { gpus }).unwrap();
    let path = directory.join("control.toml");
    // Whoever reads it reads the old one or the new one.
    fs::write(directory.join("control.tmp"), text).unwrap();
    fs::rename(directory.join("control.tmp"), path).unwrap();
}

impl Node {
    fn start(gpus: Vec<Gpu>, more: &[&str]) -> Self {
        Self::start_among(gpus, more, |_| ())
    }

    /// The same, where libraries are not all what they should be.
    fn start_among(gpus: Vec<Gpu>, more: &[&str], change: impl FnOnce(&Path)) -> Self {
        let (controller, (guard, directory)) = (Controller::start(), directory());
        controller.desk().prove = true;
        let library = gpu_agent_emulator::library().expect("the emulator is built with this test");
        gpu_agent_emulator::stage(&library, &directory.join("lib")).unwrap();
        change(&directory.join("lib"));
        plant(&directory, gpus);
        fs::write(directory.join("kernel.log"), "").unwrap();
        let log = directory.join("kernel.log").display().to_string();
        let mut args = vec!["--kernel-log", &log, "--burn-in-seconds", "0"];
        args.extend(more);
        let environment = [
            ("LD_LIBRARY_PATH", directory.join("lib")),
            (VARIABLE, directory.join("control.toml")),
        ];
        let agent = Agent::start_in(&directory, Some(&controller.mint()), &args, &environment);
        Self { controller, agent, directory, _guard: guard }
    }

    fn await_state(&self, gpu: u16, state: GpuState) -> String {
        self.controller.wait(&format!("GPU {gpu} is {state}"), |report| {
            let health = report.health.iter().map(|it| &it.health);
            let found = health.into_iter().find(|it| it.index == GpuIndex(gpu))?;
            (found.state == state).then(|| found.why.clone())
        })
    }

    /// The driver tells the kernel's log of an event of the first GPU.
    fn event(&self, text: &str) {
        let mut log =
            fs::File::options().append(true).open(self.directory.join("kernel.log")).unwrap();
        writeln!(log, "6,1,2,-;NVRM: Xid (PCI:0000:01:00): {text}").unwrap();
    }

    /// How many events this source has told of.
    fn events_of(&self, source: &str) -> u64 {
        let name = format!("spillway_agent_gpu_events_total{{source=\"{source}\"}} ");
        let text = self.scrape();
        text.lines().find_map(|it| it.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
    }

    /// The process whose kernel hangs.
    fn await_hung(&self) -> i32 {
        let path = self.directory.join("control.toml.events");
        eventually("a kernel that hangs", || {
            let text = fs::read_to_string(&path).unwrap_or_default();
            text.lines().find_map(|line| line.strip_prefix("0 hung ")?.parse().ok())
        })
    }

    fn scrape(&self) -> String {
        let log = self.agent.log();
        let (_, rest) = log.split_once("metrics=http://").unwrap();
        let mut stream = TcpStream::connect(rest.split_once("/metrics").unwrap().0).unwrap();
        write!(stream, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    /// A check of an idle moment that hangs: a job has just used the GPU, so none comes before.
    fn with_a_hung_check() -> (Self, i32) {
        let node = Self::start(vec![gpu(Vec::new())], &["--idle-after-seconds", "8"]);
        node.await_state(0, GpuState::Healthy);
        let go = node.directory.join("go");
        let wait = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
        node.controller.order(LeaseId(7), script(&wait));
        node.controller.wait_for_phase(LeaseId(7), AttemptPhase::Running);
        plant(&node.directory, vec![gpu(vec![Fault::Hang { kernel: String::new() }])]);
        fs::write(go, "").unwrap();
        node.controller.wait_for_phase(LeaseId(7), AttemptPhase::Ended);
        node.controller.withdraw(LeaseId(7));
        let hung = node.await_hung();
        assert!(is_alive(hung));
        (node, hung)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_a_check_of_an_idle_moment_within_a_second() {
    let (node, hung) = Node::with_a_hung_check();
    let clock = clock();
    let ordered_at = clock.now();
    node.controller.order(LeaseId(8), script("sleep 100000"));
    node.controller.nudge().await;
    eventually("the end of the check", || (!is_alive(hung)).then_some(()));
    let took = clock.now().since(ordered_at);
    assert!(took < Millis(1_000), "{took:?} from the order to the end of the check");
    println!("the check had ended {} ms after the order", took.0);
    node.controller.wait_for_phase(LeaseId(8), AttemptPhase::Running);
    node.await_state(0, GpuState::Healthy);
    assert!(node.scrape().contains("burn_ins_total{outcome=\"stopped\",tier=\"t4\"} 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_dies_with_its_agent() {
    let (mut node, hung) = Node::with_a_hung_check();
    node.agent.signal(Signal::KILL);
    node.agent.wait();
    eventually("the end of the check", || (!is_alive(hung)).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scraper_is_told_what_the_driver_says_and_nothing_else() {
    let linked =
        Gpu { nvlinks: 2, ..gpu(vec![Fault::Counter { counter: Counter::NvlinkCrc, by: 3 }]) };
    let node = Node::start(vec![gpu(Vec::new()), linked], &[]);
    node.await_state(0, GpuState::Healthy);
    node.await_state(1, GpuState::Healthy);
    let text = eventually("numbers of both GPUs at work", || {
        let text = node.scrape();
        let crc = "DCGM_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{gpu=\"1\"";
        let line = text.lines().find(|it| it.starts_with(crc))?;
        line.ends_with(" 3").then(|| text.clone())
    });
    for name in [
        "SM_CLOCK",
        "MEM_CLOCK",
        "GPU_TEMP",
        "MEMORY_TEMP",
        "POWER_USAGE",
        "TOTAL_ENERGY_CONSUMPTION",
        "PCIE_REPLAY_COUNTER",
        "GPU_UTIL",
        "FB_USED",
        "FB_FREE",
        "ECC_SBE_VOL_TOTAL",
        "ECC_DBE_VOL_TOTAL",
        "ECC_SBE_AGG_TOTAL",
        "ECC_DBE_AGG_TOTAL",
        "CORRECTABLE_REMAPPED_ROWS",
        "UNCORRECTABLE_REMAPPED_ROWS",
        "ROW_REMAP_FAILURE",
        "POWER_VIOLATION",
        "THERMAL_VIOLATION",
    ] {
        for gpu in 0..2 {
            let line = format!("DCGM_FI_DEV_{name}{{gpu=\"{gpu}\",UUID=\"GPU-");
            assert!(text.contains(&line), "{line} is not in\n{text}");
        }
    }
    let labels = "pci_bus_id=\"00000000:01:00.0\",device=\"nvidia0\",modelName=\"NVIDIA RTX PRO";
    assert!(text.contains(labels), "{text}");
    assert!(!text.contains("NVLINK_CRC_FLIT_ERROR_COUNT_TOTAL{gpu=\"0\""), "it has no links");
    assert!(!text.contains("XID_ERRORS"), "none was told");
    let state = "spillway_agent_gpu_state{gpu=\"0\"";
    let is_healthy = |it: &str| it.starts_with(state) && it.ends_with("state=\"healthy\"} 1");
    assert!(text.lines().any(is_healthy), "{text}");
    node.event("31, pid=1");
    eventually("the event", || node.scrape().contains("XID_ERRORS{gpu=\"0\"").then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_that_asks_for_a_reset_gets_one_and_proves_itself_again() {
    let (_other, tools) = directory();
    let program = tools.join("reset");
    let text = format!("#!/bin/sh\necho \"$1 $2\" >>{}/calls\n", tools.display());
    fs::write(&program, text).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let node =
        Node::start(vec![gpu(Vec::new())], &["--reset-command", &program.display().to_string()]);
    node.await_state(0, GpuState::Healthy);
    node.event("154, GPU recovery action changed from 0x0 (None) to 0x1 (GPU Reset Required)");
    let calls = eventually("a call", || fs::read_to_string(tools.join("calls")).ok());
    assert!(calls.starts_with("gpu GPU-"), "{calls}");
    node.await_state(0, GpuState::Healthy);
    assert_eq!(calls.lines().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_program_that_resets_the_operator_is_told_what_to_do() {
    let node = Node::start(vec![gpu(Vec::new())], &[]);
    node.await_state(0, GpuState::Healthy);
    node.event("95, pid=1, Uncontained ECC error");
    let why = node.await_state(0, GpuState::Quarantined);
    assert!(why.contains("Xid 95; reset the GPU"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_the_library_alone_tells_of_quarantines_its_gpu() {
    let node = Node::start(vec![gpu(Vec::new()), gpu(Vec::new())], &[]);
    node.await_state(0, GpuState::Healthy);
    node.await_state(1, GpuState::Healthy);
    plant(&node.directory, vec![gpu(Vec::new()), gpu(vec![Fault::Event { code: 79 }])]);
    let why = node.await_state(1, GpuState::Quarantined);
    assert!(why.contains("Xid 79"), "{why}");
    node.await_state(0, GpuState::Healthy);
    assert_eq!((node.events_of("library"), node.events_of("kernel-log")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_both_tell_of_counts_once() {
    let node = Node::start(vec![gpu(Vec::new())], &[]);
    node.await_state(0, GpuState::Healthy);
    // A second one of a program within a day would make the GPU a suspect.
    node.event("31, pid=1");
    plant(&node.directory, vec![gpu(vec![Fault::Event { code: 31 }])]);
    let both = || (node.events_of("library"), node.events_of("kernel-log"));
    eventually("both to tell", || (both() == (1, 1)).then_some(()));
    node.controller.nudge().await;
    node.await_state(0, GpuState::Healthy);
    node.event("13, pid=1");
    let why = node.await_state(0, GpuState::Suspect);
    assert!(why.contains("Xid 13") && why.contains("again"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_in_the_log_counts_although_the_library_hangs() {
    let node = Node::start(vec![gpu(Vec::new())], &[]);
    node.await_state(0, GpuState::Healthy);
    plant(&node.directory, vec![gpu(vec![Fault::HungManagement])]);
    node.event("119, Timeout waiting for RPC from GSP");
    let why = node.await_state(0, GpuState::Quarantined);
    assert!(why.contains("Xid 119"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_library_hangs_goes_on_and_trusts_the_gpu_no_longer() {
    let node = Node::start(vec![gpu(Vec::new())], &[]);
    node.await_state(0, GpuState::Healthy);
    node.controller.order(LeaseId(7), script("sleep 100000"));
    node.controller.wait_for_phase(LeaseId(7), AttemptPhase::Running);
    let clock = clock();
    let planted_at = clock.now();
    plant(&node.directory, vec![gpu(vec![Fault::HungManagement])]);
    let why = node.await_state(0, GpuState::Quarantined);
    assert!(why.contains("does not answer"), "{why}");
    println!("quarantined {} ms after the library hung", clock.now().since(planted_at).0);
    // It asks, obeys and tells as before.
    node.controller.withdraw(LeaseId(7));
    node.controller.wait("no attempts", |report| report.attempts.is_empty().then_some(()));
    assert!(node.scrape().contains("spillway_agent_orders_age_seconds"));
}

/// How an agent ends that finds no GPU, and what it says.
fn ends(gpus: Vec<Gpu>, change: impl FnOnce(&Path)) -> (Option<i32>, String) {
    let mut node = Node::start_among(gpus, &[], change);
    let code = node.agent.wait().code();
    (code, node.agent.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_no_library_answers_ends_with_a_plain_word_and_its_code() {
    let one = |faults: &[Fault]| vec![gpu(faults.to_vec())];
    let is_kept = |_: &Path| ();
    for (gpus, word) in [
        (one(&[Fault::HungManagement]), "did not answer within 10 s"),
        (one(&[Fault::Refusal { code: 100 }]), "is not loaded"),
        (one(&[Fault::Refusal { code: 803 }]), "mismatch"),
        (Vec::new(), "no usable GPU"),
    ] {
        let (code, said) = ends(gpus, is_kept);
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains(word) && said.contains("--declare") && !said.contains("panicked"));
    }
    if Path::new("/proc/driver/nvidia").exists() {
        println!("not all was tried: this machine has a driver");
        return;
    }
    let (code, said) =
        ends(one(&[]), |libraries| fs::remove_file(libraries.join("libnvidia-ml.so.1")).unwrap());
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("no NVIDIA driver") && !said.contains("panicked"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gpu_whose_driver_cannot_be_used_is_never_proven_and_the_agent_runs_on() {
    for (fault, word) in
        [(Fault::Release { version: 12_040 }, "too old"), (Fault::Refusal { code: 34 }, "stub")]
    {
        let node = Node::start(vec![gpu(vec![fault])], &[]);
        let why = node.await_state(0, GpuState::Quarantined);
        assert!(why.contains(word) && why.contains("judge"), "{why}");
        let boot = node.controller.wait("a report", |report| Some(report.boot));
        assert_eq!(boot, Boot(1), "it is the first life");
        assert!(!node.agent.log().contains("panicked"));
    }
}
