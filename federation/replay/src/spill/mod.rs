//! A home with a queue, and a remote site that its jobs may leave for.
//!
//! All rules share the home: jobs start in the order of their submission, and what fits goes ahead
//! of what does not. They differ in when a job may leave: at once, after a constant time, after a
//! time for each GPU, or for each GPU-hour that the job will take, which is told to that rule
//! alone (Luo et al., *Starburst*, USENIX ATC 2024, artifact commit 39a380a). Ours lets jobs leave
//! almost at once, and calls back those that turn out to be long (`federation_core::spill`); none
//! of the published rules moves a job that runs.
//!
//! Wait is all time between submission and end in which a job does no work of its own: its waits,
//! and the restart that each move costs (7, 30 or 60 s, as in the queueing protocol). GPU-hours
//! elsewhere are counted until the last job has ended and, since homes empty under any rule once
//! nobody comes, until the last has come as well; so is the home's utilisation. Data takes no time
//! to move.

mod engine;
mod scenario;

use federation_core::spill::Spill;
use serde::Serialize;

use crate::pool::Pool;
use crate::queue::percentile;
use crate::read::Progress;
use crate::spill::engine::{Outcome, Rule, World, run};
use crate::spill::scenario::Job;
pub(crate) use crate::spill::scenario::copies;
pub use crate::spill::scenario::{Recipe, ScenarioError};
use crate::trace::{JobRow, WHOLE};

/// How often the knob of a rule is set before the mean wait must be near the budget.
const SETTINGS_MAX: u32 = 24;
/// How near, as a part of the budget.
const NEAR: f64 = 0.01;
/// Largest setting of a knob that is tried: four years.
const KNOB_MAX: f64 = 126_230_400.0;
/// A shorter wait than this in the knob's unit makes no difference.
const KNOB_MIN: f64 = 1e-6;

/// A rule of leaving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    Ours,
    NoWait,
    ConstantWait,
    ResourceWait,
    /// Is told durations.
    ComputeWait,
}

impl Policy {
    pub const ALL: [Self; 5] =
        [Self::Ours, Self::NoWait, Self::ConstantWait, Self::ResourceWait, Self::ComputeWait];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::NoWait => "no-wait",
            Self::ConstantWait => "constant-wait",
            Self::ResourceWait => "resource-wait",
            Self::ComputeWait => "compute-wait",
        }
    }

    /// The published setting, in seconds; ours is our own.
    fn default_knob(self) -> f64 {
        match self {
            Self::Ours => Spill::default().rate,
            Self::NoWait => 0.0,
            Self::ConstantWait => 3_600.0,
            Self::ResourceWait => 0.77 * 3_600.0,
            Self::ComputeWait => 0.076 * 3_600.0,
        }
    }

    fn rule(self, knob: f64, question: &Question) -> Rule {
        let least = Spill::default().patience_min;
        // A tenth of the budget, so that nearly all of it is left for jobs with much work.
        let tenth = |budget: f64| (0..least).rfind(|&it| 10.0 * it as f64 <= budget);
        let spill = Spill {
            rate: knob,
            patience_min: question.wait_budget.map_or(least, |it| tenth(it).unwrap_or(0)),
            patience_max: question.patience_max,
            ..Spill::default()
        };
        match self {
            Self::Ours => Rule::Ours(spill),
            Self::NoWait => Rule::NoWait,
            Self::ConstantWait => Rule::Constant(knob),
            Self::ResourceWait => Rule::Resource(knob),
            Self::ComputeWait => Rule::Compute(knob),
        }
    }
}

/// The two sites and their load.
#[derive(Debug, Clone)]
pub struct Question {
    pub recipe: Recipe,
    /// Work that comes, as a part of what the home can do.
    pub load: f64,
    pub home_gpus: u32,
    pub remote_gpus: u32,
    pub gpus_per_node: u32,
    /// The part of the remote site that others have taken for good.
    pub remote_load: f64,
    /// Each rule's knob is set so that this is the mean wait in seconds; `None` for the published
    /// settings.
    pub wait_budget: Option<f64>,
    /// A job that left, and could have started at home within so many seconds, left wrongly.
    pub transfer: u64,
    /// The longest that a job of ours waits at once, in seconds.
    pub patience_max: u64,
    pub seed: u64,
}

/// What one rule did.
#[derive(Debug, Clone, Serialize)]
pub struct Result {
    pub policy: &'static str,
    pub mean_wait_s: f64,
    /// Until the last job has ended.
    pub remote_gpu_hours: f64,
    /// Of 1, until the last job has come.
    pub home_utilisation: f64,
    pub mean_jct_s: f64,
    pub p95_wait_s: u64,
    /// The longest time from submission to the first start.
    pub longest_first_wait_s: u64,
    /// The longest wait without a break, first or later.
    pub longest_wait_s: u64,
    pub spilled_jobs: u64,
    /// How often a job was called back to wait, and how often one came back to run.
    pub called_back: u64,
    pub returned: u64,
    /// How often a job made room at home for one that was starved.
    pub evicted: u64,
    pub wrong_way_percent: f64,
    /// Until the last job has come.
    pub remote_gpu_hours_meanwhile: f64,
    /// Seconds, in the rule's unit; of ours, one divided by the GPU-hours after which a job waits for
    /// a day.
    pub knob: f64,
    pub knows_durations: bool,
}

/// What all did.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub results: Vec<Result>,
    pub jobs: usize,
    pub span_s: u64,
    /// GPU-hours of all jobs.
    pub work_gpu_hours: f64,
    pub home_gpus: u64,
    pub remote_gpus: u64,
}

/// Makes the scenario, and runs it by every rule.
///
/// # Errors
/// The scenario cannot be made of these jobs.
pub fn replay(
    rows: &[JobRow],
    question: &Question,
    policies: &[Policy],
    progress: &mut dyn Progress,
) -> std::result::Result<Report, ScenarioError> {
    let home = pool(question.home_gpus, question.gpus_per_node, 0.0);
    let remote = pool(question.remote_gpus, question.gpus_per_node, question.remote_load);
    let sizes = (home.gpus(), remote.gpus());
    let (jobs, to) = scenario::make(rows, question.recipe, question.load, sizes, question.seed)?;
    let world = World { jobs: &jobs, home, remote, to, transfer: question.transfer };
    let mut results = Vec::new();
    for &policy in policies {
        let told = |outcome: &Outcome, knob| told(policy, &world, outcome, knob);
        let mut steps = 0;
        let mut step = || {
            steps += 1;
            progress.step(policy.name(), results.len() as u64, policies.len() as u64);
        };
        let result = match question.wait_budget {
            Some(budget) if policy != Policy::NoWait => {
                let (knob, outcome) = within_budget(&world, policy, question, budget, &mut step);
                told(&outcome, knob)
            }
            Some(_) | None => {
                step();
                let knob = policy.default_knob();
                told(&run(&world, policy.rule(knob, question)), knob)
            }
        };
        results.push(result);
    }
    progress.step("", policies.len() as u64, policies.len() as u64);
    let work = |job: &Job| {
        f64::from(job.gpus) * f64::from(job.milli) / f64::from(WHOLE) * job.duration as f64
    };
    Ok(Report {
        results,
        jobs: jobs.len(),
        span_s: to,
        work_gpu_hours: jobs.iter().map(work).sum::<f64>() / 3_600.0,
        home_gpus: sizes.0,
        remote_gpus: sizes.1,
    })
}

/// As many whole nodes as are free of others.
fn pool(gpus: u32, per_node: u32, taken: f64) -> Pool {
    let nodes = gpus.div_ceil(per_node.max(1));
    let kept = (0..nodes).filter(|&node| f64::from(node + 1) > f64::from(nodes) * taken).count();
    Pool::new(u32::try_from(kept).unwrap_or(u32::MAX), per_node.max(1))
}

fn mean_wait(outcome: &Outcome) -> f64 {
    outcome.waits.iter().sum::<u64>() as f64 / outcome.waits.len().max(1) as f64
}

/// The setting whose mean wait is nearest below the budget, halving the interval on the scale of
/// orders of magnitude.
fn within_budget(
    world: &World<'_>,
    policy: Policy,
    question: &Question,
    budget: f64,
    step: &mut dyn FnMut(),
) -> (f64, Outcome) {
    let mut try_knob = |knob: f64| {
        step();
        run(world, policy.rule(knob, question))
    };
    let (mut low, mut high) = (KNOB_MIN, KNOB_MAX);
    let mut best = (0.0, try_knob(0.0));
    let mut knob = policy.default_knob();
    for _ in 0..SETTINGS_MAX {
        let outcome = try_knob(knob);
        let wait = mean_wait(&outcome);
        if wait > budget {
            high = knob;
        } else {
            low = knob;
            best = (knob, outcome);
            if wait >= budget * (1.0 - NEAR) {
                break;
            }
        }
        // Two patient settings may do the same, if nobody waits that long.
        if high / low < 1.0 + NEAR / 10.0 {
            break;
        }
        knob = (low * high).sqrt();
    }
    best
}

fn told(policy: Policy, world: &World<'_>, outcome: &Outcome, knob: f64) -> Result {
    let jobs = outcome.waits.len().max(1) as f64;
    let mut waits = outcome.waits.clone();
    waits.sort_unstable();
    Result {
        policy: policy.name(),
        mean_wait_s: mean_wait(outcome),
        remote_gpu_hours: outcome.remote_work_all / 3_600.0,
        home_utilisation: outcome.home_work / (world.home.gpus() as f64 * world.to as f64),
        mean_jct_s: outcome.jct_sum as f64 / jobs,
        p95_wait_s: percentile(&waits, 95),
        longest_first_wait_s: outcome.longest_first_wait,
        longest_wait_s: outcome.longest_wait,
        spilled_jobs: outcome.spilled,
        called_back: outcome.parked,
        returned: outcome.returned,
        evicted: outcome.evicted,
        wrong_way_percent: 100.0 * outcome.wrong_way as f64 / outcome.spilled.max(1) as f64,
        remote_gpu_hours_meanwhile: outcome.remote_work / 3_600.0,
        knob,
        knows_durations: policy == Policy::ComputeWait,
    }
}
