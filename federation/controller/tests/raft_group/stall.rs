//! Disks that do not answer.

use federation_controller::raft::RaftConfig;
use specs::unit::Millis;

use crate::cluster::{Cluster, has_token, token};
use crate::gate::{Gate, GatedDisk};

fn watchful(config: &mut RaftConfig) {
    config.segment_bytes = 1 << 20;
    config.disk_yields = Millis(500);
    config.disk_ends = Millis(3_000);
}

fn three() -> (Cluster, Vec<GatedDisk>) {
    let mut cluster = Cluster::new(watchful);
    let disks: Vec<GatedDisk> = (0..3).map(|_| GatedDisk::new()).collect();
    for (id, disk) in (1..).zip(&disks) {
        cluster.start_on(id, disk.storage());
    }
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    cluster.propose(&token(1));
    cluster.converge();
    (cluster, disks)
}

fn disk(disks: &[GatedDisk], id: u64) -> &GatedDisk {
    &disks[usize::try_from(id - 1).unwrap()]
}

#[test]
fn a_leader_whose_disk_does_not_answer_lets_another_lead_and_ends() {
    let (mut cluster, disks) = three();
    let slow = cluster.leader();
    disk(&disks, slow).set(Gate::Syncs);
    cluster.propose(&token(2));
    cluster.until("another leader", |cluster| {
        let leads = |id: &u64| cluster.group(*id).leadership().borrow().own;
        (1..=3).filter(|id| *id != slow).find(leads)
    });
    let why = cluster.until_fatal(slow);
    assert!(why.contains("disk of the log"), "{why}");
    disk(&disks, slow).set(Gate::Cut);
    cluster.kill(slow);
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!((1..=3).all(|number| has_token(&state, number)));
}

#[test]
fn a_follower_with_a_slow_disk_is_in_nobodys_way() {
    let (mut cluster, disks) = three();
    let leader = cluster.leader();
    let slow = (1..=3).find(|id| *id != leader).unwrap();
    disk(&disks, slow).set(Gate::Syncs);
    let begun = cluster.now();
    for number in 2..50 {
        cluster.propose(&token(number));
    }
    assert_eq!(cluster.leader(), leader, "a slow follower unseated its leader");
    eprintln!("48 commands beside a slow disk: {} ms", cluster.now().0 - begun.0);
    disk(&disks, slow).set(Gate::Cut);
    cluster.kill(slow);
    assert!(has_token(&cluster.converge(), 49));
}
