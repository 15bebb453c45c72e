//! When a job leaves its home, and when it comes back, when nobody knows how long jobs run.
//!
//! While a home is full, whatever leaves it the same work must run elsewhere; capacity that is
//! rented is saved only by never letting the home idle. Rules that make jobs wait (Luo et al.,
//! *Starburst*, USENIX ATC 2024) keep a stock of work for idle moments, and pay for it with the
//! time of those that wait. Every job counts alike there, so the stock should be few jobs with much
//! work; the best of those rules is told how much work a job is.
//!
//! Here it is found out instead. A job leaves almost at once, and runs elsewhere. Where few jobs
//! use most of the time, what has run long will likely run longer still (Harchol-Balter and
//! Downey, ACM TOCS 1997): so a job that has doubled the work it had is called back, and waits at
//! home before it leaves again, for the fourth power of that work: so steeply that the stock is of
//! the few jobs with most. Those that would wait no longer than a newcomer are left where they are,
//! so short jobs never come back, and long ones do so a logarithmic number of times. When the home
//! has room that no new job can use, it goes to those that wait, then to those that run elsewhere,
//! the widest first.
//!
//! Where both are full, a job that wants to leave cannot. One that has waited for longer than the
//! starvation bound takes the place of others at home, and is left alone for a turn.

const DAY: u64 = 86_400;
/// Longest wait at once that is not told otherwise.
const PATIENCE_MAX: u64 = 30 * DAY;
/// Beyond so many no job runs: an hour becomes a hundred million years.
const DOUBLINGS_MAX: u32 = 40;

/// How patient a home is. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spill {
    /// A job that has had one GPU-hour divided by this waits for a day, one with twice as much for
    /// sixteen.
    pub rate: f64,
    /// The least that it waits, if it is not served; room at home that is about to come is not
    /// missed then.
    pub patience_min: u64,
    /// The longest that it waits at once.
    pub patience_max: u64,
    /// The least time that a job runs elsewhere: coming back costs a restart.
    pub turn: u64,
    /// For how long a job may want to leave in vain before others make room for it.
    pub starved_after: u64,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            rate: 0.001,
            patience_min: 600,
            patience_max: PATIENCE_MAX,
            turn: 3_600,
            starved_after: 3 * DAY,
        }
    }
}

impl Spill {
    /// How long a job waits at home before it may leave, after so many seconds of work on all its
    /// GPUs.
    #[must_use]
    pub fn patience(&self, gpus: u32, attained: u64) -> u64 {
        let gpu_hours = f64::from(gpus) * attained as f64 / 3_600.0;
        let square = (self.rate * gpu_hours) * (self.rate * gpu_hours);
        let seconds = DAY as f64 * square * square;
        if seconds.is_nan() || seconds <= self.patience_min as f64 {
            return self.patience_min.min(self.patience_max);
        }
        if seconds >= self.patience_max as f64 {
            return self.patience_max;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it lies between 0 and the bound"
        )]
        let seconds = seconds as u64;
        seconds
    }

    /// How long a job that leaves may run elsewhere before it is called back: until it has doubled
    /// its work, and would wait for longer than one that comes. Who would not has nothing to come
    /// back for: he would wait, pay for a restart, and leave again.
    #[must_use]
    pub fn turn(&self, gpus: u32, attained: u64) -> u64 {
        let mut until = attained.saturating_add(attained.max(self.turn));
        for _ in 0..DOUBLINGS_MAX {
            if self.patience(gpus, until) > self.patience(gpus, 0) {
                break;
            }
            until = until.saturating_mul(2);
        }
        until.saturating_sub(attained)
    }

    /// After how long without a start a job of that patience is starved.
    #[must_use]
    pub fn starved_after(&self, patience: u64) -> u64 {
        patience.saturating_add(self.starved_after)
    }

    /// Whether a job that runs at home may have to make room for a starved one, so long after it
    /// started, if it was starved itself.
    #[must_use]
    pub fn may_evict(&self, ran: u64, was_starved: bool) -> bool {
        !was_starved || ran >= self.turn
    }

    /// Whether a job that runs elsewhere may be brought back at once, if the home has room for it.
    #[must_use]
    pub fn may_return(&self, ran_elsewhere: u64) -> bool {
        ran_elsewhere >= self.turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_with_the_fourth_power_of_the_work_between_its_bounds() {
        let spill =
            Spill { rate: 0.1, patience_min: 60, patience_max: 20 * DAY, ..Spill::default() };
        let patience = [0, 1, 5, 10, 20, 200].map(|gpus| spill.patience(gpus, 3_600));
        assert_eq!(patience, [60, 60, DAY / 16, DAY, 16 * DAY, 20 * DAY]);
        assert_eq!(spill.patience(1, 36_000), spill.patience(10, 3_600));
    }

    #[test]
    fn absurd_patience_is_that_of_a_bound() {
        for (rate, patience) in [(f64::NAN, 600), (0.0, 600), (f64::INFINITY, PATIENCE_MAX)] {
            let spill = Spill { rate, ..Spill::default() };
            assert_eq!(spill.patience(8, 1), patience);
        }
        let spill = Spill { patience_min: 5, patience_max: 3, ..Spill::default() };
        assert_eq!(spill.patience(8, 1), 3);
    }

    #[test]
    fn who_was_starved_keeps_a_turn() {
        let spill = Spill::default();
        assert_eq!(spill.starved_after(100), 3 * 86_400 + 100);
        assert!(spill.may_evict(0, false) && spill.may_evict(3_600, true));
        assert!(!spill.may_evict(3_599, true));
    }

    #[test]
    fn a_job_doubles_its_work_before_it_is_called_back_and_has_something_to_wait_for() {
        let spill = Spill { rate: 1.0, ..Spill::default() };
        let turns = [0, 3_600, 7_200].map(|attained| spill.turn(8, attained));
        assert_eq!(turns, [3_600, 3_600, 7_200]);
        assert!(!spill.may_return(3_599) && spill.may_return(3_600));
        // A job of one GPU is as patient as a newcomer until it has had 289 GPU-hours.
        let spill = Spill::default();
        assert_eq!(spill.turn(1, 0), 512 * 3_600);
        assert_eq!(spill.turn(512, 0), 3_600);
        assert_eq!(spill.turn(1, 512 * 3_600), 512 * 3_600);
        let never = Spill { rate: 0.0, ..spill };
        assert!(never.turn(1, 0) > 1 << 50);
    }
}
