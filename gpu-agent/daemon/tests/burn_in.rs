//! The real agent's burn-in on emulated GPUs: its exit codes, what it names, and what it says where
//! there is nothing to burn in.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::Path;
use std::process::{Command, Output};

use gpu_agent_emulator::control::{Control, Gpu, VARIABLE};
use gpu_agent_emulator::fault::{Fault, Throttle, UnitKind, Way};
use serde_json::Value;
use tempfile::TempDir;

/// A folder with the stand-in libraries and a control file.
struct Node {
    folder: TempDir,
}

impl Node {
    fn new(gpus: Vec<Gpu>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let library = gpu_agent_emulator::library().expect("the emulator is built with this test");
        gpu_agent_emulator::stage(&library, &folder.path().join("lib")).unwrap();
        let text = toml::to_string(&Control { gpus }).unwrap();
        std::fs::write(folder.path().join("control.toml"), text).unwrap();
        Self { folder }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        agent(&self.folder.path().join("lib"))
            .env(VARIABLE, self.folder.path().join("control.toml"))
            .args(arguments)
            .output()
            .unwrap()
    }

    fn burn_in(&self, more: &[&str]) -> (i32, Value) {
        let mut arguments = vec!["burn-in", "--tier", "t2", "--seconds", "0", "-o", "json"];
        arguments.extend(more);
        let done = self.run(&arguments);
        let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|_| {
            panic!("no report: {}", String::from_utf8_lossy(&done.stderr));
        });
        (done.status.code().unwrap(), report)
    }
}

fn agent(libraries: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gpu-agent"));
    command.env("LD_LIBRARY_PATH", libraries).env_remove(VARIABLE);
    command
}

fn gpu(faults: Vec<Fault>) -> Gpu {
    Gpu { memory_kib: 512, sms: 4, faults, ..Gpu::default() }
}

fn said(done: &Output) -> String {
    String::from_utf8_lossy(&done.stderr).into_owned()
}

fn assert_clean(done: &Output, code: i32, words: &[&str]) {
    let said = said(done);
    assert_eq!(done.status.code(), Some(code), "{said}");
    assert!(words.iter().all(|word| said.contains(word)), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_sound_gpu_passes_and_tells_what_was_done() {
    let capped = vec![Fault::Throttle { reason: Throttle::PowerCap }];
    let (code, report) = Node::new(vec![gpu(capped)]).burn_in(&[]);
    assert_eq!((code, &report["verdict"]), (0, &Value::from("pass")), "{report}");
    let it = &report["gpus"][0];
    assert_eq!(it["findings"], Value::Array(Vec::new()));
    assert_eq!(it["measured"]["digests"].as_object().unwrap().len(), 24);
    let tested = it["measured"]["memoryBytes"].as_u64().unwrap();
    assert!(tested * 100 >= 99 * (512 << 10), "{tested}");
    assert_eq!(report["kernels"].as_object().unwrap().len(), 10);
}

#[test]
fn equal_seeds_give_equal_digests_and_others_give_others() {
    let digests = |seed: &str| {
        let (_, report) = Node::new(vec![gpu(Vec::new())]).burn_in(&["--seed", seed]);
        report["gpus"][0]["measured"]["digests"].clone()
    };
    assert_eq!(digests("7"), digests("7"));
    assert_ne!(digests("7"), digests("8"));
}

/// What a site compares over a fleet must depend on nothing that differs from GPU to GPU, and on no
/// build of the agent. If this fails, first rounds do something else: count `RECIPE` up, since what
/// agents of both builds say cannot be compared. (Unless the emulator computes something else.)
#[test]
fn the_work_of_first_rounds_is_that_of_its_recipe_whatever_the_gpus_memory_sms_and_place() {
    use gpu_agent_core::burn_in::measured::{FIRST_SEED, RECIPE};
    let other = Gpu { memory_kib: 1_024, sms: 5, ..Gpu::default() };
    let seed = FIRST_SEED.to_string();
    let (code, report) = Node::new(vec![gpu(Vec::new()), other]).burn_in(&["--seed", &seed]);
    assert_eq!(code, 0, "{report}");
    let digests = |nth: usize| report["gpus"][nth]["measured"]["digests"].clone();
    assert_eq!(digests(0), digests(1));
    let all = blake3::hash(digests(0).to_string().as_bytes()).to_hex();
    assert_eq!((RECIPE, &all[..16]), (1, "542425a4dbd31ff7"), "{}", digests(0));
}

#[test]
fn sms_that_are_all_wrong_alike_pass_where_the_right_word_is_not_known() {
    let wrong = |kernel: &str| Fault::WrongUnder {
        kernel: kernel.to_owned(),
        unit: UnitKind::Tensor,
        bit: 9,
        every: 20,
        seed: 4,
    };
    let digest = |faults: Vec<Fault>, wanted: i32| {
        let (code, report) = Node::new(vec![gpu(faults)]).burn_in(&[]);
        assert_eq!(code, wanted, "{report}");
        report["gpus"][0]["measured"]["digests"]["golden_fp16"].clone()
    };
    assert_ne!(digest(vec![wrong("golden_fp16")], 0), digest(vec![], 0));
    digest(vec![wrong("golden_exact_fp16")], 1);
}

#[test]
fn a_step_of_training_finds_an_sm_by_what_other_sms_and_the_processor_say() {
    for (unit, test) in [(UnitKind::Special, "golden_bf16"), (UnitKind::Tensor, "golden_exact")] {
        let flaky = Fault::FlakySm { sm: 3, unit, bit: 20, every: 300, seed: 5 };
        let (code, report) = Node::new(vec![gpu(vec![flaky])]).burn_in(&[]);
        assert_eq!(code, 1, "{report}");
        let mut findings = report["gpus"][0]["findings"].as_array().unwrap().clone();
        findings.retain(|it| it["severity"] == "fault");
        assert!(findings.iter().all(|it| it["blame"]["sm"] == 3), "{findings:?}");
        let is_found = |it: &Value| it["check"].as_str().unwrap().starts_with(test);
        assert!(findings.iter().any(is_found), "{findings:?}");
    }
}

#[test]
fn kernels_that_a_driver_does_not_take_are_not_judged_and_no_fault() {
    for (compute, name) in [((9, 0), "tensor_wgmma"), ((10, 0), "tensor_tcgen05")] {
        let (code, report) = Node::new(vec![Gpu { compute, ..gpu(Vec::new()) }]).burn_in(&[]);
        assert_eq!((code, &report["verdict"]), (4, &Value::from("unknown")), "{report}");
        let findings = report["gpus"][0]["findings"].as_array().unwrap();
        let is_named = |it: &Value| it["check"].as_str().unwrap().starts_with(name);
        assert!(findings.iter().all(is_named) && !findings.is_empty(), "{findings:?}");
        assert!(report["gpus"][0]["measured"]["digests"]["tensor_bf16_power"].is_string());
    }
    // Another architecture has none of its own.
    let older = Gpu { compute: (8, 0), ..gpu(Vec::new()) };
    assert_eq!(Node::new(vec![older]).burn_in(&[]).0, 0);
}

#[test]
fn a_jobs_operands_run_twice_on_every_sm() {
    let node = Node::new(vec![gpu(Vec::new()), gpu(Vec::new())]);
    let file = node.folder.path().join("step");
    let file = file.to_str().unwrap();
    assert_clean(&node.run(&["replay", "--example", file]), 0, &[]);
    assert_clean(&node.run(&["replay", "--example", file]), 2, &["cannot write", file]);
    let replay = |more: &[&str]| {
        let done = node.run(&[&["replay", file, "-o", "json"], more].concat());
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        (done.status.code().unwrap(), report)
    };
    let (code, report) = replay(&[]);
    assert_eq!((code, &report["verdict"]), (0, &Value::from("pass")), "{report}");
    let gpus = report["gpus"].as_array().unwrap();
    assert_eq!((gpus.len(), &gpus[0]["digest"]), (2, &gpus[1]["digest"]), "{report}");
    assert_eq!(replay(&["--gpu", "1"]).1["gpus"][0]["digest"], gpus[0]["digest"]);
    assert_clean(&node.run(&["replay", file, "--gpu", "9"]), 2, &["there is no GPU 9"]);
}

#[test]
fn a_replay_names_the_sm_that_computes_something_else() {
    let flaky = Fault::FlakySm { sm: 1, unit: UnitKind::Tensor, bit: 3, every: 300, seed: 4 };
    let node = Node::new(vec![gpu(vec![flaky])]);
    let file = node.folder.path().join("step");
    let file = file.to_str().unwrap();
    assert_clean(&node.run(&["replay", "--example", file]), 0, &[]);
    let done = node.run(&["replay", file, "-o", "json"]);
    let report: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(1), "{report}");
    let findings = report["gpus"][0]["findings"].as_array().unwrap();
    assert!(findings.iter().all(|it| it["blame"]["sm"] == 1), "{findings:?}");
}

#[test]
fn a_file_that_is_no_dump_is_wrong_usage_and_says_why() {
    let node = Node::new(vec![gpu(Vec::new())]);
    let path = node.folder.path().join("step");
    let file = path.to_str().unwrap();
    assert_clean(&node.run(&["replay", file]), 2, &["cannot read", file]);
    assert_clean(&node.run(&["replay", "--example", file]), 0, &[]);
    let right = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8], why: &str| {
        std::fs::write(&path, bytes).unwrap();
        assert_clean(&node.run(&["replay", file]), 2, &[file, why, "--example"]);
    };
    refused(b"", "SPWLSTEP");
    refused(&right[..right.len() - 1], "it ends after");
    refused(&[&right[..], b"x"].concat(), "are right");
    let mut damaged = right.clone();
    damaged[1_000] ^= 1;
    refused(&damaged, "damaged");
    std::fs::write(&path, right).unwrap();
    assert_clean(&Node::new(Vec::new()).run(&["replay", file]), 3, &["no GPU"]);
    let hung = Node::new(vec![gpu(vec![Fault::Hang { kernel: "golden".into() }])]);
    assert_eq!(hung.run(&["replay", file, "--patience", "2"]).status.code(), Some(1));
}

#[test]
fn a_gpu_that_is_less_than_its_product_passes_with_a_word_about_it() {
    let name = "NVIDIA H200".to_owned();
    let (code, report) = Node::new(vec![Gpu { name, ..gpu(Vec::new()) }]).burn_in(&[]);
    let it = &report["gpus"][0];
    assert_eq!((code, &it["baseline"]), (0, &"h200-1".into()), "{report}");
    let findings = it["findings"].as_array().unwrap();
    let said: Vec<&str> = findings.iter().map(|it| it["message"].as_str().unwrap()).collect();
    assert!(said[0].starts_with("SMs: 4, and h200-1 has at least 132"), "{said:?}");
    assert!(findings.iter().all(|it| it["check"] == "baseline"), "{findings:?}");
    let (_, report) = Node::new(vec![gpu(Vec::new())]).burn_in(&[]);
    assert!(report["gpus"][0]["baseline"].is_null(), "{report}");
}

#[test]
fn only_the_sick_one_of_two_gpus_is_blamed() {
    let flaky = Fault::FlakySm { sm: 2, unit: UnitKind::Tensor, bit: 0, every: 30, seed: 1 };
    let node = Node::new(vec![gpu(Vec::new()), gpu(vec![flaky])]);
    let (code, report) = node.burn_in(&[]);
    assert_eq!(code, 1);
    assert_eq!(report["gpus"][0]["verdict"], "pass", "{report}");
    assert_eq!(report["gpus"][1]["verdict"], "fault");
    let blame = &report["gpus"][1]["findings"][0]["blame"];
    assert_eq!((&blame["kind"], &blame["sm"]), (&Value::from("sm"), &Value::from(2)));
    assert_eq!(node.burn_in(&["--gpu", "0"]).0, 0);
}

#[test]
fn a_gpu_that_is_not_there_is_wrong_usage() {
    let node = Node::new(vec![gpu(Vec::new())]);
    let done = node.run(&["burn-in", "--tier", "t1", "--gpu", "9"]);
    assert_clean(&done, 2, &["there is no GPU 9", "knows 1"]);
    assert_clean(&node.run(&["burn-in", "--tier", "t9"]), 2, &["t9"]);
}

#[test]
fn without_a_driver_the_agent_says_so() {
    if Path::new("/proc/driver/nvidia").exists() {
        println!("skipped: this machine has a driver");
        return;
    }
    let empty = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| agent(empty.path()).args(arguments).output().unwrap();
    for tier in ["t0", "t1", "t2", "t3", "t4"] {
        assert_clean(&run(&["burn-in", "--tier", tier]), 3, &["there is no NVIDIA driver"]);
    }
    assert_clean(&run(&["inventory"]), 3, &["there is no NVIDIA driver", "--declare"]);
    assert_clean(&run(&["inventory", "--declare", "b200:2"]), 0, &[]);
    let told = run(&["listen", "GPU-0"]);
    assert_clean(&told, 0, &[]);
    assert!(String::from_utf8_lossy(&told.stdout).starts_with("{\"deaf\":"), "{told:?}");
}

#[test]
fn a_stub_is_no_gpu_and_a_driver_that_does_not_fit_is_no_answer() {
    let with = |code| Node::new(vec![gpu(vec![Fault::Refusal { code }])]);
    assert_clean(&with(34).run(&["burn-in", "--tier", "t1"]), 3, &["stub"]);
    assert_clean(&with(100).run(&["burn-in", "--tier", "t1"]), 3, &["knows no GPU"]);
    assert_clean(&with(803).run(&["burn-in", "--tier", "t1"]), 4, &["different versions"]);
    assert_clean(&Node::new(Vec::new()).run(&["burn-in", "--tier", "t1"]), 3, &["no GPU"]);
    assert_clean(&with(100).run(&["inventory"]), 3, &["driver is not loaded"]);
    assert_clean(&with(803).run(&["inventory"]), 3, &["mismatch"]);
    assert_clean(&Node::new(Vec::new()).run(&["inventory"]), 3, &["no usable GPU"]);
}

/// A library of this process that is none of a driver's.
fn another_library() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
    paths.map(str::to_owned).find(|path| path.contains("/libc.so") || path.contains("/libm.so"))
}

#[test]
fn a_library_that_is_no_drivers_is_no_panic_of_the_agent() {
    let Some(other) = another_library() else {
        println!("skipped: this process has no library beside it");
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1", "libnvidia-ml.so.1"] {
        std::os::unix::fs::symlink(&other, folder.path().join(name)).unwrap();
    }
    let burn_in = agent(folder.path()).args(["burn-in", "--tier", "t1"]).output().unwrap();
    assert_clean(&burn_in, 4, &["library cannot be used", "cuInit"]);
    let inventory = agent(folder.path()).arg("inventory").output().unwrap();
    assert_clean(&inventory, 3, &["lacks a function"]);
    let told = agent(folder.path()).args(["listen", "GPU-0"]).output().unwrap();
    assert_clean(&told, 0, &[]);
}

#[test]
fn an_old_driver_is_told_apart_and_named_with_its_version() {
    let node = Node::new(vec![gpu(vec![Fault::Release { version: 12_040 }])]);
    let done = node.run(&["burn-in", "--tier", "t1"]);
    assert_clean(&done, 4, &["too old", "12.4", "12.8"]);
}

#[test]
fn the_inventory_names_what_the_driver_knows() {
    let done = Node::new(vec![gpu(Vec::new()), gpu(Vec::new())]).run(&["inventory", "-o", "json"]);
    let it: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&it["source"], it["gpus"].as_array().unwrap().len()), (&Value::from("nvml"), 2));
    assert_eq!(it["gpus"][1]["class"], "rtx-pro-6000");
    assert_ne!(it["gpus"][0]["uuid"], it["gpus"][1]["uuid"]);
}

#[test]
fn a_management_library_that_hangs_is_no_pass_and_no_fault() {
    let node = Node::new(vec![gpu(vec![Fault::HungManagement])]);
    let (code, report) = node.burn_in(&["--patience", "6"]);
    assert_eq!(code, 4, "{report}");
    let findings = report["gpus"][0]["findings"].as_array().unwrap();
    assert!(findings.iter().all(|it| it["check"] == "counters"), "{findings:?}");
    assert_clean(&node.run(&["inventory"]), 3, &["did not answer"]);
}

#[test]
fn a_control_file_that_makes_no_sense_is_named() {
    let node = Node::new(Vec::new());
    let path = node.folder.path().join("control.toml");
    std::fs::write(path, "[[gpu]]\nsms = \"many\"\n").unwrap();
    assert_clean(&node.run(&["burn-in", "--tier", "t1"]), 4, &["control.toml:2"]);
}

#[test]
fn each_tier_does_its_checks_and_a_soak_repeats_them() {
    let node = Node::new(vec![gpu(Vec::new())]);
    let tier = |tier: &str, seconds: &str, more: &[&str]| {
        let start = ["burn-in", "--tier", tier, "--seconds", seconds, "-o", "json"];
        let done = node.run(&[&start[..], more].concat());
        assert_clean(&done, 0, &[]);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(report["tier"], tier);
        report["gpus"][0]["measured"].clone()
    };
    let votes = |it: &Value| it["digests"].as_object().unwrap().len();
    let counters = tier("t0", "0", &[]);
    assert_eq!((votes(&counters), counters["memoryPasses"].as_u64()), (0, Some(0)));
    assert!(counters["counters"]["lanes"].is_u64(), "{counters}");
    let gate = tier("t1", "0", &[]);
    assert!(votes(&gate) >= 12, "{gate}");
    assert_eq!(gate["memoryPasses"], 6);
    // On a busy machine a round alone may take longer than a soak.
    let mut soaks = ["4", "16", "64"].into_iter().map(|seconds| tier("t3", seconds, &[]));
    assert!(soaks.any(|it| it["rounds"].as_u64() >= Some(2)), "no soak had a second round");
    let slices = ["0", "1", "2", "3"].map(|turn| tier("t4", "0", &["--turn", turn]));
    let passes = slices.each_ref().map(|it| it["memoryPasses"].as_u64().unwrap());
    assert_eq!(passes, [0, 0, 1, 0]);
    assert_eq!(slices.each_ref().map(|it| votes(it) > 0), [true, true, false, true]);
}

#[test]
fn a_copy_that_arrives_wrong_is_named_with_its_way() {
    for (way, name) in
        [(Way::HostToDevice, "host-to-device"), (Way::DeviceToHost, "device-to-host")]
    {
        let (code, report) =
            Node::new(vec![gpu(vec![Fault::LinkFlip { way, byte: 77, bit: 1 }])]).burn_in(&[]);
        let findings = report["gpus"][0]["findings"].as_array().unwrap();
        assert_eq!(code, 1, "{findings:?}");
        let blame = &findings[0]["blame"];
        assert_eq!((&blame["kind"], &blame["way"]), (&"transfer".into(), &name.into()));
        assert_eq!((&blame["offset"], &blame["bits"]), (&76.into(), &(1 << 9).into()));
    }
}

#[test]
fn a_link_is_not_blamed_for_what_an_sm_computes() {
    // Whichever of its additions goes wrong, the check of a copy on that SM goes wrong too at times.
    let flaky = |seed| Fault::FlakySm { sm: 7, unit: UnitKind::Integer, bit: 26, every: 370, seed };
    for (planted, seed) in [
        (2_371_471_436_897_494_550, "131639465097007"),
        (1_244_629_162_464_172_717, "85585484393238"),
    ] {
        let node = Node::new(vec![Gpu { sms: 8, ..gpu(vec![flaky(planted)]) }]);
        let (code, report) = node.burn_in(&["--seed", seed]);
        let findings = report["gpus"][0]["findings"].as_array().unwrap();
        assert_eq!(code, 1);
        assert!(findings.iter().any(|it| it["blame"]["sm"] == 7), "{findings:?}");
        assert!(findings.iter().all(|it| it["blame"]["kind"] != "transfer"), "{findings:?}");
    }
}

#[test]
fn memory_is_tested_up_to_what_is_left_to_the_driver() {
    // The last that is not the 256th part of the memory.
    let (address, one) = ((510 << 10) - 256, true);
    let row = Fault::StuckRow { address, bytes: 256, bit: 121, one };
    let (code, report) = Node::new(vec![gpu(vec![row])]).burn_in(&[]);
    assert_eq!(code, 1, "{report}");
    let blame = &report["gpus"][0]["findings"][0]["blame"];
    assert_eq!((&blame["kind"], &blame["bytes"]), (&"row".into(), &256.into()), "{report}");
}

#[test]
fn two_addresses_that_are_one_place_are_not_a_links_fault() {
    let alias = Fault::Alias { address: 61_632, to: 97_088, bytes: 64 };
    let (code, report) = Node::new(vec![gpu(vec![alias])]).burn_in(&[]);
    let findings = report["gpus"][0]["findings"].as_array().unwrap();
    assert_eq!(code, 1);
    assert!(findings.iter().any(|it| it["blame"]["kind"] == "alias"), "{findings:?}");
    assert!(findings.iter().all(|it| it["blame"]["kind"] != "transfer"), "{findings:?}");
}

#[test]
fn a_link_of_too_few_lanes_or_too_low_a_generation_is_found_under_load() {
    for fault in [Fault::PcieWidth { lanes: 4 }, Fault::PcieGeneration { generation: 3 }] {
        let (code, report) = Node::new(vec![gpu(vec![fault])]).burn_in(&[]);
        let findings = report["gpus"][0]["findings"].as_array().unwrap();
        assert_eq!(code, 1);
        assert!(findings.iter().any(|it| it["check"] == "links"), "{findings:?}");
    }
}

#[test]
fn copies_to_other_gpus_are_tested_where_there_is_a_way_and_are_no_pass_where_there_is_none() {
    let peers = |gpus: Vec<Gpu>| {
        let (code, report) = Node::new(gpus).burn_in(&[]);
        let all = report["gpus"].as_array().unwrap().clone();
        let links = |it: &Value| it["measured"]["links"]["peers"].clone();
        (code, all.iter().map(links).collect::<Vec<_>>(), all)
    };
    let linked = |faults| Gpu { nvlinks: 2, ..gpu(faults) };
    assert_eq!(peers(vec![linked(Vec::new())]).1, ["not-applicable"]);
    assert_eq!(peers(vec![gpu(Vec::new()), gpu(Vec::new())]).1, ["no-access", "no-access"]);
    let flip = Fault::LinkFlip { way: Way::Peer, byte: 8, bit: 0 };
    let (code, tested, gpus) = peers(vec![linked(Vec::new()), linked(vec![flip])]);
    assert_eq!((code, tested), (1, vec!["tested".into(), "tested".into()]));
    assert_eq!(gpus[0]["verdict"], "pass");
    let blame = &gpus[1]["findings"][0]["blame"];
    assert_eq!((&blame["way"], &blame["offset"]), (&"peer".into(), &8.into()), "{gpus:?}");
    let to_peers = |it: &&Value| it["way"] == "peer" && it["nanos"].as_u64() > Some(0);
    let transfers = gpus[0]["measured"]["links"]["transfers"].as_array().unwrap();
    assert_eq!(transfers.iter().filter(to_peers).count(), 1, "{transfers:?}");
    // What so little memory took is told and not compared: it would be a busy machine's time.
    let compared = gpus[0]["measured"]["compared"].as_object().unwrap();
    assert!(compared.keys().all(|name| name.ends_with("MillicyclesPerStep")), "{compared:?}");
}

#[test]
fn a_load_that_is_switched_on_and_off_shows_a_brake_and_lets_a_cap_pass() {
    let braked = vec![gpu(vec![Fault::Throttle { reason: Throttle::PowerBrake }])];
    let (code, report) = Node::new(braked).burn_in(&[]);
    let findings = report["gpus"][0]["findings"].as_array().unwrap();
    assert_eq!(code, 1);
    assert!(findings.iter().any(|it| it["check"] == "wave"), "{findings:?}");
    let capped = vec![gpu(vec![Fault::Throttle { reason: Throttle::PowerCap }])];
    let (code, report) = Node::new(capped).burn_in(&[]);
    let wave = &report["gpus"][0]["measured"]["wave"];
    assert_eq!((code, &wave["throttle"]), (0, &4.into()), "{report}");
    let sweeps = wave["sweeps"].as_array().unwrap();
    assert_eq!(sweeps.last().unwrap()["hertz"], 5_000);
    assert!(sweeps.iter().all(|it| it["turns"].as_u64() >= Some(1)), "{sweeps:?}");
}

#[test]
fn events_are_lines_that_name_the_gpu_and_what_was_found() {
    let flaky = Fault::FlakySm { sm: 2, unit: UnitKind::Tensor, bit: 0, every: 30, seed: 1 };
    let node = Node::new(vec![gpu(Vec::new()), gpu(vec![flaky])]);
    let tier = ["burn-in", "--tier", "t1", "--seconds", "0", "-o", "health-events"];
    let done = node.run(&tier);
    assert_clean(&done, 1, &[]);
    let text = String::from_utf8(done.stdout).unwrap();
    let lines: Vec<Value> = text.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert_eq!((&lines[0]["isHealthy"], &lines[0]["checkName"]), (&true.into(), &"burn-in".into()));
    let sm = serde_json::json!({"entityType": "SM", "entityValue": "2"});
    let found = lines.iter().filter(|it| it["isFatal"] == true);
    assert!(found.clone().count() > 0, "{text}");
    for it in found {
        assert_eq!(it["entitiesImpacted"][0]["entityValue"], "1");
        assert!(it["entitiesImpacted"].as_array().unwrap().contains(&sm), "{it}");
    }
}

#[test]
fn a_soak_finds_cells_that_lose_what_they_hold_and_an_admission_does_not_look_for_them() {
    let leak = Fault::Leak { address: 100 << 10 | 4, bit: 5, one: false, millis: 300 };
    let disturbed =
        Fault::Disturbed { address: 100 << 10 | 4, bit: 5, one: false, row: 2_048, times: 60 };
    for (fault, word) in [(leak, "left alone"), (disturbed.clone(), "rows were read in turns")] {
        let node = Node::new(vec![gpu(vec![fault])]);
        let arguments = ["burn-in", "--tier", "t3", "--seconds", "30", "-o", "json"];
        let done = node.run(&arguments);
        let report: Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(done.status.code(), Some(1), "{report}");
        let found = &report["gpus"][0]["findings"][0];
        assert!(found["message"].as_str().unwrap().contains(word), "{found}");
        let blame = &found["blame"];
        assert_eq!(blame["bits"], serde_json::json!([0, 1 << 5, 0, 0]), "{found}");
        assert_eq!(blame["address"].as_u64().unwrap() & 0xf_ffff, 100 << 10, "{found}");
    }
    assert_eq!(Node::new(vec![gpu(vec![disturbed])]).burn_in(&[]).0, 0);
}
