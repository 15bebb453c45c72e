//! Hashes, MACs, keys and signatures, all through the one rustls provider that was handed in.

use std::fmt;
use std::sync::Arc;

use quinn_proto::crypto::{AeadKey, CryptoError as ProtoError, HandshakeTokenKey, HmacKey};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use rustls::crypto::CryptoProvider;
use rustls::crypto::tls13::OkmBlock;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::quic::{PacketKey, Suite, Version};
use rustls::sign::SigningKey;
use rustls::{CipherSuite, Side, SignatureScheme};
use specs::unit::Timestamp;
use subtle::ConstantTimeEq;

/// Schemes that certificates, handshakes and requests are signed with.
pub(crate) const SCHEMES: [SignatureScheme; 2] =
    [SignatureScheme::ECDSA_NISTP256_SHA256, SignatureScheme::ED25519];

/// What cryptography cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CryptoError {
    #[error("the provider lacks TLS_AES_128_GCM_SHA256, which QUIC needs")]
    Suite,
    #[error("a key cannot be made: {0}")]
    Generate(String),
    #[error("a key cannot be used: {0}")]
    Key(String),
}

/// Makes private keys of the kind that this environment uses.
pub trait KeyFactory: fmt::Debug + Send + Sync {
    /// A fresh private key, PKCS #8.
    ///
    /// # Errors
    /// The provider cannot make one.
    fn generate(&self) -> Result<PrivatePkcs8KeyDer<'static>, CryptoError>;
}

/// A provider and a kind of key.
#[derive(Debug)]
pub struct Crypto {
    provider: Arc<CryptoProvider>,
    keys: Arc<dyn KeyFactory>,
    suite: QuicSuite,
}

#[derive(Clone, Copy)]
struct QuicSuite(Suite);

impl fmt::Debug for QuicSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.suite.fmt(f)
    }
}

impl Crypto {
    /// Uses `provider` for everything and `keys` for fresh private keys.
    ///
    /// # Errors
    /// The provider lacks the suite that protects QUIC's first packets.
    pub fn new(
        provider: Arc<CryptoProvider>,
        keys: Arc<dyn KeyFactory>,
    ) -> Result<Self, CryptoError> {
        let suite = provider
            .cipher_suites
            .iter()
            .filter(|suite| suite.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256)
            .find_map(|suite| suite.tls13()?.quic_suite())
            .ok_or(CryptoError::Suite)?;
        Ok(Self { provider, keys, suite: QuicSuite(suite) })
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    /// SHA-256.
    #[must_use]
    pub fn sha256(&self, bytes: &[u8]) -> [u8; 32] {
        let hash = self.suite.0.suite.common.hash_provider.hash(bytes);
        hash.as_ref().try_into().expect("the suite's hash is SHA-256")
    }

    /// HMAC-SHA256.
    #[must_use]
    pub fn hmac(&self, key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
        let tag = self.suite.0.suite.hkdf_provider.hmac_sign(&OkmBlock::new(key), bytes);
        tag.as_ref().try_into().expect("the suite's hash is SHA-256")
    }

    /// Whether `tag` is the MAC of `bytes`, in a time that does not depend on the answer.
    #[must_use]
    pub fn hmac_matches(&self, key: &[u8; 32], bytes: &[u8], tag: &[u8]) -> bool {
        self.hmac(key, bytes).ct_eq(tag).into()
    }

    /// A fresh private key.
    pub(crate) fn generate_key(&self) -> Result<Key, CryptoError> {
        self.load_key(PrivateKeyDer::Pkcs8(self.keys.generate()?))
    }

    /// A private key from its DER form.
    pub(crate) fn load_key(&self, der: PrivateKeyDer<'static>) -> Result<Key, CryptoError> {
        let unusable = |error: &dyn fmt::Display| CryptoError::Key(error.to_string());
        let signing = self
            .provider
            .key_provider
            .load_private_key(der.clone_key())
            .map_err(|error| unusable(&error))?;
        let spki = signing.public_key().ok_or_else(|| unusable(&"it has no public half"))?;
        let public = SubjectPublicKeyInfo::from_der(&spki).map_err(|error| unusable(&error))?;
        Ok(Key { der: Arc::new(der), signing, public })
    }

    /// Whether `signature` over `message` was made with the key behind `spki`.
    pub(crate) fn signature_matches(
        &self,
        spki: &SubjectPublicKeyInfoDer<'_>,
        message: &[u8],
        signature: &[u8],
    ) -> bool {
        let Ok(key) = webpki::RawPublicKeyEntity::try_from(spki) else { return false };
        let algorithms = self.provider.signature_verification_algorithms;
        algorithms
            .mapping
            .iter()
            .filter(|(scheme, _)| SCHEMES.contains(scheme))
            .filter_map(|(_, algorithms)| algorithms.first())
            .any(|algorithm| key.verify_signature(*algorithm, message, signature).is_ok())
    }
}

/// A private key. Its debug output shows the public half alone.
#[derive(Clone)]
pub(crate) struct Key {
    der: Arc<PrivateKeyDer<'static>>,
    signing: Arc<dyn SigningKey>,
    public: SubjectPublicKeyInfo,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Key {
    pub(crate) fn der(&self) -> &PrivateKeyDer<'static> {
        &self.der
    }

    pub(crate) fn signing(&self) -> &Arc<dyn SigningKey> {
        &self.signing
    }

    /// A signature over `message` with the key's own scheme.
    pub(crate) fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, CryptoError> {
        let signer = self
            .signing
            .choose_scheme(&SCHEMES)
            .ok_or_else(|| CryptoError::Key("neither P-256 nor Ed25519".into()))?;
        signer.sign(message).map_err(|error| CryptoError::Key(error.to_string()))
    }
}

impl PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        self.public.der_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        self.public.algorithm()
    }
}

impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

/// Wall-clock time as certificates are checked with it.
pub(crate) fn unix_time(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(std::time::Duration::from_millis(now.0))
}

/// Key of QUIC's stateless resets.
pub(crate) struct ResetKey {
    pub(crate) crypto: Arc<Crypto>,
    pub(crate) key: [u8; 32],
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        let tag = self.crypto.hmac(&self.key, data);
        for (out, byte) in signature_out.iter_mut().zip(tag) {
            *out = byte;
        }
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), ProtoError> {
        if self.crypto.hmac_matches(&self.key, data, signature) { Ok(()) } else { Err(ProtoError) }
    }
}

/// Key of QUIC's address validation tokens.
pub(crate) struct AddressKey {
    pub(crate) crypto: Arc<Crypto>,
    pub(crate) key: [u8; 32],
}

impl HandshakeTokenKey for AddressKey {
    fn aead_from_hkdf(&self, random_bytes: &[u8]) -> Box<dyn AeadKey> {
        // The keys of a QUIC connection follow from its id by HKDF; here the id is a secret.
        let secret = self.crypto.hmac(&self.key, random_bytes);
        let keys = self.crypto.suite.0.keys(&secret, Side::Client, Version::V1);
        let peer = self.crypto.suite.0.keys(&secret, Side::Server, Version::V1);
        Box::new(AddressAead { seal: keys.local.packet, open: peer.remote.packet })
    }
}

struct AddressAead {
    seal: Box<dyn PacketKey>,
    open: Box<dyn PacketKey>,
}

impl AeadKey for AddressAead {
    fn seal(&self, data: &mut Vec<u8>, additional_data: &[u8]) -> Result<(), ProtoError> {
        let tag = self.seal.encrypt_in_place(0, additional_data, data).map_err(|_| ProtoError)?;
        data.extend_from_slice(tag.as_ref());
        Ok(())
    }

    fn open<'a>(
        &self,
        data: &'a mut [u8],
        additional_data: &[u8],
    ) -> Result<&'a mut [u8], ProtoError> {
        let len =
            self.open.decrypt_in_place(0, additional_data, data).map_err(|_| ProtoError)?.len();
        data.get_mut(..len).ok_or(ProtoError)
    }
}

#[cfg(test)]
mod tests {
    use rustls::NamedGroup;

    use super::*;
    use crate::env::Env;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn hash_and_mac_are_those_of_the_standards() {
        let crypto = Env::system().crypto;
        assert_eq!(
            hex(&crypto.sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        // RFC 4231, case 1; a key is padded with zeros.
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let tag = crypto.hmac(&key, b"Hi There");
        assert_eq!(hex(&tag), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert!(crypto.hmac_matches(&key, b"Hi There", &tag));
        assert!(!crypto.hmac_matches(&key, b"Hi There", &tag[..31]));
        assert!(!crypto.hmac_matches(&key, b"Hi There!", &tag));
    }

    #[test]
    fn the_key_exchange_that_outlasts_quantum_computers_comes_first() {
        let crypto = Env::system().crypto;
        let groups = &crypto.provider().kx_groups;
        assert_eq!(groups.first().map(|group| group.name()), Some(NamedGroup::X25519MLKEM768));
    }

    #[test]
    fn a_signature_matches_its_key_and_message_alone() {
        let crypto = Env::system().crypto;
        let [one, two] = [crypto.generate_key().unwrap(), crypto.generate_key().unwrap()];
        let signature = one.sign_message(b"message").unwrap();
        let spki = |key: &Key| SubjectPublicKeyInfoDer::from(key.subject_public_key_info());
        assert!(crypto.signature_matches(&spki(&one), b"message", &signature));
        assert!(!crypto.signature_matches(&spki(&one), b"massage", &signature));
        assert!(!crypto.signature_matches(&spki(&two), b"message", &signature));
        assert!(!crypto.signature_matches(&SubjectPublicKeyInfoDer::from(&b"x"[..]), b"", b""));
    }

    #[test]
    fn an_address_token_opens_with_its_own_key_alone() {
        let crypto = Env::system().crypto;
        let key = |byte| AddressKey { crypto: crypto.clone(), key: [byte; 32] };
        let mut sealed = b"token".to_vec();
        key(1).aead_from_hkdf(b"nonce").seal(&mut sealed, b"more").unwrap();
        let open = |key: AddressKey, nonce: &[u8], sealed: &[u8], more: &[u8]| {
            let mut sealed = sealed.to_vec();
            key.aead_from_hkdf(nonce).open(&mut sealed, more).map(|text| text.to_vec()).ok()
        };
        assert_eq!(open(key(1), b"nonce", &sealed, b"more").as_deref(), Some(&b"token"[..]));
        assert_eq!(open(key(2), b"nonce", &sealed, b"more"), None);
        assert_eq!(open(key(1), b"other", &sealed, b"more"), None);
        assert_eq!(open(key(1), b"nonce", &sealed, b"less"), None);
        assert_eq!(open(key(1), b"nonce", &sealed[..3], b"more"), None);
    }
}
