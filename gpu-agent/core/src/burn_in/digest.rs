//! How kernels make digests of results, for those that the host computes too.

/// Lanes of a warp.
pub const LANES: usize = 32;
/// Warps of the blocks that vote.
pub const WARPS: usize = 8;

/// A bijection of 32 bits whose outputs look random.
#[must_use]
pub const fn mix(x: u32) -> u32 {
    let x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    let x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    x ^ (x >> 16)
}

/// Folds a value into a lane's digest.
#[must_use]
pub fn fold(digest: u64, value: u32) -> u64 {
    let mixed = u64::from(mix(value ^ (digest >> 32) as u32));
    digest.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(mixed)
}

/// The digest of a warp, out of those of its lanes.
#[must_use]
pub fn join(lanes: [u64; LANES]) -> u64 {
    let mut all = lanes;
    for (nth, digest) in (1..).zip(&mut all) {
        *digest ^= u64::from(mix(nth)) << 16;
    }
    for across in [16, 8, 4, 2, 1] {
        let before = all;
        for (lane, digest) in all.iter_mut().enumerate() {
            *digest = digest.wrapping_add(before[lane ^ across]);
            *digest ^= *digest >> 29;
        }
    }
    all[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_and_every_lane_changes_a_digest() {
        let whole = join([7; LANES]);
        for lane in 0..LANES {
            let mut lanes = [7; LANES];
            lanes[lane] = 8;
            assert_ne!(join(lanes), whole, "lane {lane}");
        }
        for bit in 0..32 {
            assert_ne!(fold(7, 1 << bit), fold(7, 0), "bit {bit}");
        }
    }
}
