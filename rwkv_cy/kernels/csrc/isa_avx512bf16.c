/* The kernels for avx512bf16: those of avx512vnni, and dot products of bf16. */
#if defined(__x86_64__)
#include <immintrin.h>
#include "rk.h"

/* Everything below, scalar helpers too, may use these instructions: nothing of it is called before the CPU is asked. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")
#endif

#include "scalar.h"
#include "bf12.h"
#include "columns.h"
#include "quant.h"
#include "simd_avx512.h"
#undef RK_NAME
#define RK_NAME avx512bf16
#include "quant_vnni.h"
#include "bf12_avx512.h"

/* acc += the products of two columns in each lane, the second one's first. */
typedef uint16_t rk_vbf16 __attribute__((vector_size(64)));
#define RK_DOT_BF16(w, x, acc) ((rk_vf32)_mm512_dpbf16_ps((__m512)(acc), (__m512bh)(w), (__m512bh)(x)))
#include "table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int rk_no_avx512bf16; /* another CPU family: an empty file is no C */
#endif
