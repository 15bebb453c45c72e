// Operands of bf16 in shared memory, for instructions that take them from there: rows of 64 numbers,
// cut into core matrices of 8 rows of 16 bytes.
#pragma once
#include "common.cuh"

// Two numbers. `index` counts pairs over all operands of a step.
template <bool EXACT> INLINE u32 operand(u64 seed, u32 step, u32 index) {
    const u32 r = mix(mix((u32)seed ^ index) + step * 0x9e3779b9u ^ (u32)(seed >> 32));
    if (!EXACT) return (r & 0x81ff81ffu) + 0x3e803e80u;
    const float low = (float)((int)(r & 15) - 8), high = (float)((int)(r >> 16 & 15) - 8);
    return __float_as_uint(low) >> 16 | (__float_as_uint(high) & 0xffff0000u);
}

// `rows` rows, the first of which is number `first` of all operands.
template <bool EXACT> INLINE void fill_rows(u32 *to, u32 rows, u64 seed, u32 step, u32 first) {
    for (u32 i = threadIdx.x; i < rows * 32; i += blockDim.x) {
        const u32 row = i >> 5, pair = i & 31;
        // In words: 8 rows are 256, a core matrix 32, a row of it 4.
        to[(row >> 3) * 256 + (pair >> 2) * 32 + (row & 7) * 4 + (pair & 3)] =
            operand<EXACT>(seed, step, (first + row) * 32 + pair);
    }
}
