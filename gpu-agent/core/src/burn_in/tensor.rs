//! What tensor cores must give where sums are the same in any order: the host computes it too, so
//! that also the layouts of operands and sums are checked, not only that all SMs agree.

use alloc::vec;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::digest::{LANES, WARPS, fold, join, mix};

/// Kernels whose sums are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exact {
    /// `tensor_int8`: any bytes.
    Int8,
    /// `tensor_f8f6f4_exact`: one and minus one, in e4m3.
    Signs,
    /// `tensor_nvfp4`: any e2m1, all scales one.
    Nvfp4,
    /// `tensor_wgmma_exact` and `tensor_tcgen05_exact`: whole numbers from -8 to 7, in bf16.
    Wgmma,
    Tcgen05,
}

/// The digests by warp.
#[must_use]
pub fn digests(of: Exact, seed: u64, steps: u32) -> [u64; WARPS] {
    match of {
        Exact::Int8 => by_warp(&INT8, seed, steps),
        Exact::Signs => by_warp(&SIGNS, seed, steps),
        Exact::Nvfp4 => by_warp(&NVFP4, seed, steps),
        Exact::Wgmma => by_block(seed, steps, |warp, lane, nth| {
            // Each group of four warps has 64 rows, each warp 16 of them.
            let row = warp * 16 + lane / 4 + nth / 2 % 2 * 8;
            (row, nth / 4 * 8 + lane % 4 * 2 + nth % 2)
        }),
        Exact::Tcgen05 => by_block(seed, steps, |warp, lane, nth| {
            // Four warps see 32 rows each, in one half of the columns.
            (warp % 4 * 32 + lane, warp / 4 * HALF + nth)
        }),
    }
}

/// A format of `mma.sync`.
struct Format {
    /// Numbers in a word.
    each: usize,
    operand: fn(u32) -> u32,
    /// The whole number that the n-th of a word stands for.
    number: fn(u32, usize) -> i32,
    /// The bits of a sum of products.
    sum: fn(i32) -> u32,
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "bits are reread as the format says"
)]
const INT8: Format = Format {
    each: 4,
    operand: |drawn| drawn,
    number: |word, nth| i32::from((word >> (8 * nth)) as u8 as i8),
    sum: |sum| sum as u32,
};
const SIGNS: Format = Format {
    each: 4,
    operand: |drawn| drawn & 0x8080_8080 | 0x3838_3838,
    number: |word, nth| if word >> (8 * nth + 7) & 1 == 1 { -1 } else { 1 },
    sum: |sum| quarters(sum * 4),
};
const NVFP4: Format = Format {
    each: 8,
    operand: |drawn| drawn,
    // In halves, so that products are in quarters.
    number: |word, nth| {
        let bits = word >> (4 * nth) & 15;
        let size = [0, 1, 2, 3, 4, 6, 8, 12][bits as usize & 7];
        if bits & 8 == 0 { size } else { -size }
    },
    sum: quarters,
};

/// The bits of so many quarters in single precision: few enough to be exact.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn quarters(count: i32) -> u32 {
    (count as f32 * 0.25).to_bits()
}

/// The kernel's operands: two of A and four of B, which are all multiplied with each other.
const OF_A: usize = 2;
const OF_B: usize = 4;
const ROWS: usize = 16;
const COLUMNS: usize = 8;

fn by_warp(format: &Format, seed: u64, steps: u32) -> [u64; WARPS] {
    core::array::from_fn(|warp| {
        let mut lanes = [seed; LANES];
        for step in 0..steps {
            let (a, b) = fragments(format, seed, step, warp);
            for a in &a {
                for b in &b {
                    let sums = product(format, a, b);
                    for (lane, digest) in lanes.iter_mut().enumerate() {
                        for nth in 0..4 {
                            let (row, column) = (lane / 4 + nth / 2 * 8, lane % 4 * 2 + nth % 2);
                            let sum = sums[row * COLUMNS + column];
                            *digest = fold(*digest, (format.sum)(sum));
                        }
                    }
                }
            }
        }
        join(lanes)
    })
}

/// Numbers of A by row, and of B by column: each row's along the depth.
type Matrix = Vec<i32>;

fn fragments(format: &Format, seed: u64, step: u32, warp: usize) -> (Vec<Matrix>, Vec<Matrix>) {
    let depth = 8 * format.each;
    let mut a = vec![vec![0; ROWS * depth]; OF_A];
    let mut b = vec![vec![0; COLUMNS * depth]; OF_B];
    for lane in 0..LANES {
        let mut drawn = first_draw(seed, step, warp, lane);
        let mut draw = || {
            drawn = mix(drawn.wrapping_add(1));
            drawn
        };
        let inner = lane % 4 * format.each;
        let put = |to: &mut Matrix, row: usize, from: usize, word: u32| {
            for nth in 0..format.each {
                to[row * depth + from + nth] = (format.number)(word, nth);
            }
        };
        for a in &mut a {
            for nth in 0..4 {
                let word = (format.operand)(draw());
                put(a, lane / 4 + nth % 2 * 8, inner + nth / 2 * depth / 2, word);
            }
        }
        for b in &mut b {
            for nth in 0..2 {
                let word = (format.operand)(draw().rotate_left(5));
                put(b, lane / 4, inner + nth * depth / 2, word);
            }
        }
    }
    (a, b)
}

#[expect(clippy::cast_possible_truncation, reason = "warps and lanes are few; halves are wanted")]
fn first_draw(seed: u64, step: u32, warp: usize, lane: usize) -> u32 {
    let place = (warp as u32) << 20 ^ (lane as u32) << 8;
    mix(seed as u32 ^ step.wrapping_mul(0x9e37_79b9) ^ place) ^ (seed >> 32) as u32
}

fn product(format: &Format, a: &[i32], b: &[i32]) -> [i32; ROWS * COLUMNS] {
    let depth = 8 * format.each;
    core::array::from_fn(|at| {
        let (row, column) = (at / COLUMNS, at % COLUMNS);
        let a = &a[row * depth..][..depth];
        let b = &b[column * depth..][..depth];
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    })
}

/// A block's operands: 128 rows of A, then 256 columns of B, each of 64 numbers.
const BLOCK_ROWS: usize = 128;
const BLOCK_COLUMNS: usize = 256;
const BLOCK_DEPTH: usize = 64;
const HALF: usize = 128;

/// `place` gives the row and column of a lane's n-th sum.
fn by_block(
    seed: u64,
    steps: u32,
    place: impl Fn(usize, usize, usize) -> (usize, usize),
) -> [u64; WARPS] {
    let mut digests = [[seed; LANES]; WARPS];
    for step in 0..steps {
        let operands = block_operands(seed, step);
        let row = |nth: usize| &operands[nth * BLOCK_DEPTH..][..BLOCK_DEPTH];
        for (warp, lanes) in digests.iter_mut().enumerate() {
            for (lane, digest) in lanes.iter_mut().enumerate() {
                for nth in 0..HALF {
                    let (of_a, of_b) = place(warp, lane, nth);
                    let pairs = row(of_a).iter().zip(row(BLOCK_ROWS + of_b));
                    let sum: i32 = pairs.map(|(a, b)| i32::from(*a) * i32::from(*b)).sum();
                    *digest = fold(*digest, quarters(sum * 4));
                }
            }
        }
    }
    digests.map(join)
}

#[expect(clippy::cast_possible_truncation, reason = "halves and four bits are wanted")]
fn block_operands(seed: u64, step: u32) -> Vec<i16> {
    let pairs = (BLOCK_ROWS + BLOCK_COLUMNS) * BLOCK_DEPTH / 2;
    let drawn = (0..).take(pairs).map(|index: u32| {
        mix(seed as u32 ^ index).wrapping_add(step.wrapping_mul(0x9e37_79b9)) ^ (seed >> 32) as u32
    });
    let number = |bits: u32| (bits & 15) as i16 - 8;
    drawn.map(mix).flat_map(|it| [number(it), number(it >> 16)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Exact; 5] = [Exact::Int8, Exact::Signs, Exact::Nvfp4, Exact::Wgmma, Exact::Tcgen05];

    #[test]
    fn digests_depend_on_all_of_the_seed_and_on_every_step() {
        for it in ALL {
            let one = digests(it, 1, 1);
            assert_ne!(one, digests(it, 2, 1), "{it:?}");
            assert_ne!(one, digests(it, 1 << 32 | 1, 1), "{it:?}");
            assert_ne!(one, digests(it, 1, 2), "{it:?}");
            assert!((1..WARPS).all(|warp| one[warp] != one[0]), "{it:?}: {one:?}");
        }
    }

    #[test]
    fn numbers_of_four_bits_are_read_as_their_format_says() {
        let halves = |bits: u32| (NVFP4.number)(bits << 4, 1);
        assert_eq!([halves(1), halves(2), halves(7), halves(15)], [1, 2, 12, -12]);
        assert_eq!(quarters(-6), (-1.5_f32).to_bits());
        assert_eq!(quarters(0), 0);
    }

    #[test]
    fn every_sum_of_a_block_is_somebodys() {
        let seen = |place: &dyn Fn(usize, usize, usize) -> (usize, usize)| {
            let mut seen = vec![false; BLOCK_ROWS * BLOCK_COLUMNS];
            for at in 0..WARPS * LANES * HALF {
                let (row, column) = place(at / HALF / LANES, at / HALF % LANES, at % HALF);
                seen[row * BLOCK_COLUMNS + column] = true;
            }
            seen.into_iter().all(|it| it)
        };
        assert!(seen(&|warp, lane, nth| (warp % 4 * 32 + lane, warp / 4 * HALF + nth)));
        // Two groups of four warps share the columns.
        let wgmma = |warp: usize, lane: usize, nth: usize| {
            (warp * 16 + lane / 4 + nth / 2 % 2 * 8, nth / 4 * 8 + lane % 4 * 2 + nth % 2)
        };
        assert!(seen(&wgmma));
    }
}
