//! Records as small as they can be: a million jobs are known, and most of them have ended.

use core::slice;

use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::{DecodeError, Field, Message, Reader, Value, Wire, put_delimited};
use specs::id::AccountId;
use specs::job::{Deadline, JobSpec};
use specs::unit::{Millis, Timestamp};

/// The number of [`JobSpec::priority`] on the wire.
const PRIORITY_TAG: u32 = 3;
/// The number of [`JobSpec::time_limit`] on the wire.
const TIME_LIMIT_TAG: u32 = 16;
/// The number of [`JobSpec::account`] on the wire.
const ACCOUNT_TAG: u32 = 30;
/// The number of [`JobSpec::deadline`] on the wire.
const DEADLINE_TAG: u32 = 41;

/// What a job asks for, as the bytes of a [`JobSpec`]: one piece of memory where the spec has a
/// dozen, shared by the jobs of an array. Most jobs wait or have ended, and nobody reads what they
/// ask for.
#[derive(Debug, Clone)]
pub struct PackedSpec(Arc<[u8]>);

impl PackedSpec {
    /// The spec, read anew.
    ///
    /// # Panics
    /// If the bytes are not those of a spec. Whoever admits a job has read its spec, so the agreed
    /// state is broken then.
    #[must_use]
    pub fn get(&self) -> Arc<JobSpec> {
        Arc::new(JobSpec::decode(&self.0).expect("what was admitted was packed from a spec"))
    }

    /// The spec's priority; told without reading the rest.
    pub(crate) fn priority(&self) -> u32 {
        self.field(PRIORITY_TAG).unwrap_or_default()
    }

    /// The spec's account; told without reading the rest.
    pub(crate) fn account(&self) -> Option<AccountId> {
        self.field(ACCOUNT_TAG)
    }

    /// When a job of this spec should have ended; told without reading the rest.
    pub(crate) fn due(&self, admitted_at: Timestamp) -> Option<Timestamp> {
        let deadline: Deadline = self.field(DEADLINE_TAG)?;
        Some(deadline.from(admitted_at))
    }

    /// The last moment at which it can start and end in time, as far as its limit tells.
    pub(crate) fn latest_start(&self, admitted_at: Timestamp) -> Option<Timestamp> {
        let limit: Millis = self.field(TIME_LIMIT_TAG).unwrap_or_default();
        self.due(admitted_at).map(|due| Timestamp(due.0.saturating_sub(limit.0)))
    }

    /// One field; fields stand in the order of their numbers.
    fn field<T: Value>(&self, wanted: u32) -> Option<T> {
        let mut reader = Reader::new(&self.0);
        while let Ok(Some((tag, wire))) = reader.field() {
            if (tag, wire) == (wanted, T::WIRE) {
                return T::get(&mut reader).ok();
            }
            if tag > wanted || reader.skip(wire).is_err() {
                break;
            }
        }
        None
    }

    /// Whether it bears the name; told without reading the rest.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        // The name is the first field; longer than it can be, it matches nothing.
        match self.0.as_ref() {
            [_, len, rest @ ..] => {
                usize::from(*len) == name.len() && rest.starts_with(name.as_bytes())
            }
            _ => false,
        }
    }
}

impl From<&JobSpec> for PackedSpec {
    fn from(spec: &JobSpec) -> Self {
        Self(spec.encode().into())
    }
}

impl PartialEq for PackedSpec {
    /// Another version may have written the same in other bytes.
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 || self.get() == other.get()
    }
}

impl Eq for PackedSpec {}

impl Value for PackedSpec {
    const WIRE: Wire = Wire::Bytes;

    fn put(&self, out: &mut Vec<u8>) {
        put_delimited(&self.0, out);
    }

    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(reader.bytes()?.into()))
    }
}

/// A list that mostly holds one.
#[derive(Debug, Clone)]
pub enum Few<T> {
    One(T),
    Many(Arc<[T]>),
}

impl<T> Few<T> {
    #[must_use]
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T: Clone> From<&[T]> for Few<T> {
    fn from(items: &[T]) -> Self {
        match items {
            [one] => Self::One(one.clone()),
            many => Self::Many(many.into()),
        }
    }
}

impl<T: PartialEq> PartialEq for Few<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T: Eq> Eq for Few<T> {}

impl<T: Value + Clone> Field for Few<T> {
    type Slot = Vec<T>;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        for item in self.as_slice() {
            specs::codec::put_present(item, tag, out);
        }
    }

    fn fill(
        slot: &mut Vec<T>,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        Vec::fill(slot, tag, wire, reader)
    }

    fn finish(slot: Vec<T>, _name: &'static str) -> Result<Self, DecodeError> {
        Ok(slot.as_slice().into())
    }
}
