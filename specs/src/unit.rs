//! Quantities with their units.

use alloc::vec::Vec;
use core::fmt;

use crate::codec::{DecodeError, Reader, Value, Wire};

macro_rules! quantities {
    ($( $(#[$meta:meta])* $name:ident($ty:ty); )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $ty);

        impl $name {
            pub const ZERO: Self = Self(0);

            #[must_use]
            pub fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// The difference, or zero if `other` is larger.
            #[must_use]
            pub fn minus(self, other: Self) -> Self {
                Self(self.0.saturating_sub(other.0))
            }

            #[must_use]
            pub fn times(self, factor: $ty) -> Self {
                Self(self.0.saturating_mul(factor))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl Value for $name {
            const WIRE: Wire = Wire::Varint;
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                <$ty>::get(reader).map(Self)
            }
            fn is_default(&self) -> bool {
                self.0 == 0
            }
            fn absent() -> Option<Self> {
                Some(Self(0))
            }
        }
    )*};
}

quantities! {
    /// A number of GPUs.
    GpuCount(u32);
    /// Money, in millionths of a euro.
    MicroEuro(u64);
    /// A span in milliseconds.
    Millis(u64);
    /// An instant on one machine's monotonic clock that counts suspended time, in milliseconds
    /// from an arbitrary start. Never compared between machines, never sent.
    Instant(u64);
    /// Wall-clock milliseconds since 1970. For people; the expiry of a token and how urgent a job is
    /// rest on it, and nothing that must be safe.
    Timestamp(u64);
}

impl Instant {
    /// The span since `earlier`, or zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Millis {
        Millis(self.0.saturating_sub(earlier.0))
    }

    /// This instant and a span later.
    #[must_use]
    pub fn after(self, span: Millis) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}
