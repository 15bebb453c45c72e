//! The few numbers of a burn-in that a site compares between GPUs of one product: such as depend on
//! the device, and as little as can be on clocks, limits and chance. And what work came to that is
//! the same for every GPU, of which all SMs agree, and may all be wrong.

use alloc::collections::BTreeMap;
use alloc::string::String;

use serde::{Deserialize, Serialize};
pub use specs::measure::{
    BOTH_WAYS, CLOCK, COPY, DEVICE_TO_HOST, HOST_TO_DEVICE, MEMORY, PEERS, POWER, WARMTH, cycles_of,
};
use specs::measure::{DIGESTS_MAX, Digests, Make};

use super::vote::{self, Round};

/// What the first round of each vote is made from in every burn-in that a site permits. Later rounds
/// are made from chance.
pub const FIRST_SEED: u64 = 0x7370_696c_6c77_6179;
/// Numbers what first rounds do, beside their kernels: which numbers they are made from, how long they
/// go on. To be counted up with any change that makes them give other digests.
pub const RECIPE: u32 = 1;

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
    /// None if its first rounds were made from another seed than [`FIRST_SEED`].
    pub digests: Option<Digests>,
    /// None if the driver was not asked what the GPU is.
    pub make: Option<Make>,
    /// Software held its clocks down for the sake of power.
    pub is_capped: bool,
}

/// Notes what a round's SMs said, if it is the first of its kernel, and what is right is not known here.
pub fn add_digest(by_kernel: &mut BTreeMap<String, u64>, round: &Round) {
    let is_none = round.canary.is_some() || round.expected.is_some() || round.votes.is_empty();
    if is_none || by_kernel.contains_key(&round.name) || by_kernel.len() >= DIGESTS_MAX {
        return;
    }
    if let Some(digest) = vote::digest(round) {
        by_kernel.insert(round.name.clone(), digest);
    }
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

    use super::super::Severity;
    use super::super::vote::{Expected, Vote};
    use super::*;

    fn round(steps: u32) -> Round {
        Round {
            name: "unit_x".into(),
            votes: vec![Vote { sm: 0, warp: 0, digest: 0, cycles: 7 * u64::from(steps) }],
            spoiled: 0,
            sms: 1,
            canary: None,
            is_paced: true,
            is_warm: true,
            steps,
            expected: None,
            refused: None,
        }
    }

    #[test]
    fn the_first_round_of_a_kernel_is_what_it_is_compared_by() {
        let says = |digest: u64| {
            let mut it = round(1);
            it.votes[0].digest = digest;
            it
        };
        let mut told = BTreeMap::new();
        add_digest(&mut told, &Round { canary: Some(0), ..says(1) });
        let expected = Expected { by_warp: vec![2], if_most_differ: Severity::Fault };
        add_digest(&mut told, &Round { expected: Some(expected), ..says(2) });
        add_digest(&mut told, &Round { votes: vec![], refused: Some("no".into()), ..says(3) });
        assert_eq!(told, BTreeMap::new());
        add_digest(&mut told, &says(4));
        add_digest(&mut told, &says(5));
        assert_eq!(told, [("unit_x".into(), vote::digest(&says(4)).unwrap())].into());
    }

    #[test]
    fn cycles_are_told_for_one_step_whatever_the_length() {
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
