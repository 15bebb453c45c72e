//! CPU and memory on loan: what granted GPUs carry, for whom, and for how long.

use federation_core::{Command, JobPhase, RecordParts, Reply, ReturnGrant, SetVersion, why};
use specs::codec::OrDefault;
use specs::id::{Boot, GrantId, JobId};
use specs::job::{JobSpec, Needs};
use specs::unit::Instant;
use specs::version::ClusterVersion;
use specs::wire::agent::{AttemptPhase, AttemptReport, Facts, Outcome};

use crate::loans::{CPU, MEMORY, asks, facts, go_round, nodes_of, sites};
use crate::world::{Site, job};

const SHARE: u32 = CPU / 2;

fn beside(cpu_milli: u32, memory_mib: u32) -> Needs {
    Needs { cpu_milli, memory_mib, ..Needs::default() }
}

/// One GPU, and that much CPU.
fn one(cpu_milli: u32) -> JobSpec {
    JobSpec { needs: OrDefault(beside(cpu_milli, 0)), ..job("acme", 1, 1) }
}

fn both_new() -> (Site, Site) {
    sites(ClusterVersion::DEMANDS, ClusterVersion::DEMANDS)
}

/// All that the host still runs of a guest exits.
fn finish_guest(giga: &mut Site, id: u128) {
    let lease = giga.state.leases.values().find(|lease| lease.job == JobId(id)).unwrap().clone();
    for part in &lease.parts {
        let report = AttemptReport {
            lease: lease.id,
            phase: AttemptPhase::Ended,
            outcome: Some(Outcome::exited(0, 0)),
            started_at: specs::unit::Timestamp(giga.now),
            ended_at: specs::unit::Timestamp(giga.now),
        };
        giga.apply(Command::RecordParts(RecordParts {
            node: part.node.clone(),
            boot: Boot(1),
            attempts: vec![report],
            at: specs::unit::Timestamp(giga.now),
        }));
    }
}

fn said_of(berlin: &mut Site, id: u128) -> String {
    let job = berlin.state.jobs.get(&JobId(id)).unwrap().clone();
    let reasons = why(&berlin.state, &mut berlin.leader, Instant(berlin.now), &job);
    let of_giga = reasons.into_iter().find(|it| it.site.as_str() == "giga").unwrap();
    format!("{}: {}", of_giga.constraint, of_giga.change)
}

fn guests(giga: &Site) -> Vec<u128> {
    let guests = giga.state.leases.values().filter(|lease| !giga.state.is_own(&lease.home));
    guests.map(|lease| lease.job.0).collect()
}

#[test]
fn a_job_leaves_with_as_much_cpu_and_memory_as_its_gpus_carry_and_no_more() {
    let (mut berlin, mut giga) = both_new();
    berlin.submit(2, asks(1, beside(CPU, MEMORY)));
    berlin.submit(3, asks(1, beside(CPU + 1, 0)));
    berlin.submit(4, asks(1, beside(0, MEMORY + 1)));
    berlin.submit(5, one(SHARE));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3, 4, 5]), [2, 5]);
    assert_eq!(guests(&giga), [2, 5]);
    let said = said_of(&mut berlin, 3);
    assert!(said.contains("2 GPUs of a node carry 32000 milli-CPU and 200000 MiB there"), "{said}");
    assert!(said.ends_with("at most 32000 milli-CPU and 200000 MiB per node"), "{said}");
}

#[test]
fn a_job_leaves_for_nodes_of_which_it_has_all_gpus_for_itself() {
    let (mut berlin, mut giga) = both_new();
    let alone = Needs { exclusive: true, ..Needs::default() };
    giga.submit(7, job("acme", 1, 1));
    giga.poll();
    berlin.submit(2, asks(2, Needs { cpu_milli: CPU, ..alone.clone() }));
    berlin.submit(3, JobSpec { needs: OrDefault(alone), ..job("acme", 1, 1) });
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3]), [2]);
    assert_eq!(guests(&giga), [2]);
    let nodes = nodes_of(&berlin, 2);
    for node in &nodes {
        let node = giga.state.nodes.get(&node.parse().unwrap()).unwrap();
        assert!(node.alone.is_some());
    }
    let said = said_of(&mut berlin, 3);
    assert!(said.contains("they have 2, the job asks 1: 2 GPUs per node"), "{said}");
    finish_guest(&mut giga, 2);
    assert!(giga.state.nodes.values().all(|node| node.alone.is_none()));
}

#[test]
fn guests_of_a_home_share_what_all_of_its_gpus_on_a_node_carry() {
    let (mut berlin, mut giga) = both_new();
    berlin.submit(2, asks(1, beside(CPU, 0)));
    go_round(&mut berlin, &mut giga);
    let node = nodes_of(&berlin, 2);
    finish_guest(&mut giga, 2);
    giga.ask_home(&mut berlin);
    // The grant stands; more than a GPU's part for one, the rest of it for another.
    berlin.submit(3, one(SHARE + 8_000));
    berlin.poll();
    berlin.submit(4, one(SHARE - 7_999));
    berlin.submit(5, one(SHARE - 8_000));
    berlin.poll();
    assert_eq!(nodes_of(&berlin, 3), node);
    assert_eq!(nodes_of(&berlin, 5), node);
    assert_eq!(berlin.holding([4]), [], "one thousandth too much");
    giga.ask_home(&mut berlin);
    assert_eq!(guests(&giga), [3, 5]);
}

#[test]
fn a_host_keeps_for_guests_what_it_has_granted() {
    let (mut berlin, mut giga) = both_new();
    for node in ["g2", "g3", "g4"] {
        let (node, drain) = (node.parse().unwrap(), true);
        giga.apply(Command::DrainNode(federation_core::DrainNode { node, drain }));
    }
    berlin.submit(2, one(1_000));
    go_round(&mut berlin, &mut giga);
    assert_eq!(guests(&giga), [2]);
    giga.submit(7, one(SHARE + 1));
    giga.poll();
    assert_eq!(giga.holding([7]), [], "of its own it has half a node");
    giga.submit(8, one(SHARE));
    giga.poll();
    assert_eq!(giga.holding([8]), [8]);
}

#[test]
fn what_own_jobs_have_of_a_node_is_not_granted() {
    let (mut berlin, mut giga) = both_new();
    for node in ["g2", "g3", "g4"] {
        let (node, drain) = (node.parse().unwrap(), true);
        giga.apply(Command::DrainNode(federation_core::DrainNode { node, drain }));
    }
    giga.submit(7, one(SHARE + 1));
    giga.poll();
    berlin.submit(2, one(SHARE));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2]), [], "what is left is less than its GPU should carry");
    // A job that asks for GPUs alone gets one that carries nothing.
    berlin.submit(3, job("acme", 1, 1));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2, 3]), [3]);
}

#[test]
fn a_grant_stays_while_guests_use_what_it_carries() {
    let (mut berlin, mut giga) = both_new();
    // Two grants of one GPU each, on one node.
    berlin.submit(2, one(SHARE));
    go_round(&mut berlin, &mut giga);
    berlin.submit(3, one(SHARE));
    go_round(&mut berlin, &mut giga);
    assert_eq!(nodes_of(&berlin, 2), nodes_of(&berlin, 3));
    for id in [2, 3] {
        finish_guest(&mut giga, id);
    }
    giga.ask_home(&mut berlin);
    berlin.submit(4, one(CPU));
    berlin.poll();
    giga.ask_home(&mut berlin);
    assert_eq!(guests(&giga), [4]);
    let grants: Vec<GrantId> = giga.state.grants.keys().copied().collect();
    assert_eq!(grants.len(), 2);
    let JobPhase::Loaned(loan) = &berlin.state.jobs.get(&JobId(4)).unwrap().phase.clone() else {
        panic!("it has left")
    };
    let idle = grants.into_iter().find(|grant| loan.slots[0].grant != *grant).unwrap();
    let give = Command::ReturnGrant(ReturnGrant { peer: "giga".parse().unwrap(), grant: idle });
    let reply = berlin.apply(give.clone());
    assert_eq!(reply, Reply::NoOp("loans use what the grant carries"));
    let take = Command::ExpireGrant(federation_core::ExpireGrant { grant: idle });
    assert_eq!(giga.apply(take.clone()), Reply::NoOp("guests use the grant"));
    finish_guest(&mut giga, 4);
    giga.ask_home(&mut berlin);
    assert_eq!(berlin.apply(give), Reply::Done);
    assert_eq!(giga.apply(take), Reply::Done);
}

#[test]
fn below_the_version_at_either_side_cpu_and_memory_stay_at_home() {
    let old = ClusterVersion::SITES;
    for (home, host) in [(old, ClusterVersion::DEMANDS), (ClusterVersion::DEMANDS, old)] {
        let (mut berlin, mut giga) = sites(home, host);
        berlin.submit(2, one(1_000));
        berlin.submit(3, job("acme", 1, 2));
        berlin.submit(4, asks(1, Needs { exclusive: true, ..Needs::default() }));
        go_round(&mut berlin, &mut giga);
        assert_eq!(berlin.holding([2, 3, 4]), [3], "of a home at {home:?} and a host at {host:?}");
        let said = said_of(&mut berlin, 2);
        let wanted = if home == old { "from version 7" } else { "its version is older" };
        assert!(said.contains(wanted), "{said}");
        let site = if home == old { &mut berlin } else { &mut giga };
        let held = site.state.held.values().flat_map(|held| &held.slots);
        assert!(held.into_iter().all(|slot| slot.cpu_milli == 0 && slot.node_gpus.0 == 0));
        let carries = site.state.nodes.values().flat_map(|node| &node.gpus).any(|gpu| gpu.carries);
        assert!(!carries, "no field of a later version");
    }
}

#[test]
fn what_was_granted_below_the_version_carries_from_the_next_life_of_its_node_on() {
    let (mut berlin, mut giga) = sites(ClusterVersion::DEMANDS, ClusterVersion::SITES);
    berlin.submit(2, job("acme", 1, 2));
    go_round(&mut berlin, &mut giga);
    let node = nodes_of(&berlin, 2).remove(0);
    finish_guest(&mut giga, 2);
    let version = ClusterVersion::DEMANDS;
    assert_eq!(giga.apply(Command::SetVersion(SetVersion { version })), Reply::Done);
    giga.ask_home(&mut berlin);
    berlin.submit(3, asks(1, beside(CPU, 0)));
    berlin.poll();
    assert_eq!(berlin.holding([3]), []);
    let facts = Facts { cpu_milli: CPU, memory_mib: MEMORY, ..facts("r1", "old") };
    giga.register(&node, 2, ("b200", 2), facts);
    giga.ask_home(&mut berlin);
    berlin.poll();
    assert_eq!(nodes_of(&berlin, 3), [node]);
}

#[test]
fn a_host_refuses_a_loan_that_asks_for_more_than_is_carried_and_puts_off_what_is_taken() {
    let (mut berlin, mut giga) = both_new();
    berlin.submit(2, asks(1, beside(CPU, 0)));
    go_round(&mut berlin, &mut giga);
    let node = nodes_of(&berlin, 2).remove(0);
    finish_guest(&mut giga, 2);
    giga.ask_home(&mut berlin);
    berlin.submit(3, asks(1, beside(CPU, 0)));
    berlin.poll();
    assert_eq!(berlin.holding([3]), [3]);
    // The node comes back as a smaller one while the loan is on the way.
    let smaller = Facts { cpu_milli: CPU - 2, memory_mib: MEMORY, ..facts("r1", "old") };
    giga.register(&node, 2, ("b200", 2), smaller);
    giga.ask_home(&mut berlin);
    assert_eq!(guests(&giga), Vec::<u128>::new(), "it was not started");
    giga.ask_home(&mut berlin);
    let outcome = berlin.state.jobs.get(&JobId(3)).unwrap().attempts[0].outcome.clone();
    assert!(outcome.is_some_and(|it| it.detail.contains("carries but 31998 milli-CPU")));
}
