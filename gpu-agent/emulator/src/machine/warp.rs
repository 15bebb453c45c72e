//! One warp: lanes that stand at the same instruction run it together. Of several groups the one
//! that is furthest behind goes on, so that they meet again where their ways join.

use super::memory::{Memory, Pinned};
use super::registers::Registers;
use super::{LANES, Stop};
use crate::fault::Unit;
use crate::ptx::{AtomKind, Class, Instruction, Kernel, Op, Space, Way};

/// What a warp sees of its block and its device.
pub(crate) struct Surroundings<'a> {
    pub kernel: &'a Kernel,
    pub arguments: &'a [u8],
    pub memory: &'a mut Memory,
    pub pinned: &'a [Pinned],
    pub shared: &'a mut [u32],
    pub sm: u32,
    /// What is wrong with the SM's units.
    pub flaky: Option<&'a mut Unit>,
    /// How much slower its clock makes it seem, in thousandths.
    pub pace: u64,
    /// Cycles that the SM waits for instructions which it has not run before.
    pub cold: u64,
}

/// Cycles that one of this machine's takes. What it runs is short, and stands for more.
const CYCLES: u64 = 512;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Halt {
    Barrier,
    Done,
}

pub(crate) struct Warp {
    pub registers: Registers,
    /// Where groups of lanes stand: position and lanes, the furthest behind last.
    groups: Vec<(u32, u32)>,
    cycles: u64,
    /// It has looked at its clock.
    is_timed: bool,
}

/// What became of an instruction.
enum Next {
    Follow,
    /// These lanes go there.
    Jump(u32, u32),
    /// These lanes have ended.
    End(u32),
    Wait,
}

impl Warp {
    pub(crate) fn new(kernel: &Kernel) -> Self {
        Self { registers: Registers::new(kernel), groups: Vec::new(), cycles: 0, is_timed: false }
    }

    /// Begins again, with these lanes.
    pub(crate) fn begin(&mut self, lanes: u32) {
        self.groups.clear();
        self.groups.push((0, lanes));
        self.cycles = 0;
        self.is_timed = false;
    }

    /// Runs until all lanes have ended or stand at a barrier.
    ///
    /// # Errors
    /// The kernel does what it may not.
    pub(crate) fn run(&mut self, with: &mut Surroundings) -> Result<Halt, Stop> {
        while let Some((at, lanes)) = self.groups.pop() {
            if lanes == 0 {
                continue;
            }
            if self.group(with, at, lanes)? {
                return Ok(Halt::Barrier);
            }
        }
        Ok(Halt::Done)
    }

    /// Runs one group until it is no longer the furthest behind. True at a barrier.
    fn group(&mut self, with: &mut Surroundings, from: u32, of: u32) -> Result<bool, Stop> {
        let kernel = with.kernel;
        let (mut at, mut lanes) = (from, of);
        let others = self.groups.last().map_or(u32::MAX, |group| group.0);
        loop {
            if at >= others {
                self.add(at, lanes);
                return Ok(false);
            }
            let instruction = &kernel.code[at as usize];
            let mask = instruction
                .guard
                .map_or(lanes, |(reg, flip)| lanes & (self.registers.predicate(reg) ^ flip));
            self.cycles += u64::from(instruction.cost);
            let next = if mask == 0 {
                Next::Follow
            } else {
                let is_whole = mask == lanes && self.groups.is_empty();
                self.execute(with, instruction, mask, is_whole)
                    .map_err(|stop| locate(stop, at as usize))?
            };
            match next {
                Next::Follow => at += 1,
                Next::Jump(to, who) if who == lanes => at = to,
                Next::Jump(to, who) => {
                    self.add(at + 1, lanes & !who);
                    self.add(to, who);
                    return Ok(false);
                }
                Next::End(who) if who == lanes => return Ok(false),
                Next::End(who) => {
                    lanes &= !who;
                    at += 1;
                }
                Next::Wait => {
                    self.add(at + 1, lanes);
                    return Ok(true);
                }
            }
        }
    }

    /// Puts a group where it belongs, or to those that stand there.
    fn add(&mut self, at: u32, lanes: u32) {
        match self.groups.binary_search_by(|group| at.cmp(&group.0)) {
            Ok(nth) => self.groups[nth].1 |= lanes,
            Err(nth) => self.groups.insert(nth, (at, lanes)),
        }
    }

    #[inline]
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others work on registers alone")]
    fn execute(
        &mut self,
        with: &mut Surroundings,
        it: &Instruction,
        mask: u32,
        is_whole: bool,
    ) -> Result<Next, Stop> {
        match &it.op {
            Op::Branch(to) => return Ok(Next::Jump(*to, mask)),
            Op::Exit => return Ok(Next::End(mask)),
            Op::Barrier | Op::Shuffle(..) | Op::Ballot(..) | Op::Mma(..) if !is_whole => {
                return Err(Stop::Divergent { at: 0 });
            }
            Op::Mma(_, with) if !self.registers.has_scales_of_one(with) => {
                return Err(Stop::Unsupported("scales that are not one"));
            }
            Op::Barrier => return Ok(Next::Wait),
            Op::Load(..) | Op::Store(..) | Op::Load64(..) | Op::Store64(..) | Op::Atom(..) => {
                self.access(with, &it.op, mask)?;
            }
            Op::Param32(d, at) => {
                let value = u32::from_le_bytes(argument(with.arguments, *at));
                self.registers.set_words(*d, mask, &[value; LANES]);
            }
            Op::Param64(d, at) => {
                let value = u64::from_le_bytes(argument(with.arguments, *at));
                self.registers.set_longs(*d, mask, &[value; LANES]);
            }
            Op::Clock(d) => {
                // Instructions that follow the first look are those that were not there.
                let cold = if self.is_timed { with.cold } else { 0 };
                self.is_timed = true;
                let now = self.cycles * CYCLES * with.pace / 1_000 + cold;
                self.registers.set_longs(*d, mask, &[now; LANES]);
            }
            op => self.compute(op, mask),
        }
        if it.class != Class::Other
            && let Some(unit) = with.flaky.as_deref_mut()
            && unit.class == it.class
            && let Some(chance) = unit.trigger.fire()
        {
            self.spoil(&it.op, unit.bit, mask, chance);
        }
        Ok(Next::Follow)
    }

    /// What works on registers alone.
    #[inline]
    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller has handled the others")]
    fn compute(&mut self, op: &Op, mask: u32) {
        let it = &mut self.registers;
        match op {
            Op::Bin32(op, d, a, b) => it.bin_32(*op, [*d, *a, *b], mask),
            Op::Bin64(op, d, a, b) => it.bin_64(*op, [*d, *a, *b], mask),
            Op::Un32(op, d, a) => it.un_32(*op, *d, *a, mask),
            Op::Un64(op, d, a) => it.un_64(*op, *d, *a, mask),
            Op::Mad32(d, a, b, c) => it.mad_32([*d, *a, *b, *c], mask),
            Op::Mad64(d, a, b, c) => it.mad_64([*d, *a, *b, *c], mask),
            Op::Wide(signed, d, a, b) => it.wide(*signed, [*d, *a, *b], mask),
            Op::MadWide(signed, d, a, b, c) => it.mad_wide(*signed, [*d, *a, *b, *c], mask),
            Op::Float32(op, d, a, b) => it.float_32(*op, [*d, *a, *b], mask),
            Op::Float64(op, d, a, b) => it.float_64(*op, [*d, *a, *b], mask),
            Op::Fma32(d, a, b, c) => it.fma_32([*d, *a, *b, *c], mask),
            Op::Fma64(d, a, b, c) => it.fma_64([*d, *a, *b, *c], mask),
            Op::Sqrt64(d, a) => it.sqrt_64(*d, *a, mask),
            Op::Funnel(d, low, high, by) => it.funnel([*d, *low, *high, *by], mask),
            Op::Permute(d, a, b, by) => it.permute([*d, *a, *b, *by], mask),
            Op::Dot(d, a, b, c) => it.dot([*d, *a, *b, *c], mask),
            Op::Insert32(d, a, b, at, count) => it.insert_32([*d, *a, *b, *at, *count], mask),
            Op::Insert64(d, a, b, at, count) => it.insert_64([*d, *a, *b, *at, *count], mask),
            Op::Extend(signed, d, a) => it.extend(*signed, *d, *a, mask),
            Op::Narrow(d, a) => it.narrow(*d, *a, mask),
            Op::DoubleFrom(signed, d, a) => it.double_from(*signed, *d, *a, mask),
            Op::DoubleFromSingle(d, a) => it.double_from_single(*d, *a, mask),
            Op::SingleFromDouble(d, a) => it.single_from_double(*d, *a, mask),
            Op::Halves(kind, d, high, low) => it.halves(*kind, [*d, *high, *low], mask),
            Op::Pack(d, low, high) => it.pack(*d, *low, *high, mask),
            Op::Unpack(low, high, a) => it.unpack(*low, *high, *a, mask),
            Op::SetP(op, width, p, a, b) => {
                let found = it.compare(*op, *width, *a, *b);
                it.set_predicate(*p, mask, found);
            }
            Op::Predicate(op, d, a, b) => {
                let found = it.logic(*op, *a, *b);
                it.set_predicate(*d, mask, found);
            }
            Op::PredicateNot(d, a) => {
                let found = !it.predicate(*a);
                it.set_predicate(*d, mask, found);
            }
            Op::PredicateSet(d, on) => it.set_predicate(*d, mask, if *on { u32::MAX } else { 0 }),
            Op::Select32(d, a, b, p) => it.select_32([*d, *a, *b, *p], mask),
            Op::Select64(d, a, b, p) => it.select_64([*d, *a, *b, *p], mask),
            Op::Shuffle(way, d, a, by) => {
                let (from, by) = (*it.word(*a), *it.word(*by));
                let out = std::array::from_fn(|lane| from[source(*way, lane, by[lane])]);
                it.set_words(*d, mask, &out);
            }
            Op::Ballot(d, p) => {
                let all = it.predicate(*p) & mask;
                it.set_words(*d, mask, &[all; LANES]);
            }
            Op::Mma(kind, fragments) => it.multiply(*kind, fragments),
            _ => {}
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the caller has handled the others")]
    fn access(&mut self, with: &mut Surroundings, op: &Op, mask: u32) -> Result<(), Stop> {
        match op {
            Op::Load(space, into, at, offset) => {
                let addresses = *self.registers.long(*at);
                for lane in lanes(mask) {
                    let address = addresses[lane].wrapping_add_signed(*offset);
                    let mut words = [0_u32; 4];
                    let words = &mut words[..into.len()];
                    with.read(*space, address, words)?;
                    for (reg, word) in into.iter().zip(words) {
                        self.registers.word_mut(*reg)[lane] = *word;
                    }
                }
            }
            Op::Store(space, from, at, offset) => {
                let addresses = *self.registers.long(*at);
                for lane in lanes(mask) {
                    let address = addresses[lane].wrapping_add_signed(*offset);
                    let mut words = [0_u32; 4];
                    for (word, reg) in words.iter_mut().zip(from) {
                        *word = self.registers.word(*reg)[lane];
                    }
                    with.write(*space, address, &words[..from.len()])?;
                }
            }
            Op::Load64(space, into, at, offset) => {
                let addresses = *self.registers.long(*at);
                for lane in lanes(mask) {
                    let address = addresses[lane].wrapping_add_signed(*offset);
                    let mut words = [0_u32; 8];
                    let words = &mut words[..into.len() * 2];
                    with.read(*space, address, words)?;
                    for (reg, pair) in into.iter().zip(words.chunks_exact(2)) {
                        let value = u64::from(pair[1]) << 32 | u64::from(pair[0]);
                        self.registers.long_mut(*reg)[lane] = value;
                    }
                }
            }
            Op::Store64(space, from, at, offset) => {
                let addresses = *self.registers.long(*at);
                for lane in lanes(mask) {
                    let address = addresses[lane].wrapping_add_signed(*offset);
                    let mut words = [0_u32; 8];
                    for (pair, reg) in words.chunks_exact_mut(2).zip(from) {
                        pair.copy_from_slice(&halves(self.registers.long(*reg)[lane]));
                    }
                    with.write(*space, address, &words[..from.len() * 2])?;
                }
            }
            Op::Atom(space, kind, d, at, offset, value) => {
                let (addresses, values) = (*self.registers.long(*at), *self.registers.word(*value));
                for lane in lanes(mask) {
                    let address = addresses[lane].wrapping_add_signed(*offset);
                    let was = with.change(*space, address, |was| atom(*kind, was, values[lane]))?;
                    self.registers.word_mut(*d)[lane] = was;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Turns one bit of one lane's result round.
    #[expect(clippy::wildcard_enum_match_arm, reason = "no other operation has a class")]
    fn spoil(&mut self, op: &Op, bit: u32, mask: u32, chance: u64) {
        let all: Vec<usize> = lanes(mask).collect();
        let pick = |count: usize| usize::try_from(chance >> 8).unwrap_or(0) % count.max(1);
        let Some(lane) = all.get(pick(all.len())).copied() else { return };
        let words = match op {
            Op::Bin32(_, d, ..) | Op::Mad32(d, ..) | Op::Fma32(d, ..) => *d,
            Op::Float32(_, d, ..) | Op::Un32(_, d, ..) => *d,
            Op::Load(_, into, ..) => into[0],
            Op::Shuffle(_, d, ..) => *d,
            Op::Mma(kind, with) if *kind == crate::ptx::MmaKind::Fp64 => {
                let d = with.d[pick(with.d.len())];
                self.registers.long_mut(d)[lane] ^= 1 << (bit % 64);
                return;
            }
            Op::Mma(_, with) => with.d[pick(with.d.len())],
            _ => return,
        };
        self.registers.word_mut(words)[lane] ^= 1 << (bit % 32);
    }
}

impl Surroundings<'_> {
    #[inline]
    fn read(&mut self, space: Space, address: u64, into: &mut [u32]) -> Result<(), Stop> {
        match space {
            Space::Global => self.memory.read(self.pinned, self.sm, address, into),
            Space::Shared => {
                into.copy_from_slice(self.shared(address, into.len())?);
                Ok(())
            }
            Space::Constant => {
                let at = usize::try_from(address / 4).map_err(|_| Stop::BadAddress { address })?;
                let from = self.kernel.constants.get(at..at + into.len());
                into.copy_from_slice(from.ok_or(Stop::BadAddress { address })?);
                Ok(())
            }
        }
    }

    #[inline]
    fn write(&mut self, space: Space, address: u64, from: &[u32]) -> Result<(), Stop> {
        match space {
            Space::Global => self.memory.write(self.pinned, self.sm, address, from),
            Space::Shared => {
                self.shared(address, from.len())?.copy_from_slice(from);
                Ok(())
            }
            Space::Constant => Err(Stop::BadAddress { address }),
        }
    }

    fn change(
        &mut self,
        space: Space,
        address: u64,
        change: impl Fn(u32) -> u32,
    ) -> Result<u32, Stop> {
        match space {
            Space::Global => self.memory.change(self.pinned, address, change),
            Space::Shared => {
                let cell = self.shared(address, 1)?;
                let was = cell[0];
                cell[0] = change(was);
                Ok(was)
            }
            Space::Constant => Err(Stop::BadAddress { address }),
        }
    }

    fn shared(&mut self, address: u64, count: usize) -> Result<&mut [u32], Stop> {
        if !address.is_multiple_of(count as u64 * 4) {
            return Err(Stop::Misaligned { address });
        }
        let first = usize::try_from(address / 4).map_err(|_| Stop::BadAddress { address })?;
        self.shared.get_mut(first..first + count).ok_or(Stop::BadAddress { address })
    }
}

/// The lane that a lane takes from. Distances count to 31, as the instruction has it.
fn source(way: Way, lane: usize, by: u32) -> usize {
    let by = (by & 31) as usize;
    match way {
        Way::Across => lane ^ by,
        Way::Index => by,
        Way::Below => lane.checked_sub(by).unwrap_or(lane),
        Way::Above => {
            if lane + by < LANES {
                lane + by
            } else {
                lane
            }
        }
    }
}

fn argument<const N: usize>(arguments: &[u8], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    if let Some(from) = arguments.get(at..at + N) {
        bytes.copy_from_slice(from);
    }
    bytes
}

fn lanes(mask: u32) -> impl Iterator<Item = usize> {
    (0..LANES).filter(move |lane| mask >> lane & 1 == 1)
}

#[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
fn halves(value: u64) -> [u32; 2] {
    [value as u32, (value >> 32) as u32]
}

fn atom(kind: AtomKind, was: u32, value: u32) -> u32 {
    match kind {
        AtomKind::Add => was.wrapping_add(value),
        AtomKind::And => was & value,
        AtomKind::Or => was | value,
        AtomKind::Xor => was ^ value,
        AtomKind::Max => was.max(value),
        AtomKind::Min => was.min(value),
        AtomKind::Exchange => value,
    }
}

fn locate(stop: Stop, at: usize) -> Stop {
    if let Stop::Divergent { .. } = stop { Stop::Divergent { at } } else { stop }
}
