//! Authorities, certificates and private keys, in memory and on disk.
//!
//! A site has one authority: a self-signed certificate that names the site and nothing else. It
//! signs a leaf for each controller, agent and user. A chain is always the leaf and the authority,
//! so that the holder of a token can pin the latter.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fabric_core::base64::encode_standard;
use fabric_core::identity::{Identity, authority_uri};
use fabric_core::trust::{Refusal, identify};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose, PublicKeyData, SanType,
    SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use specs::id::SiteId;
use specs::unit::{Millis, Timestamp};

use crate::certificate;
use crate::crypto::{CryptoError, Key};
use crate::env::Env;

const DAY: Millis = Millis(24 * 3_600_000);
/// How long a leaf is valid. Rotation at half-life comes later; until then a leaf must outlast
/// the time between two visits of an operator.
pub const LEAF_LIFETIME: Millis = Millis(90 * DAY.0);
/// How long an authority is valid.
pub const AUTHORITY_LIFETIME: Millis = Millis(3_650 * DAY.0);
/// How far a certificate reaches back, for clocks that are behind.
pub const BACKDATE: Millis = Millis(5 * 60_000);

/// File name of an authority, without its ending.
const AUTHORITY_NAME: &str = "ca";

/// What goes wrong with certificates and keys.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds no usable {what}", path.display())]
    Content { what: &'static str, path: PathBuf },
    #[error("the certificate and the private key do not belong together")]
    Mismatch,
    #[error("{identity} does not belong to site {site}")]
    OtherSite { identity: Identity, site: SiteId },
    #[error("the signing request is not valid: {0}")]
    Request(String),
    #[error("the certificate cannot be issued: {0}")]
    Issue(String),
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
}

/// A site's authority with its private key.
#[derive(Debug, Clone)]
pub struct Authority {
    site: SiteId,
    certificate: CertificateDer<'static>,
    pin: [u8; 32],
    key: Key,
}

impl Authority {
    /// Makes the authority of a site.
    ///
    /// # Errors
    /// The environment cannot make a key or a certificate.
    pub fn create(env: &Env, site: &SiteId) -> Result<Self, PkiError> {
        let key = env.crypto.generate_key()?;
        let mut params = params(env, &authority_uri(site), site.as_str(), AUTHORITY_LIFETIME)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(issue)?;
        Self::assemble(env, certificate.der().clone(), key)
    }

    /// Reads the authority that [`Authority::save`] wrote.
    ///
    /// # Errors
    /// Files that are absent or do not belong together.
    pub fn load(env: &Env, directory: &Path) -> Result<Self, PkiError> {
        let (chain, key) = load_pair(env, directory, AUTHORITY_NAME)?;
        Self::assemble(env, chain, key)
    }

    /// The authority made of a certificate and a private key, PKCS#8, both DER.
    ///
    /// # Errors
    /// Bytes that are neither, or that do not belong together.
    pub fn from_parts(env: &Env, certificate: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        let key = PrivateKeyDer::Pkcs8(key.to_vec().into());
        let key = env.crypto.load_key(key)?;
        Self::assemble(env, CertificateDer::from(certificate.to_vec()), key)
    }

    /// The private key, DER, for a fellow controller. A secret.
    #[must_use]
    pub fn private_key(&self) -> &[u8] {
        self.key.der().secret_der()
    }

    /// Writes `ca.pem` and, readable by the owner alone, `ca.key`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, directory: &Path) -> Result<(), PkiError> {
        save_pair(directory, AUTHORITY_NAME, &[&self.certificate], &self.key)
    }

    #[must_use]
    pub fn site(&self) -> &SiteId {
        &self.site
    }

    /// The certificate, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the public key: what a token pins.
    #[must_use]
    pub fn pin(&self) -> [u8; 32] {
        self.pin
    }

    /// Issues a leaf for `identity` and the public key of a signing request, and nothing else of
    /// that request. Returns the certificate, DER.
    ///
    /// # Errors
    /// A request that is not signed by its key, or an identity of another site.
    pub fn issue(&self, env: &Env, identity: &Identity, csr: &[u8]) -> Result<Vec<u8>, PkiError> {
        let csr =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(|error| PkiError::Request(error.to_string()))?;
        Ok(self.issue_for(env, identity, &csr.public_key)?.to_vec())
    }

    /// Makes a private key and a leaf for `identity`.
    ///
    /// # Errors
    /// An identity of another site.
    pub fn credentials(&self, env: &Env, identity: &Identity) -> Result<Credentials, PkiError> {
        let key = env.crypto.generate_key()?;
        let leaf = self.issue_for(env, identity, &key)?;
        Credentials::assemble(leaf, self.certificate.clone(), key)
    }

    /// Signs bytes with the authority's key.
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, PkiError> {
        Ok(self.key.sign_message(message)?)
    }

    fn issue_for(
        &self,
        env: &Env,
        identity: &Identity,
        public_key: &impl PublicKeyData,
    ) -> Result<CertificateDer<'static>, PkiError> {
        let uri =
            identity.uri().filter(|_| identity.site() == Some(&self.site)).ok_or_else(|| {
                PkiError::OtherSite { identity: identity.clone(), site: self.site.clone() }
            })?;
        let mut params = params(env, &uri, &identity.role().to_string(), LEAF_LIFETIME)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(issue)?;
        Ok(params.signed_by(public_key, &issuer).map_err(issue)?.der().clone())
    }

    fn assemble(
        env: &Env,
        certificate: CertificateDer<'static>,
        key: Key,
    ) -> Result<Self, PkiError> {
        let site = certificate::authority_of(&certificate)?;
        check_pair(&certificate, &key)?;
        let pin = certificate::pin(&env.crypto, &certificate)?;
        Ok(Self { site, certificate, pin, key })
    }
}

/// A process's certificate, its authority's certificate, and its private key.
#[derive(Debug, Clone)]
pub struct Credentials {
    identity: Identity,
    not_after: Timestamp,
    leaf: CertificateDer<'static>,
    authority: CertificateDer<'static>,
    key: Key,
}

impl Credentials {
    /// Reads what [`Credentials::save`] wrote.
    ///
    /// # Errors
    /// Files that are absent or do not belong together.
    pub fn load(env: &Env, directory: &Path, name: &str) -> Result<Self, PkiError> {
        let (leaf, key) = load_pair(env, directory, name)?;
        let path = certificate_path(directory, name);
        let chain = read_certificates(&path)?;
        let [_, authority] = <[CertificateDer<'static>; 2]>::try_from(chain)
            .map_err(|_| PkiError::Content { what: "chain of two certificates", path })?;
        Self::assemble(leaf, authority, key)
    }

    /// Writes `<name>.pem` and, readable by the owner alone, `<name>.key`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, directory: &Path, name: &str) -> Result<(), PkiError> {
        save_pair(directory, name, &[&self.leaf, &self.authority], &self.key)
    }

    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// When the leaf ceases to be valid.
    #[must_use]
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The leaf's serial number, big-endian.
    ///
    /// # Errors
    /// Never for credentials that were loaded or issued.
    pub fn serial(&self) -> Result<Vec<u8>, PkiError> {
        Ok(certificate::inspect(&self.leaf)?.serial)
    }

    /// The leaf, DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.leaf
    }

    /// The authority's certificate, DER.
    #[must_use]
    pub fn ca(&self) -> &[u8] {
        &self.authority
    }

    /// Signs a statement with the process's own key; see [`crate::verify::signer`].
    ///
    /// # Errors
    /// The key cannot sign.
    pub fn sign(&self, statement: &[u8]) -> Result<Vec<u8>, PkiError> {
        Ok(self.key.sign_message(statement)?)
    }

    pub(crate) fn certified(&self) -> CertifiedKey {
        CertifiedKey::new(
            vec![self.leaf.clone(), self.authority.clone()],
            self.key.signing().clone(),
        )
    }

    fn assemble(
        leaf: CertificateDer<'static>,
        authority: CertificateDer<'static>,
        key: Key,
    ) -> Result<Self, PkiError> {
        let facts = certificate::inspect(&leaf)?;
        let identity = identify(&facts)?;
        let site = certificate::authority_of(&authority)?;
        if identity.site() != Some(&site) {
            return Err(PkiError::OtherSite { identity, site });
        }
        check_pair(&leaf, &key)?;
        Ok(Self { identity, not_after: facts.not_after, leaf, authority, key })
    }
}

/// A private key that waits for its certificate.
#[derive(Debug, Clone)]
pub struct KeyRequest {
    key: Key,
    csr: Vec<u8>,
}

impl KeyRequest {
    /// Makes a key and a request for it.
    ///
    /// # Errors
    /// The environment cannot make a key.
    pub fn create(env: &Env) -> Result<Self, PkiError> {
        let key = env.crypto.generate_key()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(issue)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// Reads what [`KeyRequest::save`] wrote.
    ///
    /// # Errors
    /// Files that are absent or hold something else.
    pub fn load(env: &Env, directory: &Path, name: &str) -> Result<Self, PkiError> {
        let path = request_path(directory, name);
        let csr = CertificateSigningRequestDer::from_pem_slice(&read(&path)?)
            .map_err(|_| PkiError::Content { what: "signing request", path })?;
        Ok(Self { key: load_key(env, directory, name)?, csr: csr.to_vec() })
    }

    /// Writes `<name>.key`, readable by the owner alone, and then `<name>.csr`, so that an exchange
    /// that was interrupted can be repeated with the same key.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, directory: &Path, name: &str) -> Result<(), PkiError> {
        save_key(directory, name, &self.key)?;
        let text = pem("CERTIFICATE REQUEST", &self.csr);
        write(&request_path(directory, name), 0o644, text.as_bytes())
    }

    /// The signing request, DER.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// Adds the certificates that came back, DER. Who issued them is for the caller to have
    /// checked: the proof of the answer to the token, or a pin.
    ///
    /// # Errors
    /// A certificate for another key, or of another site than the authority's.
    pub fn into_credentials(self, leaf: &[u8], ca: &[u8]) -> Result<Credentials, PkiError> {
        let [leaf, ca] = [leaf, ca].map(|der| CertificateDer::from(der.to_vec()));
        Credentials::assemble(leaf, ca, self.key)
    }
}

/// SHA-256 of the public key of a certificate in DER.
///
/// # Errors
/// Bytes that are not one certificate.
pub fn pin_of(env: &Env, certificate: &[u8]) -> Result<[u8; 32], PkiError> {
    Ok(certificate::pin(&env.crypto, certificate)?)
}

fn params(
    env: &Env,
    uri: &str,
    common_name: &str,
    lifetime: Millis,
) -> Result<CertificateParams, PkiError> {
    let now = Millis(env.clock.wall().0);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let at = |time: Millis| epoch + Duration::from_secs(time.0 / 1_000);
    let mut params = CertificateParams::default();
    params.not_before = at(now.minus(BACKDATE));
    params.not_after = at(now.plus(lifetime));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names =
        vec![SanType::URI(uri.try_into().map_err(|error: rcgen::Error| issue(error))?)];
    // Positive and without leading zeros, so that it has one text.
    let mut serial: [u8; 16] = env.random_bytes();
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[expect(clippy::needless_pass_by_value, reason = "it is passed to map_err")]
fn issue(error: rcgen::Error) -> PkiError {
    PkiError::Issue(error.to_string())
}

fn check_pair(certificate: &CertificateDer<'static>, key: &Key) -> Result<(), PkiError> {
    CertifiedKey::new(vec![certificate.clone()], key.signing().clone())
        .keys_match()
        .map_err(|_| PkiError::Mismatch)
}

fn certificate_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.pem"))
}

fn request_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.csr"))
}

fn key_path(directory: &Path, name: &str) -> PathBuf {
    directory.join(format!("{name}.key"))
}

/// The first certificate of `<name>.pem`, and the key.
fn load_pair(
    env: &Env,
    directory: &Path,
    name: &str,
) -> Result<(CertificateDer<'static>, Key), PkiError> {
    let path = certificate_path(directory, name);
    let first = read_certificates(&path)?
        .into_iter()
        .next()
        .ok_or(PkiError::Content { what: "certificate", path })?;
    Ok((first, load_key(env, directory, name)?))
}

fn load_key(env: &Env, directory: &Path, name: &str) -> Result<Key, PkiError> {
    let path = key_path(directory, name);
    let text = read(&path)?;
    let key = PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| PkiError::Content { what: "private key", path })?;
    Ok(env.crypto.load_key(key)?)
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| PkiError::Content { what: "certificate", path: path.to_owned() })
}

fn save_pair(
    directory: &Path,
    name: &str,
    chain: &[&CertificateDer<'static>],
    key: &Key,
) -> Result<(), PkiError> {
    save_key(directory, name, key)?;
    let chain_text: String = chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
    write(&certificate_path(directory, name), 0o644, chain_text.as_bytes())
}

fn save_key(directory: &Path, name: &str, key: &Key) -> Result<(), PkiError> {
    fs::create_dir_all(directory).map_err(io_error("create", directory))?;
    let text = pem("PRIVATE KEY", key.der().secret_der());
    write(&key_path(directory, name), 0o600, text.as_bytes())
}

fn pem(label: &str, der: &[u8]) -> String {
    let digits = encode_standard(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in digits.as_bytes().chunks(64) {
        text.extend(line.iter().copied().map(char::from));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    fs::read(path).map_err(io_error("read", path))
}

/// Replaces a file at once and durably, so that a crash leaves the old one or the new one.
fn write(path: &Path, mode: u32, bytes: &[u8]) -> Result<(), PkiError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".tmp");
    let draft = PathBuf::from(draft);
    let failed = io_error("write", path);
    let written = (|| {
        if let Err(error) = fs::remove_file(&draft)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, path)?;
        path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
    })();
    written.map_err(failed)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    let path = path.to_owned();
    move |source| PkiError::Io { action, path, source }
}
