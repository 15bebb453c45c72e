//! Connections to keep: at most one for each address, expectation and class, dialed when needed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fabric_core::backoff::Backoff;
use specs::unit::{Instant, Millis};
use specs::wire::method::Method;

use crate::connection::{CallError, CallOptions, Connection};
use crate::endpoint::{ConnectError, Endpoint};
use crate::verify::Expect;

/// Class of connections for everything that has no class of its own.
pub const CONTROL: &str = "control";
/// Class of connections for a site's own agreement, which must not wait behind anything.
pub const RAFT: &str = "raft";
/// Class of connections for what is large.
pub const BULK: &str = "bulk";

/// After a failed dial, calls fail at once for a moment: a dead peer must not cost each of them
/// the span of a handshake.
const REDIAL: Backoff = Backoff { base: Millis(100), cap: Millis(2_000) };
/// Peers that are remembered; above it those without a connection are forgotten.
const PEERS_MAX: usize = 4_096;

type Key = (SocketAddr, Expect, &'static str);

/// Shared connections of one endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Pool {
    endpoint: Endpoint,
    peers: Arc<Mutex<BTreeMap<Key, Arc<Peer>>>>,
}

#[derive(Debug, Default)]
struct Peer {
    /// Held while dialing, so that one dial serves all who wait.
    state: tokio::sync::Mutex<State>,
    live: Mutex<Option<Connection>>,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    last: Option<(ConnectError, Instant)>,
}

impl Peer {
    fn live(&self) -> Option<Connection> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.as_ref().filter(|connection| !connection.is_closed()).cloned()
    }

    fn keep(&self, connection: Option<Connection>) -> Option<Connection> {
        std::mem::replace(
            &mut *self.live.lock().unwrap_or_else(PoisonError::into_inner),
            connection,
        )
    }
}

impl Pool {
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, peers: Arc::default() }
    }

    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The connection to whom is expected at an address; dials if there is none.
    ///
    /// # Errors
    /// As [`Endpoint::connect`], without dialing again if a dial failed a moment ago.
    pub async fn get(
        &self,
        address: SocketAddr,
        expect: &Expect,
        class: &'static str,
    ) -> Result<Connection, ConnectError> {
        let peer = self.peer((address, expect.clone(), class));
        if let Some(connection) = peer.live() {
            return Ok(connection);
        }
        let mut state = peer.state.lock().await;
        if let Some(connection) = peer.live() {
            return Ok(connection);
        }
        let env = self.endpoint.env();
        if let Some((error, retry_at)) = &state.last
            && env.clock.now() < *retry_at
        {
            return Err(error.clone());
        }
        match self.endpoint.connect(address, expect.clone()).await {
            Ok(connection) => {
                *state = State::default();
                peer.keep(Some(connection.clone()));
                Ok(connection)
            }
            Err(error) => {
                let wait = REDIAL.delay(state.failures, env.random_u64());
                state.failures = state.failures.saturating_add(1);
                state.last = Some((error.clone(), env.clock.now().after(wait)));
                Err(error)
            }
        }
    }

    /// Calls whom is expected at an address.
    ///
    /// # Errors
    /// As [`Connection::call_with`]; a peer that cannot be dialed is unreachable.
    pub async fn call(
        &self,
        address: SocketAddr,
        expect: &Expect,
        class: &'static str,
        method: Method,
        body: impl Into<Bytes>,
        options: CallOptions,
    ) -> Result<Bytes, CallError> {
        let connection = self.get(address, expect, class).await.map_err(|error| {
            if let ConnectError::Fault(fault) = error {
                CallError::Fault(fault)
            } else {
                CallError::Unreachable(format!("cannot connect to {address}: {error}"))
            }
        })?;
        connection.call_with(method, body, options).await
    }

    /// Closes the connections to an address and forgets it.
    pub fn forget(&self, address: SocketAddr, reason: &str) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|(at, _, _), peer| {
            if *at != address {
                return true;
            }
            if let Some(connection) = peer.keep(None) {
                connection.close(reason);
            }
            false
        });
    }

    fn peer(&self, key: Key) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= PEERS_MAX && !peers.contains_key(&key) {
            peers.retain(|_, peer| peer.live().is_some());
        }
        peers.entry(key).or_default().clone()
    }
}
