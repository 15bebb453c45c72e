//! Snapshots on disks that are cut, damaged and full.

use std::io;
use std::sync::Arc;

use federation_core::{Command, OpenToken, State, TokenKind, apply};
use federation_wal::Disk;
use federation_wal::hooked_disk::{Call, Hook, HookedDisk};
use federation_wal::sim_disk::SimDisk;
use openraft::impls::BasicNode;
use specs::codec::Blob;
use specs::id::TokenId;
use specs::unit::Timestamp;

use super::{id, threads};
use crate::raft::snapshot::{
    Content, Image, Incoming, Offer, Pace, SnapshotError, Snapshots, read_piece,
};
use crate::raft::types::{LogId, Membership, SnapshotMeta, StoredMembership};

const ROOM: u64 = 64 << 20;
/// Small pieces, so that there are many places to stop at.
const PIECE: usize = 200;

pub(super) fn state(tokens: u64) -> State {
    let mut state = State::default();
    for number in 0..tokens {
        let key: Vec<u8> = (0..64).map(|at| (number * 31 + at * 7).to_le_bytes()[0]).collect();
        let command = Command::OpenToken(OpenToken {
            token: TokenId(u128::from(number)),
            kind: TokenKind::Invite,
            key: Blob(key),
            bound: String::new(),
            expires_at: Timestamp(number),
        });
        apply(&mut state, &command);
    }
    state
}

pub(super) fn meta(index: u64) -> SnapshotMeta {
    let node = BasicNode::new("a:1");
    let nodes = std::collections::BTreeMap::from([(1, node)]);
    let membership = Membership::new(vec![[1].into()], nodes).unwrap();
    let last_membership = StoredMembership::new(Some(id(1, 0)), membership);
    SnapshotMeta { last_log_id: Some(id(1, index)), last_membership }
}

type Opened = Result<(Snapshots, Option<Content>), (String, SnapshotError)>;

fn try_open(disk: &SimDisk) -> Opened {
    Snapshots::open(Arc::new(disk.clone()), threads(), Pace::default())
}

fn open(disk: &SimDisk) -> (Snapshots, Option<(LogId, State)>) {
    let (snapshots, content) = try_open(disk).unwrap();
    (snapshots, content.map(|(meta, state)| (meta.last_log_id.unwrap(), state)))
}

/// A disk with one snapshot, its bytes, and what is offered of it.
fn source(tokens: u64, index: u64) -> (SimDisk, Vec<u8>, Offer) {
    let disk = SimDisk::new(ROOM);
    let (snapshots, _) = open(&disk);
    let latest = snapshots.save(&meta(index), &state(tokens)).unwrap();
    let file = disk.read(&latest.name);
    assert_eq!(file.len() as u64, latest.bytes);
    let offer = Offer { last: id(1, index), file: latest.id, total: latest.bytes };
    (disk, file, offer)
}

fn push_rest(incoming: &mut Incoming, file: &[u8]) -> io::Result<()> {
    while !incoming.is_whole() {
        let have = usize::try_from(incoming.have()).unwrap();
        incoming.push(&file[have..file.len().min(have + PIECE)])?;
    }
    Ok(())
}

fn install(
    snapshots: &Snapshots,
    mut incoming: Incoming,
    file: &[u8],
) -> Result<State, SnapshotError> {
    push_rest(&mut incoming, file)?;
    snapshots.take_in(Image::Received(snapshots.verify(incoming)?))
}

#[test]
fn what_is_written_is_read_again() {
    let (disk, ..) = source(40_000, 7);
    let (snapshots, content) = open(&disk);
    let (last, read) = content.unwrap();
    assert_eq!((last, &read), (id(1, 7), &state(40_000)));
    let latest = snapshots.latest().unwrap();
    assert!(latest.plain_bytes > 3 << 20, "{latest:?}");
    assert!(latest.bytes < latest.plain_bytes, "{latest:?}");
}

#[test]
fn equal_states_have_equal_digests_and_others_do_not() {
    let digest = |tokens, index| {
        let disk = SimDisk::new(ROOM);
        let latest = open(&disk).0.save(&meta(index), &state(tokens)).unwrap();
        (latest.digest, latest.id)
    };
    assert_eq!(digest(100, 7), digest(100, 7));
    let (this, other) = (digest(100, 7), digest(100, 8));
    assert!(this.0 == other.0 && this.1 != other.1, "the digest is the state's, the id the file's");
    assert_ne!(digest(101, 7).0, this.0);
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused_and_nothing_is_overwritten() {
    let (disk, file, _) = source(60, 7);
    let name = disk.list().unwrap().remove(0);
    let refused = |what: &str| {
        let before = disk.read(&name);
        let error = try_open(&disk).err();
        let (at, error) = error.unwrap_or_else(|| panic!("{what} was not seen"));
        assert_eq!(at, name, "{what}: {error}");
        assert_eq!(
            (disk.list().unwrap(), disk.read(&name)),
            (vec![name.clone()], before),
            "{what}"
        );
        error
    };
    for offset in 0..file.len() {
        let bit = u32::try_from(offset % 8).unwrap();
        disk.flip_bit(&name, offset, bit);
        refused(&format!("a flip at {offset}"));
        disk.flip_bit(&name, offset, bit);
    }
    let mut handle = disk.open(&name).unwrap();
    for length in (0..file.len()).rev() {
        handle.resize(length as u64).unwrap();
        let error = refused(&format!("a cut at {length}"));
        assert!(error.to_string().contains("cut short"), "{length}: {error}");
    }
    handle.resize(file.len() as u64).unwrap();
    handle.write_at(0, &file).unwrap();
    assert!(try_open(&disk).is_ok());
}

#[test]
fn a_file_of_format_1_is_refused_by_its_number() {
    let (disk, ..) = source(3, 7);
    let name = disk.list().unwrap().remove(0);
    disk.damage(&name, |bytes| bytes[8] = 1);
    let (at, error) = try_open(&disk).err().unwrap();
    assert_eq!(at, name);
    assert!(matches!(error, SnapshotError::Format(1)), "{error}");
}

type Work = dyn Fn(Arc<dyn Disk>) -> Result<(), SnapshotError>;

/// Does something to a disk that has snapshot 7, with the power or the process ending after each
/// number of steps, and checks that what is found then is snapshot 7 or 9, and whole.
fn at_every_step(lie: Lie, work: &Work) -> Result<(), String> {
    let (old, new) = (state(20), state(90));
    let mut found = [0, 0];
    for step in 0.. {
        let mut is_done = false;
        for seed in 0..12 {
            let disk = SimDisk::new(ROOM);
            open(&disk).0.save(&meta(7), &old).unwrap();
            disk.cut_power_after(step);
            is_done = work(Arc::new(HookedDisk::new(disk.clone(), lie))).is_ok();
            if seed == 0 {
                disk.kill_process()
            } else {
                disk.power_loss(seed)
            }
            let (_, content) =
                try_open(&disk).map_err(|(name, error)| format!("{step}: {name}: {error}"))?;
            let (meta, state) = content.ok_or_else(|| format!("{step}: nothing is left"))?;
            let is_new = meta.last_log_id == Some(id(1, 9));
            if state != *(if is_new { &new } else { &old }) {
                return Err(format!("step {step}, seed {seed}: neither the old nor the new state"));
            }
            if is_done && !is_new {
                return Err(format!("step {step}, seed {seed}: it was reported done"));
            }
            found[usize::from(is_new)] += 1;
            let names = disk.list().unwrap();
            assert!(!names.iter().any(|name| name == "unfinished"), "{names:?}");
        }
        if is_done {
            eprintln!("{step} steps; old and new found {found:?}");
            assert!(found.iter().all(|count| *count > 10));
            return Ok(());
        }
    }
    unreachable!()
}

fn write_at(disk: Arc<dyn Disk>) -> Result<(), SnapshotError> {
    let opened = Snapshots::open(disk, threads(), Pace::default());
    opened.map_err(|(_, error)| error)?.0.save(&meta(9), &state(90))?;
    Ok(())
}

fn install_at(disk: Arc<dyn Disk>) -> Result<(), SnapshotError> {
    let (_, file, offer) = source(90, 9);
    let opened = Snapshots::open(disk, threads(), Pace::default());
    let snapshots = opened.map_err(|(_, error)| error)?.0;
    let incoming = snapshots.receive(offer)?;
    install(&snapshots, incoming, &file)?;
    Ok(())
}

#[test]
fn a_snapshot_that_is_cut_off_at_any_step_of_writing_leaves_the_old_one() {
    at_every_step(Lie::None, &write_at).unwrap();
}

#[test]
fn an_installation_that_is_cut_off_at_any_step_leaves_the_old_state() {
    at_every_step(Lie::None, &install_at).unwrap();
}

/// The two tests before notice a sync that is left out.
#[test]
fn a_sync_that_is_left_out_is_noticed() {
    for lie in [Lie::Bytes, Lie::Names] {
        for work in [&write_at as &Work, &install_at] {
            let noticed = at_every_step(lie, work).unwrap_err();
            eprintln!("{lie:?}: {noticed}");
        }
    }
}

/// What a disk says is durable although it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    None,
    Bytes,
    Names,
}

impl Hook for Lie {
    fn sync(&self, call: Call<'_>) -> io::Result<()> {
        if *self == Self::Bytes { Ok(()) } else { call() }
    }
    fn sync_directory(&self, call: Call<'_>) -> io::Result<()> {
        if *self == Self::Names { Ok(()) } else { call() }
    }
}

#[test]
fn a_transfer_goes_on_after_a_restart_from_what_is_sound() {
    let (_, file, offer) = source(40_000, 9);
    let disk = SimDisk::new(ROOM);
    let (snapshots, _) = open(&disk);
    let mut incoming = snapshots.receive(offer.clone()).unwrap();
    while incoming.have() < offer.total / 2 {
        let have = usize::try_from(incoming.have()).unwrap();
        incoming.push(&file[have..have + (100 << 10)]).unwrap();
    }
    let had = incoming.have();
    drop(incoming);
    disk.kill_process();
    let (snapshots, _) = open(&disk);
    let incoming = snapshots.receive(offer.clone()).unwrap();
    let have = incoming.have();
    assert!(have > 0 && have <= had && have + (2 << 20) > had, "{have} of {had}");
    // A power loss takes some of what was not synced, and never lets it pass for sound.
    drop((snapshots, incoming));
    disk.power_loss(3);
    let (snapshots, _) = open(&disk);
    let incoming = snapshots.receive(offer.clone()).unwrap();
    let sound = usize::try_from(incoming.have()).unwrap();
    assert_eq!(disk.read(&disk.list().unwrap()[0])[..sound], file[..sound]);
    assert_eq!(install(&snapshots, incoming, &file).unwrap(), state(40_000));
    assert_eq!(disk.list().unwrap().len(), 1);
}

#[test]
fn another_file_is_begun_anew_and_a_wrong_one_is_refused_and_removed() {
    let (_, file, offer) = source(90, 9);
    let (_, other_file, other) = source(91, 9);
    let disk = SimDisk::new(ROOM);
    let (snapshots, _) = open(&disk);
    let mut incoming = snapshots.receive(offer.clone()).unwrap();
    incoming.push(&file[..PIECE]).unwrap();
    drop(incoming);
    let incoming = snapshots.receive(other.clone()).unwrap();
    assert_eq!((incoming.have(), disk.list().unwrap().len()), (0, 1));
    drop(incoming);
    let incoming = snapshots.receive(Offer { total: file.len() as u64, ..other.clone() }).unwrap();
    let error = install(&snapshots, incoming, &file).unwrap_err();
    assert!(matches!(error, SnapshotError::Other), "{error}");
    assert!(disk.list().unwrap().is_empty());
    for offset in 0..other_file.len() {
        let mut damaged = other_file.clone();
        damaged[offset] ^= 1 << (offset % 8);
        let incoming = snapshots.receive(other.clone()).unwrap();
        assert!(install(&snapshots, incoming, &damaged).is_err(), "offset {offset}");
        assert!(disk.list().unwrap().is_empty(), "offset {offset}");
    }
    assert!(snapshots.latest().is_none());
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let disk = SimDisk::new(ROOM);
    let (snapshots, _) = open(&disk);
    snapshots.save(&meta(7), &state(20)).unwrap();
    let before = disk.list().unwrap();
    disk.set_free_bytes(1_000);
    let error = snapshots.save(&meta(9), &state(90)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(disk.list().unwrap(), before);
    let (_, _, offer) = source(90, 9);
    assert!(snapshots.receive(offer).is_err());
    disk.set_free_bytes(ROOM);
    snapshots.save(&meta(9), &state(90)).unwrap();
    assert_eq!(open(&disk).1.unwrap().0, id(1, 9));
}

#[test]
fn a_file_that_is_being_sent_outlives_its_name() {
    let (disk, file, _) = source(90, 7);
    let (snapshots, _) = open(&disk);
    let name = snapshots.latest().unwrap().name;
    let mut sent = snapshots.open_file(&name).unwrap();
    snapshots.save(&meta(9), &state(91)).unwrap();
    assert!(!disk.list().unwrap().contains(&name));
    assert_eq!(read_piece(sent.as_mut(), 0, file.len() as u64).unwrap(), file);
}

#[test]
fn an_older_snapshot_never_takes_the_place_of_a_newer_one() {
    let (_, file, offer) = source(20, 7);
    let disk = SimDisk::new(ROOM);
    let (snapshots, _) = open(&disk);
    let incoming = snapshots.receive(offer).unwrap();
    snapshots.save(&meta(9), &state(90)).unwrap();
    install(&snapshots, incoming, &file).unwrap();
    snapshots.save(&meta(8), &state(80)).unwrap();
    assert_eq!(snapshots.latest().unwrap().meta.last_log_id, Some(id(1, 9)));
    assert_eq!(open(&disk).1, Some((id(1, 9), state(90))));
}
