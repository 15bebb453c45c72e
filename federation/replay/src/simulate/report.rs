//! What a simulation showed, as numbers.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::queue::percentile;
use crate::simulate::books::{Books, JobBook, gpu_hours, means};
use crate::simulate::engine::Outcome;
use crate::simulate::scenario::{Job, Jobs, Scenario};
use crate::simulate::site::Time;
use crate::trace::WHOLE;

/// Steps of a series.
const STEPS: usize = 200;
/// Most tenants that are told one by one, those with most GPU-hours; the others come as one.
const TENANTS_MAX: usize = 15;
/// Gangs are told in classes up to so many GPUs, the last without a bound.
const GANGS: [(u32, &str); 6] =
    [(1, "1"), (8, "2-8"), (64, "9-64"), (256, "65-256"), (1_024, "257-1024"), (u32::MAX, ">1024")];

/// How long some jobs waited, in seconds. None stands for ever: as many jobs never started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Waits {
    /// Whose waits.
    pub of: String,
    pub jobs: u64,
    pub mean_s: Option<f64>,
    pub p50_s: Option<u64>,
    pub p95_s: Option<u64>,
    pub max_s: Option<u64>,
    pub gpu_hours: f64,
}

/// Means over steps of equal length, from the first submission on.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Series {
    pub step_s: f64,
    /// Parts of all GPUs of the site.
    pub utilisation: Vec<f64>,
    /// Of that, by other sites' jobs.
    pub guests: Vec<f64>,
    pub queued_jobs: Vec<f64>,
    pub queued_gpus: Vec<f64>,
    /// GPUs that the site's jobs hold at other sites, all together.
    pub abroad_gpus: Vec<f64>,
    /// Looks at nodes: parts of all GPUs that are free, but on nodes in use.
    pub stranded: Vec<f64>,
    /// Parts of all GPUs that are granted and idle.
    pub granted_idle: Vec<f64>,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteReport {
    pub site: String,
    pub nodes: u32,
    pub gpus: u32,
    pub lent_gpus_max: u32,
    pub background_gpus: u32,
    /// At home here.
    pub jobs: u64,
    pub finished: u64,
    pub never_started: u64,
    /// How often a job was stopped for another one.
    pub stops: u64,
    /// All time between submission and end in which a job did no work of its own.
    pub mean_wait_s: Option<f64>,
    pub p50_wait_s: Option<u64>,
    pub p95_wait_s: Option<u64>,
    pub max_wait_s: Option<u64>,
    pub mean_jct_s: Option<f64>,
    /// Part of the site's GPU time that was held, until the last job came.
    pub utilisation: f64,
    /// Until the last job ended.
    pub utilisation_until_end: f64,
    /// Mean part of GPUs that were free on nodes in use, until the last job came.
    pub stranded: f64,
    pub granted_idle: f64,
    /// Its jobs that left, and what they held elsewhere, until the last job ended.
    pub spilled_jobs: u64,
    pub spilled_gpu_hours_out: f64,
    pub spilled_gpu_hours_in: f64,
    /// Of its jobs, wherever they ran.
    pub gpu_hours: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub energy: Option<Energy>,
    pub wait_by_gang: Vec<Waits>,
    pub wait_by_tenant: Vec<Waits>,
    /// Empty where many reports are told together.
    #[serde(skip_serializing_if = "Series::is_empty")]
    pub series: Series,
}

/// What ran at a site took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Energy {
    pub kwh: f64,
    pub eur: f64,
    /// None if the prices' file says nothing of carbon.
    pub co2_kg: Option<f64>,
}

/// Between two sites.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spill {
    pub home: String,
    pub host: String,
    /// Attempts: a job that was moved counts again.
    pub attempts: u64,
    pub gpu_hours: f64,
}

/// What a simulation showed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub seed: u64,
    pub jobs: u64,
    /// Rows of the files that need no GPU and were left out.
    pub rows_without_gpus: u64,
    /// Gangs that were made larger, to ask for as much of each node.
    pub rounded_gangs: u64,
    /// Until the last job came, and until the last job ended.
    pub span_s: f64,
    pub end_s: f64,
    /// Commands that all sites agreed on.
    pub commands: u64,
    pub sites: Vec<SiteReport>,
    pub spills: Vec<Spill>,
}

impl Series {
    fn is_empty(&self) -> bool {
        self.utilisation.is_empty()
    }
}

impl Report {
    /// Leaves out what is told over time.
    pub fn forget_series(&mut self) {
        self.sites.iter_mut().for_each(|site| site.series = Series::default());
    }
}

pub(super) fn told(scenario: &Scenario, jobs: &Jobs, outcome: &Outcome) -> Report {
    let books = &outcome.books;
    let sites = (0..scenario.sites.len()).map(|nth| site(scenario, jobs, books, nth)).collect();
    let name = |nth: usize| scenario.sites[nth].name.to_string();
    let spills = books.spills.iter().map(|((home, host), (attempts, held))| Spill {
        home: name(*home),
        host: name(*host),
        attempts: *attempts,
        gpu_hours: gpu_hours(*held),
    });
    Report {
        seed: scenario.seed,
        jobs: jobs.jobs.iter().filter(|job| !job.is_background).count() as u64,
        rows_without_gpus: jobs.without_gpus,
        rounded_gangs: jobs.rounded,
        span_s: seconds(books.last),
        end_s: seconds(books.closed),
        commands: outcome.commands,
        sites,
        spills: spills.collect(),
    }
}

fn seconds(time: Time) -> f64 {
    time as f64 / 1_000.0
}

fn site(scenario: &Scenario, jobs: &Jobs, books: &Books, nth: usize) -> SiteReport {
    let setup = &scenario.sites[nth];
    let all: Vec<(&Job, &JobBook)> =
        books.of(nth).map(|(at, book)| (&jobs.jobs[at], book)).collect();
    let waits = waits("all", &all);
    let ended = |it: &&(&Job, &JobBook)| it.1.ended.is_some();
    let jct = all.iter().filter_map(|(job, book)| Some(book.ended? - job.submit)).sum::<Time>();
    let finished = all.iter().filter(ended).count() as u64;
    let gpus = f64::from(setup.gpus()).max(1.0);
    let until = |to: Time| {
        let held = means(&books.sites[nth].levels, to.max(1), 1, |level| level.busy);
        held.first().copied().unwrap_or(0.0) / gpus
    };
    let within = || books.sites[nth].samples.iter().filter(|sample| sample.at <= books.last);
    let looks = within().count().max(1) as f64;
    let guests = books.spills.iter().filter(|((_, host), _)| *host == nth);
    SiteReport {
        site: setup.name.to_string(),
        nodes: setup.nodes,
        gpus: setup.gpus(),
        lent_gpus_max: setup.lent_gpus(),
        background_gpus: setup.busy_nodes() * setup.gpus_per_node,
        jobs: all.len() as u64,
        finished,
        never_started: all.iter().filter(|(_, book)| book.first_wait.is_none()).count() as u64,
        stops: all.iter().map(|(_, book)| u64::from(book.stops)).sum(),
        mean_wait_s: waits.mean_s,
        p50_wait_s: waits.p50_s,
        p95_wait_s: waits.p95_s,
        max_wait_s: waits.max_s,
        mean_jct_s: (finished == all.len() as u64 && finished > 0)
            .then(|| seconds(jct) / finished as f64),
        utilisation: until(books.last),
        utilisation_until_end: until(books.closed),
        stranded: within().map(|it| it.stranded).sum::<u64>() as f64 / looks / gpus,
        granted_idle: within().map(|it| it.idle).sum::<u64>() as f64 / looks / gpus,
        spilled_jobs: all.iter().filter(|(_, book)| book.abroad > 0).count() as u64,
        spilled_gpu_hours_out: gpu_hours(all.iter().map(|(_, book)| book.abroad).sum()),
        spilled_gpu_hours_in: gpu_hours(guests.map(|(_, (_, held))| *held).sum()),
        gpu_hours: waits.gpu_hours,
        energy: scenario.prices.as_ref().and_then(|prices| {
            let levels = &books.sites[nth].levels;
            prices.energy(setup.name.as_str(), levels, scenario.first_second(), books.closed)
        }),
        wait_by_gang: by_gang(&all),
        wait_by_tenant: by_tenant(&all, &jobs.tenants),
        series: series(scenario, books, nth),
    }
}

fn waits(of: &str, jobs: &[(&Job, &JobBook)]) -> Waits {
    let wait = |(job, book): &(&Job, &JobBook)| {
        book.ended.map_or(Time::MAX, |ended| ended - job.submit - job.duration)
    };
    let mut waits: Vec<Time> = jobs.iter().map(wait).collect();
    waits.sort_unstable();
    let known = |wait: Time| (wait != Time::MAX && !waits.is_empty()).then_some(wait / 1_000);
    let last = waits.last().copied().unwrap_or(Time::MAX);
    let mean = known(last).map(|_| {
        let sum: f64 = waits.iter().map(|wait| seconds(*wait)).sum();
        sum / waits.len() as f64
    });
    let held = jobs.iter().map(|(job, _)| u128::from(job.held()) * u128::from(job.duration)).sum();
    Waits {
        of: of.to_owned(),
        jobs: jobs.len() as u64,
        mean_s: mean,
        p50_s: known(percentile(&waits, 50)),
        p95_s: known(percentile(&waits, 95)),
        max_s: known(last),
        gpu_hours: gpu_hours(held),
    }
}

fn by_gang(all: &[(&Job, &JobBook)]) -> Vec<Waits> {
    let mut found = Vec::new();
    let mut above = 0;
    let parts: Vec<_> = all.iter().filter(|(job, _)| job.milli > 0).copied().collect();
    if !parts.is_empty() {
        found.push(waits("part of 1", &parts));
    }
    for (most, name) in GANGS {
        let within = |job: &Job| job.milli == 0 && job.gpus() > above && job.gpus() <= most;
        let some: Vec<_> = all.iter().filter(|(job, _)| within(job)).copied().collect();
        if !some.is_empty() {
            found.push(waits(name, &some));
        }
        above = most;
    }
    found
}

fn by_tenant(all: &[(&Job, &JobBook)], tenants: &[String]) -> Vec<Waits> {
    let mut of: BTreeMap<usize, Vec<(&Job, &JobBook)>> = BTreeMap::new();
    for (job, book) in all {
        of.entry(job.tenant).or_default().push((job, book));
    }
    let name = |nth: usize| tenants.get(nth).map_or("-", String::as_str);
    let mut found: Vec<(Waits, Vec<(&Job, &JobBook)>)> =
        of.into_iter().map(|(nth, jobs)| (waits(name(nth), &jobs), jobs)).collect();
    found.sort_by(|(a, _), (b, _)| b.gpu_hours.total_cmp(&a.gpu_hours).then(a.of.cmp(&b.of)));
    let rest = found.split_off(found.len().min(TENANTS_MAX));
    let mut told: Vec<Waits> = found.into_iter().map(|(waits, _)| waits).collect();
    if !rest.is_empty() {
        let name = format!("{} others", rest.len());
        let jobs: Vec<(&Job, &JobBook)> = rest.into_iter().flat_map(|(_, jobs)| jobs).collect();
        told.push(waits(&name, &jobs));
    }
    told
}

fn series(scenario: &Scenario, books: &Books, nth: usize) -> Series {
    // What drains for long after the last job came would push all else together.
    let shown = books.closed.min(books.last.saturating_add(books.last / 2)).max(1_000);
    let step = shown.div_ceil(STEPS as u64);
    let gpus = f64::from(scenario.sites[nth].gpus()).max(1.0);
    let levels = &books.sites[nth].levels;
    let part = |pick| means(levels, step, STEPS, pick).into_iter().map(|it| it / gpus).collect();
    let samples = books.sites[nth].samples.iter().filter(|sample| sample.at <= shown);
    let (stranded, idle): (Vec<f64>, Vec<f64>) =
        samples.map(|it| (it.stranded as f64 / gpus, it.idle as f64 / gpus)).unzip();
    Series {
        step_s: seconds(step),
        utilisation: part(|level| level.busy),
        guests: part(|level| level.guests),
        queued_jobs: means(levels, step, STEPS, |level| level.queued * u64::from(WHOLE)),
        queued_gpus: means(levels, step, STEPS, |level| level.queued_gpus),
        abroad_gpus: means(levels, step, STEPS, |level| level.abroad),
        stranded: at_steps(&stranded),
        granted_idle: at_steps(&idle),
    }
}

/// As many values as other series have, each the last look before.
fn at_steps(looks: &[f64]) -> Vec<f64> {
    let at = |nth: usize| looks.get(nth * looks.len() / STEPS).copied().unwrap_or(0.0);
    (0..STEPS).map(at).collect()
}
