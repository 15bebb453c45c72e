//! What is reserved for an account is its own for that time, and nobody else's.

use federation_core::{
    Command, EndReservation, MakeReservation, Reply, ReserveAsk, Window, choose, node_views,
    queue_why, reservation_views,
};
use specs::fault::{Fault, FaultCode};
use specs::id::{JobId, NodeId, Revision};
use specs::job::JobSpec;
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::client::JobState;

use crate::world::{Site, job};

/// Nodes of two GPUs each.
fn site(nodes: usize) -> Site {
    let mut site = Site::found("berlin");
    site.raise_to(ClusterVersion::DEMANDS);
    for nth in 1..=nodes {
        site.node(&format!("n{nth}"), "b200", 2);
    }
    for account in ["acme", "beta"] {
        site.quota(account, None, 0, 100);
    }
    site
}

fn limited(account: &str, nodes: u32, seconds: u64) -> JobSpec {
    JobSpec { time_limit: Millis(seconds * 1_000), ..job(account, nodes, 2) }
}

/// Asks for so many GPUs from and to so many seconds from now.
fn ask(site: &Site, name: &str, gpus: u32, (from, to): (u64, u64)) -> MakeReservation {
    MakeReservation {
        name: name.parse().unwrap(),
        account: "acme".parse().unwrap(),
        class: None,
        gpus: GpuCount(gpus),
        nodes: vec![],
        start: Timestamp(site.now + from * 1_000),
        end: Timestamp(site.now + to * 1_000),
        beside_jobs: false,
        by: "ops".into(),
        at: Timestamp(site.now),
    }
}

fn chosen(site: &Site, mut it: MakeReservation) -> Result<MakeReservation, Fault> {
    it.nodes = choose(&site.state, ReserveAsk::Gpus(it.gpus), &Window::of(&it))?;
    Ok(it)
}

fn reserve(site: &mut Site, name: &str, gpus: u32, window: (u64, u64)) {
    let it = chosen(site, ask(site, name, gpus, window)).unwrap();
    assert_eq!(site.apply(Command::MakeReservation(it)), Reply::Done);
}

fn nodes_of(site: &Site, id: u128) -> Vec<NodeId> {
    let job = site.state.jobs.get(&JobId(id)).unwrap();
    job.attempts.last().map(|it| it.nodes.clone()).unwrap_or_default()
}

#[test]
fn inside_its_window_only_the_account_s_jobs_run() {
    let mut site = site(2);
    reserve(&mut site, "demo", 2, (0, 100));
    site.submit(0, limited("beta/b", 1, 10));
    site.submit(10, limited("beta/b", 1, 10));
    site.submit(20, job("acme/vision", 1, 2));
    site.poll();
    assert_eq!(site.holding([0, 10, 20]), [0, 20], "one of beta's waits");
    let reserved = site.state.reservations.get(&"demo".parse().unwrap()).unwrap().nodes.clone();
    assert_eq!(nodes_of(&site, 20), reserved, "its own before everybody's");
    let job = site.state.jobs.get(&JobId(10)).unwrap();
    let why = queue_why(&site.state, &site.leader, Timestamp(site.now), job);
    let told: Vec<&str> = why.iter().map(|it| it.constraint.as_str()).collect();
    assert!(told.contains(&"1 nodes are reserved for acme (demo) for 100 s more"), "{told:?}");
}

#[test]
fn before_the_start_only_those_run_there_that_are_over_by_then() {
    let mut site = site(1);
    reserve(&mut site, "demo", 2, (60, 100));
    // No limit; a limit that reaches into it by its grace; one that does not.
    site.submit(0, job("beta/b", 1, 2));
    site.submit(10, limited("beta/b", 1, 60));
    site.poll();
    assert_eq!(site.holding([0, 10]), Vec::<u128>::new());
    site.submit(20, limited("beta/b", 1, 59));
    site.poll();
    assert_eq!(site.holding([0, 10, 20]), [20]);
    let views = reservation_views(&site.state, Timestamp(site.now));
    assert_eq!(views[0].others, [JobId(20)]);
    let view = &node_views(&site.state, None)[0];
    assert_eq!(view.reservations, ["demo".parse().unwrap()]);
}

#[test]
fn after_its_end_the_capacity_is_free() {
    let mut site = site(1);
    reserve(&mut site, "demo", 2, (0, 100));
    site.submit(0, job("beta/b", 1, 2));
    site.poll();
    assert_eq!(site.state_of(0), JobState::Queued);
    site.now += 100_000;
    site.poll();
    site.poll();
    assert_eq!(site.holding([0]), [0]);
    assert!(site.state.reservations.is_empty(), "it is taken away when it is over");
}

#[test]
fn one_that_cannot_be_met_is_refused_with_numbers() {
    let mut site = site(4);
    reserve(&mut site, "first", 2, (0, 100));
    site.submit(0, job("beta/b", 1, 2));
    site.poll();
    let fault = chosen(&site, ask(&site, "second", 6, (50, 90))).unwrap_err();
    assert_eq!(fault.code, FaultCode::Unplaceable);
    assert_eq!(
        fault.message,
        "6 GPUs cannot be reserved then: of 8 here 4 can: 2 are on nodes with jobs that may run \
         into it, 2 are reserved in that time"
    );
    let beside = MakeReservation { beside_jobs: true, ..ask(&site, "second", 6, (50, 90)) };
    assert_eq!(chosen(&site, beside).unwrap().nodes.len(), 3);
    let later = chosen(&site, ask(&site, "second", 6, (100, 190))).unwrap();
    assert_eq!(later.nodes.len(), 3, "the first is over by then");
}

#[test]
fn the_log_rechecks_what_was_chosen() {
    let mut site = site(1);
    let it = chosen(&site, ask(&site, "late", 2, (10, 90))).unwrap();
    site.submit(0, job("beta/b", 1, 2));
    site.poll();
    let refused = |reply: &Reply, what: &str| {
        let is_told = matches!(reply, Reply::Refused(fault) if fault.message.contains(what));
        assert!(is_told, "{reply:?}");
    };
    refused(&site.apply(Command::MakeReservation(it.clone())), "may run into that time");
    let named = MakeReservation { nodes: vec!["n9".parse().unwrap()], ..it.clone() };
    refused(&site.apply(Command::MakeReservation(named)), "there is no node n9");
    let twice = [it.nodes[0].clone(), it.nodes[0].clone()].into();
    let twice = MakeReservation { nodes: twice, beside_jobs: true, ..it.clone() };
    refused(&site.apply(Command::MakeReservation(twice)), "named twice");
    let more = MakeReservation { gpus: GpuCount(3), beside_jobs: true, ..it.clone() };
    refused(&site.apply(Command::MakeReservation(more)), "the nodes have 2 GPUs");
    let beside = MakeReservation { beside_jobs: true, ..it };
    assert_eq!(site.apply(Command::MakeReservation(beside.clone())), Reply::Done);
    assert!(matches!(site.apply(Command::MakeReservation(beside.clone())), Reply::NoOp(_)));
    let other = MakeReservation { account: "beta".parse().unwrap(), ..beside };
    refused(&site.apply(Command::MakeReservation(other)), "there is another");
}

#[test]
fn a_plan_that_is_stale_is_rechecked_against_what_is_reserved() {
    let mut site = site(1);
    site.submit(0, job("beta/b", 1, 2));
    let plan = site.proposes();
    // Reserved between the plan and its commit.
    reserve(&mut site, "demo", 2, (0, 100));
    let replies: Vec<Reply> = plan.into_iter().map(|it| site.apply(it)).collect();
    assert_eq!(replies, [Reply::Placed { taken: 0, dropped: 1 }]);
    assert_eq!(site.holding([0]), Vec::<u128>::new());
}

#[test]
fn only_the_reservation_that_is_meant_ends() {
    let mut site = site(1);
    reserve(&mut site, "demo", 2, (0, 100));
    let name: specs::id::ReservationName = "demo".parse().unwrap();
    let number = site.state.reservations.get(&name).unwrap().number;
    let end = |number| Command::EndReservation(EndReservation { name: name.clone(), number });
    assert!(matches!(site.apply(end(Revision(number.0 - 1))), Reply::NoOp(_)));
    assert_eq!(site.apply(end(number)), Reply::Done);
    assert!(matches!(site.apply(end(number)), Reply::NoOp(_)), "repeated");
    reserve(&mut site, "demo", 2, (0, 100));
    assert!(matches!(site.apply(end(number)), Reply::NoOp(_)), "late");
    assert_eq!(site.state.reservations.len(), 1);
}

#[test]
fn what_is_reserved_is_not_lent() {
    let (mut home, mut host) = (site(0), Site::found("giga"));
    host.raise_to(ClusterVersion::DEMANDS);
    for nth in 1..=2 {
        host.node(&format!("n{nth}"), "b200", 2);
    }
    home.join("giga");
    host.join("berlin");
    reserve(&mut host, "demo", 2, (500, 600));
    home.submit(0, job("beta/b", 1, 2));
    home.submit(10, job("beta/b", 1, 2));
    for _ in 0..40 {
        home.poll();
        host.poll();
        host.ask_home(&mut home);
        (home.now, host.now) = (home.now + 500, host.now + 500);
    }
    assert_eq!(home.holding([0, 10]).len(), 1, "the other node is not lent");
    let reserved = &host.state.reservations.get(&"demo".parse().unwrap()).unwrap().nodes;
    let granted: Vec<_> = host.state.grants.values().flat_map(|it| &it.slots).collect();
    assert!(!granted.is_empty() && granted.iter().all(|it| !reserved.contains(&it.node)));
    let fault = chosen(&host, ask(&host, "more", 4, (700, 800))).unwrap_err();
    assert!(fault.message.ends_with("2 are on nodes that are lent"), "{fault}");
}

#[test]
fn nodes_are_kept_for_a_gang_beside_what_is_reserved() {
    let mut site = site(3);
    reserve(&mut site, "demo", 2, (1, 100_000));
    site.submit(0, limited("beta/b", 1, 100));
    site.poll();
    site.start(0);
    site.submit(100, job("beta/c", 2, 2));
    site.poll();
    site.now += 2_000;
    site.poll();
    let reserved = &site.state.reservations.get(&"demo".parse().unwrap()).unwrap().nodes;
    let (kept_for, nodes, _) = site.leader.kept().unwrap();
    assert_eq!((kept_for, nodes.len()), (JobId(100), 2));
    assert!(nodes.iter().all(|node| !reserved.contains(node)));
}
