//! The types that openraft is instantiated with.

use std::fmt;

use bytes::Bytes;
use federation_core::{Command, Reply};
use openraft::impls::{BasicNode, leader_id_std};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};
use specs::codec::{Blob, DecodeError, Message, Reader, Value, Wire, put_encoded};
use specs::id::Revision;
use specs::version::{ClusterVersion, Versions};

/// Most bytes before a command: its field's key and its length.
const HEAD_MAX: usize = 8;
/// The format of a payload: what stands before the command's bytes.
pub(crate) const PAYLOAD_FORMAT: u16 = 2;
/// The field of a payload that holds a command; there are many.
const COMMAND_TAG: u32 = 1;

openraft::declare_raft_types!(
    /// Standard Raft: one leader in a term, ids of members are those of controllers.
    pub Types:
        D = Payload,
        R = Answer,
        NodeId = u64,
        Node = BasicNode,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<Types>;
pub(crate) type Entry = openraft::alias::EntryOf<Types>;
pub(crate) type EntryPayload = openraft::EntryPayload<Payload, u64, BasicNode>;
pub(crate) type LogId = openraft::alias::LogIdOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, BasicNode>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<Types>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<Types>;
pub(crate) type Vote = openraft::alias::VoteOf<Types>;

/// Commands as the log carries them: a format number, two bytes, little-endian, then each command,
/// in the order in which they are applied, as field [`COMMAND_TAG`] of one message.
/// Nothing between the one who proposes and the one who applies looks inside.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// A payload that this version cannot read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("it has format {0}, which this version does not know")]
    Format(u16),
    #[error("it is cut short")]
    Short,
    #[error("it is not a command that this version knows")]
    Command(#[source] DecodeError),
    #[error("the site's controllers have agreed on version {needs}, and this build knows {known}")]
    Version { needs: ClusterVersion, known: Versions },
}

impl Payload {
    /// One command.
    pub(crate) fn of(command: &Command) -> Self {
        Self::of_encoded([&command.encode()].into_iter())
    }

    /// Commands as their bytes.
    pub(crate) fn of_encoded<'a>(commands: impl Iterator<Item = &'a Vec<u8>> + Clone) -> Self {
        let room = commands.clone().map(|command| command.len() + HEAD_MAX).sum::<usize>();
        let mut bytes = Vec::with_capacity(room + HEAD_MAX);
        bytes.extend(PAYLOAD_FORMAT.to_le_bytes());
        for command in commands {
            put_encoded(command, COMMAND_TAG, &mut bytes);
        }
        Self(bytes.into())
    }

    /// The commands, each read when it is asked for: together they may be much more than their
    /// bytes.
    pub(crate) fn commands(&self) -> Result<CommandReader<'_>, PayloadError> {
        let (format, commands) = self.0.split_first_chunk().ok_or(PayloadError::Short)?;
        match u16::from_le_bytes(*format) {
            PAYLOAD_FORMAT => Ok(CommandReader(Reader::new(commands))),
            other => Err(PayloadError::Format(other)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    #[cfg(test)]
    pub(crate) fn raw(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }
}

/// Reads the commands of a payload, one at a time.
pub(crate) struct CommandReader<'a>(Reader<'a>);

impl CommandReader<'_> {
    fn read(&mut self) -> Result<Option<Command>, DecodeError> {
        while let Some((tag, wire)) = self.0.field()? {
            match (tag, wire) {
                (COMMAND_TAG, Command::WIRE) => return Command::get(&mut self.0).map(Some),
                (COMMAND_TAG, _) => return Err(DecodeError::Invalid("the wire type of a command")),
                _ => self.0.skip(wire)?,
            }
        }
        Ok(None)
    }
}

/// Nothing is to be read after an error.
impl Iterator for CommandReader<'_> {
    type Item = Result<Command, PayloadError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(PayloadError::Command).transpose()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Value for Payload {
    const WIRE: Wire = Wire::Bytes;
    fn put(&self, out: &mut Vec<u8>) {
        (self.0.len() as u64).put(out);
        out.extend_from_slice(&self.0);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Blob::get(reader).map(|blob| Self(blob.0.into()))
    }
}

/// What became of an entry when it was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// For each command its reply, and the state's revision right after it.
    Applied(Vec<(Reply, Revision)>),
    /// The entry held no command.
    Nothing,
}

// openraft's feature `serde` asks for these. Neither type is ever passed to serde: the log and the
// wire have formats of their own.

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| Self(bytes.into()))
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, _serializer: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("an answer does not leave its process"))
    }
}

impl<'de> Deserialize<'de> for Answer {
    fn deserialize<D: Deserializer<'de>>(_deserializer: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("an answer does not leave its process"))
    }
}
