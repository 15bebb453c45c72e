//! The whole of it: two sites of real processes, jobs that spill, logs that come home.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_federation");

/// The demo starts the agent that lies beside the command. Testing the workspace builds it;
/// testing this crate alone does not.
fn have_agent() {
    if Path::new(BINARY).with_file_name("gpu-agent").exists() {
        return;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "-p", "gpu-agent-daemon", "--bin", "gpu-agent"]);
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(built.success());
}

#[test]
fn jobs_spill_to_another_site_and_come_home() {
    have_agent();
    let output = Command::new(BINARY).args(["demo", "-o", "json"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let told = String::from_utf8_lossy(&output.stdout);
    let document: Value =
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}\n{said}"));
    assert_eq!((&document["ok"], output.status.code()), (&true.into(), Some(0)), "{told}\n{said}");
    assert!(document["spilled"].as_u64().unwrap() >= 4, "{told}");
    let jobs = document["jobs"].as_array().unwrap();
    assert!(jobs.len() >= 12, "{told}");
    let away = jobs.iter().filter(|job| job["host"] != job["home"]);
    assert!(away.clone().all(|job| job["exit_code"] == 0 && job["state"] == "finished"), "{told}");
    assert_eq!(Some(away.count()), document["spilled"].as_u64().map(|n| n.try_into().unwrap()));
}
