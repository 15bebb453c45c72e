//! Has snapshots written when they are due, and puts them off while the log is still needed.
//!
//! A snapshot lets the log before it go. A follower that is being sent one, or reads what follows
//! it, must find those entries when it is done, or it would need the next snapshot, and so on for
//! ever. So a leader holds its next snapshot back while a follower that moves would lose what it
//! needs; only up to a limit, as one that never arrives must not fill the leader's memory.

use std::collections::BTreeMap;
use std::sync::Weak;

use fabric_quic::env::Env;
use openraft::async_runtime::watch::WatchReceiver;
use specs::unit::Millis;

use super::{Group, Inner};

/// How often it is looked whether followers move.
const LOOK_SPAN: Millis = Millis(1_000);

/// Where each follower was when it was last looked.
type Matched = BTreeMap<u64, Option<u64>>;

/// Runs until the group is gone.
pub(crate) async fn watch_snapshots(env: Env, group: Weak<Inner>, kept_entries: u64) {
    let mut before = Matched::new();
    loop {
        let Some(inner) = group.upgrade() else { return };
        let snapshots = inner.own.snapshots.clone();
        let now = matched(&inner);
        let last = inner.raft.metrics().borrow_watched().last_log_index.unwrap_or(0);
        let would_lose = |(id, at): (&u64, &Option<u64>)| {
            let is_far = at.unwrap_or(0).saturating_add(kept_entries / 2) < last;
            let moves = before.get(id).is_some_and(|before| before < at);
            is_far && (moves || snapshots.is_sending())
        };
        let is_needed = now.iter().any(would_lose);
        snapshots.trigger.hold(is_needed || snapshots.trigger.is_resting(env.clock.now()));
        before = now;
        if snapshots.trigger.is_pending() && inner.raft.trigger().snapshot().await.is_err() {
            return;
        }
        drop(inner);
        tokio::select! {
            () = env.sleep(LOOK_SPAN) => {}
            () = snapshots.trigger.wake.notified() => {}
        }
    }
}

/// How far the followers are; empty unless this member leads.
fn matched(inner: &Inner) -> Matched {
    let metrics = inner.raft.metrics();
    let metrics = metrics.borrow_watched();
    let followers = metrics.replication.iter().flatten().filter(|(id, _)| **id != inner.id.0);
    followers.map(|(id, at)| (*id, at.as_ref().map(|at| at.index))).collect()
}

impl Group {
    /// Has a snapshot of the present state written, soon. [`Group::metrics`] tells when it is
    /// there.
    pub fn ask_for_snapshot(&self) {
        self.inner.own.snapshots.trigger.ask();
    }
}
