//! The bytes of every message and log record: the protobuf wire format, written by a declarative
//! macro over our own types, so that an id or an enum is parsed once, at the edge, and cannot be
//! wrong inside.
//!
//! A field is added with a fresh tag and never changed; a reader skips tags that it does not know
//! and takes the default (zero, empty, none) for those that are absent. `specs/tests` compares
//! these bytes with prost's for the same messages.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>. Not used here: groups, packed
//! repeated fields (a reader accepts them nowhere), 32-bit fixed fields.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

/// Nested messages deeper than this are refused, so that hostile bytes cannot exhaust the stack.
pub const DEPTH_MAX: u32 = 24;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The input ends inside a field.
    #[error("the bytes end inside a field")]
    Truncated,
    /// A varint has more than ten bytes or does not fit its field.
    #[error("a number is out of range")]
    Range,
    /// A tag of zero, a wire type that a field does not have, or one that the format lacks.
    #[error("field {tag} has an unexpected wire type {wire}")]
    WireType { tag: u32, wire: u8 },
    /// A field that must be there is absent.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A choice names a variant that this version does not know, or none.
    #[error("`{0}` names a variant that this version does not know")]
    UnknownVariant(&'static str),
    /// Text that is not UTF-8, or an id that breaks the rules of its kind.
    #[error("`{0}` is not valid")]
    Invalid(&'static str),
    /// Nested deeper than [`DEPTH_MAX`].
    #[error("messages are nested too deeply")]
    Depth,
}

/// Reads fields from bytes; keeps how deep it is.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
    depth: u32,
}

/// How a field's bytes are delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    Varint,
    Fixed64,
    Bytes,
    Fixed32,
}

impl Wire {
    fn number(self) -> u8 {
        match self {
            Self::Varint => 0,
            Self::Fixed64 => 1,
            Self::Bytes => 2,
            Self::Fixed32 => 5,
        }
    }
}

impl<'a> Reader<'a> {
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, depth: 0 }
    }

    /// True at the end of the bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (head, tail) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = tail;
        Ok(head)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let (&byte, tail) = self.rest.split_first().ok_or(DecodeError::Truncated)?;
            self.rest = tail;
            let low = u64::from(byte & 0x7f);
            if shift == 63 && low > 1 {
                return Err(DecodeError::Range);
            }
            value |= low << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Range)
    }

    /// The bytes of a delimited value.
    ///
    /// # Errors
    /// A length that is malformed or beyond the end.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = usize::try_from(self.varint()?).map_err(|_| DecodeError::Range)?;
        self.take(len)
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Invalid("text"))
    }

    fn nested(&mut self) -> Result<Reader<'a>, DecodeError> {
        let depth = self.depth + 1;
        if depth > DEPTH_MAX {
            return Err(DecodeError::Depth);
        }
        Ok(Reader { rest: self.bytes()?, depth })
    }

    /// The next field's tag and wire type, or none at the end.
    pub fn field(&mut self) -> Result<Option<(u32, Wire)>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let tag = u32::try_from(key >> 3).map_err(|_| DecodeError::Range)?;
        let wire = match key & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            5 => Wire::Fixed32,
            other => {
                return Err(DecodeError::WireType { tag, wire: other.to_le_bytes()[0] });
            }
        };
        if tag == 0 {
            return Err(DecodeError::WireType { tag, wire: wire.number() });
        }
        Ok(Some((tag, wire)))
    }

    /// Passes over a field that this version does not know.
    pub fn skip(&mut self, wire: Wire) -> Result<(), DecodeError> {
        match wire {
            Wire::Varint => self.varint().map(drop),
            Wire::Fixed64 => self.take(8).map(drop),
            Wire::Bytes => self.bytes().map(drop),
            Wire::Fixed32 => self.take(4).map(drop),
        }
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    loop {
        let low = value.to_le_bytes()[0] & 0x7f;
        value >>= 7;
        if value == 0 {
            out.push(low);
            return;
        }
        out.push(low | 0x80);
    }
}

fn put_key(tag: u32, wire: Wire, out: &mut Vec<u8>) {
    put_varint(u64::from(tag) << 3 | u64::from(wire.number()), out);
}

/// What is encoded into.
pub type Buffer = Vec<u8>;

/// A message: fields with tags.
pub trait Message: Sized {
    /// Appends the fields, without a length.
    fn encode_to(&self, out: &mut Vec<u8>);
    /// Reads fields until the reader is empty.
    ///
    /// # Errors
    /// Bytes that break the format, lack a required field or hold a value that its type forbids.
    fn decode_from(reader: Reader<'_>) -> Result<Self, DecodeError>;

    /// The bytes of this message.
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode_to(&mut out);
        out
    }

    /// The message that `bytes` hold.
    ///
    /// # Errors
    /// As [`Message::decode_from`].
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::decode_from(Reader::new(bytes))
    }
}

/// One value that stands behind a tag.
pub trait Value: Sized {
    const WIRE: Wire;
    /// Appends the value, with its length if it is delimited by one.
    fn put(&self, out: &mut Vec<u8>);
    /// Reads one value.
    ///
    /// # Errors
    /// Bytes that are not such a value.
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError>;
    /// True for the value that an absent field means; such a field is not written.
    fn is_default(&self) -> bool {
        false
    }
    /// What an absent field means; none for a field that must be there.
    fn absent() -> Option<Self> {
        None
    }
}

/// A field of a message: one value, an optional one, or many.
pub trait Field: Sized {
    /// What is known of the field while its message is read.
    type Slot: Default;
    fn put_field(&self, tag: u32, out: &mut Vec<u8>);
    /// # Errors
    /// As [`Value::get`].
    fn fill(
        slot: &mut Self::Slot,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError>;
    /// # Errors
    /// [`DecodeError::Missing`] for a required field that never came.
    fn finish(slot: Self::Slot, name: &'static str) -> Result<Self, DecodeError>;
}

fn get_checked<T: Value>(tag: u32, wire: Wire, reader: &mut Reader<'_>) -> Result<T, DecodeError> {
    if wire != T::WIRE {
        return Err(DecodeError::WireType { tag, wire: wire.number() });
    }
    T::get(reader)
}

fn put_one<T: Value>(value: &T, tag: u32, out: &mut Vec<u8>) {
    put_key(tag, T::WIRE, out);
    value.put(out);
}

impl<T: Value> Field for T {
    type Slot = Option<T>;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        if !self.is_default() {
            put_one(self, tag, out);
        }
    }

    fn fill(
        slot: &mut Option<T>,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        *slot = Some(get_checked(tag, wire, reader)?);
        Ok(())
    }

    fn finish(slot: Option<T>, name: &'static str) -> Result<T, DecodeError> {
        slot.or_else(T::absent).ok_or(DecodeError::Missing(name))
    }
}

impl<T: Value> Field for Option<T> {
    type Slot = Option<T>;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            put_one(value, tag, out);
        }
    }

    fn fill(
        slot: &mut Option<T>,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        *slot = Some(get_checked(tag, wire, reader)?);
        Ok(())
    }

    fn finish(slot: Option<T>, _name: &'static str) -> Result<Self, DecodeError> {
        Ok(slot)
    }
}

impl<T: Value> Field for Vec<T> {
    type Slot = Vec<T>;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        for value in self {
            put_one(value, tag, out);
        }
    }

    fn fill(
        slot: &mut Vec<T>,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        slot.push(get_checked(tag, wire, reader)?);
        Ok(())
    }

    fn finish(slot: Vec<T>, _name: &'static str) -> Result<Self, DecodeError> {
        Ok(slot)
    }
}

impl<K: Value + Ord, V: Value> Field for BTreeMap<K, V> {
    type Slot = Self;

    fn put_field(&self, tag: u32, out: &mut Vec<u8>) {
        for (key, value) in self {
            put_entry(key, value, tag, out);
        }
    }

    fn fill(
        slot: &mut Self,
        tag: u32,
        wire: Wire,
        reader: &mut Reader<'_>,
    ) -> Result<(), DecodeError> {
        if wire != Wire::Bytes {
            return Err(DecodeError::WireType { tag, wire: wire.number() });
        }
        let (key, value) = get_pair(reader)?;
        slot.insert(key, value);
        Ok(())
    }

    fn finish(slot: Self, _name: &'static str) -> Result<Self, DecodeError> {
        Ok(slot)
    }
}

/// Writes one pair of a map.
pub fn put_entry<K: Value, V: Value>(key: &K, value: &V, tag: u32, out: &mut Vec<u8>) {
    put_key(tag, Wire::Bytes, out);
    put_pair(key, value, out);
}

/// Writes one pair of a map as a delimited value.
pub fn put_pair<K: Value, V: Value>(key: &K, value: &V, out: &mut Vec<u8>) {
    let mut entry = Vec::new();
    put_one(key, 1, &mut entry);
    put_one(value, 2, &mut entry);
    put_delimited(&entry, out);
}

/// Reads a delimited pair of a map.
///
/// # Errors
/// Bytes that are not such a pair.
pub fn get_pair<K: Value, V: Value>(reader: &mut Reader<'_>) -> Result<(K, V), DecodeError> {
    let mut entry = reader.nested()?;
    let (mut key, mut value) = (None, None);
    while let Some((tag, wire)) = entry.field()? {
        match tag {
            1 => key = Some(get_checked(tag, wire, &mut entry)?),
            2 => value = Some(get_checked(tag, wire, &mut entry)?),
            _ => entry.skip(wire)?,
        }
    }
    let key = key.or_else(K::absent).ok_or(DecodeError::Missing("key"))?;
    let value = value.or_else(V::absent).ok_or(DecodeError::Missing("value"))?;
    Ok((key, value))
}

/// Writes bytes behind their length.
pub fn put_delimited(bytes: &[u8], out: &mut Vec<u8>) {
    put_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Writes the bytes of a message as the field `tag` of another.
pub fn put_encoded(bytes: &[u8], tag: u32, out: &mut Vec<u8>) {
    put_key(tag, Wire::Bytes, out);
    put_delimited(bytes, out);
}

/// Writes a message as a delimited value. It is written where it will stand, behind room for a
/// length of one byte: only a longer one has to move.
pub fn put_message<M: Message>(message: &M, out: &mut Vec<u8>) {
    let at = out.len();
    out.push(0);
    message.encode_to(out);
    let begin = at + 1;
    let len = out.len() - begin;
    match (u8::try_from(len), out.get_mut(at)) {
        (Ok(short @ 0..0x80), Some(place)) => *place = short,
        _ => {
            let mut head = Vec::new();
            put_varint(len as u64, &mut head);
            out.splice(at..begin, head);
        }
    }
}

/// Reads a delimited message.
///
/// # Errors
/// As [`Message::decode_from`].
pub fn get_message<M: Message>(reader: &mut Reader<'_>) -> Result<M, DecodeError> {
    M::decode_from(reader.nested()?)
}

macro_rules! unsigned {
    ($($ty:ty),*) => {$(
        impl Value for $ty {
            const WIRE: Wire = Wire::Varint;
            fn put(&self, out: &mut Vec<u8>) {
                put_varint(u64::from(*self), out);
            }
            fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                <$ty>::try_from(reader.varint()?).map_err(|_| DecodeError::Range)
            }
            fn is_default(&self) -> bool {
                *self == 0
            }
            fn absent() -> Option<Self> {
                Some(0)
            }
        }
    )*};
}
unsigned!(u64, u32, u16);

/// A signed number travels as protobuf's `int64`: two's complement in a varint.
impl Value for i32 {
    const WIRE: Wire = Wire::Varint;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(i64::from(*self).cast_unsigned(), out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::try_from(reader.varint()?.cast_signed()).map_err(|_| DecodeError::Range)
    }
    fn is_default(&self) -> bool {
        *self == 0
    }
    fn absent() -> Option<Self> {
        Some(0)
    }
}

impl Value for bool {
    const WIRE: Wire = Wire::Varint;
    fn put(&self, out: &mut Vec<u8>) {
        put_varint(u64::from(*self), out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.varint()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Range),
        }
    }
    fn is_default(&self) -> bool {
        !*self
    }
    fn absent() -> Option<Self> {
        Some(false)
    }
}

/// 128-bit ids travel as sixteen bytes, big-endian.
impl Value for u128 {
    const WIRE: Wire = Wire::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        put_delimited(&self.to_be_bytes(), out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes: [u8; 16] =
            reader.bytes()?.try_into().map_err(|_| DecodeError::Invalid("128-bit id"))?;
        Ok(Self::from_be_bytes(bytes))
    }
}

impl Value for String {
    const WIRE: Wire = Wire::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        put_delimited(self.as_bytes(), out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(reader.text()?.into())
    }
    fn is_default(&self) -> bool {
        self.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(Self::new())
    }
}

/// Opaque bytes: anything that is forwarded or signed travels as such and is never encoded again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Blob(pub Vec<u8>);

impl Value for Blob {
    const WIRE: Wire = Wire::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        put_delimited(&self.0, out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(reader.bytes()?.to_vec()))
    }
    fn is_default(&self) -> bool {
        self.0.is_empty()
    }
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

impl<T: Value> Value for Box<T> {
    const WIRE: Wire = T::WIRE;
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::get(reader).map(Self::new)
    }
    fn is_default(&self) -> bool {
        T::is_default(self)
    }
    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

impl<T: Value> Value for Arc<T> {
    const WIRE: Wire = T::WIRE;
    fn put(&self, out: &mut Vec<u8>) {
        T::put(self, out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::get(reader).map(Self::new)
    }
    fn is_default(&self) -> bool {
        T::is_default(self)
    }
    fn absent() -> Option<Self> {
        T::absent().map(Self::new)
    }
}

/// A message whose absence means its default, and whose default is not written: what came to be
/// said later than the message around it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrDefault<T>(pub T);

impl<T> core::ops::Deref for OrDefault<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Value + Default + PartialEq> Value for OrDefault<T> {
    const WIRE: Wire = T::WIRE;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        T::get(reader).map(Self)
    }
    fn is_default(&self) -> bool {
        self.0 == T::default()
    }
    fn absent() -> Option<Self> {
        Some(Self::default())
    }
}

/// Defines a message: `struct Name { tag => field: Type, … }`. Field types are [`Field`]s.
#[macro_export]
macro_rules! message {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident {
            $( $(#[$fmeta:meta])* $tag:literal => $field:ident : $ty:ty ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $( $(#[$fmeta])* pub $field: $ty, )*
        }

        impl $crate::codec::Message for $name {
            #[allow(unused_variables, reason = "a message may have no fields")]
            #[allow(unused_doc_comments, reason = "a field's attributes may be a cfg, too")]
            fn encode_to(&self, out: &mut $crate::codec::Buffer) {
                $( $(#[$fmeta])* $crate::codec::Field::put_field(&self.$field, $tag, out); )*
            }

            #[allow(unused_doc_comments, reason = "as above")]
            fn decode_from(
                mut reader: $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                $( $(#[$fmeta])* let mut $field = <$ty as $crate::codec::Field>::Slot::default(); )*
                while let Some((tag, wire)) = reader.field()? {
                    match tag {
                        $( $(#[$fmeta])* $tag => <$ty as $crate::codec::Field>::fill(
                            &mut $field, tag, wire, &mut reader,
                        )?, )*
                        _ => reader.skip(wire)?,
                    }
                }
                Ok(Self {
                    $( $(#[$fmeta])* $field: <$ty as $crate::codec::Field>::finish(
                        $field, stringify!($field),
                    )?, )*
                })
            }
        }

        impl $crate::codec::Value for $name {
            const WIRE: $crate::codec::Wire = $crate::codec::Wire::Bytes;
            fn put(&self, out: &mut $crate::codec::Buffer) {
                $crate::codec::put_message(self, out);
            }
            fn get(
                reader: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                $crate::codec::get_message(reader)
            }
        }
    )*};
}

/// Defines a choice between messages: `enum Name { tag => Variant(Type), … }`, encoded as a
/// message with exactly one field (protobuf's `oneof`).
#[macro_export]
macro_rules! choice {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $tag:literal => $variant:ident ( $ty:ty ) ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $name {
            $( $(#[$vmeta])* $variant($ty), )*
        }

        impl $crate::codec::Message for $name {
            #[allow(unused_doc_comments, reason = "a variant's attributes may be a cfg, too")]
            fn encode_to(&self, out: &mut $crate::codec::Buffer) {
                // Through `Option`, so that a default value still names its variant.
                match self {
                    $( $(#[$vmeta])*
                    Self::$variant(value) => $crate::codec::put_present(value, $tag, out), )*
                }
            }

            #[allow(unused_doc_comments, reason = "as above")]
            fn decode_from(
                mut reader: $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                let mut found = None;
                while let Some((tag, wire)) = reader.field()? {
                    match tag {
                        $( $(#[$vmeta])* $tag => {
                            let mut slot = None;
                            <Option<$ty> as $crate::codec::Field>::fill(
                                &mut slot, tag, wire, &mut reader,
                            )?;
                            found = slot.map(Self::$variant);
                        } )*
                        _ => reader.skip(wire)?,
                    }
                }
                found.ok_or($crate::codec::DecodeError::UnknownVariant(stringify!($name)))
            }
        }

        impl $crate::codec::Value for $name {
            const WIRE: $crate::codec::Wire = $crate::codec::Wire::Bytes;
            fn put(&self, out: &mut $crate::codec::Buffer) {
                $crate::codec::put_message(self, out);
            }
            fn get(
                reader: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                $crate::codec::get_message(reader)
            }
        }
    )*};
}

/// Writes a value even if it is the default of its type.
pub fn put_present<T: Value>(value: &T, tag: u32, out: &mut Vec<u8>) {
    put_one(value, tag, out);
}

/// Defines an enumeration without data, encoded as a number. Zero is never used, so that an
/// absent field is told from a known value.
#[macro_export]
macro_rules! enumeration {
    ($(
        $(#[$meta:meta])*
        pub enum $name:ident {
            $( $(#[$vmeta:meta])* $number:literal => $variant:ident = $text:literal ),* $(,)?
        }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $( $(#[$vmeta])* $variant, )*
        }

        impl $name {
            /// Every value, in the order of its number.
            pub const ALL: &'static [Self] = &[ $( Self::$variant, )* ];

            /// The stable number of this value.
            #[must_use]
            pub fn number(self) -> u32 {
                match self { $( Self::$variant => $number, )* }
            }

            /// The stable text of this value, as users write and read it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $( Self::$variant => $text, )* }
            }

            /// The value of that number, if this version knows it.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $( $number => Some(Self::$variant), )* _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl core::str::FromStr for $name {
            type Err = $crate::id::ParseIdError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $( $text => Ok(Self::$variant), )*
                    _ => Err($crate::id::ParseIdError::new(stringify!($name), text)),
                }
            }
        }

        impl $crate::codec::Value for $name {
            const WIRE: $crate::codec::Wire = $crate::codec::Wire::Varint;
            fn put(&self, out: &mut $crate::codec::Buffer) {
                $crate::codec::Value::put(&self.number(), out);
            }
            fn get(
                reader: &mut $crate::codec::Reader<'_>,
            ) -> Result<Self, $crate::codec::DecodeError> {
                let number = <u32 as $crate::codec::Value>::get(reader)?;
                Self::from_number(number)
                    .ok_or($crate::codec::DecodeError::UnknownVariant(stringify!($name)))
            }
        }
    )*};
}
