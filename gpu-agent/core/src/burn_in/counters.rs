//! What the driver counts, before and after the GPU was made to work.

use alloc::format;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::{Blame, Finding, Severity};

/// The check's name in findings.
pub const CHECK: &str = "counters";

/// Reasons for low clocks, as NVML numbers them (nvml.h, `nvmlClocksEventReason*`). A cap of power
/// that software set (0x4) is normal at full load.
const REASONS: &[(u64, &str)] = &[
    (0x8, "hardware slowdown"),
    (0x40, "hardware thermal slowdown"),
    (0x80, "hardware power brake"),
];

/// Power that software limits.
const POWER_CAP: u64 = 0x4;

/// One reading. None where the GPU does not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counters {
    pub ecc_corrected: Option<u64>,
    pub ecc_uncorrected: Option<u64>,
    pub remapped_correctable: Option<u64>,
    pub remapped_uncorrectable: Option<u64>,
    pub remap_pending: Option<bool>,
    pub remap_failed: Option<bool>,
    pub pcie_replay: Option<u64>,
    /// Bits of reasons for low clocks.
    pub throttle: Option<u64>,
    pub lanes: Option<u32>,
    pub lanes_max: Option<u32>,
    pub generation: Option<u32>,
    pub generation_max: Option<u32>,
}

/// What two readings say, the second under load or right after.
#[must_use]
pub fn judge(before: &Counters, after: &Counters) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut grew = |name: &str, from: Option<u64>, to: Option<u64>, severity| {
        let by = to.unwrap_or(0).saturating_sub(from.unwrap_or(0));
        if by > 0 {
            let message = format!("{name} grew by {by} between two readings");
            let blame = Blame::Counter { name: name.into(), by };
            findings.push(Finding::new(CHECK, severity, blame, message));
        }
    };
    use Severity::{Fault, Warning};
    let (b, a) = (before, after);
    grew("eccUncorrected", b.ecc_uncorrected, a.ecc_uncorrected, Fault);
    grew("eccCorrected", b.ecc_corrected, a.ecc_corrected, Warning);
    grew("remappedUncorrectable", b.remapped_uncorrectable, a.remapped_uncorrectable, Fault);
    grew("remappedCorrectable", b.remapped_correctable, a.remapped_correctable, Warning);
    grew("pcieReplay", b.pcie_replay, a.pcie_replay, Warning);
    let flags = [("remapFailed", a.remap_failed), ("remapPending", a.remap_pending)];
    for (name, _) in flags.iter().filter(|(_, flag)| *flag == Some(true)) {
        let message = format!("the driver says {name}");
        let blame = Blame::Counter { name: (*name).into(), by: 1 };
        findings.push(Finding::new(CHECK, Fault, blame, message));
    }
    findings.extend(throttled(CHECK, after.throttle));
    if let (Some(lanes), Some(lanes_max)) = (after.lanes, after.lanes_max)
        && lanes < lanes_max
    {
        let message = format!("the link to the host has {lanes} of {lanes_max} lanes");
        findings.push(Finding::new(CHECK, Fault, Blame::Link { lanes, lanes_max }, message));
    }
    findings
}

/// What reasons for low clocks say, to a check.
#[must_use]
pub fn throttled(check: &str, bits: Option<u64>) -> Vec<Finding> {
    let seen = REASONS.iter().filter(|(bit, _)| bits.is_some_and(|bits| bits & bit != 0));
    seen.map(|(_, name)| {
        let message = format!("clocks are low because of a {name}");
        let blame = Blame::Device { what: (*name).into() };
        Finding::new(check, Severity::Fault, blame, message)
    })
    .collect()
}

/// Whether the reasons for low clocks name a cap of power that software set.
#[must_use]
pub fn is_capped(bits: Option<u64>) -> bool {
    bits.is_some_and(|bits| bits & POWER_CAP != 0)
}

/// What two readings say of a GPU that does other work than a burn-in's. Clocks may be low and a
/// link narrow for reasons that pass, and what was corrected or repeated was right in the end.
#[must_use]
pub fn watch(before: &Counters, after: &Counters) -> Vec<Finding> {
    let mut findings = judge(before, after);
    findings.retain(|it| match &it.blame {
        Blame::Counter { name, .. } => it.severity == Severity::Fault && name != "remapPending",
        Blame::Device { .. } | Blame::Link { .. } => true,
        Blame::Bit { .. }
        | Blame::Row { .. }
        | Blame::Cell { .. }
        | Blame::Alias { .. }
        | Blame::Sm { .. }
        | Blame::Transfer { .. }
        | Blame::Test { .. } => false,
    });
    for it in &mut findings {
        if let Blame::Device { .. } | Blame::Link { .. } = it.blame {
            it.severity = Severity::Warning;
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_found_and_what_stays_is_not() {
        let old = Counters { ecc_uncorrected: Some(7), ..Counters::default() };
        assert!(judge(&old, &old).is_empty());
        let new = Counters { ecc_uncorrected: Some(8), ecc_corrected: Some(1), ..old.clone() };
        let found = judge(&old, &new);
        let severities: Vec<Severity> = found.iter().map(|it| it.severity).collect();
        assert_eq!(severities, [Severity::Fault, Severity::Warning]);
    }

    #[test]
    fn a_power_cap_is_no_fault_and_a_power_brake_is() {
        let with = |throttle| Counters { throttle: Some(throttle), ..Counters::default() };
        assert!(judge(&with(0), &with(0x4 | 0x20)).is_empty());
        assert_eq!(judge(&with(0), &with(0x80)).len(), 1);
    }

    #[test]
    fn at_other_work_only_what_was_not_corrected_is_a_fault() {
        let old = Counters::default();
        let new = Counters {
            ecc_corrected: Some(900),
            pcie_replay: Some(3),
            remap_pending: Some(true),
            ..Counters::default()
        };
        assert_eq!(watch(&old, &new), []);
        let new = Counters { ecc_uncorrected: Some(1), ..new };
        assert_eq!(watch(&old, &new)[0].severity, Severity::Fault);
        let slow = Counters { throttle: Some(0x8), ..Counters::default() };
        assert_eq!(watch(&old, &slow)[0].severity, Severity::Warning);
    }

    #[test]
    fn a_narrow_link_is_named_with_its_lanes() {
        let it = Counters { lanes: Some(8), lanes_max: Some(16), ..Counters::default() };
        let blame = &judge(&it, &it)[0].blame;
        assert_eq!(*blame, Blame::Link { lanes: 8, lanes_max: 16 });
    }
}
