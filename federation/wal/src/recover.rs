//! Tells a torn tail from rot, over the bytes of all segments in order.
//!
//! Each batch header says up to where the log was durable when it was written. So at the first
//! invalid byte the question is whether any later header vouches for the record expected there:
//! if one does, acknowledged data has rotted, and if none does, the bytes were never acknowledged.
//! A segment is made only after all before it is durable: one that has a successor has no torn
//! tail.

use std::collections::VecDeque;

use crate::format::{self, BATCH_HEADER_BYTES, BatchHeader, NoHeader, Seq};

/// No log gets this far; so sums with a sequence number do not overflow.
const MAX_FIRST_SEQ: Seq = 1 << 62;

/// Zeros are looked for in pieces of this size.
const ZERO_CHECK_BYTES: usize = 4096;

/// Why a log does not open. Nothing has been changed on disk.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecoverError {
    /// Acknowledged bytes are damaged.
    #[error(
        "segment {segment} is corrupt at byte {offset}, in acknowledged data ({evidence}); nothing \
         was changed: keep the files, check the disk, and replace this member by one with a new id \
         that starts from a snapshot of its peers"
    )]
    Corrupt {
        /// Number of the segment, as in its file name.
        segment: u64,
        /// Bytes from the start of that file.
        offset: u64,
        /// How it is known that the data was acknowledged.
        evidence: Evidence,
    },
    /// A file between two others is gone.
    #[error(
        "segment {segment} is missing, but later ones exist; nothing was changed: restore the \
         file, or replace this member by one with a new id that starts from a snapshot of its peers"
    )]
    MissingSegment {
        /// Number of the segment, as in its file name.
        segment: u64,
    },
    /// Another version of this program wrote the file.
    #[error(
        "segment {segment} has format version {found:?}, and this program reads only {known:?}; \
         start the version that wrote it", found = char::from(*found),
        known = char::from(format::FORMAT_VERSION)
    )]
    UnknownVersion {
        /// Number of the segment, as in its file name.
        segment: u64,
        /// The version byte found.
        found: u8,
    },
}

/// How recovery knows that damaged data was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A later batch of the same segment, at this byte, vouches for the record.
    LaterBatch {
        /// Bytes from the start of the file.
        offset: u64,
        /// The first record that cannot be read.
        expected: Seq,
    },
    /// A later segment exists, and one is made only when all before it is durable.
    LaterSegment {
        /// Number of that segment.
        segment: u64,
        /// The first record that cannot be read.
        expected: Seq,
    },
    /// The opening of a segment is durable before the segment gets its name.
    Opening,
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Evidence::LaterBatch { offset, expected } => {
                write!(f, "the batch at byte {offset} vouches for record {expected}")
            }
            Evidence::LaterSegment { segment, expected } => {
                write!(f, "record {expected} belongs here, and segment {segment} comes after it")
            }
            Evidence::Opening => f.write_str("an opening is durable before its file has a name"),
        }
    }
}

/// The rules in force. The others exist to prove that the tests would notice them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    Sound,
    /// Recovery ends the log at the first invalid byte, and asks nothing.
    #[cfg(test)]
    TruncateAtFirstInvalid,
    /// A batch counts its own records as durable.
    #[cfg(test)]
    AttestOwnBatch,
    /// Any header is evidence, also one of another segment.
    #[cfg(test)]
    AnySalt,
    /// A released segment is used again with the bytes that it has.
    #[cfg(test)]
    SkipZeroing,
    /// A released segment may lose its bytes before it has lost its name.
    #[cfg(test)]
    ZeroBeforeNamesAreDurable,
}

impl Rules {
    fn look_for_evidence(self) -> bool {
        self.are_but(
            #[cfg(test)]
            Rules::TruncateAtFirstInvalid,
        )
    }

    pub(crate) fn attest_own_batch(self) -> bool {
        !self.are_but(
            #[cfg(test)]
            Rules::AttestOwnBatch,
        )
    }

    fn compare_salts(self) -> bool {
        self.are_but(
            #[cfg(test)]
            Rules::AnySalt,
        )
    }

    pub(crate) fn skip_zeroing(self) -> bool {
        !self.are_but(
            #[cfg(test)]
            Rules::SkipZeroing,
        )
    }

    pub(crate) fn zero_before_names_are_durable(self) -> bool {
        !self.are_but(
            #[cfg(test)]
            Rules::ZeroBeforeNamesAreDurable,
        )
    }

    /// Whether they are any but those.
    #[cfg(test)]
    fn are_but(self, those: Rules) -> bool {
        self != those
    }

    #[cfg(not(test))]
    fn are_but(self) -> bool {
        true
    }
}

/// A recovery in progress; feed it the segments from oldest to newest.
#[derive(Clone, Debug)]
pub struct Recovery {
    rules: Rules,
    segments: Vec<SegmentSpan>,
    newest: Option<Newest>,
}

/// What a finished recovery found.
#[derive(Debug)]
pub struct Scan {
    /// Bytes that were never acknowledged follow the last record.
    pub truncated_tail: bool,
    pub(crate) segments: Vec<SegmentSpan>,
    pub(crate) newest: Option<Newest>,
}

/// Is given each record, in order.
pub type Visit<'a> = dyn FnMut(Seq, &[u8]) + 'a;

/// Which records a segment holds, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentSpan {
    /// Number of the segment, as in its file name.
    pub index: u64,
    /// Number of its first record; that of the next one if it has none.
    pub first_seq: Seq,
    /// Number of the record after its last one.
    pub next_seq: Seq,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes up to the end of the last intact batch.
    pub used: u64,
}

/// The segment in which the log goes on.
#[derive(Clone, Debug)]
pub(crate) struct Newest {
    pub(crate) index: u64,
    pub(crate) salt: u32,
    pub(crate) next_seq: Seq,
    /// Highest number that a batch of this segment vouches for.
    pub(crate) attested: Seq,
    /// Where the first batch begins that nothing vouches for.
    pub(crate) unattested_from: usize,
    /// Where the next batch goes.
    pub(crate) end: usize,
    /// Where the zeros to the end of the file begin; beyond `end` if the tail is torn.
    pub(crate) used: usize,
}

impl Default for Recovery {
    fn default() -> Recovery {
        Recovery::with_rules(Rules::Sound)
    }
}

impl Recovery {
    pub(crate) fn with_rules(rules: Rules) -> Recovery {
        Recovery { rules, segments: Vec::new(), newest: None }
    }

    /// Takes the next segment, its number and all bytes of its file, and gives its records to
    /// `visit`. They are durable only once the log is open.
    ///
    /// # Errors
    /// [`RecoverError`] as soon as it is certain that acknowledged records cannot be read.
    pub fn push(
        &mut self,
        index: u64,
        segment: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), RecoverError> {
        if let Some(before) = &self.newest
            && before.index + 1 != index
        {
            return Err(RecoverError::MissingSegment { segment: before.index + 1 });
        }
        let opening = read_opening(index, segment)?;
        if let Some(before) = &self.newest
            && (before.is_torn() || before.next_seq != opening.first_seq)
        {
            if !self.rules.look_for_evidence() {
                return Ok(());
            }
            return Err(RecoverError::Corrupt {
                segment: before.index,
                offset: before.end as u64,
                evidence: Evidence::LaterSegment { segment: index, expected: before.next_seq },
            });
        }
        let newest = self.read_batches(index, opening, segment, visit)?;
        self.segments.push(SegmentSpan {
            index,
            first_seq: opening.first_seq,
            next_seq: newest.next_seq,
            bytes: segment.len() as u64,
            used: newest.end as u64,
        });
        self.newest = Some(newest);
        Ok(())
    }

    /// Ends the recovery.
    #[must_use]
    pub fn finish(self) -> Scan {
        let truncated_tail = self.newest.as_ref().is_some_and(Newest::is_torn);
        let Recovery { segments, newest, .. } = self;
        Scan { truncated_tail, segments, newest }
    }

    fn read_batches(
        &self,
        index: u64,
        opening: BatchHeader,
        segment: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<Newest, RecoverError> {
        let salt = opening.salt;
        let used = used(segment);
        let mut payloads = Vec::new();
        let mut batches = VecDeque::new();
        let mut end = BATCH_HEADER_BYTES;
        let mut next_seq = opening.first_seq;
        let mut attested = opening.durable_upto;
        while end < used {
            match format::decode_batch(segment, end, salt, next_seq, &mut payloads) {
                Ok(header) => {
                    for (seq, payload) in (next_seq..).zip(payloads.drain(..)) {
                        visit(seq, &segment[payload]);
                    }
                    attested = attested.max(header.durable_upto);
                    batches.push_back((end, next_seq));
                    while batches.front().is_some_and(|(_, first_seq)| *first_seq <= attested) {
                        batches.pop_front();
                    }
                    next_seq += u64::from(header.records);
                    end = payloads_end(end, &header);
                }
                Err(NoHeader::OtherVersion(found)) => {
                    return Err(RecoverError::UnknownVersion { segment: index, found });
                }
                Err(NoHeader::Invalid) => break,
            }
        }
        if end < used
            && self.rules.look_for_evidence()
            && let Some(at) = {
                let salt = self.rules.compare_salts().then_some(salt);
                format::find_attestation(segment, end, salt, next_seq)
            }
        {
            return Err(RecoverError::Corrupt {
                segment: index,
                offset: end as u64,
                evidence: Evidence::LaterBatch { offset: at as u64, expected: next_seq },
            });
        }
        // A seal at the end counts too: it vouches for what is before it, nothing for itself.
        let unattested_from = batches.front().map_or(end, |(at, _)| *at);
        Ok(Newest { index, salt, next_seq, attested, unattested_from, end, used })
    }
}

impl Newest {
    pub(crate) fn is_torn(&self) -> bool {
        self.used > self.end
    }
}

/// Where the zeros to the end of the segment begin.
fn used(segment: &[u8]) -> usize {
    let is_zero = |piece: &[u8]| piece.iter().fold(0, |all, byte| all | byte) == 0;
    let pieces = segment.chunks(ZERO_CHECK_BYTES);
    let last = pieces.enumerate().rev().find(|(_, piece)| !is_zero(piece));
    last.map_or(0, |(number, piece)| {
        let used = piece.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        number * ZERO_CHECK_BYTES + used
    })
}

fn payloads_end(offset: usize, header: &BatchHeader) -> usize {
    let bytes = usize::try_from(header.bytes).expect("the batch was read from memory");
    offset + BATCH_HEADER_BYTES + bytes
}

fn read_opening(index: u64, segment: &[u8]) -> Result<BatchHeader, RecoverError> {
    match BatchHeader::decode(segment) {
        Ok(opening)
            if (1..MAX_FIRST_SEQ).contains(&opening.first_seq)
                && opening == BatchHeader::opening(index, opening.salt, opening.first_seq) =>
        {
            Ok(opening)
        }
        Err(NoHeader::OtherVersion(found)) => {
            Err(RecoverError::UnknownVersion { segment: index, found })
        }
        Ok(_) | Err(NoHeader::Invalid) => {
            let evidence = Evidence::Opening;
            Err(RecoverError::Corrupt { segment: index, offset: 0, evidence })
        }
    }
}
