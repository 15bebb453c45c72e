//! What is written down while a simulation runs.

use std::collections::BTreeMap;

use crate::simulate::scenario::Job;
use crate::simulate::site::Time;
use crate::trace::WHOLE;

/// What a site is doing from an instant on. GPUs are in thousandths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) at: Time,
    /// Held by attempts.
    pub(super) busy: u64,
    /// Of these, by other sites' jobs.
    pub(super) guests: u64,
    /// Jobs that are at home here and wait.
    pub(super) queued: u64,
    /// GPUs that these ask for.
    pub(super) queued_gpus: u64,
    /// GPUs that jobs that are at home here hold elsewhere.
    pub(super) abroad: u64,
}

/// A look at the nodes of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) at: Time,
    /// Free GPUs of nodes that are in use.
    pub(super) stranded: u64,
    /// Granted to others, and idle.
    pub(super) idle: u64,
}

#[derive(Debug, Clone, Default)]
pub(super) struct SiteBooks {
    pub(super) levels: Vec<Level>,
    pub(super) samples: Vec<Sample>,
}

impl SiteBooks {
    fn level(&mut self, now: Time) -> &mut Level {
        let last = self.levels.last().copied().unwrap_or_default();
        if self.levels.is_empty() || last.at != now {
            self.levels.push(Level { at: now, ..last });
        }
        let end = self.levels.len() - 1;
        &mut self.levels[end]
    }

    fn now(&self) -> Level {
        self.levels.last().copied().unwrap_or_default()
    }
}

/// How a job fared.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct JobBook {
    home: usize,
    held: u64,
    is_background: bool,
    waiting_since: Option<Time>,
    began_at: Option<Time>,
    /// From submission to the first start.
    pub(super) first_wait: Option<Time>,
    pub(super) ended: Option<Time>,
    pub(super) stops: u32,
    /// Held at other sites, in thousandths of GPU-milliseconds.
    pub(super) abroad: u128,
}

pub(super) struct Books {
    pub(super) sites: Vec<SiteBooks>,
    pub(super) jobs: Vec<JobBook>,
    /// Held of whose home by which host: jobs, and thousandths of GPU-milliseconds.
    pub(super) spills: BTreeMap<(usize, usize), (u64, u128)>,
    /// When the last job comes.
    pub(super) last: Time,
    pub(super) submitted: u64,
    pub(super) ended: u64,
    pub(super) closed: Time,
}

impl Books {
    pub(super) fn new(sites: usize, jobs: &[Job], last: Time) -> Self {
        let book = |job: &Job| JobBook {
            home: job.home,
            held: job.held(),
            is_background: job.is_background,
            ..JobBook::default()
        };
        Self {
            sites: vec![SiteBooks::default(); sites],
            jobs: jobs.iter().map(book).collect(),
            spills: BTreeMap::new(),
            last,
            submitted: 0,
            ended: 0,
            closed: 0,
        }
    }

    pub(super) fn came(&mut self, nth: usize, now: Time) {
        self.submitted += 1;
        self.waits_again(nth, now);
        self.jobs[nth].stops = 0;
    }

    pub(super) fn waits_again(&mut self, nth: usize, now: Time) {
        let job = &mut self.jobs[nth];
        job.waiting_since = Some(now);
        job.stops += 1;
        let held = job.held;
        let level = self.sites[job.home].level(now);
        level.queued += 1;
        level.queued_gpus += held;
    }

    pub(super) fn began(&mut self, nth: usize, site: usize, now: Time) {
        let job = &mut self.jobs[nth];
        let (home, held) = (job.home, job.held);
        job.began_at = Some(now);
        if let Some(since) = job.waiting_since.take() {
            job.first_wait.get_or_insert(now - since);
            let level = self.sites[home].level(now);
            level.queued -= 1;
            level.queued_gpus -= held;
        }
        let level = self.sites[site].level(now);
        level.busy += held;
        if site != home {
            level.guests += held;
            self.sites[home].level(now).abroad += held;
            self.spills.entry((home, site)).or_default().0 += 1;
        }
    }

    /// An attempt is over.
    pub(super) fn left(&mut self, nth: usize, site: usize, now: Time) {
        let job = &mut self.jobs[nth];
        let Some(began) = job.began_at.take() else { return };
        let held = u128::from(job.held) * u128::from(now - began);
        let is_abroad = site != job.home;
        let level = self.sites[site].level(now);
        level.busy -= job.held;
        if is_abroad {
            level.guests -= job.held;
            self.sites[job.home].level(now).abroad -= job.held;
            job.abroad += held;
            self.spills.entry((job.home, site)).or_default().1 += held;
        }
    }

    pub(super) fn finished(&mut self, nth: usize, now: Time) {
        self.jobs[nth].ended = Some(now);
        self.ended += 1;
    }

    pub(super) fn sample(&mut self, site: usize, at: Time, stranded: u64, idle: u64) {
        self.sites[site].samples.push(Sample { at, stranded, idle });
    }

    pub(super) fn close(&mut self, now: Time) {
        self.closed = now;
    }

    /// Whether a job that is at home there waits.
    pub(super) fn waits(&self, home: usize) -> bool {
        self.sites[home].now().queued > 0
    }

    pub(super) fn is_all_started(&self) -> bool {
        (0..self.sites.len()).all(|home| !self.waits(home))
    }

    /// Jobs of a home, without those in the background.
    pub(super) fn of(&self, home: usize) -> impl Iterator<Item = (usize, &JobBook)> {
        let jobs = self.jobs.iter().enumerate();
        jobs.filter(move |(_, job)| job.home == home && !job.is_background)
    }
}

/// The mean of a level in each of so many steps from the beginning.
pub(super) fn means(
    levels: &[Level],
    step: Time,
    steps: usize,
    pick: fn(&Level) -> u64,
) -> Vec<f64> {
    let mut sums = vec![0u128; steps];
    let end = step * steps as u64;
    for (nth, level) in levels.iter().enumerate() {
        let until = levels.get(nth + 1).map_or(end, |next| next.at).min(end);
        let (mut at, value) = (level.at, u128::from(pick(level)));
        while at < until {
            let bucket = at / step;
            let to = ((bucket + 1) * step).min(until);
            if let Some(sum) = usize::try_from(bucket).ok().and_then(|it| sums.get_mut(it)) {
                *sum += value * u128::from(to - at);
            }
            at = to;
        }
    }
    let scale = step as f64 * f64::from(WHOLE);
    sums.into_iter().map(|sum| sum as f64 / scale).collect()
}

/// Thousandths of GPU-milliseconds as GPU-hours.
pub(super) fn gpu_hours(held: u128) -> f64 {
    held as f64 / (f64::from(WHOLE) * 3_600_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_counts_for_as_long_as_it_lasts() {
        let level = |at, busy| Level { at, busy, ..Level::default() };
        let levels = [level(0, 1_000), level(150, 3_000), level(250, 0)];
        let seen = means(&levels, 100, 4, |level| level.busy);
        assert_eq!(seen, [1.0, 2.0, 1.5, 0.0]);
    }
}
