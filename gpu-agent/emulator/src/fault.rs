//! What can be wrong with an emulated GPU, as the control file says it.

use serde::{Deserialize, Serialize};

use crate::ptx::Class;

/// One planted fault. Addresses are bytes from the beginning of the device's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fault {
    /// A bit of the word of 32 bits at `address` that always reads the same.
    StuckBit { address: u64, bit: u32, one: bool },
    /// The same bit of every 16 bytes of a row.
    StuckRow { address: u64, bytes: u64, bit: u32, one: bool },
    /// What is read or written at `address` is read or written at `to`.
    Alias { address: u64, to: u64, bytes: u64 },
    /// A bit of the word at `address` that falls when nothing writes or reads it for so long, while
    /// no kernel runs either.
    Leak { address: u64, bit: u32, one: bool, millis: u64 },
    /// A bit of the word at `address` that falls when rows beside its own, of so many bytes, were
    /// opened as often since its own was. `one` is what it falls to, as of a leak.
    Disturbed { address: u64, bit: u32, one: bool, row: u64, times: u64 },
    /// Reads by one SM that come with one wrong bit, about once in `every`; right when repeated.
    TransientRead { sm: u32, every: u64, seed: u64 },
    /// Writes by one SM that never arrive, about once in `every`.
    WriteDrop { sm: u32, every: u64, seed: u64 },
    /// Results of one SM's unit with one wrong bit, about once in `every` operations of a warp.
    FlakySm { sm: u32, unit: UnitKind, bit: u32, every: u64, seed: u64 },
    /// The same, in kernels alone whose names begin so: what only some mixtures of work bring out.
    FlakyUnder { kernel: String, sm: u32, unit: UnitKind, bit: u32, every: u64, seed: u64 },
    /// The same on all SMs alike: they agree, and are all wrong.
    WrongUnder { kernel: String, unit: UnitKind, bit: u32, every: u64, seed: u64 },
    /// Reads through one of `sets` sets of lines of the second-level cache, by whichever SM, that
    /// come with one wrong bit, about once in `every`; right when repeated.
    FlakySet { set: u32, sets: u32, bit: u32, every: u64, seed: u64 },
    /// An SM that takes this many thousandths of the cycles that it should.
    SlowSm { sm: u32, permille: u64 },
    /// The same of all SMs alike: the GPU is slow as a whole, and passes by itself.
    SlowGpu { permille: u64 },
    /// Lanes of the link to the host that came up.
    PcieWidth { lanes: u32 },
    /// The generation of the link to the host that came up.
    PcieGeneration { generation: u32 },
    /// A bit that is wrong in each large copy that goes this way, in one byte of it.
    LinkFlip { way: Way, byte: u64, bit: u32 },
    /// What the management library says would bring the GPU back, once it has worked.
    Recovery { action: u32 },
    /// An event that the management library tells of, once the GPU has worked.
    Event { code: u32 },
    /// A kernel, by the beginning of its name, that never ends.
    Hang { kernel: String },
    /// The device falls off the bus when such a kernel is launched.
    Lost { kernel: String },
    /// Such a kernel breaks its context, and all that follows in the process says so.
    Sticky { kernel: String },
    /// A counter that grows when the GPU works.
    Counter { counter: Counter, by: u64 },
    /// A reason for low clocks that is given when the GPU works.
    Throttle { reason: Throttle },
    /// Questions to the management library that are never answered.
    HungManagement,
    /// The driver's version, as CUDA counts: 12,040 is 12.4.
    Release { version: i32 },
    /// What the driver says when it is started: 34 is a stub, 803 a version that does not fit.
    Refusal { code: u32 },
}

/// Ways of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    HostToDevice,
    DeviceToHost,
    /// From this GPU to another.
    Peer,
}

/// Parts of an SM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnitKind {
    Integer,
    Float,
    Special,
    Tensor,
    Shared,
    Shuffle,
    FirstLevel,
    Constant,
}

/// Counters of the management library.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Counter {
    EccCorrected,
    EccUncorrected,
    RemappedCorrectable,
    RemappedUncorrectable,
    RemapPending,
    RemapFailed,
    PcieReplay,
    NvlinkCrc,
    NvlinkReplay,
    NvlinkRecovery,
}

/// Reasons for low clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Throttle {
    /// Normal at full load.
    PowerCap,
    HardwareSlowdown,
    HardwareThermal,
    PowerBrake,
}

impl UnitKind {
    pub(crate) fn class(self) -> Class {
        match self {
            Self::Integer => Class::Integer,
            Self::Float => Class::Float,
            Self::Special => Class::Special,
            Self::Tensor => Class::Tensor,
            Self::Shared => Class::Shared,
            Self::Shuffle => Class::Shuffle,
            Self::FirstLevel => Class::Cached,
            Self::Constant => Class::Constant,
        }
    }
}

/// Fires at random, on average once in `every` times, and at least once in twice as many.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    left: u64,
    every: u64,
    state: u64,
}

impl Trigger {
    pub(crate) fn new(every: u64, seed: u64) -> Self {
        let mut it = Self { left: 0, every: every.max(1), state: seed };
        it.left = it.draw() % (2 * it.every);
        it
    }

    /// When it fires: chance to choose with.
    #[inline]
    pub(crate) fn fire(&mut self) -> Option<u64> {
        if self.left > 0 {
            self.left -= 1;
            return None;
        }
        self.left = self.draw() % (2 * self.every);
        Some(self.draw())
    }

    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

/// A unit of an SM that gives wrong results.
#[derive(Debug, Clone)]
pub(crate) struct Unit {
    pub class: Class,
    pub bit: u32,
    pub trigger: Trigger,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_fires_as_often_as_it_says() {
        let mut it = Trigger::new(100, 7);
        let fired = (0..100_000).filter(|_| it.fire().is_some()).count();
        assert!((800..1_200).contains(&fired), "{fired}");
        let mut always = Trigger::new(1, 7);
        assert!((0..2).any(|_| always.fire().is_some()));
    }
}
