//! The command line of `federation simulate`. Doc comments here are the help texts.

use std::path::PathBuf;

use clap::Args;
use federation_replay::simulate::sweep::{Goal, Sweep};
use federation_replay::simulate::{LOAD_MAX, Said, SiteSetup};
use specs::id::SiteId;
use specs::unit::Millis;

use crate::args::{FormatArgs, parse_span};

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct SimulateArgs {
    /// A file with sites, jobs and policies, of which several are compared: YAML, TOML or JSON, as
    /// in `specs/examples/what-if.yaml`
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = [
            "jobs", "site", "cluster", "from", "to", "load_scale", "time_shift", "spill_after",
            "no_spill", "look", "prices", "watts_per_gpu", "seed",
        ]
    )]
    pub(crate) scenario: Option<PathBuf>,
    /// The jobs, as CSV or gzipped CSV; at home at the first site, or at the one named
    #[arg(long, required_unless_present_any = ["scenario", "schema"], value_name = "[SITE=]FILE")]
    pub(crate) jobs: Vec<String>,
    /// A site; options after `:` are lend=N or N% (default all), keep=N (GPUs kept free for its own
    /// jobs), busy=N or N% (taken for good) and class=NAME (then jobs' `gpu_type` counts)
    #[arg(long, required_unless_present_any = ["scenario", "schema"], value_name = "NAME=NODESxGPUS[:OPTION,…]")]
    pub(crate) site: Vec<SiteSetup>,
    /// Only jobs with this `tenant` or, if there is none, with this `cluster`
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// The first second of submission
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) from: u64,
    /// The last second of submission
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "SECONDS")]
    pub(crate) to: u64,
    /// Copies of each job, in the mean; a copy comes up to half an hour sooner or later
    #[arg(long, value_parser = parse_load, value_name = "[SITE=]FACTOR")]
    pub(crate) load_scale: Vec<Said<f64>>,
    /// The jobs come later by this
    #[arg(long, value_parser = parse_shift, value_name = "[SITE=]SPAN")]
    pub(crate) time_shift: Vec<Said<Millis>>,
    /// How long a job waits at home before it may leave
    #[arg(long, default_value = "0s", value_parser = parse_span, value_name = "SPAN")]
    pub(crate) spill_after: Millis,
    /// Jobs never leave
    #[arg(long, conflicts_with = "spill_after")]
    pub(crate) no_spill: bool,
    /// Waiting jobs and idle grants are looked at this often; at least 1s
    #[arg(long, default_value = "30s", value_parser = parse_span, value_name = "SPAN")]
    pub(crate) look: Millis,
    /// Prices of electricity, as CSV: time_s (the jobs' clock), site, eur_per_kwh and, if you like,
    /// kg_co2_per_kwh
    #[arg(long, value_name = "FILE")]
    pub(crate) prices: Option<PathBuf>,
    /// What a GPU in use takes, with its part of the node and of the cooling
    #[arg(
        long,
        default_value_t = 1_000,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(0..=100_000)
    )]
    pub(crate) watts_per_gpu: u32,
    /// For copies and their times
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Vary one thing: GPUs of a site, lend(SITE), busy(SITE), load, load(SITE) or spill-after
    #[arg(long, value_name = "WHAT=A,B,C or WHAT=A..B")]
    pub(crate) sweep: Option<Sweep>,
    /// Which value of the sweep will do; with a range it is searched for by halving
    #[arg(long, requires = "sweep", value_name = "CONDITION")]
    pub(crate) until: Option<Goal>,
    /// Write a report with plots, a page of its own, in place of the one that the scenario names
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Print the JSON Schema of scenario files, and do nothing else
    #[arg(long, exclusive = true)]
    pub(crate) schema: bool,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

const EXAMPLES: &str = "\
Examples:
  federation simulate --jobs jobs.csv --site berlin=32x8 --site gigafactory=400x8:lend=25%
  federation simulate --jobs jobs.csv --site berlin=32x8 --site gigafactory=64x8 \\
    --sweep gigafactory=0..512 --until 'p95_wait(berlin)<10m'
  federation simulate --scenario specs/examples/what-if.yaml --html report.html";

/// The site that something is said of, if any, and what is said.
fn of_site(text: &str) -> Result<(Option<SiteId>, &str), String> {
    match text.split_once('=') {
        Some((site, value)) => {
            let site = site.parse().map_err(|error| format!("{error}"))?;
            Ok((Some(site), value))
        }
        None => Ok((None, text)),
    }
}

fn parse_load(text: &str) -> Result<Said<f64>, String> {
    let (site, text) = of_site(text)?;
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=LOAD_MAX).contains(&value) {
        Ok(Said { site, value })
    } else {
        Err(format!("{text} is not between 0 and {LOAD_MAX}"))
    }
}

fn parse_shift(text: &str) -> Result<Said<Millis>, String> {
    let (site, text) = of_site(text)?;
    Ok(Said { site, value: parse_span(text)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_and_a_shift_may_name_a_site() {
        assert_eq!(parse_load("1.5").unwrap(), Said { site: None, value: 1.5 });
        let berlin = Some("berlin".parse().unwrap());
        assert_eq!(parse_load("berlin=2").unwrap(), Said { site: berlin.clone(), value: 2.0 });
        assert_eq!(
            parse_shift("berlin=6h").unwrap(),
            Said { site: berlin, value: Millis(21_600_000) }
        );
        for wrong in ["", "x", "-1", "NaN", "1000", "Berlin=1", "berlin="] {
            assert!(parse_load(wrong).is_err(), "{wrong:?}");
        }
    }
}
