//! What is kept for who would be passed over, and who may start there meanwhile.

use std::ops::Range;

use specs::job::{JobClass, JobSpec};
use specs::unit::Millis;
use specs::wire::agent::Outcome;
use specs::wire::client::JobState;

use crate::world::{Site, job};

const GANG: u128 = 1_000;

fn limited(account: &str, seconds: u64) -> JobSpec {
    JobSpec { time_limit: Millis(seconds * 1_000), ..job(account, 1, 1) }
}

/// Two nodes of one GPU each, of which a job of that kind holds the first, and a gang that needs
/// both. It has been looked at, and so has what it may have.
fn a_gang_waits_for(first: JobSpec) -> Site {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 1);
    site.node("n2", "b200", 1);
    for account in ["acme", "beta"] {
        site.quota(account, None, 0, 100);
    }
    site.submit(0, first);
    site.poll();
    site.submit(GANG, job("beta/b", 2, 1));
    site.poll();
    site.now += 1_000;
    site.poll();
    site
}

/// Every ten seconds the job that runs longest ends, and one more is submitted.
fn steps_until_the_gang_runs(site: &mut Site, steps: Range<u64>) -> Option<u64> {
    for step in steps {
        site.submit(100 + u128::from(step), job("acme/a", 1, 1));
        site.poll();
        if site.state_of(GANG) != JobState::Queued {
            return Some(step);
        }
        site.now += 10_000;
        let running = site.holding((0..2).chain(100..101 + u128::from(step)));
        site.end(*running.first().unwrap(), Millis(20_000), &Outcome::exited(0, 0));
    }
    None
}

#[test]
fn a_gang_does_not_starve_under_a_stream_of_small_jobs() {
    let mut site = a_gang_waits_for(job("acme/a", 1, 1));
    site.submit(1, job("acme/a", 1, 1));
    site.poll();
    let started = steps_until_the_gang_runs(&mut site, 0..50).unwrap();
    assert!((3..8).contains(&started), "as soon as it is known how long they run: {started}");
}

#[test]
fn who_cannot_be_forecast_is_passed_over_no_longer_than_the_site_is_patient() {
    let mut site = a_gang_waits_for(job("acme/a", 1, 1));
    // Nothing is learnt from jobs that ran no time at all.
    for step in 0..100 {
        site.submit(100 + step, job("acme/a", 1, 1));
        site.poll();
        if site.state_of(GANG) != JobState::Queued {
            assert!((60..64).contains(&step), "after ten minutes: {step}");
            return;
        }
        site.now += 10_000;
        let running = site.holding([0].into_iter().chain(100..101 + step));
        site.end(running[0], Millis(0), &Outcome::exited(0, 0));
    }
    panic!("the gang never started");
}

#[test]
fn who_is_over_in_time_starts_on_kept_nodes_and_nobody_else() {
    let mut site = a_gang_waits_for(limited("acme/a", 100));
    site.now += 20_000;
    site.submit(1, job("acme/a", 1, 1));
    site.submit(2, limited("acme/a", 200));
    site.submit(3, limited("acme/a", 50));
    site.poll();
    assert_eq!(site.holding(0..4), [0, 3]);
    site.now += 51_000;
    site.end(3, Millis(51_000), &Outcome::exited(0, 0));
    site.poll();
    assert_eq!(site.holding(0..4), [0], "nobody else is over in time");
    site.now += 29_000;
    site.end(0, Millis(100_000), &Outcome::exited(0, 0));
    site.poll();
    assert_eq!(site.holding((0..4).chain([GANG])), [GANG], "not a moment later than forecast");
}

#[test]
fn nothing_is_kept_where_nobody_will_leave() {
    let service = JobSpec { class: JobClass::Service, ..job("acme/a", 1, 1) };
    let mut site = a_gang_waits_for(service);
    site.now += 3_600_000;
    site.poll();
    site.now += 2_000;
    site.poll();
    site.submit(1, job("acme/a", 1, 1));
    site.poll();
    assert_eq!(site.holding([0, 1]), [0, 1]);
}

#[test]
fn nothing_is_kept_for_whom_quota_holds_back() {
    let mut site = a_gang_waits_for(limited("acme/a", 100));
    site.submit(1, job("acme/a", 1, 1));
    site.poll();
    assert_eq!(site.holding([1]), [], "kept for the gang");
    site.quota("beta", None, 0, 1);
    site.poll();
    assert_eq!(site.holding([1]), [1]);
}

#[test]
fn what_is_kept_is_kept_for_who_goes_first() {
    let mut site = a_gang_waits_for(limited("acme/a", 100));
    site.submit(1, JobSpec { priority: 90, ..job("acme/a", 2, 1) });
    site.poll();
    site.now += 2_000;
    site.poll();
    site.end(0, Millis(10_000), &Outcome::exited(0, 0));
    site.poll();
    assert_eq!(site.holding([1, GANG]), [1]);
}
