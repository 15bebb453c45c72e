//! The command line of the GPU agent.

use std::io::{self, IsTerminal, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use fabric_quic::env::{Clock, Env};
use fabric_quic::token::Token;
use gpu_agent_core::burn_in::Tier;
use gpu_agent_daemon::burn_in::{self, Outcome, Progress, Stop};
use gpu_agent_daemon::{Attribute, Declared, Flush, HealthOptions, Options, Topology, inventory};
use indicatif::{ProgressBar, ProgressStyle};
use specs::fault::{Fault, FaultCode};
use specs::unit::Millis;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};

/// Environment variable with the enrolment token.
const TOKEN_VARIABLE: &str = "SPILLWAY_ENROL_TOKEN";
/// Environment variable with the directory of the agent that a supervisor works for.
const DIRECTORY_VARIABLE: &str = "SPILLWAY_AGENT_DIR";
/// Threads that carry the agent's tasks. One that waits for a disk leaves enough others.
const WORKERS: usize = 4;
/// Longest token file that is read.
const TOKEN_BYTES_MAX: u64 = 64 * 1_024;

/// Runs on every node: says which GPUs it has, and runs what the controllers want.
#[derive(Parser)]
#[command(name = "gpu-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the agent. The first start needs a token, in SPILLWAY_ENROL_TOKEN or in a file.
    Run(Box<RunArgs>),
    /// Shows which GPUs this machine has.
    Inventory {
        #[command(flatten)]
        declare: DeclareArgs,
        #[arg(short, long, value_enum, default_value_t = Format::Table)]
        output: Format,
    },
    /// Makes GPUs work and says what is wrong with them. Exit code: 0 sound, 1 a fault was found,
    /// 2 wrong usage, 3 no GPU, 4 it could not be judged.
    BurnIn(BurnInArgs),
    /// Runs the training step on operands that a failing job dumped, twice on every SM, and says
    /// whether all agree, and on which digest. Exit codes are those of burn-in.
    Replay(ReplayArgs),
    /// Says which bars the reports in a folder meet, as `on-gpu.sh` leaves them.
    #[command(hide = true)]
    Bars {
        /// The folder.
        reports: PathBuf,
    },
    /// Runs one check for a burn-in, which calls this itself.
    #[command(hide = true)]
    Check,
    /// Tells an agent of the driver's events, which calls this itself.
    #[command(hide = true)]
    Listen {
        /// Ids of the GPUs.
        gpus: Vec<String>,
    },
    /// Runs one attempt for an agent, which calls this itself.
    #[command(hide = true)]
    Supervise,
}

#[derive(Args)]
struct RunArgs {
    /// Where the agent keeps its identity, its boot number and the output of tasks.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A file with the enrolment token; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    declare: DeclareArgs,
    /// Where other nodes of a gang reach this one; the host's name if left out.
    #[arg(long, value_name = "HOST")]
    address: Option<String>,
    /// Where the machine stands, each part of which may be left out; as said before if none is.
    #[arg(long, value_name = "hall=H,rack=R,domain=D")]
    topology: Option<Topology>,
    /// What jobs may ask nodes for; may be repeated; as said before if left out.
    #[arg(long = "attribute", value_name = "NAME=VALUE")]
    attributes: Vec<Attribute>,
    /// Where metrics are served, over HTTP.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))]
    metrics: SocketAddr,
    /// The UDP address of the agent's own connections.
    #[arg(long, value_name = "ADDR", default_value_t = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))]
    listen: SocketAddr,
    /// Where the kernel's messages are read, for events of the driver.
    #[arg(long, value_name = "FILE", default_value = "/dev/kmsg")]
    kernel_log: PathBuf,
    /// How long a burn-in for a proof keeps the units at work, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u32).range(..=3_600)
    )]
    burn_in_seconds: u32,
    /// How long a GPU is soaked before its first proof, and after a reset or a repair; 0 for the
    /// usual burn-in. One GPU of a node after the other.
    #[arg(
        long,
        value_name = "MINUTES",
        default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=1_440)
    )]
    soak_minutes: u32,
    /// How long nothing must have used a GPU before its idle moments are used for checks.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    idle_after_seconds: u64,
    /// A program that resets, called with `gpu`, `machine` or `power` and the GPU's id. Without one
    /// the agent says what an operator should do.
    #[arg(long, value_name = "PROGRAM")]
    reset_command: Option<PathBuf>,
    /// A file to which each change of a GPU's state is added, as a line in the form of NVSentinel's
    /// events.
    #[arg(long, value_name = "FILE")]
    health_events: Option<PathBuf>,
}

#[derive(Args)]
struct BurnInArgs {
    /// t0 reads counters, t1 is a gate of seconds, t2 the admission of a GPU, t3 repeats t2 for half
    /// an hour, t4 is one check of 2 s.
    #[arg(long, value_enum)]
    tier: TierArg,
    /// One GPU, as the driver numbers them; all if left out.
    #[arg(long, value_name = "INDEX")]
    gpu: Option<u16>,
    /// How long the units are kept at work, in seconds: 5 for t1, 60 for t2 and 2 for t4 if left
    /// out. For t3, how long it lasts: 1,800 if left out.
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(..=86_400))]
    seconds: Option<u32>,
    /// Which check t4 does; they take turns.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    turn: u32,
    /// What patterns are made from. Equal seeds give equal digests on equal GPUs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long one check may take beyond the time that it is kept at work, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    patience: u64,
    /// `health-events` are lines in the form of NVSentinel's events.
    #[arg(short, long, value_enum, default_value_t = ReportFormat::Table)]
    output: ReportFormat,
}

#[derive(Args)]
struct ReplayArgs {
    /// The operands; how such a file looks is in specs/gpu-health.md.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Writes an example to the file instead.
    #[arg(long, conflicts_with_all = ["gpu", "output", "patience"])]
    example: bool,
    /// One GPU, as the driver numbers them; all if left out.
    #[arg(long, value_name = "INDEX")]
    gpu: Option<u16>,
    /// How long it may take on one GPU, in seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 120,
        value_parser = clap::value_parser!(u64).range(1..=3_600)
    )]
    patience: u64,
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TierArg {
    T0,
    T1,
    T2,
    T3,
    T4,
}

#[derive(Args)]
struct DeclareArgs {
    /// GPUs to take for granted instead of asking the driver; may be repeated.
    #[arg(long, value_name = "CLASS:COUNT")]
    declare: Vec<Declared>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Json,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Table,
    Json,
    HealthEvents,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Inventory { declare, output } => show_inventory(&declare.declare, output),
        Command::BurnIn(args) => return exit_code(try_burn_in(&args)),
        Command::Replay(args) => return exit_code(try_replay(&args)),
        Command::Bars { reports } => return show_bars(&reports),
        Command::Check => burn_in::answer_stdin(),
        Command::Listen { gpus } => burn_in::listen(&gpus, &mut io::stdout().lock()),
        Command::Supervise => supervise(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            // Without standard error, the exit code has to do.
            let _ = gpu_agent_daemon::print_fault(&fault, &mut io::stderr());
            ExitCode::from(fault.code.exit_code())
        }
    }
}

fn run(args: RunArgs) -> Result<(), Fault> {
    let _flush = log()?;
    let options = Options {
        token: token(args.token_file.as_deref())?,
        directory: args.dir,
        declared: args.declare.declare,
        address: args.address,
        topology: args.topology,
        attributes: args.attributes,
        metrics: args.metrics,
        listen: args.listen,
        health: HealthOptions {
            kernel_log: args.kernel_log,
            burn_in_seconds: args.burn_in_seconds,
            soak_minutes: args.soak_minutes,
            idle_after: Millis(args.idle_after_seconds.saturating_mul(1_000)),
            reset_command: args.reset_command,
            events: args.health_events,
        },
    };
    let runtime = runtime()?;
    runtime.block_on(async {
        let shutdown = shutdown()?;
        Box::pin(gpu_agent_daemon::run(Env::system(), options, shutdown)).await
    })
}

fn runtime() -> Result<Runtime, Fault> {
    let built = Builder::new_multi_thread().worker_threads(WORKERS).enable_all().build();
    built.map_err(|error| internal("start a runtime", &error))
}

/// Ends at the first signal that asks the agent to end.
fn shutdown() -> Result<impl Future<Output = ()>, Fault> {
    let listen = |kind| signal(kind).map_err(|error| internal("listen to signals", &error));
    let (mut terminate, mut interrupt) =
        (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn log() -> Result<Flush, Fault> {
    gpu_agent_daemon::start_logging().map_err(|error| internal("start logging", &error))
}

fn token(file: Option<&Path>) -> Result<Option<Token>, Fault> {
    let text = match (file, std::env::var(TOKEN_VARIABLE)) {
        (Some(path), _) => read_token(path)?,
        (None, Ok(text)) if !text.trim().is_empty() => text,
        (None, _) => return Ok(None),
    };
    gpu_agent_daemon::parse_token(&text).map(Some)
}

fn read_token(path: &Path) -> Result<String, Fault> {
    let mut text = String::new();
    let read = if path == Path::new("-") {
        io::stdin().take(TOKEN_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(TOKEN_BYTES_MAX).read_to_string(&mut text))
    };
    read.map_err(|error| {
        let message = format!("cannot read the token from {}: {error}", path.display());
        Fault::new(FaultCode::InvalidArgument, message)
    })?;
    Ok(text)
}

fn show_inventory(declared: &[Declared], output: Format) -> Result<(), Fault> {
    let _flush = log()?;
    let gpus = inventory::find(declared)?;
    let mut out = io::stdout().lock();
    let written = match output {
        Format::Table => inventory::write_table(&gpus, &mut out),
        Format::Json => inventory::write_json(&gpus, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        // Whoever read it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| internal("write", &error)),
    }
}

fn exit_code(outcome: Result<Outcome, Fault>) -> ExitCode {
    match outcome {
        Ok(outcome) => ExitCode::from(outcome as u8),
        Err(fault) => {
            let _ = gpu_agent_daemon::print_fault(&fault, &mut io::stderr());
            let is_usage = fault.code == FaultCode::InvalidArgument;
            let is_absent = fault.code == FaultCode::NotFound;
            let outcome = if is_absent { Outcome::NoGpu } else { Outcome::Unknown };
            if is_usage { ExitCode::from(2) } else { ExitCode::from(outcome as u8) }
        }
    }
}

fn try_burn_in(args: &BurnInArgs) -> Result<Outcome, Fault> {
    let tier = match args.tier {
        TierArg::T0 => Tier::T0,
        TierArg::T1 => Tier::T1,
        TierArg::T2 => Tier::T2,
        TierArg::T3 => Tier::T3,
        TierArg::T4 => Tier::T4,
    };
    let soak = u32::try_from(tier.budget().0 / 1_000).unwrap_or(u32::MAX);
    let usual = if tier == Tier::T3 { soak } else { tier.work_seconds() };
    let options = burn_in::Options {
        tier,
        gpu: args.gpu,
        uuid: None,
        seconds: args.seconds.unwrap_or(usual),
        seed: args.seed,
        first: None,
        patience: Duration::from_secs(args.patience),
        turn: args.turn,
        peers: true,
        stop: Stop::never(),
        clock: Env::system().clock,
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("start a runtime", &error))?;
    let mut meter = Meter::new(args.output);
    let done = runtime.block_on(burn_in::run(&options, &mut |it| meter.show(it)));
    meter.end();
    let Some(report) = done? else {
        return Err(Fault::new(FaultCode::Internal, "the burn-in was stopped"));
    };
    let mut out = io::stdout().lock();
    let written = match args.output {
        ReportFormat::Table => burn_in::write_text(&report, &mut out),
        ReportFormat::Json => burn_in::write_json(&report, &mut out),
        ReportFormat::HealthEvents => {
            let (node, at) = (host_name(), Env::system().clock.wall());
            burn_in::write_events(&report, &node, at, &mut out)
        }
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(internal("write", &error)),
        _ => Ok(Outcome::of(&report)),
    }
}

/// Shows how far a burn-in is: a bar on a terminal, lines elsewhere, nothing beside a report for
/// programs.
struct Meter {
    format: ReportFormat,
    bar: Option<ProgressBar>,
}

impl Meter {
    fn new(format: ReportFormat) -> Self {
        let is_watched = format == ReportFormat::Table && io::stderr().is_terminal();
        let style =
            ProgressStyle::with_template("[{elapsed_precise}] {bar:30} {percent:>3} %  {msg}");
        let bar = is_watched.then(|| ProgressBar::new(1_000));
        let bar = bar.map(|bar| match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        });
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Self { format, bar }
    }

    fn show(&mut self, it: Progress) {
        let text = format!("GPU {}: {}", it.gpu, it.check);
        match &self.bar {
            Some(bar) => {
                bar.set_message(text);
                bar.set_position(it.done_permille);
            }
            None if self.format == ReportFormat::Table => {
                // Whoever does not read it misses nothing.
                let _ = writeln!(io::stderr(), "{text}");
            }
            None => {}
        }
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn try_replay(args: &ReplayArgs) -> Result<Outcome, Fault> {
    let bad = |action: &str, error: &io::Error| {
        let message = format!("cannot {action} {}: {error}", args.file.display());
        Fault::new(FaultCode::InvalidArgument, message)
    };
    if args.example {
        let written = std::fs::File::create_new(&args.file)
            .and_then(|mut file| file.write_all(&burn_in::example(1)));
        return written.map(|()| Outcome::Pass).map_err(|error| bad("write", &error));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&args.file).map_err(|error| bad("read", &error))?;
    // One byte more than the longest, so that a longer one is told apart.
    let read = file.take(burn_in::DUMP_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| bad("read", &error))?;
    let patience = Duration::from_secs(args.patience);
    let options = burn_in::ReplayOptions { gpu: args.gpu, patience };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("start a runtime", &error))?;
    let name = args.file.display().to_string();
    let report = runtime.block_on(burn_in::replay(&options, &name, bytes))?;
    let mut out = io::stdout().lock();
    let written = match args.output {
        Format::Table => burn_in::write_replay_text(&report, &mut out),
        Format::Json => burn_in::write_replay_json(&report, &mut out),
    };
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(internal("write", &error)),
        _ => Ok(report.outcome()),
    }
}

fn show_bars(reports: &Path) -> ExitCode {
    match gpu_agent_daemon::bars::judge(reports, &mut io::stdout().lock()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn supervise() -> Result<(), Fault> {
    let directory = std::env::var_os(DIRECTORY_VARIABLE).ok_or_else(|| {
        Fault::new(FaultCode::InvalidArgument, "a supervisor is started by an agent alone")
    })?;
    // A signal that is meant for the agent must not end those who watch over its attempts: they
    // end when it does. A handler is in place of the default as long as this runtime lives.
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| internal("start a runtime", &error))?;
    let _entered = runtime.enter();
    let kinds = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
    let handlers: Result<Vec<_>, _> = kinds.into_iter().map(signal).collect();
    let _handlers = handlers.map_err(|error| internal("listen to signals", &error))?;
    let socket = io::stdin().as_fd().try_clone_to_owned();
    let socket = socket.map_err(|error| internal("take the socket", &error))?;
    let clock: Arc<dyn Clock> = Env::system().clock;
    gpu_agent_daemon::supervise(clock, directory.into(), socket)
        .map_err(|error| internal("supervise an attempt", &error))
}

fn internal(action: &str, error: &dyn std::error::Error) -> Fault {
    Fault::new(FaultCode::Internal, format!("cannot {action}: {error}"))
}
