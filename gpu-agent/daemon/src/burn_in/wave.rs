//! The load of the tensor cores, steady at first, then switched on and off: half of each turn it
//! works, half it rests, from one turn of a second to five thousand. In each turn all SMs vote.

use std::thread;
use std::time::Duration;

use gpu_agent_core::burn_in::vote::{self, Round};
use gpu_agent_core::burn_in::wave::{Sweep, Wave};

use super::arch;
use super::child::Request;
use super::cuda::{Failure, Gpu};
use super::power::Load;
use super::sampler::{Sample, Sampler};

/// Turns of a second.
const HERTZ: [u32; 12] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000];
/// Of the time that units are kept at work, one in so many seconds is used here; of that, a part
/// for a steady load.
const SHARE: u64 = 3;
const STEADY: u64 = 4;
const TURNS_MAX: u64 = 20_000;
/// A launch that takes as long tells how long a step takes.
const PROBE_NANOS: u64 = 1_000_000;
/// Votes that are told, beside the first: such as are not unanimous.
const TOLD_MAX: usize = 4;

/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn test(gpu: &Gpu, request: &Request) -> Result<(Wave, Vec<Round>), Failure> {
    swing(gpu, request).map_err(|failure| arch::doubted(gpu.info.compute, failure))
}

fn swing(gpu: &Gpu, request: &Request) -> Result<(Wave, Vec<Round>), Failure> {
    let idle = Sampler::start(&request.uuid).end();
    let mut bench =
        Bench { gpu, load: Load::brief(gpu, request.seed)?, step: 1, rounds: Vec::new() };
    bench.probe()?;
    let budget = u64::from(request.seconds) * 1_000_000_000 / SHARE;
    let sampler = Sampler::start(&request.uuid);
    let steady = bench.steady(budget / STEADY)?.then(|| sampler.seen());
    let mut sweeps = Vec::new();
    let each = (budget - budget / STEADY) / HERTZ.len() as u64;
    for (nth, hertz) in HERTZ.into_iter().enumerate() {
        let period = 1_000_000_000 / u64::from(hertz);
        let turns = (each / period).min(TURNS_MAX);
        // However short the time, the fastest is tried.
        let turns = if nth + 1 == HERTZ.len() { turns.max(1) } else { turns };
        if turns > 0 {
            let turns = u32::try_from(turns).unwrap_or(u32::MAX);
            sweeps.push(bench.sweep(hertz, period / 2, turns)?);
        }
    }
    let samples = sampler.end();
    let mut wave = Wave { sweeps, ..Wave::default() };
    sum_up(&idle, steady.as_deref().unwrap_or_default(), &samples, &mut wave);
    Ok((wave, bench.rounds))
}

struct Bench<'a> {
    gpu: &'a Gpu,
    load: Load<'a>,
    /// Nanoseconds.
    step: u64,
    rounds: Vec<Round>,
}

impl Bench<'_> {
    /// Finds out how long a step takes.
    fn probe(&mut self) -> Result<(), Failure> {
        let mut steps = 1_u32;
        loop {
            let nanos = self.gpu.timed(|| self.load.start(steps))?;
            let round = self.load.finish(steps)?;
            if nanos >= PROBE_NANOS || steps >= 1 << 20 {
                self.step = (nanos / u64::from(steps)).max(1);
                self.rounds.push(round);
                return Ok(());
            }
            steps *= 2;
        }
    }

    fn steps_of(&self, nanos: u64) -> u32 {
        u32::try_from((nanos / self.step).max(1)).unwrap_or(u32::MAX)
    }

    fn vote(&mut self, steps: u32) -> Result<(), Failure> {
        let round = self.load.finish(steps)?;
        if !vote::is_unanimous(&round) && self.rounds.len() <= TOLD_MAX {
            self.rounds.push(round);
        }
        Ok(())
    }

    /// Keeps the GPU at work without a pause. False if there is no time for it.
    fn steady(&mut self, budget: u64) -> Result<bool, Failure> {
        /// So long is a launch.
        const LAUNCH_NANOS: u64 = 100_000_000;
        let steps = self.steps_of(LAUNCH_NANOS);
        let mut spent = 0;
        while spent < budget {
            spent += self.gpu.timed(|| self.load.start(steps))?.max(1);
            self.vote(steps)?;
        }
        Ok(budget > 0)
    }

    fn sweep(&mut self, hertz: u32, half: u64, turns: u32) -> Result<Sweep, Failure> {
        let (gpu, steps) = (self.gpu, self.steps_of(half));
        let nanos = gpu.timed(|| {
            for _ in 0..turns {
                self.load.start(steps)?;
                self.vote(steps)?;
                thread::sleep(Duration::from_nanos(half));
            }
            Ok(())
        })?;
        Ok(Sweep { hertz, turns, nanos })
    }
}

fn sum_up(idle: &[Sample], steady: &[Sample], all: &[Sample], wave: &mut Wave) {
    let bits = all.iter().filter_map(|it| it.throttle);
    wave.throttle = bits.reduce(|all, it| all | it);
    wave.idle_celsius = idle.iter().find_map(|it| it.celsius);
    wave.most_milliwatts = all.iter().filter_map(|it| it.power_milliwatts).max().map(u64::from);
    // Its second half: by then the power that is told is that of the load.
    let steady = steady.get(steady.len() / 2..).unwrap_or_default();
    let mean = |of: fn(&Sample) -> Option<u32>| {
        let values: Vec<u64> = steady.iter().filter_map(of).map(u64::from).collect();
        values.iter().sum::<u64>().checked_div(values.len() as u64)
    };
    wave.load_milliwatts = mean(|it| it.power_milliwatts);
    wave.load_megahertz = mean(|it| it.clock_megahertz);
    wave.load_celsius = steady.iter().rev().find_map(|it| it.celsius);
}
