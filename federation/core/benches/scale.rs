//! Agreed state at the size that a site must hold: a million jobs, a tenth of them queued and the
//! rest ended, on 110,000 GPUs. What `apply` costs, what it all weighs, how long a snapshot takes
//! to make and to read, and whether `apply` notices it.
//!
//! `cargo bench -p federation-core --bench scale [-- JOBS [NODES]]`
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts and ranks of a benchmark are small"
)]
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use federation_core::{
    AcceptNode, AdmitJobs, Assignment, Command, CommitPlan, FoundSite, LeasePlan, OpenToken,
    PackedSpec, PartPlan, Place, RecordParts, RegisterNode, Reply, State, StateBuilder, TokenKind,
    apply,
};
use specs::codec::{Blob, Message, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, Epoch, GpuIndex, JobId, LeaseId, NodeId, Revision, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Inventory, Outcome};

/// Commands between two views that are given to readers.
const BATCH: u64 = 64;
const GPUS: u16 = 8;
const AT: Timestamp = Timestamp(1_700_000_000_000);
/// Single calls that are timed, with and without a snapshot.
const CALLS: u64 = 100_000;

/// A number that looks like chance and is the same in each run.
fn scatter(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

/// Stamped with the time, then chance, as a controller makes them.
fn job_id(n: u64) -> JobId {
    JobId(u128::from(n) << 64 | u128::from(scatter(n)))
}

fn spec(n: u64) -> JobSpec {
    let pairs = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    };
    JobSpec {
        name: format!("weld-cell-{n:07}").parse().unwrap(),
        class: JobClass::Simulation,
        priority: u32::try_from(n % 5).unwrap() * 10,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: vec!["b200".parse().unwrap()],
        array: 1,
        command: vec![
            "python3".into(),
            "-m".into(),
            "fleet.simulate".into(),
            format!("--scene=/data/welding/cell-{n:07}.usd"),
            format!("--seed={}", scatter(n)),
        ],
        env: pairs(&[("OMP_NUM_THREADS", "8"), ("NCCL_DEBUG", "WARN")]),
        workdir: "/home/ada/welding".into(),
        grace: Millis(30_000),
        retries: 3,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(3_600_000),
        labels: pairs(&[("project", "welding"), ("team", "robotics")]),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

fn admit(n: u64) -> Command {
    let (a, b) = (scatter(n), scatter(n ^ 0x5555));
    let request = format!("{:08x}-{:04x}-7{:03x}-{b:016x}", a >> 32, a >> 16 & 0xffff, a & 0xfff);
    let it = Command::AdmitJobs(AdmitJobs {
        request: request.parse().unwrap(),
        jobs: vec![job_id(n)],
        spec: PackedSpec::from(&spec(n)),
        submitter: "ada@berlin".into(),
        at: AT,
    });
    // As it comes off the log: nothing is shared with anything.
    Command::decode(&it.encode()).unwrap()
}

fn node_id(n: u64) -> NodeId {
    format!("dgx-{n:05}").parse().unwrap()
}

fn enrol(n: u64) -> [Command; 3] {
    let (token, node) = (TokenId(n.into()), node_id(n));
    let info = |index| GpuInfo {
        index: GpuIndex(index),
        class: "b200".parse().unwrap(),
        uuid: format!("GPU-{:016x}-{:016x}", scatter(n), index),
        memory_mib: 183_359,
    };
    let inventory = Inventory {
        source: InventorySource::Nvml,
        gpus: (0..GPUS).map(info).collect(),
        address: format!("dgx-{n:05}.hall-1.berlin"),
        version: "0.1.0".into(),
        facts: OrDefault::default(),
    };
    let open = OpenToken {
        token,
        kind: TokenKind::Enrol,
        key: Blob(vec![7; 32]),
        bound: String::new(),
        expires_at: AT,
    };
    [
        Command::OpenToken(open),
        Command::AcceptNode(AcceptNode {
            token,
            node: node.clone(),
            digest: Blob(vec![7; 32]),
            at: AT,
        }),
        Command::RegisterNode(RegisterNode { node, boot: Boot(1), inventory, at: AT }),
    ]
}

fn place(n: u64, nodes: u64) -> Assignment {
    let gpus = vec![GpuIndex(u16::try_from(n / nodes % u64::from(GPUS)).unwrap())];
    let parts = vec![PartPlan { node: node_id(n % nodes), gpus }];
    Assignment { job: job_id(n), after: Epoch(0), place: Place::Here(LeasePlan { parts }) }
}

fn report(n: u64, nodes: u64, phase: AttemptPhase) -> Command {
    let ended = phase == AttemptPhase::Ended;
    let report = AttemptReport {
        lease: LeaseId(n + 1),
        phase,
        outcome: ended.then(|| Outcome::exited(0, 0)),
        started_at: AT,
        ended_at: if ended { AT } else { Timestamp(0) },
    };
    let (node, boot, attempts) = (node_id(n % nodes), Boot(1), vec![report]);
    Command::RecordParts(RecordParts { node, boot, attempts, at: AT })
}

/// What this thread has had of a processor: others on the machine do not count.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// The processor time that some kind of command took.
#[derive(Default)]
struct Spent {
    time: Duration,
    items: u64,
}

impl Spent {
    /// Applies a batch and gives the readers a new view in place of the last.
    fn apply(&mut self, state: &mut State, view: &mut State, commands: &[Command], items: u64) {
        let start = cpu();
        for command in commands {
            let (reply, effects) = apply(state, command);
            assert!(!matches!(reply, Reply::NoOp(_) | Reply::Refused(_)), "{reply:?}");
            black_box(effects);
        }
        *view = state.clone();
        self.time += cpu().saturating_sub(start);
        self.items += items;
    }

    fn print(&self, what: &str) {
        let each = self.time.as_secs_f64() * 1e9 / self.items.max(1) as f64;
        println!("{what:<44} {each:>10.0} ns");
    }
}

/// Mebibytes, as the kernel counts them.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim_matches([':', ' ', '\t']).split(' ').next());
    kib.and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1024.0
}

fn founded(nodes: u64) -> State {
    let spec = SiteSpec {
        site: "berlin".parse().unwrap(),
        country: "DE".parse().unwrap(),
        terms: Terms::default(),
        lend: vec![],
        trust: None,
    };
    let mut state = State::default();
    let found = FoundSite { spec: Arc::new(spec), address: "berlin:1".into() };
    apply(&mut state, &Command::FoundSite(found));
    for command in (0..nodes).flat_map(enrol) {
        let (reply, _) = apply(&mut state, &command);
        assert_eq!(reply, Reply::Done);
    }
    state
}

fn fill(jobs: u64, nodes: u64) -> State {
    let mut state = founded(nodes);
    let mut view = state.clone();
    let [mut admitted, mut placed, mut ran, mut ended] =
        [const { Spent { time: Duration::ZERO, items: 0 } }; 4];
    let ends = jobs - jobs / 10;
    for first in (0..jobs).step_by(BATCH as usize) {
        let batch = first..(first + BATCH).min(jobs);
        let commands: Vec<Command> = batch.clone().map(admit).collect();
        admitted.apply(&mut state, &mut view, &commands, commands.len() as u64);
        let batch = first..batch.end.min(ends);
        if batch.is_empty() {
            continue;
        }
        let items = batch.end - batch.start;
        let assignments = batch.clone().map(|n| place(n, nodes)).collect();
        let plan = CommitPlan { base: Revision(0), assignments, at: AT };
        placed.apply(&mut state, &mut view, &[Command::CommitPlan(plan)], items);
        let report =
            |phase| batch.clone().map(move |n| report(n, nodes, phase)).collect::<Vec<_>>();
        ran.apply(&mut state, &mut view, &report(AttemptPhase::Running), items);
        ended.apply(&mut state, &mut view, &report(AttemptPhase::Ended), items);
    }
    println!("apply, processor time, a view for readers every {BATCH} commands");
    admitted.print("  admit a job");
    placed.print("  place it, one assignment of a plan");
    ran.print("  record that it runs");
    ended.print("  record its end");
    assert_eq!(state.jobs.values().filter(|job| job.has_ended()).count() as u64, ends);
    state
}

/// Times single calls, in microseconds: p50, p99, p99.9 and the longest.
fn calls(state: &mut State, first: u64) -> [f64; 4] {
    let mut view = state.clone();
    let mut times: Vec<f64> = (first..first + CALLS)
        .map(|n| {
            let command = admit(n);
            let start = Instant::now();
            black_box(apply(state, &command));
            let time = start.elapsed().as_secs_f64() * 1e6;
            if n % BATCH == 0 {
                view = state.clone();
            }
            time
        })
        .collect();
    black_box(view);
    times.sort_by(f64::total_cmp);
    [0.5, 0.99, 0.999, 1.0].map(|share| times[((times.len() - 1) as f64 * share) as usize])
}

fn print_calls(what: &str, [p50, p99, p999, max]: [f64; 4]) {
    println!("{what:<36} p50={p50:.1} p99={p99:.1} p99.9={p999:.1} max={max:.1} us");
}

fn stalls(state: &mut State, jobs: u64) {
    let alone = calls(state, jobs);
    let stop = Arc::new(AtomicBool::new(false));
    let (clone, told) = (state.clone(), stop.clone());
    let walker = thread::spawn(move || {
        let mut walks = 0;
        while !told.load(Ordering::Relaxed) {
            black_box(clone.chunks().map(|chunk| chunk.bytes.len()).sum::<usize>());
            walks += 1;
        }
        walks
    });
    let beside = calls(state, jobs + CALLS);
    stop.store(true, Ordering::Relaxed);
    let walks = walker.join().unwrap();
    println!("single calls of apply, {CALLS} admissions");
    print_calls("  alone", alone);
    print_calls(&format!("  while chunks are made, {walks} times"), beside);
    println!("stall_p999_us={:.1} ratio_to_alone={:.2}", beside[2], beside[2] / alone[2]);
}

fn main() {
    // Cargo adds `--bench`.
    let numbers: Vec<u64> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    let jobs = numbers.first().copied().unwrap_or(1_000_000);
    let nodes = numbers.get(1).copied().unwrap_or(13_750);
    println!("{jobs} jobs with specs of {} bytes, {nodes} nodes", spec(0).encode().len());
    let before = memory("VmRSS");
    let mut state = fill(jobs, nodes);
    let resident = memory("VmRSS") - before;
    println!(
        "resident {resident:.0} MiB, {:.0} bytes for each job",
        resident * 1_048_576.0 / jobs as f64
    );

    let start = cpu();
    let chunks: Vec<_> = state.chunks().collect();
    let made = cpu().saturating_sub(start);
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    println!("{} chunks of {} MiB made in {:.2} s", chunks.len(), bytes >> 20, made.as_secs_f64());
    let before = memory("VmRSS");
    let start = cpu();
    let mut builder = StateBuilder::new();
    for chunk in &chunks {
        builder.push(chunk.table, chunk.records, &chunk.bytes).unwrap();
    }
    let again = builder.finish().unwrap();
    let built = cpu().saturating_sub(start);
    let resident = memory("VmRSS") - before;
    println!("and made a state again in {:.2} s, {resident:.0} MiB", built.as_secs_f64());
    assert!(again == state, "the chunks give back the state");
    let start = cpu();
    drop(again);
    println!("which was dropped in {:.2} s", cpu().saturating_sub(start).as_secs_f64());
    drop(chunks);

    stalls(&mut state, jobs);
    println!("at most {:.0} MiB resident at any time", memory("VmHWM"));
}
