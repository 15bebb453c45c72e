//! What jobs demand of the proofs of their GPUs: tier and age.

use federation_core::{
    Command, JobPhase, Leader, RecordHealth, SetTrust, WantBurnIns, gpu_views, why,
};
use specs::codec::{Blob, Message, OrDefault};
use specs::gpu::{
    BurnInTier, GpuHealth, GpuInfo, GpuReport, GpuState, HealthProof, InventorySource, Passed,
    ProofNeed, SignedProof,
};
use specs::id::{Boot, GpuIndex, JobId, Question, Revision};
use specs::job::{JobSpec, Needs};
use specs::site::Trust;
use specs::unit::{Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{Inventory, NodeReport};

use crate::world::{Site, job};

const HOUR: u64 = 3_600_000;
const T2: BurnInTier = BurnInTier::T2;
const T3: BurnInTier = BurnInTier::T3;

pub(crate) fn proving(name: &str, version: ClusterVersion) -> Site {
    let mut site = Site::found(name);
    site.raise_to(version);
    site.apply(Command::SetTrust(SetTrust { trust: Trust::Proven }));
    site.quota("acme", None, 0, 99);
    site.now = 1_000 * HOUR;
    site
}

pub(crate) fn demands(nodes: u32, gpus: u32, tier: BurnInTier, hours: u64) -> JobSpec {
    let proof = Some(ProofNeed { tier, age_max: Millis(hours * HOUR) });
    JobSpec { needs: OrDefault(Needs { proof, ..Needs::default() }), ..job("acme", nodes, gpus) }
}

/// What an agent's key signed of a GPU.
pub(crate) fn proof_of(site: &Site, node: &str, index: u16, passed: &Passed) -> SignedProof {
    let said = HealthProof {
        site: site.state.own().unwrap().clone(),
        node: node.parse().unwrap(),
        index: GpuIndex(index),
        uuid: "GPU-1".into(),
        product: "NVIDIA B200".into(),
        tier: passed.tier,
        kernels: Blob(vec![1; 32]),
        passed_at: passed.at,
        valid_for: Millis(7 * 24 * HOUR),
        agent: "test".into(),
        baseline: String::new(),
    };
    let blob = Blob::default;
    SignedProof { body: Blob(said.encode()), signature: blob(), certificate: blob() }
}

/// The node's agent says of each of its GPUs which tier it passed how many hours ago.
pub(crate) fn report(site: &mut Site, node: &str, proofs: &[(BurnInTier, u64)]) {
    let at = site.now;
    let gpus = (0u16..).zip(proofs).map(|(index, (tier, hours))| {
        let health = GpuHealth::new(GpuIndex(index), GpuState::Healthy, "");
        let ago = Millis(hours * HOUR);
        // The agent's clock is a day behind.
        let passed = Passed { tier: *tier, at: Timestamp(at - ago.0 - 24 * HOUR), ago };
        let proof = proof_of(site, node, index, &passed);
        let (proof, passed) = (Some(proof), Some(passed));
        GpuReport { health, proof, due: None, last: None, passed, earlier: None }
    });
    let health: Vec<GpuReport> = gpus.collect();
    says(site, node, health);
}

pub(crate) fn report_of(node: &str, health: Vec<GpuReport>) -> NodeReport {
    NodeReport {
        node: node.parse().unwrap(),
        boot: Boot(1),
        question: Question(1),
        obeyed: Revision(0),
        answered: Question(0),
        inventory: Inventory {
            source: InventorySource::Nvml,
            gpus: Vec::<GpuInfo>::new(),
            address: String::new(),
            version: String::new(),
            facts: OrDefault::default(),
        },
        attempts: vec![],
        health,
        heeds_permits: true,
        checkpoints: Vec::new(),
    }
}

pub(crate) fn says(site: &mut Site, node: &str, health: Vec<GpuReport>) {
    let report = report_of(node, health);
    let (now, at) = (Instant(site.now), Timestamp(site.now));
    let leader: &mut Leader = &mut site.leader;
    let commands = leader.handle_node_report(now, at, &site.state, &report).unwrap();
    for command in commands {
        site.apply(command);
    }
}

fn gpus_of(site: &Site, id: u128) -> Vec<(String, u16)> {
    let JobPhase::Leased(leased) = &site.state.jobs.get(&JobId(id)).unwrap().phase else {
        return vec![];
    };
    let lease = site.state.leases.get(&leased.lease).unwrap();
    let gpus = lease.parts.iter().flat_map(|part| {
        part.gpus.iter().map(|gpu| (part.node.to_string(), gpu.0)).collect::<Vec<_>>()
    });
    gpus.collect()
}

fn wishes(commands: &[Command]) -> Vec<(String, Vec<u16>, BurnInTier)> {
    let wish = |it: &Command| {
        let Command::WantBurnIns(WantBurnIns { node, gpus, tier }) = it else { return None };
        Some((node.to_string(), gpus.iter().map(|gpu| gpu.0).collect(), *tier))
    };
    commands.iter().filter_map(wish).collect()
}

#[test]
fn a_job_starts_only_on_gpus_whose_proofs_are_what_it_demands() {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.node("n1", "b200", 4);
    report(&mut site, "n1", &[(T2, 1), (T3, 30), (T3, 1), (T2, 30)]);
    site.submit(1, demands(1, 1, T3, 0));
    site.submit(2, demands(1, 1, T3, 24));
    site.submit(3, demands(1, 2, T2, 24));
    site.poll();
    let told = [1, 2, 3].map(|id| gpus_of(&site, id));
    let on = |gpus: &[u16]| gpus.iter().map(|gpu| ("n1".to_owned(), *gpu)).collect::<Vec<_>>();
    assert_eq!(told[..2], [on(&[1]), on(&[2])], "by tier, then by tier and age");
    assert_eq!(told[2], [], "one young GPU is not two");
    site.submit(4, job("acme", 1, 1));
    site.poll();
    assert_eq!(gpus_of(&site, 4), on(&[0]), "who demands nothing takes any that is not wished for");
}

#[test]
fn a_proof_that_grows_old_while_a_job_waits_will_not_do() {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.node("n1", "b200", 1);
    report(&mut site, "n1", &[(T2, 23)]);
    site.submit(1, job("acme", 1, 1));
    site.poll();
    site.submit(2, demands(1, 1, T2, 24));
    site.now += 2 * HOUR;
    // It was told again, which makes it no younger.
    report(&mut site, "n1", &[(T2, 25)]);
    site.finish(1);
    site.poll();
    assert_eq!(gpus_of(&site, 2), []);
    // A plan that was made in time comes too late for the log.
    let mut late = proving("giga", ClusterVersion::DEMANDS);
    late.node("n1", "b200", 1);
    report(&mut late, "n1", &[(T2, 23)]);
    late.submit(2, demands(1, 1, T2, 24));
    let mut planned = late.proposes();
    for command in &mut planned {
        if let Command::CommitPlan(plan) = command {
            plan.at = Timestamp(plan.at.0 + 2 * HOUR);
        }
    }
    assert!(planned.iter().any(|it| matches!(it, Command::CommitPlan(_))));
    for command in planned {
        late.apply(command);
    }
    assert_eq!(gpus_of(&late, 2), [], "the log looks again");
}

#[test]
fn what_binds_is_told_and_burnt_in() {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.node("n1", "b200", 2);
    site.node("n2", "b200", 2);
    report(&mut site, "n1", &[(T2, 1), (T2, 1)]);
    report(&mut site, "n2", &[(T3, 30), (T2, 1)]);
    site.submit(1, demands(1, 2, T3, 24));
    let commands = site.proposes();
    let job = site.state.jobs.get(&JobId(1)).unwrap().clone();
    let told = why(&site.state, &mut site.leader, Instant(site.now), &job).remove(0);
    let expected = "4 of 4 free GPUs have no t3 proof younger than 24 h";
    assert_eq!(told.constraint, expected, "{told:?}");
    let wished = wishes(&commands);
    assert_eq!(wished, [("n1".to_owned(), vec![0, 1], T3)], "as many as it needs, on one node");
    for command in commands {
        site.apply(command);
    }
    assert_eq!(wishes(&site.proposes()), [], "not again while they are wished");
}

#[test]
fn nothing_is_wished_that_would_come_too_late_or_to_nobody() {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.node("n1", "b200", 8);
    report(&mut site, "n1", &[(T2, 1); 8]);
    // The first of eight is too old when the last has passed.
    let mut spec = demands(1, 8, T3, 0);
    spec.needs.0.proof.as_mut().unwrap().age_max = Millis(HOUR / 2);
    site.submit(1, spec);
    assert_eq!(wishes(&site.proposes()), []);
    // Nothing can burn in what was only declared.
    let mut declared = proving("hall", ClusterVersion::DEMANDS);
    declared.apply(Command::SetTrust(SetTrust { trust: Trust::Declared }));
    declared.node("n1", "b200", 8);
    report(&mut declared, "n1", &[]);
    declared.submit(1, demands(1, 1, T2, 1));
    assert_eq!(wishes(&declared.proposes()), []);
    // An agent of an earlier release would not answer.
    let mut other = proving("giga", ClusterVersion::DEMANDS);
    other.node("n1", "b200", 1);
    report(&mut other, "n1", &[(T2, 1)]);
    other.leader = Leader::new(Instant(other.now), 2);
    other.submit(1, demands(1, 1, T3, 24));
    assert_eq!(wishes(&other.proposes()), []);
}

#[test]
fn below_the_version_nothing_of_it_is_kept() {
    let mut site = proving("berlin", ClusterVersion::SITES);
    site.node("n1", "b200", 1);
    report(&mut site, "n1", &[(T3, 1)]);
    let proven = |site: &Site| {
        site.state
            .nodes
            .values()
            .flat_map(|node| node.gpus.clone())
            .filter_map(|it| it.proven)
            .count()
    };
    assert_eq!(proven(&site), 0);
    site.raise_to(ClusterVersion::DEMANDS);
    report(&mut site, "n1", &[(T3, 1)]);
    assert_eq!(proven(&site), 1, "it is told with every report");
    let before = site.state.revision;
    report(&mut site, "n1", &[(T3, 1)]);
    assert_eq!(site.state.revision, before, "and taken in once");
    let discovered = GpuHealth::new(GpuIndex(0), GpuState::Discovered, "its proof has expired");
    let told = GpuReport {
        health: discovered,
        proof: None,
        due: None,
        last: None,
        passed: None,
        earlier: None,
    };
    says(&mut site, "n1", vec![told]);
    assert_eq!(proven(&site), 0, "and forgotten with the proof");
}

#[test]
fn a_proof_is_shown_once_the_log_agrees_with_it() {
    let mut site = proving("berlin", ClusterVersion::DEMANDS);
    site.node("n1", "b200", 1);
    let said = HealthProof {
        site: "berlin".parse().unwrap(),
        node: "n1".parse().unwrap(),
        index: GpuIndex(0),
        uuid: String::new(),
        product: "NVIDIA B200".into(),
        tier: T2,
        kernels: Blob(vec![1]),
        passed_at: Timestamp(1),
        valid_for: Millis(HOUR),
        agent: "test".into(),
        baseline: String::new(),
    };
    let blob = Blob::default;
    let body = Blob(said.encode());
    let proof = Some(SignedProof { body, signature: blob(), certificate: blob() });
    let health = GpuHealth::new(GpuIndex(0), GpuState::Healthy, "");
    let told = GpuReport { health, proof, due: None, last: None, passed: None, earlier: None };
    let shown = |site: &Site| {
        let view = gpu_views(&site.state, Some(&site.leader)).remove(0);
        (view.state, view.proof.map(|proof| proof.tier), view.fit)
    };
    let report = report_of("n1", vec![told]);
    let (now, at) = (Instant(site.now), Timestamp(site.now));
    let commands = site.leader.handle_node_report(now, at, &site.state, &report).unwrap();
    assert_eq!(shown(&site), (Some(GpuState::Discovered), None, false), "the leader alone knows");
    commands.into_iter().for_each(|it| drop(site.apply(it)));
    assert_eq!(shown(&site), (Some(GpuState::Healthy), Some(T2), true));
    // Quarantined in the log, whatever the leader still remembers.
    let found = GpuHealth::new(GpuIndex(0), GpuState::Quarantined, "it is lost");
    let record = RecordHealth {
        node: "n1".parse().unwrap(),
        boot: Boot(1),
        gpus: vec![found],
        ended: vec![],
        at,
        proven: vec![],
    };
    site.apply(Command::RecordHealth(record));
    assert_eq!(shown(&site), (Some(GpuState::Quarantined), None, false));
}
