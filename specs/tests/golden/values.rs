//! One value of every message, with every field set and no two fields alike.

use std::collections::BTreeMap;
use std::sync::Arc;

use specs::codec::{Blob, OrDefault};
use specs::fault::{Fault, FaultCode};
use specs::gpu::{
    Bound, BoundUnit, BurnInEnd, BurnInPermit, BurnInResult, BurnInTier, EarlierResults, GpuClass,
    GpuHealth, GpuInfo, GpuReport, GpuState, HealthLimits, HealthProof, InventorySource, Passed,
    ProofNeed, SignedProof,
};
use specs::id::{
    AccountId, Boot, Country, Epoch, GpuIndex, GrantId, JobId, JobName, LeaseId, NodeId, Question,
    RequestId, ReservationName, Revision, SiteId, TokenId,
};
use specs::job::{
    Deadline, JobClass, JobSpec, Needs, OnPartition, PlacementSpec, Together, Vicinity,
};
use specs::measure::Lag;
use specs::quota::{Limit, Quota};
use specs::site::{LendRule, SiteSpec, Terms, Trust};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::agent::{self, AttemptPhase, Ending, LogStream, Outcome, ValidityKind, Want};
use specs::wire::client::{self, JobState, NodeState};
use specs::wire::join;
use specs::wire::method::Method;
use specs::wire::peer::{self, GuestPhase};

use super::{Sample, controllers, measures, sample, signals};

pub(crate) fn all() -> Vec<Sample> {
    let mut all = vocabulary();
    all.extend(agents());
    all.extend(client_jobs());
    all.extend(client_nodes_and_sites());
    all.extend(controllers::all());
    all.extend(reservations());
    all.extend(joins());
    all.extend(measures::all());
    all.extend(peers());
    all.extend(signals::all());
    all
}

type Numbers = Vec<(u32, &'static str)>;

/// Every enumeration with its numbers and texts.
pub(crate) fn enumerations() -> Vec<(&'static str, Numbers)> {
    macro_rules! list {
        ($($name:ident),* $(,)?) => {
            vec![$((
                stringify!($name),
                $name::ALL.iter().map(|value| (value.number(), value.as_str())).collect(),
            )),*]
        };
    }
    list![
        AttemptPhase,
        BoundUnit,
        BurnInEnd,
        BurnInTier,
        Ending,
        FaultCode,
        GpuState,
        GuestPhase,
        InventorySource,
        JobClass,
        JobState,
        Lag,
        LogStream,
        Method,
        NodeState,
        OnPartition,
        Trust,
        ValidityKind,
        Vicinity,
        Want,
    ]
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

fn node(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn class(name: &str) -> GpuClass {
    name.parse().unwrap()
}

fn country(name: &str) -> Country {
    name.parse().unwrap()
}

fn job() -> JobId {
    JobId(0x0197_f3a1_2b4c_7d8e_9f01_2345_6789_abcd)
}

fn request() -> RequestId {
    "submit-7f3a".parse().unwrap()
}

fn map(name: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(name.to_owned(), value.to_owned())])
}

fn spec() -> Arc<JobSpec> {
    Arc::new(JobSpec {
        name: "llama-ft".parse::<JobName>().unwrap(),
        class: JobClass::Simulation,
        priority: 60,
        nodes: 2,
        tasks_per_node: 8,
        gpus_per_node: GpuCount(4),
        gpu_classes: vec![class("b200"), class("h100")],
        array: 6,
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), "echo $RANK".to_owned()],
        env: map("STEPS", "5"),
        workdir: "/scratch".to_owned(),
        grace: Millis(10_000),
        retries: 3,
        on_partition: OnPartition::Wait,
        placement: placement(),
        time_limit: Millis(43_200_000),
        labels: map("team", "speech"),
        needs: OrDefault(needs()),
        account: Some(account()),
        preemptible: Some(true),
        array_running_max: 4,
        data: vec![signals::data_need()],
        deadline: Some(Deadline { within: Millis(21_600_000), by: Timestamp(0) }),
    })
}

fn together() -> Together {
    Together { level: Vicinity::Rack, required: true, group_nodes: 8 }
}

fn needs() -> Needs {
    Needs {
        cpu_milli: 12_000,
        memory_mib: 131_072,
        gpu_milli: 250,
        attributes: map("fabric", "ndr"),
        exclusive: true,
        spread: true,
        together: Some(together()),
        proof: Some(proof_need()),
    }
}

fn proof_need() -> ProofNeed {
    ProofNeed { tier: BurnInTier::T3, age_max: Millis(86_400_000) }
}

fn passed() -> Passed {
    Passed { tier: BurnInTier::T2, at: Timestamp(1_780_000_000_009), ago: Millis(7_000) }
}

fn account() -> AccountId {
    "acme/vision/ada".parse().unwrap()
}

fn limit() -> Limit {
    let (guaranteed, max) = (GpuCount(32), Some(GpuCount(64)));
    Limit { class: Some(class("b200")), guaranteed, max }
}

fn quota() -> Quota {
    Quota { limits: vec![limit()], weight: 3 }
}

fn class_count() -> client::ClassCount {
    client::ClassCount { class: class("b200"), gpus: GpuCount(16) }
}

fn quota_view() -> client::QuotaView {
    client::QuotaView {
        account: account(),
        quota: Some(quota()),
        used: vec![class_count()],
        lately: vec![class_count()],
    }
}

fn queue_why() -> client::QueueWhy {
    client::QueueWhy {
        constraint: "acme may hold 64 GPUs and holds 60".to_owned(),
        change: "4 more".to_owned(),
    }
}

fn placement() -> PlacementSpec {
    PlacementSpec {
        sites: vec![site("berlin"), site("giga")],
        residency: vec![country("DE"), country("NL")],
        spill: true,
    }
}

fn gpu() -> GpuInfo {
    GpuInfo {
        index: GpuIndex(3),
        class: class("rtx-pro-6000"),
        uuid: "GPU-1b2c".to_owned(),
        memory_mib: 97_887,
    }
}

fn terms() -> Terms {
    Terms {
        node_lease: Millis(15_000),
        loan_term: Millis(90_000),
        suspect_node_after: Millis(5_000),
        suspect_peer_after: Millis(8_000),
        grant_idle: Millis(30_000),
        grant_term: Millis(600_000),
        heard_percent_min: 51,
        spill_after: Millis(2_000),
    }
}

fn lend_rule() -> LendRule {
    LendRule {
        to: Some(site("giga")),
        class: Some(class("h200")),
        gpus_max: GpuCount(2_000),
        keep_free: GpuCount(16),
    }
}

fn vocabulary() -> Vec<Sample> {
    vec![
        sample(&Fault {
            code: FaultCode::Unplaceable,
            message: "no site has 8 b200".to_owned(),
            hint: "ask for fewer".to_owned(),
        }),
        sample(&gpu()),
        sample(&placement()),
        sample(&together()),
        sample(&needs()),
        sample(&proof_need()),
        sample(&*spec()),
        sample(&terms()),
        sample(&lend_rule()),
        sample(&SiteSpec {
            site: site("berlin"),
            country: country("DE"),
            terms: terms(),
            lend: vec![lend_rule()],
            trust: Some(Trust::Declared),
        }),
        sample(&health_proof()),
        sample(&signed_proof()),
        sample(&gpu_health()),
        sample(&gpu_report()),
        sample(&passed()),
        sample(&burn_in_result()),
        sample(&earlier_results()),
        sample(&burn_in_permit()),
        sample(&health_limits().retests),
        sample(&health_limits()),
    ]
}

fn health_proof() -> HealthProof {
    HealthProof {
        site: site("berlin"),
        node: node("n01"),
        index: GpuIndex(5),
        uuid: "GPU-1b2d".to_owned(),
        product: "NVIDIA B200".to_owned(),
        tier: BurnInTier::T2,
        kernels: Blob(vec![11; 32]),
        passed_at: Timestamp(1_790_000_000_123),
        valid_for: Millis(604_800_000),
        agent: "0.1.2".to_owned(),
        baseline: "b200-1".to_owned(),
    }
}

fn signed_proof() -> SignedProof {
    SignedProof {
        body: Blob(vec![12, 13]),
        signature: Blob(vec![14, 15]),
        certificate: Blob(vec![16, 17]),
    }
}

fn gpu_health() -> GpuHealth {
    GpuHealth {
        index: GpuIndex(6),
        state: GpuState::Suspect,
        why: "SM 7 is two percent late".to_owned(),
    }
}

fn gpu_report() -> GpuReport {
    GpuReport {
        health: gpu_health(),
        proof: Some(signed_proof()),
        due: Some(BurnInTier::T1),
        last: Some(burn_in_result()),
        passed: Some(passed()),
        earlier: Some(earlier_results()),
    }
}

fn earlier_results() -> EarlierResults {
    EarlierResults { results: vec![burn_in_result()] }
}

fn burn_in_result() -> BurnInResult {
    BurnInResult {
        number: Revision(4_713),
        tier: BurnInTier::T3,
        end: BurnInEnd::Unknown,
        why: "no majority".to_owned(),
        ended_at: Timestamp(1_780_000_000_007),
        took: Millis(231_000),
        numbers: [("memoryBytesPerSecond".to_owned(), 4_300_000_000_000)].into(),
        make: Some(measures::make()),
        capped: true,
        digests: Some(measures::digests()),
    }
}

fn burn_in_permit() -> BurnInPermit {
    BurnInPermit { index: GpuIndex(6), number: Revision(4_714), tier: BurnInTier::T4 }
}

fn health_limits() -> HealthLimits {
    let bound = |unit, value| Bound { unit, value };
    HealthLimits {
        retests: bound(BoundUnit::Gpus, 12),
        admissions: bound(BoundUnit::Percent, 25),
        quarantined: bound(BoundUnit::Percent, 10),
        quarantines: 32,
    }
}

fn outcome() -> Outcome {
    Outcome { ending: Ending::Exited, exit_code: -9, signal: 11, detail: "rank 3 of 16".to_owned() }
}

fn inventory() -> agent::Inventory {
    agent::Inventory {
        source: InventorySource::Declared,
        gpus: vec![gpu()],
        address: "10.0.0.7".to_owned(),
        version: "0.1.0".to_owned(),
        facts: OrDefault(facts()),
    }
}

fn facts() -> agent::Facts {
    agent::Facts {
        cpu_milli: 224_000,
        memory_mib: 2_097_152,
        hall: "h1".to_owned(),
        rack: "r07".to_owned(),
        domain: "nvl-3".to_owned(),
        attributes: map("zone", "cold"),
    }
}

fn attempt_report() -> agent::AttemptReport {
    agent::AttemptReport {
        lease: LeaseId(41),
        phase: AttemptPhase::Ended,
        outcome: Some(outcome()),
        started_at: Timestamp(1_780_000_000_000),
        ended_at: Timestamp(1_780_000_060_000),
    }
}

fn validity() -> agent::Validity {
    agent::Validity { kind: ValidityKind::Until, remaining: Millis(80_000) }
}

fn launch() -> agent::Launch {
    agent::Launch {
        spec: spec(),
        array_index: 5,
        gpus: vec![GpuIndex(0), GpuIndex(1)],
        node_rank: 1,
        master_address: "n01.berlin".to_owned(),
        master_port: 29_500,
        host: site("giga"),
    }
}

fn lease_order() -> agent::LeaseOrder {
    agent::LeaseOrder {
        lease: LeaseId(42),
        home: site("berlin"),
        job: job(),
        epoch: Epoch(3),
        want: Want::Stop,
        validity: validity(),
        launch: Some(launch()),
    }
}

fn checkpoint() -> agent::Checkpoint {
    agent::Checkpoint { lease: LeaseId(42), at: Timestamp(1_780_000_000_007) }
}

fn agents() -> Vec<Sample> {
    vec![
        sample(&checkpoint()),
        sample(&outcome()),
        sample(&facts()),
        sample(&inventory()),
        sample(&attempt_report()),
        sample(&agent::NodeReport {
            node: node("n01"),
            boot: Boot(4),
            question: Question(900),
            obeyed: Revision(77),
            answered: Question(899),
            inventory: inventory(),
            attempts: vec![attempt_report()],
            health: vec![gpu_report()],
            heeds_permits: true,
            checkpoints: vec![checkpoint()],
        }),
        sample(&validity()),
        sample(&launch()),
        sample(&lease_order()),
        sample(&agent::NodeOrders {
            node: node("n02"),
            boot: Boot(5),
            question: Question(901),
            revision: Revision(78),
            lease_term: Millis(15_000),
            leases: vec![lease_order()],
            hold: true,
            prove: true,
            withheld: vec![GpuIndex(4)],
            released: vec![GpuIndex(5)],
            permits_only: true,
            permits: vec![burn_in_permit()],
            tell_earlier: true,
        }),
        sample(&agent::Nudge {}),
        sample(&agent::NodeLogs {
            home: site("berlin"),
            task: 7,
            stream: LogStream::Stderr,
            offset: 65_536,
            max_bytes: 4_096,
            wait: Millis(30_000),
            job: job(),
            epoch: Epoch(4),
        }),
        sample(&agent::LogChunk { offset: 65_537, data: Blob(b"step 5\n".to_vec()), end: true }),
    ]
}

fn attempt_view() -> client::AttemptView {
    client::AttemptView {
        epoch: Epoch(2),
        host: site("giga"),
        nodes: vec![node("g01"), node("g02")],
        started_at: Timestamp(1_780_000_000_001),
        ended_at: Timestamp(1_780_000_000_002),
        outcome: "exited with 0".to_owned(),
        preempted_by: Some(JobId(77)),
        preempted_at: Timestamp(1_780_000_000_006),
    }
}

fn job_view() -> client::JobView {
    client::JobView {
        id: job(),
        spec: spec(),
        array_index: 2,
        home: site("berlin"),
        host: Some(site("giga")),
        state: JobState::Finished,
        reason: "ran at giga".to_owned(),
        epoch: Epoch(2),
        exit_code: Some(0),
        signal: 15,
        submitter: "ada@berlin".to_owned(),
        submitted_at: Timestamp(1_780_000_000_003),
        started_at: Timestamp(1_780_000_000_004),
        finished_at: Timestamp(1_780_000_000_005),
        nodes: vec![node("g01")],
        attempts: vec![attempt_view()],
        cancel_requested: true,
        remote_age: Millis(12_000),
        archived: true,
        preemptions: 2,
        preempted: vec![JobId(78)],
        due: Some(Timestamp(1_780_000_000_006)),
        saved_at: Some(Timestamp(1_780_000_000_008)),
    }
}

fn site_why() -> client::SiteWhy {
    client::SiteWhy {
        site: site("berlin"),
        constraint: "0 of 32 h100 free".to_owned(),
        change: "8 more".to_owned(),
        cost: Some(signals::site_cost()),
    }
}

fn client_jobs() -> Vec<Sample> {
    vec![
        sample(&client::JobSubmit { request: request(), spec: spec() }),
        sample(&client::JobSubmitted { jobs: vec![job()], revision: Revision(79), repeated: true }),
        sample(&client::SubmitFrame {
            number: 7,
            submit: client::JobSubmit { request: request(), spec: spec() },
        }),
        sample(&client::SubmitAnswer {
            number: 7,
            submitted: Some(client::JobSubmitted {
                jobs: vec![job()],
                revision: Revision(79),
                repeated: true,
            }),
            fault: Some(Fault::new(FaultCode::Busy, "later")),
        }),
        sample(&client::JobSelector { text: "llama".to_owned() }),
        sample(&client::JobCancelled { jobs: vec![job_view()] }),
        sample(&client::JobList { active_only: true, limit: 100, archived: true }),
        sample(&client::JobViews { revision: Revision(80), jobs: vec![job_view()], cut: true }),
        sample(&client::JobWait {
            job: job(),
            state: Some(JobState::Queued),
            wait: Millis(20_000),
            epoch: Epoch(1),
        }),
        sample(&attempt_view()),
        sample(&job_view()),
        sample(&client::JobLogs {
            job: job(),
            epoch: Epoch(2),
            node_rank: 1,
            task: 6,
            stream: LogStream::Stdout,
            offset: 128,
            max_bytes: 8_192,
            wait: Millis(1_000),
        }),
        sample(&site_why()),
        sample(&client::JobWhy {
            job: job_view(),
            sites: vec![site_why()],
            queue: vec![queue_why()],
        }),
    ]
}

fn node_view() -> client::NodeView {
    client::NodeView {
        node: node("n03"),
        state: NodeState::Draining,
        boot: Boot(6),
        class: Some(class("b200")),
        gpus: GpuCount(8),
        gpus_leased: GpuCount(5),
        gpus_granted: GpuCount(2),
        source: "nvml".to_owned(),
        address: "10.0.0.8".to_owned(),
        version: "0.1.1".to_owned(),
        jobs: vec![job()],
        heard: Some(Millis(250)),
        draining: true,
        reservations: vec![reservation_name()],
    }
}

fn proof_view() -> client::ProofView {
    client::ProofView {
        tier: BurnInTier::T3,
        passed_at: Timestamp(1_790_000_000_456),
        valid_for: Millis(86_400_000),
        kernels: "0b0b".to_owned(),
        agent: "0.1.3".to_owned(),
        baseline: "h200-1".to_owned(),
    }
}

fn gpu_view() -> client::GpuView {
    client::GpuView {
        node: node("n06"),
        index: GpuIndex(2),
        class: class("b200"),
        uuid: "GPU-1b2e".to_owned(),
        memory_mib: 183_359,
        state: Some(GpuState::Quarantined),
        why: "bit 3 is stuck".to_owned(),
        fit: true,
        withheld: Some("it is lent out".to_owned()),
        job: Some(job()),
        granted_to: Some(site("giga")),
        proof: Some(proof_view()),
        wanted: Some(BurnInTier::T2),
        permitted: Some(BurnInTier::T3),
        last: Some(burn_in_result()),
        spared: true,
        reservations: vec![reservation_name()],
        behind: vec![measures::behind()],
        differs: vec![measures::differs()],
    }
}

fn reservation_name() -> ReservationName {
    "acme-demo".parse().unwrap()
}

fn reservation_view() -> client::ReservationView {
    client::ReservationView {
        name: reservation_name(),
        account: account(),
        class: Some(class("h200")),
        asked: GpuCount(12),
        gpus: GpuCount(16),
        used: GpuCount(8),
        nodes: vec![node("n05"), node("n06")],
        start: Timestamp(1_790_000_000_000),
        end: Timestamp(1_790_000_600_000),
        is_on: true,
        others: vec![job()],
        by: "ops".to_owned(),
        made_at: Timestamp(1_789_000_000_000),
        number: Revision(86),
    }
}

fn reservations() -> Vec<Sample> {
    vec![
        sample(&client::ReservationMake {
            name: reservation_name(),
            account: account(),
            class: Some(class("h200")),
            gpus: GpuCount(12),
            nodes: vec![node("n05")],
            start: Timestamp(1_790_000_000_000),
            end: Timestamp(1_790_000_600_000),
            beside_jobs: true,
        }),
        sample(&client::ReservationEnd { name: reservation_name() }),
        sample(&reservation_view()),
        sample(&client::ReservationViews {
            revision: Revision(87),
            reservations: vec![reservation_view()],
        }),
    ]
}

fn capacity() -> peer::ClassCapacity {
    peer::ClassCapacity {
        class: class("h200"),
        total: GpuCount(64),
        free: GpuCount(24),
        granted: GpuCount(16),
        node_gpus_max: GpuCount(8),
        nodes: 7,
        gpu_cpu_milli: 0,
        gpu_memory_mib: 0,
        proven: GpuCount::ZERO,
    }
}

fn carrying_capacity() -> peer::ClassCapacity {
    let proven = GpuCount(61);
    peer::ClassCapacity { gpu_cpu_milli: 28_000, gpu_memory_mib: 262_144, proven, ..capacity() }
}

fn site_view() -> client::SiteView {
    client::SiteView {
        site: site("giga"),
        country: Some(country("NL")),
        own: true,
        connected: true,
        suspected: true,
        heard: Some(Millis(0)),
        addresses: vec!["giga.example:7000".to_owned()],
        capacity: vec![capacity()],
        loans_out: 3,
        guests_in: 4,
        signals: Some(signals::signals()),
        data: vec![signals::data_view()],
        link: Some(signals::link()),
        weights: Some(signals::weights()),
        outlook: vec![signals::outlook()],
    }
}

fn grant_view() -> client::GrantView {
    client::GrantView {
        grant: GrantId(11),
        host: site("giga"),
        home: site("berlin"),
        class: Some(class("h100")),
        gpus: GpuCount(32),
        gpus_used: GpuCount(9),
        nodes: vec![node("g03")],
        state: "recalled".to_owned(),
        gpus_verified: Some(GpuCount(31)),
    }
}

fn loan_view() -> client::LoanView {
    client::LoanView {
        job: job(),
        epoch: Epoch(2),
        home: site("berlin"),
        host: site("giga"),
        grants: vec![GrantId(11), GrantId(12)],
        gpus: GpuCount(8),
        state: "running".to_owned(),
        name: "llama-ft".to_owned(),
    }
}

fn client_nodes_and_sites() -> Vec<Sample> {
    vec![
        sample(&queue_why()),
        sample(&limit()),
        sample(&quota()),
        sample(&client::QuotaSet { account: account(), limit: Some(limit()), weight: 3 }),
        sample(&client::QuotaRemove { account: account() }),
        sample(&class_count()),
        sample(&quota_view()),
        sample(&client::QuotaViews { revision: Revision(85), quotas: vec![quota_view()] }),
        sample(&node_view()),
        sample(&client::NodeViews { revision: Revision(81), nodes: vec![node_view()] }),
        sample(&client::NodeDrain { node: node("n04"), drain: true }),
        sample(&proof_view()),
        sample(&gpu_view()),
        sample(&client::GpuViews { revision: Revision(82), gpus: vec![gpu_view()] }),
        sample(&client::GpuWithhold {
            node: node("n05"),
            index: GpuIndex(1),
            why: Some("its fan is loud".to_owned()),
        }),
        sample(&client::BurnInStart {
            node: node("n05"),
            index: Some(GpuIndex(3)),
            tier: BurnInTier::T3,
        }),
        sample(&client::HealthLimitsView {
            revision: Revision(83),
            limits: health_limits(),
            retests: 3,
            admissions: 4,
            gpus: GpuCount(4_096),
            spared: 5,
        }),
        sample(&client::NodeEnroll { node: node("n05"), ttl: Millis(3_600_000) }),
        sample(&client::TokenIssued {
            token: "spw1.token".to_owned(),
            expires_at: Timestamp(1_780_000_000_006),
        }),
        sample(&site_view()),
        sample(&client::SiteViews { revision: Revision(82), sites: vec![site_view()] }),
        sample(&client::SiteInvite { peer: Some(site("giga")), ttl: Millis(7_200_000) }),
        sample(&client::SiteJoin { token: "spw1.other".to_owned() }),
        sample(&client::SiteJoined { peer: site("berlin"), repeated: true }),
        sample(&grant_view()),
        sample(&client::GrantViews { revision: Revision(83), grants: vec![grant_view()] }),
        sample(&loan_view()),
        sample(&client::LoanViews { revision: Revision(84), loans: vec![loan_view()] }),
    ]
}

fn joins() -> Vec<Sample> {
    let token = TokenId(0x00ff_0000_0000_0000_0000_0000_0000_0001);
    vec![
        sample(&join::SiteBundle {
            site: site("giga"),
            ca: Blob(vec![0x30, 5]),
            addresses: vec!["giga.example:7000".to_owned()],
            country: "NL".to_owned(),
            version: 1,
        }),
        sample(&join::JoinRequest {
            token,
            bundle: Blob(vec![0x0a, 4]),
            proof: Blob(vec![6; 32]),
            signature: Blob(vec![7; 64]),
        }),
        sample(&join::JoinAccept { bundle: Blob(vec![0x0a, 5]), proof: Blob(vec![8; 32]) }),
        sample(&join::EnrolRequest {
            token,
            node: node("n06"),
            csr: Blob(vec![0x30, 6]),
            proof: Blob(vec![9; 32]),
        }),
        sample(&join::EnrolAccept {
            certificate: Blob(vec![0x30, 7]),
            ca: Blob(vec![0x30, 8]),
            controllers: vec!["c1.berlin:7000".to_owned(), "c2.berlin:7000".to_owned()],
            proof: Blob(vec![10; 32]),
        }),
    ]
}

fn slot() -> peer::Slot {
    peer::Slot {
        node: node("g04"),
        class: class("h200"),
        gpus: GpuCount(6),
        facts: None,
        cpu_milli: 0,
        memory_mib: 0,
        node_gpus: GpuCount::ZERO,
        which: vec![],
    }
}

fn carrying_slot() -> peer::Slot {
    let facts = Some(Box::new(facts()));
    let node_gpus = GpuCount(8);
    let which = vec![slot_gpu()];
    peer::Slot { facts, cpu_milli: 168_000, memory_mib: 1_572_864, node_gpus, which, ..slot() }
}

fn slot_gpu() -> peer::SlotGpu {
    peer::SlotGpu { index: GpuIndex(5), proof: Revision(88) }
}

fn proof_key() -> peer::ProofKey {
    peer::ProofKey { node: node("g04"), index: GpuIndex(5), number: Revision(88) }
}

fn shown_proof() -> peer::ShownProof {
    peer::ShownProof { key: proof_key(), age: Millis(3_600_000), proof: signed_proof() }
}

fn loan_slot() -> peer::LoanSlot {
    peer::LoanSlot {
        grant: GrantId(13),
        node: node("g05"),
        class: class("h200"),
        gpus: GpuCount(7),
        which: vec![GpuIndex(5), GpuIndex(6)],
    }
}

fn needy_demand() -> peer::Demand {
    peer::Demand { needs: Some(Box::new(needs())), ..demand() }
}

fn grant_report() -> peer::GrantReport {
    peer::GrantReport { grant: GrantId(14), slots: vec![slot()], recalled: true }
}

fn guest_report() -> peer::GuestReport {
    peer::GuestReport {
        job: job(),
        epoch: Epoch(5),
        phase: GuestPhase::Ended,
        outcome: Some(outcome()),
        started_at: Timestamp(1_780_000_000_007),
        ended_at: Timestamp(1_780_000_000_008),
        nodes: vec![node("g06")],
    }
}

fn loan_body() -> peer::LoanBody {
    peer::LoanBody {
        slots: vec![loan_slot()],
        spec: spec(),
        array_index: 4,
        submitter: "ada@berlin".to_owned(),
    }
}

fn loan_order() -> peer::LoanOrder {
    peer::LoanOrder { job: job(), epoch: Epoch(6), want: Want::Run, body: Some(loan_body()) }
}

fn demand() -> peer::Demand {
    let class = Some(class("b200"));
    peer::Demand { class, nodes: 4, gpus_per_node: GpuCount(8), count: 3, needs: None }
}

fn peers() -> Vec<Sample> {
    vec![
        sample(&slot_gpu()),
        sample(&proof_key()),
        sample(&shown_proof()),
        sample(&carrying_slot()),
        sample(&loan_slot()),
        sample(&grant_report()),
        sample(&guest_report()),
        sample(&carrying_capacity()),
        sample(&peer::PeerReport {
            host: site("giga"),
            revision: Revision(85),
            question: Question(902),
            obeyed: Revision(86),
            answered: Question(903),
            guests: vec![guest_report()],
            grants: vec![grant_report()],
            capacity: vec![capacity()],
            country: country("NL"),
            signals: Some(signals::signals()),
            data: vec![signals::corpus()],
            outlook: vec![signals::outlook()],
            shows: true,
            proofs: vec![shown_proof()],
        }),
        sample(&loan_body()),
        sample(&loan_order()),
        sample(&needy_demand()),
        sample(&peer::PeerOrders {
            home: site("berlin"),
            question: Question(904),
            revision: Revision(87),
            loan_term: Millis(90_000),
            loans: vec![loan_order()],
            returned: vec![GrantId(15)],
            demand: vec![demand()],
            hold: true,
            show: vec![proof_key()],
        }),
        sample(&peer::PeerNudge {}),
        sample(&peer::PeerLogs {
            job: job(),
            epoch: Epoch(7),
            node: node("g03"),
            task: 5,
            stream: LogStream::Stderr,
            offset: 256,
            max_bytes: 16_384,
            wait: Millis(2_500),
        }),
    ]
}
