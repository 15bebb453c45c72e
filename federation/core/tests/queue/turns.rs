//! Who is next: priority, then what each account is due, then age.

use federation_core::{Command, Reply, SetQuota};
use specs::job::JobSpec;
use specs::unit::Millis;
use specs::wire::agent::Outcome;

use crate::world::{Site, job};

const DAY: u64 = 86_400_000;

fn weight(site: &mut Site, account: &str, weight: u32) {
    let account = account.parse().unwrap();
    let set = Command::SetQuota(SetQuota { account, limit: None, weight });
    assert_eq!(site.apply(set), Reply::Done);
}

/// Jobs 0 to 9 of the one account, then 10 to 19 of the other, of one GPU each.
fn rivals(site: &mut Site, one: &str, other: &str) {
    for nth in 0..10 {
        site.submit(nth, job(one, 1, 1));
    }
    for nth in 10..20 {
        site.submit(nth, job(other, 1, 1));
    }
}

fn site_of(gpus: u16) -> Site {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", gpus);
    for account in ["acme", "beta"] {
        weight(&mut site, account, 1);
    }
    site
}

#[test]
fn who_came_first_does_not_take_everything() {
    let mut site = site_of(4);
    rivals(&mut site, "acme/a", "beta/b");
    site.poll();
    assert_eq!(site.holding(0..20), [0, 1, 10, 11]);
}

#[test]
fn a_weight_is_a_share() {
    let mut site = site_of(8);
    weight(&mut site, "beta", 3);
    rivals(&mut site, "acme/a", "beta/b");
    site.poll();
    assert_eq!(site.holding(0..20).into_iter().filter(|id| *id >= 10).count(), 6);
}

#[test]
fn more_projects_are_no_more_of_a_share() {
    let mut site = site_of(4);
    for (nth, account) in ["acme/a", "acme/b", "acme/c", "beta/b"].into_iter().enumerate() {
        for more in 0..4 {
            site.submit(nth as u128 * 10 + more, job(account, 1, 1));
        }
    }
    site.poll();
    assert_eq!(site.holding(30..34), [30, 31], "half of it is beta's");
}

#[test]
fn of_two_classes_the_scarcer_one_counts() {
    let mut site = site_of(8);
    site.node("n2", "rtx-pro-6000", 2);
    let on = |account: &str, class: &str| JobSpec {
        gpu_classes: vec![class.parse().unwrap()],
        ..job(account, 1, 1)
    };
    // Half of the one class is more than a quarter of the other.
    site.submit(1, on("acme/a", "rtx-pro-6000"));
    site.submit(2, on("beta/b", "b200"));
    site.submit(3, on("beta/b", "b200"));
    site.poll();
    for id in 10..16 {
        site.submit(id, on("acme/a", "b200"));
    }
    for id in 20..26 {
        site.submit(id, on("beta/b", "b200"));
    }
    site.poll();
    assert_eq!(site.holding(20..26), [20, 21], "then each has half of a class");
    assert_eq!(site.holding(10..16), [10, 11, 12, 13], "to who was first, up to its half of this");
}

#[test]
fn below_its_guarantee_an_account_goes_first() {
    let mut site = site_of(4);
    rivals(&mut site, "acme/a", "beta/b");
    site.quota("beta", None, 3, 8);
    site.poll();
    assert_eq!(site.holding(0..20), [0, 10, 11, 12]);
}

#[test]
fn a_higher_priority_goes_before_every_share() {
    let mut site = site_of(4);
    rivals(&mut site, "acme/a", "beta/b");
    for id in 20..23 {
        site.submit(id, JobSpec { priority: 51, ..job("acme/a", 1, 1) });
    }
    site.poll();
    assert_eq!(site.holding(0..23), [10, 20, 21, 22]);
}

#[test]
fn what_was_used_lately_counts_and_fades() {
    for (later, first) in [(DAY, 1), (200 * DAY, 0)] {
        let mut site = site_of(1);
        site.now = 100 * DAY;
        site.submit(100, job("acme/a", 1, 1));
        site.poll();
        site.now += 5 * DAY;
        site.end(100, Millis(5 * DAY), &Outcome::exited(0, 0));
        site.now += later;
        site.submit(0, job("acme/a", 1, 1));
        site.submit(1, job("beta/b", 1, 1));
        site.poll();
        assert_eq!(site.holding([0, 1]), [first], "{later} ms later");
    }
}

#[test]
fn an_account_that_cannot_be_placed_does_not_use_up_the_turns_of_others() {
    let mut site = site_of(2);
    for id in 0..600 {
        site.submit(id, job("acme/a", 3, 2));
    }
    site.submit(1_000, job("beta/b", 1, 1));
    site.poll();
    assert_eq!(site.holding([1_000]), [1_000]);
}

#[test]
fn behind_more_than_a_plan_looks_at_a_newcomer_waits_a_moment_and_freed_gpus_do_not() {
    let mut site = site_of(4);
    site.submit(9_000, job("acme", 1, 3));
    site.poll();
    for nth in 0..1_100 {
        site.submit(nth, job("acme", 1, 2));
    }
    site.poll();
    site.submit(9_001, job("beta", 1, 1));
    site.poll();
    assert_eq!(site.holding(9_000..9_002), [9_000]);
    site.now += 200;
    site.poll();
    assert_eq!(site.holding(9_000..9_002), [9_000, 9_001]);
    site.finish(9_000);
    site.poll();
    assert_eq!(site.holding(0..1_100), [0]);
}
