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
//! home in proportion to that work before it leaves again. Short jobs never come back, and long
//! ones do so a logarithmic number of times. When the home has room that no new job can use, it
//! goes to those that wait, then to those that run elsewhere.

/// How patient a home is. Times are seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spill {
    /// How long a job waits for each GPU-hour that it has had.
    pub patience_per_gpu_hour: f64,
    /// The longest that it waits at once.
    pub patience_max: u64,
    /// The work that a new job is taken to have had, in seconds of all its GPUs.
    pub credit: u64,
    /// The least time that a job runs elsewhere: coming back costs a restart.
    pub turn: u64,
}

impl Default for Spill {
    fn default() -> Self {
        Self { patience_per_gpu_hour: 60.0, patience_max: 7 * 86_400, credit: 60, turn: 3_600 }
    }
}

impl Spill {
    /// How long a job waits at home before it may leave, after so many seconds of work on all its
    /// GPUs.
    #[must_use]
    pub fn patience(&self, gpus: u32, attained: u64) -> u64 {
        let hours = attained.max(self.credit) as f64 / 3_600.0;
        let seconds = self.patience_per_gpu_hour * f64::from(gpus) * hours;
        if seconds.is_nan() || seconds <= 0.0 {
            return 0;
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

    /// How long a job that leaves may run elsewhere before it is called back.
    #[must_use]
    pub fn turn(&self, attained: u64) -> u64 {
        attained.max(self.turn)
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
    fn patience_grows_with_the_work_that_was_done_up_to_its_bound() {
        let spill = Spill { patience_max: 10_000, ..Spill::default() };
        assert_eq!([1, 8].map(|gpus| spill.patience(gpus, 3_600)), [60, 480]);
        assert_eq!([1, 8].map(|gpus| spill.patience(gpus, 36_000)), [600, 4_800]);
        assert_eq!(spill.patience(64, 36_000), 10_000);
    }

    #[test]
    fn a_new_job_is_taken_to_have_had_a_little() {
        let spill = Spill::default();
        assert_eq!(spill.patience(60, 0), spill.patience(60, spill.credit));
        assert_eq!(spill.patience(60, 0), 60);
    }

    #[test]
    fn absurd_patience_is_none_or_the_bound() {
        for (rate, patience) in [(f64::NAN, 0), (-1.0, 0), (f64::INFINITY, 7 * 86_400)] {
            let spill = Spill { patience_per_gpu_hour: rate, ..Spill::default() };
            assert_eq!(spill.patience(8, 1), patience);
        }
    }

    #[test]
    fn a_job_doubles_its_work_before_it_is_called_back() {
        let spill = Spill::default();
        assert_eq!([0, 3_600, 7_200].map(|attained| spill.turn(attained)), [3_600, 3_600, 7_200]);
        assert!(!spill.may_return(3_599) && spill.may_return(3_600));
    }
}
