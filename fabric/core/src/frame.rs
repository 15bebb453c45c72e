//! What travels on a stream: frames of a kind and a length, then the bytes.
//!
//! ```text
//!   frame    kind: u8 │ length: u32, big-endian │ bytes
//!   opening  Hello ▶            ◀ Welcome or Fault       once per connection, by the dialer
//!   call     Request, Body ▶    ◀ Answer or Fault        one stream each
//!   lane     Request ▶          ◀ Answer or Fault        then Lane frames both ways
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::{CallId, UserId};
use specs::unit::Millis;
use specs::wire::method::{Method, RESPONSE_MAX};

/// The protocol that TLS agrees on; its number is that of the framing.
pub const ALPN: &[u8] = b"spillway/1";
/// Oldest protocol that this build speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// Newest protocol that this build speaks.
pub const PROTOCOL_MAX: u32 = 1;
/// Bytes before a frame's content.
pub const HEAD_LEN: usize = 5;
/// Largest hello, welcome or request header, in bytes.
pub const HEADER_MAX: usize = 1024;
/// Largest fault, in bytes.
pub const FAULT_MAX: usize = 16 * 1024;
/// Longest text of a fault that is sent, in characters.
const FAULT_TEXT_MAX: usize = 2_000;
/// Longest deadline that a call may ask for.
pub const DEADLINE_MAX: Millis = Millis(600_000);

specs::message! {
    /// The first words on a connection, by the one who dialed.
    pub struct Hello {
        /// Oldest protocol that the dialer speaks.
        1 => oldest: u32,
        /// Newest protocol that the dialer speaks.
        2 => newest: u32,
        /// The dialer's build, for logs.
        3 => build: String,
    }

    /// The answer to a hello; only now is the connection up.
    pub struct Welcome {
        /// The protocol to speak.
        1 => protocol: u32,
        /// The listener's build, for logs.
        2 => build: String,
    }

    /// What is asked, before what is asked with.
    pub struct RequestHeader {
        /// The method's number; may be one that this build does not know.
        1 => method: u32,
        2 => call: CallId,
        /// The span the caller waits; zero for the method's own deadline.
        3 => deadline: Millis,
        /// The user whose wish a controller forwards.
        4 => on_behalf: Option<UserId>,
        /// True to open a lane.
        5 => lane: bool,
    }
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    Hello,
    Welcome,
    Request,
    Body,
    Answer,
    Fault,
    Lane,
}

impl FrameKind {
    fn number(self) -> u8 {
        match self {
            Self::Hello => 1,
            Self::Welcome => 2,
            Self::Request => 3,
            Self::Body => 4,
            Self::Answer => 5,
            Self::Fault => 6,
            Self::Lane => 7,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Hello),
            2 => Some(Self::Welcome),
            3 => Some(Self::Request),
            4 => Some(Self::Body),
            5 => Some(Self::Answer),
            6 => Some(Self::Fault),
            7 => Some(Self::Lane),
            _ => None,
        }
    }
}

/// Bytes that are not the frame that must come here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    #[error("a frame of kind {0:?} where another must be")]
    Unexpected(FrameKind),
    #[error("a frame of {len} bytes where at most {max} are allowed")]
    TooLarge { len: usize, max: usize },
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    pub kind: FrameKind,
    pub len: usize,
}

impl FrameHead {
    /// Reads a head.
    ///
    /// # Errors
    /// A kind that this build does not know.
    pub fn parse(bytes: [u8; HEAD_LEN]) -> Result<Self, FrameError> {
        let [kind, len @ ..] = bytes;
        let kind = FrameKind::from_number(kind).ok_or(FrameError::Kind(kind))?;
        // Where this does not fit, no limit that is checked next can be met.
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        Ok(Self { kind, len })
    }

    /// Checks that this frame is of `kind` and at most `max` long, before it is read.
    ///
    /// # Errors
    /// Another kind, or a longer frame.
    pub fn expect(self, kind: FrameKind, max: usize) -> Result<usize, FrameError> {
        if self.kind != kind {
            return Err(FrameError::Unexpected(self.kind));
        }
        self.within(max)
    }

    /// The length, if it is at most `max`.
    ///
    /// # Errors
    /// A longer frame.
    pub fn within(self, max: usize) -> Result<usize, FrameError> {
        if self.len > max {
            return Err(FrameError::TooLarge { len: self.len, max });
        }
        Ok(self.len)
    }

    /// The bytes of a head. None if the length does not fit, which no limit allows.
    #[must_use]
    pub fn encode(self) -> Option<[u8; HEAD_LEN]> {
        let [a, b, c, d] = u32::try_from(self.len).ok()?.to_be_bytes();
        Some([self.kind.number(), a, b, c, d])
    }
}

/// A small frame in one piece: a hello, a header or a fault.
#[must_use]
pub fn encode_frame(kind: FrameKind, message: &impl Message) -> Vec<u8> {
    let content = message.encode();
    let mut bytes = Vec::with_capacity(HEAD_LEN + content.len());
    // Callers pass messages that are far below 4 GiB; an empty head would be refused by the peer.
    bytes.extend(FrameHead { kind, len: content.len() }.encode().unwrap_or_default());
    bytes.extend(content);
    bytes
}

impl Hello {
    /// The hello of this build.
    #[must_use]
    pub fn of(build: &str) -> Self {
        Self { oldest: PROTOCOL_MIN, newest: PROTOCOL_MAX, build: build.into() }
    }

    /// The newest protocol that both sides speak.
    ///
    /// # Errors
    /// `version-mismatch`, naming both ranges.
    pub fn agree(&self, oldest: u32, newest: u32) -> Result<u32, Fault> {
        let protocol = self.newest.min(newest);
        if protocol < self.oldest.max(oldest) {
            let message = format!(
                "no common protocol: one side speaks {} to {}, the other {oldest} to {newest}",
                self.oldest, self.newest
            );
            return Err(Fault::new(FaultCode::VersionMismatch, message)
                .with_hint("upgrade the older side; neighbouring versions talk to each other"));
        }
        Ok(protocol)
    }
}

impl RequestHeader {
    /// The method asked for.
    ///
    /// # Errors
    /// `unimplemented` for one that this build does not know.
    pub fn known_method(&self) -> Result<Method, Fault> {
        Method::from_number(self.method).ok_or_else(|| {
            Fault::new(
                FaultCode::Unimplemented,
                format!("method {} is unknown to this version", self.method),
            )
        })
    }

    /// The span that the request may take: never zero, never above [`DEADLINE_MAX`].
    #[must_use]
    pub fn span(&self, method: Method) -> Millis {
        bounded_deadline(method, Some(self.deadline).filter(|span| *span != Millis::ZERO))
    }
}

/// The deadline of a call: the caller's, or the method's own, within [`DEADLINE_MAX`].
#[must_use]
pub fn bounded_deadline(method: Method, asked: Option<Millis>) -> Millis {
    asked.unwrap_or(method.deadline()).clamp(Millis(1), DEADLINE_MAX)
}

/// Whether a request of `len` bytes may be sent or read.
///
/// # Errors
/// `invalid-argument`, naming the limit.
pub fn check_request_len(method: Method, len: usize) -> Result<(), Fault> {
    check_len("request", method, len, method.request_max())
}

/// Whether an answer of `len` bytes may be sent or read.
///
/// # Errors
/// `internal`, naming the limit: the caller cannot help it.
pub fn check_response_len(method: Method, len: usize) -> Result<(), Fault> {
    check_len("answer", method, len, RESPONSE_MAX)
        .map_err(|fault| Fault { code: FaultCode::Internal, ..fault })
}

fn check_len(what: &str, method: Method, len: usize, max: usize) -> Result<(), Fault> {
    if len <= max {
        return Ok(());
    }
    let message = format!("{what} of {len} bytes for {method} exceeds the limit of {max}");
    Err(Fault::new(FaultCode::InvalidArgument, message))
}

/// A fault that fits into a frame, however long its texts were.
#[must_use]
pub fn bounded_fault(fault: Fault) -> Fault {
    let cut = |text: String| match text.char_indices().nth(FAULT_TEXT_MAX) {
        Some((end, _)) => text[..end].into(),
        None => text,
    };
    Fault { code: fault.code, message: cut(fault.message), hint: cut(fault.hint) }
}

/// The fault in an answer; what cannot be read is said to be so.
#[must_use]
pub fn decode_fault(bytes: &[u8]) -> Fault {
    Fault::decode(bytes).unwrap_or_else(|error| {
        Fault::new(FaultCode::Internal, format!("the other side's fault is unreadable: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(method: u32) -> RequestHeader {
        RequestHeader {
            method,
            call: CallId(7),
            deadline: Millis(250),
            on_behalf: Some(UserId::new("admin").unwrap()),
            lane: false,
        }
    }

    #[test]
    fn a_header_reads_back() {
        let bytes = encode_frame(FrameKind::Request, &header(100));
        let (head, content) = bytes.split_at(HEAD_LEN);
        let head = FrameHead::parse(head.try_into().unwrap()).unwrap();
        assert_eq!(head.expect(FrameKind::Request, HEADER_MAX), Ok(content.len()));
        assert_eq!(RequestHeader::decode(content).unwrap(), header(100));
    }

    #[test]
    fn a_head_is_refused_for_its_kind_or_its_length_before_anything_is_read() {
        assert_eq!(FrameHead::parse([0, 0, 0, 0, 1]), Err(FrameError::Kind(0)));
        assert_eq!(FrameHead::parse([8, 0, 0, 0, 1]), Err(FrameError::Kind(8)));
        let head = FrameHead::parse([4, 255, 255, 255, 255]).unwrap();
        assert!(matches!(head.expect(FrameKind::Body, 10), Err(FrameError::TooLarge { .. })));
        assert!(matches!(head.expect(FrameKind::Lane, 10), Err(FrameError::Unexpected(_))));
    }

    #[test]
    fn no_bytes_make_a_decoder_panic() {
        let good = header(100).encode();
        for end in 0..good.len() {
            let _ = RequestHeader::decode(&good[..end]);
        }
        for byte in 0..=255u8 {
            let _ = Hello::decode(&[byte; 40]);
            let _ = RequestHeader::decode(&[byte; 40]);
            let _ = decode_fault(&[byte; 40]);
            let _ = FrameHead::parse([byte; HEAD_LEN]);
        }
    }

    #[test]
    fn a_method_of_a_later_version_is_unimplemented() {
        let fault = header(65_000).known_method().unwrap_err();
        assert_eq!(fault.code, FaultCode::Unimplemented);
        assert_eq!(header(100).known_method(), Ok(Method::JobSubmit));
    }

    #[test]
    fn sides_agree_on_the_newest_common_protocol_or_say_why_not() {
        let hello = |oldest, newest| Hello { oldest, newest, build: String::new() };
        assert_eq!(hello(1, 3).agree(2, 5), Ok(3));
        assert_eq!(hello(4, 4).agree(4, 4), Ok(4));
        let fault = hello(1, 2).agree(3, 4).unwrap_err();
        assert_eq!(fault.code, FaultCode::VersionMismatch);
        assert_eq!(hello(5, 4).agree(1, 9).map_err(|f| f.code), Err(FaultCode::VersionMismatch));
    }

    #[test]
    fn a_deadline_is_never_absent_nor_endless() {
        let span = |deadline| RequestHeader { deadline, ..header(100) }.span(Method::JobSubmit);
        assert_eq!(span(Millis(0)), Method::JobSubmit.deadline());
        assert_eq!(span(Millis(5)), Millis(5));
        assert_eq!(span(Millis(u64::MAX)), DEADLINE_MAX);
    }

    #[test]
    fn a_huge_fault_is_cut_to_fit() {
        let fault = Fault::new(FaultCode::Internal, "ü".repeat(1 << 16)).with_hint("x");
        let bytes = bounded_fault(fault).encode();
        assert!(bytes.len() <= FAULT_MAX);
        assert_eq!(decode_fault(&bytes).hint, "x");
    }

    #[test]
    fn the_limits_of_every_method_hold_at_the_edge() {
        for method in Method::ALL.iter().copied() {
            let max = method.request_max();
            assert_eq!(check_request_len(method, max), Ok(()));
            assert!(check_request_len(method, max + 1).is_err());
        }
    }
}
