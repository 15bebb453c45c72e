// Formats of eight bits with a floating point, from compute capability 8.9 on.
#include "tensor.cuh"

// Four e4m3 in a word: sign, exponent 5 to 8 around a bias of 7, mantissa of 3 bits.
struct E4m3 {
    typedef u32 A;
    typedef u32 B;
    typedef float C;
    static constexpr int A_REGS = 4, B_REGS = 2, C_REGS = 4;
    static INLINE u32 random_a(u32 r) { return (r & 0x9f9f9f9fu) + 0x28282828u; }
    static INLINE u32 random_b(u32 r) { return random_a(rotate(r, 5)); }
    static INLINE void turn(u32 (&b)[2], u32 link) {
        const u32 first = b[0];
        b[0] = b[1] ^ (mix(link) & 0x07070707u);
        b[1] = first;
    }
    static INLINE u64 digest(u64 digest, float value) { return fold_float(digest, value); }
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

TENSOR(fp8, E4m3)
