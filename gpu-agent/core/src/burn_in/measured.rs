//! The few numbers of a burn-in that a site compares between GPUs of one product: such as depend on
//! the device, and as little as can be on clocks, limits and chance.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::{Deserialize, Serialize};
use specs::measure::Make;
pub use specs::measure::{
    BOTH_WAYS, CLOCK, COPY, DEVICE_TO_HOST, HOST_TO_DEVICE, MEMORY, PEERS, POWER, WARMTH, cycles_of,
};

use super::vote::Round;

/// Bytes that must be moved for their rate to be told. Fewer are over before they say more of the
/// device than of how long a copy takes to begin. Bytes decide and not time: all GPUs of a make have
/// as many, while the slow and the unlucky have more time.
const BYTES_MIN: u64 = 1 << 30;

/// Numbers of one GPU, by name. What was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Measured(pub BTreeMap<String, u64>);

/// What of a burn-in a site compares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    pub measured: Measured,
    /// None if the driver was not asked what the GPU is.
    pub make: Option<Make>,
    /// Software held its clocks down for the sake of power.
    pub is_capped: bool,
}

impl Measured {
    /// Notes a number. Zero is no measurement.
    pub fn add(&mut self, name: &str, value: u64) {
        if value > 0 {
            self.0.insert(name.into(), value);
        }
    }

    /// Notes the median SM's cycles of a round: that of most steps, if there are several.
    pub fn add_round(&mut self, round: &Round) {
        if round.canary.is_some() || !round.is_paced || round.steps == 0 {
            return;
        }
        let mut cycles: alloc::vec::Vec<u64> = round.votes.iter().map(|it| it.cycles).collect();
        cycles.sort_unstable();
        let median = cycles.get(cycles.len() / 2).copied().unwrap_or(0);
        self.add(&cycles_of(&round.name), median.saturating_mul(1_000) / u64::from(round.steps));
    }

    /// Notes how many bytes were moved in a time, if they are enough to say something.
    pub fn add_rate(&mut self, name: &str, bytes: u64, nanos: u64) {
        if bytes >= BYTES_MIN {
            self.add(name, rate(bytes, nanos));
        }
    }
}

/// Bytes per second; zero of no time.
#[must_use]
pub fn rate(bytes: u64, nanos: u64) -> u64 {
    let moved = u128::from(bytes) * 1_000_000_000;
    let rate = moved.checked_div(u128::from(nanos)).unwrap_or(0);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::super::vote::Vote;
    use super::*;

    #[test]
    fn cycles_are_told_for_one_step_whatever_the_length() {
        let round = |steps: u32| Round {
            name: "unit_x".into(),
            votes: vec![Vote { sm: 0, warp: 0, digest: 0, cycles: 7 * u64::from(steps) }],
            spoiled: 0,
            sms: 1,
            canary: None,
            is_paced: true,
            steps,
            expected: None,
            refused: None,
        };
        for steps in [10, 5_000] {
            let mut it = Measured::default();
            it.add_round(&round(steps));
            assert_eq!(it.0[&cycles_of("unit_x")], 7_000);
        }
        let mut it = Measured::default();
        it.add_round(&Round { canary: Some(1), ..round(10) });
        it.add_round(&Round { is_paced: false, ..round(10) });
        assert_eq!(it, Measured::default());
    }

    #[test]
    fn a_rate_is_told_of_many_bytes_alone_however_long_they_took() {
        let mut it = Measured::default();
        it.add_rate(MEMORY, BYTES_MIN, 0);
        for nanos in [1, 1_000_000, 60_000_000_000] {
            it.add_rate(MEMORY, BYTES_MIN - 1, nanos);
        }
        assert_eq!(it, Measured::default());
        it.add_rate(MEMORY, BYTES_MIN, 500_000);
        assert_eq!(it.0[MEMORY], BYTES_MIN * 2_000);
        assert_eq!((rate(3, 1_500_000_000), rate(3, 0)), (2, 0));
    }
}
