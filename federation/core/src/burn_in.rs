//! Burn-ins as a site agrees on them: of which GPUs it wants one, and how many go on at once.
//!
//! ```text
//!   operator, release ─▶ WantBurnIns, WithholdGpu ─▶ wish ─┐
//!   agent: what is due ─▶ NodeReport ──────────────────────┴▶ PermitBurnIns ─▶ permit ─▶ NodeOrders
//!   agent: what came of it ─▶ NodeReport ─▶ RecordHealth ─▶ the permit ends, and the wish if judged
//! ```
//!
//! A permit has the number of the revision at which it was given, and is good for one burn-in. The
//! agent answers each by its number, so that what it proved before never stands for what was wished
//! since.
//!
//! # Invariants
//! * Below [`SINCE`] nothing here is ever set.
//! * A GPU with a wish or a permit takes nothing new ([`Gpu::is_fit`]).
//! * A wish ends by the result of a burn-in that was permitted after it, and by nothing else.
//! * Permits of a kind are never more than the limits at the time they were given; a node has one.
//! * A permit ends by its agent's answer, with the life of its agent, or when its node was silent
//!   for as long as a lease takes to run out.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use specs::gpu::{BurnInEnd, BurnInPermit, BurnInTier, GpuInfo, GpuReport, GpuState};
use specs::id::{Boot, GpuIndex, NodeId, Revision};
use specs::version::ClusterVersion;
use specs::wire::agent::NodeReport;

use crate::apply::Reply;
use crate::breaker;
use crate::command::{EndPermits, NewPermit, PermitBurnIns, PermitEnd, WantBurnIns};
use crate::effect::{Effect, Effects};
use crate::health;
use crate::node::sync_homes;
use crate::state::{Agreed, Gpu, Node, Permit, PermitKind, State, Wish};
use crate::table::Index;

/// The version that brings it.
pub(crate) const SINCE: ClusterVersion = ClusterVersion::BURN_INS;
/// Most GPUs that are remembered of a node that no longer finds them; the oldest go first.
pub(crate) const ABSENT_MAX: usize = 64;
/// Most permits of one command.
const PERMITS_MAX: usize = 1_024;

pub(crate) const TOO_EARLY: Reply = Reply::NoOp("the site's version knows nothing of burn-ins");

/// What a node's last report says that its GPUs need.
#[derive(Debug, Clone, Default)]
pub(crate) struct Needs {
    boot: Boot,
    /// What the site wishes goes first.
    wished: Vec<(GpuIndex, BurnInTier)>,
    due: Vec<(GpuIndex, BurnInTier)>,
}

impl Needs {
    pub(crate) fn is_empty(&self) -> bool {
        self.wished.is_empty() && self.due.is_empty()
    }
}

/// The permits of a state.
pub(crate) fn index(agreed: &Agreed) -> Index<(NodeId, GpuIndex), PermitKind> {
    let mut permits = Index::default();
    for node in agreed.nodes.values() {
        for gpu in &node.gpus {
            if let Some(permit) = &gpu.permit {
                permits.insert((node.id.clone(), gpu.info.index), permit.kind);
            }
        }
    }
    permits
}

/// How many burn-ins of each kind are permitted.
#[must_use]
pub fn permitted(state: &State) -> (u32, u32) {
    let count = |kind| state.permits.values().filter(|it| **it == kind).count();
    let number = |kind| u32::try_from(count(kind)).unwrap_or(u32::MAX);
    (number(PermitKind::Retest), number(PermitKind::Admission))
}

/// Whether some GPU of the node may be burnt in.
pub(crate) fn has_permits(state: &State, node: &NodeId) -> bool {
    state.nodes.get(node).is_some_and(|node| node.gpus.iter().any(|gpu| gpu.permit.is_some()))
}

/// How many more burn-ins of each kind may be permitted.
fn room(state: &State) -> BTreeMap<PermitKind, u32> {
    let (limits, gpus) = (breaker::limits(state), state.gpus);
    let (retests, admissions) = permitted(state);
    BTreeMap::from([
        (PermitKind::Retest, limits.retests.of(gpus).saturating_sub(retests)),
        (PermitKind::Admission, limits.admissions.of(gpus).saturating_sub(admissions)),
    ])
}

fn kind_of(gpu: &Gpu) -> PermitKind {
    if gpu.is_fit() { PermitKind::Retest } else { PermitKind::Admission }
}

/// Wishes a burn-in of a GPU, of this tier or the more thorough one that is wished already.
pub(crate) fn wish(gpu: &mut Gpu, number: Revision, tier: BurnInTier) {
    let before = gpu.wish.as_ref().map(|it| it.tier).filter(|it| it.rank() > tier.rank());
    gpu.wish = Some(Wish { number, tier: before.unwrap_or(tier) });
}

pub(crate) fn want(state: &mut State, fx: &mut Effects, it: &WantBurnIns) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let number = state.revision;
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    let mut is_wished = false;
    for gpu in node.gpus.iter_mut().filter(|gpu| it.gpus.contains(&gpu.info.index)) {
        // From quarantine only an operator's word leads out.
        if !gpu.is_quarantined() {
            wish(gpu, number, it.tier);
            is_wished = true;
        }
    }
    if !is_wished {
        return Reply::NoOp("the node has no such GPU that is not quarantined");
    }
    changed(state, fx, &it.node);
    Reply::Done
}

fn changed(state: &State, fx: &mut Effects, node: &NodeId) {
    sync_homes(state, fx, node);
    fx.insert(Effect::Plan);
    fx.insert(Effect::SyncNode(node.clone()));
}

/// Why a GPU may not be burnt in at present.
fn bars(node: &Node, it: &NewPermit) -> bool {
    let gpu = node.gpus.iter().find(|gpu| gpu.info.index == it.index);
    let is_able = gpu.is_some_and(|gpu| {
        let is_enough = gpu.wish.as_ref().is_none_or(|wish| it.tier.rank() >= wish.tier.rank());
        !gpu.is_leased() && gpu.withheld.is_none() && !gpu.is_quarantined() && is_enough
    });
    let is_alone = node.gpus.iter().all(|gpu| gpu.permit.is_none());
    let is_there = node.boot == it.boot && node.suspicion.is_none();
    !(is_able && is_alone && is_there)
}

pub(crate) fn permit(state: &mut State, fx: &mut Effects, it: &PermitBurnIns) -> Reply {
    if state.version < SINCE {
        return TOO_EARLY;
    }
    let mut room = room(state);
    let number = state.revision;
    let (mut taken, mut dropped) = (0, 0);
    for new in &it.permits {
        dropped += 1;
        let Some(node) = state.nodes.get(&new.node).filter(|node| !bars(node, new)) else {
            continue;
        };
        let gpu = node.gpus.iter().find(|gpu| gpu.info.index == new.index);
        let Some(kind) = gpu.map(kind_of) else { continue };
        let Some(left) = room.get_mut(&kind).filter(|left| **left > 0) else { continue };
        *left -= 1;
        (taken, dropped) = (taken + 1, dropped - 1);
        let permit = Permit { number, tier: new.tier, kind };
        let gpus = state.agreed.nodes.get_mut(&new.node).map(|node| &mut node.gpus);
        for gpu in gpus.into_iter().flatten().filter(|gpu| gpu.info.index == new.index) {
            gpu.permit = Some(permit.clone());
        }
        state.permits.insert((new.node.clone(), new.index), kind);
        changed(state, fx, &new.node);
    }
    Reply::Placed { taken, dropped }
}

pub(crate) fn end(state: &mut State, fx: &mut Effects, it: &EndPermits) -> Reply {
    let suspicion = state.nodes.get(&it.node).and_then(|node| node.suspicion);
    if suspicion != Some(it.suspicion) {
        return Reply::NoOp("the suspicion named is not the present one");
    }
    let Some(node) = state.agreed.nodes.get_mut(&it.node) else {
        return Reply::NoOp("there is no such node");
    };
    for gpu in &mut node.gpus {
        if gpu.permit.take().is_some() {
            state.permits.remove(&(it.node.clone(), gpu.info.index));
        }
    }
    changed(state, fx, &it.node);
    Reply::Done
}

/// An agent has answered permits: they end, and with them the wishes that they were for.
pub(crate) fn answered(state: &mut State, node: &NodeId, ended: &[PermitEnd]) {
    let Some(gpus) = state.agreed.nodes.get_mut(node).map(|node| &mut node.gpus) else { return };
    for end in ended {
        let Some(gpu) = gpus.iter_mut().find(|gpu| gpu.info.index == end.index) else { continue };
        let Some(permit) = gpu.permit.take_if(|permit| permit.number <= end.number) else {
            continue;
        };
        state.permits.remove(&(node.clone(), end.index));
        if end.judged {
            gpu.wish.take_if(|wish| wish.number < permit.number);
        }
    }
}

/// What a report says of permits that the log does not have yet.
pub(crate) fn ends(state: &State, report: &NodeReport) -> Vec<PermitEnd> {
    let node = state.nodes.get(&report.node).filter(|node| node.boot == report.boot);
    let of = |it: &GpuReport| {
        let gpu = node?.gpus.iter().find(|gpu| gpu.info.index == it.health.index)?;
        let (permit, last) = (gpu.permit.as_ref()?, it.last.as_ref()?);
        let judged = match last.end {
            BurnInEnd::Passed | BurnInEnd::Fault => true,
            BurnInEnd::Unknown | BurnInEnd::Interrupted => false,
        };
        let (index, number) = (gpu.info.index, last.number);
        (permit.number <= number).then_some(PermitEnd { index, number, judged })
    };
    report.health.iter().filter_map(of).collect()
}

/// What of its GPUs a node may burn in.
pub(crate) fn permits_of(node: &Node) -> Vec<BurnInPermit> {
    let permit = |gpu: &Gpu| {
        let Permit { number, tier, .. } = gpu.permit.clone()?;
        Some(BurnInPermit { index: gpu.info.index, number, tier })
    };
    node.gpus.iter().filter_map(permit).collect()
}

/// What a node's GPUs need, by the site's wishes and by what its agent says. Nothing of an agent
/// that does not heed permits: it burns in as it likes, and answers no wish.
pub(crate) fn needs(state: &State, report: &NodeReport) -> Needs {
    let mut needs = Needs { boot: report.boot, ..Needs::default() };
    let Some(node) = state.nodes.get(&report.node).filter(|_| report.heeds_permits) else {
        return needs;
    };
    if state.version < SINCE {
        return needs;
    }
    let asks = health::asks_for_proofs(state);
    for it in &report.health {
        let index = it.health.index;
        let is_left = match it.health.state {
            GpuState::Quarantined | GpuState::Resetting | GpuState::Rma => true,
            GpuState::Discovered | GpuState::BurningIn | GpuState::Healthy | GpuState::Suspect => {
                false
            }
        };
        let gpu = node.gpus.iter().find(|gpu| gpu.info.index == index);
        let Some(gpu) = gpu.filter(|_| !is_left) else { continue };
        match (&gpu.wish, it.due.filter(|_| asks)) {
            (Some(wish), _) => needs.wished.push((index, wish.tier)),
            (None, Some(tier)) => needs.due.push((index, tier)),
            (None, None) => {}
        }
    }
    needs
}

/// The burn-ins to permit, of what nodes need: wishes go first.
pub(crate) fn plan<'a>(
    state: &State,
    needs: impl Iterator<Item = (&'a NodeId, &'a Needs)>,
) -> Option<PermitBurnIns> {
    let mut room = room(state);
    let needs: Vec<(&NodeId, &Needs)> = needs.collect();
    let mut permits: BTreeMap<&NodeId, NewPermit> = BTreeMap::new();
    for wished in [true, false] {
        for (id, needs) in &needs {
            if permits.len() >= PERMITS_MAX || permits.contains_key(*id) {
                continue;
            }
            let Some(node) = state.nodes.get(*id) else { continue };
            let wants = if wished { &needs.wished } else { &needs.due };
            let new = wants.iter().find_map(|(index, tier)| {
                let (index, tier, boot) = (*index, *tier, needs.boot);
                let new = NewPermit { node: (*id).clone(), boot, index, tier };
                let gpu = node.gpus.iter().find(|gpu| gpu.info.index == index)?;
                let left = room.get_mut(&kind_of(gpu)).filter(|left| **left > 0)?;
                if bars(node, &new) {
                    return None;
                }
                *left -= 1;
                Some(new)
            });
            permits.extend(new.map(|new| (*id, new)));
        }
    }
    let permits: Vec<NewPermit> = permits.into_values().collect();
    (!permits.is_empty()).then_some(PermitBurnIns { permits })
}

/// What was wanted of a GPU before its agent lost it.
pub(crate) fn absent<'a>(absent: &'a [Gpu], info: &GpuInfo) -> Option<&'a Gpu> {
    let is_same = |gpu: &&Gpu| {
        let it = &gpu.info;
        it.index == info.index && it.uuid == info.uuid && it.class == info.class
    };
    absent.iter().find(is_same)
}

/// A new life of an agent found these GPUs: the permits of the last life are over, and what is
/// wanted of those that are gone is remembered. Below [`SINCE`] nothing is.
pub(crate) fn leave(
    state: &mut State,
    node: &NodeId,
    old: Vec<Gpu>,
    mut absent: Vec<Gpu>,
    found: &[Gpu],
) -> Vec<Gpu> {
    if state.version < SINCE {
        return Vec::new();
    }
    absent.retain(|gpu| self::absent(found, &gpu.info).is_none());
    for mut gpu in old {
        state.permits.remove(&(node.clone(), gpu.info.index));
        let is_wanted = gpu.wish.is_some() || gpu.withheld.is_some();
        if is_wanted && self::absent(found, &gpu.info).is_none() {
            (gpu.lease, gpu.grant, gpu.permit) = (None, None, None);
            gpu.shares.clear();
            gpu.carries = false;
            absent.push(gpu);
        }
    }
    let excess = absent.len().saturating_sub(ABSENT_MAX);
    absent.drain(..excess);
    absent
}

#[cfg(test)]
mod tests {
    use specs::codec::Message;
    use specs::gpu::{Bound, BoundUnit, GpuHealth, HealthLimits};
    use specs::unit::Timestamp;

    use super::*;
    use crate::command::{Command, RecordHealth, SetHealthLimits};

    /// A command, and its bytes as hexadecimal digits.
    fn kept() -> [(Command, &'static str); 6] {
        let node: NodeId = "n1".parse().expect("a name that keeps the rules");
        let (boot, index, tier) = (Boot(2), GpuIndex(3), BurnInTier::T2);
        let new = NewPermit { node: node.clone(), boot, index, tier };
        let bound = |unit, value| Bound { unit, value };
        let limits = HealthLimits {
            retests: bound(BoundUnit::Percent, 2),
            admissions: bound(BoundUnit::Gpus, 8),
            quarantined: bound(BoundUnit::Percent, 10),
            quarantines: 32,
        };
        let record = |ended, at| {
            let gpus = [GpuHealth::new(index, GpuState::Suspect, "slow")].into();
            Command::RecordHealth(RecordHealth {
                node: node.clone(),
                boot,
                gpus,
                ended,
                at,
                proven: Vec::new(),
            })
        };
        let end = PermitEnd { index, number: Revision(9), judged: true };
        let want = WantBurnIns { node: node.clone(), gpus: [index].into(), tier };
        let over = EndPermits { node: node.clone(), suspicion: Revision(7) };
        [
            (record(Vec::new(), Timestamp(0)), "8a04120a026e3110021a0a080310041a04736c6f77"),
            (
                record([end].into(), Timestamp(5)),
                "8a041c0a026e3110021a0a080310041a04736c6f7722060803100918012805",
            ),
            (Command::WantBurnIns(want), "9a04080a026e3110031803"),
            (
                Command::PermitBurnIns(PermitBurnIns { permits: [new].into() }),
                "a2040c0a0a0a026e31100218032003",
            ),
            (Command::EndPermits(over), "aa04060a026e311007"),
            (
                Command::SetHealthLimits(SetHealthLimits { limits }),
                "c204160a140a04080210021204080110081a040802100a2020",
            ),
        ]
    }

    #[test]
    fn commands_of_health_keep_their_bytes() {
        for (command, golden) in kept() {
            let bytes = command.encode();
            let hex = bytes.iter().map(|byte| alloc::format!("{byte:02x}"));
            assert_eq!(hex.collect::<alloc::string::String>(), golden);
            assert_eq!(Command::decode(&bytes), Ok(command));
        }
    }

    #[test]
    fn what_came_with_burn_ins_enters_no_log_below_their_version() {
        let since = kept().map(|(command, _)| command.since());
        assert_eq!(since[2..], [SINCE; 4]);
        assert_eq!(since[..2], [ClusterVersion::HEALTH; 2]);
    }

    #[test]
    fn a_share_is_rounded_up_and_none_is_none() {
        let share = |value| Bound { unit: BoundUnit::Percent, value };
        assert_eq!([0, 1, 50, 51, 10_000].map(|all| share(2).of(all)), [1, 1, 1, 2, 200]);
        assert_eq!(share(0).of(10_000), 0);
        assert_eq!(Bound { unit: BoundUnit::Gpus, value: 7 }.of(3), 7);
    }
}
