//! TLS 1.3 with certificates on both sides, and nothing that outlives a connection: no tickets, no
//! resumption, no early data.

use std::sync::{Arc, PoisonError, RwLock};

use fabric_core::frame::ALPN;
use fabric_core::identity::Identity;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig, SignatureScheme};

use crate::crypto::unix_time;
use crate::env::{Clock, Env};
use crate::pki::Credentials;
use crate::verify::Verifier;

/// Who this process is; replaced when its certificate is.
#[derive(Debug, Default)]
pub(crate) struct Own(RwLock<Option<Arc<Current>>>);

#[derive(Debug)]
struct Current {
    identity: Identity,
    certified: Arc<CertifiedKey>,
}

impl Own {
    pub(crate) fn set(&self, credentials: &Credentials) {
        let current = Current {
            identity: credentials.identity().clone(),
            certified: Arc::new(credentials.certified()),
        };
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(current));
    }

    pub(crate) fn identity(&self) -> Identity {
        self.current().map_or(Identity::Anonymous, |current| current.identity.clone())
    }

    fn current(&self) -> Option<Arc<Current>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        Some(self.current()?.certified.clone())
    }
}

impl ResolvesServerCert for Own {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }
}

impl ResolvesClientCert for Own {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}

/// For those who dial in.
pub(crate) fn server(env: &Env, own: Arc<Own>, verifier: Verifier) -> Result<ServerConfig, Error> {
    let provider = env.crypto.provider().clone();
    let mut config = ServerConfig::builder_with_details(provider, wall_time(env))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(own);
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

/// For dialing; without `own`, no certificate is shown.
pub(crate) fn client(
    env: &Env,
    own: Option<Arc<Own>>,
    verifier: Verifier,
) -> Result<ClientConfig, Error> {
    let provider = env.crypto.provider().clone();
    let builder = ClientConfig::builder_with_details(provider, wall_time(env))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match own {
        Some(own) => builder.with_client_cert_resolver(own),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    Ok(config)
}

#[derive(Debug)]
struct WallTime(Arc<dyn Clock>);

impl TimeProvider for WallTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix_time(self.0.wall()))
    }
}

fn wall_time(env: &Env) -> Arc<dyn TimeProvider> {
    Arc::new(WallTime(env.clock.clone()))
}
