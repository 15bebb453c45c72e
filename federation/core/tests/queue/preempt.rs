//! Who is stopped for whom, and what becomes of both.

use federation_core::{
    AttemptKey, Command, JobPhase, PREEMPTIONS_MAX, PreemptJobs, Reply, State, job_view, queue_why,
};
use specs::codec::OrDefault;
use specs::id::{Epoch, JobId};
use specs::job::{JobClass, JobSpec, Needs, Together, Vicinity};
use specs::unit::{Instant, Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::{Checkpoint, Ending, Facts, Outcome};
use specs::wire::client::{JobState, JobView};

use crate::world::{Site, job};

fn urgent(nodes: u32, gpus: u32) -> JobSpec {
    JobSpec { priority: 90, account: None, ..job("acme", nodes, gpus) }
}

fn plain(nodes: u32, gpus: u32) -> JobSpec {
    JobSpec { priority: 50, account: None, ..job("acme", nodes, gpus) }
}

/// Nodes of that many GPUs each, and what is submitted to them, one after the other, a second apart.
fn full(nodes: &[u16], jobs: Vec<JobSpec>) -> Site {
    let mut site = Site::preempting("berlin");
    for (nth, gpus) in nodes.iter().enumerate() {
        site.node(&format!("n{nth}"), "b200", *gpus);
    }
    for (id, spec) in (0..).zip(jobs) {
        site.submit(id, spec);
        site.poll();
        site.start(id);
        site.now += 1_000;
    }
    site
}

/// The ids of those that are being stopped.
fn stopping(site: &Site, ids: std::ops::Range<u128>) -> Vec<u128> {
    ids.filter(|id| site.state_of(*id) == JobState::Stopping).collect()
}

fn stopped() -> Outcome {
    Outcome::of(Ending::Stopped, "as ordered")
}

/// Looks until nothing more is to be done at this moment.
fn settle(site: &mut Site) {
    site.poll();
    site.poll();
    site.now += 1_000;
    site.poll();
}

#[test]
fn a_job_of_higher_priority_has_the_gpus_once_the_other_has_ended_and_not_before() {
    let mut site = full(&[2], vec![plain(1, 2)]);
    site.submit(9, urgent(1, 2));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..1), [0]);
    assert_eq!(site.state_of(9), JobState::Queued, "nothing is free before it has ended");
    site.end(0, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([0, 9]), [9]);
    assert_eq!(site.state_of(0), JobState::Queued, "it waits for its next try");
    site.finish(9);
    site.poll();
    assert_eq!(site.holding([0]), [0]);
}

#[test]
fn nobody_is_stopped_for_one_of_equal_priority_or_when_he_says_that_he_must_not_be() {
    let firm = JobSpec { preemptible: Some(false), ..plain(1, 1) };
    let service = JobSpec { class: JobClass::Service, ..plain(1, 1) };
    let mut site = full(&[3], vec![plain(1, 1), firm, service]);
    site.submit(8, plain(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..3), []);
    site.submit(9, urgent(1, 3));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..3), [], "two of three GPUs will not come");
}

#[test]
fn the_least_is_taken_that_makes_room_and_of_equals_who_did_least() {
    // A gang over both nodes, and small jobs beside it.
    let jobs = vec![plain(2, 2), plain(1, 1), plain(1, 1), plain(1, 1), plain(1, 1)];
    let mut site = full(&[4, 4], jobs);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..5), [4], "the youngest of the smallest");
    let mut site = full(&[4, 4], vec![plain(2, 2), plain(1, 1), plain(1, 1), plain(1, 1)]);
    site.submit(9, urgent(1, 2));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..4), [3], "beside the GPU that is free");
}

#[test]
fn what_was_saved_is_not_lost_and_who_loses_least_leaves() {
    let minute = 60_000;
    let mut site = full(&[4], vec![plain(1, 2), plain(1, 2)]);
    site.now += 600 * minute;
    let saved = site.now - minute;
    site.save(0, saved);
    assert_eq!(view(&site, 0).saved_at, Some(Timestamp(saved)));
    assert_eq!(view(&site, 1).saved_at, None);
    site.submit(9, urgent(1, 2));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..2), [0], "it began first, and loses a minute");

    // A large gang that has just saved loses less than a small job that never did.
    let mut site = full(&[4, 4], vec![plain(2, 3), plain(1, 1), plain(1, 1)]);
    site.now += 600 * minute;
    site.save(0, site.now);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..3), [0]);
    // And to start again costs something, too: so of the young the smallest leaves.
    let mut site = full(&[4, 4], vec![plain(2, 3), plain(1, 1), plain(1, 1)]);
    site.save(0, site.now);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..3), [2]);
}

#[test]
fn only_the_attempt_that_runs_counts_and_only_where_it_runs() {
    let mut site = full(&[2, 2], vec![plain(1, 2), plain(1, 2)]);
    let lease = |site: &Site, id| match &site.state.jobs.get(&JobId(id)).unwrap().phase {
        JobPhase::Leased(leased) => leased.lease,
        JobPhase::Queued(_) | JobPhase::Loaned(_) | JobPhase::Ended(_) => panic!("it runs"),
    };
    let node = |site: &Site, id| {
        let lease = lease(site, id);
        site.state.leases.get(&lease).unwrap().parts[0].node.clone()
    };
    let at = Timestamp(site.now);
    let of = |lease| vec![Checkpoint { lease, at }];
    let (first, second) = (lease(&site, 0), lease(&site, 1));
    let (here, there) = (node(&site, 0), node(&site, 1));
    site.report(there.clone(), of(first));
    assert_eq!(view(&site, 0).saved_at, None, "another node knows nothing of it");
    site.report(here.clone(), of(first));
    site.report(there, of(second));
    assert_eq!([0, 1].map(|id| view(&site, id).saved_at), [Some(at), Some(at)]);
    site.end(0, Millis(10), &Outcome::of(Ending::Lost, "its agent ended"));
    site.poll();
    assert_ne!(lease(&site, 0), first, "it runs anew");
    assert_eq!(view(&site, 0).saved_at, None);
    site.report(here, vec![]);
    assert_eq!(view(&site, 1).saved_at, Some(at), "each node tells of itself alone");
}

fn view(site: &Site, id: u128) -> JobView {
    let job = site.state.jobs.get(&JobId(id)).unwrap();
    job_view(&site.state, job, Some((&site.leader, Instant(site.now))))
}

/// A site whose nodes have 8 CPUs and two GPUs each and stand in a rack of that name, and are full.
fn racks(names: &[&str], cpu_milli: u32) -> Site {
    let mut site = Site::preempting("berlin");
    for (id, rack) in (0..).zip(names) {
        let facts = Facts {
            cpu_milli: 8_000,
            memory_mib: 1_000,
            rack: (*rack).into(),
            attributes: [("rack".to_owned(), (*rack).to_owned())].into(),
            ..Facts::default()
        };
        site.node_that_says(&format!("n{id}"), "b200", 2, facts);
        site.submit(id, needy(plain(1, 2), Needs { cpu_milli, ..Needs::default() }));
        site.poll();
        site.start(id);
        site.now += 1_000;
    }
    site
}

fn needy(spec: JobSpec, needs: Needs) -> JobSpec {
    JobSpec { needs: OrDefault(needs), ..spec }
}

#[test]
fn only_who_is_on_nodes_that_will_do_is_stopped() {
    // The last one has lost least, and stands where the urgent one may not.
    let mut site = racks(&["a", "b", "a"], 1_000);
    let attributes = [("rack".to_owned(), "b".to_owned())].into();
    site.submit(9, needy(urgent(1, 1), Needs { attributes, ..Needs::default() }));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..3), [1]);
    site.end(1, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn a_gang_that_must_stand_together_has_one_place_cleared_for_it() {
    let mut site = racks(&["a", "b", "a", "b", "c"], 1_000);
    let together = Some(Together { level: Vicinity::Rack, required: true, group_nodes: 0 });
    site.submit(9, needy(urgent(2, 2), Needs { together, ..Needs::default() }));
    settle(&mut site);
    // Both of b began later than both of a; c has no room for two.
    assert_eq!(stopping(&site, 0..5), [1, 3]);
    for id in [1, 3] {
        site.end(id, Millis(10), &stopped());
    }
    site.poll();
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn who_has_the_cpu_leaves_too_and_nobody_leaves_where_there_is_not_enough() {
    let mut site = racks(&["a"], 2_000);
    site.finish(0);
    // One GPU is free all the while; what is short is CPU.
    site.submit(1, needy(plain(1, 1), Needs { cpu_milli: 6_000, ..Needs::default() }));
    site.poll();
    site.start(1);
    site.now += 1_000;
    site.submit(8, needy(urgent(1, 1), Needs { cpu_milli: 9_000, ..Needs::default() }));
    settle(&mut site);
    assert_eq!(stopping(&site, 1..2), Vec::<u128>::new(), "no node has as much");
    site.submit(9, needy(urgent(1, 1), Needs { cpu_milli: 4_000, ..Needs::default() }));
    settle(&mut site);
    assert_eq!(stopping(&site, 1..2), [1]);
    site.end(1, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn what_was_freed_for_a_job_that_cannot_have_it_is_everybody_s() {
    let mut site = racks(&["b"], 1_000);
    let attributes = [("rack".to_owned(), "b".to_owned())].into();
    site.submit(9, needy(urgent(1, 2), Needs { attributes, ..Needs::default() }));
    settle(&mut site);
    site.end(0, Millis(10), &stopped());
    // The node says by now that it is another.
    site.register("n0", 2, ("b200", 2), Facts { cpu_milli: 8_000, ..Facts::default() });
    for _ in 0..3 {
        settle(&mut site);
    }
    assert_eq!(site.holding([0, 9]), [0], "who left for it is back");
}

#[test]
fn a_gang_loses_all_or_none_and_frees_what_it_has_everywhere() {
    let mut site = full(&[2, 2], vec![plain(2, 2)]);
    site.submit(8, urgent(1, 2));
    site.submit(9, urgent(1, 2));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..1), [0]);
    let JobPhase::Leased(leased) = &site.state.jobs.get(&JobId(0)).unwrap().phase else {
        panic!("the gang has ended");
    };
    assert!(site.state.leases.get(&leased.lease).unwrap().stop.is_some());
    site.end(0, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([0, 8, 9]), [8, 9]);
    assert_eq!(site.state.jobs.get(&JobId(0)).unwrap().preemptions, 1, "once for both");
}

#[test]
fn what_becomes_free_bit_by_bit_is_kept_for_whom_it_is_freed() {
    let mut site = full(&[1, 1], vec![plain(1, 1), plain(1, 1)]);
    site.submit(9, urgent(2, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..2), [0, 1]);
    site.end(0, Millis(10), &stopped());
    site.submit(2, plain(1, 1));
    for _ in 0..3 {
        site.poll();
        site.now += 1_000;
    }
    assert_eq!(site.holding([0, 2, 9]), [], "half of the room is there, and kept");
    site.end(1, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([0, 1, 2, 9]), [9]);
}

#[test]
fn another_leader_goes_on_where_the_last_one_left() {
    let mut site = full(&[1, 1], vec![plain(1, 1), plain(1, 1)]);
    site.submit(9, urgent(2, 1));
    settle(&mut site);
    site.end(0, Millis(10), &stopped());
    site.leader = federation_core::Leader::new(Instant(site.now), 2);
    settle(&mut site);
    settle(&mut site);
    let preemptions = |id| site.state.jobs.get(&JobId(id)).unwrap().preemptions;
    assert!(preemptions(0) <= 2 && preemptions(1) == 1, "nobody is stopped anew in vain");
    if site.holding([0]) == [0] {
        site.end(0, Millis(10), &stopped());
    }
    site.end(1, Millis(10), &stopped());
    site.poll();
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn who_was_stopped_for_others_loses_no_retry_and_is_left_alone_in_the_end() {
    let mut site = full(&[1], vec![JobSpec { retries: 0, ..plain(1, 1) }]);
    for nth in 0..PREEMPTIONS_MAX {
        let id = 100 + u128::from(nth);
        site.submit(id, urgent(1, 1));
        settle(&mut site);
        assert_eq!(stopping(&site, 0..1), [0], "time {nth}");
        site.end(0, Millis(10), &stopped());
        site.poll();
        site.finish(id);
        site.poll();
        assert_eq!(site.holding([0]), [0], "it is its turn again");
        site.now += 2_000;
    }
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..1), [], "it runs to its end");
    let job = site.state.jobs.get(&JobId(0)).unwrap();
    assert_eq!((job.losses, job.preemptions), (0, PREEMPTIONS_MAX));
    site.finish(0);
    site.poll();
    assert_eq!(site.state_of(0), JobState::Finished);
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn who_ends_by_himself_while_he_is_stopped_has_finished() {
    let mut site = full(&[1], vec![plain(1, 1)]);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    site.finish(0);
    site.poll();
    assert_eq!(site.state_of(0), JobState::Finished);
    assert_eq!(site.holding([9]), [9]);
}

#[test]
fn a_cancel_of_who_is_being_stopped_is_a_cancel() {
    let mut site = full(&[1], vec![plain(1, 1)]);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    let at = Timestamp(site.now);
    site.apply(Command::CancelJob(federation_core::CancelJob { job: JobId(0), at }));
    site.end(0, Millis(10), &stopped());
    assert_eq!(site.state_of(0), JobState::Cancelled);
}

#[test]
fn an_account_gets_back_what_it_is_guaranteed_and_others_have_borrowed() {
    let mut site = Site::preempting("berlin");
    site.node("n1", "b200", 4);
    site.quota("acme", None, 2, 4);
    site.quota("beta", None, 1, 4);
    for id in 0..4 {
        site.submit(id, job("beta", 1, 1));
        site.poll();
        site.start(id);
        site.now += 1_000;
    }
    for id in 10..14 {
        site.submit(id, job("acme", 1, 1));
    }
    for _ in 0..6 {
        settle(&mut site);
        for id in stopping(&site, 0..4) {
            site.end(id, Millis(10), &stopped());
        }
    }
    assert_eq!(site.holding(10..14), [10, 11], "what it is guaranteed, and no more");
    assert_eq!(site.holding(0..4), [0, 1], "the youngest went");
}

#[test]
fn what_several_leaders_decide_leaves_an_equal_what_it_is_guaranteed() {
    for version in [ClusterVersion::PREEMPTION, ClusterVersion::SITES] {
        let mut site = Site::preempting("berlin");
        site.raise_to(version);
        site.node("n1", "b200", 4);
        site.quota("acme", None, 1, 4);
        site.quota("beta", None, 3, 4);
        for id in 0..4 {
            site.submit(id, job("beta", 1, 1));
            site.poll();
            site.start(id);
        }
        site.submit(10, job("acme", 1, 1));
        site.submit(11, job("acme", 1, 1));
        let stops = |site: &State, job, victim| {
            let epoch = site.jobs.get(&JobId(victim)).unwrap().epoch;
            let victims = vec![AttemptKey { job: JobId(victim), epoch }];
            let (after, times, class) = (Epoch(0), 0, "b200".parse().unwrap());
            let at = Timestamp(1);
            Command::PreemptJobs(PreemptJobs { job: JobId(job), after, times, class, victims, at })
        };
        let (one, other) = (stops(&site.state, 10, 0), stops(&site.state, 11, 1));
        assert_eq!(site.apply(one), Reply::Done, "one GPU is more than it is guaranteed");
        let is_taken = site.apply(other) == Reply::Done;
        // Members that check each command alone must go on to do so.
        assert_eq!(is_taken, version < ClusterVersion::SITES);
    }
}

#[test]
fn a_command_that_is_late_stops_nobody() {
    let mut site = full(&[2], vec![plain(1, 1), plain(1, 1)]);
    site.submit(9, urgent(1, 1));
    let stops: Vec<Command> = site.proposes();
    let [Command::PreemptJobs(it)] = stops.as_slice() else { panic!("{stops:?}") };
    let late = |site: &mut Site, it: &PreemptJobs| site.apply(Command::PreemptJobs(it.clone()));
    let other = it.victims[0].job == JobId(0);
    let (victim, spared) = if other { (0, 1) } else { (1, 0) };

    // Another attempt, an equal, the job itself, twice the same, nobody.
    let mut wrong = it.clone();
    wrong.victims[0].epoch.0 += 1;
    assert!(matches!(late(&mut site, &wrong), Reply::NoOp(_)));
    let mut wrong = it.clone();
    wrong.after.0 += 1;
    assert!(matches!(late(&mut site, &wrong), Reply::NoOp(_)));
    let mut wrong = it.clone();
    wrong.victims.push(it.victims[0].clone());
    assert!(matches!(late(&mut site, &wrong), Reply::NoOp(_)));
    let wrong = PreemptJobs { victims: vec![], ..it.clone() };
    assert!(matches!(late(&mut site, &wrong), Reply::NoOp(_)));
    assert_eq!(stopping(&site, 0..2), []);

    // Once is enough; the same again, or after it started, does nothing.
    assert_eq!(late(&mut site, it), Reply::Done);
    assert!(matches!(late(&mut site, it), Reply::NoOp(_)));
    let mut again = it.clone();
    again.victims[0].job = JobId(spared);
    assert!(matches!(late(&mut site, &again), Reply::NoOp(_)), "room was made already");
    assert_eq!(stopping(&site, 0..2), [victim]);
    site.end(victim, Millis(10), &stopped());
    site.poll();
    let again = PreemptJobs { times: 1, ..again };
    assert!(matches!(late(&mut site, &again), Reply::NoOp(_)), "it runs");
    assert_eq!(stopping(&site, 0..2), []);
}

#[test]
fn the_log_stops_nobody_who_may_not_be_stopped() {
    let mut site = full(&[2], vec![plain(1, 1), urgent(1, 1)]);
    site.submit(9, urgent(1, 1));
    let stops: Vec<Command> = site.proposes();
    let [Command::PreemptJobs(it)] = stops.as_slice() else { panic!("{stops:?}") };
    assert_eq!(it.victims[0].job, JobId(0));

    let mut wrong = it.clone();
    wrong.victims[0].job = JobId(1);
    let reply = site.apply(Command::PreemptJobs(wrong));
    assert_eq!(reply, Reply::NoOp("a job that was to be stopped may not be"), "an equal");
    assert_eq!(stopping(&site, 0..2), []);
    assert_eq!(site.apply(Command::PreemptJobs(it.clone())), Reply::Done);
    assert_eq!(stopping(&site, 0..2), [0]);
}

#[test]
fn a_site_below_the_version_stops_nobody() {
    let mut site = Site::found("berlin");
    site.node("n1", "b200", 1);
    site.submit(0, plain(1, 1));
    site.poll();
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    assert_eq!(stopping(&site, 0..1), []);
    let bytes = site.state.encode();
    site.raise_to(ClusterVersion::PREEMPTION);
    settle(&mut site);
    assert_eq!(stopping(&site, 0..1), [0]);
    assert_ne!(bytes, site.state.encode());
    let again = State::decode(&site.state.encode()).unwrap();
    assert_eq!(again, site.state);
}

#[test]
fn both_sides_are_told() {
    let mut site = full(&[1], vec![plain(1, 1)]);
    site.submit(9, urgent(1, 1));
    settle(&mut site);
    let why = |site: &Site, id| {
        let job = site.state.jobs.get(&JobId(id)).unwrap();
        queue_why(&site.state, &site.leader, Timestamp(site.now), job)
    };
    let (victim, preemptor) = (JobId(0).to_string(), JobId(9).to_string());
    assert!(why(&site, 9)[0].constraint.contains(&victim), "{:?}", why(&site, 9));
    site.end(0, Millis(10), &stopped());
    site.poll();
    let told = why(&site, 0);
    assert!(told.iter().any(|it| it.constraint.contains(&preemptor)), "{told:?}");
    let view =
        |site: &Site, id| job_view(&site.state, site.state.jobs.get(&JobId(id)).unwrap(), None);
    let (first, second) = (view(&site, 0), view(&site, 9));
    assert!(first.reason.contains(&preemptor), "{}", first.reason);
    assert_eq!(first.attempts[0].preempted_by, Some(JobId(9)));
    assert_eq!((first.preemptions, second.preempted), (1, vec![JobId(0)]));
}
