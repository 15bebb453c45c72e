//! One-time tokens: made for an operator, redeemed by whoever holds them.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::connection::{CallError, Connection};
use fabric_quic::identity::Identity;
use fabric_quic::redeem;
use fabric_quic::token::{Token, TokenKind};
use fabric_quic::verify::Expect;
use federation_core::{
    AcceptNode, AcceptPeer, AddPeer, Command, OpenToken, PeerRecord, State, TokenKind as AgreedKind,
};
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::{SiteId, TokenId};
use specs::unit::Millis;
use specs::wire::client::{NodeEnroll, SiteInvite, SiteJoin, SiteJoined, TokenIssued};
use specs::wire::join::{
    ADDRESSES_MAX, BUNDLE_VERSION, EnrolRequest, JoinAccept, JoinRequest, SiteBundle,
};
use specs::wire::method::Method;

use crate::service::{Asked, decode, encode};
use crate::shared::Shared;

/// Longest life of a token.
const TTL_MAX: Millis = Millis(7 * 24 * 3_600_000);
/// How long one controller of the other site may take to redeem a token.
const REDEEM_DEADLINE: Millis = Millis(5_000);
/// How long all of them together may take: less than a user's command waits.
const REDEEM_MAX: Millis = Millis(9_000);

fn addresses(state: &State) -> Vec<String> {
    state.controllers.values().map(|it| it.address.clone()).take(ADDRESSES_MAX).collect()
}

/// Makes a token and agrees on it; only its key is kept.
async fn issue(
    shared: &Arc<Shared>,
    kind: TokenKind,
    bound: Option<String>,
    ttl: Millis,
) -> Result<Bytes, Fault> {
    if ttl == Millis::ZERO || ttl > TTL_MAX {
        let message = format!("a token lives between 1 ms and {} h", TTL_MAX.0 / 3_600_000);
        return Err(Fault::new(FaultCode::InvalidArgument, message));
    }
    let state = shared.confirm().await?;
    let expires_at = shared.env.clock.wall().plus(specs::unit::Timestamp(ttl.0));
    let token = redeem::mint(
        &shared.env,
        kind,
        &shared.authority,
        addresses(&state),
        expires_at,
        bound.clone(),
    );
    let key = redeem::token_key(&shared.env.crypto, &token.secret);
    let agreed = match kind {
        TokenKind::Invite => AgreedKind::Invite,
        TokenKind::Enrol => AgreedKind::Enrol,
    };
    shared
        .propose(Command::OpenToken(OpenToken {
            token: token.id,
            kind: agreed,
            key: Blob(key.to_vec()),
            bound: bound.unwrap_or_default(),
            expires_at,
        }))
        .await?;
    Ok(encode(&TokenIssued { token: token.to_text(), expires_at }))
}

pub(crate) async fn invite(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let SiteInvite { peer, ttl } = decode(asked)?;
    issue(shared, TokenKind::Invite, peer.map(|peer| peer.to_string()), ttl).await
}

pub(crate) async fn enroll(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let NodeEnroll { node, ttl } = decode(asked)?;
    issue(shared, TokenKind::Enrol, Some(node.to_string()), ttl).await
}

fn key_of(state: &State, token: TokenId) -> Result<redeem::TokenKey, Fault> {
    let key = state.tokens.get(&token).and_then(|token| token.key.0.clone().try_into().ok());
    key.ok_or_else(|| Fault::new(FaultCode::TokenInvalid, "the token is not valid"))
}

fn digest(shared: &Shared, bytes: &[u8]) -> Blob {
    Blob(shared.env.crypto.sha256(bytes).to_vec())
}

/// As the inviter: a site redeems an invitation.
pub(crate) async fn redeem_join(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let request: JoinRequest = decode(asked)?;
    let state = shared.confirm().await?;
    let key = key_of(&state, request.token)?;
    let crypto = &shared.env.crypto;
    let theirs = redeem::check_join(crypto, &key, &asked.exporter, &request)?;
    shared
        .propose(Command::AcceptPeer(AcceptPeer {
            token: request.token,
            digest: digest(shared, &theirs.ca.0),
            peer: record(&theirs)?,
            at: shared.env.clock.wall(),
        }))
        .await?;
    let own = bundle(shared, &shared.group.state())?;
    tracing::info!(peer = %theirs.site, "joined");
    let accept = redeem::join_accept(crypto, &key, &asked.exporter, &theirs.site, &request, &own);
    Ok(encode(&accept))
}

fn bundle(shared: &Shared, state: &State) -> Result<SiteBundle, Fault> {
    let site = state.site.as_ref();
    let site = site.ok_or_else(|| Fault::new(FaultCode::Busy, "the site is being founded"))?;
    Ok(SiteBundle {
        site: site.site.clone(),
        ca: Blob(shared.authority.certificate().to_vec()),
        addresses: addresses(state),
        country: site.country.to_string(),
        version: BUNDLE_VERSION,
    })
}

fn record(bundle: &SiteBundle) -> Result<PeerRecord, Fault> {
    let country = bundle
        .country
        .parse()
        .map_err(|_| Fault::new(FaultCode::InvalidArgument, "the bundle names no country"))?;
    Ok(PeerRecord {
        site: bundle.site.clone(),
        country,
        ca: bundle.ca.clone(),
        addresses: bundle.addresses.clone(),
    })
}

/// A node redeems an enrolment: it gets a certificate for the key it asked with.
pub(crate) async fn redeem_enrol(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let request: EnrolRequest = decode(asked)?;
    let state = shared.confirm().await?;
    let key = key_of(&state, request.token)?;
    let crypto = &shared.env.crypto;
    redeem::check_enrol(crypto, &key, &asked.exporter, &request)?;
    let identity = Identity::Agent { site: shared.site.clone(), node: request.node.clone() };
    let certificate = shared.authority.issue(&shared.env, &identity, &request.csr.0);
    let certificate =
        certificate.map_err(|error| Fault::new(FaultCode::InvalidArgument, error.to_string()))?;
    shared
        .propose(Command::AcceptNode(AcceptNode {
            token: request.token,
            node: request.node.clone(),
            digest: digest(shared, &request.csr.0),
            at: shared.env.clock.wall(),
        }))
        .await?;
    tracing::info!(node = %request.node, "enrolled");
    let accept = redeem::enrol_accept(
        crypto,
        &key,
        &asked.exporter,
        &request,
        &certificate,
        shared.authority.certificate(),
        &addresses(&state),
    );
    Ok(encode(&accept))
}

/// As the joiner: redeems an invitation at the site that made it, then agrees on it here. Repeated
/// or interrupted anywhere, it ends in one peering.
pub(crate) async fn join(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let SiteJoin { token } = decode(asked)?;
    let token = Token::parse_as(TokenKind::Invite, token.trim()).map_err(|error| {
        Fault::new(FaultCode::TokenInvalid, error.to_string())
            .with_hint("copy the whole token that `federation invite` printed")
    })?;
    if token.site == shared.site {
        let message = format!("the token was made by {} itself", shared.site);
        return Err(Fault::new(FaultCode::Conflict, message)
            .with_hint("run `federation join` at the other site"));
    }
    let state = shared.confirm().await?;
    let repeated = state.peers.contains(&token.site);
    let own = bundle(shared, &state)?;
    let theirs = shared.env.timeout(REDEEM_MAX, redeem_at(shared, &token, &own)).await;
    let theirs = theirs.map_err(|_| {
        let message = format!("{} did not answer in {} s", token.site, REDEEM_MAX.0 / 1_000);
        Fault::new(FaultCode::Timeout, message)
            .with_hint("run the same command again: a token may be repeated by the same site")
    })??;
    shared.propose(Command::AddPeer(AddPeer { peer: record(&theirs)? })).await?;
    tracing::info!(peer = %theirs.site, "joined");
    Ok(encode(&SiteJoined { peer: theirs.site, repeated }))
}

async fn redeem_at(
    shared: &Arc<Shared>,
    token: &Token,
    own: &SiteBundle,
) -> Result<SiteBundle, Fault> {
    let mut last = Fault::new(FaultCode::TokenInvalid, "the token names no address");
    for address in &token.addresses {
        match connect(shared, token, address).await {
            Ok(connection) => {
                let result = redeem_on(shared, token, own, &connection).await;
                connection.close("redeemed");
                match result {
                    Err(fault) if fault.code.is_retryable() => last = fault,
                    other => return other,
                }
            }
            Err(fault) => last = fault,
        }
    }
    let message = format!("{} is not reached: {}", token.site, last.message);
    Err(Fault { message, ..last })
}

async fn connect(shared: &Arc<Shared>, token: &Token, address: &str) -> Result<Connection, Fault> {
    let unreachable = |why: String| Fault::new(FaultCode::Unreachable, why);
    let found = shared.env.sockets.resolve(address).await;
    let found = found.map_err(|error| unreachable(format!("{address}: {error}")))?;
    let at = *found.first().ok_or_else(|| unreachable(format!("{address} has no address")))?;
    let dialed = shared.pool.endpoint().connect(at, Expect::Pin(token.pin)).await;
    dialed.map_err(|error| error.into_fault(at))
}

async fn redeem_on(
    shared: &Arc<Shared>,
    token: &Token,
    own: &SiteBundle,
    connection: &Connection,
) -> Result<SiteBundle, Fault> {
    let crypto = &shared.env.crypto;
    let exporter = connection.exporter();
    let request = redeem::join_request(crypto, token, &exporter, &shared.authority, own)
        .map_err(|error| Fault::new(FaultCode::Internal, error.to_string()))?;
    let answer = connection.call(Method::JoinRedeem, request.encode(), Some(REDEEM_DEADLINE)).await;
    let answer = answer.map_err(CallError::into_fault)?;
    let untrue = |why: String| Fault::new(FaultCode::TokenInvalid, why);
    let accept = JoinAccept::decode(&answer).map_err(|error| untrue(error.to_string()))?;
    let joiner: &SiteId = &own.site;
    redeem::check_accepted(crypto, token, &exporter, joiner, &request, &accept)
        .map_err(|error| untrue(error.to_string()))
}
