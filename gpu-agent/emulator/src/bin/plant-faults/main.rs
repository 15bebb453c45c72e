//! Plants faults in emulated GPUs, lets the real agent burn them in, and counts what it finds.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use gpu_agent_emulator::control::VARIABLE;
use gpu_agent_emulator::fault::Fault;
use gpu_agent_emulator::plant::{self, Chance, KINDS, SOAK_KINDS};
use serde::Serialize;
use serde_json::Value;

/// Plants faults in emulated GPUs and counts what the agent's T2 finds of them; of kinds that only a
/// soak finds, its T3.
#[derive(Parser)]
#[command(name = "plant-faults", version)]
struct Cli {
    /// Faults to plant; kinds take turns.
    #[arg(long, default_value_t = 17)]
    count: usize,
    /// Sound GPUs beside them; a fifth of the faults if left out.
    #[arg(long)]
    clean: Option<usize>,
    /// Equal seeds plant equal faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One kind only. Those that only a soak finds are planted if they are named.
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(
        KINDS.into_iter().chain(SOAK_KINDS)
    ))]
    kind: Option<String>,
    /// The agent; beside this program if left out.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// How many agents run at a time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// How long the agent waits for a kernel that never ends, and for one that may be slow.
const SHORT_SECONDS: &str = "8";
const LONG_SECONDS: &str = "300";
/// A soak's rounds leave memory alone for one second in thirty.
const SOAK_SECONDS: &str = "30";

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
struct Count {
    planted: usize,
    found: usize,
    located: usize,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Tally {
    #[serde(flatten)]
    all: Count,
    clean_runs: usize,
    false_alarms: usize,
    by_kind: BTreeMap<String, Count>,
}

/// One GPU to burn in.
struct Case {
    /// Empty if it is sound.
    kind: String,
    faults: Vec<Fault>,
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Without standard error, the exit code has to do.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// True if everything was found and located, and nothing else.
fn run(cli: &Cli) -> Result<bool> {
    let agent = agent(cli)?;
    let library = gpu_agent_emulator::library()
        .context("libgpu_agent_emulator.so is not beside this program: build gpu-agent-emulator")?;
    let work = std::env::temp_dir().join(format!("plant-faults-{}", std::process::id()));
    gpu_agent_emulator::stage(&library, &work.join("lib"))
        .with_context(|| format!("cannot make {}", work.display()))?;
    let cases = cases(cli);
    let tally = Mutex::new(Tally::default());
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..cli.jobs {
            scope.spawn(|| {
                while let Some((nth, case)) = take(&next, &cases) {
                    let report = burn_in(&agent, &work, nth, case);
                    note(&tally, case, report);
                }
            });
        }
    });
    std::fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))?;
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    print(&tally, cli.output)?;
    let is_all = tally.all.planted == tally.all.found && tally.all.found == tally.all.located;
    Ok(is_all && tally.false_alarms == 0)
}

fn agent(cli: &Cli) -> Result<PathBuf> {
    if let Some(path) = &cli.agent {
        return Ok(path.clone());
    }
    let here = std::env::current_exe().context("cannot say where this program is")?;
    let path = here.with_file_name("gpu-agent");
    if !path.exists() {
        bail!("{} is not there: build gpu-agent-daemon, or name it with --agent", path.display());
    }
    Ok(path)
}

fn cases(cli: &Cli) -> Vec<Case> {
    let mut chance = Chance::new(cli.seed);
    let mut cases = Vec::new();
    for nth in 0..cli.count {
        let kind = cli.kind.as_deref().unwrap_or(KINDS[nth % KINDS.len()]);
        let faults = plant::plant(kind, &mut chance).into_iter().collect();
        cases.push(Case { kind: kind.to_owned(), faults, seed: chance.draw() >> 16 });
    }
    for _ in 0..cli.clean.unwrap_or(cli.count.div_ceil(5)) {
        let faults = plant::harmless(&mut chance);
        cases.push(Case { kind: String::new(), faults, seed: chance.draw() >> 16 });
    }
    cases
}

fn take<'a>(next: &AtomicUsize, cases: &'a [Case]) -> Option<(usize, &'a Case)> {
    let nth = next.fetch_add(1, Ordering::Relaxed);
    cases.get(nth).map(|case| (nth, case))
}

/// The report, and the exit code.
fn burn_in(agent: &Path, work: &Path, nth: usize, case: &Case) -> Result<(Value, i32)> {
    let control = work.join(format!("{nth}.toml"));
    let text = toml::to_string(&plant::control(case.faults.clone()))?;
    std::fs::write(&control, text).with_context(|| format!("write {}", control.display()))?;
    let patience = if case.kind == "hang" { SHORT_SECONDS } else { LONG_SECONDS };
    let is_soak = SOAK_KINDS.contains(&case.kind.as_str());
    let (tier, seconds) = if is_soak { ("t3", SOAK_SECONDS) } else { ("t2", "0") };
    let mut command = Command::new(agent);
    command
        .args(["burn-in", "--tier", tier, "--seconds", seconds, "-o", "json"])
        .args(["--patience", patience, "--seed", &case.seed.to_string()])
        .env("LD_LIBRARY_PATH", work.join("lib"))
        .env(VARIABLE, &control)
        .stdin(Stdio::null())
        .stderr(Stdio::null());
    let done = command.output().with_context(|| format!("cannot start {}", agent.display()))?;
    let report = serde_json::from_slice(&done.stdout).context("the agent gives no report")?;
    Ok((report, done.status.code().unwrap_or(-1)))
}

fn note(tally: &Mutex<Tally>, case: &Case, report: Result<(Value, i32)>) {
    let mut tally = tally.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let tell = |what: &str, report: &dyn std::fmt::Debug| {
        let (faults, seed) = (&case.faults, case.seed);
        // Whoever does not read it still has the counts.
        let _ = writeln!(io::stderr(), "{what}: {faults:?}, seed {seed}: {report:?}");
    };
    let (report, code) = match report {
        Ok(it) => it,
        Err(error) => {
            tell("no report", &error);
            (Value::Null, -1)
        }
    };
    let findings = &report["gpus"][0]["findings"];
    let Some(fault) = case.faults.first().filter(|_| !case.kind.is_empty()) else {
        tally.clean_runs += 1;
        if code != 0 {
            tally.false_alarms += 1;
            tell("false alarm", findings);
        }
        return;
    };
    let judged = plant::judge(&report, fault);
    let is_found = judged.is_found && code == 1;
    if !is_found || !judged.is_located {
        tell(if is_found { "not located" } else { "not found" }, findings);
    }
    let Tally { all, by_kind, .. } = &mut *tally;
    for count in [all, by_kind.entry(case.kind.clone()).or_default()] {
        count.planted += 1;
        count.found += usize::from(is_found);
        count.located += usize::from(is_found && judged.is_located);
    }
}

fn print(tally: &Tally, format: Format) -> Result<()> {
    let mut out = io::stdout().lock();
    if format == Format::Json {
        serde_json::to_writer(&mut out, tally)?;
        return Ok(writeln!(out)?);
    }
    for (kind, count) in &tally.by_kind {
        let Count { planted, found, located } = count;
        writeln!(out, "{kind:<16} {planted:>5} planted {found:>5} found {located:>5} located")?;
    }
    writeln!(out, "{} clean runs, {} false alarms", tally.clean_runs, tally.false_alarms)?;
    Ok(())
}
