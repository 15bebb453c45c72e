//! The log on a directory of the operating system.

#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use federation_wal::{
    Config, Disk, Environment, MIN_SEGMENT_BYTES, OpenError, RealDisk, Recovered, Wal, Wish,
    WriteError,
};

type Outcome = Receiver<Result<u64, WriteError>>;

type Records = Vec<(u64, Vec<u8>)>;

fn open(path: &Path) -> Result<(Wal, Recovered, Records), OpenError> {
    let mut salt = 0x9e37_79b9_u32;
    let environment = Environment {
        disk: Arc::new(RealDisk::open(path).unwrap()),
        salts: Box::new(move || {
            salt = salt.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
            salt
        }),
        spawn: Box::new(|name, task| {
            std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
        }),
        clock: Box::new(|| Duration::ZERO),
        on_fatal: Box::new(|message| panic!("{message}")),
    };
    let config = Config { segment_bytes: MIN_SEGMENT_BYTES, ..Config::default() };
    let mut records = Vec::new();
    let (wal, recovered) = Wal::open(environment, config, |seq, record| {
        records.push((seq, record.to_vec()));
        Ok(())
    })?;
    Ok((wal, recovered, records))
}

fn append(wal: &Wal, record: &[u8]) -> Outcome {
    let (tell, told) = mpsc::channel();
    wal.append(record.to_vec(), Wish::Sync, Box::new(move |result, _| tell.send(result).unwrap()));
    told
}

fn payload(seq: u64) -> Vec<u8> {
    seq.to_le_bytes().repeat(40)
}

#[test]
fn records_come_back_in_order_from_several_segments() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let (wal, recovered, _) = open(&path).unwrap();
    assert_eq!(recovered, Recovered { next_seq: 1, truncated_tail: false });
    for seq in 1..=100 {
        assert_eq!(append(&wal, &payload(seq)).recv().unwrap().unwrap(), seq);
    }
    wal.close().unwrap();
    let (_wal, recovered, records) = open(&path).unwrap();
    let expected: Vec<_> = (1..=100).map(|seq| (seq, payload(seq))).collect();
    assert_eq!(records, expected);
    assert!(!recovered.truncated_tail);
    assert!(std::fs::read_dir(&path).unwrap().count() > 5, "more than one segment");
}

#[test]
fn released_segments_are_removed_and_numbers_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, _, _) = open(directory.path()).unwrap();
    for seq in 1..=100 {
        append(&wal, &payload(seq)).recv().unwrap().unwrap();
    }
    wal.release(90);
    wal.close().unwrap();
    let (wal, _, records) = open(directory.path()).unwrap();
    let first = records[0].0;
    assert!((80..=91).contains(&first), "{first}");
    assert_eq!(append(&wal, b"next").recv().unwrap().unwrap(), 101);
}

#[test]
fn a_file_made_zeros_in_place_keeps_its_length() {
    let directory = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(directory.path()).unwrap();
    let mut file = disk.create("released", 1 << 16).unwrap();
    file.write_at(100, &[7; 30_000]).unwrap();
    file.sync_data().unwrap();
    match file.zero() {
        Ok(()) => assert_eq!(file.read_all().unwrap(), vec![0; 1 << 16]),
        // The file system of this machine cannot.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::Unsupported),
    }
    file.sync_data().unwrap();
    assert_eq!(file.len().unwrap(), 1 << 16);
}

#[test]
fn released_segments_are_used_again() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, _, _) = open(directory.path()).unwrap();
    for seq in 1..=200 {
        append(&wal, &payload(seq)).recv().unwrap().unwrap();
        wal.release(seq);
    }
    wal.close().unwrap();
    let files = std::fs::read_dir(directory.path()).unwrap().count();
    assert!(files <= 6, "{files}");
    let (_wal, recovered, records) = open(directory.path()).unwrap();
    assert_eq!(recovered, Recovered { next_seq: 201, truncated_tail: false });
    assert!(records.iter().all(|(seq, record)| *record == payload(*seq)));
}

#[test]
fn a_directory_in_use_is_refused_and_free_again_after_close() {
    let directory = tempfile::tempdir().unwrap();
    let (wal, _, _) = open(directory.path()).unwrap();
    let Err(OpenError::InUse(holder)) = open(directory.path()) else {
        panic!("two logs in one directory")
    };
    assert_eq!(holder.to_string(), format!("process {} has it open", std::process::id()));
    wal.close().unwrap();
    open(directory.path()).unwrap();
}
