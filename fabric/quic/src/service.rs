//! What a process answers.

use bytes::Bytes;
use fabric_core::identity::Identity;
use specs::fault::{Fault, FaultCode};
use specs::id::{CallId, UserId};
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::connection::Connection;
use crate::env::BoxFuture;
use crate::lane::Lane;

/// A request that the access table allows. Who asks comes from the certificate.
#[derive(Debug, Clone)]
pub struct Request {
    pub caller: Identity,
    /// The user whose wish the caller, a controller, forwards.
    pub on_behalf: Option<UserId>,
    pub method: Method,
    /// Equal for every repetition of one call.
    pub call: CallId,
    /// The span that is left for the answer.
    pub deadline: Millis,
    /// At most [`Method::request_max`] bytes; empty for a lane.
    pub body: Bytes,
    /// Where the request came from; its other end can be called too.
    pub connection: Connection,
}

/// Answers requests, on connections that were dialed and on those that were accepted.
pub trait Service: Send + Sync + 'static {
    /// Answers a request. The future is dropped when the deadline passes or the caller goes away:
    /// work that must go on belongs in a task of its own.
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>>;

    /// Whether lanes may be opened with `method`.
    fn accepts_lane(&self, method: Method) -> bool {
        let _ = method;
        false
    }

    /// Serves a lane until it ends. Called only for methods that [`Service::accepts_lane`].
    fn lane(&self, request: Request, lane: Lane) -> BoxFuture<'_, ()> {
        let _ = (request, lane);
        Box::pin(std::future::ready(()))
    }

    /// A connection is up; must not block.
    fn connected(&self, connection: &Connection) {
        let _ = connection;
    }

    /// A connection is gone; must not block. Called once after each [`Service::connected`].
    fn disconnected(&self, connection: &Connection) {
        let _ = connection;
    }
}

/// Answers nothing: for processes that only ask.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoService;

impl Service for NoService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        let message = format!("{} is not served here", request.method);
        let fault = Fault::new(FaultCode::Unimplemented, message);
        Box::pin(std::future::ready(Err(fault)))
    }
}
