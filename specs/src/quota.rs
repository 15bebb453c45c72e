//! How much of a site's federation an account may hold. Quota is counted where a job is at home,
//! leases and loans together, so that it holds while sites cannot talk.

use alloc::vec::Vec;

use crate::id::GpuClass;
use crate::unit::GpuCount;

/// Most limits of one account.
pub const LIMITS_MAX: usize = 32;
/// Largest weight of an account.
pub const WEIGHT_MAX: u32 = 1_000_000;

crate::message! {
    /// How many GPUs of a class the jobs of an account, and of those below it, may hold.
    pub struct Limit {
        /// None for all classes together.
        1 => class: Option<GpuClass>,
        /// Up to this much the account goes before all that have their own guarantee.
        2 => guaranteed: GpuCount,
        /// Never more than this, borrowed or not; none for no bound.
        3 => max: Option<GpuCount>,
    }

    /// What an operator has set up for an account.
    pub struct Quota {
        /// Invariant: one for each class, in order; that for all classes first.
        1 => limits: Vec<Limit>,
        /// Its share beside its siblings; zero for the usual weight.
        2 => weight: u32,
    }
}

impl Quota {
    /// The weight of who has none of his own.
    pub const WEIGHT: u32 = 1;

    #[must_use]
    pub fn weight(&self) -> u32 {
        if self.weight == 0 { Self::WEIGHT } else { self.weight }
    }

    /// The limits that count for a GPU of that class.
    pub fn limits_of<'a>(
        &'a self,
        class: Option<&'a GpuClass>,
    ) -> impl Iterator<Item = &'a Limit> + 'a {
        self.limits.iter().filter(move |it| it.class.is_none() || it.class.as_ref() == class)
    }
}
