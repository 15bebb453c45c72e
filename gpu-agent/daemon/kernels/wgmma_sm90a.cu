// The tensor cores of compute capability 9.0 by their own instruction, which takes both operands
// from shared memory: the full rate, and a way to it that `mma.sync` does not use.
//
// Two groups of four warps each multiply 64 rows of A by B, whose 256 columns they share; K is 64.
// Operands lie along K, without a swizzle: 8 rows of 16 bytes follow each other and make a core
// matrix; the next along K is 128 bytes on, the next 8 rows are 1,024 bytes on.
//
// Sums of `exact` operands, whole numbers from -8 to 7, are the same in any order: the host computes
// them too, and so the layouts are checked (`gpu_agent_core::burn_in::tensor`).
#include "common.cuh"
#include "operands.cuh"

enum Sizes : u32 { GROUP = 64, COLUMNS = 256, DEPTH = 64, SUMS = 128 };
enum Strides : u32 { ALONG_K = 128, ALONG_ROWS = 1024, STEP_K = 256 };

// Address, and both strides, in units of 16 bytes.
INLINE u64 descriptor(const void *at) {
    const u64 address = (u64)__cvta_generic_to_shared(at) & 0x3ffff;
    return address >> 4 | (u64)(ALONG_K >> 4) << 16 | (u64)(ALONG_ROWS >> 4) << 32;
}

// D = A B, or D += A B where `more` is not zero.
INLINE void multiply(float (&d)[SUMS], u64 a, u64 b, int more) {
    asm volatile("{.reg .pred more;\n"
                 "setp.ne.b32 more, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, "
                 " %8, %9, %10, %11, %12, %13, %14, %15, "
                 " %16, %17, %18, %19, %20, %21, %22, %23, "
                 " %24, %25, %26, %27, %28, %29, %30, %31, "
                 " %32, %33, %34, %35, %36, %37, %38, %39, "
                 " %40, %41, %42, %43, %44, %45, %46, %47, "
                 " %48, %49, %50, %51, %52, %53, %54, %55, "
                 " %56, %57, %58, %59, %60, %61, %62, %63, "
                 " %64, %65, %66, %67, %68, %69, %70, %71, "
                 " %72, %73, %74, %75, %76, %77, %78, %79, "
                 " %80, %81, %82, %83, %84, %85, %86, %87, "
                 " %88, %89, %90, %91, %92, %93, %94, %95, "
                 " %96, %97, %98, %99, %100, %101, %102, %103, "
                 " %104, %105, %106, %107, %108, %109, %110, %111, "
                 " %112, %113, %114, %115, %116, %117, %118, %119, "
                 " %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, more, 1, 1, 0, 0;}"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]),
                   "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]),
                   "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]),
                   "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]),
                   "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]),
                   "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]),
                   "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]),
                   "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]),
                   "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]),
                   "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]),
                   "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]),
                   "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]),
                   "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]),
                   "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]),
                   "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]),
                   "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63]),
                   "+f"(d[64]), "+f"(d[65]), "+f"(d[66]), "+f"(d[67]),
                   "+f"(d[68]), "+f"(d[69]), "+f"(d[70]), "+f"(d[71]),
                   "+f"(d[72]), "+f"(d[73]), "+f"(d[74]), "+f"(d[75]),
                   "+f"(d[76]), "+f"(d[77]), "+f"(d[78]), "+f"(d[79]),
                   "+f"(d[80]), "+f"(d[81]), "+f"(d[82]), "+f"(d[83]),
                   "+f"(d[84]), "+f"(d[85]), "+f"(d[86]), "+f"(d[87]),
                   "+f"(d[88]), "+f"(d[89]), "+f"(d[90]), "+f"(d[91]),
                   "+f"(d[92]), "+f"(d[93]), "+f"(d[94]), "+f"(d[95]),
                   "+f"(d[96]), "+f"(d[97]), "+f"(d[98]), "+f"(d[99]),
                   "+f"(d[100]), "+f"(d[101]), "+f"(d[102]), "+f"(d[103]),
                   "+f"(d[104]), "+f"(d[105]), "+f"(d[106]), "+f"(d[107]),
                   "+f"(d[108]), "+f"(d[109]), "+f"(d[110]), "+f"(d[111]),
                   "+f"(d[112]), "+f"(d[113]), "+f"(d[114]), "+f"(d[115]),
                   "+f"(d[116]), "+f"(d[117]), "+f"(d[118]), "+f"(d[119]),
                   "+f"(d[120]), "+f"(d[121]), "+f"(d[122]), "+f"(d[123]),
                   "+f"(d[124]), "+f"(d[125]), "+f"(d[126]), "+f"(d[127])
                 : "l"(a), "l"(b), "r"(more));
}

// Sums are read after they were waited for: without this, the compiler knows of no dependence.
INLINE void hold(float (&d)[SUMS]) {
#pragma unroll
    for (u32 i = 0; i < SUMS; ++i) asm volatile("" : "+f"(d[i]) :: "memory");
}

template <int REPEATS, bool EXACT>
INLINE void wgmma(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {
    __shared__ __align__(128) u32 a[2 * GROUP * DEPTH / 2], b[COLUMNS * DEPTH / 2];
    const u32 group = threadIdx.x >> 7;
    u64 digest = seed;
    const u64 start = cycles();
#pragma unroll 1
    for (u32 step = 0; step < steps; ++step) {
        fill_rows<EXACT>(a, 2 * GROUP, seed, step, 0);
        fill_rows<EXACT>(b, COLUMNS, seed, step, 2 * GROUP);
        // What threads wrote is seen by the tensor cores.
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncthreads();
        const u64 from_a = descriptor(a + group * (GROUP * DEPTH / 2)), from_b = descriptor(b);
        float d[SUMS];
#pragma unroll 1
        for (u32 link = 0; link < chain; ++link) {
            asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
            for (int repeat = 0; repeat < REPEATS; ++repeat)
#pragma unroll
                for (u32 k = 0; k < DEPTH / 16; ++k)
                    multiply(d, from_a + k * (STEP_K >> 4), from_b + k * (STEP_K >> 4),
                             (int)(link + repeat + k));
            asm volatile("wgmma.commit_group.sync.aligned;\n"
                         "wgmma.wait_group.sync.aligned 0;" ::: "memory");
            hold(d);
        }
#pragma unroll
        for (u32 i = 0; i < SUMS; ++i)
            digest = fold(digest, __float_as_uint(EXACT ? __fadd_rn(d[i], 0.0f) : d[i]));
        __syncthreads();
    }
    vote(votes, digest, cycles() - start, canary);
}

#define WGMMA(name, REPEATS, EXACT)                                                                 \
    KERNEL void __launch_bounds__(256, 1)                                                           \
        tensor_wgmma_##name(Vote *votes, u64 seed, u32 steps, u32 chain, u32 canary) {              \
        wgmma<REPEATS, EXACT>(votes, seed, steps, chain, canary);                                   \
    }

WGMMA(bf16, 1, false)
WGMMA(exact, 1, true)
WGMMA(power, 4, false)
