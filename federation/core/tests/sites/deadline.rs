//! Jobs that should have ended by a time.

use specs::job::Deadline;
use specs::unit::Millis;

use super::*;

const HOUR: u64 = 3_600_000;

fn within(hours: u64, spec: JobSpec) -> JobSpec {
    let deadline = Some(Deadline { within: Millis(hours * HOUR), by: Timestamp(0) });
    JobSpec { deadline, time_limit: Millis(HOUR), ..spec }
}

fn at_home(spec: JobSpec) -> JobSpec {
    let mut spec = spec;
    spec.placement.spill = false;
    spec
}

#[test]
fn a_job_that_is_pressed_goes_before_others_of_its_account_and_of_no_other() {
    let mut all = Federation::found();
    all.submit(2, at_home(job("acme", 1, 8)));
    all.submit(3, at_home(within(2, job("acme", 1, 8))));
    all.submit(4, at_home(within(3, job("acme", 1, 8))));
    all.submit(5, at_home(JobSpec { priority: 60, ..job("acme", 1, 8) }));
    for [done, next] in [[1, 5], [5, 3], [3, 4], [4, 2]] {
        all.berlin.finish(done);
        all.berlin.now += 1_000;
        all.berlin.poll();
        let running = all.berlin.holding([2, 3, 4, 5]);
        assert_eq!(running, [next], "after {done}");
    }
}

#[test]
fn a_deadline_that_is_far_away_puts_nobody_behind() {
    let mut all = Federation::found();
    all.submit(2, at_home(job("acme", 1, 8)));
    all.berlin.now += 1_000;
    all.submit(3, at_home(within(48, job("acme", 1, 8))));
    all.berlin.finish(1);
    all.berlin.poll();
    assert_eq!(all.berlin.holding([2, 3]), [2]);
}

#[test]
fn who_has_waited_for_a_day_is_not_passed_by_who_is_pressed() {
    let mut all = Federation::found();
    all.submit(2, at_home(job("acme", 1, 8)));
    all.berlin.now += 25 * HOUR;
    all.submit(3, at_home(within(2, job("acme", 1, 8))));
    all.berlin.finish(1);
    all.berlin.poll();
    assert_eq!(all.berlin.holding([2, 3]), [2]);
}

#[test]
fn it_is_told_whether_a_deadline_can_be_met() {
    let mut all = Federation::found();
    all.submit(2, at_home(within(2, job("acme", 1, 8))));
    all.exchange();
    let told = |all: &Federation| all.berlin.waits_for(2).join("; ");
    assert!(told(&all).contains("has to start within 60 min"), "{}", told(&all));
    all.berlin.now += HOUR + 600_000;
    all.berlin.poll();
    let said = told(&all);
    assert!(said.contains("cannot be expected to end by its deadline in 50 min"), "{said}");
    all.berlin.now += HOUR;
    all.berlin.poll();
    let said = told(&all);
    assert!(said.contains("its deadline passed 10 min ago; it still runs when it can"), "{said}");
    all.berlin.finish(1);
    all.berlin.poll();
    assert_eq!(all.berlin.holding([2]), [2], "who is late is not stopped");
}

#[test]
fn who_would_miss_a_deadline_does_not_wait_for_a_better_price() {
    let mut all = Federation::found();
    all.berlin.costs(200);
    all.giga().costs(250);
    all.iris().costs(260);
    all.exchange();
    // Half an hour of patience, of which the second job has not even five minutes.
    all.submit(2, JobSpec { time_limit: Millis(HOUR), ..job("acme", 1, 8) });
    let pressed = Deadline { within: Millis(HOUR + 240_000), by: Timestamp(0) };
    all.submit(3, JobSpec { deadline: Some(pressed), ..within(1, job("acme", 1, 8)) });
    all.pass(250);
    assert_eq!([2, 3].map(|id| all.berlin.loaned_to(id)), [None, Some("giga")]);
}

#[test]
fn a_site_where_it_would_be_late_comes_after_those_where_it_is_not() {
    let mut all = Federation::found();
    all.berlin.knows("acme/corpus", held(75_000_000_000));
    all.iris().knows("acme/corpus", held(75_000_000_000));
    all.berlin.costs(300);
    all.giga().costs(100);
    all.iris().costs(290);
    all.exchange();
    let data = vec![specs::job::DataNeed { name: "acme/corpus".parse().unwrap(), bytes: 0 }];
    let reads = JobSpec { data, time_limit: Millis(HOUR), ..job("acme", 1, 8) };
    let pressed = Deadline { within: Millis(HOUR + 300_000), by: Timestamp(0) };
    all.submit(2, JobSpec { deadline: Some(pressed), ..reads.clone() });
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"), "ten minutes of data are too many");
    all.submit(3, reads);
    assert_eq!(all.goes_to(3).as_deref(), Some("giga"));
}
