//! One block on each SM, which all do the same, and what they say of it.

use std::collections::BTreeSet;

use gpu_agent_core::burn_in::vote::{Expected, Round, Vote};

use super::cuda::{Argument, Failure, Gpu, Kernel, Pinned, Shape};
use super::kernels;

/// Threads of a block, and so warps of an SM.
const THREADS: u32 = 256;
const WARPS: u32 = THREADS / 32;
/// Words of a record.
const RECORD: usize = 8;
/// Nobody lies.
const NOBODY: u32 = u32::MAX;
/// Launches until every SM has taken part, at most.
const TRIES: u32 = 8;

pub(super) struct Ballot<'a> {
    pub gpu: &'a Gpu,
    /// Bytes of shared memory that each block has: so many that two do not fit on an SM.
    pub shared: u32,
    pinned: Pinned,
}

/// What a round is about.
#[derive(Default)]
pub(super) struct About<'a> {
    pub name: &'a str,
    /// Who is told to lie.
    pub canary: Option<u32>,
    /// False where SMs share what is used.
    pub is_paced: bool,
    /// How often each warp does the kernel's work.
    pub steps: u32,
    pub expected: Option<Expected>,
}

impl<'a> Ballot<'a> {
    /// # Errors
    /// There is no memory for records.
    pub(super) fn new(gpu: &'a Gpu) -> Result<Self, Failure> {
        let pinned = gpu.pinned(RECORD * (gpu.info.sms * WARPS) as usize)?;
        Ok(Self { gpu, shared: gpu.shared_alone(), pinned })
    }

    /// Kernels that end with a vote.
    ///
    /// # Errors
    /// The driver does not take them.
    pub(super) fn load(&self, ptx: &str, names: &[&str]) -> Result<Vec<Kernel>, Failure> {
        let kernels = self.gpu.load(ptx, names)?;
        kernels.iter().try_for_each(|it| self.gpu.allow_shared(it, self.shared))?;
        Ok(kernels)
    }

    /// An SM to lie, so that who differs is seen to be found: one that took part, because numbers of
    /// SMs need not follow each other.
    pub(super) fn liar(seed: u64, of: &[Round]) -> u32 {
        let votes = of.first().map_or(&[][..], |round| &round.votes);
        let sms: BTreeSet<u32> = votes.iter().map(|it| it.sm).collect();
        let nth = seed.checked_rem(sms.len() as u64).and_then(|nth| usize::try_from(nth).ok());
        nth.and_then(|nth| sms.into_iter().nth(nth)).unwrap_or(0)
    }

    /// Starts a kernel: its first argument is where records go, its last who lies, and these are
    /// between. Records of an earlier launch are still there.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn start(
        &self,
        kernel: &Kernel,
        between: &[Argument],
        canary: Option<u32>,
    ) -> Result<(), Failure> {
        use Argument::{Long, Word};
        let ends = (Long(self.pinned.address()), Word(canary.unwrap_or(NOBODY)));
        let all: Vec<Argument> =
            [ends.0].into_iter().chain(between.iter().copied()).chain([ends.1]).collect();
        let shape = Shape { blocks: self.gpu.info.sms, threads: THREADS, shared: self.shared };
        self.gpu.launch(kernel, shape, &all)
    }

    /// One round, and nanoseconds; launched again until all SMs took part.
    ///
    /// # Errors
    /// The driver refuses, or the GPU breaks.
    pub(super) fn round(
        &self,
        about: About,
        kernel: &Kernel,
        between: &[Argument],
    ) -> Result<(Round, u64), Failure> {
        let canary = about.canary;
        let mut round = self.empty(about);
        round.is_warm = kernel.is_warm();
        let mut nanos = 0;
        for _ in 0..TRIES {
            self.clear();
            nanos += self.gpu.timed(|| self.start(kernel, between, canary))?;
            if self.take(&mut round) {
                break;
            }
        }
        Ok((round, nanos))
    }

    pub(super) fn empty(&self, about: About) -> Round {
        empty(self.gpu, about)
    }

    /// Forgets records.
    pub(super) fn clear(&self) {
        self.pinned.clear();
    }

    /// Adds the records of what was waited for; those whose checksum is wrong are counted. True if
    /// all SMs have taken part.
    pub(super) fn take(&self, round: &mut Round) -> bool {
        let words = self.pinned.read();
        let (records, _) = words.as_chunks::<RECORD>();
        for [sm, block, warp, sum, low, high, spent_low, spent_high] in records.iter().copied() {
            // What was never written. Whoever is missing is missed by the count of SMs.
            if low | high | spent_low | spent_high == 0 {
                continue;
            }
            let wanted = kernels::sum([sm, block, warp, low, high, spent_low, spent_high]);
            if sum != wanted {
                round.spoiled += 1;
                continue;
            }
            let long = |low: u32, high: u32| u64::from(high) << 32 | u64::from(low);
            let (digest, cycles) = (long(low, high), long(spent_low, spent_high));
            round.votes.push(Vote { sm, warp, digest, cycles });
        }
        let mut seen: Vec<u32> = round.votes.iter().map(|it| it.sm).collect();
        seen.sort_unstable();
        seen.dedup();
        seen.len() >= self.gpu.info.sms as usize
    }
}

/// A round in which nobody has voted yet.
pub(super) fn empty(gpu: &Gpu, about: About) -> Round {
    let About { name, canary, is_paced, steps, expected } = about;
    Round {
        name: name.to_owned(),
        votes: Vec::new(),
        spoiled: 0,
        sms: gpu.info.sms,
        canary,
        is_paced,
        is_warm: false,
        steps,
        expected,
        refused: None,
    }
}
