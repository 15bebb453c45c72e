//! What a burn-in's numbers say of a GPU: whether it is sound, and if not, what is to blame. Numbers
//! in, findings out; whoever measures decides nothing.
//!
//! ```text
//!   memory: mismatches, who wrote, who read ─▶ memory::judge ─┐
//!   votes: digests and cycles of every warp ─▶ vote::judge ───┼▶ settle ─▶ findings ─▶ verdict
//!   counters before and after, the link ─────▶ counters::judge┘
//! ```
//!
//! # Invariants
//! * A GPU passes only if everything that was asked was answered, and the planted canaries were
//!   found. No answer is never a pass.
//! * A limit of power that software set is no fault, however low the clocks.

pub mod baseline;
pub mod counters;
pub mod digest;
pub mod dump;
pub mod golden;
pub mod links;
pub mod measured;
pub mod memory;
pub mod tensor;
mod tier;
pub mod vote;
pub mod wave;

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use tier::Tier;

/// What is to blame. Addresses are the driver's, in bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Blame {
    /// One bit of the word of 32 bits at an address. `one` if it always reads one.
    Bit { address: u64, bit: u32, one: bool },
    /// Neighbours of 16 bytes from an address on; the bits that were wrong in any.
    Row { address: u64, bytes: u64, bits: [u32; 4] },
    /// Bits of 16 bytes at an address.
    Cell { address: u64, bits: [u32; 4] },
    /// Two places that are one.
    Alias { address: u64, other: u64 },
    /// An SM, and what of it.
    Sm { sm: u32, unit: String },
    /// The link to the host.
    Link { lanes: u32, lanes_max: u32 },
    /// A copy that did not arrive as it was sent; the offset is in bytes.
    Transfer { way: links::Way, offset: u64, bits: u32 },
    /// A counter of the driver's.
    Counter { name: String, by: u64 },
    /// The device as a whole.
    Device { what: String },
    /// The burn-in itself.
    Test { what: String },
}

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// To be watched; the GPU passes.
    Warning,
    /// The question could not be answered.
    Unknown,
    /// The GPU is not sound.
    Fault,
}

/// One thing that a burn-in found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The check that found it.
    pub check: String,
    pub severity: Severity,
    pub blame: Blame,
    /// For people.
    pub message: String,
}

impl Finding {
    /// Makes one.
    #[must_use]
    pub fn new(check: &str, severity: Severity, blame: Blame, message: impl Into<String>) -> Self {
        Self { check: check.into(), severity, blame, message: message.into() }
    }

    /// A question that has no answer.
    #[must_use]
    pub fn unknown(check: &str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(check, Severity::Unknown, Blame::Test { what: message.clone() }, message)
    }
}

/// What a burn-in says in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Fault,
    /// Something could not be judged, and nothing was found.
    Unknown,
}

/// The verdict of all findings: the gravest decides.
#[must_use]
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|it| it.severity).max() {
        Some(Severity::Fault) => Verdict::Fault,
        Some(Severity::Unknown) => Verdict::Unknown,
        Some(Severity::Warning) | None => Verdict::Pass,
    }
}

/// Brings findings of different checks together: an SM that the votes found is also to blame for
/// what it wrote and read, and for what could not be judged because of it. What lies in the cache
/// that all share is wrong for all if one SM, or a cell, is.
#[must_use]
pub fn settle(findings: Vec<Finding>) -> Vec<Finding> {
    let is_path = |it: &Finding| it.check == memory::CHECK && it.blame.is_of(memory::SECOND_LEVEL);
    let has_path = findings.iter().any(is_path);
    // What the first level holds came through the second.
    let is_shared = |it: &Finding| {
        it.check == vote::SECOND_LEVEL || (has_path && it.check == vote::FIRST_LEVEL)
    };
    let sms = |keep: &dyn Fn(&Finding) -> bool| -> BTreeSet<u32> {
        let faults = findings.iter().filter(|it| it.severity == Severity::Fault && keep(it));
        faults.filter_map(|it| it.blame.sm()).collect()
    };
    let voted = sms(&|it| it.check != memory::CHECK && !is_shared(it));
    let named = sms(&|it| !is_shared(it));
    let in_shared = sms(&is_shared);
    let is_cause = |it: &Finding| {
        let is_place = it.check == memory::CHECK && !is_path(it);
        it.severity == Severity::Fault && (is_place || (it.blame.sm().is_some() && !is_shared(it)))
    };
    let has_cause = findings.iter().any(is_cause);
    let is_everybodys = in_shared.len() > 1 || has_path;
    let mut kept = findings;
    lone_pace(&mut kept);
    for finding in &mut kept {
        let sm = finding.blame.sm();
        if finding.check == memory::CHECK
            && let Some(sm) = sm.filter(|sm| voted.contains(sm))
        {
            finding.message = format!("{}; the votes name SM {sm} too", finding.message);
        }
        if !is_shared(finding) || finding.severity != Severity::Fault {
            continue;
        }
        if has_cause && sm.is_none_or(|sm| !named.contains(&sm)) {
            finding.severity = Severity::Warning;
            finding.message = format!("{}; another finding says why", finding.message);
        } else if is_everybodys && sm.is_some_and(|sm| !named.contains(&sm)) {
            finding.blame = Blame::Device { what: memory::SECOND_LEVEL.into() };
        }
    }
    kept
}

/// An SM that is slow is so in whatever it does: one kernel alone that took longer is a warning.
fn lone_pace(findings: &mut [Finding]) {
    let mut kernels: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
    let late = |it: &Finding| {
        let is_late = matches!(&it.blame, Blame::Sm { unit, .. } if unit == vote::PACE);
        it.blame.sm().filter(|_| is_late)
    };
    for finding in findings.iter() {
        if let Some(sm) = late(finding) {
            kernels.entry(sm).or_default().insert(finding.check.clone());
        }
    }
    for finding in findings {
        if late(finding).is_some_and(|sm| kernels.get(&sm).is_none_or(|it| it.len() < 2)) {
            finding.severity = Severity::Warning;
        }
    }
}

impl Blame {
    /// The SM that is to blame, if it is one.
    fn sm(&self) -> Option<u32> {
        match self {
            Self::Sm { sm, .. } => Some(*sm),
            Self::Bit { .. }
            | Self::Row { .. }
            | Self::Cell { .. }
            | Self::Alias { .. }
            | Self::Link { .. }
            | Self::Transfer { .. }
            | Self::Counter { .. }
            | Self::Device { .. }
            | Self::Test { .. } => None,
        }
    }

    fn is_of(&self, of: &str) -> bool {
        matches!(self, Self::Device { what } if what == of)
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn finding(severity: Severity) -> Finding {
        Finding::new("x", severity, Blame::Device { what: "x".into() }, "x")
    }

    #[test]
    fn the_gravest_finding_decides() {
        use Severity::{Fault, Unknown, Warning};
        assert_eq!(verdict(&[]), Verdict::Pass);
        assert_eq!(verdict(&[finding(Warning)]), Verdict::Pass);
        assert_eq!(verdict(&[finding(Warning), finding(Unknown)]), Verdict::Unknown);
        assert_eq!(verdict(&[finding(Fault), finding(Unknown)]), Verdict::Fault);
    }

    #[test]
    fn a_vote_and_the_memory_test_agree_on_an_sm() {
        let sm = |check: &str| {
            let blame = Blame::Sm { sm: 3, unit: "x".into() };
            Finding::new(check, Severity::Fault, blame, "x")
        };
        let settled = settle(vec![sm("unit_integer"), sm(memory::CHECK)]);
        assert!(settled[1].message.contains("SM 3 too"), "{settled:?}");
    }

    #[test]
    fn an_sm_that_one_kernel_alone_finds_slow_is_a_warning() {
        let late = |check: &str, sm| {
            let blame = Blame::Sm { sm, unit: vote::PACE.into() };
            Finding::new(check, Severity::Fault, blame, "x")
        };
        let all = vec![late("unit_integer", 3), late("unit_integer", 4), late("tensor_bf16", 4)];
        let settled = settle(all.clone());
        let severities: Vec<Severity> = settled.iter().map(|it| it.severity).collect();
        assert_eq!(severities, [Severity::Warning, Severity::Fault, Severity::Fault]);
        assert_eq!(verdict(&settle(vec![late("x", 3), late("x", 3)])), Verdict::Pass);
    }

    #[test]
    fn what_all_share_is_not_blamed_for_one_cause_nor_one_sm_for_all() {
        let of = |check: &str, blame: Blame| Finding::new(check, Severity::Fault, blame, "x");
        let sm = |sm: u32| Blame::Sm { sm, unit: "x".into() };
        let shared = || Blame::Device { what: memory::SECOND_LEVEL.into() };
        let bit = Blame::Bit { address: 64, bit: 1, one: true };
        let l2 = vote::SECOND_LEVEL;
        let faults = |findings: Vec<Finding>| -> Vec<Blame> {
            let settled = settle(findings).into_iter();
            settled.filter(|it| it.severity == Severity::Fault).map(|it| it.blame).collect()
        };
        // A cell that is stuck, or an SM whose writes are lost, is wrong for all who read it.
        assert_eq!(faults(vec![of(l2, shared()), of(memory::CHECK, bit.clone())]), [bit]);
        assert_eq!(faults(vec![of(l2, shared()), of(memory::CHECK, sm(3))]), [sm(3)]);
        // An SM that is named elsewhere stays named; two that are not have a common cause.
        assert_eq!(faults(vec![of(l2, sm(3)), of("unit_l1", sm(3))]), [sm(3), sm(3)]);
        assert_eq!(faults(vec![of(l2, sm(3))]), [sm(3)]);
        assert_eq!(faults(vec![of(l2, sm(3)), of(l2, sm(4))]), [shared(), shared()]);
        assert_eq!(faults(vec![of(l2, sm(3)), of(memory::CHECK, shared())]), [shared(), shared()]);
        let first = of("unit_l1", sm(3));
        assert_eq!(faults(vec![first, of(memory::CHECK, shared())]), [shared(), shared()]);
    }
}
