//! What well-known tests do, as far as their sources and documents say, on the same planted faults:
//! they pass where the shipped kernels do not.
//!
//! * DCGM 4.6.0, plugin `memory`: five constants are written everywhere and read back.
//! * DCGM 4.6.0, plugin `memtest` as it is set by default: test 7 repeats one random block of 1 MiB,
//!   test 10 one pattern of 64 bits.
//! * gpu-burn (3ead140): results are compared with the first, and differ from 0.001 on.

use crate::control::Gpu;
use crate::device::Device;
use crate::fault::{Fault, UnitKind};
use crate::shipped;

const MIB: u64 = 1 << 20;

fn device(faults: Vec<Fault>) -> Device {
    Device::new(0, Gpu { memory_kib: 4 << 10, sms: 4, faults, ..Gpu::default() })
}

/// Writes everywhere, reads everywhere, and counts what differs.
fn write_and_read(device: &mut Device, word: impl Fn(u64) -> u32) -> usize {
    let words = device.gpu.bytes() / 4;
    let memory = device.memory();
    for at in 0..words {
        memory.write(&[], 0, memory.base + at * 4, &[word(at)]).unwrap();
    }
    let mut got = [0];
    let mut differs = |at: u64| {
        memory.read(&[], 0, memory.base + at * 4, &mut got).unwrap();
        got[0] != word(at)
    };
    (0..words).filter(|at| differs(*at)).count()
}

fn dcgm_memory(device: &mut Device) -> usize {
    let constants = [0x00_u32, 0xaa, 0x55, 0xff, 0x00].map(|byte| byte * 0x0101_0101);
    constants.into_iter().map(|constant| write_and_read(device, |_| constant)).sum()
}

fn dcgm_memtest(device: &mut Device) -> usize {
    let scramble = |x: u64| u32::try_from(((x * 0x9e37_79b9) ^ (x >> 3)) & 0xffff_ffff).unwrap();
    let block = write_and_read(device, |at| scramble(at % (MIB / 4)));
    block + write_and_read(device, |at| if at % 2 == 0 { 0x1234_5678 } else { 0x9abc_def0 })
}

/// The rule by which gpu-burn counts an error.
fn gpu_burn_counts(first: f32, result: f32) -> bool {
    (first - result).abs() > 0.001
}

#[test]
fn the_known_tests_find_what_is_stuck() {
    let stuck = || device(vec![Fault::StuckBit { address: 4_096, bit: 1, one: true }]);
    assert!(dcgm_memory(&mut stuck()) > 0);
    assert!(dcgm_memtest(&mut stuck()) > 0);
}

#[test]
fn an_address_line_that_repeats_the_memory_is_found_by_the_shipped_kernels_alone() {
    // 128 KiB that are the same as 128 KiB one or two MiB further.
    for away in [1, 2] {
        let fault = Fault::Alias { address: MIB, to: MIB + away * MIB, bytes: MIB / 8 };
        assert_eq!(dcgm_memory(&mut device(vec![fault.clone()])), 0);
        assert_eq!(dcgm_memtest(&mut device(vec![fault.clone()])), 0);
        let found = shipped::pass(&mut device(vec![fault]), "address", 9, 0);
        assert!(!found.is_empty());
    }
}

#[test]
fn a_low_bit_and_no_number_at_all_are_found_by_the_shipped_kernels_alone() {
    for bit in 0..=12 {
        let right = 1.5_f32;
        let wrong = f32::from_bits(right.to_bits() ^ 1 << bit);
        assert!(!gpu_burn_counts(right, wrong), "bit {bit}");
        let fault = Fault::FlakySm { sm: 1, unit: UnitKind::Tensor, bit, every: 20, seed: 3 };
        assert_eq!(shipped::wrong_sms(fault, "tensor_bf16"), [1], "bit {bit}");
    }
    assert!(gpu_burn_counts(1.5, 2.5));
    assert!(!gpu_burn_counts(1.5, f32::NAN), "what is no number is never counted");
}
