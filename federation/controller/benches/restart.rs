//! A large member: what a snapshot takes from `apply` while it is written, and how long a start
//! takes from a snapshot and a long log.
//!
//! ```text
//!   cargo bench -p federation-controller --bench restart
//!
//!   build    a state machine applies jobs, nodes and leases; snapshot; the log behind it
//!   restart  a process of its own starts from the directory, until all is applied
//!   stall    its state machine applies commands one by one, without and with a snapshot written
//! ```
//!
//! The directory is made by the member's own state machine and log. Jobs are of 256 bytes. Of the
//! entries behind the snapshot half cancel a job and half repeat an admission. `JOBS`
//! (1,000,000), `GPUS` (110,000) and `ENTRIES` (1,000,000) change the run; `KEEP` names a directory
//! that is used again.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it found")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use bytes::Bytes;
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::{BoxFuture, Env};
use fabric_quic::identity::Identity;
use fabric_quic::lane::Lane;
use fabric_quic::pki::Authority;
use fabric_quic::pool::Pool;
use fabric_quic::service::{Request, Service};
use fabric_quic::trust::TrustStore;
use federation_controller::raft::probe::{Prepared, Probe};
use federation_controller::raft::{Group, RaftConfig, Storage};
use federation_core::{
    AcceptNode, AdmitJobs, Assignment, CancelJob, Command, CommitPlan, FoundSite, LeasePlan,
    OpenToken, PackedSpec, PartPlan, Place, RegisterNode, TokenKind,
};
use specs::codec::{Blob, Message, OrDefault};
use specs::fault::{Fault, FaultCode};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, ControllerId, Epoch, GpuIndex, JobId, NodeId, Revision, SiteId, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::agent::Inventory;
use specs::wire::method::Method;

/// The word that makes this program the member that restarts.
const RESTART: &str = "restart-from";
const AT: Timestamp = Timestamp(1_000);
const GPUS_PER_NODE: u16 = 8;
const JOB_BYTES: usize = 256;
/// Commands of one batch while the directory is made.
const BATCH: usize = 4_096;
/// How many commands are applied without a snapshot, for comparison.
const QUIET_COMMANDS: usize = 200_000;

/// As the `federation` command has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn main() {
    let args: Vec<String> = env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(at) = args.iter().position(|arg| arg == RESTART) {
        let (dir, applied) = (PathBuf::from(&args[at + 1]), args[at + 2].parse().unwrap());
        return runtime.block_on(Box::pin(restart(&dir, applied)));
    }
    let (jobs, gpus) = (number("JOBS", 1_000_000), number("GPUS", 110_000));
    let entries = number("ENTRIES", 1_000_000);
    let temporary = tempfile::tempdir().unwrap();
    let kept = env::var("KEEP").ok().map(PathBuf::from);
    let dir = kept.unwrap_or_else(|| temporary.path().to_owned());
    let mark = dir.join("applied");
    if !mark.exists() {
        fs::create_dir_all(&dir).unwrap();
        let applied = runtime.block_on(Box::pin(build(&dir, jobs, gpus, entries)));
        fs::write(&mark, applied.to_string()).unwrap();
    }
    let restarted = start_again(&dir, &fs::read_to_string(&mark).unwrap());
    let stall = runtime.block_on(Box::pin(stall(&dir, jobs)));
    println!("{restarted} apply_stall_p999_us={stall}");
}

// Building.

fn spec() -> JobSpec {
    JobSpec {
        name: "train".parse().unwrap(),
        class: JobClass::Training,
        priority: 10,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(GPUS_PER_NODE.into()),
        gpu_classes: vec![],
        array: 1,
        command: vec!["python".into(), "train.py".into(), "--config".into(), "large".into()],
        env: [("RUN".to_owned(), "1".to_owned())].into(),
        workdir: String::new(),
        grace: Millis(30_000),
        retries: 3,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: [("team".to_owned(), "vision".to_owned())].into(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

fn admit(number: u64) -> Command {
    let mut spec = spec();
    // Each job has a directory of its own, whose name fills it up to its size.
    let width = JOB_BYTES.saturating_sub(spec.encode().len() + "/data/".len());
    spec.workdir = format!("/data/{number:0>width$}");
    Command::AdmitJobs(AdmitJobs {
        request: format!("request-{number:012}").parse().unwrap(),
        jobs: vec![JobId(u128::from(number))],
        spec: PackedSpec::from(&spec),
        submitter: "ada@example.org".into(),
        at: AT,
    })
}

/// What takes a node in and gives it a job.
fn node(number: u64) -> Vec<Command> {
    let token = TokenId(u128::from(number));
    let node: NodeId = format!("node-{number:06}").parse().unwrap();
    let info = |index: u16| GpuInfo {
        index: GpuIndex(index),
        class: "b200".parse().unwrap(),
        uuid: format!("GPU-{number:08x}-{index:04x}-4b1d-9e3f-0123456789ab"),
        memory_mib: 183_359,
    };
    let inventory = Inventory {
        source: InventorySource::Declared,
        gpus: (0..GPUS_PER_NODE).map(info).collect(),
        address: format!("10.0.{}.{}", number / 250, number % 250),
        version: "0.1.0".into(),
        facts: OrDefault::default(),
    };
    let key = Blob(vec![1; 32]);
    let open = OpenToken {
        token,
        kind: TokenKind::Enrol,
        key: key.clone(),
        bound: String::new(),
        expires_at: AT,
    };
    let gpus = (0..GPUS_PER_NODE).map(GpuIndex).collect();
    let plan = LeasePlan { parts: vec![PartPlan { node: node.clone(), gpus }] };
    let job = JobId(u128::from(number));
    let assignments = vec![Assignment { job, after: Epoch(0), place: Place::Here(plan) }];
    vec![
        Command::OpenToken(open),
        Command::AcceptNode(AcceptNode { token, node: node.clone(), digest: key, at: AT }),
        Command::RegisterNode(RegisterNode { node, boot: Boot(1), inventory, at: AT }),
        Command::CommitPlan(CommitPlan { base: Revision(0), assignments, at: AT }),
    ]
}

/// Half of them change a job, the others are requests that come a second time.
fn entry(number: u64, jobs: u64) -> Command {
    let job = number % jobs;
    if number.is_multiple_of(2) {
        Command::CancelJob(CancelJob { job: JobId(u128::from(job)), at: AT })
    } else {
        admit(job)
    }
}

/// Answers no one: the member is alone.
struct Alone;

impl Service for Alone {
    fn call(&self, _request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async { Err(Fault::new(FaultCode::Unreachable, "alone")) })
    }
    fn accepts_lane(&self, _method: Method) -> bool {
        false
    }
    fn lane(&self, _request: Request, _lane: Lane) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

async fn member(dir: &Path) -> Group {
    let (env, site) = (Env::system(), SiteId::new("berlin").unwrap());
    let authority = Authority::create(&env, &site).unwrap();
    let trust = Arc::new(TrustStore::new());
    trust.trust(&site, authority.certificate()).unwrap();
    let identity = Identity::Controller { site: site.clone(), id: ControllerId(1) };
    let credentials = authority.credentials(&env, &identity).unwrap();
    let listen = ([127, 0, 0, 1], 0).into();
    let config = EndpointConfig { listen, credentials: Some(credentials), trust };
    let endpoint = Endpoint::bind(&env, config, Arc::new(Alone)).unwrap();
    let mut config = RaftConfig::new(ControllerId(1), dir.to_owned());
    // Only when it is asked for.
    (config.snapshot_entries, config.snapshot_bytes) = (u64::MAX, u64::MAX);
    let on_fatal = Arc::new(|why: &str| panic!("{why}"));
    let (storage, pool) = (Storage::real(dir).unwrap(), Pool::new(endpoint));
    let start = Group::start_on(&env, config, site, pool, on_fatal, storage);
    let (group, mut applied) = Box::pin(start).await.unwrap();
    env.spawn(async move { while applied.recv().await.is_some() {} });
    group
}

async fn apply(probe: &mut Probe, what: &str, commands: impl Iterator<Item = Command>) {
    let (began, before) = (Instant::now(), probe.state().revision.0);
    let mut commands = commands.peekable();
    while commands.peek().is_some() {
        let batch: Vec<Prepared> =
            commands.by_ref().take(BATCH).map(|command| Prepared::new(&command)).collect();
        probe.apply(batch).await.unwrap();
    }
    let done = probe.state().revision.0 - before;
    println!("{done} {what} applied in {:.1} s", began.elapsed().as_secs_f64());
}

async fn build(dir: &Path, jobs: u64, gpus: u64, entries: u64) -> u64 {
    let env = Env::system();
    let mut probe = Probe::open(&env, dir).unwrap();
    probe.found().await.unwrap();
    let site = SiteSpec {
        site: SiteId::new("berlin").unwrap(),
        country: "DE".parse().unwrap(),
        terms: Terms::default(),
        lend: vec![],
        trust: None,
    };
    let found = FoundSite { spec: Arc::new(site), address: "127.0.0.1:1".into() };
    apply(&mut probe, "site", [Command::FoundSite(found)].into_iter()).await;
    apply(&mut probe, "jobs", (0..jobs).map(admit)).await;
    let nodes = (gpus / u64::from(GPUS_PER_NODE)).min(jobs);
    apply(&mut probe, "commands for nodes", (0..nodes).flat_map(node)).await;
    let state = probe.state();
    let sizes = (state.jobs.len(), state.nodes.len(), state.leases.len());
    println!("{} jobs, {} nodes, {} leases", sizes.0, sizes.1, sizes.2);
    assert_eq!((sizes.0 as u64, sizes.1 as u64, sizes.2 as u64), (jobs, nodes, nodes));
    let began = Instant::now();
    probe.snapshot().await.write().await.unwrap();
    println!("snapshot written in {:.1} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    let commands = (0..entries).map(|number| Prepared::new(&entry(number, jobs)));
    let applied = probe.write_log(&env, dir, commands).await.unwrap();
    println!("{entries} entries logged in {:.1} s", began.elapsed().as_secs_f64());
    applied
}

// Measuring.

fn percentiles(what: &str, nanos: &mut [u64]) -> f64 {
    nanos.sort_unstable();
    let micros = |nano: u64| f64::from(u32::try_from(nano).unwrap_or(u32::MAX)) / 1_000.0;
    let at = |per_mille: usize| micros(nanos[(nanos.len() - 1) * per_mille / 1_000]);
    let (p50, p99, p999, max) = (at(500), at(990), at(999), at(1_000));
    let count = nanos.len();
    println!("{what}: {count} applied; µs p50 {p50} p99 {p99} p99.9 {p999} max {max}");
    p999
}

async fn stall(dir: &Path, jobs: u64) -> f64 {
    let began = Instant::now();
    let mut probe = Probe::open(&Env::system(), dir).unwrap();
    println!("snapshot read in {:.2} s", began.elapsed().as_secs_f64());
    let mut numbers = 0..;
    let mut quiet = Vec::new();
    for number in numbers.by_ref().take(QUIET_COMMANDS) {
        quiet.push(timed(&mut probe, number, jobs).await);
    }
    percentiles("without a snapshot", &mut quiet);
    let ended = Arc::new(AtomicBool::new(false));
    let (unwritten, has_ended) = (probe.snapshot().await, ended.clone());
    let began = Instant::now();
    let writing = tokio::spawn(async move {
        unwritten.write().await.unwrap();
        has_ended.store(true, Ordering::Relaxed);
        began.elapsed()
    });
    let mut busy = Vec::new();
    for number in numbers {
        busy.push(timed(&mut probe, number, jobs).await);
        if ended.load(Ordering::Relaxed) {
            break;
        }
    }
    println!("snapshot written in {:.1} s meanwhile", writing.await.unwrap().as_secs_f64());
    percentiles("with a snapshot   ", &mut busy)
}

async fn timed(probe: &mut Probe, number: u64, jobs: u64) -> u64 {
    let command = Prepared::new(&entry(number, jobs));
    let began = Instant::now();
    probe.apply([command]).await.unwrap();
    u64::try_from(began.elapsed().as_nanos()).unwrap()
}

fn start_again(dir: &Path, applied: &str) -> String {
    let mut process = Process::new(env::current_exe().unwrap());
    let output = process.arg(RESTART).arg(dir).arg(applied).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).unwrap();
    print!("{said}");
    said.lines().last().unwrap().to_owned()
}

/// In a process of its own.
async fn restart(dir: &Path, applied: u64) {
    let began = Instant::now();
    let group = member(dir).await;
    println!("started in {:.2} s", began.elapsed().as_secs_f64());
    while group.metrics().applied < applied {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = began.elapsed().as_secs_f64();
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mib = |key: &str| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1_024
    };
    println!("restart_seconds={seconds:.2} rss_mib={} peak_mib={}", mib("VmRSS"), mib("VmHWM"));
}
