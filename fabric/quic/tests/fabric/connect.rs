//! Who may connect to whom.

use std::sync::Arc;

use fabric_core::frame::{ALPN, FrameKind, Hello, decode_fault, encode_frame};
use fabric_core::identity::Identity;
use fabric_core::trust::Refusal;
use fabric_quic::endpoint::{BindError, ConnectError, Endpoint, EndpointConfig};
use fabric_quic::pki::LEAF_LIFETIME;
use fabric_quic::service::NoService;
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::Expect;
use rcgen::{IsCa, KeyUsagePurpose};
use specs::fault::FaultCode;
use specs::id::ControllerId;
use specs::unit::Millis;
use specs::wire::method::Method;

use crate::forge::{ForgedAuthority, Stranger, knock};
use crate::support::{
    Site, agent, assert_reason, controller, env_with_clock, expect_controller, site, user,
};

#[tokio::test]
async fn an_agent_of_the_own_site_is_accepted() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&agent("berlin", "n01"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    assert_eq!(connection.peer(), &controller("berlin", 1));
    let seen = events.connected.recv().await.unwrap();
    assert_eq!(seen.peer(), &agent("berlin", "n01"));
    assert_eq!(seen.exporter(), connection.exporter());
    assert!(connection.is_dialed() && !seen.is_dialed());
    assert!(seen.peer_build().starts_with("spillway "));
}

#[tokio::test]
async fn a_controller_of_a_federated_site_is_accepted() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    berlin.peer_with(&giga);
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client = giga.ask(&controller("giga", 2));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let answer = connection.call(Method::PeerReport, "report", None).await.unwrap();
    assert_eq!(&*answer, b"report");
}

/// A server of berlin that also trusts giga, whose authority a test can misuse.
async fn refusal(names: &[&str], edit: impl FnOnce(&mut rcgen::CertificateParams)) -> String {
    let berlin = Site::new("berlin");
    let giga = ForgedAuthority::new("spiffe://giga");
    berlin.trust.trust(&site("giga"), &giga.der).unwrap();
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let address = server.local_address();
    // The forger's tools work: an honest certificate is taken.
    let honest = giga.leaf(&["spiffe://giga/controller/1"], |_| {});
    assert_eq!(knock(address, Some(honest)).await, Ok(()));
    let forged = giga.leaf(names, edit);
    loop {
        let reason = knock(address, Some(forged.clone())).await.unwrap_err();
        // The reason is sent once; on a busy machine it may be lost.
        if reason != "reset by peer" {
            return reason;
        }
    }
}

#[tokio::test]
async fn a_site_cannot_speak_for_another() {
    let reason = refusal(&["spiffe://berlin/controller/1"], |_| {}).await;
    assert!(reason.contains("authority did not sign it"), "{reason}");
}

#[tokio::test]
async fn a_foreign_authority_cannot_speak_for_a_site() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    berlin.peer_with(&giga);
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let impostor = Site::new("giga");
    impostor.trust.trust(&site("berlin"), berlin.authority.certificate()).unwrap();
    let client = impostor.ask(&controller("giga", 1));
    let error =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn an_unknown_site_is_refused() {
    let reason = refusal(&["spiffe://unknown/controller/1"], |_| {}).await;
    assert!(reason.contains("site unknown is not trusted here"), "{reason}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let (env, clock) = env_with_clock();
    let berlin = Site::with_env(env, "berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client_site = Site::new("other");
    client_site.trust.trust(&site("berlin"), berlin.authority.certificate()).unwrap();
    let credentials = berlin.credentials(&agent("berlin", "n01"));
    let client = client_site.bind(Some(credentials), Arc::new(NoService));
    clock.advance(LEAF_LIFETIME.plus(Millis(2_000)));
    let error =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn an_identity_with_dots_for_segments_is_refused() {
    let reason = refusal(&["spiffe://giga/agent/../controller/2"], |_| {}).await;
    assert!(reason.contains("not an identity"), "{reason}");
}

#[tokio::test]
async fn a_site_in_upper_case_is_refused() {
    let reason = refusal(&["spiffe://GIGA/controller/1"], |_| {}).await;
    assert!(reason.contains("not an identity"), "{reason}");
}

#[tokio::test]
async fn a_certificate_with_two_names_is_refused() {
    let names = ["spiffe://giga/controller/1", "spiffe://berlin/controller/1"];
    let reason = refusal(&names, |_| {}).await;
    assert!(reason.contains("2 URI names"), "{reason}");
}

#[tokio::test]
async fn an_authority_is_no_process() {
    let reason = refusal(&["spiffe://giga/controller/1"], |params| {
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    })
    .await;
    assert!(reason.contains("belongs to an authority"), "{reason}");
}

#[tokio::test]
async fn a_key_that_may_sign_certificates_is_refused() {
    let reason = refusal(&["spiffe://giga/controller/1"], |params| {
        params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    })
    .await;
    assert!(reason.contains("key usage"), "{reason}");
    let reason = refusal(&["spiffe://giga/controller/1"], |params| params.key_usages.clear()).await;
    assert!(reason.contains("key usage"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_servers_alone_does_not_make_a_client() {
    let reason = refusal(&["spiffe://giga/controller/1"], |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    })
    .await;
    assert!(reason.contains("path does not verify"), "{reason}");
}

#[tokio::test]
async fn a_server_of_another_role_or_number_is_refused() {
    let berlin = Site::new("berlin");
    let client = berlin.ask(&controller("berlin", 1));
    let (agent_server, _events) = berlin.serve(&agent("berlin", "n01"));
    let error = client
        .connect(agent_server.local_address(), expect_controller("berlin"))
        .await
        .unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted(Refusal::Unexpected { .. })), "{error}");
    let (server, _events) = berlin.serve(&controller("berlin", 2));
    let member = |id| Expect::Member { site: site("berlin"), id: ControllerId(id) };
    let error = client.connect(server.local_address(), member(3)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted(Refusal::Unexpected { .. })), "{error}");
    client.connect(server.local_address(), member(2)).await.unwrap();
}

#[tokio::test]
async fn a_server_of_another_site_is_refused() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    berlin.peer_with(&giga);
    let (server, _events) = giga.serve(&controller("giga", 1));
    let client = berlin.ask(&controller("berlin", 1));
    let error =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted(Refusal::Unexpected { .. })), "{error}");
}

#[tokio::test]
async fn a_certificate_denied_while_running_is_cut_off_and_another_is_not() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let other = Site::new("other");
    other.trust.trust(&site("berlin"), berlin.authority.certificate()).unwrap();
    let credentials = berlin.credentials(&agent("berlin", "n01"));
    let serial = credentials.serial().unwrap();
    let client = other.bind(Some(credentials), Arc::new(NoService));
    let address = server.local_address();
    let connection = client.connect(address, expect_controller("berlin")).await.unwrap();
    events.connected.recv().await.unwrap();

    berlin.trust.deny(&site("berlin"), &serial);
    let reason = connection.closed().await;
    assert_reason(&reason, "revoked");
    events.disconnected.recv().await.unwrap();
    let error = client.connect(address, expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected(_)), "{error}");

    client.set_credentials(&berlin.credentials(&agent("berlin", "n01"))).unwrap();
    client.connect(address, expect_controller("berlin")).await.unwrap();
}

#[tokio::test]
async fn a_site_that_is_distrusted_while_running_is_cut_off() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    berlin.peer_with(&giga);
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client = giga.ask(&controller("giga", 1));
    let address = server.local_address();
    let connection = client.connect(address, expect_controller("berlin")).await.unwrap();
    berlin.trust.distrust(&site("giga"));
    assert_reason(&connection.closed().await, "site giga is not trusted here");
    let error = client.connect(address, expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn the_one_who_dialed_cuts_off_as_well() {
    let (berlin, giga) = (Site::new("berlin"), Site::new("giga"));
    berlin.peer_with(&giga);
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let client = giga.ask(&controller("giga", 1));
    client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let seen = events.connected.recv().await.unwrap();
    giga.trust.distrust(&site("berlin"));
    let reason = seen.closed().await;
    assert_reason(&reason, "revoked");
}

#[tokio::test]
async fn a_certificate_that_expires_while_connected_is_cut_off_at_the_next_look() {
    let (env, clock) = env_with_clock();
    let berlin = Site::with_env(env, "berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&agent("berlin", "n01"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    clock.advance(LEAF_LIFETIME.plus(Millis(2_000)));
    // Any change of trust makes each connection look again.
    berlin.trust.deny(&site("elsewhere"), &[1]);
    let reason = connection.closed().await;
    // Both sides look, and either may be first.
    if reason != "closed by this side" {
        assert_reason(&reason, "expired");
    }
}

#[tokio::test]
async fn without_a_certificate_one_is_nobody_and_may_redeem_tokens_alone() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let nobody = Site::new("elsewhere").bind(None, Arc::new(NoService));
    let pin = Expect::Pin(berlin.authority.pin());
    let connection = nobody.connect(server.local_address(), pin).await.unwrap();
    assert_eq!(connection.peer(), &controller("berlin", 1));
    assert_eq!(events.connected.recv().await.unwrap().peer(), &Identity::Anonymous);
    connection.call(Method::JoinRedeem, "proof", None).await.unwrap();
    for method in Method::ALL.iter().copied() {
        if matches!(method, Method::JoinRedeem | Method::EnrolRedeem) {
            continue;
        }
        let fault = connection.call(method, "", None).await.unwrap_err().into_fault();
        assert_eq!(fault.code, FaultCode::Forbidden, "{method}");
    }
}

#[tokio::test]
async fn a_pin_admits_one_authority_and_no_certificate_is_shown() {
    let (berlin, evil) = (Site::new("berlin"), Site::new("berlin"));
    let (server, _events) = evil.serve(&controller("berlin", 1));
    let giga = Site::new("giga");
    let client = giga.ask(&controller("giga", 1));
    let pin = Expect::Pin(berlin.authority.pin());
    let error = client.connect(server.local_address(), pin).await.unwrap_err();
    assert_eq!(error, ConnectError::Untrusted(Refusal::Pin));
    // The other side does not know giga, and need not.
    let pin = Expect::Pin(evil.authority.pin());
    client.connect(server.local_address(), pin).await.unwrap();
}

#[tokio::test]
async fn a_pinned_server_must_be_a_controller() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&agent("berlin", "n01"));
    let nobody = Site::new("elsewhere").bind(None, Arc::new(NoService));
    let pin = Expect::Pin(berlin.authority.pin());
    let error = nobody.connect(server.local_address(), pin).await.unwrap_err();
    assert!(matches!(error, ConnectError::Untrusted(Refusal::Unexpected { .. })), "{error}");
}

#[tokio::test]
async fn another_protocol_is_refused_in_the_handshake() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let outcome = Stranger::dial(server.local_address(), b"h3", None).await;
    assert!(outcome.is_err());
}

#[tokio::test]
async fn sides_without_a_common_version_say_so() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let stranger = Stranger::dial(server.local_address(), ALPN, None).await.unwrap();
    let hello = Hello { oldest: 7, newest: 9, build: "later".into() };
    let (head, content) = stranger.exchange(&encode_frame(FrameKind::Hello, &hello)).await.unwrap();
    assert_eq!(head.kind, FrameKind::Fault);
    assert_eq!(decode_fault(&content).code, FaultCode::VersionMismatch);
}

#[tokio::test]
async fn a_user_dials_and_does_not_listen() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let cli = berlin.ask(&user("berlin", "admin"));
    cli.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    let other = berlin.ask(&controller("berlin", 2));
    let error = other.connect(cli.local_address(), expect_controller("berlin")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Rejected(_) | ConnectError::Timeout), "{error}");
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let listen = server.local_address();
    let trust = Arc::new(TrustStore::new());
    let config = EndpointConfig { listen, credentials: None, trust };
    let error = Endpoint::bind(&berlin.env, config, Arc::new(NoService)).unwrap_err();
    assert!(matches!(error, BindError::InUse { address } if address == listen));
    assert_eq!(error.to_string(), format!("cannot listen on {listen}: the port is in use"));
}

#[tokio::test]
async fn a_dropped_endpoint_closes_its_connections() {
    let berlin = Site::new("berlin");
    let (server, mut events) = berlin.serve(&controller("berlin", 1));
    let client = berlin.ask(&agent("berlin", "n01"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    events.connected.recv().await.unwrap();
    drop(server);
    assert_reason(&connection.closed().await, "the process ends");
    events.disconnected.recv().await.unwrap();
    let error = client.connect(client.local_address(), expect_controller("berlin")).await;
    assert!(error.is_err());
}

#[tokio::test]
async fn many_who_dial_and_say_nothing_do_not_keep_others_out() {
    let berlin = Site::new("berlin");
    let (server, _events) = berlin.serve(&controller("berlin", 1));
    let mut silent = Vec::new();
    // More than may dial without having shown that they are where they say they are.
    for _ in 0..150 {
        silent.push(Stranger::dial(server.local_address(), ALPN, None).await.unwrap());
    }
    let client = berlin.ask(&agent("berlin", "n01"));
    let connection =
        client.connect(server.local_address(), expect_controller("berlin")).await.unwrap();
    connection.call(Method::NodeReport, "x", None).await.unwrap();
}
