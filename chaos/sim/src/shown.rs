//! Proofs that hosts show to homes: signed by agents, spoilt now and then, checked by homes. A
//! signature here is the name of who signed.

use federation_core::Command;
use specs::codec::{Blob, Message};
use specs::fault::Fault;
use specs::gpu::{HealthProof, SignedProof};
use specs::id::{GpuIndex, NodeId, SiteId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::peer::{PeerReport, ShownProof};

use crate::coverage::Mark;
use crate::health;
use crate::invariant::peer_proofs;
use crate::rng::Rng;
use crate::world::{CtlRef, World};

/// So much older is an old proof that is shown for a young one.
const STALE: Millis = Millis(8 * 86_400_000);

pub(crate) fn is_on(seed: u64) -> bool {
    health::asks_for_proofs(seed) && Rng::of(seed, "shown").chance(600)
}

/// In half of the worlds some hosts are not honest, or broken.
pub(crate) fn spoilt_permille(seed: u64) -> u64 {
    let mut rng = Rng::of(seed, "spoilt");
    if is_on(seed) && rng.chance(500) { rng.range(50, 500) } else { 0 }
}

pub(crate) fn signature(site: &SiteId, node: &NodeId) -> Blob {
    Blob(format!("{site}/{node}").into_bytes())
}

/// As its agent would have signed it so much earlier.
pub(crate) fn make_older(proof: &mut SignedProof, by: Millis) {
    if let Ok(mut said) = HealthProof::decode(&proof.body.0) {
        said.passed_at = Timestamp(said.passed_at.0.saturating_sub(by.0));
        proof.body = Blob(said.encode());
    }
}

fn with_index(proof: &mut SignedProof, index: GpuIndex) {
    if let Ok(mut said) = HealthProof::decode(&proof.body.0) {
        said.index = index;
        proof.body = Blob(said.encode());
    }
}

impl World {
    /// A host shows what it should not: another node's signature, another GPU's proof, an old one.
    pub(crate) fn spoil(&mut self, report: &mut PeerReport) {
        if self.healing || self.knobs.spoilt_permille == 0 {
            return;
        }
        for shown in &mut report.proofs {
            if !self.chance_shown.chance(self.knobs.spoilt_permille) {
                continue;
            }
            match self.chance_shown.below(3) {
                0 => shown.proof.signature = Blob(b"nobody".to_vec()),
                1 => with_index(&mut shown.proof, GpuIndex(shown.key.index.0 ^ 1)),
                _ => make_older(&mut shown.proof, STALE),
            }
        }
    }

    /// When a report was sent.
    pub(crate) fn remember_question(&mut self, report: &PeerReport) {
        if report.proofs.is_empty() {
            return;
        }
        let now = self.now;
        let asked = &mut self.oracle.asked;
        asked.retain(|_, sent| now.since(*sent) <= peer_proofs::REMEMBERED);
        asked.insert((report.host.clone(), report.question), now);
    }

    /// What a home's leader makes of a host's report.
    pub(crate) fn hear_peer(
        &mut self,
        at: CtlRef,
        report: &PeerReport,
        (now, wall): (Instant, Timestamp),
    ) -> Result<Vec<Command>, Fault> {
        let state = self.state_at(at);
        let Some(reign) = &mut self.controller_mut(at).reign else { return Ok(Vec::new()) };
        let shown = reign.leader.proofs_to_check(&state, report);
        let check = |it: ShownProof| {
            let is_right = it.proof.signature == signature(&report.host, &it.key.node);
            (it, if is_right { Ok(()) } else { Err("another signed it".to_owned()) })
        };
        let checked = shown.into_iter().map(check).collect();
        let mut commands = reign.leader.handle_peer_report(now, wall, &state, report)?;
        let (proofs, refused) = reign.leader.handle_proofs(now, wall, report, checked);
        self.coverage.add(Mark::ProofsRefused, refused.len() as u64);
        if let Some(Command::RecordProofs(it)) = &proofs {
            let found = peer_proofs::on_record(self, at, (report, it), wall);
            self.violate_all(found);
        }
        commands.extend(proofs);
        Ok(commands)
    }
}
