//! `federation replay` as scripts see it, on small samples.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../replay/tests/samples").join(name)
}

/// Exit code, stdout, stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_federation"));
    let output = command.arg("replay").args(args).env_clear().env("HOME", home.path()).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn json(args: &[&str]) -> Value {
    let (code, out, err) = run(&[args, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn policies(report: &Value) -> Vec<&str> {
    let results = report["results"].as_array().unwrap();
    results.iter().map(|result| result["policy"].as_str().unwrap()).collect()
}

#[test]
fn placement_is_told_for_each_policy_and_seed_and_in_the_mean() {
    let (nodes, pods) = (sample("nodes.csv"), sample("pods.csv"));
    let files = ["fgd", "--nodes", nodes.to_str().unwrap(), "--pods", pods.to_str().unwrap()];
    let report = json(&[&files[..], &["--seeds", "1..3"]].concat());
    assert_eq!(policies(&report).len(), 7 * 3);
    for result in report["results"].as_array().unwrap() {
        let at = &result["allocation_percent_at"]["130"];
        assert!((50.0..=100.0).contains(&at.as_f64().unwrap()), "{result}");
        assert!(result["fragmented_percent_at_130"].as_f64().unwrap() >= 0.0);
    }
    let mean = |policy: &str| report["mean"][policy]["130"].as_f64().unwrap();
    assert!(mean("ours") > mean("random"));
    let only = json(&[&files[..], &["--seeds", "1", "--policy", "ours"]].concat());
    assert_eq!(only["results"][0], report["results"][0]);
}

#[test]
fn queueing_is_told_for_each_rule() {
    let jobs = sample("jobs.csv");
    let jobs = ["queue", "--jobs", jobs.to_str().unwrap(), "--cluster", "one", "--nodes", "4"];
    let report = json(&jobs);
    assert_eq!(policies(&report), ["ours", "ours-nopreempt", "fifo", "sjf", "srtf"]);
    let wait = |at: usize| report["results"][at]["mean_queue_s"].as_f64().unwrap();
    assert!(wait(0) < wait(2) && wait(1) <= wait(2), "{report}");
    assert_eq!(report["results"][0]["jobs"], 240);
}

#[test]
fn spilling_is_told_for_each_rule_at_the_same_wait() {
    let jobs = sample("jobs.csv");
    let sizes = ["--home", "32", "--remote", "320", "--wait-budget", "5m"];
    let report = json(&[&["spill", "--jobs", jobs.to_str().unwrap()][..], &sizes[..]].concat());
    let rules = ["ours", "no-wait", "constant-wait", "resource-wait", "compute-wait"];
    assert_eq!(policies(&report), rules);
    for result in report["results"].as_array().unwrap() {
        assert!(result["mean_wait_s"].as_f64().unwrap() <= 300.0, "{result}");
        assert!(result["remote_gpu_hours"].as_f64().unwrap() > 0.0);
        assert!(result["home_utilisation"].as_f64().unwrap() <= 1.0);
    }
}

#[test]
fn a_terminal_gets_a_table() {
    let jobs = sample("jobs.csv");
    let (code, out, _) = run(&["queue", "--jobs", jobs.to_str().unwrap(), "--nodes", "4"]);
    assert_eq!(code, 0);
    assert!(out.starts_with("POLICY") && out.lines().count() == 6, "{out}");
}

#[test]
fn bad_input_ends_with_two_and_names_file_line_and_reason() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.csv");
    let cases = [
        ("submit_s,gpus\n0,1\n", "jobs.csv:1: column `duration_s` is missing"),
        ("submit_s,gpus,duration_s\n0,1,5\n-9,1,5\n", "jobs.csv:3: column `submit_s`: `-9` is neg"),
        ("submit_s,gpus,duration_s\n0,99,5\n", "jobs.csv:2: column `gpus`: a gang of 99 GPUs is l"),
        ("submit_s,gpus,duration_s\n0,1,\n", "jobs.csv:2: column `duration_s` is empty"),
        ("", "jobs.csv: the file is empty"),
    ];
    for (content, message) in cases {
        fs::write(&path, content).unwrap();
        let path = path.to_str().unwrap();
        let (code, out, err) = run(&["queue", "--jobs", path, "--nodes", "4"]);
        assert_eq!((code, out.as_str()), (2, ""), "{content:?}: {err}");
        assert!(err.contains(message), "{content:?}: {err}");
    }
    let absent = folder.path().join("absent.csv");
    let (code, _, err) = run(&["queue", "--jobs", absent.to_str().unwrap(), "--nodes", "4"]);
    assert_eq!(code, 3, "{err}");
}
