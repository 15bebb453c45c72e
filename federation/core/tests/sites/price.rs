//! What sites cost, and how long their homes are worth waiting for.

use specs::id::JobId;
use specs::signals::Weights;
use specs::unit::{MicroEuro, Millis};

use super::*;

#[test]
fn a_job_goes_to_the_site_that_costs_least_and_to_no_other() {
    for (giga, iris, best) in [(300, 200, "iris"), (200, 300, "giga"), (200, 200, "giga")] {
        let mut all = Federation::found();
        all.berlin.costs(300);
        all.giga().costs(giga);
        all.iris().costs(iris);
        all.exchange();
        all.submit(2, job("acme", 2, 8));
        assert_eq!(all.goes_to(2).as_deref(), Some(best));
        let loans =
            ["giga", "iris"].map(|site| all.berlin.state.loans_to(&site.parse().unwrap()).count());
        assert_eq!(loans.iter().sum::<usize>(), 1, "one loan is drawn");
    }
}

#[test]
fn carbon_water_and_energy_with_what_the_building_adds_count_too() {
    let cases = [
        SignalsSet { carbon: Some(400), ..said() },
        SignalsSet { water: Some(90_000), ..said() },
        SignalsSet { energy: Some(MicroEuro(200_000)), ..said() },
    ];
    for worse in cases {
        let better = SignalsSet {
            carbon: worse.carbon.map(|it| it / 2),
            water: worse.water.map(|it| it / 2),
            energy: worse.energy.map(|it| MicroEuro(it.0 / 2)),
            ..said()
        };
        let mut all = Federation::found();
        all.berlin.says(worse.clone());
        all.giga().says(worse);
        all.iris().says(better.clone());
        all.exchange();
        all.submit(2, job("acme", 1, 8));
        assert_eq!(all.goes_to(2).as_deref(), Some("iris"), "{better:?}");
    }
    let mut all = Federation::found();
    let energy = |pue| SignalsSet { energy: Some(MicroEuro(200_000)), pue: Some(pue), ..said() };
    all.berlin.says(energy(2_000));
    all.giga().says(energy(1_900));
    all.iris().says(energy(1_100));
    all.exchange();
    all.submit(2, job("acme", 1, 8));
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"));
}

#[test]
fn weights_decide_what_counts() {
    let mut all = Federation::found();
    all.berlin.costs(300);
    all.giga().costs(200);
    all.iris().costs(210);
    all.giga().says(SignalsSet { carbon: Some(700), ..said() });
    all.iris().says(SignalsSet { carbon: Some(50), ..said() });
    all.exchange();
    // 0.65 kg of carbon in an hour are worth 5 cents, or half a euro.
    all.submit(2, job("acme", 1, 8));
    assert_eq!(all.goes_to(2).as_deref(), Some("giga"));
    all.berlin.weighs(Weights { carbon: MicroEuro(800_000), ..Weights::default() });
    all.submit(3, job("acme", 1, 8));
    assert_eq!(all.goes_to(3).as_deref(), Some("iris"));
}

#[test]
fn what_was_said_too_long_ago_counts_for_nothing_and_is_said_to_be_stale() {
    let mut all = Federation::found();
    for (site, carbon) in [(0, 500), (1, 100)] {
        all.hosts[site].says(SignalsSet { carbon: Some(carbon), ..said() });
    }
    all.berlin.weighs(Weights { stale_after: Millis(60_000), ..Weights::default() });
    all.pass(100);
    all.giga().says(SignalsSet { carbon: Some(500), ..said() });
    all.exchange();
    all.submit(2, job("acme", 8, 8));
    all.pass(10);
    let cost = all.berlin.why_at(2, "iris").cost;
    assert!(cost.is_none(), "eight nodes are more than it has");
    all.submit(3, job("acme", 1, 8));
    all.berlin.poll();
    let cost = all.berlin.why_at(3, "iris").cost.unwrap();
    assert_eq!(cost.stale, ["carbon, said 1 min ago"]);
    assert!(all.berlin.why_at(3, "giga").cost.unwrap().stale.is_empty());
    assert_eq!(all.goes_to(3).as_deref(), Some("giga"), "by the order of names");
}

#[test]
fn a_site_that_says_nothing_is_neither_better_nor_worse() {
    let mut all = Federation::found();
    all.berlin.costs(200);
    all.iris().costs(200);
    all.exchange();
    all.submit(2, job("acme", 1, 8));
    assert_eq!(all.goes_to(2).as_deref(), Some("giga"), "by the order of names");
    all.iris().costs(150);
    all.exchange();
    all.submit(3, job("acme", 1, 8));
    assert_eq!(all.goes_to(3).as_deref(), Some("iris"));
}

#[test]
fn a_job_waits_at_home_until_that_has_cost_what_leaving_costs_more() {
    let mut all = Federation::found();
    all.berlin.costs(200);
    all.giga().costs(220);
    all.iris().costs(220);
    all.exchange();
    // An hour at 20 cents more, and an hour sooner is worth a euro: twelve minutes.
    all.submit(2, JobSpec { time_limit: Millis(3_600_000), ..job("acme", 1, 8) });
    all.pass(700);
    assert_eq!(all.berlin.loaned_to(2), None);
    let told = all.berlin.why_at(2, "giga");
    assert!(told.constraint.contains("2.20 € a GPU-hour, at home 2.00 €"), "{told:?}");
    assert!(told.constraint.contains("waits 12 min at home first"), "{told:?}");
    assert_eq!(told.cost.unwrap().patience, Millis(720_000));
    all.pass(40);
    assert_eq!(all.berlin.loaned_to(2), Some("giga"));
}

#[test]
fn a_job_that_had_much_work_waits_longer_at_home() {
    let mut all = Federation::found();
    let rate = Weights { work_rate_micro: 125_000, ..Weights::default() };
    all.berlin.weighs(rate);
    // One GPU-hour short of eight is an eighth of what makes a day of it, to the fourth power.
    all.berlin.start(1);
    all.berlin.now += 1_800_000;
    let lost = specs::wire::agent::Outcome::of(specs::wire::agent::Ending::Lost, "");
    all.berlin.end(1, Millis(1_800_000), &lost);
    all.submit(2, JobSpec { priority: 90, ..job("acme", 1, 8) });
    for host in &mut all.hosts {
        host.now = all.berlin.now;
    }
    all.exchange();
    assert_eq!(all.berlin.holding([1, 2]), [2]);
    // Four GPU-hours times an eighth: half, to the fourth power a sixteenth of a day.
    all.pass(5_300);
    assert_eq!(all.berlin.loaned_to(1), None);
    assert_eq!(all.berlin.why_at(1, "giga").cost.unwrap().patience, Millis(5_400_000));
    all.pass(120);
    assert_eq!(all.berlin.loaned_to(1), Some("giga"));
}

#[test]
fn a_better_site_that_grants_nothing_is_waited_for_no_longer_than_a_moment() {
    let mut all = Federation::found();
    all.submit(2, job("acme", 2, 8));
    assert_eq!(all.goes_to(2).as_deref(), Some("giga"));
    // What is left of a grant at giga is at hand; iris would be better, and is not heard again.
    all.berlin.apply(Command::CancelJob(CancelJob { job: JobId(2), at: Timestamp(0) }));
    all.exchange();
    all.iris().costs(10);
    all.berlin.costs(300);
    all.giga().costs(250);
    all.exchange();
    all.submit(3, job("acme", 1, 8));
    all.berlin.poll();
    assert_eq!(all.berlin.loaned_to(3), None, "iris is asked");
    all.berlin.now += 2_000;
    all.berlin.poll();
    assert_eq!(all.berlin.loaned_to(3), None);
    all.berlin.now += 1_000;
    all.berlin.poll();
    assert_eq!(all.berlin.loaned_to(3), Some("giga"));
}

#[test]
fn a_host_says_how_many_nodes_are_free_and_how_long_jobs_wait_there() {
    let mut all = Federation::found();
    let home = "berlin".parse().unwrap();
    let giga = all.giga();
    giga.quota("acme", None, 0, 1_000);
    for id in 10..13 {
        giga.submit(id, job("acme", 1, 8));
        giga.now += 60_000;
        giga.poll();
    }
    let report = giga.leader.ask_peer(Instant(giga.now), &giga.state, &home).unwrap();
    let outlook = &report.outlook[0];
    let free: Vec<(u32, u32)> = outlook.free.iter().map(|it| (it.gpus.0, it.nodes)).collect();
    assert_eq!(free, [(8, 1)]);
    let waits: Vec<_> = outlook.waits.iter().map(|it| (it.nodes_max, it.wait.0)).collect();
    assert_eq!(waits, [(1, 60_000)]);
    let mut spec = job("acme", 3, 8);
    spec.placement.sites = vec!["giga".parse().unwrap()];
    all.submit(2, spec);
    all.exchange();
    let told = all.berlin.why_at(2, "giga");
    assert_eq!(told.constraint, "1 nodes with 8 free b200, the job needs 3");
    assert_eq!(told.change, "2 more nodes with 8 free b200");
}

#[test]
fn quota_that_binds_is_told_at_every_site() {
    let mut all = Federation::found();
    all.berlin.quota("acme", None, 0, 12);
    all.submit(2, job("acme", 1, 8));
    all.exchange();
    for site in ["berlin", "giga", "iris"] {
        let told = all.berlin.why_at(2, site);
        assert!(
            told.constraint.starts_with("quota: acme may hold 12 GPUs and holds 8"),
            "{told:?}"
        );
        assert!(told.change.contains("federation quota set acme --max 16"), "{told:?}");
    }
    let state = &all.berlin.state;
    let view = federation_core::job_view(state, state.jobs.get(&JobId(2)).unwrap(), None);
    assert_eq!(view.reason, "waits for quota: acme may hold 12 GPUs and holds 8");
}
