//! Copies between the host and a GPU, within it, and to other GPUs. What arrives is compared word by
//! word: on the GPU by the kernels that test memory, on the host here.

use std::iter;
use std::thread;
use std::time::Duration;

use gpu_agent_core::burn_in::links::{Links, Peers, Transfer, Way, Wrong};

use super::child::Request;
use super::cuda::{self, Argument, Failure, FailureKind, Gpu, Kernel, Pinned, Shape, Stream};
use super::sampler::{Sample, Sampler};
use super::{kernels, memory};

/// Bytes of one copy, at most, and the share of free memory that it may be.
const BYTES_MAX: u64 = 256 << 20;
const SHARE: u64 = 8;
/// Copies that are timed together.
const COPIES: u32 = 8;
/// Wrong words that are told.
const TOLD_MAX: usize = 16;
const THREADS: u32 = 256;
/// Blocks of each SM.
const BLOCKS: u32 = 8;

/// The words of `memory_fill_random`, from the first vector on.
fn words(seed: u64) -> impl Iterator<Item = u32> {
    let (s, t) = (low(seed), low(seed >> 32));
    (0_u32..).flat_map(move |index| {
        let x = kernels::mix(index ^ s);
        [
            x,
            kernels::mix(x ^ t),
            kernels::mix(x.wrapping_add(0x9e37_79b9)),
            kernels::mix(x.wrapping_sub(t)),
        ]
    })
}

fn low(it: u64) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
    let it = it as u32;
    it
}

/// One GPU's kernels that write and check memory.
struct Checker<'a> {
    gpu: &'a Gpu,
    fill: Kernel,
    check: Kernel,
    writers: Pinned,
    log: Pinned,
    bytes: u64,
}

/// What the kernels found.
#[derive(Default)]
struct Seen {
    wrong: Vec<Wrong>,
    /// There was a record for each vector that differed.
    is_all: bool,
    /// It differed, and not in the same way when it was read again: the reader's doing.
    is_unsteady: bool,
}

impl<'a> Checker<'a> {
    fn new(gpu: &'a Gpu, bytes: u64) -> Result<Self, Failure> {
        let names = ["memory_fill_random", "memory_check_random"];
        let mut loaded = gpu.load(kernels::MEMORY, &names)?.into_iter();
        let (Some(fill), Some(check)) = (loaded.next(), loaded.next()) else {
            return Err(Failure::new(FailureKind::Driver, "the kernels are not there"));
        };
        let writers = gpu.pinned((gpu.info.sms * BLOCKS) as usize)?;
        let log = gpu.pinned(memory::HEAD + memory::RECORDS * memory::RECORD)?;
        Ok(Self { gpu, fill, check, writers, log, bytes })
    }

    fn take(&self) -> Result<u64, Failure> {
        let none = || Failure::new(FailureKind::Driver, "no memory of the GPU is free");
        self.gpu.take(self.bytes).ok_or_else(none)
    }

    fn shape(&self) -> Shape {
        Shape { blocks: self.gpu.info.sms * BLOCKS, threads: THREADS, shared: 0 }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.bytes / 16).unwrap_or(u32::MAX)
    }

    fn fill(&self, at: u64, seed: u64) -> Result<(), Failure> {
        use Argument::{Long, Word};
        let writers = Long(self.writers.address());
        let arguments = [Long(at), Word(self.count()), Long(0), Long(seed), Word(0), writers];
        self.gpu.launch(&self.fill, self.shape(), &arguments)?;
        self.gpu.wait()
    }

    /// What is wrong is looked at twice, by other SMs the second time: one that computes something
    /// else than was sent is no link's fault.
    fn check(&self, at: u64, seed: u64) -> Result<Seen, Failure> {
        let mut first = self.check_once(at, seed, 0)?;
        if !first.wrong.is_empty() {
            let second = self.check_once(at, seed, 1)?;
            let are_all_told = first.is_all && second.is_all;
            let is_other = are_all_told && first.wrong != second.wrong;
            first.is_unsteady |= second.is_unsteady || is_other;
            first.wrong.truncate(TOLD_MAX);
        }
        Ok(first)
    }

    fn check_once(&self, at: u64, seed: u64, shift: u32) -> Result<Seen, Failure> {
        use Argument::{Long, Word};
        self.log.clear();
        let arguments = [
            Long(at),
            Word(self.count()),
            Long(0),
            Long(seed),
            Word(0),
            Word(0),
            Word(shift),
            Long(self.writers.address()),
            Long(self.log.address()),
        ];
        self.gpu.launch(&self.check, self.shape(), &arguments)?;
        self.gpu.wait()?;
        Ok(self.seen())
    }

    fn seen(&self) -> Seen {
        let log = self.log.read();
        let count = log[0] as usize;
        let mut seen = Seen { is_all: count <= memory::RECORDS, ..Seen::default() };
        let (records, _) = log[memory::HEAD..].as_chunks::<{ memory::RECORD }>();
        for record in records.iter().take(count) {
            let is_whole = record[memory::RECORD - 1] == kernels::sum(record[..16].iter().copied());
            let [want, got, again] = [2, 6, 10].map(|at| &record[at..at + 4]);
            seen.is_unsteady |= !is_whole || got != again;
            let index = u64::from(record[1]) << 32 | u64::from(record[0]);
            for (nth, (want, got)) in iter::zip(want, got).enumerate() {
                if want != got {
                    let offset = index * 16 + nth as u64 * 4;
                    seen.wrong.push(Wrong { offset, want: *want, got: *got });
                }
            }
        }
        // SMs write their records as they come.
        seen.wrong.sort_unstable_by_key(|it| it.offset);
        seen
    }

    /// Whether memory holds what the GPU itself writes to it.
    fn holds(&self, at: u64, seed: u64) -> Result<bool, Failure> {
        self.fill(at, seed)?;
        let seen = self.check(at, seed)?;
        Ok(seen.wrong.is_empty() && !seen.is_unsteady)
    }
}

/// Tests the links of a GPU.
///
/// # Errors
/// The driver refuses, or the GPU breaks.
pub(super) fn test(gpu: &Gpu, request: &Request) -> Result<Links, Failure> {
    let (free, _) = gpu.settled_bytes()?;
    let bytes = (free / SHARE).min(BYTES_MAX) / 4_096 * 4_096;
    let checker = Checker::new(gpu, bytes)?;
    let words = usize::try_from(bytes / 4).unwrap_or(0);
    let bench = Bench {
        here: [checker.take()?, checker.take()?],
        source: gpu.pinned(words)?,
        sink: gpu.pinned(words)?,
        streams: [gpu.stream()?, gpu.stream()?],
        checker,
        seed: request.seed,
    };
    bench.run(request)
}

struct Bench<'a> {
    checker: Checker<'a>,
    /// Two places on the GPU.
    here: [u64; 2],
    source: Pinned,
    sink: Pinned,
    streams: [Stream; 2],
    seed: u64,
}

impl Bench<'_> {
    fn run(&self, request: &Request) -> Result<Links, Failure> {
        self.source.write(words(self.seed));
        let sampler = Sampler::start(&request.uuid);
        let host = [self.host_to_device()?, self.device_to_host()?, self.both_ways()?];
        let mut links = Links { transfers: host.into(), ..Links::default() };
        self.wake(&sampler)?;
        let samples = sampler.end();
        links.lanes = samples.iter().filter_map(|it| it.lanes).max();
        links.lanes_max = samples.iter().filter_map(|it| it.lanes_max).max();
        links.generation = samples.iter().filter_map(|it| it.generation).max();
        links.generation_max = samples.iter().filter_map(|it| it.generation_max).max();
        self.within(&mut links)?;
        if request.peers {
            self.peers(&mut links)?;
        }
        Ok(links)
    }

    /// Copies on until the link is as fast as it can be, or it will not be: a GPU that idled wakes up
    /// by and by.
    fn wake(&self, sampler: &Sampler) -> Result<(), Failure> {
        const TRIES: u32 = 60;
        const PAUSE: Duration = Duration::from_millis(25);
        let [at, _] = self.here;
        for _ in 0..TRIES {
            let seen = sampler.seen();
            let is_awake = |it: &Sample| match (it.generation, it.generation_max) {
                (Some(is), Some(can)) => is >= can,
                (None, _) | (_, None) => true,
            };
            if seen.is_empty() || seen.iter().any(is_awake) {
                break;
            }
            self.in_once(at, &self.streams[0])?;
            self.checker.gpu.wait()?;
            thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        usize::try_from(self.checker.bytes).unwrap_or(0)
    }

    fn transfer(&self, way: Way, copies: u32, nanos: u64) -> Transfer {
        let (bytes, peer) = (self.checker.bytes * u64::from(copies), String::new());
        Transfer { way, peer, bytes, nanos, wrong: Vec::new(), is_doubtful: false }
    }

    fn in_once(&self, at: u64, stream: &Stream) -> Result<(), Failure> {
        self.checker.gpu.copy_in(at, &self.source, self.bytes(), stream)
    }

    fn out_once(&self, at: u64, stream: &Stream) -> Result<(), Failure> {
        self.checker.gpu.copy_out(&self.sink, at, self.bytes(), stream)
    }

    fn host_to_device(&self) -> Result<Transfer, Failure> {
        let [at, _] = self.here;
        let many = || (0..COPIES).try_for_each(|_| self.in_once(at, &self.streams[0]));
        let nanos = self.checker.gpu.timed(many)?;
        let mut it = self.transfer(Way::HostToDevice, COPIES, nanos);
        self.judge_arrival(at, &mut it)?;
        Ok(it)
    }

    /// What came from the host to a place of the GPU.
    fn judge_arrival(&self, at: u64, it: &mut Transfer) -> Result<(), Failure> {
        let seen = self.checker.check(at, self.seed)?;
        if !seen.wrong.is_empty() {
            it.is_doubtful = seen.is_unsteady || !self.checker.holds(at, self.seed)?;
            it.wrong = seen.wrong;
        }
        Ok(())
    }

    fn device_to_host(&self) -> Result<Transfer, Failure> {
        let [at, _] = self.here;
        let is_sound = self.checker.holds(at, self.seed)?;
        self.sink.clear();
        let many = || (0..COPIES).try_for_each(|_| self.out_once(at, &self.streams[0]));
        let nanos = self.checker.gpu.timed(many)?;
        let mut it = self.transfer(Way::DeviceToHost, COPIES, nanos);
        it.wrong = self.arrived();
        it.is_doubtful = !is_sound;
        Ok(it)
    }

    /// What is wrong of what came to the host.
    fn arrived(&self) -> Vec<Wrong> {
        let differing = self.sink.differing(words(self.seed), TOLD_MAX).into_iter();
        differing.map(|(nth, want, got)| Wrong { offset: nth as u64 * 4, want, got }).collect()
    }

    fn both_ways(&self) -> Result<Transfer, Failure> {
        let [here, there] = self.here;
        let mut is_sound = self.checker.holds(there, self.seed)?;
        // Two addresses that are one place: what comes to one changes what goes from the other.
        self.checker.fill(here, !self.seed)?;
        is_sound &= self.checker.check(there, self.seed)?.wrong.is_empty();
        self.sink.clear();
        let nanos = self.checker.gpu.timed(|| {
            (0..COPIES).try_for_each(|_| {
                self.in_once(here, &self.streams[0])?;
                self.out_once(there, &self.streams[1])
            })
        })?;
        let mut it = self.transfer(Way::BothWays, 2 * COPIES, nanos);
        self.judge_arrival(here, &mut it)?;
        if it.wrong.is_empty() {
            it.wrong = self.arrived();
        }
        it.is_doubtful |= !is_sound;
        Ok(it)
    }

    fn within(&self, links: &mut Links) -> Result<(), Failure> {
        let [from, to] = self.here;
        let gpu = self.checker.gpu;
        links.copy_nanos =
            gpu.timed(|| (0..COPIES).try_for_each(|_| gpu.copy_within(to, from, self.bytes())))?;
        // Each byte is read and written.
        links.copy_bytes = 2 * self.checker.bytes * u64::from(COPIES);
        Ok(())
    }

    /// To all other GPUs that can be reached.
    fn peers(&self, links: &mut Links) -> Result<(), Failure> {
        let gpu = self.checker.gpu;
        let [from, _] = self.here;
        let is_sound = self.checker.holds(from, self.seed)?;
        for info in cuda::devices()?.iter().filter(|it| it.index != gpu.info.index) {
            let other = Gpu::open(info.index)?;
            let Some(peer) = gpu.peer(&other)? else {
                links.peers = links.peers.or_no_access();
                continue;
            };
            other.enter()?;
            let there = Checker::new(&other, self.checker.bytes)?;
            let to = there.take()?;
            gpu.enter()?;
            let copies = || (0..COPIES).try_for_each(|_| peer.copy(to, from, self.bytes()));
            let nanos = gpu.timed(copies)?;
            let mut it = self.transfer(Way::Peer, COPIES, nanos);
            it.peer.clone_from(&info.uuid);
            other.enter()?;
            let seen = there.check(to, self.seed)?;
            if !seen.wrong.is_empty() {
                it.is_doubtful = !is_sound || seen.is_unsteady || !there.holds(to, self.seed)?;
                it.wrong = seen.wrong;
            }
            gpu.enter()?;
            links.transfers.push(it);
            links.peers = Peers::Tested;
        }
        Ok(())
    }
}
