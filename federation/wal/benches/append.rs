//! What the log costs over the disk alone: `cargo bench -p federation-wal --bench append`.
//!
//! Batches of 300-byte records through the log, each waited for, against a plain loop of one write
//! and one `fdatasync` of as many bytes to a file of the same kind. Both take turns in one run on
//! one disk, so read the ratios; `ratio=1.10` says that the log takes a tenth longer. Then it opens
//! a log of a million such records. The owner of the log that matters writes what it appends at once
//! as one record: that is `ratio_as_one_record`. A directory on another disk may be named as an argument.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop at the first surprise")]
#![allow(clippy::print_stdout, reason = "the numbers are what it is for")]
#![allow(clippy::disallowed_methods, reason = "it measures the machine that it runs on")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use federation_wal::{Config, Disk, DiskFile, Environment, RealDisk, SEGMENT_BYTES, Wal, Wish};

const RECORD_BYTES: usize = 300;
const BATCHES: [usize; 3] = [1, 64, 1_024];
const ROUNDS: usize = 20;
const TURNS: usize = 25;
const RECOVERED_RECORDS: usize = 1_000_000;

fn main() {
    // `cargo bench` passes options of its own.
    let named = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let root = named.map_or_else(std::env::temp_dir, PathBuf::from);
    let directory = tempfile::tempdir_in(root).unwrap();
    for batch in BATCHES {
        compare(&directory.path().join(format!("batch-{batch}")), batch);
    }
    recover(&directory.path().join("recovery"));
}

fn open(path: &Path, mut visit: impl FnMut(&[u8])) -> Wal {
    let (began, mut salt) = (Instant::now(), 7_u32);
    let environment = Environment {
        disk: Arc::new(RealDisk::open(path).unwrap()),
        salts: Box::new(move || {
            salt = salt.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            salt
        }),
        spawn: Box::new(|name, task| {
            std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        }),
        clock: Box::new(move || began.elapsed()),
        on_fatal: Box::new(|why| panic!("{why}")),
    };
    let visit = |_, record: &[u8]| {
        visit(record);
        Ok(())
    };
    Wal::open(environment, Config::default(), visit).unwrap().0
}

/// Appends `count` records of `bytes` bytes, and waits until they are durable.
fn append(wal: &Wal, count: usize, bytes: usize) {
    for _ in 1..count {
        wal.append(vec![7; bytes], Wish::Ride, Box::new(|_, _| ()));
    }
    let (tell, told) = mpsc::channel();
    let done = Box::new(move |result, _| tell.send(result).unwrap());
    wal.append(vec![7; bytes], Wish::Sync, done);
    told.recv().unwrap().unwrap();
}

/// One write and one sync after another, in a file like a segment.
struct Plain {
    file: Box<dyn DiskFile>,
    bytes: Vec<u8>,
    end: u64,
}

impl Plain {
    fn turn(&mut self) {
        if self.end + self.bytes.len() as u64 > SEGMENT_BYTES as u64 {
            self.end = 0;
        }
        self.file.write_at(self.end, &self.bytes).unwrap();
        self.file.sync_data().unwrap();
        self.end += self.bytes.len() as u64;
    }
}

fn compare(path: &Path, batch: usize) {
    let wal = open(path, |_| ());
    let disk = RealDisk::open(path.with_extension("plain")).unwrap();
    let file = disk.create("plain", SEGMENT_BYTES as u64).unwrap();
    let mut plain = Plain { file, bytes: vec![7; 40 + batch * (20 + RECORD_BYTES)], end: 0 };
    let (mut many, mut one, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        time(&mut many, || append(&wal, batch, RECORD_BYTES));
        time(&mut theirs, || plain.turn());
        time(&mut one, || append(&wal, 1, batch * RECORD_BYTES));
    }
    wal.close().unwrap();
    let (many, one, theirs) = (median(many), median(one), median(theirs));
    let ratio = |ours: Duration| ours.as_secs_f64() / theirs.as_secs_f64();
    println!(
        "batch={batch} log_p50_us={} plain_p50_us={} ratio={:.2} ratio_as_one_record={:.2}",
        many.as_micros(),
        theirs.as_micros(),
        ratio(many),
        ratio(one),
    );
}

fn time(spans: &mut Vec<Duration>, mut turn: impl FnMut()) {
    for _ in 0..TURNS {
        let began = Instant::now();
        turn();
        spans.push(began.elapsed());
    }
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort_unstable();
    spans[spans.len() / 2]
}

fn recover(path: &Path) {
    let wal = open(path, |_| ());
    for _ in 0..RECOVERED_RECORDS / 1_000 {
        append(&wal, 1_000, RECORD_BYTES);
    }
    wal.close().unwrap();
    let (mut records, mut bytes) = (0, 0);
    let began = Instant::now();
    let wal = open(path, |record| {
        records += 1;
        bytes += record.len();
    });
    let took = began.elapsed();
    wal.close().unwrap();
    println!("recovered_records={records} payload_bytes={bytes} seconds={:.2}", took.as_secs_f64());
}
