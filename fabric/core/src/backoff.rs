//! When to try again: exponential back-off with full jitter. Chance is passed in.

use specs::unit::Millis;

/// How long to wait between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest wait after the first try.
    pub base: Millis,
    /// The longest wait after any try.
    pub cap: Millis,
}

impl Backoff {
    /// The wait after the try numbered `attempt`, from zero: anything from zero to
    /// `base × 2^attempt`, at most `cap`. Full jitter spreads a herd better than any fixed part.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: u64) -> Millis {
        let doubled = 1u64.checked_shl(attempt).unwrap_or(u64::MAX);
        let ceiling = self.base.0.saturating_mul(doubled).min(self.cap.0);
        match ceiling.checked_add(1) {
            Some(values) => Millis(random % values),
            None => Millis(random),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Millis(100), cap: Millis(2_000) };

    #[test]
    fn the_ceiling_doubles_up_to_the_cap() {
        let ceiling = |attempt| {
            (0..10_000).map(|random| BACKOFF.delay(attempt, random)).max().unwrap_or_default()
        };
        assert_eq!(ceiling(0), Millis(100));
        assert_eq!(ceiling(1), Millis(200));
        assert_eq!(ceiling(4), Millis(1_600));
        assert_eq!(ceiling(5), Millis(2_000));
        assert_eq!(ceiling(63), Millis(2_000));
        assert_eq!(ceiling(u32::MAX), Millis(2_000));
    }

    #[test]
    fn the_wait_may_be_nothing_and_extremes_do_not_overflow() {
        assert_eq!(BACKOFF.delay(3, 0), Millis(0));
        let endless = Backoff { base: Millis(u64::MAX), cap: Millis(u64::MAX) };
        assert_eq!(endless.delay(u32::MAX, u64::MAX), Millis(u64::MAX));
    }
}
