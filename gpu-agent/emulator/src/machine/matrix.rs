//! The matrix operation of a warp. A model: products are exact, a sum is rounded once. Silicon adds
//! in an order and with a precision of its own, so digests from here are no digests of a GPU's.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "fragments are cut and reread as PTX says"
)]

use super::LANES;
use super::registers::Registers;
use crate::ptx::{Fragments, MmaKind};

const ROWS: usize = 16;
const COLUMNS: usize = 8;
const DEPTH_MAX: usize = 64;

/// A is row by row; B is by its depth, then its column.
struct Tiles<T> {
    a: [[T; DEPTH_MAX]; ROWS],
    b: [[T; COLUMNS]; DEPTH_MAX],
    depth: usize,
}

/// Four scales of one, in e4m3 without a sign.
const ONES: u32 = 0x3838_3838;

impl Registers {
    /// True unless scales are something else than one, which is not modelled.
    pub(crate) fn has_scales_of_one(&self, with: &Fragments) -> bool {
        with.scales.iter().all(|reg| self.word(*reg).iter().all(|word| *word == ONES))
    }

    pub(crate) fn multiply(&mut self, kind: MmaKind, with: &Fragments) {
        match kind {
            MmaKind::Fp64 => self.multiply_double(with),
            MmaKind::Int8 => self.multiply_integer(with),
            MmaKind::Bf16 | MmaKind::Fp16 | MmaKind::Tf32 | MmaKind::E4m3 | MmaKind::E2m1 => {
                self.multiply_single(kind, with);
            }
        }
    }

    /// Takes the fragments apart: `each` values in a word, each `value(word, nth)`.
    fn tiles<T: Copy + Default>(
        &self,
        with: &Fragments,
        each: usize,
        value: impl Fn(u32, usize) -> T,
    ) -> Tiles<T> {
        let depth = 8 * each;
        let mut tiles = Tiles {
            a: [[T::default(); DEPTH_MAX]; ROWS],
            b: [[T::default(); COLUMNS]; DEPTH_MAX],
            depth,
        };
        for (nth, reg) in with.a.iter().enumerate() {
            let words = self.word(*reg);
            for (lane, word) in words.iter().enumerate() {
                let row = lane / 4 + 8 * (nth % 2);
                let column = lane % 4 * each + depth / 2 * (nth / 2);
                for part in 0..each {
                    tiles.a[row][column + part] = value(*word, part);
                }
            }
        }
        for (nth, reg) in with.b.iter().enumerate() {
            let words = self.word(*reg);
            for (lane, word) in words.iter().enumerate() {
                let row = lane % 4 * each + depth / 2 * nth;
                for part in 0..each {
                    tiles.b[row + part][lane / 4] = value(*word, part);
                }
            }
        }
        tiles
    }

    fn multiply_single(&mut self, kind: MmaKind, with: &Fragments) {
        let tiles = match kind {
            MmaKind::Bf16 => self
                .tiles(with, 2, |word, nth| f64::from(f32::from_bits((word >> (16 * nth)) << 16))),
            MmaKind::Fp16 => {
                self.tiles(with, 2, |word, nth| small((word >> (16 * nth)) & 0xffff, 5, 10))
            }
            MmaKind::E4m3 => {
                self.tiles(with, 4, |word, nth| small((word >> (8 * nth)) & 0xff, 4, 3))
            }
            MmaKind::E2m1 => self.tiles(with, 8, |word, nth| small((word >> (4 * nth)) & 15, 2, 1)),
            MmaKind::Tf32 | MmaKind::Int8 | MmaKind::Fp64 => {
                self.tiles(with, 1, |word, _| f64::from(f32::from_bits(word & 0xffff_e000)))
            }
        };
        let mut sums = [[0.0_f64; COLUMNS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (depth, b) in tiles.b.iter().enumerate().take(tiles.depth) {
                let a = tiles.a[row][depth];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum += a * b;
                }
            }
        }
        self.accumulate(with, |row, column, c| {
            ((sums[row][column] + f64::from(f32::from_bits(c))) as f32).to_bits()
        });
    }

    fn multiply_integer(&mut self, with: &Fragments) {
        let tiles = self.tiles(with, 4, |word, nth| i32::from((word >> (8 * nth)) as u8 as i8));
        let mut sums = [[0_i32; COLUMNS]; ROWS];
        for (row, sums) in sums.iter_mut().enumerate() {
            for (depth, b) in tiles.b.iter().enumerate().take(tiles.depth) {
                let a = tiles.a[row][depth];
                for (sum, b) in sums.iter_mut().zip(b) {
                    *sum = sum.wrapping_add(a * b);
                }
            }
        }
        self.accumulate(with, |row, column, c| c.wrapping_add(sums[row][column] as u32));
    }

    fn accumulate(&mut self, with: &Fragments, sum: impl Fn(usize, usize, u32) -> u32) {
        for (nth, (d, c)) in with.d.iter().zip(&with.c).enumerate() {
            let c = *self.word(*c);
            let out = std::array::from_fn(|lane| {
                sum(lane / 4 + 8 * (nth / 2), lane % 4 * 2 + nth % 2, c[lane])
            });
            self.set_words(*d, super::ALL, &out);
        }
    }

    fn multiply_double(&mut self, with: &Fragments) {
        let (a, b) = (*self.long(with.a[0]), *self.long(with.b[0]));
        let at = |values: &[u64; LANES], lane: usize| f64::from_bits(values[lane]);
        for (nth, (d, c)) in with.d.iter().zip(&with.c).enumerate() {
            let c = *self.long(*c);
            let out = std::array::from_fn(|lane| {
                let (row, column) = (lane / 4, lane % 4 * 2 + nth);
                let sum = (0..4).fold(f64::from_bits(c[lane]), |sum, depth| {
                    at(&a, row * 4 + depth).mul_add(at(&b, column * 4 + depth), sum)
                });
                sum.to_bits()
            });
            self.set_longs(*d, super::ALL, &out);
        }
    }
}

/// A number with a sign, an exponent and a mantissa of these many bits.
fn small(bits: u32, exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let mantissa = bits & ((1 << mantissa_bits) - 1);
    let exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let bias = (1 << (exponent_bits - 1)) - 1;
    let sign = if bits >> (exponent_bits + mantissa_bits) & 1 == 1 { -1.0 } else { 1.0 };
    let one = f64::from(1_u32 << mantissa_bits);
    let scale = |power: i32| f64::from_bits(((1023 + power) as u64) << 52);
    if exponent == 0 {
        sign * f64::from(mantissa) / one * scale(1 - bias)
    } else {
        sign * (1.0 + f64::from(mantissa) / one) * scale(exponent as i32 - bias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_numbers_are_read_as_their_formats_say() {
        assert_eq!(small(0x3c00, 5, 10), 1.0);
        assert_eq!(small(0xc000, 5, 10), -2.0);
        assert_eq!(small(0x0001, 5, 10), 2.0_f64.powi(-24));
        assert_eq!(small(0x38, 4, 3), 1.0);
        assert_eq!(small(0xb9, 4, 3), -1.125);
        let e2m1 = [0, 1, 2, 3, 4, 5, 6, 7, 9].map(|bits| small(bits, 2, 1));
        assert_eq!(e2m1, [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.5]);
    }
}
