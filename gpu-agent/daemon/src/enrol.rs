//! Enrolment: a machine with a one-time token becomes a node. Safe to interrupt at any point and
//! to repeat: the key is kept before it is sent, and the directory counts as enrolled only once
//! `agent.toml` is written, last of all.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fabric_quic::backoff::Backoff;
use fabric_quic::endpoint::{ConnectError, Endpoint, EndpointConfig};
use fabric_quic::env::Env;
use fabric_quic::identity::Identity;
use fabric_quic::pki::{Credentials, KeyRequest, PkiError};
use fabric_quic::redeem;
use fabric_quic::service::NoService;
use fabric_quic::token::{Token, TokenKind};
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::Expect;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::id::NodeId;
use specs::unit::Millis;
use specs::wire::join::EnrolAccept;
use specs::wire::method::Method;

use crate::config::{Config, Declared};
use crate::facts::Topology;
use crate::life::Home;

/// Names of the files of a node's identity, without their endings.
const IDENTITY: &str = "agent";
const PENDING: &str = "pending";
/// How long is tried while nobody answers, or nobody leads.
const TRY_SPAN: Millis = Millis(15_000);
const RETRY: Backoff = Backoff { base: Millis(200), cap: Millis(2_000) };
/// How long before its end a certificate is warned of.
const EXPIRY_NOTICE: Millis = Millis(14 * 24 * 3_600_000);

/// Reads the text of an enrolment token.
///
/// # Errors
/// `token-invalid`, in words for the one who typed it.
pub fn parse_token(text: &str) -> Result<Token, Fault> {
    Token::parse_as(TokenKind::Enrol, text)
        .map_err(|error| Fault::new(FaultCode::TokenInvalid, error.to_string()))
}

/// The credentials of a directory that is enrolled.
pub(crate) fn load(env: &Env, home: &Path, config: &Config) -> Result<Credentials, Fault> {
    let credentials = Credentials::load(env, &directory(home), IDENTITY).map_err(broken)?;
    let expected = identity(config);
    if *credentials.identity() != expected {
        let found = credentials.identity();
        let message = format!("the certificate is for {found}, and this node is {expected}");
        return Err(Fault::new(FaultCode::Conflict, message)
            .with_hint("agent.toml and the certificate must be of one enrolment"));
    }
    let left = Millis(credentials.not_after().0).minus(Millis(env.clock.wall().0));
    if left == Millis::ZERO {
        let message = "this node's certificate has expired";
        return Err(Fault::new(FaultCode::Forbidden, message)
            .with_hint("enrol again, with a fresh token and an empty directory"));
    }
    if left < EXPIRY_NOTICE {
        tracing::warn!(hours = left.0 / 3_600_000, "the certificate expires soon: enrol again");
    }
    Ok(credentials)
}

/// Whether a token belongs to the node and the site of a directory.
pub(crate) fn check_same(config: &Config, token: &Token) -> Result<(), Fault> {
    let node = token.bound.as_deref();
    if token.site == config.site && node.is_none_or(|node| node == config.node.as_str()) {
        return Ok(());
    }
    let message = format!(
        "the directory belongs to node {} of site {}, and the token is for {} of {}",
        config.node,
        config.site,
        node.unwrap_or("any node"),
        token.site
    );
    Err(Fault::new(FaultCode::Conflict, message)
        .with_hint("take another --dir for another node; an enrolled one needs no token"))
}

/// Redeems a token and keeps what comes of it.
pub(crate) async fn enrol(
    env: &Env,
    home: &Home,
    token: &Token,
    address: String,
    declared: Vec<Declared>,
) -> Result<Config, Fault> {
    let node = node_of(token)?;
    let directory = directory(&home.path);
    let key = pending_key(env, &directory)?;
    let accept = redeem_somewhere(env, token, &node, key.csr()).await?;
    let controllers = accept.controllers;
    let config = Config {
        site: token.site.clone(),
        node,
        controllers: if controllers.is_empty() { token.addresses.clone() } else { controllers },
        address,
        declared,
        topology: Topology::default(),
        attributes: Vec::new(),
    };
    let issued = key.into_credentials(&accept.certificate.0, &accept.ca.0);
    let credentials = issued.map_err(|error| {
        let message = format!("the certificate that came cannot be used: {error}");
        Fault::new(FaultCode::Internal, message)
    })?;
    if *credentials.identity() != identity(&config) {
        let found = credentials.identity();
        let message = format!("the certificate that came is for {found}");
        return Err(Fault::new(FaultCode::Internal, message));
    }
    credentials.save(&directory, IDENTITY).map_err(broken)?;
    home.write_first_boot()?;
    config.save(&home.path)?;
    for ending in ["key", "csr"] {
        // It is of no use any more, and does no harm.
        let _ = fs::remove_file(directory.join(format!("{PENDING}.{ending}")));
    }
    tracing::info!(site = %config.site, node = %config.node, "enrolled");
    Ok(config)
}

fn directory(home: &Path) -> PathBuf {
    home.join("identity")
}

fn identity(config: &Config) -> Identity {
    Identity::Agent { site: config.site.clone(), node: config.node.clone() }
}

fn node_of(token: &Token) -> Result<NodeId, Fault> {
    let malformed = |why: String| {
        Fault::new(FaultCode::TokenInvalid, why).with_hint("ask for another token for this node")
    };
    let bound = token.bound.as_deref();
    let bound = bound.ok_or_else(|| malformed("the token does not say which node it is".into()))?;
    NodeId::new(bound).map_err(|error| malformed(error.to_string()))
}

/// The key of an enrolment that was interrupted, or a new one; on disk before anybody hears of it.
fn pending_key(env: &Env, directory: &Path) -> Result<KeyRequest, Fault> {
    if directory.join(format!("{PENDING}.csr")).exists() {
        return KeyRequest::load(env, directory, PENDING).map_err(broken);
    }
    let key = KeyRequest::create(env).map_err(broken)?;
    key.save(directory, PENDING).map_err(broken)?;
    Ok(key)
}

async fn redeem_somewhere(
    env: &Env,
    token: &Token,
    node: &NodeId,
    csr: &[u8],
) -> Result<EnrolAccept, Fault> {
    let begun = env.clock.now();
    let mut attempt = 0;
    loop {
        let mut fault = Fault::new(FaultCode::Unreachable, "no controller's name has an address");
        for address in addresses(env, token).await {
            match redeem_at(env, token, node, csr, address).await {
                Ok(accept) => return Ok(accept),
                Err(error) if error.code.is_retryable() => fault = error,
                Err(error) => return Err(error),
            }
        }
        if env.clock.now().since(begun) >= TRY_SPAN {
            return Err(explain(env, token, fault));
        }
        tracing::info!(%fault, "trying again");
        env.sleep(RETRY.delay(attempt, env.random_u64())).await;
        attempt += 1;
    }
}

async fn addresses(env: &Env, token: &Token) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for address in &token.addresses {
        match env.sockets.resolve(address).await {
            Ok(resolved) => found.extend(resolved),
            Err(error) => tracing::warn!(address, %error, "cannot find a controller"),
        }
    }
    found
}

async fn redeem_at(
    env: &Env,
    token: &Token,
    node: &NodeId,
    csr: &[u8],
    address: SocketAddr,
) -> Result<EnrolAccept, Fault> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let config =
        EndpointConfig { listen: any, credentials: None, trust: Arc::new(TrustStore::new()) };
    let endpoint = Endpoint::bind(env, config, Arc::new(NoService))
        .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
    let connected = endpoint.connect(address, Expect::Pin(token.pin)).await;
    let connection = connected.map_err(|error| {
        let ConnectError::Untrusted(refusal) = &error else { return error.into_fault(address) };
        let message = format!("{address} is not the site that the token is from: {refusal}");
        Fault::new(FaultCode::TokenInvalid, message)
            .with_hint("ask the site's operator for a fresh token")
    })?;
    let exporter = connection.exporter();
    let request = redeem::enrol_request(&env.crypto, token, &exporter, node, csr);
    let answer = connection.call(Method::EnrolRedeem, request.encode(), None).await;
    let answer = answer.map_err(|error| hinted(error.into_fault()))?;
    let accept = EnrolAccept::decode(&answer).map_err(|error| {
        Fault::new(FaultCode::Internal, format!("the answer makes no sense: {error}"))
    })?;
    redeem::check_enrolled(&env.crypto, token, &exporter, &request, &accept)
        .map_err(|error| Fault::new(FaultCode::TokenInvalid, error.to_string()))?;
    endpoint.shutdown("enrolled").await;
    Ok(accept)
}

/// Says what to do about a token that was not taken.
fn hinted(fault: Fault) -> Fault {
    let of_token = matches!(
        fault.code,
        FaultCode::TokenExpired | FaultCode::TokenUsed | FaultCode::TokenInvalid
    );
    if of_token && fault.hint.is_empty() {
        return fault.with_hint("make another: federation node enroll NODE");
    }
    fault
}

/// If nobody answers, the token's own date may be why.
fn explain(env: &Env, token: &Token, fault: Fault) -> Fault {
    if env.clock.wall() <= token.expires {
        return fault;
    }
    let message = format!("the token has expired, and no controller answers: {}", fault.message);
    hinted(Fault::new(FaultCode::TokenExpired, message))
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn broken(error: PkiError) -> Fault {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    Fault::new(FaultCode::Internal, message)
}
