//! What brings a GPU back that is beyond the driver's reach: a reset of the GPU, then a restart of
//! the machine, then its power. Each rung is tried twice within a week, then the next.

use alloc::vec::Vec;
use core::fmt;

use specs::unit::Millis;

use super::{Moment, span};

/// Tries of a rung within [`TRIES_SPAN`].
const TRIES_MAX: usize = 2;
const TRIES_SPAN: Millis = Millis(7 * super::DAY);

/// How deep a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rung {
    Gpu,
    Machine,
    Power,
}

impl Rung {
    /// All of them, the gentlest first.
    pub const ALL: [Self; 3] = [Self::Gpu, Self::Machine, Self::Power];

    /// Its name, for commands and files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Machine => "machine",
            Self::Power => "power",
        }
    }

    /// What an operator does.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::Gpu => "reset the GPU",
            Self::Machine => "restart the machine",
            Self::Power => "take the machine off power and back",
        }
    }
}

impl fmt::Display for Rung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the management library says would bring a GPU back (nvml.h,
/// `nvmlDeviceGpuRecoveryAction_t`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    None,
    GpuReset,
    NodeReboot,
    DrainPeers,
    DrainAndReset,
}

impl Recovery {
    /// By the library's number.
    #[must_use]
    pub const fn of(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::None,
            1 => Self::GpuReset,
            2 => Self::NodeReboot,
            3 => Self::DrainPeers,
            4 => Self::DrainAndReset,
            _ => return None,
        })
    }
}

/// The tries of one GPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ladder {
    pub(super) tries: Vec<(Rung, Moment)>,
}

impl Ladder {
    /// The rung to take where one is needed: it, or the next that has a try left.
    pub(super) fn rung(&self, now: Moment, needed: Rung) -> Option<Rung> {
        let recent = |rung: Rung| {
            let of =
                self.tries.iter().filter(|(it, at)| *it == rung && now - at < span(TRIES_SPAN));
            of.count()
        };
        Rung::ALL.into_iter().find(|rung| *rung >= needed && recent(*rung) < TRIES_MAX)
    }

    pub(super) fn note(&mut self, now: Moment, rung: Rung) {
        self.tries.retain(|(_, at)| now - at < span(TRIES_SPAN));
        self.tries.push((rung, now));
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::string::String;

    use specs::codec::Blob;
    use specs::gpu::{BurnInTier, GpuState, SignedProof};
    use specs::id::GpuIndex;
    use specs::unit::Instant;

    use super::super::{BurnIn, DAY, Evidence, Health, Kept, MINUTE, Policy, Reset};
    use super::*;

    const GPU: GpuIndex = GpuIndex(0);
    const OTHER: GpuIndex = GpuIndex(1);

    /// A node with two GPUs and a command that resets.
    struct Node {
        health: Health,
        now: Instant,
    }

    impl Node {
        fn new(policy: Policy, kept: Option<Kept>) -> Self {
            let now = Instant(1_000);
            let health = Health::new(now, [(GPU, kept), (OTHER, None)]).with(policy);
            let mut it = Self { health, now };
            it.busy(&[]);
            it
        }

        fn healthy(policy: Policy) -> Self {
            let mut it = Self::new(policy, None);
            while let Some(burn_in) = it.health.poll_burn_in(it.now) {
                it.pass(burn_in);
            }
            it
        }

        fn busy(&mut self, busy: &[GpuIndex]) {
            let none = BTreeSet::new();
            let busy = busy.iter().copied().collect();
            self.health.handle_wishes(true, &none, &none, busy);
            self.health.handle_timeout(self.now);
        }

        fn wait(&mut self, span: Millis) {
            self.now = self.now.after(span);
            self.health.handle_timeout(self.now);
        }

        fn learn(&mut self, gpu: GpuIndex, evidence: Evidence) {
            self.health.handle_evidence(self.now, gpu, evidence);
        }

        fn pass(&mut self, it: BurnIn) {
            let blob = Blob::default;
            let proof = SignedProof { body: blob(), signature: blob(), certificate: blob() };
            self.learn(it.gpu, Evidence::Passed { tier: it.tier, proof, warning: String::new() });
        }

        fn begin(&mut self) -> Option<BurnIn> {
            self.health.poll_burn_in(self.now)
        }

        fn reset(&mut self) -> Option<Rung> {
            let Reset { gpu, rung } = self.health.poll_reset(self.now)?;
            assert_eq!(gpu, GPU);
            Some(rung)
        }

        fn state(&self) -> GpuState {
            self.health.reports()[0].health.state
        }

        fn why(&self) -> String {
            self.health.reports()[0].health.why.clone()
        }
    }

    const RESETS: Policy = Policy { soaks: true, idle_after: Millis(5 * MINUTE), resets: true };
    const NO_RESETS: Policy = Policy { resets: false, ..RESETS };

    #[test]
    fn an_event_that_asks_for_a_reset_is_followed_by_one_and_by_a_soak() {
        let mut node = Node::healthy(RESETS);
        node.busy(&[GPU]);
        node.learn(GPU, Evidence::Event(95));
        assert_eq!((node.state(), node.reset()), (GpuState::Quarantined, None), "it is in use");
        node.busy(&[]);
        assert_eq!(node.reset(), Some(Rung::Gpu));
        assert_eq!((node.state(), node.reset()), (GpuState::Resetting, None), "once");
        node.health.handle_reset(GPU, Ok(()));
        assert_eq!(node.state(), GpuState::Discovered);
        let burn_in = node.begin().unwrap();
        assert_eq!((burn_in.gpu, burn_in.tier), (GPU, BurnInTier::T3));
        node.pass(burn_in);
        assert_eq!(node.state(), GpuState::Healthy);
    }

    #[test]
    fn a_rung_that_does_not_help_twice_is_followed_by_the_next_until_none_is_left() {
        let mut node = Node::healthy(RESETS);
        node.learn(GPU, Evidence::Event(119));
        let mut rungs = Vec::new();
        while let Some(rung) = node.reset() {
            rungs.push(rung);
            node.health.handle_reset(GPU, Err("no".into()));
            assert_eq!(node.state(), GpuState::Quarantined);
        }
        use Rung::{Gpu, Machine, Power};
        assert_eq!(rungs, [Gpu, Gpu, Machine, Machine, Power, Power]);
        assert!(node.why().contains("no reset helped"), "{}", node.why());
        let mut later = Node::healthy(RESETS);
        later.learn(GPU, Evidence::Event(119));
        for _ in 0..2 {
            assert_eq!(later.reset(), Some(Gpu));
            later.health.handle_reset(GPU, Err("no".into()));
        }
        later.wait(Millis(7 * DAY));
        assert_eq!(later.reset(), Some(Gpu), "a week later");
    }

    #[test]
    fn the_machine_is_restarted_only_when_nothing_uses_any_of_its_gpus() {
        let mut node = Node::healthy(RESETS);
        node.busy(&[OTHER]);
        node.learn(GPU, Evidence::Event(79));
        assert_eq!((node.state(), node.reset()), (GpuState::Quarantined, None));
        node.busy(&[]);
        assert_eq!(node.reset(), Some(Rung::Machine));
    }

    #[test]
    fn what_the_driver_asks_for_is_what_is_done() {
        let mut node = Node::healthy(RESETS);
        node.learn(GPU, Evidence::Recovery(Recovery::None));
        assert_eq!(node.state(), GpuState::Healthy);
        node.learn(GPU, Evidence::Event(95));
        node.learn(GPU, Evidence::Recovery(Recovery::NodeReboot));
        assert_eq!(node.reset(), Some(Rung::Machine));
        assert_eq!(Recovery::of(4), Some(Recovery::DrainAndReset));
        assert_eq!(Recovery::of(9), None);
    }

    #[test]
    fn a_remap_waits_for_the_job_and_then_the_gpu_is_reset() {
        for sign in [Evidence::Event(63), Evidence::RemapPending] {
            let mut node = Node::healthy(RESETS);
            node.busy(&[GPU]);
            node.learn(GPU, sign);
            assert_eq!((node.state(), node.reset(), node.begin()), (GpuState::Suspect, None, None));
            node.busy(&[]);
            assert_eq!(node.reset(), Some(Rung::Gpu));
        }
    }

    #[test]
    fn without_a_command_the_operator_is_told_what_to_do_and_nothing_is_reset() {
        let mut node = Node::healthy(NO_RESETS);
        node.learn(GPU, Evidence::Event(95));
        assert_eq!(node.reset(), None);
        assert!(node.why().contains("Xid 95; reset the GPU"), "{}", node.why());
        let mut node = Node::healthy(NO_RESETS);
        node.learn(GPU, Evidence::Fault("bit 3".into()));
        assert_eq!((node.why().as_str(), node.reset()), ("bit 3", None));
    }

    #[test]
    fn a_fault_that_a_burn_in_found_is_not_reset_away() {
        let mut node = Node::healthy(RESETS);
        node.learn(GPU, Evidence::Fault("bit 3".into()));
        assert_eq!((node.state(), node.reset()), (GpuState::Quarantined, None));
    }

    #[test]
    fn a_new_life_knows_the_tries_and_whether_the_machine_was_restarted() {
        let kept = |node: &Node| node.health.kept(node.now).into_iter().next().unwrap();
        let mut node = Node::healthy(RESETS);
        node.learn(GPU, Evidence::Event(95));
        assert_eq!(node.reset(), Some(Rung::Gpu));
        let mut next = Node::new(RESETS, Some(kept(&node)));
        assert_eq!((next.state(), next.reset()), (GpuState::Quarantined, Some(Rung::Gpu)));
        let mut third = Node::new(RESETS, Some(kept(&next)));
        assert_eq!(third.reset(), Some(Rung::Machine), "two tries were made");
        let mut restarted = kept(&third);
        restarted.history.is_restarted = true;
        assert_eq!(Node::new(RESETS, Some(restarted)).state(), GpuState::Discovered);
    }

    #[test]
    fn three_quarantines_are_a_lemon_over_several_lives() {
        let mut kept = None;
        for expected in [GpuState::Quarantined, GpuState::Quarantined, GpuState::Rma] {
            let mut node = Node::new(RESETS, kept.take());
            let released = BTreeSet::from([GPU]);
            node.health.handle_wishes(true, &BTreeSet::new(), &released, BTreeSet::new());
            node.learn(GPU, Evidence::Fault("bit 3".into()));
            assert_eq!(node.state(), expected);
            kept = node.health.kept(node.now).into_iter().next();
        }
    }

    #[test]
    fn the_first_proof_ever_is_a_soak_and_the_next_is_not() {
        let mut node = Node::new(RESETS, None);
        let first = node.begin().unwrap();
        assert_eq!(first.tier, BurnInTier::T3);
        node.pass(first);
        let other = node.begin().unwrap();
        node.pass(other);
        node.wait(super::super::PROOF_SPAN);
        assert_eq!(node.begin().unwrap().tier, BurnInTier::T2);
        let plain = Policy { soaks: false, ..RESETS };
        assert_eq!(Node::new(plain, None).begin().unwrap().tier, BurnInTier::T2);
    }

    #[test]
    fn idle_moments_are_used_in_turns_and_for_a_hundredth() {
        let mut node = Node::healthy(RESETS);
        assert_eq!(node.begin(), None, "not idle for long");
        node.wait(Millis(5 * MINUTE));
        let (mut used, mut turns) = (0, BTreeSet::new());
        let begun = node.now;
        while node.now.since(begun) < Millis(60 * MINUTE) {
            let Some(slice) = node.begin() else {
                node.wait(Millis(500));
                continue;
            };
            assert_eq!(slice.tier, BurnInTier::T4);
            assert_eq!(node.begin(), None, "one at a time");
            turns.insert(slice.turn);
            node.wait(Millis(2_000));
            used += 2_000;
            node.pass(slice);
        }
        assert!((30_000..=36_000 * 2).contains(&used), "{used}");
        assert!(turns.len() >= 6, "{turns:?}");
        assert_eq!(node.state(), GpuState::Healthy);
    }

    #[test]
    fn an_idle_moment_ends_when_a_job_comes_and_a_proof_is_not_prolonged_by_it() {
        let mut node = Node::healthy(RESETS);
        node.wait(Millis(5 * MINUTE));
        let slice = node.begin().unwrap();
        node.busy(&[GPU]);
        node.health.handle_interrupted(node.now, slice.gpu);
        assert_eq!(node.state(), GpuState::Healthy);
        node.wait(Millis(60 * MINUTE));
        assert_ne!(node.begin().map(|it| it.gpu), Some(GPU), "it is in use");
        node.busy(&[]);
        for _ in 0..7 * 24 {
            node.wait(Millis(60 * MINUTE));
            while let Some(slice) = node.begin() {
                node.pass(slice);
            }
        }
        let renewed = node.health.kept(node.now)[0].valid_for;
        assert!(renewed < super::super::PROOF_SPAN, "{renewed:?}");
    }

    #[test]
    fn a_suspect_is_looked_at_at_once_beside_a_burn_in_of_another() {
        let mut node = Node::healthy(RESETS);
        node.learn(OTHER, Evidence::Fault("bit 3".into()));
        let released = BTreeSet::from([OTHER]);
        node.health.handle_wishes(true, &BTreeSet::new(), &released, BTreeSet::new());
        let soak = node.begin().unwrap();
        assert_eq!((soak.gpu, soak.tier), (OTHER, BurnInTier::T3));
        node.learn(GPU, Evidence::Warning("slow".into()));
        let short = node.begin().unwrap();
        assert_eq!((short.gpu, short.tier), (GPU, BurnInTier::T1));
    }
}
