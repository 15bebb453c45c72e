//! The life of each GPU of a node: what is known of its health, and what to find out next.
//!
//! ```text
//!   discovered ─▶ burning in ─▶ healthy ⇄ suspect ─▶ quarantined ─▶ rma
//!        ▲             ▲                                  │
//!        └─ its proof has expired      let go by an operator: burnt in again
//! ```
//!
//! # Invariants
//! * Healthy is only what passed a burn-in and has a proof of it that has not expired.
//! * From quarantine nothing leads to health but an operator's word *and* a burn-in.
//! * A GPU that an attempt uses is not burnt in. At most one GPU of a node is, at a time.
//! * Where the site gives permits, nothing is burnt in without one, and each is answered: by what
//!   came of it, or by why nothing did.
//! * No answer is never a pass: what cannot be judged is tried [`TRIES_MAX`] times, then
//!   quarantined.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use specs::gpu::{
    BurnInEnd, BurnInPermit, BurnInResult, BurnInTier, GpuHealth, GpuReport, GpuState, SignedProof,
    cut_to_limit,
};
use specs::id::{GpuIndex, Revision};
use specs::unit::{Instant, Millis, Timestamp};

use crate::xid;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// How long a proof holds.
pub const PROOF_SPAN: Millis = Millis(7 * DAY);
/// How long before its end a proof is renewed where the site gives permits, and how much earlier
/// at most: proofs that were made on one day are not renewed on one.
const RENEWED_BEFORE: Millis = Millis(DAY);
const RENEWED_EARLIER_MAX: u64 = 2 * DAY;
/// Burn-ins that may end without an answer, one after the other.
pub const TRIES_MAX: u32 = 3;
/// Readings of the counters that may stay unanswered, one after the other.
pub const SILENCES_MAX: u32 = 3;
/// Clean short burn-ins that a suspect needs, and how far apart.
pub const CLEAN_NEEDED: u32 = 3;
pub const CLEAN_SPAN: Millis = Millis(10 * MINUTE);
/// How long nothing new may be held against it before it is healthy again.
pub const QUIET_SPAN: Millis = Millis(HOUR);
/// Suspicions within a span that are one too many.
const SUSPICIONS_MAX: usize = 3;
const SUSPICIONS_SPAN: Millis = Millis(7 * DAY);
/// Events of programs within a span that are the GPU's rather.
const PROGRAM_EVENTS_MAX: usize = 2;
const PROGRAM_EVENTS_SPAN: Millis = Millis(DAY);
/// Quarantines within a span after which it is to be replaced.
const QUARANTINES_MAX: usize = 3;
const QUARANTINES_SPAN: Millis = Millis(14 * DAY);

/// What was learnt of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// A burn-in found nothing. The proof is what its agent signed.
    Passed { tier: BurnInTier, proof: SignedProof },
    /// A burn-in, or the counters, found a fault.
    Fault(String),
    /// Something is to be watched.
    Warning(String),
    /// A burn-in could not be judged.
    Unknown(String),
    /// The counters were read, and say nothing bad.
    Quiet,
    /// The counters could not be read in time.
    Silent,
    /// The driver told the kernel's log.
    Event(u32),
}

/// A burn-in that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurnIn {
    pub gpu: GpuIndex,
    pub tier: BurnInTier,
}

/// What a former life of the agent knew, from its disk. Spans are what was left then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub health: GpuHealth,
    pub proof: Option<SignedProof>,
    /// How long the proof holds yet.
    pub valid_for: Millis,
}

#[derive(Debug, Clone)]
struct Gpu {
    state: GpuState,
    why: String,
    proof: Option<SignedProof>,
    expires_at: Instant,
    /// An operator holds it back.
    is_withheld: bool,
    tries: u32,
    silences: u32,
    clean: u32,
    /// When it was last burnt in, and when something was last held against it.
    tested_at: Option<Instant>,
    blamed_at: Instant,
    suspicions: Vec<Instant>,
    program_events: Vec<Instant>,
    quarantines: Vec<Instant>,
    /// How much earlier than others its proof is renewed.
    renewed_earlier: Millis,
    /// What came of the last permit.
    last: Option<BurnInResult>,
}

/// A burn-in that is under way.
#[derive(Debug, Clone, Copy)]
struct Burning {
    it: BurnIn,
    /// The permit's; none where the site gives none.
    number: Option<Revision>,
    since: Instant,
}

/// The health of a node's GPUs.
#[derive(Debug, Clone)]
pub struct Health {
    gpus: BTreeMap<GpuIndex, Gpu>,
    is_asked: bool,
    /// Those that attempts use.
    busy: BTreeSet<GpuIndex>,
    burning: Option<Burning>,
    /// What the site permits; none if it knows nothing of permits.
    permits: Option<Vec<BurnInPermit>>,
    /// The time, and what it is for people.
    now: Instant,
    wall: Timestamp,
}

impl Health {
    /// At the beginning of an agent's life. Of a GPU that was burning in or suspect then, nothing
    /// is believed but the worst.
    #[must_use]
    pub fn new(now: Instant, gpus: impl IntoIterator<Item = (GpuIndex, Option<Kept>)>) -> Self {
        let gpus = gpus.into_iter().map(|(index, kept)| (index, Gpu::new(now, kept))).collect();
        Self {
            gpus,
            is_asked: false,
            busy: BTreeSet::new(),
            burning: None,
            permits: None,
            now,
            wall: Timestamp(0),
        }
    }

    /// Spreads over days when proofs are renewed, by a number that differs from node to node.
    #[must_use]
    pub fn staggered(mut self, by: u64) -> Self {
        for (index, gpu) in &mut self.gpus {
            let mixed = by.wrapping_add(u64::from(index.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            gpu.renewed_earlier = Millis(((mixed >> 32) * RENEWED_EARLIER_MAX) >> 32);
        }
        self
    }

    /// What the site wants, and which GPUs attempts use.
    pub fn handle_wishes(
        &mut self,
        is_asked: bool,
        withheld: &BTreeSet<GpuIndex>,
        released: &BTreeSet<GpuIndex>,
        busy: BTreeSet<GpuIndex>,
    ) {
        self.is_asked = is_asked;
        self.busy = busy;
        for (index, gpu) in &mut self.gpus {
            let is_withheld = withheld.contains(index);
            let is_quarantined = matches!(gpu.state, GpuState::Quarantined | GpuState::Rma);
            let is_let_go = gpu.is_withheld && !is_withheld && !is_quarantined;
            if is_let_go || (is_quarantined && released.contains(index)) {
                gpu.forget_proof("an operator let it go; it must be burnt in");
            }
            gpu.is_withheld = is_withheld;
        }
    }

    /// What the site permits. A permit that nothing can come of is answered at once.
    pub fn handle_permits(
        &mut self,
        now: Instant,
        wall: Timestamp,
        permits: Option<&[BurnInPermit]>,
    ) {
        (self.now, self.wall) = (now, wall);
        self.permits = permits.map(<[_]>::to_vec);
        for permit in permits.unwrap_or_default() {
            let is_under_way = self.burning.is_some_and(|it| it.number == Some(permit.number));
            let Some(gpu) = self.gpus.get_mut(&permit.index) else { continue };
            if is_under_way || gpu.has_answered(permit.number) {
                continue;
            }
            if let Some(why) = gpu.bars_burn_ins() {
                let why = String::from(why);
                gpu.answer(permit, BurnInEnd::Interrupted, why, (wall, Millis::ZERO));
            }
        }
    }

    /// A burn-in that must end before its end; whoever ended it says so.
    #[must_use]
    pub fn poll_interrupt(&self) -> Option<GpuIndex> {
        let (burning, permits) = (self.burning?, self.permits.as_ref()?);
        let is_named = permits
            .iter()
            .any(|it| it.index == burning.it.gpu && Some(it.number) == burning.number);
        (!is_named).then_some(burning.it.gpu)
    }

    /// Something was learnt of a GPU.
    pub fn handle_evidence(&mut self, now: Instant, index: GpuIndex, evidence: Evidence) {
        let end = match &evidence {
            Evidence::Passed { .. } => Some((BurnInEnd::Passed, String::new())),
            Evidence::Unknown(why) => Some((BurnInEnd::Unknown, why.clone())),
            Evidence::Fault(why) => Some((BurnInEnd::Fault, why.clone())),
            Evidence::Warning(_) | Evidence::Quiet | Evidence::Silent | Evidence::Event(_) => None,
        };
        let burnt = self.burning.take_if(|it| end.is_some() && it.it.gpu == index);
        let wall = self.wall_at(now);
        let Some(gpu) = self.gpus.get_mut(&index) else { return };
        gpu.learn(now, evidence);
        let (Some(burnt), Some((end, why))) = (burnt, end) else { return };
        let end = if gpu.is_quarantined() { BurnInEnd::Fault } else { end };
        if let Some(permit) = burnt.permit() {
            gpu.answer(&permit, end, why, (wall, now.since(burnt.since)));
        }
    }

    /// A burn-in ended before its end: nothing was learnt.
    pub fn handle_interrupted(&mut self, now: Instant, index: GpuIndex) {
        let burnt = self.burning.take_if(|it| it.it.gpu == index);
        let wall = self.wall_at(now);
        let Some(gpu) = self.gpus.get_mut(&index) else { return };
        if gpu.state == GpuState::BurningIn {
            gpu.go_back(now);
        }
        if let Some((permit, burnt)) = burnt.and_then(|it| Some((it.permit()?, it))) {
            let why = String::from("it was ended before its end");
            gpu.answer(&permit, BurnInEnd::Interrupted, why, (wall, now.since(burnt.since)));
        }
    }

    /// Time has passed: proofs expire.
    pub fn handle_timeout(&mut self, now: Instant) {
        (self.wall, self.now) = (self.wall_at(now), now);
        for gpu in self.gpus.values_mut() {
            if gpu.state == GpuState::Healthy && now >= gpu.expires_at {
                gpu.forget_proof("its proof has expired");
            }
        }
    }

    /// The next burn-in, if one is due; it is under way from here on.
    pub fn poll_burn_in(&mut self, now: Instant) -> Option<BurnIn> {
        if self.burning.is_some() {
            return None;
        }
        let (index, tier, number) = self.next(now)?;
        let gpu = self.gpus.get_mut(&index)?;
        // A suspect stays one, whatever a burn-in finds beside.
        if matches!(gpu.state, GpuState::Discovered | GpuState::Healthy) {
            gpu.state = GpuState::BurningIn;
            gpu.why = format!("{tier} is under way");
        }
        let it = BurnIn { gpu: index, tier };
        self.burning = Some(Burning { it, number, since: now });
        Some(it)
    }

    fn wall_at(&self, now: Instant) -> Timestamp {
        Timestamp(self.wall.0.saturating_add(now.since(self.now).0))
    }

    fn next(&self, now: Instant) -> Option<(GpuIndex, BurnInTier, Option<Revision>)> {
        let is_idle = |index: &GpuIndex| !self.busy.contains(index);
        if let Some(permits) = &self.permits {
            let may_begin = |it: &&BurnInPermit| {
                let gpu = self.gpus.get(&it.index);
                is_idle(&it.index)
                    && gpu.is_some_and(|gpu| {
                        gpu.bars_burn_ins().is_none() && !gpu.has_answered(it.number)
                    })
            };
            let permit = permits.iter().find(may_begin)?;
            return Some((permit.index, permit.tier, Some(permit.number)));
        }
        let mut idle = self.gpus.iter().filter(|(index, gpu)| is_idle(index) && !gpu.is_withheld);
        let next = |(index, gpu): (&GpuIndex, &Gpu)| Some((*index, gpu.due(now)?, None));
        self.is_asked.then(|| idle.find_map(next)).flatten()
    }

    /// What the site is told.
    #[must_use]
    pub fn reports(&self) -> Vec<GpuReport> {
        let report = |(index, gpu): (&GpuIndex, &Gpu)| {
            let is_open = match gpu.state {
                GpuState::Healthy | GpuState::Discovered | GpuState::BurningIn => true,
                GpuState::Suspect | GpuState::Quarantined | GpuState::Resetting | GpuState::Rma => {
                    false
                }
            };
            let (state, why) = if gpu.is_withheld && is_open {
                (GpuState::Suspect, "an operator holds it back")
            } else {
                (gpu.state, gpu.why.as_str())
            };
            let is_shown = matches!(state, GpuState::Healthy | GpuState::Suspect);
            let proof = gpu.proof.clone().filter(|_| is_shown);
            let due = gpu.wants(self.now).filter(|_| self.permits.is_some() && !gpu.is_withheld);
            let (health, last) = (GpuHealth::new(*index, state, why), gpu.last.clone());
            GpuReport { health, proof, due, last }
        };
        self.gpus.iter().map(report).collect()
    }

    /// What the next life of the agent should know.
    #[must_use]
    pub fn kept(&self, now: Instant) -> Vec<Kept> {
        let kept = |(index, gpu): (&GpuIndex, &Gpu)| Kept {
            health: GpuHealth::new(*index, gpu.state, gpu.why.clone()),
            proof: gpu.proof.clone(),
            valid_for: gpu.expires_at.since(now),
        };
        self.gpus.iter().map(kept).collect()
    }
}

/// Whether what passes it is proven.
fn proves(tier: BurnInTier) -> bool {
    match tier {
        BurnInTier::T2 | BurnInTier::T3 => true,
        BurnInTier::T0 | BurnInTier::T1 | BurnInTier::T4 => false,
    }
}

impl Burning {
    fn permit(&self) -> Option<BurnInPermit> {
        let BurnIn { gpu, tier } = self.it;
        self.number.map(|number| BurnInPermit { index: gpu, number, tier })
    }
}

/// Forgets what is older than a span, adds what happened, and says whether that is too often.
fn is_too_often(times: &mut Vec<Instant>, now: Instant, span: Millis, max: usize) -> bool {
    times.retain(|at| now.since(*at) < span);
    times.push(now);
    times.len() >= max
}

impl Gpu {
    fn new(now: Instant, kept: Option<Kept>) -> Self {
        let mut it = Self {
            state: GpuState::Discovered,
            why: String::from("nothing has proven it"),
            proof: None,
            expires_at: now,
            is_withheld: false,
            tries: 0,
            silences: 0,
            clean: 0,
            tested_at: None,
            blamed_at: now,
            suspicions: Vec::new(),
            program_events: Vec::new(),
            quarantines: Vec::new(),
            renewed_earlier: Millis::ZERO,
            last: None,
        };
        let Some(kept) = kept else { return it };
        match kept.health.state {
            GpuState::Healthy if kept.proof.is_some() && kept.valid_for > Millis::ZERO => {
                it.state = GpuState::Healthy;
                it.why = String::new();
                it.proof = kept.proof;
                it.expires_at = now.after(kept.valid_for.min(PROOF_SPAN));
            }
            GpuState::Quarantined | GpuState::Rma => {
                it.state = kept.health.state;
                it.why = kept.health.why;
            }
            GpuState::Discovered
            | GpuState::BurningIn
            | GpuState::Healthy
            | GpuState::Suspect
            | GpuState::Resetting => {}
        }
        it
    }

    fn forget_proof(&mut self, why: &str) {
        self.state = GpuState::Discovered;
        self.why = why.into();
        self.proof = None;
        self.tries = 0;
    }

    fn learn(&mut self, now: Instant, evidence: Evidence) {
        match evidence {
            Evidence::Passed { tier, proof } => self.pass(now, tier, proof),
            Evidence::Fault(why) => self.quarantine(now, why),
            Evidence::Warning(why) => self.doubt(now, why),
            Evidence::Unknown(why) => self.miss(now, &why),
            Evidence::Quiet => self.silences = 0,
            Evidence::Silent => {
                self.silences += 1;
                if self.silences >= SILENCES_MAX {
                    self.silences = 0;
                    self.quarantine(now, String::from("the driver does not answer for it"));
                }
            }
            Evidence::Event(code) => self.event(now, code),
        }
    }

    fn event(&mut self, now: Instant, code: u32) {
        let why = format!("the driver reported Xid {code}");
        match xid::class(code) {
            xid::Class::Note => {}
            xid::Class::Application => {
                let times = &mut self.program_events;
                if is_too_often(times, now, PROGRAM_EVENTS_SPAN, PROGRAM_EVENTS_MAX) {
                    self.doubt(now, format!("{why}, again within a day"));
                }
            }
            xid::Class::Warning => self.doubt(now, why),
            xid::Class::Reset | xid::Class::Machine => self.quarantine(now, why),
            xid::Class::Replace => {
                self.quarantine(now, why);
                self.state = GpuState::Rma;
            }
        }
    }

    fn pass(&mut self, now: Instant, tier: BurnInTier, proof: SignedProof) {
        self.tries = 0;
        self.tested_at = Some(now);
        match self.state {
            GpuState::BurningIn | GpuState::Healthy if proves(tier) => {
                self.state = GpuState::Healthy;
                self.why = String::new();
                self.proof = Some(proof);
                self.expires_at = now.after(PROOF_SPAN);
            }
            GpuState::Suspect => {
                self.clean += 1;
                if self.clean >= CLEAN_NEEDED && now.since(self.blamed_at) >= QUIET_SPAN {
                    // The proof that it had when it was suspected still holds.
                    self.state = GpuState::Healthy;
                    self.why = String::new();
                }
            }
            GpuState::BurningIn => self.go_back(now),
            // What happened meanwhile outweighs it.
            GpuState::Discovered
            | GpuState::Healthy
            | GpuState::Quarantined
            | GpuState::Resetting
            | GpuState::Rma => {}
        }
    }

    fn miss(&mut self, now: Instant, why: &str) {
        self.tries += 1;
        self.tested_at = Some(now);
        if self.tries >= TRIES_MAX {
            self.quarantine(now, format!("it could not be judged {TRIES_MAX} times: {why}"));
        } else if self.state == GpuState::BurningIn {
            self.state = GpuState::Discovered;
            self.proof = None;
            self.why = format!("it could not be judged: {why}");
        }
    }

    fn doubt(&mut self, now: Instant, why: String) {
        self.blamed_at = now;
        self.clean = 0;
        match self.state {
            GpuState::Healthy => {
                let times = &mut self.suspicions;
                if is_too_often(times, now, SUSPICIONS_SPAN, SUSPICIONS_MAX) {
                    self.quarantine(now, format!("it is suspect too often: {why}"));
                } else {
                    self.state = GpuState::Suspect;
                    self.why = why;
                }
            }
            GpuState::Suspect => self.why = why,
            GpuState::Discovered
            | GpuState::BurningIn
            | GpuState::Quarantined
            | GpuState::Resetting
            | GpuState::Rma => {}
        }
    }

    fn quarantine(&mut self, now: Instant, why: String) {
        self.proof = None;
        self.blamed_at = now;
        match self.state {
            // The first reason is the one to look at.
            GpuState::Quarantined | GpuState::Rma => return,
            GpuState::Discovered
            | GpuState::BurningIn
            | GpuState::Healthy
            | GpuState::Suspect
            | GpuState::Resetting => {}
        }
        let is_lemon = is_too_often(&mut self.quarantines, now, QUARANTINES_SPAN, QUARANTINES_MAX);
        self.state = if is_lemon { GpuState::Rma } else { GpuState::Quarantined };
        self.why = why;
    }

    fn is_quarantined(&self) -> bool {
        matches!(self.state, GpuState::Quarantined | GpuState::Rma)
    }

    /// After a burn-in that says nothing of the proof it had.
    fn go_back(&mut self, now: Instant) {
        if self.proof.is_some() && now < self.expires_at {
            self.state = GpuState::Healthy;
            self.why = String::new();
        } else {
            self.forget_proof("nothing has proven it");
        }
    }

    /// Why it is not burnt in, whoever permits it.
    fn bars_burn_ins(&self) -> Option<&'static str> {
        if self.is_withheld {
            return Some("an operator holds it back");
        }
        match self.state {
            GpuState::Quarantined | GpuState::Rma => Some("it is quarantined"),
            GpuState::Resetting => Some("it is being reset"),
            GpuState::Discovered | GpuState::BurningIn | GpuState::Healthy | GpuState::Suspect => {
                None
            }
        }
    }

    fn has_answered(&self, number: Revision) -> bool {
        self.last.as_ref().is_some_and(|last| last.number >= number)
    }

    fn answer(
        &mut self,
        permit: &BurnInPermit,
        end: BurnInEnd,
        why: String,
        (ended_at, took): (Timestamp, Millis),
    ) {
        let (number, tier, why) = (permit.number, permit.tier, cut_to_limit(why));
        self.last = Some(BurnInResult { number, tier, end, why, ended_at, took });
    }

    /// The burn-in that it needs, or needs before its proof expires.
    fn wants(&self, now: Instant) -> Option<BurnInTier> {
        let left = self.expires_at.since(now);
        let is_old = left <= RENEWED_BEFORE.plus(self.renewed_earlier);
        let is_renewed = self.state == GpuState::Healthy && is_old;
        if is_renewed { Some(BurnInTier::T2) } else { self.due(now) }
    }

    /// The burn-in that it needs at this time.
    fn due(&self, now: Instant) -> Option<BurnInTier> {
        match self.state {
            GpuState::Discovered => Some(BurnInTier::T2),
            GpuState::Suspect => {
                let is_due = self.tested_at.is_none_or(|at| now.since(at) >= CLEAN_SPAN);
                is_due.then_some(BurnInTier::T1)
            }
            GpuState::BurningIn
            | GpuState::Healthy
            | GpuState::Quarantined
            | GpuState::Resetting
            | GpuState::Rma => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use specs::codec::Blob;

    use super::*;

    const GPU: GpuIndex = GpuIndex(0);

    fn proof() -> SignedProof {
        let blob = Blob::default;
        SignedProof { body: blob(), signature: blob(), certificate: blob() }
    }

    /// A node with one GPU and a clock.
    struct Node {
        health: Health,
        now: Instant,
    }

    impl Node {
        fn new() -> Self {
            Self::after(None)
        }

        fn after(kept: Option<Kept>) -> Self {
            let now = Instant(1_000);
            let mut it = Self { health: Health::new(now, [(GPU, kept)]), now };
            it.wish(&[], &[]);
            it
        }

        fn healthy() -> Self {
            let mut it = Self::new();
            it.burn_in(BurnInTier::T2);
            it
        }

        fn wish(&mut self, withheld: &[GpuIndex], busy: &[GpuIndex]) {
            let set = |of: &[GpuIndex]| of.iter().copied().collect();
            self.health.handle_wishes(true, &set(withheld), &BTreeSet::new(), set(busy));
        }

        fn release(&mut self) {
            let (none, gpu) = (BTreeSet::new(), BTreeSet::from([GPU]));
            self.health.handle_wishes(true, &none, &gpu, none.clone());
            self.wish(&[], &[]);
        }

        fn learn(&mut self, evidence: Evidence) {
            self.health.handle_evidence(self.now, GPU, evidence);
        }

        fn wait(&mut self, span: Millis) {
            self.now = self.now.after(span);
            self.health.handle_timeout(self.now);
        }

        fn due(&mut self) -> Option<BurnInTier> {
            self.health.poll_burn_in(self.now).map(|it| it.tier)
        }

        fn burn_in(&mut self, tier: BurnInTier) {
            assert_eq!(self.due(), Some(tier));
            self.learn(Evidence::Passed { tier, proof: proof() });
        }

        fn state(&self) -> GpuState {
            self.health.reports()[0].health.state
        }
    }

    #[test]
    fn a_gpu_is_healthy_after_its_burn_in_and_until_its_proof_expires() {
        let mut node = Node::new();
        assert_eq!(node.due(), Some(BurnInTier::T2));
        assert_eq!(node.state(), GpuState::BurningIn);
        assert_eq!(node.due(), None, "one at a time");
        node.learn(Evidence::Passed { tier: BurnInTier::T2, proof: proof() });
        assert_eq!(node.state(), GpuState::Healthy);
        assert!(node.health.reports()[0].proof.is_some());
        node.wait(PROOF_SPAN);
        assert_eq!(node.state(), GpuState::Discovered);
        assert_eq!(node.due(), Some(BurnInTier::T2));
    }

    #[test]
    fn nothing_is_burnt_in_unasked_or_while_an_attempt_uses_it() {
        let mut node = Node::new();
        let none = BTreeSet::new();
        node.health.handle_wishes(false, &none, &none, none.clone());
        assert_eq!(node.due(), None);
        node.wish(&[], &[GPU]);
        assert_eq!(node.due(), None);
        node.wish(&[], &[]);
        assert_eq!(node.due(), Some(BurnInTier::T2));
    }

    #[test]
    fn a_fault_leads_to_quarantine_and_only_an_operator_and_a_burn_in_lead_out() {
        let mut node = Node::healthy();
        node.learn(Evidence::Fault("bit 3".into()));
        assert_eq!(node.state(), GpuState::Quarantined);
        node.wait(Millis(30 * DAY));
        node.learn(Evidence::Passed { tier: BurnInTier::T2, proof: proof() });
        assert_eq!((node.state(), node.due()), (GpuState::Quarantined, None));
        node.wish(&[GPU], &[]);
        assert_eq!((node.state(), node.due()), (GpuState::Quarantined, None));
        node.wish(&[], &[]);
        assert_eq!((node.state(), node.due()), (GpuState::Quarantined, None));
        node.release();
        assert_eq!(node.state(), GpuState::Discovered);
        node.burn_in(BurnInTier::T2);
        assert_eq!(node.state(), GpuState::Healthy);
    }

    #[test]
    fn the_third_quarantine_in_two_weeks_is_the_last() {
        let mut node = Node::new();
        for expected in [GpuState::Quarantined, GpuState::Quarantined, GpuState::Rma] {
            node.burn_in(BurnInTier::T2);
            node.learn(Evidence::Event(48));
            assert_eq!(node.state(), expected);
            node.release();
            node.wait(Millis(DAY));
        }
        let mut slow = Node::new();
        for _ in 0..4 {
            slow.burn_in(BurnInTier::T2);
            slow.learn(Evidence::Event(48));
            assert_eq!(slow.state(), GpuState::Quarantined);
            slow.release();
            slow.wait(Millis(8 * DAY));
        }
    }

    #[test]
    fn a_suspect_needs_three_clean_runs_and_a_quiet_hour() {
        let mut node = Node::healthy();
        node.learn(Evidence::Warning("slow".into()));
        assert_eq!(node.state(), GpuState::Suspect);
        node.wait(CLEAN_SPAN);
        for _ in 0..CLEAN_NEEDED {
            assert_eq!(node.state(), GpuState::Suspect);
            node.burn_in(BurnInTier::T1);
            assert_eq!(node.due(), None, "not at once again");
            node.wait(CLEAN_SPAN);
        }
        assert_eq!(node.state(), GpuState::Suspect, "not an hour yet");
        node.wait(QUIET_SPAN);
        node.burn_in(BurnInTier::T1);
        assert_eq!(node.state(), GpuState::Healthy);
        for expected in [GpuState::Suspect, GpuState::Quarantined] {
            node.learn(Evidence::Warning("slow".into()));
            assert_eq!(node.state(), expected, "the third time in a week is one too many");
            if expected == GpuState::Suspect {
                for _ in 0..8 {
                    node.wait(CLEAN_SPAN);
                    node.burn_in(BurnInTier::T1);
                    if node.state() == GpuState::Healthy {
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn events_of_programs_are_the_gpus_when_they_come_again() {
        let mut node = Node::healthy();
        node.learn(Evidence::Event(31));
        assert_eq!(node.state(), GpuState::Healthy);
        node.wait(Millis(2 * DAY));
        node.learn(Evidence::Event(31));
        assert_eq!(node.state(), GpuState::Healthy, "the first is long past");
        node.learn(Evidence::Event(13));
        assert_eq!(node.state(), GpuState::Suspect);
        node.learn(Evidence::Event(79));
        assert_eq!(node.state(), GpuState::Quarantined);
    }

    #[test]
    fn no_answer_is_never_a_pass() {
        let mut node = Node::new();
        for nth in 1..=TRIES_MAX {
            assert_eq!(node.due(), Some(BurnInTier::T2));
            node.learn(Evidence::Unknown("no majority".into()));
            let expected =
                if nth == TRIES_MAX { GpuState::Quarantined } else { GpuState::Discovered };
            assert_eq!(node.state(), expected);
        }
        let mut node = Node::healthy();
        for _ in 1..SILENCES_MAX {
            node.learn(Evidence::Silent);
        }
        node.learn(Evidence::Quiet);
        for _ in 1..SILENCES_MAX {
            node.learn(Evidence::Silent);
        }
        assert_eq!(node.state(), GpuState::Healthy, "it answered in between");
        node.learn(Evidence::Silent);
        assert_eq!(node.state(), GpuState::Quarantined);
    }

    #[test]
    fn what_is_held_back_takes_nothing_new_and_is_burnt_in_when_it_is_let_go() {
        let mut node = Node::healthy();
        node.wish(&[GPU], &[]);
        assert_eq!(node.state(), GpuState::Suspect);
        node.wish(&[], &[]);
        assert_eq!(node.state(), GpuState::Discovered);
        assert_eq!(node.due(), Some(BurnInTier::T2));
    }

    impl Node {
        fn permit(&mut self, numbers: &[(u64, BurnInTier)]) {
            let permit =
                |&(number, tier)| BurnInPermit { index: GPU, number: Revision(number), tier };
            let permits: Vec<BurnInPermit> = numbers.iter().map(permit).collect();
            self.health.handle_permits(self.now, Timestamp(0), Some(&permits));
        }

        fn report(&self) -> GpuReport {
            self.health.reports().remove(0)
        }

        fn last(&self) -> Option<(u64, BurnInEnd)> {
            self.report().last.map(|it| (it.number.0, it.end))
        }
    }

    #[test]
    fn where_permits_are_given_nothing_is_burnt_in_without_one_and_each_is_good_for_one() {
        let mut node = Node::new();
        node.permit(&[]);
        assert_eq!((node.due(), node.report().due), (None, Some(BurnInTier::T2)));
        node.permit(&[(7, BurnInTier::T2)]);
        node.burn_in(BurnInTier::T2);
        assert_eq!((node.state(), node.last()), (GpuState::Healthy, Some((7, BurnInEnd::Passed))));
        assert_eq!((node.due(), node.report().due), (None, None), "the permit is used up");
        node.permit(&[(9, BurnInTier::T2)]);
        assert_eq!(node.due(), Some(BurnInTier::T2), "asked again, whatever it has");
        assert_eq!(
            (node.state(), node.last()),
            (GpuState::BurningIn, Some((7, BurnInEnd::Passed)))
        );
        node.learn(Evidence::Fault("bit 3".into()));
        assert_eq!(node.last(), Some((9, BurnInEnd::Fault)));
    }

    #[test]
    fn what_is_no_longer_permitted_ends_and_keeps_what_was_known() {
        let mut node = Node::healthy();
        node.permit(&[(7, BurnInTier::T2)]);
        assert_eq!(node.due(), Some(BurnInTier::T2));
        assert_eq!(node.health.poll_interrupt(), None);
        node.permit(&[]);
        assert_eq!(node.health.poll_interrupt(), Some(GPU));
        node.health.handle_interrupted(node.now, GPU);
        assert_eq!(node.last(), Some((7, BurnInEnd::Interrupted)));
        assert_eq!((node.state(), node.health.poll_interrupt()), (GpuState::Healthy, None));
        node.permit(&[(7, BurnInTier::T2)]);
        assert_eq!(node.due(), None, "it was answered");
        node.permit(&[(8, BurnInTier::T2)]);
        assert_eq!(node.due(), Some(BurnInTier::T2));
        node.now = node.now.after(PROOF_SPAN);
        node.health.handle_interrupted(node.now, GPU);
        assert_eq!(node.state(), GpuState::Discovered, "its proof has expired meanwhile");
    }

    #[test]
    fn a_permit_that_nothing_can_come_of_is_answered() {
        let mut node = Node::healthy();
        node.wish(&[GPU], &[]);
        node.permit(&[(7, BurnInTier::T2)]);
        assert_eq!((node.due(), node.last()), (None, Some((7, BurnInEnd::Interrupted))));
        let mut node = Node::healthy();
        node.learn(Evidence::Event(79));
        node.permit(&[(7, BurnInTier::T2)]);
        assert_eq!((node.due(), node.last()), (None, Some((7, BurnInEnd::Interrupted))));
    }

    #[test]
    fn a_burn_in_that_proves_too_little_leaves_the_proof_as_it_was() {
        let mut node = Node::healthy();
        node.permit(&[(7, BurnInTier::T1)]);
        node.burn_in(BurnInTier::T1);
        assert_eq!((node.state(), node.last()), (GpuState::Healthy, Some((7, BurnInEnd::Passed))));
        let mut node = Node::new();
        node.permit(&[(7, BurnInTier::T1)]);
        node.burn_in(BurnInTier::T1);
        assert_eq!(node.state(), GpuState::Discovered, "nothing has proven it");
    }

    #[test]
    fn no_answer_three_times_is_a_fault() {
        let mut node = Node::healthy();
        for nth in 1..=u64::from(TRIES_MAX) {
            node.permit(&[(nth, BurnInTier::T2)]);
            assert_eq!(node.due(), Some(BurnInTier::T2));
            node.learn(Evidence::Unknown("no majority".into()));
            let is_last = nth == u64::from(TRIES_MAX);
            let end = if is_last { BurnInEnd::Fault } else { BurnInEnd::Unknown };
            assert_eq!(node.last(), Some((nth, end)));
        }
    }

    #[test]
    fn proofs_of_one_day_are_renewed_before_they_expire_and_on_different_days() {
        let proven = || {
            let kept = Kept {
                health: GpuHealth::new(GPU, GpuState::Healthy, ""),
                proof: Some(proof()),
                valid_for: PROOF_SPAN,
            };
            let now = Instant(1_000);
            Health::new(now, (0..8).map(|nth| (GpuIndex(nth), Some(kept.clone()))))
        };
        let due_after = |health: &mut Health, days: u64| {
            health.handle_permits(Instant(1_000), Timestamp(0), Some(&[]));
            health.handle_timeout(Instant(1_000 + days * DAY));
            health.reports().iter().filter(|it| it.due.is_some()).count()
        };
        let mut all: Vec<usize> = Vec::new();
        for node in 0..100 {
            let mut health = proven().staggered(node);
            all.push(due_after(&mut health, 5));
            assert_eq!((due_after(&mut proven().staggered(node), 3), node), (0, node));
            let mut late = proven().staggered(node);
            assert_eq!(due_after(&mut late, 6), 8);
            assert!(late.reports().iter().all(|it| it.health.state == GpuState::Healthy));
        }
        let due: usize = all.iter().sum();
        assert!((300..500).contains(&due), "{due} of 800 after five days");
    }

    #[test]
    fn a_new_life_believes_a_proof_and_a_quarantine_and_nothing_else() {
        let kept = |node: &Node| node.health.kept(node.now).into_iter().next();
        let mut node = Node::healthy();
        assert_eq!(Node::after(kept(&node)).state(), GpuState::Healthy);
        node.learn(Evidence::Warning("slow".into()));
        assert_eq!(Node::after(kept(&node)).state(), GpuState::Discovered);
        node.learn(Evidence::Fault("bit 3".into()));
        let mut next = Node::after(kept(&node));
        assert_eq!((next.state(), next.due()), (GpuState::Quarantined, None));
        let mut old = Node::healthy();
        let mut late = kept(&old).unwrap();
        late.valid_for = Millis::ZERO;
        old = Node::after(Some(late));
        assert_eq!(old.state(), GpuState::Discovered);
    }
}
