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
use crate::placement::plan::FreeMap;
use crate::state::{Job, JobPhase, State};
use crate::view::capacity;

/// Whether any site could ever hold the gang, going by what each said it has. A peer that was
/// never heard may be able to.
#[must_use]
pub fn could_ever_run(state: &State, leader: &Leader, spec: &JobSpec) -> bool {
    let Some(site) = &state.site else { return true };
    let here = fits::may_run_at(spec, &site.site, site.country)
        && capacity(state).iter().any(|class| could_hold(class, spec));
    let awaited = state.nodes.values().any(|node| !node.is_usable());
    here || awaited
        || state.peers.values().any(|peer| {
            let said = leader.peer_capacity(&peer.site);
            spec.placement.spill
                && fits::may_run_at(spec, &peer.site, peer.country)
                && (said.is_empty() || said.iter().any(|class| could_hold(class, spec)))
        })
}

fn sum_up(capacity: &[ClassCapacity], spec: &JobSpec) -> (String, String) {
    let ask = alloc::format!("{} x {} GPUs", spec.nodes, spec.gpus_per_node);
    let fitting: Vec<_> =
        capacity.iter().filter(|it| fits::class_will_do(spec, &it.class)).collect();
    if fitting.is_empty() {
        let wanted: Vec<String> = spec.gpu_classes.iter().map(ToString::to_string).collect();
        let wanted = if wanted.is_empty() { "any class".into() } else { wanted.join(" or ") };
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
pub fn why(state: &State, leader: &Leader, now: Instant, job: &Job) -> Vec<SiteWhy> {
    let spec = &job.spec();
    let mut reasons = Vec::new();
    let Some(site) = &state.site else { return reasons };
    let JobPhase::Queued(_) = job.phase else { return reasons };
    if fits::may_run_at(spec, &site.site, site.country) {
        let fits_now = FreeMap::of(state)
            .take(spec.gpu_classes.iter(), spec.nodes, spec.gpus_per_node)
            .is_some();
        if fits_now {
            reasons.push(one_site(&site.site, "fits; the next plan takes it", ""));
        } else {
            let (constraint, change) = sum_up(&capacity(state), spec);
            reasons.push(one_site(&site.site, constraint, change));
        }
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
