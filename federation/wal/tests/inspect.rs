//! Looking at a log that somebody has open, and at one that is damaged.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use federation_wal::hooked_disk::{Call, Hook, HookedDisk};
use federation_wal::sim_disk::SimDisk;
use federation_wal::{
    Config, Environment, MIN_SEGMENT_BYTES, OpenError, RecoverError, TornTail, Wal, Wish, inspect,
};

static SALT: AtomicU32 = AtomicU32::new(1);

fn try_open(disk: &SimDisk) -> Result<Wal, OpenError> {
    let environment = Environment {
        disk: Arc::new(disk.clone()),
        salts: Box::new(|| SALT.fetch_add(0x9e37_79b9, Ordering::Relaxed)),
        spawn: Box::new(|name, task| {
            thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        }),
        clock: Box::new(|| Duration::ZERO),
        on_fatal: Box::new(|_| ()),
    };
    let config = Config { segment_bytes: MIN_SEGMENT_BYTES, ..Config::default() };
    Wal::open(environment, config, |_, _| Ok(())).map(|(wal, _)| wal)
}

fn append(wal: &Wal, record: Vec<u8>) {
    let (tell, told) = mpsc::channel();
    wal.append(record, Wish::Sync, Box::new(move |result, _| tell.send(result).unwrap()));
    told.recv().unwrap().unwrap();
}

fn first_segment() -> String {
    format!("{:020}.wal", 1)
}

#[test]
fn a_log_in_use_is_reported_with_all_its_records() {
    let disk = SimDisk::new(1 << 20);
    let wal = try_open(&disk).unwrap();
    for byte in 0..20 {
        append(&wal, vec![byte; 500]);
    }
    let mut seen = Vec::new();
    let report = inspect(&disk, |seq, record| seen.push((seq, record.to_vec()))).unwrap();
    let expected: Vec<_> = (1..=20).zip((0..20).map(|byte| vec![byte; 500])).collect();
    assert_eq!(seen, expected);
    assert_eq!((report.first_seq(), report.next_seq()), (1, 21));
    assert!(report.segments.len() > 2 && report.used_bytes() > 20 * 500, "{report:?}");
    assert!(!report.is_sealed && report.torn_tail.is_none() && report.damage.is_none());
    wal.close().unwrap();
    assert!(inspect(&disk, |_, _| ()).unwrap().is_sealed);
}

#[test]
fn an_empty_directory_is_an_empty_report() {
    let report = inspect(&SimDisk::new(0), |_, _| ()).unwrap();
    assert_eq!((report.next_seq(), report.is_sealed, report.segments.len()), (1, true, 0));
}

#[test]
fn a_torn_tail_is_located_and_left_alone() {
    let disk = SimDisk::new(1 << 20);
    let wal = try_open(&disk).unwrap();
    append(&wal, vec![1; 100]);
    wal.close().unwrap();
    disk.damage(&first_segment(), |bytes| bytes[1_000..1_100].fill(7));
    let before = disk.read(&first_segment());
    let report = inspect(&disk, |_, _| ()).unwrap();
    // An opening, a batch of one record, a seal.
    assert_eq!(report.torn_tail, Some(TornTail { segment: 1, offset: 40 + 40 + 120 + 40 }));
    assert_eq!(disk.read(&first_segment()), before);
}

#[test]
fn damage_is_reported_as_the_next_start_would() {
    let disk = SimDisk::new(1 << 20);
    let wal = try_open(&disk).unwrap();
    for _ in 0..20 {
        append(&wal, vec![1; 500]);
    }
    wal.close().unwrap();
    disk.flip_bit(&format!("{:020}.wal", 2), 200, 3);
    let report = inspect(&disk, |_, _| ()).unwrap();
    assert_eq!(report.segments.len(), 1, "{report:?}");
    let Err(OpenError::Recover(error)) = try_open(&disk) else { panic!("opened") };
    assert!(matches!(error, RecoverError::Corrupt { segment: 2, .. }), "{error}");
    assert_eq!(report.damage, Some(error));
}

/// Held until it is opened.
type Gate = Arc<(Mutex<bool>, Condvar)>;

#[test]
fn a_disk_that_takes_long_is_seen_to() {
    let now = Arc::new(Mutex::new(Duration::ZERO));
    let clock = Arc::clone(&now);
    let gate = Gate::default();
    let disk = Arc::new(HookedDisk::new(SimDisk::new(1 << 20), Held(Arc::clone(&gate))));
    let environment = Environment {
        disk,
        salts: Box::new(|| 7),
        spawn: Box::new(|name, task| {
            thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        }),
        clock: Box::new(move || *clock.lock().unwrap()),
        on_fatal: Box::new(|_| ()),
    };
    *gate.0.lock().unwrap() = true;
    let config = Config { segment_bytes: MIN_SEGMENT_BYTES, ..Config::default() };
    let (wal, _) = Wal::open(environment, config, |_, _| Ok(())).unwrap();
    assert_eq!(wal.stalled_for(), None);
    *gate.0.lock().unwrap() = false;
    let (tell, told) = mpsc::channel();
    wal.append(vec![1], Wish::Sync, Box::new(move |result, _| tell.send(result).unwrap()));
    while wal.stalled_for().is_none() {
        thread::yield_now();
    }
    *now.lock().unwrap() = Duration::from_secs(3);
    assert_eq!(wal.stalled_for(), Some(Duration::from_secs(3)));
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
    told.recv().unwrap().unwrap();
    while wal.stalled_for().is_some() {
        thread::yield_now();
    }
}

/// Lets no write pass until it is opened.
struct Held(Gate);

impl Hook for Held {
    fn write(&self, _: &[u8], call: Call<'_>) -> std::io::Result<()> {
        let open = self.0.0.lock().unwrap();
        drop(self.0.1.wait_while(open, |open| !*open).unwrap());
        call()
    }
}
