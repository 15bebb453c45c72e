//! The small training step on every SM: on operands of our own, of which one kind is computed by
//! the host too, and on those of a failing job.

use gpu_agent_core::burn_in::Severity;
use gpu_agent_core::burn_in::dump::{self, Dump};
use gpu_agent_core::burn_in::golden::{Format, Operands, Shape, Unfit, exact_digests};
use gpu_agent_core::burn_in::vote::{Expected, Round};

use super::ballot::{About, Ballot};
use super::child::Request;
use super::cuda::{Argument, Failure, Gpu, Kernel, Pinned};
use super::{caches, kernels};

/// Repetitions of a step in one launch.
const STEPS: u32 = 1;
/// How often a job's operands go through.
const REPLAYS: usize = 2;

struct Test {
    name: &'static str,
    format: Format,
    is_exact: bool,
}

const TESTS: [Test; 4] = [
    Test { name: "golden_bf16", format: Format::Bf16, is_exact: false },
    Test { name: "golden_fp16", format: Format::Fp16, is_exact: false },
    Test { name: "golden_exact_bf16", format: Format::Bf16, is_exact: true },
    Test { name: "golden_exact_fp16", format: Format::Fp16, is_exact: true },
];

/// The step on operands made from the seed: each kind twice at least, and one lie.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn test(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    let ballot = Ballot::new(gpu)?;
    let kernels = ballot.load(kernels::GOLDEN, &TESTS.map(|it| it.name))?;
    let pinned = Places::new(gpu, Shape::TILE)?;
    let bench = Bench { ballot, pinned };
    let mut rounds = Vec::new();
    for (nth, (test, kernel)) in TESTS.iter().zip(&kernels).enumerate() {
        rounds.extend(caches::vote_on(request, |seed| bench.made(test, kernel, seed, None))?);
        if nth == 0 {
            let liar = Ballot::liar(request.seed, &rounds);
            rounds.push(bench.made(test, kernel, request.seed, Some(liar))?.0);
        }
    }
    Ok(rounds)
}

/// A job's step, as often as it takes to see whether it comes out the same.
///
/// # Errors
/// The file is none, the driver refuses, or the GPU breaks.
pub(super) fn replay(gpu: &Gpu, file: &[u8]) -> Result<Vec<Round>, Failure> {
    let Dump { operands, seed, .. } =
        dump::parse(file).map_err(|error| Failure::driver(error.to_string()))?;
    let name = match operands.format() {
        Format::Bf16 => "golden_bf16",
        Format::Fp16 => "golden_fp16",
    };
    let ballot = Ballot::new(gpu)?;
    let kernels = ballot.load(kernels::GOLDEN, &[name])?;
    let bench = Bench { pinned: Places::new(gpu, operands.shape())?, ballot };
    bench.pinned.fill(&operands);
    let one = |kernel: &Kernel| {
        let about = About { name, steps: STEPS, ..About::default() };
        Ok(bench.step(about, kernel, operands.shape(), seed)?.0)
    };
    kernels.iter().cycle().take(REPLAYS).map(one).collect()
}

struct Bench<'a> {
    ballot: Ballot<'a>,
    pinned: Places,
}

/// Where operands lie: with the host, so that no broken cell is taken for a broken unit.
struct Places {
    x: Pinned,
    w: Pinned,
}

impl Places {
    fn new(gpu: &Gpu, shape: Shape) -> Result<Self, Failure> {
        let (x, w) = shape.counts();
        Ok(Self { x: gpu.pinned(x / 2)?, w: gpu.pinned(w / 2)? })
    }

    fn fill(&self, operands: &Operands) {
        for (place, numbers) in [&self.x, &self.w].into_iter().zip(operands.numbers()) {
            let (pairs, _) = numbers.as_chunks();
            place.fill(pairs.iter().map(|[low, high]| u32::from(*high) << 16 | u32::from(*low)));
        }
    }
}

impl Bench<'_> {
    fn made(
        &self,
        test: &Test,
        kernel: &Kernel,
        seed: u64,
        canary: Option<u32>,
    ) -> Result<(Round, u64), Failure> {
        let unfit = |_: Unfit| Failure::driver("the step's own operands do not fit it");
        let make = if test.is_exact { Operands::whole } else { Operands::random };
        let operands = make(test.format, Shape::TILE, seed).map_err(unfit)?;
        self.pinned.fill(&operands);
        let exact = if test.is_exact { exact_digests(&operands, seed, STEPS) } else { None };
        let expected =
            exact.map(|it| Expected { by_warp: it.into(), if_most_differ: Severity::Fault });
        let about = About { name: test.name, canary, is_paced: false, steps: STEPS, expected };
        self.step(about, kernel, Shape::TILE, seed)
    }

    fn step(
        &self,
        about: About,
        kernel: &Kernel,
        shape: Shape,
        seed: u64,
    ) -> Result<(Round, u64), Failure> {
        use Argument::{Long, Word};
        let tiles = |side: u32| Word(side / gpu_agent_core::burn_in::golden::TILE);
        let between = [
            Long(self.pinned.x.address()),
            Long(self.pinned.w.address()),
            tiles(shape.rows),
            tiles(shape.depth),
            tiles(shape.columns),
            Long(seed),
            Word(STEPS),
        ];
        self.ballot.round(about, kernel, &between)
    }
}
