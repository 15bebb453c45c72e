//! What the fabric takes from the world around it, handed in at construction: a runtime, sockets,
//! clocks, chance, cryptography and a way to start tasks. A simulator hands in its own.

use std::fmt::Debug;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use quinn::{AsyncUdpSocket, Runtime};
use specs::unit::{Instant, Millis, Timestamp};

use crate::crypto::Crypto;

mod system;

/// A future that can be sent and stored.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Longest span that is slept in one piece, so that an instant never overflows.
const SLEEP_MAX: Millis = Millis(365 * 24 * 3_600_000);

/// Opens UDP sockets and finds addresses.
pub trait Sockets: Debug + Send + Sync {
    /// Binds a UDP socket.
    ///
    /// # Errors
    /// Whatever the system says, `AddrInUse` for a port in use.
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>>;

    /// The addresses behind `host:port`.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>>;
}

/// Tells the time.
pub trait Clock: Debug + Send + Sync {
    /// Monotonic, counting the time that the machine was suspended.
    fn now(&self) -> Instant;
    /// Wall-clock time, for certificates, tokens and people.
    fn wall(&self) -> Timestamp;
}

/// Draws random bytes fit for secrets.
pub trait Random: Debug + Send + Sync {
    fn fill(&self, bytes: &mut [u8]);
}

/// Starts tasks.
pub trait Spawn: Debug + Send + Sync {
    fn spawn(&self, task: BoxFuture<'static, ()>);
}

/// A future that did not end within its span.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the time is up")]
pub struct Elapsed;

/// Everything the fabric needs from outside. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Env {
    /// Timers and tasks of quinn.
    pub runtime: Arc<dyn Runtime>,
    pub sockets: Arc<dyn Sockets>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub crypto: Arc<Crypto>,
    pub spawn: Arc<dyn Spawn>,
}

impl Env {
    /// The real world: tokio, UDP, the machine's clocks, aws-lc-rs. The only place that names
    /// them. Sockets and tasks need a tokio runtime around them when they are used.
    #[must_use]
    pub fn system() -> Self {
        system::env()
    }

    /// Starts a task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.spawn.spawn(Box::pin(task));
    }

    /// Ends after a span.
    pub fn sleep(&self, span: Millis) -> impl Future<Output = ()> + Send + 'static {
        let span = Duration::from_millis(span.min(SLEEP_MAX).0);
        let mut timer = self.runtime.new_timer(self.runtime.now() + span);
        poll_fn(move |cx| timer.as_mut().poll(cx))
    }

    /// Runs a future for at most a span, then drops it.
    ///
    /// # Errors
    /// [`Elapsed`] if it has not ended by then.
    pub async fn timeout<F: Future>(&self, span: Millis, future: F) -> Result<F::Output, Elapsed> {
        let sleep = self.sleep(span);
        tokio::select! {
            biased;
            output = future => Ok(output),
            () = sleep => Err(Elapsed),
        }
    }

    /// Random bytes of a fixed number.
    #[must_use]
    pub fn random_bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.random.fill(&mut bytes);
        bytes
    }

    #[must_use]
    pub fn random_u64(&self) -> u64 {
        u64::from_be_bytes(self.random_bytes())
    }

    #[must_use]
    pub fn random_u128(&self) -> u128 {
        u128::from_be_bytes(self.random_bytes())
    }
}
