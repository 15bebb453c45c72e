//! What goes wrong, as it crosses a process boundary: a stable code, one line for people, and
//! whether to try again.

use alloc::string::String;
use core::fmt;

crate::enumeration! {
    /// The stable code of a fault. The text is what users see in `code=…`; the exit code of a
    /// command follows from it ([`FaultCode::exit_code`]).
    pub enum FaultCode {
        1 => Internal = "internal",
        2 => InvalidArgument = "invalid-argument",
        3 => NotFound = "not-found",
        4 => Forbidden = "forbidden",
        5 => Conflict = "conflict",
        6 => Unplaceable = "unplaceable",
        7 => Unreachable = "unreachable",
        8 => OutcomeUnknown = "outcome-unknown",
        /// The one asked is not the leader and knows no leader; ask again.
        9 => NotLeader = "not-leader",
        /// The method is unknown to this version.
        10 => Unimplemented = "unimplemented",
        /// The deadline passed before an answer came.
        11 => Timeout = "timeout",
        /// A limit of this process is reached; ask again later.
        12 => Busy = "busy",
        /// The site's log cannot be written because its disk is full.
        13 => DiskFull = "disk-full",
        14 => TokenExpired = "token-expired",
        15 => TokenUsed = "token-used",
        16 => TokenInvalid = "token-invalid",
        /// The two sides speak no common version of the protocol.
        17 => VersionMismatch = "version-mismatch",
    }
}

impl FaultCode {
    /// The exit code of a command that ends with this fault.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal | Self::Unimplemented | Self::VersionMismatch | Self::DiskFull => 1,
            Self::InvalidArgument => 2,
            Self::NotFound => 3,
            Self::Forbidden | Self::TokenInvalid => 4,
            Self::Conflict | Self::TokenExpired | Self::TokenUsed => 5,
            Self::Unplaceable => 6,
            Self::Unreachable | Self::NotLeader | Self::Timeout | Self::Busy => 7,
            Self::OutcomeUnknown => 8,
        }
    }

    /// True if the same request may succeed when it is sent again, unchanged, a little later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::Unreachable
            | Self::NotLeader
            | Self::Timeout
            | Self::Busy
            | Self::DiskFull
            | Self::OutcomeUnknown => true,
            Self::Internal
            | Self::InvalidArgument
            | Self::NotFound
            | Self::Forbidden
            | Self::Conflict
            | Self::Unplaceable
            | Self::Unimplemented
            | Self::TokenExpired
            | Self::TokenUsed
            | Self::TokenInvalid
            | Self::VersionMismatch => false,
        }
    }
}

crate::message! {
    /// A refusal or a failure, as the asker sees it.
    #[derive(Hash)]
    pub struct Fault {
        1 => code: FaultCode,
        /// What was attempted and why it did not work, in lower case, without a full stop.
        2 => message: String,
        /// What to do about it; may be empty.
        3 => hint: String,
    }
}

impl Fault {
    #[must_use]
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl core::error::Error for Fault {}
