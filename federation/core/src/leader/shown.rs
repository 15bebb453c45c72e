//! What a leader remembers of proofs between sites: as a home, which it asked for and when it asks
//! again; as a host, which it was asked for.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use specs::id::SiteId;
use specs::unit::{Instant, Millis, Timestamp};
use specs::wire::peer::{PROOFS_SHOWN_MAX, PeerReport, ProofKey, ShownProof};

use super::Leader;
use crate::command::{Command, RecordProofs};
use crate::exchange::proofs;
use crate::state::{Held, HeldKey, State};
use crate::table::Table;

/// A proof that did not come is asked for again after this long, then after twice as long, and so on.
const ASK_AGAIN: Millis = Millis(1_000);
/// At least this often; also one that did not hold.
const ASK_SELDOM: Millis = Millis(60_000);
/// A proof that was asked for no more often than this is on its way.
const TRIES_AWAITED: u32 = 3;
/// As if it had been asked for so often: it did not hold.
const TRIES_REFUSED: u32 = 64;

/// How often a proof was asked for, and until when it is not asked for again.
#[derive(Debug, Clone, Copy)]
struct Tries {
    times: u32,
    next: Instant,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Shown {
    /// As its home. Invariant: of proofs that it lacked when it last answered.
    asked: BTreeMap<ProofKey, Tries>,
    /// Of what is held there nothing was lacking. Held only to be compared.
    complete: Option<Table<HeldKey, Held>>,
    /// As its host: what the home asked for, until it is told.
    pub(super) wanted: Vec<ProofKey>,
}

impl Shown {
    /// What to ask for now, of what is lacking.
    fn ask(&mut self, now: Instant, lacking: Vec<ProofKey>) -> Vec<ProofKey> {
        if lacking.is_empty() {
            self.asked.clear();
            return lacking;
        }
        if !self.asked.is_empty() {
            let lacking: BTreeSet<&ProofKey> = lacking.iter().collect();
            self.asked.retain(|key, _| lacking.contains(key));
        }
        let is_due = |key: &ProofKey| self.asked.get(key).is_none_or(|tries| tries.next <= now);
        let due: Vec<ProofKey> =
            lacking.into_iter().filter(is_due).take(PROOFS_SHOWN_MAX).collect();
        for key in &due {
            let tries = self.asked.entry(key.clone()).or_insert(Tries { times: 0, next: now });
            let wait = ASK_AGAIN.0.saturating_mul(1u64.checked_shl(tries.times).unwrap_or(0));
            tries.next =
                now.after(if wait == 0 { ASK_SELDOM } else { Millis(wait).min(ASK_SELDOM) });
            tries.times = tries.times.saturating_add(1);
        }
        due
    }
}

impl Leader {
    /// As a home: whether proofs of a grant's GPUs are on their way, so that it lies idle for a reason.
    pub(super) fn awaits_proofs(&self, key: &HeldKey, held: &Held) -> bool {
        let asked = self.peers.get(&key.host).map(|memory| &memory.shown.asked);
        let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return false };
        proofs::lacking_of(held)
            .any(|key| asked.get(&key).is_some_and(|tries| tries.times <= TRIES_AWAITED))
    }

    /// As a home: what to ask a host for.
    pub(super) fn proofs_to_ask(
        &mut self,
        now: Instant,
        state: &State,
        host: &SiteId,
    ) -> Vec<ProofKey> {
        if !proofs::are_shown(state, host) {
            return Vec::new();
        }
        let shown = &mut self.peers.entry(host.clone()).or_default().shown;
        if shown.complete.as_ref().is_some_and(|held| held.is_same(&state.held)) {
            return Vec::new();
        }
        let lacking = proofs::lacking(state, host);
        shown.complete = lacking.is_empty().then(|| state.held.clone());
        shown.ask(now, lacking)
    }

    /// As a host: what the home asked for, as far as it is at hand.
    pub(super) fn proofs_to_show(&mut self, state: &State, home: &SiteId) -> Vec<ShownProof> {
        let Some(memory) = self.peers.get_mut(home) else { return Vec::new() };
        let wanted = core::mem::take(&mut memory.shown.wanted);
        let show = |key: &ProofKey| {
            let proof = self.proof(&key.node, key.index)?;
            proofs::shown(state, home, key, (proof, self.at))
        };
        wanted.iter().take(PROOFS_SHOWN_MAX).filter_map(show).collect()
    }

    /// As a host: whether the home waits for proofs.
    #[must_use]
    pub fn is_to_show(&self, home: &SiteId) -> bool {
        self.peers.get(home).is_some_and(|memory| !memory.shown.wanted.is_empty())
    }

    /// As a home: those of the proofs in a report that this leader asked for and lacks. Whoever checks
    /// their signatures need look at no others.
    #[must_use]
    pub fn proofs_to_check(&self, state: &State, report: &PeerReport) -> Vec<ShownProof> {
        let Some(memory) = self.peers.get(&report.host).filter(|_| !report.proofs.is_empty())
        else {
            return Vec::new();
        };
        let lacking: BTreeSet<ProofKey> =
            proofs::lacking(state, &report.host).into_iter().collect();
        let is_asked = |it: &&ShownProof| {
            memory.shown.asked.contains_key(&it.key) && lacking.contains(&it.key)
        };
        let awaited = report.proofs.iter().take(PROOFS_SHOWN_MAX).filter(is_asked);
        awaited.cloned().collect()
    }

    /// As a home: proofs of [`Leader::proofs_to_check`], each with what is wrong about its signature.
    /// What must be agreed, after what [`Leader::handle_peer_report`] said, and what does not hold.
    pub fn handle_proofs(
        &mut self,
        now: Instant,
        at: Timestamp,
        report: &PeerReport,
        checked: Vec<(ShownProof, Result<(), String>)>,
    ) -> (Option<Command>, Vec<(ProofKey, String)>) {
        let Some(memory) = self.peers.get_mut(&report.host) else { return (None, Vec::new()) };
        // An answer to what was asked by an earlier leader, or so long ago that it is forgotten.
        let Some(asked) = memory.watch.asked_at(report.answered) else {
            return (None, Vec::new());
        };
        let (mut proofs, mut refused) = (Vec::new(), Vec::new());
        for (it, signed) in checked {
            let judged =
                signed.and_then(|()| proofs::judge(&report.host, &it, (at, now.since(asked))));
            match judged {
                Ok(proof) => proofs.push(proof),
                Err(why) => {
                    if let Some(tries) = memory.shown.asked.get_mut(&it.key) {
                        *tries = Tries { times: TRIES_REFUSED, next: now.after(ASK_SELDOM) };
                    }
                    refused.push((it.key, why));
                }
            }
        }
        let record = RecordProofs { peer: report.host.clone(), proofs };
        let command = (!record.proofs.is_empty()).then_some(Command::RecordProofs(record));
        (command, refused)
    }
}
