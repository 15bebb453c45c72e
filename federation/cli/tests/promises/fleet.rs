//! What only other GPUs can tell of one, and what jobs demand of proofs. The GPUs are emulated.

use std::fs;

use serde_json::Value;

use crate::cluster::{Said, World};
use crate::health::{BURN_IN_MAX, Emulated};
use crate::process::{await_some, await_that};
use crate::work::Work;

const SLOW: &str = "kind = \"slow-gpu\"\npermille = 1100\n";
/// All SMs are wrong alike in one kernel.
const WRONG: &str = "kind = \"wrong-under\"\nkernel = \"golden_bf16\"\nunit = \"tensor\"\nbit = 9\n\
                     every = 20\nseed = 4\n";

/// Small ones: the fleet is what counts.
fn gpus(count: usize, bad: Option<(usize, &str)>) -> String {
    let gpu = |nth: usize| {
        let fault = bad.filter(|it| it.0 == nth).map(|it| format!("[[gpu.fault]]\n{}", it.1));
        format!("[[gpu]]\nmemory_kib = 128\nsms = 3\n{}", fault.unwrap_or_default())
    };
    (0..count).map(gpu).collect()
}

/// What of the GPU is behind: cycles, since its times are those of a busy machine and not compared.
fn behind(gpu: &Value) -> Vec<Value> {
    let all = gpu["behind"].as_array().cloned().unwrap_or_default();
    let name = |it: &Value| it["measure"].as_str().unwrap_or_default().to_owned();
    assert!(all.iter().all(|it| name(it).ends_with("MillicyclesPerStep")), "{all:?}");
    all
}

#[test]
fn a_gpu_that_passes_by_itself_and_is_slower_than_all_others_is_held_back() {
    let world = World::new();
    let node = Emulated::with(&world, &gpus(10, Some((4, SLOW))));
    node.site.run(&["gpu", "limits", "--quarantined=50%"]).done();
    let gpus = || node.site.list(&["gpu", "ls"]);
    let slow = await_some("the slow one is held back", BURN_IN_MAX, || {
        let gpus = gpus();
        let is_held = |it: &&Value| !it["withheld"].is_null() && !behind(it).is_empty();
        gpus.iter().find(is_held).cloned()
    });
    assert_eq!((&slow["index"], &slow["fit"]), (&4.into(), &false.into()), "{slow}");
    assert_eq!(slow["last_burn_in"]["verdict"], "passed", "{slow}");
    let why = slow["withheld"].as_str().unwrap();
    assert!(why.starts_with("behind its fleet: "), "{why}");
    let found = &behind(&slow)[0];
    assert_eq!(found["lag"], "fault", "{found}");
    assert!((95..=105).contains(&found["permille"].as_u64().unwrap()), "{found}");
    assert!(found["peers"].as_u64().unwrap() >= 8, "{found}");
    await_that("all others are in service", BURN_IN_MAX, || {
        let gpus = gpus();
        let mut others = gpus.iter().filter(|it| it["index"] != 4);
        assert!(others.clone().all(|it| behind(it).is_empty()), "{gpus:?}");
        others.all(|it| it["fit"] == true)
    });
    let show = node.site.run(&["gpu", "show", "b1", "4"]).done();
    assert!(show.contains("behind its fleet") && show.contains("% high"), "{show}");
    let report = node.site.run(&["node", "burn-in", "report", "b1"]).done();
    assert!(report.contains("MillicyclesPerStep"), "{report}");

    // Repaired and let go, it is as good as the others.
    fs::write(node.path("control.toml"), self::gpus(10, None)).unwrap();
    node.site.run(&["gpu", "release", "b1", "4"]).done();
    await_that("it is fit again", BURN_IN_MAX, || {
        let gpu = node.gpu(4);
        gpu["fit"] == true && behind(&gpu).is_empty()
    });
}

#[test]
fn a_gpu_of_which_all_sms_are_wrong_alike_passes_by_itself_and_is_found_by_its_fleet() {
    let world = World::new();
    let node = Emulated::with(&world, &gpus(10, Some((6, WRONG))));
    node.site.run(&["gpu", "limits", "--quarantined=50%"]).done();
    let differs = |gpu: &Value| gpu["differs"].as_array().cloned().unwrap_or_default();
    let digests = |gpu: &Value| gpu["last_burn_in"]["digests"]["by_kernel"].clone();
    let gpus = await_some("all are compared, and one is held back", BURN_IN_MAX, || {
        let gpus = node.site.list(&["gpu", "ls"]);
        let is_held = |it: &Value| !it["withheld"].is_null() && !differs(it).is_empty();
        let is_whole = gpus.iter().all(|it| digests(it).is_object());
        (is_whole && gpus.iter().any(is_held)).then_some(gpus)
    });
    let wrong = &gpus[6];
    assert_eq!(wrong["last_burn_in"]["verdict"], "passed", "{wrong}");
    assert_eq!(wrong["fit"], false, "{wrong}");
    let why = wrong["withheld"].as_str().unwrap();
    assert!(why.starts_with("differs from its fleet: golden_bf16 gives "), "{why}");
    let [found] = &differs(wrong)[..] else { panic!("{wrong}") };
    assert_eq!((&found["kernel"], &found["lag"]), (&"golden_bf16".into(), &"fault".into()));
    assert_eq!(found["same"], found["peers"], "{found}");

    // Of work that is the same for all, nine say one and the same, and the tenth but for one kernel.
    for (nth, gpu) in gpus.iter().enumerate().filter(|it| it.0 != 6) {
        assert_eq!((digests(gpu), differs(gpu)), (digests(&gpus[0]), vec![]), "GPU {nth}");
    }
    let (mut theirs, mut its) = (digests(&gpus[0]), digests(wrong));
    assert_eq!((&its["golden_bf16"], &theirs["golden_bf16"]), (&found["digest"], &found["common"]));
    assert_ne!(found["digest"], found["common"]);
    let _ = [&mut its, &mut theirs].map(|it| it["golden_bf16"].take());
    assert_eq!(its, theirs);
    assert!(its.as_object().unwrap().len() >= 18, "{its}");
    let show = node.site.run(&["gpu", "show", "b1", "6"]).done();
    assert!(show.contains("differs from its fleet"), "{show}");
    let report = node.site.run(&["node", "burn-in", "report", "b1"]).done();
    assert!(report.contains("golden_bf16 gives"), "{report}");

    // Repaired and let go, it is as good as the others.
    fs::write(node.path("control.toml"), self::gpus(10, None)).unwrap();
    node.site.run(&["gpu", "release", "b1", "6"]).done();
    await_that("it is fit again", BURN_IN_MAX, || {
        let gpu = node.gpu(6);
        gpu["fit"] == true && differs(&gpu).is_empty()
    });
}

/// The proofs that the agent kept were made so long before.
fn age(kept: &std::path::Path, millis: u64) {
    let mut file: Value = serde_json::from_slice(&fs::read(kept).unwrap()).unwrap();
    for gpu in file["gpus"].as_array_mut().unwrap() {
        let left = gpu["validForMillis"].as_u64().unwrap();
        gpu["validForMillis"] = (left - millis).into();
    }
    fs::write(kept, serde_json::to_vec(&file).unwrap()).unwrap();
}

#[test]
fn a_job_that_demands_young_proofs_is_held_until_a_burn_in_has_made_them() {
    let world = World::new();
    let mut node = Emulated::with(&world, &gpus(2, None));
    let work = |name, health: &str| {
        let text = Work::new(name, 1, 1).text(&world.path("witness"));
        world.file(&text.replace("  time:", &format!("  health: {health}\n  time:")))
    };
    let submit = |node: &Emulated<'_>, file: &str| -> Said {
        node.site.run(&["job", "run", file, "-o", "name"])
    };
    for (health, named) in [
        ("{tier: t9}", "spec.health.tier"),
        ("{tier: t1}", "proves nothing"),
        ("{maxAge: soon}", "spec.health.maxAge"),
        ("{maxAge: 5s}", "not between 60 s"),
        ("{}", "demands nothing"),
    ] {
        let said = submit(&node, &work("bad", health));
        assert!(said.refused(2, "invalid-argument").err.contains(named), "{said:?}");
    }
    assert_eq!(node.site.list(&["job", "ls", "--all"]), Vec::<Value>::new());

    (0..2).for_each(|gpu| drop(node.await_gpu(gpu, "healthy", BURN_IN_MAX)));
    let number = |node: &Emulated<'_>, gpu| node.gpu(gpu)["last_burn_in"]["number"].as_u64();
    let admitted = [number(&node, 0), number(&node, 1)];
    assert!(admitted.iter().all(Option::is_some), "{admitted:?}");
    node.agent.kill();
    age(&node.path("b1/health.json"), 2 * 3_600_000);
    node.agent.start();
    let boots = || node.site.list(&["node", "ls"]).first().map(|it| it["boot"].clone());
    await_that("its next life is heard", BURN_IN_MAX, || boots() == Some(2.into()));
    (0..2).for_each(|gpu| drop(node.await_gpu(gpu, "healthy", BURN_IN_MAX)));

    // Too young for a burn-in that nobody asked for: by its end the proof would be too old.
    let file = work("young", "{tier: t2, maxAge: 4m}");
    let young = submit(&node, &file).done().trim().to_owned();
    let why = node.site.run(&["job", "why", &young]).done();
    assert!(why.contains("2 of 2 free GPUs have no t2 proof younger than 4 m"), "{why}");
    assert_eq!(node.site.job(&young)["state"], "queued");
    node.site.run(&["node", "burn-in", "start", "b1", "--gpu=1"]).done();
    node.site.await_state(&young, "finished", BURN_IN_MAX);
    // What the admissions found outlives the agent, and is told again in its own time.
    assert!(number(&node, 0) <= admitted[0], "one GPU alone was burnt in");
    assert!(number(&node, 1) > admitted[1], "it was asked for");

    // Within an age that can be met the site burns in by itself, both GPUs for both jobs.
    let both = Work::new("both", 2, 1).text(&world.path("witness"));
    let both = both.replace("  time:", "  health: {maxAge: 1h}\n  time:");
    let both = submit(&node, &world.file(&both)).done().trim().to_owned();
    node.site.await_state(&both, "finished", BURN_IN_MAX);
    assert!(number(&node, 0) > admitted[0], "nobody else asked for it");
}

#[test]
fn what_burn_ins_found_outlives_agent_and_controller() {
    let world = World::new();
    // The second says of itself that it is more than it is.
    let named = gpus(1, None).replace("[[gpu]]", "[[gpu]]\nname = \"NVIDIA H200\"");
    let mut node = Emulated::with(&world, &format!("{}{named}", gpus(1, None)));
    (0..2).for_each(|gpu| drop(node.await_gpu(gpu, "healthy", BURN_IN_MAX)));
    let last = |node: &Emulated<'_>| {
        let report = node.site.list(&["node", "burn-in", "report", "b1"]);
        report.iter().map(|it| it["last"].clone()).collect::<Vec<_>>()
    };
    let is_whole = |it: &Value| {
        it["verdict"] == "passed" && it["numbers"]["unit_integerMillicyclesPerStep"].is_u64()
    };
    let before = await_some("both are told", BURN_IN_MAX, || {
        Some(last(&node)).filter(|all| all.len() == 2 && all.iter().all(is_whole))
    });
    let why = |nth: usize| before[nth]["why"].as_str().unwrap_or_default();
    assert!(why(0).is_empty() && why(1).starts_with("baseline: "), "{before:?}");
    let report = node.site.run(&["node", "burn-in", "report", "b1"]).done();
    assert!(report.contains("h200-1"), "{report}");
    node.agent.kill();
    node.site.kill_controllers();
    node.site.start_controllers();
    node.site.await_up();
    node.agent.start();
    await_that("they are told again", BURN_IN_MAX, || last(&node) == before);

    // A damaged file costs what it held, and nothing else.
    node.agent.kill();
    fs::write(node.path("b1/results.json"), b"{\"site\": ").unwrap();
    node.agent.start();
    let boots = || node.site.list(&["node", "ls"]).first().map(|it| it["boot"].clone());
    await_that("its next life is heard", BURN_IN_MAX, || boots() == Some(3.into()));
    await_that("its log says so", BURN_IN_MAX, || {
        node.agent.said().contains("earlier burn-ins are forgotten")
    });
    node.await_gpu(0, "healthy", BURN_IN_MAX);
    assert_eq!(last(&node), [Value::Null, Value::Null]);
}
