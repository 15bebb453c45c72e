//! The life of each GPU of a node: what is known of its health, and what to find out next.
//!
//! ```text
//!   discovered ─▶ burning in ─▶ healthy ⇄ suspect ─▶ quarantined ─▶ rma
//!        ▲                                                │  ▲
//!        └─ its proof has expired;            resetting ◀─┘  └─ no reset helped
//!           let go by an operator; reset ◀──────────┘
//! ```
//!
//! # Invariants
//! * Healthy is only what passed a burn-in and has a proof of it that has not expired.
//! * From quarantine nothing leads to health but a burn-in *and*, before it, an operator's word, or
//!   a reset where the driver asked for one and the operator said how it is done.
//! * A GPU that an attempt uses is neither burnt in nor reset. At most one GPU of a node is burnt in
//!   for a proof at a time, and at most one for a short check.
//! * Idle moments are used for at most a hundredth.
//! * Where the site gives permits, nothing but idle moments is used without one, and each is
//!   answered: by what came of it, or by why nothing did.
//! * No answer is never a pass: what cannot be judged is tried [`TRIES_MAX`] times, then
//!   quarantined.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use specs::codec::Message;
use specs::gpu::{
    BurnInEnd, BurnInPermit, BurnInResult, BurnInTier, GpuHealth, GpuReport, GpuState, HealthProof,
    NUMBERS_MAX, Passed, SignedProof, cut_to_limit,
};
use specs::id::{GpuIndex, Revision};
use specs::unit::{Instant, Millis, Timestamp};

use crate::burn_in::measured::Compared;
use crate::xid;

mod ladder;
mod results;

use ladder::Ladder;
pub use ladder::{Recovery, Rung};

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

/// Of a span of idle moments, one in so many is used.
const IDLE_SHARE: u64 = 100;
/// What a check in an idle moment takes at least, in the count of such spans.
const SLICE_MIN: Millis = Millis(1_000);

/// Milliseconds of this life's clock. What happened in an earlier life may lie before its zero.
type Moment = i64;

fn moment(at: Instant) -> Moment {
    Moment::try_from(at.0).unwrap_or(Moment::MAX)
}

fn span(it: Millis) -> Moment {
    Moment::try_from(it.0).unwrap_or(Moment::MAX)
}

/// How burn-ins and resets are done here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What was never proven, or was reset or repaired, is soaked.
    pub soaks: bool,
    /// How long nothing must have used a GPU before its idle moments are used.
    pub idle_after: Millis,
    /// There is a command that resets.
    pub resets: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { soaks: false, idle_after: Millis(5 * MINUTE), resets: false }
    }
}

/// What was learnt of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Evidence {
    /// A burn-in found no fault. The proof is what its agent signed; the warning is the gravest, empty
    /// if there is none, and changes nothing: it is for people.
    Passed { tier: BurnInTier, proof: SignedProof, warning: String },
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
    /// Rows of its memory are to be remapped at the next reset.
    RemapPending,
    /// What the driver says would bring it back.
    Recovery(Recovery),
}

/// A burn-in that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BurnIn {
    pub gpu: GpuIndex,
    pub tier: BurnInTier,
    /// Which check of an idle moment it is: they take turns.
    pub turn: u32,
}

/// A reset that is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reset {
    pub gpu: GpuIndex,
    pub rung: Rung,
}

/// What a former life of the agent knew, from its disk. Spans are what was left then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    pub health: GpuHealth,
    pub proof: Option<SignedProof>,
    /// How long the proof holds yet.
    pub valid_for: Millis,
    pub history: History,
}

/// What happened to a GPU in earlier lives of the agent. Spans are how long ago.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    pub suspicions: Vec<Millis>,
    pub quarantines: Vec<Millis>,
    pub resets: Vec<(Rung, Millis)>,
    /// What would bring it back.
    pub needs: Option<Rung>,
    /// Its next proof is a soak, where there are soaks.
    pub needs_soak: bool,
    /// The machine was started since.
    pub is_restarted: bool,
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
    suspicions: Vec<Moment>,
    program_events: Vec<Moment>,
    quarantines: Vec<Moment>,
    ladder: Ladder,
    needs: Option<Rung>,
    needs_soak: bool,
    /// Since when nothing uses it, and when its next idle moment is used at the earliest.
    idle_since: Option<Instant>,
    slice_at: Instant,
    turn: u32,
    /// How much earlier than others its proof is renewed.
    renewed_earlier: Millis,
    /// What came of the last permit of this life.
    last: Option<BurnInResult>,
    /// It ended a moment ago, and what it measured is told next.
    is_to_be_measured: bool,
    /// Burn-ins that were judged, also in earlier lives; the last is the latest.
    results: Vec<BurnInResult>,
}

/// A burn-in that is under way.
#[derive(Debug, Clone, Copy)]
struct Burning {
    it: BurnIn,
    /// The permit's; none where the site gives none, and for idle moments.
    number: Option<Revision>,
    since: Instant,
}

/// The health of a node's GPUs.
#[derive(Debug, Clone)]
pub struct Health {
    gpus: BTreeMap<GpuIndex, Gpu>,
    is_asked: bool,
    policy: Policy,
    tells_earlier: bool,
    /// Those that attempts use.
    busy: BTreeSet<GpuIndex>,
    burning: BTreeMap<GpuIndex, Burning>,
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
            policy: Policy::default(),
            tells_earlier: false,
            burning: BTreeMap::new(),
            permits: None,
            now,
            wall: Timestamp(0),
        }
    }

    /// The same, with a policy.
    #[must_use]
    pub fn with(self, policy: Policy) -> Self {
        Self { policy, ..self }
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

    /// With what earlier lives found, the latest last.
    #[must_use]
    pub fn remembering(mut self, results: BTreeMap<GpuIndex, Vec<BurnInResult>>) -> Self {
        for (index, results) in results {
            let Some(gpu) = self.gpus.get_mut(&index) else { continue };
            results.into_iter().for_each(|it| results::add(&mut gpu.results, it));
        }
        self
    }

    /// Whether the site wants to be told what earlier burn-ins found.
    pub fn handle_curiosity(&mut self, tells_earlier: bool) {
        self.tells_earlier = tells_earlier;
    }

    /// What the next life should know of burn-ins.
    pub fn results(&self) -> impl Iterator<Item = (GpuIndex, &[BurnInResult])> {
        self.gpus.iter().map(|(index, gpu)| (*index, gpu.results.as_slice()))
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
                gpu.needs_soak |= is_quarantined;
                gpu.needs = None;
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
            let mut under_way = self.burning.values();
            let is_under_way = under_way.any(|it| it.number == Some(permit.number));
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
        let permits = self.permits.as_ref()?;
        let is_named = |it: &Burning| {
            permits.iter().any(|of| of.index == it.it.gpu && Some(of.number) == it.number)
        };
        let mut bound = self.burning.values().filter(|it| it.it.tier != BurnInTier::T4);
        bound.find(|it| !is_named(it)).map(|it| it.it.gpu)
    }

    /// Something was learnt of a GPU.
    pub fn handle_evidence(&mut self, now: Instant, index: GpuIndex, evidence: Evidence) {
        let end = match &evidence {
            Evidence::Passed { warning, .. } => Some((BurnInEnd::Passed, warning.clone())),
            Evidence::Unknown(why) => Some((BurnInEnd::Unknown, why.clone())),
            Evidence::Fault(why) => Some((BurnInEnd::Fault, why.clone())),
            Evidence::Warning(_)
            | Evidence::Quiet
            | Evidence::Silent
            | Evidence::Event(_)
            | Evidence::RemapPending
            | Evidence::Recovery(_) => None,
        };
        let burnt = end.as_ref().and_then(|_| self.end_burn_in(now, index));
        let wall = self.wall_at(now);
        let Some(gpu) = self.gpus.get_mut(&index) else { return };
        gpu.learn(now, evidence);
        gpu.is_to_be_measured = false;
        let (Some(burnt), Some((end, why))) = (burnt, end) else { return };
        let end = if gpu.is_quarantined() { BurnInEnd::Fault } else { end };
        if let Some(permit) = burnt.permit() {
            gpu.answer(&permit, end, why, (wall, now.since(burnt.since)));
            gpu.is_to_be_measured = true;
        }
    }

    /// What the burn-in measured that was learnt of last. True if it was judged, and is to be kept.
    pub fn handle_numbers(&mut self, index: GpuIndex, it: Compared) -> bool {
        let Some(gpu) = self.gpus.get_mut(&index) else { return false };
        // What an idle moment measured is nobody's.
        let is_its = core::mem::take(&mut gpu.is_to_be_measured);
        let Some(last) = gpu.last.as_mut().filter(|_| is_its) else { return false };
        last.numbers = it.measured.0.into_iter().take(NUMBERS_MAX).collect();
        (last.make, last.capped, last.digests) = (it.make, it.is_capped, it.digests);
        results::is_judged(last) && {
            results::add(&mut gpu.results, last.clone());
            true
        }
    }

    /// A burn-in ended before its end: nothing was learnt.
    pub fn handle_interrupted(&mut self, now: Instant, index: GpuIndex) {
        let burnt = self.end_burn_in(now, index);
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

    fn end_burn_in(&mut self, now: Instant, index: GpuIndex) -> Option<Burning> {
        let burnt = self.burning.remove(&index)?;
        if burnt.it.tier == BurnInTier::T4
            && let Some(gpu) = self.gpus.get_mut(&index)
        {
            let took = now.since(burnt.since).max(SLICE_MIN);
            gpu.slice_at = now.after(Millis(took.0.saturating_mul(IDLE_SHARE - 1)));
            gpu.turn = gpu.turn.wrapping_add(1);
        }
        Some(burnt)
    }

    /// A reset ended; with a reason if it did not work.
    pub fn handle_reset(&mut self, index: GpuIndex, outcome: Result<(), String>) {
        let Some(gpu) = self.gpus.get_mut(&index) else { return };
        if gpu.state != GpuState::Resetting {
            return;
        }
        match outcome {
            Ok(()) => gpu.come_back("it was reset; it must be burnt in"),
            Err(why) => {
                gpu.state = GpuState::Quarantined;
                gpu.why = format!("a reset did not work: {why}");
            }
        }
    }

    /// Time has passed: proofs expire, and idle moments grow.
    pub fn handle_timeout(&mut self, now: Instant) {
        (self.wall, self.now) = (self.wall_at(now), now);
        for (index, gpu) in &mut self.gpus {
            if gpu.state == GpuState::Healthy && now >= gpu.expires_at {
                gpu.forget_proof("its proof has expired");
            }
            let is_proving = self.burning.get(index).is_some_and(|it| it.it.tier.proves());
            if is_proving || self.busy.contains(index) {
                gpu.idle_since = None;
            } else {
                gpu.idle_since.get_or_insert(now);
            }
        }
    }

    /// The next burn-in, if one is due; it is under way from here on.
    pub fn poll_burn_in(&mut self, now: Instant) -> Option<BurnIn> {
        // What is suspected is looked at first, and idle moments are used last.
        let all = [&[BurnInTier::T1][..], &[BurnInTier::T2, BurnInTier::T3], &[BurnInTier::T4]];
        let permitted = self.permitted();
        let (index, tier, number) =
            permitted.or_else(|| all.iter().find_map(|tiers| self.next(now, tiers)))?;
        let gpu = self.gpus.get_mut(&index)?;
        let is_moment = tier == BurnInTier::T4 && number.is_none();
        // A suspect stays one, whatever a burn-in finds beside.
        if matches!(gpu.state, GpuState::Discovered | GpuState::Healthy) && !is_moment {
            gpu.state = GpuState::BurningIn;
            gpu.why = format!("{tier} is under way");
        }
        let it = BurnIn { gpu: index, tier, turn: gpu.turn };
        self.burning.insert(index, Burning { it, number, since: now });
        Some(it)
    }

    fn wall_at(&self, now: Instant) -> Timestamp {
        Timestamp(self.wall.0.saturating_add(now.since(self.now).0))
    }

    /// Nothing uses it, and no other is burnt in for the same.
    fn may_begin(&self, index: GpuIndex, tier: BurnInTier) -> bool {
        let is_used = self.busy.contains(&index) || self.burning.contains_key(&index);
        let mut others = self.burning.values();
        !is_used && others.all(|it| it.it.tier.proves() != tier.proves())
    }

    fn permitted(&self) -> Option<(GpuIndex, BurnInTier, Option<Revision>)> {
        let is_open = |it: &&BurnInPermit| {
            let gpu = self.gpus.get(&it.index);
            self.may_begin(it.index, it.tier)
                && gpu.is_some_and(|gpu| {
                    gpu.bars_burn_ins().is_none() && !gpu.has_answered(it.number)
                })
        };
        let permit = self.permits.as_ref()?.iter().find(is_open)?;
        Some((permit.index, permit.tier, Some(permit.number)))
    }

    /// What is due without a permit: idle moments alone where the site gives permits.
    fn next(
        &self,
        now: Instant,
        tiers: &[BurnInTier],
    ) -> Option<(GpuIndex, BurnInTier, Option<Revision>)> {
        let is_free = self.permits.is_none() || tiers == [BurnInTier::T4];
        if !self.is_asked || !is_free {
            return None;
        }
        let next = |(index, gpu): (&GpuIndex, &Gpu)| {
            let tier = gpu.due(now, self.policy).filter(|tier| tiers.contains(tier))?;
            let may_begin = !gpu.is_withheld && self.may_begin(*index, tier);
            may_begin.then_some((*index, tier, None))
        };
        self.gpus.iter().find_map(next)
    }

    /// True if nothing can come of a burn-in of it any more.
    #[must_use]
    pub fn is_barred(&self, index: GpuIndex) -> bool {
        self.gpus.get(&index).is_some_and(Gpu::is_quarantined)
    }

    /// The next reset, if one is due; it is under way from here on. Nothing uses its GPU, and if the
    /// machine is restarted, nothing uses any.
    pub fn poll_reset(&mut self, now: Instant) -> Option<Reset> {
        let is_under_way = self.gpus.values().any(|gpu| gpu.state == GpuState::Resetting);
        if !self.is_asked || !self.policy.resets || is_under_way {
            return None;
        }
        let is_node_free = self.busy.is_empty() && self.burning.is_empty();
        for (index, gpu) in &mut self.gpus {
            let is_free = !self.busy.contains(index) && !self.burning.contains_key(index);
            let is_open = matches!(gpu.state, GpuState::Quarantined | GpuState::Suspect);
            let Some(needed) = gpu.needs.filter(|_| is_free && is_open) else { continue };
            match gpu.ladder.rung(moment(now), needed) {
                None => {
                    gpu.needs = None;
                    gpu.why = format!("{}; no reset helped", gpu.why);
                }
                Some(rung) if rung == Rung::Gpu || is_node_free => {
                    gpu.ladder.note(moment(now), rung);
                    gpu.state = GpuState::Resetting;
                    gpu.proof = None;
                    gpu.why = format!("a reset is under way ({rung}): {}", gpu.why);
                    return Some(Reset { gpu: *index, rung });
                }
                Some(_) => {}
            }
        }
        None
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
                (GpuState::Suspect, String::from("its site holds it back"))
            } else {
                (gpu.state, gpu.advised(self.policy))
            };
            let is_shown = matches!(state, GpuState::Healthy | GpuState::Suspect);
            let proof = gpu.proof.clone().filter(|_| is_shown);
            let due = gpu
                .wants(self.now, self.policy)
                .filter(|_| self.permits.is_some() && !gpu.is_withheld);
            let (health, last) = (GpuHealth::new(*index, state, why), gpu.last.clone());
            let passed = proof.as_ref().and_then(|proof| gpu.passed(self.now, proof));
            let earlier = self.tells_earlier.then(|| results::before(&gpu.results, &last));
            GpuReport { health, proof, due, last, passed, earlier }
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
            history: gpu.history(now),
        };
        self.gpus.iter().map(kept).collect()
    }
}

impl Burning {
    fn permit(&self) -> Option<BurnInPermit> {
        let BurnIn { gpu, tier, .. } = self.it;
        self.number.map(|number| BurnInPermit { index: gpu, number, tier })
    }
}

/// Forgets what is older than a span, adds what happened, and says whether that is too often.
fn is_too_often(times: &mut Vec<Moment>, now: Instant, within: Millis, max: usize) -> bool {
    let now = moment(now);
    times.retain(|at| now - at < span(within));
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
            ladder: Ladder::default(),
            needs: None,
            needs_soak: true,
            idle_since: None,
            slice_at: now,
            turn: 0,
            renewed_earlier: Millis::ZERO,
            last: None,
            is_to_be_measured: false,
            results: Vec::new(),
        };
        let Some(kept) = kept else { return it };
        it.remember(now, &kept.history);
        match kept.health.state {
            GpuState::Healthy if kept.proof.is_some() && kept.valid_for > Millis::ZERO => {
                it.state = GpuState::Healthy;
                it.why = String::new();
                it.proof = kept.proof;
                it.expires_at = now.after(kept.valid_for.min(PROOF_SPAN));
            }
            // The restart was the reset that it needed.
            GpuState::Resetting if kept.history.is_restarted => {
                it.come_back("the machine was restarted; it must be burnt in");
            }
            GpuState::Quarantined | GpuState::Rma => {
                it.state = kept.health.state;
                it.why = kept.health.why;
            }
            // Whether it was reset is not known.
            GpuState::Resetting => {
                it.state = GpuState::Quarantined;
                it.why = kept.health.why;
            }
            GpuState::Discovered | GpuState::BurningIn | GpuState::Healthy | GpuState::Suspect => {}
        }
        it
    }

    fn remember(&mut self, now: Instant, it: &History) {
        let at = |ago: &Millis| moment(now).saturating_sub(span(*ago));
        self.suspicions = it.suspicions.iter().map(at).collect();
        self.quarantines = it.quarantines.iter().map(at).collect();
        self.ladder.tries = it.resets.iter().map(|(rung, ago)| (*rung, at(ago))).collect();
        (self.needs, self.needs_soak) = (it.needs, it.needs_soak);
    }

    fn history(&self, now: Instant) -> History {
        let ago = |at: &Moment| Millis(u64::try_from(moment(now).saturating_sub(*at)).unwrap_or(0));
        History {
            suspicions: self.suspicions.iter().map(ago).collect(),
            quarantines: self.quarantines.iter().map(ago).collect(),
            resets: self.ladder.tries.iter().map(|(rung, at)| (*rung, ago(at))).collect(),
            needs: self.needs,
            needs_soak: self.needs_soak,
            is_restarted: false,
        }
    }

    /// Why it is where it is, and what an operator should do where nobody else does.
    fn advised(&self, policy: Policy) -> String {
        match (self.state, self.needs) {
            (GpuState::Quarantined | GpuState::Suspect, Some(rung)) if !policy.resets => {
                format!("{}; {} and let it go", self.why, rung.advice())
            }
            _ => self.why.clone(),
        }
    }

    /// It was reset, by whomever.
    fn come_back(&mut self, why: &str) {
        self.forget_proof(why);
        self.needs = None;
        self.needs_soak = true;
    }

    fn forget_proof(&mut self, why: &str) {
        self.state = GpuState::Discovered;
        self.why = why.into();
        self.proof = None;
        self.tries = 0;
    }

    fn learn(&mut self, now: Instant, evidence: Evidence) {
        match evidence {
            Evidence::Passed { tier, proof, warning: _ } => self.pass(now, tier, proof),
            Evidence::Fault(why) => self.quarantine(now, why, None),
            Evidence::Warning(why) => self.doubt(now, why),
            Evidence::Unknown(why) => self.miss(now, &why),
            Evidence::Quiet => self.silences = 0,
            Evidence::Silent => {
                self.silences += 1;
                if self.silences >= SILENCES_MAX {
                    self.silences = 0;
                    let why = String::from("the driver does not answer for it");
                    self.quarantine(now, why, Some(Rung::Gpu));
                }
            }
            Evidence::Event(code) => self.event(now, code),
            Evidence::RemapPending => {
                self.drain(now, String::from("rows of its memory wait to be remapped"));
            }
            Evidence::Recovery(it) => self.recovery(now, it),
        }
    }

    /// What the driver says would help is what is done, whatever was thought before.
    fn recovery(&mut self, now: Instant, it: Recovery) {
        let asks = |what: &str| format!("the driver asks for {what}");
        match it {
            Recovery::None => {}
            Recovery::GpuReset => {
                self.quarantine(now, asks("a reset of the GPU"), Some(Rung::Gpu));
            }
            Recovery::NodeReboot => {
                self.quarantine(now, asks("a restart of the machine"), Some(Rung::Machine));
            }
            Recovery::DrainPeers | Recovery::DrainAndReset => {
                self.drain(now, asks("a reset when its jobs have ended"));
            }
        }
    }

    /// It keeps what it runs, takes nothing new, and is reset then.
    fn drain(&mut self, now: Instant, why: String) {
        self.blamed_at = now;
        match self.state {
            GpuState::Healthy | GpuState::Suspect => {
                self.state = GpuState::Suspect;
                self.why = why;
                self.needs = self.needs.max(Some(Rung::Gpu));
            }
            // If its burn-in finds the same, this is what helps.
            GpuState::Discovered | GpuState::BurningIn | GpuState::Quarantined => {
                self.needs = self.needs.max(Some(Rung::Gpu));
            }
            GpuState::Resetting | GpuState::Rma => {}
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
            xid::Class::Drain => self.drain(now, why),
            xid::Class::Reset => self.quarantine(now, why, Some(Rung::Gpu)),
            xid::Class::Restart => self.quarantine(now, why, Some(Rung::Machine)),
            xid::Class::Machine => self.quarantine(now, why, None),
            xid::Class::Replace => {
                self.quarantine(now, why, None);
                self.state = GpuState::Rma;
            }
        }
    }

    fn pass(&mut self, now: Instant, tier: BurnInTier, proof: SignedProof) {
        self.tries = 0;
        if tier == BurnInTier::T4 && self.state != GpuState::BurningIn {
            return;
        }
        self.tested_at = Some(now);
        match self.state {
            GpuState::BurningIn | GpuState::Healthy if tier.proves() => {
                self.needs_soak = false;
                self.needs = None;
                self.state = GpuState::Healthy;
                self.why = String::new();
                self.proof = Some(proof);
                self.expires_at = now.after(PROOF_SPAN);
            }
            GpuState::Suspect => {
                self.clean += 1;
                if self.clean >= CLEAN_NEEDED && now.since(self.blamed_at) >= QUIET_SPAN {
                    // The proof that it had when it was suspected still holds.
                    self.needs = None;
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
            self.quarantine(now, format!("it could not be judged {TRIES_MAX} times: {why}"), None);
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
                    self.quarantine(now, format!("it is suspect too often: {why}"), None);
                } else {
                    self.state = GpuState::Suspect;
                    self.why = why;
                    // It is looked at as soon as nothing uses it.
                    self.tested_at = None;
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

    /// `needs` is what would bring it back; the most that anything said.
    fn quarantine(&mut self, now: Instant, why: String, needs: Option<Rung>) {
        self.proof = None;
        self.blamed_at = now;
        self.needs = self.needs.max(needs);
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

    /// What its proof says, and how long ago it passed.
    fn passed(&self, now: Instant, proof: &SignedProof) -> Option<Passed> {
        let said = HealthProof::decode(&proof.body.0).ok()?;
        let ago = said.valid_for.minus(self.expires_at.since(now));
        Some(Passed { tier: said.tier, at: said.passed_at, ago })
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
            return Some("its site holds it back");
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
        self.last = Some(BurnInResult {
            number,
            tier,
            end,
            why,
            ended_at,
            took,
            numbers: BTreeMap::new(),
            make: None,
            capped: false,
            digests: None,
        });
    }

    /// The burn-in that it needs, or needs before its proof expires.
    fn wants(&self, now: Instant, policy: Policy) -> Option<BurnInTier> {
        let left = self.expires_at.since(now);
        let is_old = left <= RENEWED_BEFORE.plus(self.renewed_earlier);
        let is_renewed = self.state == GpuState::Healthy && is_old;
        let due = self.due(now, policy).filter(|tier| *tier != BurnInTier::T4);
        if is_renewed { Some(BurnInTier::T2) } else { due }
    }

    /// The burn-in that it needs at this time.
    fn due(&self, now: Instant, policy: Policy) -> Option<BurnInTier> {
        match self.state {
            GpuState::Discovered if self.needs_soak && policy.soaks => Some(BurnInTier::T3),
            GpuState::Discovered => Some(BurnInTier::T2),
            // It is reset first.
            GpuState::Suspect if policy.resets && self.needs.is_some() => None,
            GpuState::Suspect => {
                let is_due = self.tested_at.is_none_or(|at| now.since(at) >= CLEAN_SPAN);
                is_due.then_some(BurnInTier::T1)
            }
            GpuState::Healthy => {
                let is_idle = self.idle_since.is_some_and(|at| now.since(at) >= policy.idle_after);
                (is_idle && now >= self.slice_at).then_some(BurnInTier::T4)
            }
            GpuState::BurningIn | GpuState::Quarantined | GpuState::Resetting | GpuState::Rma => {
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
