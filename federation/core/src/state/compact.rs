//! Records as small as they can be: a million jobs are known, and most of them have ended.

use core::slice;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use specs::codec::{DecodeError, Field, Message, Reader, Value, Wire, get_message, put_delimited};
use specs::job::JobSpec;

/// What a job asks for: at hand while it may still be placed, packed once it has ended. Which of
/// the two makes no difference to anyone.
#[derive(Debug, Clone)]
pub enum KeptSpec {
    AtHand(Arc<JobSpec>),
    /// Invariant: the bytes of a spec, as this version writes them.
    Packed(Box<[u8]>),
}

impl KeptSpec {
    /// The spec. Reads it anew if it is packed.
    #[must_use]
    pub fn get(&self) -> Arc<JobSpec> {
        match self {
            Self::AtHand(spec) => spec.clone(),
            Self::Packed(bytes) => {
                Arc::new(JobSpec::decode(bytes).expect("it was packed from a spec"))
            }
        }
    }

    /// Whether it bears the name; told without reading all of it.
    #[must_use]
    pub fn is_named(&self, name: &str) -> bool {
        match self {
            Self::AtHand(spec) => spec.name.as_str() == name,
            // The name is the first field; longer than it can be, it matches nothing.
            Self::Packed(bytes) => match bytes.as_ref() {
                [_, len, rest @ ..] => {
                    usize::from(*len) == name.len() && rest.starts_with(name.as_bytes())
                }
                _ => false,
            },
        }
    }

    pub(crate) fn pack(&mut self) {
        if let Self::AtHand(spec) = self {
            *self = Self::Packed(spec.encode().into_boxed_slice());
        }
    }

    pub(crate) fn unpack(&mut self) {
        *self = Self::AtHand(self.get());
    }
}

impl PartialEq for KeptSpec {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Packed(one), Self::Packed(another)) => one == another,
            _ => self.get() == other.get(),
        }
    }
}

impl Eq for KeptSpec {}

impl Value for KeptSpec {
    const WIRE: Wire = Wire::Bytes;

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::AtHand(spec) => spec.put(out),
            Self::Packed(bytes) => put_delimited(bytes, out),
        }
    }

    /// Packed: most of those that are read in bulk have ended. What another version wrote is
    /// written anew, so that equal specs have equal bytes.
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let spec: JobSpec = get_message(reader)?;
        Ok(Self::Packed(spec.encode().into_boxed_slice()))
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
