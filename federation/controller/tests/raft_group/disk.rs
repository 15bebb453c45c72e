//! Disks that are full or rotten.

use std::sync::Arc;

use fabric_quic::env::Env;
use federation_controller::raft::{ProposeError, StartError, Storage, Threads};
use federation_wal::sim_disk::{Operation, SimDisk};

use crate::cluster::{Cluster, has_token, token};

const SEGMENT_BYTES: usize = 64 << 10;

pub(crate) fn threads() -> Threads {
    Arc::new(|name, task| std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop))
}

#[test]
fn a_full_disk_refuses_commands_and_still_answers_reads() {
    let mut cluster = Cluster::new(|config| config.segment_bytes = SEGMENT_BYTES);
    let disk = SimDisk::new(SEGMENT_BYTES as u64 * 3);
    let storage = Storage {
        wal: Arc::new(disk.clone()),
        snapshots: Arc::new(SimDisk::new(1 << 20)),
        archive: Arc::new(SimDisk::new(64 << 20)),
        threads: threads(),
    };
    cluster.start_on(1, storage);
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.leader();
    let mut number = 0;
    let refused = loop {
        let command = token(number);
        let proposed = cluster.on(1, |group| async move {
            let deadline = Env::system();
            deadline.timeout(specs::unit::Millis(500), group.propose(command)).await
        });
        match proposed {
            Ok(Ok(_)) => number += 1,
            // The one that met the end of the disk waits for room.
            Err(_) => {}
            Ok(Err(error)) => break error,
        }
    };
    assert_eq!(refused, ProposeError::DiskFull);
    assert!(cluster.group(1).metrics().is_full);
    let state = cluster.on(1, |group| async move { group.confirm().await }).unwrap();
    assert!(number > 100 && (0..number).all(|number| has_token(&state, number)));
    disk.set_free_bytes(1 << 20);
    cluster.propose(&token(10_000));
    let state = cluster.group(1).state();
    // The one that waited is there too, in its place.
    assert!((0..=number).all(|number| has_token(&state, number)));
}

#[test]
fn a_damaged_snapshot_keeps_a_member_from_starting() {
    let mut cluster = Cluster::founded(1, |config| config.snapshot_entries = 50);
    for number in 0..120 {
        cluster.propose(&token(number));
    }
    cluster.until("a snapshot", |cluster| (cluster.group(1).metrics().snapshot > 0).then_some(()));
    cluster.kill(1);
    let dir = cluster.root.path().join("member-1");
    let files = std::fs::read_dir(dir.join("snapshots")).unwrap();
    let file = files.map(|file| file.unwrap().path()).max().unwrap();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 1]).unwrap();
    let error = cluster.try_start_on(1, Storage::real(&dir).unwrap()).unwrap_err();
    assert!(matches!(error, StartError::Snapshot { .. }), "{error}");
    assert!(error.to_string().contains("cut short"), "{error}");
    assert!(error.hint().contains("add a controller"), "{}", error.hint());
    std::fs::write(&file, &whole).unwrap();
    cluster.start(1);
    assert!(has_token(&cluster.converge(), 119));
}

#[test]
fn a_disk_that_fails_stops_its_member_alone() {
    let mut cluster = Cluster::founded(2, |_| ());
    let disk = SimDisk::new(64 << 20);
    let storage = Storage {
        wal: Arc::new(disk.clone()),
        snapshots: Arc::new(SimDisk::new(1 << 20)),
        archive: Arc::new(SimDisk::new(64 << 20)),
        threads: threads(),
    };
    cluster.start_on(3, storage);
    cluster.settle(&[1, 2, 3]);
    disk.fail(Operation::Sync, 0, std::io::ErrorKind::Other);
    cluster.propose(&token(1));
    let why = cluster.until_fatal(3);
    assert!(why.contains("of the log"), "{why}");
    cluster.kill(3);
    cluster.propose(&token(2));
    assert!(has_token(&cluster.converge(), 2));
}

#[test]
fn a_leader_with_a_full_disk_lets_another_lead() {
    let mut cluster = Cluster::new(|config| config.segment_bytes = SEGMENT_BYTES);
    let disk = SimDisk::new(SEGMENT_BYTES as u64 * 3);
    let storage = Storage {
        wal: Arc::new(disk.clone()),
        snapshots: Arc::new(SimDisk::new(1 << 20)),
        archive: Arc::new(SimDisk::new(64 << 20)),
        threads: threads(),
    };
    cluster.start_on(1, storage);
    cluster.start(2);
    cluster.start(3);
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    // Far more than the first disk holds.
    for number in 0..1_000 {
        cluster.propose(&token(number));
    }
    assert!(cluster.group(1).metrics().is_full);
    disk.set_free_bytes(64 << 20);
    let state = cluster.converge();
    assert!((0..1_000).all(|number| has_token(&state, number)));
}
