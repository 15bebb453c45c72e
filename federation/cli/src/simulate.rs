//! `federation simulate`: what if, with the decisions of the core in virtual time.

mod args;
mod lines;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use federation_replay::simulate::compare::{CaseReport, Comparison, compare};
use federation_replay::simulate::file::{self, Case, FileError, Simulation, read_file};
use federation_replay::simulate::html;
use federation_replay::simulate::prices::{Prices, read_prices};
use federation_replay::simulate::sweep::{SweepReport, sweep};
use federation_replay::simulate::{
    Policy, Report, Scenario, SimulateError, SiteReport, SiteSetup, Source, simulate,
};
use federation_replay::trace::{Needs, read_jobs};
use serde_json::Value;
use specs::fault::FaultCode;
use specs::id::SiteId;

use crate::app::App;
use crate::args::Format;
use crate::error::{Failure, Outcome};
use crate::output::{line, note};
use crate::replay::{Bar, unread};
pub(crate) use crate::simulate::args::SimulateArgs;
use crate::simulate::lines::{CaseLine, GangLine, SiteLine, TrialLine};

const KIND: &str = "Simulation";

pub(crate) fn run(app: &App, args: &SimulateArgs) -> Outcome<()> {
    if args.schema {
        return line(&file::schema(), "");
    }
    let mut bar = Bar::new();
    let simulation = match &args.scenario {
        Some(path) => read_file(path, &mut bar).map_err(|error| unfit(path, error))?,
        None => {
            let case = Case { name: "as set".to_owned(), scenario: flags(args, &mut bar)? };
            Simulation { name: "Simulation".to_owned(), cases: vec![case], html: None }
        }
    };
    let page = args.html.as_deref().or(simulation.html.as_deref());
    match (&args.sweep, simulation.cases.as_slice()) {
        (Some(what), [case]) => {
            let report = sweep(&case.scenario, what, args.until.as_ref(), &mut bar);
            bar.end();
            let report = report.map_err(impossible)?;
            put_page(page, || html::sweep_page(&report))?;
            tell_sweep(app, args, report)
        }
        (Some(_), _) => Err(Failure::usage("a sweep is over one case; the scenario has several")
            .with_hint("take the list `compare` out of the scenario")),
        (None, [case]) => {
            let report = simulate(&case.scenario, &mut bar);
            bar.end();
            let report = report.map_err(impossible)?;
            put_page(page, || html::page(&report))?;
            tell(app, args, &report)
        }
        (None, _) => {
            let report = compare(&simulation, &mut bar);
            bar.end();
            let report = report.map_err(impossible)?;
            put_page(page, || html::compare_page(&report))?;
            tell_cases(app, args, report)
        }
    }
}

/// The scenario that the flags describe.
fn flags(args: &SimulateArgs, bar: &mut Bar) -> Outcome<Scenario> {
    let sources = args.jobs.iter().map(|text| {
        let mut source = source(text, &args.site, bar)?;
        source.pick.of = args.cluster.iter().cloned().collect();
        (source.pick.from, source.pick.to) = (args.from, args.to);
        Ok(source)
    });
    Ok(Scenario {
        sources: sources.collect::<Outcome<Vec<Source>>>()?,
        sites: args.site.clone(),
        load: args.load_scale.clone(),
        shift: args.time_shift.clone(),
        policy: Policy {
            spill_after: (!args.no_spill).then_some(args.spill_after),
            ..Policy::default()
        },
        look: args.look,
        prices: prices(args, bar)?,
        seed: args.seed,
    })
}

fn unfit(path: &Path, error: FileError) -> Failure {
    match error {
        FileError::Io { source, .. } if source.kind() == ErrorKind::NotFound => {
            Failure::file("read", path, &source)
        }
        FileError::Io { source, .. } => {
            Failure::usage(format!("cannot read {}: {source}", path.display()))
        }
        FileError::Form(error) => error.into(),
    }
}

/// `FILE`, or `SITE=FILE` if there is such a site.
fn source(text: &str, sites: &[SiteSetup], bar: &mut Bar) -> Outcome<Source> {
    let named = text.split_once('=').and_then(|(site, path)| {
        let site: SiteId = site.parse().ok()?;
        sites.iter().any(|it| it.name == site).then_some((site, path))
    });
    let first = sites.first().map(|site| (site.name.clone(), text));
    let (home, path) =
        named.or(first).ok_or_else(|| Failure::usage("there is no site; name one with --site"))?;
    let rows = read_jobs(Path::new(path), Needs::Times, bar).map_err(unread)?;
    Ok(Source::new(home, path, Arc::new(rows)))
}

fn prices(args: &SimulateArgs, bar: &mut Bar) -> Outcome<Option<Prices>> {
    let read = |path| read_prices(path, args.watts_per_gpu, bar).map_err(unread);
    args.prices.as_deref().map(read).transpose()
}

fn impossible(error: SimulateError) -> Failure {
    Failure::new(code_of(&error), error.to_string())
}

fn code_of(error: &SimulateError) -> FaultCode {
    match error {
        SimulateError::Broken { .. } | SimulateError::Internal(_) | SimulateError::Refused(_) => {
            FaultCode::Internal
        }
        SimulateError::Case { fault, .. } => code_of(fault),
        SimulateError::Row { .. }
        | SimulateError::Sites { .. }
        | SimulateError::Repeated { .. }
        | SimulateError::NoSite { .. }
        | SimulateError::NoJobs
        | SimulateError::Nodes { .. }
        | SimulateError::Range { .. }
        | SimulateError::Load { .. } => FaultCode::InvalidArgument,
    }
}

/// Writes the page, if one is wanted.
fn put_page(path: Option<&Path>, page: impl FnOnce() -> String) -> Outcome<()> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, page()).map_err(|error| Failure::file("write", path, &error))
}

fn tell(app: &App, args: &SimulateArgs, report: &Report) -> Outcome<()> {
    notes(report);
    let output = app.output(args.format);
    if args.format.format == Format::Json {
        return output.document(KIND, document(report)?);
    }
    let sites: Vec<SiteLine> = report.sites.iter().map(SiteLine).collect();
    output.list(&sites, None)?;
    if args.format.format == Format::Table {
        let of_site = |site: &SiteReport| {
            let gangs = site.wait_by_gang.clone().into_iter();
            let name = site.site.clone();
            gangs.map(move |waits| GangLine { site: name.clone(), waits })
        };
        let gangs: Vec<GangLine> = report.sites.iter().flat_map(of_site).collect();
        line("", "\n")?;
        output.list(&gangs, None)?;
        energy("", report);
    }
    Ok(())
}

/// What electricity came to, on a line of its own for each site with prices.
fn energy(prefix: &str, report: &Report) {
    for site in &report.sites {
        let Some(energy) = &site.energy else { continue };
        let carbon =
            energy.co2_kg.map_or(String::new(), |kg| format!(", {:.1} t CO2", kg / 1_000.0));
        let (mwh, eur) = (energy.kwh / 1_000.0, energy.eur);
        note(&format!("{prefix}{}: {mwh:.1} MWh, {eur:.0} EUR{carbon}", site.site));
    }
}

fn tell_sweep(app: &App, args: &SimulateArgs, mut report: SweepReport) -> Outcome<()> {
    if let Some(trial) = report.trials.first() {
        notes(&trial.report);
    }
    let output = app.output(args.format);
    if args.format.format == Format::Json {
        report.trials.iter_mut().for_each(|trial| trial.report.forget_series());
        output.document("SimulationSweep", document(&report)?)?;
    } else {
        let lines = report
            .trials
            .iter()
            .flat_map(|trial| trial.report.sites.iter().map(move |site| TrialLine { trial, site }));
        let lines: Vec<TrialLine> = lines.filter(|line| line.site.jobs > 0).collect();
        output.list(&lines, None)?;
    }
    if let Some(told) = report.told() {
        note(&told);
    } else if report.searched {
        note("without --until only both ends of a range are tried");
    }
    let answers = report.trials.iter().find(|trial| Some(&trial.value) == report.answer.as_ref());
    if let Some(trial) = answers.filter(|_| args.format.format == Format::Table) {
        energy(&format!("{} = {}: ", report.varied, trial.value), &trial.report);
    }
    Ok(())
}

fn tell_cases(app: &App, args: &SimulateArgs, report: Comparison) -> Outcome<()> {
    let output = app.output(args.format);
    if args.format.format == Format::Json {
        return output.document("SimulationComparison", document(&report)?);
    }
    for CaseReport { case, report } in &report.cases {
        for told in notes_of(report) {
            note(&format!("{case}: {told}"));
        }
    }
    let lines: Vec<CaseLine> = report
        .cases
        .iter()
        .flat_map(|case| case.report.sites.iter().map(move |site| CaseLine { case, site }))
        .collect();
    output.list(&lines, None)?;
    for CaseReport { case, report } in &report.cases {
        energy(&format!("{case}: "), report);
    }
    Ok(())
}

fn document(report: &impl serde::Serialize) -> Outcome<Value> {
    serde_json::to_value(report).map_err(|error| {
        Failure::new(FaultCode::Internal, format!("cannot write the report: {error}"))
    })
}

/// What is not as the files say.
fn notes_of(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    if report.rows_without_gpus > 0 {
        notes.push(format!("{} rows need no GPU and were left out", report.rows_without_gpus));
    }
    if report.rounded_gangs > 0 {
        notes.push(format!(
            "{} gangs do not fill their nodes alike and ask for a GPU or more besides",
            report.rounded_gangs
        ));
    }
    for site in report.sites.iter().filter(|site| site.never_started > 0) {
        notes.push(format!(
            "{} jobs of {} never started: nobody lets them in",
            site.never_started, site.site
        ));
    }
    notes
}

fn notes(report: &Report) {
    notes_of(report).iter().for_each(|told| note(told));
}
