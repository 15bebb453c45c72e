//! Members that applied something else under the same log id.

use std::collections::BTreeMap;
use std::sync::Arc;

use fabric_quic::env::Env;
use federation_controller::raft::{RaftConfig, StartError, Storage};
use federation_wal::sim_disk::SimDisk;
use federation_wal::{Config, Disk, Environment, Wal, Wish};
use specs::unit::Millis;

use crate::cluster::{Cluster, has_token, token};
use crate::disk::threads;
use crate::gate::GatedDisk;

/// Enough for several windows.
const MANY: u64 = 200;

fn small(config: &mut RaftConfig) {
    config.segment_bytes = 1 << 20;
    config.verify = Millis(100);
}

/// Ids of entries are all that is compared.
fn blind(config: &mut RaftConfig) {
    small(config);
    config.verify = Millis(1 << 40);
}

/// Snapshots that cover what comes before them.
fn covering(config: &mut RaftConfig) {
    blind(config);
    config.snapshot_entries = 40;
    config.kept_entries = 0;
}

fn covering_and_comparing(config: &mut RaftConfig) {
    covering(config);
    small(config);
}

fn storage(disk: &SimDisk) -> Storage {
    with_snapshots(disk, &SimDisk::new(64 << 20))
}

fn with_snapshots(disk: &SimDisk, snapshots: &SimDisk) -> Storage {
    let snapshots = Arc::new(snapshots.clone());
    let archive = Arc::new(SimDisk::new(64 << 20));
    Storage { wal: Arc::new(disk.clone()), snapshots, archive, threads: threads() }
}

fn open(disk: &SimDisk, mut visit: impl FnMut(&[u8])) -> Wal {
    let (env, spawn) = (Env::system(), threads());
    let (clock, began) = (env.runtime.clone(), env.runtime.now());
    let environment = Environment {
        disk: Arc::new(disk.clone()),
        salts: Box::new(move || u32::from_be_bytes(env.random_bytes())),
        spawn: Box::new(move |name, task| spawn(name, task)),
        clock: Box::new(move || clock.now().saturating_duration_since(began)),
        on_fatal: Box::new(|why| panic!("{why}")),
    };
    let config = Config { segment_bytes: 1 << 20, ..Config::default() };
    let opened = Wal::open(environment, config, |_, record| {
        visit(record);
        Ok(())
    });
    opened.unwrap().0
}

/// A log with one byte of one command changed: every id and every checksum is as it should be.
fn forged(disk: &SimDisk) -> SimDisk {
    let mut records: Vec<Vec<u8>> = Vec::new();
    open(disk, |record| records.push(record.to_vec())).close().unwrap();
    let has_key = |record: &&mut Vec<u8>| record.windows(100).any(|bytes| bytes == [7; 100]);
    let record = records.iter_mut().find(has_key).unwrap();
    let at = record.windows(100).position(|bytes| bytes == [7; 100]).unwrap();
    record[at + 50] = 8;
    let other = SimDisk::new(256 << 20);
    let wal = open(&other, |_| ());
    for record in records {
        wal.append(record, Wish::Sync, Box::new(|result, _| assert!(result.is_ok())));
    }
    wal.close().unwrap();
    other
}

/// A group whose member `odd` comes back with another command under an id that all have.
fn diverged(tweak: fn(&mut RaftConfig)) -> (Cluster, BTreeMap<u64, SimDisk>, u64) {
    let mut cluster = Cluster::new(tweak);
    let mut disks: BTreeMap<u64, SimDisk> =
        (1..=3).map(|id| (id, SimDisk::new(256 << 20))).collect();
    for (id, disk) in &disks {
        cluster.start_on(*id, storage(disk));
    }
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    for number in 0..MANY {
        cluster.propose(&token(number));
    }
    cluster.converge();
    let leader = cluster.leader();
    let odd = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(odd);
    disks[&odd].kill_process();
    let disk = forged(&disks[&odd]);
    cluster.start_on(odd, storage(&disk));
    disks.insert(odd, disk);
    (cluster, disks, odd)
}

#[test]
fn a_member_that_applied_another_command_stops_and_stays_away() {
    let (mut cluster, disks, odd) = diverged(small);
    let disk = &disks[&odd];
    let why = cluster.until_fatal(odd);
    assert!(why.contains("differs from its group"), "{why}");
    cluster.kill(odd);
    disk.kill_process();
    assert!(disk.list().unwrap().iter().any(|name| name == "quarantine"));
    let error = cluster.try_start_on(odd, storage(disk)).unwrap_err();
    assert!(matches!(error, StartError::Quarantined(_)), "{error}");
    assert!(error.hint().contains("add a controller"), "{}", error.hint());
    // The others go on.
    cluster.propose(&token(MANY));
    assert!(has_token(&cluster.converge(), MANY));
}

#[test]
fn a_state_that_differs_is_found_when_no_log_shows_why_any_more() {
    let (mut cluster, disks, odd) = diverged(blind);
    let snapshots: BTreeMap<u64, SimDisk> =
        (1..=3).map(|id| (id, SimDisk::new(64 << 20))).collect();
    let start_again = |cluster: &mut Cluster, tweak| {
        cluster.retweak(tweak);
        for (id, disk) in &disks {
            cluster.kill(*id);
            disk.kill_process();
            snapshots[id].kill_process();
            cluster.start_on(*id, with_snapshots(disk, &snapshots[id]));
        }
        cluster.settle(&[1, 2, 3]);
    };
    start_again(&mut cluster, covering);
    for number in MANY..MANY + 100 {
        cluster.propose(&token(number));
    }
    for id in 1..=3 {
        cluster.until("a snapshot that covers the forged command", |cluster| {
            (cluster.group(id).metrics().snapshot > MANY).then_some(())
        });
    }
    start_again(&mut cluster, covering_and_comparing);
    for number in MANY + 100..MANY + 200 {
        cluster.propose(&token(number));
    }
    let why = cluster.until_fatal(odd);
    assert!(why.contains("the state that entry"), "{why}");
}

#[test]
fn comparing_ids_alone_notices_nothing() {
    let (mut cluster, _, odd) = diverged(blind);
    cluster.propose(&token(MANY));
    let leader = cluster.leader();
    let (last, own) = cluster.until("the same last id", |cluster| {
        let ends = |id| (cluster.group(id).metrics().applied, cluster.group(id).state());
        let ((last, state), (other, own)) = (ends(leader), ends(odd));
        (last == other && state.revision == own.revision).then_some((state, own))
    });
    assert!(last.encode() != own.encode(), "the forged command changed nothing");
    assert!(cluster.members.get_mut(&odd).unwrap().fatal.try_recv().is_err());
}

#[test]
fn members_that_agree_are_left_alone() {
    let mut cluster = Cluster::new(small);
    for id in 1..=3 {
        cluster.start_on(id, GatedDisk::new().storage());
    }
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    for number in 0..MANY {
        cluster.propose(&token(number));
    }
    cluster.converge();
    std::thread::sleep(std::time::Duration::from_millis(500));
    for member in cluster.members.values_mut() {
        assert!(member.fatal.try_recv().is_err());
    }
}
