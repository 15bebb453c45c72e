// A step of training in small, as every SM computes it for itself: products forward, layer norm,
// softmax, and the products of the backward pass, tile by tile. All sums are in an order that the
// program says, so that equal GPUs give equal bits, and every result's bits enter the digest.
//
// `golden_exact_*` does the same products on small integers and no rounding: its digest is computed
// by the host's processor too (`gpu_agent_core::burn_in::golden`), and must be equal on any GPU.
//
// For each tile of 64 by 64 of the result, X being `rows` by `depth` tiles and W `depth` by `columns`:
//   H = X W                                  each number a sum in fp32, along the depth
//   N = (H - mean) / deviation, P = softmax(N), both by rows of the tile
//   G = P - one at the row's number          rounded to the operands' format
//   G W' and X' G                            per tile along the depth
#include "common.cuh"

enum Sizes : u32 {
    TILE = 64,
    // Words of a row of operands in shared memory: four more than it has, for the banks.
    STRIDE = 36,
    // Numbers of a row of H.
    WIDE = 68,
};

struct Shared {
    u32 x[TILE * STRIDE], w[TILE * STRIDE], g[TILE * STRIDE];
    float h[TILE * WIDE];
};

struct Bf16 {
    static INLINE u32 pack(float low, float high) {
        u32 both;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
        return both;
    }
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

struct Fp16 {
    static INLINE u32 pack(float low, float high) {
        u32 both;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
        return both;
    }
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

INLINE float exp2_of(float x) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

INLINE float rsqrt_of(float x) {
    float y;
    asm("rsqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

INLINE float reciprocal(float x) {
    float y;
    asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Over the 32 lanes of a warp. Both partners add the same two numbers, so all end with one sum.
INLINE float sum_of_warp(float x) {
#pragma unroll
    for (u32 across = 16; across > 0; across >>= 1)
        x = __fadd_rn(x, __uint_as_float(shuffle(__float_as_uint(x), across)));
    return x;
}

INLINE float most_of_warp(float x) {
#pragma unroll
    for (u32 across = 16; across > 0; across >>= 1) {
        const float other = __uint_as_float(shuffle(__float_as_uint(x), across));
        x = other > x ? other : x;
    }
    return x;
}

// A tile out of a matrix whose rows have `words` words.
INLINE void fetch(u32 *to, const u32 *from, u32 words) {
#pragma unroll 2
    for (u32 i = threadIdx.x; i < TILE * TILE / 2; i += 256) {
        const u32 row = i >> 5, word = i & 31;
        to[row * STRIDE + word] = from[row * words + word];
    }
}

// Two numbers that follow each other: in a row, or in a column.
INLINE u32 across(const u32 *tile, u32 row, u32 column) { return tile[row * STRIDE + (column >> 1)]; }

INLINE u32 down(const u32 *tile, u32 row, u32 column) {
    const u32 *at = tile + row * STRIDE + (column >> 1);
    return __byte_perm(at[0], at[STRIDE], column & 1 ? 0x7632 : 0x5410);
}

// A part of 16 by 32 of a product, the warp's own: rows from `row`, columns from `column` on. A tile
// that is not turned is read as it lies: its rows are the product's rows, or the inner dimension.
template <class F, bool TURN_A, bool TURN_B>
INLINE void product(float (&c)[4][4], const u32 *a_tile, const u32 *b_tile, u32 row, u32 column) {
    const u32 lane = threadIdx.x & 31, part = lane >> 2, inner = (lane & 3) << 1;
#pragma unroll 1
    for (u32 k = 0; k < TILE; k += 16) {
        u32 a[4];
#pragma unroll
        for (u32 i = 0; i < 4; ++i) {
            const u32 at = row + part + ((i & 1) << 3), deep = k + inner + ((i >> 1) << 3);
            a[i] = TURN_A ? down(a_tile, deep, at) : across(a_tile, at, deep);
        }
#pragma unroll
        for (u32 j = 0; j < 4; ++j) {
            u32 b[2];
#pragma unroll
            for (u32 i = 0; i < 2; ++i) {
                const u32 at = column + j * 8 + part, deep = k + inner + (i << 3);
                b[i] = TURN_B ? across(b_tile, at, deep) : down(b_tile, deep, at);
            }
            F::multiply(c[j], a, b);
        }
    }
}

INLINE void clear(float (&c)[4][4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i) c[j][i] = 0.0f;
}

// Adding zero leaves all but the sign of a zero, which the host does not compute.
template <bool EXACT> INLINE u64 fold_all(u64 digest, const float (&c)[4][4]) {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int i = 0; i < 4; ++i)
            digest = fold(digest, __float_as_uint(EXACT ? __fadd_rn(c[j][i], 0.0f) : c[j][i]));
    return digest;
}

// Layer norm, softmax and what flows back, for eight rows of a warp; a lane has two columns.
template <class F> INLINE u64 soften(u64 digest, Shared *it) {
    const u32 lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 8;
#pragma unroll 1
    for (u32 row = first; row < first + 8; ++row) {
        const float *h = it->h + row * WIDE + lane * 2;
        const float mean = __fmul_rn(sum_of_warp(__fadd_rn(h[0], h[1])), 0x1p-6f);
        const float a = __fadd_rn(h[0], -mean), b = __fadd_rn(h[1], -mean);
        const float squares = sum_of_warp(__fadd_rn(__fmul_rn(a, a), __fmul_rn(b, b)));
        const float scale = rsqrt_of(__fadd_rn(__fmul_rn(squares, 0x1p-6f), 0x1p-17f));
        const float n = __fmul_rn(a, scale), m = __fmul_rn(b, scale);
        const float most = most_of_warp(n > m ? n : m);
        // 2 to the power of x log2(e) is e to the power of x.
        const float e = exp2_of(__fmul_rn(__fadd_rn(n, -most), 0x1.715476p+0f));
        const float f = exp2_of(__fmul_rn(__fadd_rn(m, -most), 0x1.715476p+0f));
        const float share = reciprocal(sum_of_warp(__fadd_rn(e, f)));
        const float p = __fmul_rn(e, share), q = __fmul_rn(f, share);
        digest = fold(fold(digest, __float_as_uint(p)), __float_as_uint(q));
        const float low = lane * 2 == row ? __fadd_rn(p, -1.0f) : p;
        const float high = lane * 2 + 1 == row ? __fadd_rn(q, -1.0f) : q;
        it->g[row * STRIDE + lane] = F::pack(low, high);
    }
    return digest;
}

// In place of all that rounds: whole numbers from -8 to 7.
template <class F> INLINE void shrink(Shared *it) {
    const u32 lane = threadIdx.x & 31, first = (threadIdx.x >> 5) * 8;
#pragma unroll 1
    for (u32 row = first; row < first + 8; ++row) {
        const float *h = it->h + row * WIDE + lane * 2;
        const int low = ((int)h[0] & 15) - 8, high = ((int)h[1] & 15) - 8;
        it->g[row * STRIDE + lane] = F::pack((float)low, (float)high);
    }
}

// One block of 256 threads on each SM. X has `rows` by `depth` tiles, W `depth` by `columns`, both
// row by row. Each of `steps` gives the same again.
template <class F, bool EXACT>
INLINE void golden(Vote *votes, const u32 *x, const u32 *w, u32 rows, u32 depth, u32 columns,
                   u64 seed, u32 steps, u32 canary) {
    extern __shared__ Shared memory[];
    Shared *it = memory;
    const u32 lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    const u32 row = (warp >> 1) * 16, column = (warp & 1) * 32;
    const u32 x_words = depth * (TILE / 2), w_words = columns * (TILE / 2);
    float c[4][4];
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step)
#pragma unroll 1
        for (u32 tile = 0; tile < rows * columns; ++tile) {
            const u32 i = tile / columns, j = tile - i * columns;
            const u32 *x_at = x + (u64)i * TILE * x_words, *w_at = w + j * (TILE / 2);
            clear(c);
#pragma unroll 1
            for (u32 k = 0; k < depth; ++k) {
                __syncthreads();
                fetch(it->x, x_at + k * (TILE / 2), x_words);
                fetch(it->w, w_at + (u64)k * TILE * w_words, w_words);
                __syncthreads();
                product<F, false, false>(c, it->x, it->w, row, column);
            }
            digest = fold_all<EXACT>(digest, c);
#pragma unroll
            for (u32 n = 0; n < 4; ++n)
#pragma unroll
                for (u32 v = 0; v < 4; ++v)
                    it->h[(row + (lane >> 2) + (v >> 1) * 8) * WIDE + column + n * 8 +
                          (lane & 3) * 2 + (v & 1)] = c[n][v];
            __syncthreads();
            if (EXACT) shrink<F>(it);
            else digest = soften<F>(digest, it);
#pragma unroll 1
            for (u32 k = 0; k < depth; ++k) {
                __syncthreads();
                fetch(it->x, x_at + k * (TILE / 2), x_words);
                fetch(it->w, w_at + (u64)k * TILE * w_words, w_words);
                __syncthreads();
                clear(c);
                product<F, false, true>(c, it->g, it->w, row, column);
                digest = fold_all<EXACT>(digest, c);
                clear(c);
                product<F, true, false>(c, it->x, it->g, row, column);
                digest = fold_all<EXACT>(digest, c);
            }
        }
    vote(votes, digest, cycles() - start, canary);
}

#define GOLDEN(name, Format, EXACT)                                                                 \
    KERNEL void __launch_bounds__(256, 1)                                                           \
        golden_##name(Vote *votes, const u32 *x, const u32 *w, u32 rows, u32 depth, u32 columns,    \
                      u64 seed, u32 steps, u32 canary) {                                            \
        golden<Format, EXACT>(votes, x, w, rows, depth, columns, seed, steps, canary);              \
    }

GOLDEN(bf16, Bf16, false)
GOLDEN(fp16, Fp16, false)
GOLDEN(exact_bf16, Bf16, true)
GOLDEN(exact_fp16, Fp16, true)
