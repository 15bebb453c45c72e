//! A home runs jobs on GPUs of a host whose proofs it has verified, on real processes.

use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{PATIENCE, SHORT_TERMS, SitePlan, World};
use crate::health::{BURN_IN_MAX, emulated_agent};
use crate::process::{await_some, await_that};
use crate::work::{FOR_EVER, Work};

/// Longer than what is granted stays idle, and than a home waits for a better host.
const LONG_ENOUGH: Duration = Duration::from_secs(8);

#[test]
fn a_job_leaves_for_gpus_whose_proofs_its_home_has_verified_and_for_no_others() {
    let world = World::new();
    let site = |name, nodes, extra| {
        world.site(SitePlan { nodes, extra, terms: SHORT_TERMS, ..SitePlan::small(name) })
    };
    let berlin = site("berlin", 0, &["--trust=proven"]);
    let giga = site("giga", 0, &["--trust=proven", "--lend=all=64", "--country=NL"]);
    // What it has was declared, and nobody has proven it.
    let paris = site("paris", 1, &["--trust=declared", "--lend=all=64", "--country=FR"]);
    let _agent = emulated_agent(&giga, "g1", None);
    for host in [&giga, &paris] {
        berlin.joins(host);
    }
    await_that("both GPUs are proven", BURN_IN_MAX, || {
        giga.list(&["gpu", "ls"]).iter().filter(|gpu| gpu["fit"] == true).count() == 2
    });
    let health = Some("{tier: t2, maxAge: 24h}");
    let demanding = berlin.submit(Work { health, ..Work::new("demands", 1, FOR_EVER) });
    let plain = berlin.submit(Work::new("plain", 1, FOR_EVER));
    for id in [&demanding, &plain] {
        berlin.await_running(id, 1, PATIENCE);
        assert_eq!(berlin.job(id)["host"], "giga");
    }

    // Grants say of how many GPUs the home has verified proofs.
    let sum =
        |grants: &[Value], of: &str| grants.iter().filter_map(|it| it[of].as_u64()).sum::<u64>();
    let told = || {
        let grants = berlin.list(&["grant", "ls"]);
        grants.into_iter().filter(|it| it["host"] == "giga").collect::<Vec<_>>()
    };
    let grants = await_some("both GPUs are verified", PATIENCE, || {
        Some(told()).filter(|it| sum(it, "gpus_verified") == 2)
    });
    assert_eq!(sum(&grants, "gpus"), 2, "{grants:?}");
    let (table, gpus) = (berlin.run(&["grant", "ls"]).done(), &grants[0]["gpus"]);
    assert!(table.contains("VERIFIED") && table.contains(&format!(" {gpus}/{gpus} ")), "{table}");

    // Now only the other host has room.
    let works = [Work::new("waits", 1, 1), Work { health, ..Work::new("demands-too", 1, 1) }];
    let waiting = works.map(|work| berlin.submit(work));
    let expected = "0 of 2 GPUs there have a proof to show, the job asks 1";
    for id in &waiting {
        await_some("what binds is told", PATIENCE, || {
            let said = berlin.run(&["job", "why", id]);
            [said.out, said.err].concat().contains(expected).then_some(())
        });
    }
    thread::sleep(LONG_ENOUGH);
    for id in &waiting {
        let job = berlin.job(id);
        assert_eq!((&job["state"], &job["epoch"]), (&"queued".into(), &0.into()), "{job}");
        assert!(world.witness().attempt(id, 1).is_none());
    }
    berlin.run(&["job", "cancel", &plain]).done();
    for id in &waiting {
        let job = berlin.await_state(id, "finished", PATIENCE);
        assert_eq!(job["attempts"][0]["host"], "giga", "{job}");
    }
    world.witness().has_no_two_copies();
}
