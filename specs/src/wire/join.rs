//! Holders of a one-time token: a site that joins, a node that enrols. The token's secret never
//! travels; a proof of it does, bound to the connection that carries it. What is proved and
//! signed travels as opaque bytes and is never encoded again.

use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::Blob;
use crate::id::{NodeId, SiteId, TokenId};

/// Version of [`SiteBundle`] that this build writes.
pub const BUNDLE_VERSION: u32 = 1;
/// Most addresses that a bundle or an answer may name.
pub const ADDRESSES_MAX: usize = 16;

crate::message! {
    /// What one site tells another of itself when they become peers.
    pub struct SiteBundle {
        1 => site: SiteId,
        /// The certificate of the site's authority, DER.
        2 => ca: Blob,
        /// Where its controllers listen, `host:port`.
        3 => addresses: Vec<String>,
        /// The country the site stands in, for residency rules.
        4 => country: String,
        5 => version: u32,
    }

    /// Redeems an invitation: the joiner's bundle and two proofs, that it holds the token and
    /// that it holds the key of the authority it names.
    pub struct JoinRequest {
        1 => token: TokenId,
        /// An encoded [`SiteBundle`].
        2 => bundle: Blob,
        /// A MAC over the connection and the bundle, under the token's key.
        3 => proof: Blob,
        /// A signature over the connection and the bundle, by the joiner's authority.
        4 => signature: Blob,
    }

    /// The inviter's bundle, proved with the same token.
    pub struct JoinAccept {
        /// An encoded [`SiteBundle`].
        1 => bundle: Blob,
        /// A MAC over the connection and both bundles, under the token's key.
        2 => proof: Blob,
    }

    /// Redeems an enrolment: asks for a certificate for one node.
    pub struct EnrolRequest {
        1 => token: TokenId,
        2 => node: NodeId,
        /// A certificate signing request, DER; only its public key is taken from it.
        3 => csr: Blob,
        /// A MAC over the connection, the node and the request, under the token's key.
        4 => proof: Blob,
    }

    /// The node's certificate and where to find its controllers.
    pub struct EnrolAccept {
        /// DER.
        1 => certificate: Blob,
        /// The certificate of the site's authority, DER.
        2 => ca: Blob,
        3 => controllers: Vec<String>,
        /// A MAC over the connection and all of the above, under the token's key.
        4 => proof: Blob,
    }
}
