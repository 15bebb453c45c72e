//! Who signed proofs of GPUs. What they say is the core's to judge.

use fabric_quic::env::Env;
use fabric_quic::identity::Identity;
use fabric_quic::trust::TrustStore;
use fabric_quic::verify::signer;
use specs::gpu::{HealthProof, SignedProof};
use specs::id::{NodeId, SiteId};
use specs::wire::peer::ShownProof;

use crate::shared::Shared;

/// So many are checked before others have their turn: about a millisecond.
const AT_ONCE: usize = 8;

/// Whether a proof was signed by the agent of that node, of this site or of a peer.
///
/// # Errors
/// Why not, in words.
pub(super) fn check(
    (env, trust): (&Env, &TrustStore),
    (site, node): (&SiteId, &NodeId),
    proof: &SignedProof,
) -> Result<(), String> {
    let statement = HealthProof::signed_bytes(&proof.body);
    let (certificate, signature) = (&proof.certificate.0, &proof.signature.0);
    let now = env.clock.wall();
    let signer = signer(&env.crypto, trust, now, certificate, &statement, signature)
        .map_err(|refusal| refusal.to_string())?;
    let expected = Identity::Agent { site: site.clone(), node: node.clone() };
    if signer == expected { Ok(()) } else { Err(format!("{signer} signed it")) }
}

/// The same of all that a host shows, each with what is wrong. Others have their turn meanwhile: whoever
/// waits for this must not take for true what was true before.
pub(super) async fn check_all(
    shared: &Shared,
    host: &SiteId,
    shown: Vec<ShownProof>,
) -> Vec<(ShownProof, Result<(), String>)> {
    let mut checked = Vec::with_capacity(shown.len());
    for (nth, it) in (1..).zip(shown) {
        let signed = check((&shared.env, &shared.trust), (host, &it.key.node), &it.proof);
        checked.push((it, signed));
        if nth % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
    }
    checked
}

#[cfg(test)]
mod tests;
