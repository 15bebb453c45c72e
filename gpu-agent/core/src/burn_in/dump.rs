//! Files of operands that a failing job dumped, to be run again on every SM.
//!
//! All numbers are written with their low byte first.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `SPWLSTEP` |
//! | 4 | version: 1 |
//! | 4 | format of the numbers: 1 is bf16, 2 is fp16 |
//! | 12 | rows of X, its columns (which are the rows of W), columns of W: multiples of 64 to 1,024 |
//! | 4 | zero |
//! | 8 | the seed that digests begin with |
//! | 2 for each | X row by row, then W row by row |
//! | 4 | CRC-32 of all before, as gzip and PNG compute it |

use alloc::vec::Vec;
use core::fmt;

use super::golden::{Format, Operands, SIDE_MAX, Shape, TILE, Unfit};

/// How each file begins.
pub const MAGIC: &[u8; 8] = b"SPWLSTEP";
const VERSION: u32 = 1;
const HEAD: usize = 40;
const TAIL: usize = 4;
/// The longest file.
pub const BYTES_MAX: usize = HEAD + 2 * 2 * (SIDE_MAX * SIDE_MAX) as usize + TAIL;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dump {
    pub operands: Operands,
    pub seed: u64,
    pub checksum: u32,
}

/// Why a file is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DumpError {
    /// It does not begin as one does.
    Magic,
    Version(u32),
    Format(u32),
    Unfit(Unfit),
    /// Bytes that should be zero are not.
    Reserved(u32),
    /// As many bytes as there are, and as there should be at least.
    Short(usize, usize),
    /// As many bytes as there are, and as there should be.
    Long(usize, usize),
    /// The checksum that is written, and the one that is right.
    Checksum(u32, u32),
}

impl fmt::Display for DumpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("it does not begin with SPWLSTEP, so it is no dump"),
            Self::Version(it) => write!(f, "version {it} at byte 8 is not known, only {VERSION}"),
            Self::Format(it) => write!(f, "format {it} at byte 12 is neither 1, bf16, nor 2, fp16"),
            Self::Unfit(Unfit::Side(name, it)) => {
                write!(f, "{it} {name} are not a multiple of {TILE} up to {SIDE_MAX}")
            }
            Self::Unfit(Unfit::Count(name, has, needs)) => {
                write!(f, "{name} has {has} numbers and needs {needs}")
            }
            Self::Reserved(it) => write!(f, "{it} at byte 28 should be zero"),
            Self::Short(has, needs) => write!(f, "it ends after {has} of {needs} bytes"),
            Self::Long(has, needs) => write!(f, "it has {has} bytes where {needs} are right"),
            Self::Checksum(is, right) => {
                write!(f, "its checksum is {is:08x} where {right:08x} is right: it is damaged")
            }
        }
    }
}

impl core::error::Error for DumpError {}

/// Reads a file.
///
/// # Errors
/// It is none, is damaged, or holds something that the step does not take.
pub fn parse(bytes: &[u8]) -> Result<Dump, DumpError> {
    let short = |needs| DumpError::Short(bytes.len(), needs);
    let (magic, _) = bytes.split_first_chunk().ok_or(DumpError::Magic)?;
    if magic != MAGIC {
        return Err(DumpError::Magic);
    }
    let head: &[u8; HEAD] = bytes.first_chunk().ok_or_else(|| short(HEAD + TAIL))?;
    let word = |at: usize| u32::from_le_bytes(core::array::from_fn(|nth| head[at + nth]));
    if word(8) != VERSION {
        return Err(DumpError::Version(word(8)));
    }
    let format = match word(12) {
        1 => Format::Bf16,
        2 => Format::Fp16,
        other => return Err(DumpError::Format(other)),
    };
    let shape = Shape { rows: word(16), depth: word(20), columns: word(24) };
    shape.check().map_err(DumpError::Unfit)?;
    if word(28) != 0 {
        return Err(DumpError::Reserved(word(28)));
    }
    let seed = u64::from(word(36)) << 32 | u64::from(word(32));
    let (of_x, of_w) = shape.counts();
    let needs = HEAD + (of_x + of_w) * 2 + TAIL;
    if bytes.len() < needs {
        return Err(short(needs));
    }
    if bytes.len() > needs {
        return Err(DumpError::Long(bytes.len(), needs));
    }
    let (body, tail) = bytes.split_last_chunk().ok_or_else(|| short(needs))?;
    let (is, right) = (u32::from_le_bytes(*tail), checksum(body));
    if is != right {
        return Err(DumpError::Checksum(is, right));
    }
    let (pairs, _) = body[HEAD..].as_chunks();
    let mut x: Vec<u16> = pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect();
    let w = x.split_off(of_x);
    let operands = Operands::new(format, shape, x, w).map_err(DumpError::Unfit)?;
    Ok(Dump { operands, seed, checksum: is })
}

/// Writes a file.
#[must_use]
pub fn write(operands: &Operands, seed: u64) -> Vec<u8> {
    let shape = operands.shape();
    let format = match operands.format() {
        Format::Bf16 => 1_u32,
        Format::Fp16 => 2,
    };
    let mut bytes = MAGIC.to_vec();
    for word in [VERSION, format, shape.rows, shape.depth, shape.columns, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(seed.to_le_bytes());
    for number in operands.numbers().into_iter().flatten() {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(checksum(&bytes).to_le_bytes());
    bytes
}

/// CRC-32, bits reflected, of the polynomial 0x04C11DB7.
fn checksum(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            sum >> 1 ^ if sum & 1 == 1 { 0xedb8_8320 } else { 0 }
        })
    });
    !sum
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    const SEED: u64 = 1 << 40 | 5;

    fn operands() -> Operands {
        let shape = Shape { depth: 2 * TILE, ..Shape::TILE };
        Operands::random(Format::Fp16, shape, 3).unwrap()
    }

    fn file() -> Vec<u8> {
        write(&operands(), SEED)
    }

    /// The file with a change, and a checksum that fits it.
    fn changed(change: impl Fn(&mut Vec<u8>)) -> Result<Dump, DumpError> {
        let mut bytes = file();
        bytes.truncate(bytes.len() - TAIL);
        change(&mut bytes);
        bytes.extend(checksum(&bytes).to_le_bytes());
        parse(&bytes)
    }

    #[test]
    fn what_is_written_reads_back() {
        let read = parse(&file()).unwrap();
        assert_eq!((&read.operands, read.seed), (&operands(), SEED));
        assert_eq!(changed(|_| ()), Ok(read));
    }

    #[test]
    fn the_checksum_is_the_usual_one() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn each_wrong_byte_is_found() {
        let right = file();
        for at in (0..right.len()).step_by(101).chain(right.len() - TAIL..right.len()) {
            let mut bytes = right.clone();
            bytes[at] ^= 4;
            assert!(parse(&bytes).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_is_no_dump_is_refused_with_its_reason() {
        let whole = file().len();
        assert_eq!(parse(b""), Err(DumpError::Magic));
        assert_eq!(parse(&[0; 100]), Err(DumpError::Magic));
        assert_eq!(parse(&file()[..20]), Err(DumpError::Short(20, HEAD + TAIL)));
        assert_eq!(parse(&file()[..99]), Err(DumpError::Short(99, whole)));
        assert_eq!(changed(|it| it[8] = 2), Err(DumpError::Version(2)));
        assert_eq!(changed(|it| it[12] = 3), Err(DumpError::Format(3)));
        assert_eq!(changed(|it| it[16] = 65), Err(DumpError::Unfit(Unfit::Side("rows", 65))));
        let huge = |it: &mut Vec<u8>| it[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(changed(huge), Err(DumpError::Unfit(Unfit::Side("depth", u32::MAX))));
        assert_eq!(changed(|it| it[28] = 1), Err(DumpError::Reserved(1)));
        assert_eq!(changed(|it| it.push(0)), Err(DumpError::Long(whole + 1, whole)));
        let one = DumpError::Checksum(1, 2).to_string();
        assert!(one.contains("damaged"), "{one}");
    }
}
