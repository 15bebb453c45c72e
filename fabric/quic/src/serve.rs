//! One connection while it is up: opening it, answering on it, watching who is at its other end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fabric_core::access::{allowed, allowed_on_behalf};
use fabric_core::frame::{
    FrameKind, HEADER_MAX, Hello, RequestHeader, Welcome, check_request_len, check_response_len,
    encode_frame,
};
use fabric_core::identity::Identity;
use fabric_core::join::EXPORTER_LABEL;
use fabric_core::trust::{Refusal, identify};
use quinn::{RecvStream, SendStream};
use rustls::pki_types::CertificateDer;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::certificate;
use crate::connection::{Connection, Facts, describe, priority};
use crate::crypto::unix_time;
use crate::endpoint::ConnectError;
use crate::env::Env;
use crate::lane::{End, Lane};
use crate::service::{Request, Service};
use crate::settings::{ANSWER_SPAN, RECHECK_SPAN, REQUEST_SPAN, widen};
use crate::stream::{Reader, StreamError, Writer};
use crate::tls::Own;
use crate::trust::{Changes, Trust, TrustStore};
use crate::verify::{Usage, verify_chain};

/// What all connections of an endpoint share.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) own: Arc<Own>,
    pub(crate) trust: Arc<TrustStore>,
    pub(crate) service: Arc<dyn Service>,
    pub(crate) next_id: AtomicU64,
}

/// How the other end's certificate is judged while the connection is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Watch {
    /// By the trust store, on each change and from time to time.
    Trust(Usage),
    /// Not at all: it was pinned for one exchange.
    Pinned,
}

fn build() -> &'static str {
    concat!("spillway ", env!("CARGO_PKG_VERSION"))
}

/// Says hello on a connection that this side dialed. Only the answer proves that the other side
/// took our certificate.
pub(crate) async fn greet(
    shared: &Shared,
    quinn: quinn::Connection,
) -> Result<Connection, ConnectError> {
    let exchange = async {
        let (send, recv) = quinn.open_bi().await.map_err(|_| StreamError::Ended)?;
        let (mut writer, mut reader) = (Writer::new(send), Reader::new(recv));
        let hello = encode_frame(FrameKind::Hello, &Hello::of(build()));
        writer.raw(hello).await.map_err(|_| StreamError::Ended)?;
        writer.finish();
        reader.answer(FrameKind::Welcome, HEADER_MAX).await
    };
    let answer = match exchange.await {
        Ok(answer) => answer,
        Err(error) => return Err(refused(&quinn, &error)),
    };
    let bytes = answer.map_err(ConnectError::Fault)?;
    let welcome = Welcome::decode(&bytes)
        .map_err(|error| ConnectError::Broken(format!("the welcome is unreadable: {error}")))?;
    up(shared, quinn, welcome.build, true)
}

fn refused(quinn: &quinn::Connection, error: &StreamError) -> ConnectError {
    match quinn.close_reason() {
        Some(reason) => ConnectError::from_connection(&reason, None),
        None => ConnectError::Broken(error.to_string()),
    }
}

/// Answers the hello on a connection that this side accepted.
pub(crate) async fn welcome(
    shared: &Shared,
    quinn: quinn::Connection,
) -> Result<Connection, ConnectError> {
    let broken = |error: StreamError| ConnectError::Broken(error.to_string());
    let stream = quinn.accept_bi().await;
    let (send, recv) = stream.map_err(|error| ConnectError::from_connection(&error, None))?;
    let (mut writer, mut reader) = (Writer::new(send), Reader::new(recv));
    let bytes = reader.frame(FrameKind::Hello, HEADER_MAX).await.map_err(broken)?;
    let theirs = Hello::decode(&bytes)
        .map_err(|error| ConnectError::Broken(format!("the hello is unreadable: {error}")))?;
    let protocol = match Hello::of(build()).agree(theirs.oldest, theirs.newest) {
        Ok(protocol) => protocol,
        Err(fault) => {
            let _ = writer.fault(fault.clone()).await;
            writer.finish();
            // The other side reads the fault, then closes.
            let _ = quinn.closed().await;
            return Err(ConnectError::Fault(fault));
        }
    };
    let connection = up(shared, quinn, theirs.build, false)?;
    let welcome = Welcome { protocol, build: build().into() };
    let written = writer.raw(encode_frame(FrameKind::Welcome, &welcome)).await;
    written.map_err(|error| ConnectError::Broken(error.to_string()))?;
    writer.finish();
    Ok(connection)
}

fn up(
    shared: &Shared,
    quinn: quinn::Connection,
    build: String,
    dialed: bool,
) -> Result<Connection, ConnectError> {
    let peer = match chain(&quinn) {
        None => Identity::Anonymous,
        Some(chain) => leaf_identity(&chain).map_err(ConnectError::Untrusted)?,
    };
    let mut exporter = [0; 32];
    quinn
        .export_keying_material(&mut exporter, EXPORTER_LABEL, b"")
        .map_err(|_| ConnectError::Broken("TLS gives no exporter".into()))?;
    if matches!(peer, Identity::Controller { .. }) {
        widen(&quinn);
    }
    let id = shared.next_id.fetch_add(1, Ordering::Relaxed);
    let facts = Facts { id, peer, build, dialed, exporter };
    Ok(Connection::new(shared.env.clone(), quinn, facts))
}

fn chain(quinn: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let chain = quinn.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(*chain).filter(|chain| !chain.is_empty())
}

/// The handshake verified the chain; here its name is only read again.
fn leaf_identity(chain: &[CertificateDer<'static>]) -> Result<Identity, Refusal> {
    let leaf = chain.first().ok_or(Refusal::Missing)?;
    identify(&certificate::inspect(leaf)?)
}

/// Answers requests until the connection ends, or until the other side is trusted no longer.
/// `changes` must be older than the handshake, so that no change is missed.
pub(crate) async fn run(
    shared: Arc<Shared>,
    connection: Connection,
    watch: Watch,
    changes: Changes,
) {
    shared.service.connected(&connection);
    tokio::select! {
        reason = accept_requests(&shared, &connection) => {
            tracing::debug!(?connection, reason, "disconnected");
        }
        refusal = distrusted(&shared, &connection, watch, changes) => {
            tracing::warn!(?connection, %refusal, "the other side is trusted no longer");
            connection.close(&format!("revoked: {refusal}"));
        }
    }
    shared.service.disconnected(&connection);
}

async fn accept_requests(shared: &Arc<Shared>, connection: &Connection) -> String {
    loop {
        match connection.quinn().accept_bi().await {
            Ok((send, recv)) => {
                shared.env.spawn(answer(shared.clone(), connection.clone(), send, recv));
            }
            Err(error) => return describe(&error),
        }
    }
}

/// Ends when the other side's certificate is valid no longer.
async fn distrusted(
    shared: &Shared,
    connection: &Connection,
    watch: Watch,
    mut changes: Changes,
) -> Refusal {
    let chain = chain(connection.quinn());
    loop {
        tokio::select! {
            Ok(()) = changes.changed() => {}
            () = shared.env.sleep(RECHECK_SPAN) => {}
        }
        let trust = changes.borrow_and_update().clone();
        if let Err(refusal) = recheck(shared, &trust, chain.as_deref(), watch) {
            return refusal;
        }
    }
}

fn recheck(
    shared: &Shared,
    trust: &Trust,
    chain: Option<&[CertificateDer<'static>]>,
    watch: Watch,
) -> Result<(), Refusal> {
    match (watch, chain) {
        (Watch::Pinned, _) | (_, None) => Ok(()),
        (Watch::Trust(usage), Some(chain)) => {
            let now = unix_time(shared.env.clock.wall());
            verify_chain(&shared.env.crypto, trust, chain, usage, None, now).map(drop)
        }
    }
}

/// A request that may be served.
struct Admitted {
    request: Request,
    lane: bool,
}

/// Why a request is not served.
enum Rejected {
    /// The caller is told.
    Fault(Fault),
    /// The stream broke, or its bytes make no sense: nobody listens.
    Broken(StreamError),
}

impl From<Fault> for Rejected {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<StreamError> for Rejected {
    fn from(error: StreamError) -> Self {
        Self::Broken(error)
    }
}

async fn answer(shared: Arc<Shared>, connection: Connection, send: SendStream, recv: RecvStream) {
    let (writer, mut reader) = (Writer::new(send), Reader::new(recv));
    let admitted = shared.env.timeout(REQUEST_SPAN, admit(&shared, &connection, &mut reader)).await;
    let Admitted { request, lane } = match admitted {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(Rejected::Fault(fault))) => return send_fault(&shared, writer, fault).await,
        Ok(Err(Rejected::Broken(error))) => {
            tracing::debug!(?connection, %error, "a request could not be read");
            return;
        }
        Err(_) => return,
    };
    if lane {
        return serve_lane(&shared, request, writer, reader).await;
    }
    let (method, deadline) = (request.method, request.deadline);
    writer.prioritize(priority(method));
    let outcome = tokio::select! {
        outcome = shared.service.call(request) => outcome,
        () = shared.env.sleep(deadline) => {
            let message = format!("{method} took longer than {deadline} ms");
            Err(Fault::new(FaultCode::Timeout, message))
        }
        () = writer.done() => return,
    };
    let checked = outcome.and_then(|body| {
        check_response_len(method, body.len())?;
        Ok(body)
    });
    match checked {
        Ok(body) => send_answer(&shared, writer, body).await,
        Err(fault) => send_fault(&shared, writer, fault).await,
    }
}

/// Reads a request as far as it is allowed: who may not ask has no body read.
async fn admit(
    shared: &Shared,
    connection: &Connection,
    reader: &mut Reader,
) -> Result<Admitted, Rejected> {
    let header = reader.frame(FrameKind::Request, HEADER_MAX).await?;
    let header = RequestHeader::decode(&header).map_err(|error| {
        Fault::new(FaultCode::InvalidArgument, format!("the request is unreadable: {error}"))
    })?;
    let method = header.known_method()?;
    check_access(shared, connection.peer(), method, &header)?;
    let deadline = header.span(method);
    let body = if header.lane {
        if !shared.service.accepts_lane(method) {
            let message = format!("no lane for {method} is served here");
            return Err(Fault::new(FaultCode::Unimplemented, message).into());
        }
        Bytes::new()
    } else {
        read_body(reader, method).await?
    };
    let request = Request {
        caller: connection.peer().clone(),
        on_behalf: header.on_behalf,
        method,
        call: header.call,
        deadline,
        body,
        connection: connection.clone(),
    };
    Ok(Admitted { request, lane: header.lane })
}

fn check_access(
    shared: &Shared,
    caller: &Identity,
    method: Method,
    header: &RequestHeader,
) -> Result<(), Fault> {
    let own = shared.own.identity();
    let Some(site) = own.site() else {
        let message = format!("{method} is not served here");
        return Err(Fault::new(FaultCode::Forbidden, message));
    };
    allowed(method, caller, site, own.role())?;
    match header.on_behalf {
        Some(_) => allowed_on_behalf(method, caller),
        None => Ok(()),
    }
}

async fn read_body(reader: &mut Reader, method: Method) -> Result<Bytes, Rejected> {
    let head = reader.head().await?;
    check_request_len(method, head.len)?;
    Ok(reader.content(head, FrameKind::Body, method.request_max()).await?)
}

async fn serve_lane(shared: &Shared, request: Request, mut writer: Writer, reader: Reader) {
    let method = request.method;
    writer.prioritize(priority(method));
    if writer.frames(FrameKind::Answer, [Bytes::new()]).await.is_err() {
        return;
    }
    let lane = Lane::new(&shared.env, method, End::Server, writer, reader.into_inner());
    shared.service.lane(request, lane).await;
}

async fn send_answer(shared: &Shared, mut writer: Writer, body: Bytes) {
    send(shared, ANSWER_SPAN, async {
        if writer.frames(FrameKind::Answer, [body]).await.is_ok() {
            writer.finish();
        }
    })
    .await;
}

async fn send_fault(shared: &Shared, mut writer: Writer, fault: Fault) {
    send(shared, ANSWER_SPAN, async {
        if writer.fault(fault).await.is_ok() {
            writer.finish();
        }
    })
    .await;
}

/// A caller that does not read must not hold a task for ever.
async fn send(shared: &Shared, span: Millis, writing: impl Future<Output = ()>) {
    let _ = shared.env.timeout(span, writing).await;
}
