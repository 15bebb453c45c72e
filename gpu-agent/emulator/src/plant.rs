//! Faults at random places, and whether a report names them.

use serde_json::Value;

use crate::control::{Control, Gpu};
use crate::device::BASE;
use crate::fault::{Counter, Fault, Throttle, UnitKind, Way};

/// Memory of the GPUs that faults are planted in, and what of it the agent leaves to the driver.
const MEMORY_KIB: u64 = 512;
const RESERVE_KIB: u64 = MEMORY_KIB / 256;
const SMS: u64 = 8;

/// Kinds of planted faults.
pub const KINDS: [&str; 22] = [
    "stuck-bit",
    "stuck-row",
    "alias",
    "transient-read",
    "write-drop",
    "flaky-integer",
    "flaky-float",
    "flaky-special",
    "flaky-tensor",
    "flaky-shared",
    "flaky-shuffle",
    "flaky-l1",
    "flaky-l2",
    "flaky-golden",
    "slow-sm",
    "pcie-width",
    "link-flip",
    "counter",
    "throttle",
    "hang",
    "lost",
    "sticky",
];

/// Kinds that only a soak finds.
pub const SOAK_KINDS: [&str; 2] = ["leak", "disturbed"];

/// Numbers that look random, from a seed.
pub struct Chance(u64);

impl Chance {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x5711_1aa7)
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// From `low` to below `high`.
    pub fn within(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low)
    }

    fn small(&mut self, low: u64, high: u64) -> u32 {
        u32::try_from(self.within(low, high)).unwrap_or(0)
    }

    fn of<T: Copy, const N: usize>(&mut self, all: [T; N]) -> T {
        all[usize::try_from(self.draw() % N as u64).unwrap_or(0)]
    }
}

/// A node with one GPU that has this fault, or none.
#[must_use]
pub fn control(faults: Vec<Fault>) -> Control {
    let sms = u32::try_from(SMS).unwrap_or(1);
    Control { gpus: vec![Gpu { memory_kib: MEMORY_KIB, sms, faults, ..Gpu::default() }] }
}

/// A fault of a kind at a random place; none for a kind that is not known.
#[must_use]
pub fn plant(kind: &str, chance: &mut Chance) -> Option<Fault> {
    let bytes = (MEMORY_KIB - RESERVE_KIB) << 10;
    let sm = chance.small(0, SMS);
    let seed = chance.draw() >> 1;
    let one = chance.draw() & 1 == 1;
    let kernel = chance.of(["unit_", "tensor_", "memory_fill", "memory_check"]).to_owned();
    let flaky = |unit, every: u64, bit| Fault::FlakySm { sm, unit, bit, every, seed };
    Some(match kind {
        "stuck-bit" => {
            let address = chance.within(0, bytes / 4) * 4;
            Fault::StuckBit { address, bit: chance.small(0, 32), one }
        }
        "leak" | "disturbed" => weak(kind, chance),
        "stuck-row" => {
            let row = chance.of([128, 256, 512, 1_024]);
            let address = chance.within(0, bytes / row) * row;
            Fault::StuckRow { address, bytes: row, bit: chance.small(0, 128), one }
        }
        "alias" => {
            let size = chance.of([16, 32, 64, 128]);
            let address = chance.within(0, bytes / size) * size;
            let away = chance.within(1, bytes / size) * size;
            Fault::Alias { address, to: (address + away) % (bytes / size * size), bytes: size }
        }
        "transient-read" => Fault::TransientRead { sm, every: chance.within(200, 3_000), seed },
        "write-drop" => Fault::WriteDrop { sm, every: chance.within(200, 3_000), seed },
        "flaky-integer" => flaky(UnitKind::Integer, chance.within(20, 400), chance.small(0, 32)),
        "flaky-float" => flaky(UnitKind::Float, chance.within(5, 100), chance.small(0, 32)),
        "flaky-special" => flaky(UnitKind::Special, chance.within(5, 100), chance.small(0, 32)),
        "flaky-tensor" => flaky(UnitKind::Tensor, chance.within(5, 50), chance.small(0, 32)),
        "flaky-shared" => flaky(UnitKind::Shared, chance.within(5, 100), chance.small(0, 32)),
        "flaky-shuffle" => flaky(UnitKind::Shuffle, chance.within(5, 100), chance.small(0, 32)),
        "flaky-l1" => flaky(UnitKind::FirstLevel, chance.within(5, 100), chance.small(0, 32)),
        "flaky-l2" => {
            let sets = chance.of([16, 32, 64]);
            let (set, bit) = (chance.small(0, u64::from(sets)), chance.small(0, 128));
            Fault::FlakySet { set, sets, bit, every: chance.within(40, 200), seed }
        }
        "flaky-golden" => {
            let unit = chance.of([UnitKind::Tensor, UnitKind::Special, UnitKind::Float]);
            let (every, bit) = (chance.within(5, 60), chance.small(0, 32));
            let kernel = "golden".to_owned();
            Fault::FlakyUnder { kernel, sm, unit, bit, every, seed }
        }
        "slow-sm" => Fault::SlowSm { sm, permille: chance.within(1_030, 1_500) },
        "pcie-width" => Fault::PcieWidth { lanes: chance.of([1, 2, 4, 8]) },
        "link-flip" => {
            let way = chance.of([Way::HostToDevice, Way::DeviceToHost]);
            Fault::LinkFlip { way, byte: chance.within(0, 4_096), bit: chance.small(0, 8) }
        }
        "counter" => {
            use Counter::{EccUncorrected, RemapFailed, RemapPending, RemappedUncorrectable};
            let all = [EccUncorrected, RemappedUncorrectable, RemapPending, RemapFailed];
            Fault::Counter { counter: chance.of(all), by: chance.within(1, 9) }
        }
        "throttle" => {
            use Throttle::{HardwareSlowdown, HardwareThermal, PowerBrake};
            Fault::Throttle { reason: chance.of([HardwareSlowdown, HardwareThermal, PowerBrake]) }
        }
        "hang" => Fault::Hang { kernel },
        "lost" => Fault::Lost { kernel },
        "sticky" => Fault::Sticky { kernel },
        _ => return None,
    })
}

/// A cell that only a soak finds.
fn weak(kind: &str, chance: &mut Chance) -> Fault {
    let bytes = (MEMORY_KIB - RESERVE_KIB) << 10;
    let one = chance.draw() & 1 == 1;
    let bit = chance.small(0, 32);
    if kind == "leak" {
        let address = chance.within(0, bytes / 4) * 4;
        return Fault::Leak { address, bit, one, millis: chance.within(200, 450) };
    }
    let row = chance.of([1_024, 2_048, 4_096, 8_192]);
    // Not in the last, small pieces of memory: they have too few rows.
    let address = chance.within(0, bytes * 7 / 8 / 4) * 4;
    Fault::Disturbed { address, bit, one, row, times: chance.within(40, 200) }
}

/// What is no fault, and must not be taken for one.
#[must_use]
pub fn harmless(chance: &mut Chance) -> Vec<Fault> {
    match chance.draw() % 4 {
        0 => vec![Fault::Throttle { reason: Throttle::PowerCap }],
        1 => vec![Fault::Counter { counter: Counter::EccCorrected, by: chance.within(1, 99) }],
        _ => Vec::new(),
    }
}

/// What a report says of a planted fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// The GPU did not pass, and a fault is named.
    pub is_found: bool,
    /// What is named is what was planted, and nothing else is.
    pub is_located: bool,
}

/// Compares a report with what was planted.
#[must_use]
pub fn judge(report: &Value, fault: &Fault) -> Judged {
    let findings = report["gpus"][0]["findings"].as_array().cloned().unwrap_or_default();
    let blames: Vec<&Value> =
        findings.iter().filter(|it| it["severity"] == "fault").map(|it| &it["blame"]).collect();
    let is_found = report["verdict"] == "fault" && !blames.is_empty();
    let is_right = blames.iter().any(|it| is_exact(it, fault));
    let is_clear = blames.iter().all(|it| is_exact(it, fault) || is_neutral(it, fault));
    Judged { is_found, is_located: is_found && is_right && is_clear }
}

/// Says what a finding names no place of, and what a fault also does.
fn is_neutral(blame: &Value, fault: &Fault) -> bool {
    let is_unit = matches!(fault, Fault::FlakySm { .. } | Fault::FlakyUnder { .. });
    blame["kind"] == "test" || (is_unit && blame["kind"] == "device")
}

fn is_exact(blame: &Value, fault: &Fault) -> bool {
    let kind = blame["kind"].as_str().unwrap_or_default();
    let number = |name: &str| blame[name].as_u64();
    let at = |address: u64| Some(BASE + address);
    let is_sm = |sm: u32, units: &[&str]| {
        let unit = blame["unit"].as_str().unwrap_or_default();
        let is_named = units.iter().any(|it| unit.starts_with(it));
        kind == "sm" && number("sm") == Some(u64::from(sm)) && is_named
    };
    match fault {
        Fault::StuckBit { address, bit, one } => {
            let is_place =
                number("address") == at(*address) && number("bit") == Some((*bit).into());
            kind == "bit" && is_place && blame["one"] == *one
        }
        Fault::Leak { address, bit, .. } | Fault::Disturbed { address, bit, .. } => {
            let word = usize::try_from(address % 16 / 4).unwrap_or(0);
            let is_bit = blame["bits"][word] == 1_u64 << bit;
            kind == "cell" && number("address") == at(address / 16 * 16) && is_bit
        }
        Fault::StuckRow { address, bytes, bit, .. } => {
            let bits: Vec<u64> = (0..4).filter_map(|nth| blame["bits"][nth].as_u64()).collect();
            let wanted: Vec<u64> =
                (0..4).map(|nth| if bit / 32 == nth { 1 << (bit % 32) } else { 0 }).collect();
            let is_place = number("address") == at(*address) && number("bytes") == Some(*bytes);
            kind == "row" && is_place && bits == wanted
        }
        Fault::Alias { address, to, bytes } => (0..*bytes).step_by(16).any(|offset| {
            let ends = (number("address"), number("other"));
            let (a, b) = (at(address + offset), at(to + offset));
            kind == "alias" && (ends == (a, b) || ends == (b, a))
        }),
        Fault::TransientRead { sm, .. } => is_sm(*sm, &["reads", "unit_l"]),
        Fault::WriteDrop { sm, .. } => is_sm(*sm, &["writes"]),
        Fault::FlakySm { sm, .. } => {
            is_sm(*sm, &["unit_", "tensor_", "golden_", "reads", "writes"])
        }
        Fault::FlakyUnder { sm, kernel, .. } => is_sm(*sm, &[kernel.as_str()]),
        Fault::FlakySet { .. } => kind == "device" && blame["what"] == "second-level cache",
        Fault::SlowSm { sm, .. } => is_sm(*sm, &["pace"]),
        Fault::LinkFlip { way, .. } => {
            let way = serde_json::to_value(way).unwrap_or_default();
            kind == "transfer" && blame["way"] == way
        }
        Fault::PcieGeneration { .. } => kind == "device",
        Fault::PcieWidth { lanes } => kind == "link" && number("lanes") == Some(u64::from(*lanes)),
        Fault::Counter { .. } => kind == "counter",
        Fault::Throttle { .. } | Fault::Sticky { .. } => kind == "device",
        Fault::Hang { .. } => kind == "device" && blame["what"] == "hung",
        Fault::Lost { .. } => kind == "device",
        Fault::SlowGpu { .. }
        | Fault::WrongUnder { .. }
        | Fault::HungManagement
        | Fault::Release { .. }
        | Fault::Refusal { .. }
        | Fault::Recovery { .. }
        | Fault::Event { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_can_be_planted_and_lies_within_the_gpu() {
        let mut chance = Chance::new(1);
        for kind in KINDS.into_iter().chain(SOAK_KINDS) {
            for _ in 0..50 {
                let fault = plant(kind, &mut chance).unwrap();
                let text = toml::to_string(&control(vec![fault])).unwrap();
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("control.toml");
                std::fs::write(&path, text).unwrap();
                Control::load(&path).unwrap();
            }
        }
        assert_eq!(plant("no-such-kind", &mut chance), None);
    }

    #[test]
    fn a_report_that_names_another_place_locates_nothing() {
        let fault = Fault::StuckBit { address: 64, bit: 3, one: true };
        let report = |address: u64, bit: u32| {
            serde_json::json!({"verdict": "fault", "gpus": [{"findings": [{"severity": "fault",
                "blame": {"kind": "bit", "address": BASE + address, "bit": bit, "one": true}}]}]})
        };
        assert!(judge(&report(64, 3), &fault).is_located);
        assert!(!judge(&report(64, 4), &fault).is_located);
        assert!(!judge(&report(68, 3), &fault).is_located);
        let none = serde_json::json!({"verdict": "pass", "gpus": [{"findings": []}]});
        assert!(!judge(&none, &fault).is_found);
    }
}
