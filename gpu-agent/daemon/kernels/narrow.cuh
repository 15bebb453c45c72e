// What formats of eight and of four bits share in matrix operations of `mma.sync`.
#pragma once
#include "tensor.cuh"

struct Narrow {
    typedef u32 A;
    typedef u32 B;
    typedef float C;
    static constexpr int A_REGS = 4, B_REGS = 2, C_REGS = 4;
    static INLINE u64 digest(u64 digest, float value) { return fold_float(digest, value); }
};

// Turns operands round from step to step; of each number, the bits of `mantissas` change.
INLINE void turn_narrow(u32 (&b)[2], u32 link, u32 mantissas) {
    const u32 first = b[0];
    b[0] = b[1] ^ (mix(link) & mantissas);
    b[1] = first;
}

// Four e4m3 in a word: sign, exponent 5 to 8 around a bias of 7, mantissa of 3 bits.
struct NarrowE4m3 : Narrow {
    static INLINE u32 random_a(u32 r) { return (r & 0x9f9f9f9fu) + 0x28282828u; }
    static INLINE u32 random_b(u32 r) { return random_a(rotate(r, 5)); }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_narrow(b, link, 0x07070707u); }
};
