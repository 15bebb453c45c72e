//! What the site's lend rules allow, and which GPUs to grant for a home's demand.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use specs::gpu::ProofNeed;
use specs::id::{GpuClass, GpuIndex, NodeId, SiteId};
use specs::job::Needs;
use specs::site::LendRule;
use specs::unit::{GpuCount, Timestamp};
use specs::wire::peer::Demand;

use crate::command::MakeGrant;
use crate::health::proofs;
use crate::placement::capacity::Capacity;
use crate::placement::slots::{Counts, Gang, Slots};
use crate::placement::{fits, pool};
use crate::state::{GrantSlot, State};

fn count(gpus: usize) -> GpuCount {
    GpuCount(u32::try_from(gpus).unwrap_or(u32::MAX))
}

fn is_under(rule: &LendRule, home: &SiteId, class: &GpuClass) -> bool {
    rule.to.as_ref().is_none_or(|to| to == home) && rule.class.as_ref().is_none_or(|it| it == class)
}

/// What may still be granted to one home. A rule's limit is shared by all classes and homes that
/// it fits; what is free is counted class by class.
struct Room<'a, F> {
    state: &'a State,
    home: &'a SiteId,
    /// GPUs of a class that are neither leased nor granted.
    free: F,
    /// By the rule's place in the list.
    under_rule: BTreeMap<usize, GpuCount>,
    spare: BTreeMap<GpuClass, GpuCount>,
}

impl<'a, F: Fn(&GpuClass) -> GpuCount> Room<'a, F> {
    fn of(state: &'a State, home: &'a SiteId, free: F) -> Self {
        Self { state, home, free, under_rule: BTreeMap::new(), spare: BTreeMap::new() }
    }

    /// The first rule that fits decides.
    fn rule(&self, class: &GpuClass) -> Option<(usize, &'a LendRule)> {
        let site = self.state.site.as_ref()?;
        site.lend.iter().enumerate().find(|(_, rule)| is_under(rule, self.home, class))
    }

    fn left(&mut self, class: &GpuClass) -> GpuCount {
        let Some((place, rule)) = self.rule(class) else { return GpuCount::ZERO };
        let state = self.state;
        let granted = || {
            let slots = state.grants.values().flat_map(|it| it.slots.iter().map(move |s| (it, s)));
            let under = slots.filter(|(grant, slot)| is_under(rule, &grant.home, &slot.class));
            under.fold(GpuCount::ZERO, |sum, (_, slot)| sum.plus(count(slot.gpus.len())))
        };
        let left = *self.under_rule.entry(place).or_insert_with(|| rule.gpus_max.minus(granted()));
        let free = &self.free;
        let spare = || free(class).minus(rule.keep_free);
        left.min(*self.spare.entry(class.clone()).or_insert_with(spare))
    }

    fn take(&mut self, class: &GpuClass, gpus: GpuCount) {
        let Some((place, _)) = self.rule(class) else { return };
        if let Some(left) = self.under_rule.get_mut(&place) {
            *left = left.minus(gpus);
        }
        if let Some(spare) = self.spare.get_mut(class) {
            *spare = spare.minus(gpus);
        }
    }
}

/// Whether the rules allow this grant on the state as it is.
pub(crate) fn allows(state: &State, home: &SiteId, slots: &[GrantSlot]) -> bool {
    let free = |class: &GpuClass| {
        let usable = state.nodes.values().filter(|node| node.is_usable());
        count(usable.flat_map(|node| node.free()).filter(|it| it.info.class == *class).count())
    };
    let mut room = Room::of(state, home, free);
    slots.iter().all(|slot| {
        let gpus = count(slot.gpus.len());
        let fits = gpus <= room.left(&slot.class);
        room.take(&slot.class, gpus);
        fits
    })
}

/// GPUs of the home's grants that no guest uses and whose proofs will do, by class and node.
fn idle(state: &State, home: &SiteId, needs: &Needs, at: Timestamp) -> Slots {
    let mut free = Counts::new();
    for grant in state.grants.values().filter(|it| it.home == *home && !it.recalled) {
        for slot in &grant.slots {
            let Some(node) = state.nodes.get(&slot.node).filter(|node| node.is_usable()) else {
                continue;
            };
            let idle = node
                .gpus
                .iter()
                .filter(|gpu| gpu.grant == Some(grant.id) && gpu.lease.is_none() && gpu.is_fit())
                .filter(|gpu| proofs::will_do(needs, gpu, at));
            let sum = free.entry((slot.class.clone(), slot.node.clone())).or_default();
            *sum = sum.plus(count(idle.count()));
        }
    }
    let left = |node: &NodeId| {
        let machine = state.nodes.get(node).map_or(0, crate::node::count_gpus);
        (pool::granted(state, home, node).minus(pool::used(state, home, node)), machine)
    };
    Slots::of(&free, |node| state.nodes.get(node).map(|node| &*node.facts), left)
}

/// One grant that covers as much of the demand as the rules and the free GPUs allow, beyond what
/// earlier grants already cover, and of no class that is `wanted` here. `capacity` loses what is
/// granted.
pub(crate) fn cover(
    state: &State,
    home: &SiteId,
    demand: &[Demand],
    wanted: &BTreeSet<GpuClass>,
    (capacity, at): (&mut Capacity, Timestamp),
) -> Option<MakeGrant> {
    // What is idle counts once for each demand of proofs.
    let mut idle_for: BTreeMap<Option<ProofNeed>, Slots> = BTreeMap::new();
    let mut taken: BTreeMap<(GpuClass, NodeId), Vec<GpuIndex>> = BTreeMap::new();
    let spare: BTreeMap<GpuClass, GpuCount> =
        capacity.classes().map(|class| (class.clone(), capacity.free(class))).collect();
    let free = |class: &GpuClass| spare.get(class).copied().unwrap_or_default();
    let mut room = Room::of(state, home, free);
    let nothing = Needs::default();
    for want in demand {
        let needs = want.needs.as_deref().unwrap_or(&nothing);
        if !fits::loans_carry(state, needs) {
            continue;
        }
        let (nodes, gpus) = (want.nodes, want.gpus_per_node);
        let wanted_gang = Gang { classes: want.class.as_slice(), closed: &[], nodes, gpus, needs };
        let idle = idle_for.entry(needs.proof).or_insert_with(|| idle(state, home, needs, at));
        for _ in 0..want.count {
            if idle.take(&wanted_gang).is_some() {
                continue;
            }
            let gang = want.gpus_per_node.times(want.nodes);
            let mut fitting: Vec<GpuClass> = match &want.class {
                Some(class) => alloc::vec![class.clone()],
                None => spare.keys().cloned().collect(),
            };
            fitting.retain(|class| !wanted.contains(class) && room.left(class) >= gang);
            // To take from no class means to take from any.
            if fitting.is_empty() {
                break;
            }
            let Some((class, parts)) = capacity.take_gang(&fitting, (nodes, gpus), needs, at)
            else {
                break;
            };
            room.take(&class, gang);
            for part in parts {
                taken.entry((class.clone(), part.node)).or_default().extend(part.gpus);
            }
        }
    }
    capacity.lift_screen();
    let slots: Vec<GrantSlot> =
        taken.into_iter().map(|((class, node), gpus)| GrantSlot { node, class, gpus }).collect();
    (!slots.is_empty()).then(|| MakeGrant { home: home.clone(), slots })
}
