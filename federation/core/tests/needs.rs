//! What jobs ask of their nodes beyond whole GPUs: places, attributes, CPU, memory, parts of GPUs
//! and nodes for themselves, from the agent's words to the lease.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use federation_core::{
    AcceptNode, AdmitJobs, Assignment, Command, CommitPlan, FoundSite, JobPhase, Leader, LeasePlan,
    OpenToken, PackedSpec, PartPlan, Place, Reply, State, TokenKind, apply, check, could_ever_run,
    why,
};
use specs::codec::{Blob, OrDefault};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, Epoch, GpuIndex, JobId, Question, Revision, TokenId};
use specs::job::{JobClass, JobSpec, Needs, OnPartition, PlacementSpec, Together, Vicinity};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Instant, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Facts, Inventory, NodeReport, Outcome};

const AT: Timestamp = Timestamp(1_000);
const GPUS: u16 = 8;

struct Site {
    state: State,
    leader: Leader,
    question: u64,
    jobs: u128,
    /// What each node says of its GPUs and of itself.
    nodes: BTreeMap<String, (Vec<&'static str>, Facts)>,
}

fn rack(name: &str) -> Facts {
    Facts {
        cpu_milli: 64_000,
        memory_mib: 512 << 10,
        hall: "h1".into(),
        rack: name.into(),
        ..Facts::default()
    }
}

fn needs(needs: Needs) -> JobSpec {
    gang(1, 1, needs)
}

fn gang(nodes: u32, gpus: u32, needs: Needs) -> JobSpec {
    JobSpec {
        name: "train".parse().unwrap(),
        class: JobClass::Training,
        priority: 50,
        nodes,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(gpus),
        gpu_classes: vec![],
        array: 1,
        command: vec!["true".into()],
        env: BTreeMap::new(),
        workdir: String::new(),
        grace: Millis(1_000),
        retries: 3,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: BTreeMap::new(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
        needs: OrDefault(needs),
    }
}

fn in_racks(group_nodes: u32) -> Needs {
    let together = Together { level: Vicinity::Rack, required: true, group_nodes };
    Needs { together: Some(together), ..Needs::default() }
}

impl Site {
    fn found() -> Self {
        let spec = SiteSpec {
            site: "berlin".parse().unwrap(),
            country: "DE".parse().unwrap(),
            terms: Terms::default(),
            lend: vec![],
            trust: None,
        };
        let mut site = Self {
            state: State::default(),
            leader: Leader::new(Instant(0), 1),
            question: 0,
            jobs: 0,
            nodes: BTreeMap::new(),
        };
        let address = "berlin:1".into();
        site.apply(Command::FoundSite(FoundSite { spec: Arc::new(spec), address }));
        site
    }

    /// Two racks of two nodes, and a node that says nothing of itself.
    fn of_two_racks() -> Self {
        let mut site = Self::found();
        for (node, name) in [("a1", "a"), ("b1", "b"), ("a2", "a"), ("b2", "b")] {
            site.node(node, rack(name));
        }
        site.node("plain", Facts::default());
        site
    }

    fn apply(&mut self, command: Command) -> Reply {
        let (reply, _) = apply(&mut self.state, &command);
        assert_eq!(check(&self.state), [], "after {command:?}");
        assert_eq!(self.leader.check_capacity(&self.state), [], "after {command:?}");
        reply
    }

    fn node(&mut self, name: &str, facts: Facts) {
        self.node_of(name, vec!["b200"; GPUS.into()], facts);
    }

    fn node_of(&mut self, name: &str, gpus: Vec<&'static str>, facts: Facts) {
        self.nodes.insert(name.into(), (gpus, facts));
        let token = TokenId(self.nodes.len() as u128);
        self.apply(Command::OpenToken(OpenToken {
            token,
            kind: TokenKind::Enrol,
            key: Blob(vec![1]),
            bound: name.into(),
            expires_at: AT,
        }));
        let (node, digest) = (name.parse().unwrap(), Blob(name.into()));
        let accept = AcceptNode { token, node, digest, at: AT };
        assert_eq!(self.apply(Command::AcceptNode(accept)), Reply::Done);
        self.report(name, vec![]);
    }

    fn report(&mut self, node: &str, attempts: Vec<AttemptReport>) {
        self.question += 1;
        let (gpus, facts) = self.nodes[node].clone();
        let info = |(index, class): (u16, &str)| GpuInfo {
            index: GpuIndex(index),
            class: class.parse().unwrap(),
            uuid: String::new(),
            memory_mib: 0,
        };
        let report = NodeReport {
            node: node.parse().unwrap(),
            boot: Boot(1),
            question: Question(self.question),
            obeyed: Revision(0),
            answered: Question(self.question - 1),
            inventory: Inventory {
                source: InventorySource::Declared,
                gpus: (0..).zip(gpus).map(info).collect(),
                address: "127.0.0.1".into(),
                version: "test".into(),
                facts: OrDefault(facts),
            },
            attempts,
            health: Vec::new(),
            heeds_permits: true,
            checkpoints: Vec::new(),
        };
        let commands = self.leader.handle_node_report(Instant(0), AT, &self.state, &report);
        for command in commands.unwrap() {
            self.apply(command);
        }
    }

    /// Submits, and lets the leader plan.
    fn run(&mut self, spec: JobSpec) -> u128 {
        spec.check().unwrap();
        self.jobs += 1;
        self.apply(Command::AdmitJobs(AdmitJobs {
            request: format!("request-{}", self.jobs).parse().unwrap(),
            jobs: vec![JobId(self.jobs)],
            spec: PackedSpec::from(&spec),
            submitter: "ada".into(),
            at: AT,
        }));
        self.poll();
        self.jobs
    }

    fn poll(&mut self) {
        let (commands, _) = self.leader.poll_commands(Instant(0), AT, &self.state);
        for command in commands {
            self.apply(command);
        }
    }

    /// Its nodes and GPUs; empty while it waits.
    fn stands(&self, job: u128) -> Vec<(String, Vec<u16>)> {
        let JobPhase::Leased(leased) = &self.state.jobs.get(&JobId(job)).unwrap().phase else {
            return Vec::new();
        };
        let lease = self.state.leases.get(&leased.lease).unwrap();
        let gpus = |part: &federation_core::Part| part.gpus.iter().map(|gpu| gpu.0).collect();
        lease.parts.iter().map(|part| (part.node.to_string(), gpus(part))).collect()
    }

    fn nodes_of(&self, job: u128) -> Vec<String> {
        self.stands(job).into_iter().map(|(node, _)| node).collect()
    }

    /// All its processes exit.
    fn end(&mut self, job: u128) {
        let JobPhase::Leased(leased) = &self.state.jobs.get(&JobId(job)).unwrap().phase else {
            panic!("{job} does not run")
        };
        let lease = leased.lease;
        for node in self.nodes_of(job) {
            let report = AttemptReport {
                lease,
                phase: AttemptPhase::Ended,
                outcome: Some(Outcome::exited(0, 0)),
                started_at: AT,
                ended_at: AT,
            };
            self.report(&node, vec![report]);
        }
    }

    fn why(&mut self, job: u128) -> String {
        let job = self.state.jobs.get(&JobId(job)).unwrap().clone();
        let reasons = why(&self.state, &mut self.leader, Instant(0), &job);
        let reasons = reasons.iter().map(|it| format!("{}: {}", it.constraint, it.change));
        reasons.collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn a_gang_that_requires_one_rack_lands_in_one() {
    let mut site = Site::of_two_racks();
    let small = site.run(needs(Needs::default()));
    assert_eq!(site.stands(small), [("a1".into(), vec![0])]);
    // The fullest nodes are those of rack a, and only rack b has two that are whole.
    let gang_in_rack = site.run(gang(2, 8, in_racks(0)));
    assert_eq!(site.nodes_of(gang_in_rack), ["b1", "b2"]);
    let second = site.run(gang(2, 8, in_racks(0)));
    assert_eq!(site.stands(second), []);
    let said = site.why(second);
    assert!(said.contains("rack-local: largest free in one rack is 8 of 16 GPUs"), "{said}");
    assert!(said.contains("1 more free node"), "{said}");
    site.end(small);
    site.poll();
    assert_eq!(site.nodes_of(second), ["a1", "a2"]);
}

#[test]
fn a_gang_in_groups_has_each_group_in_one_rack() {
    let mut site = Site::of_two_racks();
    let job = site.run(gang(4, 8, in_racks(2)));
    let nodes = site.nodes_of(job);
    for group in nodes.chunks(2) {
        let racks: BTreeSet<&str> = group.iter().map(|node| &node[..1]).collect();
        assert_eq!(racks.len(), 1, "{nodes:?}");
    }
    assert_eq!(nodes.len(), 4);
}

#[test]
fn a_gang_that_no_rack_could_hold_is_never_taken_in() {
    let mut site = Site::of_two_racks();
    let Site { state, leader, .. } = &mut site;
    assert!(could_ever_run(state, leader, &gang(2, 8, in_racks(0))));
    assert!(!could_ever_run(state, leader, &gang(3, 8, in_racks(0))));
    assert!(could_ever_run(state, leader, &gang(3, 8, Needs::default())));
    let too_much = Needs { cpu_milli: 64_001, ..Needs::default() };
    assert!(!could_ever_run(state, leader, &needs(too_much)));
    let attributes = [("fabric".to_owned(), "ndr".to_owned())].into();
    assert!(!could_ever_run(state, leader, &needs(Needs { attributes, ..Needs::default() })));
}

#[test]
fn parts_of_a_gpu_fill_one_before_another_is_begun() {
    let mut site = Site::found();
    site.node("n1", Facts::default());
    let quarter = || needs(Needs { gpu_milli: 250, ..Needs::default() });
    let jobs: Vec<u128> = (0..5).map(|_| site.run(quarter())).collect();
    let gpus: Vec<u16> = jobs.iter().map(|job| site.stands(*job)[0].1[0]).collect();
    assert_eq!(gpus, [0, 0, 0, 0, 1]);
    let whole = site.run(gang(1, 6, Needs::default()));
    assert_eq!(site.stands(whole)[0].1, [2, 3, 4, 5, 6, 7]);
    let waits = site.run(gang(1, 1, Needs::default()));
    assert_eq!(site.stands(waits), []);
    site.end(jobs[4]);
    site.poll();
    assert_eq!(site.stands(waits)[0].1, [1]);
    site.end(jobs[1]);
    let again = site.run(quarter());
    assert_eq!(site.stands(again)[0].1, [0]);
}

/// Jobs that ask for half a GPU fill eight, and one that asks for 400 has a ninth. The next half is on
/// the rest of the ninth, or on one of its own.
fn next_half_beside(halves: u16) -> u16 {
    let mut site = Site::found();
    for name in ["n1", "n2"] {
        site.node(name, Facts::default());
    }
    let part = |gpu_milli| needs(Needs { gpu_milli, ..Needs::default() });
    for _ in 0..halves {
        site.run(part(500));
    }
    let odd = site.run(part(400));
    let (node, gpu) = site.stands(odd).remove(0);
    let next = site.run(part(500));
    let stands = site.stands(next).remove(0);
    u16::from(stands == (node, gpu))
}

#[test]
fn a_part_of_a_gpu_goes_where_the_rest_is_of_use_to_the_jobs_that_run_here() {
    // Among too few jobs to tell what is usual the tightest GPU is taken.
    assert_eq!(next_half_beside(4), 1);
    // Nobody here would use the hundred thousandths that are left of 600.
    assert_eq!(next_half_beside(16), 0);
}

#[test]
fn who_is_to_be_alone_waits_for_an_empty_node_and_keeps_others_off() {
    let mut site = Site::found();
    site.node("n1", Facts::default());
    let alone = || gang(1, 2, Needs { exclusive: true, ..Needs::default() });
    let first = site.run(needs(Needs::default()));
    let second = site.run(alone());
    assert_eq!(site.stands(second), []);
    site.end(first);
    site.poll();
    assert_eq!(site.stands(second), [("n1".into(), vec![0, 1])]);
    let third = site.run(needs(Needs { gpu_milli: 100, ..Needs::default() }));
    assert_eq!(site.stands(third), []);
    site.end(second);
    site.poll();
    assert_eq!(site.nodes_of(third), ["n1"]);
    // GPUs of two classes: what is free of one says nothing of the other.
    site.node_of("mixed", vec!["b200", "h100"], Facts::default());
    let fourth = site.run(alone());
    assert_eq!(site.stands(fourth), []);
}

#[test]
fn cpu_memory_and_attributes_are_counted_and_matched() {
    let mut site = Site::found();
    let facts = |value: &str| Facts {
        cpu_milli: 16_000,
        memory_mib: 1_000,
        attributes: [("fabric".to_owned(), value.to_owned())].into(),
        ..Facts::default()
    };
    site.node("n1", facts("hdr"));
    site.node("n2", facts("ndr"));
    site.node("n3", Facts::default());
    let half = Needs { cpu_milli: 8_000, memory_mib: 400, ..Needs::default() };
    let jobs: Vec<u128> = (0..5).map(|_| site.run(needs(half.clone()))).collect();
    let nodes: Vec<String> = jobs.iter().flat_map(|job| site.nodes_of(*job)).collect();
    assert_eq!(nodes, ["n1", "n1", "n2", "n2"]);
    let said = site.why(jobs[4]);
    assert!(said.contains("0 nodes have CPU and memory left"), "{said}");
    site.end(jobs[0]);
    site.poll();
    assert_eq!(site.nodes_of(jobs[4]), ["n1"]);
    let attributes: BTreeMap<_, _> = [("fabric".to_owned(), "ndr".to_owned())].into();
    let fast = site.run(needs(Needs { attributes, ..Needs::default() }));
    assert_eq!(site.nodes_of(fast), ["n2"]);
}

#[test]
fn the_log_drops_a_plan_that_gives_a_job_less_than_it_asks_for() {
    let cases: [(JobSpec, &[(&str, u16)]); 5] = [
        (gang(2, 1, in_racks(0)), &[("a1", 0), ("b1", 0)]),
        (gang(2, 1, in_racks(0)), &[("a1", 0), ("plain", 0)]),
        (needs(Needs { cpu_milli: 64_001, ..Needs::default() }), &[("a1", 0)]),
        (needs(Needs { exclusive: true, ..Needs::default() }), &[("a2", 1)]),
        (needs(Needs { gpu_milli: 501, ..Needs::default() }), &[("a2", 0)]),
    ];
    for (spec, places) in cases {
        let mut site = Site::of_two_racks();
        let user = site.run(needs(Needs { gpu_milli: 500, ..Needs::default() }));
        assert_eq!(site.nodes_of(user), ["a1"]);
        site.end(user);
        let token = |(node, gpu): &(&str, u16)| PartPlan {
            node: node.parse().unwrap(),
            gpus: vec![GpuIndex(*gpu)],
        };
        let commit = |site: &mut Site, spec: &JobSpec, places: &[(&str, u16)]| {
            site.jobs += 1;
            let job = JobId(site.jobs);
            site.apply(Command::AdmitJobs(AdmitJobs {
                request: format!("request-{}", site.jobs).parse().unwrap(),
                jobs: vec![job],
                spec: PackedSpec::from(spec),
                submitter: "ada".into(),
                at: AT,
            }));
            let place = Place::Here(LeasePlan { parts: places.iter().map(token).collect() });
            let assignments = vec![Assignment { job, after: Epoch(0), place }];
            let base = site.state.revision;
            site.apply(Command::CommitPlan(CommitPlan { base, assignments, at: AT }))
        };
        let beside = needs(Needs { gpu_milli: 500, ..Needs::default() });
        let taken = Reply::Placed { taken: 1, dropped: 0 };
        assert_eq!(commit(&mut site, &beside, &[("a2", 0)]), taken);
        let dropped = Reply::Placed { taken: 0, dropped: 1 };
        assert_eq!(commit(&mut site, &spec, places), dropped, "{spec:?}");
    }
}

#[test]
fn a_job_that_a_loan_cannot_carry_does_not_leave() {
    assert!(needs(Needs::default()).may_leave());
    let spread = Needs { spread: true, ..Needs::default() };
    assert!(needs(spread).may_leave());
    for it in [
        Needs { cpu_milli: 1, ..Needs::default() },
        Needs { memory_mib: 1, ..Needs::default() },
        Needs { gpu_milli: 1, ..Needs::default() },
        Needs { exclusive: true, ..Needs::default() },
        in_racks(0),
    ] {
        assert!(!needs(it.clone()).may_leave(), "{it:?}");
    }
}

#[test]
fn whatever_comes_and_goes_no_more_is_promised_than_there_is() {
    for seed in 0..12u64 {
        let mut site = Site::of_two_racks();
        site.node_of("mixed", vec!["b200", "b200", "h100", "h100"], rack("b"));
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut roll = move |sides: u32| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            u32::try_from(dice % u64::from(sides)).unwrap()
        };
        let mut live: Vec<u128> = Vec::new();
        let mut placed = 0;
        for _ in 0..40 {
            live.retain(|job| {
                !site.stands(*job).is_empty() || {
                    let job = site.state.jobs.get(&JobId(*job)).unwrap();
                    matches!(job.phase, JobPhase::Queued(_))
                }
            });
            if roll(3) == 0 {
                let running: Vec<u128> =
                    live.iter().copied().filter(|job| !site.stands(*job).is_empty()).collect();
                let nth = roll(u32::try_from(running.len().max(1)).unwrap());
                if let Some(job) = running.iter().cycle().nth(usize::try_from(nth).unwrap()) {
                    site.end(*job);
                    site.poll();
                }
                continue;
            }
            let cpu = roll(4) * 8_000;
            let it = Needs { cpu_milli: cpu, exclusive: roll(6) == 0, ..Needs::default() };
            let spec = match roll(4) {
                0 => needs(Needs { gpu_milli: 100 + 100 * roll(8), ..it }),
                1 => gang(2, 1 + roll(8), Needs { together: in_racks(0).together, ..it }),
                2 => gang(1 + roll(3), 1 + roll(8), Needs { spread: true, ..it }),
                _ => gang(1, 1 + roll(8), it),
            };
            let job = site.run(spec);
            placed += usize::from(!site.stands(job).is_empty());
            live.push(job);
        }
        assert!(placed > 5, "seed {seed}: {placed}");
    }
}
