//! CPU and memory beside GPUs that change hands. A GPU that is granted carries its part of its node's;
//! what the GPUs of one home carry on a node is one pool for all of its guests there.
//!
//! ```text
//!   node:  CPU ÷ GPUs = share          home's pool = shares of its granted GPUs there
//!   ├── own jobs: what they ask        ≥ what its guests there ask
//!   └── pools of homes
//! ```
//!
//! # Invariants
//! * What own jobs ask and what granted GPUs carry is together no more than a node has.
//! * What guests of a home ask is no more than its pool.

use specs::id::{NodeId, SiteId};
use specs::job::Needs;
use specs::wire::agent::Facts;
use specs::wire::peer::{LoanSlot, Slot};

use crate::placement::fits;
use crate::state::{BesideKey, Gpu, Grant, HeldKey, Node, State};
use crate::table::Index;

/// So much CPU and memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Pool {
    pub cpu_milli: u64,
    pub memory_mib: u64,
}

impl Pool {
    pub(crate) fn asked(needs: &Needs) -> Self {
        Self { cpu_milli: needs.cpu_milli.into(), memory_mib: needs.memory_mib.into() }
    }

    pub(crate) fn of_node(facts: &Facts) -> Self {
        Self { cpu_milli: facts.cpu_milli.into(), memory_mib: facts.memory_mib.into() }
    }

    /// What a slot carries.
    pub(crate) fn told(slot: &Slot) -> Self {
        Self { cpu_milli: slot.cpu_milli.into(), memory_mib: slot.memory_mib.into() }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            memory_mib: self.memory_mib.saturating_add(other.memory_mib),
        }
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            cpu_milli: self.cpu_milli.saturating_sub(other.cpu_milli),
            memory_mib: self.memory_mib.saturating_sub(other.memory_mib),
        }
    }

    fn times(self, count: usize) -> Self {
        let count = count as u64;
        Self {
            cpu_milli: self.cpu_milli.saturating_mul(count),
            memory_mib: self.memory_mib.saturating_mul(count),
        }
    }

    /// Whether that much is in it.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.cpu_milli >= other.cpu_milli && self.memory_mib >= other.memory_mib
    }

    /// Milli-CPU and MiB, as they are told and asked for.
    pub(crate) fn numbers(self) -> (u32, u32) {
        let number = |it| u32::try_from(it).unwrap_or(u32::MAX);
        (number(self.cpu_milli), number(self.memory_mib))
    }
}

/// At the host: what one GPU of the node carries when it is granted.
pub(crate) fn share(node: &Node) -> Pool {
    let all = Pool::of_node(&node.facts);
    let part = |all: u64| all.checked_div(node.gpus.len() as u64).unwrap_or(0);
    Pool { cpu_milli: part(all.cpu_milli), memory_mib: part(all.memory_mib) }
}

/// At the host: what those of the node's GPUs carry that are granted and that `which` picks.
pub(crate) fn carried(node: &Node, which: impl Fn(&Gpu) -> bool) -> Pool {
    let carrying = node.gpus.iter().filter(|gpu| gpu.grant.is_some() && gpu.carries && which(gpu));
    share(node).times(carrying.count())
}

/// At the host: what the home's grants carry on the node.
pub(crate) fn granted(state: &State, home: &SiteId, node: &NodeId) -> Pool {
    let is_of_home = |gpu: &Gpu| {
        gpu.grant.and_then(|id| state.grants.get(&id)).is_some_and(|grant| grant.home == *home)
    };
    state.nodes.get(node).map(|node| carried(node, is_of_home)).unwrap_or_default()
}

/// At the host: what the home's guests on the node ask for.
pub(crate) fn used(state: &State, home: &SiteId, node: &NodeId) -> Pool {
    let guests = state.leases_of(node).filter(|lease| lease.home == *home);
    guests.fold(Pool::default(), |sum, lease| sum.plus(Pool::asked(&lease.spec.needs)))
}

/// At the host: whether guests use what the grant carries.
pub(crate) fn is_needed(state: &State, grant: &Grant) -> bool {
    grant.slots.iter().any(|slot| {
        let Some(node) = state.nodes.get(&slot.node) else { return false };
        let own = carried(node, |gpu| gpu.grant == Some(grant.id));
        let rest = granted(state, &grant.home, &slot.node).minus(own);
        !rest.covers(used(state, &grant.home, &slot.node))
    })
}

/// At the home: what may be drawn on at the host carries so much on the node.
pub(crate) fn held(state: &State, host: &SiteId, node: &NodeId) -> Pool {
    let open = state.held_at(host).filter(|(_, held)| !held.recalled && !held.returned);
    sum(open.flat_map(|(_, held)| &held.slots).filter(|slot| slot.node == *node))
}

/// What the slots carry together.
fn sum<'a>(slots: impl Iterator<Item = &'a Slot>) -> Pool {
    slots.fold(Pool::default(), |sum, slot| sum.plus(Pool::told(slot)))
}

/// At the home: what its loans on the host's node ask for.
pub(crate) fn drawn(state: &State, host: &SiteId, node: &NodeId) -> Pool {
    let key = BesideKey { host: host.clone(), node: node.clone() };
    state.beside.get(&key).copied().unwrap_or_default()
}

/// At the home: whether loans on the nodes of a grant ask for more than the others that are held there
/// carry.
pub(crate) fn is_drawn(state: &State, key: &HeldKey) -> bool {
    let Some(grant) = state.held.get(key) else { return false };
    let is_short = |slot: &Slot| {
        let used = drawn(state, &key.host, &slot.node);
        let others = state.held_at(&key.host).filter(|(id, it)| *id != key.grant && !it.returned);
        let slots = others.flat_map(|(_, held)| &held.slots).filter(|it| it.node == slot.node);
        used != Pool::default() && !sum(slots).covers(used)
    };
    grant.slots.iter().any(is_short)
}

/// At the home: takes note of what a loan asks for beside GPUs.
pub(crate) fn draw(
    beside: &mut Index<BesideKey, Pool>,
    host: &SiteId,
    slots: &[LoanSlot],
    needs: &Needs,
) {
    change(beside, host, (slots, needs), Pool::plus);
}

pub(crate) fn undraw(
    beside: &mut Index<BesideKey, Pool>,
    host: &SiteId,
    slots: &[LoanSlot],
    needs: &Needs,
) {
    change(beside, host, (slots, needs), Pool::minus);
}

fn change(
    beside: &mut Index<BesideKey, Pool>,
    host: &SiteId,
    (slots, needs): (&[LoanSlot], &Needs),
    how: impl Fn(Pool, Pool) -> Pool,
) {
    if !needs.ask_beside_gpus() {
        return;
    }
    for (node, _) in fits::loan_nodes(slots) {
        let key = BesideKey { host: host.clone(), node: node.clone() };
        let before = beside.get(&key).copied().unwrap_or_default();
        let after = how(before, Pool::asked(needs));
        if after == Pool::default() {
            beside.remove(&key);
        } else {
            beside.insert(key, after);
        }
    }
}
