//! Members come and go.

use specs::id::ControllerId;

use crate::cluster::{Cluster, has_token, token};

#[test]
fn a_fourth_member_learns_and_then_votes() {
    let mut cluster = Cluster::founded(3, |_| ());
    for number in 0..20 {
        cluster.propose(&token(number));
    }
    cluster.start(4);
    assert!(cluster.group(4).is_empty());
    cluster.settle(&[1, 2, 3, 4]);
    let state = cluster.converge();
    assert!((0..20).all(|number| has_token(&state, number)));
    assert!(!cluster.group(4).is_empty());
    let members = cluster.group(cluster.leader()).members();
    assert!(members.iter().all(|member| member.voter && member.matched > 0), "{members:?}");
    assert_eq!(members.iter().filter(|member| member.leader).count(), 1);
}

#[test]
fn a_leader_that_is_not_wanted_lets_another_lead() {
    let mut cluster = Cluster::founded(3, |_| ());
    cluster.propose(&token(1));
    let leader = cluster.leader();
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.settle(&others);
    cluster.until("another leader", |cluster| {
        others.iter().any(|id| cluster.group(*id).leadership().borrow().own).then_some(())
    });
    cluster.kill(leader);
    cluster.propose(&token(2));
    assert!(has_token(&cluster.converge(), 2));
    let members = cluster.group(cluster.leader()).members();
    assert!(members.iter().all(|member| member.id != ControllerId(leader)), "{members:?}");
}

#[test]
fn a_member_is_found_at_its_other_address() {
    let mut cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    let moved = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(moved);
    cluster.forget_address(moved);
    cluster.start(moved);
    cluster.propose(&token(1));
    cluster.settle(&[1, 2, 3]);
    assert!(has_token(&cluster.converge(), 1));
    let address = cluster.address(moved);
    let members = cluster.group(leader).members();
    assert!(members.iter().any(|member| member.address == address), "{members:?}");
}

#[test]
fn a_group_of_one_is_a_group() {
    let mut cluster = Cluster::founded(1, |_| ());
    cluster.propose(&token(1));
    cluster.kill(1);
    cluster.start(1);
    cluster.propose(&token(2));
    let state = cluster.converge();
    assert!(has_token(&state, 1) && has_token(&state, 2));
}
