//! Who is at the other end: one verifier for both sides of a handshake.
//!
//! In this order: the leaf is read and must name exactly one process; its site must be trusted
//! and its serial not denied; its path must end at *that* site's authority and no other, for the
//! right usage and at this time; and the one who dials must find whom it expects. Names of hosts
//! play no part.

use std::fmt;
use std::sync::{Arc, OnceLock};

use fabric_core::identity::{Identity, Role};
use fabric_core::trust::{Refusal, identify};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::verify_tls13_signature;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    PeerIncompatible, SignatureScheme,
};
use specs::id::{ControllerId, NodeId, SiteId};
use specs::unit::Timestamp;
use webpki::{EndEntityCert, KeyUsage};

use crate::certificate;
use crate::crypto::{Crypto, SCHEMES, unix_time};
use crate::trust::{Anchor, Trust, TrustStore};

/// Whom the one who dials expects to find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expect {
    /// Any controller of a site.
    Controller { site: SiteId },
    /// One member of a site's group.
    Member { site: SiteId, id: ControllerId },
    /// The agent of one node.
    Agent { site: SiteId, node: NodeId },
    /// A controller whose authority's public key has this SHA-256: what a token pins. Nothing else
    /// is trusted, and no certificate is shown to the other side, which need not know ours.
    Pin([u8; 32]),
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Controller { site } => write!(f, "a controller of {site}"),
            Self::Member { site, id } => write!(f, "controller {id} of {site}"),
            Self::Agent { site, node } => write!(f, "the agent of {node} in {site}"),
            Self::Pin(_) => write!(f, "a controller of the token's site"),
        }
    }
}

impl Expect {
    fn check(&self, found: &Identity) -> Result<(), Refusal> {
        let fits = match (self, found) {
            (Self::Controller { site }, Identity::Controller { site: at, .. }) => site == at,
            (Self::Member { site, id }, Identity::Controller { site: at, id: who }) => {
                site == at && id == who
            }
            (Self::Agent { site, node }, Identity::Agent { site: at, node: who }) => {
                site == at && node == who
            }
            (Self::Pin(_), other) => other.role() == Role::Controller,
            (
                Self::Controller { .. } | Self::Member { .. } | Self::Agent { .. },
                Identity::Controller { .. }
                | Identity::Agent { .. }
                | Identity::User { .. }
                | Identity::Anonymous,
            ) => false,
        };
        if fits {
            return Ok(());
        }
        Err(Refusal::Unexpected { found: found.to_string(), expected: self.to_string() })
    }
}

/// Which side of the handshake the one who is verified stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// The identity of the one who showed `chain`, leaf first.
pub(crate) fn verify_chain(
    crypto: &Crypto,
    trust: &Trust,
    chain: &[CertificateDer<'_>],
    usage: Usage,
    expect: Option<&Expect>,
    now: UnixTime,
) -> Result<Identity, Refusal> {
    let (leaf, rest) = chain.split_first().ok_or(Refusal::Missing)?;
    let facts = certificate::inspect(leaf)?;
    let identity = identify(&facts)?;
    let site = identity.site().ok_or(Refusal::Missing)?;
    if trust.denied.is_denied(site, &facts.serial) {
        return Err(Refusal::Denied);
    }
    let anchor = match expect {
        Some(Expect::Pin(pin)) => pinned_anchor(crypto, rest, pin, site)?,
        Some(Expect::Controller { .. } | Expect::Member { .. } | Expect::Agent { .. }) | None => {
            trust.anchor(site)?.clone()
        }
    };
    verify_path(crypto, leaf, rest, &anchor, usage, now)?;
    if let Some(expect) = expect {
        expect.check(&identity)?;
    }
    Ok(identity)
}

/// Who signed a statement, going by a certificate that came with it. The certificate must be one
/// that would be let in at this time.
///
/// # Errors
/// The certificate is not trusted, or its key did not sign this.
pub fn signer(
    crypto: &Crypto,
    trust: &TrustStore,
    now: Timestamp,
    certificate: &[u8],
    statement: &[u8],
    signature: &[u8],
) -> Result<Identity, Refusal> {
    let chain = [CertificateDer::from(certificate)];
    let trust = trust.current();
    let identity = verify_chain(crypto, &trust, &chain, Usage::Client, None, unix_time(now))?;
    let key = certificate::public_key(certificate)?;
    if !crypto.signature_matches(&key, statement, signature) {
        return Err(Refusal::Signature);
    }
    Ok(identity)
}

/// The authority in a chain that a token pins; it must be that of the leaf's own site.
fn pinned_anchor(
    crypto: &Crypto,
    rest: &[CertificateDer<'_>],
    pin: &[u8; 32],
    site: &SiteId,
) -> Result<Anchor, Refusal> {
    let authority = certificate::find_pinned(crypto, rest, pin)?;
    let named = certificate::authority_of(authority)?;
    if named != *site {
        let found = named.to_string();
        return Err(Refusal::OtherAuthority { found, expected: site.clone() });
    }
    Anchor::new(authority)
}

fn verify_path(
    crypto: &Crypto,
    leaf: &CertificateDer<'_>,
    rest: &[CertificateDer<'_>],
    anchor: &Anchor,
    usage: Usage,
    now: UnixTime,
) -> Result<(), Refusal> {
    let end = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Unreadable)?;
    let usage = match usage {
        Usage::Server => KeyUsage::server_auth(),
        Usage::Client => KeyUsage::client_auth(),
    };
    let algorithms = crypto.provider().signature_verification_algorithms.all;
    let anchors = std::slice::from_ref(&anchor.anchor);
    end.verify_for_usage(algorithms, anchors, rest, now, usage, None, None)
        .map(drop)
        .map_err(|error| Refusal::Path(path_error(&error)))
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library adds variants with its versions")]
fn path_error(error: &webpki::Error) -> String {
    match error {
        webpki::Error::CertExpired { .. } => "it has expired".into(),
        webpki::Error::CertNotValidYet { .. } => "it is not valid yet".into(),
        webpki::Error::UnknownIssuer => "its site's authority did not sign it".into(),
        other => other.to_string(),
    }
}

/// A refusal whose debug text is its text: rustls sends that to the other side, for its log.
struct Told(Refusal);

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Told {}

/// What rustls wraps around a refusal.
const TOLD: (&str, &str) = ("invalid peer certificate: Other(OtherError(", "))");

/// The refusal in the words of the other side's verifier, without what is wrapped around it.
pub(crate) fn unwrap_told(reason: &str) -> &str {
    let inner = reason.strip_prefix(TOLD.0).and_then(|rest| rest.strip_suffix(TOLD.1));
    inner.unwrap_or(reason)
}

/// Implements both of rustls' traits.
#[derive(Debug)]
pub(crate) struct Verifier {
    crypto: Arc<Crypto>,
    trust: Arc<TrustStore>,
    expect: Option<Expect>,
    /// Why a server was refused, for the one who dialed it.
    refusal: Arc<OnceLock<Refusal>>,
}

impl Verifier {
    /// Judges those who dial in.
    pub(crate) fn of_clients(crypto: Arc<Crypto>, trust: Arc<TrustStore>) -> Self {
        Self { crypto, trust, expect: None, refusal: Arc::default() }
    }

    /// Judges the one who is dialed.
    pub(crate) fn of_server(crypto: Arc<Crypto>, trust: Arc<TrustStore>, expect: Expect) -> Self {
        Self { crypto, trust, expect: Some(expect), refusal: Arc::default() }
    }

    /// Filled once the verifier refuses.
    pub(crate) fn refusal(&self) -> Arc<OnceLock<Refusal>> {
        self.refusal.clone()
    }

    fn judge(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        usage: Usage,
        now: UnixTime,
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> =
            std::iter::once(leaf).chain(rest).map(|der| CertificateDer::from(&**der)).collect();
        let trust = self.trust.current();
        let expect = self.expect.as_ref();
        match verify_chain(&self.crypto, &trust, &chain, usage, expect, now) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                self.refusal.get_or_init(|| refusal.clone());
                let other = OtherError(Arc::new(Told(refusal)));
                Err(Error::InvalidCertificate(CertificateError::Other(other)))
            }
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.crypto.provider().signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Server, now)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl ClientCertVerifier for Verifier {
    /// Whoever holds a token has no certificate yet, so that none is demanded.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.judge(end_entity, intermediates, Usage::Client, now)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use fabric_core::identity::authority_uri;
    use rcgen::{
        BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    };

    use super::*;
    use crate::crypto::unix_time;
    use crate::env::Env;

    /// A chain of a leaf of `leaf_site` under an authority of `authority_site`.
    fn chain(authority_site: &str, leaf_site: &str) -> [CertificateDer<'static>; 2] {
        let [ca_key, key] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let site = SiteId::new(authority_site).unwrap();
        let name = |uri: &str| vec![SanType::URI(uri.try_into().unwrap())];
        let mut ca = CertificateParams::default();
        ca.subject_alt_names = name(&authority_uri(&site));
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let mut leaf = CertificateParams::default();
        leaf.subject_alt_names = name(&format!("spiffe://{leaf_site}/controller/1"));
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let signed = leaf.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
        [signed.der().clone(), ca.self_signed(&ca_key).unwrap().der().clone()]
    }

    fn verify_pinned(chain: &[CertificateDer<'static>]) -> Result<Identity, Refusal> {
        let env = Env::system();
        let pin = Expect::Pin(certificate::pin(&env.crypto, &chain[1]).unwrap());
        let now = unix_time(env.clock.wall());
        verify_chain(&env.crypto, &Trust::default(), chain, Usage::Server, Some(&pin), now)
    }

    #[test]
    fn a_pinned_authority_speaks_for_its_own_site_alone() {
        assert!(verify_pinned(&chain("berlin", "berlin")).is_ok());
        let refusal = verify_pinned(&chain("berlin", "giga")).unwrap_err();
        assert!(matches!(refusal, Refusal::OtherAuthority { .. }), "{refusal}");
    }

    #[test]
    fn without_a_certificate_nobody_is_recognised() {
        let env = Env::system();
        let now = unix_time(env.clock.wall());
        let verdict = verify_chain(&env.crypto, &Trust::default(), &[], Usage::Client, None, now);
        assert_eq!(verdict, Err(Refusal::Missing));
    }
}
