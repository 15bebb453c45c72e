//! A network that falls silent, on time that a test moves.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use fabric_quic::connection::CallError;
use fabric_quic::endpoint::ConnectError;
use fabric_quic::env::{BoxFuture, Env, Sockets};
use fabric_quic::settings::{HANDSHAKE_SPAN, IDLE_SPAN};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::support::{Site, controller, expect_controller, user};

/// Sockets whose packets can be made to vanish.
#[derive(Debug)]
struct Cable {
    real: Arc<dyn Sockets>,
    cut: Arc<AtomicBool>,
}

#[derive(Debug)]
struct CableSocket {
    real: Arc<dyn AsyncUdpSocket>,
    cut: Arc<AtomicBool>,
}

impl Sockets for Cable {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(CableSocket { real: self.real.bind(address)?, cut: self.cut.clone() }))
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        self.real.resolve(host)
    }
}

impl AsyncUdpSocket for CableSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.real.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        if self.cut.load(Ordering::SeqCst) { Ok(()) } else { self.real.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.real.poll_recv(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.real.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.real.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.real.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.real.may_fragment()
    }
}

fn env_with_cable() -> (Env, Arc<AtomicBool>) {
    let mut env = Env::system();
    let cut = Arc::new(AtomicBool::new(false));
    env.sockets = Arc::new(Cable { real: env.sockets.clone(), cut: cut.clone() });
    (env, cut)
}

#[tokio::test]
async fn silence_makes_an_answer_unknown_and_then_the_connection_lost() {
    let (env, cut) = env_with_cable();
    let berlin = Site::with_env(env, "berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&user("berlin", "admin"));
    let address = server.local_address();
    let connection = client.connect(address, expect_controller("berlin")).await.unwrap();
    let seen = events.connected.recv().await.unwrap();
    connection.call(Method::JobSubmit, "", None).await.unwrap();

    tokio::time::pause();
    cut.store(true, Ordering::SeqCst);
    let start = tokio::time::Instant::now();
    let error = connection.call(Method::JobSubmit, "x", Some(Millis(500))).await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(_)), "{error}");
    assert!((500..510).contains(&start.elapsed().as_millis()));
    assert!(!connection.is_closed());

    assert!(connection.closed().await.contains("fallen silent"));
    assert!(seen.closed().await.contains("fallen silent"));
    events.disconnected.recv().await.unwrap();
    assert!(start.elapsed().as_millis() <= 3 * u128::from(IDLE_SPAN.0));
    let error = connection.call(Method::JobSubmit, "x", None).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");

    let start = tokio::time::Instant::now();
    let error = client.connect(address, expect_controller("berlin")).await.unwrap_err();
    assert_eq!(error, ConnectError::Timeout);
    let span = u128::from(HANDSHAKE_SPAN.0);
    assert!((span..span + 10).contains(&start.elapsed().as_millis()));
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&user("berlin", "admin"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    tokio::time::pause();
    client.env().sleep(IDLE_SPAN.times(10)).await;
    assert_eq!(connection.close_reason(), None);
    connection.call(Method::JobSubmit, "", None).await.unwrap();
}
