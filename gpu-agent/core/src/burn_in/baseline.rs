//! What a product can do by its maker's data sheet, and what is too far from it. A fleet tells more,
//! but it needs some of a make; this holds for the first of them too.

use alloc::format;
use alloc::vec::Vec;

use super::measured::{self, Measured};
use super::{Blame, Finding, Severity};

/// The check's name in findings.
pub const CHECK: &str = "baseline";

/// Shares of what the data sheet says, in percent. Memory: 85 % of what a copy reaches, which is 90 %
/// of the sheet. The link: 48 of 63 GB/s, what others ask of a link of generation 5 with 16 lanes.
/// Size: drivers keep some for themselves, and sheets count in powers of ten.
const MEMORY_RATE_MIN: u64 = 76;
const LINK_RATE_MIN: u64 = 76;
const MEMORY_SIZE_MIN: u64 = 97;
/// Slower than half of what is asked is no matter of tuning.
const FAULT_SHARE: u64 = 50;

/// A product as its maker sells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Baseline {
    /// With the number of its edition; proofs name it.
    pub name: &'static str,
    /// As the driver names the product, in full: other editions have other numbers.
    pub product: &'static str,
    pub sms: u32,
    pub memory_bytes: u64,
    pub memory_bytes_per_second: u64,
    /// The link to the host, of 16 lanes.
    pub generation: u32,
}

const GB: u64 = 1_000_000_000;
const LANES: u32 = 16;

/// From the data sheets of H200 and RTX PRO 6000 Blackwell Server Edition; of B200 from that of DGX
/// B200, an eighth of it. SMs of B200 as its users report them.
pub const KNOWN: &[Baseline] = &[
    Baseline {
        name: "h200-1",
        product: "NVIDIA H200",
        sms: 132,
        memory_bytes: 141 * GB,
        memory_bytes_per_second: 4_800 * GB,
        generation: 5,
    },
    Baseline {
        name: "b200-1",
        product: "NVIDIA B200",
        sms: 148,
        memory_bytes: 180 * GB,
        memory_bytes_per_second: 8_000 * GB,
        generation: 5,
    },
    Baseline {
        name: "rtx-pro-6000-server-1",
        product: "NVIDIA RTX PRO 6000 Blackwell Server Edition",
        sms: 188,
        memory_bytes: 96 * GB,
        memory_bytes_per_second: 1_597 * GB,
        generation: 5,
    },
];

/// What was seen of a GPU. None and what is absent were not asked.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    pub sms: u32,
    pub memory_bytes: u64,
    pub rates: &'a Measured,
    /// What the link to the host can be, with both ends.
    pub lanes_max: Option<u32>,
    pub generation_max: Option<u32>,
}

/// The baseline of a product, if it is one that is known.
#[must_use]
pub fn of(product: &str) -> Option<&'static Baseline> {
    KNOWN.iter().find(|it| it.product == product)
}

impl Baseline {
    /// What is less than it should be. A part of a GPU, a slower slot and neighbours that copy at the
    /// same time are reasons that are none of the GPU's: those are warnings.
    #[must_use]
    pub fn judge(&self, seen: &Seen<'_>) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut add = |severity, what: &str, is: u64, should: u64| {
            let name = self.name;
            let message = format!("{what}: {is}, and {name} has at least {should}");
            findings.push(Finding::new(
                CHECK,
                severity,
                Blame::Device { what: what.into() },
                message,
            ));
        };
        let mut fewer = |what, is: u64, should: u64| {
            if is < should {
                add(Severity::Warning, what, is, should);
            }
        };
        fewer("SMs", seen.sms.into(), self.sms.into());
        fewer("bytes of memory", seen.memory_bytes, percent(self.memory_bytes, MEMORY_SIZE_MIN));
        if let Some(lanes) = seen.lanes_max {
            fewer("lanes to the host", lanes.into(), LANES.into());
        }
        if let Some(generation) = seen.generation_max {
            fewer("generation of the link", generation.into(), self.generation.into());
        }
        let mut slower = |name: &str, should: u64, worst: Severity| match seen.rates.0.get(name) {
            Some(is) if *is < percent(should, FAULT_SHARE) => add(worst, name, *is, should),
            Some(is) if *is < should => add(Severity::Warning, name, *is, should),
            Some(_) | None => {}
        };
        let memory = percent(self.memory_bytes_per_second, MEMORY_RATE_MIN);
        slower(measured::MEMORY, memory, Severity::Fault);
        let link = percent(link_bytes_per_second(self.generation), LINK_RATE_MIN);
        slower(measured::HOST_TO_DEVICE, link, Severity::Warning);
        slower(measured::DEVICE_TO_HOST, link, Severity::Warning);
        findings
    }
}

/// PCI Express from generation 3 on: 8 GT/s, doubled by each, of which 128 of 130 bits are payload.
fn link_bytes_per_second(generation: u32) -> u64 {
    let transfers = (8 * GB) << generation.saturating_sub(3).min(8);
    transfers / 8 * u64::from(LANES) / 130 * 128
}

fn percent(of: u64, share: u64) -> u64 {
    of / 100 * share
}

#[cfg(test)]
mod tests {
    use alloc::borrow::ToOwned;
    use alloc::string::{String, ToString};

    use super::*;

    const PRODUCT: &str = "NVIDIA H200";

    fn rates(memory: u64, from_host: u64) -> Measured {
        let mut it = Measured::default();
        it.add(measured::MEMORY, memory);
        it.add(measured::HOST_TO_DEVICE, from_host);
        it
    }

    /// As one is reported by those who have it.
    fn sound(rates: &Measured) -> Seen<'_> {
        let memory_bytes = 150_754_820_096;
        Seen { sms: 132, memory_bytes, rates, lanes_max: Some(16), generation_max: Some(5) }
    }

    fn found(seen: &Seen<'_>) -> Vec<(String, Severity)> {
        let findings = of(PRODUCT).unwrap().judge(seen);
        let what = |it: Finding| {
            let (what, _) = it.message.split_once(": ").unwrap();
            (what.to_owned(), it.severity)
        };
        findings.into_iter().map(what).collect()
    }

    #[test]
    fn a_gpu_as_it_is_sold_passes_and_so_does_what_was_not_measured() {
        assert_eq!(found(&sound(&rates(4_300 * GB, 55 * GB))), []);
        let none = Measured::default();
        assert_eq!(found(&Seen { lanes_max: None, generation_max: None, ..sound(&none) }), []);
    }

    #[test]
    fn slow_memory_is_watched_and_memory_of_half_the_speed_is_a_fault() {
        let memory = |rate| found(&sound(&rates(rate, 0)));
        let floor = 3_648 * GB;
        assert_eq!(memory(floor), []);
        assert_eq!(memory(floor - 1), [(measured::MEMORY.to_string(), Severity::Warning)]);
        assert_eq!(memory(floor / 2 - 1), [(measured::MEMORY.to_string(), Severity::Fault)]);
    }

    #[test]
    fn what_may_be_the_machines_doing_is_a_warning_however_bad() {
        let seen_rates = rates(4_300 * GB, GB);
        let seen = Seen {
            sms: 66,
            memory_bytes: 70 * GB,
            lanes_max: Some(8),
            generation_max: Some(4),
            ..sound(&seen_rates)
        };
        let found = found(&seen);
        let names: Vec<&str> = found.iter().map(|it| it.0.as_str()).collect();
        let expected = ["SMs", "bytes of memory", "lanes to the host", "generation of the link"];
        assert_eq!(names, [&expected[..], &[measured::HOST_TO_DEVICE]].concat());
        assert!(found.iter().all(|it| it.1 == Severity::Warning));
    }

    #[test]
    fn a_link_of_generation_5_is_asked_for_48_gigabytes() {
        assert_eq!(link_bytes_per_second(5) / 1_000_000, 63_015);
        let short = |rate| !found(&sound(&rates(4_300 * GB, rate))).is_empty();
        assert!(short(47 * GB) && !short(48 * GB));
    }

    #[test]
    fn another_edition_and_an_emulated_gpu_have_no_baseline() {
        for name in ["NVIDIA H200 NVL", "NVIDIA H200 (emulated)", "", "nvidia h200"] {
            assert_eq!(of(name), None, "{name}");
        }
    }
}
