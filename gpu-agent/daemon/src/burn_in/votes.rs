//! Votes of all SMs: the units and the tensor cores.

use gpu_agent_core::burn_in::Severity;
use gpu_agent_core::burn_in::tensor::{self, Exact};
use gpu_agent_core::burn_in::vote::{self, Expected, Round};

use super::ballot::{self, About, Ballot};
use super::child::Request;
use super::cuda::{Argument, Failure, FailureKind, Gpu, Kernel, Pinned};
use super::{arch, caches, kernels, power};

/// A launch that takes as long is long enough.
const LAUNCH_NANOS: u64 = 50_000_000;
const STEPS_MAX: u32 = 1 << 20;

/// What most SMs may differ in by a fault of the kernel, and by hardly any of the GPU.
const UNTRIED: Severity = Severity::Unknown;
/// So many steps are quickly computed by the host as well.
const EXACT_STEPS_MAX: u32 = 16;

pub(super) struct Test {
    pub name: &'static str,
    steps: u32,
    /// False where SMs share what is used.
    is_paced: bool,
    /// How the host computes it too.
    exact: Option<(Exact, Severity)>,
}

impl Test {
    pub(super) const fn new(name: &'static str, steps: u32) -> Self {
        Self { name, steps, is_paced: true, exact: None }
    }

    const fn shared(name: &'static str, steps: u32) -> Self {
        Self { name, steps, is_paced: false, exact: None }
    }

    /// Of an instruction whose layouts no GPU has confirmed yet.
    pub(super) const fn exact(name: &'static str, exact: Exact) -> Self {
        Self { name, steps: 2, is_paced: true, exact: Some((exact, UNTRIED)) }
    }

    fn expected(&self, seed: u64, steps: u32) -> Option<Expected> {
        let (exact, if_most_differ) = self.exact.filter(|_| steps <= EXACT_STEPS_MAX)?;
        Some(Expected { by_warp: tensor::digests(exact, seed, steps).into(), if_most_differ })
    }
}

const UNITS: &[Test] = &[
    Test::new("unit_integer", 64),
    Test::new("unit_float", 64),
    Test::new("unit_special", 64),
    Test::new("unit_registers", 16),
    Test::new("unit_shared", 2),
    Test::shared("unit_atomic", 32),
];
// What its table is cached in may be shared with a neighbour.
const CONSTANT: &[Test] = &[Test::shared("unit_constant", 64)];
const TENSOR: &[Test] = &[
    Test::new("tensor_bf16", 8),
    Test::new("tensor_fp16", 8),
    Test::new("tensor_tf32", 8),
    Test {
        name: "tensor_int8",
        steps: 8,
        is_paced: true,
        exact: Some((Exact::Int8, Severity::Fault)),
    },
    Test::new("tensor_fp64", 8),
];
const TENSOR_FP8: &[Test] = &[Test::new("tensor_fp8", 8)];

/// The tests of the SMs' units.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn units(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    let mut rounds = family(gpu, request, kernels::UNITS, UNITS)?;
    rounds.extend(family(gpu, request, kernels::CONSTANT, CONSTANT)?);
    rounds.extend(caches::rounds(gpu, request)?);
    Ok(rounds)
}

/// The tests of the tensor cores, in the formats that the GPU has.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn tensor(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    let mut rounds = family(gpu, request, kernels::TENSOR, TENSOR)?;
    // On 9.0 and 10.0 this operation is done by the units for fp16: it would say nothing new.
    if matches!(gpu.info.compute, (8, 9) | (12, _)) {
        rounds.extend(family(gpu, request, kernels::TENSOR_FP8, TENSOR_FP8)?);
    }
    if let Some(it) = arch::family(gpu.info.compute) {
        match family(gpu, request, it.ptx, it.tests) {
            Ok(own) => rounds.extend(own),
            Err(failure) if failure.kind == FailureKind::Kernels => {
                rounds.extend(refused(gpu, it, &failure));
            }
            Err(failure) if failure.kind == FailureKind::Trap && it.is_untried => {
                rounds.extend(refused(gpu, it, &failure));
                // Nothing more runs in this process.
                return Ok(rounds);
            }
            Err(failure) => return Err(failure),
        }
    }
    let power = power::rounds(gpu, request);
    rounds.extend(power.map_err(|failure| arch::doubted(gpu.info.compute, failure))?);
    Ok(rounds)
}

/// A driver that does not take kernels for one architecture, or stops them where no GPU has run them
/// before, leaves them unjudged, and nothing else.
fn refused(gpu: &Gpu, of: &arch::Family, failure: &Failure) -> Vec<Round> {
    let round = |test: &Test| {
        let mut round = ballot::empty(gpu, About { name: test.name, ..About::default() });
        round.refused = Some(failure.message.clone());
        round
    };
    of.tests.iter().map(round).collect()
}

fn family(gpu: &Gpu, request: &Request, ptx: &str, tests: &[Test]) -> Result<Vec<Round>, Failure> {
    let names: Vec<&str> = tests.iter().map(|it| it.name).collect();
    let ballot = Ballot::new(gpu)?;
    let loaded = ballot.load(ptx, &names)?;
    let bench = Bench { ballot, scratch: gpu.pinned(64 * gpu.info.sms as usize)? };
    let mut rounds = Vec::new();
    for (nth, (test, kernel)) in tests.iter().zip(&loaded).enumerate() {
        rounds.extend(bench.test(test, kernel, request)?);
        // One lie in each family proves that who differs is seen.
        if nth == 0 {
            let liar = Ballot::liar(request.seed, &rounds);
            rounds.push(bench.round(test, kernel, request.seed, test.steps, Some(liar))?.0);
        }
    }
    Ok(rounds)
}

struct Bench<'a> {
    ballot: Ballot<'a>,
    /// What a test of atomic operations works on beside its own memory. It is the host's, so that
    /// no broken cell is taken for a broken unit.
    scratch: Pinned,
}

impl Bench<'_> {
    /// Rounds until the time is up; all that are not unanimous are kept, and the last.
    fn test(&self, test: &Test, kernel: &Kernel, request: &Request) -> Result<Vec<Round>, Failure> {
        let budget = request.nanos_each();
        let (mut spent, mut steps, mut kept) = (0_u64, test.steps, Vec::new());
        for nth in 0_u64.. {
            let (round, nanos) = self.round(test, kernel, request.seed_of(nth), steps, None)?;
            spent = spent.saturating_add(nanos.max(1));
            let is_last = nth >= 1 && spent >= budget;
            if is_last || nth == 0 || !vote::is_unanimous(&round) {
                kept.push(round);
            }
            if is_last || kept.len() >= 4 {
                break;
            }
            if nanos < LAUNCH_NANOS && budget > 0 {
                steps = (steps * 2).min(STEPS_MAX);
            }
        }
        Ok(kept)
    }

    fn round(
        &self,
        test: &Test,
        kernel: &Kernel,
        seed: u64,
        steps: u32,
        canary: Option<u32>,
    ) -> Result<(Round, u64), Failure> {
        use Argument::{Long, Word};
        let mut between = vec![Long(seed)];
        match test.name {
            "unit_shared" => between.push(Word(self.ballot.shared / 4)),
            "unit_atomic" => between.push(Long(self.scratch.address())),
            _ => {}
        }
        between.push(Word(steps));
        if test.name.starts_with("tensor") {
            between.push(Word(1));
        }
        let (name, is_paced) = (test.name, test.is_paced);
        let expected = test.expected(seed, steps);
        let about = About { name, canary, is_paced, steps, expected };
        self.ballot.round(about, kernel, &between)
    }
}
