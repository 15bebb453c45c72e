//! What a plan costs by how many jobs and accounts wait: on a site that is full, where no job gets
//! anything, and on one with room, where a plan places as many as it may.
//!
//! `cargo bench -p federation-core --bench queue`
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use federation_core::{
    AcceptNode, AdmitJobs, Command, FoundSite, Leader, OpenToken, PackedSpec, RegisterNode, Reply,
    SetQuota, SetVersion, State, TokenKind, apply,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, GpuIndex, JobId, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::quota::Limit;
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::Inventory;

const AT: Timestamp = Timestamp(1_700_000_000_000);
const PLANS: u32 = 20;

fn spec(account: &str, gpus: u32) -> JobSpec {
    JobSpec {
        name: "train".parse().unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(gpus),
        gpu_classes: vec!["b200".parse().unwrap()],
        array: 1,
        command: vec!["true".into()],
        env: [].into(),
        workdir: String::new(),
        grace: Millis(1_000),
        retries: 3,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: [].into(),
        account: Some(account.parse().unwrap()),
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
        needs: OrDefault::default(),
    }
}

fn done(state: &mut State, command: Command) {
    let (reply, _) = apply(state, &command);
    assert!(!matches!(reply, Reply::NoOp(_) | Reply::Refused(_)), "{reply:?}");
}

fn add_node(state: &mut State, n: u32) {
    let (token, node) = (TokenId(n.into()), format!("dgx-{n:05}").parse().unwrap());
    let key = Blob(vec![7; 32]);
    let (kind, bound) = (TokenKind::Enrol, String::new());
    done(state, Command::OpenToken(OpenToken { token, kind, key, bound, expires_at: AT }));
    let digest = Blob(vec![7; 32]);
    let accept = AcceptNode { token, node, digest, at: AT };
    let node = accept.node.clone();
    done(state, Command::AcceptNode(accept));
    let info = |index| GpuInfo {
        index: GpuIndex(index),
        class: "b200".parse().unwrap(),
        uuid: String::new(),
        memory_mib: 183_359,
    };
    let inventory = Inventory {
        source: InventorySource::Declared,
        gpus: (0..8).map(info).collect(),
        address: "10.0.0.1".into(),
        version: "0.1.0".into(),
        facts: OrDefault::default(),
    };
    done(state, Command::RegisterNode(RegisterNode { node, boot: Boot(1), inventory, at: AT }));
}

fn site(nodes: u32, jobs: u32, accounts: u32, quotas: bool, gpus: u32) -> State {
    let mut state = State::default();
    let (site, country) = ("berlin".parse().unwrap(), "DE".parse().unwrap());
    let spec_of = SiteSpec { site, country, terms: Terms::default(), lend: vec![], trust: None };
    let found = FoundSite { spec: Arc::new(spec_of), address: "berlin:1".into() };
    done(&mut state, Command::FoundSite(found));
    done(&mut state, Command::SetVersion(SetVersion { version: ClusterVersion::QUEUEING }));
    for n in 0..nodes {
        add_node(&mut state, n);
    }
    // Without a quota of theirs, accounts are what submitters are called.
    for n in 0..accounts {
        let limit = Limit { class: None, guaranteed: GpuCount(2), max: Some(GpuCount(100_000)) };
        let account = format!("a{n:04}").parse().unwrap();
        if quotas {
            done(
                &mut state,
                Command::SetQuota(SetQuota { account, limit: Some(limit), weight: 1 }),
            );
        }
    }
    for n in 0..jobs {
        let submitter = format!("a{:04}", n % accounts);
        let it = AdmitJobs {
            request: format!("request-{n}").parse().unwrap(),
            jobs: vec![JobId(u128::from(n))],
            spec: PackedSpec::from(&spec(&submitter, gpus)),
            submitter,
            at: AT,
        };
        done(&mut state, Command::AdmitJobs(it));
    }
    state
}

/// What this thread has had of a processor: others on the machine do not count.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn plans(what: &str, state: &State) -> (usize, Duration) {
    let mut leader = Leader::new(Instant(1_000), 1);
    let mut placed = 0;
    let mut best = Duration::MAX;
    for _ in 0..PLANS {
        let start = cpu();
        let commands = black_box(leader.poll_commands(Instant(1_001), AT, state)).0;
        best = best.min(cpu().saturating_sub(start));
        let of = |it: &Command| {
            if let Command::CommitPlan(plan) = it { plan.assignments.len() } else { 0 }
        };
        placed = commands.iter().map(of).sum();
    }
    assert!(best > Duration::ZERO, "{what}: this system does not say what a thread has had");
    (placed, best)
}

fn main() {
    for (what, nodes, gpus) in [("full", 1, 16), ("room", 1_250, 1)] {
        for quotas in [false, true] {
            for (jobs, accounts) in
                [(5_000, 1), (100_000, 1), (5_000, 100), (100_000, 100), (100_000, 1_000)]
            {
                let state = site(nodes, jobs, accounts, quotas, gpus);
                let (placed, best) = plans(what, &state);
                let micros = best.as_micros();
                println!(
                    "site={what} queued={jobs} accounts={accounts} quotas={quotas} \
                     placed={placed} plan_us={micros}"
                );
            }
        }
    }
}
