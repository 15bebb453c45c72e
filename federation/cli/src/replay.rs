//! `federation replay`: published scheduling protocols on trace files.

mod args;

use std::io::{self, IsTerminal};
use std::path::Path;

use federation_replay::fgd::cluster::{Cluster, ClusterError};
use federation_replay::read::{Progress, ReadError};
use federation_replay::trace::{JobRow, Needs, read_jobs, read_nodes};
use federation_replay::{fgd, queue, spill};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use specs::fault::FaultCode;
use specs::unit::Timestamp;

use crate::app::App;
use crate::args::{Format, FormatArgs};
use crate::error::{Failure, Outcome, chain};
use crate::output::{Item, Listed, note};
pub(crate) use crate::replay::args::ReplayCommand;
use crate::replay::args::{FgdArgs, QueueArgs, SpillArgs};

const SECONDS: f64 = 1_000.0;

pub(crate) fn run(app: &App, command: ReplayCommand) -> Outcome<()> {
    match command {
        ReplayCommand::Fgd(args) => placement(app, &args),
        ReplayCommand::Queue(args) => queueing(app, &args),
        ReplayCommand::Spill(args) => spilling(app, &args),
    }
}

fn placement(app: &App, args: &FgdArgs) -> Outcome<()> {
    let mut bar = Bar::new();
    let nodes = read_nodes(&args.nodes, &mut bar).map_err(unread)?;
    let pods = read_jobs(&args.pods, Needs::Shapes, &mut bar).map_err(unread)?;
    let cluster = Cluster::of(&nodes, &pods).map_err(|error| {
        let path = if error == ClusterError::NoGpus { &args.nodes } else { &args.pods };
        wrong(path, error.line(), &error.to_string())
    })?;
    if cluster.is_list_wrong {
        note(&format!(
            "{}: `in_gpu_node_list` names nodes without GPUs; all {} nodes with GPUs are used",
            args.nodes.display(),
            cluster.nodes.len()
        ));
    }
    let policies = args.policies();
    let report = fgd::replay(&cluster, &policies, &args.seeds.0, &mut bar);
    bar.end();
    let rows = policies.iter().filter_map(|policy| {
        let mean = report.mean.get(policy.name())?;
        let at = |percent: &str| told(mean.get(percent).copied().unwrap_or(f64::NAN), 2);
        let deviation = report.deviation.get(policy.name()).copied().unwrap_or_default();
        let cells = vec![at("90"), at("95"), at("100"), at("130"), told(deviation, 2)];
        Some(Row { name: policy.name(), cells })
    });
    print::<Placement>(app, args.format, "FgdReplay", &report, rows.collect())
}

fn queueing(app: &App, args: &QueueArgs) -> Outcome<()> {
    let mut bar = Bar::new();
    let jobs = read_jobs(&args.jobs, Needs::Times, &mut bar).map_err(unread)?;
    let question = queue::Question {
        cluster: args.cluster.as_deref(),
        nodes: args.nodes,
        gpus_per_node: args.gpus_per_node,
        from: args.from,
        to: args.to,
    };
    let report = queue::replay(&jobs, &question, &args.policies(), &mut bar);
    bar.end();
    let report = report.map_err(|error| wrong(&args.jobs, error.line(), &error.to_string()))?;
    let rows = report.results.iter().map(|result| Row {
        name: result.policy,
        cells: vec![
            result.jobs.to_string(),
            told(result.mean_jct_s, 0),
            told(result.mean_queue_s, 0),
            result.p95_queue_s.to_string(),
            result.longest_wait_s.to_string(),
            result.evictions.to_string(),
            yes(result.knows_durations),
        ],
    });
    let rows = rows.collect();
    print::<Queueing>(app, args.format, "QueueReplay", &report, rows)
}

fn spilling(app: &App, args: &SpillArgs) -> Outcome<()> {
    let mut bar = Bar::new();
    let jobs: Vec<JobRow> = read_jobs(&args.jobs, Needs::Times, &mut bar).map_err(unread)?;
    let question = spill::Question {
        recipe: args.scenario.into(),
        load: args.load,
        home_gpus: args.home,
        remote_gpus: args.remote,
        gpus_per_node: args.gpus_per_node,
        remote_load: args.remote_load,
        wait_budget: args.wait_budget.map(|budget| budget.0 as f64 / SECONDS),
        transfer: args.transfer.0 / 1_000,
        patience_max: args.patience_max.0 / 1_000,
        seed: args.seed,
    };
    let report = spill::replay(&jobs, &question, &args.policies(), &mut bar);
    bar.end();
    let report = report.map_err(|error| wrong(&args.jobs, error.line(), &error.to_string()))?;
    let rows = report.results.iter().map(|result| Row {
        name: result.policy,
        cells: vec![
            told(result.mean_wait_s, 0),
            told(result.remote_gpu_hours, 0),
            told(result.home_utilisation, 4),
            told(result.mean_jct_s, 0),
            result.longest_first_wait_s.to_string(),
            result.longest_wait_s.to_string(),
            result.spilled_jobs.to_string(),
            told(result.wrong_way_percent, 2),
            yes(result.knows_durations),
        ],
    });
    let rows = rows.collect();
    print::<Spilling>(app, args.format, "SpillReplay", &report, rows)
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

fn told(value: f64, decimals: usize) -> String {
    if value.is_finite() { format!("{value:.decimals$}") } else { "-".to_owned() }
}

/// Bad content is bad usage; a file that is not there is not found.
pub(crate) fn unread(error: ReadError) -> Failure {
    let code = if error.is_missing() { FaultCode::NotFound } else { FaultCode::InvalidArgument };
    Failure::new(code, chain(&error))
}

/// Rows that are well formed, and yet of no use here.
fn wrong(path: &Path, line: Option<u64>, reason: &str) -> Failure {
    let line = line.map(|line| format!(":{line}")).unwrap_or_default();
    Failure::usage(format!("{}{line}: {reason}", path.display()))
}

/// What one policy did, as a line of a table.
struct Row {
    name: &'static str,
    cells: Vec<String>,
}

/// The columns of one protocol.
trait Columns {
    const HEADERS: &'static [&'static str];
}

struct Placement;
struct Queueing;
struct Spilling;

impl Columns for Placement {
    const HEADERS: &'static [&'static str] =
        &["POLICY", "AT 90 %", "AT 95 %", "AT 100 %", "AT 130 %", "DEVIATION"];
}

impl Columns for Queueing {
    const HEADERS: &'static [&'static str] = &[
        "POLICY",
        "JOBS",
        "MEAN JCT",
        "MEAN QUEUE",
        "P95 QUEUE",
        "LONGEST WAIT",
        "EVICTIONS",
        "TOLD DURATIONS",
    ];
}

impl Columns for Spilling {
    const HEADERS: &'static [&'static str] = &[
        "POLICY",
        "MEAN WAIT",
        "REMOTE GPU-H",
        "HOME USE",
        "MEAN JCT",
        "LONGEST FIRST WAIT",
        "LONGEST WAIT",
        "SPILLED",
        "WRONG WAY %",
        "TOLD DURATIONS",
    ];
}

struct Line<C>(Row, std::marker::PhantomData<C>);

impl<C: Columns> Listed for Line<C> {
    const KIND: &'static str = "Replay";
    const HEADERS: &'static [&'static str] = C::HEADERS;

    fn row(&self, _: Timestamp) -> Vec<Item> {
        let cells = self.0.cells.iter().map(Item::of);
        std::iter::once(Item::of(self.0.name)).chain(cells).collect()
    }

    fn name(&self) -> String {
        self.0.name.to_owned()
    }

    fn json(&self) -> Value {
        json!({ "policy": self.0.name })
    }
}

fn print<C: Columns>(
    app: &App,
    format: FormatArgs,
    kind: &str,
    report: &impl Serialize,
    rows: Vec<Row>,
) -> Outcome<()> {
    let output = app.output(format);
    if format.format == Format::Json {
        let body = serde_json::to_value(report).map_err(|error| {
            Failure::new(FaultCode::Internal, format!("cannot write the report: {error}"))
        })?;
        return output.document(kind, body);
    }
    let lines: Vec<Line<C>> =
        rows.into_iter().map(|row| Line(row, std::marker::PhantomData)).collect();
    output.list(&lines, None)
}

/// Says on a terminal how far it is.
pub(crate) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(crate) fn new() -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        let bar = ProgressBar::new(1);
        if let Ok(style) = ProgressStyle::with_template("{msg:>16} {wide_bar} {percent:>3} %") {
            bar.set_style(style);
        }
        Self(Some(bar))
    }

    pub(crate) fn end(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Bar {
    fn read(&mut self, bytes: u64, of: u64) {
        self.step("reading", bytes, of);
    }

    fn step(&mut self, what: &str, done: u64, of: u64) {
        if let Some(bar) = &self.0 {
            bar.set_message(what.to_owned());
            bar.set_length(of.max(1));
            bar.set_position(done);
        }
    }
}
