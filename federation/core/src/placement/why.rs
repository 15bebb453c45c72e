//! Why a job is not running: per site the constraint that binds, and what would change it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use specs::id::SiteId;
use specs::job::JobSpec;
use specs::unit::Instant;
use specs::wire::client::SiteWhy;
use specs::wire::peer::ClassCapacity;

use crate::leader::{Leader, could_hold};
use crate::placement::fits;
use crate::placement::fleet::{Level, Shortage};
use crate::state::{Job, JobPhase, State};

/// Whether any site could ever hold the gang, going by what each said it has. A peer that was
/// never heard may be able to.
#[must_use]
pub fn could_ever_run(state: &State, leader: &mut Leader, spec: &JobSpec) -> bool {
    let Some(site) = &state.site else { return true };
    let here =
        fits::may_run_at(spec, &site.site, site.country) && leader.capacity(state).could_hold(spec);
    let awaited = leader.capacity(state).awaits_nodes();
    here || awaited
        || state.peers.values().any(|peer| {
            let said = leader.peer_capacity(&peer.site);
            fits::may_leave(state, spec)
                && fits::may_run_at(spec, &peer.site, peer.country)
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
            let constraint = alloc::format!("{free} of {total} GPUs free, the job asks {ask}");
            let missing = spec.gpus().0.saturating_sub(free);
            let change = if missing > 0 {
                alloc::format!("{missing} more free GPUs")
            } else {
                alloc::format!("{each} free on each of {} nodes; {nodes} have them", spec.nodes)
            };
            (constraint, change)
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

fn one_site(site: &SiteId, constraint: impl Into<String>, change: impl Into<String>) -> SiteWhy {
    SiteWhy { site: site.clone(), constraint: constraint.into(), change: change.into() }
}

/// Per site, why the job does not run there at present; nothing for a job that does not wait.
#[must_use]
pub fn why(state: &State, leader: &mut Leader, now: Instant, job: &Job) -> Vec<SiteWhy> {
    let spec = &job.spec();
    let mut reasons = Vec::new();
    let Some(site) = &state.site else { return reasons };
    let JobPhase::Queued(_) = job.phase else { return reasons };
    if fits::may_run_at(spec, &site.site, site.country) {
        let (constraint, change) = match leader.capacity(state).shortage(spec) {
            None => ("fits; the next plan takes it".into(), String::new()),
            Some(shortage) => say(&shortage, spec),
        };
        reasons.push(one_site(&site.site, constraint, change));
    } else {
        reasons.push(one_site(&site.site, "its policy forbids this site", "spec.placement"));
    }
    for peer in state.peers.values() {
        reasons.push(why_not_at(state, leader, now, job, &peer.site));
    }
    reasons
}

fn why_not_at(state: &State, leader: &Leader, now: Instant, job: &Job, site: &SiteId) -> SiteWhy {
    let Some(peer) = state.peers.get(site) else { return one_site(site, "is not joined", "") };
    let spec = &job.spec();
    if !spec.placement.spill {
        return one_site(site, "the job may not spill", "spec.placement.spill: true");
    }
    if !fits::may_leave(state, spec) {
        let constraint = "the job asks for more of its nodes than a loan can carry";
        return one_site(site, constraint, "GPUs alone, whole, with no place required");
    }
    if !fits::may_run_at(spec, site, peer.country) {
        return one_site(site, "its policy forbids this site", "spec.placement");
    }
    if peer.suspicion.is_some() {
        let silent = leader.peer_silence(now, site).map(|span| span.0 / 1_000);
        let constraint = match silent {
            Some(seconds) => alloc::format!("not heard for {seconds} s"),
            None => "not heard".into(),
        };
        return one_site(site, constraint, "the link to it");
    }
    let said = leader.peer_capacity(site);
    if said.is_empty() {
        return one_site(site, "has not said yet what it has", "its first report");
    }
    if said.iter().any(|it| could_hold(it, spec) && it.free >= spec.gpus()) {
        return one_site(site, "has room; no grant covers the job yet", "its lend rules");
    }
    let (constraint, change) = sum_up(said, spec);
    one_site(site, constraint, change)
}
