//! The tables of a simulation.

use federation_replay::simulate::compare::CaseReport;
use federation_replay::simulate::sweep::Trial;
use federation_replay::simulate::{SiteReport, Waits};
use serde_json::{Value, json};
use specs::unit::{Millis, Timestamp};

use crate::output::{Item, Listed, Mood, span};
use crate::simulate::KIND;

/// A span for people; a dash for ever.
fn told(seconds: Option<f64>) -> Item {
    match seconds {
        Some(seconds) if seconds >= 1.0 || seconds == 0.0 => Item::of(span(millis(seconds))),
        Some(_) => Item::of("<1s"),
        None => Item::with(Mood::Bad, "never"),
    }
}

/// Seconds as whole milliseconds.
fn millis(seconds: f64) -> Millis {
    let whole = format!("{:.0}", seconds * 1_000.0);
    Millis(whole.parse().unwrap_or(u64::MAX))
}

fn whole(seconds: Option<u64>) -> Item {
    told(seconds.map(|seconds| seconds as f64))
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn hours(gpu_hours: f64) -> String {
    format!("{gpu_hours:.0}")
}

/// What is told of a site, under which name.
type Column = (&'static str, fn(&SiteReport) -> Item);

const COLUMNS: [Column; 14] = [
    ("SITE", |site| Item::of(&site.site)),
    ("GPUS", |site| Item::of(site.gpus)),
    ("LENT", |site| Item::of(site.lent_gpus_max)),
    ("JOBS", |site| Item::of(site.jobs)),
    ("MEAN WAIT", |site| of_jobs(site, told(site.mean_wait_s))),
    ("P50", |site| of_jobs(site, whole(site.p50_wait_s))),
    ("P95", |site| of_jobs(site, whole(site.p95_wait_s))),
    ("LONGEST", |site| of_jobs(site, whole(site.max_wait_s))),
    ("USE", |site| Item::of(percent(site.utilisation))),
    ("STRANDED", |site| Item::of(percent(site.stranded))),
    ("STOPS", |site| Item::of(site.stops)),
    ("SPILLED", |site| Item::of(site.spilled_jobs)),
    ("GPU-H OUT", |site| Item::of(hours(site.spilled_gpu_hours_out))),
    ("GPU-H IN", |site| Item::of(hours(site.spilled_gpu_hours_in))),
];

/// Whoever has no jobs has no waits.
fn of_jobs(site: &SiteReport, item: Item) -> Item {
    if site.jobs > 0 { item } else { Item::of("-") }
}

/// The names of the columns behind as many others as there is room for, which all have this one.
const fn headers<const N: usize>(before: &'static str) -> [&'static str; N] {
    let mut names = [before; N];
    let first = N - COLUMNS.len();
    let mut nth = 0;
    while nth < COLUMNS.len() {
        names[first + nth] = COLUMNS[nth].0;
        nth += 1;
    }
    names
}

fn cells(site: &SiteReport) -> impl Iterator<Item = Item> {
    COLUMNS.iter().map(move |(_, item)| item(site))
}

pub(super) struct SiteLine<'a>(pub(super) &'a SiteReport);

impl Listed for SiteLine<'_> {
    const KIND: &'static str = KIND;
    const HEADERS: &'static [&'static str] = &headers::<{ COLUMNS.len() }>("");

    fn row(&self, _: Timestamp) -> Vec<Item> {
        cells(self.0).collect()
    }

    fn name(&self) -> String {
        self.0.site.clone()
    }

    fn json(&self) -> Value {
        json!({ "site": self.0.site })
    }
}

/// A site, in one case of several.
pub(super) struct CaseLine<'a> {
    pub(super) case: &'a CaseReport,
    pub(super) site: &'a SiteReport,
}

impl Listed for CaseLine<'_> {
    const KIND: &'static str = KIND;
    const HEADERS: &'static [&'static str] = &headers::<{ COLUMNS.len() + 1 }>("CASE");

    fn row(&self, _: Timestamp) -> Vec<Item> {
        std::iter::once(Item::of(&self.case.case)).chain(cells(self.site)).collect()
    }

    fn name(&self) -> String {
        self.case.case.clone()
    }

    fn json(&self) -> Value {
        json!({ "case": self.case.case, "site": self.site.site })
    }
}

pub(super) struct GangLine {
    pub(super) site: String,
    pub(super) waits: Waits,
}

impl Listed for GangLine {
    const KIND: &'static str = KIND;
    const HEADERS: &'static [&'static str] =
        &["HOME", "GANG", "JOBS", "GPU-H", "MEAN WAIT", "P50", "P95", "LONGEST"];

    fn row(&self, _: Timestamp) -> Vec<Item> {
        let waits = &self.waits;
        vec![
            Item::of(&self.site),
            Item::of(&waits.of),
            Item::of(waits.jobs),
            Item::of(hours(waits.gpu_hours)),
            told(waits.mean_s),
            whole(waits.p50_s),
            whole(waits.p95_s),
            whole(waits.max_s),
        ]
    }

    fn name(&self) -> String {
        self.site.clone()
    }

    fn json(&self) -> Value {
        json!({ "site": self.site })
    }
}

/// A site with jobs of its own, at one value of a sweep.
pub(super) struct TrialLine<'a> {
    pub(super) trial: &'a Trial,
    pub(super) site: &'a SiteReport,
}

impl Listed for TrialLine<'_> {
    const KIND: &'static str = KIND;
    const HEADERS: &'static [&'static str] = &[
        "VALUE",
        "MET",
        "SITE",
        "MEAN WAIT",
        "P50",
        "P95",
        "LONGEST",
        "USE",
        "SPILLED",
        "GPU-H OUT",
        "NEVER STARTED",
    ];

    fn row(&self, _: Timestamp) -> Vec<Item> {
        let site = self.site;
        let met = match self.trial.met {
            Some(true) => Item::with(Mood::Good, "yes"),
            Some(false) => Item::with(Mood::Bad, "no"),
            None => Item::of("-"),
        };
        vec![
            Item::of(&self.trial.value),
            met,
            Item::of(&site.site),
            told(site.mean_wait_s),
            whole(site.p50_wait_s),
            whole(site.p95_wait_s),
            whole(site.max_wait_s),
            Item::of(percent(site.utilisation)),
            Item::of(site.spilled_jobs),
            Item::of(hours(site.spilled_gpu_hours_out)),
            Item::of(site.never_started),
        ]
    }

    fn name(&self) -> String {
        self.trial.value.clone()
    }

    fn json(&self) -> Value {
        json!({ "value": self.trial.value })
    }
}
