//! Reading certificates.

use fabric_core::trust::{CertificateFacts, KeyUsage, Refusal, identify_authority};
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use specs::id::SiteId;
use specs::unit::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::time::ASN1Time;

use crate::crypto::Crypto;

/// What a certificate says.
///
/// # Errors
/// Bytes that are not exactly one certificate.
pub(crate) fn inspect(der: &[u8]) -> Result<CertificateFacts, Refusal> {
    let certificate = parse(der)?;
    let names = certificate.subject_alternative_name().map_err(unreadable)?;
    let uris = names
        .iter()
        .flat_map(|names| &names.value.general_names)
        .filter_map(|name| {
            // The fabric gives no meaning to other kinds of names.
            if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None }
        })
        .collect();
    let constraints = certificate.basic_constraints().map_err(unreadable)?;
    let key_usage = certificate.key_usage().map_err(unreadable)?.map(|usage| KeyUsage {
        digital_signature: usage.value.digital_signature(),
        certificate_sign: usage.value.key_cert_sign(),
        crl_sign: usage.value.crl_sign(),
    });
    Ok(CertificateFacts {
        uris,
        is_ca: constraints.is_some_and(|constraints| constraints.value.ca),
        key_usage,
        serial: certificate.raw_serial().to_vec(),
        not_before: timestamp(certificate.validity().not_before),
        not_after: timestamp(certificate.validity().not_after),
    })
}

/// The site whose authority's certificate `der` is.
pub(crate) fn authority_of(der: &[u8]) -> Result<SiteId, Refusal> {
    identify_authority(&inspect(der)?)
}

/// The public key of a certificate.
pub(crate) fn public_key(der: &[u8]) -> Result<SubjectPublicKeyInfoDer<'static>, Refusal> {
    Ok(SubjectPublicKeyInfoDer::from(parse(der)?.tbs_certificate.subject_pki.raw.to_vec()))
}

/// SHA-256 of a certificate's public key: what a token pins.
pub(crate) fn pin(crypto: &Crypto, der: &[u8]) -> Result<[u8; 32], Refusal> {
    Ok(crypto.sha256(parse(der)?.tbs_certificate.subject_pki.raw))
}

/// The certificate in a chain whose public key is pinned.
pub(crate) fn find_pinned<'a>(
    crypto: &Crypto,
    chain: &'a [CertificateDer<'a>],
    wanted: &[u8; 32],
) -> Result<&'a CertificateDer<'a>, Refusal> {
    chain
        .iter()
        .find(|der| pin(crypto, der).is_ok_and(|found| found == *wanted))
        .ok_or(Refusal::Pin)
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, Refusal> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok(_) | Err(_) => Err(Refusal::Unreadable),
    }
}

fn unreadable<E>(_error: E) -> Refusal {
    Refusal::Unreadable
}

fn timestamp(time: ASN1Time) -> Timestamp {
    Timestamp(u64::try_from(time.timestamp()).unwrap_or(0).saturating_mul(1_000))
}
