//! A leader that loses what it had not synced must not write something else in its place.

use federation_controller::raft::RaftConfig;
use specs::unit::Millis;

use crate::cluster::{Cluster, has_token, token};
use crate::gate::{Gate, GatedDisk};

/// Long enough to restart a member before anyone misses it.
fn slow_elections(config: &mut RaftConfig) {
    config.election_min = Millis(3_000);
    config.election_max = Millis(5_000);
    config.segment_bytes = 1 << 20;
}

#[test]
fn a_leader_that_lost_its_tail_does_not_go_on_in_its_term() {
    let mut cluster = Cluster::new(slow_elections);
    let mut disks: Vec<GatedDisk> = (0..3).map(|_| GatedDisk::new()).collect();
    for (id, disk) in (1..).zip(&disks) {
        cluster.start_on(id, disk.storage());
    }
    let address = cluster.address(1);
    cluster.on(1, |group| async move { group.found(address).await }).unwrap();
    cluster.settle(&[1, 2, 3]);
    cluster.propose(&token(1));
    let before = cluster.converge();
    let leader = cluster.leader();
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let disk = disks.remove(usize::try_from(leader - 1).unwrap());

    disk.set(Gate::Writes);
    let group = cluster.group(leader);
    let acknowledged =
        cluster.members[&leader].runtime.spawn(async move { group.propose(token(2)).await });
    cluster.until("the entry at the followers", |cluster| {
        let has = |id: &u64| has_token(&cluster.group(*id).state(), 2);
        followers.iter().all(has).then_some(())
    });
    // A majority has it on disk, so the leader may even say so.
    let answered = cluster.members[&leader].runtime.block_on(acknowledged).unwrap().unwrap();
    assert!(answered.revision > before.revision);

    disk.set(Gate::Cut);
    cluster.kill(leader);
    let disk = disk.again();
    let term = cluster.group(followers[0]).metrics().term;
    cluster.start_on(leader, disk.storage());
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!((1..=3).all(|number| has_token(&state, number)), "an acknowledged command is lost");
    assert!(cluster.group(leader).metrics().term > term, "the leader went on in its old term");
}
