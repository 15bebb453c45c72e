//! The log with its writer thread, on a simulated disk.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use federation_wal::sim_disk::{Operation, SimDisk};
use federation_wal::{
    Config, Environment, MIN_SEGMENT_BYTES, OpenError, QUEUE_RECORDS, RecoverError, Recovered, Wal,
    Wish, WriteError,
};

type Outcome = Result<u64, WriteError>;

const SEGMENT: u64 = MIN_SEGMENT_BYTES as u64;

/// What a log held.
struct Log {
    records: Vec<(u64, Vec<u8>)>,
    next_seq: u64,
    truncated_tail: bool,
}

struct Site {
    disk: SimDisk,
    fatal: Arc<Mutex<Vec<String>>>,
    config: Config,
}

impl Site {
    fn new() -> Site {
        let config = Config { segment_bytes: MIN_SEGMENT_BYTES, ..Config::default() };
        Site { disk: SimDisk::new(1 << 30), fatal: Arc::default(), config }
    }

    fn try_open(&self) -> Result<(Wal, Log), OpenError> {
        let mut salt = 0_u32;
        let fatal = Arc::clone(&self.fatal);
        let environment = Environment {
            disk: Arc::new(self.disk.clone()),
            salts: Box::new(move || {
                salt = salt.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                salt
            }),
            spawn: Box::new(|name, task| {
                thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
            }),
            clock: Box::new(|| Duration::ZERO),
            on_fatal: Box::new(move |message| fatal.lock().unwrap().push(message.to_owned())),
        };
        let mut records = Vec::new();
        let (wal, recovered) = Wal::open(environment, self.config.clone(), |seq, record| {
            records.push((seq, record.to_vec()));
            Ok(())
        })?;
        let Recovered { next_seq, truncated_tail } = recovered;
        Ok((wal, Log { records, next_seq, truncated_tail }))
    }

    fn open(&self) -> (Wal, Log) {
        self.try_open().unwrap()
    }

    fn fatal(&self) -> Vec<String> {
        self.fatal.lock().unwrap().clone()
    }
}

fn append(wal: &Wal, record: Vec<u8>) -> Receiver<Outcome> {
    let (tell, told) = mpsc::channel();
    wal.append(record, Wish::Sync, Box::new(move |result, _| tell.send(result).unwrap()));
    told
}

/// Keeps the writer in a callback until the returned sender is used or dropped.
fn hold_writer(wal: &Wal) -> Sender<()> {
    let (release, released) = mpsc::channel::<()>();
    let (tell, told) = mpsc::channel();
    let done = move |_, _| {
        tell.send(()).unwrap();
        let _ = released.recv();
    };
    wal.append(b"hold".to_vec(), Wish::Sync, Box::new(done));
    told.recv().unwrap();
    release
}

#[test]
fn what_gathers_during_a_write_shares_the_next_one() {
    let site = Site::new();
    let (wal, _) = site.open();
    let hold = hold_writer(&wal);
    let before = (site.disk.count(Operation::Write), site.disk.count(Operation::Sync));
    let order = Arc::new(Mutex::new(Vec::new()));
    for _ in 0..50 {
        let order = Arc::clone(&order);
        let done = move |result: Outcome, _| order.lock().unwrap().push(result.unwrap());
        wal.append(vec![7; 20], Wish::Write, Box::new(done));
    }
    let last = append(&wal, b"the one that asks for a sync".to_vec());
    drop(hold);
    assert_eq!(last.recv().unwrap().unwrap(), 52);
    let after = (site.disk.count(Operation::Write), site.disk.count(Operation::Sync));
    assert_eq!(after, (before.0 + 1, before.1 + 1));
    assert_eq!(*order.lock().unwrap(), (2..52).collect::<Vec<u64>>());
}

#[test]
fn a_batch_without_a_wish_to_sync_is_not_synced() {
    let site = Site::new();
    let (wal, _) = site.open();
    let hold = hold_writer(&wal);
    let before = site.disk.count(Operation::Sync);
    let (tell, told) = mpsc::channel();
    wal.append(
        b"lazy".to_vec(),
        Wish::Write,
        Box::new(move |result, _| tell.send(result).unwrap()),
    );
    drop(hold);
    told.recv().unwrap().unwrap();
    assert_eq!(site.disk.count(Operation::Sync), before);
}

#[test]
fn after_a_failed_sync_every_waiter_is_told_then_the_hook_and_nothing_is_tried_again() {
    let site = Site::new();
    let (wal, _) = site.open();
    let hold = hold_writer(&wal);
    // Two batches' worth, so that some wait outside the batch that fails.
    let waiting: Vec<_> = (0..4).map(|_| append(&wal, vec![1; 1_500])).collect();
    site.disk.fail(Operation::Sync, 0, ErrorKind::Other);
    let syncs = site.disk.count(Operation::Sync);
    drop(hold);
    for told in waiting {
        let Err(WriteError::Failed { doing: "sync a batch", .. }) = told.recv().unwrap() else {
            panic!("acknowledged without a sync")
        };
    }
    let late = append(&wal, b"late".to_vec()).recv().unwrap();
    assert!(matches!(late, Err(WriteError::Failed { .. })));
    assert!(matches!(wal.close(), Err(WriteError::Failed { .. })));
    assert_eq!(site.disk.count(Operation::Sync), syncs + 1);
    assert_eq!(site.fatal(), ["cannot sync a batch of the log: other error"]);
}

#[test]
fn a_failed_write_is_fatal_even_for_lack_of_space() {
    for kind in [ErrorKind::Other, ErrorKind::StorageFull] {
        let site = Site::new();
        let (wal, _) = site.open();
        site.disk.fail(Operation::Write, 0, kind);
        let told = append(&wal, b"half written".to_vec()).recv().unwrap();
        assert!(matches!(told, Err(WriteError::Failed { doing: "write a batch", .. })));
        assert!(wal.close().is_err());
        assert_eq!(site.fatal().len(), 1);
    }
}

#[test]
fn a_full_disk_makes_the_log_read_only_until_it_is_told_to_look_for_room() {
    let site = Site::new();
    let (wal, _) = site.open();
    site.disk.set_free_bytes(0);
    let mut accepted = 0;
    let refusal = loop {
        match append(&wal, vec![3; 1_000]).recv().unwrap() {
            Ok(seq) => accepted = seq,
            Err(error) => break error,
        }
    };
    assert!(matches!(refusal, WriteError::DiskFull));
    assert!(accepted >= 6, "the spare segment was used first: {accepted}");
    let resume = |expected_full| {
        wal.resume();
        drop(hold_writer(&wal));
        assert_eq!(wal.is_full(), expected_full);
    };
    resume(true);
    site.disk.set_free_bytes(SEGMENT);
    let small = append(&wal, b"would fit, but a larger one before it was refused".to_vec());
    assert!(matches!(small.recv().unwrap(), Err(WriteError::DiskFull)));
    resume(false);
    // The one that held the writer came first.
    assert_eq!(append(&wal, vec![4; 1_000]).recv().unwrap().unwrap(), accepted + 2);
    wal.close().unwrap();
    assert_eq!(site.fatal(), [""; 0]);
    let (_wal, recovered) = site.open();
    assert_eq!(recovered.next_seq, accepted + 3);
    assert!(!recovered.truncated_tail);
}

#[test]
fn released_segments_make_room_on_a_full_disk() {
    let site = Site::new();
    let (wal, _) = site.open();
    site.disk.set_free_bytes(0);
    let mut last = 0;
    while let Ok(seq) = append(&wal, vec![3; 1_000]).recv().unwrap() {
        last = seq;
    }
    wal.release(last);
    wal.resume();
    assert_eq!(append(&wal, vec![4; 1_000]).recv().unwrap().unwrap(), last + 1);
    assert!(!wal.is_full());
}

#[test]
fn released_segments_are_used_again_and_hold_nothing_of_before() {
    let site = Site::new();
    let (wal, _) = site.open();
    let mut last = 0;
    for round in 0..40_u8 {
        last = append(&wal, vec![round; 1_000]).recv().unwrap().unwrap();
        wal.release(last);
    }
    wal.close().unwrap();
    let created = site.disk.count(Operation::Create);
    let zeroed = site.disk.count(Operation::Zero);
    // 40 records take 14 segments; the first ones are made before any is released.
    assert!(created <= 5 && zeroed >= 8, "{created} created, {zeroed} used again");
    let (_wal, log) = site.open();
    assert_eq!(log.next_seq, last + 1);
    assert!(!log.truncated_tail);
}

#[test]
fn a_disk_that_cannot_make_zeros_in_place_gets_new_files() {
    let site = Site::new();
    let (wal, _) = site.open();
    for others in 0..100 {
        site.disk.fail(Operation::Zero, others, ErrorKind::Unsupported);
    }
    for round in 0..40_u8 {
        let last = append(&wal, vec![round; 1_000]).recv().unwrap().unwrap();
        wal.release(last);
    }
    wal.close().unwrap();
    assert!(site.disk.count(Operation::Create) > 12);
    assert_eq!(site.open().1.next_seq, 41);
}

#[test]
fn a_next_segment_that_cannot_be_made_ends_the_log_before_it_is_needed() {
    for operation in [Operation::Create, Operation::SyncDirectory] {
        let site = Site::new();
        let (wal, _) = site.open();
        // Of a directory, the roll's own sync comes first.
        let others = u64::from(operation == Operation::SyncDirectory);
        site.disk.fail(operation, others, ErrorKind::Other);
        for _ in 0..4 {
            append(&wal, vec![1; 1_000]).recv().unwrap().unwrap();
        }
        while site.fatal().is_empty() {
            thread::yield_now();
        }
        let late = append(&wal, b"late".to_vec()).recv().unwrap();
        assert!(matches!(late, Err(WriteError::Failed { .. })));
        assert_eq!(site.fatal().len(), 1);
        drop(wal);
        assert_eq!(site.open().1.next_seq, 5);
    }
}

#[test]
fn a_roll_that_fails_once_ends_the_log_although_the_disk_would_do_it_now() {
    for operation in [Operation::Rename, Operation::SyncDirectory] {
        let site = Site::new();
        let (wal, _) = site.open();
        site.disk.fail(operation, 0, ErrorKind::Other);
        for _ in 0..3 {
            append(&wal, vec![1; 1_000]).recv().unwrap().unwrap();
        }
        let told = append(&wal, vec![1; 1_000]).recv().unwrap();
        assert!(matches!(told, Err(WriteError::Failed { .. })));
        let tried = site.disk.count(operation);
        let late = append(&wal, b"late".to_vec()).recv().unwrap();
        assert!(matches!(late, Err(WriteError::Failed { .. })));
        assert!(wal.close().is_err());
        assert_eq!((site.disk.count(operation), site.fatal().len()), (tried, 1));
        assert_eq!(site.open().1.next_seq, 4);
    }
}

#[test]
fn a_disk_without_room_for_the_first_segment_is_refused() {
    let site = Site::new();
    site.disk.set_free_bytes(SEGMENT - 1);
    assert!(matches!(site.try_open(), Err(OpenError::DiskFull)));
    site.disk.set_free_bytes(SEGMENT);
    site.open();
}

#[test]
fn the_largest_record_fits_and_a_larger_one_is_refused_alone() {
    let site = Site::new();
    let (wal, _) = site.open();
    let limit = site.config.max_record_bytes();
    let hold = hold_writer(&wal);
    let sizes = [limit, limit + 1, 10, MIN_SEGMENT_BYTES * 2, 0];
    let told = sizes.map(|bytes| append(&wal, vec![5; bytes]));
    drop(hold);
    let outcomes = told.map(|told| told.recv().unwrap().map_err(|error| error.to_string()));
    let too_large = |bytes| Err(format!("a record of {bytes} bytes exceeds the limit of {limit}"));
    let expected = [Ok(2), too_large(limit + 1), Ok(3), too_large(MIN_SEGMENT_BYTES * 2), Ok(4)];
    assert_eq!(outcomes, expected);
}

#[test]
fn a_full_queue_makes_callers_wait() {
    let site = Site::new();
    let (wal, _) = site.open();
    let hold = hold_writer(&wal);
    for _ in 0..QUEUE_RECORDS {
        wal.append(Vec::new(), Wish::Write, Box::new(|result, _| assert!(result.is_ok())));
    }
    let queued = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let told = append(&wal, b"one too many".to_vec());
            queued.store(true, Ordering::SeqCst);
            assert_eq!(told.recv().unwrap().unwrap(), QUEUE_RECORDS as u64 + 2);
        });
        for _ in 0..1_000 {
            thread::yield_now();
            assert!(!queued.load(Ordering::SeqCst));
        }
        drop(hold);
    });
    wal.close().unwrap();
}

#[test]
fn who_must_not_wait_gets_the_record_back_and_is_called_when_there_is_room() {
    let site = Site::new();
    let (wal, _) = site.open();
    let hold = hold_writer(&wal);
    let mut queued = 0;
    let refused = loop {
        let done = Box::new(|result: Outcome, _| assert!(result.is_ok()));
        match wal.try_append(vec![9; 7], Wish::Write, done) {
            Ok(()) => queued += 1,
            Err((record, _)) => break record,
        }
    };
    assert_eq!((refused, queued), (vec![9; 7], QUEUE_RECORDS));
    let (tell, told) = mpsc::channel();
    wal.when_room(Box::new(move || tell.send(()).unwrap()));
    assert!(told.try_recv().is_err());
    drop(hold);
    told.recv().unwrap();
    let (tell, told) = mpsc::channel();
    let done = move |result: Outcome, record| tell.send((result.unwrap(), record)).unwrap();
    assert!(wal.try_append(vec![9; 7], Wish::Sync, Box::new(done)).is_ok());
    assert_eq!(told.recv().unwrap(), (QUEUE_RECORDS as u64 + 2, vec![9; 7]));
}

#[test]
fn who_waits_for_room_is_called_when_the_log_ends() {
    for ends_well in [true, false] {
        let site = Site::new();
        let (wal, _) = site.open();
        let hold = hold_writer(&wal);
        while wal.try_append(vec![1; 7], Wish::Write, Box::new(|_, _| ())).is_ok() {}
        let (tell, told) = mpsc::channel();
        wal.when_room(Box::new(move || tell.send(()).unwrap()));
        if !ends_well {
            site.disk.fail(Operation::Write, 0, ErrorKind::Other);
        }
        thread::scope(|scope| {
            scope.spawn(|| drop(hold));
            assert_eq!(wal.close().is_ok(), ends_well);
        });
        told.recv().unwrap();
    }
}

#[test]
fn what_only_rides_along_costs_no_write_of_its_own() {
    let site = Site::new();
    let (wal, _) = site.open();
    let (tell, told) = mpsc::channel();
    let before = site.disk.count(Operation::Write);
    for _ in 0..10 {
        let tell = tell.clone();
        let done = move |result: Outcome, _| tell.send(result.unwrap()).unwrap();
        wal.append(b"ride".to_vec(), Wish::Ride, Box::new(done));
    }
    assert_eq!(append(&wal, b"sync".to_vec()).recv().unwrap().unwrap(), 11);
    assert_eq!(told.try_iter().collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
    assert_eq!(site.disk.count(Operation::Write), before + 1);
}

#[test]
fn what_only_rides_along_is_written_when_nothing_else_comes() {
    let mut site = Site::new();
    site.config.idle_seal = Duration::from_millis(1);
    let (wal, _) = site.open();
    let (tell, told) = mpsc::channel();
    let done = move |result: Outcome, _| tell.send(result.unwrap()).unwrap();
    wal.append(b"ride".to_vec(), Wish::Ride, Box::new(done));
    assert_eq!(told.recv().unwrap(), 1);
    let (tell, told) = mpsc::channel();
    wal.append(b"ride".to_vec(), Wish::Ride, Box::new(move |_, record| tell.send(record).unwrap()));
    wal.close().unwrap();
    assert_eq!(told.recv().unwrap(), b"ride");
    assert_eq!(site.open().1.next_seq, 3);
}

#[test]
fn a_clean_stop_vouches_for_the_last_record() {
    let site = Site::new();
    let (wal, _) = site.open();
    append(&wal, b"the last".to_vec()).recv().unwrap().unwrap();
    wal.close().unwrap();
    // An opening, a batch header and a record header come before the payload.
    site.disk.flip_bit("00000000000000000001.wal", 100, 0);
    let Err(OpenError::Recover(error)) = site.try_open() else { panic!("lost in silence") };
    assert!(matches!(error, RecoverError::Corrupt { segment: 1, offset: 40, .. }), "{error}");
    // Refusing changes nothing: when the bit is back, so is the record.
    site.disk.flip_bit("00000000000000000001.wal", 100, 0);
    assert_eq!(site.open().1.records, [(1, b"the last".to_vec())]);
}

#[test]
fn a_writer_whose_callback_panics_ends_the_log() {
    let site = Site::new();
    let (wal, _) = site.open();
    wal.append(Vec::new(), Wish::Sync, Box::new(|_, _| panic!("a callback of the test")));
    assert!(matches!(wal.close(), Err(WriteError::Panicked)));
    assert_eq!(site.open().1.next_seq, 2);
}

#[test]
fn the_last_owner_may_be_a_callback() {
    let site = Site::new();
    let (wal, _) = site.open();
    let wal = Arc::new(wal);
    let (tell, told) = mpsc::channel();
    // The last owner goes on the writer thread itself, which must not wait for itself.
    let last_owner = Arc::clone(&wal);
    let hold = hold_writer(&wal);
    wal.append(
        Vec::new(),
        Wish::Sync,
        Box::new(move |_, _| {
            let queued = append(&last_owner, Vec::new());
            drop(last_owner);
            tell.send(queued).unwrap();
        }),
    );
    drop(wal);
    drop(hold);
    assert_eq!(told.recv().unwrap().recv().unwrap().unwrap(), 3);
}

#[test]
fn a_segment_size_out_of_bounds_is_refused() {
    let mut site = Site::new();
    site.config.segment_bytes = MIN_SEGMENT_BYTES - 1;
    assert!(matches!(site.try_open(), Err(OpenError::SegmentSize { .. })));
}
