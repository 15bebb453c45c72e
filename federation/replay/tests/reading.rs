//! What becomes of files that cannot be used.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use federation_replay::fgd::cluster::Cluster;
use federation_replay::queue::{Policy, Question, replay};
use federation_replay::read::{NoProgress, ReadError};
use federation_replay::trace::{JobRow, Needs, read_jobs, read_nodes};
use flate2::Compression;
use flate2::write::GzEncoder;

const HEADER: &str = "submit_s,gpus,duration_s,tenant";

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, content: &[u8]) -> PathBuf {
        let path = self.0.path().join("jobs.csv");
        fs::write(&path, content).unwrap();
        path
    }

    fn jobs(&self, content: &[u8]) -> Result<Vec<JobRow>, ReadError> {
        read_jobs(&self.file(content), Needs::Times, &mut NoProgress)
    }

    /// The message, without the folder.
    fn fault(&self, content: &[u8]) -> String {
        let message = self.jobs(content).unwrap_err().to_string();
        message.replace(&format!("{}/", self.0.path().display()), "")
    }
}

fn zipped(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn columns_are_found_by_name_in_any_order_and_gzip_by_its_content() {
    let folder = Folder::new();
    let text = "tenant,extra,duration_s,gpus,submit_s\na,?,30,16,5\nb,,1.9,1,0\n";
    let jobs = folder.jobs(text.as_bytes()).unwrap();
    assert_eq!(jobs, folder.jobs(&zipped(text)).unwrap());
    let seen: Vec<_> = jobs.iter().map(|job| (job.line, job.submit_s, job.gpus)).collect();
    assert_eq!(seen, [(2, 5, 16), (3, 0, 1)]);
    assert_eq!(jobs[1].duration_s, Some(1));
}

#[test]
fn a_fault_names_the_file_the_line_the_column_and_the_reason() {
    let folder = Folder::new();
    let row = |row: &str| format!("{HEADER}\n0,1,1,a\n{row}\n").into_bytes();
    let cases = [
        (row("-5,1,1,a"), "jobs.csv:3: column `submit_s`: `-5` is negative"),
        (row("0,1,-0.5,a"), "jobs.csv:3: column `duration_s`: `-0.5` is negative"),
        (row("soon,1,1,a"), "jobs.csv:3: column `submit_s`: `soon` is not a number"),
        (row("0,,1,a"), "jobs.csv:3: column `gpus`: the value is empty; a number was expected"),
        (row("0,1"), "jobs.csv:3: 2 values, but the header names 4 columns"),
        (row("0,1,NaN,a"), "jobs.csv:3: column `duration_s`: `NaN` is not a number"),
        (row("1e300,1,1,a"), "jobs.csv:3: column `submit_s`: `1e300` is not a number"),
        (row("0,1,1,\"a\n0,1,1,b"), "jobs.csv:3: a value has several lines; a quote is not closed"),
        (
            b"\n\n".to_vec(),
            "jobs.csv: the file is empty; a header row with the columns' names was expected",
        ),
        (row("0,9999999,1,a"), "jobs.csv:3: column `gpus`: 9999999 is not between 0 and 1048576"),
        (
            b"submit_s,gpus\n0,1\n".to_vec(),
            "jobs.csv:1: column `duration_s` is missing; there are: submit_s, gpus",
        ),
        (b"gpus,submit_s,duration_s,gpus\n".to_vec(), "jobs.csv:1: column `gpus` is there twice"),
        (format!("{HEADER}\n").into_bytes(), "jobs.csv:1: there are no rows below the header"),
        (
            Vec::new(),
            "jobs.csv: the file is empty; a header row with the columns' names was expected",
        ),
    ];
    for (content, message) in cases {
        assert_eq!(folder.fault(&content), message);
    }
}

#[test]
fn a_directory_is_not_read_and_is_not_said_to_be_missing() {
    let folder = Folder::new();
    let error = read_jobs(folder.0.path(), Needs::Times, &mut NoProgress).unwrap_err();
    assert!(error.to_string().starts_with("cannot read ") && !error.is_missing(), "{error}");
    let none = read_jobs(&folder.0.path().join("none"), Needs::Times, &mut NoProgress);
    assert!(none.unwrap_err().is_missing());
}

#[test]
fn gzip_that_is_cut_off_is_told_as_such() {
    let folder = Folder::new();
    let rows: String =
        (0..5_000).map(|nth| format!("{nth},1,{},a\n", nth * 7919 % 9_973)).collect();
    let whole = zipped(&format!("{HEADER}\n{rows}"));
    for kept in [whole.len() / 2, whole.len() - 1] {
        let message = folder.fault(&whole[..kept]);
        assert!(message.contains("the gzip data is cut off or damaged"), "{message}");
        assert!(message.starts_with("jobs.csv:"), "{message}");
    }
}

#[test]
fn a_gang_larger_than_the_cluster_is_told_with_its_line() {
    let folder = Folder::new();
    let jobs = folder.jobs(format!("{HEADER}\n0,8,1,a\n0,17,1,a\n").as_bytes()).unwrap();
    let question = Question { cluster: None, nodes: 2, gpus_per_node: 8, from: 0, to: u64::MAX };
    let error = replay(&jobs, &question, &Policy::ALL, &mut NoProgress).unwrap_err();
    assert_eq!(
        (error.line(), error.to_string().as_str()),
        (Some(3), "column `gpus`: a gang of 17 GPUs is larger than the cluster, which has 16")
    );
}

#[test]
fn a_question_about_no_job_is_told_what_there_is() {
    let folder = Folder::new();
    let jobs = folder.jobs(format!("{HEADER}\n5,8,1,a\n9,8,1,b\n").as_bytes()).unwrap();
    let told = |cluster, from, to| {
        let question = Question { cluster, nodes: 2, gpus_per_node: 8, from, to };
        replay(&jobs, &question, &Policy::ALL, &mut NoProgress).unwrap_err().to_string()
    };
    assert_eq!(told(Some("c"), 0, u64::MAX), "there is no cluster `c`; there are: a, b");
    let window = |window: &str, last| {
        format!(
            "no job of GPUs was submitted {window}; the first came at 5 s, the last at {last} s"
        )
    };
    assert_eq!(told(Some("a"), 6, u64::MAX), window("from 6 s on", 5));
    assert_eq!(told(None, 10, 8), window("from 10 s to 8 s", 9));
}

#[test]
fn a_list_of_nodes_that_names_nodes_without_gpus_is_not_used() {
    let folder = Folder::new();
    let nodes = |rows: &str| {
        let text = format!("node,gpus,cpu_milli,in_gpu_node_list\n{rows}");
        read_nodes(&folder.file(text.as_bytes()), &mut NoProgress).unwrap()
    };
    let job = JobRow { gpus: 1, gpu_milli: 1_000, ..JobRow::default() };
    let kept = |rows: &str| {
        let cluster = Cluster::of(&nodes(rows), std::slice::from_ref(&job)).unwrap();
        (cluster.nodes.len(), cluster.is_list_wrong)
    };
    assert_eq!(kept("a,8,96000,1\nb,8,96000,0\nc,0,32000,0\n"), (1, false));
    assert_eq!(kept("a,8,96000,1\nb,8,96000,0\nc,0,32000,1\n"), (2, true));
}
