//! The demo's GPUs. There are none: an emulator stands in for the driver's libraries, the agents
//! that are shipped run the kernels that are shipped on it, and so each GPU proves itself or does
//! not. One is sick.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::gpu::GpuState;
use specs::id::{GpuIndex, NodeId};
use specs::unit::Millis;
use specs::wire::client::{Empty, GpuView, GpuViews};
use specs::wire::method::Method;

use super::cluster::{Ground, LOOK_SPAN, Programs, Site, SitePlan, check_alive, not_built};
use crate::app::App;
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::span;

/// The emulator as a build leaves it, and the names that programs look for.
const LIBRARY: &str = "libgpu_agent_emulator.so";
const NAMES: [&str; 2] = ["libcuda.so.1", "libnvidia-ml.so.1"];
/// What the emulated GPUs say they are, and their class.
const PRODUCT: &str = "NVIDIA RTX PRO 6000 Blackwell Server Edition (emulated)";
pub(super) const CLASS: &str = "rtx-pro-6000";
/// As small as can be judged, so that a burn-in takes half a second of a processor.
const MEMORY_KIB: u32 = 128;
const SMS: u32 = 3;
/// What is wrong with the sick one: a tensor core of one SM has a wrong bit now and then.
const FAULT: &str = "[[gpu.fault]]\nkind = \"flaky-sm\"\nunit = \"tensor\"\nsm = 1\nbit = 2\n\
                     every = 20\nseed = 1\n";
/// How long it may take until all GPUs have a verdict, on a machine that has other things to do.
const VERDICTS_SPAN: Millis = Millis(150_000);
/// Between two lines that tell how far it is.
const TOLD_SPAN: Millis = Millis(2_000);
/// GPUs that an error names.
const NAMED_MAX: usize = 6;

/// What a site's nodes have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gpus {
    /// They are taken for granted.
    Declared,
    /// They prove themselves.
    Emulated { sick: Option<Sick> },
}

/// The one that is sick: which node of its site's, and which GPU there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sick {
    pub(super) node: usize,
    pub(super) index: u32,
}

/// What an agent is started with for the sake of its GPUs.
pub(super) struct Has {
    pub(super) args: Vec<String>,
    pub(super) surroundings: Vec<(&'static str, OsString)>,
}

/// The emulator's library: beside the programs, or where a build for tests leaves it.
pub(super) fn library(programs: &Programs) -> Outcome<PathBuf> {
    let beside = programs.federation.with_file_name(LIBRARY);
    let of_tests = programs.federation.with_file_name("deps").join(LIBRARY);
    let found = [&beside, &of_tests].into_iter().find(|path| path.is_file()).cloned();
    found.ok_or_else(|| not_built(&beside))
}

/// Makes the folder in which the library has the names of the driver's. It stays as long as the
/// agents do.
pub(super) fn stage(ground: &Ground, library: &PathBuf) -> Outcome<()> {
    let folder = libraries(ground);
    fs::create_dir_all(&folder).map_err(|error| Failure::file("make", &folder, &error))?;
    for name in NAMES {
        let link = folder.join(name);
        symlink(library, &link).map_err(|error| Failure::file("link", &link, &error))?;
    }
    Ok(())
}

fn libraries(ground: &Ground) -> PathBuf {
    ground.dir.join("gpus").join("lib")
}

/// What the agent of a site's n-th node is started with.
pub(super) fn of_node(ground: &Ground, plan: SitePlan, nth: usize) -> Outcome<Has> {
    let sick = match plan.of_gpus {
        Gpus::Declared => {
            let args = vec!["--declare".into(), format!("b200:{}", plan.gpus_per_node)];
            return Ok(Has { args, surroundings: Vec::new() });
        }
        Gpus::Emulated { sick } => sick.filter(|sick| sick.node == nth).map(|sick| sick.index),
    };
    let node = plan.node(nth);
    let file = ground.dir.join("gpus").join(format!("{node}.toml"));
    // What a real driver tells the kernel is no matter of these.
    let events = ground.dir.join("gpus").join(format!("{node}.log"));
    for (path, text) in [(&file, node_file(plan, &node, sick)), (&events, String::new())] {
        fs::write(path, text).map_err(|error| Failure::file("write", path, &error))?;
    }
    let mut search = libraries(ground).into_os_string();
    if let Some(inherited) = std::env::var_os("LD_LIBRARY_PATH").filter(|it| !it.is_empty()) {
        search.push(":");
        search.push(inherited);
    }
    let events = events.to_string_lossy().into_owned();
    let args = ["--burn-in-seconds", "0", "--kernel-log", &events].map(str::to_owned).into();
    let surroundings =
        vec![("LD_LIBRARY_PATH", search), ("SPILLWAY_EMULATOR", file.into_os_string())];
    Ok(Has { args, surroundings })
}

/// The emulator's file of a node.
fn node_file(plan: SitePlan, node: &str, sick: Option<u32>) -> String {
    let gpu = |index: u32| {
        let fault = if sick == Some(index) { FAULT } else { "" };
        format!(
            "[[gpu]]\nname = \"{PRODUCT}\"\nuuid = \"{}-{node}\"\nmemory_kib = {MEMORY_KIB}\n\
             sms = {SMS}\n{fault}\n",
            plan.name
        )
    };
    (0..plan.gpus_per_node).map(gpu).collect()
}

/// A GPU of the demo's, and what its site says of it.
#[derive(Debug, Clone)]
pub(super) struct SeenGpu {
    pub(super) site: &'static str,
    pub(super) view: GpuView,
}

/// What came of a GPU's admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Not known yet.
    Open,
    /// Its proof holds, and jobs may run on it.
    Proven,
    /// It is out of service.
    Out,
}

impl SeenGpu {
    pub(super) fn standing(&self) -> Standing {
        let it = &self.view;
        match it.state {
            Some(GpuState::Quarantined | GpuState::Rma | GpuState::Suspect) => Standing::Out,
            Some(GpuState::Healthy) if it.withheld.is_some() => Standing::Out,
            Some(GpuState::Healthy) if it.fit && it.proof.is_some() => Standing::Proven,
            Some(
                GpuState::Healthy
                | GpuState::Discovered
                | GpuState::BurningIn
                | GpuState::Resetting,
            )
            | None => Standing::Open,
        }
    }

    /// Its node and its index there.
    pub(super) fn name(&self) -> String {
        format!("{}/{}", self.view.node, self.view.index)
    }

    /// What its site says of its state, and why.
    pub(super) fn state(&self) -> String {
        let it = &self.view;
        let state = it.state.map_or_else(|| "not judged".into(), |state| state.to_string());
        let why = it.withheld.as_ref().unwrap_or(&it.why);
        if why.is_empty() { state } else { format!("{state}: {why}") }
    }
}

/// Which GPU is sick: its site, its node and its index there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SickGpu {
    pub(super) site: &'static str,
    pub(super) node: NodeId,
    pub(super) index: GpuIndex,
}

impl SickGpu {
    /// The one of a plan's, if there is one.
    pub(super) fn of(plan: SitePlan) -> Option<Self> {
        let Gpus::Emulated { sick: Some(sick) } = plan.of_gpus else { return None };
        let node = NodeId::new(&plan.node(sick.node)).ok()?;
        let index = GpuIndex(u16::try_from(sick.index).ok()?);
        Some(Self { site: plan.name, node, index })
    }

    pub(super) fn is(&self, gpu: &SeenGpu) -> bool {
        (self.site, &self.node, self.index) == (gpu.site, &gpu.view.node, gpu.view.index)
    }
}

/// Asks both sites for their GPUs.
pub(super) async fn look(clients: &mut [(&'static str, &mut Client)]) -> Outcome<Vec<SeenGpu>> {
    let mut seen = Vec::new();
    for (site, client) in clients {
        let views: GpuViews = client.read(Method::GpuList, &Empty {}).await?;
        seen.extend(views.gpus.into_iter().map(|view| SeenGpu { site, view }));
    }
    Ok(seen)
}

/// As the demo's document shows them.
pub(super) fn json(gpus: &[SeenGpu]) -> Value {
    let is = |wanted| move |gpu: &&SeenGpu| gpu.standing() == wanted;
    let out = gpus.iter().filter(is(Standing::Out)).map(|gpu| {
        json!({
            "site": gpu.site,
            "node": gpu.view.node.as_str(),
            "index": gpu.view.index.0,
            "state": gpu.view.state.map(GpuState::as_str),
            "why": gpu.view.withheld.as_ref().unwrap_or(&gpu.view.why),
        })
    });
    json!({
        "proven": gpus.iter().filter(is(Standing::Proven)).count(),
        "out_of_service": out.collect::<Vec<_>>(),
    })
}

/// Waits until each of so many GPUs has proven itself or not; returns what came of them.
pub(super) async fn await_verdicts(
    app: &App,
    sites: &mut [Site],
    clients: &mut [(&'static str, &mut Client)],
    say: &dyn Fn(&str),
) -> Outcome<Vec<SeenGpu>> {
    let env = app.env();
    let expected: usize = sites.iter().map(|site| site.plan.gpus() as usize).sum();
    let limit = env.clock.now().after(VERDICTS_SPAN);
    let mut screen = Screen::new(app);
    loop {
        check_alive(sites)?;
        let seen = look(clients).await?;
        let count = |wanted| seen.iter().filter(|gpu| gpu.standing() == wanted).count();
        let (proven, out) = (count(Standing::Proven), count(Standing::Out));
        let text = format!("burning in: {proven} of {expected} proven");
        screen.show(app, if out > 0 { format!("{text}, {out} found bad") } else { text }, say);
        if seen.len() == expected && count(Standing::Open) == 0 {
            screen.end();
            return Ok(seen);
        }
        if env.clock.now() >= limit {
            return Err(Failure::new(FaultCode::Timeout, late(&seen, expected)));
        }
        env.sleep(LOOK_SPAN).await;
    }
}

/// What has no verdict after all the time.
fn late(seen: &[SeenGpu], expected: usize) -> String {
    let open: Vec<&SeenGpu> = seen.iter().filter(|gpu| gpu.standing() == Standing::Open).collect();
    let mut named: Vec<String> = open
        .iter()
        .take(NAMED_MAX)
        .map(|gpu| format!("{} of {} is {}", gpu.name(), gpu.site, gpu.state()))
        .collect();
    if open.len() > NAMED_MAX {
        named.push(format!("and {} more", open.len() - NAMED_MAX));
    }
    if seen.len() < expected {
        named.push(format!("{} are not known to their sites", expected - seen.len()));
    }
    let (all, late) = (span(VERDICTS_SPAN), open.len() + expected.saturating_sub(seen.len()));
    format!("{late} of {expected} GPUs have no verdict after {all}: {}", named.join(", "))
}

/// How far the burn-ins are: on a terminal a line that is kept up to date; elsewhere one now and
/// then.
struct Screen {
    bar: Option<ProgressBar>,
    told: Option<(String, specs::unit::Instant)>,
}

impl Screen {
    fn new(app: &App) -> Self {
        let style = ProgressStyle::with_template("  {msg}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let is_terminal = app.terminal().is_stderr;
        Self { bar: is_terminal.then(|| ProgressBar::new(1).with_style(style)), told: None }
    }

    fn show(&mut self, app: &App, text: String, say: &dyn Fn(&str)) {
        let now = app.env().clock.now();
        match (&self.bar, &self.told) {
            (Some(bar), _) => bar.set_message(text),
            (None, Some((last, at))) if *last == text || now.since(*at) < TOLD_SPAN => {}
            (None, _) => {
                say(&text);
                self.told = Some((text, now));
            }
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
