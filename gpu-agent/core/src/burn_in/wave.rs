//! A load that is switched on and off, slowly and fast: what draws power in steps shows what a
//! steady load does not. While it lasts, what the SMs say is voted on, and reasons for low clocks
//! are read.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::Finding;
use super::counters;
use super::measured::{self, Measured};

/// The check's name in findings.
pub const CHECK: &str = "wave";

/// How often the load was switched on within a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sweep {
    /// What was wanted, in turns of a second.
    pub hertz: u32,
    pub turns: u32,
    pub nanos: u64,
}

/// What was measured. None where the GPU does not say, and of a load that did not last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wave {
    pub sweeps: Vec<Sweep>,
    /// All bits of reasons for low clocks that were seen.
    pub throttle: Option<u64>,
    pub idle_celsius: Option<u32>,
    /// At the end of a steady load; power and clock are means.
    pub load_celsius: Option<u32>,
    pub load_milliwatts: Option<u64>,
    pub load_megahertz: Option<u64>,
    /// The most that was seen at all.
    pub most_milliwatts: Option<u64>,
}

/// What the reasons for low clocks say; a cap of power that software set is none.
#[must_use]
pub fn judge(wave: &Wave) -> Vec<Finding> {
    counters::throttled(CHECK, wave.throttle)
}

/// Notes what is compared.
pub fn measure(wave: &Wave, into: &mut Measured) {
    let (Some(milliwatts), Some(megahertz)) = (wave.load_milliwatts, wave.load_megahertz) else {
        return;
    };
    into.add(measured::POWER, milliwatts);
    into.add(measured::CLOCK, megahertz.saturating_mul(1_000));
    if let (Some(idle), Some(load)) = (wave.idle_celsius, wave.load_celsius) {
        let microkelvin = u64::from(load.saturating_sub(idle)) * 1_000_000;
        into.add(measured::WARMTH, microkelvin.checked_div(milliwatts).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brake_is_a_fault_and_a_cap_is_not() {
        let with = |bits| Wave { throttle: Some(bits), ..Wave::default() };
        assert_eq!(judge(&with(0x4)), []);
        assert_eq!(judge(&with(0x4 | 0x80 | 0x40)).len(), 2);
        assert_eq!(judge(&Wave::default()), []);
    }

    #[test]
    fn warmth_is_told_for_each_watt_of_a_steady_load() {
        let mut it = Measured::default();
        measure(&Wave::default(), &mut it);
        assert_eq!(it, Measured::default());
        let wave = Wave {
            idle_celsius: Some(40),
            load_celsius: Some(70),
            load_milliwatts: Some(600_000),
            load_megahertz: Some(1_500),
            ..Wave::default()
        };
        measure(&wave, &mut it);
        let read = [measured::CLOCK, measured::POWER, measured::WARMTH].map(|name| it.0[name]);
        assert_eq!(read, [1_500_000, 600_000, 50]);
    }
}
