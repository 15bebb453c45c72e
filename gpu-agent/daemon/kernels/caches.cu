// What lies between an SM and the memory, and between the lanes of a warp, by vote: one block on each
// SM. The first-level cache and shuffles are the SM's own. The second level is everybody's: there all
// SMs read what all have written, and what most of them read wrong is no SM's.
#include "common.cuh"

INLINE u32 load_cached(const u32 *at) {
    u32 got;
    asm volatile("ld.global.ca.u32 %0, [%1];" : "=r"(got) : "l"(at) : "memory");
    return got;
}

// From the second level, whatever the first holds.
INLINE void load_four(u32 (&got)[4], const u32 *at) {
    asm volatile("ld.global.cg.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(got[0]), "=r"(got[1]), "=r"(got[2]), "=r"(got[3]) : "l"(at) : "memory");
}

INLINE void store_four(u32 *at, const u32 (&it)[4]) {
    asm volatile("st.global.cg.v4.u32 [%0], {%1,%2,%3,%4};"
                 :: "l"(at), "r"(it[0]), "r"(it[1]), "r"(it[2]), "r"(it[3]) : "memory");
}

INLINE u32 pattern(u32 index, u64 seed) { return mix(index ^ (u32)seed) ^ (u32)(seed >> 32); }

// `fours` times 16 bytes, each block its share.
KERNEL void __launch_bounds__(256) cache_fill(u32 *memory, u32 fours, u64 seed) {
#pragma unroll 1
    for (u32 i = (blockIdx.x << 8) + threadIdx.x; i < fours; i += gridDim.x << 8) {
        const u32 at = i << 2;
        const u32 it[4] = {pattern(at, seed), pattern(at + 1, seed), pattern(at + 2, seed),
                           pattern(at + 3, seed)};
        store_four(memory + at, it);
    }
}

// Every block adds its own number, counted from one, to each word; each begins somewhere else.
KERNEL void __launch_bounds__(256) cache_add(u32 *memory, u32 fours) {
    const u32 words = fours << 2;
#pragma unroll 1
    for (u32 i = threadIdx.x; i < words; i += 256) {
        const u32 from = i + (blockIdx.x << 8);
        atomicAdd(memory + from % words, blockIdx.x + 1);
    }
}

// All that differs from what was written, to which `added` was added since, enters the digest: that of
// a sound SM is known. Each block begins somewhere else, so that all parts are asked by all at once.
KERNEL void __launch_bounds__(256)
    unit_l2(Vote *votes, const u32 *memory, u32 fours, u64 seed, u32 added, u32 steps, u32 canary) {
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step)
#pragma unroll 1
        for (u32 i = threadIdx.x; i < fours; i += 256) {
            const u32 at = ((i + (blockIdx.x << 8)) % fours) << 2;
            u32 got[4];
            load_four(got, memory + at);
#pragma unroll
            for (u32 nth = 0; nth < 4; ++nth) {
                const u32 want = pattern(at + nth, seed) + added;
                if (got[nth] != want) digest = fold(fold(digest, at + nth), got[nth] ^ want);
            }
        }
    vote(votes, digest, cycles() - start, canary);
}

// Reads 4,096 words again and again, in an order that differs from step to step; all but the first
// reads are answered by the SM's own cache.
KERNEL void __launch_bounds__(256)
    unit_l1(Vote *votes, const u32 *memory, u64 seed, u32 steps, u32 canary) {
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step)
#pragma unroll 4
        for (u32 i = 0; i < 16; ++i) {
            const u32 at = ((i << 8) + threadIdx.x) * (2 * step + 1) + step;
            digest = fold(digest, load_cached(memory + (at & 4095)));
        }
    vote(votes, digest, cycles() - start, canary);
}

INLINE u32 from_lane(u32 value, u32 lane) {
    u32 got;
    asm volatile("shfl.sync.idx.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(got) : "r"(value), "r"(lane));
    return got;
}

INLINE u32 from_below(u32 value, u32 by) {
    u32 got;
    asm volatile("shfl.sync.up.b32 %0, %1, %2, 0, 0xffffffff;" : "=r"(got) : "r"(value), "r"(by));
    return got;
}

INLINE u32 from_above(u32 value, u32 by) {
    u32 got;
    asm volatile("shfl.sync.down.b32 %0, %1, %2, 31, 0xffffffff;" : "=r"(got) : "r"(value), "r"(by));
    return got;
}

// Every way from lane to lane, and what all lanes say together.
KERNEL void __launch_bounds__(256) unit_shuffle(Vote *votes, u64 seed, u32 steps, u32 canary) {
    u32 value = mix((u32)seed ^ threadIdx.x);
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        const u32 a = from_lane(value, mix(value) & 31), b = from_below(a, step & 31);
        const u32 c = from_above(b ^ value, (step >> 1) & 31), d = shuffle(c, (step & 30) + 1);
        const u32 all = __ballot_sync(0xffffffffu, (int)(a ^ d) < 0);
        digest = fold(fold(digest, a ^ rotate(b, 9)), c + d ^ all);
        value = mix(value + d + all);
    }
    vote(votes, digest, cycles() - start, canary);
}
