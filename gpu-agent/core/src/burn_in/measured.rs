//! The few numbers of a burn-in that a site compares between GPUs of one product: such as depend on
//! the device, and as little as can be on clocks, limits and chance.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use serde::{Deserialize, Serialize};

use super::vote::Round;

/// Names of numbers, each with its unit last. Those of kernels are made by [`cycles_of`].
pub const MEMORY: &str = "memoryBytesPerSecond";
pub const COPY: &str = "copyBytesPerSecond";
pub const HOST_TO_DEVICE: &str = "hostToDeviceBytesPerSecond";
pub const DEVICE_TO_HOST: &str = "deviceToHostBytesPerSecond";
/// Both at once, added.
pub const BOTH_WAYS: &str = "bothWaysBytesPerSecond";
/// The slowest pair's.
pub const PEERS: &str = "peersBytesPerSecond";
/// The SMs' clock at full load, the power drawn then, and how much warmer each watt makes it.
pub const CLOCK: &str = "loadClockKilohertz";
pub const POWER: &str = "loadPowerMilliwatts";
pub const WARMTH: &str = "warmthMicrokelvinPerMilliwatt";

const CYCLES: &str = "MillicyclesPerStep";

/// The name of a kernel's median cycles, in thousandths for one step of its work on one SM.
#[must_use]
pub fn cycles_of(kernel: &str) -> String {
    format!("{kernel}{CYCLES}")
}

/// Which way a number is better. None for those that are neither.
#[must_use]
pub fn is_more_better(name: &str) -> Option<bool> {
    match name {
        POWER => None,
        WARMTH => Some(false),
        _ => Some(!name.ends_with(CYCLES)),
    }
}

/// Numbers of one GPU, by name. What was not measured is absent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Measured(pub BTreeMap<String, u64>);

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

    /// Notes how many bytes were moved in a time.
    pub fn add_rate(&mut self, name: &str, bytes: u64, nanos: u64) {
        let moved = u128::from(bytes) * 1_000_000_000;
        let rate = moved.checked_div(u128::from(nanos)).unwrap_or(0);
        self.add(name, u64::try_from(rate).unwrap_or(u64::MAX));
    }
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
        it.add_rate(MEMORY, 10, 0);
        assert_eq!(it, Measured::default());
        it.add_rate(MEMORY, 3, 1_500_000_000);
        assert_eq!(it.0[MEMORY], 2);
    }

    #[test]
    fn fewer_cycles_and_less_warmth_are_better_and_power_is_neither() {
        assert_eq!(is_more_better(&cycles_of("tensor_bf16")), Some(false));
        assert_eq!(is_more_better(WARMTH), Some(false));
        assert_eq!(is_more_better(COPY), Some(true));
        assert_eq!(is_more_better(POWER), None);
    }
}
