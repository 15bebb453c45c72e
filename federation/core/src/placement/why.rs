//! Why a job is not running: per site the constraint that binds, and what would change it.

mod proven;
mod there;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use specs::gpu::ProofNeed;
use specs::id::{Country, SiteId};
use specs::job::JobSpec;
use specs::unit::{Instant, Millis};
use specs::version::ClusterVersion;
use specs::wire::client::{QueueWhy, SiteWhy};
use specs::wire::peer::ClassCapacity;

use crate::leader::{Leader, could_carry, could_hold};
use crate::placement::capacity::screen::{Binding, Unproven};
use crate::placement::fits;
use crate::placement::fleet::{Level, Shortage};
use crate::placement::sites::data;
use crate::queue::why::of_bound;
use crate::quota::Taken;
use crate::state::{Job, JobPhase, Peer, State};
pub(crate) use there::span;

/// Whether any site could ever hold the gang, going by what each said it has. A peer that was
/// never heard may be able to.
#[must_use]
pub fn could_ever_run(state: &State, leader: &mut Leader, spec: &JobSpec) -> bool {
    if state.site.is_none() {
        return true;
    }
    let here = fits::may_be_here(state, spec) && leader.capacity(state).could_hold(spec);
    let awaited = leader.capacity(state).awaits_nodes();
    here || awaited
        || state.peers.values().any(|peer| {
            let said = leader.peer_capacity(&peer.site);
            fits::may_leave(state, spec)
                && fits::may_go(state, spec, &peer.site, peer.country)
                && (said.is_empty() || said.iter().any(|class| could_hold(class, spec)))
        })
}

fn wanted_classes(spec: &JobSpec) -> String {
    let wanted: Vec<String> = spec.gpu_classes.iter().map(ToString::to_string).collect();
    if wanted.is_empty() { "any class".into() } else { wanted.join(" or ") }
}

fn name(level: Level) -> &'static str {
    match level {
        Level::Hall => "hall",
        Level::Rack => "rack",
        Level::Domain => "NVLink domain",
    }
}

/// What binds here, and the number that would change it.
fn say(shortage: &Shortage, spec: &JobSpec) -> (String, String) {
    let ask = alloc::format!("{} x {} GPUs", spec.nodes, spec.gpus_per_node);
    let each = spec.gpus_per_node.0;
    match *shortage {
        Shortage::NoNode { of_class: 0 } => {
            (alloc::format!("has no GPU of {}", wanted_classes(spec)), "another GPU class".into())
        }
        Shortage::NoNode { of_class } => (
            alloc::format!("none of its {of_class} nodes of the class has the attributes"),
            "other attributes".into(),
        ),
        Shortage::NodeTooSmall { gpus, .. } if gpus < each => (
            alloc::format!("its largest node has {gpus} GPUs, the job asks {ask}"),
            alloc::format!("at most {gpus} GPUs per node"),
        ),
        Shortage::NodeTooSmall { cpu_milli, memory_mib, .. } => (
            alloc::format!("its largest node has {cpu_milli} milli-CPU and {memory_mib} MiB"),
            "less CPU or memory per node".into(),
        ),
        Shortage::TooFewNodes { nodes } => (
            alloc::format!("has {nodes} nodes that would do, the job asks {ask}"),
            alloc::format!("{} more nodes", spec.nodes.saturating_sub(nodes)),
        ),
        Shortage::GroupTooSmall { level, nodes, wanted } => {
            let level = name(level);
            let constraint = alloc::format!(
                "{level}-local: its largest {level} has {} of {} GPUs",
                nodes * each,
                wanted * each
            );
            (constraint, alloc::format!("at most {nodes} nodes in one {level}"))
        }
        Shortage::Gpus { nodes, free, total } => {
            let constraint = alloc::format!(
                "{nodes} nodes with {each} GPUs free, the job needs {}; {free} of {total} GPUs are free",
                spec.nodes
            );
            let more = spec.nodes.saturating_sub(nodes);
            (constraint, alloc::format!("{more} more nodes with {each} GPUs free"))
        }
        Shortage::Rest { nodes } => (
            alloc::format!(
                "{nodes} nodes have CPU and memory left beside the GPUs, the job asks {ask}"
            ),
            alloc::format!("{} more nodes with both", spec.nodes.saturating_sub(nodes)),
        ),
        Shortage::Group { level, nodes, wanted, .. } => {
            let level = name(level);
            let constraint = alloc::format!(
                "{level}-local: largest free in one {level} is {} of {} GPUs",
                nodes * each,
                wanted * each
            );
            (constraint, alloc::format!("{} more free nodes in it", wanted.saturating_sub(nodes)))
        }
    }
}

fn sum_up(capacity: &[ClassCapacity], spec: &JobSpec) -> (String, String) {
    let ask = alloc::format!("{} x {} GPUs", spec.nodes, spec.gpus_per_node);
    let fitting: Vec<_> =
        capacity.iter().filter(|it| fits::class_will_do(spec, &it.class)).collect();
    if fitting.is_empty() {
        let wanted = wanted_classes(spec);
        return (alloc::format!("has no GPU of {wanted}"), "another GPU class".into());
    }
    let free: u32 = fitting.iter().map(|it| it.free.0).sum();
    let total: u32 = fitting.iter().map(|it| it.total.0).sum();
    let node = fitting.iter().map(|it| it.node_gpus_max.0).max().unwrap_or(0);
    if node < spec.gpus_per_node.0 {
        let constraint = alloc::format!("its largest node has {node} GPUs, the job asks {ask}");
        return (constraint, alloc::format!("at most {node} GPUs per node"));
    }
    if !fitting.iter().any(|it| could_carry(it, spec)) {
        return too_little_carried(&fitting, spec);
    }
    if total < spec.gpus().0 {
        let constraint = alloc::format!("has {total} GPUs that would do, the job asks {ask}");
        return (constraint, alloc::format!("{} more GPUs", spec.gpus().0 - total));
    }
    let missing = spec.gpus().0.saturating_sub(free);
    let constraint = alloc::format!("{free} of {total} GPUs free, the job asks {ask}");
    let change = if missing > 0 {
        alloc::format!("{missing} more free GPUs")
    } else {
        alloc::format!("{} free on each of {} nodes", spec.gpus_per_node, spec.nodes)
    };
    (constraint, change)
}

/// Whether a grant there could carry what the job asks for beside its GPUs.
fn is_carried(capacity: &[ClassCapacity], spec: &JobSpec) -> bool {
    let mut fitting = capacity.iter().filter(|it| fits::class_will_do(spec, &it.class));
    fitting.any(|it| could_carry(it, spec))
}

/// What a loan there brings beside its GPUs is not enough.
fn too_little_carried(fitting: &[&ClassCapacity], spec: &JobSpec) -> (String, String) {
    let (needs, gpus) = (&spec.needs, spec.gpus_per_node);
    let most = |each: fn(&ClassCapacity) -> u32| {
        let most = fitting.iter().map(|it| each(it)).max().unwrap_or(0);
        most.saturating_mul(gpus.0)
    };
    let (cpu, memory) = (most(|it| it.gpu_cpu_milli), most(|it| it.gpu_memory_mib));
    if needs.exclusive && cpu >= needs.cpu_milli && memory >= needs.memory_mib {
        let sizes = fitting.iter().map(|it| it.node_gpus_max);
        let size = sizes.max().unwrap_or_default();
        let constraint = alloc::format!(
            "a loan has nodes for itself with all their GPUs: they have {size}, the job asks {gpus}"
        );
        return (constraint, alloc::format!("{size} GPUs per node"));
    }
    if (cpu, memory) == (0, 0) {
        let constraint =
            "its loans carry GPUs alone: its version is older, or its nodes do not say";
        return (constraint.into(), "no CPU and no memory asked for".into());
    }
    let constraint = alloc::format!(
        "{gpus} GPUs of a node carry {cpu} milli-CPU and {memory} MiB there, the job asks {} and {}",
        needs.cpu_milli,
        needs.memory_mib
    );
    (constraint, alloc::format!("at most {cpu} milli-CPU and {memory} MiB per node"))
}

fn one_site(site: &SiteId, constraint: impl Into<String>, change: impl Into<String>) -> SiteWhy {
    let (constraint, change) = (constraint.into(), change.into());
    SiteWhy { site: site.clone(), constraint, change, cost: None }
}

/// Per site, why the job does not run there at present; nothing for a job that does not wait.
#[must_use]
pub fn why(state: &State, leader: &mut Leader, now: Instant, job: &Job) -> Vec<SiteWhy> {
    let spec = &job.spec();
    let mut reasons = Vec::new();
    let Some(site) = &state.site else { return reasons };
    let JobPhase::Queued(_) = job.phase else { return reasons };
    let bound = Taken::default().closed(state, job, spec).err();
    let bound = bound.map(|bound| of_bound(&bound, spec.gpus().0));
    let binding = leader.binding(state, spec);
    let home_could = fits::may_be_here(state, spec) && leader.capacity(state).could_hold(spec);
    reasons.push(match forbids(state, spec, &site.site, site.country) {
        Some(why) => why,
        None => match (&bound, binding) {
            (Some(bound), _) => of_quota(&site.site, bound),
            (None, Err(Binding::Room(shortage))) => {
                let (constraint, change) = say(&shortage, spec);
                one_site(&site.site, constraint, change)
            }
            (None, Err(Binding::Proofs(unproven))) => of_proofs(&site.site, unproven, spec),
            (None, Ok(())) => one_site(&site.site, fits_here(leader, job), ""),
        },
    });
    let seen = leader.seen_since(job.id);
    let waited = seen.map_or(Millis::ZERO, |since| now.since(since));
    let sites = leader.sites(now, state);
    let weighed = sites.weigh_anew(job, spec);
    let patience = weighed.patience(|| home_could);
    for peer in state.peers.values() {
        let place = weighed.candidates.iter().find(|it| it.site == peer.site);
        let told = (peer, leader.peer_capacity(&peer.site));
        let unproven = proven::why(state, spec, told, leader.wall());
        let mut why = match (refuses(state, leader, now, spec, peer), &bound) {
            (Some(why), _) => why,
            (None, Some(bound)) => of_quota(&peer.site, bound),
            (None, None) if let Some((constraint, change)) = unproven => {
                one_site(&peer.site, constraint, change)
            }
            (None, None) => match place {
                // What is held there already may carry it, but no new grant will.
                Some(it) if is_carried(leader.peer_capacity(&peer.site), spec) => {
                    there::why(spec, &weighed, it, (waited, patience), sites.told(&peer.site))
                }
                Some(_) | None => {
                    let (constraint, change) = sum_up(leader.peer_capacity(&peer.site), spec);
                    one_site(&peer.site, constraint, change)
                }
            },
        };
        why.cost = place.map(|it| there::cost(&weighed, it, patience));
        reasons.push(why);
    }
    reasons
}

fn of_quota(site: &SiteId, bound: &QueueWhy) -> SiteWhy {
    one_site(site, alloc::format!("quota: {}", bound.constraint), bound.change.clone())
}

/// GPUs are free, and their proofs are not what the job demands.
fn of_proofs(site: &SiteId, unproven: Unproven, spec: &JobSpec) -> SiteWhy {
    let Unproven { lacking, free } = unproven;
    let need = spec.needs.proof.as_ref().map(proof_words).unwrap_or_default();
    let constraint = alloc::format!("{lacking} of {free} free GPUs have no {need}");
    one_site(site, constraint, "federation node burn-in start NODE, or another spec.health")
}

/// A demand in words: `t3 proof younger than 24 h`.
fn proof_words(need: &ProofNeed) -> String {
    let tier = need.tier;
    let units = [(3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let whole = units.iter().find(|(unit, _)| need.age_max.0.is_multiple_of(*unit));
    match whole.filter(|_| need.age_max > Millis::ZERO) {
        Some((unit, name)) => {
            alloc::format!("{tier} proof younger than {} {name}", need.age_max.0 / unit)
        }
        None => alloc::format!("{tier} proof"),
    }
}

fn fits_here(leader: &Leader, job: &Job) -> String {
    match leader.kept().filter(|(kept, _, _)| *kept != job.id) {
        Some((kept, nodes, _)) => {
            alloc::format!("fits, but for {} nodes that are kept for {kept}", nodes.len())
        }
        None => "fits; the next plan takes it".into(),
    }
}

/// The policy that forbids the site.
fn forbids(state: &State, spec: &JobSpec, site: &SiteId, country: Country) -> Option<SiteWhy> {
    if !fits::may_run_at(spec, site, country) {
        return Some(one_site(site, "its policy forbids this site", "spec.placement"));
    }
    let (name, set) = data::forbidden(state, spec, site, country)?;
    let list = |what: &str, names: Vec<String>| {
        (!names.is_empty()).then(|| alloc::format!("{what} {}", names.join(", ")))
    };
    let countries = list("in", set.countries.iter().map(ToString::to_string).collect());
    let sites = list("at", set.sites.iter().map(ToString::to_string).collect());
    let only: Vec<String> = countries.into_iter().chain(sites).collect();
    let constraint = alloc::format!("data: {name} may only be used {}", only.join(", "));
    Some(one_site(site, constraint, alloc::format!("federation site data add {name}")))
}

/// What of a job's needs no loan of this site carries.
fn carries_not(state: &State, spec: &JobSpec) -> (&'static str, &'static str) {
    let needs = &spec.needs;
    let is_old = |version| state.version < version;
    if needs.gpu_milli > 0 {
        ("the job asks for a part of a GPU, which no loan carries", "whole GPUs")
    } else if needs.proof.is_some() {
        (
            "a loan demands proofs from version 8 of this site on",
            "federation upgrade finalize, or no spec.health",
        )
    } else if needs.exclusive {
        (
            "a loan has nodes for itself from version 7 of this site on",
            "federation upgrade finalize",
        )
    } else if needs.ask_beside_gpus() && is_old(ClusterVersion::DEMANDS) {
        (
            "a loan carries CPU and memory from version 7 of this site on",
            "federation upgrade finalize",
        )
    } else {
        (
            "a loan carries places and attributes from version 6 of this site on",
            "federation upgrade finalize",
        )
    }
}

/// Why a peer is not even weighed.
fn refuses(
    state: &State,
    leader: &Leader,
    now: Instant,
    spec: &JobSpec,
    peer: &Peer,
) -> Option<SiteWhy> {
    let site = &peer.site;
    if !spec.placement.spill {
        return Some(one_site(site, "the job may not spill", "spec.placement.spill: true"));
    }
    if !fits::may_leave(state, spec) {
        let (constraint, change) = carries_not(state, spec);
        return Some(one_site(site, constraint, change));
    }
    if let Some(why) = forbids(state, spec, site, peer.country) {
        return Some(why);
    }
    if peer.suspicion.is_some() {
        let silent = leader.peer_silence(now, site).map(|span| span.0 / 1_000);
        let constraint = match silent {
            Some(seconds) => alloc::format!("not heard for {seconds} s"),
            None => "not heard".into(),
        };
        return Some(one_site(site, constraint, "the link to it"));
    }
    let is_silent = leader.peer_capacity(site).is_empty();
    is_silent.then(|| one_site(site, "has not said yet what it has", "its first report"))
}
