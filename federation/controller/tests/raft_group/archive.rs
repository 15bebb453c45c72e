//! Ended jobs leave the state and stay on the disk of every member.

use federation_controller::raft::{ArchiveView, RaftConfig};
use federation_core::{AdmitJobs, ArchiveJobs, CancelJob, Command, PackedSpec};
use specs::codec::OrDefault;
use specs::id::JobId;
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::cluster::Cluster;

const JOBS: u128 = 300;
const AT_ONCE: u128 = 20;

fn snapshots_often(config: &mut RaftConfig) {
    config.snapshot_entries = 40;
    config.kept_entries = 5;
    config.segment_bytes = 64 << 10;
}

fn spec() -> JobSpec {
    JobSpec {
        name: "job".parse().unwrap(),
        class: JobClass::Training,
        priority: 0,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: Vec::new(),
        array: u32::try_from(AT_ONCE).unwrap(),
        command: vec!["true".to_owned()],
        env: std::collections::BTreeMap::new(),
        workdir: String::new(),
        grace: Millis(0),
        retries: 0,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: Vec::new(), residency: Vec::new(), spill: false },
        time_limit: Millis(0),
        labels: std::collections::BTreeMap::new(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    }
}

/// Takes jobs in, ends them, and lets them go.
fn archive(cluster: &Cluster, from: u128, to: u128) {
    for first in (from..to).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let jobs: Vec<JobId> = (first..first + AT_ONCE).map(JobId).collect();
        let at = Timestamp(1);
        let request: specs::id::RequestId = format!("request-{first}").parse().unwrap();
        cluster.propose(&Command::AdmitJobs(AdmitJobs {
            request: request.clone(),
            jobs: jobs.clone(),
            spec: PackedSpec::from(&spec()),
            submitter: "ada".to_owned(),
            at,
        }));
        for &job in &jobs {
            cluster.propose(&Command::CancelJob(CancelJob { job, at }));
        }
        let requests = vec![request];
        cluster.propose(&Command::ArchiveJobs(ArchiveJobs { jobs, requests: Vec::new() }));
        cluster.propose(&Command::ArchiveJobs(ArchiveJobs { jobs: Vec::new(), requests }));
    }
}

fn complete(cluster: &Cluster, id: u64, jobs: u128) {
    let archived = u64::try_from(jobs).unwrap();
    let whole = ArchiveView { archived, missing: 0 };
    cluster
        .until("a whole archive", |cluster| (cluster.group(id).archive() == whole).then_some(()));
    let found = cluster.on(id, |group| async move { group.archived_newest(10_000).await }).unwrap();
    let ids: Vec<u128> = found.iter().map(|job| job.id.0).collect();
    assert_eq!(ids, (1..=jobs).rev().collect::<Vec<_>>(), "member {id}");
    assert!(found.iter().all(federation_core::Job::has_ended));
}

#[test]
fn who_missed_what_left_the_state_gets_it_from_the_others() {
    let mut cluster = Cluster::founded(3, snapshots_often);
    archive(&cluster, 1, JOBS / 3);
    let leader = cluster.leader();
    let behind = (1..=3).find(|id| *id != leader).unwrap();
    cluster.converge();
    let had = cluster.group(behind).metrics().last_log;
    cluster.kill(behind);
    archive(&cluster, JOBS / 3 + 1, JOBS);
    cluster.until("a purged log", |cluster| {
        (cluster.group(cluster.leader()).metrics().purged > had).then_some(())
    });
    cluster.start(behind);
    let state = cluster.converge();
    assert!(state.jobs.is_empty() && state.requests.is_empty());
    assert!(cluster.group(behind).metrics().snapshot > had);
    for id in 1..=3 {
        complete(&cluster, id, JOBS);
    }
    // And from their own disks again.
    for id in 1..=3 {
        cluster.kill(id);
    }
    for id in 1..=3 {
        cluster.start(id);
    }
    cluster.converge();
    for id in 1..=3 {
        complete(&cluster, id, JOBS);
    }
    let found = cluster.on(1, |group| async move { group.archived_job(JobId(7)).await }).unwrap();
    assert_eq!(found.map(|job| job.id), Some(JobId(7)));
    let none = cluster.on(1, |group| async move { group.archived_job(JobId(7_777)).await });
    assert_eq!(none.unwrap(), None);
}
