//! GPUs prove themselves before anything runs on them, and what turns bad is taken out of service.
//! The GPUs are emulated: the agent and the kernels that it runs on them are the shipped ones.

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{FEDERATION, SHORT_TERMS, Site, SitePlan, World};
use crate::process::{Daemon, await_some, await_that};
use crate::work::{FOR_EVER, Work};

/// How long a GPU that turned bad may stay in service.
const QUARANTINE_MAX: Duration = Duration::from_secs(30);
/// Burn-ins of small GPUs, on a machine that has other things to do.
pub(crate) const BURN_IN_MAX: Duration = Duration::from_secs(240);

/// A site with one node that has emulated GPUs.
pub(crate) struct Emulated<'w> {
    pub(crate) site: Site<'w>,
    pub(crate) agent: Daemon,
}

fn control(faults: [&str; 2]) -> String {
    let gpu = |fault: &str| format!("[[gpu]]\nmemory_kib = 512\nsms = 4\n{fault}\n");
    faults.map(gpu).concat()
}

/// The agent of a node that is enrolled, on emulated GPUs: two, or what a control file says.
pub(crate) fn emulated_agent(site: &Site<'_>, node: &str, says: Option<&str>) -> Daemon {
    let world = site.world;
    if !world.path("lib").exists() {
        // Where a build for tests leaves it too; beside the programs only `cargo build` puts one.
        let library = Path::new(FEDERATION).with_file_name("deps/libgpu_agent_emulator.so");
        assert!(library.is_file(), "{} is not built", library.display());
        fs::create_dir(world.path("lib")).unwrap();
        for name in ["libcuda.so.1", "libcuda.so", "libnvidia-ml.so.1"] {
            symlink(&library, world.path("lib").join(name)).unwrap();
        }
        let plain = control(["", ""]);
        fs::write(world.path("control.toml"), says.unwrap_or(&plain)).unwrap();
        fs::write(world.path("kernel.log"), "").unwrap();
    }
    let token = world.file(&site.run(&["node", "enroll", node]).done());
    let (dir, log) = (world.text(node), world.text("kernel.log"));
    let args = ["run", "--dir", &dir, "--kernel-log", &log, "--burn-in-seconds=0"];
    let args = [&args[..], &["--address=127.0.0.1", "--listen=127.0.0.1:0"]].concat();
    let mut agent = Daemon::new(&format!("agent-{node}"), &world.agent, &args, &world.config())
        .with("LD_LIBRARY_PATH", world.path("lib"))
        .with("SPILLWAY_EMULATOR", world.path("control.toml"));
    agent.start_with(&["--token-file", &token]);
    agent
}

impl<'w> Emulated<'w> {
    fn new(world: &'w World) -> Self {
        Self::with(world, &control(["", ""]))
    }

    /// With the GPUs that a control file says.
    pub(crate) fn with(world: &'w World, control: &str) -> Self {
        let extra = &["--trust=proven"];
        let plan = SitePlan { nodes: 0, extra, terms: SHORT_TERMS, ..SitePlan::small("berlin") };
        let site = world.site(plan);
        let agent = emulated_agent(&site, "b1", Some(control));
        Self { site, agent }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.site.world.path(name)
    }

    pub(crate) fn gpu(&self, index: usize) -> Value {
        self.site.list(&["gpu", "ls"]).get(index).cloned().unwrap_or_default()
    }

    pub(crate) fn await_gpu(&self, index: usize, state: &str, limit: Duration) -> Value {
        let what = format!("GPU {index} is {state}");
        await_some(&what, limit, || Some(self.gpu(index)).filter(|it| it["state"] == state))
    }

    /// Which GPU a job has.
    fn place_of(&self, id: &str) -> Option<usize> {
        self.site.list(&["gpu", "ls"]).iter().position(|it| it["job"] == id)
    }

    /// The driver tells the kernel's log of an event.
    fn event(&self, gpu: usize, xid: u32) {
        let mut log = fs::File::options().append(true).open(self.path("kernel.log")).unwrap();
        let place = gpu + 1;
        writeln!(log, "6,1,2,-;NVRM: Xid (PCI:0000:{place:02x}:00): {xid}, pid=1").unwrap();
    }
}

#[test]
fn a_gpu_that_turns_bad_under_a_job_is_quarantined_and_the_job_runs_on_another() {
    let world = World::new();
    let node = Emulated::new(&world);
    for gpu in 0..2 {
        let gpu = node.await_gpu(gpu, "healthy", BURN_IN_MAX);
        assert_eq!((&gpu["fit"], &gpu["proof"]["tier"]), (&true.into(), &"t2".into()), "{gpu}");
    }
    let id = node.site.submit(Work::new("work", 1, FOR_EVER));
    node.site.await_running(&id, 1, BURN_IN_MAX);
    let bad = await_some("it has a GPU", BURN_IN_MAX, || node.place_of(&id));

    // An error of memory that was not corrected, seen by the counters.
    let fault = "[[gpu.fault]]\nkind = \"counter\"\ncounter = \"ecc-uncorrected\"\nby = 2";
    let faults = if bad == 0 { [fault, ""] } else { ["", fault] };
    let begun = Instant::now();
    fs::write(node.path("control.toml"), control(faults)).unwrap();
    let gpu = node.await_gpu(bad, "quarantined", QUARANTINE_MAX);
    eprintln!("quarantined {:?} after it turned bad", begun.elapsed());
    assert!(gpu["why"].as_str().unwrap().contains("eccUncorrected"), "{gpu}");
    assert_eq!((&gpu["fit"], &gpu["proof"]), (&false.into(), &Value::Null), "{gpu}");

    // The job goes to the other GPU; nothing comes to this one.
    node.site.await_running(&id, 2, BURN_IN_MAX);
    assert_eq!(node.place_of(&id), Some(1 - bad));
    world.witness().has_no_two_copies();
    let waiting = node.site.submit(Work::new("waits", 1, 1));
    let second = node.site.job(&waiting);
    assert_eq!(second["state"], "queued", "{second}");

    // The event of a lost GPU, in the kernel's log, for the other one.
    let begun = Instant::now();
    node.event(1 - bad, 79);
    node.await_gpu(1 - bad, "quarantined", QUARANTINE_MAX);
    eprintln!("quarantined {:?} after the driver's event", begun.elapsed());
    assert_eq!(node.site.job(&waiting)["state"], "queued");

    // Repaired, let go, burnt in: then it runs what waited.
    fs::write(node.path("control.toml"), control(["", ""])).unwrap();
    node.site.run(&["gpu", "release", "b1", &bad.to_string()]).done();
    node.await_gpu(bad, "healthy", BURN_IN_MAX);
    await_that("what waited runs", BURN_IN_MAX, || {
        world.witness().attempt(&waiting, 1).is_some() || node.place_of(&id) == Some(bad)
    });
}

#[test]
fn a_burn_in_that_is_wanted_is_done_before_anything_runs_also_if_its_agent_was_away() {
    let world = World::new();
    let mut node = Emulated::new(&world);
    for gpu in 0..2 {
        node.await_gpu(gpu, "healthy", BURN_IN_MAX);
    }
    node.site.run(&["node", "burn-in", "start", "b2"]).refused(3, "not-found");
    node.site.run(&["node", "burn-in", "start", "b1", "--gpu=7"]).refused(3, "not-found");

    // Asked for while the agent answers.
    let first = |node: &Emulated<'_>| {
        node.site.list(&["node", "burn-in", "report", "b1"]).into_iter().next().unwrap_or_default()
    };
    node.site.run(&["node", "burn-in", "start", "b1", "--gpu=0"]).done();
    assert_eq!(node.gpu(0)["fit"], false, "not before its result");
    let done = await_some("it is burnt in", BURN_IN_MAX, || {
        Some(first(&node)).filter(|it| it["last"]["verdict"] == "passed" && it["wanted"].is_null())
    });
    assert_eq!(
        (&done["last"]["tier"], &done["state"]),
        (&"t2".into(), &"healthy".into()),
        "{done}"
    );
    let number = done["last"]["number"].as_u64().unwrap();

    // Held back and let go while it is away: its proof is older than that.
    node.agent.kill();
    node.site.run(&["gpu", "quarantine", "b1", "0"]).done();
    node.site.run(&["gpu", "release", "b1", "0"]).done();
    node.agent.start();
    let again = await_some("it is burnt in again", BURN_IN_MAX, || {
        let (it, gpu) = (first(&node), node.gpu(0));
        let is_done = it["last"]["verdict"] == "passed";
        assert!(is_done || gpu["fit"] == false, "on an old proof: {gpu}");
        Some(it).filter(|it| is_done && it["wanted"].is_null())
    });
    assert!(again["last"]["number"].as_u64().unwrap() > number, "{again}");
    await_that("it is fit again", BURN_IN_MAX, || node.gpu(0)["fit"] == true);
}

#[test]
fn what_was_only_declared_runs_nothing_where_proofs_are_asked_for() {
    let world = World::new();
    let plan = SitePlan { extra: &["--trust=proven"], ..SitePlan::small("berlin") };
    let site = world.site(plan);
    let id = site.submit(Work::new("work", 1, 1));
    let gpu = await_some("the GPUs are listed", BURN_IN_MAX, || {
        site.list(&["gpu", "ls", "--unfit"]).into_iter().next()
    });
    assert_eq!(gpu["state"], "discovered", "{gpu}");
    assert_eq!(site.job(&id)["state"], "queued");
    let said = site.run(&["gpu", "quarantine", "b1", "7"]);
    said.refused(3, "not-found");
}

#[test]
fn a_restarted_agent_shows_the_proof_that_it_kept() {
    let world = World::new();
    let mut node = Emulated::new(&world);
    let proof = |node: &Emulated<'_>| node.gpu(0)["proof"].clone();
    node.await_gpu(0, "healthy", BURN_IN_MAX);
    node.await_gpu(1, "healthy", BURN_IN_MAX);
    let before = proof(&node);
    node.agent.kill();
    node.agent.start();
    let boots = || node.site.list(&["node", "ls"]).first().map(|it| it["boot"].clone());
    await_that("its next life is heard", BURN_IN_MAX, || boots() == Some(2.into()));
    let gpu = node.await_gpu(0, "healthy", BURN_IN_MAX);
    assert_eq!((&gpu["proof"], &gpu["fit"]), (&before, &true.into()), "{gpu}");
}
