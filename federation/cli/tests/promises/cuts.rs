//! A whole site falls silent and comes back.

use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::cluster::{PATIENCE, Pair, SHORT_TERMS, World};
use crate::process::{await_that, descendants, of_job, send_all};
use crate::work::{FOR_EVER, Work, uptime};

/// The terms of `SHORT_TERMS`.
const LOAN_TERM: Duration = Duration::from_secs(12);
const NODE_LEASE: Duration = Duration::from_secs(4);
/// What re-placing may take beyond the terms.
const AGAIN_MAX: Duration = Duration::from_secs(10);

/// Hundredths of a second that a task may run on after it was suspended together with its
/// supervisor: the kernel wakes both at once, and the supervisor needs a core to kill.
const WAKING_MAX: u64 = 100;

/// What of the host falls silent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Silence {
    /// Controllers and agents; supervisors and tasks go on.
    Orders,
    /// Every process, as when a machine is suspended.
    Everything,
}

/// The processes that fall silent; controllers first, tasks last.
fn silenced(pair: &Pair<'_>, silence: Silence) -> Vec<u32> {
    let mut pids: Vec<u32> = pair.host.controllers.iter().map(|it| it.daemon.pid()).collect();
    for agent in &pair.host.agents {
        pids.push(agent.pid());
        if silence == Silence::Everything {
            pids.extend(descendants(agent.pid()));
        }
    }
    pids
}

/// Stops the host for longer than all its terms while it runs guests of each kind.
fn fall_silent(silence: Silence) {
    let world = World::new();
    let pair = world.federation(1, SHORT_TERMS);
    let filler = pair.fill_home();
    let long = Work::new("long", 1, 220);
    let early = Work::new("early", 1, 70);
    let ids = pair.spill(&[
        Work { on_partition: "wait", ..long },
        Work { on_partition: "wait", ..early },
        long,
        Work { name: "long-too", ..long },
        early,
    ]);
    let (waiting, restarting) = ids.split_at(2);
    pair.home.run(&["job", "cancel", &filler]).done();
    pair.home.await_state(&filler, "cancelled", PATIENCE);
    let pids = silenced(&pair, silence);
    let begun = Instant::now();
    send_all(&pids, Signal::STOP);
    for id in &restarting[..2] {
        await_that("the job runs again at home", PATIENCE, || !of_job(id, Some(2)).is_empty());
        assert!(silence == Silence::Everything || of_job(id, Some(1)).is_empty());
    }
    let again = begun.elapsed();
    eprintln!("placed again {again:?} after the host fell silent");
    assert!(again < LOAN_TERM + NODE_LEASE + AGAIN_MAX, "{again:?}");
    thread::sleep((LOAN_TERM + NODE_LEASE + Duration::from_secs(1)).saturating_sub(again));
    let woken = uptime();
    send_all(&pids, Signal::CONT);
    for id in waiting {
        pair.home.ended_at_once(id);
    }
    for id in restarting {
        let job = pair.home.await_state(id, "finished", PATIENCE);
        assert_eq!(job["exit_code"], 0, "{job}");
    }
    assert_eq!(pair.home.job(&restarting[0])["epoch"], 2);
    check_attempts(&world, restarting, silence, woken);
}

/// What was stopped runs again at the very moment at which its supervisor does: it ends at once,
/// and that is all that can be had. In every other case no two attempts meet at all.
fn check_attempts(world: &World, restarting: &[String], silence: Silence, woken: u64) {
    let witness = world.witness();
    if silence == Silence::Orders {
        witness.has_no_two_copies();
    }
    for id in restarting {
        let Some(first) = witness.attempt(id, 1) else { continue };
        let after = first.last.saturating_sub(woken);
        eprintln!("{id}: its first attempt ran on for {after}0 ms after it was woken");
        assert!(after < WAKING_MAX, "{id} ran on for {after}0 ms beside its next attempt");
    }
}

#[test]
fn a_host_that_is_silent_too_long_loses_what_restarts_and_keeps_what_waits() {
    fall_silent(Silence::Orders);
}

#[test]
fn a_host_that_is_suspended_too_long_goes_on_only_with_what_waits() {
    fall_silent(Silence::Everything);
}

#[test]
fn a_cancelled_job_is_gone_at_its_host_before_it_is_called_cancelled() {
    let world = World::new();
    let pair = world.federation(1, &[]);
    pair.fill_home();
    let ids = pair.spill(&[Work::new("unwanted", 2, FOR_EVER)]);
    let begun = Instant::now();
    pair.home.run(&["job", "cancel", &ids[0]]).done();
    await_that("the cancel is confirmed", PATIENCE, || {
        let is_gone = of_job(&ids[0], None).is_empty();
        let is_confirmed = pair.home.job(&ids[0])["state"] == "cancelled";
        assert!(!is_confirmed || of_job(&ids[0], None).is_empty());
        is_confirmed && is_gone
    });
    eprintln!("confirmed {:?} after the cancel", begun.elapsed());
    assert_eq!(pair.home.run(&["job", "wait", &ids[0]]).code, 125);
    assert_eq!(pair.home.job(&ids[0])["epoch"], 1);
}

#[test]
fn a_cancel_during_a_cut_takes_effect() {
    let world = World::new();
    let pair = world.federation(1, SHORT_TERMS);
    pair.fill_home();
    let restarts = Work::new("restarts", 2, FOR_EVER);
    let ids = pair.spill(&[restarts, Work { name: "waits", on_partition: "wait", ..restarts }]);
    let pids = silenced(&pair, Silence::Orders);
    send_all(&pids, Signal::STOP);
    let begun = Instant::now();
    for id in &ids {
        pair.home.run(&["job", "cancel", id]).done();
    }
    // What restarts is over with its loan, heard or not.
    pair.home.await_state(&ids[0], "cancelled", LOAN_TERM + NODE_LEASE + AGAIN_MAX);
    eprintln!("cancelled {:?} into the cut", begun.elapsed());
    assert!(of_job(&ids[0], None).is_empty());
    assert_eq!(pair.home.job(&ids[1])["state"], "stopping");
    send_all(&pids, Signal::CONT);
    pair.home.await_state(&ids[1], "cancelled", PATIENCE);
    assert!(of_job(&ids[1], None).is_empty());
    for id in &ids {
        assert_eq!(pair.home.job(id)["epoch"], 1);
    }
}
