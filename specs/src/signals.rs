//! What running at a site costs and what is there, as its operator says it, and how a home weighs
//! it. Whole numbers only, so that two planners cannot round differently.

use alloc::vec::Vec;

use crate::id::{Country, GpuClass, Revision, SiteId};
use crate::unit::{GpuCount, MicroEuro, Millis, Timestamp};

/// Most classes with a price of their own.
pub const PRICES_MAX: usize = 64;
/// Most data sets that a site knows.
pub const DATA_SETS_MAX: usize = 1_024;
/// Most countries, and most sites, that a data set is bound to.
pub const DATA_RULES_MAX: usize = 64;
/// Largest data set, in bytes: an exbibyte.
pub const DATA_BYTES_MAX: u64 = 1 << 60;
/// Highest price of a GPU-hour or of a kilowatt-hour: a thousand euros.
pub const PRICE_MAX: MicroEuro = MicroEuro(1_000_000_000);
/// Power usage effectiveness of a site that loses nothing, in thousandths.
pub const PUE_MIN: u64 = 1_000;
/// Likewise, of one that would rather be mended.
pub const PUE_MAX: u64 = 10_000;
/// Most grams of carbon dioxide for a kilowatt-hour.
pub const CARBON_MAX: u64 = 10_000;
/// Most millilitres of water for a kilowatt-hour.
pub const WATER_MAX: u64 = 1_000_000;
/// Fastest link between sites, in megabits a second.
pub const LINK_MBIT_MAX: u32 = 100_000_000;
/// Speed of a link of which nobody said how fast it is, in megabits a second.
pub const LINK_MBIT_DEFAULT: u32 = 1_000;

crate::message! {
    /// A number that an operator said.
    #[derive(Copy)]
    pub struct Signal {
        1 => value: u64,
        /// By the wall clock of the site's own controllers; no other site compares it.
        2 => said_at: Timestamp,
        /// When this was sent. Zero in the site's own state.
        3 => age: Millis,
    }

    /// What a GPU-hour costs, in millionths of a euro, without energy.
    pub struct Price {
        /// None for every class without a price of its own.
        1 => class: Option<GpuClass>,
        2 => signal: Signal,
    }

    /// What running at a site costs. What is absent is not known.
    #[derive(Default)]
    pub struct Signals {
        /// Invariant: one for each class, in order; that for all others first.
        1 => prices: Vec<Price>,
        /// Of a kilowatt-hour, in millionths of a euro.
        2 => energy: Option<Signal>,
        /// Power usage effectiveness, in thousandths.
        3 => pue: Option<Signal>,
        /// Grams of carbon dioxide for a kilowatt-hour.
        4 => carbon: Option<Signal>,
        /// Millilitres of water for a kilowatt-hour.
        5 => water: Option<Signal>,
        /// Of the site, when any of them was last said.
        6 => revision: Revision,
    }

    /// The link to a peer.
    pub struct Link {
        /// What of it data may take.
        1 => mbit_per_second: u32,
    }

    /// A data set that a site knows of.
    pub struct DataSet {
        /// Zero if nobody said.
        1 => bytes: u64,
        /// It lies here.
        2 => held: bool,
        /// The only countries in which jobs may use it; empty for any.
        3 => countries: Vec<Country>,
        /// The only sites at which jobs may use it; empty for any.
        4 => sites: Vec<SiteId>,
    }

    /// How a home weighs what another site costs against waiting.
    pub struct Weights {
        /// What it is worth to have one GPU an hour sooner.
        1 => wait: MicroEuro,
        /// Thousandths in which a price counts.
        2 => price_permille: u32,
        /// Likewise for energy with what the building adds to it.
        3 => energy_permille: u32,
        /// Of a kilogram of carbon dioxide.
        4 => carbon: MicroEuro,
        /// Of a litre of water.
        5 => water: MicroEuro,
        /// What a GPU and its share of the node draw.
        6 => gpu_watts: u32,
        /// Energy, carbon and water that were said longer ago count as not known. Zero: never.
        7 => stale_after: Millis,
        /// How long a job waits at a host that says nothing of it.
        8 => unknown_wait: Millis,
        /// A job that has had one GPU-hour divided by a millionth of this waits a day at home
        /// before it leaves again, one with twice as much sixteen. Zero: work counts for nothing.
        9 => work_rate_micro: u32,
        /// The longest that a job waits at home for the work it had, or for what leaving costs.
        10 => patience_max: Millis,
    }

    /// Nodes with as many GPUs of a class free.
    pub struct FreeNodes {
        1 => gpus: GpuCount,
        2 => nodes: u32,
    }

    /// How long jobs that started lately had waited.
    pub struct WaitForecast {
        /// Gangs of up to this many nodes.
        1 => nodes_max: u32,
        /// Three of four waited no longer.
        2 => wait: Millis,
        /// How many that is concluded from.
        3 => starts: u32,
    }

    /// What a host expects of a class.
    pub struct ClassOutlook {
        1 => class: GpuClass,
        /// Ascending; none without free GPUs.
        2 => free: Vec<FreeNodes>,
        /// Granted and idle: they come back, if nobody uses them.
        3 => reclaimable: GpuCount,
        /// Ascending by size.
        4 => waits: Vec<WaitForecast>,
    }
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            wait: MicroEuro(1_000_000),
            price_permille: 1_000,
            energy_permille: 1_000,
            carbon: MicroEuro(80_000),
            water: MicroEuro(2_000),
            gpu_watts: 1_000,
            stale_after: Millis(2 * 3_600_000),
            unknown_wait: Millis(600_000),
            work_rate_micro: 0,
            patience_max: Millis(86_400_000),
        }
    }
}
