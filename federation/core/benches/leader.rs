//! What one look around costs a leader, which looks up to 50 times a second: with nothing new, after
//! one job has ended on a full site with a long queue, and when it watches over its nodes as well;
//! and what a report to a peer costs.
//!
//! `cargo bench -p federation-core --bench leader`
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time;

use federation_core::{
    AcceptNode, AddPeer, AdmitJobs, Command, FoundSite, Leader, OpenToken, PackedSpec, PeerRecord,
    RecordParts, RegisterNode, Reply, State, TokenKind, apply,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, GpuIndex, JobId, NodeId, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Inventory, Outcome};

/// Nodes, and jobs that wait.
const SIZES: [(u64, u64); 4] =
    [(1_250, 10_000), (1_250, 100_000), (12_500, 10_000), (12_500, 100_000)];
const GPUS: u16 = 8;
const AT: Timestamp = Timestamp(1_700_000_000_000);
const CYCLES: u64 = 200;

fn node_id(n: u64) -> NodeId {
    format!("dgx-{n:05}").parse().unwrap()
}

/// Gangs of a few shapes, and each with a text of its own.
fn spec(n: u64) -> JobSpec {
    JobSpec {
        name: format!("train-{n}").parse().unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes: [1, 1, 2, 4][usize::try_from(n % 4).unwrap()],
        tasks_per_node: 8,
        gpus_per_node: GpuCount(GPUS.into()),
        gpu_classes: vec!["b200".parse().unwrap()],
        array: 1,
        command: vec!["python3".into(), "train.py".into(), format!("--seed={n}")],
        env: [("NCCL_DEBUG".to_owned(), "WARN".to_owned())].into(),
        workdir: "/data/train".into(),
        grace: Millis(10_000),
        retries: 10,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: BTreeMap::new(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
        needs: OrDefault::default(),
    }
}

struct Site {
    state: State,
    leader: Leader,
    now: Instant,
    jobs: u64,
}

impl Site {
    /// All GPUs are taken, and so many jobs wait.
    fn full(nodes: u64, waiting: u64) -> Self {
        let spec = SiteSpec {
            site: "giga".parse().unwrap(),
            country: "DE".parse().unwrap(),
            // The agents of a benchmark are not heard.
            terms: Terms { suspect_node_after: Millis(86_400_000), ..Terms::default() },
            lend: vec![],
            trust: None,
        };
        let leader = Leader::new(Instant(0), 1);
        let mut site = Self { state: State::default(), leader, now: Instant(0), jobs: 0 };
        let found = FoundSite { spec: Arc::new(spec), address: "giga:1".into() };
        site.apply(&Command::FoundSite(found));
        let (peer, country) = ("berlin".parse().unwrap(), "DE".parse().unwrap());
        let (ca, addresses) = (Blob(vec![1]), vec!["berlin:1".into()]);
        let peer = PeerRecord { site: peer, country, ca, addresses };
        site.apply(&Command::AddPeer(AddPeer { peer }));
        (0..nodes).for_each(|n| site.enrol(n));
        (0..nodes + waiting).for_each(|_| site.submit());
        loop {
            let before = site.state.leases.len();
            site.cycle();
            if site.state.leases.len() == before {
                return site;
            }
        }
    }

    fn apply(&mut self, command: &Command) {
        let (reply, _) = apply(&mut self.state, command);
        assert!(!matches!(reply, Reply::NoOp(_) | Reply::Refused(_)), "{reply:?}");
    }

    fn enrol(&mut self, n: u64) {
        let (token, node) = (TokenId(n.into()), node_id(n));
        let info = |index| GpuInfo {
            index: GpuIndex(index),
            class: "b200".parse().unwrap(),
            uuid: String::new(),
            memory_mib: 183_359,
        };
        let inventory = Inventory {
            source: InventorySource::Nvml,
            gpus: (0..GPUS).map(info).collect(),
            address: format!("dgx-{n:05}"),
            version: "0.1.0".into(),
            facts: OrDefault::default(),
        };
        let kind = TokenKind::Enrol;
        let (bound, digest) = (String::new(), Blob(vec![7; 32]));
        let open = OpenToken { token, kind, key: digest.clone(), bound, expires_at: AT };
        self.apply(&Command::OpenToken(open));
        let accept = AcceptNode { token, node: node.clone(), digest, at: AT };
        self.apply(&Command::AcceptNode(accept));
        self.apply(&Command::RegisterNode(RegisterNode { node, boot: Boot(1), inventory, at: AT }));
    }

    fn submit(&mut self) {
        let n = self.jobs;
        self.jobs += 1;
        self.apply(&Command::AdmitJobs(AdmitJobs {
            request: format!("request-{n}").parse().unwrap(),
            jobs: vec![JobId(n.into())],
            spec: PackedSpec::from(&spec(n)),
            submitter: "ada@giga".into(),
            at: AT,
        }));
    }

    /// The oldest lease ends.
    fn end_one(&mut self) {
        let lease = self.state.leases.values().next().unwrap().clone();
        for part in lease.parts {
            let report = AttemptReport {
                lease: lease.id,
                phase: AttemptPhase::Ended,
                outcome: Some(Outcome::exited(0, 0)),
                started_at: AT,
                ended_at: AT,
            };
            let (node, attempts) = (part.node, vec![report]);
            self.apply(&Command::RecordParts(RecordParts {
                node,
                boot: Boot(1),
                attempts,
                at: AT,
            }));
        }
    }

    /// A question to a peer after one job has ended; the time that it takes, in microseconds.
    fn report(&mut self) -> f64 {
        self.end_one();
        let home = "berlin".parse().unwrap();
        let start = time::Instant::now();
        black_box(self.leader.ask_peer(self.now, &self.state, &home).unwrap());
        start.elapsed().as_secs_f64() * 1e6
    }

    /// One look around, and what follows from it; the time of the look, in microseconds.
    fn cycle(&mut self) -> f64 {
        let start = time::Instant::now();
        let (commands, alarms) = self.leader.poll_commands(self.now, AT, &self.state);
        let spent = start.elapsed();
        black_box(alarms);
        commands.iter().for_each(|command| self.apply(command));
        spent.as_secs_f64() * 1e6
    }
}

/// What others do on the machine disturbs a few looks.
fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    for (nodes, waiting) in SIZES {
        let mut site = Site::full(nodes, waiting);
        let queued = site.state.jobs.len() - site.state.leases.len();
        site.cycle();
        let idle = median((0..CYCLES).map(|_| site.cycle()).collect());
        let news = (0..CYCLES).map(|_| {
            site.end_one();
            site.cycle()
        });
        let news = median(news.collect());
        let looks = (0..CYCLES).map(|_| {
            site.now = site.now.after(Millis(1_000));
            site.cycle()
        });
        let looks = median(looks.collect());
        let report = median((0..CYCLES).map(|_| site.report()).collect());
        println!(
            "nodes={nodes} queued={queued} nothing_new_us={idle:.1} one_end_us={news:.1} \
             watch_us={looks:.1} report_us={report:.1}"
        );
    }
}
