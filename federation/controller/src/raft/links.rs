//! Where the other members are, and the connections to them.
//!
//! A process that was killed takes its connections with it, and the fabric learns of that only
//! after its idle span. A leader must reach a member that is back sooner than that: when a member
//! has not answered for a while, all connections to it are closed and dialed again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fabric_quic::connection::{CallOptions, Connection};
use fabric_quic::env::Env;
use fabric_quic::pool::Pool;
use fabric_quic::verify::Expect;
use specs::id::{ControllerId, SiteId};
use specs::unit::{Instant, Millis};
use specs::wire::method::Method;
use tokio::sync::oneshot;

/// Failures without an answer in between for this long close the connections. A member that is
/// only slow answers within two elections.
const SILENCE_SPAN: Millis = Millis(1_000);

/// The other members of the group. Clones share them.
#[derive(Clone)]
pub(crate) struct Links {
    env: Env,
    site: SiteId,
    pool: Pool,
    members: Arc<Mutex<BTreeMap<u64, Link>>>,
}

#[derive(Default)]
struct Link {
    address: String,
    live: BTreeMap<&'static str, Connection>,
    /// When the first call failed after which none was answered.
    silent_since: Option<Instant>,
}

impl Link {
    fn close(&mut self, reason: &str) {
        for connection in std::mem::take(&mut self.live).values() {
            connection.close(reason);
        }
        self.silent_since = None;
    }
}

impl Links {
    pub(crate) fn new(env: Env, site: SiteId, pool: Pool) -> Self {
        Self { env, site, pool, members: Arc::default() }
    }

    pub(crate) fn env(&self) -> &Env {
        &self.env
    }

    /// Takes note of a member's address.
    pub(crate) fn learn(&self, id: u64, address: &str) {
        let mut members = self.members();
        let link = members.entry(id).or_default();
        if link.address != address {
            link.close("the member has moved");
            address.clone_into(&mut link.address);
        }
    }

    /// A member has answered.
    pub(crate) fn heard(&self, id: u64) {
        if let Some(link) = self.members().get_mut(&id) {
            link.silent_since = None;
        }
    }

    /// A member has not answered.
    pub(crate) fn missed(&self, id: u64) {
        let now = self.env.clock.now();
        let mut members = self.members();
        let link = members.entry(id).or_default();
        if now >= link.silent_since.get_or_insert(now).after(SILENCE_SPAN) {
            link.close("the member does not answer");
        }
    }

    /// Asks a member something, over the connection of a class.
    pub(crate) async fn ask(
        &self,
        id: u64,
        class: &'static str,
        method: Method,
        body: Vec<u8>,
        span: Millis,
    ) -> Result<Bytes, String> {
        let connection = self.connection(id, class).await?;
        let options = CallOptions { deadline: Some(span), ..CallOptions::default() };
        let called = connection.call_with(method, body, options).await;
        called.map_err(|error| error.to_string())
    }

    /// The connection of a class to a member. A dial goes on when the one who waits gives up: a
    /// heartbeat has less time than a handshake may need.
    pub(crate) async fn connection(
        &self,
        id: u64,
        class: &'static str,
    ) -> Result<Connection, String> {
        let address = {
            let members = self.members();
            let link = members.get(&id).ok_or("the member has no address")?;
            if let Some(connection) = link.live.get(class).filter(|it| !it.is_closed()) {
                return Ok(connection.clone());
            }
            link.address.clone()
        };
        let (done, dialed) = oneshot::channel();
        let links = self.clone();
        self.env.spawn(async move {
            let outcome = links.dial(id, class, &address).await;
            // No one waits when the time is up.
            let _ = done.send(outcome);
        });
        dialed.await.map_err(|_| "the dial was given up")?
    }

    async fn dial(
        &self,
        id: u64,
        class: &'static str,
        address: &str,
    ) -> Result<Connection, String> {
        let resolved: Vec<SocketAddr> = match address.parse() {
            Ok(address) => vec![address],
            Err(_) => self.env.sockets.resolve(address).await.map_err(|error| error.to_string())?,
        };
        let expect = Expect::Member { site: self.site.clone(), id: ControllerId(id) };
        let mut why = format!("`{address}` has no address");
        for candidate in resolved {
            match self.pool.get(candidate, &expect, class).await {
                Ok(connection) => {
                    self.keep(id, class, address, &connection);
                    return Ok(connection);
                }
                Err(error) => why = format!("cannot connect to {candidate}: {error}"),
            }
        }
        Err(why)
    }

    fn keep(&self, id: u64, class: &'static str, address: &str, connection: &Connection) {
        let mut members = self.members();
        let link = members.entry(id).or_default();
        if link.address == address {
            link.live.insert(class, connection.clone());
        }
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<u64, Link>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
