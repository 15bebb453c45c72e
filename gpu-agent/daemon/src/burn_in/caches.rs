//! What lies between an SM and the memory, and between the lanes of a warp. The first-level cache and
//! the ways between lanes are an SM's own, and are voted on. In the second level lies what all SMs
//! wrote and added to; what each reads of it is compared with what should be there.

use gpu_agent_core::burn_in::Severity;
use gpu_agent_core::burn_in::digest::{LANES, WARPS, join};
use gpu_agent_core::burn_in::vote::{self, Expected, Round};

use super::ballot::{About, Ballot};
use super::child::Request;
use super::cuda::{Argument, Failure, Gpu, Kernel, Shape};
use super::kernels;

/// Tenths of the second level that are filled. The rest is for what else there is.
const TENTHS: u64 = 8;
/// What a test of the first level reads, and the least that is filled.
const FIRST_BYTES: u64 = 16 << 10;
const SECOND_BYTES_MAX: u64 = 1 << 30;
const THREADS: u32 = 256;
const STEPS: u32 = 8;
const SHUFFLES: u32 = 64;

struct Bench<'a> {
    ballot: Ballot<'a>,
    /// Fills memory, adds to it.
    fill: Kernel,
    add: Kernel,
    memory: u64,
    /// Vectors of 16 bytes.
    fours: u32,
}

/// All tests, each twice at least, and one lie.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn rounds(gpu: &Gpu, request: &Request) -> Result<Vec<Round>, Failure> {
    use Argument::{Long, Word};
    const NAMES: [&str; 5] =
        ["unit_shuffle", vote::FIRST_LEVEL, vote::SECOND_LEVEL, "cache_fill", "cache_add"];
    let ballot = Ballot::new(gpu)?;
    let loaded = ballot.load(kernels::CACHES, &NAMES)?;
    let Ok([shuffle, first, second, fill, add]) = <[Kernel; 5]>::try_from(loaded) else {
        return Err(Failure::driver("kernels of caches are missing"));
    };
    let bytes = (gpu.second_level_bytes()? * TENTHS / 10).clamp(FIRST_BYTES, SECOND_BYTES_MAX);
    let memory = gpu.take(bytes).ok_or_else(|| Failure::driver("no memory is free for caches"))?;
    let fours = u32::try_from(bytes / 16).unwrap_or(u32::MAX);
    let bench = Bench { ballot, fill, add, memory, fours };
    let shuffles = |seed, canary| {
        let (name, steps) = (NAMES[0], SHUFFLES);
        let about = About { name, canary, is_paced: true, steps, ..About::default() };
        bench.ballot.round(about, &shuffle, &[Long(seed), Word(steps)])
    };
    let mut rounds = vote_on(request, |seed| shuffles(seed, None))?;
    let liar = Ballot::liar(request.seed, &rounds);
    rounds.push(shuffles(request.seed, Some(liar))?.0);
    rounds.extend(vote_on(request, |seed| {
        bench.fill(seed)?;
        let about = About { name: NAMES[1], steps: STEPS, ..About::default() };
        bench.ballot.round(about, &first, &[Long(memory), Long(seed), Word(STEPS)])
    })?);
    rounds.extend(vote_on(request, |seed| bench.second(&second, seed, false))?);
    rounds.extend(vote_on(request, |seed| bench.second(&second, seed, true))?);
    Ok(rounds)
}

impl Bench<'_> {
    fn shape(&self) -> Shape {
        Shape { blocks: self.ballot.gpu.info.sms, threads: THREADS, shared: 0 }
    }

    fn fill(&self, seed: u64) -> Result<(), Failure> {
        use Argument::{Long, Word};
        let arguments = [Long(self.memory), Word(self.fours), Long(seed)];
        self.ballot.gpu.launch(&self.fill, self.shape(), &arguments)
    }

    /// All SMs read what all have written, or what all have added to.
    fn second(&self, kernel: &Kernel, seed: u64, adds: bool) -> Result<(Round, u64), Failure> {
        use Argument::{Long, Word};
        self.fill(seed)?;
        let mut added = 0;
        if adds {
            let shape = self.shape();
            self.ballot.gpu.launch(&self.add, shape, &[Long(self.memory), Word(self.fours)])?;
            added = (1..=shape.blocks).sum();
        }
        // What is right adds nothing to a digest.
        let right = join([seed; LANES]);
        let expected =
            Some(Expected { by_warp: vec![right; WARPS], if_most_differ: Severity::Fault });
        let about = About { name: vote::SECOND_LEVEL, steps: 1, expected, ..About::default() };
        let between = [Long(self.memory), Word(self.fours), Long(seed), Word(added), Word(1)];
        self.ballot.round(about, kernel, &between)
    }
}

/// Rounds with other seeds until the time is up, two at least: the first, the last, and all that are
/// not unanimous.
///
/// # Errors
/// Those of a round.
pub(super) fn vote_on(
    request: &Request,
    round: impl Fn(u64) -> Result<(Round, u64), Failure>,
) -> Result<Vec<Round>, Failure> {
    let (mut spent, mut kept) = (0_u64, Vec::new());
    for turn in 0_u64.. {
        let (round, nanos) = round(request.seed_of(turn))?;
        spent = spent.saturating_add(nanos.max(1));
        let is_last = turn >= 1 && spent >= request.nanos_each();
        if is_last || turn == 0 || !vote::is_unanimous(&round) {
            kept.push(round);
        }
        if is_last || kept.len() >= 4 {
            break;
        }
    }
    Ok(kept)
}
