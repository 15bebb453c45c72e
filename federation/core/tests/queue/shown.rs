//! Proofs of GPUs that hosts show to homes: verified before what is granted is used.

use federation_core::{
    Command, JobPhase, Leader, RecordProofs, Reply, SetTrust, State, WithholdGpu, grant_views, why,
};
use specs::codec::{Blob, Message};
use specs::gpu::{BurnInTier, HealthProof, KERNELS, Passed};
use specs::id::{GpuIndex, JobId};
use specs::site::Trust;
use specs::unit::{Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::peer::{PROOFS_SHOWN_MAX, PeerReport, ProofKey};

use crate::loans::go_round;
use crate::proofs::{demands, proof_of, proving, report};
use crate::world::{Site, job};

const NEW: ClusterVersion = ClusterVersion::PEER_PROOFS;
const HOUR: u64 = 3_600_000;
const T2: BurnInTier = BurnInTier::T2;
const T3: BurnInTier = BurnInTier::T3;

/// A home whose one GPU is taken, and a host with two nodes of two GPUs: g1 soaked lately, g2 not.
fn sites(home: ClusterVersion, host: ClusterVersion) -> (Site, Site) {
    let (mut berlin, mut giga) = (proving("berlin", home), proving("giga", host));
    berlin.node("n1", "b200", 1);
    report(&mut berlin, "n1", &[(T2, 1)]);
    for (node, tier) in [("g1", T3), ("g2", T2)] {
        giga.node(node, "b200", 2);
        report(&mut giga, node, &[(tier, 2), (tier, 2)]);
    }
    berlin.join("giga");
    giga.join("berlin");
    berlin.submit(1, job("acme", 1, 1));
    berlin.poll();
    assert_eq!(berlin.holding([1]), [1]);
    (berlin, giga)
}

/// The loan's GPUs, as the home names them.
fn named(site: &Site, id: u128) -> Vec<(String, Vec<u16>)> {
    let JobPhase::Loaned(loan) = &site.state.jobs.get(&JobId(id)).unwrap().phase else {
        return vec![];
    };
    let which = loan.slots.iter().map(|slot| {
        (slot.node.to_string(), slot.which.iter().map(|gpu| gpu.0).collect::<Vec<_>>())
    });
    which.collect()
}

/// Where the host runs it.
fn runs_on(giga: &Site, id: u128) -> Vec<(String, Vec<u16>)> {
    let lease = giga.state.leases.values().find(|lease| lease.job == JobId(id));
    let parts = lease.into_iter().flat_map(|lease| &lease.parts);
    parts.map(|part| (part.node.to_string(), part.gpus.iter().map(|gpu| gpu.0).collect())).collect()
}

fn said_of(berlin: &mut Site, id: u128) -> String {
    let job = berlin.state.jobs.get(&JobId(id)).unwrap().clone();
    let reasons = why(&berlin.state, &mut berlin.leader, Instant(berlin.now), &job);
    reasons.into_iter().find(|it| it.site.as_str() == "giga").unwrap().constraint
}

/// The host's next question, and what the home's leader answers; nothing is agreed on at the host.
fn asks(giga: &mut Site, berlin: &mut Site) -> PeerReport {
    let name = berlin.state.own().unwrap().clone();
    giga.leader.ask_peer(Instant(giga.now), &giga.state, &name).unwrap()
}

fn answers(berlin: &mut Site, giga: &mut Site, report: &PeerReport) {
    let orders = berlin.leader.peer_orders(&berlin.state, report).unwrap();
    let (now, at) = (Instant(giga.now), Timestamp(giga.now));
    for command in giga.leader.handle_peer_orders(now, at, &giga.state, &orders) {
        giga.apply(command);
    }
}

fn verified(state: &State) -> usize {
    state.held.values().map(|held| held.proofs.len()).sum()
}

/// Rounds in which the host spoils what it shows; what the home said of it, and how often proofs came.
fn rounds(
    (berlin, giga): (&mut Site, &mut Site),
    seconds: u64,
    spoil: impl Fn(&mut PeerReport),
) -> (Vec<String>, usize) {
    let (mut said, mut shown) = (Vec::new(), 0);
    for _ in 0..seconds {
        let mut report = asks(giga, berlin);
        spoil(&mut report);
        shown += report.proofs.len();
        said.extend(berlin.hears(&report));
        answers(berlin, giga, &report);
        berlin.poll();
        giga.poll();
        (berlin.now, giga.now) = (berlin.now + 1_000, giga.now + 1_000);
    }
    (said, shown)
}

#[test]
fn a_home_uses_what_is_granted_once_it_has_verified_its_proofs_and_names_the_gpus() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, job("acme", 2, 2));
    let (said, shown) = rounds((&mut berlin, &mut giga), 8, |report| report.proofs.clear());
    assert_eq!((said, shown), (vec![], 0));
    assert_eq!(giga.state.grants.len(), 1, "it was granted");
    assert_eq!(berlin.holding([2]), [], "and not used");
    assert_eq!(said_of(&mut berlin, 2), "4 of 4 GPUs granted there have no proof that holds here");
    go_round(&mut berlin, &mut giga);
    let both = ["g1", "g2"].map(|node| (node.to_owned(), vec![0, 1]));
    assert_eq!((named(&berlin, 2), runs_on(&giga, 2)), (both.to_vec(), both.to_vec()));
    // They are shown once.
    let (_, shown) = rounds((&mut berlin, &mut giga), 5, |_| {});
    assert_eq!((shown, verified(&berlin.state)), (0, 4));
}

#[test]
fn a_grant_tells_its_home_how_many_of_its_gpus_are_proven() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, job("acme", 2, 2));
    let told = |site: &Site, at: u64| {
        let views = grant_views(&site.state, Timestamp(at));
        views.iter().map(|it| (it.gpus.0, it.gpus_verified.map(|it| it.0))).collect::<Vec<_>>()
    };
    rounds((&mut berlin, &mut giga), 3, |report| report.proofs.clear());
    assert_eq!(told(&berlin, berlin.now), [(4, Some(0))]);
    rounds((&mut berlin, &mut giga), 3, |report| report.proofs.truncate(1));
    let some = told(&berlin, berlin.now);
    assert!(matches!(some[..], [(4, Some(1..4))]), "{some:?}");
    go_round(&mut berlin, &mut giga);
    assert_eq!(told(&berlin, berlin.now), [(4, Some(4))]);
    assert_eq!(told(&berlin, berlin.now + 32 * 24 * HOUR), [(4, Some(0))], "they have expired");
    assert_eq!(told(&giga, giga.now), [(4, None)], "its host has verified none");
    // A host of an earlier version shows none.
    let (mut berlin, mut giga) = sites(NEW, ClusterVersion::DEMANDS);
    berlin.submit(2, job("acme", 2, 2));
    go_round(&mut berlin, &mut giga);
    assert_eq!(told(&berlin, berlin.now), [(4, None)]);
}

#[test]
fn a_job_that_demands_leaves_for_gpus_whose_proofs_are_what_it_demands() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, demands(1, 1, T3, 24));
    berlin.submit(3, demands(1, 1, T3, 1));
    berlin.submit(4, job("acme", 1, 2));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3, 4]), [2, 4], "no soak is younger than an hour");
    assert_eq!(runs_on(&giga, 2)[0].0, "g1");
    assert_eq!(named(&berlin, 2), runs_on(&giga, 2));
    assert_eq!(named(&berlin, 4), runs_on(&giga, 4));
    // A younger one comes, under another number.
    report(&mut giga, "g1", &[(T3, 0), (T3, 0)]);
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([3]), [3]);
    assert_eq!((named(&berlin, 3), runs_on(&giga, 3)[0].0.as_str()), (runs_on(&giga, 3), "g1"));
}

#[test]
fn what_is_not_the_proof_of_the_very_gpu_is_refused_and_seldom_asked_for_again() {
    type Spoil = fn(&mut HealthProof);
    let wrong: [(Spoil, &str); 7] = [
        (|said| said.index = GpuIndex(said.index.0 ^ 1), "it is of GPU"),
        (|said| said.node = "g9".parse().unwrap(), "of g9 at giga"),
        (|said| said.site = "paris".parse().unwrap(), "at paris"),
        (|said| said.tier = BurnInTier::T1, "t1 proves too little"),
        (|said| said.passed_at.0 -= 200 * HOUR, "h apart from the age that is told"),
        (|said| said.valid_for = Millis(HOUR), "it has expired"),
        (|said| said.agent = KERNELS[0].0.into(), "its kernels are not those of agents of"),
    ];
    for (spoil, expected) in wrong {
        let (mut berlin, mut giga) = sites(NEW, NEW);
        berlin.submit(2, job("acme", 1, 1));
        let spoil_all = |report: &mut PeerReport| {
            for shown in &mut report.proofs {
                let mut said = HealthProof::decode(&shown.proof.body.0).unwrap();
                spoil(&mut said);
                shown.proof.body = Blob(said.encode());
            }
        };
        let (said, shown) = rounds((&mut berlin, &mut giga), 300, spoil_all);
        assert!(!said.is_empty() && said.iter().all(|why| why.contains(expected)), "{said:?}");
        assert!(shown <= 4 * 6, "asked {shown} times in five minutes for {expected}");
        assert_eq!((berlin.holding([2]), verified(&berlin.state)), (vec![], 0));
    }
}

#[test]
fn what_was_not_asked_for_is_not_looked_at() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, job("acme", 1, 1));
    for _ in 0..2 {
        giga.ask_home(&mut berlin);
        giga.poll();
        berlin.poll();
        giga.now += 1_000;
        berlin.now += 1_000;
    }
    giga.ask_home(&mut berlin);
    let report = asks(&mut giga, &mut berlin);
    assert_eq!(report.proofs.len(), 1, "{report:?}");
    assert_eq!(berlin.leader.proofs_to_check(&berlin.state, &report), report.proofs);
    // Another leader did not ask for it, and cannot tell how long ago that was.
    let at = Instant(berlin.now);
    berlin.leader = Leader::new(at, 2);
    assert_eq!(berlin.leader.proofs_to_check(&berlin.state, &report), []);
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2]), [2], "it asks by itself");
    // What is agreed on outlives it.
    berlin.leader = Leader::new(Instant(berlin.now), 3);
    let (_, shown) = rounds((&mut berlin, &mut giga), 5, |_| {});
    assert_eq!(shown, 0);
}

#[test]
fn a_proof_is_taken_for_as_old_as_it_may_be() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    // The clocks of the sites are nine hours apart.
    giga.now += 9 * HOUR;
    for node in ["g1", "g2"] {
        report(&mut giga, node, &[(T3, 20), (T3, 20)]);
    }
    berlin.submit(2, demands(1, 1, T3, 24));
    let mut tries = 0;
    let late = loop {
        let report = asks(&mut giga, &mut berlin);
        if !report.proofs.is_empty() {
            break report;
        }
        berlin.hears(&report);
        answers(&mut berlin, &mut giga, &report);
        berlin.poll();
        giga.poll();
        tries += 1;
        assert!(tries < 10, "it is never shown");
    };
    assert_eq!(late.proofs.len(), 1);
    // It was on the way for three hours.
    berlin.now += 3 * HOUR;
    assert_eq!(berlin.hears(&late), Vec::<String>::new());
    let held = berlin.state.held.values().flat_map(|held| &held.proofs).next().unwrap().clone();
    assert_eq!(held.passed_at, Timestamp(berlin.now - 23 * HOUR));
    assert_eq!(held.expires_at.0 - held.passed_at.0, 7 * 24 * HOUR);
    berlin.now += HOUR;
    berlin.poll();
    assert_eq!(berlin.holding([2]), [], "24 h and a little, for all that this site knows");
}

#[test]
fn what_turns_bad_or_is_proven_anew_at_the_host_is_no_longer_used() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, job("acme", 1, 2));
    go_round(&mut berlin, &mut giga);
    let node = runs_on(&giga, 2)[0].0.clone();
    assert_eq!(verified(&berlin.state), 2);
    let why = Some("an operator looks at it".into());
    let index = GpuIndex(1);
    giga.apply(Command::WithholdGpu(WithholdGpu { node: node.parse().unwrap(), index, why }));
    giga.ask_home(&mut berlin);
    assert_eq!(verified(&berlin.state), 1, "it vanished");
    // What comes too late is of no GPU that is told.
    let key = ProofKey { node: node.parse().unwrap(), index, number: specs::id::Revision(1) };
    let mut proof = berlin.state.held.values().next().unwrap().proofs[0].clone();
    proof.key = key;
    let late = RecordProofs { peer: "giga".parse().unwrap(), proofs: vec![proof] };
    let reply = berlin.apply(Command::RecordProofs(late));
    assert_eq!(reply, Reply::NoOp("none of the GPUs is told with that proof"));
}

#[test]
fn a_host_looks_again_and_refuses_what_has_grown_old_on_the_way() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.submit(2, demands(1, 1, T3, 3));
    for _ in 0..10 {
        if berlin.holding([2]).is_empty() {
            giga.ask_home(&mut berlin);
            giga.poll();
            berlin.poll();
        }
    }
    assert_eq!((berlin.holding([2]), runs_on(&giga, 2)), (vec![2], vec![]));
    giga.now += 2 * HOUR;
    giga.ask_home(&mut berlin);
    giga.ask_home(&mut berlin);
    let attempt = &berlin.state.jobs.get(&JobId(2)).unwrap().attempts[0];
    let outcome = attempt.outcome.clone().unwrap();
    assert!(outcome.detail.contains("the proof of GPU 0 of g1 is not as demanded"), "{outcome:?}");
}

#[test]
fn a_home_that_trusts_what_is_declared_believes_its_host_but_for_what_a_job_demands() {
    let (mut berlin, mut giga) = sites(NEW, NEW);
    berlin.apply(Command::SetTrust(SetTrust { trust: Trust::Declared }));
    giga.apply(Command::SetTrust(SetTrust { trust: Trust::Declared }));
    for node in ["g1", "g2"] {
        report(&mut giga, node, &[]);
    }
    // What was proven is forgotten with the next life of the agents.
    for node in ["g1", "g2"] {
        giga.register(node, 2, ("b200", 2), Default::default());
    }
    berlin.submit(2, job("acme", 1, 1));
    berlin.submit(3, demands(1, 1, T2, 0));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3]), [2]);
    assert_eq!(named(&berlin, 2), runs_on(&giga, 2), "its GPUs are named all the same");
    assert_eq!(said_of(&mut berlin, 3), "0 of 4 GPUs there have a proof to show, the job asks 1");
    // A home that wants proofs asks such a host for nothing that has none.
    let (mut paris, mut giga) = (proving("berlin", NEW), giga);
    paris.join("giga");
    paris.submit(2, job("acme", 1, 1));
    let grants = giga.state.grants.len();
    go_round(&mut paris, &mut giga);
    assert_eq!((paris.holding([2]), giga.state.grants.len()), (vec![], grants));
}

#[test]
fn below_the_version_at_either_side_a_home_believes_its_host() {
    let old = ClusterVersion::DEMANDS;
    for (home, host) in [(old, NEW), (NEW, old)] {
        let (mut berlin, mut giga) = sites(home, host);
        berlin.submit(2, job("acme", 1, 1));
        berlin.submit(3, demands(1, 1, T2, 24));
        go_round(&mut berlin, &mut giga);
        assert_eq!(berlin.holding([2, 3]), [2], "home {home:?}, host {host:?}");
        assert_eq!(named(&berlin, 2)[0].1, Vec::<u16>::new(), "the host chooses");
        let said = said_of(&mut berlin, 3);
        let expected = if home == old { "from version 8" } else { "its version is older" };
        let expected = if home == old { "a loan carries" } else { expected };
        assert!(said.contains(expected) || said.contains("from version 8"), "{said}");
        let slots = berlin.state.held.values().flat_map(|held| &held.slots);
        assert!(slots.into_iter().all(|slot| slot.which.is_empty()));
        assert!(!berlin.state.peers.values().any(|peer| peer.shows));
        assert_eq!(verified(&berlin.state), 0);
    }
    // Where loans of before run, the others of the node are not named: the host may have chosen them.
    let (mut berlin, mut giga) = sites(NEW, old);
    berlin.submit(2, job("acme", 1, 1));
    berlin.submit(3, job("acme", 1, 1));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3]), [2, 3]);
    giga.raise_to(NEW);
    for node in ["g1", "g2"] {
        report(&mut giga, node, &[(T2, 1), (T2, 1)]);
    }
    berlin.submit(4, job("acme", 1, 1));
    go_round(&mut berlin, &mut giga);
    assert_eq!(named(&berlin, 4), runs_on(&giga, 4));
    assert_ne!(named(&berlin, 4), []);
}

#[test]
fn a_message_carries_so_many_proofs_at_most() {
    let (mut berlin, mut giga) = (proving("berlin", NEW), proving("giga", NEW));
    berlin.join("giga");
    giga.join("berlin");
    for nth in 0..70 {
        let node = format!("g{nth}");
        giga.node(&node, "b200", 8);
        report(&mut giga, &node, &[(T2, 2); 8]);
    }
    berlin.quota("acme", None, 0, 1_000);
    berlin.submit(2, job("acme", 8, 8));
    let one = |giga: &mut Site, berlin: &mut Site| {
        let report = asks(giga, berlin);
        berlin.hears(&report);
        answers(berlin, giga, &report);
        report.proofs.len()
    };
    let mut shown = Vec::new();
    for _ in 0..6 {
        shown.push(one(&mut giga, &mut berlin));
        berlin.poll();
        giga.poll();
        (berlin.now, giga.now) = (berlin.now + 1_000, giga.now + 1_000);
    }
    assert!(shown.iter().all(|count| *count <= PROOFS_SHOWN_MAX), "{shown:?}");
    assert_eq!(shown.iter().sum::<usize>(), 64);
    let proof = proof_of(&giga, "g1", 0, &Passed { tier: T2, at: Timestamp(1), ago: Millis(1) });
    assert!(proof.encode().len() < 1_000);
}
