//! Work that draws as much power as the tensor cores can, in launches of a chosen length, so that a
//! load can be switched on and off. Long chains hide some wrong bits; what shows is voted on.

use std::cell::Cell;

use gpu_agent_core::burn_in::vote::{self, Round};

use super::arch::{self, Power};
use super::ballot::{About, Ballot};
use super::child::Request;
use super::cuda::{Argument, Failure, FailureKind, Gpu, Kernel};
use super::kernels;

/// What all GPUs have.
const COMMON: (&str, Power) =
    (kernels::TENSOR, Power { name: "tensor_bf16", chain: 64, brief: 64 });

/// A load on all SMs of a GPU.
pub(super) struct Load<'a> {
    ballot: Ballot<'a>,
    kernel: Kernel,
    name: String,
    chain: u32,
    seed: u64,
    /// The kernel had run before the last launch.
    was_warm: Cell<bool>,
}

impl<'a> Load<'a> {
    /// By the GPU's own instruction, or by one that all have.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn new(gpu: &'a Gpu, seed: u64) -> Result<Self, Failure> {
        Self::with(gpu, seed, |it| it.chain)
    }

    /// The same in steps of some tens of microseconds, to be switched thousands of times a second.
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn brief(gpu: &'a Gpu, seed: u64) -> Result<Self, Failure> {
        Self::with(gpu, seed, |it| it.brief)
    }

    fn with(gpu: &'a Gpu, seed: u64, chain: impl Fn(Power) -> u32) -> Result<Self, Failure> {
        let ballot = Ballot::new(gpu)?;
        let load = |(ptx, it): (&str, Power)| -> Result<(Kernel, Power), Failure> {
            let mut kernels = ballot.load(ptx, &[it.name])?;
            let kernel = kernels.pop();
            Ok((kernel.ok_or_else(|| Failure::driver("the load's kernel is missing"))?, it))
        };
        let own = arch::family(gpu.info.compute).and_then(|it| Some((it.ptx, it.power?)));
        let (kernel, it) = match load(own.unwrap_or(COMMON)) {
            Err(failure) if failure.kind == FailureKind::Kernels => load(COMMON)?,
            other => other?,
        };
        let (name, chain) = (it.name, chain(it));
        let name = format!("{}_power", name.trim_end_matches("_power"));
        Ok(Self { ballot, kernel, name, chain, seed, was_warm: Cell::new(false) })
    }

    /// Starts a launch of so many steps on all SMs, and does not wait for it. Launches queue up. How
    /// long a step takes is to be measured (`Gpu::timed`).
    ///
    /// # Errors
    /// The driver refuses.
    pub(super) fn start(&self, steps: u32) -> Result<(), Failure> {
        use Argument::{Long, Word};
        self.was_warm.set(self.kernel.is_warm());
        self.ballot.start(&self.kernel, &[Long(self.seed), Word(steps), Word(self.chain)], None)
    }

    /// Waits for all that was started, and says what the SMs said in the last launch, which had so
    /// many steps, to be judged by `vote::judge`: SMs that differ among themselves were wrong. Equal steps give equal digests.
    ///
    /// # Errors
    /// The GPU breaks.
    pub(super) fn finish(&self, steps: u32) -> Result<Round, Failure> {
        self.ballot.gpu.wait()?;
        let about = About { name: &self.name, is_paced: true, steps, ..About::default() };
        let mut round = self.ballot.empty(about);
        round.is_warm = self.was_warm.get();
        self.ballot.take(&mut round);
        self.ballot.clear();
        Ok(round)
    }
}

/// Rounds of the load for as long as is asked, two at least: the first, the last, and all that are
/// not unanimous.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn rounds(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    /// A launch that takes as long is long enough.
    const LAUNCH_NANOS: u64 = 100_000_000;
    let budget_nanos = request.nanos_each();
    let mut load = Load::new(gpu, request.seed_of(0))?;
    let (mut spent, mut steps, mut kept): (u64, u32, Vec<Round>) = (0, 1, Vec::new());
    loop {
        let nanos = gpu.timed(|| load.start(steps))?;
        let round = load.finish(steps)?;
        spent = spent.saturating_add(nanos.max(1));
        // The first waited for its instructions.
        let is_last = round.is_warm && spent >= budget_nanos;
        if is_last || kept.is_empty() || !vote::is_unanimous(&round) {
            kept.push(round);
        }
        if is_last || kept.len() >= 4 {
            return Ok(kept);
        }
        if nanos < LAUNCH_NANOS {
            steps = steps.saturating_mul(2);
        }
        load.seed = request.seed;
    }
}
