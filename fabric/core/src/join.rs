//! The exact bytes that are proved and signed when a token is redeemed.
//!
//! Every part is preceded by its length, four bytes, big-endian, so no two lists of parts give the
//! same bytes; every list begins with a label of its own, so no proof serves as another; and the
//! TLS exporter of the connection is in each, so no proof is worth anything on another connection.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use specs::fault::{Fault, FaultCode};
use specs::id::{NodeId, SiteId};
use specs::unit::Timestamp;

/// Label of the TLS exporter that ties a proof to its connection; the context is empty.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-spillway-join/1";
/// `token key = HMAC-SHA256(secret, TOKEN_KEY_LABEL)`: what a site keeps of a token's secret and
/// what both sides prove with.
pub const TOKEN_KEY_LABEL: &[u8] = b"spillway-token-key";

/// 32 bytes that only the two ends of one connection know.
pub type Exporter = [u8; 32];

/// What a joining site proves.
#[must_use]
pub fn join_request(exporter: &Exporter, joiner: &SiteId, bundle: &[u8]) -> Vec<u8> {
    parts(&[b"join-c", exporter, joiner.as_str().as_bytes(), bundle])
}

/// What a joining site signs with the key of its authority.
#[must_use]
pub fn join_signature(exporter: &Exporter, bundle: &[u8]) -> Vec<u8> {
    parts(&[b"join-sig", exporter, bundle])
}

/// What the inviting site proves in its answer.
#[must_use]
pub fn join_accept(
    exporter: &Exporter,
    joiner: &SiteId,
    bundle: &[u8],
    inviter_bundle: &[u8],
) -> Vec<u8> {
    parts(&[b"join-s", exporter, joiner.as_str().as_bytes(), bundle, inviter_bundle])
}

/// What an enrolling node proves.
#[must_use]
pub fn enrol_request(exporter: &Exporter, node: &NodeId, csr: &[u8]) -> Vec<u8> {
    parts(&[b"enrol-c", exporter, node.as_str().as_bytes(), csr])
}

/// What the site proves in its answer to a node.
#[must_use]
pub fn enrol_accept(
    exporter: &Exporter,
    node: &NodeId,
    csr: &[u8],
    certificate: &[u8],
    ca: &[u8],
    controllers: &[String],
) -> Vec<u8> {
    let mut all: Vec<&[u8]> =
        [b"enrol-s", exporter.as_slice(), node.as_str().as_bytes(), csr, certificate, ca].into();
    all.extend(controllers.iter().map(String::as_bytes));
    parts(&all)
}

/// Whether a token may be redeemed by `name` at `now`. Asked only after the proof was found good,
/// so that one without the secret learns nothing of the token.
///
/// # Errors
/// `token-expired`, or `token-invalid` for another name than the bound one.
pub fn check_terms(
    bound: Option<&str>,
    expires: Timestamp,
    name: &str,
    now: Timestamp,
) -> Result<(), Fault> {
    if now >= expires {
        return Err(Fault::new(FaultCode::TokenExpired, "the token has expired")
            .with_hint("ask for another one"));
    }
    match bound {
        Some(bound) if bound != name => Err(Fault::new(
            FaultCode::TokenInvalid,
            format!("the token is for `{bound}` and not for `{name}`"),
        )),
        Some(_) | None => Ok(()),
    }
}

fn parts(parts: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len() + 4).sum());
    for part in parts {
        // Messages are far below 4 GiB, so that the length always fits.
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        bytes.extend(len.to_be_bytes());
        bytes.extend(*part);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPORTER: Exporter = [1; 32];

    fn site(name: &str) -> SiteId {
        SiteId::new(name).unwrap()
    }

    #[test]
    fn the_bytes_are_these() {
        let bytes = join_request(&EXPORTER, &site("giga"), b"xy");
        let mut expected = Vec::new();
        expected.extend(b"\0\0\0\x06join-c\0\0\0\x20");
        expected.extend([1; 32]);
        expected.extend(b"\0\0\0\x04giga\0\0\0\x02xy");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn moving_a_boundary_changes_the_bytes() {
        let one = join_accept(&EXPORTER, &site("giga"), b"ab", b"c");
        let two = join_accept(&EXPORTER, &site("giga"), b"a", b"bc");
        assert_ne!(one, two);
        let node = NodeId::new("n01").unwrap();
        let list = |addresses: &[&str]| {
            let addresses: Vec<String> = addresses.iter().map(|text| (*text).into()).collect();
            enrol_accept(&EXPORTER, &node, b"csr", b"cert", b"ca", &addresses)
        };
        assert_ne!(list(&["a", "b"]), list(&["ab"]));
        assert_ne!(list(&[]), list(&[""]));
    }

    #[test]
    fn no_two_purposes_share_their_bytes() {
        let node = NodeId::new("giga").unwrap();
        let all = [
            join_request(&EXPORTER, &site("giga"), b""),
            join_signature(&EXPORTER, b""),
            join_accept(&EXPORTER, &site("giga"), b"", b""),
            enrol_request(&EXPORTER, &node, b""),
            enrol_accept(&EXPORTER, &node, b"", b"", b"", &[]),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| !other.starts_with(one) && one != other));
        }
    }

    #[test]
    fn terms_are_the_bound_name_and_the_expiry() {
        let check = |bound, name, now| check_terms(bound, Timestamp(10), name, Timestamp(now));
        assert_eq!(check(None, "giga", 9), Ok(()));
        assert_eq!(check(Some("giga"), "giga", 9), Ok(()));
        assert_eq!(check(Some("giga"), "evil", 9).unwrap_err().code, FaultCode::TokenInvalid);
        assert_eq!(check(Some("giga"), "giga", 10).unwrap_err().code, FaultCode::TokenExpired);
    }
}
