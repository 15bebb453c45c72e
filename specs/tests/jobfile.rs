//! Job files as users write them: the examples, every mistake's place, and the schema.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::PathBuf;
use std::{env, fs};

use proptest::prelude::*;
use specs::gpu::{BurnInTier, ProofNeed};
use specs::job::{
    ARRAY_MAX, COMMAND_BYTES_MAX, ENV_BYTES_MAX, GPUS_PER_NODE_MAX, GRACE_MAX, JobClass, JobSpec,
    NODES_MAX, Needs, OnPartition, PRIORITY_MAX, RETRIES_MAX, TASKS_PER_NODE_MAX,
};
use specs::job::{LABELS_MAX, SITES_MAX, Together, Vicinity};
use specs::jobfile::{self, Format, JobFileError};
use specs::unit::{GpuCount, Millis, Timestamp};
use specs::version::ClusterVersion;

const MINIMAL: &str = "\
apiVersion: spillway/v1
kind: Job
metadata:
  name: small
spec:
  run:
    command: [sleep, '1']
";

fn here(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn yaml(text: &str) -> Result<JobSpec, JobFileError> {
    jobfile::read(text, Format::Yaml, "job.yaml")
}

/// The minimal file with some lines more at its end, which lies inside `spec`.
fn with(lines: &str) -> Result<JobSpec, JobFileError> {
    yaml(&format!("{MINIMAL}{lines}\n"))
}

/// Checks an error's path, what its caret stands under, and a piece of its first line.
fn assert_told(result: Result<JobSpec, JobFileError>, path: &str, under: &str, reason: &str) {
    let error = result.expect_err("the file has a mistake");
    let place = error.place().expect("a text has places");
    assert_eq!(error.path().to_string(), path, "{error}");
    let pointed: String = place.source_line.chars().skip(place.column - 1).collect();
    assert!(pointed.starts_with(under), "the caret is not under `{under}`: {error}");
    assert!(error.to_string().lines().next().unwrap().contains(reason), "{error}");
}

fn example(name: &str) -> JobSpec {
    let text = fs::read_to_string(here("examples").join(name)).unwrap();
    jobfile::read(&text, Format::of(name), name).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn every_example_is_a_job() {
    let names = fs::read_dir(here("examples")).unwrap();
    let names: Vec<String> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() >= 4, "{names:?}");
    // A scenario is read like a job, and tested where it is simulated.
    for name in names.into_iter().filter(|name| name != "what-if.yaml") {
        example(&name).check().unwrap();
    }
}

#[test]
fn the_training_example_is_a_gang_of_sixteen() {
    let gang = example("training-gang.yaml");
    assert_eq!((gang.nodes, gang.tasks_per_node, gang.gpus()), (2, 8, GpuCount(16)));
    assert_eq!(gang.class, JobClass::Training);
    assert_eq!(gang.gpu_classes[0].as_str(), "b200");
    assert_eq!(gang.command[..2], ["/bin/sh", "-c"]);
    assert_eq!(gang.time_limit, Millis(600_000));
    assert_eq!(gang.placement.residency.len(), 2);
}

#[test]
fn a_toml_file_says_the_same_as_its_yaml_twin() {
    assert_eq!(example("simulation-array.toml"), example("simulation-array.yaml"));
}

#[test]
fn what_a_file_leaves_out_has_a_default() {
    let job = yaml(MINIMAL).unwrap();
    assert_eq!(job.class, JobClass::Training);
    assert_eq!((job.priority, job.nodes, job.tasks_per_node, job.array), (50, 1, 1, 1));
    assert_eq!(job.gpus_per_node, GpuCount(1));
    assert_eq!((job.grace, job.time_limit), (Millis(10_000), Millis::ZERO));
    assert_eq!((job.retries, job.on_partition), (10, OnPartition::Restart));
    assert!(job.placement.spill && job.placement.sites.is_empty());
    assert_eq!(*job.needs, Needs::default());
    assert!(job.gpu_classes.is_empty() && job.env.is_empty() && job.workdir.is_empty());
}

#[test]
fn what_a_job_asks_of_its_nodes_is_read() {
    let job = with(
        "  replicas: {nodes: 4}
  resources: {cpus: 12, memory: 64Gi, gpus: {count: 8}}
  placement:
    attributes: {fabric: ndr}
    exclusive: true
    fill: spread
    topology: {sameRack: require, groupSize: 2}",
    );
    let together = Together { level: Vicinity::Rack, required: true, group_nodes: 2 };
    let needs = Needs {
        cpu_milli: 12_000,
        memory_mib: 65_536,
        gpu_milli: 0,
        attributes: [("fabric".to_owned(), "ndr".to_owned())].into(),
        exclusive: true,
        spread: true,
        together: Some(together),
        proof: None,
    };
    assert_eq!(*job.unwrap().needs, needs);
    let shared = with("  resources: {gpus: {milli: 250}}").unwrap();
    assert_eq!((shared.needs.gpu_milli, shared.gpus_per_node), (250, GpuCount(1)));
    let near = with("  placement: {topology: {sameDomain: prefer}}").unwrap();
    assert!(near.needs.together.as_ref().is_some_and(|it| !it.required));
    assert!(near.may_leave() && !shared.may_leave());
}

#[test]
fn what_a_job_demands_of_proofs_is_read() {
    let of = |health: &str| with(health).unwrap().needs.proof;
    let need = |tier, age_max| Some(ProofNeed { tier, age_max: Millis(age_max) });
    assert_eq!(of("  health: {maxAge: 24h, tier: t3}"), need(BurnInTier::T3, 86_400_000));
    assert_eq!(of("  health: {maxAge: 7d}"), need(BurnInTier::T2, 7 * 86_400_000));
    assert_eq!(of("  health: {tier: t3}"), need(BurnInTier::T3, 0));
    assert_eq!(with("  health: {tier: t3}").unwrap().since(), ClusterVersion::DEMANDS);
}

#[test]
fn what_a_job_cannot_ask_of_its_nodes_is_told() {
    let cases = [
        ("  health: {}", "spec.health", "health", "demands nothing"),
        ("  health: {tier: t1}", "spec.health.tier", "t1", "proves nothing"),
        ("  health: {tier: t5}", "spec.health.tier", "t5", "not one of t2, t3"),
        ("  health: {maxAge: 1x}", "spec.health.maxAge", "1x", "not a span"),
        ("  health: {maxAge: 0s}", "spec.health.maxAge", "0s", "that young"),
        ("  health: {maxAge: 59s}", "spec.health.maxAge", "59s", "not between 60 s"),
        ("  health: {maxAge: 366d}", "spec.health.maxAge", "366d", "365 days"),
        ("  health: {age: 1h}", "spec.health.age", "age", "not a known field"),
        ("  resources: {cpus: 0}", "spec.resources.cpus", "0", "zero"),
        ("  resources: {cpus: 65537}", "spec.resources.cpus", "65537", "more than"),
        ("  resources: {memory: 64G}", "spec.resources.memory", "64G", "not an amount"),
        ("  resources: {memory: 2048Ti}", "spec.resources.memory", "2048Ti", "not between"),
        ("  resources: {gpus: {milli: 0}}", "spec.resources.gpus.milli", "0", "zero"),
        ("  resources: {gpus: {milli: 1000}}", "spec.resources.gpus.milli", "1000", "not between"),
        ("  resources: {gpus: {milli: 5, count: 2}}", "spec.resources.gpus.milli", "5", "one GPU"),
        ("  placement: {fill: packed}", "spec.placement.fill", "packed", "not one of"),
        (
            "  placement: {attributes: {a b: c}}",
            "spec.placement.attributes",
            "attributes",
            "letters",
        ),
        (
            "  placement: {topology: {sameRack: must}}",
            "spec.placement.topology.sameRack",
            "must",
            "not one of",
        ),
        (
            "  placement: {topology: {sameRack: require, sameHall: prefer}}",
            "spec.placement.topology.sameHall",
            "prefer",
            "at most one",
        ),
        (
            "  placement: {topology: {groupSize: 1}}",
            "spec.placement.topology.groupSize",
            "1",
            "where",
        ),
        (
            "  placement: {topology: {sameRack: require, groupSize: 2}}",
            "spec.placement.topology.groupSize",
            "2",
            "groups of 2",
        ),
    ];
    for (lines, path, under, reason) in cases {
        assert_told(with(lines), path, under, reason);
    }
}

#[test]
fn a_name_with_nothing_behind_it_is_an_empty_mapping() {
    assert_eq!(with("    env:\n  placement:\n  time: {}").unwrap(), yaml(MINIMAL).unwrap());
}

#[test]
fn json_is_accepted_as_yaml() {
    let text = r#"{"apiVersion": "spillway/v1", "kind": "Job", "metadata": {"name": "small"},
        "spec": {"run": {"command": ["sleep", "1"]}}}"#;
    assert_eq!(yaml(text).unwrap(), yaml(MINIMAL).unwrap());
}

#[test]
fn an_error_shows_the_line_a_caret_and_what_to_do() {
    let error = with("  replicas:\n    node: 2").unwrap_err();
    let text = "\
`spec.replicas.node`: is not a known field
 --> job.yaml:9:5
  |
9 |     node: 2
  |     ^
  hint: did you mean `nodes`? Known here: nodes, tasksPerNode";
    assert_eq!(error.to_string(), text);
}

#[test]
fn a_mistake_is_told_with_its_path_and_place() {
    let cases = [
        ("replicas: {nodes: 0}", "spec.replicas.nodes", "0}", "0 is not between 1 and"),
        ("replicas: {nodes: -1}", "spec.replicas.nodes", "-1", "a whole number, zero or more"),
        ("replicas: {nodes: two}", "spec.replicas.nodes", "two", "found the text `two`"),
        ("replicas: {nodes: 99999999999}", "spec.replicas.nodes", "999", "far too large"),
        ("replicas: [1]", "spec.replicas", "replicas", "expected a mapping, found a list"),
        ("resources:\n    gpus:\n      count: 0", "spec.resources.gpus.count", "0", "0 is not"),
        ("resources: {gpus: {model: H_1}}", "spec.resources.gpus.model", "H_1", "`H_1` is not"),
        ("resources: {gpus: {model: []}}", "spec.resources.gpus.model", "model", "empty list"),
        ("resources: {gpus: {model: [l4, '?']}}", "spec.resources.gpus.model[1]", "'?'", "`?`"),
        ("class: trainig", "spec.class", "trainig", "not one of training, simulation"),
        ("priority: 101", "spec.priority", "101", "101 is not between 0 and 100"),
        ("time: {limit: 1 hour}", "spec.time.limit", "1 hour", "not a span of time"),
        ("time: {limit: 0s}", "spec.time.limit", "0s", "no time to run"),
        ("time: {grace: 30}", "spec.time.grace", "30", "expected a text, found integer `30`"),
        ("onPartition: hope", "spec.onPartition", "hope", "not one of restart, wait"),
        ("placement: {spill: yes}", "spec.placement.spill", "yes", "expected true or false"),
        ("placement: {sites: berlin}", "spec.placement.sites", "berlin", "expected a list"),
        ("placement: {sites: [Berlin]}", "spec.placement.sites[0]", "Berlin", "site name"),
        ("placement: {dataResidency: [de]}", "spec.placement.dataResidency[0]", "de]", "country"),
        ("placement: {sites: []}", "spec.placement.sites", "sites", "an empty list"),
        ("placement:\n    dataResidency:", "spec.placement.dataResidency", "data", "found nothing"),
        ("secrets: [a]", "spec.secrets", "secrets", "not a known field"),
        ("run: {}", "", "run", "duplicate"),
    ];
    for (lines, path, under, reason) in cases {
        assert_told(with(&format!("  {lines}")), path, under, reason);
    }
}

#[test]
fn a_mistake_in_the_fixed_part_is_told_with_its_path_and_place() {
    let cases = [
        ("spillway/v1", "spillway/v9", "apiVersion", "spillway/v9", "not known"),
        ("kind: Job", "kind: Pod", "kind", "Pod", "not known"),
        ("kind: Job\n", "", "kind", "apiVersion", "is missing"),
        ("name: small", "title: small", "metadata.title", "title", "not a known field"),
        ("name: small", "labels: {}", "metadata.name", "metadata", "is missing"),
        ("name: small", "name: Small Job", "metadata.name", "Small Job", "job name"),
        ("name: small", "name: 7", "metadata.name", "7", "expected a text"),
        ("name: small", "name: 'small", "", "", "quoted scalar"),
        ("name: small", "name: small\n  name: b", "", "name: b", "duplicate"),
    ];
    for (from, to, path, under, reason) in cases {
        assert_told(yaml(&MINIMAL.replace(from, to)), path, under, reason);
    }
}

#[test]
fn a_mistake_in_what_is_run_is_told_with_its_path_and_place() {
    let cases = [
        ("[sleep, 1]", "spec.run.command[1]", "1]", "expected a text"),
        ("[]", "spec.run.command", "command", "names no program"),
        ("' '", "spec.run.command", "' '", "is empty"),
        ("{a: b}", "spec.run.command", "command", "a text or a list of texts"),
        ("a\n    env: {RANK: '1'}", "spec.run.env.RANK", "'1'", "set by Spillway"),
        ("a\n    env: {SPILLWAY_X: a}", "spec.run.env.SPILLWAY_X", "a}", "set by Spillway"),
        ("a\n    env: {1A: x}", "spec.run.env.1A", "x", "name of a variable"),
        ("a\n    env: {A: 1}", "spec.run.env.A", "1", "expected a text"),
        ("a\n    workdir: out", "spec.run.workdir", "out", "absolute"),
    ];
    for (to, path, under, reason) in cases {
        assert_told(yaml(&MINIMAL.replace("[sleep, '1']", to)), path, under, reason);
    }
}

#[test]
fn a_mistake_in_toml_is_told_with_its_path_and_place() {
    let good = "apiVersion = \"spillway/v1\"\nkind = \"Job\"\nmetadata.name = \"a\"\n\
                [spec.run]\ncommand = [\"true\"]\n";
    let read = |text: &str| jobfile::read(text, Format::Toml, "job.toml");
    assert!(read(good).is_ok());
    let cases = [
        ("[spec.replicas]\nnodes = 0", "spec.replicas.nodes", "0", "0 is not between"),
        ("[spec.replicas]\nnode = 1", "spec.replicas.node", "node", "not a known field"),
        ("[spec.replicas]\nnodes = 99999999999999999999", "spec.replicas.nodes", "999", "number"),
        ("[spec.resources.gpus]\nmodel = ['l4', 5]", "spec.resources.gpus.model[1]", "5", "text"),
        ("[spec.time]\nlimit = 2026-01-01", "spec.time.limit", "2026", "not a span"),
        ("[spec.time\n", "", "", "table"),
    ];
    for (lines, path, under, reason) in cases {
        assert_told(read(&format!("{good}{lines}")), path, under, reason);
    }
}

#[test]
fn what_a_job_reads_and_when_it_should_have_ended_is_read() {
    let job = with(
        "  data: [{name: acme/corpus, size: 2Ti}, {name: tokens}]
  time: {finishWithin: 6h}",
    )
    .unwrap();
    let read: Vec<(&str, u64)> =
        job.data.iter().map(|need| (need.name.as_str(), need.bytes)).collect();
    assert_eq!(read, [("acme/corpus", 2 << 40), ("tokens", 0)]);
    assert_eq!(job.due(Timestamp(1_000)), Some(Timestamp(21_601_000)));
    let job = with("  time: {finishBy: 2026-12-24T06:00:00+01:00}").unwrap();
    assert_eq!(job.due(Timestamp(1_000)), Some(Timestamp(1_798_088_400_000)));
    assert_eq!(yaml(MINIMAL).unwrap().due(Timestamp(1_000)), None);
}

#[test]
fn what_cannot_be_read_or_ended_in_time_is_told() {
    let wrong = [
        ("data: [{name: No}]", "spec.data[0].name", "No", "not a data set"),
        ("data: [{name: a, size: 2T}]", "spec.data[0].size", "2T", "is not a size"),
        ("data: [{name: a, size: 0Gi}]", "spec.data[0].size", "0Gi", "zero"),
        ("data: [{name: a}, {name: a}]", "spec.data", "data", "named twice"),
        ("time: {finishWithin: 0s}", "spec.time.finishWithin", "0s", "no time to run"),
        ("time: {finishWithin: 367d}", "spec.time.finishWithin", "367d", "a year"),
        ("time: {finishBy: tomorrow}", "spec.time.finishBy", "tomorrow", "not a time"),
        ("time: {finishBy: x, finishWithin: 1h}", "spec.time.finishBy", "x", "is given, too"),
    ];
    for (line, path, under, reason) in wrong {
        assert_told(with(&format!("  {line}")), path, under, reason);
    }
}

#[test]
fn every_limit_is_met_and_not_passed() {
    let lines = [
        ("priority: ", PRIORITY_MAX),
        ("retry: {max: ", RETRIES_MAX),
        ("array: {count: ", ARRAY_MAX),
        ("replicas: {nodes: ", NODES_MAX),
        ("replicas: {tasksPerNode: ", TASKS_PER_NODE_MAX),
        ("resources: {gpus: {count: ", GPUS_PER_NODE_MAX),
    ];
    for (line, max) in lines {
        let close = "}".repeat(line.matches('{').count());
        assert!(with(&format!("  {line}{max}{close}")).is_ok(), "{line}{max}");
        assert!(with(&format!("  {line}{}{close}", max + 1)).is_err(), "{line}{max} and one");
    }
    let grace = GRACE_MAX.0;
    assert!(with(&format!("  time: {{grace: {grace}ms}}")).is_ok());
    assert!(with(&format!("  time: {{grace: {}ms}}", grace + 1)).is_err());
    assert!(with("  time: {limit: 366d}").is_ok());
    assert!(with("  time: {limit: 367d}").is_err());
}

#[test]
fn long_texts_and_lists_have_limits() {
    let command = |bytes: usize| MINIMAL.replace("'1'", &"x".repeat(bytes - "sleep".len()));
    assert!(yaml(&command(COMMAND_BYTES_MAX)).is_ok());
    assert!(yaml(&command(COMMAND_BYTES_MAX + 1)).is_err());
    let env = |bytes: usize| format!("{MINIMAL}    env: {{A: {}}}\n", "x".repeat(bytes - 1));
    assert!(yaml(&env(ENV_BYTES_MAX)).is_ok());
    assert!(yaml(&env(ENV_BYTES_MAX + 1)).is_err());
    let sites = |count: usize| with(&format!("  placement: {{sites: [{}]}}", "a,".repeat(count)));
    assert!(sites(SITES_MAX).is_ok());
    assert!(sites(SITES_MAX + 1).is_err());
    let labels = |count: usize| {
        let labels: Vec<String> = (0..count).map(|nth| format!("l{nth}: x")).collect();
        let line = format!("  name: small\n  labels: {{{}}}", labels.join(", "));
        yaml(&MINIMAL.replace("  name: small", &line))
    };
    assert!(labels(LABELS_MAX).is_ok());
    assert!(labels(LABELS_MAX + 1).is_err());
    assert!(yaml(&" ".repeat(jobfile::FILE_BYTES_MAX + 1)).is_err());
}

#[test]
fn hostile_yaml_is_refused_and_not_expanded() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for nth in 1..12 {
        let aliases = vec![format!("*a{}", nth - 1); 9].join(", ");
        bomb.push_str(&format!("a{nth}: &a{nth} [{aliases}]\n"));
    }
    assert!(yaml(&bomb).is_err());
    assert!(yaml(&"[".repeat(10_000)).is_err());
    assert!(yaml(&"{a: ".repeat(10_000)).is_err());
    let deep = format!("a = {}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert!(jobfile::read(&deep, Format::Toml, "a.toml").is_err());
}

#[test]
fn a_country_may_be_norway() {
    let job = with("  placement: {dataResidency: [NO]}").unwrap();
    assert_eq!(job.placement.residency[0].to_string(), "NO");
}

#[test]
fn a_long_line_is_cut_around_its_caret() {
    let text = MINIMAL.replace("small", &format!("{}\u{7}\"", "x".repeat(500)));
    let shown = yaml(&text).unwrap_err().to_string();
    assert!(shown.lines().all(|line| line.chars().count() < 200), "{shown}");
    assert!(!shown.contains('\u{7}'), "{shown}");
}

#[test]
fn the_schema_is_the_one_checked_in() {
    let path = here("schemas/job.json");
    if env::var_os("UPDATE").is_some() {
        fs::write(&path, jobfile::schema()).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap();
    assert!(
        kept == jobfile::schema(),
        "specs/schemas/job.json differs from the types; renew it with \
         `UPDATE=1 cargo test -p specs --features files --test jobfile the_schema`"
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "[ -~\n]{0,200}", at in 0usize..200) {
        let mut mixed = MINIMAL.to_owned();
        mixed.insert_str(at.min(MINIMAL.len()), &text);
        for format in [Format::Yaml, Format::Toml] {
            for text in [&text, &mixed] {
                if let Err(error) = jobfile::read(text, format, "job") {
                    prop_assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}
