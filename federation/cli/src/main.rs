//! The `federation` command: runs controllers, and asks them.
//!
//! ```text
//!   args ──▶ main ──▶ one function for each subcommand ──▶ client ──▶ any controller of a site
//!                │                                                       │
//!                └──▶ init, serve: the controller library       output ◀─┘ stdout: data; stderr: words
//! ```
//!
//! # Invariants
//! * Stdout holds data only; every word for people goes to stderr.
//! * A request that is repeated keeps its id, so that it takes effect once.
//! * An outcome that is not known is told as unknown, with an exit code of its own.
//! * Environment, clock and chance are made here and handed down.

mod app;
mod args;
mod backup;
mod burn_in;
mod client;
mod context;
mod controller;
mod demo;
mod doctor;
mod error;
mod gpu;
mod job;
mod logs;
mod node;
mod output;
mod quota;
mod replay;
mod reservation;
mod signals;
mod simulate;
mod site;
mod submit;
mod upgrade;

use std::env;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use fabric_quic::env::Env;
use serde_json::json;
use specs::fault::FaultCode;
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::args::{Cli, Command, Format, FormatArgs};
use crate::error::{Failure, Outcome};
use crate::output::Terminal;

/// A controller's agreed state is many small pieces, made by one thread and dropped by others.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is logged, in the words of `tracing-subscriber`.
const LOG_VARIABLE: &str = "SPILLWAY_LOG";

fn main() -> ExitCode {
    let Cli { global, command } = Cli::parse();
    let is_stdout = io::stdout().is_terminal();
    let has_no_color = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_coloured = is_stdout && !has_no_color;
    let terminal = Terminal { is_stdout, is_stderr: io::stderr().is_terminal(), is_coloured };
    let home = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(Into::into);
    let app = App::new(Env::system(), global, terminal, home("XDG_CONFIG_HOME"), home("HOME"));
    start_log(&command);
    match start(&app, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::failure(&failure, terminal);
            ExitCode::from(failure.exit_code())
        }
    }
}

/// What a controller logs: openraft speaks of every heartbeat that a dead member misses.
const SERVE_LOG: &str = "info,openraft=error";

/// A controller logs by itself; other commands only when they are told to.
fn start_log(command: &Command) {
    let default = if matches!(command, Command::Serve(_)) { SERVE_LOG } else { "off" };
    let said = env::var(LOG_VARIABLE).unwrap_or_else(|_| default.to_owned());
    let filter = EnvFilter::try_new(said).unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    log.with_ansi(io::stderr().is_terminal()).init();
}

fn start(app: &App, command: Command) -> Outcome<()> {
    let runtime = federation_controller::runtime().map_err(|error| {
        Failure::new(FaultCode::Internal, format!("cannot start the runtime: {error}"))
    })?;
    let outcome = runtime.block_on(Box::pin(run(app, command)));
    // A thread that reads stdin must not hold up the end.
    runtime.shutdown_background();
    outcome
}

async fn run(app: &App, command: Command) -> Outcome<()> {
    match command {
        Command::Demo(args) => Box::pin(demo::run(app, args)).await,
        Command::Bench(args) => Box::pin(demo::measure(app, args)).await,
        Command::Init(args) => controller::init(app, *args),
        Command::Serve(args) => controller::serve(app, args).await,
        Command::Controller(command) => controller::run(app, command).await,
        Command::Backup(args) => Box::pin(backup::run(app, args)).await,
        Command::Restore(args) => Box::pin(backup::restore(app, *args)).await,
        Command::Doctor(args) => doctor::run(app, args).await,
        Command::Upgrade(command) => upgrade::run(app, command).await,
        Command::Invite(args) => site::invite(app, args).await,
        Command::Join(args) => site::join(app, args).await,
        Command::Site(command) => site::run(app, command).await,
        Command::Node(command) => node::run(app, command).await,
        Command::Gpu(command) => gpu::run(app, command).await,
        Command::Capacity(format) => site::capacity(app, format).await,
        Command::Grant(command) => site::grants(app, command).await,
        Command::Loan(command) => site::loans(app, command).await,
        Command::Quota(command) => quota::run(app, command).await,
        Command::Reservation(command) => reservation::run(app, command).await,
        Command::Job(command) => job::run(app, command).await,
        Command::Simulate(args) => simulate::run(app, &args),
        Command::Replay(command) => replay::run(app, command),
        Command::Context(command) => context::run(app, command),
        Command::Completion { shell } => completion(shell),
        Command::Version(format) => version(app, format),
    }
}

fn completion(shell: clap_complete::Shell) -> Outcome<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "federation", &mut script);
    output::bytes(&script)
}

fn version(app: &App, format: FormatArgs) -> Outcome<()> {
    let version = env!("CARGO_PKG_VERSION");
    let output = app.output(format);
    match output.format() {
        Format::Json => output.document("Version", json!({ "version": version })),
        Format::Table => output::line(&format!("federation {version}"), "\n"),
        Format::Name => output::line(version, "\n"),
    }
}
