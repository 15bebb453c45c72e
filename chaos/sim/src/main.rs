//! `sim`: runs seeds, prints what they showed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use chaos_sim::{Coverage, Run, run};

const USAGE: &str = "\
usage: sim --seeds A..B [--jobs N] [--keep-going] [-o json|text]
       sim --seed N [--trace] [-o json|text]

Runs the seeds from A up to but without B. Ends with 0 if no property is violated, with 1 if one
is, with 2 if this was not understood.
  --jobs N       so many threads; each seed runs in one (default 1)
  --keep-going   do not stop at the first violation
  --trace        print what happens
  -o json        end with one line of JSON (default text)
";

struct Arguments {
    from: u64,
    to: u64,
    jobs: u64,
    trace: bool,
    json: bool,
    keep_going: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Option<Arguments> {
    let mut it =
        Arguments { from: 0, to: 0, jobs: 1, trace: false, json: false, keep_going: false };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => {
                let (from, to) = words
                    .next()?
                    .split_once("..")
                    .map(|(a, b)| (a.parse::<u64>(), b.trim_start_matches('=').parse::<u64>()))?;
                (it.from, it.to) = (from.ok()?, to.ok()?);
            }
            "--seed" => {
                it.from = words.next()?.parse().ok()?;
                it.to = it.from.checked_add(1)?;
            }
            "--jobs" => it.jobs = words.next()?.parse().ok().filter(|jobs| *jobs > 0)?,
            "--trace" => it.trace = true,
            "--keep-going" => it.keep_going = true,
            "-o" => match words.next()?.as_str() {
                "json" => it.json = true,
                "text" => it.json = false,
                _ => return None,
            },
            _ => return None,
        }
    }
    (it.from < it.to).then_some(it)
}

/// What all seeds showed together.
#[derive(Default)]
struct Summary {
    seeds: u64,
    faults: u64,
    events: u64,
    simulated_seconds: u64,
    coverage: Coverage,
    violations: Vec<Run>,
}

impl Summary {
    fn add(&mut self, run: Run) {
        self.seeds += 1;
        self.faults += run.faults;
        self.events += run.events;
        self.simulated_seconds += run.simulated.0 / 1_000;
        self.coverage.merge(&run.coverage);
        if run.violation.is_some() {
            self.violations.push(run);
        }
    }

    fn counts(&self) -> Vec<(&'static str, u64)> {
        let mut counts = vec![
            ("seeds", self.seeds),
            ("faults", self.faults),
            ("violations", self.violations.len() as u64),
            ("events", self.events),
            ("simulated_seconds", self.simulated_seconds),
        ];
        counts.extend(self.coverage.iter().map(|(mark, count)| (mark.as_str(), count)));
        counts
    }

    fn json(&self) -> String {
        let fields = self.counts().into_iter().map(|(key, count)| format!("\"{key}\":{count}"));
        format!("{{{}}}\n", fields.collect::<Vec<_>>().join(","))
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (key, count) in self.counts() {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{key:<42} {count}");
        }
        text
    }
}

fn failure(run: &Run) -> String {
    let Some(violation) = &run.violation else { return String::new() };
    format!(
        "seed {} violates \"{}\" at {}.{:03} s: {}\n  repeat it: cargo run --release -p chaos-sim \
         --bin sim -- --seed {} --trace\n",
        run.seed,
        violation.property,
        violation.at_millis / 1_000,
        violation.at_millis % 1_000,
        violation.detail,
        run.seed
    )
}

fn print(text: &str) {
    // Whoever closed our output wants no more of it.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

fn sweep(arguments: &Arguments) -> Summary {
    let summary = Mutex::new(Summary::default());
    let next = AtomicU64::new(arguments.from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= arguments.to {
                return;
            }
            let run = run(seed, arguments.trace);
            for line in &run.trace {
                print(&format!("{line}\n"));
            }
            let failed = run.violation.is_some();
            if failed {
                print(&failure(&run));
            }
            summary.lock().unwrap_or_else(PoisonError::into_inner).add(run);
            if failed && !arguments.keep_going {
                next.store(arguments.to, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..arguments.jobs {
            scope.spawn(work);
        }
        work();
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn main() -> ExitCode {
    let Some(arguments) = parse(std::env::args().skip(1)) else {
        let _ = std::io::stderr().lock().write_all(USAGE.as_bytes());
        return ExitCode::from(2);
    };
    let summary = sweep(&arguments);
    print(&if arguments.json { summary.json() } else { summary.text() });
    if summary.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
