//! The numbers of the transport, each with its reason.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, EndpointConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn_proto::{HashedConnectionIdGenerator, TimeSource};
use specs::unit::Millis;

use crate::crypto::{AddressKey, ResetKey};
use crate::env::{Clock, Env};

/// How long a dial may take, from the first packet to the first answer; also how long one who
/// dials in may take.
pub const HANDSHAKE_SPAN: Millis = Millis(3_000);
/// Requests that one side of a connection may have open at the other; a slot costs memory even
/// when it is not used.
pub const REQUESTS_MAX: u32 = 64;
/// Silence after which a connection is given up. A garbage collector, not a failure detector:
/// leases decide who is dead.
pub const IDLE_SPAN: Millis = Millis(10_000);
/// How often an idle connection is kept alive, by the one who dialed it; below a third of
/// [`IDLE_SPAN`].
pub const KEEP_ALIVE_SPAN: Millis = Millis(3_000);
/// How long a request may take to arrive after its stream was opened.
pub(crate) const REQUEST_SPAN: Millis = Millis(60_000);
/// How long an answer may take to be sent.
pub(crate) const ANSWER_SPAN: Millis = Millis(60_000);
/// How often a connection's certificate is looked at again.
pub(crate) const RECHECK_SPAN: Millis = Millis(60_000);
/// Handshakes that are worked on at a time; further ones wait their turn, they are not refused.
pub(crate) const HANDSHAKES_MAX: usize = 256;
/// With fewer turns left than this, one who dials must first show that it is where it says it is.
pub(crate) const RETRY_BELOW: usize = 128;
/// Frames of a lane that wait to be sent.
pub(crate) const LANE_QUEUE: usize = 256;

/// A stream that receives out of order may not have more gaps than quinn counts: at most
/// 2 × 1,024 × MTU, 2.97 MB.
const STREAM_WINDOW: u32 = 2_560 * 1024;
/// What any peer may make us hold. Bounds the memory of 12,500 agents.
const WINDOW: u32 = 1 << 20;
/// What a controller may make us hold.
const CONTROLLER_WINDOW: u32 = 16 << 20;
const SEND_WINDOW: u64 = 32 << 20;
/// The default of 333 ms would put the first retransmission of a handshake a second away.
const INITIAL_RTT: Duration = Duration::from_millis(50);
const INCOMING_MAX: usize = 4_096;
const INCOMING_BUFFER: u64 = 64 << 10;
const INCOMING_BUFFER_TOTAL: u64 = 32 << 20;
/// 50 resets a second would not reach the connections of a restarted controller in time.
const RESET_INTERVAL: Duration = Duration::from_micros(100);

/// Streams of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Dialer,
    Listener,
}

fn transport(side: Side) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = u32::try_from(IDLE_SPAN.0).map_or(IdleTimeout::from(VarInt::MAX), |millis| {
        IdleTimeout::from(VarInt::from_u32(millis))
    });
    let keep_alive = match side {
        Side::Dialer => Some(Duration::from_millis(KEEP_ALIVE_SPAN.0)),
        Side::Listener => None,
    };
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(REQUESTS_MAX))
        // Nothing here is said in one direction only.
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(SEND_WINDOW)
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(keep_alive)
        .initial_rtt(INITIAL_RTT)
        .allow_spin(false)
        .datagram_receive_buffer_size(None)
        .enable_segmentation_offload(true);
    Arc::new(transport)
}

/// Lets a controller send more at a time than others may.
pub(crate) fn widen(connection: &quinn::Connection) {
    connection.set_receive_window(VarInt::from_u32(CONTROLLER_WINDOW));
}

pub(crate) fn endpoint_config(env: &Env) -> EndpointConfig {
    let reset = ResetKey { crypto: env.crypto.clone(), key: env.random_bytes() };
    let ids = env.random_u64();
    let mut config = EndpointConfig::new(Arc::new(reset));
    config
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(ids)))
        .min_reset_interval(RESET_INTERVAL)
        .rng_seed(Some(env.random_bytes()));
    config
}

pub(crate) fn server_config(
    env: &Env,
    tls: rustls::ServerConfig,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let address_key = AddressKey { crypto: env.crypto.clone(), key: env.random_bytes() };
    let tls = Arc::new(QuicServerConfig::try_from(tls)?);
    let mut config = ServerConfig::new(tls, Arc::new(address_key));
    config
        .transport_config(transport(Side::Listener))
        .migration(false)
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL)
        .time_source(Arc::new(WallTime(env.clock.clone())));
    Ok(config)
}

pub(crate) fn client_config(
    tls: rustls::ClientConfig,
) -> Result<ClientConfig, NoInitialCipherSuite> {
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(Side::Dialer));
    Ok(config)
}

struct WallTime(Arc<dyn Clock>);

impl TimeSource for WallTime {
    fn now(&self) -> std::time::SystemTime {
        std::time::SystemTime::UNIX_EPOCH + Duration::from_millis(self.0.wall().0)
    }
}
