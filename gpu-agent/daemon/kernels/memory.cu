// The whole memory, 16 bytes at a time: written, checked while it is inverted, checked again.
//
// A pass is `memory_fill_K`, then `memory_check_K` that leaves the complement (moving inversion),
// then `memory_check_K` of the complement. `base` is the running index of the first vector over all
// pieces of memory, so that no two vectors hold the same address pattern. `shift` turns the map from
// vectors to blocks, so that another SM checks than wrote: what follows the SM is not the memory's.
#include "common.cuh"

enum Limits : u32 { RECORDS = 512, SMS = 512 };

struct Four {
    u32 x, y, z, w;
};

struct Mismatch {
    u32 index_low, index_high;
    u32 want[4], got[4], again[4];
    u32 sm, block, reserved[3], sum;
};

struct Log {
    u32 count, transient, bits[4], reserved[2];
    u32 of_sm[SMS];
    Mismatch first[RECORDS];
};

enum Kind { ADDRESS, RANDOM, WALK, CHECKER, MODULO };

INLINE Four load(const char *at) {
    Four it;
    asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(it.x), "=r"(it.y), "=r"(it.z), "=r"(it.w) : "l"(at) : "memory");
    return it;
}

// Again from memory, not from what the first read left in a cache of the SM.
INLINE Four load_again(const char *at) {
    Four it;
    asm volatile("ld.volatile.global.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(it.x), "=r"(it.y), "=r"(it.z), "=r"(it.w) : "l"(at) : "memory");
    return it;
}

INLINE void store(char *at, Four it) {
    asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};"
                 :: "l"(at), "r"(it.x), "r"(it.y), "r"(it.z), "r"(it.w) : "memory");
}

INLINE Four flipped(Four it, u32 with) {
    it.x ^= with, it.y ^= with, it.z ^= with, it.w ^= with;
    return it;
}

INLINE bool differ(Four a, Four b) {
    return ((a.x ^ b.x) | (a.y ^ b.y) | (a.z ^ b.z) | (a.w ^ b.w)) != 0;
}

template <int KIND> INLINE Four pattern(u64 index, u64 seed) {
    const u32 low = (u32)index, high = (u32)(index >> 32);
    const u32 s = (u32)seed, t = (u32)(seed >> 32);
    Four it;
    if (KIND == ADDRESS) {
        it.x = low ^ s, it.y = high ^ t, it.z = ~it.x, it.w = ~it.y;
    } else if (KIND == RANDOM) {
        const u32 x = mix(low ^ s) + high;
        it.x = x, it.y = mix(x ^ t), it.z = mix(x + 0x9e3779b9u), it.w = mix(x - t);
    } else if (KIND == WALK) {
        const u32 bit = (low + s) & 127, one = 1u << (bit & 31), word = bit >> 5;
        it.x = word == 0 ? one : 0, it.y = word == 1 ? one : 0;
        it.z = word == 2 ? one : 0, it.w = word == 3 ? one : 0;
    } else if (KIND == CHECKER) {
        it.x = it.y = it.z = it.w = (low + s) & 1 ? 0xaaaaaaaau : 0x55555555u;
    } else {
        const u32 p = s | 1;
        it.x = it.y = it.z = it.w = (low + high * 16 + t) % 20 == 0 ? p : ~p;
    }
    return it;
}

INLINE void report(Log *log, u64 index, Four want, Four got, Four again, u32 block) {
    const u32 sm = sm_id(), at = atomicAdd(&log->count, 1);
    if (!differ(want, again)) atomicAdd(&log->transient, 1);
    atomicOr(&log->bits[0], want.x ^ got.x);
    atomicOr(&log->bits[1], want.y ^ got.y);
    atomicOr(&log->bits[2], want.z ^ got.z);
    atomicOr(&log->bits[3], want.w ^ got.w);
    atomicAdd(&log->of_sm[sm & (SMS - 1)], 1);
    if (at >= RECORDS) return;
    Mismatch *out = &log->first[at];
    const u32 words[16] = {(u32)index, (u32)(index >> 32), want.x, want.y, want.z, want.w,
                           got.x, got.y, got.z, got.w, again.x, again.y, again.z, again.w, sm, block};
    u32 *to = (u32 *)out;
    u32 sum = 0;
#pragma unroll
    for (int i = 0; i < 16; ++i) {
        to[i] = words[i];
        sum = mix(sum ^ words[i]);
    }
    out->sum = sum;
}

INLINE u32 my_block(u32 shift) {
    const u32 block = blockIdx.x + shift;
    return block < gridDim.x ? block : block - gridDim.x;
}

template <int KIND>
INLINE void fill(char *memory, u32 count, u64 base, u64 seed, u32 shift, u32 *writers) {
    const u32 block = my_block(shift);
    if (threadIdx.x == 0) writers[block] = sm_id();
    const u32 stride = gridDim.x << 8;
#pragma unroll 1
    for (u32 i = (block << 8) + threadIdx.x; i < count; i += stride)
        store(memory + (u64)i * 16, pattern<KIND>(base + i, seed));
}

template <int KIND>
INLINE void check(char *memory, u32 count, u64 base, u64 seed, u32 flip, u32 invert, u32 shift,
                  u32 *writers, Log *log) {
    const u32 block = my_block(shift);
    if (invert && threadIdx.x == 0) writers[block] = sm_id();
    const u32 stride = gridDim.x << 8;
#pragma unroll 1
    for (u32 i = (block << 8) + threadIdx.x; i < count; i += stride) {
        char *at = memory + (u64)i * 16;
        const Four want = flipped(pattern<KIND>(base + i, seed), flip), got = load(at);
        if (differ(want, got)) report(log, base + i, want, got, load_again(at), block);
        if (invert) store(at, flipped(want, 0xffffffffu));
    }
}

// Blocks have 256 threads. `count` vectors from `memory` on; `shift` is below the number of blocks; `flip` is 0 or all ones.
#define FAMILY(name, KIND)                                                                          \
    KERNEL void __launch_bounds__(256)                                                              \
        memory_fill_##name(char *memory, u32 count, u64 base, u64 seed, u32 shift, u32 *writers) {  \
        fill<KIND>(memory, count, base, seed, shift, writers);                                      \
    }                                                                                               \
    KERNEL void __launch_bounds__(256)                                                              \
        memory_check_##name(char *memory, u32 count, u64 base, u64 seed, u32 flip, u32 invert,      \
                            u32 shift, u32 *writers, Log *log) {                                    \
        check<KIND>(memory, count, base, seed, flip, invert, shift, writers, log);                  \
    }

FAMILY(address, ADDRESS)
FAMILY(random, RANDOM)
FAMILY(walk, WALK)
FAMILY(checker, CHECKER)
FAMILY(modulo, MODULO)

// Reads every second row, 32 bytes of each in turns, so that each read is of another row than the one
// before: what lies in the rows between, which nothing refreshes by a read, is disturbed as much as an
// order of reads can. `rows` rows of `bytes` from `memory` on; the first is `odd`. To be launched on
// more than the second-level cache holds, or rows are read once.
KERNEL void __launch_bounds__(256)
    memory_read_rows(const char *memory, u32 rows, u32 bytes, u32 odd, u32 times) {
    const u32 first = odd + (((blockIdx.x << 8) + threadIdx.x) << 1), stride = gridDim.x << 9;
#pragma unroll 1
    for (u32 time = 0; time < times; ++time)
#pragma unroll 1
        for (u32 at = 0; at < bytes; at += 32)
#pragma unroll 1
            for (u32 row = first; row < rows; row += stride) {
                const char *from = memory + (u64)row * bytes + at;
                // Nobody wants what is read, so an assembler leaves all but volatile reads out.
                load_again(from);
                load_again(from + 16);
            }
}
