//! Finds members that applied something else under the same log id.
//!
//! Raft compares ids of entries, never what is in them. So each member keeps a hash over what it
//! applied, for each *window* of the log: entries `n * 64` up to before `(n + 1) * 64`. A window
//! begins afresh, so it depends on nothing before it and needs no place in a snapshot: a member that
//! begins in the middle of one, after a restart or with a snapshot, has none for it. After a
//! restart windows are hashed from what the log reads back as.
//!
//! What commands made of the state is compared too, where it costs nothing: members take snapshots
//! at the same entries, and a snapshot has a digest of its state. Such a digest stands beside the
//! windows under a number that no window has.
//!
//! The leader sends its hashes to all others from time to time. If a majority of the voters agrees
//! on a window, whoever differs is told to stop for good; if none does, there is only an alarm.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use specs::codec::Message;

use super::snapshot::StateDigest;
use super::types::{Entry, EntryPayload};
use super::wire::{WireComparison, WireMembership, WireWindow, WireWindows};

/// Entries of one window.
pub(crate) const WINDOW_ENTRIES: u64 = 64;
/// Windows that are kept: the last million entries.
const KEPT_WINDOWS: usize = 16_384;
/// Windows that are compared at a time.
pub(crate) const SENT_WINDOWS: usize = 8_192;
/// Differences that one answer names; the first one is enough.
const NAMED_WINDOWS: usize = 16;

/// Digests of states that are kept.
const KEPT_STATES: usize = 16;
/// Set in the number of a state's digest; the rest is the index of the state's last entry.
const STATE: u64 = 1 << 63;

/// What a number stands for, in words.
pub(crate) fn name_of(number: u64) -> String {
    if number & STATE == 0 {
        return format!("what it applied in window {number} of the log");
    }
    format!("the state that entry {} left it with", number & !STATE)
}

/// The hashes of one member. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Windows {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    /// Whole windows by number, the newest last; not necessarily without gaps.
    whole: VecDeque<(u64, u64)>,
    /// Digests of states, as windows.
    states: VecDeque<(u64, u64)>,
    open: Option<Open>,
}

/// A window that is being hashed from its first entry on.
struct Open {
    next: u64,
    hash: u64,
}

impl Windows {
    /// Takes in the next entry that is applied.
    pub(crate) fn note(&self, entry: &Entry) {
        let index = entry.log_id.index;
        let mut inner = self.lock();
        if index.is_multiple_of(WINDOW_ENTRIES) {
            inner.open = Some(Open { next: index, hash: 0 });
        }
        // After a snapshot the rest of a window is skipped.
        let Some(open) = inner.open.as_mut().filter(|open| open.next == index) else {
            inner.open = None;
            return;
        };
        open.hash = mix(open.hash ^ content(entry));
        open.next += 1;
        let hash = open.hash;
        if open.next % WINDOW_ENTRIES == 0 {
            inner.open = None;
            if inner.whole.len() == KEPT_WINDOWS {
                inner.whole.pop_front();
            }
            inner.whole.push_back((index / WINDOW_ENTRIES, hash));
        }
    }

    /// Takes in the digest of the state after the entry.
    pub(crate) fn note_state(&self, index: u64, digest: &StateDigest) {
        let [a, b, c, d, e, f, g, h, ..] = *digest;
        let mut inner = self.lock();
        if inner.states.len() == KEPT_STATES {
            inner.states.pop_front();
        }
        inner.states.push_back((index | STATE, u64::from_le_bytes([a, b, c, d, e, f, g, h])));
    }

    /// The newest windows, as many as are compared at a time.
    pub(crate) fn newest(&self) -> WireWindows {
        let inner = self.lock();
        let skipped = inner.whole.len().saturating_sub(SENT_WINDOWS);
        let window = |(number, hash): &(u64, u64)| WireWindow { number: *number, hash: *hash };
        WireWindows {
            windows: inner.whole.iter().skip(skipped).chain(&inner.states).map(window).collect(),
        }
    }

    /// Compares a leader's windows with those that are here too.
    pub(crate) fn compare(&self, theirs: &WireWindows) -> WireComparison {
        let own: BTreeMap<u64, u64> = {
            let inner = self.lock();
            inner.whole.iter().chain(&inner.states).copied().collect()
        };
        let mut comparison = WireComparison { same: Vec::new(), differs: Vec::new() };
        for window in theirs.windows.iter().take(SENT_WINDOWS + KEPT_STATES) {
            match own.get(&window.number) {
                Some(hash) if *hash == window.hash => comparison.same.push(window.number),
                Some(hash) if comparison.differs.len() < NAMED_WINDOWS => {
                    comparison.differs.push(WireWindow { number: window.number, hash: *hash });
                }
                Some(_) | None => {}
            }
        }
        comparison
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn content(entry: &Entry) -> u64 {
    let (kind, crc, length) = match &entry.payload {
        EntryPayload::Blank => (1, 0, 0),
        EntryPayload::Normal(payload) => (2, crc32c::crc32c(payload.as_bytes()), payload.len()),
        EntryPayload::Membership(membership) => {
            let bytes = WireMembership::from(membership).encode();
            (3, crc32c::crc32c(&bytes), bytes.len())
        }
    };
    let place = mix(entry.log_id.leader_id.term ^ mix(entry.log_id.index));
    mix(place ^ (u64::from(crc) << 32 | length as u64) ^ (kind << 29))
}

/// Splitmix's finalizer: each bit of the input changes half of the output's.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What a comparison comes to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// Members, the leader perhaps among them, that differ from what a majority of the voters has,
    /// with the window.
    pub(crate) odd: BTreeMap<u64, u64>,
    /// Windows on which members differ and no majority agrees.
    pub(crate) open: BTreeSet<u64>,
}

/// Judges what the others answered to the leader's windows.
pub(crate) fn judge(
    leader: u64,
    windows: &WireWindows,
    voters: &BTreeSet<u64>,
    answers: &BTreeMap<u64, WireComparison>,
) -> Judgement {
    let mut judgement = Judgement::default();
    let hashes: BTreeMap<u64, u64> =
        windows.windows.iter().map(|window| (window.number, window.hash)).collect();
    let disputed: BTreeSet<u64> =
        answers.values().flat_map(|it| it.differs.iter().map(|window| window.number)).collect();
    for number in disputed {
        let Some(hash) = hashes.get(&number) else { continue };
        let mut holders: BTreeMap<u64, Vec<u64>> = BTreeMap::from([(*hash, vec![leader])]);
        for (id, answer) in answers {
            let other = answer.differs.iter().find(|window| window.number == number);
            match other {
                Some(window) => holders.entry(window.hash).or_default().push(*id),
                None if answer.same.contains(&number) => {
                    holders.entry(*hash).or_default().push(*id);
                }
                None => {}
            }
        }
        let votes = |ids: &Vec<u64>| ids.iter().filter(|id| voters.contains(id)).count();
        let right = holders.iter().find(|(_, ids)| votes(ids) * 2 > voters.len());
        let Some((right, _)) = right else {
            judgement.open.insert(number);
            continue;
        };
        for (_, ids) in holders.iter().filter(|(hash, _)| *hash != right) {
            for id in ids {
                judgement.odd.entry(*id).or_insert(number);
            }
        }
    }
    judgement
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{CommittedLeaderId, LogId, Payload};

    fn entry(index: u64, content: &'static [u8]) -> Entry {
        let log_id = LogId::new(CommittedLeaderId::new(1), index);
        Entry { log_id, payload: EntryPayload::Normal(Payload::raw(content)) }
    }

    fn applied(from: u64, to: u64, odd: Option<u64>) -> Windows {
        let windows = Windows::default();
        for index in from..to {
            let content: &[u8] = if Some(index) == odd { b"other" } else { b"equal" };
            windows.note(&entry(index, content));
        }
        windows
    }

    fn answer(id: u64, leader: &Windows, other: &Windows) -> (u64, WireComparison) {
        (id, other.compare(&leader.newest()))
    }

    #[test]
    fn equal_ids_with_other_payloads_differ() {
        let (a, b) = (applied(0, 256, None), applied(0, 256, Some(70)));
        let comparison = b.compare(&a.newest());
        assert_eq!(comparison.same, [0, 2, 3]);
        assert_eq!(comparison.differs.iter().map(|it| it.number).collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn equal_entries_that_left_other_states_differ() {
        let (a, b, c) = (applied(0, 256, None), applied(0, 256, None), applied(0, 256, None));
        for (member, state) in [(&a, 7), (&b, 7), (&c, 8)] {
            member.note_state(200, &[7; 32]);
            member.note_state(250, &[state; 32]);
        }
        let (windows, voters) = (a.newest(), BTreeSet::from([1, 2, 3]));
        let answers = BTreeMap::from([answer(2, &a, &b), answer(3, &a, &c)]);
        let judgement = judge(1, &windows, &voters, &answers);
        assert_eq!(judgement.odd, BTreeMap::from([(3, 250 | STATE)]));
        assert_eq!(name_of(250 | STATE), "the state that entry 250 left it with");
    }

    #[test]
    fn who_begins_in_the_middle_compares_whole_windows_only() {
        let (a, b) = (applied(0, 256, None), applied(100, 256, None));
        let comparison = b.compare(&a.newest());
        assert_eq!((comparison.same, comparison.differs), (vec![2, 3], vec![]));
        // A snapshot was installed between.
        let jumped = applied(0, 70, None);
        (150..256).for_each(|index| jumped.note(&entry(index, b"equal")));
        assert_eq!(jumped.compare(&a.newest()).same, [0, 3]);
    }

    #[test]
    fn a_majority_finds_the_odd_one_whether_it_leads_or_not() {
        let (good, bad) = (applied(0, 128, None), applied(0, 128, Some(3)));
        let voters = BTreeSet::from([1, 2, 3]);
        let answers = BTreeMap::from([answer(2, &good, &good), answer(3, &good, &bad)]);
        let judgement = judge(1, &good.newest(), &voters, &answers);
        assert_eq!(judgement.odd, BTreeMap::from([(3, 0)]));
        let answers = BTreeMap::from([answer(2, &bad, &good), answer(3, &bad, &good)]);
        let judgement = judge(1, &bad.newest(), &voters, &answers);
        assert_eq!(judgement.odd, BTreeMap::from([(1, 0)]));
        let answers = BTreeMap::from([answer(3, &good, &bad)]);
        let judgement = judge(1, &good.newest(), &voters, &answers);
        assert_eq!((judgement.odd, judgement.open), (BTreeMap::new(), BTreeSet::from([0])));
        // A learner has no say, and is found all the same.
        let answers = BTreeMap::from([
            answer(2, &good, &good),
            answer(3, &good, &good),
            answer(4, &good, &bad),
        ]);
        let judgement = judge(1, &good.newest(), &voters, &answers);
        assert_eq!(judgement.odd, BTreeMap::from([(4, 0)]));
    }
}
