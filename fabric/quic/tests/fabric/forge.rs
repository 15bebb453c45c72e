//! Certificates that the project itself would never issue, and someone who dials with them.

use std::sync::Arc;

use fabric_core::frame::{ALPN, FrameHead, FrameKind, HEAD_LEN, Hello, encode_frame};
use quinn_proto::crypto::rustls::QuicClientConfig;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use crate::support::ANY_PORT;

pub(crate) struct ForgedAuthority {
    pub(crate) der: Vec<u8>,
    params: CertificateParams,
    key: KeyPair,
}

#[derive(Debug)]
pub(crate) struct Forged {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

impl Clone for Forged {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key() }
    }
}

impl ForgedAuthority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![uri(name)];
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let der = params.self_signed(&key).expect("a certificate").der().to_vec();
        Self { der, params, key }
    }

    /// A leaf with these URI names, changed as the test likes.
    pub(crate) fn leaf(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> Forged {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.iter().map(|name| uri(name)).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        edit(&mut params);
        let issuer = Issuer::from_params(&self.params, &self.key);
        let leaf = params.signed_by(&key, &issuer).expect("a certificate").der().clone();
        Forged {
            chain: vec![leaf, CertificateDer::from(self.der.clone())],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        }
    }
}

/// Takes any server.
#[derive(Debug)]
struct Gullible(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Someone with their own QUIC client, and what they send first.
pub(crate) struct Stranger {
    _endpoint: quinn::Endpoint,
    pub(crate) connection: quinn::Connection,
}

impl Stranger {
    /// Dials; that this succeeds says nothing yet of the other side's judgement.
    pub(crate) async fn dial(
        address: std::net::SocketAddr,
        alpn: &[u8],
        forged: Option<Forged>,
    ) -> Result<Self, quinn::ConnectionError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible(provider)));
        let mut tls = match forged {
            Some(Forged { chain, key }) => {
                builder.with_client_auth_cert(chain, key).expect("a key that fits")
            }
            None => builder.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        let config = QuicClientConfig::try_from(tls).expect("a QUIC suite");
        let endpoint = quinn::Endpoint::client(ANY_PORT).expect("a free port");
        let config = quinn::ClientConfig::new(Arc::new(config));
        let connecting = endpoint.connect_with(config, address, "x").expect("an address");
        let connection = connecting.await?;
        Ok(Self { _endpoint: endpoint, connection })
    }

    /// Sends bytes on a stream of their own and reads the head and content of the answer.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> Result<(FrameHead, Vec<u8>), String> {
        let (mut send, mut recv) = self.connection.open_bi().await.map_err(|e| e.to_string())?;
        send.write_all(bytes).await.map_err(|e| e.to_string())?;
        let _ = send.finish();
        let answer = recv.read_to_end(1 << 20).await.map_err(|error| {
            self.connection.close_reason().map_or(error.to_string(), |reason| reason.to_string())
        })?;
        let (head, content) = answer.split_first_chunk::<HEAD_LEN>().ok_or("no answer")?;
        let head = FrameHead::parse(*head).map_err(|error| error.to_string())?;
        Ok((head, content.to_vec()))
    }
}

/// Whether a server takes a forged certificate: the reason if not.
pub(crate) async fn knock(
    address: std::net::SocketAddr,
    forged: Option<Forged>,
) -> Result<(), String> {
    let stranger =
        Stranger::dial(address, ALPN, forged).await.map_err(|error| error.to_string())?;
    let hello = encode_frame(FrameKind::Hello, &Hello::of("stranger"));
    let (head, _) = stranger.exchange(&hello).await?;
    if head.kind == FrameKind::Welcome { Ok(()) } else { Err(format!("{head:?}")) }
}
