//! Agreement, and what a death costs.

use std::sync::Arc;

use federation_controller::raft::ProposeError;
use federation_core::{Command, Effect, FoundSite, Reply};
use specs::id::{ControllerId, Revision, SiteId};
use specs::site::{SiteSpec, Terms};
use tokio::sync::Semaphore;

use crate::cluster::{Cluster, has_token, token};

/// Proposes many commands at a time through one member.
fn propose_many(cluster: &Cluster, through: u64, numbers: std::ops::Range<u64>) {
    let permits = Arc::new(Semaphore::new(16));
    let results = cluster.on(through, |group| async move {
        let tasks: Vec<_> = numbers
            .map(|number| {
                let (group, permits) = (group.clone(), permits.clone());
                tokio::runtime::Handle::current().spawn(async move {
                    let _permit = permits.acquire().await.unwrap();
                    group.propose(token(number)).await
                })
            })
            .collect();
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    });
    for result in results {
        assert_eq!(result.unwrap().reply, Reply::Done);
    }
}

#[test]
fn three_members_agree_and_a_killed_one_catches_up() {
    let mut cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    propose_many(&cluster, leader, 0..200);
    let state = cluster.converge();
    assert_eq!(state.revision, Revision(200));
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(follower);
    propose_many(&cluster, leader, 200..300);
    cluster.start(follower);
    let state = cluster.converge();
    assert_eq!(state.revision, Revision(300));
    assert!((0..300).all(|number| has_token(&state, number)));
}

#[test]
fn a_killed_leader_is_replaced_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::founded(3, |_| ());
    for round in 0..3 {
        let leader = cluster.leader();
        propose_many(&cluster, leader, round * 100..round * 100 + 50);
        cluster.kill(leader);
        let died = cluster.now();
        cluster.propose(&token(round * 100 + 99));
        eprintln!("round {round}: {} ms to the next commit", cluster.now().0 - died.0);
        cluster.start(leader);
        let state = cluster.converge();
        for number in (0..=round).flat_map(|round| round * 100..round * 100 + 50) {
            assert!(has_token(&state, number), "{number} is lost");
        }
    }
}

#[test]
fn all_members_come_back_from_their_disks() {
    let mut cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    propose_many(&cluster, leader, 0..50);
    let before = cluster.converge();
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    let after = cluster.converge();
    assert!(after.encode() == before.encode());
    assert!((1..=3).all(|id| !cluster.group(id).is_empty()));
}

#[test]
fn only_the_leader_takes_commands_and_confirms() {
    let cluster = Cluster::founded(3, |_| ());
    cluster.propose(&token(1));
    cluster.converge();
    let leader = cluster.leader();
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = cluster.on(follower, |group| async move { group.propose(token(2)).await });
    let to = Some((ControllerId(leader), cluster.address(leader)));
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: to }));
    let refused = cluster.on(follower, |group| async move { group.confirm().await });
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
    assert!(!has_token(&cluster.converge(), 2));
}

#[test]
fn a_leader_without_a_majority_confirms_nothing() {
    let mut cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id);
    }
    let refused = cluster.on(leader, |group| async move { group.confirm().await });
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })), "{refused:?}");
}

#[test]
fn a_confirmed_state_has_all_that_was_answered_before() {
    let cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    for number in 0..50 {
        let committed = cluster.propose(&token(number));
        let state = cluster.on(leader, |group| async move { group.confirm().await }).unwrap();
        assert!(state.revision >= committed.revision && has_token(&state, number));
    }
}

#[test]
fn effects_reach_every_member() {
    let mut cluster = Cluster::founded(3, |_| ());
    let spec = SiteSpec {
        site: SiteId::new("berlin").unwrap(),
        country: "DE".parse().unwrap(),
        terms: Terms::default(),
        lend: Vec::new(),
        trust: None,
    };
    let found = FoundSite { spec: Arc::new(spec), address: "a:1".to_owned() };
    cluster.propose(&Command::FoundSite(found));
    cluster.converge();
    for member in cluster.members.values_mut() {
        // It was sent before the state that followed was published.
        let applied = member.applied.try_recv().unwrap();
        assert!(applied.effects.contains(&Effect::SyncTrust), "{applied:?}");
    }
}

#[test]
fn a_leader_that_stops_hands_over_first() {
    let mut cluster = Cluster::founded(3, |_| ());
    cluster.propose(&token(1));
    cluster.converge();
    let (leader, begun) = (cluster.leader(), cluster.now());
    cluster.on(leader, |group| async move { group.shutdown().await });
    cluster.kill(leader);
    cluster.propose(&token(2));
    eprintln!("{} ms to the next commit after a stop", cluster.now().0 - begun.0);
    cluster.start(leader);
    assert!(has_token(&cluster.converge(), 2));
}
