//! Every SM does the same work; what most of them say is right. Whoever differs is named, and so is
//! whoever takes longer: cycles per operation do not depend on clocks or power.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Blame, Finding, Severity, memory};

/// An SM is slow from this many thousandths on of what most SMs need at most.
const SLOW_PERMILLE: u64 = 1_020;
/// Most: so many of so many. SMs that share a cache of instructions may be slower together, and that
/// is their build.
const MOST: (usize, usize) = (19, 20);
/// What of an SM is to blame that takes longer than others.
pub const PACE: &str = "pace";
/// The vote on an SM's own cache.
pub const FIRST_LEVEL: &str = "unit_l1";
/// The vote on what all SMs share: who reads something else than was written is not to blame alone.
pub const SECOND_LEVEL: &str = "unit_l2";
/// Below this many cycles, which are half a millisecond, a difference says nothing: to fetch
/// instructions and to start takes some thousands, and not as many everywhere.
const CYCLES_MIN: u64 = 1_000_000;

/// What one warp said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    pub sm: u32,
    pub warp: u32,
    pub digest: u64,
    pub cycles: u64,
}

/// One round: the same kernel with the same seed and steps on all SMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    /// The kernel.
    pub name: String,
    pub votes: Vec<Vote>,
    /// Records whose checksum was wrong.
    pub spoiled: u32,
    /// SMs that the device has.
    pub sms: u32,
    /// An SM that was told to lie: it must be found, and nobody else.
    pub canary: Option<u32>,
    /// False where the work shares what other SMs use, so that its time says nothing.
    pub is_paced: bool,
    /// The kernel had run before. If not, SMs also waited for its instructions, each as it happens.
    #[serde(default)]
    pub is_warm: bool,
    /// How often each warp did the kernel's work.
    #[serde(default)]
    pub steps: u32,
    /// What the host's processor computed, where the results are the same on any machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
    /// Why the driver did not take the kernel: nobody has voted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// Digests that are right whatever the SMs say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    pub by_warp: Vec<u64>,
    /// How grave it is if most SMs say something else: then the kernel may be wrong as well.
    pub if_most_differ: Severity,
}

/// What most SMs say, by warp; none without a majority.
#[must_use]
pub fn digest(round: &Round) -> Option<u64> {
    majorities(&round.votes).values().try_fold(0_u64, |all, digest| {
        digest.map(|digest| all.rotate_left(9).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ digest)
    })
}

fn majorities(votes: &[Vote]) -> BTreeMap<u32, Option<u64>> {
    let mut by_warp: BTreeMap<u32, BTreeMap<u64, usize>> = BTreeMap::new();
    for vote in votes {
        *by_warp.entry(vote.warp).or_default().entry(vote.digest).or_default() += 1;
    }
    let majority = |counts: BTreeMap<u64, usize>| {
        let all: usize = counts.values().sum();
        counts.into_iter().find(|(_, count)| count * 2 > all).map(|(digest, _)| digest)
    };
    by_warp.into_iter().map(|(warp, counts)| (warp, majority(counts))).collect()
}

/// SMs with a digest that is not the expected one, or the majority's, and how many warps of each.
fn outliers(round: &Round) -> Option<BTreeMap<u32, BTreeSet<u32>>> {
    let right = match &round.expected {
        Some(it) => (0..).zip(it.by_warp.iter().copied().map(Some)).collect(),
        None => majorities(&round.votes),
    };
    let mut found: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
    for vote in &round.votes {
        match right.get(&vote.warp).copied().flatten() {
            None => return None,
            Some(digest) if digest == vote.digest => {}
            Some(_) => {
                found.entry(vote.sm).or_default().insert(vote.warp);
            }
        }
    }
    Some(found)
}

/// True if every SM took part and all agree in what they say.
#[must_use]
pub fn is_unanimous(round: &Round) -> bool {
    let seen: BTreeSet<u32> = round.votes.iter().map(|it| it.sm).collect();
    round.spoiled == 0
        && seen.len() as u64 == u64::from(round.sms)
        && outliers(round).is_some_and(|it| it.is_empty())
}

/// What a round says.
#[must_use]
pub fn judge(round: &Round) -> Vec<Finding> {
    let name = round.name.as_str();
    let mut findings = Vec::new();
    if let Some(why) = &round.refused {
        findings.push(Finding::unknown(name, why.as_str()));
        return findings;
    }
    if round.spoiled > 0 {
        let message = format!("{} records came damaged from the GPU", round.spoiled);
        let blame = Blame::Device { what: "results do not arrive whole".into() };
        findings.push(Finding::new(name, Severity::Fault, blame, message));
    }
    let seen: BTreeSet<u32> = round.votes.iter().map(|it| it.sm).collect();
    if seen.len() as u64 != u64::from(round.sms) {
        let message = format!("{} of {} SMs took part", seen.len(), round.sms);
        findings.push(Finding::unknown(name, message));
    }
    if seen.len() < 3 && round.expected.is_none() {
        let message = format!("{} SMs are too few to vote", seen.len());
        findings.push(Finding::unknown(name, message));
        return findings;
    }
    let Some(outliers) = outliers(round) else {
        findings.push(Finding::unknown(name, "no digest has a majority"));
        return findings;
    };
    if let Some(expected) = &round.expected
        && outliers.len() * 2 > seen.len()
    {
        let (differ, all) = (outliers.len(), seen.len());
        let message = if name == SECOND_LEVEL {
            format!("{differ} of {all} SMs read something else than was written")
        } else {
            format!("{differ} of {all} SMs compute something else than the processor")
        };
        let what = if name == SECOND_LEVEL { memory::SECOND_LEVEL } else { "arithmetic" };
        let blame = Blame::Device { what: what.into() };
        findings.push(Finding::new(name, expected.if_most_differ, blame, message));
        return findings;
    }
    if let Some(canary) = round.canary {
        if !outliers.contains_key(&canary) {
            let what = format!("the lie of SM {canary} was not found");
            findings.push(Finding::unknown(name, what));
        }
    } else {
        findings.extend(slow(round));
    }
    for (sm, warps) in outliers.iter().filter(|(sm, _)| Some(**sm) != round.canary) {
        let message = format!("SM {sm} says something else than the others in warps {warps:?}");
        let blame = Blame::Sm { sm: *sm, unit: name.into() };
        findings.push(Finding::new(name, Severity::Fault, blame, message));
    }
    findings
}

/// The longest that each SM took, and what most need at most; none where pace says nothing.
fn pace(round: &Round) -> Option<(BTreeMap<u32, u64>, u64)> {
    let mut cycles: BTreeMap<u32, u64> = BTreeMap::new();
    for vote in &round.votes {
        let longest = cycles.entry(vote.sm).or_default();
        *longest = (*longest).max(vote.cycles);
    }
    let mut sorted: Vec<u64> = cycles.values().copied().collect();
    sorted.sort_unstable();
    let at = sorted.len().saturating_sub(1) * MOST.0 / MOST.1;
    let usual = sorted.get(at).copied().unwrap_or(0);
    let says = round.is_paced && round.is_warm && usual >= CYCLES_MIN;
    says.then_some((cycles, usual))
}

/// How long the slowest SM took, in thousandths of what most need at most; none where pace says
/// nothing.
#[must_use]
pub fn slowest_permille(round: &Round) -> Option<u64> {
    let (cycles, usual) = pace(round)?;
    cycles.values().max()?.saturating_mul(1_000).checked_div(usual)
}

fn slow(round: &Round) -> Vec<Finding> {
    let Some((cycles, usual)) = pace(round) else { return Vec::new() };
    let late = cycles.iter().filter(|(_, it)| **it * 1_000 > usual * SLOW_PERMILLE);
    late.map(|(sm, it)| {
        let message = format!("SM {sm} took {it} cycles, most others at most {usual}");
        let blame = Blame::Sm { sm: *sm, unit: PACE.into() };
        Finding::new(&round.name, Severity::Fault, blame, message)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(change: impl Fn(&mut Vote)) -> Round {
        let votes = (0..8).flat_map(|sm| {
            (0..4).map(move |warp| Vote {
                sm,
                warp,
                digest: 100 + u64::from(warp),
                cycles: 10_000_000,
            })
        });
        let mut votes: Vec<Vote> = votes.collect();
        votes.iter_mut().for_each(change);
        let (name, canary, is_paced) = ("unit_x".into(), None, true);
        Round {
            name,
            votes,
            spoiled: 0,
            sms: 8,
            canary,
            is_paced,
            is_warm: true,
            steps: 1,
            expected: None,
            refused: None,
        }
    }

    fn expecting(mut round: Round, first: u64) -> Round {
        let by_warp = (first..first + 4).collect();
        round.expected = Some(Expected { by_warp, if_most_differ: Severity::Fault });
        round
    }

    fn blamed(round: &Round) -> Vec<(u32, String)> {
        let all = judge(round).into_iter();
        all.filter_map(
            |it| if let Blame::Sm { sm, unit } = it.blame { Some((sm, unit)) } else { None },
        )
        .collect()
    }

    #[test]
    fn who_agrees_passes() {
        assert!(judge(&round(|_| ())).is_empty());
        assert!(is_unanimous(&round(|_| ())));
    }

    #[test]
    fn who_differs_in_one_warp_is_named() {
        let it = round(|vote| vote.digest ^= u64::from(vote.sm == 5 && vote.warp == 2));
        assert_eq!(blamed(&it), [(5, "unit_x".into())]);
        assert!(!is_unanimous(&it));
    }

    #[test]
    fn who_is_two_percent_late_is_named_unless_the_work_is_shared() {
        let mut it = round(|vote| vote.cycles += u64::from(vote.sm == 6) * 201_000);
        assert_eq!(blamed(&it), [(6, "pace".into())]);
        assert_eq!(slowest_permille(&it), Some(1_020));
        it.is_paced = false;
        assert_eq!(slowest_permille(&it), None);
        assert!(judge(&it).is_empty());
        let just = round(|vote| vote.cycles += u64::from(vote.sm == 6) * 199_000);
        assert!(judge(&just).is_empty());
    }

    #[test]
    fn the_first_launch_and_a_short_one_say_nothing_of_pace() {
        let late = || round(|vote| vote.cycles += u64::from(vote.sm == 6) * 5_000_000);
        assert_eq!(blamed(&late()), [(6, "pace".into())]);
        assert!(judge(&Round { is_warm: false, ..late() }).is_empty());
        let mut short = late();
        short.votes.iter_mut().for_each(|vote| vote.cycles /= 100);
        assert!(judge(&short).is_empty());
    }

    #[test]
    fn sms_that_are_slower_together_are_built_so() {
        let wide = |slow: u32| {
            let mut it = round(|_| ());
            let one = it.votes.clone();
            let more = (1..5).flat_map(|nth| one.iter().map(move |vote| (nth, *vote)));
            it.votes.extend(more.map(|(nth, vote)| Vote { sm: vote.sm + 8 * nth, ..vote }));
            for vote in it.votes.iter_mut().filter(|vote| vote.sm < slow) {
                vote.cycles += 400_000;
            }
            it.sms = 40;
            judge(&it)
        };
        assert_eq!(wide(8), []);
        assert_eq!(wide(1).len(), 1);
    }

    #[test]
    fn a_kernel_that_no_driver_takes_is_not_judged() {
        let mut it = round(|_| ());
        it.votes.clear();
        it.refused = Some("cannot load the kernels".into());
        let findings = judge(&it);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(super::super::verdict(&findings), super::super::Verdict::Unknown);
    }

    #[test]
    fn an_sm_that_is_missing_is_no_pass() {
        let mut it = round(|_| ());
        it.votes.retain(|vote| vote.sm != 3);
        assert_eq!(super::super::verdict(&judge(&it)), super::super::Verdict::Unknown);
    }

    #[test]
    fn without_a_majority_nobody_is_blamed() {
        let it = round(|vote| vote.digest += u64::from(vote.sm));
        assert!(blamed(&it).is_empty());
        assert_eq!(super::super::verdict(&judge(&it)), super::super::Verdict::Unknown);
    }

    #[test]
    fn what_the_processor_computed_is_right_whatever_most_say() {
        assert!(judge(&expecting(round(|_| ()), 100)).is_empty());
        let one = expecting(round(|vote| vote.digest ^= u64::from(vote.sm == 2)), 100);
        assert_eq!(blamed(&one), [(2, "unit_x".into())]);
        let all = judge(&expecting(round(|_| ()), 101));
        assert_eq!(all.len(), 1, "{all:?}");
        assert_eq!(all[0].blame, Blame::Device { what: "arithmetic".into() });
        // Two SMs are enough then.
        let mut two = expecting(round(|vote| vote.digest ^= u64::from(vote.sm == 1)), 100);
        two.votes.retain(|vote| vote.sm < 2);
        two.sms = 2;
        assert_eq!(blamed(&two), [(1, "unit_x".into())]);
    }

    #[test]
    fn a_canary_must_be_found_and_is_no_fault() {
        let mut it = round(|vote| vote.digest ^= u64::from(vote.sm == 1));
        it.canary = Some(1);
        assert!(judge(&it).is_empty());
        it.canary = Some(2);
        let findings = judge(&it);
        assert_eq!(findings.len(), 2, "{findings:?}");
        assert_eq!(blamed(&it), [(1, "unit_x".into())]);
    }
}
