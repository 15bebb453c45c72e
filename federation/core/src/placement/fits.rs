//! Whether a job may stand at a place. The planner and the recheck in the log both ask here.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use specs::id::{Country, GpuClass, GpuIndex, NodeId, SiteId};
use specs::job::{JobSpec, Needs, Vicinity};
use specs::unit::{GpuCount, Timestamp};
use specs::version::ClusterVersion;
use specs::wire::agent::Facts;
use specs::wire::peer::{LoanSlot, Slot, SlotGpu};

use crate::command::{LeasePlan, LoanPlan, PartPlan};
use crate::exchange::proofs as shown;
use crate::health::proofs;
use crate::placement::pool::{self, Pool};
use crate::placement::sites::data;
use crate::state::{DrawKey, HeldKey, NamedKey, Node, State};

/// The Union's members, by ISO 3166-1: what `EU` in a residency rule stands for.
/// Source: <https://european-union.europa.eu/principles-countries-history/eu-countries_en>.
const UNION: &str =
    "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE";

/// Whether the country is a member of the Union.
pub(crate) fn is_of_union(country: Country) -> bool {
    UNION.split(' ').any(|member| member == country.as_str())
}

/// Whether the job may run at a site in that country: by its own policy, and by where its data may
/// go as far as that is known here.
pub(crate) fn may_go(state: &State, spec: &JobSpec, site: &SiteId, country: Country) -> bool {
    may_run_at(spec, site, country) && data::forbidden(state, spec, site, country).is_none()
}

/// Whether the job may run at this very site.
pub(crate) fn may_be_here(state: &State, spec: &JobSpec) -> bool {
    state.site.as_ref().is_some_and(|site| may_go(state, spec, &site.site, site.country))
}

/// Whether the job's policy lets it run at a site in that country.
pub(crate) fn may_run_at(spec: &JobSpec, site: &SiteId, country: Country) -> bool {
    let placement = &spec.placement;
    let site_allowed = placement.sites.is_empty() || placement.sites.contains(site);
    site_allowed && data::allows(&placement.residency, country)
}

/// Whether a GPU of that class will do.
pub(crate) fn class_will_do(spec: &JobSpec, class: &GpuClass) -> bool {
    spec.gpu_classes.is_empty() || spec.gpu_classes.contains(class)
}

/// Whether the lease can be granted on the state as it is, at that time.
pub(crate) fn lease_fits(state: &State, spec: &JobSpec, plan: &LeasePlan, at: Timestamp) -> bool {
    if plan.parts.len() as u64 != u64::from(spec.nodes) || !may_be_here(state, spec) {
        return false;
    }
    let mut nodes = BTreeSet::new();
    let mut class: Option<&GpuClass> = None;
    for part in &plan.parts {
        let Some(node) = state.nodes.get(&part.node).filter(|node| node.is_usable()) else {
            return false;
        };
        if !needs_fit(state, &spec.needs, node) {
            return false;
        }
        let gpus: BTreeSet<GpuIndex> = part.gpus.iter().copied().collect();
        if !nodes.insert(&part.node)
            || gpus.len() != part.gpus.len()
            || part.gpus.len() as u64 != u64::from(spec.gpus_per_node.0)
        {
            return false;
        }
        for index in gpus {
            let Some(gpu) = node.gpus.iter().find(|gpu| gpu.info.index == index) else {
                return false;
            };
            let milli = spec.needs.gpu_milli;
            let fits = if milli > 0 { gpu.milli_left() >= milli } else { gpu.is_free() };
            if !fits || !proofs::will_do(&spec.needs, gpu, at) {
                return false;
            }
            let same = *class.get_or_insert(&gpu.info.class) == &gpu.info.class;
            if !same || !class_will_do(spec, &gpu.info.class) {
                return false;
            }
        }
    }
    let facts = |part: &PartPlan| state.nodes.get(&part.node).map(|node| &*node.facts);
    stand_together(spec, plan.parts.iter().map(facts))
}

/// CPU and memory of a node that own jobs ask for, or that granted GPUs carry: guests have theirs of
/// those.
pub(crate) fn promised(state: &State, node: &NodeId) -> Pool {
    let granted = state.nodes.get(node).map(|node| pool::carried(node, |_| true));
    let own = state.leases_of(node).filter(|lease| state.is_own(&lease.home));
    own.fold(granted.unwrap_or_default(), |sum, lease| sum.plus(Pool::asked(&lease.spec.needs)))
}

/// Whether the node has what the job asks for besides GPUs.
fn needs_fit(state: &State, needs: &Needs, node: &Node) -> bool {
    let has_others = || node.gpus.iter().any(|gpu| gpu.is_leased() || gpu.grant.is_some());
    if node.alone.is_some() || (needs.exclusive && has_others()) {
        return false;
    }
    let facts = &node.facts;
    if !has_attributes(needs, facts) {
        return false;
    }
    if !needs.ask_beside_gpus() {
        return true;
    }
    let left = Pool::of_node(facts).minus(promised(state, &node.id));
    left.covers(Pool::asked(needs))
}

pub(crate) fn has_attributes(needs: &Needs, facts: &Facts) -> bool {
    let mut attributes = needs.attributes.iter();
    attributes.all(|(name, value)| facts.attributes.get(name) == Some(value))
}

/// Whether loans to and from this site carry what is asked for, if the other side tells of its nodes.
pub(crate) fn loans_carry(state: &State, needs: &Needs) -> bool {
    needs.fit_a_loan()
        || (state.version >= ClusterVersion::SITES && needs.fit_a_told_loan())
        || (state.version >= ClusterVersion::DEMANDS && needs.fit_a_carrying_loan())
        || (state.version >= shown::SINCE && needs.fit_a_proven_loan())
}

/// Whether the job may run elsewhere than at this site, its home.
pub(crate) fn may_leave(state: &State, spec: &JobSpec) -> bool {
    spec.placement.spill && loans_carry(state, &spec.needs)
}

/// Whether nodes of another site are what a loan's job asks for, in the order of its ranks. What is
/// not told of a node it does not have.
pub(crate) fn told_fit<'a>(
    spec: &JobSpec,
    nodes: impl Iterator<Item = Option<&'a Facts>> + Clone,
) -> bool {
    let needs = &spec.needs;
    let nothing = Facts::default();
    let mut all = nodes.clone();
    all.all(|facts| has_attributes(needs, facts.unwrap_or(&nothing))) && stand_together(spec, nodes)
}

/// The name of the hall, rack or domain that a node stands in; none if it stands in none.
pub(crate) fn place_of(facts: &Facts, level: Vicinity) -> Option<(&str, &str)> {
    let name = match level {
        Vicinity::Hall if facts.hall.is_empty() => return None,
        Vicinity::Hall => return Some((&facts.hall, "")),
        Vicinity::Rack => &facts.rack,
        Vicinity::Domain => &facts.domain,
    };
    (!name.is_empty()).then_some((&facts.hall, name))
}

/// Whether the nodes stand together as the job requires it, in the order of its ranks.
fn stand_together<'a>(spec: &JobSpec, nodes: impl Iterator<Item = Option<&'a Facts>>) -> bool {
    let Some(together) = spec.needs.together.as_ref().filter(|together| together.required) else {
        return true;
    };
    let group = if together.group_nodes == 0 { spec.nodes } else { together.group_nodes };
    if group <= 1 {
        return true;
    }
    let size = usize::try_from(group).unwrap_or(usize::MAX);
    let places: Vec<_> =
        nodes.map(|facts| facts.and_then(|facts| place_of(facts, together.level))).collect();
    places.chunks(size).all(|group| {
        let first = group.first().copied().flatten();
        first.is_some() && group.iter().all(|place| *place == first)
    })
}

/// The nodes of a loan in the order of their ranks, each with its GPUs.
pub(crate) fn loan_nodes(slots: &[LoanSlot]) -> impl Iterator<Item = (&NodeId, GpuCount)> {
    let first = |at: usize| slots.iter().position(|slot| slot.node == slots[at].node) == Some(at);
    (0..slots.len()).filter(move |&at| first(at)).map(|at| {
        let node = &slots[at].node;
        let gpus = slots.iter().filter(|slot| slot.node == *node);
        (node, gpus.fold(GpuCount::ZERO, |sum, slot| sum.plus(slot.gpus)))
    })
}

/// Whether the loan can be drawn on what is held, at that time.
pub(crate) fn loan_fits(state: &State, spec: &JobSpec, plan: &LoanPlan, at: Timestamp) -> bool {
    let Some(peer) = state.peers.get(&plan.peer) else { return false };
    let may_go = may_leave(state, spec) && may_go(state, spec, &peer.site, peer.country);
    if peer.suspicion.is_some() || !may_go {
        return false;
    }
    if !spec.needs.fit_a_loan() {
        let facts =
            loan_nodes(&plan.slots).map(|(node, _)| told_of(state, plan, node)?.facts.as_deref());
        let facts: Vec<Option<&Facts>> = facts.collect();
        if !told_fit(spec, facts.into_iter()) {
            return false;
        }
    }
    let mut nodes = 0u64;
    for (_, gpus) in loan_nodes(&plan.slots) {
        nodes += 1;
        if gpus != spec.gpus_per_node {
            return false;
        }
    }
    let Some(class) = plan.slots.first().map(|slot| &slot.class) else { return false };
    nodes == u64::from(spec.nodes)
        && class_will_do(spec, class)
        && plan.slots.iter().all(|slot| slot.class == *class && slot_fits(state, plan, slot))
        && are_proven(state, spec, plan, at)
        && is_carried(state, spec, plan)
        && (!spec.needs.exclusive || is_alone(state, spec, plan))
}

/// Whether the loan has all GPUs of its nodes.
fn is_alone(state: &State, spec: &JobSpec, plan: &LoanPlan) -> bool {
    loan_nodes(&plan.slots).all(|(node, _)| {
        told_of(state, plan, node).is_some_and(|slot| slot.node_gpus == spec.gpus_per_node)
    })
}

/// Whether what is held carries the CPU and memory that the loan's job asks for.
fn is_carried(state: &State, spec: &JobSpec, plan: &LoanPlan) -> bool {
    let asked = Pool::asked(&spec.needs);
    !spec.needs.ask_beside_gpus()
        || loan_nodes(&plan.slots).all(|(node, _)| {
            let held = pool::held(state, &plan.peer, node);
            held.minus(pool::drawn(state, &plan.peer, node)).covers(asked)
        })
}

/// What the host tells of a node on which the loan draws.
fn told_of<'a>(state: &'a State, plan: &LoanPlan, node: &NodeId) -> Option<&'a Slot> {
    let slot = plan.slots.iter().find(|slot| slot.node == *node)?;
    let held = state.held.get(&HeldKey { host: plan.peer.clone(), grant: slot.grant })?;
    held.slots.iter().find(|slot| slot.node == *node)
}

fn slot_fits(state: &State, plan: &LoanPlan, slot: &LoanSlot) -> bool {
    let key = HeldKey { host: plan.peer.clone(), grant: slot.grant };
    let Some(held) = state.held.get(&key) else { return false };
    if held.recalled || held.returned {
        return false;
    }
    let there = held.slots.iter().filter(|it| it.node == slot.node && it.class == slot.class);
    if there.clone().any(|it| !it.which.is_empty()) {
        return names_fit(state, (plan, slot), there.flat_map(|it| &it.which));
    }
    let granted = there.fold(GpuCount::ZERO, |sum, it| sum.plus(it.gpus));
    let drawn = state.drawn.get(&DrawKey::of(&plan.peer, slot)).copied().unwrap_or_default();
    // A plan may name the same grant and node twice; together they must fit.
    let asked = plan.slots.iter().filter(|it| it.grant == slot.grant && it.node == slot.node);
    let asked = asked.fold(GpuCount::ZERO, |sum, it| sum.plus(it.gpus));
    drawn.plus(asked) <= granted && slot.which.is_empty()
}

/// Whether the slot of a loan names GPUs that there are, as many as it takes, and none that another
/// names.
fn names_fit<'a>(
    state: &State,
    (plan, slot): (&LoanPlan, &LoanSlot),
    there: impl Iterator<Item = &'a SlotGpu> + Clone,
) -> bool {
    let others = plan
        .slots
        .iter()
        .filter(|it| (it.grant, &it.node) == (slot.grant, &slot.node) && !core::ptr::eq(*it, slot));
    let is_ours_twice = others.flat_map(|it| &it.which).any(|gpu| slot.which.contains(gpu));
    let is_drawn = NamedKey::all(&plan.peer, slot).any(|key| state.named.contains(&key));
    slot.which.len() as u64 == u64::from(slot.gpus.0)
        && slot.which.is_sorted_by(|one, other| one < other)
        && slot.which.iter().all(|gpu| there.clone().any(|it| it.index == *gpu))
        && !is_ours_twice
        && !is_drawn
}

/// Whether proofs were verified of all GPUs of the loan, and are what its job demands, where that is
/// asked for.
fn are_proven(state: &State, spec: &JobSpec, plan: &LoanPlan, at: Timestamp) -> bool {
    let need = spec.needs.proof.as_ref();
    if need.is_none() && !shown::are_required(state, &plan.peer) {
        return true;
    }
    plan.slots.iter().all(|slot| {
        let key = HeldKey { host: plan.peer.clone(), grant: slot.grant };
        let Some(held) = state.held.get(&key) else { return false };
        let there = held.slots.iter().filter(|it| it.node == slot.node && it.class == slot.class);
        let told = |index: &GpuIndex| {
            let mut all = there.clone().flat_map(|it| it.which.iter().map(move |gpu| (it, gpu)));
            all.find(|(_, gpu)| gpu.index == *index)
        };
        let is_proven = |index| {
            let proof = told(index).and_then(|(it, gpu)| shown::of(held, it, gpu));
            proof.is_some_and(|proof| proof.will_do(need, at))
        };
        !slot.which.is_empty() && slot.which.iter().all(is_proven)
    })
}
