//! How much a burn-in tests, and how long it may take.

use serde::{Deserialize, Serialize};
use specs::gpu::BurnInTier;
use specs::unit::Millis;

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    /// What the driver counts, and nothing else; proves nothing.
    T0,
    /// A gate before a node returns: seconds.
    T1,
    /// Admission: all patterns and all units.
    T2,
    /// A soak: T2 again and again until its time is up.
    T3,
    /// A slice of an idle moment: one check.
    T4,
}

impl Tier {
    /// Passes over the whole memory.
    #[must_use]
    pub const fn memory_passes(self) -> u32 {
        match self {
            Self::T0 => 0,
            Self::T1 => 6,
            Self::T2 | Self::T3 => 14,
            Self::T4 => 1,
        }
    }

    /// How long units are kept at work if nobody says: of one round, in seconds.
    #[must_use]
    pub const fn work_seconds(self) -> u32 {
        match self {
            Self::T0 => 0,
            Self::T1 => 5,
            Self::T2 | Self::T3 => 60,
            Self::T4 => 2,
        }
    }

    /// How long a GPU of today should take for all of it. That of T3 is what it is given.
    #[must_use]
    pub const fn budget(self) -> Millis {
        match self {
            Self::T0 => Millis(SECOND),
            Self::T1 => Millis(20 * SECOND),
            Self::T2 => Millis(4 * MINUTE),
            Self::T3 => Millis(30 * MINUTE),
            Self::T4 => Millis(2 * SECOND),
        }
    }
}

impl From<BurnInTier> for Tier {
    fn from(tier: BurnInTier) -> Self {
        match tier {
            BurnInTier::T0 => Self::T0,
            BurnInTier::T1 => Self::T1,
            BurnInTier::T2 => Self::T2,
            BurnInTier::T3 => Self::T3,
            BurnInTier::T4 => Self::T4,
        }
    }
}
