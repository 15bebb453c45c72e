//! Names and numbers of things. A newtype for each, so that no two kinds can be confused.

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cmp::Ordering;
use core::fmt;
use core::hash::{Hash, Hasher};
use core::str::FromStr;

use crate::codec::{DecodeError, Reader, Value, Wire, put_delimited};

/// Longest name of a site, node, user or job, in bytes.
pub const NAME_LEN_MAX: usize = 63;
/// Longest request id, in bytes.
pub const REQUEST_ID_LEN_MAX: usize = 128;
/// Most names of an account: organisation, project, user, and one to spare.
pub const ACCOUNT_DEPTH_MAX: usize = 4;
/// Longest account, in bytes.
pub const ACCOUNT_LEN_MAX: usize = 127;

/// Text that is not an id of the kind asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {kind}")]
pub struct ParseIdError {
    kind: &'static str,
    text: String,
}

impl ParseIdError {
    #[must_use]
    pub fn new(kind: &'static str, text: &str) -> Self {
        Self { kind, text: text.chars().take(80).collect() }
    }
}

fn is_name(text: &str) -> bool {
    let edge = |c: Option<u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    !text.is_empty()
        && text.len() <= NAME_LEN_MAX
        && edge(text.bytes().next())
        && edge(text.bytes().last())
        && text
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'.')
        && !text.contains("..")
}

fn is_account(text: &str) -> bool {
    text.len() <= ACCOUNT_LEN_MAX
        && text.split('/').count() <= ACCOUNT_DEPTH_MAX
        && text.split('/').all(is_name)
}

fn is_request_id(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= REQUEST_ID_LEN_MAX
        && text.bytes().all(|c| c.is_ascii_graphic())
}

/// Names up to this long, in bytes, are kept in place: as much room as a `String` takes anyway.
const NAME_ROOM: usize = 22;
/// Room for a UUID in its usual form.
const REQUEST_ID_ROOM: usize = 38;

/// Text that is kept in place if it is short. A controller holds millions of ids, and copies them
/// wherever it notes one.
#[derive(Clone)]
enum Text<const ROOM: usize> {
    Short { len: u8, bytes: [u8; ROOM] },
    Long(Arc<str>),
}

impl<const ROOM: usize> Text<ROOM> {
    fn new(text: &str) -> Self {
        let mut bytes = [0; ROOM];
        match (u8::try_from(text.len()), bytes.get_mut(..text.len())) {
            (Ok(len), Some(room)) => {
                room.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(text) => text.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::Short { .. } => core::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Self::Long(text) => text,
        }
    }
}

impl<const ROOM: usize> PartialEq for Text<ROOM> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl<const ROOM: usize> Eq for Text<ROOM> {}

impl<const ROOM: usize> PartialOrd for Text<ROOM> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<const ROOM: usize> Ord for Text<ROOM> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl<const ROOM: usize> Hash for Text<ROOM> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl<const ROOM: usize> fmt::Debug for Text<ROOM> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

macro_rules! names {
    ($( $(#[$meta:meta])* $name:ident[$room:expr], $what:literal, $rule:path; )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Text<{ $room }>);

        impl $name {
            /// Parses and checks the text.
            ///
            /// # Errors
            /// Text that breaks the rules of this kind.
            pub fn new(text: &str) -> Result<Self, ParseIdError> {
                if $rule(text) {
                    Ok(Self(Text::new(text)))
                } else {
                    Err(ParseIdError::new($what, text))
                }
            }

            #[must_use]
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl Value for $name {
            const WIRE: Wire = Wire::Bytes;
            fn put(&self, out: &mut Vec<u8>) {
                put_delimited(self.0.as_bytes(), out);
            }
            fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Self::new(reader.text()?).map_err(|_| DecodeError::Invalid($what))
            }
        }
    )*};
}

names! {
    /// A cluster with its own Raft group and its own trust domain: `berlin`.
    SiteId[NAME_ROOM], "site name (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// A machine with an agent, unique within its site: `n01`.
    NodeId[NAME_ROOM], "node name (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// A person or a service that talks to a site: `admin`.
    UserId[NAME_ROOM], "user name (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// What a tenant calls a job; need not be unique.
    JobName[NAME_ROOM], "job name (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// A kind of GPU: `b200`, `rtx-pro-6000`. Known ones are in [`crate::gpu`].
    GpuClass[NAME_ROOM], "GPU class (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// Who a job counts for, from the largest down: `acme/vision/ada`.
    AccountId[REQUEST_ID_ROOM], "account (1 to 4 names with '/' between)", is_account;
    /// What an operator calls capacity that is reserved: `acme-demo`.
    ReservationName[NAME_ROOM], "reservation name (1 to 63 of a-z, 0-9, '-', '.')", is_name;
    /// A data set: `acme/corpus-2026`.
    DataName[REQUEST_ID_ROOM], "data set (1 to 4 names with '/' between)", is_account;
    /// Chosen by a client so that a repeated request takes effect once.
    RequestId[REQUEST_ID_ROOM], "request id (1 to 128 printable ASCII characters)", is_request_id;
}

impl AccountId {
    /// The accounts that this one counts for, the largest first, itself last: `acme`,
    /// `acme/vision`, `acme/vision/ada`.
    pub fn line(&self) -> impl Iterator<Item = Self> + '_ {
        let text = self.as_str();
        let ends = text.match_indices('/').map(|(at, _)| at).chain([text.len()]);
        ends.filter_map(move |end| text.get(..end).and_then(|text| Self::new(text).ok()))
    }
}

/// A country, as two capital letters of ISO 3166-1: `DE`. `EU` stands for any member of the Union.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Country([u8; 2]);

impl Country {
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or("??")
    }
}

impl FromStr for Country {
    type Err = ParseIdError;
    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        match text.as_bytes() {
            &[a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok(Self([a, b])),
            _ => Err(ParseIdError::new("country (two capital letters)", text)),
        }
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Value for Country {
    const WIRE: Wire = Wire::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        self.as_str().to_string().put(out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        String::get(reader)?.parse().map_err(|_| DecodeError::Invalid("country"))
    }
}

macro_rules! wide_ids {
    ($( $(#[$meta:meta])* $name:ident, $prefix:literal; )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u128);

        impl $name {
            /// What its text begins with.
            pub const PREFIX: &'static str = $prefix;
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let wrong = || ParseIdError::new(concat!($prefix, "… id"), text);
                let digits = text.strip_prefix($prefix).ok_or_else(wrong)?;
                if digits.len() != 32 || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
                    return Err(wrong());
                }
                u128::from_str_radix(digits, 16).map(Self).map_err(|_| wrong())
            }
        }

        impl Value for $name {
            const WIRE: Wire = Wire::Bytes;
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
            fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
                u128::get(reader).map(Self)
            }
        }
    )*};
}

wide_ids! {
    /// A job, unique everywhere: a version 7 UUID stamped by the home's controller.
    JobId, "job_";
    /// A one-time token of an invitation or an enrolment.
    TokenId, "tok_";
    /// One call between two processes, repeated when the call is repeated.
    CallId, "req_";
}

macro_rules! numbers {
    ($( $(#[$meta:meta])* $name:ident($ty:ty), $prefix:literal; )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $ty);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let digits = text.strip_prefix($prefix).unwrap_or(text);
                digits
                    .parse()
                    .map(Self)
                    .map_err(|_| ParseIdError::new(stringify!($name), text))
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

numbers! {
    /// A member of a site's Raft group; never reused within a site.
    ControllerId(u64), "c";
    /// The right to run one attempt on named GPUs of nodes; never reused within a site.
    LeaseId(u64), "lease-";
    /// A host's promise of capacity to a home; never reused within the host.
    GrantId(u64), "grant-";
    /// The n-th try of a job, from 1; only grows.
    Epoch(u32), "";
    /// The n-th life of an agent; only grows.
    Boot(u64), "";
    /// Numbers the states of a site: one more for each applied command.
    Revision(u64), "r";
    /// Numbers the questions of an agent in one life, or of a host's leader in one reign.
    Question(u64), "q";
    /// A GPU of a node, counted from zero.
    GpuIndex(u16), "";
}
