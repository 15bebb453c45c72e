//! Brings the group's membership to what the site has agreed on, one safe step at a time.
//!
//! ```text
//!   wanted, unknown ─▶ learner ─▶ caught up ─▶ voter ─▶ no longer wanted ─▶ gone
//! ```

use std::collections::{BTreeMap, BTreeSet};

use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{BasicNode, ChangeMembers, Instant as _, LogIdOptionExt, Precondition, RaftMetrics};
use specs::id::ControllerId;
use specs::unit::{Instant, Millis};

use super::serve::Raft;
use super::types::{LogId, Types};

/// A learner this close to the end of the log may vote: it catches up within a moment.
const PROMOTE_LAG: u64 = 1_000;
/// It must have been so close for this long, so that a member that comes and goes, or that cannot
/// keep up, is not counted on.
const PROMOTE_STABLE: Millis = Millis(1_000);
/// A member that has answered its leader within this span counts as reachable: several elections.
pub(crate) const REACHABLE_SPAN: Millis = Millis(3_000);

/// A member of the group, as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub id: ControllerId,
    pub address: String,
    pub voter: bool,
    /// Up to where it is known to have the log; known to the leader only, zero elsewhere.
    pub matched: u64,
    pub leader: bool,
    /// Since it last answered this leader; known to the leader only.
    pub heard: Option<Millis>,
}

impl Member {
    /// Whether the leader that says so has heard it lately.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.heard.is_some_and(|span| span <= REACHABLE_SPAN)
    }
}

/// What the voters would be without one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Without {
    pub voters: usize,
    pub reachable: usize,
    /// A majority.
    pub needed: usize,
}

impl Without {
    /// What would be left without `id`, of members that their leader describes.
    #[must_use]
    pub fn of(members: &[Member], id: ControllerId) -> Self {
        let left: Vec<&Member> =
            members.iter().filter(|member| member.voter && member.id != id).collect();
        let reachable = left.iter().filter(|member| member.is_reachable()).count();
        Self { voters: left.len(), reachable, needed: left.len() / 2 + 1 }
    }

    #[must_use]
    pub fn can_agree(self) -> bool {
        self.reachable >= self.needed
    }
}

/// Since when each learner is seen to be close to the end of the log.
#[derive(Debug, Default)]
pub(crate) struct Close(BTreeMap<u64, Instant>);

impl Close {
    /// Takes note of who is close now; returns who has been for long enough.
    fn stable(&mut self, close: &BTreeSet<u64>, now: Instant) -> BTreeSet<u64> {
        self.0.retain(|id, _| close.contains(id));
        for id in close {
            self.0.entry(*id).or_insert(now);
        }
        let is_stable = |(_, since): &(&u64, &Instant)| now.since(**since) >= PROMOTE_STABLE;
        self.0.iter().filter(is_stable).map(|(id, _)| *id).collect()
    }
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
        heard: heard(&metrics, *id),
    };
    membership.nodes().map(member).collect()
}

/// Takes the next step, if there is one and none is under way.
pub(crate) async fn reconcile(
    raft: &Raft,
    wanted: &BTreeMap<ControllerId, String>,
    unfit: &[ControllerId],
    close: &mut Close,
    now: Instant,
) -> Result<(), RaftError<Types, ClientWriteError<Types>>> {
    let metrics = raft.metrics().borrow_watched().clone();
    if !metrics.state.is_leader()
        || metrics.membership_config != metrics.committed_membership_config
    {
        return Ok(());
    }
    let mut learners = close_learners(&metrics);
    learners.retain(|id| !unfit.contains(&ControllerId(*id)));
    let stable = close.stable(&learners, now);
    let Some(Step { change, why }) = next_step(&metrics, wanted, &stable) else { return Ok(()) };
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

/// Since a member last answered the leader, which is this one; a leader hears itself.
fn heard(metrics: &RaftMetrics<Types>, id: u64) -> Option<Millis> {
    if !metrics.state.is_leader() {
        return None;
    }
    if id == metrics.id {
        return Some(Millis::ZERO);
    }
    let acknowledged = metrics.heartbeat.as_ref()?.get(&id).copied().flatten()?;
    u64::try_from(acknowledged.elapsed().as_millis()).ok().map(Millis)
}

/// Learners that have almost all of the log and answer.
fn close_learners(metrics: &RaftMetrics<Types>) -> BTreeSet<u64> {
    let last = metrics.last_log_index.unwrap_or(0);
    let is_close = |id: &u64| {
        let upto = matched(metrics, *id);
        let answers = heard(metrics, *id).is_some_and(|span| span <= REACHABLE_SPAN);
        answers && upto > 0 && upto + PROMOTE_LAG >= last
    };
    metrics.membership_config.membership().learner_ids().filter(is_close).collect()
}

fn next_step(
    metrics: &RaftMetrics<Types>,
    wanted: &BTreeMap<ControllerId, String>,
    stable: &BTreeSet<u64>,
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
    let ready: BTreeSet<u64> =
        stable.iter().copied().filter(|id| nodes.contains_key(id) && is_wanted(id)).collect();
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

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, voter: bool, heard: Option<u64>) -> Member {
        let (id, address) = (ControllerId(id), String::new());
        Member { id, address, voter, matched: 0, leader: id.0 == 1, heard: heard.map(Millis) }
    }

    #[test]
    fn a_voter_may_go_only_while_those_left_are_a_majority_of_themselves() {
        let (near, far) = (Some(0), Some(60_000));
        let three = |third| [member(1, true, near), member(2, true, near), member(3, true, third)];
        let can = |members: &[Member], id| Without::of(members, ControllerId(id)).can_agree();
        assert!(can(&three(near), 2) && can(&three(near), 3));
        assert!(can(&three(far), 3), "the dead one may go");
        assert!(!can(&three(far), 2) && !can(&three(None), 1), "one of two is no majority");
        let two = [member(1, true, near), member(2, true, near), member(3, false, far)];
        assert!(can(&two, 2) && can(&two, 3), "a learner does not count");
        let left = Without::of(&three(far), ControllerId(2));
        assert_eq!((left.voters, left.reachable, left.needed), (2, 1, 2));
    }

    #[test]
    fn a_learner_must_stay_close_for_a_while() {
        let mut close = Close::default();
        let (both, one) = (BTreeSet::from([4, 5]), BTreeSet::from([5]));
        let at = |millis| Instant::default().after(Millis(millis));
        assert!(close.stable(&both, at(0)).is_empty());
        assert!(close.stable(&one, at(900)).is_empty());
        assert_eq!(close.stable(&both, at(1_000)), one, "4 was away in between");
        assert_eq!(close.stable(&both, at(2_000)), both);
    }
}
