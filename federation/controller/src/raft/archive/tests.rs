//! The files of the archive: what survives, what is reported, and what is never lost from both the
//! state and the archive.

use std::sync::Arc;

use federation_core::{
    AdmitJobs, ArchiveJobs, CancelJob, Command, FoundSite, PackedSpec, State, apply, leaving,
};
use federation_wal::Disk;
use federation_wal::sim_disk::{Operation, SimDisk};
use specs::codec::OrDefault;
use specs::id::JobId;
use specs::job::{JobClass, JobSpec, OnPartition, PlacementSpec};
use specs::site::{SiteSpec, Terms};
use specs::unit::{GpuCount, Millis, Timestamp};

use super::store::{Record, Store};
use super::{Archive, ArchiveView};
use crate::raft::snapshot::Threads;

const ROOM: u64 = 1 << 30;
const FILE_BYTES: u64 = 4 << 10;

fn at_once() -> Threads {
    Arc::new(|_, task| {
        task();
        Ok(())
    })
}

fn record(number: u64) -> Record {
    let length = usize::try_from(number % 700).unwrap();
    let job = JobId(u128::from(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) << 40 | 7);
    Record { number, job, bytes: vec![number.to_le_bytes()[0] | 1; length] }
}

fn open(disk: &SimDisk) -> Store {
    Store::open(Arc::new(disk.clone()), FILE_BYTES).unwrap()
}

fn filled(disk: &SimDisk, upto: u64) -> Store {
    let mut store = open(disk);
    for number in 1..=upto {
        store.write(&record(number)).unwrap();
    }
    store.sync().unwrap();
    store
}

#[test]
fn what_was_written_is_read_back_by_number_and_by_id() {
    let disk = SimDisk::new(ROOM);
    drop(filled(&disk, 200));
    assert!(disk.list().unwrap().len() > 5);
    let mut store = open(&disk);
    assert_eq!((store.held(), store.missing(0, 205, 100)), (200, Some((201, 205))));
    for number in 1..=200 {
        assert_eq!(store.read(number).unwrap(), Some(record(number)));
        let job = record(number).job;
        assert_eq!(store.find(job, job, 9), [(job, number)]);
    }
    assert_eq!(store.find(JobId(0), JobId(u128::MAX), 1_000).len(), 200);
}

#[test]
fn a_number_that_is_held_is_not_written_again() {
    let disk = SimDisk::new(ROOM);
    let mut store = filled(&disk, 3);
    let writes = disk.count(Operation::Write);
    store.write(&Record { bytes: vec![0; 9], ..record(2) }).unwrap();
    assert_eq!((disk.count(Operation::Write), store.held()), (writes, 3));
    assert_eq!(store.read(2).unwrap(), Some(record(2)));
}

#[test]
fn gaps_are_told_stretch_by_stretch() {
    let disk = SimDisk::new(ROOM);
    let mut store = open(&disk);
    for number in [1, 2, 5, 9] {
        store.write(&record(number)).unwrap();
    }
    assert_eq!(store.missing(0, 10, 100), Some((3, 4)));
    assert_eq!(store.missing(4, 10, 2), Some((6, 7)));
    assert_eq!(store.missing(8, 10, 100), Some((10, 10)));
    assert_eq!(store.missing(10, 10, 100), None);
}

/// One flipped bit costs at most the record that it is in.
#[test]
fn a_flipped_bit_is_never_taken_for_a_record() {
    let disk = SimDisk::new(ROOM);
    drop(filled(&disk, 12));
    let name = disk.list().unwrap().into_iter().min().unwrap();
    let whole = open(&disk).held();
    let length = disk.read(&name).len();
    let before = disk.read(&name);
    for offset in (0..length).step_by(3) {
        disk.flip_bit(&name, offset, 5);
        let mut store = open(&disk);
        assert!(store.held() + 1 >= whole, "offset {offset}");
        for number in 1..=12 {
            let read = store.read(number).unwrap();
            assert!(read.is_none_or(|it| it == record(number)), "offset {offset}");
        }
        drop(store);
        // An open cuts off an end that is not whole: begin anew.
        if disk.read(&name).len() < length {
            disk.remove(&name).unwrap();
            disk.create(&name, length as u64).unwrap().write_at(0, &before).unwrap();
        } else {
            disk.flip_bit(&name, offset, 5);
        }
    }
}

#[test]
fn a_record_that_rots_while_open_is_missing_from_then_on() {
    let disk = SimDisk::new(ROOM);
    let mut store = filled(&disk, 3);
    let name = disk.list().unwrap().remove(0);
    disk.flip_bit(&name, 40, 1);
    assert_eq!(store.read(1).unwrap(), None);
    assert_eq!(store.missing(0, 3, 9), Some((1, 1)));
    store.write(&record(1)).unwrap();
    assert_eq!(store.read(1).unwrap(), Some(record(1)));
}

/// A site with so many jobs that have ended, and the command that takes out a stretch of them.
fn state(jobs: u64) -> State {
    let spec = SiteSpec {
        site: "berlin".parse().unwrap(),
        country: "DE".parse().unwrap(),
        terms: Terms::default(),
        lend: Vec::new(),
        trust: None,
    };
    let mut state = State::default();
    let found = FoundSite { spec: Arc::new(spec), address: "a:1".to_owned() };
    apply(&mut state, &Command::FoundSite(found));
    let spec = JobSpec {
        name: "job".parse().unwrap(),
        class: JobClass::Training,
        priority: 0,
        nodes: 1,
        tasks_per_node: 1,
        gpus_per_node: GpuCount(1),
        gpu_classes: Vec::new(),
        array: 1,
        command: vec!["true".to_owned()],
        env: Default::default(),
        workdir: String::new(),
        grace: Millis(0),
        retries: 0,
        on_partition: OnPartition::Restart,
        placement: PlacementSpec { sites: Vec::new(), residency: Vec::new(), spill: false },
        time_limit: Millis(0),
        labels: Default::default(),
        needs: OrDefault::default(),
        account: None,
        preemptible: None,
        array_running_max: 0,
        data: vec![],
        deadline: None,
    };
    let spec = PackedSpec::from(&spec);
    for number in 1..=jobs {
        let (job, at) = (JobId(u128::from(number)), Timestamp(number));
        let request = format!("request-{number}").parse().unwrap();
        let (spec, submitter) = (spec.clone(), "ada".to_owned());
        let admit = AdmitJobs { request, jobs: vec![job], spec, submitter, at };
        apply(&mut state, &Command::AdmitJobs(admit));
        apply(&mut state, &Command::CancelJob(CancelJob { job, at }));
    }
    state
}

fn archive(state: &mut State, archive: &Arc<Archive>, count: u64) {
    let jobs = (1..=count).map(|nth| JobId(u128::from(state.archived + nth))).collect();
    let it = ArchiveJobs { jobs, requests: Vec::new() };
    archive.add(leaving(state, &it));
    apply(state, &Command::ArchiveJobs(it));
}

/// The power is cut at any of the disk's steps. What the last snapshot no longer holds is in the
/// archive, and what came after is there again once the log is read again.
#[test]
fn a_power_loss_loses_no_job_from_both_the_state_and_the_archive() {
    const JOBS: u64 = 60;
    let whole = state(JOBS);
    let mut cut_after_a_snapshot = 0;
    for seed in 0..600_u64 {
        let disk = SimDisk::new(ROOM);
        let mut snapshot = whole.clone();
        let mut random = seed;
        for life in 0..4_u64 {
            disk.cut_power_after(2 + (seed * 7 + life * 13) % 60);
            let it = Archive::open(Arc::new(disk.clone()), at_once(), FILE_BYTES);
            let mut state = snapshot.clone();
            while state.archived < JOBS {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let count = (1 + (random >> 60)).min(JOBS - state.archived);
                archive(&mut state, &it, count);
                if random >> 33 & 3 == 0 {
                    // As a snapshot does: no state without them is kept unless this succeeds.
                    if it.settle().is_err() {
                        break;
                    }
                    snapshot = state.clone();
                    cut_after_a_snapshot += 1;
                }
            }
            drop(it);
            disk.power_loss(seed ^ life << 32);
            let it = Archive::open(Arc::new(disk.clone()), at_once(), FILE_BYTES);
            let missing = it.missing(0, snapshot.archived, 1).unwrap();
            assert_eq!(missing, None, "seed {seed}, life {life}");
            let held = it.read(1, snapshot.archived, usize::MAX).unwrap();
            let ids: Vec<u128> = held.iter().map(|record| record.job.0).collect();
            let expected: Vec<u128> = (1..=u128::from(snapshot.archived)).collect();
            assert_eq!(ids, expected, "seed {seed}, life {life}");
            let left = snapshot.jobs.len() as u64;
            assert_eq!(left + snapshot.archived, JOBS, "seed {seed}, life {life}");
        }
    }
    assert!(cut_after_a_snapshot > 500, "{cut_after_a_snapshot}");
}

#[test]
fn a_full_disk_keeps_what_leaves_in_memory_until_there_is_room() {
    let disk = SimDisk::new(FILE_BYTES);
    let it = Archive::open(Arc::new(disk.clone()), at_once(), FILE_BYTES);
    let mut state = state(60);
    archive(&mut state, &it, 60);
    assert!(super::super::snapshot::is_full(&it.settle().unwrap_err()));
    assert_eq!(it.view(60), ArchiveView { archived: 60, missing: 0 });
    disk.set_free_bytes(ROOM);
    it.settle().unwrap();
    assert_eq!(it.newest(60, 2).unwrap().iter().map(|it| it.number).collect::<Vec<_>>(), [60, 59]);
}

#[test]
fn a_failed_sync_is_not_tried_again() {
    let disk = SimDisk::new(ROOM);
    let it = Archive::open(Arc::new(disk.clone()), at_once(), FILE_BYTES);
    let mut state = state(3);
    archive(&mut state, &it, 3);
    disk.fail(Operation::Sync, 0, std::io::ErrorKind::Other);
    it.settle().unwrap_err();
    let syncs = disk.count(Operation::Sync);
    it.settle().unwrap_err();
    assert_eq!(disk.count(Operation::Sync), syncs);
}
