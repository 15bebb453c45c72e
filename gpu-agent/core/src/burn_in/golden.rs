//! The operands of the small training step (`golden.cu`), and what its exact form must give: whole
//! numbers, whose sums do not depend on their order, so that any GPU and any processor agree.

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::digest::{LANES, WARPS, fold, join, mix};

/// Rows and columns of what is computed at once.
pub const TILE: u32 = 64;
/// Most rows or columns of an operand.
pub const SIDE_MAX: u32 = 1_024;
/// Whole numbers of the exact form are from minus this to below it.
const WHOLE: i32 = 8;

/// How numbers of operands are written. All have 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Bf16,
    Fp16,
}

/// X has `rows` rows and `depth` columns, W `depth` rows and `columns` columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub rows: u32,
    pub depth: u32,
    pub columns: u32,
}

/// What a step works on, row by row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operands {
    format: Format,
    // Invariant: each side is a multiple of TILE, from TILE to SIDE_MAX.
    shape: Shape,
    // Invariant: as many numbers as the shape says.
    x: Vec<u16>,
    w: Vec<u16>,
}

/// Why operands are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfit {
    /// A side, by its name, that is not a multiple of [`TILE`] up to [`SIDE_MAX`].
    Side(&'static str, u32),
    /// As many numbers as were given, and as are needed, of the operand that is named.
    Count(&'static str, usize, usize),
}

impl Shape {
    /// One tile of each.
    pub const TILE: Self = Self { rows: TILE, depth: TILE, columns: TILE };

    /// Numbers of X and of W.
    #[must_use]
    pub const fn counts(self) -> (usize, usize) {
        let depth = self.depth as usize;
        (self.rows as usize * depth, depth * self.columns as usize)
    }

    /// # Errors
    /// A side is not what it may be.
    pub fn check(self) -> Result<(), Unfit> {
        let sides = [("rows", self.rows), ("depth", self.depth), ("columns", self.columns)];
        let is_bad = |side: u32| side == 0 || side > SIDE_MAX || !side.is_multiple_of(TILE);
        match sides.into_iter().find(|(_, side)| is_bad(*side)) {
            Some((name, side)) => Err(Unfit::Side(name, side)),
            None => Ok(()),
        }
    }
}

impl Operands {
    /// # Errors
    /// The shape is not what it may be, or the numbers are not as many as it says.
    pub fn new(format: Format, shape: Shape, x: Vec<u16>, w: Vec<u16>) -> Result<Self, Unfit> {
        shape.check()?;
        let (of_x, of_w) = shape.counts();
        if x.len() != of_x {
            return Err(Unfit::Count("X", x.len(), of_x));
        }
        if w.len() != of_w {
            return Err(Unfit::Count("W", w.len(), of_w));
        }
        Ok(Self { format, shape, x, w })
    }

    /// Numbers near one with any sign and mantissa, from a seed.
    ///
    /// # Errors
    /// The shape is not what it may be.
    pub fn random(format: Format, shape: Shape, seed: u64) -> Result<Self, Unfit> {
        Self::made(format, shape, seed, |drawn| match format {
            Format::Bf16 => (drawn & 0x81ff).wrapping_add(0x3e80),
            Format::Fp16 => (drawn & 0x87ff).wrapping_add(0x3400),
        })
    }

    /// Small whole numbers, from a seed.
    ///
    /// # Errors
    /// The shape is not what it may be.
    pub fn whole(format: Format, shape: Shape, seed: u64) -> Result<Self, Unfit> {
        Self::made(format, shape, seed, |drawn| write(format, i32::from(drawn & 15) - WHOLE))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves are wanted")]
    fn made(
        format: Format,
        shape: Shape,
        seed: u64,
        number: impl Fn(u16) -> u16,
    ) -> Result<Self, Unfit> {
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        let (of_x, of_w) = shape.counts();
        let draw = |nth: u32| number((mix(mix(low ^ nth) ^ high) >> 16) as u16);
        let x = (0..).take(of_x).map(draw).collect();
        let w = (1 << 31..).take(of_w).map(draw).collect();
        Self::new(format, shape, x, w)
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// X and W.
    #[must_use]
    pub fn numbers(&self) -> [&[u16]; 2] {
        [&self.x, &self.w]
    }
}

/// The digests of the exact step by warp, for operands of small whole numbers; none if another
/// number is among them.
#[must_use]
pub fn exact_digests(of: &Operands, seed: u64, steps: u32) -> Option<[u64; WARPS]> {
    let read = |all: &[u16]| -> Option<Vec<i32>> {
        all.iter().map(|bits| whole(of.format, *bits)).collect()
    };
    let tiles = results(of.shape, &read(&of.x)?, &read(&of.w)?);
    let mut digests = [0; WARPS];
    for (warp, digest) in digests.iter_mut().enumerate() {
        let lanes = core::array::from_fn(|lane| {
            let (row, column) = (warp / 2 * 16 + lane / 4, warp % 2 * 32 + lane % 4 * 2);
            let mut digest = seed;
            for tile in (0..steps).flat_map(|_| &tiles) {
                for part in 0..16 {
                    let (row, column) = (row + part / 2 % 2 * 8, column + part / 4 * 8 + part % 2);
                    digest = fold(digest, single_bits(tile.0[row * SIDE + column]));
                }
            }
            digest
        });
        let lanes: [u64; LANES] = lanes;
        *digest = join(lanes);
    }
    Some(digests)
}

const SIDE: usize = TILE as usize;

/// 64 by 64 whole numbers, row by row.
struct Tile([i32; SIDE * SIDE]);

impl Tile {
    /// The product's part of a sum: `a` and `b` give their numbers by row and column.
    fn add(&mut self, a: impl Fn(usize, usize) -> i32, b: impl Fn(usize, usize) -> i32) {
        for row in 0..SIDE {
            for inner in 0..SIDE {
                let a = a(row, inner);
                for column in 0..SIDE {
                    self.0[row * SIDE + column] += a * b(inner, column);
                }
            }
        }
    }
}

/// All results, in the order in which the kernel folds them.
fn results(shape: Shape, x: &[i32], w: &[i32]) -> Vec<Tile> {
    let tiles = |side: u32| (0..side as usize / SIDE).map(|nth| nth * SIDE);
    let (depth, columns) = (shape.depth as usize, shape.columns as usize);
    let mut all = Vec::new();
    for i in tiles(shape.rows) {
        for j in tiles(shape.columns) {
            let x_at = |row: usize, column: usize| x[(i + row) * depth + column];
            let w_at = |row: usize, column: usize| w[row * columns + j + column];
            let mut h = Tile([0; SIDE * SIDE]);
            for k in tiles(shape.depth) {
                h.add(|row, inner| x_at(row, k + inner), |inner, column| w_at(k + inner, column));
            }
            let g: Vec<i32> = h.0.iter().map(|it| (it & 15) - WHOLE).collect();
            all.push(h);
            for k in tiles(shape.depth) {
                let mut back = Tile([0; SIDE * SIDE]);
                back.add(
                    |row, inner| g[row * SIDE + inner],
                    |inner, column| w_at(k + column, inner),
                );
                all.push(back);
                let mut change = Tile([0; SIDE * SIDE]);
                change.add(
                    |row, inner| x_at(inner, k + row),
                    |inner, column| g[inner * SIDE + column],
                );
                all.push(change);
            }
        }
    }
    all
}

/// The bits of a whole number in single precision: below 2^24, so that it is exact.
#[expect(clippy::cast_precision_loss, reason = "small numbers")]
fn single_bits(number: i32) -> u32 {
    (number as f32).to_bits()
}

fn write(format: Format, number: i32) -> u16 {
    let bits = single_bits(number);
    let narrow = match format {
        Format::Bf16 => bits >> 16,
        Format::Fp16 if number == 0 => 0,
        Format::Fp16 => (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3_ffff) - (112 << 10)),
    };
    u16::try_from(narrow).unwrap_or(0)
}

fn whole(format: Format, bits: u16) -> Option<i32> {
    (-WHOLE..WHOLE).find(|number| write(format, *number) == bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_written_as_their_formats_say() {
        assert_eq!([0, 1, -8, 7].map(|it| write(Format::Bf16, it)), [0, 0x3f80, 0xc100, 0x40e0]);
        assert_eq!([0, 1, -8, 7].map(|it| write(Format::Fp16, it)), [0, 0x3c00, 0xc800, 0x4700]);
        for number in -WHOLE..WHOLE {
            for format in [Format::Bf16, Format::Fp16] {
                assert_eq!(whole(format, write(format, number)), Some(number));
            }
        }
        assert_eq!(whole(Format::Bf16, 0x3f81), None);
    }

    #[test]
    fn every_number_of_both_operands_changes_the_digests() {
        let shape = Shape { rows: TILE, depth: 2 * TILE, columns: TILE };
        let sound = Operands::whole(Format::Bf16, shape, 5).unwrap();
        let right = exact_digests(&sound, 1, 1).unwrap();
        for at in [0, 63, 64, 127, 4_096, 8_191] {
            for of_x in [true, false] {
                let mut it = sound.clone();
                let number = if of_x { &mut it.x[at] } else { &mut it.w[at] };
                *number = write(Format::Bf16, (whole(Format::Bf16, *number).unwrap() + 9) % 8);
                assert_ne!(exact_digests(&it, 1, 1), Some(right), "{at}");
            }
        }
        assert_ne!(exact_digests(&sound, 2, 1), Some(right));
        assert_ne!(exact_digests(&sound, 1, 2), Some(right));
    }

    #[test]
    fn what_is_not_whole_has_no_exact_digest() {
        let it = Operands::random(Format::Fp16, Shape::TILE, 1).unwrap();
        assert_eq!(exact_digests(&it, 1, 1), None);
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused() {
        let with = |rows| Operands::random(Format::Bf16, Shape { rows, ..Shape::TILE }, 1);
        for rows in [0, 63, 65, SIDE_MAX + TILE] {
            assert_eq!(with(rows).err(), Some(Unfit::Side("rows", rows)));
        }
        let short = Operands::new(Format::Bf16, Shape::TILE, Vec::new(), Vec::new());
        assert_eq!(short.err(), Some(Unfit::Count("X", 0, 4_096)));
    }
}
