//! When a snapshot is due. Every member decides for itself, by the entries it has applied, so
//! members that go on from equal snapshots take the next one at the same entry.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use specs::unit::Instant;
use tokio::sync::Notify;

use super::super::config::SnapshotRule;

/// A snapshot is taken only behind entries whose index is a multiple of this: members whose last
/// snapshots differ still meet at the same entries.
const STEP: u64 = 1_024;
/// An entry costs this much in the log besides its command, bytes.
const ENTRY_BYTES: u64 = 64;
/// A snapshot may be put off until the log is so many times as long as it should be.
const HOLD_FACTOR: u64 = 4;
/// After a snapshot the disk has this many times as long without one.
const REST_FACTOR: u64 = 8;

/// What has been applied since the state was last kept for a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Since {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

impl Since {
    pub(crate) fn add(&mut self, command_bytes: usize) {
        self.entries += 1;
        self.bytes += ENTRY_BYTES + command_bytes as u64;
    }

    /// Whether a snapshot is due behind the entry with that index. A large state is not written
    /// again for a short log: the log must be half as long as the state.
    pub(crate) fn is_due(
        &self,
        index: u64,
        rule: SnapshotRule,
        state_bytes: impl FnOnce() -> u64,
        is_held: bool,
    ) -> bool {
        if !index.is_multiple_of(STEP.min(rule.entries).max(1)) {
            return false;
        }
        let factor = if is_held { HOLD_FACTOR } else { 1 };
        let bytes = rule.bytes.max(state_bytes() / 2);
        self.entries >= rule.entries.saturating_mul(factor)
            || self.bytes >= bytes.saturating_mul(factor)
    }
}

/// Between the state machine, which keeps a state when a snapshot is due, and the task that has
/// it written.
#[derive(Debug, Default)]
pub(crate) struct Trigger {
    is_held: AtomicBool,
    is_asked: AtomicBool,
    /// Milliseconds of the monotonic clock.
    rests_until: AtomicU64,
    has_kept: AtomicBool,
    pub(crate) wake: Notify,
}

impl Trigger {
    /// A state was kept to be written.
    pub(crate) fn kept(&self) {
        self.has_kept.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    /// The state that was kept is being written.
    pub(crate) fn taken(&self) {
        self.has_kept.store(false, Ordering::Relaxed);
    }

    /// True if there is something to be written.
    pub(crate) fn is_pending(&self) -> bool {
        self.has_kept.load(Ordering::Relaxed) || self.is_asked.load(Ordering::Relaxed)
    }

    /// Asks for a snapshot of the present state, due or not.
    pub(crate) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
        self.wake.notify_one();
    }

    pub(crate) fn take_asked(&self) -> bool {
        self.is_asked.swap(false, Ordering::Relaxed)
    }

    /// Puts snapshots off, or no longer.
    pub(crate) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Relaxed);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.is_held.load(Ordering::Relaxed)
    }

    pub(crate) fn rest_after(&self, began: Instant, ended: Instant) {
        let took = ended.0.saturating_sub(began.0);
        let until = ended.0.saturating_add(took.saturating_mul(REST_FACTOR));
        self.rests_until.store(until, Ordering::Relaxed);
    }

    pub(crate) fn is_resting(&self, now: Instant) -> bool {
        now.0 < self.rests_until.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: SnapshotRule = SnapshotRule { entries: 10_000, bytes: 1 << 20 };

    fn is_due(entries: u64, bytes: u64, state_bytes: u64, is_held: bool) -> bool {
        Since { entries, bytes }.is_due(10 * STEP, RULE, || state_bytes, is_held)
    }

    #[test]
    fn a_snapshot_is_due_after_many_entries_or_a_long_log() {
        assert!(!is_due(9_999, 0, 0, false) && is_due(10_000, 0, 0, false));
        assert!(!is_due(1, (1 << 20) - 1, 0, false) && is_due(1, 1 << 20, 0, false));
        let since = Since { entries: 1 << 40, bytes: 1 << 40 };
        assert!(!since.is_due(10 * STEP + 1, RULE, || 0, false), "only at common entries");
    }

    #[test]
    fn a_large_state_waits_for_a_log_half_as_long() {
        assert!(!is_due(1, 1 << 29, 1 << 31, false) && is_due(1, 1 << 30, 1 << 31, false));
    }

    #[test]
    fn a_snapshot_is_put_off_but_not_for_ever() {
        assert!(!is_due(39_999, 4 << 19, 0, true));
        assert!(is_due(40_000, 0, 0, true) && is_due(1, 4 << 20, 0, true));
    }

    #[test]
    fn the_disk_rests_after_a_snapshot() {
        let trigger = Trigger::default();
        assert!(!trigger.is_resting(Instant(0)));
        trigger.rest_after(Instant(1_000), Instant(1_500));
        assert!(trigger.is_resting(Instant(5_499)) && !trigger.is_resting(Instant(5_500)));
    }
}
