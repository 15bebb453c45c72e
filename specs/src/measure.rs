//! What a burn-in measures, and what a site compares of it between GPUs of one make.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;

use crate::codec::Blob;

/// Names of numbers, each with its unit last. Those of kernels are made by [`cycles_of`].
pub const MEMORY: &str = "memoryBytesPerSecond";
pub const COPY: &str = "copyBytesPerSecond";
pub const HOST_TO_DEVICE: &str = "hostToDeviceBytesPerSecond";
pub const DEVICE_TO_HOST: &str = "deviceToHostBytesPerSecond";
/// Both at once, added.
pub const BOTH_WAYS: &str = "bothWaysBytesPerSecond";
/// The slowest pair's.
pub const PEERS: &str = "peersBytesPerSecond";
/// The SMs' clock at full load, the power drawn then, and how much warmer each watt makes it.
pub const CLOCK: &str = "loadClockKilohertz";
pub const POWER: &str = "loadPowerMilliwatts";
pub const WARMTH: &str = "warmthMicrokelvinPerMilliwatt";

const CYCLES: &str = "MillicyclesPerStep";

/// Longest name of a number, and longest text of a make; longer ones are not compared.
pub const NAME_BYTES_MAX: usize = 64;
pub const MAKE_BYTES_MAX: usize = 128;
/// Most digests of a burn-in that are told.
pub const DIGESTS_MAX: usize = 64;

/// The name of a kernel's median cycles, in thousandths for one step of its work on one SM.
#[must_use]
pub fn cycles_of(kernel: &str) -> String {
    format!("{kernel}{CYCLES}")
}

/// Which way a number is better. None for those that are neither.
#[must_use]
pub fn is_more_better(name: &str) -> Option<bool> {
    match name {
        POWER => None,
        WARMTH => Some(false),
        _ => Some(!name.ends_with(CYCLES)),
    }
}

/// Whether a cap of power, which is no fault, makes the number worse.
#[must_use]
pub fn follows_clock(name: &str) -> bool {
    matches!(name, CLOCK | MEMORY | COPY)
}

/// Whether others of a machine share what is measured: their traffic makes the number worse for a
/// while, so that once is no fault.
#[must_use]
pub fn is_shared(name: &str) -> bool {
    matches!(name, HOST_TO_DEVICE | DEVICE_TO_HOST | BOTH_WAYS | PEERS)
}

crate::enumeration! {
    /// How far a number or a digest is from those of the others.
    pub enum Lag {
        /// To be watched.
        1 => Warning = "warning",
        /// The GPU is to be taken out of service.
        2 => Fault = "fault",
    }
}

crate::message! {
    /// What GPUs must have in common for their numbers to be compared.
    #[derive(Default, PartialOrd, Ord)]
    pub struct Make {
        /// The product's name.
        1 => product: String,
        /// Empty if the driver does not say; zero likewise.
        2 => vbios: String,
        /// The first number of the driver's version.
        3 => driver: u32,
        4 => power_limit_milliwatts: u64,
        /// SHA-256 of the list of the kernels' hashes.
        5 => kernels: Blob,
    }

    /// A number that is worse than those of other GPUs of one make.
    pub struct Behind {
        /// Its name.
        1 => measure: String,
        2 => lag: Lag,
        3 => value: u64,
        /// Of all that are compared.
        4 => median: u64,
        /// How many others there are.
        5 => peers: u32,
        /// By how much it is worse, in thousandths of the median.
        6 => permille: u32,
        /// Burn-ins in a row of which this is true; no more are looked at than are needed.
        7 => runs: u32,
    }

    /// What all SMs of a GPU computed in work that is the same for every GPU.
    #[derive(Default)]
    pub struct Digests {
        /// Numbers what the work is made of beside the kernels: digests of two recipes say nothing of
        /// each other.
        1 => recipe: u32,
        /// By kernel; at most [`DIGESTS_MAX`].
        2 => by_kernel: BTreeMap<String, u64>,
    }

    /// A digest that is not what other GPUs of one make say.
    pub struct Differs {
        1 => kernel: String,
        2 => lag: Lag,
        3 => digest: u64,
        /// What most others say, and how many of them do.
        4 => common: u64,
        5 => same: u32,
        /// How many others there are.
        6 => peers: u32,
    }
}

impl Make {
    /// What GPUs must have in common for their digests to be compared. What a GPU computes depends on
    /// neither its limit of power nor its VBIOS; the driver compiles the kernels.
    #[must_use]
    pub fn of_digests(&self) -> Self {
        let (product, driver, kernels) = (self.product.clone(), self.driver, self.kernels.clone());
        Self { product, driver, kernels, ..Self::default() }
    }

    /// Whether it is no longer than it may be.
    #[must_use]
    pub fn is_short(&self) -> bool {
        [self.product.len(), self.vbios.len(), self.kernels.0.len()]
            .iter()
            .all(|len| *len <= MAKE_BYTES_MAX)
    }
}

impl core::fmt::Display for Behind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { measure, value, median, peers, permille, runs, .. } = self;
        let (whole, tenth) = (permille / 10, permille % 10);
        let way = if value < median { "low" } else { "high" };
        write!(
            f,
            "{measure} is {whole}.{tenth} % {way}: {value}, median {median} of {peers} peers"
        )?;
        if *runs > 1 { write!(f, ", in {runs} burn-ins in a row") } else { Ok(()) }
    }
}

impl core::fmt::Display for Differs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { kernel, digest, common, same, peers, .. } = self;
        write!(f, "{kernel} gives {digest:016x}, and {same} of {peers} peers {common:016x}")
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn fewer_cycles_and_less_warmth_are_better_and_power_is_neither() {
        assert_eq!(is_more_better(&cycles_of("tensor_bf16")), Some(false));
        assert_eq!(is_more_better(WARMTH), Some(false));
        assert_eq!(is_more_better(COPY), Some(true));
        assert_eq!(is_more_better(POWER), None);
        assert!(is_shared(PEERS) && !is_shared(COPY));
        assert!(follows_clock(CLOCK) && !follows_clock(&cycles_of("tensor_bf16")));
    }

    #[test]
    fn what_is_behind_says_by_how_much_and_of_whom() {
        let it = Behind {
            measure: MEMORY.into(),
            lag: Lag::Fault,
            value: 909,
            median: 1_000,
            peers: 12,
            permille: 91,
            runs: 1,
        };
        let said = "memoryBytesPerSecond is 9.1 % low: 909, median 1000 of 12 peers";
        assert_eq!(it.to_string(), said);
        let again = Behind { value: 1_050, permille: 50, runs: 3, ..it };
        assert!(
            again
                .to_string()
                .ends_with("5.0 % high: 1050, median 1000 of 12 peers, in 3 burn-ins in a row")
        );
    }

    #[test]
    fn what_differs_says_from_what_and_of_how_many() {
        let it = Differs {
            kernel: "golden_bf16".into(),
            lag: Lag::Fault,
            digest: 0xab,
            common: u64::MAX,
            same: 8,
            peers: 9,
        };
        let said = "golden_bf16 gives 00000000000000ab, and 8 of 9 peers ffffffffffffffff";
        assert_eq!(it.to_string(), said);
    }
}
