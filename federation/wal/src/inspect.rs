//! Looks at a log without opening it: no lock is taken and nothing is changed, so a running one may
//! be looked at too.

use std::io;

use crate::disk::Disk;
use crate::format::Seq;
use crate::recover::{RecoverError, Recovery, Scan, SegmentSpan};
use crate::writer::{is_leftover, read_segment, segment_indexes, segment_name};

/// A segment that seems damaged is read so often: a writer may have been at it.
const READS: usize = 3;

/// What a log holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The segments that could be read, oldest first.
    pub segments: Vec<SegmentSpan>,
    /// Files that wait to become segments, by name.
    pub spares: Vec<String>,
    /// Where bytes begin that were never acknowledged. Normal after a power loss and while the log
    /// is being written; the next start cuts them off.
    pub torn_tail: Option<TornTail>,
    /// The last record is vouched for: the log was closed cleanly, or was idle.
    pub is_sealed: bool,
    /// Why the log would not open. The segments before the damage are in `segments`.
    pub damage: Option<RecoverError>,
}

/// Where the tail is torn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// Number of the segment, as in its file name.
    pub segment: u64,
    /// Bytes from the start of that file.
    pub offset: u64,
}

/// Why a log could not be looked at.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} of the log")]
pub struct InspectError {
    /// What was attempted.
    pub doing: &'static str,
    /// What the disk said.
    pub source: io::Error,
}

impl Report {
    /// Number of the first record that is there; that of the next one if there is none.
    #[must_use]
    pub fn first_seq(&self) -> Seq {
        self.segments.first().map_or(1, |span| span.first_seq)
    }

    /// The number that the next record would get, if there is no damage.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        self.segments.last().map_or(1, |span| span.next_seq)
    }

    /// Bytes in use, those of spares left out.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.segments.iter().map(|span| span.used).sum()
    }
}

/// Reads all segments and gives each record to `visit`, in order, up to the first damage.
///
/// # Errors
/// [`InspectError`] if the disk fails. Damage is no error here: it is in the report.
pub fn inspect(disk: &dyn Disk, mut visit: impl FnMut(Seq, &[u8])) -> Result<Report, InspectError> {
    let failed = |doing| move |source| InspectError { doing, source };
    let names = disk.list().map_err(failed("list the directory"))?;
    let mut recovery = Recovery::default();
    let mut visited = 0;
    let mut visit_once = |seq, record: &[u8]| {
        if seq > visited {
            visit(seq, record);
            visited = seq;
        }
    };
    let mut bytes = Vec::new();
    let mut damage = None;
    let mut is_first = true;
    for index in segment_indexes(&names) {
        let mut file = match disk.open_for_reading(&segment_name(index)) {
            Ok(file) => file,
            // Released since the names were read.
            Err(error) if is_first && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed("open a segment")(error)),
        };
        is_first = false;
        for _ in 0..READS {
            read_segment(file.as_mut(), &mut bytes).map_err(failed("read a segment"))?;
            let mut attempt = recovery.clone();
            damage = attempt.push(index, &bytes, &mut visit_once).err();
            if damage.is_none() {
                recovery = attempt;
                break;
            }
        }
        if damage.is_some() {
            break;
        }
    }
    let Scan { segments, newest, .. } = recovery.finish();
    let torn = newest.as_ref().filter(|newest| newest.is_torn());
    let torn_tail =
        torn.map(|newest| TornTail { segment: newest.index, offset: newest.end as u64 });
    let is_sealed = newest.is_none_or(|newest| newest.attested + 1 >= newest.next_seq);
    let spares = names.into_iter().filter(|name| is_leftover(name)).collect();
    Ok(Report { segments, spares, torn_tail, is_sealed, damage })
}
