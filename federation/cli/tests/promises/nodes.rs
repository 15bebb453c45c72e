//! Agents are killed, stopped, drained and started twice.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{PATIENCE, SHORT_TERMS, Site, SitePlan, World};
use crate::process::{await_that, descendants, of_job, send_all};
use crate::work::{FOR_EVER, Work};

/// How long a task may outlive its agent.
const ORPHAN_MAX: Duration = Duration::from_secs(3);

fn plan(nodes: usize) -> SitePlan {
    SitePlan { nodes, gpus: 4, terms: SHORT_TERMS, ..SitePlan::small("berlin") }
}

/// Which of the site's agents runs a job.
fn agent_that_runs(site: &Site<'_>, id: &str) -> usize {
    let job = site.job(id);
    let name = job["nodes"][0].as_str().unwrap();
    let nth: usize = name.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    nth - 1
}

fn starts_job(site: &Site<'_>, beats: u32) -> String {
    let id = site.submit(Work::new("work", 4, beats));
    site.await_running(&id, 1, PATIENCE);
    assert!(!of_job(&id, Some(1)).is_empty());
    id
}

fn await_orphans_gone(id: &str) {
    let begun = Instant::now();
    await_that("the killed agent's tasks are gone", ORPHAN_MAX, || of_job(id, Some(1)).is_empty());
    eprintln!("the tasks were gone {:?} after their agent was killed", begun.elapsed());
}

/// Waits for the next attempt; the first must have left nothing behind. An attempt that was given
/// up before it began counts as one.
fn await_next(site: &Site<'_>, id: &str) {
    let begun = Instant::now();
    let runs_again = || {
        let later = of_job(id, None).len() > of_job(id, Some(1)).len();
        assert!(!later || of_job(id, Some(1)).is_empty(), "two attempts at once");
        later
    };
    await_that("the job runs again", PATIENCE, runs_again);
    let span = begun.elapsed();
    let job = site.await_state(id, "finished", PATIENCE);
    assert_eq!(job["exit_code"], 0, "{job}");
    let last = job["epoch"].as_u64().unwrap();
    eprintln!("the next attempt, epoch {last}, began {span:?} later");
    assert!(last >= 2, "{job}");
    let witness = site.world.witness();
    witness.has_no_two_copies();
    assert_eq!(witness.attempt(id, 1).unwrap().ends, 0);
    assert_eq!(witness.attempt(id, last).unwrap().ends, 1);
}

#[test]
fn a_killed_agent_that_comes_back_starts_its_job_again_and_alone() {
    let world = World::new();
    let mut site = world.site(plan(1));
    let id = starts_job(&site, 60);
    site.agents[0].kill();
    await_orphans_gone(&id);
    site.agents[0].start();
    await_next(&site, &id);
}

#[test]
fn the_job_of_a_killed_agent_goes_to_another_node() {
    let world = World::new();
    let mut site = world.site(plan(2));
    let id = starts_job(&site, 60);
    let nth = agent_that_runs(&site, &id);
    site.agents[nth].kill();
    await_orphans_gone(&id);
    await_next(&site, &id);
    assert_ne!(agent_that_runs(&site, &id), nth);
}

/// The processes between a site's agent and the tasks of a job.
fn supervisors(site: &Site<'_>, nth: usize, id: &str) -> Vec<u32> {
    let tasks = of_job(id, None);
    let mut pids = descendants(site.agents[nth].pid());
    pids.retain(|pid| !tasks.contains(pid));
    assert!(!pids.is_empty());
    pids
}

#[test]
fn the_tasks_of_a_killed_supervisor_end_before_another_attempt_begins() {
    let world = World::new();
    let site = world.site(plan(2));
    let id = starts_job(&site, 60);
    let nth = agent_that_runs(&site, &id);
    send_all(&supervisors(&site, nth, &id), Signal::KILL);
    await_orphans_gone(&id);
    await_next(&site, &id);
}

#[test]
fn an_agent_that_was_killed_with_its_supervisors_ends_their_tasks_when_it_is_back() {
    let world = World::new();
    let mut site = world.site(plan(1));
    let id = starts_job(&site, 60);
    send_all(&supervisors(&site, 0, &id), Signal::KILL);
    site.agents[0].kill();
    site.agents[0].start();
    await_next(&site, &id);
}

#[test]
fn the_tasks_of_a_stopped_agent_end_before_another_attempt_begins() {
    let world = World::new();
    let site = world.site(plan(2));
    let id = starts_job(&site, 120);
    let nth = agent_that_runs(&site, &id);
    site.agents[nth].send(Signal::STOP);
    await_that("the job runs again", PATIENCE, || !of_job(&id, Some(2)).is_empty());
    assert!(of_job(&id, Some(1)).is_empty(), "two attempts at once");
    site.agents[nth].send(Signal::CONT);
    await_next(&site, &id);
    site.await_up();
}

#[test]
fn a_node_that_drains_finishes_what_it_runs_and_starts_nothing() {
    let world = World::new();
    let site = world.site(plan(2));
    let id = starts_job(&site, 50);
    let nth = agent_that_runs(&site, &id);
    let node = format!("b{}", nth + 1);
    site.run(&["node", "drain", &node]).done();
    let later = site.submit(Work::new("later", 2, 5));
    let job = site.await_state(&later, "finished", PATIENCE);
    assert_ne!(job["nodes"][0], node.as_str(), "{job}");
    site.ended_at_once(&id);
    let waits = site.submit(Work { gpus: 4, ..Work::new("large", 4, FOR_EVER) });
    let waits_too = site.submit(Work { gpus: 4, ..Work::new("larger", 4, 5) });
    site.await_running(&waits, 1, PATIENCE);
    assert_ne!(site.job(&waits)["nodes"][0], node.as_str());
    assert_eq!(site.job(&waits_too)["state"], "queued");
    site.run(&["node", "drain", &node, "--undo"]).done();
    let job = site.await_state(&waits_too, "finished", PATIENCE);
    assert_eq!(job["nodes"][0], node.as_str(), "{job}");
    site.run(&["node", "drain", "nowhere"]).refused(3, "not-found");
}

#[test]
fn a_second_agent_with_the_same_directory_is_refused_and_disturbs_nothing() {
    let world = World::new();
    let site = world.site(plan(1));
    let id = starts_job(&site, 50);
    let said = world.run_agent(&["run", "--dir", &world.text("b1"), "--declare", "b200:4"]);
    said.refused(5, "conflict");
    assert!(said.err.contains(&site.agents[0].pid().to_string()), "{said:?}");
    site.ended_at_once(&id);
}

#[test]
fn a_gang_that_requires_one_rack_lands_in_one_and_the_next_is_told_what_it_lacks() {
    let world = World::new();
    // b1 and b3 stand in one rack, b2 and b4 in the other.
    let site = world.site(SitePlan { nodes: 4, racks: 2, ..SitePlan::small("berlin") });
    let gang = |name: &str, nodes: u32, topology: &str| {
        let text = format!(
            "apiVersion: spillway/v1\nkind: Job\nmetadata: {{name: {name}}}\nspec:\n  \
             replicas: {{nodes: {nodes}}}\n  resources: {{gpus: {{count: 2}}}}\n  \
             placement: {{topology: {{{topology}}}}}\n  run: {{command: sleep 600}}\n"
        );
        let file = world.file(&text);
        site.run(&["job", "run", &file, "-o", "name"])
    };
    let nodes_of = |id: &str| {
        let job = site.await_state(id, "running", PATIENCE);
        let nodes = job["nodes"].as_array().unwrap().iter();
        nodes.map(|node| node.as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<BTreeSet<_>>();
    // Of free nodes that are alike any may be taken.
    let drain = |node: &str| site.run(&["node", "drain", node]).done();
    let undrain = |node: &str| site.run(&["node", "drain", node, "--undo"]).done();
    let _ = ["b2", "b3", "b4"].map(drain);
    let alone = gang("alone", 1, "").done();
    assert_eq!(nodes_of(alone.trim()), set(&["b1"]));
    undrain("b2");
    let beside = gang("beside", 1, "").done();
    assert_eq!(nodes_of(beside.trim()), set(&["b2"]));
    let _ = ["b3", "b4"].map(undrain);
    // Two nodes are free, in different racks.
    let first = gang("first", 2, "sameRack: require").done();
    let why = site.json(&["job", "why", first.trim()]);
    let said = why["sites"][0]["constraint"].as_str().unwrap_or_default().to_owned();
    assert_eq!(said, "rack-local: largest free in one rack is 2 of 4 GPUs", "{why}");
    site.run(&["job", "cancel", alone.trim()]).done();
    assert_eq!(nodes_of(first.trim()), set(&["b1", "b3"]));
    gang("second", 3, "sameRack: require").refused(6, "unplaceable");
}
