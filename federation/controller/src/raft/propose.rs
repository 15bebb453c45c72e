//! Gathers commands that are proposed at about the same time into one entry of the log. An entry
//! costs the same channels, messages and callbacks whatever it holds, so that under load most of
//! the price of a command is that of its bytes.
//!
//! ```text
//!   propose ──┐                      ┌─ entry ─▶ majority ─▶ applied ─▶ replies ─▶ each proposer
//!   propose ──┼─ bounded queue ─ task
//!   propose ──┘                      └─ entry ─▶ ...          at most IN_FLIGHT_MAX at a time
//! ```
//!
//! Nothing waits for company: an entry is made as soon as one may be under way, of whatever is
//! queued then. Commands of an entry are applied one after the other; each has a reply and a
//! revision of its own, and none knows of the others.

use fabric_quic::env::Env;
use federation_core::Reply;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use openraft::errors::{ClientWriteError, RaftError};
use specs::id::Revision;
use specs::unit::Millis;
use tokio::sync::{mpsc, oneshot};

use super::serve::Raft;
use super::types::{Answer, Payload};
use super::{Committed, ProposeError};

/// Entries under way at a time. More than one, so that the log is never idle while an entry
/// travels; few, so that what comes meanwhile shares the next.
const IN_FLIGHT_MAX: usize = 4;
/// Commands that one entry holds at most, but for those of one proposer. So few that a burst makes
/// several entries, and followers are at work on the first while the leader makes the last; so many
/// that an entry's own cost is small beside theirs.
const ENTRY_COMMANDS_MAX: usize = 128;
/// Bytes after which an entry takes no further command.
const ENTRY_BYTES: usize = 1 << 20;
/// Proposals that wait to be made into entries; further ones wait to be queued.
const QUEUE: usize = 8_192;
/// How long a command may wait for its majority.
const PROPOSE_SPAN: Millis = Millis(10_000);

type Outcome = Result<Vec<Committed>, ProposeError>;

/// Commands of one proposer, which stay together.
struct Proposal {
    commands: Vec<Vec<u8>>,
    bytes: usize,
    answer: oneshot::Sender<Outcome>,
}

/// The way into the log. Clones share it.
#[derive(Clone)]
pub(crate) struct Proposer {
    env: Env,
    queue: mpsc::Sender<Proposal>,
}

impl Proposer {
    pub(crate) fn new(env: &Env, raft: Raft) -> Self {
        let (queue, proposals) = mpsc::channel(QUEUE);
        env.spawn(run(raft, proposals));
        Self { env: env.clone(), queue }
    }

    /// Agrees on commands, given as their bytes, all in one entry. There are as many outcomes as
    /// commands.
    pub(crate) async fn propose(&self, commands: Vec<Vec<u8>>) -> Outcome {
        let bytes = commands.iter().map(Vec::len).sum();
        let (answer, outcome) = oneshot::channel();
        let stopped = || ProposeError::Stopped("it takes no more commands".to_owned());
        let proposed = async {
            let proposal = Proposal { commands, bytes, answer };
            self.queue.send(proposal).await.map_err(|_| stopped())?;
            outcome.await.unwrap_or_else(|_| Err(stopped()))
        };
        let outcome = self.env.timeout(PROPOSE_SPAN, proposed).await;
        outcome.unwrap_or_else(|_| {
            Err(ProposeError::Unknown(format!("no majority for {PROPOSE_SPAN} ms")))
        })
    }
}

async fn run(raft: Raft, mut proposals: mpsc::Receiver<Proposal>) {
    let mut in_flight = FuturesUnordered::new();
    let mut waiting = Vec::new();
    loop {
        tokio::select! {
            Some(()) = in_flight.next() => {}
            taken = proposals.recv_many(&mut waiting, ENTRY_COMMANDS_MAX),
                if in_flight.len() < IN_FLIGHT_MAX =>
            {
                if taken == 0 {
                    break;
                }
                // Whoever gave up meanwhile was told that it is not known; so it may be left out.
                waiting.retain(|proposal: &Proposal| !proposal.answer.is_closed());
                for entry in entries(&mut waiting) {
                    in_flight.push(write(raft.clone(), entry));
                }
            }
        }
    }
    while let Some(()) = in_flight.next().await {}
}

/// Groups proposals, in order.
fn entries(waiting: &mut Vec<Proposal>) -> Vec<Vec<Proposal>> {
    let mut entries: Vec<Vec<Proposal>> = Vec::new();
    let (mut commands, mut bytes) = (0, 0);
    for proposal in waiting.drain(..) {
        let fits = commands + proposal.commands.len() <= ENTRY_COMMANDS_MAX
            && bytes + proposal.bytes <= ENTRY_BYTES;
        if !fits || entries.is_empty() {
            entries.push(Vec::new());
            (commands, bytes) = (0, 0);
        }
        commands += proposal.commands.len();
        bytes += proposal.bytes;
        entries.last_mut().expect("one was pushed if there was none").push(proposal);
    }
    entries
}

/// Writes one entry, and tells its proposers what became of it.
async fn write(raft: Raft, entry: Vec<Proposal>) {
    let payload = Payload::of_encoded(entry.iter().flat_map(|proposal| &proposal.commands));
    match Box::pin(raft.client_write(payload)).await {
        Ok(response) => answer(entry, response.data),
        Err(error) => {
            let error = outcome_of(error);
            for proposal in entry {
                // Nobody listens any more if the proposer gave up.
                let _ = proposal.answer.send(Err(error.clone()));
            }
        }
    }
}

fn answer(entry: Vec<Proposal>, answer: Answer) {
    let mut applied = match answer {
        Answer::Applied(applied) => applied.into_iter(),
        Answer::Nothing => Vec::new().into_iter(),
    };
    for proposal in entry {
        let own: Vec<Committed> = applied
            .by_ref()
            .take(proposal.commands.len())
            .map(|(reply, revision): (Reply, Revision)| Committed { reply, revision })
            .collect();
        let outcome = if own.len() == proposal.commands.len() {
            Ok(own)
        } else {
            Err(ProposeError::Unknown("the answer is lost".to_owned()))
        };
        let _ = proposal.answer.send(outcome);
    }
}

fn outcome_of(
    error: RaftError<super::types::Types, ClientWriteError<super::types::Types>>,
) -> ProposeError {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => to.into(),
        RaftError::APIError(
            error @ (ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_)),
        ) => ProposeError::Unknown(error.to_string()),
        RaftError::Fatal(error) => ProposeError::Stopped(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proposal(commands: usize, bytes: usize) -> Proposal {
        let (answer, _) = oneshot::channel();
        Proposal { commands: vec![Vec::new(); commands], bytes, answer }
    }

    fn grouped(proposals: Vec<Proposal>) -> Vec<Vec<usize>> {
        let mut waiting = proposals;
        let grouped = entries(&mut waiting);
        assert!(waiting.is_empty());
        let commands = |entry: &Vec<Proposal>| entry.iter().map(|it| it.commands.len()).collect();
        grouped.iter().map(commands).collect()
    }

    #[test]
    fn what_waits_together_shares_an_entry_up_to_a_limit() {
        assert_eq!(grouped(vec![proposal(1, 9), proposal(2, 9)]), [vec![1, 2]]);
        let many = vec![proposal(1, 0), proposal(ENTRY_COMMANDS_MAX, 0), proposal(1, 0)];
        assert_eq!(grouped(many), [vec![1], vec![ENTRY_COMMANDS_MAX], vec![1]]);
        let large = vec![proposal(1, 1), proposal(1, ENTRY_BYTES), proposal(1, 1)];
        assert_eq!(grouped(large), [vec![1], vec![1], vec![1]]);
        let alone = vec![proposal(1, 2 * ENTRY_BYTES), proposal(1, 1)];
        assert_eq!(grouped(alone), [vec![1], vec![1]]);
    }

    #[test]
    fn each_proposer_gets_the_answers_to_its_own_commands() {
        let (first, mut of_first) = oneshot::channel();
        let (second, mut of_second) = oneshot::channel();
        let of =
            |commands, answer| Proposal { commands: vec![Vec::new(); commands], bytes: 0, answer };
        let applied = (1..=3).map(|at| (Reply::Done, Revision(at))).collect();
        answer(vec![of(1, first), of(2, second)], Answer::Applied(applied));
        let revisions = |outcome: Outcome| -> Vec<u64> {
            outcome.unwrap().iter().map(|committed| committed.revision.0).collect()
        };
        assert_eq!(revisions(of_first.try_recv().unwrap()), [1]);
        assert_eq!(revisions(of_second.try_recv().unwrap()), [2, 3]);
    }

    #[test]
    fn answers_that_are_missing_are_unknown() {
        let (asker, mut asked) = oneshot::channel();
        let proposal = Proposal { commands: vec![Vec::new(); 2], bytes: 0, answer: asker };
        answer(vec![proposal], Answer::Applied(vec![(Reply::Done, Revision(1))]));
        assert!(matches!(asked.try_recv().unwrap(), Err(ProposeError::Unknown(_))));
    }
}
