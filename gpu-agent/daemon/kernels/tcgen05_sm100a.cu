// The tensor core of compute capability 10.0 by its own instruction: one thread starts products of a
// whole block, whose operands lie in shared memory and whose sums lie in tensor memory.
//
// A has 128 rows, B 256 columns; K is 64. Operands lie as in `operands.cuh`: the next core matrix
// along K is 128 bytes on, the next 8 rows are 1,024 bytes on. Row r of the sums is lane r of tensor
// memory, column c its column c; four warps read the columns below 128, four the others.
//
// Sums of `exact` operands, whole numbers from -8 to 7, are the same in any order: the host computes
// them too, and so the layouts are checked (`gpu_agent_core::burn_in::tensor`).
#include "common.cuh"
#include "operands.cuh"

enum Sizes : u32 { ROWS = 128, COLUMNS = 256, DEPTH = 64, HALF = 128 };
enum Strides : u32 { ALONG_K = 128, ALONG_ROWS = 1024, STEP_K = 256 };

// Sums in fp32 (1 at bit 4) of bf16 (1 at bits 7 and 10), both along K; columns / 8 and rows / 16.
constexpr u32 KIND = 1u << 4 | 1u << 7 | 1u << 10 | (COLUMNS >> 3) << 17 | (ROWS >> 4) << 24;

INLINE u32 in_shared(const void *at) { return (u32)__cvta_generic_to_shared(at); }

// Address and strides in units of 16 bytes; 1 at bit 46 is the form of this generation.
INLINE u64 descriptor(const void *at) {
    return (u64)((in_shared(at) & 0x3ffff) >> 4) | (u64)(ALONG_K >> 4) << 16 |
           (u64)(ALONG_ROWS >> 4) << 32 | 1ull << 46;
}

// D = A B, or D += A B where `more` is not zero.
INLINE void multiply(u32 d, u64 a, u64 b, u32 more) {
    asm volatile("{.reg .pred more;\n"
                 "setp.ne.b32 more, %4, 0;\n"
                 "tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, more;}"
                 :: "r"(d), "l"(a), "l"(b), "r"(KIND), "r"(more) : "memory");
}

// A thousand times what a chain takes.
constexpr u64 PATIENCE = 1ull << 31;

// Whether it came, for the whole warp: a product that never ends must not hold the GPU for ever.
INLINE bool wait_for(u32 barrier, u32 phase) {
    const u64 start = cycles();
    u32 is_done = 0;
    do {
        asm volatile("{.reg .pred done;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, done;}"
                     : "=r"(is_done) : "r"(barrier), "r"(phase) : "memory");
    } while (!is_done && cycles() - start < PATIENCE);
    return __ballot_sync(0xffffffffu, is_done != 0) == 0xffffffffu;
}

INLINE void load_sums(u32 (&d)[8], u32 at) {
    asm volatile("tcgen05.ld.sync.aligned.32x32b.x8.b32 {%0,%1,%2,%3,%4,%5,%6,%7}, [%8];\n"
                 "tcgen05.wait::ld.sync.aligned;"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]), "=r"(d[4]), "=r"(d[5]),
                   "=r"(d[6]), "=r"(d[7])
                 : "r"(at) : "memory");
}

// The warp's rows, half of the columns.
template <bool EXACT> INLINE u64 fold_sums(u64 digest, u32 tensor_memory) {
    const u32 warp = threadIdx.x >> 5, rows = (warp & 3) << 21, columns = (warp >> 2) * HALF;
#pragma unroll 1
    for (u32 column = 0; column < HALF; column += 8) {
        u32 d[8];
        load_sums(d, tensor_memory + rows + columns + column);
#pragma unroll
        for (int i = 0; i < 8; ++i)
            digest = fold(digest, EXACT ? __float_as_uint(__fadd_rn(__uint_as_float(d[i]), 0.0f))
                                        : d[i]);
    }
    return digest;
}

template <bool EXACT>
INLINE void tcgen05(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {
    // More than a block has without asking, so the launch gives it.
    extern __shared__ __align__(128) u32 memory[];
    u32 *a = memory, *b = memory + ROWS * DEPTH / 2;
    __shared__ __align__(8) u64 barrier;
    __shared__ u32 tensor_memory;
    const u32 done = in_shared(&barrier);
    u64 digest = seed;
    const u64 start = cycles();
    if (threadIdx.x < 32) {
        asm volatile("tcgen05.alloc.cta_group::1.sync.aligned.shared::cta.b32 [%0], %1;\n"
                     "tcgen05.relinquish_alloc_permit.cta_group::1.sync.aligned;"
                     :: "r"(in_shared(&tensor_memory)), "r"(COLUMNS) : "memory");
    }
    if (threadIdx.x == 0)
        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                     "fence.mbarrier_init.release.cluster;" :: "r"(done) : "memory");
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
    const u32 d = tensor_memory;
    const u64 from_a = descriptor(a), from_b = descriptor(b);
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        fill_rows<EXACT>(a, ROWS, seed, step, 0);
        fill_rows<EXACT>(b, COLUMNS, seed, step, ROWS);
        // What threads wrote is seen by the tensor core.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
        __syncthreads();
        if (threadIdx.x == 0) {
            asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
#pragma unroll 1
            for (u32 link = 0; link < chain; ++link)
#pragma unroll
                for (u32 k = 0; k < DEPTH / 16; ++k)
                    multiply(d, from_a + k * (STEP_K >> 4), from_b + k * (STEP_K >> 4), link + k);
            asm volatile("tcgen05.commit.cta_group::1.mbarrier::arrive::one.shared::cluster.b64 [%0];"
                         :: "r"(done) : "memory");
        }
        if (!wait_for(done, step & 1)) {
            digest = ~digest;
            break;
        }
        asm volatile("tcgen05.fence::after_thread_sync;" ::: "memory");
        digest = fold_sums<EXACT>(digest, d);
    }
    asm volatile("tcgen05.fence::before_thread_sync;" ::: "memory");
    __syncthreads();
    if (threadIdx.x < 32)
        asm volatile("tcgen05.dealloc.cta_group::1.sync.aligned.b32 %0, %1;" :: "r"(d), "r"(COLUMNS));
    vote(votes, digest, cycles() - start, canary);
}

#define TCGEN05(name, EXACT)                                                                        \
    KERNEL void __launch_bounds__(256, 1)                                                           \
        tensor_tcgen05_##name(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {            \
        tcgen05<EXACT>(votes, seed, steps, chain, canary);                                          \
    }

// A long chain of `bf16` is what draws power.
TCGEN05(bf16, false)
TCGEN05(exact, true)
