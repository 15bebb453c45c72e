//! Proofs of GPUs that a host shows to a home, which verifies them before it uses what is granted.
//!
//! ```text
//!   host: which GPUs, by number of their proofs ─▶ PeerReport ─▶ Held::slots
//!   home: those whose proofs it lacks           ─▶ PeerOrders ─▶ host
//!   host: signed proof and its age              ─▶ PeerReport ─▶ signature (shell) ─▶ judge
//!                                                  ─▶ RecordProofs ─▶ Held::proofs ─▶ loans
//! ```
//!
//! # Invariants
//! * Below [`SINCE`] nothing here is ever set, and a home believes its hosts.
//! * A proof that is kept is of a GPU that a held slot tells, with the number that it tells.
//! * What is kept of a proof makes it no younger than it is.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use specs::codec::Message;
use specs::gpu::{HealthProof, ProofNeed, SignedProof};
use specs::id::{GpuIndex, GrantId, NodeId, Revision, SiteId};
use specs::site::Trust;
use specs::unit::{Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::peer::{ProofKey, ShownProof, Slot, SlotGpu};

use crate::apply::Reply;
use crate::command::RecordProofs;
use crate::effect::{Effect, Effects};
use crate::health;
use crate::state::{Gpu, Held, HeldKey, HeldProof, NamedKey, State};

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::PEER_PROOFS;

const DAY: u64 = 86_400_000;
/// A proof whose signed time is further than this from what its host says of its age is refused. Wall
/// clocks are compared for this alone, and a certificate asks no less of them.
const CLOCKS_APART_MAX: u64 = DAY;
/// However long a proof says that it holds.
const VALID_MAX: u64 = 31 * DAY;

/// At the host: GPUs of a slot, as its home is told.
pub(crate) fn told<'a>(
    version: ClusterVersion,
    gpus: impl Iterator<Item = &'a Gpu>,
) -> Vec<SlotGpu> {
    if version < SINCE {
        return Vec::new();
    }
    let told = |gpu: &Gpu| SlotGpu {
        index: gpu.info.index,
        proof: gpu.proven.as_ref().map_or(Revision(0), |proven| proven.number),
    };
    let mut all: Vec<SlotGpu> = gpus.map(told).collect();
    all.sort_unstable();
    all
}

/// At the host: what a home is shown that asked for a proof, if it is still the present one of a GPU
/// that is granted to that home.
pub(crate) fn shown(
    state: &State,
    home: &SiteId,
    key: &ProofKey,
    (proof, at): (&SignedProof, Timestamp),
) -> Option<ShownProof> {
    let node = state.nodes.get(&key.node)?;
    let gpu = node.gpus.iter().find(|gpu| gpu.info.index == key.index)?;
    let grant = state.grants.get(&gpu.grant?)?;
    let proven = gpu.proven.as_ref().filter(|it| it.number == key.number)?;
    let said = HealthProof::decode(&proof.body.0).ok()?;
    let is_it = (said.tier, said.passed_at) == (proven.tier, proven.passed_at);
    let shown = ShownProof { key: key.clone(), age: proven.age(at), proof: proof.clone() };
    (grant.home == *home && is_it).then_some(shown)
}

/// At the home: whether it uses no GPUs of the host without a proof that it has verified. A site that
/// trusts its own nodes as declared trusts those of its hosts.
pub(crate) fn are_required(state: &State, host: &SiteId) -> bool {
    let trust = state.site.as_ref().and_then(|site| site.trust);
    let asks = health::asks_for_proofs(state) && trust == Some(Trust::Proven);
    asks && are_shown(state, host)
}

/// At the home: whether the host shows proofs.
pub(crate) fn are_shown(state: &State, host: &SiteId) -> bool {
    state.version >= SINCE && state.peers.get(host).is_some_and(|peer| peer.shows)
}

/// Whether the host tells the slot's GPUs as it should: otherwise it tells none of them.
pub(crate) fn is_told_well(slot: &Slot) -> bool {
    slot.which.len() as u64 == u64::from(slot.gpus.0)
        && slot.which.is_sorted_by(|one, other| one.index < other.index)
}

/// The keys of the proofs that a slot tells of.
fn keys(slot: &Slot) -> impl Iterator<Item = ProofKey> {
    let with = slot.which.iter().filter(|gpu| gpu.proof != Revision(0));
    with.map(|gpu| key(slot, gpu))
}

/// The key of the proof that a slot tells of one of its GPUs.
fn key(slot: &Slot, gpu: &SlotGpu) -> ProofKey {
    ProofKey { node: slot.node.clone(), index: gpu.index, number: gpu.proof }
}

/// At the home: what was verified of the proof that a slot tells of one of its GPUs.
pub(crate) fn of<'a>(held: &'a Held, slot: &Slot, gpu: &SlotGpu) -> Option<&'a HeldProof> {
    find(&held.proofs, &key(slot, gpu))
}

fn find<'a>(proofs: &'a [HeldProof], key: &ProofKey) -> Option<&'a HeldProof> {
    let at = proofs.binary_search_by(|it| it.key.cmp(key)).ok()?;
    proofs.get(at)
}

/// At the home: whether a loan names the GPU.
pub(crate) fn is_named(
    state: &State,
    (host, grant): (&SiteId, GrantId),
    node: &NodeId,
    gpu: GpuIndex,
) -> bool {
    state.named.contains(&NamedKey { host: host.clone(), grant, node: node.clone(), gpu })
}

/// At the home: proofs that the host tells of, and that are not verified.
pub(crate) fn lacking(state: &State, host: &SiteId) -> Vec<ProofKey> {
    let open = state.held_at(host).filter(|(_, held)| !held.recalled && !held.returned);
    open.flat_map(|(_, held)| lacking_of(held)).collect()
}

/// Those of one grant.
pub(crate) fn lacking_of(held: &Held) -> impl Iterator<Item = ProofKey> + '_ {
    let all = held.slots.iter().flat_map(keys);
    all.filter(|key| find(&held.proofs, key).is_none())
}

/// At the home: what stays verified when a grant's slots are told anew.
pub(crate) fn kept(before: Option<&Held>, slots: &[Slot]) -> Vec<HeldProof> {
    let Some(before) = before.filter(|held| !held.proofs.is_empty()) else { return Vec::new() };
    let mut kept: Vec<HeldProof> =
        slots.iter().flat_map(keys).filter_map(|key| find(&before.proofs, &key).cloned()).collect();
    sort(&mut kept);
    kept
}

fn sort(proofs: &mut Vec<HeldProof>) {
    proofs.sort_by(|one, other| one.key.cmp(&other.key));
    proofs.dedup_by(|one, other| one.key == other.key);
}

/// Takes in what was verified, of GPUs that are still told with that number.
pub(crate) fn record(state: &mut State, fx: &mut Effects, it: &RecordProofs) -> Reply {
    if state.version < SINCE {
        return Reply::NoOp("the site's version takes in no proofs of peers");
    }
    let mut told: BTreeMap<ProofKey, GrantId> = BTreeMap::new();
    for (grant, held) in state.held_at(&it.peer) {
        told.extend(held.slots.iter().flat_map(keys).map(|key| (key, grant)));
    }
    let mut by_grant: BTreeMap<GrantId, Vec<HeldProof>> = BTreeMap::new();
    for proof in &it.proofs {
        if let Some(grant) = told.get(&proof.key) {
            by_grant.entry(*grant).or_default().push(proof.clone());
        }
    }
    if by_grant.is_empty() {
        return Reply::NoOp("none of the GPUs is told with that proof");
    }
    for (grant, proofs) in by_grant {
        let key = HeldKey { host: it.peer.clone(), grant };
        let Some(held) = state.agreed.held.get_mut(&key) else { continue };
        held.proofs.extend(proofs);
        sort(&mut held.proofs);
    }
    fx.insert(Effect::Plan);
    Reply::Done
}

/// At the home: what to keep of a proof whose signature is that of the node's agent, so long after it
/// was asked for at the least.
///
/// # Errors
/// Why it proves nothing, in words.
pub(crate) fn judge(
    host: &SiteId,
    it: &ShownProof,
    (at, since_asked): (Timestamp, Millis),
) -> Result<HeldProof, String> {
    let said = HealthProof::decode(&it.proof.body.0).map_err(|error| error.to_string())?;
    let ProofKey { node, index, .. } = &it.key;
    if said.site != *host || said.node != *node || said.index != *index {
        let (site, node, index) = (&said.site, &said.node, said.index);
        return Err(alloc::format!("it is of GPU {index} of {node} at {site}"));
    }
    if !said.tier.proves() {
        return Err(alloc::format!("{} proves too little", said.tier));
    }
    if !said.names_its_kernels() {
        return Err(alloc::format!("its kernels are not those of agents of {}", said.agent));
    }
    // Its age was told later than it was asked for.
    let passed_at = Timestamp(at.0.saturating_sub(since_asked.0).saturating_sub(it.age.0));
    let apart = said.passed_at.0.abs_diff(passed_at.0);
    if apart > CLOCKS_APART_MAX {
        let hours = apart / 3_600_000;
        return Err(alloc::format!("it was signed {hours} h apart from the age that is told"));
    }
    let expires_at = Timestamp(passed_at.0.saturating_add(said.valid_for.0.min(VALID_MAX)));
    if expires_at <= at {
        return Err("it has expired".into());
    }
    Ok(HeldProof { key: it.key.clone(), tier: said.tier, passed_at, expires_at })
}

impl HeldProof {
    /// Whether it holds then, and is what is demanded.
    pub(crate) fn will_do(&self, need: Option<&ProofNeed>, at: Timestamp) -> bool {
        let age = Millis(at.0.saturating_sub(self.passed_at.0));
        self.expires_at > at && need.is_none_or(|need| need.is_met(self.tier, age))
    }
}

#[cfg(test)]
mod tests {
    use specs::gpu::BurnInTier;

    use super::*;
    use crate::command::{Command, RecordPeer};

    #[test]
    fn what_is_recorded_of_a_peer_s_proofs_keeps_its_bytes() {
        let name = |name: &str| name.parse().expect("a name that keeps the rules");
        let key = ProofKey { node: name("n1"), index: GpuIndex(3), number: Revision(300) };
        let proof = HeldProof {
            key,
            tier: BurnInTier::T3,
            passed_at: Timestamp(7),
            expires_at: Timestamp(9),
        };
        let peer: SiteId = "giga".parse().expect("a name that keeps the rules");
        let record = RecordProofs { peer: peer.clone(), proofs: [proof].into() };
        let peer_bytes = [0x0a, 4, b'g', b'i', b'g', b'a'];
        let key = [0x0a, 9, 0x0a, 2, b'n', b'1', 0x10, 3, 0x18, 0xac, 2];
        let rest = [0x10, 4, 0x18, 7, 0x20, 9];
        let bytes = [&[0x8a, 3, 25][..], &peer_bytes, &[0x12, 17], &key, &rest].concat();
        assert_eq!(Command::RecordProofs(record.clone()).encode(), bytes);
        assert_eq!(Command::decode(&bytes), Ok(Command::RecordProofs(record)));
        let (grants, guests) = (Vec::new(), Vec::new());
        let (revision, at) = (Revision(1), Timestamp(2));
        let record = RecordPeer { peer, revision, grants, guests, at, shows: true };
        let bytes = [&peer_bytes[..], &[0x10, 1, 0x28, 2, 0x50, 1]].concat();
        assert_eq!(record.encode(), bytes);
    }
}
