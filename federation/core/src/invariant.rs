//! What must be true of agreed state after every command.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::{GpuIndex, GrantId, LeaseId, NodeId, SiteId};
use specs::job::GPU_MILLI;
use specs::wire::peer::{GuestPhase, ProofKey, SlotGpu};

use crate::placement::fits;
use crate::placement::pool::{self, Pool};
use crate::state::{JobPhase, Lease, Node, State};

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Its name, as metrics carry it.
    pub invariant: &'static str,
    /// What was found.
    pub detail: String,
}

/// Lists what is broken; nothing if the state is sound. Linear in the state: for simulation and
/// for tests.
#[must_use]
pub fn check(state: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    gpus_match_leases(state, &mut found);
    shares_match_leases(state, &mut found);
    gpus_match_grants(state, &mut found);
    pools_add_up(state, &mut found);
    jobs_match_leases(state, &mut found);
    guests_match_leases(state, &mut found);
    proofs_are_told(state, &mut found);
    indexes_match(state, &mut found);
    found
}

fn push(found: &mut Vec<Violation>, invariant: &'static str, detail: String) {
    found.push(Violation { invariant, detail });
}

type GpuKey = (NodeId, GpuIndex);

/// S4: a GPU has one lease, and exactly the leases' GPUs are marked.
fn gpus_match_leases(state: &State, found: &mut Vec<Violation>) {
    let name = "a GPU has one owner";
    let mut owners: BTreeMap<GpuKey, LeaseId> = BTreeMap::new();
    for lease in state.leases.values() {
        for part in lease.parts.iter().filter(|part| part.outcome.is_none() && part.milli == 0) {
            for gpu in &part.gpus {
                if let Some(other) = owners.insert((part.node.clone(), *gpu), lease.id) {
                    let detail =
                        alloc::format!("{} gpu {gpu}: {other} and {}", part.node, lease.id);
                    push(found, name, detail);
                }
            }
        }
    }
    for node in state.nodes.values() {
        for gpu in &node.gpus {
            let owner = owners.remove(&(node.id.clone(), gpu.info.index));
            if owner != gpu.lease {
                let detail = alloc::format!(
                    "{} gpu {}: marked {:?}, leased {owner:?}",
                    node.id,
                    gpu.info.index,
                    gpu.lease
                );
                push(found, name, detail);
            }
        }
    }
    if let Some(((node, gpu), lease)) = owners.into_iter().next() {
        push(found, name, alloc::format!("{lease} names {node} gpu {gpu}, which is not there"));
    }
}

/// S4 for parts of GPUs and for whole nodes: no more is shared than there is, and whoever is to be
/// alone is.
fn shares_match_leases(state: &State, found: &mut Vec<Violation>) {
    let name = "a part of a GPU has one owner";
    let mut wanted: BTreeMap<GpuKey, BTreeMap<LeaseId, u32>> = BTreeMap::new();
    for lease in state.leases.values() {
        for part in lease.parts.iter().filter(|part| part.outcome.is_none() && part.milli > 0) {
            for gpu in &part.gpus {
                let key = (part.node.clone(), *gpu);
                wanted.entry(key).or_default().insert(lease.id, part.milli);
            }
        }
    }
    for node in state.nodes.values() {
        for gpu in &node.gpus {
            let marked: BTreeMap<LeaseId, u32> =
                gpu.shares.iter().map(|share| (share.lease, share.milli)).collect();
            let sum: u32 = gpu.shares.iter().map(|share| share.milli).sum();
            let leased = wanted.remove(&(node.id.clone(), gpu.info.index)).unwrap_or_default();
            let is_whole = gpu.lease.is_some() || gpu.grant.is_some();
            let what = alloc::format!("{} gpu {}", node.id, gpu.info.index);
            if marked != leased || marked.len() != gpu.shares.len() {
                push(found, name, alloc::format!("{what}: marked {marked:?}, leased {leased:?}"));
            }
            if sum > GPU_MILLI || (sum > 0 && is_whole) {
                push(found, name, alloc::format!("{what}: {sum} thousandths beside a whole use"));
            }
        }
        others_beside(state, node, found);
    }
    if let Some(((node, gpu), _)) = wanted.into_iter().next() {
        push(found, name, alloc::format!("{node} gpu {gpu} is shared and is not there"));
    }
}

fn others_beside(state: &State, node: &Node, found: &mut Vec<Violation>) {
    let here: Vec<&Lease> = state.leases_of(&node.id).collect();
    let wanted = here.iter().find(|lease| lease.spec.needs.exclusive).map(|lease| lease.id);
    if node.alone != wanted || (wanted.is_some() && here.len() > 1) {
        let leases: Vec<LeaseId> = here.iter().map(|lease| lease.id).collect();
        let detail = alloc::format!("{}: marked {:?}, leases {leases:?}", node.id, node.alone);
        push(found, "whoever is to be alone on a node is", detail);
    }
}

/// Own jobs and grants have no more of a node's CPU and memory than there is, and guests no more than
/// their home's grants carry.
fn pools_add_up(state: &State, found: &mut Vec<Violation>) {
    for node in state.nodes.values() {
        let promised = fits::promised(state, &node.id);
        if !Pool::of_node(&node.facts).covers(promised) {
            let detail = alloc::format!("{}: {promised:?} is promised", node.id);
            push(found, "no more of a node is promised than there is", detail);
        }
        if node.gpus.iter().any(|gpu| gpu.carries && gpu.grant.is_none()) {
            let detail = alloc::format!("{}: a GPU carries and is not granted", node.id);
            push(found, "only what is granted carries", detail);
        }
        let homes: BTreeSet<&SiteId> = state.leases_of(&node.id).map(|lease| &lease.home).collect();
        for home in homes.into_iter().filter(|home| !state.is_own(home)) {
            let used = pool::used(state, home, &node.id);
            let carried = pool::granted(state, home, &node.id);
            if !carried.covers(used) {
                let what = alloc::format!("{}, guests of {home}", node.id);
                let detail = alloc::format!("{what}: {used:?} of {carried:?}");
                push(found, "guests use what their home's grants carry", detail);
            }
        }
    }
}

/// S5: a GPU is granted once, a granted GPU is leased to no one but its home.
fn gpus_match_grants(state: &State, found: &mut Vec<Violation>) {
    let name = "escrow adds up";
    let mut owners: BTreeMap<GpuKey, GrantId> = BTreeMap::new();
    for grant in state.grants.values() {
        for slot in &grant.slots {
            for gpu in &slot.gpus {
                if owners.insert((slot.node.clone(), *gpu), grant.id).is_some() {
                    push(found, name, alloc::format!("{} gpu {gpu} is granted twice", slot.node));
                }
            }
        }
    }
    for node in state.nodes.values() {
        for gpu in &node.gpus {
            let owner = owners.remove(&(node.id.clone(), gpu.info.index));
            if owner != gpu.grant {
                let what = alloc::format!("{} gpu {}", node.id, gpu.info.index);
                push(found, name, alloc::format!("{what}: {:?}, granted {owner:?}", gpu.grant));
            }
            let (Some(lease), Some(grant)) = (gpu.lease, gpu.grant) else { continue };
            let home = state.leases.get(&lease).map(|lease| &lease.home);
            if home != state.grants.get(&grant).map(|grant| &grant.home) {
                push(found, name, alloc::format!("{lease} uses {grant}, which is another's"));
            }
        }
    }
}

/// A job that runs here has its lease, and a lease of ours its job.
fn jobs_match_leases(state: &State, found: &mut Vec<Violation>) {
    let name = "a job has the lease it names";
    let mut named = BTreeSet::new();
    for job in state.jobs.values() {
        let JobPhase::Leased(leased) = &job.phase else { continue };
        named.insert(leased.lease);
        let same = state.leases.get(&leased.lease).is_some_and(|lease| {
            lease.job == job.id && lease.epoch == job.epoch && state.is_own(&lease.home)
        });
        if !same {
            push(found, name, alloc::format!("{} names {}", job.id, leased.lease));
        }
    }
    for lease in state.leases.values().filter(|lease| state.is_own(&lease.home)) {
        if !named.contains(&lease.id) {
            push(found, name, alloc::format!("{} of {} is an orphan", lease.id, lease.job));
        }
    }
}

fn guests_match_leases(state: &State, found: &mut Vec<Violation>) {
    let name = "a guest has the lease it names";
    for guest in state.guests.values() {
        let lease = guest.lease.and_then(|id| state.leases.get(&id));
        let alive = guest.phase != GuestPhase::Ended;
        if alive != lease.is_some_and(|lease| lease.job == guest.key.job) {
            push(found, name, alloc::format!("{} {}", guest.key.home, guest.key.job));
        }
        if alive == guest.outcome.is_some() {
            push(found, name, alloc::format!("{} ended without an outcome", guest.key.job));
        }
    }
}

/// A verified proof is of a GPU that its host tells, with that number.
fn proofs_are_told(state: &State, found: &mut Vec<Violation>) {
    for (key, held) in state.held.iter() {
        let told = |it: &ProofKey| {
            let mut slots = held.slots.iter().filter(|slot| slot.node == it.node);
            let of_gpu = |gpu: &SlotGpu| (gpu.index, gpu.proof) == (it.index, it.number);
            slots.any(|slot| slot.which.iter().any(of_gpu))
        };
        let in_order = held.proofs.is_sorted_by(|one, other| one.key < other.key);
        if !in_order || !held.proofs.iter().all(|it| told(&it.key)) {
            let detail = alloc::format!("{} of {}", key.grant, key.host);
            push(found, "a verified proof is of a GPU that is told", detail);
        }
    }
}

/// The indexes are what they would be if they were made anew.
fn indexes_match(state: &State, found: &mut Vec<Violation>) {
    match State::decode(&state.encode()) {
        Ok(again) if again == *state => {}
        Ok(_) => {
            let detail = "decoding its own snapshot gives another state".into();
            push(found, "indexes follow from the state", detail);
        }
        Err(error) => {
            push(found, "indexes follow from the state", alloc::format!("{error}"));
        }
    }
}
