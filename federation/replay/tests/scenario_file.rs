//! Scenarios that are written as files: what they mean, and what is said of a slip.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::{env, fs};

use federation_replay::read::NoProgress;
use federation_replay::simulate::compare::{CaseReport, Comparison, compare};
use federation_replay::simulate::file::{Simulation, read_file, schema};
use federation_replay::simulate::simulate_checked;

const JOBS: &str = "submit_s,tenant,gpus,duration_s\n0,lab,8,3600\n60,firm,8,1800\n70,lab,16,60\n";

const WHOLE: &str = "\
apiVersion: spillway/v1
kind: Simulation
metadata: {name: two}
spec:
  sites:
    - {name: berlin, nodes: 2, gpusPerNode: 8, lend: []}
    - {name: giga, nodes: 4, gpusPerNode: 8, lend: [{to: berlin, gpus: 50%}]}
  workload:
    - {jobs: jobs.csv, home: berlin}
";

/// What is read from the text, with [`JOBS`] beside it.
fn read(text: &str) -> Result<Simulation, String> {
    read_named("what.yaml", text)
}

fn read_named(name: &str, text: &str) -> Result<Simulation, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("jobs.csv"), JOBS).unwrap();
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    read_file(&path, &mut NoProgress).map_err(|error| error.to_string())
}

fn compared(text: &str) -> Comparison {
    compare(&read(text).unwrap(), &mut NoProgress).unwrap()
}

fn with(more: &str) -> String {
    format!("{WHOLE}{more}")
}

#[test]
fn the_example_is_read_and_each_of_its_cases_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let example = read_file(&root.join("specs/examples/what-if.yaml"), &mut NoProgress).unwrap();
    assert_eq!(example.cases.len(), 5);
    for CaseReport { case, report } in compare(&example, &mut NoProgress).unwrap().cases {
        let berlin = &report.sites[0];
        assert_eq!((berlin.finished, berlin.never_started), (berlin.jobs, 0), "{case}");
        assert!(report.sites.iter().all(|site| site.energy.is_some()));
    }
}

#[test]
fn a_file_without_cases_says_what_flags_say() {
    let simulation = read(WHOLE).unwrap();
    let report = simulate_checked(&simulation.cases[0].scenario).unwrap();
    let (berlin, giga) = (&report.sites[0], &report.sites[1]);
    assert_eq!((simulation.cases.len(), report.jobs), (1, 3));
    // The third job is the only one that finds no place at home.
    assert_eq!((berlin.spilled_jobs, berlin.lent_gpus_max, giga.lent_gpus_max), (1, 0, 16));
}

#[test]
fn toml_and_json_mean_the_same() {
    let toml = "apiVersion = 'spillway/v1'\nkind = 'Simulation'\nmetadata.name = 'two'\n\
        [[spec.sites]]\nname = 'berlin'\nnodes = 2\ngpusPerNode = 8\nlend = []\n\
        [[spec.sites]]\nname = 'giga'\nnodes = 4\ngpusPerNode = 8\n\
        lend = [{to = 'berlin', gpus = '50%'}]\n\
        [[spec.workload]]\njobs = 'jobs.csv'\nhome = 'berlin'\n";
    let json = r#"{"apiVersion": "spillway/v1", "kind": "Simulation", "metadata": {"name": "two"},
        "spec": {"sites": [{"name": "berlin", "nodes": 2, "gpusPerNode": 8, "lend": []},
        {"name": "giga", "nodes": 4, "gpusPerNode": 8, "lend": [{"to": "berlin", "gpus": "50%"}]}],
        "workload": [{"jobs": "jobs.csv", "home": "berlin"}]}}"#;
    let told = |simulation: Simulation| compare(&simulation, &mut NoProgress).unwrap();
    let yaml = told(read(WHOLE).unwrap());
    assert_eq!(told(read_named("what.toml", toml).unwrap()), yaml);
    assert_eq!(told(read_named("what.json", json).unwrap()), yaml);
}

#[test]
fn cases_differ_in_what_they_change_and_in_nothing_else() {
    let text = with(
        "  compare:
    - name: as it is
    - {name: nobody leaves, policy: {spill: false}}
    - {name: late, policy: {spillAfter: 5m}}
    - {name: tight, set: {giga: 8, lend(giga): 8}}
    - {name: a quota, policy: {quota: {lab: {max: 8}}, spill: false}}
",
    );
    let found = compared(&text);
    let wait = |nth: usize| found.cases[nth].report.sites[0].max_wait_s;
    // Nodes come free at home after 1,860 s and 3,600 s.
    assert_eq!((wait(0), wait(1)), (Some(0), Some(3_530)));
    assert!((300..=360).contains(&wait(2).unwrap()), "{:?}", wait(2));
    // A gang of 16 has no place on the 8 GPUs that are left there.
    assert_eq!((found.cases[3].report.sites[1].gpus, wait(3)), (8, Some(3_530)));
    // The lab never has 16.
    assert_eq!(found.cases[4].report.sites[0].never_started, 1);
    assert_eq!(found, compared(&text));
}

#[test]
fn a_case_that_cannot_be_run_is_named_with_the_line_of_its_job() {
    let text = with("  compare: [{name: fine}, {name: small, set: {berlin: 8, giga: 8}}]\n");
    let fault = compare(&read(&text).unwrap(), &mut NoProgress).unwrap_err().to_string();
    assert!(fault.starts_with("case `small`: ") && fault.contains("jobs.csv:4: "), "{fault}");
}

#[test]
fn an_urgent_job_takes_the_place_of_another_unless_nobody_may_be_stopped() {
    let text = "\
apiVersion: spillway/v1
kind: Simulation
metadata: {name: urgent}
spec:
  sites: [{name: berlin, nodes: 2, gpusPerNode: 8}]
  workload:
    - {jobs: jobs.csv, gpusMax: 8}
    - {jobs: jobs.csv, gpusMin: 9, priority: 90}
  compare:
    - name: preempts
    - {name: does not, policy: {preemption: false}}
";
    let found = compared(text);
    let stops = |nth: usize| found.cases[nth].report.sites[0].stops;
    assert_eq!((stops(0), stops(1)), (2, 0));
    let gang = |nth: usize| {
        let waits = &found.cases[nth].report.sites[0].wait_by_gang;
        waits.iter().find(|waits| waits.of == "9-64").unwrap().max_s.unwrap()
    };
    assert!(gang(0) < 60 && gang(1) == 3_530, "{} {}", gang(0), gang(1));
}

#[test]
fn gangs_that_must_stand_together_wait_for_a_rack_that_holds_them() {
    let text = |how: &str| {
        WHOLE.replace("lend: []}", "lend: [], layout: {nodesPerRack: 1}}").replace(
            "home: berlin}",
            &format!("home: berlin, together: {{same: rack, how: {how}}}}}"),
        )
    };
    // No rack of one node ever holds a gang of two.
    let found = read(&text("require")).unwrap();
    let report = simulate_checked(&found.cases[0].scenario).unwrap();
    assert_eq!(report.sites[0].never_started, 1);
    let found = read(&text("prefer")).unwrap();
    let report = simulate_checked(&found.cases[0].scenario).unwrap();
    assert_eq!((report.sites[0].never_started, report.sites[0].spilled_jobs), (0, 1));
}

#[test]
fn electricity_is_paid_with_the_cooling_and_at_a_flat_price_if_there_is_one() {
    let text = WHOLE.replace(
        "lend: []}",
        "lend: [], power: {wattsPerGpu: 500, pue: 1.2, eurPerKwh: 0.5, kgCo2PerKwh: 0.3}}",
    );
    let report = &compared(&text).cases[0].report;
    let energy = report.sites[0].energy.as_ref().unwrap();
    // 8 GPUs for an hour and 8 for half of it, at 0.6 kW.
    assert!((energy.kwh - 7.2).abs() < 1e-9 && (energy.eur - 3.6).abs() < 1e-9, "{energy:?}");
    assert!((energy.co2_kg.unwrap() - 2.16).abs() < 1e-9);
    assert_eq!(report.sites[1].energy, None);
}

#[test]
fn a_slip_is_named_with_its_field_and_line() {
    let slips = [
        (WHOLE.replace("nodes: 2", "nodes: -2"), "`spec.sites[0].nodes`"),
        (WHOLE.replace("nodes: 2", "nodes: 999999"), "999999 is not between 0 and 200000"),
        (WHOLE.replace("nodes: 2", "node: 2"), "did you mean `nodes`?"),
        (WHOLE.replace("gpusPerNode: 8, lend: []", "gpusPerNode: 0"), "0 is not between 1 and"),
        (
            WHOLE.replace("to: berlin", "to: rome"),
            "there is no site `rome`; there are: berlin, giga",
        ),
        (WHOLE.replace("50%", "150%"), "`150%` is more than all"),
        (WHOLE.replace("name: giga", "name: berlin"), "site `berlin` is there twice"),
        (WHOLE.replace("home: berlin", "home: rome"), "there is no site `rome`"),
        (WHOLE.replace("jobs.csv", "none.csv"), "`spec.workload[0].jobs`: cannot read"),
        (WHOLE.replace("home: berlin", "load: .nan"), "`.nan`"),
        (WHOLE.replace("home: berlin", "load: -1"), "`spec.workload[0].load`: -1 is not between"),
        (WHOLE.replace("home: berlin", "from: 9, to: 3"), "comes before `from`, 9"),
        (WHOLE.replace("kind: Simulation", "kind: Job"), "write `Simulation`"),
        (with("  policy: {spillAfter: soon}\n"), "`soon` is not a span of time"),
        (with("  policy: {spill: false, spillAfter: 1m}\n"), "jobs never leave"),
        (with("  policy: {quota: {lab: {}}}\n"), "limits nothing"),
        (with("  policy: {quota: {lab: {guaranteed: 9, max: 8}}}\n"), "is less than `guaranteed`"),
        (with("  compare: [{name: a}, {name: a}]\n"), "another case has it"),
        (with("  compare: [{name: a, set: {size(giga): 8}}]\n"), "`size` cannot be varied"),
        (with("  compare: [{name: a, set: {giga: 12}}]\n"), "12 GPUs of `giga` do not fill nodes"),
        (with("  look: 1ms\n"), "is shorter than a second"),
        (with("  prices: jobs.csv\n"), "column `time_s` is missing"),
        (String::new(), "what.yaml:1:1"),
    ];
    for (text, message) in slips {
        let fault = read(&text).unwrap_err();
        assert!(fault.contains(message) && fault.contains("what.yaml:"), "{message}: {fault}");
    }
    let fault = read(&WHOLE.replace("lend: []", "power: {pue: 1.2}")).unwrap_err();
    assert!(fault.contains("there is no price of electricity for this site"), "{fault}");
    let fault = read(&WHOLE.replace("nodes: 4", "nodes: four")).unwrap_err();
    assert!(fault.contains("what.yaml:7:"), "{fault}");
}

#[test]
fn the_schema_is_the_one_checked_in() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../specs/schemas/simulation.json");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, schema()).unwrap();
    }
    assert!(
        fs::read_to_string(&path).unwrap_or_default() == schema(),
        "specs/schemas/simulation.json differs from the types; renew it with \
         `UPDATE=1 cargo test -p federation-replay --test scenario_file the_schema`"
    );
}
