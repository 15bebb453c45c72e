//! Arithmetic, 32 lanes at a time: each function computes all lanes, and those that are masked keep
//! what they had.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "registers are cut and reread as PTX says"
)]

use super::LANES;
use super::registers::{Longs, Registers, Words};
use crate::ptx::{Bin32, Bin64, Compare, Float, Half, Logic, Un32, Un64, Width};

#[inline(always)]
fn each<T: Copy, U: Copy + Default>(a: &[T; LANES], f: impl Fn(T) -> U) -> [U; LANES] {
    let mut out = [U::default(); LANES];
    for (out, a) in out.iter_mut().zip(a) {
        *out = f(*a);
    }
    out
}

#[inline(always)]
fn both<A: Copy, B: Copy, U: Copy + Default>(
    a: &[A; LANES],
    b: &[B; LANES],
    f: impl Fn(A, B) -> U,
) -> [U; LANES] {
    let mut out = [U::default(); LANES];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = f(*a, *b);
    }
    out
}

#[inline(always)]
fn three<A: Copy, C: Copy, U: Copy + Default>(
    a: &[A; LANES],
    b: &[A; LANES],
    c: &[C; LANES],
    f: impl Fn(A, A, C) -> U,
) -> [U; LANES] {
    let mut out = [U::default(); LANES];
    for (((out, a), b), c) in out.iter_mut().zip(a).zip(b).zip(c) {
        *out = f(*a, *b, *c);
    }
    out
}

#[inline(always)]
fn mask_of<T: Copy>(a: &[T; LANES], b: &[T; LANES], f: impl Fn(T, T) -> bool) -> u32 {
    let mut mask = 0;
    for (lane, (a, b)) in a.iter().zip(b).enumerate() {
        mask |= u32::from(f(*a, *b)) << lane;
    }
    mask
}

fn single(bits: u32) -> f32 {
    f32::from_bits(bits)
}

fn double(bits: u64) -> f64 {
    f64::from_bits(bits)
}

impl Registers {
    #[inline]
    pub(crate) fn bin_32(&mut self, op: Bin32, [d, a, b]: [u16; 3], mask: u32) {
        let (a, b) = (self.word(a), self.word(b));
        let out: Words = match op {
            Bin32::Add => both(a, b, u32::wrapping_add),
            Bin32::Sub => both(a, b, u32::wrapping_sub),
            Bin32::Mul => both(a, b, u32::wrapping_mul),
            Bin32::MulHigh => both(a, b, |a, b| ((u64::from(a) * u64::from(b)) >> 32) as u32),
            Bin32::MulHighSigned => {
                both(a, b, |a, b| ((i64::from(a as i32) * i64::from(b as i32)) >> 32) as u32)
            }
            Bin32::And => both(a, b, |a, b| a & b),
            Bin32::Or => both(a, b, |a, b| a | b),
            Bin32::Xor => both(a, b, |a, b| a ^ b),
            // Shifts stop at the width; they do not wrap.
            Bin32::Shl => both(a, b, |a, b| if b < 32 { a << b } else { 0 }),
            Bin32::Shr => both(a, b, |a, b| if b < 32 { a >> b } else { 0 }),
            Bin32::ShrSigned => both(a, b, |a, b| ((a as i32) >> b.min(31)) as u32),
            Bin32::Min => both(a, b, u32::min),
            Bin32::Max => both(a, b, u32::max),
            Bin32::MinSigned => both(a, b, |a, b| (a as i32).min(b as i32) as u32),
            Bin32::MaxSigned => both(a, b, |a, b| (a as i32).max(b as i32) as u32),
            Bin32::Div => both(a, b, |a, b| a.checked_div(b).unwrap_or(u32::MAX)),
            Bin32::Rem => both(a, b, |a, b| a.checked_rem(b).unwrap_or(u32::MAX)),
        };
        self.set_words(d, mask, &out);
    }

    #[inline]
    pub(crate) fn bin_64(&mut self, op: Bin64, [d, a, b]: [u16; 3], mask: u32) {
        if matches!(op, Bin64::Shl | Bin64::Shr | Bin64::ShrSigned) {
            let (a, by) = (self.long(a), self.word(b));
            let out = if op == Bin64::Shl {
                both(a, by, |a, by| if by < 64 { a << by } else { 0 })
            } else if op == Bin64::Shr {
                both(a, by, |a, by| if by < 64 { a >> by } else { 0 })
            } else {
                both(a, by, |a, by| ((a as i64) >> by.min(63)) as u64)
            };
            return self.set_longs(d, mask, &out);
        }
        let (a, b) = (self.long(a), self.long(b));
        let out: Longs = match op {
            Bin64::Add => both(a, b, u64::wrapping_add),
            Bin64::Sub => both(a, b, u64::wrapping_sub),
            Bin64::Mul => both(a, b, u64::wrapping_mul),
            Bin64::MulHigh => both(a, b, |a, b| ((u128::from(a) * u128::from(b)) >> 64) as u64),
            Bin64::And => both(a, b, |a, b| a & b),
            Bin64::Or => both(a, b, |a, b| a | b),
            Bin64::Xor => both(a, b, |a, b| a ^ b),
            Bin64::Min => both(a, b, u64::min),
            Bin64::Max => both(a, b, u64::max),
            Bin64::Div => both(a, b, |a, b| a.checked_div(b).unwrap_or(u64::MAX)),
            Bin64::Rem | Bin64::Shl | Bin64::Shr | Bin64::ShrSigned => {
                both(a, b, |a, b| a.checked_rem(b).unwrap_or(u64::MAX))
            }
        };
        self.set_longs(d, mask, &out);
    }

    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "the conversion rounds to nearest, as PTX's")]
    pub(crate) fn un_32(&mut self, op: Un32, d: u16, a: u16, mask: u32) {
        let a = self.word(a);
        let approximate =
            |f: fn(f64) -> f64| each(a, |a| (f(f64::from(single(a))) as f32).to_bits());
        let out: Words = match op {
            Un32::Mov => *a,
            Un32::Not => each(a, |a| !a),
            Un32::Neg => each(a, u32::wrapping_neg),
            Un32::NegFloat => each(a, |a| a ^ 1 << 31),
            Un32::AbsFloat => each(a, |a| a & !(1 << 31)),
            Un32::Popc => each(a, u32::count_ones),
            Un32::Clz => each(a, u32::leading_zeros),
            Un32::Brev => each(a, u32::reverse_bits),
            Un32::FromUnsigned => each(a, |a| (a as f32).to_bits()),
            Un32::FromSigned => each(a, |a| (a as i32 as f32).to_bits()),
            Un32::ToSigned => each(a, |a| single(a) as i32 as u32),
            Un32::Sqrt => each(a, |a| single(a).sqrt().to_bits()),
            Un32::Ex2 => approximate(f64::exp2),
            Un32::Lg2 => approximate(f64::log2),
            Un32::Sin => approximate(f64::sin),
            Un32::Cos => approximate(f64::cos),
            Un32::Rsqrt => approximate(|a| 1.0 / a.sqrt()),
            Un32::Rcp => approximate(|a| 1.0 / a),
        };
        self.set_words(d, mask, &out);
    }

    #[inline]
    pub(crate) fn un_64(&mut self, op: Un64, d: u16, a: u16, mask: u32) {
        let a = self.long(a);
        let out = match op {
            Un64::Mov => *a,
            Un64::Not => each(a, |a| !a),
            Un64::Neg => each(a, u64::wrapping_neg),
            Un64::NegFloat => each(a, |a| a ^ 1 << 63),
        };
        self.set_longs(d, mask, &out);
    }

    #[inline]
    pub(crate) fn mad_32(&mut self, [d, a, b, c]: [u16; 4], mask: u32) {
        let out = three(self.word(a), self.word(b), self.word(c), |a, b, c: u32| {
            a.wrapping_mul(b).wrapping_add(c)
        });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn mad_64(&mut self, [d, a, b, c]: [u16; 4], mask: u32) {
        let out = three(self.long(a), self.long(b), self.long(c), |a, b, c: u64| {
            a.wrapping_mul(b).wrapping_add(c)
        });
        self.set_longs(d, mask, &out);
    }

    #[inline]
    pub(crate) fn wide(&mut self, signed: bool, [d, a, b]: [u16; 3], mask: u32) {
        let (a, b) = (self.word(a), self.word(b));
        let out = if signed {
            both(a, b, |a, b| (i64::from(a as i32) * i64::from(b as i32)) as u64)
        } else {
            both(a, b, |a, b| u64::from(a) * u64::from(b))
        };
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn mad_wide(&mut self, signed: bool, [d, a, b, c]: [u16; 4], mask: u32) {
        let (a, b, c) = (self.word(a), self.word(b), self.long(c));
        let out = if signed {
            three(a, b, c, |a, b, c| {
                ((i64::from(a as i32) * i64::from(b as i32)) as u64).wrapping_add(c)
            })
        } else {
            three(a, b, c, |a, b, c: u64| (u64::from(a) * u64::from(b)).wrapping_add(c))
        };
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn float_32(&mut self, op: Float, [d, a, b]: [u16; 3], mask: u32) {
        let (a, b) = (self.word(a), self.word(b));
        let with = |f: fn(f32, f32) -> f32| both(a, b, |a, b| f(single(a), single(b)).to_bits());
        let out = match op {
            Float::Add => with(|a, b| a + b),
            Float::Sub => with(|a, b| a - b),
            Float::Mul => with(|a, b| a * b),
            Float::Div => with(|a, b| a / b),
            Float::Min => with(f32::min),
            Float::Max => with(f32::max),
        };
        self.set_words(d, mask, &out);
    }

    pub(crate) fn float_64(&mut self, op: Float, [d, a, b]: [u16; 3], mask: u32) {
        let (a, b) = (self.long(a), self.long(b));
        let with = |f: fn(f64, f64) -> f64| both(a, b, |a, b| f(double(a), double(b)).to_bits());
        let out = match op {
            Float::Add => with(|a, b| a + b),
            Float::Sub => with(|a, b| a - b),
            Float::Mul => with(|a, b| a * b),
            Float::Div => with(|a, b| a / b),
            Float::Min => with(f64::min),
            Float::Max => with(f64::max),
        };
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn fma_32(&mut self, [d, a, b, c]: [u16; 4], mask: u32) {
        let out = three(self.word(a), self.word(b), self.word(c), |a, b, c| {
            single(a).mul_add(single(b), single(c)).to_bits()
        });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn fma_64(&mut self, [d, a, b, c]: [u16; 4], mask: u32) {
        let out = three(self.long(a), self.long(b), self.long(c), |a, b, c| {
            double(a).mul_add(double(b), double(c)).to_bits()
        });
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn sqrt_64(&mut self, d: u16, a: u16, mask: u32) {
        let out = each(self.long(a), |a| double(a).sqrt().to_bits());
        self.set_longs(d, mask, &out);
    }

    /// The high half of high and low, shifted to the left by a distance modulo 32.
    pub(crate) fn funnel(&mut self, [d, low, high, by]: [u16; 4], mask: u32) {
        let out = three(self.word(low), self.word(high), self.word(by), |low, high, by: u32| {
            ((u64::from(high) << 32 | u64::from(low)) << (by & 31) >> 32) as u32
        });
        self.set_words(d, mask, &out);
    }

    /// Four bytes, each chosen out of eight, or that one's sign eight times.
    pub(crate) fn permute(&mut self, [d, a, b, by]: [u16; 4], mask: u32) {
        let out = three(self.word(a), self.word(b), self.word(by), |a, b, by: u32| {
            let bytes = (u64::from(b) << 32 | u64::from(a)).to_le_bytes();
            u32::from_le_bytes(std::array::from_fn(|nth| {
                let selector = by >> (4 * nth);
                let byte = bytes[(selector & 7) as usize];
                if selector & 8 == 0 { byte } else { ((byte as i8) >> 7) as u8 }
            }))
        });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn dot(&mut self, [d, a, b, c]: [u16; 4], mask: u32) {
        let out = three(self.word(a), self.word(b), self.word(c), |a, b, c: u32| {
            let pairs = a.to_le_bytes().into_iter().zip(b.to_le_bytes());
            let sum: i32 = pairs.map(|(a, b)| i32::from(a as i8) * i32::from(b as i8)).sum();
            c.wrapping_add(sum as u32)
        });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn insert_32(&mut self, [d, a, b, at, count]: [u16; 5], mask: u32) {
        let (at, count) = (self.word(at), self.word(count));
        let fields = both(at, count, |at, count| {
            let (at, count) = (at & 255, count & 255);
            let ones = if count < 32 { (1_u32 << count) - 1 } else { u32::MAX };
            (at, if at < 32 { ones << at } else { 0 })
        });
        let out = three(self.word(a), self.word(b), &fields, |a, b, (at, field)| {
            b & !field | if at < 32 { a << at & field } else { 0 }
        });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn insert_64(&mut self, [d, a, b, at, count]: [u16; 5], mask: u32) {
        let (at, count) = (self.word(at), self.word(count));
        let fields = both(at, count, |at, count| {
            let (at, count) = (at & 255, count & 255);
            let ones = if count < 64 { (1_u64 << count) - 1 } else { u64::MAX };
            (at, if at < 64 { ones << at } else { 0 })
        });
        let out = three(self.long(a), self.long(b), &fields, |a, b, (at, field)| {
            b & !field | if at < 64 { a << at & field } else { 0 }
        });
        self.set_longs(d, mask, &out);
    }

    #[inline]
    pub(crate) fn extend(&mut self, signed: bool, d: u16, a: u16, mask: u32) {
        let a = self.word(a);
        let out = if signed { each(a, |a| i64::from(a as i32) as u64) } else { each(a, u64::from) };
        self.set_longs(d, mask, &out);
    }

    #[inline]
    pub(crate) fn narrow(&mut self, d: u16, a: u16, mask: u32) {
        let out = each(self.long(a), |a| a as u32);
        self.set_words(d, mask, &out);
    }

    pub(crate) fn double_from(&mut self, signed: bool, d: u16, a: u16, mask: u32) {
        let out = each(self.word(a), |a| {
            if signed { f64::from(a as i32).to_bits() } else { f64::from(a).to_bits() }
        });
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn double_from_single(&mut self, d: u16, a: u16, mask: u32) {
        let out = each(self.word(a), |a| f64::from(single(a)).to_bits());
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn single_from_double(&mut self, d: u16, a: u16, mask: u32) {
        let out = each(self.long(a), |a| (double(a) as f32).to_bits());
        self.set_words(d, mask, &out);
    }

    pub(crate) fn halves(&mut self, kind: Half, [d, high, low]: [u16; 3], mask: u32) {
        let narrow = match kind {
            Half::Bf16 => to_bf16,
            Half::Fp16 => to_fp16,
        };
        let out =
            both(self.word(high), self.word(low), |high, low| narrow(high) << 16 | narrow(low));
        self.set_words(d, mask, &out);
    }

    pub(crate) fn pack(&mut self, d: u16, low: u16, high: u16, mask: u32) {
        let out = both(self.word(low), self.word(high), |low, high| {
            u64::from(high) << 32 | u64::from(low)
        });
        self.set_longs(d, mask, &out);
    }

    pub(crate) fn unpack(&mut self, low: u16, high: u16, a: u16, mask: u32) {
        let (lows, highs) =
            (each(self.long(a), |a| a as u32), each(self.long(a), |a| (a >> 32) as u32));
        self.set_words(low, mask, &lows);
        self.set_words(high, mask, &highs);
    }

    #[inline]
    pub(crate) fn compare(&self, op: Compare, width: Width, a: u16, b: u16) -> u32 {
        match width {
            Width::Unsigned32 => ordered(op, self.word(a), self.word(b)),
            Width::Signed32 => {
                let (a, b) = (each(self.word(a), |a| a as i32), each(self.word(b), |b| b as i32));
                ordered(op, &a, &b)
            }
            Width::Float32 => ordered(op, &each(self.word(a), single), &each(self.word(b), single)),
            Width::Unsigned64 => ordered(op, self.long(a), self.long(b)),
            Width::Signed64 => {
                let (a, b) = (each(self.long(a), |a| a as i64), each(self.long(b), |b| b as i64));
                ordered(op, &a, &b)
            }
            Width::Float64 => ordered(op, &each(self.long(a), double), &each(self.long(b), double)),
        }
    }

    pub(crate) fn logic(&self, op: Logic, a: u16, b: u16) -> u32 {
        let (a, b) = (self.predicate(a), self.predicate(b));
        match op {
            Logic::And => a & b,
            Logic::Or => a | b,
            Logic::Xor => a ^ b,
        }
    }

    #[inline]
    pub(crate) fn select_32(&mut self, [d, a, b, p]: [u16; 4], mask: u32) {
        let chosen = self.predicate(p);
        let (a, b) = (self.word(a), self.word(b));
        let out: Words =
            std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
        self.set_words(d, mask, &out);
    }

    pub(crate) fn select_64(&mut self, [d, a, b, p]: [u16; 4], mask: u32) {
        let chosen = self.predicate(p);
        let (a, b) = (self.long(a), self.long(b));
        let out: Longs =
            std::array::from_fn(|lane| if chosen >> lane & 1 == 1 { a[lane] } else { b[lane] });
        self.set_longs(d, mask, &out);
    }
}

/// What no number is in a format of 16 bits.
const NO_NUMBER: u32 = 0x7fff;
const INFINITE: u32 = 0x7f80_0000;

/// The nearest, and of two as near the even one.
fn to_bf16(bits: u32) -> u32 {
    if bits & !(1 << 31) > INFINITE {
        return NO_NUMBER;
    }
    (bits + 0x7fff + (bits >> 16 & 1)) >> 16
}

fn to_fp16(bits: u32) -> u32 {
    let (sign, size) = (bits >> 16 & 0x8000, bits & !(1 << 31));
    if size > INFINITE {
        return NO_NUMBER;
    }
    if single(size) >= 65_520.0 {
        return sign | 0x7c00;
    }
    if single(size) < f32::from_bits((127 - 14) << 23) {
        // Below the smallest normal number they are multiples of 2^-24.
        return sign | (f64::from(single(size)) * f64::from(1 << 24)).round_ties_even() as u32;
    }
    let size = size - ((127 - 15) << 23);
    sign | (size + 0xfff + (size >> 13 & 1)) >> 13
}

#[inline(always)]
fn ordered<T: PartialOrd + Copy>(op: Compare, a: &[T; LANES], b: &[T; LANES]) -> u32 {
    match op {
        Compare::Eq => mask_of(a, b, |a, b| a == b),
        Compare::Ne => mask_of(a, b, |a, b| a != b),
        Compare::Lt => mask_of(a, b, |a, b| a < b),
        Compare::Le => mask_of(a, b, |a, b| a <= b),
        Compare::Gt => mask_of(a, b, |a, b| a > b),
        Compare::Ge => mask_of(a, b, |a, b| a >= b),
        Compare::NotLe => !mask_of(a, b, |a, b| a <= b),
        Compare::NotGe => !mask_of(a, b, |a, b| a >= b),
        Compare::NotLt => !mask_of(a, b, |a, b| a < b),
        Compare::NotGt => !mask_of(a, b, |a, b| a > b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_narrowed_to_the_nearest_even_one() {
        let bf16 = |it: f32| to_bf16(it.to_bits());
        assert_eq!([bf16(1.0), bf16(-2.5), bf16(f32::INFINITY)], [0x3f80, 0xc020, 0x7f80]);
        // 1 + 2^-8 is between two; so is 1 + 3 * 2^-8.
        assert_eq!([bf16(1.0 + 1.0 / 256.0), bf16(1.0 + 3.0 / 256.0)], [0x3f80, 0x3f82]);
        assert_eq!(bf16(f32::NAN), NO_NUMBER);
        let fp16 = |it: f32| to_fp16(it.to_bits());
        assert_eq!([fp16(1.0), fp16(-2.5), fp16(65_504.0)], [0x3c00, 0xc100, 0x7bff]);
        assert_eq!([fp16(65_519.0), fp16(65_520.0), fp16(f32::INFINITY)], [0x7bff, 0x7c00, 0x7c00]);
        // 1 + 2^-11 is between two; the smallest numbers are 2^-24 apart.
        assert_eq!([fp16(1.0 + 1.0 / 2_048.0), fp16(1.0 + 3.0 / 2_048.0)], [0x3c00, 0x3c02]);
        let least = 2.0_f32.powi(-24);
        assert_eq!([fp16(least), fp16(least * 0.5), fp16(least * 1.5)], [1, 0, 2]);
        assert_eq!(fp16(-2.0_f32.powi(-14)), 0x8400);
        assert_eq!(fp16(f32::NAN), NO_NUMBER);
    }
}
