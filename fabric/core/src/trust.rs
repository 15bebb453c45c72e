//! From a certificate to an identity. The shell parses the certificate and checks the signatures
//! of its path; what its content must be is decided here.

use alloc::collections::BTreeSet;
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::SiteId;
use specs::unit::Timestamp;

use crate::identity::{Identity, ParseIdentityError, authority_site};

/// What the key of a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUsage {
    pub digital_signature: bool,
    pub certificate_sign: bool,
    pub crl_sign: bool,
}

/// What a certificate says, of all that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFacts {
    /// The URI names, in order.
    pub uris: Vec<String>,
    pub is_ca: bool,
    /// None if the certificate does not limit its key.
    pub key_usage: Option<KeyUsage>,
    /// Big-endian, as it stands in the certificate.
    pub serial: Vec<u8>,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Why a certificate is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate has {0} URI names instead of one")]
    UriNames(usize),
    #[error("the certificate belongs to an authority, not to a process")]
    Authority,
    #[error("the certificate does not belong to an authority")]
    NotAuthority,
    #[error("the certificate's key usage does not fit")]
    KeyUsage,
    #[error("the certificate's name is not an identity")]
    Name(#[source] ParseIdentityError),
    #[error("the certificate belongs to {found}, not to {expected}")]
    OtherAuthority { found: String, expected: SiteId },
    #[error("site {0} is not trusted here")]
    UnknownSite(SiteId),
    #[error("the certificate was revoked")]
    Denied,
    #[error("the other side is {found}, expected {expected}")]
    Unexpected { found: String, expected: String },
    #[error("no authority in the chain has the pinned key")]
    Pin,
    #[error("the other side showed no certificate")]
    Missing,
    #[error("the certificate's path does not verify: {0}")]
    Path(String),
    #[error("the certificate's key did not sign this")]
    Signature,
}

/// The identity that a process's certificate names. Says nothing of who signed it.
///
/// # Errors
/// A certificate whose content is not that of exactly one process.
pub fn identify(facts: &CertificateFacts) -> Result<Identity, Refusal> {
    let uri = only_uri(facts)?;
    if facts.is_ca {
        return Err(Refusal::Authority);
    }
    match facts.key_usage {
        Some(usage) if usage.digital_signature && !usage.certificate_sign && !usage.crl_sign => {}
        Some(_) | None => return Err(Refusal::KeyUsage),
    }
    Identity::parse(uri).map_err(Refusal::Name)
}

/// The site whose authority's certificate this is.
///
/// # Errors
/// A certificate that is not that of exactly one authority.
pub fn identify_authority(facts: &CertificateFacts) -> Result<SiteId, Refusal> {
    let uri = only_uri(facts)?;
    if !facts.is_ca {
        return Err(Refusal::NotAuthority);
    }
    if !facts.key_usage.is_some_and(|usage| usage.certificate_sign) {
        return Err(Refusal::KeyUsage);
    }
    authority_site(uri).ok_or(Refusal::NotAuthority)
}

fn only_uri(facts: &CertificateFacts) -> Result<&str, Refusal> {
    match facts.uris.as_slice() {
        [uri] => Ok(uri),
        uris => Err(Refusal::UriNames(uris.len())),
    }
}

/// Certificates that are not taken although their path verifies, by trust domain and serial.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DenyList {
    denied: BTreeSet<(SiteId, Vec<u8>)>,
}

impl DenyList {
    pub fn deny(&mut self, site: SiteId, serial: &[u8]) {
        self.denied.insert((site, canonical(serial)));
    }

    #[must_use]
    pub fn is_denied(&self, site: &SiteId, serial: &[u8]) -> bool {
        self.denied.contains(&(site.clone(), canonical(serial)))
    }
}

/// A serial without leading zeros: the same number is the same serial.
fn canonical(serial: &[u8]) -> Vec<u8> {
    serial.iter().copied().skip_while(|byte| *byte == 0).collect()
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;
    use alloc::vec;

    use super::*;

    const LEAF: KeyUsage =
        KeyUsage { digital_signature: true, certificate_sign: false, crl_sign: false };

    fn facts(uri: &str) -> CertificateFacts {
        CertificateFacts {
            uris: vec![uri.to_string()],
            is_ca: false,
            key_usage: Some(LEAF),
            serial: vec![7],
            not_before: Timestamp(0),
            not_after: Timestamp(1),
        }
    }

    #[test]
    fn a_plain_leaf_is_identified() {
        let identity = identify(&facts("spiffe://berlin/agent/n01")).unwrap();
        assert_eq!(identity.to_string(), "spiffe://berlin/agent/n01");
    }

    #[test]
    fn a_leaf_with_two_names_or_none_is_refused() {
        let mut two = facts("spiffe://berlin/agent/n01");
        two.uris.push("spiffe://berlin/agent/n02".to_string());
        assert_eq!(identify(&two), Err(Refusal::UriNames(2)));
        two.uris.clear();
        assert_eq!(identify(&two), Err(Refusal::UriNames(0)));
    }

    #[test]
    fn an_authority_is_not_a_process_and_a_process_not_an_authority() {
        let mut ca = facts("spiffe://berlin/controller/1");
        ca.is_ca = true;
        assert_eq!(identify(&ca), Err(Refusal::Authority));
        let leaf = facts("spiffe://berlin");
        assert_eq!(identify_authority(&leaf), Err(Refusal::NotAuthority));
    }

    #[test]
    fn a_key_that_may_sign_certificates_or_is_not_limited_is_refused() {
        let mut leaf = facts("spiffe://berlin/controller/1");
        leaf.key_usage = None;
        assert_eq!(identify(&leaf), Err(Refusal::KeyUsage));
        leaf.key_usage = Some(KeyUsage { certificate_sign: true, ..LEAF });
        assert_eq!(identify(&leaf), Err(Refusal::KeyUsage));
        leaf.key_usage = Some(KeyUsage { crl_sign: true, ..LEAF });
        assert_eq!(identify(&leaf), Err(Refusal::KeyUsage));
        leaf.key_usage = Some(KeyUsage { digital_signature: false, ..LEAF });
        assert_eq!(identify(&leaf), Err(Refusal::KeyUsage));
    }

    #[test]
    fn a_serial_is_denied_in_its_own_site_only() {
        let [berlin, giga] = ["berlin", "giga"].map(|site| SiteId::new(site).unwrap());
        let mut list = DenyList::default();
        list.deny(berlin.clone(), &[0, 7]);
        assert!(list.is_denied(&berlin, &[7]));
        assert!(!list.is_denied(&giga, &[7]));
        assert!(!list.is_denied(&berlin, &[8]));
    }
}
