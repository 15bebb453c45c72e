//! What a change calls for: keys, never payloads. Whoever carries one out reads the state then.

use alloc::collections::BTreeSet;

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

pub(crate) type Effects = BTreeSet<Effect>;
