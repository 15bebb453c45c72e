//! Agreed state in pieces of bounded size, so that a snapshot is written, sent and read without
//! ever holding all of its bytes.
//!
//! ```text
//!  chunk of table 0:   an `Agreed` whose tables are empty
//!  chunk of table n:   the pairs of field n of `Agreed`, each as a delimited map entry
//! ```
//!
//! # Invariants
//! * Equal states give equal chunks: tables ascend, keys ascend, and a chunk ends where the next
//!   record would make it too long.

use core::iter;

use alloc::vec::Vec;

use specs::codec::{DecodeError, Message, Reader, Value, get_pair, put_pair};

use super::{Agreed, State};

/// Most bytes of a chunk, unless it holds a single record that is longer.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;

/// The number that stands for everything that is in no table.
const REST: u16 = 0;

/// A piece of agreed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// The table's field number in [`Agreed`]; zero for all that is in no table.
    pub table: u16,
    pub records: u32,
    pub bytes: Vec<u8>,
}

/// Why chunks do not make a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkError {
    #[error("table {0} is unknown: a newer version wrote this")]
    Table(u16),
    #[error("a record of table {0} stands in the wrong place")]
    Order(u16),
    #[error("a chunk of table {table} holds {found} records instead of {said}")]
    Count { table: u16, said: u32, found: u32 },
    #[error("the first chunk is missing")]
    First,
    #[error("a record of table {table} cannot be read")]
    Record { table: u16, source: DecodeError },
}

/// Makes a state of its chunks, which come in the order in which [`State::chunks`] gives them.
#[derive(Debug, Default)]
pub struct StateBuilder {
    /// None before the first chunk.
    agreed: Option<Agreed>,
    /// Of the last chunk.
    table: u16,
}

/// Names the tables once, in the order of their field numbers. A table that is left out still
/// travels: in the first chunk, which then has no bound.
macro_rules! tables {
    ($( $number:literal => $table:ident ),* $(,)?) => {
        /// Agreed state without its tables.
        fn rest(agreed: &Agreed) -> Agreed {
            Agreed { $( $table: Default::default(), )* ..agreed.clone() }
        }

        fn is_rest(agreed: &Agreed) -> bool {
            true $( && agreed.$table.is_empty() )*
        }

        fn table_chunks(agreed: &Agreed) -> impl Iterator<Item = Chunk> + '_ {
            iter::empty()$( .chain(chunks_of($number, agreed.$table.iter())) )*
        }

        fn push_records(
            agreed: &mut Agreed,
            number: u16,
            bytes: &[u8],
        ) -> Result<u32, ChunkError> {
            match number {
                $( $number => {
                    append_all(number, bytes, |key, value| agreed.$table.append(key, value))
                } )*
                _ => Err(ChunkError::Table(number)),
            }
        }
    };
}

tables! {
    3 => jobs,
    4 => requests,
    5 => nodes,
    6 => leases,
    8 => guests,
    9 => grants,
    11 => held,
    12 => peers,
    13 => tokens,
    14 => controllers,
    16 => lapsed,
    30 => quotas,
    31 => recent,
    42 => data_sets,
    43 => links,
    60 => reservations,
}

fn chunks_of<'a, K: Value + 'a, V: Value + 'a>(
    number: u16,
    mut pairs: impl Iterator<Item = (&'a K, &'a V)>,
) -> impl Iterator<Item = Chunk> {
    // What was encoded and did not fit into the last chunk.
    let mut left: Vec<u8> = Vec::new();
    iter::from_fn(move || {
        let mut bytes = core::mem::take(&mut left);
        let mut records = u32::from(!bytes.is_empty());
        for (key, value) in pairs.by_ref() {
            let before = bytes.len();
            put_pair(key, value, &mut bytes);
            if before > 0 && bytes.len() > CHUNK_BYTES_MAX {
                left = bytes.split_off(before);
                break;
            }
            records += 1;
        }
        (records > 0).then_some(Chunk { table: number, records, bytes })
    })
}

fn append_all<K: Value, V: Value>(
    number: u16,
    bytes: &[u8],
    mut append: impl FnMut(K, V) -> bool,
) -> Result<u32, ChunkError> {
    let mut reader = Reader::new(bytes);
    let mut records = 0;
    while !reader.is_empty() {
        let (key, value) =
            get_pair(&mut reader).map_err(|source| ChunkError::Record { table: number, source })?;
        if !append(key, value) {
            return Err(ChunkError::Order(number));
        }
        records += 1;
    }
    Ok(records)
}

impl State {
    /// The state in pieces, the first with all that is in no table. Reads as it is asked to: a
    /// clone of the state may be walked on another thread for as long as it takes.
    pub fn chunks(&self) -> impl Iterator<Item = Chunk> + '_ {
        let first = || Chunk { table: REST, records: 1, bytes: rest(&self.agreed).encode() };
        iter::once_with(first).chain(table_chunks(&self.agreed))
    }
}

impl StateBuilder {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the next chunk.
    ///
    /// # Errors
    /// Bytes that are not that chunk, or a chunk out of its place. The builder is of no more use.
    pub fn push(&mut self, table: u16, records: u32, bytes: &[u8]) -> Result<(), ChunkError> {
        let found = match &mut self.agreed {
            None if table == REST => {
                let rest =
                    Agreed::decode(bytes).map_err(|source| ChunkError::Record { table, source })?;
                if !is_rest(&rest) {
                    return Err(ChunkError::Order(table));
                }
                self.agreed = Some(rest);
                1
            }
            None => return Err(ChunkError::First),
            Some(_) if table == REST || table < self.table => return Err(ChunkError::Order(table)),
            Some(agreed) => push_records(agreed, table, bytes)?,
        };
        self.table = table;
        if found != records {
            return Err(ChunkError::Count { table, said: records, found });
        }
        Ok(())
    }

    /// The state, with its indexes.
    ///
    /// # Errors
    /// No chunk came.
    pub fn finish(self) -> Result<State, ChunkError> {
        self.agreed.map(State::index).ok_or(ChunkError::First)
    }
}
