//! The same request again, and states that must be the same.

use std::collections::BTreeMap;

use federation_controller::raft::look;
use federation_core::{AdmitJobs, CancelJob, Command, PackedSpec, Reply};
use specs::codec::OrDefault;
use specs::id::{ControllerId, JobId};
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::cluster::{Cluster, token};

fn spec() -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        class: JobClass::Training,
        priority: 1,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: vec![],
        array: 1,
        command: vec!["true".into()],
        env: BTreeMap::new(),
        workdir: String::new(),
        grace: Millis(1),
        retries: 1,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: vec![], residency: vec![], spill: true },
        time_limit: Millis(0),
        labels: BTreeMap::new(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

/// A request for two jobs; a controller that is asked again stamps other ids.
fn admit(request: u64, first: u64) -> Command {
    Command::AdmitJobs(AdmitJobs {
        request: format!("request-{request}").parse().unwrap(),
        jobs: (0..2).map(|at| JobId(u128::from(first + at))).collect(),
        spec: PackedSpec::from(&spec()),
        submitter: "ada".into(),
        at: Timestamp(1),
    })
}

#[test]
fn a_request_repeated_after_its_leader_was_killed_makes_one_set_of_jobs() {
    let mut cluster = Cluster::founded(3, |_| ());
    for round in 0..4_u64 {
        let (leader, request) = (cluster.leader(), admit(round, round * 100));
        let group = cluster.group(leader);
        if round % 2 == 1 {
            // It stays with the leader alone.
            let others = (1..=3).filter(|id| *id != leader);
            cluster.cuts.set(others.flat_map(|id| [(leader, id), (id, leader)]));
        }
        let asked = cluster.members[&leader].runtime.spawn(async move {
            // Nobody waits for the answer: the leader dies before or after the command is agreed.
            let _ = group.propose(request).await;
        });
        std::thread::sleep(std::time::Duration::from_millis(round * 2));
        cluster.kill(leader);
        drop(asked);
        cluster.cuts.set([]);
        let again = cluster.propose(&admit(round, round * 100 + 50)).reply;
        let Reply::Jobs { jobs, repeated } = again else { panic!("{again:?}") };
        eprintln!("round {round}: {}", if repeated { "it was agreed" } else { "it was lost" });
        cluster.start(leader);
        let state = cluster.converge();
        assert_eq!(state.jobs.iter().count() as u64, 2 * (round + 1));
        assert!(jobs.iter().all(|id| state.jobs.get(id).is_some()), "{jobs:?}");
        // And whoever leads by now says the same.
        let Reply::Jobs { jobs: same, repeated } =
            cluster.propose(&admit(round, round * 100 + 70)).reply
        else {
            panic!("it was refused")
        };
        assert!(repeated && same == jobs, "{same:?}");
    }
}

#[test]
fn two_changes_of_the_membership_at_once_end_in_one_configuration() {
    let mut cluster = Cluster::founded(3, |_| ());
    cluster.start(4);
    cluster.start(5);
    let of = |ids: &[u64]| -> BTreeMap<ControllerId, String> {
        ids.iter().map(|id| (ControllerId(*id), cluster.address(*id))).collect()
    };
    let (one, other) = (of(&[1, 2, 3, 4]), of(&[1, 2, 3, 5]));
    for _ in 0..20 {
        let (one, other) = (one.clone(), other.clone());
        cluster.on(cluster.leader(), |group| async move {
            let both = tokio::join!(group.reconcile_members(one), group.reconcile_members(other));
            // Refused or late is fine; whoever wants it calls again.
            let _ = both;
        });
        cluster.propose(&token(1));
    }
    cluster.settle(&[1, 2, 3, 4, 5]);
    cluster.converge();
    for id in 1..=5 {
        cluster.until("one configuration", |cluster| {
            let members = cluster.group(id).members();
            let voters = members.iter().filter(|it| it.voter).count();
            (members.len() == 5 && voters == 5).then_some(())
        });
    }
}

#[test]
fn snapshots_of_the_same_entry_hold_the_same_state() {
    let cluster = Cluster::founded(3, |_| ());
    let leader = cluster.leader();
    for batch in 0..20_u64 {
        let commands: Vec<Command> = (batch * 100..batch * 100 + 100)
            .map(|at| match at % 4 {
                0 => admit(at, at * 10),
                // Of the job before it, and of one that never was.
                1 => Command::CancelJob(CancelJob {
                    job: JobId(u128::from((at - 1) * 10 + at % 3)),
                    at: Timestamp(at),
                }),
                // A request that was made before, with other ids.
                2 => admit(at - 2, at * 10),
                _ => token(at),
            })
            .collect();
        cluster.on(leader, |group| async move { group.propose_all(&commands).await }).unwrap();
    }
    cluster.converge();
    let goal = cluster.group(leader).metrics().applied;
    for id in 1..=3 {
        cluster.group(id).ask_for_snapshot();
    }
    let snapshots = (1..=3).map(|id| {
        cluster.until("a snapshot", |cluster| {
            (cluster.group(id).metrics().snapshot >= goal).then_some(())
        });
        let found = look(&cluster.root.path().join(format!("member-{id}"))).unwrap();
        let snapshot = found.snapshot.unwrap().1.unwrap();
        (snapshot.index, snapshot.state.encode())
    });
    let snapshots: Vec<_> = snapshots.collect();
    assert!(snapshots.iter().all(|it| *it == snapshots[0]), "they differ");
}
