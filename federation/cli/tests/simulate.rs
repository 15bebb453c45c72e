//! `federation simulate` as operators and scripts see it, on small samples.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// What scripts may rely on: every path of a report, and what stands there.
const SHAPE: &str = "\
apiVersion string
commands number
end_s number
jobs number
kind string
rounded_gangs number
rows_without_gpus number
seed number
sites[].background_gpus number
sites[].energy.co2_kg number
sites[].energy.eur number
sites[].energy.kwh number
sites[].finished number
sites[].gpu_hours number
sites[].gpus number
sites[].granted_idle number
sites[].jobs number
sites[].lent_gpus_max number
sites[].max_wait_s number
sites[].mean_jct_s number
sites[].mean_wait_s number
sites[].never_started number
sites[].nodes number
sites[].p50_wait_s number
sites[].p95_wait_s number
sites[].series.abroad_gpus[] number
sites[].series.granted_idle[] number
sites[].series.guests[] number
sites[].series.queued_gpus[] number
sites[].series.queued_jobs[] number
sites[].series.step_s number
sites[].series.stranded[] number
sites[].series.utilisation[] number
sites[].site string
sites[].spilled_gpu_hours_in number
sites[].spilled_gpu_hours_out number
sites[].spilled_jobs number
sites[].stops number
sites[].stranded number
sites[].utilisation number
sites[].utilisation_until_end number
sites[].wait_by_gang[].gpu_hours number
sites[].wait_by_gang[].jobs number
sites[].wait_by_gang[].max_s number
sites[].wait_by_gang[].mean_s number
sites[].wait_by_gang[].of string
sites[].wait_by_gang[].p50_s number
sites[].wait_by_gang[].p95_s number
sites[].wait_by_tenant[].gpu_hours number
sites[].wait_by_tenant[].jobs number
sites[].wait_by_tenant[].max_s number
sites[].wait_by_tenant[].mean_s number
sites[].wait_by_tenant[].of string
sites[].wait_by_tenant[].p50_s number
sites[].wait_by_tenant[].p95_s number
span_s number
spills[].attempts number
spills[].gpu_hours number
spills[].home string
spills[].host string
";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../replay/tests/samples").join(name)
}

/// Exit code, stdout, stderr.
fn run(args: &[&str]) -> (i32, String, String) {
    let home = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_federation"));
    let output = command.arg("simulate").args(args).env_clear().env("HOME", home.path()).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Berlin has the jobs of the samples, and a gigafactory lends.
fn two_sites(more: &[&str]) -> (i32, String, String) {
    let jobs = sample("jobs.csv");
    let jobs = ["--jobs", jobs.to_str().unwrap()];
    let sites = ["--site", "berlin=3x8:lend=0", "--site", "gigafactory=8x8:lend=50%"];
    run(&[&jobs[..], &sites[..], more].concat())
}

fn json(more: &[&str]) -> Value {
    let (code, out, err) = two_sites(&[more, &["-o", "json"]].concat());
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

fn shape(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(items) => {
            return items.iter().for_each(|item| shape(item, &format!("{path}[]"), found));
        }
        Value::Object(fields) => {
            let dot = if path.is_empty() { "" } else { "." };
            return fields
                .iter()
                .for_each(|(name, value)| shape(value, &format!("{path}{dot}{name}"), found));
        }
    };
    found.insert(format!("{path} {kind}"));
}

#[test]
fn a_report_keeps_its_shape() {
    let prices = sample("prices.csv");
    let report = json(&["--prices", prices.to_str().unwrap()]);
    let mut found = BTreeSet::new();
    shape(&report, "", &mut found);
    // Whoever has no jobs has no waits.
    found.retain(|line| !line.ends_with(" null"));
    let found: String = found.into_iter().map(|line| line + "\n").collect();
    assert_eq!(found, SHAPE);
    assert_eq!(report["kind"], "Simulation");
}

#[test]
fn equal_commands_print_equal_reports_and_all_jobs_are_in_them() {
    let report = json(&[]);
    assert_eq!(report, json(&[]));
    let berlin = &report["sites"][0];
    assert_eq!((berlin["site"].as_str(), berlin["jobs"].as_u64()), (Some("berlin"), Some(240)));
    assert_eq!(berlin["finished"], 240);
    let out = berlin["spilled_gpu_hours_out"].as_f64().unwrap();
    assert!(out > 0.0 && report["sites"][1]["spilled_gpu_hours_in"].as_f64() == Some(out));
    let alone = json(&["--no-spill"]);
    assert_eq!(alone["spills"].as_array().unwrap().len(), 0);
    let wait = |report: &Value| report["sites"][0]["mean_wait_s"].as_f64().unwrap();
    assert!(wait(&alone) > wait(&report), "{} {}", wait(&alone), wait(&report));
    let heavier = json(&["--load-scale", "berlin=2", "--seed", "3"]);
    assert_eq!(heavier["jobs"], 480);
}

#[test]
fn a_question_gets_its_answer_with_all_that_was_tried() {
    let sweep = ["--sweep", "gigafactory=0..512", "--until", "p95_wait(berlin)<10m"];
    let report = json(&sweep);
    assert_eq!(report["kind"], "SimulationSweep");
    let trials = report["trials"].as_array().unwrap();
    let answer: u64 = report["answer"].as_str().unwrap().parse().unwrap();
    assert!((8..=512).contains(&answer), "{report}");
    for trial in trials {
        let value: u64 = trial["value"].as_str().unwrap().parse().unwrap();
        assert_eq!(trial["met"].as_bool(), Some(value >= answer), "{value} of {answer}");
        assert_eq!(trial["met"], trial["measured"].as_f64().unwrap() < 600.0);
    }
    let (code, out, err) = two_sites(&sweep);
    assert_eq!(code, 0);
    assert!(out.starts_with("VALUE") && out.lines().count() == trials.len() + 1, "{out}");
    let line = format!("p95_wait(berlin)<10m from gpus(gigafactory) = {answer} on");
    assert!(err.contains(&line), "{err}");
}

#[test]
fn a_page_of_its_own_holds_the_plots_and_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("report.html");
    let (code, out, err) = two_sites(&["--html", path.to_str().unwrap()]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("SITE") && out.contains("\nHOME"), "{out}");
    let page = fs::read_to_string(&path).unwrap();
    // Of berlin six plots, of the gigafactory, which has no jobs of its own, two.
    assert_eq!(page.matches("<svg").count(), 8);
    for word in ["<script", "http:", "https:", "url(", "@import", "NaN", "inf"] {
        assert!(!page.contains(word), "{word}");
    }
    for word in ["GPUs in use", "Queue", "GPU-hours", "by gang", "by tenant", "Fragmentation"] {
        assert!(page.contains(word), "{word}");
    }
    let nowhere = folder.path().join("no/report.html");
    let (code, _, err) = two_sites(&["--html", nowhere.to_str().unwrap()]);
    assert_eq!(code, 3, "{err}");
}

#[test]
fn bad_input_ends_with_two_and_says_what_and_where() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jobs.csv");
    let site = ["--site", "berlin=2x8"];
    let rows = [
        ("submit_s,gpus\n0,1\n", "jobs.csv:1: column `duration_s` is missing"),
        ("submit_s,gpus,duration_s\n0,1,5\n-9,1,5\n", "jobs.csv:3: column `submit_s`: `-9` is neg"),
        ("submit_s,gpus,duration_s\n0,99,5\n", "jobs.csv:2: column `gpus`: no site could ever run"),
        ("submit_s,gpus,duration_s\n0,1,\n", "jobs.csv:2: column `duration_s` is empty"),
        ("submit_s,gpus,duration_s\n0,0,5\n", "no job that needs a GPU"),
        ("", "jobs.csv: the file is empty"),
    ];
    for (content, message) in rows {
        fs::write(&path, content).unwrap();
        let jobs = ["--jobs", path.to_str().unwrap()];
        let (code, out, err) = run(&[&jobs[..], &site[..]].concat());
        assert_eq!((code, out.as_str()), (2, ""), "{content:?}: {err}");
        assert!(err.contains(message), "{content:?}: {err}");
    }
    let words = [
        (&["--site", "rome=1"][..], "write it as `berlin=32x8`"),
        (&["--site", "berlin=1x8"], "site `berlin` is there twice"),
        (&["--load-scale", "rome=2"], "there is no site `rome`; there are: berlin, gigafactory"),
        (&["--load-scale", "-1"], "-1"),
        (&["--sweep", "gigafactory=9"], "9 GPUs of `gigafactory` do not fill nodes of 8"),
        (&["--sweep", "rome=8"], "there is no site `rome`"),
        (&["--sweep", "gigafactory"], "write it as `gigafactory=0,64,128`"),
        (&["--sweep", "gigafactory=8", "--until", "p99(berlin)<1s"], "`p99` is not measured"),
        (&["--until", "p95_wait(berlin)<1s"], "--sweep"),
    ];
    for (more, message) in words {
        let (code, out, err) = two_sites(more);
        assert_eq!((code, out.as_str()), (2, ""), "{more:?}: {err}");
        assert!(err.contains(message), "{more:?}: {err}");
    }
    let absent = folder.path().join("absent.csv");
    let jobs = ["--jobs", absent.to_str().unwrap()];
    let (code, _, err) = run(&[&jobs[..], &site[..]].concat());
    assert_eq!(code, 3, "{err}");
}

const SCENARIO: &str = "\
apiVersion: spillway/v1
kind: Simulation
metadata: {name: two}
spec:
  sites:
    - {name: berlin, nodes: 3, gpusPerNode: 8, lend: []}
    - {name: gigafactory, nodes: 8, gpusPerNode: 8}
  workload:
    - jobs: jobs.csv
  compare:
    - name: as it is
    - {name: nobody leaves, policy: {spill: false}}
";

/// What comes of a scenario of that text, beside which the jobs of the samples lie.
fn scenario(text: &str, more: &[&str]) -> (i32, String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(sample("jobs.csv"), folder.path().join("jobs.csv")).unwrap();
    let path = folder.path().join("what.yaml");
    fs::write(&path, text).unwrap();
    run(&[&["--scenario", path.to_str().unwrap()], more].concat())
}

#[test]
fn a_scenario_tells_each_site_in_each_case() {
    let (code, out, err) = scenario(SCENARIO, &[]);
    assert_eq!(code, 0, "{err}");
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("CASE") && lines[0].contains("GPU-H OUT"), "{out}");
    let of = |case: &str| lines.iter().filter(|line| line.starts_with(case)).count();
    assert_eq!((lines.len(), of("as it is"), of("nobody leaves")), (5, 2, 2), "{out}");
    let (code, out, err) = scenario(SCENARIO, &["-o", "json"]);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["kind"], "SimulationComparison");
    let wait = |case: usize| report["cases"][case]["sites"][0]["mean_wait_s"].as_f64().unwrap();
    assert!(wait(1) > wait(0), "{} {}", wait(0), wait(1));
}

#[test]
fn a_slip_in_a_scenario_ends_with_two_and_names_its_file_and_line() {
    let slips = [
        (
            SCENARIO.replace("gpusPerNode: 8}", "gpusPerNode: 8, colour: red}"),
            ":7:",
            "sites[1].colour`: is not a known field",
        ),
        (SCENARIO.replace("nobody leaves", "as it is"), ":12:", "another case has it"),
        (SCENARIO.replace("jobs.csv", "none.csv"), ":9:", "cannot read"),
        (SCENARIO.replace("kind: Simulation", "kind: Job"), ":2:", "write `Simulation`"),
        (SCENARIO.replace("nodes: 3", "nodes: [3"), ":6:", "what.yaml"),
        (String::new(), ":1:", "what.yaml"),
    ];
    for (text, line, reason) in slips {
        let (code, out, err) = scenario(&text, &[]);
        assert_eq!((code, out.as_str()), (2, ""), "{reason}: {err}");
        assert!(
            err.contains(&format!("what.yaml{line}")) && err.contains(reason),
            "{reason}: {err}"
        );
    }
    let (code, _, err) = run(&["--scenario", "nowhere.yaml"]);
    assert_eq!(code, 3, "{err}");
    let (code, _, err) = scenario(SCENARIO, &["--seed", "4"]);
    assert!(code == 2 && err.contains("--seed"), "{err}");
}

#[test]
fn the_schema_of_scenarios_is_a_document_of_its_own() {
    let (code, out, err) = run(&["--schema"]);
    assert_eq!(code, 0, "{err}");
    let schema: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(schema["properties"]["kind"]["const"], "Simulation");
    assert_eq!(run(&["--schema", "--seed", "1"]).0, 2);
}
