//! What each account used lately, and how long its jobs ran. Kept in the agreed state, so that a
//! change of leaders forgets nothing; its clock is the wall clock that proposers stamp on commands.
//! A wrong clock makes the shares unfair for a while and nothing unsafe.
//!
//! Use fades: after [`HALF_LIFE`] it counts half. It fades in steps of whole numbers since 1970, so
//! that it does not matter how often it is written.

use alloc::vec::Vec;

use specs::id::{AccountId, GpuClass};
use specs::job::JobClass;
use specs::unit::{GpuCount, Millis, Timestamp};

use crate::job::AttemptEnd;
use crate::quota::Charge;
use crate::state::State;

/// After so long, use counts half.
pub(crate) const HALF_LIFE: Millis = Millis(7 * 86_400_000);
/// Steps of a half-life.
const STEPS: u64 = 64;
const STEP: u64 = HALF_LIFE.0 / STEPS;
/// What is left after a step: 2^(-1/64), in parts of 2^32.
const FADE: u128 = 4_248_701_965;
const ONE: u128 = 1 << 32;
/// Use older than this many steps counts for nothing.
const STEPS_MAX: u64 = STEPS * 20;
/// Most accounts whose use is kept; of further ones nothing is known.
pub(crate) const ACCOUNTS_MAX: usize = 65_536;
/// Of fewer runs no more is concluded.
const RUNS_MIN: u32 = 3;
/// A new value counts one part in so many of a running mean.
const MEAN_OF: u32 = 8;

specs::message! {
    /// GPU time, faded.
    pub struct Spent {
        1 => class: GpuClass,
        2 => gpu_millis: u64,
        /// The step that it has faded to.
        3 => step: u64,
    }

    /// How long jobs of a kind ran that ended by themselves.
    pub struct RunTimes {
        1 => class: JobClass,
        2 => count: u32,
        /// The latest counting most.
        3 => mean: Millis,
        /// How far off it would have been to take the mean for a forecast.
        4 => error: Millis,
    }

    /// An account, and all below it.
    pub struct Recent {
        1 => spent: Vec<Spent>,
        2 => runs: Vec<RunTimes>,
    }
}

/// `value` after so many steps.
fn faded(value: u64, steps: u64) -> u64 {
    if steps >= STEPS_MAX {
        return 0;
    }
    let mut left = u128::from(value) >> (steps / STEPS);
    for _ in 0..steps % STEPS {
        left = left * FADE / ONE;
    }
    u64::try_from(left).unwrap_or(u64::MAX)
}

/// A span that ended at a time, faded to that time's step.
fn span_until(at: Timestamp, span: Millis) -> u64 {
    let mut left = span.0;
    let first = left.min(at.0 % STEP);
    let (mut sum, mut steps) = (first, 0);
    left -= first;
    while left > 0 && steps < STEPS_MAX {
        steps += 1;
        let part = left.min(STEP);
        sum = sum.saturating_add(faded(part, steps));
        left -= part;
    }
    sum
}

/// How long an attempt ran, as far as that can be believed: its own clocks are another machine's.
fn ran(it: &AttemptEnd, submitted_at: Timestamp, at: Timestamp) -> Millis {
    if it.started_at == Timestamp(0) {
        return Millis::ZERO;
    }
    let said = it.ended_at.0.saturating_sub(it.started_at.0);
    Millis(said.min(at.0.saturating_sub(submitted_at.0)))
}

/// Takes in that an attempt has ended. `exited` tells that it did by itself.
pub(crate) fn record(
    state: &mut State,
    charge: &Charge,
    class: JobClass,
    (it, exited): (&AttemptEnd, bool),
    (submitted_at, at): (Timestamp, Timestamp),
) {
    let ran = ran(it, submitted_at, at);
    if ran == Millis::ZERO {
        return;
    }
    let accounts: Vec<AccountId> = charge.account.line().collect();
    for account in accounts {
        let mut recent = match state.recent.get(&account) {
            Some(recent) => recent.clone(),
            None if state.recent.len() >= ACCOUNTS_MAX => continue,
            None => Recent { spent: Vec::new(), runs: Vec::new() },
        };
        if let Some(gpus) = &charge.class {
            let use_ = span_until(at, ran).saturating_mul(u64::from(charge.gpus.0));
            recent.spend(gpus, use_, at.0 / STEP);
        }
        if exited {
            recent.learn(class, ran);
        }
        state.agreed.recent.insert(account, recent);
    }
}

impl Recent {
    fn spend(&mut self, class: &GpuClass, gpu_millis: u64, step: u64) {
        let Some(spent) = self.spent.iter_mut().find(|it| it.class == *class) else {
            self.spent.push(Spent { class: class.clone(), gpu_millis, step });
            return;
        };
        // A clock that went back fades nothing.
        let steps = step.saturating_sub(spent.step);
        spent.gpu_millis = faded(spent.gpu_millis, steps).saturating_add(gpu_millis);
        spent.step = spent.step.max(step);
    }

    fn learn(&mut self, class: JobClass, ran: Millis) {
        let Some(runs) = self.runs.iter_mut().find(|it| it.class == class) else {
            self.runs.push(RunTimes { class, count: 1, mean: ran, error: Millis::ZERO });
            return;
        };
        let off = Millis(runs.mean.0.abs_diff(ran.0));
        // The first forecast was the first that could be off.
        runs.error = mean(runs.error, off, runs.count);
        runs.count = runs.count.saturating_add(1);
        runs.mean = mean(runs.mean, ran, runs.count);
    }

    /// How long jobs of the kind run, not counting the longest; none if too few have ended.
    pub(crate) fn usual(&self, class: JobClass) -> Option<Millis> {
        let runs = self.runs.iter().find(|it| it.class == class && it.count >= RUNS_MIN)?;
        Some(Millis(runs.mean.0.saturating_add(runs.error.0)))
    }

    /// GPUs of each class that were held on average, the latest counting most.
    pub(crate) fn lately(&self, at: Timestamp) -> impl Iterator<Item = (&GpuClass, GpuCount)> {
        // A GPU held for ever has spent this much.
        let full = u128::from(STEP) * ONE / (ONE - FADE);
        self.spent.iter().map(move |it| {
            let left = faded(it.gpu_millis, (at.0 / STEP).saturating_sub(it.step));
            let gpus = (u128::from(left) + full / 2) / full;
            (&it.class, GpuCount(u32::try_from(gpus).unwrap_or(u32::MAX)))
        })
    }

    /// As [`Recent::lately`], in thousandths of a GPU.
    pub(crate) fn lately_milli(&self, class: &GpuClass, at: Timestamp) -> u64 {
        let full = u128::from(STEP) * ONE / (ONE - FADE);
        let spent = self.spent.iter().find(|it| it.class == *class);
        let left =
            spent.map_or(0, |it| faded(it.gpu_millis, (at.0 / STEP).saturating_sub(it.step)));
        u64::try_from(u128::from(left) * 1_000 / full).unwrap_or(u64::MAX)
    }
}

/// A running mean with one more value; of the first few, each counts alike.
pub(crate) fn mean(before: Millis, value: Millis, count: u32) -> Millis {
    let of = u64::from(count.clamp(1, MEAN_OF));
    let sum = u128::from(before.0) * u128::from(of - 1) + u128::from(value.0);
    Millis(u64::try_from(sum / u128::from(of)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86_400_000;

    fn class() -> GpuClass {
        GpuClass::new("b200").unwrap()
    }

    fn used(days: &[(u64, u64)]) -> Recent {
        let mut recent = Recent { spent: Vec::new(), runs: Vec::new() };
        for (day, hours) in days {
            let at = Timestamp(day * DAY);
            let span = Millis(hours * 3_600_000);
            recent.spend(&class(), span_until(at, span), at.0 / STEP);
        }
        recent
    }

    #[test]
    fn use_counts_half_after_a_half_life() {
        let recent = used(&[(100, 24)]);
        let now = recent.lately_milli(&class(), Timestamp(100 * DAY));
        let later = recent.lately_milli(&class(), Timestamp(107 * DAY));
        assert!(now.abs_diff(later * 2) <= 2, "{now} then {later}");
        assert_eq!(recent.lately_milli(&class(), Timestamp(400 * DAY)), 0);
    }

    #[test]
    fn it_does_not_matter_in_how_many_pieces_it_was_used() {
        let whole = used(&[(100, 24 * 8)]);
        let days: Vec<(u64, u64)> = (93..=100).map(|day| (day, 24)).collect();
        let pieces = used(&days);
        let [one, other] =
            [whole, pieces].map(|it| it.lately_milli(&class(), Timestamp(100 * DAY)));
        assert!(one.abs_diff(other) <= one / 50, "{one} and {other}");
    }

    #[test]
    fn a_gpu_held_for_ever_was_held_lately() {
        let recent = used(&[(1_000, 24 * 365)]);
        let milli = recent.lately_milli(&class(), Timestamp(1_000 * DAY));
        assert!((990..=1_010).contains(&milli), "{milli}");
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_of_nothing() {
        let mut recent = used(&[(100, 24)]);
        recent.spend(&class(), 0, 3);
        assert_eq!(recent, used(&[(100, 24)]));
    }

    #[test]
    fn a_forecast_says_how_far_off_it_was() {
        let mut recent = Recent { spent: Vec::new(), runs: Vec::new() };
        for seconds in [100, 100, 160] {
            recent.learn(JobClass::Training, Millis(seconds * 1_000));
        }
        let runs = &recent.runs[0];
        assert_eq!((runs.count, runs.mean, runs.error), (3, Millis(120_000), Millis(30_000)));
    }
}
