//! What must be equal on all controllers of a site. It enters the log once, at `federation init`.

use alloc::vec::Vec;

use crate::id::{Country, GpuClass, SiteId};
use crate::unit::{GpuCount, Millis};

/// Clock rates of any two machines may differ by this many parts in a thousand: the one assumption
/// that *never two copies* rests on. Commodity oscillators stay within 0.1; ten times fifty is room
/// for a virtual machine whose clock is being slewed.
pub const CLOCK_DRIFT_PERMILLE_MAX: u64 = 5;

/// How long processes may take to be gone after they were killed.
pub const KILL_BUDGET: Millis = Millis(1_000);

crate::enumeration! {
    /// Which GPUs a site lets jobs run on.
    pub enum Trust {
        /// Those with a proof of their health.
        1 => Proven = "proven",
        /// Also those that an operator declared and nothing has proven.
        2 => Declared = "declared",
    }
}

crate::message! {
    /// Spans that agents, controllers and peers count on their own clocks.
    pub struct Terms {
        /// An agent stops its attempts this long after it asked for the orders it last obeyed.
        1 => node_lease: Millis,
        /// A host stops a loan's attempt this long after it asked for the orders that last named it.
        2 => loan_term: Millis,
        /// Silence after which a node is suspected.
        3 => suspect_node_after: Millis,
        /// Silence after which a peer is suspected.
        4 => suspect_peer_after: Millis,
        /// A grant without a loan is given back after this long.
        5 => grant_idle: Millis,
        /// A host takes back a grant without guests when its home was silent this long.
        6 => grant_term: Millis,
        /// Releases wait while fewer than this share of the nodes is heard: the silence may be mine.
        7 => heard_percent_min: u32,
        /// A queued job may be offered to a peer after waiting this long.
        8 => spill_after: Millis,
    }

    /// A rule that lends GPUs to peers.
    pub struct LendRule {
        /// To whom; none for every peer.
        1 => to: Option<SiteId>,
        /// Of which class; none for every class.
        2 => class: Option<GpuClass>,
        /// Most GPUs granted under this rule at once, to all peers together.
        3 => gpus_max: GpuCount,
        /// GPUs of the class kept for the site's own jobs.
        4 => keep_free: GpuCount,
    }

    /// A site as its operator set it up.
    pub struct SiteSpec {
        1 => site: SiteId,
        2 => country: Country,
        3 => terms: Terms,
        /// The first rule that fits a peer and a class decides; none lends nothing.
        4 => lend: Vec<LendRule>,
        /// Absent below [`ClusterVersion::HEALTH`](crate::version::ClusterVersion::HEALTH), and
        /// then every GPU is trusted.
        5 => trust: Option<Trust>,
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            node_lease: Millis(15_000),
            loan_term: Millis(90_000),
            suspect_node_after: Millis(5_000),
            suspect_peer_after: Millis(8_000),
            grant_idle: Millis(30_000),
            grant_term: Millis(600_000),
            heard_percent_min: 50,
            spill_after: Millis(0),
        }
    }
}

/// How long one side waits before it may act as if a term that the other side counts has run out:
/// the term, stretched by both clocks' drift, and the time it takes to kill.
#[must_use]
pub fn surely_over(term: Millis) -> Millis {
    let stretch = term.0.saturating_mul(2 * CLOCK_DRIFT_PERMILLE_MAX).div_ceil(1_000);
    term.plus(Millis(stretch)).plus(KILL_BUDGET)
}

impl Terms {
    /// After this much silence since a suspicion was applied, a node's attempts have surely ended.
    #[must_use]
    pub fn release_node_after(&self) -> Millis {
        surely_over(self.node_lease)
    }

    /// After this much silence since a suspicion was applied, a peer's loans have surely ended.
    #[must_use]
    pub fn release_peer_after(&self) -> Millis {
        surely_over(self.loan_term)
    }
}
