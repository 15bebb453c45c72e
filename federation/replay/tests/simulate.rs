//! Small federations in which it is plain what must happen.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::sync::Arc;

use federation_replay::read::NoProgress;
use federation_replay::simulate::prices::read_prices;
use federation_replay::simulate::sweep::sweep;
use federation_replay::simulate::{
    Policy, Report, Said, Scenario, SimulateError, Source, simulate, simulate_checked,
};
use federation_replay::trace::JobRow;
use specs::unit::Millis;

fn job(submit_s: u64, gpus: u32, duration_s: u64) -> JobRow {
    let duration_s = Some(duration_s);
    JobRow { submit_s, gpus, duration_s, gpu_milli: 1_000, line: submit_s, ..JobRow::default() }
}

/// All jobs are at home at the first site.
fn scenario(sites: &[&str], rows: Vec<JobRow>) -> Scenario {
    let sites: Vec<_> = sites.iter().map(|site| site.parse().unwrap()).collect();
    let sites: Vec<federation_replay::simulate::SiteSetup> = sites;
    let home = sites[0].name.clone();
    Scenario {
        sites,
        sources: vec![Source::new(home, "jobs.csv", Arc::new(rows))],
        load: Vec::new(),
        shift: Vec::new(),
        policy: Policy::default(),
        look: Millis(30_000),
        prices: None,
        seed: 1,
    }
}

fn run(sites: &[&str], rows: Vec<JobRow>) -> Report {
    simulate_checked(&scenario(sites, rows)).unwrap()
}

/// Many jobs of all sizes, from nobody's trace.
fn mixed(count: u32) -> Vec<JobRow> {
    let sizes = [1, 2, 8, 4, 1, 16, 8, 3, 24, 1];
    let row = |nth: u32| JobRow {
        tenant: ["lab", "firm", "school"][nth as usize % 3].into(),
        gpu_milli: if nth % 10 == 4 { 500 } else { 1_000 },
        ..job(u64::from(nth * 97 % 5_000), sizes[nth as usize % 10], u64::from(nth * 131 % 900) + 1)
    };
    (0..count).map(row).collect()
}

#[test]
fn a_second_job_waits_for_the_first_where_there_is_one_site() {
    let report = run(&["berlin=1x8"], vec![job(10, 8, 100), job(40, 8, 50)]);
    let berlin = &report.sites[0];
    // The first runs from 0 to 100 s, the second, which comes at 30 s, from 100 to 150.
    assert_eq!(berlin.mean_wait_s, Some(35.0));
    assert_eq!((berlin.p50_wait_s, berlin.p95_wait_s), (Some(0), Some(70)));
    assert_eq!((report.span_s, report.end_s), (30.0, 150.0));
    assert_eq!((berlin.mean_jct_s, berlin.utilisation), (Some(110.0), 1.0));
    assert_eq!((berlin.spilled_jobs, berlin.finished), (0, 2));
}

#[test]
fn a_second_job_leaves_at_once_for_a_site_that_lends() {
    let report =
        run(&["berlin=1x8", "giga=2x8"], vec![job(0, 8, 3_600), job(60, 8, 1_800), job(70, 1, 1)]);
    let (berlin, giga) = (&report.sites[0], &report.sites[1]);
    assert_eq!((berlin.mean_wait_s, berlin.max_wait_s), (Some(0.0), Some(0)));
    assert_eq!(berlin.spilled_jobs, 2);
    let out = 8.0 * 0.5 + 1.0 / 3_600.0;
    assert!((berlin.spilled_gpu_hours_out - out).abs() < 1e-9, "{report:?}");
    assert_eq!(giga.spilled_gpu_hours_in, berlin.spilled_gpu_hours_out);
    assert_eq!((giga.jobs, giga.utilisation > 0.0), (0, true));
}

#[test]
fn a_job_that_may_leave_after_a_time_waits_for_it() {
    let rows = vec![job(0, 8, 3_600), job(60, 8, 1_800)];
    let mut late = scenario(&["berlin=1x8", "giga=1x8"], rows.clone());
    late.policy.spill_after = Some(Millis(600_000));
    let report = simulate_checked(&late).unwrap();
    let wait = report.sites[0].max_wait_s.unwrap();
    // A leader looks each 30 s, and then asks for a grant.
    assert!((600..=660).contains(&wait), "{wait}");
    late.policy.spill_after = None;
    let report = simulate_checked(&late).unwrap();
    assert_eq!(report.sites[0].max_wait_s, Some(3_540));
}

#[test]
fn a_site_lends_no_more_than_it_says_and_its_own_jobs_go_first() {
    let long = || vec![job(0, 8, 10_000), job(1, 8, 10_000), job(2, 8, 10_000)];
    let report = run(&["berlin=1x8", "giga=4x8:lend=8"], long());
    assert_eq!(report.sites[0].spilled_jobs, 1);
    let report = run(&["berlin=1x8", "giga=4x8:lend=50%"], long());
    assert_eq!(report.sites[0].spilled_jobs, 2);
    let report = run(&["berlin=1x8", "giga=4x8:busy=75%"], long());
    assert_eq!((report.sites[0].spilled_jobs, report.sites[1].background_gpus), (1, 24));
    assert!(report.sites[1].utilisation >= 0.75);
    let report = run(&["berlin=1x8", "giga=4x8:keep=24"], long());
    assert_eq!(report.sites[0].spilled_jobs, 1);
}

#[test]
fn at_each_step_of_a_busy_federation_the_invariants_of_the_core_hold() {
    // `simulate_checked` fails at the first command after which one does not.
    for sites in [
        &["berlin=3x8"][..],
        &["berlin=3x8", "giga=4x8"],
        &["berlin=3x8:lend=8", "giga=4x8:busy=50%", "paris=2x8:lend=50%"],
    ] {
        let report = run(sites, mixed(150));
        assert_eq!(report.sites[0].finished, 150, "{sites:?}");
    }
    let mut both = scenario(&["berlin=3x8", "giga=3x8"], mixed(80));
    let giga = both.sites[1].name.clone();
    both.sources.push(Source { home: giga.clone(), ..both.sources[0].clone() });
    // Who has a job that waits lends nothing.
    both.shift = vec![Said { site: Some(giga), value: Millis(4_000_000) }];
    let report = simulate_checked(&both).unwrap();
    assert_eq!(report.sites.iter().map(|site| site.finished).sum::<u64>(), 160);
    assert!(report.spills.len() == 2, "either spills into the other: {:?}", report.spills);
}

#[test]
fn all_gpu_time_that_jobs_held_was_held_at_some_site() {
    let report = run(&["berlin=3x8", "giga=4x8"], mixed(150));
    let held = |site: &federation_replay::simulate::SiteReport| {
        site.utilisation_until_end * f64::from(site.gpus) * report.end_s / 3_600.0
    };
    let all: f64 = report.sites.iter().map(held).sum();
    let work = report.sites[0].gpu_hours;
    assert!((all - work).abs() < work * 1e-3, "{all} of {work}");
    let spilled = report.sites[0].spilled_gpu_hours_out;
    assert!((held(&report.sites[1]) - spilled).abs() < work * 1e-3);
}

#[test]
fn equal_scenarios_give_equal_reports_and_other_seeds_other_copies() {
    let mut scenario = scenario(&["berlin=3x8", "giga=4x8"], mixed(300));
    scenario.load = vec![Said { site: None, value: 1.4 }];
    let told = |scenario: &Scenario| simulate(scenario, &mut NoProgress).unwrap();
    let report = told(&scenario);
    assert_eq!(report, told(&scenario));
    assert!((380..=460).contains(&report.jobs), "{}", report.jobs);
    scenario.seed = 2;
    assert_ne!(report, told(&scenario));
}

#[test]
fn energy_is_told_where_there_are_prices_and_a_slip_in_them_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prices.csv");
    let read = |text: &str| {
        std::fs::write(&path, text).unwrap();
        read_prices(&path, 700, &mut NoProgress).map_err(|error| error.to_string())
    };
    let good = "time_s,site,eur_per_kwh,kg_co2_per_kwh\n0,berlin,0.2,0.4\n3600,berlin,-0.1,0.1\n";
    let mut priced = scenario(&["berlin=1x8", "giga=1x8"], vec![job(0, 8, 7_200)]);
    priced.prices = Some(read(good).unwrap());
    let report = simulate_checked(&priced).unwrap();
    let energy = report.sites[0].energy.as_ref().unwrap();
    // 5.6 kW for an hour at either price.
    assert!((energy.kwh - 11.2).abs() < 1e-9 && (energy.eur - 0.56).abs() < 1e-9, "{energy:?}");
    assert!((energy.co2_kg.unwrap() - 2.8).abs() < 1e-9);
    assert_eq!(report.sites[1].energy, None);
    for (text, message) in [
        ("time_s,site\n", ":1: column `eur_per_kwh` is missing; there are: time_s, site"),
        ("time_s,site,eur_per_kwh\n", ":1: there are no rows below the header"),
        ("time_s,site,eur_per_kwh\n0,b,x\n", ":2: column `eur_per_kwh`: `x` is not a number"),
        ("time_s,site,eur_per_kwh\n9,b,1\n9,b,1\n", ":3: column `time_s`: 9 does not come after 9"),
        ("time_s,site,eur_per_kwh\n-1,b,1\n", ":2: column `time_s`: `-1` is negative"),
    ] {
        let fault = read(text).unwrap_err();
        assert!(fault.contains(message), "{fault}");
    }
    priced.prices = Some(read("time_s,site,eur_per_kwh\n0,rome,1\n").unwrap());
    let fault = simulate_checked(&priced).unwrap_err().to_string();
    assert_eq!(fault, "there is no site `rome`; there are: berlin, giga");
}

#[test]
fn a_shift_moves_the_jobs_of_one_site() {
    let mut both = scenario(&["berlin=1x8:lend=0", "giga=1x8:lend=0"], vec![job(0, 8, 100)]);
    let giga = both.sites[1].name.clone();
    both.sources.push(Source { home: giga.clone(), ..both.sources[0].clone() });
    both.shift = vec![Said { site: Some(giga), value: Millis(3_600_000) }];
    let report = simulate_checked(&both).unwrap();
    assert_eq!((report.span_s, report.end_s), (3_600.0, 3_700.0));
}

#[test]
fn a_job_that_nobody_lets_in_never_starts_and_is_told_so() {
    // The one node that is lent is needed as a whole, and one GPU of it has a job for good.
    let rows = vec![job(0, 1, 50), job(1, 8, 1), job(2, 16, 5)];
    let report = run(&["berlin=1x8", "giga=2x8:keep=1"], rows);
    let berlin = &report.sites[0];
    assert_eq!((berlin.jobs, berlin.finished, berlin.never_started), (3, 2, 1));
    assert_eq!((berlin.mean_wait_s, berlin.p50_wait_s.is_some()), (None, true));
}

#[test]
fn what_cannot_be_simulated_is_told_with_file_line_and_reason() {
    let fault = |sites: &[&str], rows| {
        simulate(&scenario(sites, rows), &mut NoProgress).unwrap_err().to_string()
    };
    assert_eq!(
        fault(&["berlin=2x8", "giga=4x8:lend=8"], vec![job(7, 17, 1)]),
        "jobs.csv:7: column `gpus`: no site could ever run a gang of 17 GPUs on 3 nodes"
    );
    let open = JobRow { duration_s: None, ..job(9, 1, 1) };
    assert_eq!(fault(&["berlin=1x8"], vec![open]), "jobs.csv:9: column `duration_s` is empty");
    assert_eq!(fault(&["berlin=1x8", "berlin=1x8"], mixed(1)), "site `berlin` is there twice");
    let none = fault(&["berlin=1x8"], vec![job(0, 0, 1)]);
    assert!(none.starts_with("no job that needs a GPU"), "{none}");
    let mut unknown = scenario(&["berlin=1x8"], mixed(1));
    unknown.sources[0].home = "rome".parse().unwrap();
    assert_eq!(
        simulate(&unknown, &mut NoProgress),
        Err(SimulateError::NoSite { name: "rome".into(), has: "berlin".into() })
    );
}

#[test]
fn a_sweep_finds_the_least_size_that_will_do() {
    // Four jobs at once: one has its place at home, so three nodes are needed elsewhere.
    let rows = (0..4).map(|nth| job(nth, 8, 10_000)).collect();
    let scenario = scenario(&["berlin=1x8:lend=0", "giga=1x8"], rows);
    let goal = "max_wait(berlin)<1m".parse().unwrap();
    let run = |what: &str| {
        let what = what.parse().unwrap();
        sweep(&scenario, &what, Some(&goal), &mut NoProgress).unwrap()
    };
    let found = run("giga=0..80");
    assert_eq!(found.answer.as_deref(), Some("24"));
    assert!(found.trials.len() < 8, "{}", found.trials.len());
    assert!(found.trials.is_sorted_by_key(|trial| trial.met == Some(true)));
    assert_eq!(run("giga=0,16,32,80").answer.as_deref(), Some("32"));
    assert_eq!(run("giga=0,16").answer, None);
    assert_eq!(run("spill-after=never,0s").trials[0].measured, Some(29_997.0));
    assert_eq!(found.told().unwrap(), "max_wait(berlin)<1m from gpus(giga) = 24 on");
    let listed = run("giga=32,0,80").told().unwrap();
    assert_eq!(listed, "max_wait(berlin)<1m with gpus(giga) = 32, 80");
    let none = sweep(&scenario, &"giga=3..5".parse().unwrap(), None, &mut NoProgress).unwrap_err();
    assert_eq!(none.to_string(), "no number of GPUs from 3 to 5 fills nodes of 8");
    let odd = sweep(&scenario, &"giga=12".parse().unwrap(), None, &mut NoProgress).unwrap_err();
    assert_eq!(odd.to_string(), "12 GPUs of `giga` do not fill nodes of 8");
}

#[test]
fn a_site_is_read_from_one_word_and_a_slip_is_named() {
    let site = |text: &str| text.parse::<federation_replay::simulate::SiteSetup>();
    assert_eq!(site("giga=12500x8:lend=50%,busy=95%").unwrap().gpus(), 100_000);
    let slips = [
        ("giga", "write it as `berlin=32x8`"),
        ("giga=8", "write it as `berlin=32x8`"),
        ("giga=-1x8", "`-1` nodes are not between 0 and"),
        ("giga=1x99", "`99` GPUs of a node are not between 0 and 72"),
        ("Giga=1x8", "`Giga` is not a site name"),
        ("giga=1x8:lend=101%", "`101%` is more than all"),
        ("giga=1x8:lend", "`lend` is not an option"),
        ("giga=1x8:lent=5", "`lent` is not an option of a site"),
        ("giga=1x8:busy=some", "`some` is neither a number of GPUs nor a percentage"),
    ];
    for (text, message) in slips {
        let fault = site(text).unwrap_err();
        assert!(fault.contains(message), "{text}: {fault}");
    }
}
