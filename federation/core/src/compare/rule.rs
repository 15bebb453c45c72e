//! When a number is worse than those of others. A function of numbers alone.
//!
//! Robust statistics: the median, and the median of the distances from it (MAD), which a few GPUs
//! that are far off do not move. 1.4826 MADs of a normal distribution are its standard deviation.

use specs::measure::Lag;

/// Others that there must be, or else nothing is said.
pub(crate) const PEERS_MIN: usize = 8;
/// Burn-ins in a row in which a number must be behind to be a fault although it is not far behind.
pub(crate) const RUNS: usize = 3;

/// Four standard deviations in MADs, in ten-thousandths: 4 × 1.4826.
const FAR: u128 = 59_304;
/// A MAD is taken to be at least one in so many of the median: GPUs that are all alike are no
/// reason to blame one for a trifle.
const MAD_MIN: u128 = 200;
/// How much worse than the median, in per cent of it, is a warning, and is a fault at once.
const WARNING: u128 = 2;
const FAULT: u128 = 8;

/// What the numbers of all GPUs of a make are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spread {
    /// How many there are, with the one that is judged.
    pub count: usize,
    pub median: u64,
    /// The median of the distances from the median.
    pub mad: u64,
}

/// How a number stands beside others. The order is that of gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Grade {
    Sound,
    Low,
    VeryLow,
}

impl Spread {
    /// How much worse than the median; nothing if it is better.
    fn deficit(&self, is_more_better: bool, value: u64) -> u64 {
        if is_more_better {
            self.median.saturating_sub(value)
        } else {
            value.saturating_sub(self.median)
        }
    }

    /// How much worse, in thousandths of the median.
    pub(crate) fn permille(&self, is_more_better: bool, value: u64) -> u32 {
        let deficit = u128::from(self.deficit(is_more_better, value)) * 1_000;
        u32::try_from(deficit / u128::from(self.median.max(1))).unwrap_or(u32::MAX)
    }

    /// How far it is behind. Whoever is not far off beside the spread of all is sound, however low:
    /// a number that differs so much from GPU to GPU says nothing of one.
    pub(crate) fn grade(&self, is_more_better: bool, value: u64) -> Grade {
        if self.count <= PEERS_MIN || self.median == 0 {
            return Grade::Sound;
        }
        let (deficit, median) = (self.deficit(is_more_better, value).into(), self.median.into());
        let mads = |it: u128| it * 10_000 * MAD_MIN;
        let is_far = mads(deficit) > FAR * (u128::from(self.mad) * MAD_MIN).max(median);
        let is_worse_by = |percent: u128| deficit * 100 > median * percent;
        match (is_far, is_worse_by(WARNING), is_worse_by(FAULT)) {
            (true, _, true) => Grade::VeryLow,
            (true, true, false) => Grade::Low,
            (false, _, _) | (true, false, false) => Grade::Sound,
        }
    }
}

/// What the grades of a number say, the last first, each with whether a cap of power explains it: how
/// far the GPU is behind, and for how many runs it has been. Of what is shared with others, once is
/// never a fault.
pub(crate) fn lag(grades: &[(Grade, bool)], is_shared: bool) -> Option<(Lag, usize)> {
    let (last, is_explained) = *grades.first()?;
    let is_low = |it: &&(Grade, bool)| it.0 > Grade::Sound;
    let runs = grades.iter().take(RUNS).take_while(is_low).count();
    let is_often = grades.iter().take_while(|it| it.0 > Grade::Sound && !it.1).count() >= RUNS;
    match last {
        Grade::Sound => None,
        Grade::VeryLow if !is_explained && !is_shared => Some((Lag::Fault, runs)),
        Grade::Low | Grade::VeryLow if is_often => Some((Lag::Fault, runs)),
        Grade::Low | Grade::VeryLow => Some((Lag::Warning, runs)),
    }
}

#[cfg(test)]
mod tests;
