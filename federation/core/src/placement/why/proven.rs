//! Why a job does not run at a peer whose GPUs have no proofs that will do, in numbers.

use alloc::string::String;

use specs::job::JobSpec;
use specs::unit::Timestamp;
use specs::wire::peer::{ClassCapacity, Slot, SlotGpu};

use super::proof_words;
use crate::exchange::proofs;
use crate::placement::fits;
use crate::state::{Peer, State};

/// GPUs that are granted to this site and that no loan names, and how many of them have no proof that
/// will do.
fn granted(state: &State, spec: &JobSpec, peer: &Peer, at: Timestamp) -> (u32, u32) {
    let need = spec.needs.proof.as_ref();
    let (mut all, mut lacking) = (0, 0);
    for (grant, held) in state.held_at(&peer.site).filter(|(_, it)| !it.recalled && !it.returned) {
        let is_open = |slot: &Slot, gpu: &SlotGpu| {
            !proofs::is_named(state, (&peer.site, grant), &slot.node, gpu.index)
        };
        for slot in held.slots.iter().filter(|slot| fits::class_will_do(spec, &slot.class)) {
            for gpu in slot.which.iter().filter(|gpu| is_open(slot, gpu)) {
                let proof = proofs::of(held, slot, gpu);
                all += 1;
                lacking += u32::from(!proof.is_some_and(|proof| proof.will_do(need, at)));
            }
        }
    }
    (all, lacking)
}

/// What binds and what would change it, if it is proofs.
pub(super) fn why(
    state: &State,
    spec: &JobSpec,
    (peer, capacity): (&Peer, &[ClassCapacity]),
    at: Timestamp,
) -> Option<(String, String)> {
    let need = spec.needs.proof.as_ref();
    if need.is_none() && !proofs::are_required(state, &peer.site) {
        return None;
    }
    if !proofs::are_shown(state, &peer.site) {
        let constraint = "it shows no proofs of its GPUs: its version is older";
        return Some((constraint.into(), "no spec.health, or version 8 there".into()));
    }
    let words = need.map_or_else(|| "proof".into(), proof_words);
    let (all, lacking) = granted(state, spec, peer, at);
    if lacking > 0 && all - lacking < spec.gpus().0 {
        let constraint =
            alloc::format!("{lacking} of {all} GPUs granted there have no {words} that holds here");
        return Some((constraint, "burn-ins there, or another spec.health".into()));
    }
    let fitting = || capacity.iter().filter(|it| fits::class_will_do(spec, &it.class));
    let total: u32 = fitting().map(|it| it.total.0).sum();
    let proven: u32 = fitting().map(|it| it.proven.0).sum();
    let is_short = fitting().all(|it| it.proven < spec.gpus()) && total >= spec.gpus().0;
    is_short.then(|| {
        let constraint = alloc::format!(
            "{proven} of {total} GPUs there have a proof to show, the job asks {}",
            spec.gpus()
        );
        (constraint, "burn-ins there".into())
    })
}
