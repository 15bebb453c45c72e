//! One value of every message about what is compared.

use specs::codec::Blob;
use specs::measure::{Behind, Differs, Digests, Lag, Make};

use super::{Sample, sample};

pub(crate) fn all() -> Vec<Sample> {
    vec![sample(&make()), sample(&behind()), sample(&digests()), sample(&differs())]
}

pub(crate) fn make() -> Make {
    Make {
        product: "NVIDIA H200".to_owned(),
        vbios: "96.00.99.00.01".to_owned(),
        driver: 570,
        power_limit_milliwatts: 700_000,
        kernels: Blob(vec![7, 8]),
    }
}

pub(crate) fn behind() -> Behind {
    Behind {
        measure: "memoryBytesPerSecond".to_owned(),
        lag: Lag::Fault,
        value: 3_900_000_000_000,
        median: 4_300_000_000_000,
        peers: 127,
        permille: 93,
        runs: 1,
    }
}

pub(crate) fn digests() -> Digests {
    Digests { recipe: 1, by_kernel: [("golden_bf16".to_owned(), 0x0123_4567_89ab_cdef)].into() }
}

pub(crate) fn differs() -> Differs {
    Differs {
        kernel: "golden_bf16".to_owned(),
        lag: Lag::Fault,
        digest: 0x0123_4567_89ab_cdee,
        common: 0x0123_4567_89ab_cdef,
        same: 126,
        peers: 127,
    }
}
