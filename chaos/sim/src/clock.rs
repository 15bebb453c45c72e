//! Time: the world's own, which nobody in it can read, and each machine's clock.

use core::fmt;

use specs::site::CLOCK_DRIFT_PERMILLE_MAX;
use specs::unit::{Instant, Millis, Timestamp};

use crate::rng::Rng;

/// What every clock's rate is given in.
const PPM: u64 = 1_000_000;
/// Wall clocks begin here, in 2026.
const EPOCH_MILLIS: u64 = 1_780_000_000_000;

/// Milliseconds of the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Time(pub(crate) u64);

impl Time {
    pub(crate) fn after(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    pub(crate) fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>3}.{:03}", self.0 / 1_000, self.0 % 1_000)
    }
}

/// A machine's clock: its own offset and its own rate.
#[derive(Debug, Clone)]
pub(crate) struct Clock {
    offset: u64,
    /// Ticks in a million of the world's.
    rate: u64,
    wall_skew: u64,
}

impl Clock {
    pub(crate) fn draw(rng: &mut Rng, is_extreme: bool) -> Self {
        let drift = CLOCK_DRIFT_PERMILLE_MAX * PPM / 1_000;
        // The ends are where margins break.
        let rate = match rng.below(if is_extreme { 2 } else { 4 }) {
            0 => PPM - drift,
            1 => PPM + drift,
            _ => rng.range(PPM - drift, PPM + drift),
        };
        Self { offset: rng.range(0, 1 << 40), rate, wall_skew: rng.range(0, 600_000) }
    }

    /// A clock that counts from a machine's start begins anew.
    pub(crate) fn restart(&mut self, rng: &mut Rng) {
        self.offset = rng.range(0, 1 << 40);
    }

    pub(crate) fn read(&self, now: Time) -> Instant {
        Instant(self.offset + now.0 * self.rate / PPM)
    }

    /// The earliest time at which the clock shows at least `at`.
    pub(crate) fn when(&self, at: Instant) -> Time {
        Time((at.0.saturating_sub(self.offset) * PPM).div_ceil(self.rate))
    }

    pub(crate) fn wall(&self, now: Time) -> Timestamp {
        Timestamp(EPOCH_MILLIS + self.wall_skew + now.0)
    }
}
