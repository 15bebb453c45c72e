//! A snapshot that another member sends. It grows on disk under a name that tells which file it
//! is, so that a transfer goes on where it ended, whatever ended it.

use std::fmt::Write;

use federation_core::State;
use federation_wal::DiskFile;
use specs::version::ClusterVersion;

use super::file::{Facts, FileId, Reader, sound_bytes};
use super::{Image, Latest, SnapshotError, Snapshots, name_of, read_state};
use crate::raft::types::{LogId, SnapshotMeta};

/// A piece of a file, bytes.
const PIECE_BYTES: u64 = 1 << 20;

const SUFFIX: &str = ".incoming";

/// Which file is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The last entry that it holds.
    pub(crate) last: LogId,
    pub(crate) file: FileId,
    /// Its size, bytes.
    pub(crate) total: u64,
}

/// A file that is coming in.
pub(crate) struct Incoming {
    offer: Offer,
    name: String,
    file: Box<dyn DiskFile>,
    /// What is there without a gap, bytes.
    have: u64,
}

/// A file that came in whole, with the state that it holds.
pub(crate) struct Verified {
    pub(super) name: String,
    pub(super) latest: Latest,
    pub(super) state: Box<State>,
}

pub(super) fn is_incoming(name: &str) -> bool {
    name.ends_with(SUFFIX)
}

impl Offer {
    /// Begins like the name of the snapshot that it becomes.
    fn name(&self) -> String {
        let mut id = String::new();
        for byte in self.file {
            write!(id, "{byte:02x}").expect("writing to a string does not fail");
        }
        let (index, term) = (self.last.index, self.last.leader_id.term);
        format!("{index:020}-{term:020}.{id}{SUFFIX}")
    }
}

impl Incoming {
    pub(crate) fn offer(&self) -> &Offer {
        &self.offer
    }

    pub(crate) fn have(&self) -> u64 {
        self.have
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.have == self.offer.total
    }

    /// Takes the piece that comes next. Blocks.
    pub(crate) fn push(&mut self, data: &[u8]) -> std::io::Result<()> {
        self.file.write_at(self.have, data)?;
        self.have += data.len() as u64;
        Ok(())
    }
}

impl Snapshots {
    /// Begins to take in a file, or goes on with it. Others that have begun are given up. Blocks.
    pub(crate) fn receive(&self, offer: Offer) -> std::io::Result<Incoming> {
        let wanted = offer.name();
        let mut found = None;
        for name in self.disk.list()?.into_iter().filter(|name| is_incoming(name)) {
            if name == wanted {
                let mut file = self.disk.open(&name)?;
                if file.len()? == offer.total {
                    found = Some(file);
                    continue;
                }
            }
            self.disk.remove(&name)?;
        }
        let (file, have) = match found {
            Some(mut file) => {
                let have = sound_bytes(file.as_mut(), offer.total);
                (file, have)
            }
            None => (self.disk.create(&wanted, offer.total)?, 0),
        };
        Ok(Incoming { offer, name: wanted, file, have })
    }

    /// Makes a file that is whole durable, reads all of it, and builds its state. One that is not
    /// sound is removed. Blocks.
    pub(crate) fn verify(&self, incoming: Incoming) -> Result<Verified, SnapshotError> {
        let Incoming { offer, name, mut file, .. } = incoming;
        let synced = file.sync_data().map_err(SnapshotError::from);
        let verified = synced.and_then(|()| verify(&offer, &name, file));
        if verified.is_err() {
            // It would be refused again.
            self.disk.remove(&name)?;
        }
        verified
    }

    /// Makes a file the newest snapshot, if it is not a snapshot already. Returns its state. Blocks.
    pub(crate) fn take_in(&self, image: Image) -> Result<State, SnapshotError> {
        let verified = match image {
            Image::Received(verified) => verified,
            Image::Stored { snapshots, latest } if std::ptr::eq(self, snapshots.as_ref()) => {
                return Ok(self.load(&latest.name)?.1);
            }
            Image::Stored { snapshots, latest } => self.copy(&snapshots, latest)?,
            Image::Nothing => return Err(SnapshotError::Other),
        };
        self.put_in_place(&verified.name, verified.latest)?;
        Ok(*verified.state)
    }

    fn copy(&self, from: &Self, latest: Latest) -> Result<Verified, SnapshotError> {
        let last = latest.meta.last_log_id.ok_or(SnapshotError::Other)?;
        let mut file = from.disk.open(&latest.name)?;
        let offer = Offer { last, file: latest.id, total: latest.bytes };
        let mut incoming = self.receive(offer)?;
        while !incoming.is_whole() {
            let piece = read_piece(file.as_mut(), incoming.have, latest.bytes)?;
            incoming.push(&piece)?;
        }
        self.verify(incoming)
    }
}

/// The bytes of a file that one message carries.
pub(crate) fn read_piece(
    file: &mut dyn DiskFile,
    offset: u64,
    total: u64,
) -> std::io::Result<Vec<u8>> {
    let bytes = total.saturating_sub(offset).min(PIECE_BYTES);
    let mut piece = vec![0; usize::try_from(bytes).map_err(std::io::Error::other)?];
    file.read_at(offset, &mut piece)?;
    Ok(piece)
}

impl Verified {
    pub(crate) fn meta(&self) -> &SnapshotMeta {
        &self.latest.meta
    }

    /// Of the site whose state it is.
    pub(crate) fn version(&self) -> ClusterVersion {
        self.state.version
    }
}

fn verify(offer: &Offer, name: &str, file: Box<dyn DiskFile>) -> Result<Verified, SnapshotError> {
    let mut reader = Reader::open(file)?;
    let Facts { id, .. } = *reader.facts();
    if reader.meta().last_log_id != Some(offer.last) || id != offer.file {
        return Err(SnapshotError::Other);
    }
    let state = Box::new(read_state(&mut reader)?);
    let meta = reader.meta().clone();
    let latest = Latest::new(meta.clone(), name_of(&meta), reader.facts());
    Ok(Verified { name: name.to_owned(), latest, state })
}
