//! The jobs that come to a home: those of a file, as they are or made into a heavier load.

use crate::rng::Rng;
use crate::trace::{JobRow, WHOLE};

const WEEK: u64 = 7 * 86_400;
/// What runs for longer is a service, and part of the base load.
const SERVICE_SECONDS: u64 = 30 * 86_400;
/// Copies of a job come at most so much earlier or later.
const JITTER_SECONDS: u32 = 1_800;
/// Most copies of one job.
const COPIES_MAX: f64 = 1_000.0;

/// How the file's jobs become the scenario's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipe {
    /// As they are.
    File,
    /// Services once; all others copied, with jittered times, until the load is reached.
    S1,
    /// All copied, each copy shifted by whole weeks, until the load is reached.
    S2,
}

/// A job of the scenario. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Job {
    pub(super) submit: u64,
    pub(super) gpus: u32,
    pub(super) milli: u32,
    pub(super) duration: u64,
}

impl Job {
    fn gpu_seconds(&self) -> f64 {
        f64::from(self.gpus) * f64::from(self.milli) / f64::from(WHOLE) * self.duration as f64
    }

    /// The part of its work that falls before `to` if it starts when it comes.
    fn gpu_seconds_until(&self, to: u64) -> f64 {
        let within = to.saturating_sub(self.submit).min(self.duration);
        Self { duration: within, ..*self }.gpu_seconds()
    }
}

/// A scenario that cannot be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ScenarioError {
    #[error("column `duration_s` is empty")]
    NoDuration { line: u64 },
    #[error(
        "column `gpus`: a gang of {gpus} GPUs is larger than both sites, of {home} and {remote}"
    )]
    TooLarge { line: u64, gpus: u32, home: u64, remote: u64 },
    #[error("no job of the file needs a GPU for any time")]
    NoJobs,
    #[error(
        "the load cannot be reached: it would need {copies:.2} copies of each job; \
             choose another load or size of the home"
    )]
    Load { copies: f64 },
}

impl ScenarioError {
    /// The line of the file that is at fault.
    #[must_use]
    pub fn line(&self) -> Option<u64> {
        match self {
            Self::NoDuration { line } | Self::TooLarge { line, .. } => Some(*line),
            Self::NoJobs | Self::Load { .. } => None,
        }
    }
}

/// The jobs in the order of their submission, and when the last one comes.
pub(super) fn make(
    rows: &[JobRow],
    recipe: Recipe,
    load: f64,
    sizes: (u64, u64),
    seed: u64,
) -> Result<(Vec<Job>, u64), ScenarioError> {
    let (home, remote) = sizes;
    let mut jobs = Vec::new();
    for row in rows.iter().filter(|row| row.gpus > 0) {
        let (line, gpus) = (row.line, row.gpus);
        if u64::from(gpus) > home.max(remote) {
            return Err(ScenarioError::TooLarge { line, gpus, home, remote });
        }
        let duration = row.duration_s.ok_or(ScenarioError::NoDuration { line })?;
        // Shares of several GPUs are rare enough to count as whole ones.
        let milli = if gpus == 1 { row.gpu_milli } else { WHOLE };
        jobs.push(Job { submit: row.submit_s, gpus, milli, duration });
    }
    let first = jobs.iter().map(|job| job.submit).min().ok_or(ScenarioError::NoJobs)?;
    for job in &mut jobs {
        job.submit -= first;
    }
    let last = jobs.iter().map(|job| job.submit).max().unwrap_or(0);
    let mut rng = Rng::stream(seed, 3);
    let mut made = match recipe {
        Recipe::File => jobs,
        Recipe::S1 => jittered(&jobs, load * home as f64, last.max(1), &mut rng)?,
        Recipe::S2 => shifted(&jobs, load * home as f64, last, &mut rng)?,
    };
    made.sort_by_key(|job| job.submit);
    let to = made.last().map_or(0, |job| job.submit);
    Ok((made, to.max(1)))
}

/// How many copies of a job there are, with that mean.
pub(crate) fn copies(mean: f64, rng: &mut Rng) -> Result<u32, ScenarioError> {
    if !(0.0..=COPIES_MAX).contains(&mean) {
        return Err(ScenarioError::Load { copies: mean });
    }
    let whole = (0u32..).take_while(|&count| f64::from(count + 1) <= mean).count();
    let rest = mean - whole as f64;
    let more = rng.below(1_000_000) < number_of_millionths(rest);
    Ok(u32::try_from(whole).unwrap_or(u32::MAX) + u32::from(more))
}

fn number_of_millionths(rest: f64) -> usize {
    (0..=20).rev().fold(0, |sum, bit| {
        let next = sum + (1usize << bit);
        if next as f64 <= rest * 1e6 { next } else { sum }
    })
}

fn jittered(jobs: &[Job], gpus: f64, to: u64, rng: &mut Rng) -> Result<Vec<Job>, ScenarioError> {
    let is_service = |job: &&Job| job.duration > SERVICE_SECONDS;
    let gpus_of = |sum: f64| sum / to as f64;
    let all: f64 = jobs.iter().map(|job| job.gpu_seconds_until(to)).sum();
    let base: f64 = jobs.iter().filter(is_service).map(|job| job.gpu_seconds_until(to)).sum();
    let mean = (gpus - gpus_of(base)) / gpus_of(all - base);
    let mut made = Vec::new();
    for job in jobs {
        let count = if is_service(&job) { 1 } else { copies(mean, rng)? };
        for nth in 0..count {
            let jitter = rng.below(2 * JITTER_SECONDS as usize + 1) as u64;
            let moved = (job.submit + jitter).saturating_sub(u64::from(JITTER_SECONDS)).min(to);
            made.push(Job { submit: if nth == 0 { job.submit } else { moved }, ..*job });
        }
    }
    Ok(made)
}

fn shifted(jobs: &[Job], gpus: f64, last: u64, rng: &mut Rng) -> Result<Vec<Job>, ScenarioError> {
    let weeks = last / WEEK + 1;
    let span = weeks * WEEK;
    let all: f64 = jobs.iter().map(Job::gpu_seconds).sum();
    let mean = gpus * span as f64 / all;
    // Shifts are drawn once for each copy of the whole trace.
    let most = copies(mean, rng)?.max(copies(mean.ceil().min(COPIES_MAX), rng)?);
    let weeks = usize::try_from(weeks).unwrap_or(1);
    let shifts: Vec<u64> = (0..most).map(|_| rng.below(weeks) as u64 * WEEK).collect();
    let mut made = Vec::new();
    for job in jobs {
        let count = copies(mean, rng)?;
        for shift in shifts.iter().take(count as usize) {
            made.push(Job { submit: (job.submit + shift) % span, ..*job });
        }
    }
    Ok(made)
}
