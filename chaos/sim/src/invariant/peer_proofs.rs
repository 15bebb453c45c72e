//! A home uses granted GPUs whose proofs it has verified, and no others; what it keeps of a proof makes
//! that no younger than its host counts it. Source: the design's contract on proofs, decision 0027. The
//! rules are written down here a second time.

use std::collections::BTreeSet;

use federation_core::{JobPhase, RecordProofs};
use gpu_agent_core::Known;
use specs::codec::Message;
use specs::gpu::HealthProof;
use specs::id::GpuIndex;
use specs::unit::{Millis, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::peer::{PeerReport, ShownProof};

use crate::invariant::Found;
use crate::shown;
use crate::world::{CtlRef, NodeRef, World};

const VERIFIED: &str = "a home uses only GPUs of a peer whose proofs it has verified";
const NAMED: &str = "a guest runs on the GPUs that its home names";
const AGE: &str = "a peer's proof is taken for no younger than it is";
/// However wrong a clock runs.
const DRIFT_PERMILLE: u64 = 10;

/// A home's leader takes in proofs that a report showed: each is of the very GPU, signed by its node's
/// agent, and as old as the host says, and as the report was on its way for.
pub(crate) fn on_record(
    world: &mut World,
    at: CtlRef,
    (report, record): (&PeerReport, &RecordProofs),
    wall: Timestamp,
) -> Found {
    let mut found = Found::new();
    let sent = world.oracle.asked.get(&(report.host.clone(), report.question)).copied();
    let travelled = sent.map_or(0, |sent| world.now.since(sent).0);
    for proof in &record.proofs {
        let key = &proof.key;
        let shown = report.proofs.iter().find(|it| it.key == *key);
        let Some(shown) = shown.filter(|it| is_of(report, it)) else {
            found.push((VERIFIED, format!("{key:?} of {} is not its own", report.host)));
            continue;
        };
        let age = wall.0.saturating_sub(proof.passed_at.0);
        let least = shown.age.0 + travelled - travelled * DRIFT_PERMILLE / 1_000;
        if age + 1 < least {
            found.push((AGE, format!("{key:?} of {}: {age} ms, not {least}", report.host)));
        }
        let gpu = (report.host.clone(), key.node.clone(), key.index);
        world.oracle.verified.insert((at.site, gpu));
    }
    found
}

fn is_of(report: &PeerReport, it: &ShownProof) -> bool {
    let said = HealthProof::decode(&it.proof.body.0);
    it.proof.signature == shown::signature(&report.host, &it.key.node)
        && said.is_ok_and(|said| {
            (&said.site, &said.node, said.index) == (&report.host, &it.key.node, it.key.index)
        })
}

fn is_new(world: &World, site: usize) -> bool {
    world.sites[site].log.latest().version >= ClusterVersion::PEER_PROOFS
}

/// A guest starts.
pub(crate) fn on_start(
    world: &World,
    at: NodeRef,
    known: &Known,
    gpus: &[GpuIndex],
    demands: bool,
) -> Found {
    let Some(home) = world.site_index(&known.home).filter(|home| *home != at.site) else {
        return Found::new();
    };
    let mut found = Found::new();
    if !is_new(world, home) || !is_new(world, at.site) {
        if demands {
            let detail = format!("{} runs a guest that demands", world.node_name(at));
            found.push((VERIFIED, detail));
        }
        return found;
    }
    let (node, host) = (&world.node(at).id, &world.sites[at.site].name);
    for gpu in gpus {
        let it = (home, (host.clone(), node.clone(), *gpu));
        if !world.oracle.verified.contains(&it) {
            found.push((VERIFIED, format!("{} GPU {gpu}: {}", world.node_name(at), known.job)));
        }
    }
    let state = world.sites[home].log.latest();
    let job = state.jobs.get(&known.job).filter(|job| job.epoch == known.epoch);
    if let Some(JobPhase::Loaned(loan)) = job.map(|job| &job.phase) {
        let slots = loan.slots.iter().filter(|slot| slot.node == *node);
        let named: BTreeSet<GpuIndex> = slots.flat_map(|slot| slot.which.clone()).collect();
        if named != gpus.iter().copied().collect() {
            let what = format!("{}: {gpus:?}, not {named:?}", world.node_name(at));
            found.push((NAMED, what));
        }
    }
    found
}

/// How long a report may be on its way and still be remembered.
pub(crate) const REMEMBERED: Millis = Millis(120_000);
