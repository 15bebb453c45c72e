//! The page of a comparison: all cases in one table, and in each plot.

use super::{document, over_time, percent, shortened, span, table, time, whole};
use crate::simulate::compare::{CaseReport, Comparison};
use crate::simulate::plot::{Bars, Chart, bars, number, plain};
use crate::simulate::report::{Energy, Series, SiteReport, Waits};

/// The page of several cases side by side.
#[must_use]
pub fn compare_page(comparison: &Comparison) -> String {
    let name = plain(&comparison.name);
    let mut body = format!("<h1>{name}</h1>");
    body.push_str(&scope(comparison));
    body.push_str(&cases_table(comparison));
    let sites = comparison.cases.first().map_or(0, |case| case.report.sites.len());
    for nth in 0..sites {
        let of_site: Vec<(&str, &SiteReport)> = comparison
            .cases
            .iter()
            .filter_map(|case| Some((case.case.as_str(), case.report.sites.get(nth)?)))
            .collect();
        body.push_str(&site(&of_site));
    }
    document(&name, &body)
}

fn scope(comparison: &Comparison) -> String {
    let of_case = |CaseReport { case, report }: &CaseReport| {
        format!(
            "{}: {} jobs in {}, the last of them ended after {}.",
            plain(case),
            number(report.jobs as f64),
            span(Some(report.span_s)),
            span(Some(report.end_s))
        )
    };
    let cases: Vec<String> = comparison.cases.iter().map(of_case).collect();
    format!(
        "<p>All decisions are those of the planner, in virtual time; nothing fails, and links, logs \
         and launches take no time.</p><p>{}</p>",
        cases.join("<br>")
    )
}

type Cell = fn(&SiteReport) -> String;

fn cases_table(comparison: &Comparison) -> String {
    let any = |test: fn(&SiteReport) -> bool| {
        comparison.cases.iter().flat_map(|case| &case.report.sites).any(test)
    };
    let mut columns: Vec<(&str, Cell)> = vec![
        ("GPUs", |site| number(f64::from(site.gpus))),
        ("lends", |site| number(f64::from(site.lent_gpus_max))),
        ("jobs", |site| number(site.jobs as f64)),
        ("mean wait", |site| of_jobs(site, span(site.mean_wait_s))),
        ("median", |site| of_jobs(site, whole(site.p50_wait_s))),
        ("95 %", |site| of_jobs(site, whole(site.p95_wait_s))),
        ("longest", |site| of_jobs(site, whole(site.max_wait_s))),
        ("in use", |site| percent(site.utilisation)),
        ("stranded", |site| percent(site.stranded)),
        ("GPU-h out", |site| number(site.spilled_gpu_hours_out.round())),
        ("GPU-h in", |site| number(site.spilled_gpu_hours_in.round())),
    ];
    if any(|site| site.stops > 0) {
        columns.push(("stops", |site| number(site.stops as f64)));
    }
    if any(|site| site.never_started > 0) {
        columns.push(("never started", |site| number(site.never_started as f64)));
    }
    if any(|site| site.energy.is_some()) {
        columns.extend::<[(&str, Cell); 3]>([
            ("MWh", |site| of_energy(site, |it| Some(it.kwh / 1_000.0))),
            ("EUR", |site| of_energy(site, |it| Some(it.eur.round()))),
            ("t CO2", |site| of_energy(site, |it| it.co2_kg.map(|kg| kg / 1_000.0))),
        ]);
    }
    let mut headers = vec!["case", "site"];
    headers.extend(columns.iter().map(|(name, _)| *name));
    let row = |case: &CaseReport, site: &SiteReport| {
        let mut row = vec![case.case.clone(), site.site.clone()];
        row.extend(columns.iter().map(|(_, cell)| cell(site)));
        row
    };
    let of_case = |case: &CaseReport| {
        case.report.sites.iter().map(|site| row(case, site)).collect::<Vec<_>>()
    };
    let rows: Vec<Vec<String>> = comparison.cases.iter().flat_map(of_case).collect();
    table(&headers, &rows)
}

fn of_jobs(site: &SiteReport, text: String) -> String {
    if site.jobs > 0 { text } else { "-".to_owned() }
}

fn of_energy(site: &SiteReport, pick: fn(&Energy) -> Option<f64>) -> String {
    site.energy.as_ref().and_then(pick).map_or("-".to_owned(), number)
}

/// The colour of a case, from 1.
fn colour(nth: usize) -> u32 {
    u32::try_from(nth % super::COLOURS + 1).unwrap_or(1)
}

fn site(cases: &[(&str, &SiteReport)]) -> String {
    let Some((_, first)) = cases.first() else { return String::new() };
    let mut body = format!("<h2>{}</h2><div class=\"grid2\">", plain(&first.site));
    let percents = "% of the site's GPUs";
    body.push_str(&chart(cases, "GPUs in use", percents, 100.0, |site| {
        scaled(&site.series.utilisation, 100.0)
    }));
    body.push_str(&chart(
        cases,
        "Fragmentation: free GPUs on nodes in use",
        percents,
        5.0,
        |site| scaled(&site.series.stranded, 100.0),
    ));
    if cases.iter().any(|(_, site)| site.jobs > 0) {
        let few = f64::from(first.gpus) / 10.0;
        body.push_str(&chart(
            cases,
            "Queue: GPUs that waiting jobs ask for",
            "GPUs",
            few,
            |site| site.series.queued_gpus.clone(),
        ));
        body.push_str(&chart(cases, "Spilled work, summed up", "GPU-hours", 1.0, |site| {
            summed(&site.series)
        }));
        let gangs = "95th percentile of waits by gang size (GPUs)";
        body.push_str(&waits(cases, gangs, |site| &site.wait_by_gang));
        let tenants = "95th percentile of waits by tenant (most GPU-hours first)";
        body.push_str(&waits(cases, tenants, |site| &site.wait_by_tenant));
    }
    body.push_str("</div>\n");
    body
}

fn scaled(values: &[f64], scale: f64) -> Vec<f64> {
    values.iter().map(|value| value * scale).collect()
}

fn summed(series: &Series) -> Vec<f64> {
    let step = series.step_s / super::HOUR;
    let mut sum = 0.0;
    let added = series.abroad_gpus.iter().map(|gpus| {
        sum += gpus * step;
        sum
    });
    added.collect()
}

fn chart(
    cases: &[(&str, &SiteReport)],
    title: &str,
    y_unit: &str,
    y_least: f64,
    values: fn(&SiteReport) -> Vec<f64>,
) -> String {
    let lines = cases
        .iter()
        .enumerate()
        .map(|(nth, (name, site))| over_time(site, name, colour(nth), false, &values(site), 1.0));
    Chart {
        title,
        x_unit: cases.first().map_or("", |(_, site)| time(site).0),
        y_unit,
        y_least,
        y_most: f64::INFINITY,
        bound: None,
        lines: lines.collect(),
    }
    .draw()
}

fn waits(
    cases: &[(&str, &SiteReport)],
    title: &str,
    pick: fn(&SiteReport) -> &Vec<Waits>,
) -> String {
    let mut names: Vec<&str> = Vec::new();
    for waits in cases.iter().flat_map(|(_, site)| pick(site)) {
        if !names.contains(&waits.of.as_str()) {
            names.push(&waits.of);
        }
    }
    let group = |name: &&str| {
        let of: Vec<Option<&Waits>> = cases
            .iter()
            .map(|(_, site)| pick(site).iter().find(|waits| waits.of == **name))
            .collect();
        let jobs = of.iter().flatten().next().map_or(0, |waits| waits.jobs);
        let noun = if jobs == 1 { "job" } else { "jobs" };
        let p95 = |waits: &Waits| waits.p95_s.map(|seconds| seconds as f64);
        Bars {
            name: format!("{} ({} {noun})", shortened(name), number(jobs as f64)),
            values: of.iter().map(|waits| waits.map_or(Some(0.0), p95)).collect(),
        }
    };
    let groups: Vec<Bars> = names.iter().map(group).collect();
    let legend: Vec<(u32, &str)> =
        cases.iter().enumerate().map(|(nth, (name, _))| (colour(nth), *name)).collect();
    bars(title, &legend, &groups, span)
}
