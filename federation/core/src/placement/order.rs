//! Who of a queue runs first, and who makes room for whom, when nobody knows how long jobs run.
//!
//! What a job has had so far is all there is to go by; where few jobs use most of the time, what
//! has run long will likely run longer still. So jobs are in levels by the GPU-seconds they have
//! had (least attained service in two dimensions: Gu et al., *Tiresias*, NSDI 2019), the lower
//! first; within a level in the order of submission. A waiting job may evict jobs of higher levels
//! only. Levels grow by a factor, so that two jobs change places a bounded number of times.
//!
//! A job that has waited for longer than the starvation bound goes first of all, and is not
//! evicted before it has run for a turn.

use core::cmp::Reverse;

/// What the order rests on. Times are seconds on one clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    pub submitted: u64,
    pub gpus: u32,
    /// Seconds of its own work so far.
    pub attained: u64,
    /// Since when it waits, or runs, without a break.
    pub since: u64,
    /// True if it waited for longer than the bound before it started this time.
    pub was_starved: bool,
}

/// The order of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// GPU-seconds at which the second level begins.
    pub first: u64,
    /// How much larger each level is than the one below it; at least 2.
    pub factor: u64,
    /// How many there are; the last has no end.
    pub levels: u32,
    /// How long a job may wait before it goes first.
    pub starved_after: u64,
    /// For how long a job that was starved is left alone.
    pub turn: u64,
}

/// The place in a queue: lower goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    is_starved: Reverse<bool>,
    level: u32,
    submitted: u64,
}

impl Default for Order {
    /// Ten levels from five GPU-minutes on, four times as large each: the last begins after 9
    /// GPU-months. Nobody waits for more than three days without a turn of an hour, if there is
    /// any place that the others would have to leave.
    fn default() -> Self {
        Self { first: 300, factor: 4, levels: 10, starved_after: 3 * 86_400, turn: 3_600 }
    }
}

impl Order {
    /// The level after that many GPU-seconds; 0 is the first to be served.
    #[must_use]
    pub fn level(&self, gpu_seconds: u64) -> u32 {
        let reached = self.bounds().take_while(|&bound| gpu_seconds >= bound).count();
        u32::try_from(reached).unwrap_or(u32::MAX)
    }

    fn bounds(&self) -> impl Iterator<Item = u64> {
        let factor = self.factor.max(2);
        let grow = move |bound: &u64| bound.checked_mul(factor);
        let bounds = core::iter::successors(Some(self.first.max(1)), grow);
        bounds.take(self.levels.saturating_sub(1) as usize)
    }

    fn service(job: &Seen) -> u64 {
        job.attained.saturating_mul(u64::from(job.gpus))
    }

    /// Whether a waiting job has waited for too long.
    #[must_use]
    pub fn is_starved(&self, waiting: &Seen, now: u64) -> bool {
        now.saturating_sub(waiting.since) >= self.starved_after
    }

    /// The place of a waiting job.
    #[must_use]
    pub fn rank(&self, waiting: &Seen, now: u64) -> Rank {
        Rank {
            is_starved: Reverse(self.is_starved(waiting, now)),
            level: self.level(Self::service(waiting)),
            submitted: waiting.submitted,
        }
    }

    /// Whether a waiting job may take the place of a running one.
    #[must_use]
    pub fn may_evict(&self, waiting: &Seen, running: &Seen, now: u64) -> bool {
        if running.was_starved && now.saturating_sub(running.since) < self.turn {
            return false;
        }
        let rank = self.rank(waiting, now);
        rank.is_starved.0 || rank.level < self.level(Self::service(running))
    }

    /// The level of a running job: of several that may be evicted, the highest goes first.
    #[must_use]
    pub fn evicted_first(&self, running: &Seen) -> u32 {
        self.level(Self::service(running))
    }

    /// After how many more seconds of work the job is in the next level.
    #[must_use]
    pub fn rises_after(&self, running: &Seen) -> Option<u64> {
        let service = Self::service(running);
        let next = self.bounds().find(|&bound| bound > service)?;
        Some((next - service).div_ceil(u64::from(running.gpus.max(1))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(gpus: u32, attained: u64, since: u64) -> Seen {
        Seen { submitted: since, gpus, attained, since, was_starved: false }
    }

    #[test]
    fn levels_grow_by_the_factor_and_the_last_has_no_end() {
        let order = Order { first: 10, factor: 10, levels: 3, ..Order::default() };
        let levels = [0, 9, 10, 99, 100, u64::MAX].map(|service| order.level(service));
        assert_eq!(levels, [0, 0, 1, 1, 2, 2]);
    }

    #[test]
    fn who_had_less_goes_first_and_equals_go_in_order() {
        let order = Order::default();
        let rank = |seen: Seen| order.rank(&seen, 100);
        assert!(rank(job(1, 0, 50)) < rank(job(8, 3_000, 10)));
        assert!(rank(job(8, 0, 40)) < rank(job(1, 0, 50)));
    }

    #[test]
    fn only_higher_levels_make_room() {
        let order = Order::default();
        assert!(order.may_evict(&job(8, 0, 0), &job(1, 400, 0), 10));
        assert!(!order.may_evict(&job(8, 0, 0), &job(1, 200, 0), 10));
        assert!(!order.may_evict(&job(1, 400, 0), &job(1, 500, 0), 10));
    }

    #[test]
    fn a_starved_job_goes_first_evicts_and_keeps_its_turn() {
        let order = Order::default();
        let (now, starved) = (order.starved_after, job(64, 1_000_000, 0));
        assert!(order.rank(&starved, now) < order.rank(&job(1, 0, now), now));
        assert!(order.may_evict(&starved, &job(1, 0, now), now));
        let running = Seen { was_starved: true, since: now, ..starved };
        assert!(!order.may_evict(&job(1, 0, now), &running, now + order.turn - 1));
        assert!(order.may_evict(&job(1, 0, now), &running, now + order.turn));
    }

    #[test]
    fn a_job_rises_when_it_has_had_the_rest_of_its_level() {
        let order = Order::default();
        assert_eq!(order.rises_after(&job(8, 0, 0)), Some(38));
        assert_eq!(order.rises_after(&job(1, 299, 0)), Some(1));
        assert_eq!(order.rises_after(&job(1, u64::MAX, 0)), None);
    }

    #[test]
    fn absurd_settings_do_not_panic() {
        let order = Order { first: 0, factor: 0, levels: 0, starved_after: 0, turn: u64::MAX };
        assert_eq!(order.level(u64::MAX), 0);
        assert_eq!(order.rises_after(&job(0, 0, 0)), None);
    }
}
