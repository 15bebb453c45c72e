//! The real environment. Nothing outside this file names tokio's runtime, a system clock, a
//! cryptographic provider or a kind of key.

#![expect(clippy::disallowed_methods, reason = "this is what the bans point to")]

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::UdpSocketState;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use rustix::time::{ClockId, Timespec, clock_gettime};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SecureRandom};
use rustls::pki_types::PrivatePkcs8KeyDer;
use specs::unit::{Instant, Timestamp};

use super::{BoxFuture, Clock, Env, Random, Sockets, Spawn};
use crate::crypto::{Crypto, CryptoError, KeyFactory};

/// What is asked of the kernel for each socket; it may grant less.
const SOCKET_BUFFER: usize = 8 << 20;

pub(super) fn env() -> Env {
    let provider = provider();
    let random = SystemRandom(provider.secure_random);
    let crypto = Crypto::new(Arc::new(provider), Arc::new(P256))
        .expect("the provider above has the suite that QUIC demands");
    Env {
        runtime: Arc::new(TokioRuntime),
        sockets: Arc::new(UdpSockets),
        clock: Arc::new(SystemClock),
        random: Arc::new(random),
        crypto: Arc::new(crypto),
        spawn: Arc::new(TokioSpawn),
    }
}

fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    }
}

/// Makes P-256 keys.
#[derive(Debug)]
struct P256;

impl KeyFactory for P256 {
    fn generate(&self) -> Result<PrivatePkcs8KeyDer<'static>, CryptoError> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|error| CryptoError::Generate(error.to_string()))?;
        Ok(PrivatePkcs8KeyDer::from(key.serialize_der()))
    }
}

#[derive(Debug)]
struct UdpSockets;

impl Sockets for UdpSockets {
    fn bind(&self, address: SocketAddr) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = UdpSocket::bind(address)?;
        let state = UdpSocketState::new((&socket).into())?;
        state.set_recv_buffer_size((&socket).into(), SOCKET_BUFFER)?;
        state.set_send_buffer_size((&socket).into(), SOCKET_BUFFER)?;
        let granted = state.recv_buffer_size((&socket).into())?;
        if granted < SOCKET_BUFFER {
            let asked = SOCKET_BUFFER;
            tracing::info!(%address, granted, asked, "raise net.core.rmem_max and wmem_max");
        }
        TokioRuntime.wrap_udp_socket(socket)
    }

    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host(host).await?.collect()) })
    }
}

#[derive(Debug)]
struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant(millis(clock_gettime(ClockId::Boottime)))
    }

    fn wall(&self) -> Timestamp {
        Timestamp(millis(clock_gettime(ClockId::Realtime)))
    }
}

fn millis(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
}

#[derive(Debug)]
struct SystemRandom(&'static dyn SecureRandom);

impl Random for SystemRandom {
    fn fill(&self, bytes: &mut [u8]) {
        // Going on without entropy would make secrets that can be guessed.
        self.0.fill(bytes).expect("the system's source of randomness works");
    }
}

#[derive(Debug)]
struct TokioSpawn;

impl Spawn for TokioSpawn {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        tokio::spawn(task);
    }
}
