//! The bytes of a segment, as they were when the format was fixed. They never change: another
//! format has another version, and this one stays readable.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use federation_wal::sim_disk::SimDisk;
use federation_wal::{Config, Disk, Environment, MIN_SEGMENT_BYTES, Recovered, Wal, Wish};

/// The bytes in use; zeros follow.
const SEGMENT: &str = include_str!("golden/segment.hex");
const NAME: &str = "00000000000000000001.wal";

type Records = Vec<(u64, Vec<u8>)>;

fn open(disk: &SimDisk) -> (Wal, Recovered, Records) {
    let mut records = Vec::new();
    let environment = Environment {
        disk: Arc::new(disk.clone()),
        salts: Box::new(|| 0x0102_0304),
        spawn: Box::new(|name, task| {
            thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        }),
        clock: Box::new(|| Duration::ZERO),
        on_fatal: Box::new(|_| ()),
    };
    // Only the close seals it.
    let idle_seal = Duration::from_secs(3_600);
    let config = Config { segment_bytes: MIN_SEGMENT_BYTES, idle_seal, ..Config::default() };
    let visit = |seq, record: &[u8]| {
        records.push((seq, record.to_vec()));
        Ok(())
    };
    let (wal, recovered) = Wal::open(environment, config, visit).unwrap();
    (wal, recovered, records)
}

fn records() -> Records {
    vec![(1, b"a vote".to_vec()), (2, b"an entry".to_vec()), (3, Vec::new()), (4, vec![0xff; 9])]
}

#[test]
fn a_segment_is_written_as_ever() {
    let disk = SimDisk::new(1 << 20);
    let (wal, ..) = open(&disk);
    // A batch of one, and a batch of three.
    for batch in [&records()[..1], &records()[1..]] {
        let (tell, told) = mpsc::channel();
        let (last, first) = batch.split_last().unwrap();
        for (_, record) in first {
            wal.append(record.clone(), Wish::Ride, Box::new(|_, _| ()));
        }
        let done = Box::new(move |result, _| tell.send(result).unwrap());
        wal.append(last.1.clone(), Wish::Sync, done);
        told.recv().unwrap().unwrap();
    }
    wal.close().unwrap();
    let bytes = disk.read(NAME);
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // The last four bytes of a header are zeros.
    let lines = bytes[..used.next_multiple_of(20)].chunks(20);
    let hex: Vec<String> =
        lines.map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect()).collect();
    assert_eq!(hex.join("\n"), SEGMENT.trim_end(), "as written");
}

#[test]
fn a_segment_of_before_is_read() {
    let disk = SimDisk::new(1 << 20);
    let digits: Vec<u8> = SEGMENT.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16).unwrap()).unwrap();
    let bytes: Vec<u8> =
        digits.chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect();
    disk.create(NAME, MIN_SEGMENT_BYTES as u64).unwrap().write_at(0, &bytes).unwrap();
    let (_wal, recovered, found) = open(&disk);
    assert_eq!(found, records());
    assert_eq!(recovered, Recovered { next_seq: 5, truncated_tail: false });
}
