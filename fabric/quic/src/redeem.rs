//! Redeeming a token: what each side makes and checks. The secret never travels; a MAC over the
//! connection's exporter and all that is exchanged does, under a key derived from it.
//!
//! ```text
//!   joiner                                     inviter
//!   join_request ──bundle, proof, signature──▶ check_join, then the terms, then its own records
//!   check_accepted ◀──────bundle, proof─────── join_accept
//! ```
//!
//! A wrong proof tells nothing of the token and does not use it up. That a token is used once is
//! for the inviter's records: they are agreed by its site, and this module keeps nothing.

use fabric_core::join::{self, Exporter, TOKEN_KEY_LABEL};
use fabric_core::token::{Secret, Token, TokenKind};
use fabric_core::trust::Refusal;
use specs::codec::{Blob, Message};
use specs::fault::{Fault, FaultCode};
use specs::id::{NodeId, SiteId, TokenId};
use specs::unit::Timestamp;
use specs::wire::join::{
    ADDRESSES_MAX, EnrolAccept, EnrolRequest, JoinAccept, JoinRequest, SiteBundle,
};

use crate::certificate;
use crate::crypto::Crypto;
use crate::env::Env;
use crate::pki::{Authority, PkiError};

/// What an inviter keeps of a token's secret.
pub type TokenKey = [u8; 32];

/// Why an answer to a redeemed token is not taken. Nothing was agreed by this side then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedeemError {
    #[error("the other side does not hold the token, or its answer was changed on the way")]
    Proof,
    #[error("the other side's answer makes no sense")]
    Malformed,
    #[error("the other side is site {found}, but the token was made by {expected}")]
    OtherSite { found: SiteId, expected: SiteId },
    #[error("the other side's authority is not the one the token pins")]
    Pin,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Makes a token of this site.
#[must_use]
pub fn mint(
    env: &Env,
    kind: TokenKind,
    authority: &Authority,
    addresses: Vec<String>,
    expires: Timestamp,
    bound: Option<String>,
) -> Token {
    Token {
        kind,
        id: TokenId(env.random_u128()),
        secret: Secret(env.random_bytes()),
        site: authority.site().clone(),
        pin: authority.pin(),
        addresses,
        expires,
        bound,
    }
}

/// The key that both sides prove with, and all that the inviter needs to keep.
#[must_use]
pub fn token_key(crypto: &Crypto, secret: &Secret) -> TokenKey {
    crypto.hmac(&secret.0, TOKEN_KEY_LABEL)
}

/// What a joining site asks with.
///
/// # Errors
/// The authority cannot sign.
pub fn join_request(
    crypto: &Crypto,
    token: &Token,
    exporter: &Exporter,
    authority: &Authority,
    bundle: &SiteBundle,
) -> Result<JoinRequest, PkiError> {
    let key = token_key(crypto, &token.secret);
    let bytes = bundle.encode();
    let proof = crypto.hmac(&key, &join::join_request(exporter, &bundle.site, &bytes));
    let signature = authority.sign(&join::join_signature(exporter, &bytes))?;
    Ok(JoinRequest {
        token: token.id,
        bundle: Blob(bytes),
        proof: Blob(proof.to_vec()),
        signature: Blob(signature),
    })
}

/// The bundle of a site that holds the token, and the key of the authority that it names. Then
/// come [`join::check_terms`] and the inviter's records.
///
/// # Errors
/// `token-invalid` for a wrong proof, `invalid-argument` for a bundle that is not sound.
pub fn check_join(
    crypto: &Crypto,
    key: &TokenKey,
    exporter: &Exporter,
    request: &JoinRequest,
) -> Result<SiteBundle, Fault> {
    let bundle = SiteBundle::decode(&request.bundle.0).map_err(|_| wrong_token())?;
    let proved = join::join_request(exporter, &bundle.site, &request.bundle.0);
    if !crypto.hmac_matches(key, &proved, &request.proof.0) {
        return Err(wrong_token());
    }
    check_bundle(&bundle).map_err(|refusal| unsound(&refusal.to_string()))?;
    let spki =
        certificate::public_key(&bundle.ca.0).map_err(|error| unsound(&error.to_string()))?;
    let signed = join::join_signature(exporter, &request.bundle.0);
    if !crypto.signature_matches(&spki, &signed, &request.signature.0) {
        return Err(unsound("its authority did not sign it"));
    }
    Ok(bundle)
}

/// The inviter's answer, once its site has agreed.
#[must_use]
pub fn join_accept(
    crypto: &Crypto,
    key: &TokenKey,
    exporter: &Exporter,
    joiner: &SiteId,
    request: &JoinRequest,
    own: &SiteBundle,
) -> JoinAccept {
    let bytes = own.encode();
    let proved = join::join_accept(exporter, joiner, &request.bundle.0, &bytes);
    JoinAccept { proof: Blob(crypto.hmac(key, &proved).to_vec()), bundle: Blob(bytes) }
}

/// The bundle of the site that the token pins.
///
/// # Errors
/// Anyone else's answer.
pub fn check_accepted(
    crypto: &Crypto,
    token: &Token,
    exporter: &Exporter,
    joiner: &SiteId,
    request: &JoinRequest,
    accept: &JoinAccept,
) -> Result<SiteBundle, RedeemError> {
    let key = token_key(crypto, &token.secret);
    let proved = join::join_accept(exporter, joiner, &request.bundle.0, &accept.bundle.0);
    if !crypto.hmac_matches(&key, &proved, &accept.proof.0) {
        return Err(RedeemError::Proof);
    }
    let bundle = SiteBundle::decode(&accept.bundle.0).map_err(|_| RedeemError::Malformed)?;
    check_bundle(&bundle)?;
    check_pinned(crypto, token, &bundle.site, &bundle.ca.0)?;
    Ok(bundle)
}

/// What an enrolling node asks with.
#[must_use]
pub fn enrol_request(
    crypto: &Crypto,
    token: &Token,
    exporter: &Exporter,
    node: &NodeId,
    csr: &[u8],
) -> EnrolRequest {
    let key = token_key(crypto, &token.secret);
    let proof = crypto.hmac(&key, &join::enrol_request(exporter, node, csr));
    EnrolRequest {
        token: token.id,
        node: node.clone(),
        csr: Blob(csr.to_vec()),
        proof: Blob(proof.to_vec()),
    }
}

/// Whether the one who asks holds the token. Then come [`join::check_terms`] and the site's
/// records.
///
/// # Errors
/// `token-invalid`.
pub fn check_enrol(
    crypto: &Crypto,
    key: &TokenKey,
    exporter: &Exporter,
    request: &EnrolRequest,
) -> Result<(), Fault> {
    let proved = join::enrol_request(exporter, &request.node, &request.csr.0);
    if crypto.hmac_matches(key, &proved, &request.proof.0) { Ok(()) } else { Err(wrong_token()) }
}

/// The site's answer to a node, once it has agreed and issued `certificate`.
#[must_use]
pub fn enrol_accept(
    crypto: &Crypto,
    key: &TokenKey,
    exporter: &Exporter,
    request: &EnrolRequest,
    certificate: &[u8],
    ca: &[u8],
    controllers: &[String],
) -> EnrolAccept {
    let proved =
        join::enrol_accept(exporter, &request.node, &request.csr.0, certificate, ca, controllers);
    EnrolAccept {
        certificate: Blob(certificate.to_vec()),
        ca: Blob(ca.to_vec()),
        controllers: controllers.to_vec(),
        proof: Blob(crypto.hmac(key, &proved).to_vec()),
    }
}

/// Whether an answer comes from the site that the token pins.
///
/// # Errors
/// Anyone else's answer.
pub fn check_enrolled(
    crypto: &Crypto,
    token: &Token,
    exporter: &Exporter,
    request: &EnrolRequest,
    accept: &EnrolAccept,
) -> Result<(), RedeemError> {
    let key = token_key(crypto, &token.secret);
    let proved = join::enrol_accept(
        exporter,
        &request.node,
        &request.csr.0,
        &accept.certificate.0,
        &accept.ca.0,
        &accept.controllers,
    );
    if !crypto.hmac_matches(&key, &proved, &accept.proof.0) {
        return Err(RedeemError::Proof);
    }
    let site = certificate::authority_of(&accept.ca.0)?;
    check_pinned(crypto, token, &site, &accept.ca.0)
}

fn check_bundle(bundle: &SiteBundle) -> Result<(), Refusal> {
    let named = certificate::authority_of(&bundle.ca.0)?;
    if named != bundle.site {
        let found = named.to_string();
        return Err(Refusal::OtherAuthority { found, expected: bundle.site.clone() });
    }
    if bundle.addresses.is_empty() || bundle.addresses.len() > ADDRESSES_MAX {
        return Err(Refusal::Unreadable);
    }
    Ok(())
}

fn check_pinned(
    crypto: &Crypto,
    token: &Token,
    site: &SiteId,
    ca: &[u8],
) -> Result<(), RedeemError> {
    if *site != token.site {
        let (found, expected) = (site.clone(), token.site.clone());
        return Err(RedeemError::OtherSite { found, expected });
    }
    if certificate::pin(crypto, ca)? != token.pin {
        return Err(RedeemError::Pin);
    }
    Ok(())
}

/// One text for all that is wrong with a proof: whoever guesses learns nothing.
fn wrong_token() -> Fault {
    Fault::new(FaultCode::TokenInvalid, "the token is not valid")
}

fn unsound(why: &str) -> Fault {
    Fault::new(FaultCode::InvalidArgument, format!("the bundle is not sound: {why}"))
}
