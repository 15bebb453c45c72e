// Formats that only compute capability 12.0 multiplies by `mma.sync`: eight bits by the instruction
// for all narrow formats, and four bits with scales of blocks. Sums of `exact` operands fit into any
// sum's precision: the host computes them too (`gpu_agent_core::burn_in::tensor`).
#include "narrow.cuh"

struct E4m3 : NarrowE4m3 {
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.kind::f8f6f4.f32.e4m3.e4m3.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

// One or minus one.
struct E4m3Exact : E4m3 {
    static INLINE u32 random_a(u32 r) { return (r & 0x80808080u) | 0x38383838u; }
    static INLINE u32 random_b(u32 r) { return random_a(rotate(r, 5)); }
    static INLINE u64 digest(u64 digest, float value) {
        return fold_float(digest, __fadd_rn(value, 0.0f));
    }
};

// Eight e2m1 in a word, any bits are a number; the scale of each block of 16 is one.
struct Nvfp4 : Narrow {
    static INLINE u32 random_a(u32 r) { return r; }
    static INLINE u32 random_b(u32 r) { return rotate(r, 5); }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_narrow(b, link, 0x77777777u); }
    static INLINE u64 digest(u64 digest, float value) {
        return fold_float(digest, __fadd_rn(value, 0.0f));
    }
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X"
                     ".f32.e2m1.e2m1.f32.ue4m3 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                     "{%0,%1,%2,%3}, {%10}, {0, 0}, {%10}, {0, 0};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]),
                       "r"(0x38383838u));
    }
};

TENSOR(f8f6f4, E4m3)
TENSOR(f8f6f4_exact, E4m3Exact)
TENSOR(nvfp4, Nvfp4)
