//! Votes of all SMs: the units and the tensor cores.

use gpu_agent_core::burn_in::vote::{self, Round, Vote};

use super::child::Request;
use super::cuda::{Argument, Failure, Gpu, Kernel, Pinned, Shape};
use super::kernels;

/// Threads of a block, and so warps of an SM.
const THREADS: u32 = 256;
const WARPS: u32 = THREADS / 32;
/// Words of a record.
const RECORD: usize = 8;
/// Nobody lies.
const NOBODY: u32 = u32::MAX;
/// A launch that takes as long is long enough.
const LAUNCH_NANOS: u64 = 50_000_000;
const STEPS_MAX: u32 = 1 << 20;
/// Launches until every SM has taken part, at most.
const TRIES: u32 = 8;

struct Test {
    name: &'static str,
    steps: u32,
    /// False where SMs share what is used.
    is_paced: bool,
}

const fn test(name: &'static str, steps: u32, is_paced: bool) -> Test {
    Test { name, steps, is_paced }
}

const UNITS: &[Test] = &[
    test("unit_integer", 64, true),
    test("unit_float", 64, true),
    test("unit_special", 64, true),
    test("unit_registers", 16, true),
    test("unit_shared", 2, true),
    test("unit_atomic", 32, false),
];
const TENSOR: &[Test] = &[
    test("tensor_bf16", 8, true),
    test("tensor_fp16", 8, true),
    test("tensor_tf32", 8, true),
    test("tensor_int8", 8, true),
    test("tensor_fp64", 8, true),
];
const TENSOR_FP8: &[Test] = &[test("tensor_fp8", 8, true)];

/// The tests of the SMs' units.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn units(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    family(gpu, request, kernels::UNITS, UNITS)
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
    Ok(rounds)
}

fn family(gpu: &Gpu, request: &Request, ptx: &str, tests: &[Test]) -> Result<Vec<Round>, Failure> {
    let names: Vec<&str> = tests.iter().map(|it| it.name).collect();
    let loaded = gpu.load(ptx, &names)?;
    let shared = gpu.shared_alone();
    let bench = Bench {
        gpu,
        shared,
        pinned: gpu.pinned(RECORD * (gpu.info.sms * WARPS) as usize)?,
        scratch: gpu.pinned(64 * gpu.info.sms as usize)?,
    };
    let mut rounds = Vec::new();
    for (nth, (test, kernel)) in tests.iter().zip(&loaded).enumerate() {
        gpu.allow_shared(kernel, shared)?;
        rounds.extend(bench.test(test, kernel, request)?);
        // One lie in each family proves that who differs is seen.
        if nth == 0 {
            let liar = u32::try_from(request.seed % u64::from(gpu.info.sms)).unwrap_or(0);
            rounds.push(bench.round(test, kernel, request.seed, test.steps, Some(liar))?.0);
        }
    }
    Ok(rounds)
}

struct Bench<'a> {
    gpu: &'a Gpu,
    shared: u32,
    pinned: Pinned,
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
            let seed = request.seed.wrapping_add(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let (round, nanos) = self.round(test, kernel, seed, steps, None)?;
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

    /// One round; launched again until all SMs took part.
    fn round(
        &self,
        test: &Test,
        kernel: &Kernel,
        seed: u64,
        steps: u32,
        canary: Option<u32>,
    ) -> Result<(Round, u64), Failure> {
        use Argument::{Long, Word};
        let mut arguments = vec![Long(self.pinned.address()), Long(seed)];
        match test.name {
            "unit_shared" => arguments.push(Word(self.shared / 4)),
            "unit_atomic" => arguments.push(Long(self.scratch.address())),
            _ => {}
        }
        arguments.push(Word(steps));
        if test.name.starts_with("tensor") {
            arguments.push(Word(1));
        }
        arguments.push(Word(canary.unwrap_or(NOBODY)));
        let sms = self.gpu.info.sms;
        let shape = Shape { blocks: sms, threads: THREADS, shared: self.shared };
        let (name, is_paced) = (test.name.to_owned(), test.is_paced);
        let votes = Vec::new();
        let mut round = Round { name, votes, spoiled: 0, sms, canary, is_paced, steps };
        let mut nanos = 0;
        for _ in 0..TRIES {
            self.pinned.clear();
            nanos += self.gpu.timed(|| self.gpu.launch(kernel, shape, &arguments))?;
            take(&self.pinned.read(), &mut round);
            let mut seen: Vec<u32> = round.votes.iter().map(|it| it.sm).collect();
            seen.sort_unstable();
            seen.dedup();
            if seen.len() >= sms as usize {
                break;
            }
        }
        Ok((round, nanos))
    }
}

/// Reads records; those whose checksum is wrong are counted.
fn take(words: &[u32], round: &mut Round) {
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
}
