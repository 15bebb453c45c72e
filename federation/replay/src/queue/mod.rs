//! Queues of gangs on one cluster.
//!
//! The protocol is that of Hu et al. (SC 2021) on the Philly trace: equal nodes, empty at the
//! beginning; a gang of at most one node takes the tightest node, a larger one wholly free nodes
//! and a part of one more; all jobs that were submitted in the window run to their end.
//!
//! A rule that evicts pays for it: a job that starts again after it was evicted holds its GPUs for
//! 7 s (one GPU), 30 s (up to 8) or 60 s (more) before it goes on where it was. Queue seconds are
//! all time between submission and end in which a job does no work of its own: its waits, and
//! these.

mod engine;
mod rules;

use std::collections::BTreeSet;

use federation_core::order::Order;
use serde::Serialize;

pub(crate) use crate::queue::engine::restart_cost;
use crate::queue::engine::{Job, Outcome, serve};
use crate::queue::rules::{Fifo, Ours, OursNoPreempt, Sjf, Srtf};
use crate::read::Progress;
use crate::trace::JobRow;

/// For how long others may pass a job that does not fit, where nobody is evicted: a week, since
/// then all behind it must wait for the longest that runs.
const PASSED_FOR: u64 = 7 * 86_400;

/// A rule of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    Ours,
    OursNoPreempt,
    Fifo,
    /// Is told durations.
    Sjf,
    /// Is told durations.
    Srtf,
}

impl Policy {
    pub const ALL: [Self; 5] = [Self::Ours, Self::OursNoPreempt, Self::Fifo, Self::Sjf, Self::Srtf];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::OursNoPreempt => "ours-nopreempt",
            Self::Fifo => "fifo",
            Self::Sjf => "sjf",
            Self::Srtf => "srtf",
        }
    }

    fn knows_durations(self) -> bool {
        match self {
            Self::Sjf | Self::Srtf => true,
            Self::Ours | Self::OursNoPreempt | Self::Fifo => false,
        }
    }
}

/// The cluster, and which jobs come.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Jobs of this tenant or, if there is none, of this cluster; of all if it is `None`.
    pub cluster: Option<&'a str>,
    pub nodes: u32,
    pub gpus_per_node: u32,
    /// The first and the last second of submission.
    pub from: u64,
    pub to: u64,
}

/// Why a question has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionError {
    #[error("there is no cluster `{name}`; there are: {has}")]
    NoCluster { name: String, has: String },
    #[error(
        "no job of GPUs was submitted {window}; the first came at {first} s, the last at {last} s"
    )]
    NoJobs { window: String, first: u64, last: u64 },
    #[error("column `gpus`: a gang of {gpus} GPUs is larger than the cluster, which has {most}")]
    TooLarge { line: u64, gpus: u32, most: u64 },
    #[error("column `duration_s` is empty")]
    NoDuration { line: u64 },
}

impl QuestionError {
    /// The line of the file that is at fault.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::NoCluster { .. } | Self::NoJobs { .. } => None,
            Self::TooLarge { line, .. } | Self::NoDuration { line } => Some(*line),
        }
    }
}

/// What one rule did.
#[derive(Debug, Clone, Serialize)]
pub struct Result {
    pub policy: &'static str,
    pub jobs: usize,
    pub mean_jct_s: f64,
    pub mean_queue_s: f64,
    pub p95_queue_s: u64,
    pub max_queue_s: u64,
    /// The longest that a job waited without a break.
    pub longest_wait_s: u64,
    pub evictions: u64,
    pub knows_durations: bool,
}

/// What all did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub results: Vec<Result>,
}

/// Serves the jobs by every rule.
///
/// # Errors
/// There are no jobs, or one that the cluster could never hold.
pub fn replay(
    rows: &[JobRow],
    question: &Question<'_>,
    policies: &[Policy],
    progress: &mut dyn Progress,
) -> std::result::Result<Report, QuestionError> {
    let jobs = jobs(rows, question)?;
    let (nodes, per_node) = (question.nodes, question.gpus_per_node);
    let mut results = Vec::new();
    for &policy in policies {
        progress.step(policy.name(), results.len() as u64, policies.len() as u64);
        let order = Order::default();
        let outcome = match policy {
            Policy::Ours => serve(&jobs, nodes, per_node, &Ours(order)),
            Policy::OursNoPreempt => {
                let order = Order { starved_after: PASSED_FOR, ..order };
                serve(&jobs, nodes, per_node, &OursNoPreempt(order))
            }
            Policy::Fifo => serve(&jobs, nodes, per_node, &Fifo),
            Policy::Sjf => serve(&jobs, nodes, per_node, &Sjf),
            Policy::Srtf => serve(&jobs, nodes, per_node, &Srtf),
        };
        results.push(told(policy, &outcome));
    }
    progress.step("", policies.len() as u64, policies.len() as u64);
    Ok(Report { results })
}

fn jobs(rows: &[JobRow], question: &Question<'_>) -> std::result::Result<Vec<Job>, QuestionError> {
    let is_named = |row: &&JobRow| question.cluster.is_none_or(|name| row.tenant == name);
    let is_in = |row: &&JobRow| question.cluster.is_none_or(|name| row.cluster == name);
    let by_tenant = rows.iter().any(|row| is_named(&row));
    let of_cluster = rows.iter().filter(|row| if by_tenant { is_named(row) } else { is_in(row) });
    let most = u64::from(question.nodes) * u64::from(question.gpus_per_node);
    let mut jobs = Vec::new();
    for row in of_cluster.clone() {
        if !(question.from..=question.to).contains(&row.submit_s) || row.gpus == 0 {
            continue;
        }
        let (line, gpus) = (row.line, row.gpus);
        if u64::from(gpus) > most {
            return Err(QuestionError::TooLarge { line, gpus, most });
        }
        let duration = row.duration_s.ok_or(QuestionError::NoDuration { line })?;
        jobs.push(Job { submit: row.submit_s, gpus, duration });
    }
    if jobs.is_empty() {
        return Err(nothing(
            rows,
            question,
            &of_cluster.map(|row| row.submit_s).collect::<Vec<_>>(),
        ));
    }
    jobs.sort_by_key(|job| job.submit);
    Ok(jobs)
}

/// Why no job is left of those of the cluster, which were submitted then.
fn nothing(rows: &[JobRow], question: &Question<'_>, submits: &[u64]) -> QuestionError {
    let (first, last) = (submits.iter().min().copied(), submits.iter().max().copied());
    if let (None, Some(name)) = (first, question.cluster) {
        let known = rows.iter().flat_map(|row| [row.tenant.as_str(), row.cluster.as_str()]);
        let has: BTreeSet<&str> = known.filter(|name| !name.is_empty()).collect();
        let has = has.into_iter().take(20).collect::<Vec<_>>().join(", ");
        return QuestionError::NoCluster { name: name.to_owned(), has };
    }
    let to = match question.to {
        u64::MAX => "on".to_owned(),
        to => format!("to {to} s"),
    };
    let window = format!("from {} s {to}", question.from);
    QuestionError::NoJobs { window, first: first.unwrap_or(0), last: last.unwrap_or(0) }
}

fn told(policy: Policy, outcome: &Outcome) -> Result {
    let jobs = outcome.jobs.len();
    let mut queue: Vec<u64> = outcome.jobs.iter().map(|job| job.queue).collect();
    queue.sort_unstable();
    let mean = |sum: u64| sum as f64 / jobs.max(1) as f64;
    Result {
        policy: policy.name(),
        jobs,
        mean_jct_s: mean(outcome.jobs.iter().map(|job| job.jct).sum()),
        mean_queue_s: mean(queue.iter().sum()),
        p95_queue_s: percentile(&queue, 95),
        max_queue_s: queue.last().copied().unwrap_or(0),
        longest_wait_s: outcome.jobs.iter().map(|job| job.longest_wait).max().unwrap_or(0),
        evictions: outcome.evictions,
        knows_durations: policy.knows_durations(),
    }
}

/// The value that so many percent do not exceed (nearest rank); zero of nothing.
pub(crate) fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}
