//! Tokens, redeemed over real connections. A map stands in for the inviter's agreed records.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use fabric_core::identity::Identity;
use fabric_core::join::check_terms;
use fabric_core::token::{Token, TokenKind};
use fabric_quic::connection::{CallError, Connection};
use fabric_quic::endpoint::Endpoint;
use fabric_quic::env::{BoxFuture, Env};
use fabric_quic::pki::{Authority, KeyRequest};
use fabric_quic::redeem::{self, RedeemError, TokenKey};
use fabric_quic::service::{NoService, Request, Service};
use fabric_quic::verify::Expect;
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::{NodeId, TokenId};
use specs::unit::{Millis, Timestamp};
use specs::wire::join::{
    BUNDLE_VERSION, EnrolAccept, EnrolRequest, JoinAccept, JoinRequest, SiteBundle,
};
use specs::wire::method::Method;

use crate::support::{Site, TestClock, agent, controller, env_with_clock, expect_controller, site};

struct Record {
    key: TokenKey,
    bound: Option<String>,
    expires: Timestamp,
    used: bool,
}

/// A controller that redeems tokens.
struct Inviter {
    env: Env,
    authority: Authority,
    bundle: SiteBundle,
    records: Mutex<BTreeMap<TokenId, Record>>,
}

impl Inviter {
    fn redeem<T>(
        &self,
        token: TokenId,
        name: &str,
        act: impl FnOnce(&TokenKey) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut records = self.records.lock().expect("no test panics with it");
        let unknown = || Fault::new(FaultCode::TokenInvalid, "the token is not valid");
        let record = records.get_mut(&token).ok_or_else(unknown)?;
        let done = act(&record.key)?;
        check_terms(record.bound.as_deref(), record.expires, name, self.env.clock.wall())?;
        if std::mem::replace(&mut record.used, true) {
            return Err(Fault::new(FaultCode::TokenUsed, "the token was used"));
        }
        Ok(done)
    }

    fn join(&self, request: &JoinRequest, connection: &Connection) -> Result<JoinAccept, Fault> {
        let (crypto, exporter) = (&self.env.crypto, connection.exporter());
        let name = SiteBundle::decode(&request.bundle.0)
            .map_or_else(|_| "?".to_owned(), |bundle| bundle.site.to_string());
        self.redeem(request.token, &name, |key| {
            let bundle = redeem::check_join(crypto, key, &exporter, request)?;
            let own = &self.bundle;
            Ok(redeem::join_accept(crypto, key, &exporter, &bundle.site, request, own))
        })
    }

    fn enrol(&self, request: &EnrolRequest, connection: &Connection) -> Result<EnrolAccept, Fault> {
        let (crypto, exporter) = (&self.env.crypto, connection.exporter());
        self.redeem(request.token, request.node.as_str(), |key| {
            redeem::check_enrol(crypto, key, &exporter, request)?;
            let identity = agent("berlin", request.node.as_str());
            let leaf = self
                .authority
                .issue(&self.env, &identity, &request.csr.0)
                .map_err(|error| Fault::new(FaultCode::InvalidArgument, error.to_string()))?;
            let (ca, controllers) = (self.authority.certificate(), &self.bundle.addresses);
            Ok(redeem::enrol_accept(crypto, key, &exporter, request, &leaf, ca, controllers))
        })
    }
}

struct Front(Arc<Inviter>);

impl Service for Front {
    fn call(&self, request: Request) -> BoxFuture<'_, Result<Bytes, Fault>> {
        let unreadable = || Fault::new(FaultCode::InvalidArgument, "unreadable");
        let answer = match request.method {
            Method::JoinRedeem => JoinRequest::decode(&request.body)
                .map_err(|_| unreadable())
                .and_then(|join| self.0.join(&join, &request.connection))
                .map(|accept| accept.encode().into()),
            Method::EnrolRedeem => EnrolRequest::decode(&request.body)
                .map_err(|_| unreadable())
                .and_then(|enrol| self.0.enrol(&enrol, &request.connection))
                .map(|accept| accept.encode().into()),
            _ => Err(unreadable()),
        };
        Box::pin(std::future::ready(answer))
    }
}

fn bundle(authority: &Authority) -> SiteBundle {
    SiteBundle {
        site: authority.site().clone(),
        ca: Blob(authority.certificate().to_vec()),
        addresses: vec!["127.0.0.1:7000".into()],
        country: "DE".into(),
        version: BUNDLE_VERSION,
    }
}

/// Berlin with an inviting controller, and giga, which wants to join.
struct World {
    server: Endpoint,
    inviter: Arc<Inviter>,
    clock: Arc<TestClock>,
    giga: Site,
    joiner: Endpoint,
}

fn world() -> World {
    let (env, clock) = env_with_clock();
    let berlin = Site::with_env(env, "berlin");
    let inviter = Arc::new(Inviter {
        env: berlin.env.clone(),
        authority: berlin.authority.clone(),
        bundle: bundle(&berlin.authority),
        records: Mutex::default(),
    });
    let credentials = berlin.credentials(&controller("berlin", 1));
    let server = berlin.bind(Some(credentials), Arc::new(Front(inviter.clone())));
    let giga = Site::new("giga");
    let joiner = giga.ask(&controller("giga", 1));
    World { server, inviter, clock, giga, joiner }
}

impl World {
    fn invite(&self, kind: TokenKind, bound: Option<&str>) -> Token {
        let inviter = &self.inviter;
        let expires = Timestamp(inviter.env.clock.wall().0 + 3_600_000);
        let token = redeem::mint(
            &inviter.env,
            kind,
            &inviter.authority,
            vec![self.server.local_address().to_string()],
            expires,
            bound.map(Into::into),
        );
        let key = redeem::token_key(&inviter.env.crypto, &token.secret);
        let record = Record { key, bound: token.bound.clone(), expires, used: false };
        inviter.records.lock().expect("no test panics with it").insert(token.id, record);
        // What the joiner has is what was printed.
        Token::parse_as(kind, &token.to_text()).expect("a token")
    }

    async fn dial(&self, token: &Token) -> Connection {
        let address = self.server.local_address();
        self.joiner.connect(address, Expect::Pin(token.pin)).await.expect("a connection")
    }

    fn request(&self, token: &Token, connection: &Connection) -> JoinRequest {
        let (env, authority) = (&self.giga.env, &self.giga.authority);
        let exporter = connection.exporter();
        redeem::join_request(&env.crypto, token, &exporter, authority, &bundle(authority))
            .expect("a request")
    }

    /// Sends a request and checks the answer.
    async fn send(
        &self,
        token: &Token,
        connection: &Connection,
        request: &JoinRequest,
    ) -> Result<SiteBundle, CallError> {
        let answer = connection.call(Method::JoinRedeem, request.encode(), None).await?;
        let accept = JoinAccept::decode(&answer).expect("an answer");
        let crypto = &self.giga.env.crypto;
        let (exporter, joiner) = (connection.exporter(), site("giga"));
        let checked = redeem::check_accepted(crypto, token, &exporter, &joiner, request, &accept);
        Ok(checked.expect("an answer of the inviter"))
    }

    async fn join(&self, token: &Token) -> Result<SiteBundle, CallError> {
        let connection = self.dial(token).await;
        let request = self.request(token, &connection);
        self.send(token, &connection, &request).await
    }
}

fn code<T: std::fmt::Debug>(outcome: Result<T, CallError>) -> FaultCode {
    outcome.expect_err("it was taken").into_fault().code
}

#[tokio::test]
async fn a_good_token_joins_once_and_then_the_sites_trust_each_other() {
    let world = world();
    let token = world.invite(TokenKind::Invite, Some("giga"));
    let inviter = world.join(&token).await.unwrap();
    assert_eq!(inviter, world.inviter.bundle);
    // Both sides now do what their agreed records say.
    world.giga.trust.trust(&inviter.site, &inviter.ca.0).unwrap();
    world.server.trust().trust(&site("giga"), world.giga.authority.certificate()).unwrap();
    let address = world.server.local_address();
    let connection = world.joiner.connect(address, expect_controller("berlin")).await.unwrap();
    assert_eq!(connection.peer(), &controller("berlin", 1));

    assert_eq!(code(world.join(&token).await), FaultCode::TokenUsed);
}

#[tokio::test]
async fn someone_in_the_middle_with_another_authority_is_found() {
    let world = world();
    let token = world.invite(TokenKind::Invite, None);
    let middle = Site::new("berlin");
    let server = middle.bind(
        Some(middle.credentials(&controller("berlin", 1))),
        Arc::new(Front(world.inviter.clone())),
    );
    let pin = Expect::Pin(token.pin);
    let error = world.joiner.connect(server.local_address(), pin).await.unwrap_err();
    assert!(error.to_string().contains("pinned key"), "{error}");
}

#[tokio::test]
async fn wrong_proofs_are_refused_and_do_not_use_the_token_up() {
    let world = world();
    let token = world.invite(TokenKind::Invite, Some("giga"));
    let connection = world.dial(&token).await;
    let good = world.request(&token, &connection);

    // The bundle is swapped in flight.
    let other = Site::new("giga");
    let mut swapped = good.clone();
    swapped.bundle = Blob(bundle(&other.authority).encode());
    assert_eq!(code(world.send(&token, &connection, &swapped).await), FaultCode::TokenInvalid);

    // The proof was made on another connection.
    let elsewhere = world.request(&token, &world.dial(&token).await);
    assert_eq!(code(world.send(&token, &connection, &elsewhere).await), FaultCode::TokenInvalid);

    // The secret is guessed.
    let mut guessed = token.clone();
    guessed.secret.0[0] ^= 1;
    let request = world.request(&guessed, &connection);
    assert_eq!(code(world.send(&token, &connection, &request).await), FaultCode::TokenInvalid);

    // The token is unknown: the same words as for a wrong secret.
    let mut unknown = token.clone();
    unknown.id = TokenId(1);
    let request = world.request(&unknown, &connection);
    let fault = world.send(&token, &connection, &request).await.unwrap_err().into_fault();
    assert_eq!((fault.code, &*fault.message), (FaultCode::TokenInvalid, "the token is not valid"));

    // Another site has got hold of the token.
    let exporter = connection.exporter();
    let thief = Site::new("thief");
    let request = redeem::join_request(
        &thief.env.crypto,
        &token,
        &exporter,
        &thief.authority,
        &bundle(&thief.authority),
    )
    .unwrap();
    assert_eq!(code(world.send(&token, &connection, &request).await), FaultCode::TokenInvalid);

    // One registers an authority without its key.
    let mut unsigned = good.clone();
    unsigned.signature.0.reverse();
    assert_eq!(code(world.send(&token, &connection, &unsigned).await), FaultCode::InvalidArgument);

    // None of it burned the token.
    world.send(&token, &connection, &good).await.unwrap();
}

#[tokio::test]
async fn an_authority_must_be_the_bundles_own_and_sign_it() {
    let world = world();
    let token = world.invite(TokenKind::Invite, Some("giga"));
    let connection = world.dial(&token).await;
    let (crypto, exporter) = (&world.giga.env.crypto, connection.exporter());
    // A holder of the token registers berlin's authority under giga's name.
    let mut claimed = bundle(&world.giga.authority);
    claimed.ca = world.inviter.bundle.ca.clone();
    let request =
        redeem::join_request(crypto, &token, &exporter, &world.giga.authority, &claimed).unwrap();
    assert_eq!(code(world.send(&token, &connection, &request).await), FaultCode::InvalidArgument);
    // Or an authority of another name, whose key it has.
    let evil = Site::new("evil");
    let mut renamed = bundle(&evil.authority);
    renamed.site = site("giga");
    let request =
        redeem::join_request(crypto, &token, &exporter, &evil.authority, &renamed).unwrap();
    assert_eq!(code(world.send(&token, &connection, &request).await), FaultCode::InvalidArgument);
    // Or another giga's authority, whose key it does not have.
    claimed.ca = Blob(Site::new("giga").authority.certificate().to_vec());
    let request =
        redeem::join_request(crypto, &token, &exporter, &world.giga.authority, &claimed).unwrap();
    assert_eq!(code(world.send(&token, &connection, &request).await), FaultCode::InvalidArgument);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = world();
    let token = world.invite(TokenKind::Invite, None);
    world.clock.advance(Millis(3_600_000));
    assert_eq!(code(world.join(&token).await), FaultCode::TokenExpired);
}

#[tokio::test]
async fn an_answer_that_was_changed_or_belongs_to_another_site_is_not_taken() {
    let world = world();
    let token = world.invite(TokenKind::Invite, None);
    let connection = world.dial(&token).await;
    let (crypto, exporter) = (&world.giga.env.crypto, connection.exporter());
    let request = world.request(&token, &connection);
    let key = redeem::token_key(crypto, &token.secret);
    let (joiner, own) = (site("giga"), &world.inviter.bundle);
    let good = redeem::join_accept(crypto, &key, &exporter, &joiner, &request, own);
    let check = |accept: &JoinAccept| {
        redeem::check_accepted(crypto, &token, &exporter, &joiner, &request, accept)
    };
    assert_eq!(check(&good).as_ref(), Ok(own));
    let mut changed = good.clone();
    changed.bundle = Blob(bundle(&Site::new("berlin").authority).encode());
    assert_eq!(check(&changed), Err(RedeemError::Proof));
    // One who holds the token, but is not the pinned site.
    let other = bundle(&Site::new("berlin").authority);
    let accept = redeem::join_accept(crypto, &key, &exporter, &joiner, &request, &other);
    assert_eq!(check(&accept), Err(RedeemError::Pin));
    let other = bundle(&Site::new("evil").authority);
    let accept = redeem::join_accept(crypto, &key, &exporter, &joiner, &request, &other);
    assert!(matches!(check(&accept), Err(RedeemError::OtherSite { .. })));
    // A proof is not reflected: the joiner's own proof is no answer.
    let reflected = JoinAccept { bundle: request.bundle.clone(), proof: request.proof.clone() };
    assert_eq!(check(&reflected), Err(RedeemError::Proof));
}

#[tokio::test]
async fn a_node_enrols_and_becomes_an_agent() {
    let world = world();
    let token = world.invite(TokenKind::Enrol, Some("n01"));
    let machine = Site::new("machine");
    let endpoint = machine.bind(None, Arc::new(NoService));
    let address = world.server.local_address();
    let connection = endpoint.connect(address, Expect::Pin(token.pin)).await.unwrap();
    let (crypto, exporter) = (&machine.env.crypto, connection.exporter());
    let key = KeyRequest::create(&machine.env).unwrap();

    let enrol = |node: &str| {
        let node = NodeId::new(node).unwrap();
        redeem::enrol_request(crypto, &token, &exporter, &node, key.csr())
    };
    let call = |request: &EnrolRequest| {
        let (connection, body) = (connection.clone(), request.encode());
        async move { connection.call(Method::EnrolRedeem, body, None).await }
    };
    assert_eq!(code(call(&enrol("n02")).await), FaultCode::TokenInvalid);
    let mut swapped = enrol("n01");
    swapped.csr = Blob(KeyRequest::create(&machine.env).unwrap().csr().to_vec());
    assert_eq!(code(call(&swapped).await), FaultCode::TokenInvalid);

    let request = enrol("n01");
    let accept = EnrolAccept::decode(&call(&request).await.unwrap()).unwrap();
    redeem::check_enrolled(crypto, &token, &exporter, &request, &accept).unwrap();
    let mut changed = accept.clone();
    changed.controllers.push("evil:7000".into());
    let refused = redeem::check_enrolled(crypto, &token, &exporter, &request, &changed);
    assert_eq!(refused, Err(RedeemError::Proof));
    assert_eq!(code(call(&request).await), FaultCode::TokenUsed);

    machine.trust.trust(&token.site, &accept.ca.0).unwrap();
    let credentials = key.into_credentials(&accept.certificate.0, &accept.ca.0).unwrap();
    endpoint.set_credentials(&credentials).unwrap();
    endpoint.connect(address, expect_controller("berlin")).await.unwrap();
    assert!(matches!(endpoint.identity(), Identity::Agent { .. }));
}
