// The constant cache of each SM, by vote: a table that the module brings, read by whole warps.
#include "common.cuh"

enum Sizes : u32 { WORDS = 1024 };

struct Table {
    u32 at[WORDS];
    __device__ constexpr Table() : at() {
        u32 x = 1;
        for (u32 i = 0; i < WORDS; ++i) at[i] = x = x * 1664525u + 1013904223u;
    }
};

__constant__ Table table;

// All lanes of a warp read the same word, each warp another.
KERNEL void __launch_bounds__(256) unit_constant(Vote *votes, u64 seed, u32 steps, u32 canary) {
    const u32 warp = threadIdx.x >> 5;
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        u32 at = mix((u32)seed ^ step) + warp * 37;
#pragma unroll 4
        for (u32 i = 0; i < 16; ++i, at += 65) digest = fold(digest, table.at[at & (WORDS - 1)]);
    }
    vote(votes, digest, cycles() - start, canary);
}
