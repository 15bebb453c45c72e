//! The one endpoint of a process: dials and accepts on one UDP port.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use fabric_core::identity::{Identity, Role};
use fabric_core::trust::Refusal;
use quinn::{ConnectionError, Incoming};
use specs::fault::{Fault, FaultCode};
use specs::unit::Millis;
use tokio::sync::Semaphore;

use crate::connection::{CLOSED, Connection, close, describe};
use crate::env::Env;
use crate::pki::Credentials;
use crate::serve::{self, Shared, Watch};
use crate::service::Service;
use crate::settings::{
    HANDSHAKE_SPAN, HANDSHAKES_MAX, RETRY_BELOW, client_config, endpoint_config, server_config,
};
use crate::tls::{self, Own};
use crate::trust::TrustStore;
use crate::verify::{Expect, Usage, Verifier, unwrap_told};

/// TLS wants a name to dial; nothing reads it.
const SERVER_NAME: &str = "spillway";
/// How long a stop waits for the other ends to learn of it.
const STOP_SPAN: Millis = Millis(1_000);

/// How an endpoint is set up.
#[derive(Debug, Clone)]
pub struct EndpointConfig {
    /// Port zero takes any free port.
    pub listen: SocketAddr,
    /// Who this process is. Without any, it can only redeem a token. Controllers and agents
    /// accept connections, users do not.
    pub credentials: Option<Credentials>,
    pub trust: Arc<TrustStore>,
}

/// Why an endpoint does not come up.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on {address}: the port is in use")]
    InUse { address: SocketAddr },
    #[error("cannot listen on {address}")]
    Io {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// Why a connection does not come up.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    #[error("no answer in {} ms", HANDSHAKE_SPAN)]
    Timeout,
    /// This side does not trust the other.
    #[error("the other side is not trusted: {0}")]
    Untrusted(#[source] Refusal),
    /// The other side does not trust this one.
    #[error("refused by the other side: {0}")]
    Rejected(String),
    /// The other side said why, for example that there is no common version.
    #[error(transparent)]
    Fault(Fault),
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the endpoint is closed")]
    Stopped,
}

impl ConnectError {
    pub(crate) fn from_connection(error: &ConnectionError, refusal: Option<&Refusal>) -> Self {
        if let Some(refusal) = refusal {
            return Self::Untrusted(refusal.clone());
        }
        match error {
            ConnectionError::ConnectionClosed(close) => {
                Self::Rejected(unwrap_told(&String::from_utf8_lossy(&close.reason)).to_owned())
            }
            ConnectionError::ApplicationClosed(close) => {
                Self::Rejected(String::from_utf8_lossy(&close.reason).into_owned())
            }
            // Its close was lost, and it has forgotten the connection since.
            ConnectionError::Reset => Self::Rejected("it does not say why".into()),
            ConnectionError::TimedOut => Self::Timeout,
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => Self::Broken(describe(error)),
        }
    }

    /// The fault to tell the one who asked for this; `address` is what was dialed.
    #[must_use]
    pub fn into_fault(self, address: SocketAddr) -> Fault {
        let code = match &self {
            Self::Timeout | Self::Broken(_) | Self::Stopped => FaultCode::Unreachable,
            Self::Untrusted(_) | Self::Rejected(_) => FaultCode::Forbidden,
            Self::Fault(fault) => return fault.clone(),
        };
        Fault::new(code, format!("cannot connect to {address}: {self}"))
    }
}

/// Dials and accepts. Clones share it; when the last one is dropped, everything is closed.
#[derive(Clone)]
pub struct Endpoint {
    inner: Arc<Inner>,
}

struct Inner {
    quinn: quinn::Endpoint,
    shared: Arc<Shared>,
    local_address: SocketAddr,
    listening: AtomicBool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.quinn.close(CLOSED, b"the process ends");
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("local_address", &self.inner.local_address)
            .field("identity", &self.identity())
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Opens the socket. Must be called inside the runtime that the environment stands on.
    ///
    /// # Errors
    /// The port is in use, or the system or TLS refuses.
    pub fn bind(
        env: &Env,
        config: EndpointConfig,
        service: Arc<dyn Service>,
    ) -> Result<Self, BindError> {
        let address = config.listen;
        let failed = |source: io::Error| {
            if source.kind() == io::ErrorKind::AddrInUse {
                BindError::InUse { address }
            } else {
                BindError::Io { address, source }
            }
        };
        let socket = env.sockets.bind(address).map_err(failed)?;
        let local_address = socket.local_addr().map_err(failed)?;
        let quinn = quinn::Endpoint::new_with_abstract_socket(
            endpoint_config(env),
            None,
            socket,
            env.runtime.clone(),
        )
        .map_err(failed)?;
        let shared = Arc::new(Shared {
            env: env.clone(),
            own: Arc::new(Own::default()),
            trust: config.trust,
            service,
            next_id: AtomicU64::new(1),
        });
        let listening = AtomicBool::new(false);
        let endpoint = Self { inner: Arc::new(Inner { quinn, shared, local_address, listening }) };
        env.spawn(accept(endpoint.inner.quinn.clone(), endpoint.inner.shared.clone()));
        if let Some(credentials) = config.credentials {
            endpoint.set_credentials(&credentials)?;
        }
        Ok(endpoint)
    }

    /// Becomes someone, or renews the certificate. Connections that are up keep the old one.
    ///
    /// # Errors
    /// TLS refuses.
    pub fn set_credentials(&self, credentials: &Credentials) -> Result<(), BindError> {
        let shared = &self.inner.shared;
        shared.own.set(credentials);
        match credentials.identity().role() {
            Role::Controller | Role::Agent => {}
            Role::User | Role::Anonymous => return Ok(()),
        }
        if self.inner.listening.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let crypto = shared.env.crypto.clone();
        let verifier = Verifier::of_clients(crypto, shared.trust.clone());
        let tls = tls::server(&shared.env, shared.own.clone(), verifier)
            .map_err(|error| BindError::Tls(error.to_string()))?;
        let config =
            server_config(&shared.env, tls).map_err(|error| BindError::Tls(error.to_string()))?;
        self.inner.quinn.set_server_config(Some(config));
        Ok(())
    }

    /// Connects to whom is expected at an address. The connection is up when this returns: both
    /// sides trust each other and speak a common version.
    ///
    /// # Errors
    /// Nobody answers, or one side does not trust the other.
    pub async fn connect(
        &self,
        address: SocketAddr,
        expect: Expect,
    ) -> Result<Connection, ConnectError> {
        let env = &self.inner.shared.env;
        match env.timeout(HANDSHAKE_SPAN, self.dial(address, expect)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    /// Where this endpoint listens.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.inner.local_address
    }

    /// Who this process is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        self.inner.shared.own.identity()
    }

    #[must_use]
    pub fn env(&self) -> &Env {
        &self.inner.shared.env
    }

    #[must_use]
    pub fn trust(&self) -> &Arc<TrustStore> {
        &self.inner.shared.trust
    }

    /// Closes all connections and accepts no more.
    pub fn close(&self, reason: &str) {
        self.inner.quinn.close(CLOSED, reason.as_bytes());
    }

    /// As [`Endpoint::close`], and gives the other ends a moment to learn of it.
    pub async fn shutdown(&self, reason: &str) {
        self.close(reason);
        let _ = self.inner.shared.env.timeout(STOP_SPAN, self.inner.quinn.wait_idle()).await;
    }

    async fn dial(&self, address: SocketAddr, expect: Expect) -> Result<Connection, ConnectError> {
        let shared = &self.inner.shared;
        let (own, watch) = match expect {
            Expect::Pin(_) => (None, Watch::Pinned),
            Expect::Controller { .. } | Expect::Member { .. } | Expect::Agent { .. } => {
                (Some(shared.own.clone()), Watch::Trust(Usage::Server))
            }
        };
        let changes = shared.trust.changes();
        let crypto = shared.env.crypto.clone();
        let verifier = Verifier::of_server(crypto, shared.trust.clone(), expect);
        let refusal = verifier.refusal();
        let broken = |error: &dyn fmt::Display| ConnectError::Broken(error.to_string());
        let tls = tls::client(&shared.env, own, verifier).map_err(|error| broken(&error))?;
        let config = client_config(tls).map_err(|error| broken(&error))?;
        let connecting =
            self.inner.quinn.connect_with(config, address, SERVER_NAME).map_err(|error| {
                if error == quinn::ConnectError::EndpointStopping {
                    ConnectError::Stopped
                } else {
                    broken(&error)
                }
            })?;
        let quinn = connecting.await.map_err(|error| explain(&error, &refusal))?;
        let guard = CloseUnlessUp(Some(quinn.clone()));
        let connection = serve::greet(shared, quinn).await?;
        guard.up();
        shared.env.spawn(serve::run(shared.clone(), connection.clone(), watch, changes));
        Ok(connection)
    }
}

fn explain(error: &ConnectionError, refusal: &OnceLock<Refusal>) -> ConnectError {
    ConnectError::from_connection(error, refusal.get())
}

/// Closes a connection whose opening is given up, so that the other end need not wait for it.
struct CloseUnlessUp(Option<quinn::Connection>);

impl CloseUnlessUp {
    fn up(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseUnlessUp {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take() {
            close(&connection, "the connection was not opened in time");
        }
    }
}

async fn accept(quinn: quinn::Endpoint, shared: Arc<Shared>) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = quinn.accept().await {
        // Under load, forged addresses must not take the turns of others.
        if permits.available_permits() < RETRY_BELOW
            && !incoming.remote_address_validated()
            && incoming.may_retry()
        {
            // It may retry, so that this cannot fail.
            let _ = incoming.retry();
            continue;
        }
        let Ok(permit) = permits.clone().acquire_owned().await else { return };
        let task_shared = shared.clone();
        let changes = shared.trust.changes();
        shared.env.spawn(async move {
            let opened =
                task_shared.env.timeout(HANDSHAKE_SPAN, open(&task_shared, incoming)).await;
            drop(permit);
            match opened {
                Ok(Ok(connection)) => {
                    serve::run(task_shared, connection, Watch::Trust(Usage::Client), changes).await;
                }
                Ok(Err(error)) => tracing::debug!(%error, "a connection was not accepted"),
                Err(_) => tracing::debug!("a connection was not opened in time"),
            }
        });
    }
}

async fn open(shared: &Shared, incoming: Incoming) -> Result<Connection, ConnectError> {
    let failed = |error: ConnectionError| ConnectError::from_connection(&error, None);
    let quinn = incoming.accept().map_err(failed)?.await.map_err(failed)?;
    let guard = CloseUnlessUp(Some(quinn.clone()));
    let connection = serve::welcome(shared, quinn).await?;
    guard.up();
    Ok(connection)
}
