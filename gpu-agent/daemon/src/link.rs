//! The link to the controllers: a warm connection to every one of them, and one question at a
//! time to the one that is thought to lead.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use fabric_quic::backoff::Backoff;
use fabric_quic::connection::{CallError, Connection};
use fabric_quic::endpoint::Endpoint;
use fabric_quic::env::Env;
use fabric_quic::verify::Expect;
use specs::fault::{Fault, FaultCode};
use specs::id::SiteId;
use specs::unit::Millis;
use specs::wire::join::ADDRESSES_MAX;
use specs::wire::method::Method;
use tokio::sync::Notify;

/// How long one controller may take to answer.
pub(crate) const ASK_DEADLINE: Millis = Millis(2_000);
/// Full jitter, so that many agents do not come back at once.
const RECONNECT: Backoff = Backoff { base: Millis(250), cap: Millis(5_000) };
/// A connection that lived this long was a good one.
const GOOD_SPAN: Millis = Millis(5_000);
/// Questions in a row without an answer after which a connection is taken for dead. The other end
/// may have been restarted, and the transport notices that late.
const SILENCE_MAX: u32 = 2;
/// What a fault's hint begins with if it names the leader.
const LEADER_HINT: &str = "leader=";

/// Connections to the controllers of a site. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Link {
    endpoint: Endpoint,
    expect: Expect,
    state: Arc<Mutex<State>>,
    /// Told when a connection comes up.
    connected: Arc<Notify>,
}

#[derive(Default)]
struct State {
    controllers: Vec<Controller>,
    /// Which one is asked next.
    current: usize,
}

struct Controller {
    /// `host:port`.
    address: String,
    connection: Option<Connection>,
    silence: u32,
}

impl Link {
    /// Starts to connect to all addresses.
    pub(crate) fn open(
        endpoint: Endpoint,
        site: &SiteId,
        addresses: &[String],
        connected: Arc<Notify>,
    ) -> Self {
        let link = Self {
            endpoint,
            expect: Expect::Controller { site: site.clone() },
            state: Arc::default(),
            connected,
        };
        for address in addresses {
            link.add(address);
        }
        link
    }

    /// How many controllers are known.
    pub(crate) fn len(&self) -> usize {
        self.with(|state| state.controllers.len())
    }

    /// Asks the one that is thought to lead. After a fault that another one may not have, the next
    /// question goes to another one.
    pub(crate) async fn ask(&self, report: Vec<u8>) -> Result<Bytes, Fault> {
        let Some((index, connection)) = self.with(State::pick) else {
            return Err(Fault::new(FaultCode::Unreachable, "no controller is connected"));
        };
        let call = connection.call(Method::NodeReport, report, Some(ASK_DEADLINE)).await;
        match call {
            Ok(answer) => {
                self.with(|state| state.controllers[index].silence = 0);
                Ok(answer)
            }
            Err(error) => {
                if self.with(|state| state.handle_error(index, &error)) {
                    connection.close("no answer came for too long");
                }
                let fault = error.into_fault();
                if let Some(leader) = leader_of(&fault) {
                    self.follow(leader);
                }
                Err(fault)
            }
        }
    }

    /// The next question goes to the leader that a controller named.
    fn follow(&self, leader: &str) {
        let index = self.with(|state| {
            let index = state.controllers.iter().position(|it| it.address == leader)?;
            state.current = index;
            Some(index)
        });
        if index.is_none() && self.len() < ADDRESSES_MAX {
            tracing::info!(leader, "a controller that is not known here leads");
            self.add(leader);
        }
    }

    fn add(&self, address: &str) {
        let index = self.with(|state| {
            let address = address.to_owned();
            state.controllers.push(Controller { address, connection: None, silence: 0 });
            state.controllers.len() - 1
        });
        let (link, address) = (self.clone(), address.to_owned());
        self.endpoint.env().spawn(async move { link.keep(index, &address).await });
    }

    /// Keeps one connection up, for as long as the process lives.
    async fn keep(&self, index: usize, address: &str) {
        let env = self.endpoint.env();
        let mut attempt = 0;
        loop {
            match self.connect(env, address).await {
                Ok(connection) => {
                    tracing::info!(address, "connected to a controller");
                    let since = env.clock.now();
                    self.with(|state| {
                        let controller = &mut state.controllers[index];
                        controller.connection = Some(connection.clone());
                        controller.silence = 0;
                    });
                    self.connected.notify_one();
                    let reason = connection.closed().await;
                    self.with(|state| state.controllers[index].connection = None);
                    tracing::info!(address, reason, "lost a controller");
                    if env.clock.now().since(since) >= GOOD_SPAN {
                        attempt = 0;
                    }
                }
                Err(why) if attempt == 0 => tracing::warn!(address, why, "cannot connect"),
                Err(why) => tracing::debug!(address, why, "cannot connect"),
            }
            env.sleep(RECONNECT.delay(attempt, env.random_u64())).await;
            attempt = attempt.saturating_add(1);
        }
    }

    async fn connect(&self, env: &Env, address: &str) -> Result<Connection, String> {
        let found = env.sockets.resolve(address).await.map_err(|error| error.to_string())?;
        let mut last = "the name has no address".to_owned();
        for address in found {
            match self.endpoint.connect(address, self.expect.clone()).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error.to_string(),
            }
        }
        Err(last)
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    /// The current controller, or the next one that is connected.
    fn pick(&mut self) -> Option<(usize, Connection)> {
        for _ in 0..self.controllers.len() {
            let index = self.current;
            let connection = self.controllers.get(index)?.connection.as_ref();
            if let Some(connection) = connection.filter(|it| !it.is_closed()) {
                return Some((index, connection.clone()));
            }
            self.turn(index);
        }
        None
    }

    /// The next question goes to the next controller, unless another has been chosen meanwhile.
    fn turn(&mut self, from: usize) {
        if self.current == from {
            self.current = (from + 1) % self.controllers.len().max(1);
        }
    }

    /// True if the connection is to be given up.
    fn handle_error(&mut self, index: usize, error: &CallError) -> bool {
        self.turn(index);
        let Some(controller) = self.controllers.get_mut(index) else { return false };
        match error {
            CallError::Fault(_) => {
                controller.silence = 0;
                false
            }
            CallError::Unreachable(_) | CallError::Unknown(_) => {
                controller.silence += 1;
                controller.silence > SILENCE_MAX
            }
        }
    }
}

fn leader_of(fault: &Fault) -> Option<&str> {
    if fault.code != FaultCode::NotLeader {
        return None;
    }
    let (_, rest) = fault.hint.split_once(LEADER_HINT)?;
    rest.split([' ', ',', ';']).next().filter(|address| !address.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_of_one_who_does_not_lead_names_the_leader() {
        let fault = |hint: &str| Fault::new(FaultCode::NotLeader, "").with_hint(hint);
        assert_eq!(leader_of(&fault("leader=10.0.0.1:7000")), Some("10.0.0.1:7000"));
        assert_eq!(leader_of(&fault("ask leader=c2:7000, or wait")), Some("c2:7000"));
        assert_eq!(leader_of(&fault("leader=")), None);
        assert_eq!(leader_of(&fault("")), None);
        assert_eq!(leader_of(&Fault::new(FaultCode::Busy, "").with_hint("leader=a:1")), None);
    }
}
