//! What a change calls for: keys, never payloads. Whoever carries one out reads the state then.

use alloc::vec::Vec;

use specs::id::{NodeId, SiteId};

/// Something to be done because the state changed. Losing one costs time only: agents, peers and
/// the leader ask again by themselves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The node's orders changed: tell its agent to ask.
    SyncNode(NodeId),
    /// What a peer should see changed: ask it, and tell it to ask.
    SyncPeer(SiteId),
    /// Capacity or the queue changed: plan.
    Plan,
    /// The sites that may connect changed.
    SyncTrust,
    /// The site's controllers changed.
    SyncMembers,
}

/// What a command calls for, collected while it is applied.
#[derive(Debug, Default)]
pub(crate) struct Effects(Vec<Effect>);

impl Effects {
    pub(crate) fn insert(&mut self, effect: Effect) {
        self.0.push(effect);
    }

    /// In order, each once.
    pub(crate) fn into_sorted(mut self) -> Vec<Effect> {
        self.0.sort_unstable();
        self.0.dedup();
        self.0
    }
}
