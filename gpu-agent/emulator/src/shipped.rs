//! The shipped kernels on an emulated device, called without the driver's interface: what they find
//! of what is planted, and that they find nothing where nothing is.

use std::sync::atomic::Ordering;

use crate::control::Gpu;
use crate::device::Device;
use crate::fault::{Fault, UnitKind};
use crate::machine::{Launch, Pinned};
use crate::ptx::Module;

const MEMORY: &str = include_str!("../../daemon/kernels/ptx/memory.ptx");
const UNITS: &str = include_str!("../../daemon/kernels/ptx/units.ptx");
const TENSOR: &str = include_str!("../../daemon/kernels/ptx/tensor.ptx");
const TENSOR_FP8: &str = include_str!("../../daemon/kernels/ptx/tensor_fp8.ptx");
const CACHES: &str = include_str!("../../daemon/kernels/ptx/caches.ptx");
const CONSTANT: &str = include_str!("../../daemon/kernels/ptx/constant.ptx");
const MMA_SM120A: &str = include_str!("../../daemon/kernels/ptx/mma_sm120a.ptx");
const GOLDEN: &str = include_str!("../../daemon/kernels/ptx/golden.ptx");
const PATTERNS: [&str; 5] = ["address", "random", "walk", "checker", "modulo"];
const SMS: u32 = 4;
const BLOCKS: u32 = SMS * 8;
const NOBODY: u32 = u32::MAX;

fn device(memory_kib: u64, faults: Vec<Fault>) -> Device {
    Device::new(0, Gpu { memory_kib, sms: SMS, faults, ..Gpu::default() })
}

enum Argument {
    Word(u32),
    Long(u64),
}
use Argument::{Long, Word};

fn launch(
    device: &mut Device,
    module: &Module,
    pinned: &[Pinned],
    name: &str,
    (blocks, threads, shared): (u32, u32, u32),
    arguments: &[Argument],
) {
    let kernel = module.kernels.iter().find(|it| it.name == name).unwrap();
    let mut bytes = vec![0; kernel.parameter_bytes];
    assert_eq!(kernel.parameters.len(), arguments.len(), "{name}");
    for ((at, width), argument) in kernel.parameters.iter().zip(arguments) {
        match argument {
            Word(value) => bytes[*at..at + width].copy_from_slice(&value.to_le_bytes()),
            Long(value) => bytes[*at..at + width].copy_from_slice(&value.to_le_bytes()),
        }
    }
    let is_cold = false;
    device.launch(&Launch { kernel, arguments: &bytes, blocks, threads, shared, is_cold }, pinned);
    assert_eq!(device.broken, None, "{name}");
}

/// Index of the vector, what differed, whether the second read was right, and the SM.
pub(crate) type Found = (u64, [u32; 4], bool, u32);

/// What is done between writing and checking.
#[derive(Clone, Copy)]
enum Between {
    Nothing,
    Rest(u64),
    Rows(u32),
}

/// One pass of a pattern over all memory.
pub(crate) fn pass(device: &mut Device, pattern: &str, seed: u64, shift: u32) -> Vec<Found> {
    pass_with(device, pattern, seed, shift, Between::Nothing)
}

fn pass_with(
    device: &mut Device,
    pattern: &str,
    seed: u64,
    shift: u32,
    between: Between,
) -> Vec<Found> {
    let module = Module::load(MEMORY).unwrap();
    let pinned = [Pinned::new(4 * BLOCKS as usize), Pinned::new(2_080 + 80 * 512)];
    let bytes = device.free_bytes();
    let memory = device.allocate(bytes).unwrap();
    let count = u32::try_from(bytes / 16).unwrap();
    let (fill, check) = (format!("memory_fill_{pattern}"), format!("memory_check_{pattern}"));
    let shape = (BLOCKS, 256, 0);
    let arguments =
        [Long(memory), Word(count), Long(0), Long(seed), Word(shift), Long(pinned[0].at)];
    launch(device, &module, &pinned, &fill, shape, &arguments);
    for (flip, invert) in [(0, 1), (NOBODY, 0)] {
        match between {
            Between::Nothing => {}
            Between::Rest(millis) => device.rest(millis * 1_000_000),
            Between::Rows(row) => {
                for odd in 0..2 {
                    let rows = Word(u32::try_from(bytes).unwrap() / row);
                    let arguments = [Long(memory), rows, Word(row), Word(odd), Word(1)];
                    launch(device, &module, &pinned, "memory_read_rows", shape, &arguments);
                }
            }
        }
        let arguments = [
            Long(memory),
            Word(count),
            Long(0),
            Long(seed),
            Word(flip),
            Word(invert),
            Word((shift + 3 + invert) % BLOCKS),
            Long(pinned[0].at),
            Long(pinned[1].at),
        ];
        launch(device, &module, &pinned, &check, shape, &arguments);
    }
    device.free(memory).unwrap();
    let words: Vec<u32> = pinned[1].words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let records = words[520..].chunks(20).take(words[0].min(512) as usize);
    let found = records.map(|it| {
        let differ = std::array::from_fn(|nth| it[2 + nth] ^ it[6 + nth]);
        let index = u64::from(it[1]) << 32 | u64::from(it[0]);
        (index, differ, it[10..14] == it[2..6], it[14])
    });
    found.collect()
}

/// Digests and cycles of a vote: by block, then by warp.
fn vote(device: &mut Device, text: &str, name: &str, seed: u64) -> Vec<Vec<(u64, u64)>> {
    let module = Module::load(text).unwrap();
    let pinned = [Pinned::new(32 * 8 * SMS as usize), Pinned::new(8_192), Pinned::new(8_192)];
    let votes = Long(pinned[0].at);
    for (word, nth) in pinned[1].words.iter().chain(&pinned[2].words).zip(0_u32..) {
        // Numbers of both formats that are near one.
        word.store(nth.wrapping_mul(0x9e37_79b9) & 0x81ff_81ff | 0x3e00_3e00, Ordering::Relaxed);
    }
    let (steps, canary) = (Word(8), Word(NOBODY));
    let scratch = device.allocate(16 << 10).unwrap();
    if name.starts_with("unit_l") {
        let arguments = [Long(scratch), Word(1_024), Long(seed)];
        launch(device, &module, &pinned, "cache_fill", (SMS, 256, 0), &arguments);
    }
    let arguments: Vec<Argument> = match name {
        "unit_shared" => vec![votes, Long(seed), Word(1_024), Word(2), canary],
        "unit_l1" => vec![votes, Long(scratch), Long(seed), steps, canary],
        "unit_l2" => {
            launch(
                device,
                &module,
                &pinned,
                "cache_add",
                (SMS, 256, 0),
                &[Long(scratch), Word(1_024)],
            );
            let added = Word((1..=SMS).sum());
            vec![votes, Long(scratch), Word(1_024), Long(seed), added, Word(1), canary]
        }
        "unit_atomic" => vec![votes, Long(seed), Long(scratch), steps, canary],
        name if name.starts_with("golden") => {
            let (x, w) = (Long(pinned[1].at), Long(pinned[2].at));
            vec![votes, x, w, Word(1), Word(1), Word(1), Long(seed), Word(1), canary]
        }
        name if name.starts_with("tensor") => vec![votes, Long(seed), steps, Word(1), canary],
        _ => vec![votes, Long(seed), steps, canary],
    };
    let shared = if name.starts_with("golden") { 48 << 10 } else { 4_096 };
    launch(device, &module, &pinned, name, (SMS, 256, shared), &arguments);
    let words: Vec<u32> = pinned[0].words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let long = |it: &[u32]| u64::from(it[1]) << 32 | u64::from(it[0]);
    let warps = words.chunks(8).map(|it| (long(&it[4..]), long(&it[6..])));
    warps.collect::<Vec<_>>().chunks(8).map(<[_]>::to_vec).collect()
}

/// SMs that say something else than the first, which is sound.
pub(crate) fn wrong_sms(fault: Fault, name: &str) -> Vec<usize> {
    let (text, _) = VOTES.iter().find(|it| it.1 == name).unwrap();
    let votes = vote(&mut device(64, vec![fault]), text, name, 42);
    let differs = |at: &usize| votes[*at].iter().zip(&votes[0]).any(|(a, b)| a.0 != b.0);
    (0..votes.len()).filter(differs).collect()
}

const VOTES: [(&str, &str); 23] = [
    (UNITS, "unit_integer"),
    (UNITS, "unit_float"),
    (UNITS, "unit_special"),
    (UNITS, "unit_registers"),
    (UNITS, "unit_shared"),
    (UNITS, "unit_atomic"),
    (TENSOR, "tensor_bf16"),
    (TENSOR, "tensor_fp16"),
    (TENSOR, "tensor_tf32"),
    (TENSOR, "tensor_int8"),
    (TENSOR, "tensor_fp64"),
    (TENSOR_FP8, "tensor_fp8"),
    (GOLDEN, "golden_bf16"),
    (GOLDEN, "golden_fp16"),
    (GOLDEN, "golden_exact_bf16"),
    (GOLDEN, "golden_exact_fp16"),
    (MMA_SM120A, "tensor_f8f6f4"),
    (MMA_SM120A, "tensor_f8f6f4_exact"),
    (MMA_SM120A, "tensor_nvfp4"),
    (CACHES, "unit_shuffle"),
    (CACHES, "unit_l1"),
    (CACHES, "unit_l2"),
    (CONSTANT, "unit_constant"),
];

#[test]
fn clean_memory_passes_all_patterns() {
    let mut device = device(1 << 10, Vec::new());
    for (pattern, seed) in PATTERNS.iter().zip([1, 0xdead_beef_0000_0001, 3, 4, 5]) {
        assert_eq!(pass(&mut device, pattern, seed, 5), [], "{pattern}");
    }
}

#[test]
fn a_stuck_bit_is_found_at_its_place_by_every_pattern() {
    for (address, bit, one) in [(0, 0, true), (5 * 16 + 4, 31, false), ((1 << 20) - 4, 7, true)] {
        let mut device = device(1 << 10, vec![Fault::StuckBit { address, bit, one }]);
        for pattern in PATTERNS {
            let found = pass(&mut device, pattern, 77, 1);
            assert_eq!(found.len(), 1, "{pattern}: {found:?}");
            let mut differ = [0; 4];
            differ[usize::try_from(address / 4 % 4).unwrap()] = 1 << bit;
            assert_eq!((found[0].0, found[0].1, found[0].2), (address / 16, differ, false));
        }
    }
}

#[test]
fn an_alias_is_found_at_one_of_its_ends_by_every_pattern() {
    let fault = Fault::Alias { address: 4_096, to: 8_192, bytes: 16 };
    let mut device = device(1 << 10, vec![fault]);
    // Also by those that repeat: what is inverted twice is not what was left.
    for pattern in PATTERNS {
        let found = pass(&mut device, pattern, 9, 0);
        assert!(!found.is_empty(), "{pattern}");
        assert!(found.iter().all(|it| it.0 == 256 || it.0 == 512), "{pattern}: {found:?}");
    }
}

#[test]
fn a_wrong_read_comes_right_when_repeated_and_names_its_sm() {
    let fault = Fault::TransientRead { sm: 2, every: 3_000, seed: 5 };
    let found = pass(&mut device(1 << 10, vec![fault]), "random", 3, 0);
    assert!(!found.is_empty());
    assert!(found.iter().all(|it| it.2 && it.3 == 2), "{found:?}");
}

#[test]
fn a_cell_that_leaks_is_found_after_a_rest_alone() {
    let fault = |one| Fault::Leak { address: 4_100, bit: 5, one, millis: 400 };
    for one in [false, true] {
        let mut device = device(1 << 10, vec![fault(one)]);
        for pattern in PATTERNS {
            assert_eq!(pass(&mut device, pattern, 3, 0), [], "{pattern}");
        }
        assert_eq!(pass_with(&mut device, "random", 3, 0, Between::Rest(399)), []);
        let found = pass_with(&mut device, "random", 3, 0, Between::Rest(400));
        assert_eq!(found.len(), 1, "in one of both checks: {found:?}");
        assert_eq!((found[0].0, found[0].1, found[0].2), (256, [0, 1 << 5, 0, 0], false));
    }
}

#[test]
fn a_cell_that_its_neighbours_disturb_is_found_by_the_order_of_rows_alone() {
    for (row, address) in [(1_024, 5 * 1_024 + 4), (2_048, 1_020 << 10), (8_192, 0)] {
        let row_u64 = u64::from(row);
        let fault = Fault::Disturbed { address, bit: 9, one: false, row: row_u64, times: 48 };
        let mut device = device(1 << 10, vec![fault]);
        for pattern in PATTERNS {
            assert_eq!(pass(&mut device, pattern, 3, 0), [], "{pattern}, rows of {row}");
        }
        let rested = pass_with(&mut device, "random", 3, 0, Between::Rest(60_000));
        assert_eq!(rested, [], "time does nothing to it");
        let found = pass_with(&mut device, "random", 3, 0, Between::Rows(row));
        assert_eq!(found.len(), 1, "rows of {row}: {found:?}");
        assert_eq!(found[0].0, address / 16);
    }
}

#[test]
fn sound_memory_bears_a_rest_and_the_order_of_rows() {
    let mut device = device(1 << 10, Vec::new());
    for between in [Between::Rest(60_000), Between::Rows(1_024), Between::Rows(8_192)] {
        assert_eq!(pass_with(&mut device, "random", 3, 0, between), []);
    }
}

#[test]
fn sound_sms_agree_and_take_equally_long() {
    for (text, name) in VOTES {
        let votes = vote(&mut device(64, Vec::new()), text, name, 42);
        assert_eq!(votes.len(), SMS as usize);
        assert!(votes.iter().all(|it| *it == votes[0]), "{name}: {votes:?}");
        assert!(votes[0].iter().all(|it| it.0 != 0 && it.1 != 0), "{name}: {votes:?}");
    }
}

#[test]
fn a_digest_depends_on_the_seed() {
    for (text, name) in VOTES {
        let of = |seed| vote(&mut device(64, Vec::new()), text, name, seed)[0][0].0;
        assert_ne!(of(1), of(2), "{name}");
        assert_ne!(of(1), of(1 << 32 | 1), "{name}: the seed's upper half");
    }
}

#[test]
fn a_wrong_bit_of_a_unit_changes_the_digest_of_its_sm_alone() {
    let cases = [
        (UnitKind::Integer, 0, 0..1),
        (UnitKind::Float, 0, 1..2),
        (UnitKind::Special, 0, 2..3),
        (UnitKind::Shared, 31, 4..5),
        (UnitKind::Tensor, 0, 6..12),
        (UnitKind::Tensor, 9, 12..19),
        (UnitKind::Special, 9, 12..14),
        (UnitKind::Float, 9, 12..14),
        (UnitKind::Shared, 9, 12..16),
        (UnitKind::Shuffle, 9, 19..20),
        (UnitKind::FirstLevel, 9, 20..21),
        (UnitKind::Constant, 9, 22..23),
    ];
    for (unit, bit, names) in cases {
        for (_, name) in &VOTES[names] {
            let fault = Fault::FlakySm { sm: 1, unit, bit, every: 20, seed: 3 };
            assert_eq!(wrong_sms(fault, name), [1], "{name}");
        }
    }
}

#[test]
fn a_wrong_line_of_the_second_level_is_read_wrong_by_many() {
    let fault = Fault::FlakySet { set: 3, sets: 16, bit: 40, every: 4, seed: 3 };
    let wrong = wrong_sms(fault, "unit_l2");
    assert!(wrong.len() >= 2, "{wrong:?}");
    let votes = |faults| vote(&mut device(64, faults), CACHES, "unit_l2", 42);
    let stuck = Fault::StuckBit { address: 4_096, bit: 3, one: true };
    let (sound, all) = (votes(Vec::new()), votes(vec![stuck]));
    assert!((0..SMS as usize).all(|sm| all[sm] == all[0] && all[sm] != sound[0]), "{all:?}");
}

#[test]
fn a_slow_sm_takes_more_cycles() {
    let fault = Fault::SlowSm { sm: 3, permille: 1_050 };
    let votes = vote(&mut device(64, vec![fault]), UNITS, "unit_integer", 42);
    assert!(votes[3][0].1 * 100 > votes[0][0].1 * 104, "{votes:?}");
    assert_eq!(votes[3][0].0, votes[0][0].0);
}

#[test]
fn what_this_machine_cannot_run_is_refused_by_its_name() {
    let files = [
        (include_str!("../../daemon/kernels/ptx/wgmma_sm90a.ptx"), "sm_90a"),
        (include_str!("../../daemon/kernels/ptx/tcgen05_sm100a.ptx"), "sm_100a"),
    ];
    for (text, target) in files {
        let error = Module::load(text).err().unwrap();
        assert!(error.to_string().contains(target), "{error}");
    }
}

#[test]
fn a_read_that_an_assembler_leaves_out_is_refused() {
    let used = "ld.volatile.global.v4.u32";
    assert!(MEMORY.contains(used));
    let text = MEMORY.replace(used, "ld.global.cs.v4.u32");
    let error = Module::load(&text).err().unwrap();
    assert!(error.to_string().contains("leaves this read out"), "{error}");
}

#[test]
fn a_module_runs_on_what_its_target_says() {
    let runs = |text: &str, compute| Module::load(text).unwrap().runs_on(compute);
    assert!(runs(UNITS, (8, 0)) && runs(UNITS, (9, 0)) && runs(UNITS, (12, 0)));
    assert!(runs(MMA_SM120A, (12, 0)));
    assert!(!runs(MMA_SM120A, (12, 1)) && !runs(MMA_SM120A, (9, 0)));
    assert!(runs(TENSOR_FP8, (8, 9)) && !runs(TENSOR_FP8, (8, 6)));
}

#[test]
fn what_is_not_known_is_refused_by_its_name() {
    let text = MEMORY.replace("mul.wide.u32", "wgmma.fence.sync.aligned");
    let error = Module::load(&text).err().unwrap();
    assert!(error.to_string().contains("wgmma.fence.sync.aligned"), "{error}");
}
