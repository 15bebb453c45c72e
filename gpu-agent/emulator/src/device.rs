//! An emulated device: memory, SMs, and what is handed out of it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::control::{Gpu, events};
use crate::fault::{Fault, Trigger, Unit, Way};
use crate::machine::{self, Launch, Memory, Pinned, Sms};

/// Where the first device's memory begins, and how far the next one's is from there: far from
/// where a host's allocations lie.
pub(crate) const BASE: u64 = 0x2000_0000_0000;
const APART: u64 = 1 << 40;
/// What an allocation is a multiple of.
const GRAIN: u64 = 512;
/// Bytes of a copy from which on a fault of a link shows.
const LARGE: usize = 1_024;

/// What a driver answers.
pub(crate) mod code {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const INVALID_VALUE: u32 = 1;
    pub(crate) const OUT_OF_MEMORY: u32 = 2;
    pub(crate) const NOT_INITIALIZED: u32 = 3;
    pub(crate) const NO_DEVICE: u32 = 100;
    pub(crate) const INVALID_DEVICE: u32 = 101;
    pub(crate) const INVALID_CONTEXT: u32 = 201;
    pub(crate) const INVALID_PTX: u32 = 218;
    pub(crate) const INVALID_HANDLE: u32 = 400;
    pub(crate) const NOT_FOUND: u32 = 500;
    pub(crate) const NOT_READY: u32 = 600;
    pub(crate) const ILLEGAL_ADDRESS: u32 = 700;
    pub(crate) const LAUNCH_FAILED: u32 = 719;
    pub(crate) const NOT_SUPPORTED: u32 = 801;
    pub(crate) const UNKNOWN: u32 = 999;
}

pub(crate) struct Device {
    pub index: usize,
    pub gpu: Gpu,
    memory: Memory,
    /// Where and how many bytes.
    taken: BTreeMap<u64, u64>,
    flaky: BTreeMap<u32, Unit>,
    /// By the beginning of a kernel's name.
    flaky_under: Vec<(String, BTreeMap<u32, Unit>)>,
    pace: BTreeMap<u32, u64>,
    /// Kernels that have run, by name.
    known: BTreeSet<String>,
    /// When its last kernel ended, in nanoseconds of the process's life.
    pub ended_at: u64,
    /// What every call is answered from now on.
    pub broken: Option<u32>,
    pub is_hung: bool,
}

impl Device {
    pub(crate) fn new(index: usize, gpu: Gpu) -> Self {
        let memory = Memory::new(BASE + APART * index as u64, gpu.bytes(), &gpu.faults);
        let mut it = Self {
            index,
            gpu,
            memory,
            taken: BTreeMap::new(),
            flaky: BTreeMap::new(),
            flaky_under: Vec::new(),
            pace: BTreeMap::new(),
            known: BTreeSet::new(),
            ended_at: 0,
            broken: None,
            is_hung: false,
        };
        for fault in &it.gpu.faults {
            if let Fault::FlakySm { sm, unit, bit, every, seed } = fault {
                let trigger = Trigger::new(*every, *seed);
                it.flaky.insert(*sm, Unit { class: unit.class(), bit: *bit, trigger });
            }
            if let Fault::FlakyUnder { kernel, sm, unit, bit, every, seed } = fault {
                let trigger = Trigger::new(*every, *seed);
                let unit = Unit { class: unit.class(), bit: *bit, trigger };
                it.flaky_under.push((kernel.clone(), BTreeMap::from([(*sm, unit)])));
            }
            if let Fault::WrongUnder { kernel, unit, bit, every, seed } = fault {
                // Each counts for itself, and all count alike.
                let trigger = Trigger::new(*every, *seed);
                let unit = Unit { class: unit.class(), bit: *bit, trigger };
                let all = (0..it.gpu.sms).map(|sm| (sm, unit.clone()));
                it.flaky_under.push((kernel.clone(), all.collect()));
            }
            if let Fault::SlowSm { sm, permille } = fault {
                it.pace.insert(*sm, *permille);
            }
            if let Fault::SlowGpu { permille } = fault {
                it.pace.extend((0..it.gpu.sms).map(|sm| (sm, *permille)));
            }
        }
        if events::has(index, events::LOST) {
            it.broken = Some(code::NO_DEVICE);
        }
        it
    }

    #[cfg(test)]
    pub(crate) fn memory(&mut self) -> &mut Memory {
        &mut self.memory
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.memory.bytes() - self.taken.values().sum::<u64>()
    }

    /// The first gap that is wide enough.
    pub(crate) fn allocate(&mut self, bytes: u64) -> Result<u64, u32> {
        if bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        let bytes = bytes.next_multiple_of(GRAIN);
        let mut at = self.memory.base;
        for (from, taken) in &self.taken {
            if from - at >= bytes {
                break;
            }
            at = from + taken;
        }
        if at + bytes > self.memory.base + self.memory.bytes() {
            return Err(code::OUT_OF_MEMORY);
        }
        self.taken.insert(at, bytes);
        Ok(at)
    }

    pub(crate) fn free(&mut self, address: u64) -> Result<(), u32> {
        self.taken.remove(&address).map(|_| ()).ok_or(code::INVALID_VALUE)
    }

    pub(crate) fn holds(&self, address: u64) -> bool {
        address >= self.memory.base && address < self.memory.base + self.memory.bytes()
    }

    pub(crate) fn copy_in(&mut self, address: u64, from: &[u8]) -> Result<(), u32> {
        self.memory.copy_in(address, from).map_err(|_| code::INVALID_VALUE)
    }

    pub(crate) fn copy_out(&self, address: u64, into: &mut [u8]) -> Result<(), u32> {
        self.memory.copy_out(address, into).map_err(|_| code::INVALID_VALUE)
    }

    /// What arrives of a copy. Small ones are none of a test's of links.
    pub(crate) fn sent<'a>(&self, way: Way, data: &'a [u8]) -> Cow<'a, [u8]> {
        let mut data = Cow::Borrowed(data);
        for fault in &self.gpu.faults {
            if let Fault::LinkFlip { way: planted, byte, bit } = fault
                && *planted == way
                && data.len() >= LARGE
            {
                let at = usize::try_from(*byte).unwrap_or(0) % data.len();
                data.to_mut()[at] ^= 1 << (bit % 8);
            }
        }
        data
    }

    /// Whether a kernel of this name has not run yet; from now on it has.
    pub(crate) fn is_new(&mut self, kernel: &str) -> bool {
        self.known.insert(kernel.to_owned())
    }

    /// Time that passed before something is done, without a kernel that ran.
    pub(crate) fn rest(&mut self, nanos: u64) {
        self.memory.rest(nanos);
    }

    /// Runs a kernel, or does what was planted for it. What goes wrong shows later, as with a GPU.
    pub(crate) fn launch(&mut self, launch: &Launch, pinned: &[Pinned]) {
        events::note(self.index, events::WORKED);
        let name = launch.kernel.name.as_str();
        let is_meant = |kernel: &String| name.starts_with(kernel.as_str());
        for fault in &self.gpu.faults {
            if let Fault::Hang { kernel } = fault
                && is_meant(kernel)
            {
                self.is_hung = true;
                events::note(self.index, &format!("{} {}", events::HUNG, std::process::id()));
            }
            if let Fault::Sticky { kernel } = fault
                && is_meant(kernel)
            {
                self.broken = Some(code::LAUNCH_FAILED);
            }
            if let Fault::Lost { kernel } = fault
                && is_meant(kernel)
            {
                events::note(self.index, events::LOST);
                self.broken = Some(code::UNKNOWN);
            }
        }
        if self.is_hung || self.broken.is_some() {
            return;
        }
        let under = self.flaky_under.iter_mut().find(|(kernel, _)| name.starts_with(kernel));
        let flaky = under.map_or(&mut self.flaky, |(_, flaky)| flaky);
        let mut sms = Sms { count: self.gpu.sms, flaky, pace: &self.pace };
        if let Err(stop) = machine::run(launch, &mut self.memory, pinned, &mut sms) {
            crate::say(&format!("emulated GPU {}: {name}: {stop}", self.index));
            self.broken = Some(code::ILLEGAL_ADDRESS);
        }
    }
}
