// The formats that every tensor core since compute capability 8.0 has.
#include "tensor.cuh"

// Swaps a fragment's registers and flips mantissa bits: a chain never adds the same product twice,
// and never one and its negative, which would sum to nothing.
template <u32 MANTISSA> INLINE void turn_pair(u32 (&b)[2], u32 link) {
    const u32 first = b[0];
    b[0] = b[1] ^ (mix(link) & MANTISSA);
    b[1] = first;
}

struct Single {
    typedef u32 A;
    typedef u32 B;
    typedef float C;
    static constexpr int A_REGS = 4, B_REGS = 2, C_REGS = 4;
    static INLINE u64 digest(u64 digest, float value) { return fold_float(digest, value); }
};

#define MULTIPLY_SINGLE(shape)                                                                      \
    static INLINE void multiply(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {              \
        asm volatile("mma.sync.aligned." shape " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "           \
                     "{%0,%1,%2,%3};"                                                               \
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));           \
    }

// Two in a word: sign, mantissa of 7 bits, exponent 125 to 128.
struct Bf16 : Single {
    static INLINE u32 random_a(u32 r) { return (r & 0x81ff81ffu) + 0x3e803e80u; }
    static INLINE u32 random_b(u32 r) { return (rotate(r, 5) & 0x81ff81ffu) + 0x3e803e80u; }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_pair<0x007f007fu>(b, link); }
    MULTIPLY_SINGLE("m16n8k16.row.col.f32.bf16.bf16.f32")
};

// Two in a word: sign, mantissa of 10 bits, exponent 13 to 14 or 15 to 16.
struct Fp16 : Single {
    static INLINE u32 random_a(u32 r) { return (r & 0x87ff87ffu) + 0x34003400u; }
    static INLINE u32 random_b(u32 r) { return (rotate(r, 5) & 0x87ff87ffu) + 0x3c003c00u; }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_pair<0x03ff03ffu>(b, link); }
    MULTIPLY_SINGLE("m16n8k16.row.col.f32.f16.f16.f32")
};

// Sign, exponent 125 to 128, mantissa of 10 bits; the low 13 bits are ignored, so they stay zero.
struct Tf32 : Single {
    static INLINE u32 random_a(u32 r) { return (r & 0x81ffe000u) + 0x3e800000u; }
    static INLINE u32 random_b(u32 r) { return (rotate(r, 5) & 0x81ffe000u) + 0x3e800000u; }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_pair<0x007fe000u>(b, link); }
    MULTIPLY_SINGLE("m16n8k8.row.col.f32.tf32.tf32.f32")
};

// Four in a word; any bits are a number, and sums are exact.
struct Int8 {
    typedef u32 A;
    typedef u32 B;
    typedef u32 C;
    static constexpr int A_REGS = 4, B_REGS = 2, C_REGS = 4;
    static INLINE u32 random_a(u32 r) { return r; }
    static INLINE u32 random_b(u32 r) { return rotate(r, 5); }
    static INLINE void turn(u32 (&b)[2], u32 link) { turn_pair<0x7f7f7f7fu>(b, link); }
    static INLINE u64 digest(u64 digest, u32 value) { return fold(digest, value); }
    static INLINE void multiply(u32 (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, "
                     "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
};

// Exponents 1021 to 1024 and 52 bits of mantissa, out of one word.
struct Fp64 {
    typedef double A;
    typedef double B;
    typedef double C;
    static constexpr int A_REGS = 1, B_REGS = 1, C_REGS = 2;
    static INLINE double random_a(u32 r) {
        const u64 high = (r & 0x803fffffu) + 0x3fd00000u;
        return __longlong_as_double((i64)(high << 32 | mix(r)));
    }
    static INLINE double random_b(u32 r) { return random_a(rotate(r, 5)); }
    static INLINE void turn(double (&b)[1], u32 link) {
        b[0] = __longlong_as_double(__double_as_longlong(b[0]) ^ (i64)(mix(link) & 0xfffffu) << 20);
    }
    static INLINE u64 digest(u64 digest, double value) {
        const u64 bits = (u64)__double_as_longlong(value);
        return fold(fold(digest, (u32)bits), (u32)(bits >> 32));
    }
    static INLINE void multiply(double (&c)[2], const double (&a)[1], const double (&b)[1]) {
        asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                     : "+d"(c[0]), "+d"(c[1]) : "d"(a[0]), "d"(b[0]));
    }
};

TENSOR(bf16, Bf16)
TENSOR(fp16, Fp16)
TENSOR(tf32, Tf32)
TENSOR(int8, Int8)
TENSOR(fp64, Fp64)
