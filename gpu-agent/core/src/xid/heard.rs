//! One event, told by several: the driver's lines in the kernel's log, and the management library.
//!
//! The log comes first: it has each event, and what would help. The library is there for nodes whose
//! log cannot be read, and for lines that were lost; of several events at once it knows the last
//! alone, and tells that one for all of them. A program that crashes makes a line for each SM that it
//! ran on. So equal codes of a GPU within a short span are one event, whoever tells it.

use alloc::vec::Vec;

use specs::id::GpuIndex;
use specs::unit::{Instant, Millis};

use super::RECOVERY_CHANGED;

/// How long an equal code of the same GPU is the same event, from when it was first told.
pub const SAME_SPAN: Millis = Millis(5_000);
/// Most events that are remembered; the oldest is forgotten then.
const REMEMBERED_MAX: usize = 1_024;

/// Who tells of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    KernelLog,
    Library,
}

impl Source {
    /// As it is written in metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KernelLog => "kernel-log",
            Self::Library => "library",
        }
    }
}

/// What was told of late.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// In the order of time.
    told: Vec<(Instant, GpuIndex, u32)>,
}

impl Heard {
    /// True if this is an event that nobody told of before.
    pub fn handle_event(&mut self, now: Instant, gpu: GpuIndex, code: u32, source: Source) -> bool {
        // The library does not say which action it is; that is read together with the counters.
        if source == Source::Library && code == RECOVERY_CHANGED {
            return false;
        }
        self.told.retain(|(at, ..)| now.since(*at) < SAME_SPAN);
        if self.told.iter().any(|(_, of, told)| (*of, *told) == (gpu, code)) {
            return false;
        }
        if self.told.len() >= REMEMBERED_MAX {
            self.told.remove(0);
        }
        self.told.push((now, gpu, code));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::Source::{KernelLog, Library};
    use super::*;

    const GPU: GpuIndex = GpuIndex(0);

    #[test]
    fn an_event_counts_once_whoever_tells_it_first() {
        for (first, second) in [(KernelLog, Library), (Library, KernelLog)] {
            let mut it = Heard::default();
            assert!(it.handle_event(Instant(0), GPU, 31, first));
            assert!(!it.handle_event(Instant(4_999), GPU, 31, second));
            assert!(it.handle_event(Instant(5_000), GPU, 31, second), "another one");
        }
    }

    #[test]
    fn other_codes_and_other_gpus_are_other_events() {
        let mut it = Heard::default();
        assert!(it.handle_event(Instant(0), GPU, 31, KernelLog));
        assert!(it.handle_event(Instant(1), GPU, 79, Library));
        assert!(it.handle_event(Instant(1), GpuIndex(1), 31, Library));
        assert!(!it.handle_event(Instant(2), GPU, 79, Library), "the last one, told for all");
    }

    #[test]
    fn lines_that_go_on_are_an_event_again_and_again() {
        let mut it = Heard::default();
        let lines = (0..20_u64).map(|nth| Instant(nth * 1_000));
        let counted = lines.filter(|at| it.handle_event(*at, GPU, 13, KernelLog)).count();
        assert_eq!(counted, 4);
    }

    #[test]
    fn that_an_action_is_wanted_is_the_logs_to_tell() {
        let mut it = Heard::default();
        assert!(!it.handle_event(Instant(0), GPU, 154, Library));
        assert!(it.handle_event(Instant(0), GPU, 154, KernelLog));
    }

    #[test]
    fn a_flood_of_codes_is_remembered_up_to_a_limit() {
        let mut it = Heard::default();
        for code in 1_000..5_000 {
            assert!(it.handle_event(Instant(0), GPU, code, KernelLog));
        }
        assert_eq!(it.told.len(), REMEMBERED_MAX);
        assert!(!it.handle_event(Instant(1), GPU, 4_999, Library));
    }
}
