//! Agents ask what is wanted of their nodes.

use std::sync::Arc;

use bytes::Bytes;
use fabric_quic::identity::Identity;
use specs::codec::Message;
use specs::fault::{Fault, FaultCode};
use specs::gpu::{GpuHealth, GpuReport, GpuState, HealthProof, Passed, SignedProof};
use specs::id::{GpuIndex, NodeId};
use specs::wire::agent::{Inventory, NodeReport};

use crate::service::{Asked, decode, encode, signatures};
use crate::shared::Shared;

/// Answers an agent's question: confirms that this controller leads after it came, agrees on what
/// it brings, and reads the orders after that.
pub(crate) async fn report(shared: &Arc<Shared>, asked: &Asked) -> Result<Bytes, Fault> {
    let mut report: NodeReport = decode(asked)?;
    let is_own = matches!(&asked.caller, Identity::Agent { node, .. } if *node == report.node);
    if !is_own {
        let message = format!("{} may not speak for node {}", asked.caller, report.node);
        return Err(Fault::new(FaultCode::Forbidden, message));
    }
    check_proofs(shared, &mut report)?;
    let mut state = shared.confirm().await?;
    let at = shared.env.clock.wall();
    let commands =
        shared.with_leader(|leader, now| leader.handle_node_report(now, at, &state, &report))??;
    if !commands.is_empty() {
        shared.propose_all(&commands).await?;
        state = shared.confirm().await?;
    }
    let orders = shared.with_leader(|leader, now| leader.node_orders(now, &state, &report))?;
    let orders = orders.ok_or_else(|| {
        Fault::new(FaultCode::Conflict, "another life of the agent was heard meanwhile")
    })?;
    Ok(encode(&orders))
}

/// Takes away every proof that is not the agent's own, or is not of that GPU: what is left is what
/// its agent's key signed. One that was seen before is not looked at again.
fn check_proofs(shared: &Arc<Shared>, report: &mut NodeReport) -> Result<(), Fault> {
    let node = report.node.clone();
    let known = shared.with_leader(|leader, _| {
        let proof = |it: &GpuReport| leader.proof(&node, it.health.index).cloned();
        report.health.iter().map(proof).collect::<Vec<_>>()
    })?;
    for (it, known) in report.health.iter_mut().zip(known) {
        it.passed = passed_as_proven(it);
        let Some(proof) = it.proof.as_ref().filter(|proof| known.as_ref() != Some(*proof)) else {
            continue;
        };
        if let Err(why) = check_proof(shared, &node, &report.inventory, it.health.index, proof) {
            tracing::warn!(%node, gpu = %it.health.index, why, "a proof does not hold");
            let why = format!("its proof does not hold: {why}");
            it.health = GpuHealth::new(it.health.index, GpuState::Discovered, why);
            (it.proof, it.passed) = (None, None);
        }
    }
    Ok(())
}

/// What is told beside a proof is what the proof says, or it is not told.
fn passed_as_proven(it: &GpuReport) -> Option<Passed> {
    it.passed.filter(|passed| it.proof.as_ref().is_some_and(|it| says(it, passed)))
}

fn says(proof: &SignedProof, passed: &Passed) -> bool {
    let said = HealthProof::decode(&proof.body.0);
    said.is_ok_and(|said| (said.tier, said.passed_at) == (passed.tier, passed.at))
}

fn check_proof(
    shared: &Shared,
    node: &NodeId,
    inventory: &Inventory,
    index: GpuIndex,
    proof: &SignedProof,
) -> Result<(), String> {
    signatures::check((&shared.env, &shared.trust), (&shared.site, node), proof)?;
    let said = HealthProof::decode(&proof.body.0).map_err(|error| error.to_string())?;
    let info = inventory.gpus.iter().find(|gpu| gpu.index == index);
    let is_same = info.is_some_and(|info| !info.uuid.is_empty() && info.uuid == said.uuid);
    if said.site != shared.site || said.node != *node || said.index != index || !is_same {
        return Err(format!("it is of GPU {} ({}) of {}", said.index, said.uuid, said.node));
    }
    if said.tier.proves() { Ok(()) } else { Err(format!("{} proves too little", said.tier)) }
}

#[cfg(test)]
mod tests {
    use specs::codec::Blob;
    use specs::gpu::BurnInTier;
    use specs::unit::{Millis, Timestamp};

    use super::*;

    fn proof(tier: BurnInTier, passed_at: u64) -> SignedProof {
        let said = HealthProof {
            site: "berlin".parse().unwrap(),
            node: "b1".parse().unwrap(),
            index: GpuIndex(0),
            uuid: "GPU-a".into(),
            product: "NVIDIA H200".into(),
            tier,
            kernels: Blob(vec![1]),
            passed_at: Timestamp(passed_at),
            valid_for: Millis(7),
            agent: "0.1.0".into(),
            baseline: String::new(),
        };
        let (signature, certificate) = (Blob::default(), Blob::default());
        SignedProof { body: Blob(said.encode()), signature, certificate }
    }

    #[test]
    fn what_is_told_beside_a_proof_is_taken_in_only_if_the_proof_says_it() {
        let told = |proof, tier, at| {
            let health = GpuHealth::new(GpuIndex(0), GpuState::Healthy, "");
            let passed = Some(Passed { tier, at: Timestamp(at), ago: Millis(5) });
            let (due, last) = (None, None);
            passed_as_proven(&GpuReport { health, proof, due, last, passed, earlier: None })
        };
        let (t2, t3) = (BurnInTier::T2, BurnInTier::T3);
        let kept = told(Some(proof(t2, 9)), t2, 9);
        assert_eq!(kept, Some(Passed { tier: t2, at: Timestamp(9), ago: Millis(5) }));
        assert_eq!(told(Some(proof(t2, 9)), t3, 9), None, "a better tier than was signed");
        assert_eq!(told(Some(proof(t2, 9)), t2, 10), None, "a later time than was signed");
        assert_eq!(told(None, t2, 9), None, "without a proof");
        let body = Blob(b"no proof".to_vec());
        let broken = SignedProof { body, ..proof(t2, 9) };
        assert_eq!(told(Some(broken), t2, 9), None);
    }
}
