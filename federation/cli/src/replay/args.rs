//! The command line of `federation replay`. Doc comments here are the help texts.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use federation_replay::{fgd, queue, spill};
use specs::unit::Millis;

use crate::args::{FormatArgs, parse_span};

/// Most seeds of one command.
const SEEDS_MAX: u64 = 10_000;

#[derive(Debug, Subcommand)]
pub(crate) enum ReplayCommand {
    /// Placement quality: fill a cluster with pods, one at a time (Weng et al., USENIX ATC 2023)
    Fgd(FgdArgs),
    /// Queueing: gangs on one cluster (Hu et al., SC 2021)
    Queue(QueueArgs),
    /// Spilling: a home and a remote site (after Luo et al., USENIX ATC 2024)
    Spill(SpillArgs),
}

#[derive(Debug, Args)]
pub(crate) struct FgdArgs {
    /// The nodes, as CSV or gzipped CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) nodes: PathBuf,
    /// The pods, as CSV or gzipped CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) pods: PathBuf,
    /// Which policy
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) policy: FgdPolicy,
    /// Which orders of arrival, the first and the last
    #[arg(long, default_value = "42..51", value_parser = parse_seeds, value_name = "A..B")]
    pub(crate) seeds: Seeds,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct QueueArgs {
    /// The jobs, as CSV or gzipped CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) jobs: PathBuf,
    /// Only jobs with this `tenant` or, if there is none, with this `cluster`
    #[arg(long, value_name = "NAME")]
    pub(crate) cluster: Option<String>,
    /// Nodes of the cluster
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) nodes: u32,
    #[arg(
        long,
        default_value_t = 8,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_024),
        help = "GPUs of each node"
    )]
    pub(crate) gpus_per_node: u32,
    /// The first second of submission
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) from: u64,
    /// The last second of submission
    #[arg(long, default_value_t = u64::MAX, hide_default_value = true, value_name = "SECONDS")]
    pub(crate) to: u64,
    /// Which rule
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) policy: QueuePolicy,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(crate) struct SpillArgs {
    /// The jobs, as CSV or gzipped CSV
    #[arg(long, value_name = "FILE")]
    pub(crate) jobs: PathBuf,
    /// GPUs at home
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) home: u32,
    /// GPUs of the remote site
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub(crate) remote: u32,
    #[arg(
        long,
        default_value_t = 8,
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=1_024),
        help = "GPUs of each node"
    )]
    pub(crate) gpus_per_node: u32,
    /// What becomes of the file's jobs
    #[arg(long, value_enum, default_value = "file")]
    pub(crate) scenario: Scenario,
    /// Work that comes, as a part of what the home can do; for `s1` and `s2`
    #[arg(long, default_value_t = 1.2, value_parser = parse_factor, value_name = "FACTOR")]
    pub(crate) load: f64,
    /// The part of the remote site that others have taken
    #[arg(long, default_value_t = 0.0, value_parser = parse_part, value_name = "PART")]
    pub(crate) remote_load: f64,
    /// Set each rule so that this is the mean wait [default: the published settings]
    #[arg(long, value_parser = parse_span, value_name = "SPAN")]
    pub(crate) wait_budget: Option<Millis>,
    /// A job that left went the wrong way if it could have started at home within this time
    #[arg(long, default_value = "60s", value_parser = parse_span, value_name = "SPAN")]
    pub(crate) transfer: Millis,
    /// The longest that a job of `ours` waits at once
    #[arg(long, default_value = "720h", value_parser = parse_span, value_name = "SPAN")]
    pub(crate) patience_max: Millis,
    /// For copies and their times
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) seed: u64,
    /// Which rule
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) policy: SpillPolicy,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FgdPolicy {
    Ours,
    /// As a leader places: by the score, on the index
    Live,
    /// The index of a leader without the score
    LiveTight,
    Fgd,
    Bestfit,
    Dotprod,
    Packing,
    Clustering,
    Random,
    /// Ours and the published ones
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueuePolicy {
    /// Evicts
    Ours,
    OursNopreempt,
    Fifo,
    /// Is told durations
    Sjf,
    /// Is told durations; evicts
    Srtf,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SpillPolicy {
    Ours,
    NoWait,
    ConstantWait,
    ResourceWait,
    /// Is told durations
    ComputeWait,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// They come as they are
    File,
    /// What runs for over 30 days comes once; copies of all others make up the load
    S1,
    /// Copies that are shifted by whole weeks make up the load
    S2,
}

impl From<Scenario> for spill::Recipe {
    fn from(scenario: Scenario) -> Self {
        match scenario {
            Scenario::File => Self::File,
            Scenario::S1 => Self::S1,
            Scenario::S2 => Self::S2,
        }
    }
}

/// Seeds, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seeds(pub(crate) Vec<u64>);

impl FgdArgs {
    pub(crate) fn policies(&self) -> Vec<fgd::Policy> {
        match self.policy {
            FgdPolicy::Ours => vec![fgd::Policy::Ours],
            FgdPolicy::Live => vec![fgd::Policy::Live],
            FgdPolicy::LiveTight => vec![fgd::Policy::LiveTight],
            FgdPolicy::Fgd => vec![fgd::Policy::Fgd],
            FgdPolicy::Bestfit => vec![fgd::Policy::BestFit],
            FgdPolicy::Dotprod => vec![fgd::Policy::DotProduct],
            FgdPolicy::Packing => vec![fgd::Policy::Packing],
            FgdPolicy::Clustering => vec![fgd::Policy::Clustering],
            FgdPolicy::Random => vec![fgd::Policy::Random],
            FgdPolicy::All => fgd::Policy::COMPARED.to_vec(),
        }
    }
}

impl QueueArgs {
    pub(crate) fn policies(&self) -> Vec<queue::Policy> {
        match self.policy {
            QueuePolicy::Ours => vec![queue::Policy::Ours],
            QueuePolicy::OursNopreempt => vec![queue::Policy::OursNoPreempt],
            QueuePolicy::Fifo => vec![queue::Policy::Fifo],
            QueuePolicy::Sjf => vec![queue::Policy::Sjf],
            QueuePolicy::Srtf => vec![queue::Policy::Srtf],
            QueuePolicy::All => queue::Policy::ALL.to_vec(),
        }
    }
}

impl SpillArgs {
    pub(crate) fn policies(&self) -> Vec<spill::Policy> {
        match self.policy {
            SpillPolicy::Ours => vec![spill::Policy::Ours],
            SpillPolicy::NoWait => vec![spill::Policy::NoWait],
            SpillPolicy::ConstantWait => vec![spill::Policy::ConstantWait],
            SpillPolicy::ResourceWait => vec![spill::Policy::ResourceWait],
            SpillPolicy::ComputeWait => vec![spill::Policy::ComputeWait],
            SpillPolicy::All => spill::Policy::ALL.to_vec(),
        }
    }
}

/// Both ends belong to it, as in the publication's `42..51` for ten seeds.
fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let wrong = || "write it as `42..51` (both ends belong to it) or `42`".to_owned();
    let (first, last) = text.split_once("..").unwrap_or((text, text));
    let first: u64 = first.parse().map_err(|_| wrong())?;
    let last: u64 = last.trim_start_matches('=').parse().map_err(|_| wrong())?;
    if last < first {
        return Err(format!("{last} is before {first}"));
    }
    if last - first >= SEEDS_MAX {
        return Err(format!("more than {SEEDS_MAX} seeds"));
    }
    Ok(Seeds((first..=last).collect()))
}

fn parse_factor(text: &str) -> Result<f64, String> {
    let factor = text.parse().ok().filter(|it: &f64| it.is_finite() && *it > 0.0);
    factor.ok_or_else(|| format!("`{text}` is not a number above 0"))
}

fn parse_part(text: &str) -> Result<f64, String> {
    let part: f64 = text.parse().map_err(|_| format!("`{text}` is not a number"))?;
    if (0.0..=1.0).contains(&part) { Ok(part) } else { Err("it is not between 0 and 1".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_a_number_above_zero() {
        assert_eq!(parse_factor("1.2"), Ok(1.2));
        for wrong in ["", "NaN", "inf", "-1", "0", "much"] {
            assert!(parse_factor(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn both_ends_of_a_range_of_seeds_belong_to_it() {
        assert_eq!(parse_seeds("42..51").unwrap().0.len(), 10);
        assert_eq!(parse_seeds("42..=43").unwrap(), parse_seeds("42..43").unwrap());
        assert_eq!(parse_seeds("7").unwrap(), Seeds(vec![7]));
        for wrong in ["", "..", "5..4", "a..b", "-1..2", "0..99999999999"] {
            assert!(parse_seeds(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_part_lies_between_nothing_and_all() {
        assert_eq!(parse_part("0.95"), Ok(0.95));
        for wrong in ["-0.1", "1.1", "NaN", "x", ""] {
            assert!(parse_part(wrong).is_err(), "{wrong:?}");
        }
    }
}
