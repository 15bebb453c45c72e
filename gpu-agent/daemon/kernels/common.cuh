// What all kernels share. No header of CUDA's is included: the compiler alone is enough.
//
// Results go to pinned host memory, never into the memory under test, and every record carries a
// checksum, so that a broken path is not taken for a broken unit.
#pragma once

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define INLINE __device__ __forceinline__
#define KERNEL extern "C" __global__

INLINE u32 sm_id() {
    u32 id;
    asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
    return id;
}

INLINE u64 cycles() {
    u64 now;
    asm volatile("mov.u64 %0, %%clock64;" : "=l"(now) :: "memory");
    return now;
}

// A bijection of 32 bits whose outputs look random: two rounds of multiply and shift.
INLINE u32 mix(u32 x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

INLINE u32 rotate(u32 x, u32 by) { return (x << by) | (x >> (32 - by)); }

// One warp's result. `sum` is over the other words.
struct Vote {
    u32 sm, cta, warp, sum;
    u64 digest, cycles;
};

// Folds a value into a digest. Every bit of the value reaches the digest, in order.
INLINE u64 fold(u64 digest, u32 value) {
    return digest * 0x9e3779b97f4a7c15ull + mix(value ^ (u32)(digest >> 32));
}

INLINE u32 shuffle(u32 value, u32 across) {
    u32 got;
    asm volatile("shfl.sync.bfly.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(got) : "r"(value), "r"(across));
    return got;
}

// One digest of a warp's 32: each lane salts its own, so that lanes that swap are seen.
INLINE u64 join(u64 digest, u32 lane) {
    digest ^= (u64)mix(lane + 1) << 16;
    for (u32 across = 16; across > 0; across >>= 1) {
        u64 partner = (u64)shuffle((u32)(digest >> 32), across) << 32 | shuffle((u32)digest, across);
        digest += partner;
        digest ^= digest >> 29;
    }
    return digest;
}

// Ends a vote: the warp's first lane writes its record. `canary` names an SM that must be found.
INLINE void vote(Vote *votes, u64 digest, u64 spent, u32 canary) {
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    digest = join(digest, lane);
    if (lane != 0) return;
    // Blocks have eight warps. No multiplication leads to the place: a unit that multiplies wrong must
    // not write over what others say.
    Vote *out = votes + ((blockIdx.x << 3) + warp);
    const u32 sm = sm_id();
    if (sm == canary) digest ^= 1ull << (warp & 63);
    out->sm = sm;
    out->cta = blockIdx.x;
    out->warp = warp;
    out->digest = digest;
    out->cycles = spent;
    u32 sum = mix(sm);
    sum = mix(sum ^ blockIdx.x);
    sum = mix(sum ^ warp);
    sum = mix(sum ^ (u32)digest);
    sum = mix(sum ^ (u32)(digest >> 32));
    sum = mix(sum ^ (u32)spent);
    out->sum = mix(sum ^ (u32)(spent >> 32));
}
