//! Brings the group's membership to what the site has agreed on, one safe step at a time.
//!
//! ```text
//!   wanted, unknown ─▶ learner ─▶ caught up ─▶ voter ─▶ no longer wanted ─▶ gone
//! ```

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, LogIdOptionExt, Precondition, RaftMetrics};
use specs::id::ControllerId;

use super::serve::Raft;
use super::types::{LogId, Types};

/// A learner this close to the end of the log may vote: it catches up within a moment.
const PROMOTE_LAG: u64 = 1_000;

/// A member of the group, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: ControllerId,
    pub address: String,
    pub voter: bool,
    /// Up to where it is known to have the log; known to the leader only, zero elsewhere.
    pub matched: u64,
    pub leader: bool,
}

/// The next change that brings the membership closer to what is wanted.
#[derive(Debug, Clone, PartialEq)]
struct Step {
    change: ChangeMembers<u64, BasicNode>,
    why: &'static str,
}

pub(crate) fn members(raft: &Raft) -> Vec<Member> {
    let metrics = raft.metrics().borrow_watched().clone();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(id, node): (&u64, &BasicNode)| Member {
        id: ControllerId(*id),
        address: node.addr.clone(),
        voter: voters.contains(id),
        matched: matched(&metrics, *id),
        leader: metrics.current_leader == Some(*id),
    };
    membership.nodes().map(member).collect()
}

/// Takes the next step, if there is one and none is under way.
pub(crate) async fn reconcile(
    raft: &Raft,
    wanted: &BTreeMap<ControllerId, String>,
) -> Result<(), RaftError<Types, ClientWriteError<Types>>> {
    let metrics = raft.metrics().borrow_watched().clone();
    if !metrics.state.is_leader()
        || metrics.membership_config != metrics.committed_membership_config
    {
        return Ok(());
    }
    let Some(Step { change, why }) = next_step(&metrics, wanted) else { return Ok(()) };
    tracing::info!(%change, why, "the group's membership changes");
    // Whatever changed meanwhile was not looked at here.
    let last_membership_log_id = *metrics.membership_config.log_id();
    let precondition = Precondition::LastMembershipLogId { last_membership_log_id };
    raft.change_membership_if(change, false, [precondition]).await.map(drop)
}

fn matched(metrics: &RaftMetrics<Types>, id: u64) -> u64 {
    if id == metrics.id {
        return metrics.last_log_index.filter(|_| metrics.state.is_leader()).unwrap_or(0);
    }
    let replication = metrics.replication.as_ref();
    let upto: Option<LogId> = replication.and_then(|all| all.get(&id).copied().flatten());
    upto.index().unwrap_or(0)
}

fn next_step(
    metrics: &RaftMetrics<Types>,
    wanted: &BTreeMap<ControllerId, String>,
) -> Option<Step> {
    let membership = metrics.membership_config.membership();
    if membership.get_joint_config().len() > 1 {
        // A leader went away between the two halves of a change.
        let change = ChangeMembers::AddVoterIds(BTreeSet::new());
        return Some(Step { change, why: "to finish a change" });
    }
    let nodes: BTreeMap<u64, &BasicNode> =
        membership.nodes().map(|(id, node)| (*id, node)).collect();
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let differs = |(id, address): &(&ControllerId, &String)| {
        nodes.get(&id.0).is_none_or(|node| node.addr != **address)
    };
    let fresh: BTreeMap<u64, BasicNode> = wanted
        .iter()
        .filter(differs)
        .map(|(id, address)| (id.0, BasicNode::new(address)))
        .collect();
    if !fresh.is_empty() {
        let change = ChangeMembers::SetNodes(fresh);
        return Some(Step { change, why: "to learn of controllers and their addresses" });
    }
    let is_wanted = |id: &u64| wanted.contains_key(&ControllerId(*id));
    let gone: BTreeSet<u64> =
        nodes.keys().copied().filter(|id| !voters.contains(id) && !is_wanted(id)).collect();
    if !gone.is_empty() {
        let change = ChangeMembers::RemoveNodes(gone);
        return Some(Step { change, why: "to forget learners" });
    }
    let last = metrics.last_log_index.unwrap_or(0);
    let is_ready = |id: &u64| {
        let upto = matched(metrics, *id);
        !voters.contains(id) && upto > 0 && upto + PROMOTE_LAG >= last
    };
    let ready: BTreeSet<u64> = nodes.keys().copied().filter(is_ready).collect();
    if !ready.is_empty() {
        let change = ChangeMembers::AddVoterIds(ready);
        return Some(Step { change, why: "to let those vote who have caught up" });
    }
    let unwanted: BTreeSet<u64> = voters.iter().copied().filter(|id| !is_wanted(id)).collect();
    if unwanted.is_empty() || unwanted == voters {
        return None;
    }
    Some(Step { change: ChangeMembers::RemoveVoters(unwanted), why: "to remove voters" })
}
