//! A connection between two processes. Either end may call the other.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use fabric_core::frame::{
    FrameKind, RequestHeader, bounded_deadline, check_request_len, encode_frame,
};
use fabric_core::identity::Identity;
use fabric_core::join::Exporter;
use quinn::{ConnectionError, VarInt};
use specs::fault::{Fault, FaultCode};
use specs::id::{CallId, UserId};
use specs::unit::Millis;
use specs::wire::method::{Method, Plane, RESPONSE_MAX};

use crate::env::Env;
use crate::lane::{End, Lane};
use crate::stream::{Reader, Writer};

/// Code of a connection that was closed on purpose.
pub(crate) const CLOSED: VarInt = VarInt::from_u32(0);
/// Longest reason that is sent with a close, in bytes.
const REASON_MAX: usize = 200;

/// A call without an answer to return.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The other side answered with a fault, or the request broke a limit and was not sent.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The request was certainly not carried out: it never arrived whole.
    #[error("the request was not delivered: {0}")]
    Unreachable(String),
    /// The request was sent and no answer came: it may have been carried out.
    #[error("no answer came: {0}")]
    Unknown(String),
}

impl CallError {
    /// The fault to tell the one who asked for this.
    #[must_use]
    pub fn into_fault(self) -> Fault {
        let code = match &self {
            Self::Fault(fault) => return fault.clone(),
            Self::Unreachable(_) => FaultCode::Unreachable,
            Self::Unknown(_) => FaultCode::OutcomeUnknown,
        };
        Fault::new(code, self.to_string())
    }
}

/// How a call is made.
#[derive(Debug, Clone, Default)]
pub struct CallOptions {
    /// The method's own deadline if none.
    pub deadline: Option<Millis>,
    /// A fresh id if none; name one to repeat a call.
    pub call: Option<CallId>,
    /// The user whose wish is forwarded; only controllers may name one.
    pub on_behalf: Option<UserId>,
}

/// One end of a connection. Clones share it; it lives until one side closes it or falls silent,
/// however many clones are dropped.
#[derive(Clone)]
pub struct Connection {
    inner: Arc<Inner>,
}

struct Inner {
    quinn: quinn::Connection,
    env: Env,
    id: u64,
    peer: Identity,
    build: String,
    dialed: bool,
    exporter: Exporter,
}

/// What is known of a connection when it comes up.
pub(crate) struct Facts {
    pub(crate) id: u64,
    pub(crate) peer: Identity,
    pub(crate) build: String,
    pub(crate) dialed: bool,
    pub(crate) exporter: Exporter,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("id", &self.inner.id)
            .field("peer", &self.inner.peer)
            .field("remote_address", &self.remote_address())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }
}

impl Eq for Connection {}

impl Connection {
    pub(crate) fn new(env: Env, quinn: quinn::Connection, facts: Facts) -> Self {
        let Facts { id, peer, build, dialed, exporter } = facts;
        Self { inner: Arc::new(Inner { quinn, env, id, peer, build, dialed, exporter }) }
    }

    /// Calls the other side and waits for its answer.
    ///
    /// # Errors
    /// A fault, or none because the connection or the time ran out.
    pub async fn call(
        &self,
        method: Method,
        body: impl Into<Bytes>,
        deadline: Option<Millis>,
    ) -> Result<Bytes, CallError> {
        self.call_with(method, body, CallOptions { deadline, ..CallOptions::default() }).await
    }

    /// As [`Connection::call`], with all that can be said of a call.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn call_with(
        &self,
        method: Method,
        body: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        let body = body.into();
        check_request_len(method, body.len())?;
        let deadline = bounded_deadline(method, options.deadline);
        let header = self.header(method, deadline, options, false);
        let sent = AtomicBool::new(false);
        let exchange = self.exchange(method, header, body, &sent);
        match self.inner.env.timeout(deadline, exchange).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let message = format!("{method} took longer than {deadline} ms");
                Err(without_answer(&sent, message))
            }
        }
    }

    /// Opens a lane. It is open once the other side has said so.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn open_lane(&self, method: Method) -> Result<Lane, CallError> {
        let deadline = bounded_deadline(method, None);
        let header = self.header(method, deadline, CallOptions::default(), true);
        let open = async {
            let (mut writer, mut reader) = self.open(method).await?;
            let write = writer.raw(encode_frame(FrameKind::Request, &header));
            write.await.map_err(|error| CallError::Unreachable(self.why(&error)))?;
            match reader.answer(FrameKind::Answer, 0).await {
                Ok(Ok(_)) => {}
                Ok(Err(fault)) => return Err(fault.into()),
                Err(error) => return Err(CallError::Unreachable(self.why(&error))),
            }
            Ok(Lane::new(&self.inner.env, method, End::Opener, writer, reader.into_inner()))
        };
        match self.inner.env.timeout(deadline, open).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let message = format!("the lane for {method} did not open in {deadline} ms");
                Err(CallError::Unreachable(message))
            }
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Identity {
        &self.inner.peer
    }

    /// The build at the other end, as it says itself; for logs.
    #[must_use]
    pub fn peer_build(&self) -> &str {
        &self.inner.build
    }

    /// 32 bytes that only the two ends of this connection know, equal at both.
    #[must_use]
    pub fn exporter(&self) -> Exporter {
        self.inner.exporter
    }

    /// Where the other end is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        let address = self.inner.quinn.remote_address();
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }

    /// True if this end dialed.
    #[must_use]
    pub fn is_dialed(&self) -> bool {
        self.inner.dialed
    }

    /// Tells the connections of one endpoint apart.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.inner.id
    }

    /// Closes the connection at once. What was sent and not yet read may be lost: only the one who
    /// has read the last answer closes.
    pub fn close(&self, reason: &str) {
        close(&self.inner.quinn, reason);
    }

    /// Waits until the connection is closed, and says why.
    pub async fn closed(&self) -> String {
        describe(&self.inner.quinn.closed().await)
    }

    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.quinn.close_reason().is_some()
    }

    /// Why the connection is closed; none while it is up.
    #[must_use]
    pub fn close_reason(&self) -> Option<String> {
        self.inner.quinn.close_reason().as_ref().map(describe)
    }

    pub(crate) fn quinn(&self) -> &quinn::Connection {
        &self.inner.quinn
    }

    fn header(
        &self,
        method: Method,
        deadline: Millis,
        options: CallOptions,
        lane: bool,
    ) -> RequestHeader {
        let call = options.call.unwrap_or_else(|| CallId(self.inner.env.random_u128()));
        RequestHeader {
            method: method.number(),
            call,
            deadline,
            on_behalf: options.on_behalf,
            lane,
        }
    }

    async fn open(&self, method: Method) -> Result<(Writer, Reader), CallError> {
        let (send, recv) = self
            .inner
            .quinn
            .open_bi()
            .await
            .map_err(|error| CallError::Unreachable(describe(&error)))?;
        let writer = Writer::new(send);
        writer.prioritize(priority(method));
        Ok((writer, Reader::new(recv)))
    }

    async fn exchange(
        &self,
        method: Method,
        header: RequestHeader,
        body: Bytes,
        sent: &AtomicBool,
    ) -> Result<Bytes, CallError> {
        let (mut writer, mut reader) = self.open(method).await?;
        // The other side acts on a whole body only, so that an error before its last byte is
        // written is certain.
        let lost = |error| CallError::Unreachable(self.why(&error));
        writer.raw(encode_frame(FrameKind::Request, &header)).await.map_err(lost)?;
        let written = writer.frames(FrameKind::Body, [body]).await;
        let lost = |error| CallError::Unreachable(self.why(&error));
        if let Err(error) = written {
            // A refusal stops the stream before it has been read to its end.
            return match reader.answer(FrameKind::Answer, RESPONSE_MAX).await {
                Ok(Err(fault)) => Err(fault.into()),
                Ok(Ok(_)) | Err(_) => Err(lost(error)),
            };
        }
        sent.store(true, Ordering::Relaxed);
        writer.finish();
        match reader.answer(FrameKind::Answer, RESPONSE_MAX).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(fault)) => Err(fault.into()),
            Err(error) => Err(CallError::Unknown(self.why(&error))),
        }
    }

    /// The reason of the connection says more than the error of a stream.
    fn why(&self, error: &dyn fmt::Display) -> String {
        self.close_reason().unwrap_or_else(|| error.to_string())
    }
}

fn without_answer(sent: &AtomicBool, message: String) -> CallError {
    if sent.load(Ordering::Relaxed) {
        CallError::Unknown(message)
    } else {
        CallError::Unreachable(message)
    }
}

/// What holds up a site's agreement goes first.
pub(crate) fn priority(method: Method) -> i32 {
    match method.plane() {
        Plane::Raft => 2,
        Plane::Agent | Plane::Node | Plane::Peer => 1,
        Plane::Client | Plane::Token => 0,
    }
}

pub(crate) fn close(connection: &quinn::Connection, reason: &str) {
    let end = reason.floor_char_boundary(REASON_MAX);
    connection.close(CLOSED, &reason.as_bytes()[..end]);
}

/// Why a connection ended, in words.
pub(crate) fn describe(error: &ConnectionError) -> String {
    match error {
        ConnectionError::VersionMismatch => {
            "the other side speaks no common version of QUIC".into()
        }
        ConnectionError::TransportError(error) => format!("the connection broke: {error}"),
        ConnectionError::ConnectionClosed(close) => {
            format!("the other side gave up the connection: {close}")
        }
        ConnectionError::ApplicationClosed(close) => {
            format!("closed by the other side: {}", String::from_utf8_lossy(&close.reason))
        }
        ConnectionError::Reset => "the other side has forgotten the connection".into(),
        ConnectionError::TimedOut => "the other side has fallen silent".into(),
        ConnectionError::LocallyClosed => "closed by this side".into(),
        ConnectionError::CidsExhausted => "no connection id is left".into(),
    }
}
