//! What all members of a site's group know. It gates what enters the group's log, and nothing
//! between sites.

use alloc::vec::Vec;
use core::fmt;

use crate::codec::{DecodeError, Reader, Value, Wire};

/// Numbers what may enter a site's log and stand in its state: each version has all of the one
/// before, and more. A site only ever rises, by one, once all its controllers know the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterVersion(pub u32);

impl ClusterVersion {
    /// What a site begins with, and what whoever says nothing of versions has.
    pub const FIRST: Self = Self(1);
    /// Accounts and quota: `specs/decisions/0017-queueing.md`.
    pub const QUEUEING: Self = Self(2);
    /// The health of GPUs: `specs/decisions/0019-gpu-health.md`.
    pub const HEALTH: Self = Self(3);
    /// Jobs that are stopped for others: `specs/decisions/0020-preemption.md`.
    pub const PREEMPTION: Self = Self(4);
    /// What a site agrees on of burn-ins: `specs/decisions/0022-burn-ins-of-a-site.md`.
    pub const BURN_INS: Self = Self(5);
    /// What places cost, and more of what jobs ask: `specs/decisions/0023-placement-over-sites.md`.
    pub const SITES: Self = Self(6);
    /// What jobs demand beyond a count of GPUs, met at home and away: how well and how lately their
    /// GPUs were proven, CPU and memory on loan, reservations.
    pub const DEMANDS: Self = Self(7);
    /// Proofs of GPUs that peers show each other: `specs/decisions/0027-proofs-shown-to-peers.md`.
    pub const PEER_PROOFS: Self = Self(8);

    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for ClusterVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The first version is not written, so that its bytes are those of before there were versions.
impl Value for ClusterVersion {
    const WIRE: Wire = Wire::Varint;
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }
    fn get(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match u32::get(reader)? {
            0 => Err(DecodeError::Range),
            number => Ok(Self(number)),
        }
    }
    fn is_default(&self) -> bool {
        *self == Self::FIRST
    }
    fn absent() -> Option<Self> {
        Some(Self::FIRST)
    }
}

/// The versions that a build knows, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Versions {
    pub oldest: ClusterVersion,
    pub newest: ClusterVersion,
}

impl Versions {
    #[must_use]
    pub fn has(self, version: ClusterVersion) -> bool {
        (self.oldest..=self.newest).contains(&version)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.oldest == self.newest {
            return write!(f, "version {}", self.newest);
        }
        write!(f, "versions {} to {}", self.oldest, self.newest)
    }
}
