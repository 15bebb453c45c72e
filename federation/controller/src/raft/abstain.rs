//! A member whose log was cut off at its start does not vote until it has made up for it.
//!
//! What was cut off is as a rule a write that was never acknowledged. But it cannot be told from
//! rot in the last durable write, and then the member has forgotten entries that it acknowledged,
//! and its vote could elect a leader that never had them. So it keeps silent until its log is
//!
//! * at least what a leader's was when the member asked it, after its start; or
//! * at least what the log of *every* other voter was when asked: an acknowledged entry that this
//!   member forgot is at another voter too.
//!
//! While the second is known but not reached it votes for candidates whose log is at least that.
//! `specs/decisions/0010-a-cut-log-does-not-vote.md` has the argument.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fabric_quic::env::Env;
use fabric_quic::pool::CONTROL;
use federation_wal::Disk;
use futures::future::join_all;
use openraft::RaftMetrics;
use openraft::async_runtime::watch::WatchReceiver;
use specs::codec::Message;
use specs::unit::Millis;
use specs::version::Versions;
use specs::wire::method::Method;

use super::links::Links;
use super::log_store::LogStore;
use super::marker;
use super::serve::Raft;
use super::snapshot::Snapshots;
use super::types::{LogId, Membership, Types, Vote};
use super::version::BUILD;
use super::wire::{TailRequest, TailResponse, get_id, put_id};

/// How often the others are asked.
const ASK_SPAN: Millis = Millis(200);
/// How long one of them may take to answer.
const ANSWER_SPAN: Millis = Millis(1_000);
/// How often the log says that the member still waits, and for whom.
const REMIND_SPAN: Millis = Millis(30_000);

/// What a member whose log was cut off may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It votes as ever.
    Whole,
    Silent,
    /// It votes for whoever's log ends here or later.
    From(Option<LogId>),
}

/// Whether this member votes.
pub(crate) struct Abstention {
    stand: Mutex<Stand>,
}

/// What another voter has said of itself.
#[derive(Debug, Clone)]
struct Tail {
    vote: Vote,
    last: Option<LogId>,
    leads: bool,
    voters: BTreeMap<u64, String>,
}

/// What this member knows of itself.
struct Own {
    vote: Vote,
    last: Option<LogId>,
    voters: BTreeMap<u64, String>,
}

/// What the others have said since this member's start.
#[derive(Default)]
struct Inquiry {
    /// The newest answer of each. An older one may name entries that were lost unacknowledged.
    tails: BTreeMap<u64, Tail>,
    /// The end of a leader's log when it was asked.
    target: Option<Option<LogId>>,
}

impl Inquiry {
    fn hear(&mut self, id: u64, own: &Own, tail: Tail) {
        // A leader of an older term may not have what this member acknowledged since.
        if tail.leads && tail.vote >= own.vote && self.target.is_none() {
            self.target = Some(tail.last);
        }
        self.tails.insert(id, tail);
    }

    /// All other voters that this member or one that answered knows of: the change of the
    /// membership may be in what was cut off.
    fn others(&self, id: u64, own: &Own) -> BTreeMap<u64, String> {
        let told = self.tails.values().flat_map(|tail| &tail.voters);
        let all = told.chain(&own.voters).filter(|(other, _)| **other != id);
        all.map(|(other, address)| (*other, address.clone())).collect()
    }

    fn stand(&self, id: u64, own: &Own) -> Stand {
        if self.target.is_some_and(|target| own.last >= target) {
            return Stand::Whole;
        }
        let others = self.others(id, own);
        if !others.keys().all(|other| self.tails.contains_key(other)) {
            return Stand::Silent;
        }
        let floor = others.keys().filter_map(|other| self.tails[other].last).max();
        if own.last >= floor { Stand::Whole } else { Stand::From(floor) }
    }
}

impl Abstention {
    pub(crate) fn new(is_cut: bool) -> Self {
        let stand = if is_cut { Stand::Silent } else { Stand::Whole };
        Self { stand: Mutex::new(stand) }
    }

    pub(crate) fn is_over(&self) -> bool {
        *self.stand() == Stand::Whole
    }

    /// Whether a candidate whose log ends there may have this member's vote.
    pub(crate) fn allows(&self, candidate: Option<LogId>) -> bool {
        match *self.stand() {
            Stand::Whole => true,
            Stand::Silent => false,
            Stand::From(floor) => candidate >= floor,
        }
    }

    fn stand(&self) -> MutexGuard<'_, Stand> {
        self.stand.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a member says of itself to one whose log was cut off, and to a leader that asks what it
/// knows.
pub(crate) fn tail_of(
    metrics: &RaftMetrics<Types>,
    last: Option<LogId>,
    known: Versions,
) -> TailResponse {
    let membership = metrics.membership_config.membership();
    TailResponse {
        vote: (&metrics.vote).into(),
        last: put_id(last.as_ref()),
        leads: metrics.state.is_leader(),
        membership: membership.into(),
        oldest: known.oldest,
        newest: known.newest,
        build: BUILD.to_owned(),
    }
}

fn voters(membership: &Membership) -> BTreeMap<u64, String> {
    let address = |id: u64| membership.get_node(&id).map(|node| node.addr.clone());
    membership.voter_ids().map(|id| (id, address(id).unwrap_or_default())).collect()
}

/// Brings the abstention of one member to its end.
pub(crate) struct Recount {
    pub(crate) id: u64,
    pub(crate) links: Links,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) snapshots: Arc<Snapshots>,
    /// The log's.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) abstention: Arc<Abstention>,
}

impl Recount {
    /// Asks until the member is whole, or has stopped.
    pub(crate) async fn run(self) {
        let env = self.links.env().clone();
        let mut inquiry = Inquiry::default();
        let mut remind_at = env.clock.now().after(REMIND_SPAN);
        loop {
            let own = self.own();
            if self.raft.metrics().borrow_watched().running_state.is_err() {
                return;
            }
            self.ask(&env, &own, &mut inquiry).await;
            let stand = inquiry.stand(self.id, &self.own());
            if stand == Stand::Whole {
                match self.finish().await {
                    Ok(()) => return,
                    Err(error) => tracing::warn!(%error, "the member still abstains"),
                }
            } else {
                *self.abstention.stand() = stand;
            }
            if env.clock.now() >= remind_at {
                remind_at = env.clock.now().after(REMIND_SPAN);
                self.remind(&inquiry, &own);
            }
            env.sleep(ASK_SPAN).await;
        }
    }

    fn own(&self) -> Own {
        let metrics = self.raft.metrics().borrow_watched().clone();
        let vote = self.log.vote().unwrap_or(metrics.vote);
        let voters = voters(metrics.membership_config.membership());
        Own { vote, last: self.log.last(), voters }
    }

    async fn ask(&self, env: &Env, own: &Own, inquiry: &mut Inquiry) {
        let others = inquiry.others(self.id, own);
        let asked = others.into_iter().map(|(id, address)| async move {
            self.links.learn(id, &address);
            let answer =
                self.links.ask(id, CONTROL, Method::RaftTail, TailRequest {}.encode(), ANSWER_SPAN);
            (id, env.timeout(ANSWER_SPAN, answer).await)
        });
        for (id, answer) in join_all(asked).await {
            let Ok(Ok(answer)) = answer else { continue };
            let Ok(answer) = TailResponse::decode(&answer) else { continue };
            let Ok(membership) = Membership::try_from(answer.membership) else { continue };
            let (vote, last) = (answer.vote.into(), get_id(answer.last));
            let tail = Tail { vote, last, leads: answer.leads, voters: voters(&membership) };
            inquiry.hear(id, own, tail);
        }
    }

    /// Lets the member vote, once what it has made up for is durable and noted.
    async fn finish(&self) -> io::Result<()> {
        self.log.barrier().await?;
        let disk = self.disk.clone();
        self.snapshots.off_thread(move || marker::clear(disk.as_ref(), marker::CUT)).await??;
        *self.abstention.stand() = Stand::Whole;
        self.raft.runtime_config().elect(true);
        tracing::info!("the log is whole again; this controller votes as ever");
        Ok(())
    }

    fn remind(&self, inquiry: &Inquiry, own: &Own) {
        let others = inquiry.others(self.id, own);
        let silent: Vec<&u64> =
            others.keys().filter(|id| !inquiry.tails.contains_key(id)).collect();
        tracing::warn!(
            not_heard = ?silent,
            "this controller does not vote: its log was cut off at its start, and it has neither \
             caught up with a leader nor heard all other voters; bring those not heard back, or, \
             if they are lost for good, stop it and run `federation serve --accept-cut-log` once"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::CommittedLeaderId;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(CommittedLeaderId::new(term), index))
    }

    fn three() -> BTreeMap<u64, String> {
        (1..=3).map(|id| (id, String::new())).collect()
    }

    fn own(last: Option<LogId>) -> Own {
        Own { vote: Vote::new_committed(3, 2), last, voters: three() }
    }

    fn says(last: Option<LogId>, leader_of: Option<u64>) -> Tail {
        let vote = Vote::new_committed(leader_of.unwrap_or(1), 2);
        Tail { vote, last, leads: leader_of.is_some(), voters: three() }
    }

    #[test]
    fn one_of_two_voters_heard_is_not_enough() {
        let mut inquiry = Inquiry::default();
        assert_eq!(inquiry.stand(1, &own(at(3, 9))), Stand::Silent);
        inquiry.hear(2, &own(at(3, 9)), says(at(3, 5), None));
        assert_eq!(inquiry.stand(1, &own(at(3, 9))), Stand::Silent);
        inquiry.hear(3, &own(at(3, 9)), says(at(3, 9), None));
        assert_eq!(inquiry.stand(1, &own(at(3, 9))), Stand::Whole);
    }

    #[test]
    fn whoever_lags_behind_another_voter_votes_only_for_logs_like_that() {
        let mut inquiry = Inquiry::default();
        let mine = own(at(3, 8));
        inquiry.hear(2, &mine, says(at(3, 9), None));
        inquiry.hear(3, &mine, says(at(3, 7), None));
        assert_eq!(inquiry.stand(1, &mine), Stand::From(at(3, 9)));
        let abstention = Abstention::new(true);
        assert!(!abstention.allows(at(9, 9)));
        *abstention.stand() = inquiry.stand(1, &mine);
        assert!(!abstention.allows(at(3, 8)) && abstention.allows(at(3, 9)));
        assert_eq!(inquiry.stand(1, &own(at(3, 9))), Stand::Whole);
    }

    #[test]
    fn a_leader_alone_is_enough_unless_its_term_is_old() {
        let mut inquiry = Inquiry::default();
        inquiry.hear(2, &own(at(3, 8)), says(at(2, 20), Some(2)));
        assert_eq!(inquiry.stand(1, &own(at(3, 8))), Stand::Silent);
        inquiry.hear(2, &own(at(3, 8)), says(at(3, 9), Some(3)));
        assert_eq!(inquiry.stand(1, &own(at(3, 8))), Stand::Silent);
        assert_eq!(inquiry.stand(1, &own(at(3, 9))), Stand::Whole);
    }

    #[test]
    fn voters_that_only_another_knows_of_are_heard_too() {
        let mut inquiry = Inquiry::default();
        let mine = own(at(3, 8));
        let mut knows_more = says(at(3, 8), None);
        knows_more.voters.insert(4, "d:1".to_owned());
        inquiry.hear(2, &mine, knows_more);
        inquiry.hear(3, &mine, says(at(3, 8), None));
        assert_eq!(inquiry.stand(1, &mine), Stand::Silent);
        inquiry.hear(4, &mine, says(at(3, 9), None));
        assert_eq!(inquiry.stand(1, &mine), Stand::From(at(3, 9)));
    }

    #[test]
    fn a_member_alone_has_no_one_to_ask() {
        let alone = Own { voters: [(1, String::new())].into(), ..own(at(3, 8)) };
        assert_eq!(Inquiry::default().stand(1, &alone), Stand::Whole);
    }
}
