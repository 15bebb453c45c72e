//! What an agent and the supervisor of an attempt say to each other, over a pair of sockets: an
//! assignment first, then wishes one way and notices the other. Both are the same build.

use std::io;

use specs::codec::Message;
use specs::id::{Boot, Epoch, JobId, LeaseId, NodeId, SiteId};
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::agent::{Launch, Outcome};

/// Longest message; a launch holds a job's command and environment.
const MESSAGE_MAX: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;

specs::message! {
    /// What a supervisor is for.
    pub struct Assignment {
        1 => lease: LeaseId,
        2 => home: SiteId,
        3 => job: JobId,
        4 => epoch: Epoch,
        5 => node: NodeId,
        6 => boot: Boot,
        7 => launch: Launch,
        8 => wish: Wish,
    }

    /// All that the agent wants.
    pub struct Wish {
        /// Kill everything at this instant, whether the agent is heard or not.
        1 => deadline: Option<Instant>,
        /// End now.
        2 => end: Option<End>,
    }

    /// Why and how to end.
    pub struct End {
        /// What becomes of the attempt unless its tasks ended by themselves.
        1 => outcome: Outcome,
        /// Ask the tasks to end, and kill them after this span; zero kills at once.
        2 => grace: Millis,
    }

    /// All tasks were started.
    pub struct Started {
        1 => at: Timestamp,
    }

    /// How an attempt ended on this node. Also the content of its file.
    pub struct ExitRecord {
        1 => outcome: Outcome,
        /// Zero if it never started.
        2 => started_at: Timestamp,
        3 => ended_at: Timestamp,
    }
}

specs::choice! {
    /// What a supervisor tells.
    pub enum Notice {
        1 => Started(Started),
        2 => Ended(ExitRecord),
    }
}

/// A message with its length before it.
pub fn frame(message: &impl Message) -> Vec<u8> {
    let body = message.encode();
    let len = u32::try_from(body.len()).unwrap_or(u32::MAX);
    let mut bytes = len.to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// Bytes that came, to be taken out message by message.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
}

impl Inbox {
    /// Adds what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; none if it has not come yet.
    ///
    /// # Errors
    /// Bytes that no supervisor and no agent of this build sends.
    pub fn pop<M: Message>(&mut self) -> io::Result<Option<M>> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let len = usize::try_from(u32::from_be_bytes(*head)).unwrap_or(usize::MAX);
        if len > MESSAGE_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the message is too long"));
        }
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let message = M::decode(body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        self.bytes.drain(..LENGTH_BYTES + len);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use specs::wire::agent::Ending;

    use super::*;

    fn wish(deadline: u64) -> Wish {
        let end = End { outcome: Outcome::of(Ending::Stopped, "told to"), grace: Millis(5) };
        Wish { deadline: Some(Instant(deadline)), end: Some(end) }
    }

    #[test]
    fn messages_come_out_whole_whatever_the_pieces() {
        let bytes: Vec<u8> = [frame(&wish(0)), frame(&wish(7))].concat();
        let mut inbox = Inbox::default();
        let mut out = Vec::new();
        for byte in bytes {
            inbox.push(&[byte]);
            out.extend(inbox.pop::<Wish>().unwrap());
        }
        assert_eq!(out, [wish(0), wish(7)]);
    }

    #[test]
    fn a_length_beyond_the_limit_is_an_error() {
        let mut inbox = Inbox::default();
        inbox.push(&[0xff; 8]);
        assert!(inbox.pop::<Wish>().is_err());
    }
}
