//! No account holds more than it may, whatever is free and whoever proposes.

use federation_core::{Reply, quota_views};
use specs::fault::FaultCode;
use specs::job::{JobSpec, PlacementSpec};
use specs::unit::Timestamp;
use specs::wire::client::JobState;

use crate::world::{Site, job};

#[test]
fn an_account_and_those_below_it_hold_no_more_than_it_may() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 8);
    site.quota("acme", None, 0, 5);
    site.quota("acme/vision", None, 0, 3);
    for id in 0..4 {
        site.submit(id, job("acme/vision/ada", 1, 1));
    }
    for id in 4..8 {
        site.submit(id, job("acme/speech/bob", 1, 1));
    }
    site.poll();
    assert_eq!(site.holding(0..8), [0, 1, 2, 4, 5], "three of vision, five of acme");
    site.finish(0);
    site.poll();
    assert_eq!(site.holding(0..8), [1, 2, 3, 4, 5]);
}

#[test]
fn a_limit_of_one_class_leaves_the_others_open() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 4);
    site.node("n2", "rtx-pro-6000", 4);
    site.quota("acme", Some("b200"), 0, 1);
    for id in 0..4 {
        site.submit(id, job("acme/a", 1, 1));
    }
    let only =
        |class: &str| JobSpec { gpu_classes: vec![class.parse().unwrap()], ..job("acme/a", 1, 1) };
    site.submit(4, only("b200"));
    site.poll();
    assert_eq!(site.holding(0..5), [0, 1, 2, 3], "one on each class's GPUs, or three beside");
    let used = &quota_views(&site.state, Timestamp(0))[0].used;
    let used: Vec<(&str, u32)> = used.iter().map(|it| (it.class.as_str(), it.gpus.0)).collect();
    assert_eq!(used, [("b200", 1), ("rtx-pro-6000", 3)]);
}

#[test]
fn a_plan_that_is_stale_is_rechecked_against_quota() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 8);
    site.quota("acme", None, 0, 8);
    site.submit(1, job("acme/a", 1, 4));
    site.submit(2, job("acme/a", 1, 4));
    let plan = site.proposes();
    // Lowered between the plan and its commit.
    site.quota("acme", None, 0, 4);
    let replies: Vec<Reply> = plan.into_iter().map(|it| site.apply(it)).collect();
    assert_eq!(replies, [Reply::Placed { taken: 1, dropped: 1 }]);
    assert_eq!(site.holding([1, 2]), [1]);
}

#[test]
fn loans_count_at_home_also_while_the_host_is_silent() {
    let (mut berlin, mut giga) = (Site::found("berlin"), Site::found("giga"));
    berlin.node("n1", "b200", 1);
    giga.node("g1", "b200", 8);
    berlin.join("giga");
    giga.join("berlin");
    berlin.quota("acme", None, 0, 3);
    for id in 0..5 {
        berlin.submit(id, job("acme/a", 1, 1));
    }
    for _ in 0..6 {
        giga.ask_home(&mut berlin);
        berlin.poll();
        giga.poll();
    }
    assert_eq!(berlin.holding(0..5), [0, 1, 2], "one here and two there");
    let demand: usize = giga.state.grants.values().map(|it| it.slots.len()).sum();
    assert!(demand <= 2, "nothing is asked for that quota forbids to use: {demand}");
    for _ in 0..3 {
        berlin.now += 5;
        berlin.poll();
    }
    assert_eq!(berlin.holding(0..5), [0, 1, 2], "silence changes nothing");
}

#[test]
fn what_is_lowered_below_its_use_takes_nothing_away_and_gives_nothing_new() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 8);
    site.quota("acme", None, 0, 4);
    for id in 0..5 {
        site.submit(id, job("acme/a", 1, 1));
    }
    site.poll();
    site.quota("acme", None, 0, 2);
    site.poll();
    assert_eq!(site.holding(0..5), [0, 1, 2, 3]);
    site.finish(0);
    site.finish(1);
    site.poll();
    assert_eq!(site.state_of(4), JobState::Queued, "two are held, and no more may be");
    site.finish(2);
    site.poll();
    assert_eq!(
        site.state_of(4),
        JobState::Starting,
        "one has ended too many, and one more may start"
    );
}

#[test]
fn jobs_that_quota_holds_back_do_not_hold_back_others() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 2);
    site.quota("acme", None, 0, 1);
    site.submit(0, JobSpec { priority: 90, ..job("acme/a", 1, 2) });
    site.submit(1, job("ada", 1, 2));
    site.poll();
    assert_eq!(site.holding([0, 1]), [1]);
}

#[test]
fn of_an_array_no_more_run_than_may() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 8);
    site.submit(10, JobSpec { array: 6, array_running_max: 2, ..job("ada", 1, 1) });
    site.submit(20, job("ada", 1, 1));
    site.poll();
    assert_eq!(site.holding([10, 11, 12, 13, 14, 15, 20]), [10, 11, 20]);
    site.finish(10);
    site.poll();
    assert_eq!(site.holding(11..16), [11, 12]);
}

#[test]
fn an_account_that_nobody_made_is_refused() {
    let mut site = Site::found("berlin");
    site.quota("acme", None, 0, 1);
    let Reply::Refused(fault) = site.submit(1, job("amce/vision", 1, 1)) else { panic!() };
    assert_eq!(fault.code, FaultCode::NotFound);
    assert!(fault.message.contains("amce/vision"), "{fault:?}");
    assert!(matches!(site.submit(2, job("acme/vision", 1, 1)), Reply::Jobs { .. }));
    assert!(matches!(site.submit(3, job("ada", 1, 1)), Reply::Jobs { .. }), "one's own");
}

#[test]
fn a_guarantee_above_the_limit_is_refused() {
    let mut site = Site::found("berlin");
    let Reply::Refused(fault) = site.set("acme", None, 5, 4) else { panic!() };
    assert_eq!(fault.message, "5 GPUs cannot be guaranteed: no more than 4 may be held");
}

#[test]
fn what_ran_before_the_site_counted_classes_counts_from_then_on() {
    let mut site = Site::first_version("berlin");
    site.node("n1", "b200", 8);
    site.submit(1, JobSpec { account: None, ..job("ada", 1, 4) });
    site.poll();
    assert_eq!(quota_views(&site.state, Timestamp(0))[0].used, [], "no class is known");
    site.raise();
    let view = &quota_views(&site.state, Timestamp(0))[0];
    let used: Vec<(&str, u32)> =
        view.used.iter().map(|it| (it.class.as_str(), it.gpus.0)).collect();
    assert_eq!((view.account.as_str(), used), ("ada", vec![("b200", 4)]));
}

#[test]
fn a_host_lends_what_its_own_waiting_jobs_cannot_use() {
    let mut berlin = Site::found("berlin");
    let mut giga = Site::found("giga");
    for (name, class, gpus) in [("m1", "b200", 2), ("m2", "h100", 1)] {
        giga.node(name, class, gpus);
    }
    berlin.node("n1", "b200", 1);
    for site in [&mut berlin, &mut giga] {
        site.quota("acme", None, 0, 9);
    }
    berlin.join("giga");
    giga.join("berlin");
    let of = |class: &str, gpus, spill| {
        let placement = PlacementSpec { sites: vec![], residency: vec![], spill };
        JobSpec { gpu_classes: vec![class.parse().unwrap()], placement, ..job("acme", 1, gpus) }
    };
    // One b200 is free at the host, and one of its own jobs waits for two.
    for (id, gpus) in [(0, 1), (1, 2)] {
        giga.submit(id, of("b200", gpus, false));
        giga.poll();
    }
    for (id, class, spill) in [(10, "b200", false), (11, "b200", true), (12, "h100", true)] {
        berlin.submit(id, of(class, 1, spill));
    }
    for _ in 0..40 {
        berlin.poll();
        giga.poll();
        giga.ask_home(&mut berlin);
        for site in [&mut berlin, &mut giga] {
            site.now += 1_000;
        }
    }
    let granted = giga.state.grants.values().flat_map(|it| it.slots.iter());
    let classes: Vec<&str> = granted.map(|slot| slot.class.as_str()).collect();
    assert_eq!(classes, ["h100"], "no job of its own could use that, and one could use the other");
    assert_eq!(berlin.holding(10..13), [10, 12]);
}
