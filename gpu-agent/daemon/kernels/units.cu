// The units of each SM, by vote: one block per SM (the launch asks for more than half of the shared
// memory, so that two do not fit), all do the same, and the digests must agree.
#include "common.cuh"

// All integer paths: multiply, add, shift, select, count, dot product, 64 bits.
KERNEL void __launch_bounds__(256) unit_integer(Vote *votes, u64 seed, u32 steps, u32 canary) {
    const u32 lane = threadIdx.x & 31;
    u32 a = mix((u32)seed ^ threadIdx.x), b = mix(a + (u32)(seed >> 32)), c = a ^ rotate(b, 7);
    u64 wide = (u64)a << 32 | b, digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        a = a * b + c;
        c = __umulhi(a, b | 1) + (u32)__popc(c);
        b = rotate(b ^ a, 5) + (u32)__clz((int)(c | 1));
        const u32 dot = (u32)__dp4a((int)a, (int)b, (int)c);
        wide = wide * 6364136223846793005ull + ((u64)dot << 13 ^ c);
        const i64 arithmetic = (i64)wide >> 9;
        b ^= __brev((u32)(arithmetic >> 20));
        a += min(b, c) - max((int)a, (int)b);
        c ^= __byte_perm(a, b, 0x2615 ^ (step & 0x1111));
        digest = fold(fold(digest, a ^ dot), b + c + (u32)wide);
    }
    vote(votes, digest + lane, cycles() - start, canary);
}

// Single and double precision; all operations round as the standard says, so that all agree.
KERNEL void __launch_bounds__(256) unit_float(Vote *votes, u64 seed, u32 steps, u32 canary) {
    const u32 r = mix((u32)seed ^ threadIdx.x * 0x9e3779b9u);
    float x = 1.0f + (float)(r & 0xffff) * 0x1p-16f, y = 0.5f + (float)(r >> 16) * 0x1p-17f;
    double d = 1.0 + (double)r * 0x1p-32, e = 0.75 + (double)mix(r) * 0x1p-34;
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        x = __fmaf_rn(x, y, 0.3330078125f);
        y = __fadd_rn(__fmul_rn(y, 0.99951171875f), 0x1.9p-12f);
        const float q = __fdiv_rn(x, y), s = __fsqrt_rn(__fadd_rn(q, 1.0f));
        d = __fma_rn(d, e, 0.2501);
        e = __dadd_rn(__dmul_rn(e, 0.9990234375), 0x1.3p-11);
        if (x > 2.0f) x = __fadd_rn(x, -1.5f);
        if (d > 2.0) d = __dadd_rn(d, -1.25);
        const u64 bits = (u64)__double_as_longlong(d) ^ (u64)__double_as_longlong(e) << 1;
        digest = fold(fold(digest, __float_as_uint(x) ^ rotate(__float_as_uint(s), 9)),
                      (u32)bits ^ (u32)(bits >> 32) ^ __float_as_uint(y));
    }
    vote(votes, digest, cycles() - start, canary);
}

// The special functions. Their results differ between kinds of GPU, never between SMs of one.
KERNEL void __launch_bounds__(256) unit_special(Vote *votes, u64 seed, u32 steps, u32 canary) {
    const u32 r = mix((u32)seed + threadIdx.x * 0x85ebca6bu);
    float x = 0.25f + (float)(r & 0xfffff) * 0x1p-20f;
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        float e, l, s, c, q, i;
        asm("ex2.approx.f32 %0, %1;" : "=f"(e) : "f"(x));
        asm("lg2.approx.f32 %0, %1;" : "=f"(l) : "f"(x));
        asm("sin.approx.f32 %0, %1;" : "=f"(s) : "f"(x));
        asm("cos.approx.f32 %0, %1;" : "=f"(c) : "f"(x));
        asm("rsqrt.approx.f32 %0, %1;" : "=f"(q) : "f"(x));
        asm("rcp.approx.f32 %0, %1;" : "=f"(i) : "f"(x));
        digest = fold(digest, __float_as_uint(e) ^ rotate(__float_as_uint(l), 3) ^
                                  rotate(__float_as_uint(s), 11) ^ rotate(__float_as_uint(c), 17));
        digest = fold(digest, __float_as_uint(q) ^ rotate(__float_as_uint(i), 13));
        x = 0.25f + (float)(mix(__float_as_uint(e) + step) & 0xfffff) * 0x1p-20f;
    }
    vote(votes, digest, cycles() - start, canary);
}

// Holds 96 live values, turns them round and through each other: a bit that a register loses is in
// the digest.
KERNEL void __launch_bounds__(256, 1) unit_registers(Vote *votes, u64 seed, u32 steps, u32 canary) {
    constexpr int HELD = 96;
    u32 held[HELD];
    const u32 mine = mix((u32)seed ^ threadIdx.x);
#pragma unroll
    for (int i = 0; i < HELD; ++i) held[i] = mix(mine + i);
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        const u32 first = held[0];
#pragma unroll
        for (int i = 0; i < HELD - 1; ++i) held[i] = ~held[i + 1];
        held[HELD - 1] = rotate(first, 1) ^ step;
        u32 all = 0;
#pragma unroll
        for (int i = 0; i < HELD; ++i) all = rotate(all, 1) + held[i];
        digest = fold(digest, all);
    }
    vote(votes, digest, cycles() - start, canary);
}

// A march over all shared memory that the launch gave, `words` of 32 bits: up and down, each read
// before it is written. Then through the banks at a stride that conflicts.
KERNEL void __launch_bounds__(256)
    unit_shared(Vote *votes, u64 seed, u32 words, u32 steps, u32 canary) {
    extern __shared__ u32 memory[];
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        const u32 salt = (u32)seed + step;
        for (u32 i = threadIdx.x; i < words; i += blockDim.x) memory[i] = mix(i ^ salt);
        __syncthreads();
        for (u32 i = threadIdx.x; i < words; i += blockDim.x) {
            // Another thread's word, so that another warp and another bank port reads it.
            const u32 at = words - 1 - i, got = memory[at];
            digest = fold(digest, got ^ mix(at ^ salt));
            memory[at] = ~got;
        }
        __syncthreads();
        for (u32 i = threadIdx.x; i < words; i += blockDim.x) {
            u32 at = i * 33;
            at -= at / words * words;
            // Also where this was computed wrong, no other memory is touched.
            if (at >= words) at = 0;
            digest = fold(digest, memory[at]);
        }
        __syncthreads();
    }
    vote(votes, digest, cycles() - start, canary);
}

// Atomic operations on shared memory, and on the block's own words of global memory. Sums and
// extremes do not depend on the order in which threads come.
KERNEL void __launch_bounds__(256)
    unit_atomic(Vote *votes, u64 seed, u32 *scratch, u32 steps, u32 canary) {
    __shared__ u32 cells[64];
    u32 *mine = scratch + blockIdx.x * 64;
    u64 digest = seed;
    const u64 start = cycles();
    for (u32 i = threadIdx.x; i < 64; i += blockDim.x) {
        cells[i] = 0;
        atomicExch(&mine[i], 0);
    }
    __syncthreads();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        const u32 value = mix((u32)seed ^ threadIdx.x ^ step << 8), at = value & 15;
        atomicAdd(&cells[at], value);
        atomicXor(&cells[16 + at], value);
        atomicMax(&cells[32 + at], value);
        atomicAdd(&mine[at], value);
        atomicXor(&mine[16 + at], value);
        atomicMin(&mine[32 + at], ~value);
    }
    __syncthreads();
    for (u32 i = threadIdx.x; i < 64; i += blockDim.x)
        digest = fold(fold(digest, cells[i]), atomicAdd(&mine[i], 0));
    vote(votes, digest, cycles() - start, canary);
}
