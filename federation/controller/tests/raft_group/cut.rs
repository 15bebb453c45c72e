//! Members whose log was cut off at its start.

use std::time::Duration;

use federation_controller::raft::{CutLog, RaftConfig};
use federation_core::{Command, OpenToken, TokenKind};
use federation_wal::{Disk, has_torn_tail};
use specs::codec::Blob;
use specs::id::TokenId;
use specs::unit::Timestamp;

use crate::cluster::{Cluster, has_token, token};
use crate::gate::{Gate, GatedDisk};

/// Longer than several elections.
const NO_LEADER_SPAN: Duration = Duration::from_millis(2_500);

fn small(config: &mut RaftConfig) {
    config.segment_bytes = 1 << 20;
}

fn accepting(config: &mut RaftConfig) {
    small(config);
    config.cut_log = CutLog::Accept;
}

/// A command whose bytes can be recognized on a disk, in many sectors.
fn striking(number: u64) -> Command {
    Command::OpenToken(OpenToken {
        token: TokenId(u128::from(number)),
        kind: TokenKind::Invite,
        key: Blob(vec![0x5a; 4_096]),
        bound: String::new(),
        expires_at: Timestamp(number),
    })
}

fn three(tweak: fn(&mut RaftConfig)) -> (Cluster, Vec<GatedDisk>) {
    let mut cluster = Cluster::new(tweak);
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

fn at(id: u64) -> usize {
    usize::try_from(id - 1).unwrap()
}

/// A group of three after this: command 2 was acknowledged by `lost` and `rotten`, whose last
/// write, which holds it, has rotted since; `late` never had it. All three are down.
struct Rotten {
    cluster: Cluster,
    disks: Vec<GatedDisk>,
    lost: u64,
    rotten: u64,
    late: u64,
}

fn rotten(tweak: fn(&mut RaftConfig)) -> Rotten {
    let (mut cluster, disks) = three(tweak);
    let lost = cluster.leader();
    let mut others = (1..=3).filter(|id| *id != lost);
    let (rotten, late) = (others.next().unwrap(), others.next().unwrap());
    cluster.kill(late);
    let disk = &disks[at(rotten)];
    disk.set(Gate::After(vec![0x5a; 256]));
    // It is answered, so it must never be lost.
    cluster.propose(&striking(2));
    cluster.until("a write that nothing follows", |_| (disk.gate() == Gate::Writes).then_some(()));
    disk.set(Gate::Cut);
    cluster.kill(rotten);
    disk.rot_last();
    cluster.kill(lost);
    let disks: Vec<GatedDisk> = disks.iter().map(GatedDisk::again).collect();
    assert!(has_torn_tail(&disks[at(rotten)].0).unwrap());
    Rotten { cluster, disks, lost, rotten, late }
}

#[test]
fn without_the_rule_rot_in_the_last_write_loses_an_acknowledged_command() {
    let Rotten { mut cluster, disks, rotten, late, .. } = rotten(accepting);
    cluster.start_on(rotten, disks[at(rotten)].storage());
    cluster.start_on(late, disks[at(late)].storage());
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!(has_token(&state, 1) && has_token(&state, 3));
    assert!(!has_token(&state, 2), "the rule is off, and yet nothing is lost: what does it do?");
}

#[test]
fn a_member_with_a_cut_log_elects_no_one_who_lacks_what_was_cut() {
    let Rotten { mut cluster, disks, lost, rotten, late } = rotten(small);
    cluster.start_on(rotten, disks[at(rotten)].storage());
    cluster.start_on(late, disks[at(late)].storage());
    std::thread::sleep(NO_LEADER_SPAN);
    assert!(cluster.group(rotten).metrics().is_abstaining);
    assert!(!cluster.group(late).metrics().is_leader && !cluster.group(rotten).metrics().is_leader);
    cluster.start_on(lost, disks[at(lost)].storage());
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!((1..=3).all(|number| has_token(&state, number)), "an acknowledged command is lost");
    cluster.until("a member that votes", |cluster| {
        (!cluster.group(rotten).metrics().is_abstaining).then_some(())
    });
    assert!(!disks[at(rotten)].has_marker());
    // And its vote is worth something.
    cluster.kill(lost);
    cluster.propose(&token(4));
    assert!(has_token(&cluster.converge(), 2));
}

#[test]
fn a_second_restart_does_not_end_the_abstention() {
    let Rotten { mut cluster, disks, lost, rotten, late } = rotten(small);
    cluster.start_on(rotten, disks[at(rotten)].storage());
    assert!(cluster.group(rotten).metrics().is_abstaining);
    cluster.kill(rotten);
    let disk = disks[at(rotten)].again();
    // Nothing on the disk tells of the cut any more, but the marker.
    assert!(!has_torn_tail(&disk.0).unwrap() && disk.has_marker());
    cluster.start_on(rotten, disk.storage());
    cluster.start_on(late, disks[at(late)].storage());
    std::thread::sleep(NO_LEADER_SPAN);
    assert!(cluster.group(rotten).metrics().is_abstaining);
    assert!(!cluster.group(late).metrics().is_leader);
    cluster.start_on(lost, disks[at(lost)].storage());
    cluster.propose(&token(3));
    assert!(has_token(&cluster.converge(), 2));
}

#[test]
fn an_operator_can_end_the_wait_for_a_member_that_is_gone() {
    let Rotten { mut cluster, disks, rotten, late, .. } = rotten(small);
    cluster.start_on(rotten, disks[at(rotten)].storage());
    cluster.start_on(late, disks[at(late)].storage());
    cluster.kill(rotten);
    let disk = disks[at(rotten)].again();
    cluster.retweak(accepting);
    cluster.start_on(rotten, disk.storage());
    cluster.propose(&token(3));
    assert!(has_token(&cluster.converge(), 1));
    assert!(!cluster.group(rotten).metrics().is_abstaining && !disk.has_marker());
}

#[test]
fn a_site_that_lost_its_power_comes_back_by_itself() {
    let (mut cluster, disks) = three(small);
    let leader = cluster.leader();
    for disk in &disks {
        disk.set(Gate::Syncs);
    }
    let group = cluster.group(leader);
    let running = &cluster.members[&leader].runtime;
    let unanswered = running.spawn(async move { group.propose(striking(2)).await });
    cluster.until("entries that are written and not synced", |_| {
        let holds = |disk: &GatedDisk| {
            let names = disk.0.disk.list().unwrap();
            let bytes = names.iter().flat_map(|name| disk.0.disk.read(name));
            bytes.filter(|byte| *byte == 0x5a).count() >= 4_096
        };
        disks.iter().all(holds).then_some(())
    });
    assert!(!unanswered.is_finished());
    for (id, disk) in (1..).zip(&disks) {
        disk.set(Gate::Cut);
        cluster.kill(id);
    }
    for (seed, disk) in (7..).zip(&disks) {
        disk.0.disk.power_loss(seed);
    }
    let disks: Vec<GatedDisk> = disks.iter().map(GatedDisk::again).collect();
    for (id, disk) in (1..).zip(&disks) {
        assert!(has_torn_tail(&disk.0).unwrap(), "the power loss tore nothing at member {id}");
        cluster.start_on(id, disk.storage());
    }
    cluster.propose(&token(3));
    let state = cluster.converge();
    assert!(has_token(&state, 1) && has_token(&state, 3));
    cluster.until("members that vote", |cluster| {
        (1..=3).all(|id| !cluster.group(id).metrics().is_abstaining).then_some(())
    });
}
