//! Members that are far behind get a snapshot.

use crate::cluster::{Cluster, has_token, token};

const MANY: u64 = 600;

fn snapshots_often(config: &mut federation_controller::raft::RaftConfig) {
    config.snapshot_entries = 100;
    config.kept_entries = 10;
    config.segment_bytes = 64 << 10;
}

#[test]
fn who_is_far_behind_and_who_is_fresh_get_a_snapshot() {
    catch_up(Cluster::founded(3, snapshots_often));
}

/// Nothing of the log is left behind the snapshot, so that there is no entry to compare with.
#[test]
fn a_snapshot_stands_in_for_a_log_that_is_wholly_gone() {
    catch_up(Cluster::founded(3, |config| {
        snapshots_often(config);
        config.kept_entries = 0;
    }));
}

fn catch_up(mut cluster: Cluster) {
    let leader = cluster.leader();
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.propose(&token(MANY));
    cluster.converge();
    let had = cluster.group(behind).metrics().last_log;
    cluster.kill(behind);
    for number in 0..MANY {
        cluster.propose(&token(number));
    }
    cluster.until("a purged log", |cluster| {
        (cluster.group(cluster.leader()).metrics().purged > had).then_some(())
    });
    cluster.start(behind);
    let state = cluster.converge();
    assert!((0..=MANY).all(|number| has_token(&state, number)));
    assert!(cluster.group(behind).metrics().snapshot > had);
    cluster.start(4);
    cluster.settle(&[1, 2, 3, 4]);
    cluster.converge();
    assert!(cluster.group(4).metrics().snapshot > 0);
    // And from their own disks again.
    for id in 1..=4 {
        cluster.kill(id);
    }
    for id in 1..=4 {
        cluster.start(id);
    }
    assert!(cluster.converge().encode() == state.encode());
}
