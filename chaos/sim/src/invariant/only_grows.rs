//! What is said to grow only never shrinks: boots, epochs, counters of ids, and the revisions of
//! peers that were taken in and obeyed. Source: the invariants written at these fields in
//! `federation-core`.

use federation_core::State;

use crate::invariant::Found;

pub(crate) fn on_commit(before: &State, after: &State) -> Found {
    let mut found = Found::new();
    let mut grows = |what: &str, before: u64, after: u64| {
        if after < before {
            found.push(("what only grows", format!("{what} went from {before} to {after}")));
        }
    };
    grows("the revision", before.revision.0, after.revision.0);
    grows("the last lease", before.last_lease.0, after.last_lease.0);
    grows("the last grant", before.last_grant.0, after.last_grant.0);
    grows("the archive", before.archived, after.archived);
    for peer in before.peers.values() {
        let Some(now) = after.peers.get(&peer.site) else { continue };
        grows("what was taken in of a peer", peer.seen.0, now.seen.0);
        grows("what was obeyed of a peer", peer.obeyed.0, now.obeyed.0);
    }
    for node in before.nodes.values() {
        let now = after.nodes.get(&node.id).map_or(0, |now| now.boot.0);
        grows("the boot of a node", node.boot.0, now);
    }
    found
}
