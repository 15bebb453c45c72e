//! The pool.

use std::sync::Arc;

use fabric_core::trust::Refusal;
use fabric_quic::connection::{CallError, CallOptions};
use fabric_quic::endpoint::ConnectError;
use fabric_quic::env::Random;
use fabric_quic::pool::{BULK, CONTROL, Pool};
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::support::{Site, controller, env_with_clock, expect_controller, site, user};

#[tokio::test]
async fn many_who_ask_at_once_share_one_dial() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let address = server.local_address();
    let pool = Pool::new(berlin.ask(&user("berlin", "admin")));
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move {
                let expect = expect_controller("berlin");
                let options = CallOptions::default();
                pool.call(address, &expect, CONTROL, Method::JobSubmit, "x", options).await
            })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    events.connected.recv().await.unwrap();
    assert!(events.connected.try_recv().is_err());
    // Another class is another connection.
    pool.get(address, &expect_controller("berlin"), BULK).await.unwrap();
    events.connected.recv().await.unwrap();
}

#[tokio::test]
async fn a_dead_connection_is_replaced() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let address = server.local_address();
    let pool = Pool::new(berlin.ask(&user("berlin", "admin")));
    let expect = expect_controller("berlin");
    let first = pool.get(address, &expect, CONTROL).await.unwrap();
    first.close("a test");
    let second = pool.get(address, &expect, CONTROL).await.unwrap();
    assert_ne!(first.id(), second.id());
    pool.forget(address, "gone");
    assert!(second.is_closed());
}

/// Draws the longest waits.
#[derive(Debug)]
struct Unlucky(Arc<dyn Random>);

impl Random for Unlucky {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes);
        // A back-off is drawn from eight bytes; 100 is the longest first wait.
        if bytes.len() == 8 {
            bytes.copy_from_slice(&100u64.to_be_bytes());
        }
    }
}

#[tokio::test]
async fn after_a_failed_dial_calls_fail_at_once_for_a_moment() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let address = server.local_address();
    let (mut env, clock) = env_with_clock();
    env.random = Arc::new(Unlucky(env.random));
    let giga = Site::with_env(env, "giga");
    berlin.trust.trust(&site("giga"), giga.authority.certificate()).unwrap();
    let pool = Pool::new(giga.ask(&controller("giga", 1)));
    let expect = expect_controller("berlin");
    let unknown = ConnectError::Untrusted(Refusal::UnknownSite(site("berlin")));
    assert_eq!(pool.get(address, &expect, CONTROL).await.unwrap_err(), unknown);
    giga.trust.trust(&site("berlin"), berlin.authority.certificate()).unwrap();
    // It would succeed, but is not tried.
    assert_eq!(pool.get(address, &expect, CONTROL).await.unwrap_err(), unknown);
    let options = CallOptions::default();
    let error =
        pool.call(address, &expect, CONTROL, Method::PeerReport, "", options).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error}");
    assert!(events.connected.try_recv().is_err());
    clock.advance(Millis(100));
    pool.get(address, &expect, CONTROL).await.unwrap();
    events.connected.recv().await.unwrap();
}
