//! `federation bench`: the demo's two sites, measured. Figures of one machine and one run; ratios
//! between rows mean more than any of them.

use std::fs;
use std::sync::Arc;

use serde_json::json;
use specs::fault::FaultCode;
use specs::id::{Epoch, JobId, RequestId};
use specs::job::JobSpec;
use specs::jobfile::{self, Format as FileFormat};
use specs::unit::{Millis, Timestamp};
use specs::wire::client::{
    ControllerViews, Empty, JobSelector, JobState, JobSubmit, JobSubmitted, JobView, JobViews,
    JobWait,
};
use specs::wire::method::Method;

use super::cluster::{self, Ground, Process, Programs, Site, SitePlan};
use super::gpus::Gpus;
use super::{await_capacity, client_of, place, raise};
use crate::app::App;
use crate::args::{BenchArgs, Format};
use crate::client::Client;
use crate::error::{Failure, Outcome};
use crate::output::{line, note};

/// The demo's sites, with GPUs that are declared: burn-ins would be what is measured.
const HOME: SitePlan = SitePlan { of_gpus: Gpus::Declared, ..super::HOME };
const HOST: SitePlan = SitePlan { of_gpus: Gpus::Declared, nodes: 4, ..super::HOST };
/// How long one job may take to run.
const JOB_SPAN: Millis = Millis(60_000);
/// How long a site may take to agree again after its leader died.
const FAILOVER_SPAN: Millis = Millis(30_000);
/// Between two tries to commit.
const TRY_SPAN: Millis = Millis(10);

/// A job of one GPU at a named site.
fn job(site: &str, command: &str) -> Outcome<JobSpec> {
    let text = format!(
        "apiVersion: spillway/v1\nkind: Job\nmetadata: {{name: bench}}\nspec:\n  class: simulation\n  \
         resources: {{gpus: {{count: 1}}}}\n  run: {{command: [{command}]}}\n  \
         placement: {{sites: [{site}]}}\n"
    );
    jobfile::read(&text, FileFormat::Yaml, "bench.yaml").map_err(|error| {
        Failure::new(FaultCode::Internal, format!("the benchmark's own job: {error}"))
    })
}

/// Ends at once.
const SHORT: &str = "\"true\"";
/// Outlasts every kill.
const LONG: &str = "sleep, \"86400\"";

/// Spans in milliseconds, sorted.
struct Spans(Vec<u64>);

impl Spans {
    fn of(mut spans: Vec<u64>) -> Self {
        spans.sort_unstable();
        Self(spans)
    }

    /// The nearest-rank percentile.
    fn percentile(&self, percent: usize) -> u64 {
        let rank = (self.0.len() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).copied().unwrap_or_default()
    }

    fn row(&self, name: &str) -> String {
        format!(
            "{name}: n={} p50_ms={} p99_ms={} max_ms={}",
            self.0.len(),
            self.percentile(50),
            self.percentile(99),
            self.percentile(100)
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "n": self.0.len(),
            "p50_ms": self.percentile(50),
            "p99_ms": self.percentile(99),
            "max_ms": self.percentile(100),
        })
    }
}

struct Figures {
    startup: Millis,
    local: Spans,
    first_spilled: u64,
    spilled: Spans,
    failover: Spans,
    /// Jobs that ran through all failovers, and how many of them had another attempt or an end.
    watched: usize,
    touched: usize,
    /// Name of a process and its resident memory, KiB.
    memory: Vec<(String, u64)>,
}

/// Runs everything and prints it.
pub(crate) async fn measure(app: &App, args: BenchArgs) -> Outcome<()> {
    let output = app.output(args.format);
    let programs = Programs::find()?;
    let (dir, _) = place(app, None)?;
    let ground = Ground::new(app.env(), &dir, programs)?;
    let mut sites = Vec::new();
    let figures = figures(app, &ground, &mut sites, &args).await;
    cluster::stop(app.env(), &mut sites).await;
    let figures = figures?;
    fs::remove_dir_all(&dir).map_err(|error| Failure::file("remove", &dir, &error))?;
    match output.format() {
        Format::Json => {
            let memory =
                figures.memory.iter().map(|(name, kib)| json!({"process": name, "rss_kib": kib}));
            output.document(
                "Bench",
                json!({
                    "startup_ms": figures.startup.0,
                    "submit_to_running_local": figures.local.json(),
                    "submit_to_running_first_spilled_ms": figures.first_spilled,
                    "submit_to_running_spilled": figures.spilled.json(),
                    "failover": figures.failover.json(),
                    "jobs_watched": figures.watched,
                    "jobs_touched": figures.touched,
                    "memory": memory.collect::<Vec<_>>(),
                }),
            )
        }
        Format::Table | Format::Name => {
            line(&format!("start-up: ms={}", figures.startup.0), "\n")?;
            line(&figures.local.row("submit to running, at home"), "\n")?;
            line(&format!("submit to running, first spill: ms={}", figures.first_spilled), "\n")?;
            line(&figures.spilled.row("submit to running, spilled"), "\n")?;
            line(&figures.failover.row("leader killed to next commit"), "\n")?;
            let (touched, watched) = (figures.touched, figures.watched);
            line(&format!("touched by the kills: jobs={touched} of={watched}"), "\n")?;
            figures.memory.iter().try_for_each(|(name, kib)| {
                line(&format!("resident memory, {name}: kib={kib}"), "\n")
            })
        }
    }
}

async fn figures(
    app: &App,
    ground: &Ground,
    sites: &mut Vec<Site>,
    args: &BenchArgs,
) -> Outcome<Figures> {
    let begun = app.env().clock.now();
    note("starting two sites: 6 controllers, 6 nodes, 48 GPUs (declared, not real)");
    let mut home = raise(app, ground, sites, [HOME, HOST]).await?;
    await_capacity(app, &mut home).await?;
    let startup = app.env().clock.now().since(begun);
    note("measuring the way to running");
    let (here, there) = (job(HOME.name, SHORT)?, job(HOST.name, SHORT)?);
    let local = latencies(&mut home, &here, args.jobs).await?;
    let first_spilled = latency(&mut home, &there).await?;
    let spilled = latencies(&mut home, &there, args.jobs).await?;
    let mut watched = Vec::new();
    for site in [HOME.name, HOST.name] {
        watched.push(submit(&mut home, &job(site, LONG)?).await?);
    }
    for job in &watched {
        await_running(&mut home, *job).await?;
    }
    let processes = || sites.iter().flat_map(|site| &site.processes);
    let memory = processes().map(|it| Ok((it.name.clone(), resident_kib(it)?)));
    let memory = memory.collect::<Outcome<_>>()?;
    home.close().await;
    note("killing leaders");
    let mut failover = Vec::new();
    for _ in 0..args.kills {
        let site = sites.first_mut().expect("two sites were raised");
        failover.push(kill_leader(app, ground, site).await?);
    }
    let failover = Spans::of(failover);
    let mut home = client_of(ground, HOME.name)?;
    let mut touched = 0;
    for job in &watched {
        let selector = JobSelector { text: job.to_string() };
        let views: JobViews = home.read(Method::JobShow, &selector).await?;
        let is_whole = |it: &JobView| it.state == JobState::Running && it.epoch == Epoch(1);
        touched += usize::from(!views.jobs.iter().all(is_whole));
    }
    home.close().await;
    let watched = watched.len();
    Ok(Figures { startup, local, first_spilled, spilled, failover, watched, touched, memory })
}

async fn await_running(client: &mut Client, job: JobId) -> Outcome<()> {
    let env = client.env().clone();
    let limit = env.clock.now().after(JOB_SPAN);
    let mut known = JobState::Queued;
    while known != JobState::Running {
        if env.clock.now() >= limit {
            return Err(Failure::new(FaultCode::Timeout, format!("{job} does not run")));
        }
        let wait = JobWait { job, state: Some(known), wait: Millis(5_000), epoch: Epoch(0) };
        let view: JobView = client.poll(Method::JobWait, &wait, wait.wait).await?;
        known = view.state;
    }
    Ok(())
}

async fn submit(client: &mut Client, spec: &JobSpec) -> Outcome<JobId> {
    let drawn = format!("bench-{:032x}", client.env().random_u128());
    let request: RequestId = drawn.parse().expect("letters and digits make a request id");
    let submit = JobSubmit { request, spec: Arc::new(spec.clone()) };
    let answer: JobSubmitted = client.change(Method::JobSubmit, &submit).await?;
    let first = answer.jobs.first().copied();
    first.ok_or_else(|| Failure::new(FaultCode::Internal, "a submission made no job"))
}

/// From the admission to the start of the process, by the wall clock that both sides share here.
async fn latency(client: &mut Client, spec: &JobSpec) -> Outcome<u64> {
    let job = submit(client, spec).await?;
    let env = client.env().clone();
    let limit = env.clock.now().after(JOB_SPAN);
    let mut known = JobState::Queued;
    while env.clock.now() < limit {
        let wait = JobWait { job, state: Some(known), wait: Millis(5_000), epoch: Epoch(0) };
        let view: JobView = client.poll(Method::JobWait, &wait, wait.wait).await?;
        if view.state.is_terminal() && view.started_at != Timestamp(0) {
            return Ok(view.started_at.minus(view.submitted_at).0);
        }
        known = view.state;
    }
    Err(Failure::new(FaultCode::Timeout, format!("{job} did not end")))
}

async fn latencies(client: &mut Client, spec: &JobSpec, jobs: u32) -> Outcome<Spans> {
    let mut spans = Vec::new();
    for _ in 0..jobs {
        spans.push(latency(client, spec).await?);
    }
    Ok(Spans::of(spans))
}

/// Kills the leader of a site, and measures until the next submission is acknowledged; then brings
/// the controller back.
async fn kill_leader(app: &App, ground: &Ground, site: &mut Site) -> Outcome<u64> {
    let env = app.env();
    let mut client = client_of(ground, site.plan.name)?;
    let views: ControllerViews = client.read(Method::ControllerList, &Empty {}).await?;
    let leader = views.controllers.iter().find(|view| view.leader);
    let nth = leader.and_then(|view| usize::try_from(view.id.0).ok()).unwrap_or(1);
    client.close().await;
    let spec = job(site.plan.name, SHORT)?;
    let process = site.processes.get_mut(nth - 1).expect("controllers come first");
    process.crash().await;
    let begun = env.clock.now();
    let mut client = client_of(ground, site.plan.name)?;
    while submit(&mut client, &spec).await.is_err() {
        if env.clock.now().since(begun) >= FAILOVER_SPAN {
            return Err(Failure::new(FaultCode::Timeout, "the site does not agree again"));
        }
        env.sleep(TRY_SPAN).await;
    }
    let span = env.clock.now().since(begun).0;
    *process = ground.controller(site.plan, nth).await?;
    ground.await_site(&mut client, site.plan, &mut site.processes).await?;
    client.close().await;
    Ok(span)
}

/// Resident memory of a process, from `/proc`.
fn resident_kib(process: &Process) -> Outcome<u64> {
    let pid = process.pid().unwrap_or_default();
    let path = std::path::PathBuf::from(format!("/proc/{pid}/status"));
    let text = fs::read_to_string(&path).map_err(|error| Failure::file("read", &path, &error))?;
    let row = text.lines().find_map(|row| row.strip_prefix("VmRSS:"));
    let kib = row.and_then(|row| row.trim().trim_end_matches(" kB").trim().parse().ok());
    kib.ok_or_else(|| Failure::new(FaultCode::Internal, "/proc says nothing of memory"))
}
