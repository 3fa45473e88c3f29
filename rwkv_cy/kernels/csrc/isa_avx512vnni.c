/* The kernels for avx512vnni: those of avx512, and integer dot products. */
#if defined(__x86_64__)
#include <immintrin.h>
#include "rk.h"

/* Everything below, scalar helpers too, may use these instructions: nothing of it is called before the CPU is asked. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
#endif

#include "scalar.h"
#include "bf12.h"
#include "columns.h"
#include "quant.h"
#include "simd_avx512.h"
#undef RK_NAME
#define RK_NAME avx512vnni
#include "quant_vnni.h"
#include "bf12_avx512.h"
#include "table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int rk_no_avx512vnni; /* another CPU family: an empty file is no C */
#endif
