//! A job of higher priority takes the GPUs of one that may be stopped, on real processes.

use std::time::Instant;

use serde_json::Value;

use crate::cluster::{PATIENCE, SitePlan, World};
use crate::process::await_that;
use crate::work::{FOR_EVER, Work};

#[test]
fn a_job_makes_way_for_an_urgent_one_and_goes_on_when_that_has_ended() {
    let world = World::new();
    let site = world.site(SitePlan::small("berlin"));
    let plain = site.submit(Work::new("plain", 2, FOR_EVER));
    site.await_running(&plain, 1, PATIENCE);

    let begun = Instant::now();
    let urgent = site.submit(Work { priority: 90, ..Work::new("urgent", 2, 50) });
    site.await_running(&urgent, 1, PATIENCE);
    eprintln!("the urgent job runs {:?} after it was submitted", begun.elapsed());
    let job = site.job(&plain);
    assert_eq!((&job["state"], &job["preemptions"]), (&"queued".into(), &1.into()), "{job}");
    assert_eq!(job["attempts"][0]["preempted_by"], urgent.as_str(), "{job}");
    let why = site.run(&["job", "why", &plain]);
    assert!([&why.out, &why.err].iter().any(|text| text.contains(&urgent)), "{why:?}");
    let shown = site.run(&["job", "show", &plain]).done();
    assert!(shown.contains(&format!("preempted by {urgent} at ")), "{shown}");
    let job = site.job(&urgent);
    assert_eq!(job["preempted"][0], plain.as_str(), "{job}");

    site.ended_at_once(&urgent);
    site.await_running(&plain, 2, PATIENCE);
    let witness = world.witness();
    witness.has_no_two_copies();
    let (first, between) =
        (witness.attempt(&plain, 1).unwrap(), witness.attempt(&urgent, 1).unwrap());
    assert!(first.last <= between.first, "both had the GPUs at once: {first:?}, {between:?}");
    site.run(&["job", "cancel", &plain]).done();
    site.await_state(&plain, "cancelled", PATIENCE);
}

#[test]
fn who_has_saved_its_work_makes_way_before_one_that_began_later() {
    let world = World::new();
    let site = world.site(SitePlan::small("berlin"));
    let saves = site.submit(Work { saves: true, ..Work::new("saves", 1, FOR_EVER) });
    site.await_running(&saves, 1, PATIENCE);
    let other = site.submit(Work::new("other", 1, FOR_EVER));
    site.await_running(&other, 1, PATIENCE);
    let later = |moment: &Value, than: &Value| moment.as_u64() > than.as_u64();
    let began = site.job(&other)["started_ms"].clone();
    await_that("what was saved is told", PATIENCE, || later(&site.job(&saves)["saved_ms"], &began));
    assert!(site.job(&other)["saved_ms"].is_null());
    assert!(site.run(&["job", "show", &saves]).done().contains("Saved"));

    let urgent = site.submit(Work { priority: 90, ..Work::new("urgent", 1, 20) });
    site.await_running(&urgent, 1, PATIENCE);
    let job = site.job(&saves);
    assert_eq!(
        (&job["preemptions"], &job["attempts"][0]["preempted_by"]),
        (&1.into(), &urgent.as_str().into()),
        "{job}"
    );
    assert_eq!(site.job(&other)["preemptions"], 0);
    site.ended_at_once(&urgent);
    site.await_running(&saves, 2, PATIENCE);
    world.witness().has_no_two_copies();
    for job in [&saves, &other] {
        site.run(&["job", "cancel", job]).done();
        site.await_state(job, "cancelled", PATIENCE);
    }
}
