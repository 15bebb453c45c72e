//! What clients see of a group while members are killed and cut off from each other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use federation_controller::raft::{Group, ProposeError};
use federation_core::State;
use tokio::time::{sleep, timeout};

use crate::cluster::{Cluster, has_token, token};
use crate::history::{Done, Operation, is_linearizable};

const CLIENTS: u64 = 6;
const ROUNDS: u64 = 3;
/// Elements of one set; then the next one is begun, so that a history stays small.
const SET: u64 = 40;
/// How long a client waits for anything.
const CLIENT_SPAN: Duration = Duration::from_millis(1_000);
/// How long a fault lasts: more than an election, and now and then less.
const FAULT_MILLIS: std::ops::Range<u64> = 300..1_300;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reads {
    Confirmed,
    /// What the member has, whatever that is.
    Unconfirmed,
}

/// Equal seeds give equal faults; how the threads run is not ours.
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What all clients share.
struct Record {
    groups: Mutex<BTreeMap<u64, Group>>,
    /// A call and an answer are one tick each.
    clock: AtomicU64,
    written: AtomicU64,
    is_over: AtomicBool,
    /// By set.
    histories: Mutex<BTreeMap<u64, Vec<Operation>>>,
}

impl Record {
    fn new() -> Self {
        let (groups, histories) = (Mutex::default(), Mutex::default());
        let (clock, written) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { groups, clock, written, is_over: AtomicBool::new(false), histories }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::SeqCst)
    }

    fn note(&self, set: u64, operation: Operation) {
        self.histories.lock().unwrap().entry(set).or_default().push(operation);
    }

    async fn write(&self, group: Group) {
        let number = self.written.fetch_add(1, Ordering::SeqCst);
        let called = self.tick();
        let outcome = timeout(CLIENT_SPAN, group.propose(token(number))).await;
        let answered = match outcome {
            Ok(Ok(_)) => Some(self.tick()),
            // If it is seen all the same, no write explains that.
            Ok(Err(
                ProposeError::NotLeader { .. }
                | ProposeError::DiskFull
                | ProposeError::TooNew { .. },
            )) => return,
            Ok(Err(ProposeError::Unknown(_) | ProposeError::Stopped(_))) | Err(_) => None,
        };
        let done = Done::Add(u32::try_from(number % SET).unwrap());
        self.note(number / SET, Operation { called, answered, done });
    }

    async fn read(&self, group: Group, reads: Reads) {
        let called = self.tick();
        let state = match reads {
            Reads::Confirmed => match timeout(CLIENT_SPAN, group.confirm()).await {
                Ok(Ok(state)) => state,
                Ok(Err(_)) | Err(_) => return,
            },
            Reads::Unconfirmed => group.state(),
        };
        let answered = self.tick();
        let newest = self.written.load(Ordering::SeqCst) / SET;
        for set in newest.saturating_sub(1)..=newest {
            self.saw(set, called, answered, &state);
        }
    }

    fn saw(&self, set: u64, called: u64, answered: u64, state: &State) {
        let has = |at: &u64| has_token(state, set * SET + at);
        let seen = (0..SET).filter(has).fold(0, |seen, at| seen | 1 << at);
        self.note(set, Operation { called, answered: Some(answered), done: Done::Sees(seen) });
    }

    async fn client(self: Arc<Self>, mut random: Random, reads: Reads) {
        while !self.is_over.load(Ordering::SeqCst) {
            let group = self.groups.lock().unwrap().get(&(1 + random.below(3))).cloned();
            match group {
                Some(group) if random.below(3) == 0 => self.write(group).await,
                Some(group) => self.read(group, reads).await,
                None => {}
            }
            sleep(Duration::from_millis(1 + random.below(6))).await;
        }
    }
}

/// Kills the leader or cuts members off, and puts all right again.
fn disturb(cluster: &mut Cluster, record: &Record, random: &mut Random) {
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let follower = others[usize::try_from(random.below(2)).unwrap()];
    let from = others.iter().map(|id| (leader, *id));
    let to = others.iter().map(|id| (*id, leader));
    let kind = random.below(5);
    match kind {
        0 => {
            record.groups.lock().unwrap().remove(&leader);
            cluster.kill(leader);
        }
        1 => cluster.cuts.set(from.chain(to)),
        2 => cluster.cuts.set(from),
        3 => cluster.cuts.set(to),
        _ => cluster.cuts.set([(leader, follower), (follower, leader)]),
    }
    let span = FAULT_MILLIS.start + random.below(FAULT_MILLIS.end - FAULT_MILLIS.start);
    std::thread::sleep(Duration::from_millis(span));
    cluster.cuts.set([]);
    if kind == 0 {
        cluster.start(leader);
        record.groups.lock().unwrap().insert(leader, cluster.group(leader));
    }
}

/// The histories of all sets that clients wrote and read under faults.
fn recorded(seed: u64, reads: Reads) -> BTreeMap<u64, Vec<Operation>> {
    let mut cluster = Cluster::founded(3, |_| ());
    let (record, mut random) = (Arc::new(Record::new()), Random(seed));
    *record.groups.lock().unwrap() = (1..=3).map(|id| (id, cluster.group(id))).collect();
    let clients = tokio::runtime::Runtime::new().unwrap();
    let running: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let random = Random(seed ^ ((number + 1) << 32));
            clients.spawn(record.clone().client(random, reads))
        })
        .collect();
    for _ in 0..ROUNDS {
        disturb(&mut cluster, &record, &mut random);
    }
    record.is_over.store(true, Ordering::SeqCst);
    for client in running {
        clients.block_on(client).unwrap();
    }
    record.groups.lock().unwrap().clear();
    let called = record.tick();
    let state = cluster.converge();
    let answered = record.tick();
    for set in 0..=record.written.load(Ordering::SeqCst) / SET {
        record.saw(set, called, answered, &state);
    }
    std::mem::take(&mut *record.histories.lock().unwrap())
}

/// Says how much was checked, and which sets are not linearizable.
fn judged(seed: u64, reads: Reads) -> Vec<u64> {
    let histories = recorded(seed, reads);
    let counted = |of: fn(&&Operation) -> bool| -> usize {
        histories.values().map(|it| it.iter().filter(of).count()).sum()
    };
    let writes = counted(|it| matches!(it.done, Done::Add(_)) && it.answered.is_some());
    let unknown = counted(|it| it.answered.is_none());
    let seen = counted(|it| matches!(it.done, Done::Sees(_)));
    assert!(
        writes > 20 && seen > 20,
        "seed {seed}, nothing to judge: {writes} writes, {unknown} unknown, {seen} reads"
    );
    let bad = histories.iter().filter(|(_, history)| !is_linearizable(history));
    bad.map(|(set, _)| *set).collect()
}

#[test]
fn confirmed_reads_are_linearizable_under_faults() {
    for seed in 1..=3 {
        assert_eq!(judged(seed, Reads::Confirmed), Vec::<u64>::new(), "seed {seed}");
    }
}

#[test]
fn without_confirmation_stale_reads_are_found() {
    assert!((1..=8).any(|seed| !judged(seed, Reads::Unconfirmed).is_empty()));
}
