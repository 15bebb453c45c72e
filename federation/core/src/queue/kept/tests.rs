//! A choice that takes several looks beside one made at once, and beside a sort of all nodes.
#![allow(clippy::unwrap_used, reason = "tests")]

use alloc::string::String;

use proptest::prelude::*;
use specs::gpu::GpuInfo;
use specs::id::{Boot, Epoch, GpuIndex, SiteId};
use specs::job::{OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::GpuCount;

use super::*;
use crate::apply::apply;
use crate::command::{AdmitJobs, Command, FoundSite};
use crate::state::compact::PackedSpec;

const AT: Timestamp = Timestamp(1_000_000);
const GPUS: u16 = 2;

fn spec(nodes: u32, time_limit: Millis) -> JobSpec {
    JobSpec {
        name: "train".parse().unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(GPUS.into()),
        gpu_classes: alloc::vec!["b200".parse().unwrap()],
        array: 1,
        command: alloc::vec!["true".into()],
        env: BTreeMap::new(),
        workdir: String::new(),
        grace: Millis(0),
        retries: 0,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: Vec::new(), residency: Vec::new(), spill: false },
        time_limit,
        labels: BTreeMap::new(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: Vec::new(),
        deadline: None,
    }
}

fn node(n: usize) -> NodeId {
    alloc::format!("n{n:03}").parse().unwrap()
}

/// A site on whose nodes leases end after so many seconds, those that have one; and a job that
/// waits for some of the nodes.
fn site(ends: &[Option<u16>], wanted: u32) -> State {
    let mut state = State::default();
    let own: SiteId = "berlin".parse().unwrap();
    let (country, terms) = ("DE".parse().unwrap(), Terms::default());
    let site = SiteSpec { site: own.clone(), country, terms, lend: Vec::new(), trust: None };
    apply(&mut state, &Command::FoundSite(FoundSite { spec: site.into(), address: "a:1".into() }));
    let (request, submitter) = ("request-1".parse().unwrap(), "ada".into());
    let (jobs, spec_of) = (alloc::vec![JobId(1)], PackedSpec::from(&spec(wanted, Millis(0))));
    let admit = AdmitJobs { request, jobs, spec: spec_of, submitter, at: AT };
    apply(&mut state, &Command::AdmitJobs(admit));
    for (n, end) in ends.iter().enumerate() {
        let lease = end.map(|seconds| {
            let id = LeaseId(n as u64 + 1);
            let spec = Arc::new(spec(1, Millis(u64::from(seconds) * 1_000)));
            let (home, parts) = (own.clone(), Vec::new());
            let (job, epoch, array_index) = (JobId(0), Epoch(1), 0);
            let (stop, verdict) = (None, None);
            let lease = Lease { id, home, job, epoch, spec, array_index, parts, stop, verdict };
            state.agreed.leases.insert(id, lease);
            id
        });
        let gpu = |index| Gpu {
            info: GpuInfo {
                index: GpuIndex(index),
                class: "b200".parse().unwrap(),
                uuid: String::new(),
                memory_mib: 0,
            },
            lease,
            grant: None,
            shares: Vec::new(),
            doubt: None,
            withheld: None,
            released: false,
            wish: None,
            permit: None,
            carries: false,
            proven: None,
        };
        let gpus = (0..GPUS).map(gpu).collect();
        state.agreed.nodes.insert(node(n), Node { boot: Boot(1), gpus, ..Node::awaited(node(n)) });
    }
    state
}

fn chosen(state: &State, walked: usize) -> Option<Kept> {
    let candidates = [(JobId(7), false), (JobId(1), false)].into();
    let mut choice = Choice { at: AT, candidates, walk: None };
    loop {
        if let Some(chosen) = choice.go_on(state, walked) {
            return chosen;
        }
    }
}

proptest! {
    #[test]
    fn a_choice_in_many_looks_is_that_of_one(
        ends in prop::collection::vec(prop::option::of(1..2_000u16), 0..40),
        wanted in 1..6u32,
        walked in 1..12usize,
    ) {
        let state = site(&ends, wanted);
        let mut all: Vec<(u64, NodeId)> = ends
            .iter()
            .enumerate()
            .map(|(n, end)| (AT.0 + u64::from(end.unwrap_or(0)) * 1_000, node(n)))
            .collect();
        all.sort();
        all.truncate(wanted as usize);
        let expected = (all.len() == wanted as usize).then(|| {
            let starts_at = all.last().map(|(time, _)| Timestamp(*time));
            let mut nodes: Vec<NodeId> = all.into_iter().map(|(_, id)| id).collect();
            nodes.sort();
            (nodes, starts_at)
        });
        for walked in [walked, usize::MAX] {
            let found = chosen(&state, walked).map(|kept| (kept.nodes, kept.starts_at));
            prop_assert_eq!(&found, &expected);
        }
    }
}
