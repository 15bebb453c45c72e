//! A member's directory while no member runs in it: what a restore puts there, and what is found
//! there by someone who only looks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::Path;

use fabric_quic::env::Env;
use federation_core::State;
use federation_wal::{Disk, LOCK_FILE, RealDisk, Report, inspect};
use openraft::impls::BasicNode;
use specs::codec::Message;
use specs::id::ControllerId;

use super::memory::Memory;
use super::record::Record;
use super::snapshot::{Pace, Snapshots, newest_in};
use super::start::{StartError, Storage};
use super::types::{CommittedLeaderId, LogId, Membership, SnapshotMeta, StoredMembership};

/// The last entry of a restored group's log, which is not there: its snapshot stands for it. No
/// term has this number, so every entry that follows is of a later one.
const RESTORED_AT: (u64, u64) = (0, 1);

/// Makes the directory of a member that is a group of its own, with a state that it begins with.
///
/// # Errors
/// The directory cannot be written.
pub fn found_with(
    env: &Env,
    dir: &Path,
    id: ControllerId,
    address: &str,
    state: &State,
) -> Result<(), StartError> {
    let storage = Storage::real(dir)?;
    let failed = |source| StartError::Directory {
        what: dir.join("snapshots").display().to_string(),
        source,
    };
    let alone = BTreeMap::from([(id.0, BasicNode::new(address))]);
    let membership = Membership::new(vec![BTreeSet::from([id.0])], alone);
    let membership = membership.map_err(|error| StartError::Config(error.to_string()))?;
    let (term, index) = RESTORED_AT;
    let at = LogId { leader_id: CommittedLeaderId::new(term), index };
    let meta = SnapshotMeta {
        last_log_id: Some(at),
        last_membership: StoredMembership::new(Some(at), membership),
    };
    let pace = Pace::by(env.clock.clone());
    let (snapshots, _) = Snapshots::open(storage.snapshots, storage.threads, pace)?;
    snapshots.save(&meta, state).map_err(failed)?;
    Ok(())
}

/// What a member left on disk.
#[derive(Debug, Default)]
pub struct Look {
    /// The process that has the log open, if one has.
    pub held_by: Option<String>,
    /// None if there is no directory of a log.
    pub log: Option<Report>,
    /// Why the records of an undamaged log make no sense.
    pub nonsense: Option<String>,
    /// Indexes of the first entry that is there and of the last one.
    pub entries: Option<(u64, u64)>,
    /// The last entry that is gone from the log.
    pub purged: Option<u64>,
    /// The newest snapshot: its name, and what it holds or why it is of no use.
    pub snapshot: Option<(String, Result<SnapshotLook, String>)>,
    /// Notes that the member left beside its log, by name.
    pub notes: Vec<String>,
}

/// A snapshot that was read whole.
#[derive(Debug)]
pub struct SnapshotLook {
    /// Index of its last entry.
    pub index: u64,
    pub bytes: u64,
    pub state: Box<State>,
}

/// Looks at a member's directory and changes nothing; a member may run in it.
///
/// # Errors
/// The directory cannot be read.
pub fn look(dir: &Path) -> io::Result<Look> {
    let mut look = Look::default();
    let wal = dir.join("wal");
    if wal.is_dir() {
        look.held_by = holder(&wal)?;
        let mut memory = Memory::default();
        let mut nonsense = None;
        let disk = RealDisk::existing(&wal)?;
        let report = inspect(&disk, |seq, bytes| {
            let applied = Record::decode(bytes)
                .map_err(|error| error.to_string())
                .and_then(|it| memory.apply(it, Some(seq)).map_err(|error| error.to_string()));
            if let Err(why) = applied {
                nonsense.get_or_insert(format!("record {seq}: {why}"));
            }
        });
        let report = report.map_err(|error| io::Error::other(error.source))?;
        if let Err(error) = memory.check_beginning() {
            nonsense.get_or_insert(error.to_string());
        }
        look.purged = memory.purged().map(|id| id.index);
        let first = look.purged.map_or(0, |index| index + 1);
        look.entries = memory.last().map(|id| (first, id.index)).filter(|(from, to)| from <= to);
        look.notes = notes(&disk)?;
        (look.log, look.nonsense) = (Some(report), nonsense);
    }
    let snapshots = dir.join("snapshots");
    if snapshots.is_dir() {
        look.snapshot = newest_in(&RealDisk::existing(&snapshots)?)?.map(|(name, read)| {
            let read = read.map_err(|error| error.to_string());
            (name, read.map(|(index, bytes, state)| SnapshotLook { index, bytes, state }))
        });
    }
    Ok(look)
}

/// Who has the log open. The lock is tried for a moment, and shared, which hinders no one for
/// longer.
fn holder(wal: &Path) -> io::Result<Option<String>> {
    let path = wal.join(LOCK_FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(std::fs::TryLockError::WouldBlock) => {
            Ok(Some(std::fs::read_to_string(&path)?.trim().to_owned()))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

/// Files beside the log that are none of its own.
fn notes(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let known = ["quarantine", "cut-log"];
    Ok(disk.list()?.into_iter().filter(|name| known.contains(&name.as_str())).collect())
}
