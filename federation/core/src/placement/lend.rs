//! What the site's lend rules allow, and which GPUs to grant for a home's demand.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::id::{GpuClass, GpuIndex, NodeId, SiteId};
use specs::site::LendRule;
use specs::unit::GpuCount;
use specs::wire::peer::Demand;

use crate::command::MakeGrant;
use crate::placement::plan::FreeMap;
use crate::state::{GrantSlot, State};

/// The first rule that fits decides.
fn rule<'a>(state: &'a State, home: &SiteId, class: &GpuClass) -> Option<&'a LendRule> {
    let site = state.site.as_ref()?;
    site.lend.iter().find(|rule| {
        rule.to.as_ref().is_none_or(|to| to == home)
            && rule.class.as_ref().is_none_or(|it| it == class)
    })
}

fn count(gpus: usize) -> GpuCount {
    GpuCount(u32::try_from(gpus).unwrap_or(u32::MAX))
}

/// GPUs of the class that may still be granted to the home.
fn room(state: &State, home: &SiteId, class: &GpuClass) -> GpuCount {
    let Some(rule) = rule(state, home, class) else { return GpuCount::ZERO };
    let under = |grant_home: &SiteId, grant_class: &GpuClass| {
        rule.to.as_ref().is_none_or(|to| to == grant_home)
            && rule.class.as_ref().is_none_or(|it| it == grant_class)
    };
    let granted = state
        .grants
        .values()
        .flat_map(|grant| grant.slots.iter().map(move |slot| (grant, slot)))
        .filter(|(grant, slot)| under(&grant.home, &slot.class))
        .fold(GpuCount::ZERO, |sum, (_, slot)| sum.plus(count(slot.gpus.len())));
    let usable = state.nodes.values().filter(|node| node.is_usable());
    let free = usable.flat_map(|node| node.free().filter(|gpu| gpu.info.class == *class)).count();
    rule.gpus_max.minus(granted).min(count(free).minus(rule.keep_free))
}

/// Whether the rules allow this grant on the state as it is.
pub(crate) fn allows(state: &State, home: &SiteId, slots: &[GrantSlot]) -> bool {
    let mut asked: BTreeMap<&GpuClass, GpuCount> = BTreeMap::new();
    for slot in slots {
        let sum = asked.entry(&slot.class).or_default();
        *sum = sum.plus(count(slot.gpus.len()));
    }
    asked.into_iter().all(|(class, sum)| sum <= room(state, home, class))
}

/// GPUs of the home's grants that no guest uses, by class and node.
fn idle(state: &State, home: &SiteId) -> FreeMap {
    let mut free = FreeMap::default();
    for grant in state.grants.values().filter(|it| it.home == *home && !it.recalled) {
        for slot in &grant.slots {
            let Some(node) = state.nodes.get(&slot.node).filter(|node| node.is_usable()) else {
                continue;
            };
            let idle =
                node.gpus.iter().filter(|gpu| gpu.grant == Some(grant.id) && gpu.lease.is_none());
            free.add(&slot.class, &slot.node, idle.map(|gpu| gpu.info.index));
        }
    }
    free
}

/// One grant that covers as much of the demand as the rules and the free GPUs allow, beyond what
/// earlier grants already cover. `free` loses what is granted.
pub(crate) fn cover(
    state: &State,
    home: &SiteId,
    demand: &[Demand],
    free: &mut FreeMap,
) -> Option<MakeGrant> {
    let mut idle = idle(state, home);
    let mut taken: BTreeMap<(GpuClass, NodeId), Vec<GpuIndex>> = BTreeMap::new();
    let mut left: BTreeMap<GpuClass, GpuCount> = BTreeMap::new();
    for want in demand {
        for _ in 0..want.count {
            if idle.take(want.class.as_ref().into_iter(), want.nodes, want.gpus_per_node).is_some()
            {
                continue;
            }
            let gang = want.gpus_per_node.times(want.nodes);
            let classes: Vec<GpuClass> = match &want.class {
                Some(class) => alloc::vec![class.clone()],
                None => free.classes().cloned().collect(),
            };
            let fitting = classes.iter().filter(|class| {
                let room = left.entry((*class).clone()).or_insert_with(|| room(state, home, class));
                *room >= gang
            });
            let fitting: Vec<GpuClass> = fitting.cloned().collect();
            let Some((class, parts)) = free.take(fitting.iter(), want.nodes, want.gpus_per_node)
            else {
                break;
            };
            if let Some(room) = left.get_mut(&class) {
                *room = room.minus(gang);
            }
            for (node, gpus) in parts {
                taken.entry((class.clone(), node)).or_default().extend(gpus);
            }
        }
    }
    let slots: Vec<GrantSlot> =
        taken.into_iter().map(|((class, node), gpus)| GrantSlot { node, class, gpus }).collect();
    (!slots.is_empty()).then(|| MakeGrant { home: home.clone(), slots })
}
