//! The life of a GPU, told step by step.

use alloc::vec;

use specs::codec::Blob;
use specs::measure::Digests;

use super::*;

const GPU: GpuIndex = GpuIndex(0);

fn proof() -> SignedProof {
    let blob = Blob::default;
    SignedProof { body: blob(), signature: blob(), certificate: blob() }
}

fn passed(tier: BurnInTier) -> Evidence {
    Evidence::Passed { tier, proof: proof(), warning: String::new() }
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
        self.learn(passed(tier));
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
    node.learn(passed(BurnInTier::T2));
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
    node.learn(passed(BurnInTier::T2));
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
        let expected = if nth == TRIES_MAX { GpuState::Quarantined } else { GpuState::Discovered };
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
        let permit = |&(number, tier)| BurnInPermit { index: GPU, number: Revision(number), tier };
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
    assert_eq!((node.state(), node.last()), (GpuState::BurningIn, Some((7, BurnInEnd::Passed))));
    node.learn(Evidence::Fault("bit 3".into()));
    assert_eq!(node.last(), Some((9, BurnInEnd::Fault)));
}

#[test]
fn a_warning_of_a_burn_in_that_passed_is_told_and_changes_nothing() {
    let mut node = Node::new();
    node.permit(&[(7, BurnInTier::T2)]);
    assert_eq!(node.due(), Some(BurnInTier::T2));
    let warning: String = "the slot is slow".into();
    node.learn(Evidence::Passed { tier: BurnInTier::T2, proof: proof(), warning: warning.clone() });
    let last = node.report().last.unwrap();
    assert_eq!((last.end, last.why), (BurnInEnd::Passed, warning));
    assert_eq!(node.state(), GpuState::Healthy);
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
            history: History::default(),
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

fn compared(rate: u64) -> Compared {
    let by_kernel = [("golden_bf16".into(), rate)].into();
    let digests = Some(Digests { recipe: 1, by_kernel });
    let mut it = Compared { is_capped: true, digests, ..Compared::default() };
    it.measured.add("memoryBytesPerSecond", rate);
    it
}

#[test]
fn the_last_burn_ins_that_were_judged_are_remembered_by_the_next_life_and_told_when_asked_for() {
    let mut node = Node::new();
    for number in 1..=5 {
        node.permit(&[(number, BurnInTier::T2)]);
        node.burn_in(BurnInTier::T2);
        assert!(node.health.handle_numbers(GPU, compared(number)));
    }
    node.permit(&[(6, BurnInTier::T2)]);
    assert_eq!(node.due(), Some(BurnInTier::T2));
    node.health.handle_interrupted(node.now, GPU);
    assert!(!node.health.handle_numbers(GPU, compared(6)), "it was not judged");
    assert_eq!((node.last(), node.report().earlier), (Some((6, BurnInEnd::Interrupted)), None));
    let kept: BTreeMap<GpuIndex, Vec<BurnInResult>> =
        node.health.results().map(|(index, results)| (index, results.to_vec())).collect();
    let told = |node: &Node| -> Vec<(u64, u64)> {
        let earlier = node.report().earlier.map(|it| it.results).unwrap_or_default();
        earlier.iter().map(|it| (it.number.0, it.numbers["memoryBytesPerSecond"])).collect()
    };
    node.health.handle_curiosity(true);
    assert_eq!(told(&node), [(3, 3), (4, 4), (5, 5)]);
    let last = node.report().earlier.unwrap().results.pop().unwrap();
    assert_eq!((last.digests, last.capped), (compared(5).digests, true));

    let mut next = Node::new();
    next.health = next.health.remembering(kept);
    next.health.handle_curiosity(true);
    assert_eq!((next.last(), told(&next)), (None, vec![(3, 3), (4, 4), (5, 5)]));
    // A site that was founded anew counts from the beginning.
    next.permit(&[(4, BurnInTier::T2)]);
    next.burn_in(BurnInTier::T2);
    next.health.handle_numbers(GPU, compared(40));
    assert_eq!((next.last(), told(&next)), (Some((4, BurnInEnd::Passed)), vec![(3, 3)]));
}

#[test]
fn what_an_idle_moment_measured_is_not_the_last_burn_ins() {
    let mut node = Node::new();
    node.permit(&[(1, BurnInTier::T2)]);
    node.burn_in(BurnInTier::T2);
    node.health.handle_numbers(GPU, compared(7));
    let before = node.report().last;
    node.wait(Millis(0));
    node.wait(Millis(20 * MINUTE));
    assert_eq!(node.due(), Some(BurnInTier::T4));
    node.learn(passed(BurnInTier::T4));
    assert!(!node.health.handle_numbers(GPU, compared(99)));
    assert_eq!(node.report().last, before);
}
