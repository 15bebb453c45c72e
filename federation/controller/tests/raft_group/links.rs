//! Links that carry one way only, peers that do not answer, and peers that come back.

use std::time::Duration;

use specs::unit::Millis;

use crate::cluster::{Cluster, has_token, token};

/// A group agrees again within this, on a machine that does other things too.
const SOON: Millis = Millis(8_000);
/// A member that is back has what it missed within this.
const CAUGHT_UP: Millis = Millis(3_000);

fn three() -> (Cluster, u64, Vec<u64>) {
    let cluster = Cluster::founded(3, |_| ());
    cluster.propose(&token(0));
    cluster.converge();
    let leader = cluster.leader();
    (cluster, leader, (1..=3).filter(|id| *id != leader).collect())
}

fn term(cluster: &Cluster) -> u64 {
    let terms = cluster.members.values().map(|member| member.group.metrics().term);
    terms.max().unwrap()
}

/// Agrees on commands while some do not hear others, and says how far the term has grown.
fn agrees_without(cluster: &Cluster, cuts: Vec<(u64, u64)>) -> u64 {
    let (before, begun) = (term(cluster), cluster.now());
    cluster.cuts.set(cuts);
    // Long enough for those who hear nothing to stand for election several times.
    std::thread::sleep(Duration::from_millis(2_000));
    cluster.propose(&token(1));
    let took = cluster.now().since(begun);
    assert!(took < SOON, "{took:?}");
    let steady = term(cluster);
    for number in 2..50 {
        cluster.propose(&token(number));
    }
    std::thread::sleep(Duration::from_millis(1_000));
    assert_eq!(term(cluster), steady, "elections do not end");
    cluster.cuts.set([]);
    let state = cluster.converge();
    assert!((0..50).all(|number| has_token(&state, number)));
    term(cluster) - before
}

#[test]
fn a_follower_that_does_not_hear_its_leader_unseats_nobody() {
    let (cluster, leader, others) = three();
    assert_eq!(agrees_without(&cluster, vec![(leader, others[0])]), 0);
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn a_follower_that_is_not_heard_unseats_nobody() {
    let (cluster, leader, others) = three();
    assert_eq!(agrees_without(&cluster, vec![(others[0], leader)]), 0);
    assert_eq!(cluster.leader(), leader);
}

#[test]
fn a_leader_that_nobody_hears_is_replaced() {
    let (cluster, leader, others) = three();
    let grown = agrees_without(&cluster, others.iter().map(|id| (leader, *id)).collect());
    assert!(grown <= 4, "{grown} terms");
}

#[test]
fn a_leader_that_hears_nobody_is_replaced() {
    let (cluster, leader, others) = three();
    let grown = agrees_without(&cluster, others.iter().map(|id| (*id, leader)).collect());
    assert!(grown <= 4, "{grown} terms");
}

#[test]
fn a_peer_that_accepts_and_never_answers_delays_no_command() {
    let (cluster, leader, others) = three();
    let hung = others[0];
    cluster.cuts.set((1..=3).filter(|id| *id != hung).flat_map(|id| [(id, hung), (hung, id)]));
    let before = term(&cluster);
    let mut longest = Millis(0);
    // Longer than an append may wait for its answer.
    let end = cluster.now().after(Millis(7_000));
    let mut number = 1;
    while cluster.now() < end {
        let begun = cluster.now();
        cluster.propose(&token(number));
        longest = longest.max(cluster.now().since(begun));
        number += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    eprintln!("{number} commands beside a hung peer, the longest took {} ms", longest.0);
    // What waits for the peer waits for seconds.
    assert!(longest < Millis(1_500), "{longest:?}");
    assert_eq!((term(&cluster), cluster.leader()), (before, leader));
    cluster.cuts.set([]);
    assert!(has_token(&cluster.converge(), number - 1));
}

#[test]
fn a_member_that_was_away_is_reached_soon() {
    let (mut cluster, leader, others) = three();
    cluster.kill(others[0]);
    let away = cluster.now();
    let mut number = 1;
    while cluster.now() < away.after(Millis(5_000)) {
        cluster.propose(&token(number));
        number += 1;
        std::thread::sleep(Duration::from_millis(20));
    }
    cluster.start(others[0]);
    let back = cluster.now();
    let goal = cluster.group(leader).metrics().committed;
    cluster.until("the member that is back", |cluster| {
        (cluster.group(others[0]).metrics().applied >= goal).then_some(())
    });
    let took = cluster.now().since(back);
    eprintln!("caught up {} ms after it was back", took.0);
    assert!(took < CAUGHT_UP, "{took:?}");
    assert!(has_token(&cluster.converge(), number - 1));
}
