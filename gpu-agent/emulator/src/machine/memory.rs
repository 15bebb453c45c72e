//! A device's memory and what is pinned of the host's, with the faults of the first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Stop;
use crate::fault::{Fault, Trigger};

mod weak;

use weak::Weak;

/// What a kernel reads and writes.
pub(crate) struct Memory {
    /// Where it begins, as kernels see it.
    pub base: u64,
    words: Vec<u32>,
    /// Bits that are always one and always zero, by word.
    stuck: BTreeMap<u64, (u32, u32)>,
    /// From, to, bytes: what is done to the first is done to the second.
    aliases: Vec<(u64, u64, u64)>,
    /// All that is stuck or aliased lies in here, in bytes from the beginning.
    odd: (u64, u64),
    /// By SM: reads that come wrong once, writes that do not come.
    wrong_reads: BTreeMap<u32, Trigger>,
    lost_writes: BTreeMap<u32, Trigger>,
    /// A set of the second-level cache: which of how many, and the bit of a word that comes wrong.
    flaky_set: Option<(u64, u64, u32, Trigger)>,
    /// Cells that do not hold what they are given.
    weak: Weak,
}

/// Bytes of a line of a cache.
const LINE: usize = 128;

/// Memory of the host that kernels reach, without any fault.
pub(crate) struct Pinned {
    pub at: u64,
    pub words: Box<[AtomicU32]>,
}

impl Pinned {
    pub(crate) fn new(bytes: usize) -> Self {
        let words: Box<[AtomicU32]> =
            (0..bytes.div_ceil(16) * 4).map(|_| AtomicU32::new(0)).collect();
        Self { at: words.as_ptr() as u64, words }
    }

    pub(crate) fn holds(&self, address: u64) -> bool {
        address.checked_sub(self.at).is_some_and(|at| at / 4 < self.words.len() as u64)
    }

    fn slice(&self, address: u64, count: usize) -> Option<&[AtomicU32]> {
        let at = usize::try_from(address.checked_sub(self.at)? / 4).ok()?;
        self.words.get(at..at.checked_add(count)?)
    }
}

impl Memory {
    pub(crate) fn new(base: u64, bytes: u64, faults: &[Fault]) -> Self {
        let words = usize::try_from(bytes / 4).unwrap_or(0);
        let mut it = Self {
            base,
            words: vec![0; words],
            stuck: BTreeMap::new(),
            aliases: Vec::new(),
            odd: (u64::MAX, 0),
            wrong_reads: BTreeMap::new(),
            lost_writes: BTreeMap::new(),
            flaky_set: None,
            weak: Weak::default(),
        };
        for fault in faults {
            it.plant(fault);
        }
        it
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "the others are not the memory's")]
    fn plant(&mut self, fault: &Fault) {
        match fault {
            Fault::StuckBit { address, bit, one } => self.stick(*address, *bit, *one),
            Fault::StuckRow { address, bytes, bit, one } => {
                let row = address / 16 * 16..address + bytes;
                for vector in row.step_by(16) {
                    self.stick(vector + u64::from(bit / 32) * 4, bit % 32, *one);
                }
            }
            Fault::Alias { address, to, bytes } => {
                self.aliases.push((*address, *to, *bytes));
                self.odd = (self.odd.0.min(*address), self.odd.1.max(address + bytes));
            }
            Fault::TransientRead { sm, every, seed } => {
                self.wrong_reads.insert(*sm, Trigger::new(*every, *seed));
            }
            Fault::FlakySet { set, sets, bit, every, seed } => {
                let trigger = Trigger::new(*every, *seed);
                self.flaky_set = Some((u64::from(*set), u64::from(*sets).max(1), *bit, trigger));
            }
            Fault::Leak { .. } | Fault::Disturbed { .. } => self.weak.plant(fault),
            Fault::WriteDrop { sm, every, seed } => {
                self.lost_writes.insert(*sm, Trigger::new(*every, *seed));
            }
            _ => {}
        }
    }

    fn stick(&mut self, address: u64, bit: u32, one: bool) {
        let entry = self.stuck.entry(address / 4).or_default();
        let bit = 1 << (bit % 32);
        if one {
            entry.0 |= bit;
        } else {
            entry.1 |= bit;
        }
        self.odd = (self.odd.0.min(address / 4 * 4), self.odd.1.max(address / 4 * 4 + 4));
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.words.len() as u64 * 4
    }

    /// Where an access to the device goes: its first word.
    #[inline]
    fn place(&self, address: u64, count: usize) -> Option<usize> {
        let mut at = address.checked_sub(self.base)?;
        if at >= self.odd.0 && at < self.odd.1 {
            for (from, to, bytes) in &self.aliases {
                if at >= *from && at < from + bytes {
                    at = to + (at - from);
                    break;
                }
            }
        }
        let first = usize::try_from(at / 4).ok()?;
        (first + count <= self.words.len()).then_some(first)
    }

    #[inline]
    fn is_odd(&self, first: usize, count: usize) -> bool {
        let at = first as u64 * 4;
        at < self.odd.1 && at + count as u64 * 4 > self.odd.0
    }

    /// Reads words for a thread on an SM.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    pub(crate) fn read(
        &mut self,
        pinned: &[Pinned],
        sm: u32,
        address: u64,
        into: &mut [u32],
    ) -> Result<(), Stop> {
        if !address.is_multiple_of(into.len() as u64 * 4) {
            return Err(Stop::Misaligned { address });
        }
        let Some(first) = self.place(address, into.len()) else {
            let found = pinned.iter().find_map(|it| it.slice(address, into.len()));
            let from = found.ok_or(Stop::BadAddress { address })?;
            for (to, from) in into.iter_mut().zip(from) {
                *to = from.load(Ordering::Relaxed);
            }
            return Ok(());
        };
        self.weak.open(&mut self.words, first);
        self.get(first, into);
        if let Some(trigger) = self.wrong_reads.get_mut(&sm)
            && let Some(chance) = trigger.fire()
        {
            let word = usize::try_from(chance >> 32).unwrap_or(0) % into.len();
            into[word] ^= 1 << (chance & 31);
        }
        if let Some((set, sets, bit, trigger)) = &mut self.flaky_set
            && (first * 4 / LINE) as u64 % *sets == *set
            && trigger.fire().is_some()
        {
            into[*bit as usize / 32 % into.len()] ^= 1 << (*bit % 32);
        }
        Ok(())
    }

    /// Writes words for a thread on an SM.
    ///
    /// # Errors
    /// There is no memory.
    #[inline]
    pub(crate) fn write(
        &mut self,
        pinned: &[Pinned],
        sm: u32,
        address: u64,
        from: &[u32],
    ) -> Result<(), Stop> {
        if !address.is_multiple_of(from.len() as u64 * 4) {
            return Err(Stop::Misaligned { address });
        }
        let Some(first) = self.place(address, from.len()) else {
            let found = pinned.iter().find_map(|it| it.slice(address, from.len()));
            let into = found.ok_or(Stop::BadAddress { address })?;
            for (to, from) in into.iter().zip(from) {
                to.store(*from, Ordering::Relaxed);
            }
            return Ok(());
        };
        if let Some(trigger) = self.lost_writes.get_mut(&sm)
            && trigger.fire().is_some()
        {
            return Ok(());
        }
        self.weak.open(&mut self.words, first);
        self.words[first..first + from.len()].copy_from_slice(from);
        Ok(())
    }

    /// No kernel ran for so long.
    pub(crate) fn rest(&mut self, nanos: u64) {
        self.weak.rest(&mut self.words, nanos);
    }

    /// Reads what is held, as the cells give it.
    #[inline]
    fn get(&self, first: usize, into: &mut [u32]) {
        into.copy_from_slice(&self.words[first..first + into.len()]);
        if self.is_odd(first, into.len()) {
            for (word, at) in into.iter_mut().zip(first as u64..) {
                if let Some((ones, zeros)) = self.stuck.get(&at) {
                    *word = (*word | ones) & !zeros;
                }
            }
        }
    }

    /// Changes one word in one go, and says what it was.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn change(
        &mut self,
        pinned: &[Pinned],
        address: u64,
        change: impl Fn(u32) -> u32,
    ) -> Result<u32, Stop> {
        if !address.is_multiple_of(4) {
            return Err(Stop::Misaligned { address });
        }
        if let Some(first) = self.place(address, 1) {
            let mut was = [0];
            self.get(first, &mut was);
            self.words[first] = change(was[0]);
            return Ok(was[0]);
        }
        let found = pinned.iter().find_map(|it| it.slice(address, 1));
        let cell = found.and_then(<[AtomicU32]>::first).ok_or(Stop::BadAddress { address })?;
        let was = cell.load(Ordering::Relaxed);
        cell.store(change(was), Ordering::Relaxed);
        Ok(was)
    }

    /// Copies out for the host, through the same cells.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), Stop> {
        let bad = Stop::BadAddress { address };
        for (nth, byte) in into.iter_mut().enumerate() {
            let at = address + nth as u64;
            let first = self.place(at / 4 * 4, 1).ok_or(bad.clone())?;
            let mut word = [0];
            self.get(first, &mut word);
            *byte = word[0].to_le_bytes()[usize::try_from(at % 4).unwrap_or(0)];
        }
        Ok(())
    }

    /// Copies in for the host.
    ///
    /// # Errors
    /// There is no memory.
    pub(crate) fn copy_in(&mut self, address: u64, from: &[u8]) -> Result<(), Stop> {
        let bad = Stop::BadAddress { address };
        for (nth, byte) in from.iter().enumerate() {
            let at = address + nth as u64;
            let first = self.place(at / 4 * 4, 1).ok_or(bad.clone())?;
            let mut bytes = self.words[first].to_le_bytes();
            bytes[usize::try_from(at % 4).unwrap_or(0)] = *byte;
            self.words[first] = u32::from_le_bytes(bytes);
        }
        Ok(())
    }
}
