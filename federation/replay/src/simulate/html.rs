//! A report as a page of its own: no script, nothing from elsewhere, light or dark as the reader
//! likes it.

mod compare;

use std::fmt::Write;

pub use crate::simulate::html::compare::compare_page;
use crate::simulate::plot::{Bars, Chart, Line, bars, number, plain};
use crate::simulate::report::{Report, SiteReport, Waits};
use crate::simulate::sweep::{SweepReport, Trial};

const HOUR: f64 = 3_600.0;
const DAY: f64 = 86_400.0;
/// A wait is shown up to so many times its bound.
const BOUNDS_SHOWN: f64 = 6.0;

/// How many lines and bars can be told apart.
const COLOURS: usize = 8;

const STYLE: &str = "\
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c2024;--soft:#5b636b;--rule:#dfe3e6;\
--c1:#1f6feb;--c2:#d9730d;--c3:#1a8f5a;--c4:#8b5cd6;\
--c5:#c2477f;--c6:#6b7280;--c7:#0e8fa8;--c8:#8a6d1a;--bad:#c62828}\
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--ink:#e8eaed;--soft:#9aa3ab;\
--rule:#333a40;--c1:#6ea8ff;--c2:#f2a65a;--c3:#5cc998;--c4:#b79af0;\
--c5:#f08ab8;--c6:#a3adb8;--c7:#56c7dd;--c8:#d4b85a;--bad:#ff7b72}}\
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);\
font:15px/1.45 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif}\
main{max-width:1360px;margin:0 auto;padding:28px 24px 48px}h1{font-size:24px;margin:0 0 4px}\
h2{font-size:19px;margin:36px 0 10px}p{margin:4px 0 14px;color:var(--soft)}\
.answer{color:var(--ink);font-size:17px}.scroll{overflow-x:auto}\
table{border-collapse:collapse;background:var(--card);width:100%;font-variant-numeric:tabular-nums;font-size:14px}\
th,td{padding:6px 8px;border-bottom:1px solid var(--rule);text-align:right;white-space:nowrap}\
th{font-weight:600;color:var(--soft);font-size:12.5px}th:first-child,td:first-child,.text{text-align:left}\
td:first-child{white-space:normal;min-width:9em}\
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(440px,100%),1fr));gap:16px}\
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:8px;padding:12px 14px}\
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:4px 16px;margin-bottom:6px}\
.keys{display:flex;flex-wrap:wrap;gap:4px 14px;color:var(--soft);font-size:13px}\
.key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:5px}\
.k1{background:var(--c1)}.k2{background:var(--c2)}.k3{background:var(--c3)}.k4{background:var(--c4)}\
.k5{background:var(--c5)}.k6{background:var(--c6)}.k7{background:var(--c7)}.k8{background:var(--c8)}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--ink);font-size:11.5px}\
svg .unit,svg .note{fill:var(--soft);font-size:11.5px}svg .grid{stroke:var(--rule);stroke-width:1}\
svg .axis{stroke:var(--soft);stroke-width:1}svg .line{fill:none;stroke-width:1.6}\
svg .area{stroke:none;fill-opacity:.22}svg .bound{stroke:var(--bad);stroke-width:1.3;stroke-dasharray:5 4}\
svg .open{fill-opacity:.25}\
.line.c1{stroke:var(--c1)}.line.c2{stroke:var(--c2)}.line.c3{stroke:var(--c3)}.line.c4{stroke:var(--c4)}\
.line.c5{stroke:var(--c5)}.line.c6{stroke:var(--c6)}.line.c7{stroke:var(--c7)}.line.c8{stroke:var(--c8)}\
.area.c1,.bar.c1,.dot.c1{fill:var(--c1)}.area.c2,.bar.c2,.dot.c2{fill:var(--c2)}\
.area.c3,.bar.c3,.dot.c3{fill:var(--c3)}.area.c4,.bar.c4,.dot.c4{fill:var(--c4)}\
.area.c5,.bar.c5,.dot.c5{fill:var(--c5)}.area.c6,.bar.c6,.dot.c6{fill:var(--c6)}\
.area.c7,.bar.c7,.dot.c7{fill:var(--c7)}.area.c8,.bar.c8,.dot.c8{fill:var(--c8)}\
@media(max-width:600px){main{padding:16px 12px 32px}figure{overflow-x:auto}svg{min-width:520px}}";

/// The page of one simulation.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut body = String::new();
    let _ = write!(body, "<h1>Simulation</h1>{}", scope(report));
    body.push_str(&summary(report));
    body.push_str(&sites(report));
    document("Simulation", &body)
}

/// The page of a sweep: all trials, and the plots of the one that answers it, or of the last.
#[must_use]
pub fn sweep_page(sweep: &SweepReport) -> String {
    let varied = plain(&sweep.varied);
    let mut body = format!("<h1>Sweep of {varied}</h1>");
    if let Some(trial) = sweep.trials.first() {
        body.push_str(&scope(&trial.report));
    }
    let answer = sweep.told().map_or(String::new(), |told| format!("{}.", plain(&told)));
    let _ = write!(body, "<p class=\"answer\">{answer}</p>");
    body.push_str("<div class=\"grid2\">");
    body.push_str(&trials_chart(sweep));
    body.push_str(&trials_spill(sweep));
    body.push_str("</div><h2>Values tried</h2>");
    body.push_str(&trials_table(sweep));
    let answered = sweep.trials.iter().find(|trial| Some(&trial.value) == sweep.answer.as_ref());
    if let Some(trial) = answered.or(sweep.trials.last()) {
        let _ = write!(body, "<h2>{varied} = {}</h2>", plain(&trial.value));
        body.push_str(&summary(&trial.report));
        body.push_str(&sites(&trial.report));
    }
    document(&format!("Sweep of {varied}"), &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head>\n<body><main>\n{body}</main></body></html>\n"
    )
}

fn scope(report: &Report) -> String {
    format!(
        "<p>{} jobs came in {}; the last of them ended after {}. All decisions are those of the \
         planner, in virtual time; nothing fails, and links, logs and launches take no time. \
         Seed {}.</p>",
        number(report.jobs as f64),
        span(Some(report.span_s)),
        span(Some(report.end_s)),
        report.seed
    )
}

/// A span in its two largest units.
fn span(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "never".to_owned() };
    let part =
        |large: f64, small: f64| ((seconds / large).floor(), (seconds % large / small).floor());
    if seconds >= DAY {
        let (days, hours) = part(DAY, HOUR);
        format!("{days} d {hours} h")
    } else if seconds >= HOUR {
        let (hours, minutes) = part(HOUR, 60.0);
        format!("{hours} h {minutes} min")
    } else if seconds >= 60.0 {
        let (minutes, rest) = part(60.0, 1.0);
        format!("{minutes} min {rest} s")
    } else {
        format!("{} s", number((seconds * 10.0).round() / 10.0))
    }
}

fn whole(seconds: Option<u64>) -> String {
    span(seconds.map(|seconds| seconds as f64))
}

fn percent(part: f64) -> String {
    format!("{:.1} %", 100.0 * part)
}

fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let class = |header: &str| match header {
        "case" | "site" | "goal met" => " class=\"text\"",
        _ => "",
    };
    let mut text = "<div class=\"scroll\"><table><tr>".to_owned();
    for header in headers {
        let _ = write!(text, "<th{}>{}</th>", class(header), plain(header));
    }
    text.push_str("</tr>");
    for row in rows {
        text.push_str("<tr>");
        for (header, cell) in headers.iter().zip(row) {
            let _ = write!(text, "<td{}>{}</td>", class(header), plain(cell));
        }
        text.push_str("</tr>");
    }
    text.push_str("</table></div>\n");
    text
}

fn summary(report: &Report) -> String {
    let mut headers = vec![
        "site",
        "GPUs",
        "lends",
        "own jobs",
        "mean wait",
        "median",
        "95 %",
        "longest",
        "in use",
        "stranded",
        "jobs that left",
        "GPU-h out",
        "GPU-h in",
    ];
    let has_energy = report.sites.iter().any(|site| site.energy.is_some());
    if has_energy {
        headers.extend(["MWh", "EUR", "t CO2"]);
    }
    let row = |site: &SiteReport| {
        let wait = |text: String| if site.jobs > 0 { text } else { "-".to_owned() };
        let mut row = vec![
            site.site.clone(),
            number(f64::from(site.gpus)),
            number(f64::from(site.lent_gpus_max)),
            number(site.jobs as f64),
            wait(span(site.mean_wait_s)),
            wait(whole(site.p50_wait_s)),
            wait(whole(site.p95_wait_s)),
            wait(whole(site.max_wait_s)),
            percent(site.utilisation),
            percent(site.stranded),
            number(site.spilled_jobs as f64),
            number(site.spilled_gpu_hours_out.round()),
            number(site.spilled_gpu_hours_in.round()),
        ];
        if has_energy {
            let told = site.energy.as_ref();
            let cell = |value: Option<f64>| value.map_or("-".to_owned(), number);
            row.push(cell(told.map(|it| it.kwh / 1_000.0)));
            row.push(cell(told.map(|it| it.eur.round())));
            row.push(cell(told.and_then(|it| it.co2_kg).map(|it| it / 1_000.0)));
        }
        row
    };
    let rows: Vec<Vec<String>> = report.sites.iter().map(row).collect();
    table(&headers, &rows)
}

/// The axis of time: its unit, and how many seconds that is.
fn time(report: &SiteReport) -> (&'static str, f64) {
    let all = report.series.step_s * report.series.utilisation.len() as f64;
    if all > 3.0 * DAY {
        ("days since the first job", DAY)
    } else {
        ("hours since the first job", HOUR)
    }
}

fn over_time<'a>(
    site: &SiteReport,
    name: &'a str,
    colour: u32,
    is_filled: bool,
    values: &[f64],
    scale: f64,
) -> Line<'a> {
    let (_, unit) = time(site);
    let at = |nth: usize| (nth as f64 + 0.5) * site.series.step_s / unit;
    let points = values.iter().enumerate().map(|(nth, value)| (at(nth), value * scale)).collect();
    Line { name, colour, is_filled, points }
}

fn sites(report: &Report) -> String {
    let mut body = String::new();
    for site in &report.sites {
        let _ = write!(body, "<h2>{}</h2><div class=\"grid2\">", plain(&site.site));
        body.push_str(&utilisation(site));
        body.push_str(&fragments(site));
        if site.jobs > 0 {
            body.push_str(&queue(site));
            body.push_str(&abroad(site));
            body.push_str(&waits("Wait by gang size (GPUs)", &site.wait_by_gang));
            body.push_str(&waits("Wait by tenant (most GPU-hours first)", &site.wait_by_tenant));
        }
        body.push_str("</div>\n");
    }
    body
}

fn utilisation(site: &SiteReport) -> String {
    let series = &site.series;
    Chart {
        title: "GPUs in use",
        x_unit: time(site).0,
        y_unit: "% of the site's GPUs",
        y_least: 100.0,
        y_most: f64::INFINITY,
        bound: None,
        lines: vec![
            over_time(site, "all jobs", 1, true, &series.utilisation, 100.0),
            over_time(site, "of these, jobs of other sites", 2, true, &series.guests, 100.0),
        ],
    }
    .draw()
}

fn fragments(site: &SiteReport) -> String {
    let series = &site.series;
    Chart {
        title: "Fragmentation",
        x_unit: time(site).0,
        y_unit: "% of the site's GPUs",
        y_least: 5.0,
        y_most: f64::INFINITY,
        bound: None,
        lines: vec![
            over_time(site, "free, on nodes in use", 4, true, &series.stranded, 100.0),
            over_time(site, "granted and idle", 2, false, &series.granted_idle, 100.0),
        ],
    }
    .draw()
}

fn queue(site: &SiteReport) -> String {
    Chart {
        title: "Queue: GPUs that waiting jobs ask for",
        x_unit: time(site).0,
        y_unit: "GPUs",
        y_least: f64::from(site.gpus) / 10.0,
        y_most: f64::INFINITY,
        bound: None,
        lines: vec![over_time(site, "GPUs asked for", 1, true, &site.series.queued_gpus, 1.0)],
    }
    .draw()
}

fn abroad(site: &SiteReport) -> String {
    let step = site.series.step_s / HOUR;
    let mut sum = 0.0;
    let sums: Vec<f64> = site
        .series
        .abroad_gpus
        .iter()
        .map(|gpus| {
            sum += gpus * step;
            sum
        })
        .collect();
    Chart {
        title: "Spilled work of its jobs, summed up",
        x_unit: time(site).0,
        y_unit: "GPU-hours",
        y_least: 1.0,
        y_most: f64::INFINITY,
        bound: None,
        lines: vec![over_time(site, "GPU-hours at other sites", 3, true, &sums, 1.0)],
    }
    .draw()
}

fn waits(title: &str, all: &[Waits]) -> String {
    let group = |waits: &Waits| {
        let jobs = number(waits.jobs as f64);
        let noun = if waits.jobs == 1 { "job" } else { "jobs" };
        Bars {
            name: format!("{} ({jobs} {noun})", shortened(&waits.of)),
            values: vec![waits.mean_s, waits.p95_s.map(|seconds| seconds as f64)],
        }
    };
    let groups: Vec<Bars> = all.iter().map(group).collect();
    bars(title, &[(1, "mean"), (2, "95th percentile")], &groups, span)
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= 10 {
        return name.to_owned();
    }
    let head: String = name.chars().take(9).collect();
    format!("{head}…")
}

/// Where the trial stands on its axis: its value if that is a number, or its place.
fn place(nth: usize, trial: &Trial) -> f64 {
    trial.value.trim_end_matches('s').parse().unwrap_or(nth as f64)
}

fn trials_chart(sweep: &SweepReport) -> String {
    let home = |trial: &Trial| trial.report.sites.iter().position(|site| site.jobs > 0);
    let nth = sweep.trials.first().and_then(home).unwrap_or(0);
    let name = sweep.trials.first().and_then(|trial| trial.report.sites.get(nth));
    let name = name.map_or(String::new(), |site| site.site.clone());
    let of = |pick: fn(&SiteReport) -> Option<f64>| -> Vec<(f64, f64)> {
        let point = |(at, trial): (usize, &Trial)| {
            let value = trial.report.sites.get(nth).and_then(pick)?;
            Some((place(at, trial), value / 60.0))
        };
        sweep.trials.iter().enumerate().filter_map(point).collect()
    };
    // The search for a bound begins far from it; what matters is near.
    let bound = sweep.bound_s.map(|bound| bound / 60.0);
    let most = bound.map_or(f64::INFINITY, |bound| bound * BOUNDS_SHOWN);
    let cut = if bound.is_some() { "; what is longer is cut off" } else { "" };
    let title = format!("Wait of jobs at home at {name}{cut}");
    Chart {
        title: &title,
        x_unit: &sweep.varied,
        y_unit: "minutes",
        y_least: 0.1,
        y_most: most,
        bound: bound.map(|bound| (bound, sweep.goal.clone().unwrap_or_default())),
        lines: vec![
            Line { name: "mean", colour: 1, is_filled: false, points: of(|site| site.mean_wait_s) },
            Line {
                name: "95th percentile",
                colour: 2,
                is_filled: false,
                points: of(|site| site.p95_wait_s.map(|wait| wait as f64)),
            },
        ],
    }
    .draw()
}

fn trials_spill(sweep: &SweepReport) -> String {
    let point = |(at, trial): (usize, &Trial)| {
        let sum: f64 = trial.report.sites.iter().map(|site| site.spilled_gpu_hours_out).sum();
        (place(at, trial), sum)
    };
    Chart {
        title: "Spilled work",
        x_unit: &sweep.varied,
        y_unit: "GPU-hours",
        y_least: 1.0,
        y_most: f64::INFINITY,
        bound: None,
        lines: vec![Line {
            name: "GPU-hours away from home",
            colour: 3,
            is_filled: false,
            points: sweep.trials.iter().enumerate().map(point).collect(),
        }],
    }
    .draw()
}

fn trials_table(sweep: &SweepReport) -> String {
    let headers = [
        "value",
        "goal met",
        "site",
        "mean wait",
        "median",
        "95 %",
        "longest",
        "in use",
        "GPU-h out",
        "never started",
    ];
    let mut rows = Vec::new();
    for trial in &sweep.trials {
        for site in trial.report.sites.iter().filter(|site| site.jobs > 0) {
            let met = trial.met.map_or("-", |met| if met { "yes" } else { "no" });
            rows.push(vec![
                trial.value.clone(),
                met.to_owned(),
                site.site.clone(),
                span(site.mean_wait_s),
                whole(site.p50_wait_s),
                whole(site.p95_wait_s),
                whole(site.max_wait_s),
                percent(site.utilisation),
                number(site.spilled_gpu_hours_out.round()),
                number(site.never_started as f64),
            ]);
        }
    }
    table(&headers, &rows)
}
