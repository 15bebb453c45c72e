//! What an agent signs of a GPU that passed.

use fabric_quic::env::Env;
use fabric_quic::pki::{Credentials, PkiError};
use gpu_agent_core::burn_in::baseline;
use gpu_agent_core::health::PROOF_SPAN;
use specs::codec::{Blob, Message};
use specs::gpu::{BurnInTier, GpuInfo, HealthProof, SignedProof};
use specs::id::NodeId;

use crate::burn_in;

/// Signs with the agent's own key: whoever trusts its site can tell that it did.
pub(super) struct Signer {
    node: NodeId,
    credentials: Credentials,
}

/// SHA-256 of the list of the kernels' hashes.
pub(super) fn kernels(env: &Env) -> Blob {
    Blob(env.crypto.sha256(burn_in::MANIFEST.as_bytes()).to_vec())
}

impl Signer {
    pub(super) fn new(node: NodeId, credentials: Credentials) -> Self {
        Self { node, credentials }
    }

    pub(super) fn sign(
        &self,
        env: &Env,
        info: &GpuInfo,
        product: String,
        tier: BurnInTier,
    ) -> Result<SignedProof, PkiError> {
        let identity = self.credentials.identity();
        let site = identity.site().cloned();
        let site = site.ok_or_else(|| PkiError::Request("the agent has no site".into()))?;
        let baseline = baseline::of(&product).map_or("", |it| it.name).to_owned();
        let proof = HealthProof {
            site,
            node: self.node.clone(),
            index: info.index,
            uuid: info.uuid.clone(),
            product,
            tier,
            kernels: kernels(env),
            passed_at: env.clock.wall(),
            valid_for: PROOF_SPAN,
            agent: env!("CARGO_PKG_VERSION").into(),
            baseline,
        };
        let body = Blob(proof.encode());
        let signature = self.credentials.sign(&HealthProof::signed_bytes(&body))?;
        let certificate = Blob(self.credentials.certificate().to_vec());
        Ok(SignedProof { body, signature: Blob(signature), certificate })
    }
}

#[cfg(test)]
mod tests {
    use specs::gpu::KERNELS;

    use super::*;

    /// Peers know a release's kernels by its version.
    #[test]
    fn the_kernels_of_this_release_are_among_those_that_are_known() {
        let said = HealthProof {
            site: "giga".parse().unwrap(),
            node: "g1".parse().unwrap(),
            index: specs::id::GpuIndex(0),
            uuid: String::new(),
            product: String::new(),
            tier: BurnInTier::T2,
            kernels: kernels(&Env::system()),
            passed_at: specs::unit::Timestamp(0),
            valid_for: PROOF_SPAN,
            agent: env!("CARGO_PKG_VERSION").into(),
            baseline: String::new(),
        };
        assert!(KERNELS.iter().any(|(version, _)| *version == said.agent), "{}", said.agent);
        let digits: Vec<String> = said.kernels.0.iter().map(|it| format!("{it:02x}")).collect();
        assert!(
            said.names_its_kernels(),
            "write {} into KERNELS in specs/src/gpu.rs",
            digits.concat()
        );
        let other = HealthProof { kernels: Blob(vec![7; 32]), ..said.clone() };
        assert!(!other.names_its_kernels());
        assert!(!HealthProof { kernels: Blob::default(), ..said }.names_its_kernels());
        assert!(HealthProof { agent: "99.0.0".into(), ..other }.names_its_kernels());
    }
}
