//! What a simulation costs, without the command line around it.
//!
//! `cargo bench -p federation-replay --bench simulate -- JOBS.csv[.gz] [JOBS] SITE… [REPORT.json]`:
//! the first so many jobs of the file, on sites as `federation simulate --site` has them. The report
//! is written out, so that those of two builds can be compared byte for byte.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark stops at the first surprise")]
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the real clock")]

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use federation_replay::read::NoProgress;
use federation_replay::simulate::{Policy, Scenario, SiteSetup, Source, simulate};
use federation_replay::trace::{Needs, read_jobs};
use specs::unit::Millis;

/// Seconds of processor time that this process has had.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let after_name = stat.rsplit(')').next().unwrap();
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let Some(path) = args.first() else {
        println!("name a file of jobs, and sites");
        return;
    };
    let mut rows = read_jobs(Path::new(path), Needs::Times, &mut NoProgress).unwrap();
    let most = args.iter().find_map(|arg| arg.parse::<usize>().ok());
    rows.sort_by_key(|row| row.submit_s);
    rows.truncate(most.unwrap_or(usize::MAX));
    let sites = args.iter().filter(|arg| arg.contains('='));
    let sites: Vec<SiteSetup> = sites.map(|site| site.parse().unwrap()).collect();
    let home = sites[0].name.clone();
    let scenario = Scenario {
        sites,
        sources: vec![Source::new(home, path.as_str(), Arc::new(rows))],
        load: Vec::new(),
        shift: Vec::new(),
        policy: Policy::default(),
        look: Millis(30_000),
        prices: None,
        seed: 1,
    };
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let report = simulate(&scenario, &mut NoProgress).unwrap();
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let each = cpu * 1e6 / report.commands as f64;
    let (jobs, commands) = (report.jobs, report.commands);
    println!(
        "{jobs} jobs, {commands} commands: {wall:.1} s, CPU {cpu:.1} s, {each:.1} µs a command"
    );
    if let Some(path) = args.iter().find(|arg| arg.ends_with(".json")) {
        std::fs::write(path, serde_json::to_string(&report).unwrap()).unwrap();
    }
}
