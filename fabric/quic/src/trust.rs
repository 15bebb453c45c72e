//! Whom this process trusts: for each site the certificate of its authority, and the certificates
//! that are denied although they verify. Changed while running; a change also reaches the
//! connections that are up.

use std::collections::BTreeMap;
use std::sync::Arc;

use fabric_core::trust::{DenyList, Refusal};
use rustls::pki_types::{CertificateDer, TrustAnchor};
use specs::id::SiteId;
use tokio::sync::watch;

use crate::certificate;

/// Shared by all connections of a process.
#[derive(Debug)]
pub struct TrustStore {
    state: watch::Sender<Arc<Trust>>,
}

/// Tells of each change.
pub(crate) type Changes = watch::Receiver<Arc<Trust>>;

/// What is trusted at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Trust {
    authorities: BTreeMap<SiteId, Anchor>,
    pub(crate) denied: DenyList,
}

/// An authority that paths may end at.
#[derive(Debug, Clone)]
pub(crate) struct Anchor {
    der: CertificateDer<'static>,
    pub(crate) anchor: TrustAnchor<'static>,
}

impl Anchor {
    pub(crate) fn new(der: &[u8]) -> Result<Self, Refusal> {
        let der = CertificateDer::from(der.to_vec());
        let anchor =
            webpki::anchor_from_trusted_cert(&der).map_err(|_| Refusal::Unreadable)?.to_owned();
        Ok(Self { der, anchor })
    }
}

impl Trust {
    pub(crate) fn anchor(&self, site: &SiteId) -> Result<&Anchor, Refusal> {
        self.authorities.get(site).ok_or_else(|| Refusal::UnknownSite(site.clone()))
    }
}

impl Default for TrustStore {
    fn default() -> Self {
        Self { state: watch::Sender::new(Arc::default()) }
    }
}

impl TrustStore {
    /// Trusts nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts an authority, given as DER, to speak for `site`; replaces the one it had.
    ///
    /// # Errors
    /// Bytes that are not the certificate of that site's authority.
    pub fn trust(&self, site: &SiteId, authority: &[u8]) -> Result<(), Refusal> {
        let named = certificate::authority_of(authority)?;
        if named != *site {
            return Err(Refusal::OtherAuthority {
                found: named.to_string(),
                expected: site.clone(),
            });
        }
        let anchor = Anchor::new(authority)?;
        self.change(|trust| {
            let unchanged =
                trust.authorities.get(site).is_some_and(|known| known.der == anchor.der);
            trust.authorities.insert(site.clone(), anchor);
            !unchanged
        });
        Ok(())
    }

    /// Trusts nobody any more to speak for `site`; its connections are closed.
    pub fn distrust(&self, site: &SiteId) {
        self.change(|trust| trust.authorities.remove(site).is_some());
    }

    /// Takes a certificate of `site` no more; its connections are closed.
    pub fn deny(&self, site: &SiteId, serial: &[u8]) {
        self.change(|trust| {
            let known = trust.denied.is_denied(site, serial);
            trust.denied.deny(site.clone(), serial);
            !known
        });
    }

    /// The sites that are trusted, in the order of their names.
    #[must_use]
    pub fn sites(&self) -> Vec<SiteId> {
        self.state.borrow().authorities.keys().cloned().collect()
    }

    /// The certificate of a site's authority, DER.
    #[must_use]
    pub fn authority(&self, site: &SiteId) -> Option<Vec<u8>> {
        self.state.borrow().authorities.get(site).map(|known| known.der.to_vec())
    }

    pub(crate) fn current(&self) -> Arc<Trust> {
        self.state.borrow().clone()
    }

    pub(crate) fn changes(&self) -> Changes {
        self.state.subscribe()
    }

    fn change(&self, edit: impl FnOnce(&mut Trust) -> bool) {
        self.state.send_if_modified(|trust| edit(Arc::make_mut(trust)));
    }
}
