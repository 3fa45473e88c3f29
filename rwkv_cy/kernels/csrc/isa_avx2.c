/* The kernels for avx2. */
#if defined(__x86_64__)
#include <immintrin.h>
#include "rk.h"

/* Everything below, scalar helpers too, may use these instructions: nothing of it is called before the CPU is asked. */
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

#include "scalar.h"
#include "bf12.h"
#include "columns.h"
#include "quant.h"
#include "simd_avx2.h"
#include "quant_avx2.h"
#include "bf12_avx2.h"
#include "table.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#else
typedef int rk_no_avx2; /* another CPU family: an empty file is no C */
#endif
