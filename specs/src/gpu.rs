//! Kinds of GPUs and what a node says of its own.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;

use crate::codec::Blob;
pub use crate::id::GpuClass;
use crate::id::{GpuIndex, NodeId, Revision, SiteId};
use crate::measure::{Digests, Make};
use crate::unit::{Millis, Timestamp};

/// A kind of GPU that Spillway knows by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownClass {
    /// The class, as job files name it.
    pub class: &'static str,
    /// What NVML's product name contains, in lower case.
    pub product: &'static str,
    /// Memory in GiB, from the maker's data sheet.
    pub memory_gib: u32,
}

/// The classes that are recognised by product name; the first match wins, so longer names come
/// first. Any other class may be used by name all the same.
pub const KNOWN: &[KnownClass] = &[
    KnownClass { class: "gb300", product: "gb300", memory_gib: 288 },
    KnownClass { class: "gb200", product: "gb200", memory_gib: 186 },
    KnownClass { class: "b300", product: "b300", memory_gib: 288 },
    KnownClass { class: "b200", product: "b200", memory_gib: 180 },
    KnownClass { class: "rtx-pro-6000", product: "rtx pro 6000", memory_gib: 96 },
    KnownClass { class: "gh200", product: "gh200", memory_gib: 96 },
    KnownClass { class: "h200", product: "h200", memory_gib: 141 },
    KnownClass { class: "h100", product: "h100", memory_gib: 80 },
    KnownClass { class: "l40s", product: "l40s", memory_gib: 48 },
    KnownClass { class: "l4", product: "nvidia l4", memory_gib: 24 },
    KnownClass { class: "a100", product: "a100", memory_gib: 80 },
];

/// The class of a product name as NVML gives it; `gpu` if it is none that is known.
#[must_use]
pub fn class_of_product(product: &str) -> &'static str {
    let product = product.to_ascii_lowercase();
    KNOWN.iter().find(|known| product.contains(known.product)).map_or("gpu", |known| known.class)
}

crate::enumeration! {
    /// Where a node's knowledge of its GPUs comes from.
    pub enum InventorySource {
        /// The driver, through NVML.
        1 => Nvml = "nvml",
        /// A configuration that nothing has proven.
        2 => Declared = "declared",
    }

    /// Where a GPU is in its life. There is no way from quarantine to health but a burn-in.
    pub enum GpuState {
        /// Nothing has proven it.
        1 => Discovered = "discovered",
        /// It is made to work, to see whether it is sound.
        2 => BurningIn = "burning-in",
        /// It has a proof.
        3 => Healthy = "healthy",
        /// It runs what it has and takes nothing new.
        4 => Suspect = "suspect",
        /// It is not sound, or an operator said so.
        5 => Quarantined = "quarantined",
        /// It was reset and must be burnt in.
        6 => Resetting = "resetting",
        /// It is to be replaced.
        7 => Rma = "rma",
    }

    /// How much a burn-in tests.
    pub enum BurnInTier {
        /// Counters alone; proves nothing.
        1 => T0 = "t0",
        /// A gate before a node returns.
        2 => T1 = "t1",
        /// Admission.
        3 => T2 = "t2",
        /// A soak.
        4 => T3 = "t3",
        /// What is done in idle moments.
        5 => T4 = "t4",
    }

    /// How a burn-in that the site permitted ended.
    pub enum BurnInEnd {
        /// It found nothing.
        1 => Passed = "passed",
        /// It found a fault, or too often no answer: the GPU is quarantined.
        2 => Fault = "fault",
        /// It could not be judged.
        3 => Unknown = "unknown",
        /// It was ended before its end, or never began.
        4 => Interrupted = "interrupted",
    }

    /// What a bound is counted in.
    pub enum BoundUnit {
        1 => Gpus = "gpus",
        /// Of the GPUs that are meant, rounded up.
        2 => Percent = "percent",
    }
}

crate::message! {
    /// One GPU of a node.
    pub struct GpuInfo {
        1 => index: GpuIndex,
        2 => class: GpuClass,
        /// The driver's id of the device; empty for a declared GPU.
        3 => uuid: String,
        /// Mebibytes; 0 if unknown.
        4 => memory_mib: u64,
    }

    /// What an agent says of a burn-in that a GPU passed. Signed as the bytes of this message.
    pub struct HealthProof {
        1 => site: SiteId,
        2 => node: NodeId,
        3 => index: GpuIndex,
        /// The driver's id of the device.
        4 => uuid: String,
        /// The product's name, which is what its numbers are compared within.
        5 => product: String,
        6 => tier: BurnInTier,
        /// SHA-256 of the list of the kernels' hashes.
        7 => kernels: Blob,
        /// By the agent's clock.
        8 => passed_at: Timestamp,
        /// How long it holds, counted by the agent.
        9 => valid_for: Millis,
        /// Version of the agent.
        10 => agent: String,
        /// The product's baseline that it was held to as well, with its edition; empty if none is known
        /// of the product, and from an agent of an earlier release.
        11 => baseline: String,
    }

    /// A proof as it travels: opaque bytes, so that what was signed is what is checked.
    pub struct SignedProof {
        /// A [`HealthProof`].
        1 => body: Blob,
        2 => signature: Blob,
        /// The certificate of the agent whose key signed, DER.
        3 => certificate: Blob,
    }

    /// What is known of a GPU's health.
    pub struct GpuHealth {
        1 => index: GpuIndex,
        2 => state: GpuState,
        /// For people; at most [`WHY_BYTES_MAX`].
        3 => why: String,
    }

    /// The burn-in that a proof is of, as its agent tells it beside the proof.
    #[derive(Copy)]
    pub struct Passed {
        /// As signed.
        1 => tier: BurnInTier,
        /// By the agent's clock, as signed.
        2 => at: Timestamp,
        /// How long ago that was, counted by the agent.
        3 => ago: Millis,
    }

    /// What a job demands of the proof of each of its GPUs.
    #[derive(Copy, PartialOrd, Ord)]
    pub struct ProofNeed {
        /// This tier, or a more thorough one.
        1 => tier: BurnInTier,
        /// How long ago it passed, at most; zero for as long as the proof holds.
        2 => age_max: Millis,
    }

    /// What an agent reports of a GPU's health.
    pub struct GpuReport {
        1 => health: GpuHealth,
        /// Present if and only if it is healthy or suspect.
        2 => proof: Option<SignedProof>,
        /// The burn-in that it needs, where the site permits them; none if it needs none.
        3 => due: Option<BurnInTier>,
        /// The last permitted burn-in of this life of the agent.
        4 => last: Option<BurnInResult>,
        /// Of its proof. Absent without one, and from an agent of an earlier release.
        20 => passed: Option<Passed>,
        /// Present if and only if the orders asked for it.
        50 => earlier: Option<EarlierResults>,
    }

    /// Burn-ins of a GPU before the last one, also of earlier lives of its agent.
    #[derive(Default)]
    pub struct EarlierResults {
        /// The last is the latest; at most [`RESULTS_MAX`].
        1 => results: Vec<BurnInResult>,
    }

    /// What came of a burn-in that the site permitted.
    pub struct BurnInResult {
        /// The permit's.
        1 => number: Revision,
        2 => tier: BurnInTier,
        3 => end: BurnInEnd,
        /// For people; at most [`WHY_BYTES_MAX`].
        4 => why: String,
        /// By the agent's clock, for people.
        5 => ended_at: Timestamp,
        /// By the agent's clock; zero if it never began.
        6 => took: Millis,
        /// What was measured, by name with the unit last; at most [`NUMBERS_MAX`].
        7 => numbers: BTreeMap<String, u64>,
        /// What it is compared within. Absent where the driver was not asked, and from an agent of an
        /// earlier release: such a result is compared with none.
        50 => make: Option<Make>,
        /// Software held its clocks down for the sake of power while it worked.
        51 => capped: bool,
        /// What other GPUs of its make should have computed as well. Absent from an agent of an
        /// earlier release, and compared with none where the make is absent.
        52 => digests: Option<Digests>,
    }

    /// That a GPU may be burnt in. Each permit has a number of its own; it is good for one burn-in.
    pub struct BurnInPermit {
        1 => index: GpuIndex,
        2 => number: Revision,
        3 => tier: BurnInTier,
    }

    /// A number of GPUs, or a share of them.
    pub struct Bound {
        1 => unit: BoundUnit,
        2 => value: u32,
    }

    /// How many GPUs of a site are tested or taken out of service at once.
    pub struct HealthLimits {
        /// Burn-ins at once of GPUs that could run jobs meanwhile; of all GPUs.
        1 => retests: Bound,
        /// Burn-ins at once of all other GPUs; of all GPUs.
        2 => admissions: Bound,
        /// GPUs of a class that are quarantined on an agent's word; of those of the class, and never
        /// fewer than [`QUARANTINED_FEW`].
        3 => quarantined: Bound,
        /// GPUs that are quarantined on an agent's word within [`QUARANTINES_SPAN`].
        4 => quarantines: u32,
    }
}

/// Burn-ins of a GPU that its agent remembers, the last among them.
pub const RESULTS_MAX: usize = 3;
/// Most numbers of a burn-in that are told.
pub const NUMBERS_MAX: usize = 64;
/// So many GPUs of a class are quarantined on an agent's word, however few there are.
pub const QUARANTINED_FEW: u32 = 2;
/// Within which quarantines are counted.
pub const QUARANTINES_SPAN: Millis = Millis(600_000);
/// Most quarantines within the span that can be allowed: the site remembers each.
pub const QUARANTINES_MAX: u32 = 10_000;

/// What stands before the bytes of a proof when they are signed, so that no other signed bytes are
/// taken for one.
pub const PROOF_CONTEXT: &[u8] = b"spillway GPU health proof 1\0";

/// Which kernels the agents of a release prove GPUs with: its version, and the SHA-256 of the list of the
/// kernels' hashes in hexadecimal digits. A release adds its own, and keeps those before it.
pub const KERNELS: &[(&str, &str)] = &[
    ("0.1.0", "942055aa1cc9c8cb03f37306167811341ae7398228254139f199416313e917e5"),
    ("0.1.0", "4b869502fad84c3724ebda6a8694e7e5fb1c95f494e9871cfb84e45b9da3f49b"),
];

/// Longest reason for a GPU's state; more is cut off.
pub const WHY_BYTES_MAX: usize = 256;

impl BurnInTier {
    /// How thorough it is: the higher, the more.
    #[must_use]
    pub fn rank(self) -> u8 {
        match self {
            Self::T0 => 0,
            Self::T4 => 1,
            Self::T1 => 2,
            Self::T2 => 3,
            Self::T3 => 4,
        }
    }

    /// Whether who passed it is proven.
    #[must_use]
    pub fn proves(self) -> bool {
        match self {
            Self::T2 | Self::T3 => true,
            Self::T0 | Self::T1 | Self::T4 => false,
        }
    }
}

impl ProofNeed {
    /// Whether a proof of that tier and age will do.
    #[must_use]
    pub fn is_met(&self, tier: BurnInTier, age: Millis) -> bool {
        tier.rank() >= self.tier.rank() && (self.age_max == Millis::ZERO || age <= self.age_max)
    }
}

impl HealthProof {
    /// Whether its kernels are those of its agent's release; of a release that is not known here, they
    /// may be any.
    #[must_use]
    pub fn names_its_kernels(&self) -> bool {
        let mut known = KERNELS.iter().filter(|(agent, _)| *agent == self.agent).peekable();
        let is_written = |digest: &str| {
            let bytes = self.kernels.0.iter();
            let digits = bytes.flat_map(|byte| [byte >> 4, byte & 15]).map(u32::from);
            digits.map(|it| char::from_digit(it, 16)).eq(digest.chars().map(Some))
        };
        known.peek().is_none() || known.any(|(_, digest)| is_written(digest))
    }

    /// The bytes that are signed.
    #[must_use]
    pub fn signed_bytes(body: &Blob) -> Vec<u8> {
        [PROOF_CONTEXT, &body.0].concat()
    }
}

impl GpuHealth {
    /// Cuts the reason to its limit.
    #[must_use]
    pub fn new(index: GpuIndex, state: GpuState, why: impl Into<String>) -> Self {
        Self { index, state, why: cut_to_limit(why.into()) }
    }
}

/// A reason, cut to [`WHY_BYTES_MAX`].
#[must_use]
pub fn cut_to_limit(mut why: String) -> String {
    let cut = (0..=WHY_BYTES_MAX).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
    if why.len() > WHY_BYTES_MAX {
        why.truncate(cut);
    }
    why
}

impl Bound {
    /// Of so many GPUs; at least one, unless it says none.
    #[must_use]
    pub fn of(&self, gpus: u32) -> u32 {
        match self.unit {
            BoundUnit::Gpus => self.value,
            BoundUnit::Percent => {
                let share = u64::from(gpus).saturating_mul(self.value.into()).div_ceil(100);
                let least = u64::from(self.value > 0);
                u32::try_from(share.max(least)).unwrap_or(u32::MAX)
            }
        }
    }
}

impl Default for HealthLimits {
    fn default() -> Self {
        let percent = |value| Bound { unit: BoundUnit::Percent, value };
        Self {
            retests: percent(2),
            admissions: percent(25),
            quarantined: percent(10),
            quarantines: 32,
        }
    }
}
