//! The bytes of a segment. Pure: no disk, no clock, no randomness.
//!
//! ```text
//! segment  opening, batch, batch, ..., zeros to the end of the file
//! batch    header 40 B: magic u32 | records u32 | bytes u32 | salt u32 | first_seq u64
//!                       | durable_upto u64 | crc u32 (of the 32 bytes before) | 0 u32
//!          records:     len u32 | seq u64 | header_crc u32 | payload_crc u32 | payload
//! ```
//!
//! An opening is the header of a batch without records, whose `bytes` are the low 32 bits of the
//! segment's number: the opening of another segment, written here, is none.
//!
//! All integers are little-endian, all sums CRC32C; the two of a record are seeded with the salt of
//! its segment, so that bytes of another segment, or of a payload, do not pass for a record.

use std::ops::Range;

/// A record's place in the log, from 1, without gaps.
pub type Seq = u64;

/// Size of a batch header, bytes.
pub const BATCH_HEADER_BYTES: usize = 40;

/// Size of what precedes each payload, bytes.
pub const RECORD_HEADER_BYTES: usize = 20;

/// The version this code writes, and the only one it reads: the last byte of the magic.
pub const FORMAT_VERSION: u8 = b'2';

const MAGIC_PREFIX: [u8; 3] = *b"SWL";
const SUMMED_BYTES: usize = 32;

/// What one batch header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchHeader {
    /// Number of records that follow; 0 in an opening or a seal.
    pub records: u32,
    /// Bytes of those records, their headers included; of an opening, see [`BatchHeader::opening`].
    pub bytes: u32,
    /// The random number of the segment.
    pub salt: u32,
    /// Number of the first record, or of the next one if there is none.
    pub first_seq: Seq,
    /// Highest number known to be durable when the batch was written: never one of its own.
    pub durable_upto: Seq,
}

/// Why bytes are no batch header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// They are damaged, cut off, or something else.
    Invalid,
    /// They are an intact header of a version this code does not know.
    OtherVersion(u8),
}

impl BatchHeader {
    /// What a segment begins with.
    ///
    /// Invariant: `first_seq` is at least 1.
    #[must_use]
    pub fn opening(index: u64, salt: u32, first_seq: Seq) -> BatchHeader {
        let [a, b, c, d, ..] = index.to_le_bytes();
        let bytes = u32::from_le_bytes([a, b, c, d]);
        let durable_upto = first_seq.saturating_sub(1);
        BatchHeader { records: 0, bytes, salt, first_seq, durable_upto }
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; BATCH_HEADER_BYTES] {
        let mut out = [0; BATCH_HEADER_BYTES];
        out[0..3].copy_from_slice(&MAGIC_PREFIX);
        out[3] = FORMAT_VERSION;
        out[4..8].copy_from_slice(&self.records.to_le_bytes());
        out[8..12].copy_from_slice(&self.bytes.to_le_bytes());
        out[12..16].copy_from_slice(&self.salt.to_le_bytes());
        out[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        out[24..32].copy_from_slice(&self.durable_upto.to_le_bytes());
        let crc = crc32c::crc32c(&out[..SUMMED_BYTES]);
        out[32..36].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads a header from the start of `bytes`.
    ///
    /// # Errors
    /// [`NoHeader`] if there is none.
    pub fn decode(bytes: &[u8]) -> Result<BatchHeader, NoHeader> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES).ok_or(NoHeader::Invalid)?;
        if bytes[..3] != MAGIC_PREFIX
            || u32_at(bytes, 32) != crc32c::crc32c(&bytes[..SUMMED_BYTES])
            || u32_at(bytes, 36) != 0
        {
            return Err(NoHeader::Invalid);
        }
        if bytes[3] != FORMAT_VERSION {
            return Err(NoHeader::OtherVersion(bytes[3]));
        }
        Ok(BatchHeader {
            records: u32_at(bytes, 4),
            bytes: u32_at(bytes, 8),
            salt: u32_at(bytes, 12),
            first_seq: u64_at(bytes, 16),
            durable_upto: u64_at(bytes, 24),
        })
    }
}

/// Builds the bytes of one batch after another in one buffer.
#[derive(Clone, Debug, Default)]
pub struct BatchEncoder {
    bytes: Vec<u8>,
}

impl BatchEncoder {
    /// The bytes of a batch of `payloads`, numbered from `first_seq`.
    ///
    /// # Panics
    /// If the batch is 4 GiB or more; [`crate::Config`] keeps it far below.
    pub fn encode<'a>(
        &mut self,
        salt: u32,
        first_seq: Seq,
        durable_upto: Seq,
        payloads: impl Iterator<Item = &'a [u8]>,
    ) -> &[u8] {
        self.bytes.clear();
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        let mut records = 0;
        for (seq, payload) in (first_seq..).zip(payloads) {
            encode_record(&mut self.bytes, salt, seq, payload);
            records += 1;
        }
        let bytes = length(self.bytes.len() - BATCH_HEADER_BYTES);
        let header = BatchHeader { records, bytes, salt, first_seq, durable_upto };
        self.bytes[..BATCH_HEADER_BYTES].copy_from_slice(&header.encode());
        &self.bytes
    }
}

/// Reads the batch at `offset`: its header, and where its payloads lie in `segment`.
///
/// # Errors
/// [`NoHeader`] unless the batch and each of its records is intact and belongs exactly here.
pub(crate) fn decode_batch(
    segment: &[u8],
    offset: usize,
    salt: u32,
    expected: Seq,
    payloads: &mut Vec<Range<usize>>,
) -> Result<BatchHeader, NoHeader> {
    let header = BatchHeader::decode(&segment[offset..])?;
    let start = offset + BATCH_HEADER_BYTES;
    let records = usize::try_from(header.bytes)
        .ok()
        .and_then(|bytes| segment.get(start..start.checked_add(bytes)?))
        .ok_or(NoHeader::Invalid)?;
    if header.salt != salt || header.first_seq != expected {
        return Err(NoHeader::Invalid);
    }
    let known = payloads.len();
    let mut at = 0;
    for (seq, _) in (expected..).zip(0..header.records) {
        let Some(payload) = decode_record(&records[at..], salt, seq) else {
            payloads.truncate(known);
            return Err(NoHeader::Invalid);
        };
        payloads.push(start + at + payload.start..start + at + payload.end);
        at += payload.end;
    }
    if at != records.len() {
        payloads.truncate(known);
        return Err(NoHeader::Invalid);
    }
    Ok(header)
}

/// Where, from `offset` on, an intact batch header with that salt, or any if there is none, says
/// that record `expected` was durable.
pub(crate) fn find_attestation(
    segment: &[u8],
    offset: usize,
    salt: Option<u32>,
    expected: Seq,
) -> Option<usize> {
    segment[offset..].windows(BATCH_HEADER_BYTES).zip(offset..).find_map(|(bytes, at)| {
        if bytes[0] != MAGIC_PREFIX[0] {
            return None;
        }
        let header = BatchHeader::decode(bytes).ok()?;
        let is_own = salt.is_none_or(|salt| header.salt == salt);
        (is_own && header.durable_upto >= expected).then_some(at)
    })
}

fn encode_record(out: &mut Vec<u8>, salt: u32, seq: Seq, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&length(payload.len()).to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    let header_crc = crc32c::crc32c_append(salt, &out[start..]);
    out.extend_from_slice(&header_crc.to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c_append(salt, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The payload of the record at the start of `bytes`; it ends where the next record begins.
fn decode_record(bytes: &[u8], salt: u32, seq: Seq) -> Option<Range<usize>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    if u64_at(header, 4) != seq || u32_at(header, 12) != crc32c::crc32c_append(salt, &header[..12])
    {
        return None;
    }
    let end = RECORD_HEADER_BYTES.checked_add(usize::try_from(u32_at(header, 0)).ok()?)?;
    let payload = bytes.get(RECORD_HEADER_BYTES..end)?;
    (u32_at(header, 16) == crc32c::crc32c_append(salt, payload)).then_some(RECORD_HEADER_BYTES..end)
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a segment is at most 1 GiB, so a batch in it fits 32 bits")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_batch_are_these() {
        let payloads = [b"job".as_slice(), b""];
        let mut encoder = BatchEncoder::default();
        let bytes = encoder.encode(0x0102_0304, 8, 7, payloads.into_iter());
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        // The header in three parts, the record "job" in two, and the empty record.
        let golden = [
            "53574c32020000002b00000004030201",
            "08000000000000000700000000000000",
            "6d10462b00000000",
            "03000000080000000000000056a40e246404619d",
            "6a6f62",
            "00000000090000000000000021a5a03e04030201",
        ];
        assert_eq!(hex, golden.concat());
        let mut found = Vec::new();
        let header = decode_batch(bytes, 0, 0x0102_0304, 8, &mut found).unwrap();
        assert_eq!((header.records, header.durable_upto), (2, 7));
        assert_eq!(found, [60..63, 83..83]);
    }
}
