//! Controllers are killed: leaders, all of a site at once, for a while.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{FEDERATION, PATIENCE, Pair, Site, SitePlan, World};
use crate::work::{FOR_EVER, Work};

/// The next commit after a leader's death, on a machine that has other things to do.
const COMMIT_MAX: Duration = Duration::from_secs(5);

/// Kills a site's leader, and says how long it takes until the site admits a job.
fn commit_after_leader_is_killed(site: &mut Site<'_>, what: &str) -> usize {
    let file = site.world.job_file(Work { spill: false, ..Work::new("next", 1, 1) });
    let killed = site.kill_leader();
    let begun = Instant::now();
    site.run(&["job", "run", &file, "-o", "name"]).done();
    let span = begun.elapsed();
    eprintln!("{what}: the next commit came {span:?} after the leader was killed");
    assert!(span < COMMIT_MAX, "{span:?}");
    killed
}

#[test]
fn killing_the_leaders_of_home_and_host_restarts_no_spilled_job() {
    let world = World::new();
    let mut pair = world.federation(3, &[]);
    pair.fill_home();
    let [long, short] = [("long", 150), ("short", 40)].map(|(name, n)| Work::new(name, 2, n));
    let ids = pair.spill(&[long, short, Work { name: "other", ..long }]);
    let home = commit_after_leader_is_killed(&mut pair.home, "home");
    let host = commit_after_leader_is_killed(&mut pair.host, "host");
    pair.home.controllers[home].daemon.start();
    pair.host.controllers[host].daemon.start();
    for id in &ids {
        pair.home.ended_at_once(id);
    }
    let witness = world.witness();
    witness.has_no_two_copies();
    for id in &ids {
        assert_eq!(witness.attempt(id, 1).unwrap().ends, 1);
    }
}
