//! The whole of it: two sites of real processes, jobs that spill, logs that come home.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_federation");

/// The demo starts the agent that lies beside the command, on the emulator. Testing the workspace
/// builds both; testing this crate alone does not.
fn have_agent() {
    let library = ["libgpu_agent_emulator.so", "deps/libgpu_agent_emulator.so"];
    let is_there = |name: &str| Path::new(BINARY).with_file_name(name).exists();
    if is_there("gpu-agent") && library.into_iter().any(is_there) {
        return;
    }
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--locked", "-p", "gpu-agent-daemon", "-p", "gpu-agent-emulator"]);
    let built = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(built.success());
}

#[test]
fn without_the_emulator_nothing_begins_and_what_to_do_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let alone = dir.path().join("federation");
    fs::copy(BINARY, &alone).unwrap();
    fs::write(dir.path().join("gpu-agent"), "").unwrap();
    let place = dir.path().join("place");
    let said = Command::new(&alone).arg("demo").arg("--dir").arg(&place).output().unwrap();
    let told = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(3), "{told}");
    assert!(told.contains("libgpu_agent_emulator.so is not there"), "{told}");
    assert!(told.contains("cargo build --workspace"), "{told}");
    assert!(!place.exists());
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
    let gpus = &document["gpus"];
    assert_eq!(gpus["proven"], 55, "{told}");
    let out = gpus["out_of_service"].as_array().unwrap();
    assert_eq!(out.len(), 1, "{told}");
    let sick = [&out[0]["node"], &out[0]["index"], &out[0]["state"]];
    assert_eq!(sick, [&Value::from("g05"), &3.into(), &"quarantined".into()], "{told}");
    let jobs = document["jobs"].as_array().unwrap();
    assert!(jobs.len() >= 12, "{told}");
    let away = jobs.iter().filter(|job| job["host"] != job["home"]);
    assert!(away.clone().all(|job| job["exit_code"] == 0 && job["state"] == "finished"), "{told}");
    assert_eq!(Some(away.count()), document["spilled"].as_u64().map(|n| n.try_into().unwrap()));
}
