//! Small worlds in which it is plain what must happen.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use federation_replay::read::NoProgress;
use federation_replay::trace::JobRow;
use federation_replay::{queue, spill};

fn job(submit_s: u64, gpus: u32, duration_s: u64) -> JobRow {
    let duration_s = Some(duration_s);
    JobRow { submit_s, gpus, duration_s, gpu_milli: 1_000, ..JobRow::default() }
}

fn served(jobs: &[JobRow], nodes: u32, policy: queue::Policy) -> queue::Result {
    let question =
        queue::Question { cluster: None, nodes, gpus_per_node: 8, from: 0, to: u64::MAX };
    let report = queue::replay(jobs, &question, &[policy], &mut NoProgress).unwrap();
    report.results[0].clone()
}

#[test]
fn the_head_of_a_published_queue_holds_up_what_would_fit() {
    let jobs = [job(0, 4, 100), job(1, 8, 100), job(2, 4, 10)];
    // The gang of 8 waits for 99 s and then holds the last up until 200 s.
    assert_eq!(served(&jobs, 1, queue::Policy::Fifo).mean_queue_s, f64::from(99 + 198) / 3.0);
    // The short one goes ahead, and nobody else waits for longer.
    let sjf = served(&jobs, 1, queue::Policy::Sjf);
    assert_eq!(sjf.mean_queue_s, 99.0 / 3.0);
    let ours = served(&jobs, 1, queue::Policy::OursNoPreempt);
    assert_eq!(ours.mean_queue_s, 99.0 / 3.0);
}

#[test]
fn who_had_more_makes_room_and_pays_for_the_restart() {
    // After 400 GPU-seconds the first is in the second level.
    let jobs = [job(0, 8, 1_000), job(50, 8, 10)];
    let ours = served(&jobs, 1, queue::Policy::Ours);
    assert_eq!(ours.evictions, 1);
    // The first waits for 10 s, and starts again for 30 s.
    assert_eq!(ours.mean_queue_s, f64::from(10 + 30) / 2.0);
    assert_eq!(served(&jobs, 1, queue::Policy::OursNoPreempt).evictions, 0);
}

#[test]
fn who_had_as_little_does_not_make_room() {
    let jobs = [job(0, 8, 1_000), job(10, 8, 10)];
    let ours = served(&jobs, 1, queue::Policy::Ours);
    // It waits until the first has had 300 GPU-seconds, at 38 s.
    assert_eq!((ours.evictions, ours.max_queue_s), (1, 40));
}

#[test]
fn a_long_job_under_a_flood_of_short_ones_waits_no_longer_than_the_bound() {
    let mut jobs = vec![job(0, 8, 500_000)];
    jobs.extend((0..20_000).map(|nth| job(100 + nth * 20, 8, 20)));
    let ours = served(&jobs, 1, queue::Policy::Ours);
    let bound = 3 * 86_400;
    assert!(ours.longest_wait_s <= bound + 20, "{}", ours.longest_wait_s);
    let question = queue::Question { cluster: None, nodes: 1, gpus_per_node: 8, from: 0, to: 0 };
    assert_eq!(
        queue::replay(&jobs, &question, &[queue::Policy::Ours], &mut NoProgress).unwrap().results
            [0]
        .mean_queue_s,
        0.0
    );
}

#[test]
fn all_rules_do_all_the_work() {
    let jobs: Vec<JobRow> = (0..500u32)
        .map(|nth| job(u64::from(nth * 37 % 3_000), 1 + nth * 7 % 24, u64::from(nth * 13 % 900)))
        .collect();
    let work: u64 = jobs.iter().map(|job| job.duration_s.unwrap()).sum();
    for policy in queue::Policy::ALL {
        let result = served(&jobs, 3, policy);
        let of_jct = (result.mean_jct_s - result.mean_queue_s) * 500.0;
        assert!((of_jct - work as f64).abs() < 1e-3, "{policy:?}: {of_jct} of {work}");
    }
}

fn question(home: u32, remote: u32) -> spill::Question {
    spill::Question {
        recipe: spill::Recipe::File,
        load: 1.0,
        home_gpus: home,
        remote_gpus: remote,
        gpus_per_node: 8,
        remote_load: 0.0,
        wait_budget: None,
        transfer: 60,
        patience_max: 30 * 86_400,
        seed: 1,
    }
}

fn spilled(jobs: &[JobRow], question: &spill::Question, policy: spill::Policy) -> spill::Result {
    let report = spill::replay(jobs, question, &[policy], &mut NoProgress).unwrap();
    report.results[0].clone()
}

#[test]
fn a_job_leaves_when_its_patience_ends() {
    let jobs = [job(0, 8, 100_000), job(0, 8, 3_600), job(100_000, 1, 1)];
    let no_wait = spilled(&jobs, &question(8, 8), spill::Policy::NoWait);
    assert_eq!((no_wait.spilled_jobs, no_wait.longest_first_wait_s), (1, 0));
    assert_eq!(no_wait.remote_gpu_hours, 8.0);
    let constant = spilled(&jobs, &question(8, 8), spill::Policy::ConstantWait);
    assert_eq!((constant.spilled_jobs, constant.longest_first_wait_s), (1, 3_600));
}

#[test]
fn a_job_that_home_has_room_for_in_time_went_the_wrong_way() {
    let jobs = [job(0, 8, 130), job(100, 8, 1_000), job(5_000, 1, 1)];
    let no_wait = spilled(&jobs, &question(8, 8), spill::Policy::NoWait);
    assert_eq!((no_wait.spilled_jobs, no_wait.wrong_way_percent), (1, 100.0));
    let late = [job(0, 8, 300), job(100, 8, 1_000), job(5_000, 1, 1)];
    assert_eq!(spilled(&late, &question(8, 8), spill::Policy::NoWait).wrong_way_percent, 0.0);
}

#[test]
fn ours_brings_a_long_job_back_when_home_has_room() {
    let jobs = [job(0, 8, 7_200), job(10, 8, 100_000), job(50_000, 1, 1)];
    let stay = spilled(&jobs, &question(8, 8), spill::Policy::NoWait);
    let ours = spilled(&jobs, &question(8, 8), spill::Policy::Ours);
    assert!(ours.returned > 0 && stay.returned == 0);
    assert!(ours.remote_gpu_hours < stay.remote_gpu_hours / 2.0, "{}", ours.remote_gpu_hours);
}

#[test]
fn a_job_that_finds_both_full_takes_the_place_of_another_in_the_end() {
    let long = 40 * 86_400;
    let jobs = [job(0, 8, long), job(1_000, 8, 10), job(10_000, 1, 1)];
    let bound = 3 * 86_400 + 600;
    let ours = spilled(&jobs, &question(8, 0), spill::Policy::Ours);
    assert_eq!((ours.longest_first_wait_s, ours.evicted), (bound, 1));
    let no_wait = spilled(&jobs, &question(8, 0), spill::Policy::NoWait);
    assert_eq!(no_wait.longest_first_wait_s, long - 1_000);
}

#[test]
fn the_mean_wait_stays_within_the_budget() {
    let jobs: Vec<JobRow> = (0..2_000u32)
        .map(|nth| job(u64::from(nth * 60), 1 + nth * 5 % 8, u64::from(100 + nth * nth % 9_000)))
        .collect();
    let question = spill::Question { wait_budget: Some(300.0), ..question(64, 800) };
    for policy in spill::Policy::ALL {
        let result = spilled(&jobs, &question, policy);
        assert!(result.mean_wait_s <= 300.0, "{policy:?}: {}", result.mean_wait_s);
    }
    let constant = spilled(&jobs, &question, spill::Policy::ConstantWait);
    assert!(constant.mean_wait_s > 250.0, "{}", constant.mean_wait_s);
}

#[test]
fn a_load_is_reached_by_copies() {
    let jobs: Vec<JobRow> =
        (0..1_000u32).map(|nth| job(u64::from(nth * 600), 1 + nth % 8, 3_600)).collect();
    for recipe in [spill::Recipe::S1, spill::Recipe::S2] {
        let question = spill::Question { recipe, load: 1.2, ..question(80, 8_000) };
        let report =
            spill::replay(&jobs, &question, &[spill::Policy::NoWait], &mut NoProgress).unwrap();
        let load = report.work_gpu_hours * 3_600.0 / (80.0 * report.span_s as f64);
        assert!((1.0..1.4).contains(&load), "{recipe:?}: {load}");
    }
}
