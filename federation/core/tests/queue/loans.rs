//! What jobs ask of their nodes, at another site than their home.

use federation_core::JobPhase;
use specs::codec::OrDefault;
use specs::id::JobId;
use specs::job::{JobSpec, Needs, Together, Vicinity};
use specs::version::ClusterVersion;
use specs::wire::agent::{Facts, Outcome};

use crate::world::{Site, job};

/// Of each node of the host.
pub(crate) const CPU: u32 = 32_000;
pub(crate) const MEMORY: u32 = 200_000;

pub(crate) fn facts(rack: &str, image: &str) -> Facts {
    Facts {
        hall: "h".into(),
        rack: rack.into(),
        attributes: [("image".to_owned(), image.to_owned())].into(),
        ..Facts::default()
    }
}

/// Berlin has one GPU, which is taken; the other has four nodes in two racks.
pub(crate) fn sites(home: ClusterVersion, host: ClusterVersion) -> (Site, Site) {
    let (mut berlin, mut giga) = (Site::found("berlin"), Site::found("giga"));
    berlin.raise_to(home);
    giga.raise_to(host);
    berlin.node("n1", "b200", 1);
    for (name, rack, image) in
        [("g1", "r1", "old"), ("g2", "r2", "old"), ("g3", "r2", "new"), ("g4", "r1", "old")]
    {
        giga.node_that_says(
            name,
            "b200",
            2,
            Facts { cpu_milli: CPU, memory_mib: MEMORY, ..facts(rack, image) },
        );
    }
    berlin.join("giga");
    giga.join("berlin");
    for site in [&mut berlin, &mut giga] {
        site.quota("acme", None, 0, 9);
    }
    berlin.submit(1, job("acme", 1, 1));
    berlin.poll();
    (berlin, giga)
}

pub(crate) fn asks(nodes: u32, needs: Needs) -> JobSpec {
    JobSpec { needs: OrDefault(needs), ..job("acme", nodes, 2) }
}

fn image(value: &str) -> Needs {
    let attributes = [("image".to_owned(), value.to_owned())].into();
    Needs { attributes, ..Needs::default() }
}

fn in_a_rack() -> Needs {
    let together = Together { level: Vicinity::Rack, required: true, group_nodes: 0 };
    Needs { together: Some(together), ..Needs::default() }
}

pub(crate) fn go_round(berlin: &mut Site, giga: &mut Site) {
    for _ in 0..8 {
        giga.ask_home(berlin);
        berlin.poll();
        giga.poll();
        for site in [&mut *berlin, &mut *giga] {
            site.now += 1_000;
        }
    }
}

/// Where the job's loan stands; nothing if it has none.
pub(crate) fn nodes_of(site: &Site, id: u128) -> Vec<String> {
    match &site.state.jobs.get(&JobId(id)).unwrap().phase {
        JobPhase::Loaned(loan) => loan.slots.iter().map(|slot| slot.node.to_string()).collect(),
        JobPhase::Queued(_) | JobPhase::Leased(_) | JobPhase::Ended(_) => Vec::new(),
    }
}

#[test]
fn a_job_leaves_for_nodes_that_have_what_it_asks_for() {
    let (mut berlin, mut giga) = sites(ClusterVersion::SITES, ClusterVersion::SITES);
    berlin.submit(2, asks(1, image("new")));
    berlin.submit(3, asks(2, in_a_rack()));
    go_round(&mut berlin, &mut giga);
    assert_eq!(nodes_of(&berlin, 2), ["g3"]);
    assert_eq!(nodes_of(&berlin, 3), ["g1", "g4"], "in the only rack that is free");
    let guests: Vec<JobId> = giga.state.leases.values().map(|lease| lease.job).collect();
    assert_eq!(guests.len(), 2, "the host has taken both: {guests:?}");
    // Nowhere.
    berlin.submit(4, asks(1, image("none")));
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([4]), []);
}

#[test]
fn below_the_version_at_either_side_it_stays_at_home() {
    let old = ClusterVersion::PREEMPTION;
    for (home, host) in [(old, ClusterVersion::SITES), (ClusterVersion::SITES, old)] {
        let (mut berlin, mut giga) = sites(home, host);
        berlin.submit(2, asks(1, image("new")));
        berlin.submit(3, job("acme", 1, 2));
        go_round(&mut berlin, &mut giga);
        assert_eq!(berlin.holding([2, 3]), [3], "of a home at {home:?} and a host at {host:?}");
        let held = berlin.state.held.values().flat_map(|held| &held.slots);
        assert!(held.into_iter().all(|slot| slot.facts.is_none()), "no field of a later version");
    }
}

#[test]
fn a_host_refuses_a_loan_whose_nodes_are_not_as_it_asks() {
    let (mut berlin, mut giga) = sites(ClusterVersion::SITES, ClusterVersion::SITES);
    berlin.submit(2, asks(1, image("new")));
    for _ in 0..3 {
        giga.ask_home(&mut berlin);
        berlin.poll();
        giga.poll();
    }
    assert_eq!(nodes_of(&berlin, 2), ["g3"]);
    let before = giga.state.leases.len();
    // The node comes back as another one while the loan is on the way.
    giga.register("g3", 2, ("b200", 2), facts("r2", "old"));
    giga.ask_home(&mut berlin);
    assert_eq!(giga.state.leases.len(), before, "it was not started");
    go_round(&mut berlin, &mut giga);
    assert_eq!(berlin.holding([2]), [], "it waits at home again");
    let outcome: Option<&Outcome> =
        berlin.state.jobs.get(&JobId(2)).unwrap().attempts[0].outcome.as_ref();
    assert!(outcome.is_some_and(|it| it.detail.contains("as it asks for")), "{outcome:?}");
}
