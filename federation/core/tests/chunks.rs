//! Agreed state in chunks: what goes in comes out, and hostile bytes are refused.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::Arc;

use federation_core::{
    AcceptNode, AddController, AddPeer, AdmitJobs, Agreed, Assignment, CHUNK_BYTES_MAX, CancelJob,
    Chunk, ChunkError, Command, CommitPlan, FoundSite, LeasePlan, OpenToken, PackedSpec, PartPlan,
    PeerRecord, Place, RecordParts, RegisterNode, State, StateBuilder, TokenKind, apply, check,
};
use proptest::prelude::*;
use specs::codec::{Blob, Message, OrDefault, Value};
use specs::gpu::{GpuInfo, InventorySource};
use specs::id::{Boot, GpuIndex, JobId, LeaseId, NodeId, Revision, TokenId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::wire::agent::{AttemptPhase, AttemptReport, Inventory, Outcome};

const AT: Timestamp = Timestamp(1_000);

#[derive(Debug, Clone)]
enum Step {
    Submit { id: u64, jobs: u8, workdir: u16, priority: u8 },
    Node { name: u8 },
    Place { job: u64, node: u8 },
    End { lease: u8, node: u8 },
    Cancel { job: u64 },
    Peer { name: u8 },
    Controller { name: u8 },
}

fn step() -> impl Strategy<Value = Step> {
    let submit = (0..2_000u64, 1..6u8, 0..3_000u16, 0..100u8);
    prop_oneof![
        4 => submit.prop_map(|(id, jobs, workdir, priority)| {
            Step::Submit { id, jobs, workdir, priority }
        }),
        1 => (0..9u8).prop_map(|name| Step::Node { name }),
        2 => (0..2_000u64, 0..9u8).prop_map(|(job, node)| Step::Place { job, node }),
        1 => (0..20u8, 0..9u8).prop_map(|(lease, node)| Step::End { lease, node }),
        1 => (0..2_000u64).prop_map(|job| Step::Cancel { job }),
        1 => (0..4u8).prop_map(|name| Step::Peer { name }),
        1 => (0..4u8).prop_map(|name| Step::Controller { name }),
    ]
}

fn spec(workdir: u16, priority: u8) -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        class: JobClass::Training,
        priority: u32::from(priority),
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: vec![],
        array: 1,
        command: vec!["true".into()],
        env: BTreeMap::new(),
        workdir: "w".repeat(workdir.into()),
        grace: Millis(1),
        retries: 1,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: BTreeMap::new(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

fn node_id(name: u8) -> NodeId {
    format!("n{name}").parse().unwrap()
}

fn submit(id: u64, jobs: u8, workdir: u16, priority: u8) -> Command {
    let first = u128::from(id) * 10;
    Command::AdmitJobs(AdmitJobs {
        request: format!("request-{id}").parse().unwrap(),
        jobs: (first..first + u128::from(jobs)).map(JobId).collect(),
        spec: PackedSpec::from(&spec(workdir, priority)),
        submitter: "ada".into(),
        at: AT,
    })
}

fn enrol(name: u8) -> Vec<Command> {
    let (token, node) = (TokenId(name.into()), node_id(name));
    let info = |index| GpuInfo {
        index: GpuIndex(index),
        class: "b200".parse().unwrap(),
        uuid: String::new(),
        memory_mib: 0,
    };
    let inventory = Inventory {
        source: InventorySource::Declared,
        gpus: (0..8).map(info).collect(),
        address: "127.0.0.1".into(),
        version: "test".into(),
        facts: OrDefault::default(),
    };
    let open = OpenToken {
        token,
        kind: TokenKind::Enrol,
        key: Blob(vec![1]),
        bound: String::new(),
        expires_at: AT,
    };
    vec![
        Command::OpenToken(open),
        Command::AcceptNode(AcceptNode {
            token,
            node: node.clone(),
            digest: Blob(vec![1]),
            at: AT,
        }),
        Command::RegisterNode(RegisterNode { node, boot: Boot(1), inventory, at: AT }),
    ]
}

fn commands(state: &State, step: &Step) -> Vec<Command> {
    match *step {
        Step::Submit { id, jobs, workdir, priority } => vec![submit(id, jobs, workdir, priority)],
        Step::Node { name } => enrol(name),
        Step::Place { job, node } => {
            let node = node_id(node);
            let free = state.nodes.get(&node).and_then(|node| node.free().next());
            let gpus = free.map(|gpu| gpu.info.index).into_iter().collect();
            let plan = LeasePlan { parts: vec![PartPlan { node, gpus }] };
            // The next job that there is.
            let job = state.jobs.range(JobId(u128::from(job) * 10)..).next();
            let assignment = job.map(|(&job, record)| Assignment {
                job,
                after: record.epoch,
                place: Place::Here(plan),
            });
            let assignments = assignment.into_iter().collect();
            vec![Command::CommitPlan(CommitPlan { base: Revision(0), assignments, at: AT })]
        }
        Step::End { lease, node } => {
            let report = AttemptReport {
                lease: LeaseId(lease.into()),
                phase: AttemptPhase::Ended,
                outcome: Some(Outcome::exited(i32::from(lease % 2), 0)),
                started_at: AT,
                ended_at: AT,
            };
            let (node, boot, attempts) = (node_id(node), Boot(1), vec![report]);
            vec![Command::RecordParts(RecordParts { node, boot, attempts, at: AT })]
        }
        Step::Cancel { job } => {
            vec![Command::CancelJob(CancelJob { job: JobId(u128::from(job) * 10), at: AT })]
        }
        Step::Peer { name } => {
            let peer = PeerRecord {
                site: format!("peer{name}").parse().unwrap(),
                country: "FR".parse().unwrap(),
                ca: Blob(vec![name]),
                addresses: vec!["a:1".into()],
            };
            vec![Command::AddPeer(AddPeer { peer })]
        }
        Step::Controller { name } => vec![Command::AddController(AddController {
            replaces: None,
            request: format!("controller-{name}").parse().unwrap(),
            address: format!("c{name}:1"),
        })],
    }
}

fn founded() -> State {
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
    state
}

fn run(steps: &[Step]) -> State {
    let mut state = founded();
    for step in steps {
        for command in commands(&state, step) {
            apply(&mut state, &command);
        }
    }
    state
}

fn build(chunks: &[Chunk]) -> Result<State, ChunkError> {
    let mut builder = StateBuilder::new();
    for chunk in chunks {
        builder.push(chunk.table, chunk.records, &chunk.bytes)?;
    }
    builder.finish()
}

/// About three megabytes of jobs.
fn large() -> State {
    let steps: Vec<Step> = (0..1_000)
        .map(|id| Step::Submit { id, jobs: 1, workdir: 3_000, priority: 1 })
        .chain((0..9).map(|name| Step::Node { name }))
        .chain((0..60).map(|job| Step::Place { job, node: 3 }))
        .collect();
    run(&steps)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn chunks_give_back_the_state_and_its_indexes(steps in prop::collection::vec(step(), 0..150)) {
        let state = run(&steps);
        let chunks: Vec<Chunk> = state.chunks().collect();
        let again = build(&chunks).unwrap();
        prop_assert_eq!(&again, &state);
        prop_assert_eq!(check(&again), vec![]);
        prop_assert_eq!(again.chunks().collect::<Vec<_>>(), chunks);
    }

    #[test]
    fn damaged_chunks_never_panic(at in any::<prop::sample::Index>(), with: u8, cut: bool) {
        let steps: Vec<Step> = (0..9).map(|name| Step::Node { name }).collect();
        for chunk in run(&steps).chunks() {
            let mut bytes = chunk.bytes;
            let at = at.index(bytes.len());
            if cut { bytes.truncate(at) } else { bytes[at] ^= with }
            let mut builder = StateBuilder::new();
            builder.push(0, 1, &[]).unwrap();
            // Most damage shows; some of it is another valid value.
            let _ = builder.push(chunk.table, chunk.records, &bytes);
            let _ = StateBuilder::new().push(0, 1, &bytes);
        }
    }
}

#[test]
fn chunks_are_bounded_and_named_by_the_field_numbers_of_the_message() {
    let state = large();
    let chunks: Vec<Chunk> = state.chunks().collect();
    assert!(chunks.iter().filter(|chunk| chunk.table == 3).count() >= 3, "{}", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.bytes.len() <= CHUNK_BYTES_MAX));
    // A record behind its field's number is what the message holds.
    let mut message = Vec::new();
    for chunk in &chunks {
        let mut bytes = chunk.bytes.as_slice();
        if chunk.table == 0 {
            message.extend_from_slice(bytes);
            continue;
        }
        while !bytes.is_empty() {
            let (mut len, mut head) = (0usize, 0);
            loop {
                len |= usize::from(bytes[head] & 0x7f) << (7 * head);
                head += 1;
                if bytes[head - 1] < 0x80 {
                    break;
                }
            }
            (u32::from(chunk.table) << 3 | 2).put(&mut message);
            message.extend_from_slice(&bytes[..head + len]);
            bytes = &bytes[head + len..];
        }
    }
    assert_eq!(Agreed::decode(&message).unwrap().encode(), state.encode());
    assert_eq!(build(&chunks).unwrap(), state);
}

#[test]
fn a_record_longer_than_a_chunk_stands_alone() {
    let mut state = founded();
    for id in 0..3 {
        let Command::AdmitJobs(mut it) = submit(id, 1, 0, 1) else { unreachable!() };
        it.submitter = "s".repeat(if id == 1 { CHUNK_BYTES_MAX } else { 1 });
        apply(&mut state, &Command::AdmitJobs(it));
    }
    let chunks: Vec<Chunk> = state.chunks().collect();
    let jobs: Vec<u32> = chunks.iter().filter(|it| it.table == 3).map(|it| it.records).collect();
    assert_eq!(jobs, [1, 1, 1]);
    assert_eq!(build(&chunks).unwrap(), state);
}

#[test]
fn an_empty_state_is_one_chunk() {
    let state = State::default();
    let chunks: Vec<Chunk> = state.chunks().collect();
    assert_eq!(chunks.len(), 1);
    assert_eq!(build(&chunks).unwrap(), state);
    assert_eq!(build(&[]), Err(ChunkError::First));
}

#[test]
fn a_table_of_a_newer_version_is_refused_and_said_to_be_so() {
    let mut chunks: Vec<Chunk> = State::default().chunks().collect();
    chunks.push(Chunk { table: 999, records: 0, bytes: vec![] });
    let error = build(&chunks).unwrap_err();
    assert_eq!(error.to_string(), "table 999 is unknown: a newer version wrote this");
}

#[test]
fn chunks_out_of_their_place_are_refused() {
    let chunks: Vec<Chunk> = large().chunks().collect();
    let jobs = chunks.iter().position(|chunk| chunk.table == 3).unwrap();
    let with = |change: &dyn Fn(&mut Vec<Chunk>)| {
        let mut changed = chunks.clone();
        change(&mut changed);
        build(&changed)
    };
    assert_eq!(with(&|it| it.swap(jobs, jobs + 1)), Err(ChunkError::Order(3)));
    assert_eq!(with(&|it| it.insert(jobs, it[jobs].clone())), Err(ChunkError::Order(3)));
    assert_eq!(with(&|it| it.push(it[jobs].clone())), Err(ChunkError::Order(3)));
    assert_eq!(with(&|it| it.insert(1, it[0].clone())), Err(ChunkError::Order(0)));
    assert_eq!(with(&|it| drop(it.remove(0))), Err(ChunkError::First));
    let found = chunks[jobs].records;
    let said = found + 1;
    let miscounted = Err(ChunkError::Count { table: 3, said, found });
    assert_eq!(with(&|it| it[jobs].records = said), miscounted);
    // A table does not hide in the first chunk.
    let whole = large().encode();
    assert_eq!(with(&|it| it[0].bytes.clone_from(&whole)), Err(ChunkError::Order(0)));
}

#[test]
fn a_walk_of_a_clone_sees_the_moment_of_the_clone() {
    let mut state = large();
    let before: Vec<Chunk> = state.chunks().collect();
    let clone = state.clone();
    let mut walk = clone.chunks();
    let mut seen: Vec<Chunk> = walk.by_ref().take(2).collect();
    for id in 0..1_000 {
        apply(&mut state, &submit(5_000 + id, 2, 10, 1));
        apply(
            &mut state,
            &Command::CancelJob(CancelJob { job: JobId(u128::from(id) * 10), at: AT }),
        );
    }
    seen.extend(walk);
    assert_eq!(seen, before);
    assert_ne!(state.chunks().collect::<Vec<_>>(), before);
}

#[test]
fn a_job_that_has_ended_says_as_before_what_it_asked_for() {
    let mut state = run(&[Step::Submit { id: 1, jobs: 2, workdir: 9, priority: 1 }]);
    let (ended, open) = (JobId(10), JobId(11));
    apply(&mut state, &Command::CancelJob(CancelJob { job: ended, at: AT }));
    let again = build(&state.chunks().collect::<Vec<_>>()).unwrap();
    for state in [&state, &again, &State::decode(&state.encode()).unwrap()] {
        let [ended, open] = [ended, open].map(|id| state.jobs.get(&id).unwrap());
        assert_eq!(*ended.spec(), spec(9, 1));
        assert_eq!(ended.spec, open.spec);
        for kept in [&ended.spec, &open.spec] {
            assert!(kept.is_named("job"));
            assert!(!["", "jo", "jobs", "joc"].iter().any(|name| kept.is_named(name)));
        }
    }
}
