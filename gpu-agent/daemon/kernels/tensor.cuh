// The tensor cores of each SM, by vote. Each warp multiplies the same stream of random tiles, and
// every bit of every result enters the digest.
//
// `chain` results are added up before they are folded. 1 is sensitive: no rounding hides a bit that
// was wrong. More draws more power, and hides some.
#pragma once
#include "common.cuh"

// Operands come in words. `random` gives any sign and mantissa and an exponent near one, so that
// sums neither overflow nor vanish; `mantissa` is what may be flipped later, to the same end.
template <class F>
INLINE void tensor(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {
    constexpr int AS = 2, BS = 4;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        u32 r = mix((u32)seed ^ step * 0x9e3779b9u ^ warp << 20 ^ lane << 8) ^ (u32)(seed >> 32);
        typename F::A a[AS][F::A_REGS];
        typename F::B b[BS][F::B_REGS];
        typename F::C c[AS][BS][F::C_REGS];
#pragma unroll
        for (int i = 0; i < AS; ++i)
#pragma unroll
            for (int k = 0; k < F::A_REGS; ++k) a[i][k] = F::random_a(r = mix(r + 1));
#pragma unroll
        for (int j = 0; j < BS; ++j)
#pragma unroll
            for (int k = 0; k < F::B_REGS; ++k) b[j][k] = F::random_b(r = mix(r + 1));
#pragma unroll
        for (int i = 0; i < AS; ++i)
#pragma unroll
            for (int j = 0; j < BS; ++j)
#pragma unroll
                for (int k = 0; k < F::C_REGS; ++k) c[i][j][k] = 0;
#pragma unroll 1
        for (u32 link = 0; link < chain; ++link) {
#pragma unroll
            for (int i = 0; i < AS; ++i)
#pragma unroll
                for (int j = 0; j < BS; ++j) F::multiply(c[i][j], a[i], b[j]);
#pragma unroll
            for (int j = 0; j < BS; ++j) F::turn(b[j], link);
        }
#pragma unroll
        for (int i = 0; i < AS; ++i)
#pragma unroll
            for (int j = 0; j < BS; ++j)
#pragma unroll
                for (int k = 0; k < F::C_REGS; ++k) digest = F::digest(digest, c[i][j][k]);
    }
    vote(votes, digest, cycles() - start, canary);
}

INLINE u64 fold_float(u64 digest, float value) { return fold(digest, __float_as_uint(value)); }

#define TENSOR(name, Format)                                                                        \
    KERNEL void __launch_bounds__(256)                                                              \
        tensor_##name(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {                    \
        tensor<Format>(votes, seed, steps, chain, canary);                                          \
    }
