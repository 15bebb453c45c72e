//! `federation demo`: two real sites on this machine, emulated GPUs that prove themselves, jobs that
//! spill from one site to the other, and a judgement of what happened.
//!
//! ```text
//!   cluster: init, controller add, enroll, invite, join ──▶ jobs: submit ──▶ watch ──▶ verify
//!      gpus: libraries, node files ──▶ burn-ins ──▶ verdicts ──┘
//! ```

mod bench;
mod cluster;
mod gpus;
mod jobs;
mod verify;
mod watch;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::id::Epoch;
use specs::unit::{Instant, Millis};
use specs::wire::agent::LogStream;
use specs::wire::client::{Empty, JobView, LoanViews, SiteView, SiteViews};
use specs::wire::method::Method;
use tokio::signal::unix::{SignalKind, signal};

use self::cluster::{Ground, LOOK_SPAN, Programs, Site, SitePlan};
use self::gpus::{Gpus, SeenGpu, Sick, SickGpu, Standing};
use self::jobs::Submitted;
use self::verify::{Check, Seen};
use crate::app::App;
use crate::args::{DemoArgs, Format, Global};
use crate::client::Client;
use crate::context::{self, Config};
use crate::error::{EXIT_INTERRUPTED, Failure, Outcome};
use crate::logs::{self, Source};
use crate::output::{Item, Listed, Mood, Output, moment_ms, note, raw_note, span};

const HOME: SitePlan = SitePlan {
    name: "berlin",
    country: "DE",
    controllers: 3,
    nodes: 2,
    gpus_per_node: 8,
    of_gpus: Gpus::Emulated { sick: None },
    lend: None,
};
const HOST: SitePlan = SitePlan {
    name: "gigafactory",
    country: "DE",
    controllers: 3,
    // Four of them are whole.
    nodes: 5,
    gpus_per_node: 8,
    of_gpus: Gpus::Emulated { sick: Some(Sick { node: 5, index: 3 }) },
    lend: Some("all=32"),
};
/// How long the sites may take to know each other.
const JOIN_SPAN: Millis = Millis(15_000);
/// How long loans may take to come back after all jobs have ended.
const RETURN_SPAN: Millis = Millis(15_000);

/// What the demo has to tell at its end.
#[derive(Default)]
struct Report {
    startup: Millis,
    /// From then on until all GPUs had a verdict.
    proofs: Millis,
    seen: Seen,
    checks: Vec<Check>,
}

pub(crate) use bench::measure;

pub(crate) async fn run(app: &App, args: DemoArgs) -> Outcome<()> {
    let output = app.output(args.format);
    let programs = Programs::find()?;
    let library = gpus::library(&programs)?;
    let (dir, is_own) = place(app, args.dir.as_deref())?;
    let ground = Ground::new(app.env(), &dir, programs)?;
    gpus::stage(&ground, &library)?;
    let mut sites = Vec::new();
    let mut report = Report::default();
    let told = tokio::select! {
        told = tell(app, &ground, &mut sites, &mut report) => told,
        () = told_to_stop() => Err(Failure::Exit(EXIT_INTERRUPTED)),
    };
    let is_good = told.is_ok() && report.checks.iter().all(|check| check.is_kept);
    let stays = args.keep && told.is_ok();
    if stays {
        sites.iter_mut().flat_map(|site| &mut site.processes).for_each(cluster::Process::let_go);
    } else {
        note("stopping everything");
        cluster::stop(app.env(), &mut sites).await;
    }
    if let Err(failure) = &told {
        let said = failure.message();
        let detail = if said.is_empty() { "interrupted" } else { said }.to_owned();
        report.checks.push(Check { name: "the demo ran to its end", is_kept: false, detail });
    }
    print(output, &report, is_good)?;
    if stays {
        raw_note(&how_to_go_on(&ground, &sites));
    } else if is_good && is_own {
        let removed = fs::remove_dir_all(&dir);
        removed.map_err(|error| Failure::file("remove", &dir, &error))?;
    } else {
        note(&format!("all files are kept in {}, logs in {}/logs", dir.display(), dir.display()));
    }
    told?;
    if is_good { Ok(()) } else { Err(Failure::Exit(1)) }
}

/// Ends when the user or the system says so.
async fn told_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// The directory, and whether it may be removed afterwards.
fn place(app: &App, said: Option<&Path>) -> Outcome<(PathBuf, bool)> {
    let drawn = format!("spillway-demo-{:08x}", app.env().random_u64() >> 32);
    let dir = said.map_or_else(|| std::env::temp_dir().join(drawn), Path::to_owned);
    let dir = std::path::absolute(&dir).map_err(|error| Failure::file("use", &dir, &error))?;
    fs::create_dir_all(&dir).map_err(|error| Failure::file("make", &dir, &error))?;
    let mut entries = fs::read_dir(&dir).map_err(|error| Failure::file("read", &dir, &error))?;
    if entries.next().is_some() {
        let failure = Failure::new(FaultCode::Conflict, format!("{} is not empty", dir.display()));
        return Err(failure.with_hint("name another with --dir, or none"));
    }
    Ok((dir, said.is_none()))
}

async fn tell(
    app: &App,
    ground: &Ground,
    sites: &mut Vec<Site>,
    report: &mut Report,
) -> Outcome<()> {
    let begun = app.env().clock.now();
    let text = format!(
        "starting two sites: {} controllers, {} nodes, {} GPUs (emulated: each has to prove itself, \
         and one is sick)",
        HOME.controllers + HOST.controllers,
        HOME.nodes + HOST.nodes,
        HOME.gpus() + HOST.gpus()
    );
    note(&text);
    let mut home = raise(app, ground, sites, [HOME, HOST]).await?;
    let up = app.env().clock.now();
    report.startup = up.since(begun);
    let admitted = prove(app, ground, &mut home, sites, begun).await?;
    report.proofs = app.env().clock.now().since(up);
    await_capacity(app, &mut home).await?;
    let submitted = jobs::submit(ground, HOME.name).await?;
    let gpus: u32 = submitted.iter().map(|job| job.plan.gpus()).sum();
    let text = format!(
        "{} jobs for {gpus} GPUs are submitted at {}, which has {}",
        submitted.len(),
        HOME.name,
        HOME.gpus()
    );
    say(app, begun, &text);
    let mut seen = Seen {
        home: HOME.name,
        host: HOST.name,
        gpus_expected: all_gpus(),
        sick: SickGpu::of(HOST),
        admitted,
        ..Seen::default()
    };
    let views = watch::until_ended(app, ground, &mut home, sites, &submitted, &mut seen).await?;
    seen.jobs = submitted.into_iter().zip(views).collect();
    say(app, begun, "all jobs have ended; fetching their logs through the home");
    gather(ground, &mut home, &mut seen).await?;
    home.close().await;
    cluster::check_alive(sites)?;
    report.checks = verify::judge(&seen);
    report.seen = seen;
    Ok(())
}

fn all_gpus() -> usize {
    usize::try_from(HOME.gpus() + HOST.gpus()).unwrap_or(usize::MAX)
}

/// Starts both sites and joins them; returns when the home hears the host.
async fn raise(
    app: &App,
    ground: &Ground,
    sites: &mut Vec<Site>,
    [home, host]: [SitePlan; 2],
) -> Outcome<Client> {
    let begun = app.env().clock.now();
    let client = |name: &str| client_of(ground, name);
    let (first, second) =
        futures::try_join!(ground.site(home, &client), ground.site(host, &client))?;
    sites.extend([first, second]);
    ground.ask(&["context", "use", home.name]).await?;
    say(app, begun, "both sites are up: all controllers vote, all nodes are ready");
    join(ground).await?;
    let mut client = client_of(ground, home.name)?;
    let lacks = format!("{} does not hear {}", home.name, host.name);
    await_host(app, &mut client, |it| it.heard.is_some(), &lacks).await?;
    say(app, begun, &format!("{} and {} are joined", home.name, host.name));
    Ok(client)
}

/// Waits until all GPUs have proven themselves or not, and says what came of it.
async fn prove(
    app: &App,
    ground: &Ground,
    home: &mut Client,
    sites: &mut [Site],
    begun: Instant,
) -> Outcome<Vec<SeenGpu>> {
    let mut host = client_of(ground, HOST.name)?;
    let mut clients = [(HOME.name, home), (HOST.name, &mut host)];
    let told = |text: &str| say(app, begun, text);
    let seen = gpus::await_verdicts(app, sites, &mut clients, &told).await?;
    host.close().await;
    let proven = seen.iter().filter(|gpu| gpu.standing() == Standing::Proven).count();
    say(app, begun, &format!("{proven} of {} GPUs are proven", seen.len()));
    for gpu in seen.iter().filter(|gpu| gpu.standing() == Standing::Out) {
        note(&format!("  {} of {} is {}", gpu.name(), gpu.site, gpu.state()));
    }
    Ok(seen)
}

fn say(app: &App, begun: Instant, text: &str) {
    note(&format!("[{:>5}] {text}", span(app.env().clock.now().since(begun))));
}

/// A client of one of the demo's contexts.
fn client_of(ground: &Ground, name: &str) -> Outcome<Client> {
    let config = Config::load(&ground.config)?;
    let context = Some(name.to_owned());
    let global = Global { context, server: vec![], timeout: None, stale: false, config: None };
    Client::new(&ground.env, context::target(&ground.env, &config, &global)?)
}

async fn join(ground: &Ground) -> Outcome<()> {
    let token = ground.ask(&["--context", HOST.name, "invite", "--peer", HOME.name]).await?;
    ground.tell(&["--context", HOME.name, "join", "-"], Some(&token)).await.map(drop)
}

/// Waits until the home knows what the host has.
async fn await_capacity(app: &App, home: &mut Client) -> Outcome<()> {
    let lacks = format!("{} does not hear what {} has", HOME.name, HOST.name);
    await_host(app, home, |it| !it.capacity.is_empty(), &lacks).await
}

async fn await_host(
    app: &App,
    home: &mut Client,
    is_so: impl Fn(&SiteView) -> bool,
    lacks: &str,
) -> Outcome<()> {
    let limit = app.env().clock.now().after(JOIN_SPAN);
    loop {
        let views: SiteViews = home.read(Method::SiteList, &Empty {}).await?;
        let host = views.sites.iter().find(|view| view.site.as_str() == HOST.name);
        if host.is_some_and(&is_so) {
            return Ok(());
        }
        if app.env().clock.now() >= limit {
            return Err(Failure::new(FaultCode::Timeout, lacks));
        }
        app.env().sleep(LOOK_SPAN).await;
    }
}

/// Fetches what the checks rest on.
async fn gather(ground: &Ground, home: &mut Client, seen: &mut Seen) -> Outcome<()> {
    for (job, view) in &seen.jobs {
        for rank in 0..job.plan.world() {
            let log = whole_log(home, *job, view, rank).await?;
            seen.logs.insert((job.id, rank), log);
        }
    }
    let mut host = client_of(ground, HOST.name)?;
    seen.gpus = gpus::look(&mut [(HOME.name, &mut *home), (HOST.name, &mut host)]).await?;
    host.close().await;
    let path = jobs::witness(ground);
    seen.witness =
        fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
    let limit = ground.env.clock.now().after(RETURN_SPAN);
    loop {
        let views: LoanViews = home.read(Method::LoanList, &Empty {}).await?;
        seen.loans_left = views.loans.len();
        if views.loans.is_empty() || ground.env.clock.now() >= limit {
            return Ok(());
        }
        ground.env.sleep(LOOK_SPAN).await;
    }
}

/// All that a task wrote to stdout.
async fn whole_log(
    home: &mut Client,
    job: Submitted,
    view: &JobView,
    rank: u32,
) -> Outcome<String> {
    let tasks = job.plan.tasks_per_node();
    let (node_rank, task) = (rank / tasks, rank % tasks);
    let source = Source { job: job.id, node_rank, task, stream: LogStream::Stdout };
    let mut bytes = Vec::new();
    while view.epoch > Epoch(0) {
        let offset = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let chunk = logs::fetch(home, source, view.epoch, offset, Millis::ZERO).await?;
        bytes.extend_from_slice(&chunk.data.0);
        if chunk.end || chunk.data.0.is_empty() {
            break;
        }
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Listed for Check {
    const KIND: &'static str = "Check";
    const HEADERS: &'static [&'static str] = &["", "CHECK", "WHAT WAS SEEN"];

    fn row(&self, _now: specs::unit::Timestamp) -> Vec<Item> {
        let mark =
            if self.is_kept { Item::with(Mood::Good, "✓") } else { Item::with(Mood::Bad, "✗") };
        vec![mark, Item::of(self.name), Item::of(&self.detail)]
    }

    fn name(&self) -> String {
        self.name.to_owned()
    }

    fn json(&self) -> Value {
        json!({ "name": self.name, "ok": self.is_kept, "detail": self.detail })
    }
}

/// A job as the demo's document shows it.
fn job_json(view: &JobView) -> Value {
    json!({
        "id": view.id.to_string(),
        "name": watch::name_of(view),
        "home": view.home.as_str(),
        "host": view.host.as_ref().map(ToString::to_string),
        "gpus": view.spec.gpus().0,
        "epoch": view.epoch.0,
        "state": view.state.as_str(),
        "exit_code": view.exit_code,
        "submitted_ms": moment_ms(view.submitted_at),
        "started_ms": moment_ms(view.started_at),
        "finished_ms": moment_ms(view.finished_at),
    })
}

fn print(output: Output, report: &Report, is_good: bool) -> Outcome<()> {
    let spilled = report.seen.spilled().len();
    let views = report.seen.jobs.iter().map(|(_, view)| view);
    let site = |plan: SitePlan| {
        json!({
            "name": plan.name,
            "controllers": plan.controllers,
            "nodes": plan.nodes,
            "gpus": plan.gpus(),
        })
    };
    match output.format() {
        Format::Json => output.document(
            "Demo",
            json!({
                "ok": is_good,
                "startup_ms": report.startup.0,
                "proofs_ms": report.proofs.0,
                "sites": [site(HOME), site(HOST)],
                "gpus": gpus::json(&report.seen.gpus),
                "jobs": views.map(job_json).collect::<Vec<_>>(),
                "spilled": spilled,
                "checks": report.checks.iter().map(Listed::json).collect::<Vec<_>>(),
            }),
        ),
        Format::Table | Format::Name => {
            let rows: Vec<watch::Row<'_>> = views.map(watch::Row).collect();
            output.list(&rows, None)?;
            crate::output::line("", "\n")?;
            output.list(&report.checks, None)?;
            let verdict = if is_good {
                format!(
                    "\nGOOD: {} jobs, {spilled} of them at {}; every promise that was checked held.",
                    report.seen.jobs.len(),
                    HOST.name
                )
            } else {
                "\nNOT GOOD: see the lines marked ✗ above.".to_owned()
            };
            crate::output::line(&verdict, "\n")
        }
    }
}

fn how_to_go_on(ground: &Ground, sites: &[Site]) -> String {
    let config = ground.config.display();
    let mut text = format!(
        "\nBoth sites go on. Talk to them:\n  export SPILLWAY_CONFIG={config}\n  \
         federation job ls --all\n  federation --context {} gpu ls\n\nMetrics:\n",
        HOST.name
    );
    let mut pids = Vec::new();
    for site in sites {
        for (nth, metrics) in (1..).zip(&site.metrics) {
            text += &format!("  {} controller {nth}: {metrics}\n", site.plan.name);
        }
        for process in &site.processes {
            pids.extend(process.pid().map(|pid| pid.to_string()));
        }
    }
    text += "\nProcesses:\n";
    for process in sites.iter().flat_map(|site| &site.processes) {
        let pid = process.pid().unwrap_or_default();
        text += &format!("  {pid:>8} {} (log: {})\n", process.name, process.log.display());
    }
    let dir = ground.dir.display();
    text + &format!("\nStop them: kill {} && rm -r {dir}\n", pids.join(" "))
}
