//! Controllers are killed: leaders, all of a site at once, for a while.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::cluster::{FEDERATION, PATIENCE, Pair, Said, Site, SitePlan, World};
use crate::process::await_that;
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

#[test]
fn two_hundred_acknowledged_jobs_outlive_the_death_of_all_controllers() {
    const JOBS: usize = 200;
    const HANDS: usize = 4;
    let world = World::new();
    let plan = SitePlan { controllers: 3, ..SitePlan::small("berlin") };
    let mut site = world.site(plan);
    let filler = site.submit(Work::new("filler", 2, FOR_EVER));
    site.await_running(&filler, 1, PATIENCE);
    let file = world.job_file(Work::new("many", 2, 1));
    let submit = |nth: usize| {
        let request = format!("request-{nth}");
        let args = ["job", "run", &file, "-o", "name", "--request-id", &request];
        site.run(&args).done().trim().to_owned()
    };
    let all = |from: usize, step: usize| -> Vec<(usize, String)> {
        (from..JOBS).step_by(step).map(|nth| (nth, submit(nth))).collect()
    };
    let begun = Instant::now();
    let mut submitted: Vec<(usize, String)> = thread::scope(|scope| {
        let hands: Vec<_> = (0..HANDS).map(|nth| scope.spawn(move || all(nth, HANDS))).collect();
        hands.into_iter().flat_map(|hand| hand.join().unwrap()).collect()
    });
    let spent = begun.elapsed();
    site.kill_controllers();
    eprintln!("{JOBS} jobs were acknowledged in {spent:?}, then all controllers were killed");
    site.start_controllers();
    site.await_up();
    let listed = site.json(&["job", "ls", "--all"]);
    let mut known: Vec<&str> =
        listed["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    known.retain(|id| *id != filler);
    known.sort_unstable();
    submitted.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(known, submitted.iter().map(|(_, id)| id.as_str()).collect::<Vec<_>>());
    for (nth, id) in submitted.iter().step_by(10) {
        let request = format!("request-{nth}");
        let args = ["job", "run", &file, "-o", "name", "--request-id", &request];
        assert_eq!(site.run(&args).done().trim(), id);
    }
    let listed = site.json(&["job", "ls", "--all"]);
    assert_eq!(listed["items"].as_array().unwrap().len(), JOBS + 1);
}

#[test]
fn a_home_that_is_gone_for_a_while_finds_the_results_of_its_spilled_jobs() {
    let world = World::new();
    let mut pair = world.federation(1, &[]);
    pair.fill_home();
    let works = [Work::new("soon", 2, 40), Work::new("later", 2, 200)];
    let ids = pair.spill(&works);
    pair.home.kill_controllers();
    let begun = Instant::now();
    await_that("the short job ends unheard", PATIENCE, || {
        world.witness().attempt(&ids[0], 1).is_some_and(|it| it.ends == 1)
            && begun.elapsed() > Duration::from_secs(12)
    });
    eprintln!("the home was away for {:?}", begun.elapsed());
    pair.home.start_controllers();
    for id in &ids {
        pair.home.ended_at_once(id);
    }
    world.witness().has_no_two_copies();
}

/// Follows a job's output; each line as it comes.
fn follow(pair: &Pair<'_>, id: &str) -> (std::process::Child, mpsc::Receiver<String>) {
    let args = ["--context", "berlin", "job", "logs", "-f", id];
    let mut command = pair.home.world.command(Path::new(FEDERATION), &args);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in out.lines() {
            let _ = sender.send(line.unwrap());
        }
    });
    (child, lines)
}

#[test]
fn followed_output_of_a_spilled_job_is_whole_although_leaders_die() {
    const LINES: usize = 150;
    let world = World::new();
    let mut pair = world.federation(3, &[]);
    pair.fill_home();
    let ids = pair.spill(&[Work::new("talker", 2, 150)]);
    let (mut child, lines) = follow(&pair, &ids[0]);
    let mut seen = Vec::new();
    while let Ok(line) = lines.recv_timeout(PATIENCE) {
        seen.push(line);
        match seen.len() {
            20 => drop(pair.home.kill_leader()),
            80 => drop(pair.host.kill_leader()),
            _ => {}
        }
    }
    assert!(child.wait().unwrap().success());
    let expected: Vec<String> = (1..=LINES).map(|nth| format!("line {nth}")).collect();
    assert_eq!(seen, expected);
    pair.home.ended_at_once(&ids[0]);
    let job = pair.home.submit(Work { spill: false, ..Work::new("never", 4, FOR_EVER) });
    pair.home.run(&["job", "cancel", &job]).done();
}

#[test]
fn job_files_submitted_together_count_once_each_when_the_leader_is_killed_meanwhile() {
    const FILES: usize = 400;
    let world = World::new();
    let mut site = world.site(SitePlan { controllers: 3, ..SitePlan::small("berlin") });
    let filler = site.submit(Work::new("filler", 2, FOR_EVER));
    site.await_running(&filler, 1, PATIENCE);
    let files: Vec<String> =
        (0..FILES).map(|_| world.job_file(Work::new("together", 2, 1))).collect();
    let mut args = vec!["job", "run", "-o", "name"];
    args.extend(files.iter().map(String::as_str));
    let submitting = world
        .command(Path::new(FEDERATION), &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let listed = |site: &Site<'_>| site.list(&["job", "ls", "--limit", "1000"]).len();
    await_that("the first are admitted", PATIENCE, || listed(&site) > 1);
    site.kill_leader();
    let said: Said = submitting.wait_with_output().unwrap().into();
    let printed = said.done();
    let ids: BTreeSet<&str> = printed.lines().collect();
    assert_eq!((printed.lines().count(), ids.len()), (FILES, FILES));
    await_that("all are listed, and no more", PATIENCE, || listed(&site) == FILES + 1);
}

#[test]
fn of_files_submitted_together_none_is_when_one_cannot_be_read() {
    let world = World::new();
    let site = world.site(SitePlan::small("berlin"));
    let good = world.job_file(Work::new("good", 1, 1));
    let bad = world.file("kind: Job\n");
    let large = world.job_file(Work::new("large", 8, 1));
    site.run(&["job", "run", &good, &bad]).refused(2, "invalid-argument");
    site.run(&["job", "run", &good, &good, "--name", "x"]).refused(2, "invalid-argument");
    assert!(site.list(&["job", "ls", "--all"]).is_empty());
    let said = site.run(&["job", "run", &good, &large, "-o", "name"]);
    assert_eq!((said.code, said.out.lines().count()), (6, 1), "{said:?}");
    assert!(said.err.contains(&format!("{large} was not submitted: ")), "{said:?}");
    site.ended_at_once(said.out.trim());
}
