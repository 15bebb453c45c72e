//! Where data is, how long it takes to come, and where it may not go.

use specs::id::Country;
use specs::job::DataNeed;
use specs::wire::client::JobState;

use super::*;

const TB: u64 = 1_000_000_000_000;

fn reads(name: &str) -> JobSpec {
    let data = vec![DataNeed { name: name.parse().unwrap(), bytes: 0 }];
    JobSpec { data, ..job("acme", 1, 8) }
}

/// It is small, so that nobody waits for it.
fn only_in(countries: &str) -> DataSet {
    let countries: Vec<Country> =
        countries.split(' ').map(|country| country.parse().unwrap()).collect();
    DataSet { bytes: 1, held: false, countries, sites: vec![] }
}

#[test]
fn a_job_goes_where_its_data_lies() {
    let mut all = Federation::found();
    all.berlin.knows("acme/corpus", held(TB));
    all.iris().knows("acme/corpus", held(TB));
    all.exchange();
    all.submit(2, reads("acme/corpus"));
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"));
}

#[test]
fn a_job_waits_at_home_as_long_as_its_data_would_take() {
    let mut all = Federation::found();
    all.berlin.knows("acme/corpus", held(75_000_000_000));
    all.berlin.link("giga", 1_000);
    all.berlin.link("iris", 2_000);
    all.exchange();
    all.submit(2, reads("acme/corpus"));
    all.pass(290);
    assert_eq!(all.berlin.loaned_to(2), None);
    let told = all.berlin.why_at(2, "iris");
    assert!(told.constraint.starts_with("data: 75.0 GB would take 5 min"), "{told:?}");
    let cost = told.cost.unwrap();
    assert_eq!((cost.missing_bytes, cost.bring.0, cost.best), (75_000_000_000, 300_000, true));
    assert_eq!(all.berlin.why_at(2, "giga").cost.unwrap().bring.0, 600_000);
    all.pass(30);
    assert_eq!(all.berlin.loaned_to(2), Some("iris"), "by the faster link");
}

#[test]
fn data_goes_nowhere_that_it_may_not() {
    let mut all = Federation::found();
    all.berlin.knows("acme/secret", only_in("DE FR"));
    all.exchange();
    all.submit(2, reads("acme/secret"));
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"), "giga is in Finland");
    let told = all.berlin.state.loans_to(&"giga".parse().unwrap()).count();
    assert_eq!(told, 0);
}

#[test]
fn data_that_may_be_used_nowhere_leaves_its_job_waiting_and_says_so() {
    let mut all = Federation::found();
    all.berlin.finish(1);
    all.berlin.knows("acme/secret", only_in("US"));
    all.submit(2, reads("acme/secret"));
    all.pass(60);
    assert_eq!(all.berlin.state_of(2), JobState::Queued, "not even at home, which is free");
    for site in ["berlin", "giga", "iris"] {
        let told = all.berlin.why_at(2, site);
        assert_eq!(told.constraint, "data: acme/secret may only be used in US");
    }
}

#[test]
fn a_host_refuses_what_its_own_rules_forbid() {
    let mut all = Federation::found();
    all.giga().knows("acme/secret", only_in("FR"));
    all.submit(2, reads("acme/secret"));
    all.exchange();
    all.berlin.now += 5_000;
    all.berlin.poll();
    all.exchange();
    let giga = &all.hosts[0].state;
    assert!(giga.leases.values().all(|lease| lease.job != JobId(2)), "nothing is launched");
    let job = all.berlin.state.jobs.get(&JobId(2)).unwrap();
    let outcome = job.attempts.first().and_then(|it| it.outcome.clone()).unwrap();
    assert_eq!(outcome.detail, "its data set acme/secret may not be used at this site");
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"), "the next try is made elsewhere");
}

#[test]
fn a_host_is_shown_a_job_as_narrow_as_its_data_is() {
    let mut all = Federation::found();
    all.berlin.knows("acme/secret", only_in("DE FR"));
    all.exchange();
    all.submit(2, reads("acme/secret"));
    assert_eq!(all.goes_to(2).as_deref(), Some("iris"));
    all.exchange();
    let lease = all.hosts[1].state.leases.values().find(|lease| lease.job == JobId(2)).unwrap();
    assert_eq!(lease.spec.placement.residency, only_in("DE FR").countries);
    let spec = all.berlin.state.jobs.get(&JobId(2)).unwrap().spec();
    assert!(spec.placement.residency.is_empty(), "at home it is as it was submitted");
}
