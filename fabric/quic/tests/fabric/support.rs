//! Sites, endpoints and a service to test with.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use fabric_core::identity::Identity;
use fabric_quic::connection::Connection;
use fabric_quic::endpoint::{Endpoint, EndpointConfig};
use fabric_quic::env::{BoxFuture, Clock, Env};
use fabric_quic::lane::Lane;
use fabric_quic::pki::{Authority, Credentials};
use fabric_quic::service::{NoService, Request, Service};
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::Expect;
use specs::fault::{Fault, FaultCode};
use specs::id::{ControllerId, NodeId, SiteId, UserId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::method::{Method, RESPONSE_MAX};
use tokio::sync::mpsc;

pub(crate) const ANY_PORT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

pub(crate) fn site(name: &str) -> SiteId {
    SiteId::new(name).expect("a site name")
}

pub(crate) fn controller(name: &str, id: u64) -> Identity {
    Identity::Controller { site: site(name), id: ControllerId(id) }
}

pub(crate) fn agent(name: &str, node: &str) -> Identity {
    let node = NodeId::new(node).expect("a node name");
    Identity::Agent { site: site(name), node }
}

pub(crate) fn user(name: &str, user: &str) -> Identity {
    let user = UserId::new(user).expect("a user name");
    Identity::User { site: site(name), user }
}

pub(crate) fn expect_controller(name: &str) -> Expect {
    Expect::Controller { site: site(name) }
}

/// Checks why a connection ended. A reason is sent once: on a busy machine the other side may learn
/// only that the connection is forgotten.
#[track_caller]
pub(crate) fn assert_reason(reason: &str, expected: &str) {
    let lost = reason.contains("has forgotten the connection");
    assert!(lost || reason.contains(expected), "{reason}");
}

/// A clock that a test moves; it starts at the real time.
#[derive(Debug)]
pub(crate) struct TestClock {
    real: Arc<dyn Clock>,
    ahead: AtomicU64,
}

impl TestClock {
    pub(crate) fn advance(&self, span: Millis) {
        self.ahead.fetch_add(span.0, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    /// Stands still unless it is moved, so that no test depends on its own speed.
    fn now(&self) -> Instant {
        Instant(1_000_000 + self.ahead.load(Ordering::SeqCst))
    }

    fn wall(&self) -> Timestamp {
        Timestamp(self.real.wall().0 + self.ahead.load(Ordering::SeqCst))
    }
}

/// The real environment with a clock that can be moved.
pub(crate) fn env_with_clock() -> (Env, Arc<TestClock>) {
    let mut env = Env::system();
    let clock = Arc::new(TestClock { real: env.clock.clone(), ahead: AtomicU64::new(0) });
    env.clock = clock.clone();
    (env, clock)
}

/// A site with its authority; trusts itself.
pub(crate) struct Site {
    pub(crate) env: Env,
    pub(crate) authority: Authority,
    pub(crate) trust: Arc<TrustStore>,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        Self::with_env(Env::system(), name)
    }

    pub(crate) fn with_env(env: Env, name: &str) -> Self {
        let authority = Authority::create(&env, &site(name)).expect("an authority");
        let trust = Arc::new(TrustStore::new());
        trust.trust(authority.site(), authority.certificate()).expect("its own authority");
        Self { env, authority, trust }
    }

    /// Both sites trust each other from here on.
    pub(crate) fn peer_with(&self, other: &Self) {
        let authority = &other.authority;
        self.trust.trust(authority.site(), authority.certificate()).expect("an authority");
        let authority = &self.authority;
        other.trust.trust(authority.site(), authority.certificate()).expect("an authority");
    }

    pub(crate) fn credentials(&self, identity: &Identity) -> Credentials {
        self.authority.credentials(&self.env, identity).expect("credentials")
    }

    /// A process of this site with the test service.
    pub(crate) fn serve(&self, identity: &Identity) -> (Endpoint, Events) {
        let (service, events) = TestService::new();
        (self.bind(Some(self.credentials(identity)), Arc::new(service)), events)
    }

    /// A process of this site that only asks.
    pub(crate) fn ask(&self, identity: &Identity) -> Endpoint {
        self.bind(Some(self.credentials(identity)), Arc::new(NoService))
    }

    pub(crate) fn bind(
        &self,
        credentials: Option<Credentials>,
        service: Arc<dyn Service>,
    ) -> Endpoint {
        let config = EndpointConfig { listen: ANY_PORT, credentials, trust: self.trust.clone() };
        Endpoint::bind(&self.env, config, service).expect("a free port")
    }
}

/// What a test service saw.
#[derive(Debug)]
pub(crate) struct Events {
    pub(crate) connected: mpsc::UnboundedReceiver<Connection>,
    pub(crate) disconnected: mpsc::UnboundedReceiver<Connection>,
    /// Methods whose handlers began and never ended by themselves.
    pub(crate) began: mpsc::UnboundedReceiver<Method>,
    pub(crate) dropped: mpsc::UnboundedReceiver<Method>,
}

/// Echoes, except for a few methods.
pub(crate) struct TestService {
    connected: mpsc::UnboundedSender<Connection>,
    disconnected: mpsc::UnboundedSender<Connection>,
    began: mpsc::UnboundedSender<Method>,
    dropped: mpsc::UnboundedSender<Method>,
}

impl TestService {
    pub(crate) fn new() -> (Self, Events) {
        let (connected, connections) = mpsc::unbounded_channel();
        let (disconnected, disconnections) = mpsc::unbounded_channel();
        let (began, beginnings) = mpsc::unbounded_channel();
        let (dropped, drops) = mpsc::unbounded_channel();
        let events = Events {
            connected: connections,
            disconnected: disconnections,
            began: beginnings,
            dropped: drops,
        };
        (Self { connected, disconnected, began, dropped }, events)
    }
}

/// Says so when a handler is dropped before its end.
struct Unfinished(Method, mpsc::UnboundedSender<Method>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

impl Service for TestService {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        Box::pin(async move {
            match request.method {
                // Never ends.
                Method::JobWait | Method::NodeLogs => {
                    let _unfinished = Unfinished(request.method, self.dropped.clone());
                    let _ = self.began.send(request.method);
                    std::future::pending().await
                }
                Method::JobShow => Err(Fault::new(FaultCode::NotFound, "no such job")),
                Method::JobLogs => Ok(Bytes::from(vec![0; RESPONSE_MAX + 1])),
                Method::JobList => {
                    let who = request.on_behalf.map_or("nobody".into(), |user| user.to_string());
                    Ok(Bytes::from(format!("{} for {who}", request.caller)))
                }
                _ => Ok(request.body),
            }
        })
    }

    fn accepts_lane(&self, method: Method) -> bool {
        method == Method::RaftAppend
    }

    fn lane(&self, _request: Request, mut lane: Lane) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            while let Some(frame) = lane.recv().await {
                if lane.send(frame).await.is_err() {
                    return;
                }
            }
        })
    }

    fn connected(&self, connection: &Connection) {
        let _ = self.connected.send(connection.clone());
    }

    fn disconnected(&self, connection: &Connection) {
        let _ = self.disconnected.send(connection.clone());
    }
}
